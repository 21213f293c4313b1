from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from comigs_mlx import registry
from comigs_mlx.config import from_dict
from comigs_mlx.data.splits import SPLITS, load_splits
from comigs_mlx.errors import ConfigError, DataError
from comigs_mlx.simulation.datasets.dividing import PartitionConfig, partition, table

Write = Callable[..., Path]
ROWS = [
    {"text": f"{label} text {i}", "label": label} for i in range(60) for label in "abc"
]


@pytest.fixture
def corpus(write: Write) -> Path:
    return write({"rows.jsonl": ROWS}, "corpus") / "rows.jsonl"


def config(corpus: Path, out: Path, **options: object) -> PartitionConfig:
    given = {"data": str(corpus), "out": str(out), **options}
    return from_dict(PartitionConfig, given)


@pytest.mark.parametrize("mixed", [False, True])
@pytest.mark.parametrize("by", registry.names("partition"))
def test_the_folders_hold_every_document_once(
    corpus: Path, tmp_path: Path, by: str, mixed: bool
) -> None:
    out = tmp_path / "users"
    options = {"alpha": 5.0} if by == "dirichlet" else {}
    given = {"by": by, "participants": 3, "mixed": mixed, **options}
    counts = partition(config(corpus, out, **given))
    folders = sorted(path.name for path in out.iterdir() if path.is_dir())
    assert folders == sorted(counts)
    texts: list[str] = []
    for name in folders:
        found = load_splits(str(out / name))
        assert found.notes == []
        texts += [s["text"] for part in SPLITS for s in getattr(found, part)]
    assert sorted(texts) == sorted(row["text"] for row in ROWS)
    assert sum(sum(labels.values()) for labels in counts.values()) == len(ROWS)
    notes = json.loads((out / "partition.json").read_text())
    assert notes["documents"] == {name: dict(labels) for name, labels in counts.items()}
    assert (notes["by"], notes["options"]) == (by, options)


def test_by_label_a_participant_has_its_label_only(
    corpus: Path, tmp_path: Path
) -> None:
    counts = partition(config(corpus, tmp_path / "users"))
    assert counts == {label: {label: 60} for label in "abc"}
    assert table(counts).splitlines()[0] == "a      60  a 60"


def test_alpha_decides_how_alike_participants_are(corpus: Path, tmp_path: Path) -> None:
    """Proportions near a third each for a large one, whatever is drawn."""
    options = {"by": "dirichlet", "participants": 3, "alpha": 1e5}
    counts = partition(config(corpus, tmp_path / "users", **options))
    assert all(19 <= n <= 21 for labels in counts.values() for n in labels.values())
    made = json.loads((tmp_path / "users" / "partition.json").read_text())
    assert made["options"] == {"alpha": 1e5}


def test_the_seed_decides_who_gets_what(corpus: Path, tmp_path: Path) -> None:
    def dealt(seed: int, name: str) -> str:
        options = {"by": "iid", "participants": 3, "seed": seed}
        partition(config(corpus, tmp_path / name, **options))
        return (tmp_path / name / "p0" / "train.jsonl").read_text()

    assert dealt(0, "one") == dealt(0, "same") != dealt(1, "other")


def test_mixed_everyone_is_held_out_of_each_kind_alike(
    corpus: Path, tmp_path: Path
) -> None:
    """The kinds follow each other, so that the first test tokens are of all."""
    people = partition(config(corpus, tmp_path / "users", mixed=True))
    found = {name: load_splits(str(tmp_path / "users" / name)) for name in people}
    for name, splits in found.items():
        assert {s["text"][0] for s in splits.train} == {name}
    for split in ("valid", "test"):
        kinds = [[s["text"][0] for s in getattr(found[name], split)] for name in people]
        for letter in "abc":
            counts = [mine.count(letter) for mine in kinds]
            assert max(counts) - min(counts) <= 1 <= min(counts)
        assert any(mine != sorted(mine) for mine in kinds)


def test_a_participant_without_a_split_is_refused_and_nothing_written(
    corpus: Path, tmp_path: Path
) -> None:
    with pytest.raises(
        DataError, match=r"p\d+ would have no (valid|test) among \d doc"
    ):
        partition(config(corpus, tmp_path / "users", by="iid", participants=60))
    assert not list(tmp_path.glob("*users*"))


def test_a_folder_that_is_there_is_left_alone(corpus: Path, tmp_path: Path) -> None:
    (tmp_path / "users").mkdir()
    with pytest.raises(ConfigError, match="users exists: remove it, or choose another"):
        partition(config(corpus, tmp_path / "users"))
    assert list((tmp_path / "users").iterdir()) == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"data": ""}, "--data is missing"),
        ({"by": "moon"}, "--by moon: choose one of dirichlet, iid, label"),
        ({"alpha": 1.0}, "--alpha is not an option of --by label: leave it out"),
        ({"by": "dirichlet", "alpha": 0.0}, "--alpha 0.0 must be a number above 0"),
        ({"participants": 0}, "--participants 0 must be at least 1"),
        ({"seed": -1}, "--seed -1 must be at least 0"),
    ],
)
def test_options_that_cannot_work(options: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        config(Path("x"), Path("y"), **options)
