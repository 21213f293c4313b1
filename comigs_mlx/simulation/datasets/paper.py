"""Participants like the paper's, from public datasets with the `datasets` package.

    multilingual   Wikipedia: de, fr, it, nl; in distribution
    slimpajama     SlimPajama: arXiv, books, code, questions; in distribution
    agnews         AG News: a participant trains on one category of four, its valid and
                   test are of all four; out of distribution

After Fan et al., arXiv 2409.13931, from memory: the languages, domains and amounts
(1,000,000 tokens to train on, a fifth each for valid and test) were not compared with
the authors' data. Amounts are in characters, 4 a token, so that every base sees the
same text; Wikipedia is the dump that the Hub still serves as plain files.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from comigs_mlx.data.splits import SPLITS, Sample, position
from comigs_mlx.errors import DataError, raise_all
from comigs_mlx.simulation.datasets.dividing import Shares, mixed

TOKENS = 1_000_000
"""Of a participant's training text; a fifth of it each for valid and test."""

CHARACTERS_PER_TOKEN = 4

LONGEST = 50_000
"""Characters of a document that are used; a book would outweigh a whole split."""


@dataclass(frozen=True)
class Stream:
    """One pass over a dataset on the Hub.

    Attributes:
        dataset: Its id.
        config: Its configuration, if it has several.
        participants: Who has text in it.
        owner: The participant of a row; None for rows nobody wants.
    """

    dataset: str
    config: str | None
    participants: tuple[str, ...]
    owner: Callable[[dict[str, Any]], str | None]


@dataclass(frozen=True)
class Task:
    """Participants of an experiment like one of the paper's.

    Attributes:
        streams: Where their text comes from; each participant's from one.
        mixed: Whether valid and test are of all participants' kinds of text.
    """

    streams: tuple[Stream, ...]
    mixed: bool = False


LANGUAGES = ("de", "fr", "it", "nl")
DOMAINS = {
    "RedPajamaArXiv": "arxiv",
    "RedPajamaBook": "books",
    "RedPajamaGithub": "code",
    "RedPajamaStackExchange": "questions",
}
CATEGORIES = ("world", "sports", "business", "technology")


def _wikipedia(language: str) -> Stream:
    dump = f"20231101.{language}"
    return Stream("wikimedia/wikipedia", dump, (language,), lambda row: language)


def _domain(row: dict[str, Any]) -> str | None:
    return DOMAINS.get(row["meta"]["redpajama_set_name"])


def _category(row: dict[str, Any]) -> str:
    return CATEGORIES[row["label"]]


SLIMPAJAMA = Stream("DKYoon/SlimPajama-6B", None, tuple(DOMAINS.values()), _domain)
AG_NEWS = Stream("fancyzhx/ag_news", None, CATEGORIES, _category)

TASKS = {
    "multilingual": Task(tuple(map(_wikipedia, LANGUAGES))),
    "slimpajama": Task((SLIMPAJAMA,)),
    "agnews": Task((AG_NEWS,), mixed=True),
}
"""Name -> task."""


def amounts(tokens: int) -> dict[str, int]:
    """Split -> characters, for so many tokens of training text."""
    train = tokens * CHARACTERS_PER_TOKEN
    return {"train": train, "valid": train // 5, "test": train // 5}


def build(
    task: Task,
    rows: Callable[[Stream], Iterable[dict[str, Any]]],
    characters: dict[str, int],
) -> Shares:
    """The participants' documents.

    Args:
        task: One of `TASKS`.
        rows: Reads a stream: rows with a text, in a fixed order.
        characters: What each split gets; full with the document that exceeds it.

    Raises:
        DataError: If a split is not half full at the end of the stream.
    """
    shares: Shares = {}
    for stream in task.streams:
        shares |= fill(_texts(rows(stream), stream), stream.participants, characters)
    _check_filled(shares, characters)
    return mixed(shares) if task.mixed else shares


def fill(
    texts: Iterable[tuple[str, str]],
    names: Iterable[str],
    characters: dict[str, int],
) -> Shares:
    """Give documents to splits until all are full.

    A document goes to the split that its content chooses; where that is full already,
    it is left out. Of equal documents the first is kept.

    Args:
        texts: Pairs of participant and text; read no further than needed.
        names: The participants to fill; others' texts are left out.
        characters: What each split gets.
    """
    shares: Shares = {name: {split: [] for split in SPLITS} for name in names}
    sizes = {(name, split): 0 for name in shares for split in SPLITS}
    seen: set[str] = set()
    for name, text in texts:
        if text in seen or name not in shares:
            continue
        seen.add(text)
        split = split_of({"text": text}, characters)
        if sizes[name, split] < characters[split]:
            shares[name][split].append({"text": text})
            sizes[name, split] += len(text)
            if all(size >= characters[s] for (_, s), size in sizes.items()):
                break
    return shares


def split_of(sample: Sample, characters: dict[str, int]) -> str:
    """The split that the content chooses, as often as its share of all characters."""
    at = position(sample) * sum(characters.values())
    for split in ("test", "valid"):
        if at < characters[split]:
            return split
        at -= characters[split]
    return "train"


def load(stream: Stream) -> Iterator[dict[str, Any]]:
    """The rows of a stream from the Hugging Face Hub, downloaded as they are needed.

    Raises:
        DataError: If `datasets` is missing or the dataset cannot be read.
    """
    try:
        import datasets
    except ImportError as error:
        raise DataError(
            "the paper's datasets need the datasets package: pip install "
            "'comigs-mlx[data]'"
        ) from error
    try:
        yield from datasets.load_dataset(
            stream.dataset, stream.config, split="train", streaming=True
        )
    # The package, its transport and the dataset's files fail in too many ways to list.
    except Exception as error:
        raise DataError(
            f"{stream.dataset} cannot be read from the Hugging Face Hub "
            f"({type(error).__name__}): check the connection and try again"
        ) from error


def _texts(rows: Iterable[dict[str, Any]], stream: Stream) -> Iterator[tuple[str, str]]:
    for row in rows:
        name, text = stream.owner(row), row["text"][:LONGEST].strip()
        if name is not None and text:
            yield name, text


def _check_filled(shares: Shares, characters: dict[str, int]) -> None:
    problems = []
    for name, splits in shares.items():
        for split, samples in splits.items():
            found = sum(len(sample["text"]) for sample in samples)
            if found < characters[split] / 2:
                problems.append(
                    f"{name}: {found:,} characters for {split}, expected "
                    f"{characters[split]:,}: lower --tokens"
                )
    raise_all(DataError, problems)
