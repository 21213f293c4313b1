"""Makes every label one participant: as different as the corpus allows.

    participant(d) <- label(d)

Source: the users of Fan et al., arXiv 2409.13931, section 4: one language or domain
each.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence

from comigs_mlx.errors import ConfigError, DataError

SUMMARY = "one participant a label"
OPTIONS: dict[str, float] = {}

LONGEST = 39
"""The most characters of a participant's name."""


def assign(labels: Sequence[str], participants: int | None, seed: int) -> list[str]:
    """Choose the participant of each document.

    Args:
        labels: The label of each document.
        participants: The number of labels, or None.
        seed: A seed that has no effect, because nothing is drawn.

    Raises:
        ConfigError: If `participants` is another number.
        DataError: If two labels would share a folder name.
    """
    del seed
    names = {label: folder_name(label) for label in sorted(set(labels))}
    if participants not in (None, len(names)):
        raise ConfigError(
            f"--participants {participants}: by label there are as many as labels, "
            f"{len(names)}: leave it out, or choose another --by"
        )
    _check_distinct(names)
    return [names[label] for label in labels]


def folder_name(label: str) -> str:
    """Turn `Sci/Tech` into `sci-tech`, a name that a federation's participant may
    have.
    """
    plain = unicodedata.normalize("NFKD", label).encode("ascii", "ignore").decode()
    name = re.sub(r"[^a-z0-9]+", "-", plain.lower()).strip("-")
    return name[:LONGEST].strip("-") or "label"


def _check_distinct(names: dict[str, str]) -> None:
    owners: dict[str, str] = {}
    for label, name in names.items():
        if (first := owners.setdefault(name, label)) != label:
            raise DataError(
                f"labels {first!r} and {label!r} are both the folder {name!r}: rename "
                "one of them"
            )
