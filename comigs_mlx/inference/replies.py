"""What an engine is asked for and what it says: plain data, no MLX."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from comigs_mlx.errors import ComigsError

Message = dict[str, Any]
"""One turn of a conversation: {"role": "user" or "assistant", "content": text}.

Further fields, such as `tool_calls`, are for the chat template."""


@dataclass(frozen=True)
class Alternative:
    """A token that could have stood in a place.

    Attributes:
        id: Its number in the vocabulary.
        text: The token alone: a part of a character as its bytes, such as "<0xF0>".
        probability: Of the distribution before temperature and top-p, 0 to 1.
    """

    id: int
    text: str
    probability: float

    @property
    def log_probability(self) -> float:
        """The same in nats; that of a probability of 0 is minus infinity."""
        return math.log(self.probability) if self.probability else -math.inf


@dataclass(frozen=True)
class SpokenToken:
    """One generated token, and who spoke it.

    Attributes:
        id: Its number in the vocabulary.
        text: What it adds to the text; empty within a character of several tokens.
        weights: `[layers][experts]` of the blocks that read it; 0 for an expert that
            was not selected; empty where no run is chosen.
        alternatives: The likeliest tokens in its place, likeliest first.
        finish_reason: `stop` or `length` with the last token; None with the others,
            and with the last one of a reply that was stopped.
        own: The token alone, whatever it adds to the text: "<0xF0>" for the first part
            of a character, "<|im_end|>" for an end token.
        log_probability: In nats, of the distribution before temperature and top-p;
            None where no details were asked for.
    """

    id: int
    text: str
    weights: list[list[float]]
    alternatives: list[Alternative]
    finish_reason: str | None
    own: str = ""
    log_probability: float | None = None


@dataclass(frozen=True)
class Progress:
    """How far long work has come.

    Attributes:
        what: `loading` (its steps are counted), `reading` a conversation or `scoring` a
            text (their tokens are counted).
        done: Steps or tokens done; what was read for an earlier turn counts as done.
        total: Steps or tokens in all.
        left_out: Oldest messages that are not read, because the conversation is longer
            than the model's context.
    """

    what: str
    done: int
    total: int
    left_out: int = 0


class Stopped(ComigsError):
    """What was asked for was stopped before it was done."""

    def __init__(self) -> None:
        super().__init__("stopped")


def never() -> bool:
    """A `stop` that never stops."""
    return False


def ignore(progress: Progress) -> None:
    """A `listen` that does not."""


@dataclass(frozen=True)
class Watch:
    """Long work is watched: it may be stopped, and tells how far it has come.

    Attributes:
        stop: Whether to stop; asked on the thread that does the work.
        listen: Told the progress, on the same thread.
    """

    stop: Callable[[], bool] = never
    listen: Callable[[Progress], None] = ignore

    def step(self, what: str, done: int, total: int, left_out: int = 0) -> None:
        """Between two parts of the work: tell, and go on or not.

        Raises:
            Stopped: If it is to stop.
        """
        if self.stop():
            raise Stopped
        self.listen(Progress(what, done, total, left_out))


@dataclass(frozen=True)
class ModelInfo:
    """What can speak: a base model, with or without a run's experts.

    Attributes:
        run: The run's folder; None: the base model alone.
        base_id: The base model's id.
        experts: Names such as "generalist", "specialist"; none without a run.
        layers: Paths of the MLPs that hold the experts; none without a run.
        step: The training step of the experts.
        selections: The named selections that can be used, the usual one first.
        best: Whether it is the run's save with the lowest validation loss.
        chat: Whether the model has a chat template. Without one it is no chat model:
            it continues the turns, joined by blank lines.
    """

    run: str | None
    base_id: str
    experts: list[str]
    layers: list[str]
    step: int
    selections: list[str]
    best: bool = False
    chat: bool = True


@dataclass(frozen=True)
class ScoredToken:
    """One token of a text that was read.

    Attributes:
        id: Its number in the vocabulary.
        text: What it adds to the text.
        weights: `[layers][experts]`, the router's; empty where no run is chosen.
        losses: Selection -> nats; None for the first token, which nothing predicts.
    """

    id: int
    text: str
    weights: list[list[float]]
    losses: dict[str, float | None]


@dataclass(frozen=True)
class Scored:
    """A text that was read, token by token.

    Attributes:
        model: The base model's id.
        tokens: All of the text.
        experts: As in `ModelInfo`.
        layers: As in `ModelInfo`.
        perplexity: Selection -> exponential of the mean loss.
    """

    model: str
    tokens: list[ScoredToken]
    experts: list[str]
    layers: list[str]
    perplexity: dict[str, float] = field(default_factory=dict)
