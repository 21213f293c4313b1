"""Outsized updates: found by comparison, then clipped or refused.

From three updates on, an update is compared with the round's own median. One or two
have no majority to compare with: they are compared with the earlier rounds, and two
also with each other. What the next round is told is the larger of this round's median
and half of what it was told itself, so that a round of a few steps is forgotten slowly.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from comigs_mlx.federation.aggregation import aggregate
from comigs_mlx.federation.formats.manifest import Manifest
from comigs_mlx.federation.formats.round import Round
from comigs_mlx.federation.formats.tensor_source import Scaled, Source

MAJORITY = 3
"""Updates from which on the median cannot be moved by one of them alone."""


@dataclass(frozen=True)
class Limited:
    """What a round's updates became.

    Attributes:
        kept: The contributions that count, outsized ones clipped.
        clipped: Participant -> factor that its update was clipped by.
        refused: Participant -> reason.
        still: Participants whose update is zero.
        known: The length that earlier rounds gave to compare with.
        norm: The length for the next round to compare with.
        notes: What is to be said of it, a sentence each.
    """

    kept: list[Source]
    clipped: dict[str, float] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)
    still: frozenset[str] = frozenset()
    known: float | None = None
    norm: float | None = None
    notes: tuple[str, ...] = ()


def limit(
    contributions: Sequence[Source],
    current: Source,
    manifest: Manifest,
    last: Round | None = None,
) -> Limited:
    """Apply the manifest's `norm_action` to updates above `norm_factor` x the usual.

    The length of an update is that of all its tensors together; for an aggregator that
    handles ranks, that of the products lora_a @ lora_b. Updates that are zero are not
    compared with: who sends nothing new cannot make others outsized. Reads every tensor
    once.

    Args:
        contributions: To one round.
        current: The generalists that they started from.
        manifest: Of the federation; one of an earlier version has no `norm_few`, and
            then one or two updates are compared with their own median as before.
        last: The round before.
    """
    if manifest.norm_action == "off" or not contributions:
        return Limited(list(contributions))
    names = [source.name for source in contributions]
    products = aggregate.load(manifest.aggregator.name).HANDLES_RANKS
    found = aggregate.update_norms(contributions, current, products)
    norms = dict(zip(names, found.tolist(), strict=True))
    moving = [length for length in norms.values() if length > 0]
    known = _known(manifest, last)
    usual, note = _usual(moving, known, manifest)
    result = _clipped(contributions, current, manifest, norms, usual)
    if manifest.norm_few is None:
        return result
    counted = [
        norms[s.name] * result.clipped.get(s.name, 1.0)
        for s in result.kept
        if norms[s.name] > 0
    ]
    return dataclasses.replace(
        result,
        still=frozenset(name for name, length in norms.items() if length == 0),
        known=known,
        norm=_told(counted, known),
        notes=note,
    )


def _known(manifest: Manifest, last: Round | None) -> float | None:
    """What earlier rounds of the same aggregator tell: others measure otherwise."""
    if manifest.norm_few is None or last is None:
        return None
    return last.norm if last.aggregator == manifest.aggregator.name else None


def _usual(
    moving: Sequence[float], known: float | None, manifest: Manifest
) -> tuple[float, tuple[str, ...]]:
    """The length that updates are compared with, and what is to be said of it."""
    if not moving:
        return 1.0, ()
    if manifest.norm_few is None or len(moving) >= MAJORITY:
        return float(np.median(moving)), ()
    if len(moving) == 2:
        return max(min(moving), known or 0.0), ()
    if known:
        return known, ()
    return moving[0], (
        "one update and no earlier round: there was nothing to compare its length with",
    )


def _told(counted: Sequence[float], known: float | None) -> float | None:
    if not counted:
        return known
    return max(float(np.median(counted)), (known or 0.0) / 2)


def _clipped(
    contributions: Sequence[Source],
    current: Source,
    manifest: Manifest,
    norms: dict[str, float],
    usual: float,
) -> Limited:
    products = aggregate.load(manifest.aggregator.name).HANDLES_RANKS
    few = sum(length > 0 for length in norms.values()) < MAJORITY
    what = "what is usual" if few and manifest.norm_few else "the round's median"
    result = Limited([])
    for source in contributions:
        times = norms[source.name] / usual
        if times <= manifest.norm_factor:
            result.kept.append(source)
        elif manifest.norm_action == "refuse":
            result.refused[source.name] = (
                f"update {_times(times)} times as long as {what}, "
                f"at most {manifest.norm_factor:g}"
            )
        else:
            factor = manifest.norm_factor / times
            result.clipped[source.name] = factor
            result.kept.append(Scaled(source, current, factor, products))
    return result


def _times(times: float) -> str:
    return f"{times:.1f}" if times < 1e6 else f"{times:.1e}"
