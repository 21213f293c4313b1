"""Tables (.csv, .tsv): a row is a sample, with the columns that `--columns` names.

Without it the columns must have mlx-lm's names, such as `text`.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from comigs_mlx.data.columns import mapped
from comigs_mlx.data.formats.text import in_encoding
from comigs_mlx.data.pieces import FileHead, Piece, Skipped
from comigs_mlx.data.reading import read_text
from comigs_mlx.data.reading_options import Reading
from comigs_mlx.data.rows import columns_of, read_rows
from comigs_mlx.data.splits import Placed
from comigs_mlx.errors import DataError, raise_all

ORDER = 82
KIND = "table"

ENDINGS = (".csv", ".tsv")
"""The endings of the files that are read."""

DELIMITERS = ",;\t|"
"""The characters that may stand between two columns."""

LARGEST = 1 << 28
"""The most characters of a field."""

QUOTED = re.compile(r'"[^"]*"')


def matches(file: FileHead) -> bool:
    """Tell whether the file's name says that it is a table."""
    return file.suffix in ENDINGS


def read(path: Path, reading: Reading) -> Iterator[Piece]:
    """Yield the rows.

    Raises:
        DataError: If the file is no table, lacks the columns, or a row is invalid.
    """
    text, encoding = read_text(path)
    if not text.strip():
        return
    if encoding:
        yield in_encoding(encoding, path)
    rows = read_rows(mapped(_rows(path, text, reading), reading))
    raise_all(DataError, rows.problems)
    yield from (row for row in rows.samples if isinstance(row, Placed))
    for _ in range(rows.blank):
        yield Skipped("rows without text", str(path))


def _rows(path: Path, text: str, reading: Reading) -> Iterator[tuple[str, Any]]:
    """Yield place and columns of each row.

    Raises:
        DataError: If the file is no table, or nothing says which columns are learnt.
    """
    first, _, rest = text.partition("\n")
    if hint := re.fullmatch(r"sep=(.)", first):  # what Excel writes
        text = rest
    csv.field_size_limit(LARGEST)
    table = csv.reader(
        io.StringIO(text), delimiter=hint[1] if hint else _delimiter(first), strict=True
    )
    try:
        names = next(table, [])
        _check_names(path, names, reading)
        for fields in table:
            place = f"{path}:{table.line_num + bool(hint)}"
            if fields and len(fields) != len(names):
                yield place, _uneven(names, fields)
            elif fields:
                yield place, dict(zip(names, fields, strict=True))
    except csv.Error as error:
        raise DataError(f"{path}:{table.line_num}: no table: {error}") from error


def _delimiter(line: str) -> str:
    """Return the delimiter that stands most often in the line of names."""
    line = QUOTED.sub("", line)
    return max(DELIMITERS, key=line.count)


def _check_names(path: Path, names: list[str], reading: Reading) -> None:
    if len(set(names)) < len(names):
        raise DataError(f"{path}:1: two columns have one name: {', '.join(names)}")
    named = set(reading.mapping.values())
    if (named and named <= set(names)) or columns_of(dict.fromkeys(names)):
        return
    raise DataError(
        f"{path}: found the columns {', '.join(names)}: say what is learnt with "
        "--columns text=COLUMN, or prompt=COLUMN,completion=COLUMN"
    )


def _uneven(names: list[str], fields: list[str]) -> DataError:
    return DataError(f"expected {len(names)} columns, found {len(fields)}")
