"""Counts documents that repeat another one, exactly or nearly.

A document that stands there ten times is learnt ten times as strongly. Exact ones are
found by their digest. Near ones share most of their shingles (all runs of `SHINGLE`
bytes, in lower case and with single blanks): their Jaccard similarity, the shingles
that both have divided by those that either has, is at least `NEAR`. MinHash finds
candidates without comparing all pairs: of `HASHES` random orders of all shingles, two
documents have the same first one with that very probability (Broder, 1997), and those
that agree on all of one band of `ROWS` orders are compared exactly. A pair of
similarity s is a candidate with probability 1 - (1 - s^ROWS)^(HASHES / ROWS): 0.9998 at
0.8, and 0.03 at 0.2.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from comigs_mlx.data.splits import Sample, place, texts

SHINGLE = 12
"""The bytes of a shingle: about two words."""

HASHES, ROWS = 64, 4
"""The number of random orders, and how many of them make a band."""

NEAR = 0.8
"""The least Jaccard similarity of near duplicates."""

MOST_BYTES, BYTES_EACH = 16_000_000, 20_000
"""The most bytes of all documents that are compared, and of the beginning of one."""

EXAMPLES = 5
"""The number of near duplicates that are named."""

Hashes = npt.NDArray[np.uint64]


@dataclass(frozen=True)
class Duplicates:
    """The documents of all splits that repeat an earlier one.

    Attributes:
        exact: The number of documents with the very content of an earlier one.
        near: The number of other documents that are nearly an earlier one.
        across: The number of near duplicates whose earlier one is in another split.
        compared: The number of different documents that were searched for near ones.
        examples: Pairs of a near duplicate and its earlier one, named by split and by
            place or number.
    """

    exact: int = 0
    near: int = 0
    across: int = 0
    compared: int = 0
    examples: list[tuple[str, str]] = field(default_factory=list)


def text_of(sample: Sample) -> str:
    """Return what a sample says as one text."""
    return "\n".join(texts(sample))


def duplicates(splits: Mapping[str, Sequence[Sample]], near: bool = True) -> Duplicates:
    """Count the documents that repeat an earlier one.

    Args:
        splits: Maps each split to its samples.
        near: Whether near duplicates are searched for as well.
    """
    seen: set[bytes] = set()
    names: list[tuple[str, str]] = []
    distinct: list[str] = []
    exact = 0
    for split, samples in splits.items():
        for number, sample in enumerate(samples, 1):
            text = text_of(sample)
            digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()
            if digest in seen:
                exact += 1
                continue
            seen.add(digest)
            distinct.append(text)
            names.append((split, place(sample) or f"{split} {number}"))
    if not near:
        return Duplicates(exact)
    pairs, compared = near_pairs(distinct)
    across = sum(names[a][0] != names[b][0] for a, b in pairs)
    examples = [(names[a][1], names[b][1]) for a, b in pairs[:EXAMPLES]]
    return Duplicates(exact, len(pairs), across, compared, examples)


def near_pairs(texts: Iterable[str]) -> tuple[list[tuple[int, int]], int]:
    """Find the texts that are nearly an earlier one.

    Args:
        texts: The texts, no two of them equal.

    Returns:
        Pairs of the index of a text and that of an earlier one, at most one for each
        text; and the number of texts that were compared.
    """
    buckets: dict[tuple[int, bytes], int] = {}
    beginnings: list[bytes] = []
    pairs: list[tuple[int, int]] = []
    size = 0
    for index, text in enumerate(texts):
        beginnings.append(_normalised(text))
        size += len(beginnings[-1])
        if size > MOST_BYTES:
            return pairs, index
        own = shingles(beginnings[index])
        # Against the first of each bucket only: many equal ones would be compared in
        # all pairs otherwise.
        keys = list(enumerate(_bands(own)))
        earlier = {buckets.setdefault(key, index) for key in keys} - {index}
        for other in sorted(earlier):
            if similarity(own, shingles(beginnings[other])) >= NEAR:
                pairs.append((index, other))
                break
    return pairs, len(beginnings)


def _normalised(text: str) -> bytes:
    beginning = " ".join(text[:BYTES_EACH].lower().split())
    return beginning.encode("utf-8", "surrogatepass")[:BYTES_EACH]


def shingles(text: bytes) -> Hashes:
    """Return the hashes of all shingles of a text, each once, in ascending order.

    A text that is shorter than a shingle is one.
    """
    padded = np.frombuffer(text.ljust(SHINGLE, b"\0"), np.uint8).astype(np.uint64)
    count = len(padded) - SHINGLE + 1
    hashes = np.zeros(count, np.uint64)
    for offset in range(SHINGLE):  # a polynomial modulo 2^64, of all places at once
        hashes = hashes * np.uint64(0x100000001B3) + padded[offset : offset + count]
    return np.unique(_mixed(hashes))


def _mixed(values: Hashes) -> Hashes:
    """Spread values over all 64 bits (the finaliser of MurmurHash3)."""
    for factor in (0xFF51AFD7ED558CCD, 0xC4CEB9FE1A85EC53):
        values = (values ^ (values >> np.uint64(33))) * np.uint64(factor)
    return values ^ (values >> np.uint64(33))


def similarity(one: Hashes, other: Hashes) -> float:
    """Return the Jaccard similarity of two sets, each sorted and without repeats."""
    both = len(np.intersect1d(one, other, assume_unique=True))
    return both / max(len(one) + len(other) - both, 1)


ORDERS: Hashes = _mixed(np.arange(1, HASHES + 1, dtype=np.uint64))
"""The constants of the random orders, [HASHES]."""


def _bands(hashes: Hashes) -> list[bytes]:
    """Return the first shingle in each of the orders, as bytes of a band each."""
    first = np.array([_mixed(hashes ^ order).min() for order in ORDERS], np.uint64)
    return [first[at : at + ROWS].tobytes() for at in range(0, HASHES, ROWS)]
