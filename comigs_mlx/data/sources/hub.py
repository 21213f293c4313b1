"""A Hugging Face dataset, by its id `owner/name`, through the `datasets` package.

It reads the splits train, validation (or valid, val, dev) and test with the columns of
`comigs_mlx.data.rows`. Others are ignored, with a note.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from typing import Any

from comigs_mlx.data.columns import mapped
from comigs_mlx.data.reading import SPLIT_NAMES, TEXT_ENDINGS
from comigs_mlx.data.reading_options import DEFAULT, Reading
from comigs_mlx.data.reading_progress import EVERY, Advance, ignore, with_progress
from comigs_mlx.data.reading_report import of_samples
from comigs_mlx.data.rows import read_rows
from comigs_mlx.data.splits import RawSplits, Sample
from comigs_mlx.errors import DataError, raise_all

ORDER = 40
"""This source is tried after all that read from this disk."""

NEEDED = ("role", "content")
"""The keys of a message that are kept even where their value is null."""

LOCAL_ENDINGS = (*TEXT_ENDINGS, ".jsonl")
"""The endings that make a missing file a mistyped path, not a dataset."""


def matches(source: str) -> bool:
    """Tell whether `source` reads `owner/name` and neither is nor looks like a path."""
    if os.path.exists(source) or source.lower().endswith(LOCAL_ENDINGS):
        return False
    return re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", source, re.ASCII) is not None


def read(
    source: str, reading: Reading = DEFAULT, advance: Advance = ignore
) -> RawSplits:
    """Download the dataset, or find it in the cache, and read it.

    Raises:
        DataError: If `datasets` is missing, the dataset cannot be loaded, or its splits
            or columns are not those read here.
    """
    dataset = _load(source)
    names_of: dict[str, list[str]] = {}
    for name in dataset:
        if name in SPLIT_NAMES:
            names_of.setdefault(SPLIT_NAMES[name], []).append(name)
    if "train" not in names_of:
        raise DataError(
            f"{source}: expected a split train, found {', '.join(dataset) or 'none'}"
        )
    splits: dict[str, list[Sample]] = {}
    problems, notes = [], []
    for split, names in names_of.items():
        found = (row for n in names for row in _rows(source, dataset, n, advance))
        rows = read_rows(mapped(found, reading))
        splits[split] = rows.samples
        problems += rows.problems
        notes += [f"{split}: {note}" for note in rows.notes]
        if len(names) > 1:
            notes.append(f"{split} is read from {', '.join(names)} together")
    raise_all(DataError, problems)
    others = sorted(set(dataset) - set(SPLIT_NAMES))
    notes += [f"ignored split {name} of {source}" for name in others]
    every = [sample for part in splits.values() for sample in part]
    return RawSplits(splits, notes, of_samples("dataset", every))


def _rows(
    source: str, dataset: Mapping[str, Any], name: str, advance: Advance
) -> Iterator[tuple[str, Any]]:
    """Yield place and content of each row of a split, without its columns' fillers."""
    rows = with_progress(
        dataset[name], f"rows of {name}", advance, len(dataset[name]), EVERY
    )
    for index, row in enumerate(rows):
        yield f"{source} {name}[{index}]", {**row, **_filled(row)}


def _filled(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return a row's conversation and tools without keys that are null.

    A column gives every row the keys of all rows, and fills those that a row lacks with
    null. In a JSONL file a null was written on purpose, so there it stays.
    """
    filled: dict[str, Any] = {}
    if isinstance(row.get("messages"), list):
        # A message must say who speaks and what, even where that is null.
        filled["messages"] = [
            {k: _without_nulls(v) for k, v in m.items() if v is not None or k in NEEDED}
            if isinstance(m, dict)
            else m
            for m in row["messages"]
        ]
    if isinstance(row.get("tools"), list):
        filled["tools"] = _without_nulls(row["tools"], schema=True)
    return filled


def _without_nulls(value: Any, schema: bool = False) -> Any:
    """Drop keys that are null; in a schema, also objects with nothing but null."""
    if isinstance(value, list):
        return [_without_nulls(item, schema) for item in value]
    if not isinstance(value, dict):
        return value
    return {
        key: _without_nulls(item, schema)
        for key, item in value.items()
        if item is not None and not (schema and _is_filler(item))
    }


def _is_filler(value: Any) -> bool:
    """Tell whether `value` has keys, all of them null or objects of that kind."""
    return (
        isinstance(value, dict)
        and bool(value)
        and all(item is None or _is_filler(item) for item in value.values())
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
        dataset: Mapping[str, Any] = datasets.load_dataset(source)
    # The package, its transport and the dataset's files fail in too many ways to list.
    except Exception as error:
        reason = (str(error).splitlines() or [""])[0]
        raise DataError(
            f"{source}: no such folder, and not loaded from the Hugging Face Hub "
            f"({type(error).__name__}: {reason}): check the name and the connection"
        ) from error
    return dataset
