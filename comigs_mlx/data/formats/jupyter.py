"""Jupyter notebooks (.ipynb): their text and source cells, without outputs."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from comigs_mlx.data.pieces import Cut, Document, FileHead, Piece
from comigs_mlx.data.reading import LINE_END, is_blank, read_utf8
from comigs_mlx.data.reading_options import Reading
from comigs_mlx.errors import DataError, line

ORDER = 66
KIND = "notebook"


def matches(file: FileHead) -> bool:
    """Tell whether the file is a JSON object with cells, or its name says so."""
    is_object = file.start.startswith("{")
    return is_object and (b'"cell_type"' in file.head or file.suffix == ".ipynb")


def read(path: Path, reading: Reading) -> Iterator[Piece]:
    """Yield the notebook as one text, its cells separated by blank lines.

    Raises:
        DataError: If the file is no notebook.
    """
    del reading
    try:
        notebook = json.loads(read_utf8(path))
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: no notebook: {line(error)}") from error
    cells = _cells(notebook)
    if cells is None:
        raise DataError(f"{path}: no notebook: expected an object with a list of cells")
    outputs = sum(len(json.dumps(cell["outputs"])) for cell in cells if _printed(cell))
    if outputs:
        yield Cut("outputs of notebooks", outputs, str(path))
    texts = [text for cell in cells if not is_blank(text := _source(cell))]
    if texts:
        yield Document("\n\n".join(texts), str(path))


def _cells(notebook: Any) -> list[dict[str, Any]] | None:
    """Return the cells of a notebook, also of its third version; None if it is none."""
    if not isinstance(notebook, dict):
        return None
    sheets = notebook.get("worksheets")
    if isinstance(sheets, list):
        return [cell for sheet in sheets for cell in _cells(sheet) or []]
    cells = notebook.get("cells")
    if not isinstance(cells, list):
        return None
    return [cell for cell in cells if isinstance(cell, dict)]


def _printed(cell: dict[str, Any]) -> bool:
    return bool(cell.get("outputs"))


def _source(cell: dict[str, Any]) -> str:
    """Return the text of a cell, which is a string or a list of lines."""
    source = cell.get("source", cell.get("input", ""))
    lines = source if isinstance(source, list) else [source]
    text = "".join(part for part in lines if isinstance(part, str))
    text = text.encode("utf-8", "replace").decode()  # JSON may hold half characters
    return LINE_END.sub("\n", text).strip("\n")
