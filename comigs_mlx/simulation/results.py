"""Computes the numbers of a table from the outcomes of methods and seeds."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from comigs_mlx.simulation.records import Outcome

REFERENCE = "local"
"""The method that differences are to, if it was run."""

RESAMPLES = 10_000


def results(
    outcomes: Sequence[Outcome],
    config: Mapping[str, Any],
    environment: Mapping[str, Any],
) -> dict[str, Any]:
    """Compute the content of results.json.

    Means are over participants first, then over seeds; `std` is over seeds (0 for one).
    Losses are in nats per token; a perplexity is the exponential of a loss.
    """
    by_method: dict[str, list[Outcome]] = {}
    for outcome in outcomes:
        by_method.setdefault(outcome.method, []).append(outcome)
    reference = by_method.get(REFERENCE, [])
    return {
        "config": dict(config),
        "environment": dict(environment),
        "methods": {
            name: _method(of_method, reference) for name, of_method in by_method.items()
        },
    }


def _method(outcomes: Sequence[Outcome], reference: Sequence[Outcome]) -> Any:
    return {
        "perplexity": _summary(outcomes, perplexity),
        "loss": _summary(outcomes, float),
        "difference_to_local": difference(outcomes, reference),
        "seconds": statistics.fmean(o.seconds for o in outcomes),
        "bytes_per_round": statistics.fmean(o.bytes_per_round for o in outcomes),
        "seeds": [o.seed for o in outcomes],
        "trainable": outcomes[0].trainable,
        "test_tokens": outcomes[0].tokens,
        "speaks": {str(o.seed): o.speaks for o in outcomes},
        **_by_selection(outcomes),
    }


def _by_selection(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """Compute the mean perplexity under every selection, where it was measured."""
    names = list(next((each for each in outcomes[0].by_selection.values()), {}))
    means = {
        name: statistics.fmean(
            perplexity(losses[name])
            for o in outcomes
            for losses in o.by_selection.values()
        )
        for name in names
    }
    return {"by_selection": means} if means else {}


def _summary(
    outcomes: Sequence[Outcome], measure: Callable[[float], float]
) -> dict[str, Any]:
    means = [statistics.fmean(map(measure, o.loss.values())) for o in outcomes]
    weighted = [
        measure(
            math.fsum(o.loss[name] * o.tokens[name] for name in o.loss)
            / sum(o.tokens.values())
        )
        for o in outcomes
    ]
    return {
        "mean": statistics.fmean(means),
        "std": statistics.stdev(means) if len(means) > 1 else 0.0,
        "token_weighted_mean": statistics.fmean(weighted),
        "per_participant": {
            name: statistics.fmean(measure(o.loss[name]) for o in outcomes)
            for name in outcomes[0].loss
        },
    }


def difference(
    outcomes: Sequence[Outcome], reference: Sequence[Outcome]
) -> dict[str, Any] | None:
    """Average perplexity minus the reference's, over pairs of participant and seed.

    Returns:
        A dict of `mean`, `ci95` (percentile bootstrap over the pairs; None for fewer
        than three) and `pairs`; None where no seed has both.
    """
    reference_of = {o.seed: o for o in reference}
    pairs = [
        perplexity(loss) - perplexity(reference_of[o.seed].loss[name])
        for o in outcomes
        if o.seed in reference_of
        for name, loss in o.loss.items()
    ]
    if not pairs:
        return None
    return {
        "mean": statistics.fmean(pairs),
        "ci95": list(interval(pairs)) if len(pairs) > 2 else None,
        "pairs": len(pairs),
    }


def interval(values: Sequence[float], seed: int = 0) -> tuple[float, float]:
    """Return the 95 % percentile bootstrap interval of the mean."""
    resampled = np.random.default_rng(seed).choice(values, (RESAMPLES, len(values)))
    low, high = np.percentile(resampled.mean(1), [2.5, 97.5])
    return float(low), float(high)


def perplexity(loss: float) -> float:
    """Return the exponential of a loss in nats per token."""
    return math.exp(loss) if loss < 700 else math.inf
