"""Our packets as records of Flower: one array of uint8."""

from __future__ import annotations

from typing import Any

import numpy as np


def record(content: bytes) -> Any:
    """Return the `RecordDict` of one message that carries these bytes."""
    from flwr.app import Array, ArrayRecord, RecordDict

    array = Array(np.frombuffer(content, np.uint8))
    return RecordDict({"packet": ArrayRecord({"bytes": array})})


def content(record: Any) -> bytes:
    """Return the bytes that `record` was made of.

    Raises:
        ValueError: If the record is another one.
    """
    try:
        array = record["packet"]["bytes"].numpy()
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError("a message without a packet") from error
    if array.dtype != np.uint8 or array.ndim != 1:
        raise ValueError(f"a packet of {array.dtype} {array.shape}, expected uint8")
    return bytes(array.tobytes())
