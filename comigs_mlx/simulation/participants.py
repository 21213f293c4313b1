"""Reads the participants, their text and their devices, once for all methods."""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from comigs_mlx.config import read_yaml
from comigs_mlx.data.cache import TokenCache
from comigs_mlx.data.content import Content, tokenised
from comigs_mlx.data.conversation import Tokenizer
from comigs_mlx.data.mapped import MappedTexts
from comigs_mlx.data.reading_progress import in_sentences
from comigs_mlx.data.splits import SPLITS, Splits, load_splits
from comigs_mlx.data.tokens import TokenStream
from comigs_mlx.errors import ConfigError, DataError, raise_all
from comigs_mlx.federation.formats.manifest import PARTICIPANT
from comigs_mlx.messages import Note, Say
from comigs_mlx.simulation.options import SimulateConfig

EVERYBODY = "everybody"
"""The name of the participant that has all text, if a method pools it."""


@dataclass(frozen=True)
class Device:
    """The experts that a participant's device can hold, and the text that it has.

    Attributes:
        specialists: The number of specialists, if a method leaves it to the
            participant.
        generalists: The number of generalists, if a method leaves it to the
            participant.
        rank: The rank of its experts; None takes that of --rank.
        train_share: The share of its training documents that is used, the first ones.
    """

    specialists: int = 1
    generalists: int = 1
    rank: int | None = None
    train_share: float = 1.0

    def problems(self) -> Iterator[str]:
        """Yield one sentence for each value that cannot work."""
        if self.specialists < 0 or self.generalists < 1:
            yield "specialists must be at least 0, generalists at least 1"
        if self.rank is not None and self.rank < 1:
            yield f"rank {self.rank} must be at least 1"
        if not 0 < self.train_share <= 1:
            yield f"train_share {self.train_share} must be above 0, at most 1"


@dataclass(frozen=True, eq=False)
class ParticipantData:
    """The device and the text of one participant.

    Attributes:
        name: The name of the participant.
        device: The device that it trains on.
        train: The text that its experts learn from.
        valid: The text that its routers learn from.
        test: The text that it is measured on.
    """

    name: str
    device: Device
    train: Content
    valid: Content
    test: Content


def read(
    config: SimulateConfig, tokenizer: Tokenizer, say: Say
) -> list[ParticipantData]:
    """Read all participants, sorted by name.

    Raises:
        DataError: If there is none, or the text of one cannot be used.
        ConfigError: If the options for their devices do not fit them.
    """
    folder = Path(config.users).expanduser()
    names = _names(folder)
    devices = _devices(config, names)
    cache = TokenCache.of_user(say) if config.learning.token_cache else None
    tokenise = functools.partial(tokenised, tokenizer=tokenizer, cache=cache, say=say)
    kept = {}
    with MappedTexts() as texts:
        for name in names:
            splits = _splits(folder / name, devices[name], say)
            kept[name] = {
                part: texts.keep(_tokens(name, part, splits, config, tokenise, say))
                for part in SPLITS
            }
    return [
        ParticipantData(
            name, devices[name], **{part: text() for part, text in parts.items()}
        )
        for name, parts in kept.items()
    ]


def _splits(folder: Path, device: Device, say: Say) -> Splits:
    """Read the samples of one participant, as many as its device has."""
    splits = load_splits(str(folder), in_sentences(say))
    if not splits.test:
        raise DataError(f"{folder} has no test text: add test.txt")
    for note in splits.notes:
        say(Note(f"{folder.name}: {note}"))
    used = max(1, round(device.train_share * len(splits.train)))
    return dataclasses.replace(splits, train=splits.train[:used])


def _tokens(
    name: str,
    part: str,
    splits: Splits,
    config: SimulateConfig,
    tokenise: Callable[..., tuple[Content, list[str]]],
    say: Say,
) -> Content:
    """Tokenise one split of a participant."""
    content, notes = tokenise(
        getattr(splits, part),
        splits.kind,
        # Training reads windows of this size; test text is measured whole.
        seq_len=None if part == "test" else config.learning.seq_len,
        mask_prompt=False,
        split=f"{name}: {part}",
    )
    for note in notes:
        say(Note(f"{name}: {part}: {note}"))
    return content


def pooled(members: Sequence[ParticipantData]) -> ParticipantData:
    """Make one participant with the text of all; its own test text is not used."""
    parts = {part: joined([getattr(data, part) for data in members]) for part in SPLITS}
    return ParticipantData(EVERYBODY, Device(), **parts)


def joined(contents: Sequence[Content]) -> Content:
    """Join several texts, one after the other.

    Raises:
        DataError: If some are plain text and others conversations.
    """
    streams = [c for c in contents if isinstance(c, TokenStream)]
    if not streams:
        return [
            sample for c in contents if not isinstance(c, TokenStream) for sample in c
        ]
    if len(streams) < len(contents):
        raise DataError(
            "participants have plain text and conversations: text can be pooled only "
            "where it is of one kind; leave out --method centralized"
        )
    counts = [int(s.documents[-1]) + 1 if len(s.documents) else 0 for s in streams]
    starts = np.cumsum([0, *counts[:-1]])
    documents = [s.documents + start for s, start in zip(streams, starts, strict=True)]
    tokens = np.concatenate([stream.tokens for stream in streams])
    return TokenStream(tokens, np.concatenate(documents).astype(np.int32))


def _names(folder: Path) -> list[str]:
    if not folder.is_dir():
        raise DataError(f"no folder {folder}: --users takes one folder a participant")
    names = sorted(f.name for f in folder.iterdir() if f.is_dir() and f.name[0] != ".")
    if not names:
        raise DataError(
            f"{folder} has no folders: make one a participant, each with train.txt, "
            "valid.txt and test.txt"
        )
    raise_all(
        DataError,
        [
            f"{folder / name}: rename it, a participant's name has a-z, 0-9, - only, "
            "at most 39"
            for name in names
            if not re.fullmatch(PARTICIPANT, name)
        ],
    )
    return names


def _devices(config: SimulateConfig, names: Sequence[str]) -> dict[str, Device]:
    devices = dict.fromkeys(names, Device())
    if config.participants is not None:
        devices |= _from_file(Path(config.participants).expanduser(), names)
    if counts := config.specialists:
        if len(counts) != len(names):
            raise ConfigError(
                f"--specialists has {len(counts)} numbers, for {len(names)} "
                f"participants ({', '.join(names)})"
            )
        for name, count in zip(names, counts, strict=True):
            devices[name] = dataclasses.replace(devices[name], specialists=count)
    return devices


def _from_file(file: Path, names: Sequence[str]) -> dict[str, Device]:
    devices: dict[str, Device] = {}
    problems: list[str] = []
    for key, values in read_yaml(file).items():
        name = key.replace("_", "-")
        if name not in names:
            problems.append(f"{file}: {name} is none of {', '.join(names)}")
            continue
        try:
            devices[name] = _device(values)
        except ConfigError as error:
            problems.append(f"{file}: {name}: {error}")
    raise_all(ConfigError, problems)
    return devices


def _device(values: Any) -> Device:
    fields = {field.name for field in dataclasses.fields(Device)}
    if not isinstance(values, Mapping) or not values.keys() <= fields:
        raise ConfigError(f"expected {{{', '.join(sorted(fields))}}}, got {values!r}")
    for name, value in values.items():
        kinds = (int, float) if name == "train_share" else (int,)
        if isinstance(value, bool) or not isinstance(value, kinds):
            raise ConfigError(f"{name}: expected a number, got {value!r}")
    device = Device(**values)
    raise_all(ConfigError, list(device.problems()))
    return device
