"""Outsized updates: found by the round's own median, then shortened or refused."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from comigs_mlx.federation import aggregation
from comigs_mlx.federation.manifest import Manifest
from comigs_mlx.federation.sources import Scaled, Source


@dataclass(frozen=True)
class Limited:
    """What a round's updates became.

    Attributes:
        kept: The contributions that count, outsized ones shortened.
        norms: Participant -> length of its update as it came.
        clipped: Participant -> factor that its update was shortened by.
        refused: Participant -> reason.
    """

    kept: list[Source]
    norms: dict[str, float]
    clipped: dict[str, float]
    refused: dict[str, str]


def limit(
    contributions: Sequence[Source], current: Source, manifest: Manifest
) -> Limited:
    """Apply the manifest's `norm_action` to updates above `norm_factor` x the median.

    The length of an update is that of all its tensors together; for an aggregator that
    handles ranks, that of the products lora_a @ lora_b. The median is that of the
    updates that are not zero: who sends nothing new cannot make others outsized. (Of
    two, none is more than twice their median.) Reads every tensor once.
    """
    names = [source.name for source in contributions]
    if manifest.norm_action == "off" or not contributions:
        return Limited(list(contributions), {}, {}, {})
    products = aggregation.load(manifest.aggregator.name).HANDLES_RANKS
    found = aggregation.update_norms(contributions, current, products)
    norms = dict(zip(names, found.tolist(), strict=True))
    median = float(np.median(found[found > 0])) if found.any() else 1.0
    result = Limited([], norms, {}, {})
    for source in contributions:
        times = norms[source.name] / median
        if times <= manifest.norm_factor:
            result.kept.append(source)
        elif manifest.norm_action == "refuse":
            result.refused[source.name] = (
                f"update {times:.1f} times as long as the round's median, "
                f"at most {manifest.norm_factor:g}"
            )
        else:
            factor = manifest.norm_factor / times
            result.clipped[source.name] = factor
            result.kept.append(Scaled(source, current, factor, products))
    return result
