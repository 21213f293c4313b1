"""The oracle gap: how far a router is from the best expert of every token.

    oracle = mean_t min_e l_e,t;  regret = mixture - oracle

Source: Alizadeh et al., Duo-LLM, 2024, compare trained routers with an oracle. What
differs here: an expert's losses l_e are those of a pass in which it speaks alone, so
the keys and values of earlier tokens are its own. This is an oracle over selections,
not over tokens, and a mixture can be better than each expert: the regret may be
negative.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

DECIDED = 0.1
"""Generalist and specialist differ at a token by more than this, in nats, where the
router can be right or wrong."""


@dataclass(frozen=True)
class OracleGap:
    """How far the mixture is from the best expert per token; losses in nats a token.

    Attributes:
        tokens: The number of predicted tokens.
        experts: Maps an expert to its mean loss where it speaks alone.
        mixture: The mean loss of the mixture.
        oracle: The mean of every token's smallest loss over the experts.
        regret: `mixture - oracle`; it can be negative.
        best_on: Maps an expert to the share of tokens on which it is the best.
        decided: The number of tokens on which generalist and specialist differ by more
            than `DECIDED`.
        agreement: The share of those tokens on which the side with the larger mean
            weight is the better one; None where there are none.
    """

    tokens: int
    experts: dict[str, float]
    mixture: float
    oracle: float
    regret: float
    best_on: dict[str, float]
    decided: int
    agreement: float | None


def oracle_gap(
    mixture: Array,
    experts: Mapping[str, Array],
    sides: tuple[Array, Array] | None,
    weights: Array,
    generalists: int,
) -> OracleGap:
    """Compare a mixture with the best of its experts, token by token.

    Args:
        mixture: The losses of the mixture, `[N]` nats.
        experts: Maps each of the E experts to its losses alone, `[N]` nats.
        sides: The losses of the generalists alone and of the specialists alone, `[N]`
            each; None where one side does not exist.
        weights: The mixture's weights, mean over blocks, `[N, E]`.
        generalists: The number of generalists, which come first.

    Raises:
        ValueError: If there is no token, or the arrays are of different lengths.
    """
    losses = np.stack([np.asarray(each, np.float64) for each in experts.values()])
    if losses.shape[1] != len(mixture) or not len(mixture):
        raise ValueError(f"{len(mixture)} tokens, experts of {losses.shape[1]}")
    oracle = float(losses.min(0).mean())
    best = np.bincount(losses.argmin(0), minlength=len(losses)) / len(mixture)
    decided, agreement = _agreement(sides, weights, generalists)
    mean = float(np.mean(mixture))
    return OracleGap(
        tokens=len(mixture),
        experts=dict(zip(experts, losses.mean(1).tolist(), strict=True)),
        mixture=mean,
        oracle=oracle,
        regret=mean - oracle,
        best_on=dict(zip(experts, best.tolist(), strict=True)),
        decided=decided,
        agreement=agreement,
    )


def _agreement(
    sides: tuple[Array, Array] | None, weights: Array, generalists: int
) -> tuple[int, float | None]:
    """Count the tokens that decide, and the share on which the router is right."""
    if sides is None:
        return 0, None
    generalist, specialist = sides
    decided = np.abs(generalist - specialist) > DECIDED
    if not decided.any():
        return 0, None
    shared = weights[:, :generalists].sum(1)
    own = weights[:, generalists:].sum(1)
    right = np.where(generalist < specialist, shared > own, own > shared)
    return int(decided.sum()), float(right[decided].mean())


def sentences(gap: OracleGap) -> Sequence[str]:
    """Say what the numbers mean, one sentence each."""
    told = [
        f"The mixture's loss is {gap.mixture:.4f} nats per token; with the best single "
        f"expert at every token it would be {gap.oracle:.4f}: a regret of "
        f"{gap.regret:+.4f}."
    ]
    if gap.agreement is None:
        told.append(
            f"Generalist and specialist nowhere differ by more than {DECIDED} nats: "
            "no token shows whether the router is right."
        )
    else:
        told.append(
            f"Generalist and specialist differ by more than {DECIDED} nats on "
            f"{gap.decided:,} of {gap.tokens:,} tokens; on {gap.agreement:.1%} of "
            "these the router gives more weight to the better one."
        )
    told.append(
        "The oracle is one over selections: each expert's losses are those of a pass "
        "in which it speaks alone, so the mixture can be better, and the regret "
        "negative."
    )
    return told
