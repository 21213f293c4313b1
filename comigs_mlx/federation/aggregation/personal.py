"""What a participant makes of everybody's contributions for itself alone.

An aggregator gives the same to everybody, and sees nothing but contributions. A
personal combination judges the contributions by the participant's private text, so only
the participant can compute it: from the contributions that passed the checks, on its
own device. Nothing of it is sent anywhere.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from comigs_mlx.errors import FederationError
from comigs_mlx.federation.aggregation.aggregate import weighted_mean
from comigs_mlx.federation.formats.tensor_source import Array, Source

Loss = Callable[[Source], float]
"""Generalists -> nats per token on this participant's validation text, were they its
own; infinite where they give no finite loss."""

Personal = Callable[[Sequence[Source], Source, Loss], dict[str, Array]]
"""(contributions, current generalists, loss) -> the participant's new generalists."""


class Unmixable(FederationError):
    """A participant can make nothing for itself of a round's contributions."""


def by_loss(
    contributions: Sequence[Source], current: Source, loss: Loss
) -> dict[str, Array]:
    """Trust everybody by how well its model does on one's own validation text: PCL.

        theta <- sum_j w_j theta_j,   w_j = softmax_j(-loss(theta_j))

    Wagner, Fan, Jaggi, "Personalized Collaborative Fine-Tuning for On-Device Large
    Language Models", COLM 2024, the strategy by validation performance.

    Args:
        contributions: At least one; all have the shapes of `current`.
        current: The generalists that all of them started from.
        loss: This participant's judgement of a contribution.

    Raises:
        Unmixable: If ranks differ, or if no contribution has a finite loss.
    """
    for source in contributions:
        if any(source.read(n).shape != current.read(n).shape for n in current.names()):
            raise Unmixable(
                f"the contribution of {source.name} has another rank than the "
                "federation's generalists, and by_loss averages tensors of one shape"
            )
    losses = {source.name: loss(source) for source in contributions}
    least = min(losses.values())
    if not math.isfinite(least):
        raise Unmixable("no contribution gives a finite loss on the validation text")
    trust = {name: math.exp(least - value) for name, value in losses.items()}
    total = math.fsum(trust.values())
    weights = {name: one / total for name, one in trust.items()}
    return dict(weighted_mean(contributions, weights, current))


PERSONAL: dict[str, Personal] = {"by_loss": by_loss}
"""Everything that `--personal` offers, by its name."""
