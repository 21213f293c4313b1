"""A Hugging Face dataset, by its id `owner/name`, through the `datasets` package.

Reads the splits train, validation (or valid) and test with the columns of
`comigs_mlx.data.rows`; others are ignored, with a note.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Any

from comigs_mlx.data.reading import TEXT_ENDINGS
from comigs_mlx.data.rows import read_rows
from comigs_mlx.data.splits import Sample, Source
from comigs_mlx.errors import DataError, raise_all

ORDER = 40
"""After everything on this disk."""

NAMES = {"train": "train", "validation": "valid", "valid": "valid", "test": "test"}
"""A dataset's name of a split -> ours."""

LOCAL_ENDINGS = (*TEXT_ENDINGS, ".jsonl")
"""A missing file with such an ending is a mistyped path, not a dataset."""


def matches(source: str) -> bool:
    """Whether `source` reads `owner/name` and is neither a path nor looks like one."""
    if os.path.exists(source) or source.lower().endswith(LOCAL_ENDINGS):
        return False
    return re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", source, re.ASCII) is not None


def read(source: str) -> Source:
    """Download (or find in the cache) and read the dataset.

    Raises:
        DataError: If `datasets` is missing, the dataset cannot be loaded, or its
            splits or columns are not ours.
    """
    found = _load(source)
    ours = [name for name in found if name in NAMES]
    if "train" not in ours:
        raise DataError(
            f"{source}: expected a split train, found {', '.join(found) or 'none'}"
        )
    splits: dict[str, list[Sample]] = {}
    problems: list[str] = []
    for name in ours:
        rows = ((f"{source} {name}[{i}]", row) for i, row in enumerate(found[name]))
        splits[NAMES[name]], bad = read_rows(rows)
        problems += bad
    raise_all(DataError, problems)
    others = sorted(set(found) - set(ours))
    return Source(splits, [f"ignored split {name} of {source}" for name in others])


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
