"""RUN/.secrets.json: how many secrets a run's training text holds; never which.

    {"format_version": 1, "data": "<digest>", "found": {"password": 2}, "redacted": {}}

`found` counts what the experts learn from as it stands, `redacted` what was replaced on
reading. The file says something private, so only its owner may read it, and it never
leaves the device: `sync push` says in a sentence what it holds, before it sends.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

from comigs_mlx import json_files
from comigs_mlx.data import secrets
from comigs_mlx.files import replacing

FILE = ".secrets.json"
FORMAT_VERSION = 1


@dataclass(frozen=True)
class TrainedSecrets:
    """The secrets in the training text of a run, by kind.

    Attributes:
        data: The digest of the text that was searched last.
        found: Maps a kind to the number that was trained on.
        redacted: Maps a kind to the number that was replaced before training.
    """

    data: str = ""
    found: dict[str, int] = field(default_factory=dict)
    redacted: dict[str, int] = field(default_factory=dict)


def read(run: Path) -> TrainedSecrets | None:
    """Return what is known of a run; None where nothing is, or it cannot be read."""
    content = json_files.known(run / FILE)
    try:
        counts = (
            {str(kind): int(n) for kind, n in content[name].items()}
            for name in ("found", "redacted")
        )
        return TrainedSecrets(str(content["data"]), *counts)
    except (ValueError, OverflowError, TypeError, KeyError, AttributeError):
        return None


def add(run: Path, new: TrainedSecrets) -> None:
    """Remember what the text of a run holds, and what it held before.

    Of each kind the larger number counts: an earlier text has been learnt as well, and
    is mostly a part of the newer one.

    Args:
        run: The folder of the run, which is there.
        new: The counts of the text that is trained on now.
    """
    before = read(run) or TrainedSecrets()
    merged = TrainedSecrets(
        new.data,
        _larger(before.found, new.found),
        _larger(before.redacted, new.redacted),
    )
    content = {"format_version": FORMAT_VERSION, **asdict(merged)}
    with replacing(run / FILE) as temporary:
        temporary.chmod(0o600)
        temporary.write_text(json.dumps(content), encoding="utf-8")


def _larger(one: Mapping[str, int], other: Mapping[str, int]) -> dict[str, int]:
    return {k: max(one.get(k, 0), other.get(k, 0)) for k in sorted({*one, *other})}


def sentence(run: Path) -> str:
    """Tell in a sentence on how many secrets a run was trained."""
    if (known := read(run)) is None:
        return (
            "it is not known whether this run's training text holds secrets: nobody "
            "looked when it was trained"
        )
    redacted = secrets.listed(known.redacted)
    before = f"{redacted} in this run's text were replaced before training"
    if found := secrets.listed(known.found):
        return (
            f"this run was trained on {found}, which its generalist may give away: to "
            "share none, train a new run with --redact"
            + (f" ({before})" if redacted else "")
        )
    return before if redacted else "no secrets were found in this run's training text"
