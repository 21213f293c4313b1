"""Selects the experts that speak when a model is used."""

from __future__ import annotations

import math

from comigs_mlx.errors import ConfigError
from comigs_mlx.options import ExpertOptions

Selection = str | tuple[float, ...]
"""A selection: auto, base, generalist, specialist, or one weight for each expert."""

SELECTIONS = ("auto", "base", "generalist", "specialist")


def allowed(selection: str, options: ExpertOptions) -> tuple[int, ...]:
    """Return the experts that a named selection may use, ascending."""
    first = options.generalists
    if selection == "generalist":
        return tuple(range(first))
    if selection == "specialist":
        return tuple(range(first, options.experts))
    return tuple(range(options.experts if selection == "auto" else 0))


def usable(options: ExpertOptions) -> list[str]:
    """List the named selections that these experts can follow, the usual one first."""
    return [s for s in SELECTIONS if s == "base" or allowed(s, options)]


def check(selection: Selection, options: ExpertOptions) -> None:
    """Refuse a selection that these experts cannot follow.

    Raises:
        ConfigError: If there is no such expert, or the weights do not fit.
    """
    if isinstance(selection, tuple):
        fits = len(selection) == options.experts
        if not fits or not all(0 <= w < math.inf for w in selection):
            raise ConfigError(
                f"experts {selection}: expected {options.experts} weights of at least "
                f"0, for {', '.join(options.names)}"
            )
        if not any(selection):
            raise ConfigError("all expert weights are 0: use base instead")
    elif selection not in SELECTIONS:
        raise ConfigError(
            f"unknown experts {selection!r}: choose {', '.join(SELECTIONS)}, or "
            f"{options.experts} weights with commas between them"
        )
    elif selection != "base" and not allowed(selection, options):
        raise ConfigError(f"this mixture has no {selection}")


def only_expert(selection: Selection, options: ExpertOptions) -> int | None:
    """Return the expert that speaks alone, with weight 1; None for `base`.

    Raises:
        ConfigError: If several experts may speak, or one with another weight.
    """
    check(selection, options)
    if selection == "base":
        return None
    if isinstance(selection, tuple):
        among = tuple(e for e, weight in enumerate(selection) if weight)
        alone = len(among) == 1 and selection[among[0]] == 1.0
    else:
        among = allowed(selection, options)
        alone = len(among) == 1
    if not alone:
        raise ConfigError(
            f"experts {selection} are more than one, or not of weight 1, and cannot be "
            "fused: choose one, such as generalist"
        )
    return among[0]
