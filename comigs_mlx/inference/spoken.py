"""What a speaker is asked for and what it says: plain data, no MLX."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from comigs_mlx.errors import ConfigError, raise_all
from comigs_mlx.inference.trace import Trace, TraceToken

Message = dict[str, str]
"""One turn of a conversation: {"role": "user" or "assistant", "content": text}."""


@dataclass(frozen=True)
class Alternative:
    """A token that could have stood in a place.

    Attributes:
        id: Its number in the vocabulary.
        text: Its text alone.
        probability: Of the distribution before temperature and top-p, 0 to 1.
    """

    id: int
    text: str
    probability: float


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
    """

    id: int
    text: str
    weights: list[list[float]]
    alternatives: list[Alternative]
    finish_reason: str | None


@dataclass(frozen=True)
class Settings:
    """How a reply is spoken.

    Attributes:
        selection: Who speaks: auto (the router), base, generalist, specialist, or one
            weight an expert.
        temperature: 0 takes the likeliest token.
        top_p: Draw from the likeliest tokens of this much probability; 1 = all.
        max_tokens: Tokens at most.
        seed: Of the draws; None: another one each time.
        system: System prompt.
    """

    selection: str | tuple[float, ...] = "auto"
    temperature: float = 0.7
    top_p: float = 0.95
    max_tokens: int = 512
    seed: int | None = None
    system: str | None = None

    def check(self) -> None:
        """Raise `ConfigError` where a value cannot work; one sentence for each."""
        raise_all(ConfigError, list(self._problems()))

    def _problems(self) -> Iterator[str]:
        if not 0 <= self.temperature <= 100:
            yield f"temperature {self.temperature} must be from 0 to 100"
        if not 0 < self.top_p <= 1:
            yield f"top-p {self.top_p} must be above 0 and at most 1"
        if self.max_tokens < 1:
            yield f"max tokens {self.max_tokens} must be at least 1"
        if self.seed is not None and not 0 <= self.seed < 2**64:
            yield f"seed {self.seed} must be from 0 to 2^64 - 1"


@dataclass(frozen=True)
class Voice:
    """What can speak: a base model, with or without a run's experts.

    Attributes:
        run: The run's folder; None: the base model alone.
        base_id: The base model's id.
        experts: Names such as "generalist", "specialist"; none without a run.
        layers: Paths of the MLPs that hold the experts; none without a run.
        step: The training step of the experts.
        selections: The named selections that can be used, the usual one first.
        best: Whether it is the run's save with the lowest validation loss.
    """

    run: str | None
    base_id: str
    experts: list[str]
    layers: list[str]
    step: int
    selections: list[str]
    best: bool = False


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
        experts: As in `Voice`.
        layers: As in `Voice`.
        perplexity: Selection -> exponential of the mean loss.
    """

    model: str
    tokens: list[ScoredToken]
    experts: list[str]
    layers: list[str]
    perplexity: dict[str, float] = field(default_factory=dict)


def to_trace(
    voice: Voice | Scored, tokens: Sequence[SpokenToken | ScoredToken]
) -> Trace:
    """The trace of spoken or scored tokens, for `inference.trace`'s JSON and HTML.

    Args:
        voice: Who spoke (for scored tokens: the `Scored` they are of).
        tokens: In order; several replies may stand one after the other.
    """
    model = voice.base_id if isinstance(voice, Voice) else voice.model
    told = [
        TraceToken(t.id, t.text, isinstance(t, ScoredToken), t.weights) for t in tokens
    ]
    return Trace(model, voice.experts, voice.layers, told)
