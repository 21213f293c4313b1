"""Options of every command that generates text: who speaks, and how tokens are drawn.

`settings` makes the one `Settings` of them. What mlx-lm's command `generate` offers has
its name, the rest the name it has in a request to mlx-lm's server: the penalties, what
they look at, `--logit-bias`, `--stop`, and `--chat-template-args`, which the command
calls `--chat-template-config`. `--top-k` counts tokens, as in mlx-lm; the experts'
top-k is a part of a run, which only `train` sets.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

from comigs_mlx.config import option
from comigs_mlx.errors import ConfigError
from comigs_mlx.inference.settings import Settings
from comigs_mlx.options import parse_experts

T = TypeVar("T", dict[str, Any], list[Any])

SAME = (
    "max_tokens",
    "top_p",
    "min_p",
    "min_tokens_to_keep",
    "top_k",
    "xtc_probability",
    "xtc_threshold",
    "repetition_penalty",
    "repetition_context_size",
    "presence_penalty",
    "presence_context_size",
    "frequency_penalty",
    "frequency_context_size",
    "seed",
)
"""Options that are a field of `Settings` as they are."""


@dataclass(frozen=True)
class SpeakerOptions:
    """Who speaks."""

    experts: str = option(
        "auto",
        "who speaks: auto (the router), base, generalist, specialist, or one weight an "
        "expert, such as 0.3,0.7",
        "WHO",
    )
    best: bool = option(False, "use the save with the lowest validation loss")
    lean: float | None = option(
        None,
        "more me, more everyone: add this to the specialists' logits in every block; "
        "0 = the router as it is (default: what evaluate --calibrate-lean has kept in "
        "the run, else 0)",
        "X",
    )
    prior: float | None = option(
        None,
        "lean to the specialists by this times how much more the prompt is like the "
        "run's training text than like other text; 0 = off (default: what evaluate "
        "--calibrate-prior has kept in the run, else 0)",
        "SCALE",
    )


@dataclass(frozen=True)
class SamplingOptions:
    """How tokens are drawn, and what the model is told first."""

    max_tokens: int = option(256, "tokens to generate at most", "N")
    temp: float = option(0.0, "sampling temperature; 0 takes the likeliest token", "T")
    top_p: float = option(
        1.0, "draw from the likeliest tokens of this probability", "P"
    )
    min_p: float = option(
        0.0, "leave out tokens below this share of the likeliest one's probability", "P"
    )
    min_tokens_to_keep: int = option(
        1, "likeliest tokens that --min-p always leaves in", "N"
    )
    top_k: int = option(0, "draw from this many likeliest tokens; 0 = all", "N")
    xtc_probability: float = option(
        0.0, "how often XTC leaves out all likely tokens but the last of them", "P"
    )
    xtc_threshold: float = option(
        0.1, "probability from which XTC counts a token as likely, at most 0.5", "P"
    )
    repetition_penalty: float = option(
        1.0, "divide the logits of the last tokens by this; 1 = off", "X"
    )
    repetition_context_size: int = option(
        20, "last tokens that --repetition-penalty looks at", "N"
    )
    presence_penalty: float = option(
        0.0, "subtract this from the logits of the last tokens", "X"
    )
    presence_context_size: int = option(
        20, "last tokens that --presence-penalty looks at", "N"
    )
    frequency_penalty: float = option(
        0.0, "the same, once for each time a token stands there", "X"
    )
    frequency_context_size: int = option(
        20, "last tokens that --frequency-penalty looks at", "N"
    )
    logit_bias: str | None = option(
        None, "what to add to the logits of tokens, such as '{\"42\": -5.0}'", "JSON"
    )
    stop: str | None = option(
        None,
        'end before this text; several as JSON, such as \'["STOP", "END"]\'',
        "WORDS",
    )
    chat_template_args: str | None = option(
        None,
        "arguments of the chat template, such as '{\"enable_thinking\": false}'",
        "JSON",
        also="chat_template_config",
    )
    seed: int | None = option(0, "of the draws", "N")
    system_prompt: str | None = option(None, "system prompt", "TEXT", also="system")


def settings(
    speaker: SpeakerOptions, sampling: SamplingOptions, reroute: int = 0
) -> Settings:
    """The options as a generation takes them; they are not checked yet.

    Args:
        speaker: The options of who speaks.
        sampling: The options of how tokens are drawn.
        reroute: Steps of rerouting; see `Settings`.

    Raises:
        ConfigError: If an option that holds JSON holds none, or there are no such
            experts.
    """
    example = '{"enable_thinking": false}'
    arguments: dict[str, Any] = _json(
        sampling.chat_template_args, dict, "--chat-template-args", example
    )
    return Settings(
        selection=parse_experts(speaker.experts),
        temperature=sampling.temp,
        lean=speaker.lean,
        prior=speaker.prior,
        reroute=reroute,
        system=sampling.system_prompt,
        logit_bias=_biases(sampling.logit_bias),
        stop=_stop_words(sampling.stop),
        template_args=arguments,
        **{name: getattr(sampling, name) for name in SAME},
    )


def problems(
    speaker: SpeakerOptions, sampling: SamplingOptions, reroute: int = 0
) -> Iterator[str]:
    """One sentence for each value that cannot work; arguments as for `settings`."""
    try:
        yield from settings(speaker, sampling, reroute).problems(flag)
    except ConfigError as error:
        yield str(error)


def flag(field: str) -> str:
    """What a field of `Settings` is called on the command line."""
    flags = {"temperature": "--temp", "reroute": "--reroute-steps"}
    return flags.get(field, f"--{field.replace('_', '-')}")


def _stop_words(text: str | None) -> tuple[str, ...]:
    """One text as it is, or a JSON list of several.

    Raises:
        ConfigError: If it begins like a JSON list and is none.
    """
    if text is None or not text.startswith("["):
        return () if text is None else (text,)
    return tuple(_json(text, list, "--stop", '["END", "STOP"]'))


def _json(text: str | None, kind: type[T], flag: str, example: str) -> T:
    """A value that is given as JSON; an empty one where the flag is not given.

    Raises:
        ConfigError: If it is no JSON of that kind.
    """
    if text is None:
        return kind()
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, kind):
        raise ConfigError(f"{flag} expects JSON such as {example}, got {text!r}")
    return value


def _biases(text: str | None) -> dict[int, float]:
    """Token id -> what is added to its logit.

    Raises:
        ConfigError: If it is no JSON object of token ids and numbers.
    """
    flag, example = "--logit-bias", '{"42": -5.0}'
    given: dict[str, Any] = _json(text, dict, flag, example)
    numbers = all(type(bias) in (int, float) for bias in given.values())
    if not numbers or not all(i.isascii() and i.isdigit() for i in given):
        raise ConfigError(f"{flag} expects JSON such as {example}, got {text!r}")
    return {int(token): bias for token, bias in given.items()}
