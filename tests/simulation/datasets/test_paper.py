from __future__ import annotations

import itertools
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from comigs_mlx.data.splits import SPLITS
from comigs_mlx.errors import DataError
from comigs_mlx.simulation.datasets import paper

AMOUNTS = {"train": 2000, "valid": 400, "test": 400}


def rows(stream: paper.Stream) -> Iterator[dict[str, Any]]:
    """Endless rows of any stream, with the columns that each dataset has."""
    sets = [*paper.DOMAINS, "RedPajamaC4"]
    for i in itertools.count():
        text = f"{stream.config} text number {i}"
        name = sets[i % len(sets)]
        yield {"text": text, "label": i % 4, "meta": {"redpajama_set_name": name}}


def sizes(shares: paper.Shares) -> set[tuple[str, int]]:
    return {
        (split, sum(len(sample["text"]) for sample in samples))
        for splits in shares.values()
        for split, samples in splits.items()
    }


def texts(shares: paper.Shares, split: str) -> dict[str, set[str]]:
    return {name: {s["text"] for s in mine[split]} for name, mine in shares.items()}


@pytest.mark.parametrize("name", paper.EXPERIMENTS)
class TestTask:
    def test_has_the_papers_four_participants(self, name: str) -> None:
        streams = paper.EXPERIMENTS[name].streams
        people = [person for stream in streams for person in stream.participants]
        assert len(people) == len(set(people)) == 4

    def test_no_document_stands_twice(self, name: str) -> None:
        shares = paper.build(paper.EXPERIMENTS[name], rows, AMOUNTS)
        parts = [texts(shares, s)[person] for person in shares for s in SPLITS]
        assert sum(map(len, parts)) == len(set().union(*parts))
        assert all(parts)

    def test_trains_on_one_kind_of_text(self, name: str) -> None:
        task = paper.EXPERIMENTS[name]
        shares = paper.build(task, rows, AMOUNTS)
        for stream in task.streams:
            owners = {
                row["text"]: stream.owner(row)
                for row in itertools.islice(rows(stream), 2000)
            }
            for person in stream.participants:
                mine = texts(shares, "train")[person]
                assert {owners[text] for text in mine} == {person}


@pytest.mark.parametrize("name", ["multilingual", "slimpajama"])
def test_splits_are_full_with_the_document_that_exceeds_them(name: str) -> None:
    shares = paper.build(paper.EXPERIMENTS[name], rows, AMOUNTS)
    for split, size in sizes(shares):
        assert AMOUNTS[split] <= size < AMOUNTS[split] + 40


def test_news_are_held_out_of_all_categories_in_equal_parts() -> None:
    shares = paper.build(paper.EXPERIMENTS["agnews"], rows, AMOUNTS)
    kinds = {row["text"]: row["label"] for row in itertools.islice(
        rows(paper.AG_NEWS), 2000
    )}  # fmt: skip
    for split in ("valid", "test"):
        for mine in texts(shares, split).values():
            found = [sum(kinds[text] == k for text in mine) for k in range(4)]
            assert max(found) - min(found) <= 1
            assert min(found) > 0


def test_amounts_are_the_papers() -> None:
    assert paper.amounts(1_000_000) == {
        "train": 4_000_000, "valid": 800_000, "test": 800_000
    }  # fmt: skip


def test_a_document_stays_in_its_split_whatever_comes_before() -> None:
    pairs = [("a", f"text {i}") for i in range(400)]
    one = paper.fill(pairs, ["a"], AMOUNTS)
    other = paper.fill(reversed(pairs), ["a"], AMOUNTS)
    for split, another in itertools.permutations(SPLITS, 2):
        assert not texts(one, split)["a"] & texts(other, another)["a"]


def test_long_documents_are_cut_and_empty_ones_left_out() -> None:
    stream = paper.Stream("x/y", None, ("a",), lambda row: "a")
    given = [{"text": "x" * 10**6}, {"text": " \n"}]
    pairs = list(paper._texts(given, stream))
    assert pairs == [("a", "x" * paper.LONGEST)]


def test_too_little_text_names_who_lacks_what() -> None:
    def few(stream: paper.Stream) -> Iterator[dict[str, Any]]:
        return itertools.islice(rows(stream), 8)

    with pytest.raises(
        DataError, match=r"world: \d+ characters for train, expected 2,"
    ):
        paper.build(paper.EXPERIMENTS["agnews"], few, AMOUNTS)


def test_without_the_datasets_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(DataError, match=r"pip install 'comigs-mlx\[data\]'"):
        next(paper.load(paper.AG_NEWS))
