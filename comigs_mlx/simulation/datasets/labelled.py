"""Reads corpora whose documents carry a label, which `dividing` divides.

FILE.jsonl            objects with a label field beside the columns of `data.rows`
FOLDER/<label>/...    one subfolder a label, each with text that train would read
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from comigs_mlx.data.reading import list_dir, read_utf8
from comigs_mlx.data.rows import parsed, read_rows
from comigs_mlx.data.splits import Sample, load_split, place
from comigs_mlx.errors import DataError, raise_all


@dataclass(frozen=True)
class Corpus:
    """Documents and their labels.

    Attributes:
        samples: The documents, each once.
        labels: The label of each sample.
    """

    samples: list[Sample]
    labels: list[str]


def read_corpus(source: str, field: str) -> Corpus:
    """Read a labelled corpus; of equal documents, the first is kept.

    Args:
        source: The path of a .jsonl file, or of a folder with one subfolder for each
            label.
        field: The name of the rows' field that holds the label, a string or a number.

    Raises:
        DataError: If there is no corpus, or a row is invalid; the text names file and
            line.
    """
    path = Path(source).expanduser()
    if path.is_file() and path.suffix.lower() == ".jsonl":
        pairs = _rows(path, field)
    elif path.is_dir():
        pairs = _subfolders(path)
    else:
        raise DataError(
            f"{source}: expected a .jsonl file whose rows have a label, or a folder "
            "with one subfolder a label"
        )
    unique: dict[str, tuple[Sample, str]] = {}
    for sample, label in pairs:
        unique.setdefault(json.dumps(sample, sort_keys=True), (sample, label))
    pairs_kept = unique.values()
    return Corpus(
        [sample for sample, _ in pairs_kept], [label for _, label in pairs_kept]
    )


def _rows(path: Path, field: str) -> list[tuple[Sample, str]]:
    lines = enumerate(read_utf8(path).split("\n"), 1)
    rows = [(f"{path}:{n}", parsed(line)) for n, line in lines if line.strip()]
    checked = read_rows(rows)
    labels = {where: row.get(field) for where, row in rows if isinstance(row, dict)}
    problems = checked.problems + [
        f"{where}: expected a label, a string or a number, in {field!r}: name its "
        "field with --label-field"
        for where, label in labels.items()
        if not _is_label(label)
    ]
    raise_all(DataError, problems)
    if not checked.samples:
        raise DataError(f"{path} holds no rows: add documents")
    return [(sample, str(labels[place(sample)])) for sample in checked.samples]


def _is_label(label: Any) -> bool:
    return isinstance(label, (str, int, float)) and str(label).strip() != ""


def _subfolders(root: Path) -> list[tuple[Sample, str]]:
    folders = [p for p in list_dir(root) if p.is_dir() and not p.name.startswith(".")]
    if not folders:
        raise DataError(f"{root}: expected one subfolder a label, found none")
    return [
        (sample, folder.name)
        for folder in folders
        for sample in load_split(str(folder), "all")[0]
    ]
