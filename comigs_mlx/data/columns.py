"""The columns of tables that are learnt from, as `--columns` names them.

A table whose first row has none of the named columns, but mlx-lm's own names, is read
by those.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from comigs_mlx.data.reading_options import Reading
from comigs_mlx.data.rows import columns_of, parsed
from comigs_mlx.errors import DataError


def mapped(
    rows: Iterable[tuple[str, Any]], reading: Reading
) -> Iterator[tuple[str, Any]]:
    """Give the columns of rows the names that mlx-lm knows.

    Args:
        rows: Pairs of a place and what stands there.
        reading: Says what the columns are called.

    Yields:
        The rows with the new names; a `DataError` in place of one that lacks a column.
    """
    mapping = reading.mapping
    applies = None
    for place, row in rows:
        if mapping and isinstance(row, dict):
            if applies is None:
                has_all = all(column in row for column in mapping.values())
                applies = has_all or columns_of(row) is None
            row = _renamed(row, mapping) if applies else row
        yield place, row


def _renamed(row: dict[str, Any], mapping: Mapping[str, str]) -> Any:
    missing = [column for column in mapping.values() if column not in row]
    if missing:
        there = ", ".join(sorted(map(str, row))) or "none"
        wanted = ", ".join(missing)
        return DataError(f"found the columns {there}: expected {wanted} (--columns)")
    renamed = {name: row[column] for name, column in mapping.items()}
    for name in ("messages", "tools"):
        # A table of text holds a list as JSON.
        if isinstance(text := renamed.get(name), str):
            renamed[name] = parsed(text) if text.strip() else None
            if isinstance(renamed[name], DataError):
                return DataError(f"{mapping[name]}: {renamed[name]}")
    return renamed
