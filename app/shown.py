"""An answer as pages are shown it: rendered blocks, and who spoke each piece of it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from comigs_mlx.conversations import marks
from comigs_mlx.conversations.markdown import Block, Rendering
from comigs_mlx.conversations.tokens import Said

BYTE = re.compile(r"<0x([0-9A-F]{2})>")
"""How a token is written that is a part of a character."""

ALL_LAYERS = -1


class Shown:
    """The blocks of an answer, each with the version that last changed it."""

    def __init__(self) -> None:
        self._rendering = Rendering()
        self._versions: list[int] = []

    @property
    def blocks(self) -> list[Block]:
        """The blocks, in order."""
        return self._rendering.blocks

    def follow(self, text: str, version: int) -> None:
        """Render a text that has changed; blocks that stay keep their version."""
        if text == self._rendering.text:
            return
        before = [block.html for block in self.blocks]
        first = self._rendering.show(text)
        changed = [
            self._versions[i] if before[i : i + 1] == [block.html] else version
            for i, block in enumerate(self.blocks[first:], first)
        ]
        self._versions = [*self._versions[:first], *changed]

    def since(self, version: int) -> list[list[Any]]:
        """Index and HTML of the blocks that a page with this version lacks."""
        told = zip(self.blocks, self._versions, strict=True)
        return [[i, one.html] for i, (one, at) in enumerate(told) if at > version]


def token_details(
    tokens: Sequence[Said],
    experts: Sequence[str],
    layers: Sequence[str],
    piece: marks.Piece,
    text: str,
) -> dict[str, Any]:
    """What is told of one piece of an answer.

    Args:
        tokens: Of the answer.
        experts: Their names.
        layers: Paths of the blocks that hold them.
        piece: Whose first token has the alternatives.
        text: The piece as it is read.

    Returns:
        JSON values: `text`, `share` (0 to 1, None where nobody was routed), `layers`
        (number and weights of each), `experts`, `alternatives` (text and probability),
        `position` (that of its first token, from 1, and how many there are) and `parts`
        (its tokens, where it has several).
    """
    own = list(tokens[piece.first : piece.last + 1])
    rows = _means([token.weights(len(experts)) for token in own])
    lead = next((token for token in own if token.text), own[0])
    before = own[: own.index(lead)]
    share = marks.share(own, experts)
    return {
        "text": text,
        "share": None if share is None else round(share / 100, 4),
        "layers": [
            [_number(layers, i), [round(w, 4) for w in row]]
            for i, row in enumerate(rows[: len(layers)])
        ],
        "experts": list(experts),
        "alternatives": [
            [completed(before, other), p] for other, p in lead.alternatives
        ],
        "position": [piece.first + 1, len(tokens)],
        "parts": [t.own or t.text for t in own] if len(own) > 1 else [],
    }


def _number(layers: Sequence[str], index: int) -> str:
    found = re.search(r"\d+", layers[index])
    return found[0] if found else str(index)


def completed(before: Sequence[Said], text: str) -> str:
    """A token that is a part of a character, as the character it would complete.

    Args:
        before: The tokens of the same piece that stand before it.
        text: The token alone: "<0x9F>" for a byte.
    """
    if not BYTE.search(text):
        return text
    raw = b"".join(_bytes(token.own or token.text) for token in before) + _bytes(text)
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return text


def _bytes(text: str) -> bytes:
    parts = re.split(r"(<0x[0-9A-F]{2}>)", text)
    return b"".join(
        bytes([int(found[1], 16)]) if (found := BYTE.fullmatch(part)) else part.encode()
        for part in parts
    )


def _means(tokens: Sequence[Sequence[Sequence[float]]]) -> list[list[float]]:
    """Mean of `[layers][experts]` over the tokens that were routed."""
    told = [token for token in tokens if token]
    if not told:
        return []
    return [
        [sum(column) / len(told) for column in zip(*rows, strict=True)]
        for rows in zip(*told, strict=True)
    ]
