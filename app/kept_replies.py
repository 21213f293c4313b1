"""An answer as the app keeps it: small in memory, whole as JSON."""

from __future__ import annotations

import base64
import json
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from comigs_mlx.inference.trace import Trace, TraceToken, summary

STEP = 10_000
"""Weights are kept as whole ten-thousandths: finer than what routers compute in."""

MOST_WEIGHT = 65_535
"""The largest one that two bytes hold."""

NOT_A_CHAT_MODEL = (
    "this base model has no chat template: it goes on with the text rather than answer"
)


@dataclass(frozen=True, slots=True)
class Said:
    """One token, in some hundred bytes: a conversation has tens of thousands.

    Attributes:
        id: Its number in the vocabulary.
        text: What it adds to the text.
        own: The token alone; "" where that is the same as `text`.
        packed: Two bytes a weight, by layer and then expert.
        likeliest: JSON of the likeliest tokens: [[text, probability], ...].
        finish: `stop`, `length` or None.
    """

    id: int
    text: str
    own: str = ""
    packed: bytes = b""
    likeliest: str = "[]"
    finish: str | None = None

    @staticmethod
    def of(token: Any) -> Said:
        """The same as a `SpokenToken`."""
        whole = [
            min(max(round(STEP * w), 0), MOST_WEIGHT)
            for layer in token.weights
            for w in layer
        ]
        likeliest = [[a.text, round(a.probability, 4)] for a in token.alternatives]
        own = getattr(token, "own", "")
        return Said(
            id=token.id,
            text=token.text,
            own="" if own == token.text else own,
            packed=struct.pack(f"<{len(whole)}H", *whole),
            likeliest=json.dumps(likeliest, ensure_ascii=False, separators=(",", ":")),
            finish=token.finish_reason,
        )

    @property
    def whole(self) -> tuple[int, ...]:
        """The weights in ten-thousandths."""
        return struct.unpack(f"<{len(self.packed) // 2}H", self.packed)

    def weights(self, experts: int) -> list[list[float]]:
        """The weights as `[layers][experts]`."""
        flat = [w / STEP for w in self.whole]
        return [flat[i : i + experts] for i in range(0, len(flat), max(experts, 1))]

    def event(self) -> dict[str, Any]:
        """The token as the page gets it.

        Returns:
            `text`, `own`, `w` (weights by layer, then expert, in thousandths), `alt`
            (text and probability of the likeliest).
        """
        thousandths = [round(w / 10) for w in self.whole]
        values = {
            "text": self.text,
            "w": thousandths,
            "alt": json.loads(self.likeliest),
        }
        return {"kind": "token", **values, **({"own": self.own} if self.own else {})}

    def as_json(self) -> list[Any]:
        """JSON values, read by `from_json`."""
        packed = base64.b64encode(self.packed).decode()
        return [self.id, self.text, self.own, packed, self.likeliest, self.finish]

    @staticmethod
    def from_json(values: Sequence[Any]) -> Said:
        """A token that `as_json` wrote.

        Raises:
            ValueError: If a value cannot be.
        """
        number, text, own, packed, likeliest, finish = values
        texts = (text, own, likeliest)
        if type(number) is not int or not all(isinstance(t, str) for t in texts):
            raise ValueError("a token has a number and texts")
        if finish not in (None, "stop", "length"):
            raise ValueError("a token ends an answer by stop or length")
        json.loads(likeliest)
        weights = base64.b64decode(packed, validate=True)
        if len(weights) % 2:
            raise ValueError("weights have two bytes each")
        return Said(number, text, own, weights, likeliest, finish)


@dataclass
class Reply:
    """One answer, as far as it has come.

    Attributes:
        title: Who was asked.
        base: The base model's id; empty until the model is there.
        experts: Names of the run's experts.
        layers: Paths of the blocks that hold them.
        tokens: What was said.
        remark: The line under it; see `end`.
        problem: Why it failed, in a sentence.
        stopped: Whether somebody ended it.
        left_out: Oldest messages that the model did not read.
        chat: Whether the model has a chat template.
    """

    title: str = ""
    base: str = ""
    experts: list[str] = field(default_factory=list)
    layers: list[str] = field(default_factory=list)
    tokens: list[Said] = field(default_factory=list)
    remark: str = ""
    problem: str | None = None
    stopped: bool = False
    left_out: int = 0
    chat: bool = True

    @property
    def text(self) -> str:
        """What has been said."""
        return "".join(token.text for token in self.tokens)

    @property
    def failed(self) -> bool:
        """Whether nothing came of it, for a reason that would be met again."""
        return self.problem is not None and not self.text

    def trace(self) -> Trace:
        """How it was routed; a token whose weights are not kept has zeros."""
        none = [[0.0] * len(self.experts) for _ in self.layers]
        rows = [token.weights(len(self.experts)) for token in self.tokens]
        tokens = [
            TraceToken(t.id, t.text, False, row if len(row) == len(none) else none)
            for t, row in zip(self.tokens, rows, strict=True)
        ]
        return Trace(self.base, self.experts, self.layers, tokens)

    def end(self) -> None:
        """Write the line under the answer: who spoke, how much, why it ended."""
        parts = [f"{len(self.tokens)} tokens"] if self.tokens else ["nothing was said"]
        trace = self.trace()
        if any(w for token in trace.tokens for row in token.weights for w in row):
            parts.insert(0, summary(trace))
        elif self.tokens:
            parts.insert(0, "the base model alone")
        if self.stopped:
            parts.append("stopped")
        elif self.tokens and self.tokens[-1].finish == "length":
            parts.append("cut at max tokens")
        if self.left_out:
            parts.append(
                f"the conversation is longer than the model reads: its {self.left_out} "
                "oldest messages were left out"
            )
        if not self.chat:
            parts.append(NOT_A_CHAT_MODEL)
        self.remark = " · ".join(parts)

    def thin(self) -> None:
        """Forget how it was routed, for memory; what was said stays."""
        if len(self.tokens) > 1:
            self.tokens = [Said(self.tokens[0].id, self.text)]
            self.layers = []
            self.remark += " · the weights of this old answer are no longer kept"

    def events(self) -> list[Any]:
        """What a page is shown of it."""
        opened = {"experts": self.experts, "layers": self.layers}
        begins = {"kind": "reply_begins", "title": self.title, **opened}
        return [begins, *self.tokens, self.ending]

    @property
    def ending(self) -> dict[str, Any]:
        """The event that closes it."""
        return {"kind": "reply_ends", "note": self.remark, "problem": self.problem}

    def as_json(self) -> dict[str, Any]:
        """JSON values, read by `reply_from_json`."""
        values = {name: getattr(self, name) for name in KINDS}
        return {**values, "tokens": [token.as_json() for token in self.tokens]}


KINDS: Mapping[str, Any] = {
    "title": str,
    "base": str,
    "experts": list,
    "layers": list,
    "remark": str,
    "problem": (str, type(None)),
    "stopped": bool,
    "left_out": int,
    "chat": bool,
}
"""Values of a reply in a file, beside its tokens."""


def reply_from_json(values: Mapping[str, Any]) -> Reply:
    """A reply that `as_json` wrote; fields that are not there keep their defaults.

    Raises:
        ValueError: If a value cannot be.
    """
    given = {name: values[name] for name in KINDS if name in values}
    if not all(isinstance(value, KINDS[name]) for name, value in given.items()):
        raise ValueError("an answer's values are of other kinds")
    if not all(
        isinstance(n, str) for k in ("experts", "layers") for n in given.get(k, ())
    ):
        raise ValueError("experts and layers have names")
    tokens = [Said.from_json(token) for token in values.get("tokens", [])]
    return Reply(**given, tokens=tokens)
