"""Makes participants like the paper's from public datasets (package `datasets`).

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
"""The tokens of a participant's training text; valid and test have a fifth of it
each.
"""

CHARACTERS_PER_TOKEN = 4

LONGEST = 50_000
"""The characters of a document that are used; a book would outweigh a whole split."""


@dataclass(frozen=True)
class Stream:
    """One pass over a dataset on the Hub.

    Attributes:
        dataset: The id of the dataset.
        config: The name of its configuration, if it has several.
        participants: The participants that have text in it.
        owner: Returns the participant of a row; None for a row without one.
    """

    dataset: str
    config: str | None
    participants: tuple[str, ...]
    owner: Callable[[dict[str, Any]], str | None]


@dataclass(frozen=True)
class PaperExperiment:
    """The data of an experiment like one of the paper's.

    Attributes:
        streams: The streams that their text comes from; each participant's from one.
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

EXPERIMENTS = {
    "multilingual": PaperExperiment(tuple(map(_wikipedia, LANGUAGES))),
    "slimpajama": PaperExperiment((SLIMPAJAMA,)),
    "agnews": PaperExperiment((AG_NEWS,), mixed=True),
}
"""The experiments by name."""


def amounts(tokens: int) -> dict[str, int]:
    """Return the characters of each split, for so many tokens of training text."""
    train = tokens * CHARACTERS_PER_TOKEN
    return {"train": train, "valid": train // 5, "test": train // 5}


def build(
    experiment: PaperExperiment,
    rows: Callable[[Stream], Iterable[dict[str, Any]]],
    characters: dict[str, int],
) -> Shares:
    """Collect the participants' documents.

    Args:
        experiment: The experiment, one of `EXPERIMENTS`.
        rows: Reads a stream; yields rows with a text, in a fixed order.
        characters: The characters of each split, which is full with the document that
            exceeds them.

    Raises:
        DataError: If a split is not half full at the end of the stream.
    """
    shares: Shares = {}
    for stream in experiment.streams:
        shares |= fill(_texts(rows(stream), stream), stream.participants, characters)
    _check_filled(shares, characters)
    return mixed(shares) if experiment.mixed else shares


def fill(
    texts: Iterable[tuple[str, str]],
    names: Iterable[str],
    characters: dict[str, int],
) -> Shares:
    """Give documents to splits until all are full.

    A document goes to the split that its content decides; if that is full already, the
    document is left out. Of equal documents the first is kept.

    Args:
        texts: Pairs of participant and text, of which only as many as needed are read.
        names: The participants to fill; texts of others are left out.
        characters: The characters of each split.
    """
    shares: Shares = {name: {split: [] for split in SPLITS} for name in names}
    sizes = {(name, split): 0 for name in shares for split in SPLITS}
    known_texts: set[str] = set()
    for name, text in texts:
        if text in known_texts or name not in shares:
            continue
        known_texts.add(text)
        split = split_of({"text": text}, characters)
        if sizes[name, split] < characters[split]:
            shares[name][split].append({"text": text})
            sizes[name, split] += len(text)
            if all(size >= characters[s] for (_, s), size in sizes.items()):
                break
    return shares


def split_of(sample: Sample, characters: dict[str, int]) -> str:
    """Return the split that the content decides, as often as its share of
    characters.
    """
    at = position(sample) * sum(characters.values())
    for split in ("test", "valid"):
        if at < characters[split]:
            return split
        at -= characters[split]
    return "train"


def load(stream: Stream) -> Iterator[dict[str, Any]]:
    """Yield the rows of a stream from the Hugging Face Hub, downloaded as they are
    needed.

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
            size = sum(len(sample["text"]) for sample in samples)
            if size < characters[split] / 2:
                problems.append(
                    f"{name}: {size:,} characters for {split}, expected "
                    f"{characters[split]:,}: lower --tokens"
                )
    raise_all(DataError, problems)
