"""JSON objects that this program has written, read back.

As with tensors, one sentence says that such a file cannot be read (`errors.reading`).
What strangers write is read by `federation.formats.strict_json`.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from comigs_mlx.errors import ComigsError, reading


def read(
    file: Path, kind: type[ComigsError], advice: str, version: int | None = None
) -> dict[str, Any]:
    """Read the JSON object in a file.

    Args:
        file: The file to read.
        kind: The error to raise.
        advice: What the user can do about a file that cannot be read.
        version: The `format_version` that it must have; None where it states none.

    Raises:
        ComigsError: `kind`, if the file is missing, damaged or of another version.
    """
    with reading(file, kind, advice):
        found = json.loads(file.read_text(encoding="utf-8"))
        if not isinstance(found, dict):
            raise ValueError("it is no JSON object")
        stated = None if version is None else found["format_version"]
    if stated != version:
        raise kind(f"{file} has format {stated}, this version reads {version}: update")
    return found


def known(file: Path) -> dict[str, Any]:
    """Read the JSON object in a file that can be done without.

    Returns:
        The object; {} where the file is missing or damaged, or holds something else.
    """
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}
