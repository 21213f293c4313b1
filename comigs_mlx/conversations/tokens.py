"""Tokens of an answer as they are kept: small in memory, whole as JSON."""

from __future__ import annotations

import base64
import json
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from comigs_mlx.inference.replies import SpokenToken

STEP = 10_000
"""Weights are kept as whole ten-thousandths: finer than what routers compute in."""

MOST_WEIGHT = 65_535
"""The largest one that two bytes hold."""

FINISHES = ("stop", "length", None)
"""How the last token ends an answer; the others have None."""


@dataclass(frozen=True, slots=True)
class Said:
    """One token, in some hundred bytes: a conversation has tens of thousands.

    Attributes:
        id: The token's number in the vocabulary.
        text: The text that it adds to the answer.
        own: The text of the token alone; "" where that is the same as `text`.
        packed: Two bytes a weight, by layer and then expert.
        likeliest: JSON of the likeliest tokens: [[text, probability], ...].
        finish: One of `FINISHES`.
    """

    id: int
    text: str
    own: str = ""
    packed: bytes = b""
    likeliest: str = "[]"
    finish: str | None = None

    @staticmethod
    def of(token: SpokenToken) -> Said:
        """Pack a token that an engine has spoken."""
        whole = [
            min(max(round(STEP * w), 0), MOST_WEIGHT)
            for layer in token.weights
            for w in layer
        ]
        likeliest = [[a.text, round(a.probability, 4)] for a in token.alternatives]
        return Said(
            id=token.id,
            text=token.text,
            own="" if token.own == token.text else token.own,
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

    @property
    def alternatives(self) -> list[list[Any]]:
        """The likeliest tokens in its place as [text, probability]."""
        found: list[list[Any]] = json.loads(self.likeliest)
        return found

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
        texts = (text, own, packed, likeliest)
        if type(number) is not int or not all(isinstance(t, str) for t in texts):
            raise ValueError("a token has a number and texts")
        if finish not in FINISHES:
            raise ValueError("a token ends an answer by stop or length")
        _check_likeliest(json.loads(likeliest))
        weights = base64.b64decode(packed, validate=True)
        if len(weights) % 2:
            raise ValueError("weights have two bytes each")
        return Said(number, text, own, weights, likeliest, finish)


def _check_likeliest(found: Any) -> None:
    """See that a page may draw the likeliest tokens as they are.

    Raises:
        ValueError: If they are no pairs of a text and a probability.
    """
    if not isinstance(found, list) or not all(map(_is_likely, found)):
        raise ValueError("a likely token has a text and a probability")


def _is_likely(pair: Any) -> bool:
    if not isinstance(pair, list) or len(pair) != 2:
        return False
    text, probability = pair
    return isinstance(text, str) and isinstance(probability, (int, float))


def said_text(tokens: Sequence[Said]) -> str:
    """The text that tokens make together."""
    return "".join(token.text for token in tokens)
