"""How a reply is generated: every setting, its range, and where a text stops; no MLX.

The command and the app build these classes, and both use the one range check here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from comigs_mlx.errors import ConfigError, raise_all

MOST_TEMPERATURE = 100.0
SEEDS = 2**64
"""mlx's random generator takes seeds below this."""

RESERVED = frozenset(
    {
        "add_generation_prompt",
        "continue_final_message",
        "conversation",
        "max_length",
        "messages",
        "padding",
        "return_assistant_tokens_mask",
        "return_dict",
        "return_tensors",
        "tokenize",
        "tokenizer_kwargs",
        "truncation",
    }
)
"""Arguments of a chat template that are set here, so that a user cannot set them."""

DRAWN = ("temperature", "top_p", "max_tokens")
"""Values that a page's widgets may give as anything at all."""

PENALTIES = ("repetition", "presence", "frequency")

MOST_PRIOR = 1e6
MOST_STEPS = 100
"""Of rerouting; the paper takes 5."""

Name = Callable[[str], str]

Rows = tuple[tuple[float, ...], ...]
"""One row a block, in it one number for each expert."""

MOST_LEAN = 50.0
"""Beyond this, one side has all the weight already."""


def plain_name(field: str) -> str:
    """The name of a setting in a sentence: `top_p` is "top-p"."""
    return {"top_p": "top-p", "min_p": "min-p", "top_k": "top-k"}.get(
        field, field.replace("_", " ")
    )


@dataclass(frozen=True)
class Settings:
    """How a reply is made; tokens are drawn as mlx-lm's `sample_utils` means it.

    Attributes:
        selection: Who speaks: auto (the router), base, generalist, specialist, or one
            weight an expert.
        max_tokens: Tokens at most.
        system: System prompt.
        template_args: Further arguments of the chat template.
        temperature: 0 takes the likeliest token.
        top_p: Draw from the likeliest tokens of this much probability; 1 = all.
        seed: The seed of the draws; None takes another one each time.
        min_p: Leave out tokens below this share of the likeliest one's probability.
        min_tokens_to_keep: That many of the likeliest tokens `min_p` always leaves in.
        top_k: Draw from this many likeliest tokens; 0 = all.
        xtc_probability: How often all but the least likely of the tokens above
            `xtc_threshold` are left out.
        xtc_threshold: The probability from which that rule counts a token, up to 0.5.
        repetition_penalty: Divides the logits of the last tokens, those of the prompt
            among them, where they are above 0, and multiplies them below; 1 = off.
        presence_penalty: Is subtracted from the logits of the last tokens.
        frequency_penalty: The same, once for each time that a token stands there.
        repetition_context_size: How many last tokens `repetition_penalty` looks at.
        presence_context_size: How many `presence_penalty` looks at.
        frequency_context_size: How many `frequency_penalty` looks at.
        logit_bias: Token id -> what is added to its logit.
        stop: The reply ends before the first of these texts.
        lean: What is added to the specialists' logits in every block: above 0 more of
            "me", below 0 more of "everyone", 0 the router as it is. None takes what
            was calibrated and kept in the run, or 0. It needs the selection auto.
        tilt: What is added to the logits besides, one row a block and one number an
            expert (from `inference.steering`); () for nothing. It needs auto, too.
        prior: The scale of the lean that a conversation's first message brings along
            (`inference.prior`). None takes what is kept in the run, 0 is off.
        reroute: Steps by gradient that fit the router's choice to what the assistant
            has said and to `pasted` (`inference.rerouting`); 0 is off. Experimental.
        pasted: Text in the conversation that the user did not write, for `reroute`.
    """

    temperature: float = 0.7
    top_p: float = 0.95
    seed: int | None = None
    selection: str | tuple[float, ...] = "auto"
    max_tokens: int = 512
    system: str | None = None
    template_args: Mapping[str, Any] = field(default_factory=dict)
    min_p: float = 0.0
    min_tokens_to_keep: int = 1
    top_k: int = 0
    xtc_probability: float = 0.0
    xtc_threshold: float = 0.1
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_context_size: int = 20
    presence_context_size: int = 20
    frequency_context_size: int = 20
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    stop: tuple[str, ...] = ()
    lean: float | None = None
    tilt: Rows = ()
    prior: float | None = None
    reroute: int = 0
    pasted: str = ""

    def problems(
        self,
        name: Name = plain_name,
        most_temperature: float = MOST_TEMPERATURE,
        most_tokens: float = math.inf,
        most_lean: float = MOST_LEAN,
    ) -> Iterator[str]:
        """One sentence for each value that cannot work.

        Args:
            name: Gives what a field is called where it is set.
            most_temperature: The largest temperature that is offered there.
            most_tokens: The longest answer that is offered there.
            most_lean: The farthest lean that is offered there.
        """
        wrong = [key for key in DRAWN if not _is_number(getattr(self, key))]
        if wrong:  # no range holds what is no number
            yield from (f"{name(key)} must be a number" for key in wrong)
            return
        if not _within(self.temperature, 0, most_temperature):
            given = f"{name('temperature')} {self.temperature}"
            yield f"{given} must be from 0 to {most_temperature:.0f}"
        if not 0 < self.top_p <= 1:
            yield f"{name('top_p')} {self.top_p} must be above 0 and at most 1"
        if self.seed is not None and not 0 <= self.seed < SEEDS:
            yield f"{name('seed')} {self.seed} must be from 0 to 2^64 - 1"
        for key, most in (("min_p", 1), ("xtc_probability", 1), ("xtc_threshold", 0.5)):
            if not _within(value := getattr(self, key), 0, most):
                yield f"{name(key)} {value} must be from 0 to {most}"
        if self.top_k < 0:
            yield f"{name('top_k')} {self.top_k} must be at least 0 (0 = all)"
        if self.min_tokens_to_keep < 1:
            given = f"{name('min_tokens_to_keep')} {self.min_tokens_to_keep}"
            yield f"{given} must be at least 1"
        yield from self._penalty_problems(name)
        if any(not isinstance(word, str) or not word for word in self.stop):
            yield f"{name('stop')} must not hold an empty text"
        yield from self._length_problems(name, most_tokens)
        yield from self._tilt_problems(name, most_lean)
        for key in sorted(RESERVED & set(self.template_args)):
            yield f"{name('chat_template_args')} must not set {key}"

    def check(self) -> None:
        """Raise `ConfigError` where a value cannot work; one sentence for each."""
        raise_all(ConfigError, list(self.problems()))

    def _length_problems(self, name: Name, most: float) -> Iterator[str]:
        if self.max_tokens < 1:
            yield f"{name('max_tokens')} {self.max_tokens} must be at least 1"
        elif self.max_tokens > most:
            given = f"{name('max_tokens')} {self.max_tokens}"
            yield f"{given} must be at most {most:,.0f}"

    def _tilt_problems(self, name: Name, most: float) -> Iterator[str]:
        lean = self.lean or 0.0
        if not _within(lean, -most, most):
            yield f"{name('lean')} {lean} must be from {-most:g} to {most:g}"
        if not all(math.isfinite(value) for row in self.tilt for value in row):
            yield f"{name('tilt')} must hold finite numbers"
        prior = self.prior or 0.0
        if not _within(prior, 0, MOST_PRIOR):
            yield f"{name('prior')} {prior} must be from 0 to {MOST_PRIOR:g}"
        if not 0 <= self.reroute <= MOST_STEPS:
            yield f"{name('reroute')} {self.reroute} must be from 0 to {MOST_STEPS}"
        asked = {"lean": lean, "tilt": self.tilt, "prior": prior}
        for key, given in (asked | {"reroute": self.reroute}).items():
            if given and self.selection != "auto":
                yield f"{name(key)} moves the router's choice: it needs experts auto"

    def _penalty_problems(self, name: Name) -> Iterator[str]:
        penalty = self.repetition_penalty
        if not (math.isfinite(penalty) and penalty > 0):
            given = f"{name('repetition_penalty')} {penalty}"
            yield f"{given} must be above 0 (1 = off)"
        for key in ("presence_penalty", "frequency_penalty"):
            if not math.isfinite(value := getattr(self, key)):
                yield f"{name(key)} {value} must be a finite number"
        for key in PENALTIES:
            # For mlx-lm 0 would be all tokens, and -1 all but the first.
            if (size := getattr(self, size_key := f"{key}_context_size")) < 1:
                yield f"{name(size_key)} {size} must be at least 1"
        for token, bias in self.logit_bias.items():
            if token < 0 or not math.isfinite(bias):
                yield f"{name('logit_bias')} {token}: {bias} must be a token's number"


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _within(value: float, least: float, most: float) -> bool:
    return math.isfinite(value) and least <= value <= most


def steer_problems(
    file: str | None, strength: float, experts: str | None
) -> Iterator[str]:
    """One sentence for each value of --steer and --steer-by that cannot work."""
    if file is not None and experts not in (None, "auto"):
        yield "--steer moves the router's choice: it needs experts auto"
    if not _within(strength, -MOST_LEAN, MOST_LEAN):
        yield f"--steer-by {strength} must be from {-MOST_LEAN:g} to {MOST_LEAN:g}"


class StopTexts:
    """Ends a text before the first of some words, however tokens divide them."""

    def __init__(self, words: tuple[str, ...]):
        self._words = words
        self._held = ""

    def add(self, text: str, last: bool) -> tuple[str, bool]:
        """What can be shown after more text has come, and whether a word was met.

        The end of a text that may be the beginning of a word is held back.

        Args:
            text: The text of one token.
            last: Whether nothing comes after it.
        """
        held = self._held + text
        starts = [at for word in self._words if (at := held.find(word)) >= 0]
        if starts:
            return held[: min(starts)], True
        cut = len(held) - (0 if last else self._begun(held))
        self._held = held[cut:]
        return held[:cut], False

    def _begun(self, text: str) -> int:
        """How many characters at the end of a text begin a word."""
        longest = min(len(text), max(map(len, self._words)) - 1)
        sizes = range(longest, 0, -1)
        return next((n for n in sizes if self._starts(text[-n:])), 0)

    def _starts(self, end: str) -> bool:
        return any(word.startswith(end) for word in self._words)
