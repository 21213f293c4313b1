"""Who spoke, laid over what was said: kept tokens -> marks on rendered text.

    found = pieces(tokens)                      # tokens -> stretches of the source
    lean = leans(tokens, found, experts)        # -1 everyone, +1 me
    over(blocks(text), found, lean)             # -> marks on each block's text

A tint is absolute: the same shade means the same lean in every answer, and nothing is
stretched. So a router that has learnt nothing shows no colour.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from comigs_mlx.conversations.markdown import Block, units
from comigs_mlx.inference.trace import SPECIALIST

STEP = 10_000
"""Kept weights are whole ten-thousandths."""

DEAD_ZONE = 0.06
"""A lean below this has no colour: 53 to 47 is no answer to the question who spoke."""

UNEVEN = 0.04
"""How far weights are from even, in the mean, once a router has learnt.

Before that small random weights make it 0.02 (measured on SmolLM2-135M-Instruct, for
one expert a token as for two)."""


class KeptToken(Protocol):
    """What is read of a kept token.

    Attributes:
        text: The text that it adds; empty within a character of several tokens.
        packed: Its weights by layer and then expert, two bytes each, little-endian, in
            ten-thousandths; empty where no expert took part.
    """

    @property
    def text(self) -> str:
        """What it adds to the text."""

    @property
    def packed(self) -> bytes:
        """Its weights."""


class Piece(NamedTuple):
    """A stretch of the source that is shown as one token.

    Attributes:
        start: Its first character in the source.
        end: The one after its last.
        first: Its first token.
        last: Its last token, which belongs to it.
    """

    start: int
    end: int
    first: int
    last: int


Mark = list[int]
"""[start, end, piece, tint]: UTF-16 units of a block's text, an index, -100 to 100."""


class Growing:
    """The pieces of an answer under way, and who spoke them: nothing is found twice.

    Args:
        experts: The names of the run's experts.
        layer: The index of one adapted block; below 0 is the mean over all of them.
    """

    def __init__(self, experts: Sequence[str] = (), layer: int = -1):
        self._experts, self._layer = experts, layer
        self._made: list[Piece] = []
        self._leans: list[float] = []
        self._means: list[float] = []
        self._at = self._first = self._start = 0

    def pieces(self, tokens: Sequence[KeptToken]) -> list[Piece]:
        """The pieces of all tokens so far; see `pieces`.

        Args:
            tokens: Those that were given before, and those that came after them.
        """
        for index in range(len(self._leans), len(tokens)):
            token = tokens[index]
            self._leans.append(lean(token, self._experts, self._layer))
            self._at += len(token.text)
            if token.text.strip():
                self._made.append(Piece(self._start, self._at, self._first, index))
            elif self._made and token.text:
                self._made[-1] = self._made[-1]._replace(end=self._at, last=index)
            else:
                continue
            self._start, self._first = self._at, index + 1
        return self._ended(len(tokens))

    def _ended(self, count: int) -> list[Piece]:
        """The pieces, the last with what has come after it and shows nothing."""
        made = self._made[:]
        if self._first < count and made:
            made[-1] = made[-1]._replace(end=self._at, last=count - 1)
        elif self._first < count and self._at:
            made.append(Piece(0, self._at, 0, count - 1))
        return made

    def follow(self, tokens: Sequence[KeptToken]) -> tuple[list[Piece], list[float]]:
        """The pieces, and the lean of each, as `leans` gives it.

        All pieces but the last are as they will be: their means are kept.
        """
        made = self.pieces(tokens)
        for piece in made[len(self._means) : -1]:
            self._means.append(_mean(tokens, self._leans, piece))
        return made, [*self._means, *(_mean(tokens, self._leans, p) for p in made[-1:])]


def pieces(tokens: Sequence[KeptToken]) -> list[Piece]:
    """Divide what tokens say; the source is their texts, one after another.

    A token that shows nothing alone joins a neighbour: one without text, such as a part
    of a character, the next that has some; blanks and line breaks, and what ends the
    answer, the one before.
    """
    return Growing().pieces(tokens)


def leans(
    tokens: Sequence[KeptToken],
    parts: Sequence[Piece],
    experts: Sequence[str],
    layer: int = -1,
) -> list[float]:
    """Who spoke each piece: -1 everyone, +1 me, 0 both alike or the base model alone.

    Args:
        tokens: All tokens of the answer.
        parts: The pieces, as `pieces` gives them.
        experts: The names of the run's experts.
        layer: The index of one adapted block; below 0 is the mean over all of them.

    Returns:
        For each piece the mean over its tokens; blanks count where nothing else does.
    """
    each = [lean(token, experts, layer) for token in tokens]
    return [_mean(tokens, each, one) for one in parts]


def _mean(tokens: Sequence[KeptToken], each: Sequence[float], piece: Piece) -> float:
    inside = range(piece.first, piece.last + 1)
    shown = [i for i in inside if tokens[i].text.strip()]
    if shown:  # parts of a character come before the token that completes it
        inside = range(piece.first, shown[-1] + 1)
    counted = [each[i] for i in inside if tokens[i].text.strip() or not tokens[i].text]
    counted = counted or [each[i] for i in inside]
    return sum(counted) / len(counted)


def lean(token: KeptToken, experts: Sequence[str], layer: int = -1) -> float:
    """Who spoke one token: -1 everyone, +1 me, 0 both alike or the base model alone.

    It is the specialists' weight less the generalists', so that what a router leaves
    to the base model counts for neither.
    """
    mine, total = _weights(token, experts, layer)
    return min(max(2 * mine - total, -1.0), 1.0)


def _weights(
    token: KeptToken, experts: Sequence[str], layer: int = -1
) -> tuple[float, float]:
    """The specialists' weight and that of all experts, the mean over layers."""
    rows = _rows(token, experts)
    if not rows.size:
        return 0.0, 0.0
    if 0 <= layer < len(rows):
        rows = rows[layer : layer + 1]
    sums = rows.mean(0).tolist()
    own = [w for w, name in zip(sums, experts, strict=True) if _private(name)]
    return sum(own), sum(sums)


def _rows(token: KeptToken, experts: Sequence[str]) -> NDArray[np.float64]:
    """The weights `[layers, E]`; none where they are not those of these experts."""
    if not token.packed or not experts or len(token.packed) % (2 * len(experts)):
        return np.empty((0, max(len(experts), 1)))
    return np.frombuffer(token.packed, "<u2").reshape(-1, len(experts)) / STEP


def _private(name: str) -> bool:
    return name.startswith(SPECIALIST)


def tint(lean: float) -> float:
    """How strongly a lean is coloured: its own strength, but nothing near the middle.

    Below `DEAD_ZONE` it is 0. A router leans a little before it has learnt anything: it
    begins with small random weights, which over 30 layers make up to 0.02 either way
    (SmolLM2-135M-Instruct, three seeds); shown, that looks like an answer. Above the
    zone nothing is stretched.
    """
    return 0.0 if abs(lean) < DEAD_ZONE else lean


def routed(tokens: Sequence[KeptToken], experts: Sequence[str]) -> bool:
    """Whether the router has learnt: whether it tells the experts apart.

    Weights that are all even, such as those a router begins with, say nothing of who
    spoke. Where one of n experts is chosen alone, its weight begins with 1/n.
    """
    rows = [_rows(token, experts) for token in tokens]
    if not any(row.size for row in rows):
        return False
    weights = np.concatenate([row for row in rows if row.size])
    used = (weights > 0).sum(1)
    even = 1 / np.where(used > 1, used, len(experts))
    apart = np.abs(weights.max(1) - even)[used > 0]
    return bool(apart.size and apart.mean() > UNEVEN)


def share(tokens: Sequence[KeptToken], experts: Sequence[str]) -> float | None:
    """The specialists' part of an answer in percent; None for the base model alone."""
    weights = [_weights(token, experts) for token in tokens]
    total = sum(of_all for _, of_all in weights)
    return 100 * sum(mine for mine, _ in weights) / total if total else None


def over(
    rendered: Sequence[Block], parts: Sequence[Piece], lean: Sequence[float]
) -> list[list[Mark]]:
    """Lay pieces over rendered blocks.

    Args:
        rendered: The blocks of the source.
        parts: The pieces, as `pieces` gives them; they cover the source from its
            beginning on.
        lean: The lean of each piece, as `leans` gives it.

    Returns:
        For each block its marks in the order of its text; they do not overlap. A piece
        that markup divides has several marks, one that is markup has none.
    """
    starts = [one.start for one in parts]
    return [_marks(block, parts, starts, lean) for block in rendered]


def _marks(
    block: Block, parts: Sequence[Piece], starts: Sequence[int], lean: Sequence[float]
) -> list[Mark]:
    marks: list[Mark] = []
    for start, end, source, text in _texts(block):
        index = max(bisect_right(starts, source) - 1, 0)
        while text and index < len(parts) and source < (last := parts[index].end):
            size = last - source
            stop = end if len(text) <= size else start + units(text[:size])
            _add(marks, start, stop, index, lean[index])
            start, source, text = stop, last, text[size:]
            index += 1
    return marks


def _texts(block: Block) -> list[tuple[int, int, int, str]]:
    """Spans with their texts."""
    if len(block.text) == units(block.text):
        return [(a, b, source, block.text[a:b]) for a, b, source in block.spans]
    wide = block.text.encode("utf-16-le")
    return [
        (a, b, source, wide[2 * a : 2 * b].decode("utf-16-le"))
        for a, b, source in block.spans
    ]


def _add(marks: list[Mark], start: int, stop: int, index: int, lean: float) -> None:
    if marks and marks[-1][1] == start and marks[-1][2] == index:
        marks[-1][1] = stop
    else:
        marks.append([start, stop, index, round(100 * tint(lean))])
