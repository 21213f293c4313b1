"""A routing trace: for every token, how much of which expert, in every block.

Plain data in, JSON or one self-contained HTML page out; no MLX.
"""

from __future__ import annotations

import html
import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from comigs_mlx import files
from comigs_mlx.errors import ModelError

SPECIALIST = "specialist"
"""Experts whose name begins with this are private; all others are shared."""

TITLE = "<title>Routing trace: "
"""What only pages of `to_html` have, near their beginning."""

DIGITS = 6
"""Decimal places of a weight in JSON."""

EVEN = 0.02
"""Layers whose shares differ by less than this count as equal in the summary."""


@dataclass(frozen=True)
class TraceToken:
    """One token and the router's weights for it.

    Attributes:
        id: Its number in the vocabulary.
        text: The text it adds; empty for the first part of a divided character.
        prompt: True for the prompt, False for what was generated.
        weights: `[layers][experts]`; 0 for an expert that was not selected.
    """

    id: int
    text: str
    prompt: bool
    weights: list[list[float]]


@dataclass(frozen=True)
class Trace:
    """A text, token by token, with the experts each block used.

    Attributes:
        model: The base model's id.
        experts: Names such as "generalist", "specialist", "specialist-1".
        layers: The paths of the MLPs that hold the experts.
        tokens: Prompt and generated tokens, in order.
    """

    model: str
    experts: list[str]
    layers: list[str]
    tokens: list[TraceToken]


def to_json(trace: Trace) -> dict[str, Any]:
    """The trace as JSON data: "model", "experts", "layers", "tokens"."""
    tokens = [
        {
            "id": token.id,
            "text": token.text,
            "prompt": token.prompt,
            "weights": [[round(w, DIGITS) for w in layer] for layer in token.weights],
        }
        for token in trace.tokens
    ]
    return {
        "model": trace.model,
        "experts": trace.experts,
        "layers": trace.layers,
        "tokens": tokens,
    }


def from_json(data: Any) -> Trace:
    """The trace of `to_json`'s data.

    Raises:
        ModelError: If `data` is not a trace; the message names the first wrong part.
    """
    if not isinstance(data, dict):
        raise _not_a_trace("expected an object")
    for key, kind in [("model", str), ("experts", list), ("layers", list)]:
        if not isinstance(data.get(key), kind):
            raise _not_a_trace(f"{key!r} must be a {kind.__name__}")
    for key in ("experts", "layers"):
        if not all(isinstance(name, str) for name in data[key]):
            raise _not_a_trace(f"{key!r} must hold names")
    if not isinstance(data.get("tokens"), list):
        raise _not_a_trace("'tokens' must be a list")
    shape = (len(data["layers"]), len(data["experts"]))
    tokens = [_token(token, i, shape) for i, token in enumerate(data["tokens"])]
    return Trace(data["model"], data["experts"], data["layers"], tokens)


def unwritable(file: Path) -> str | None:
    """Why a trace cannot be written to a file, known before it is made; or None.

    A trace may take the place of another one or of an empty file, and of nothing else:
    a conversation is saved as .json, too.
    """
    problem = files.unwritable(file)
    if problem is None and file.exists() and not _is_replaceable(file):
        return "it is there and is no trace: choose another name"
    return problem


def _is_replaceable(file: Path) -> bool:
    try:
        text = file.read_text(encoding="utf-8")
        if not text or TITLE in text[:1000]:
            return True
        from_json(json.loads(text))
    except (OSError, ValueError, RecursionError, ModelError):
        return False
    return True


def _token(data: Any, index: int, shape: tuple[int, int]) -> TraceToken:
    kinds = {"id": int, "text": str, "prompt": bool, "weights": list}
    for key, kind in kinds.items():
        if not isinstance(data, dict) or type(data.get(key)) is not kind:
            raise _not_a_trace(f"token {index}: {key!r} must be a {kind.__name__}")
    layers, experts = shape
    weights = data["weights"]
    if len(weights) != layers or not all(_numbers(row, experts) for row in weights):
        raise _not_a_trace(
            f"token {index}: 'weights' must hold {layers} lists of {experts} numbers"
        )
    return TraceToken(data["id"], data["text"], data["prompt"], weights)


def _numbers(row: Any, length: int) -> bool:
    return (
        isinstance(row, list)
        and len(row) == length
        and all(type(w) in (int, float) and math.isfinite(w) for w in row)
    )


def _not_a_trace(problem: str) -> ModelError:
    return ModelError(
        f"not a routing trace ({problem}): write one with "
        "`python -m comigs_mlx.generate --trace FILE.json`"
    )


def specialist_shares(token: TraceToken, experts: Sequence[str]) -> list[float]:
    """The specialists' part of a token in each layer: the sum of their weights."""
    own = [i for i, name in enumerate(experts) if name.startswith(SPECIALIST)]
    return [math.fsum(layer[i] for i in own) for layer in token.weights]


def summary(trace: Trace) -> str:
    """The generated tokens in a line: "31 % specialist, most in layers 20-28".

    Layers go by the number in their path. "Most" are the neighbours of the strongest
    layer that lie nearer to it than to the average. Tokens that were not routed (those
    of the base model alone have no weights) are no part of the shares; their number
    stands at the end. A trace with nothing generated is summed up over its prompt.
    """
    told = [t for t in trace.tokens if not t.prompt] or trace.tokens
    if not told:
        return "no tokens"
    routed = [t for t in told if any(any(layer) for layer in t.weights)]
    if not routed:
        return "the base model alone"
    rows = [specialist_shares(token, trace.experts) for token in routed]
    line = _shares([_mean(column) for column in zip(*rows, strict=True)], trace.layers)
    if (others := len(told) - len(routed)) == 0:
        return line
    return f"{line}; {others} of {len(told)} tokens were not routed"


def _shares(shares: Sequence[float], layers: Sequence[str]) -> str:
    """The specialists' shares, one a layer, in a line."""
    line = f"{100 * _mean(shares):.0f} % specialist"
    if max(shares) - min(shares) < EVEN:
        return f"{line}, about the same in every layer"
    first, last = _peak(shares)
    numbers = [_number(layers, first), _number(layers, last)]
    if first == last:
        return f"{line}, most in layer {numbers[0]}"
    return f"{line}, most in layers {numbers[0]}-{numbers[1]}"


def _peak(shares: Sequence[float]) -> tuple[int, int]:
    """First and last index of the run around the largest share."""
    first = last = max(range(len(shares)), key=shares.__getitem__)
    floor = (shares[first] + _mean(shares)) / 2
    while first > 0 and shares[first - 1] >= floor:
        first -= 1
    while last + 1 < len(shares) and shares[last + 1] >= floor:
        last += 1
    return first, last


def _number(layers: Sequence[str], index: int) -> str:
    found = re.search(r"\d+", layers[index])
    return found[0] if found else str(index)


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values) if values else 0.0


def to_html(trace: Trace) -> str:
    """The trace as one HTML page that needs nothing else, safe for any token text."""
    parts = {
        "MODEL": html.escape(trace.model),
        "SUMMARY": html.escape(summary(trace)),
        "TRACE": _inline(to_json(trace)),
    }
    template = resources.files(__package__).joinpath("trace.html")
    page = template.read_text(encoding="utf-8")
    # One pass: a text that looks like a placeholder stays a text.
    return re.sub(r"\{\{(\w+)\}\}", lambda found: parts[found[1]], page)


def _inline(data: Any) -> str:
    """JSON that neither ends the script element around it nor starts another."""
    text = json.dumps(data, separators=(",", ":"), allow_nan=False)
    return re.sub("[<>&]", lambda found: f"\\u{ord(found[0]):04x}", text)
