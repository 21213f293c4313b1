"""Divides one labelled corpus into one folder for each participant.

    OUT/<participant>/train.jsonl valid.jsonl test.jsonl
    OUT/partition.json                 the options, and the documents of each label

No document stands in two splits or at two participants.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from comigs_mlx import registry
from comigs_mlx.config import check_new, option
from comigs_mlx.data.splits import SPLITS, Sample, divide, position
from comigs_mlx.errors import DataError, raise_all
from comigs_mlx.files import replacing_dir, write_json, write_text
from comigs_mlx.simulation.datasets.labelled import Corpus, read_corpus

Shares = dict[str, dict[str, list[Sample]]]
"""Maps a participant and a split to documents."""


@dataclass(frozen=True)
class PartitionConfig:
    """Divide one labelled corpus among the participants of a simulation.

    label: one participant a label. dirichlet: every label in random proportions
    (--alpha: small separates, large mixes). iid: every participant a random share. A
    participant's documents are then divided 80/10/10 by content into train, valid and
    test. With --mixed, everybody's valid and test are of all documents: they hold more
    kinds of text than the participant's own (out of distribution).

      python scripts/partition.py --data news.jsonl --label-field category --out users
      python -m comigs_mlx.simulate --users users ...
    """

    data: str = option(
        "", "a .jsonl file, or a folder with one subfolder a label", "PATH"
    )
    out: str = option("", "new folder, with one folder a participant", "DIR")
    by: str = option("label", "a file of simulation/datasets/partition", "NAME")
    label_field: str = option("label", "the field of a row that holds its label", "KEY")
    participants: int | None = option(
        None, "how many (default: 4; by label, as many as labels)", "N"
    )
    alpha: float | None = option(
        None, "dirichlet: concentration (default: 0.5)", "ALPHA"
    )
    mixed: bool = option(
        False, "deal out valid and test anew, to everyone of each kind"
    )
    seed: int = option(0, "of all that is drawn", "N")

    def problems(self) -> Iterator[str]:
        """Yield one sentence for each value that cannot work."""
        for name in ("data", "out"):
            if not getattr(self, name):
                yield f"--{name} is missing (see --help)"
        if self.participants is not None and self.participants < 1:
            yield f"--participants {self.participants} must be at least 1"
        if self.seed < 0:
            yield f"--seed {self.seed} must be at least 0"
        if self.by not in (partitioners := registry.names("partition")):
            yield f"--by {self.by}: choose one of {', '.join(partitioners)}"
        elif self.alpha is not None and "alpha" not in _options_of(self.by):
            yield f"--alpha is not an option of --by {self.by}: leave it out"
        if self.alpha is not None and not 0 < self.alpha < 1e6:
            yield f"--alpha {self.alpha} must be a number above 0 and below 1000000"


def partition(config: PartitionConfig) -> dict[str, Counter[str]]:
    """Divide a corpus and write the participants' folders, all or none.

    Returns:
        The number of documents of each label, by participant.

    Raises:
        ConfigError: If the folder exists, or the options do not fit the corpus.
        DataError: If the corpus cannot be read, or a participant would lack a split.
    """
    out = Path(config.out).expanduser()
    check_new(out)
    corpus = read_corpus(config.data, config.label_field)
    options = {} if config.alpha is None else {"alpha": config.alpha}
    plugin = registry.load("partition", config.by)
    owners = plugin.assign(corpus.labels, config.participants, config.seed, **options)
    counts = label_counts(corpus.labels, owners)
    shares = split_shares(corpus, owners)
    if config.mixed:
        shares = mixed(shares)
    notes = {
        "by": config.by,
        "options": {**_options_of(config.by), **options},
        "mixed": config.mixed,
        "seed": config.seed,
        "documents": counts,
    }
    write_participants(out, shares, {"partition.json": notes})
    return counts


def label_counts(labels: list[str], owners: list[str]) -> dict[str, Counter[str]]:
    """Count the documents of each label of each participant, both sorted."""
    counts: dict[str, Counter[str]] = {
        owner: Counter() for owner in sorted(set(owners))
    }
    for label, owner in sorted(zip(labels, owners, strict=True)):
        counts[owner][label] += 1
    return counts


def split_shares(corpus: Corpus, owners: list[str]) -> Shares:
    """Divide each participant's documents into splits.

    Raises:
        DataError: If a participant would lack a split; the text names each of them.
    """
    owned: dict[str, list[Sample]] = {owner: [] for owner in sorted(set(owners))}
    for sample, owner in zip(corpus.samples, owners, strict=True):
        owned[owner].append(sample)
    shares = {owner: divide({"all": samples}) for owner, samples in owned.items()}
    problems = [
        f"participant {owner} would have no {split} among {len(owned[owner])} documents"
        ": add documents, lower --participants or choose another --by or --seed"
        for owner, splits in shares.items()
        for split in SPLITS
        if not splits[split]
    ]
    raise_all(DataError, problems)
    return shares


def mixed(shares: Shares) -> Shares:
    """Deal out valid and test anew: every participant gets as much of each kind.

    Participant i of n gets the documents i, i + n, i + 2 n... of all participants, so
    that no document is held out by two. The kinds follow each other in the order of
    their content's hashes.
    """
    count = len(shares)

    def dealt(split: str, number: int) -> list[Sample]:
        dealt = [s for splits in shares.values() for s in splits[split][number::count]]
        return sorted(dealt, key=position)

    return {
        name: {
            "train": splits["train"],
            "valid": dealt("valid", number),
            "test": dealt("test", number),
        }
        for number, (name, splits) in enumerate(shares.items())
    }


def write_participants(
    out: Path,
    shares: Mapping[str, Mapping[str, list[Sample]]],
    notes: Mapping[str, Any],
) -> None:
    """Write one folder a participant, all or none.

    Args:
        out: The new folder for the participants' folders.
        shares: Maps a participant and a split to documents.
        notes: Maps a file name to its JSON content, written beside them.
    """
    with replacing_dir(out) as folder:
        for name, splits in shares.items():
            for split, samples in splits.items():
                rows = (json.dumps(sample, ensure_ascii=False) for sample in samples)
                text = "".join(row + "\n" for row in rows)
                write_text(folder / name / f"{split}.jsonl", text)
        for file, content in notes.items():
            write_json(folder / file, content)


def table(counts: Mapping[str, Counter[str]]) -> str:
    """Write the documents of each label at each participant as text."""
    width = max(map(len, counts))
    lines = []
    for owner, labels in counts.items():
        parts = ", ".join(f"{label} {count}" for label, count in labels.items())
        lines.append(f"{owner:{width}}  {sum(labels.values()):6}  {parts}")
    return "\n".join(lines)


def _options_of(by: str) -> dict[str, float]:
    options: dict[str, float] = registry.load("partition", by).OPTIONS
    return options
