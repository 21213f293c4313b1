"""Differential privacy of what a participant sends, added before it leaves the device.

    u = theta_i - theta (all tensors as one vector),  u <- u min(1, C / ||u||)
    sent: theta + u + N(0, (sigma C)^2) in every number

The Gaussian mechanism (Abadi et al., CCS 2016; McMahan et al., ICLR 2018) for one
participant's whole update in one round: with and without it, everything sent is hard
to tell apart. Rounds compose; nothing is gained from sampling, since a participant's
presence is public. Rounding and error feedback come after the noise and cost nothing.
The noise is made of the system's cryptographic randomness, but in floating point, so
the guarantee is that of the real-valued mechanism (Mironov, CCS 2012, says what that
leaves out).
Needs the package `dp-accounting`: `pip install 'comigs-mlx[federation]'`.
"""

from __future__ import annotations

import math
import secrets
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from comigs_mlx.errors import FederationError
from comigs_mlx.federation.formats.contribution import Privacy
from comigs_mlx.federation.formats.tensor_source import Array, Source, Wide, wide

GIVES_AWAY = (
    "no file of yours leaves; what a contribution has learnt from your text does, and "
    "can give passages of it away: everybody who can read the repository sees each "
    "contribution by itself, now and in its history; only noise (--dp-clip, "
    "--dp-noise) bounds this"
)
"""What everybody is told before a contribution leaves the device."""

INSTALL = "pip install 'comigs-mlx[federation]'"


def privatise(
    values: Mapping[str, npt.NDArray[Any]],
    current: Source,
    clip: float,
    noise: float,
    generator: np.random.Generator | None = None,
) -> dict[str, Array]:
    """The generalists with their update clipped and noise on every number.

    Args:
        values: Tensor -> values of this participant's generalists.
        current: What they started from.
        clip: C, the longest update; above 0.
        noise: sigma, standard deviation of the noise in units of `clip`; above 0.
        generator: For tests; by default the noise is the system's randomness itself,
            so that no state of a generator could be computed back from known noise.

    Raises:
        FederationError: If `clip` or `noise` is not a number above 0, or a value is
            not finite.
    """
    _check(clip=clip, noise=noise)
    updates = {
        name: np.asarray(values[name], np.float64) - wide(current, name)
        for name in sorted(values)
    }
    norm = math.sqrt(math.fsum(float((u * u).sum()) for u in updates.values()))
    if not math.isfinite(norm):
        raise FederationError("the update is not finite: go back to an earlier save")
    factor = min(1.0, clip / norm) if norm else 1.0
    return {
        name: (
            wide(current, name)
            + factor * update
            + noise * clip * _gaussian(update.shape, generator)
        ).astype(np.float32)
        for name, update in updates.items()
    }


def _gaussian(
    shape: tuple[int, ...], generator: np.random.Generator | None = None
) -> Wide:
    """Independent numbers of the standard normal distribution, by Box and Muller."""
    if generator is not None:
        return generator.standard_normal(shape)
    count = math.prod(shape)
    bits = np.frombuffer(secrets.token_bytes(16 * count), np.uint64).reshape(2, count)
    first, second = (bits >> np.uint64(11)) * 2.0**-53  # uniform, from 0 to below 1
    radius = np.sqrt(-2 * np.log1p(-first))
    return (radius * np.cos(2 * np.pi * second)).reshape(shape)


def spent(rounds: int, noise: float, delta: float) -> float:
    """The epsilon of `rounds` private contributions, by Renyi accounting.

    Mironov, "Renyi Differential Privacy", CSF 2017; converted by dp-accounting.

    Args:
        rounds: Contributions sent, this one included; 0 has an epsilon of 0.
        noise: sigma, of every one of them.
        delta: Of the guarantee; well below 1 / the number of participants.

    Raises:
        FederationError: If a number cannot work, or the package is missing.
    """
    return epsilon([(noise, rounds)], delta)


def epsilon(noises: Iterable[tuple[float, int]], delta: float) -> float:
    """The epsilon of private contributions whose noise was not always the same.

    Args:
        noises: sigma, and how many contributions were sent with it.
        delta: As of `spent`.

    Raises:
        FederationError: As `spent`.
    """
    parts = list(noises)
    for noise, _ in parts:
        _check(noise=noise, delta=delta)
    if delta >= 1 or any(rounds < 0 for _, rounds in parts):
        raise FederationError("delta must be below 1, and rounds at least 0")
    if not any(rounds for _, rounds in parts):
        return 0.0
    accounting, accountant = _accountant()
    for noise, rounds in parts:
        accountant.compose(accounting.GaussianDpEvent(noise), rounds)
    return float(accountant.get_epsilon(delta))


def statement(
    rounds: int,
    clip: float,
    noise: float,
    delta: float,
    earlier: Iterable[tuple[float, int]] = (),
) -> Privacy:
    """What contribution.json says after private contributions.

    Args:
        rounds: Those with this noise, the one at hand included.
        clip: As of `privatise`.
        noise: As of `privatise`.
        delta: As of `spent`.
        earlier: Others, as of `epsilon`.
    """
    _check(clip=clip)
    total = epsilon([(noise, rounds), *earlier], delta)
    return Privacy(total, delta, clip, noise)


def _accountant() -> tuple[Any, Any]:
    try:
        import dp_accounting
        from dp_accounting.rdp import RdpAccountant
    except ImportError as error:
        raise FederationError(
            f"counting privacy needs the package dp-accounting: {INSTALL}"
        ) from error
    return dp_accounting, RdpAccountant()


def _check(**numbers: float) -> None:
    for name, value in numbers.items():
        if not 0 < value < math.inf:
            raise FederationError(f"{name} {value} must be a number above 0")
