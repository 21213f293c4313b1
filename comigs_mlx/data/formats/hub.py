"""A Hugging Face dataset, by its id `owner/name`, through the `datasets` package.

Reads the splits train, validation (or valid, val, dev) and test with the columns of
`comigs_mlx.data.rows`; others are ignored, with a note.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from typing import Any

from comigs_mlx.data.reading import SPLIT_NAMES, TEXT_ENDINGS
from comigs_mlx.data.reading_progress import EVERY, Advance, ignore, told
from comigs_mlx.data.rows import read_rows
from comigs_mlx.data.splits import Sample, Source
from comigs_mlx.errors import DataError, raise_all

ORDER = 40
"""After everything on this disk."""

NEEDED = ("role", "content")
"""Keys of a message that are never fillers."""

LOCAL_ENDINGS = (*TEXT_ENDINGS, ".jsonl")
"""A missing file with such an ending is a mistyped path, not a dataset."""


def matches(source: str) -> bool:
    """Whether `source` reads `owner/name` and is neither a path nor looks like one."""
    if os.path.exists(source) or source.lower().endswith(LOCAL_ENDINGS):
        return False
    return re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", source, re.ASCII) is not None


def read(source: str, advance: Advance = ignore) -> Source:
    """Download (or find in the cache) and read the dataset.

    Raises:
        DataError: If `datasets` is missing, the dataset cannot be loaded, or its
            splits or columns are not ours.
    """
    found = _load(source)
    ours: dict[str, list[str]] = {}
    for name in found:
        if name in SPLIT_NAMES:
            ours.setdefault(SPLIT_NAMES[name], []).append(name)
    if "train" not in ours:
        raise DataError(
            f"{source}: expected a split train, found {', '.join(found) or 'none'}"
        )
    splits: dict[str, list[Sample]] = {}
    problems, notes = [], []
    for split, names in ours.items():
        read = read_rows(row for n in names for row in _rows(source, found, n, advance))
        splits[split] = read.samples
        problems += read.problems
        notes += [f"{split}: {note}" for note in read.notes]
        if len(names) > 1:
            notes.append(f"{split} is read from {', '.join(names)} together")
    raise_all(DataError, problems)
    others = sorted(set(found) - set(SPLIT_NAMES))
    notes += [f"ignored split {name} of {source}" for name in others]
    return Source(splits, notes)


def _rows(
    source: str, found: Mapping[str, Any], name: str, advance: Advance
) -> Iterator[tuple[str, Any]]:
    """Place and content of each row of a split, without the fillers of its columns."""
    rows = told(found[name], f"rows of {name}", advance, len(found[name]), EVERY)
    for index, row in enumerate(rows):
        yield f"{source} {name}[{index}]", {**row, **_filled(row)}


def _filled(row: Mapping[str, Any]) -> dict[str, Any]:
    """What a row holds of conversations and tools, without keys that are null.

    A column gives every row the keys of all rows: null is what it puts where a row has
    none. What is null in JSON of a file was written so, and stays there.
    """
    made: dict[str, Any] = {}
    if isinstance(row.get("messages"), list):
        # A message must say who speaks and what, even where that is null.
        made["messages"] = [
            {k: _without_nulls(v) for k, v in m.items() if v is not None or k in NEEDED}
            if isinstance(m, dict)
            else m
            for m in row["messages"]
        ]
    if isinstance(row.get("tools"), list):
        made["tools"] = _without_nulls(row["tools"], schema=True)
    return made


def _without_nulls(value: Any, schema: bool = False) -> Any:
    """The value without keys that are null; of a schema, without what is all null."""
    if isinstance(value, list):
        return [_without_nulls(each, schema) for each in value]
    if not isinstance(value, dict):
        return value
    return {
        key: _without_nulls(each, schema)
        for key, each in value.items()
        if each is not None and not (schema and _is_filler(each))
    }


def _is_filler(value: Any) -> bool:
    """Whether `value` has keys, all of which are null, or objects of that kind."""
    return (
        isinstance(value, dict)
        and bool(value)
        and all(each is None or _is_filler(each) for each in value.values())
    )


def _load(source: str) -> Mapping[str, Any]:
    try:
        import datasets
    except ImportError as error:
        raise DataError(
            f"{source}: there is no such folder, and reading it as a Hugging Face "
            "dataset needs the datasets package: pip install 'comigs-mlx[data]'"
        ) from error
    try:
        found: Mapping[str, Any] = datasets.load_dataset(source)
    # The package, its transport and the dataset's files fail in too many ways to list.
    except Exception as error:
        reason = (str(error).splitlines() or [""])[0]
        raise DataError(
            f"{source}: no such folder, and not loaded from the Hugging Face Hub "
            f"({type(error).__name__}: {reason}): check the name and the connection"
        ) from error
    return found
