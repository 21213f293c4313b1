"""Messages of all formats become conversations here."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from comigs_mlx.data.pieces import Message, Placed, Skipped
from comigs_mlx.data.reading_options import Reading


def samples(
    messages: Iterable[Message], reading: Reading
) -> Iterator[Placed | Skipped]:
    """Turn messages into conversations; no format yields messages yet."""
    raise NotImplementedError
