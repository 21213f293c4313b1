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

The noise is drawn once a round and counted before it goes.
RUN/state/private.safetensors keeps the contribution as it was drawn. The same round
sends it again byte for byte, after a kill, a lost answer, or a try without a network,
and also where the run has been trained since: other noise on the same text would spend
privacy twice. Only what was never sent (`--dry-run`) may be drawn anew.
RUN/federation.json counts a draw before it is sent: nothing is sent uncounted.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import math
import secrets
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from comigs_mlx import tensors as safetensors
from comigs_mlx.errors import FederationError
from comigs_mlx.federation.formats.contribution import Contribution, Prepared, Privacy
from comigs_mlx.federation.formats.tensor_source import Array, Source, Wide, wide
from comigs_mlx.federation.participant import membership
from comigs_mlx.federation.participant.membership import Membership, Noise
from comigs_mlx.files import write_bytes
from comigs_mlx.options import PrivacyOptions

GIVES_AWAY = (
    "no file of yours leaves; what a contribution has learnt from your text does, and "
    "can give passages of it away: everybody who can read the repository sees each "
    "contribution by itself, now and in its history; only noise (--dp-clip, "
    "--dp-noise) bounds this"
)
"""What everybody is told before a contribution leaves the device."""

KEPT = "private.safetensors"
FILE, RESIDUAL = "file/", "residual/"

Make = Callable[[Mapping[str, Array], Privacy], Prepared]
"""Makes a contribution of values and what it says of its privacy."""

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
        values: Tensor -> the values of this participant's generalists.
        current: The generalists that these started from.
        clip: The length C that no update exceeds; it is above 0.
        noise: The standard deviation sigma of the noise, in units of `clip`; it is
            above 0.
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


def epsilon(noises: Iterable[tuple[float, int]], delta: float) -> float:
    """The epsilon of private contributions, by Renyi accounting; of none it is 0.

    Mironov, "Renyi Differential Privacy", CSF 2017; converted by dp-accounting.

    Args:
        noises: Each sigma with the number of contributions that were sent with it.
        delta: The delta of the guarantee, well below 1 / the number of participants.

    Raises:
        FederationError: If a number cannot work, or the package is missing.
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
        rounds: How many contributions had this noise, the one at hand included.
        clip: The longest update, as for `privatise`.
        noise: The standard deviation of the noise, as for `privatise`.
        delta: The delta of the guarantee, as for `epsilon`.
        earlier: The contributions with other noise, as for `epsilon`.
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


@dataclass(frozen=True)
class Basis:
    """What a contribution is made of.

    Attributes:
        uri: The address of the federation, as `membership.place` spells it.
        participant: The participant's name in it.
        round: The number of the open round.
        start: The digest of the generalists that every contribution starts from.
        values: The digest of the run's own generalists.
        settings: The clip, noise and delta that are in use.
    """

    uri: str
    participant: str
    round: int
    start: str
    values: str
    settings: tuple[float, float, float]


def settings(
    record: Membership, options: PrivacyOptions | None
) -> tuple[float, float, float] | None:
    """Clip, noise and delta, as given or as the run had them last; None: no noise."""
    if options is not None and options.dp_clip and options.dp_noise:
        return options.dp_clip, options.dp_noise, options.dp_delta
    last = record.privacy
    return None if last is None else (last.clip, last.noise, last.delta)


def prepare(
    run: Path,
    basis: Basis,
    values: Mapping[str, Array],
    current: Source,
    make: Make,
    send: bool,
    say: Callable[[str], None],
) -> Prepared:
    """The run's private contribution to a round: the one kept, or a new one.

    Args:
        run: The folder of the run.
        basis: What the contribution is made of.
        values: Tensor -> the values of the run's generalists.
        current: The generalists that these started from.
        make: The function that makes a contribution of private values (see `Make`).
        send: Whether it may leave this device now; it is counted then.
        say: It is told when what is sent is not what the run has now.

    Raises:
        FederationError: If a package is missing, or a file of the run is damaged.
    """
    with _alone(run):
        record, kept = membership.read(run), _kept(run)
        assert record is not None
        sent = kept is not None and record.released == _name_of(kept[1])
        if kept is not None and sent and _one_round(kept[0], basis):
            if kept[0] != basis:
                say(
                    f"round {basis.round} has had this run's noise already: the same "
                    "is sent again, without what has changed since"
                )
            return kept[1]
        if kept is not None and kept[0] == basis:
            prepared = kept[1]
        else:
            prepared = _draw(basis, values, current, make, record)
            _keep(run, basis, prepared)
        if send:
            if record.contributed and not record.private:
                say("what was sent without noise before is not in this epsilon")
            membership.write(run, _counted(record, basis, prepared))
    return prepared


def _one_round(kept: Basis, asked: Basis) -> bool:
    return asked == dataclasses.replace(
        kept, values=asked.values, settings=asked.settings
    )


def _draw(
    basis: Basis,
    values: Mapping[str, Array],
    current: Source,
    make: Make,
    record: Membership,
) -> Prepared:
    clip, noise, delta = basis.settings
    counts = {one.noise: one.rounds for one in record.private}
    rounds = counts.pop(noise, 0) + 1
    stated = statement(rounds, clip, noise, delta, counts.items())
    return make(privatise(values, current, clip, noise), stated)


def _counted(record: Membership, basis: Basis, prepared: Prepared) -> Membership:
    noise = basis.settings[1]
    counts = {one.noise: one.rounds for one in record.private}
    counts[noise] = counts.get(noise, 0) + 1
    return dataclasses.replace(
        record,
        private=tuple(Noise(noise, rounds) for noise, rounds in sorted(counts.items())),
        released=_name_of(prepared),
        privacy=prepared.metadata.privacy,
    )


def _name_of(prepared: Prepared) -> str:
    """SHA-256 of contribution.json, which has those of all tensor files."""
    return hashlib.sha256(prepared.metadata.to_json()).hexdigest()


def _keep(run: Path, basis: Basis, prepared: Prepared) -> None:
    tensors = {
        FILE + name: np.frombuffer(content, np.int8)
        for name, content in prepared.tensors.items()
    }
    residual = {RESIDUAL + name: array for name, array in prepared.residual.items()}
    about = {
        "basis": json.dumps(dataclasses.asdict(basis)),
        "contribution": prepared.metadata.to_json().decode(),
    }
    write_bytes(
        run / "state" / KEPT, safetensors.serialise({**tensors, **residual}, about)
    )


def _kept(run: Path) -> tuple[Basis, Prepared] | None:
    file = run / "state" / KEPT
    if not file.is_file():
        return None
    advice = "remove it, and pull the next round before pushing"
    with safetensors.reading(file, FederationError, advice):
        arrays, about = safetensors.load_numpy(file)
        values = json.loads(about["basis"])
        basis = Basis(**{**values, "settings": tuple(values["settings"])})
        metadata = Contribution.from_json(about["contribution"])
    tensors = {n: a.tobytes() for n, a in _below(FILE, arrays).items()}
    return basis, Prepared(metadata, tensors, _below(RESIDUAL, arrays))


def _below(prefix: str, arrays: Mapping[str, Array]) -> dict[str, Array]:
    return {
        n.removeprefix(prefix): a for n, a in arrays.items() if n.startswith(prefix)
    }


@contextlib.contextmanager
def _alone(run: Path) -> Iterator[None]:
    """Two processes must not both draw."""
    from filelock import FileLock

    (run / "state").mkdir(exist_ok=True)
    with FileLock(run / "state" / ".private.lock"):
        yield
