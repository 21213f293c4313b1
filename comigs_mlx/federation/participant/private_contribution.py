"""Private contributions of a run: noise drawn once a round, counted before it goes.

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
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from comigs_mlx import tensors as safetensors
from comigs_mlx.errors import FederationError
from comigs_mlx.federation.formats.contribution import Contribution, Prepared, Privacy
from comigs_mlx.federation.formats.tensor_source import Array, Source
from comigs_mlx.federation.formats.tensor_source import digest as digest
from comigs_mlx.federation.participant import membership, privacy
from comigs_mlx.federation.participant.membership import Membership, Noise
from comigs_mlx.files import write_bytes
from comigs_mlx.options import PrivacyOptions

KEPT = "private.safetensors"
FILE, RESIDUAL = "file/", "residual/"

Make = Callable[[Mapping[str, Array], Privacy], Prepared]
"""Makes a contribution of values and what it says of its privacy."""


@dataclass(frozen=True)
class Basis:
    """What a contribution is made of.

    Attributes:
        uri: Of the federation, as `membership.place` spells it.
        participant: Name in it.
        round: The open round.
        start: Digest of the generalists that everyone starts from.
        values: Digest of the run's own.
        settings: Clip, noise and delta.
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
        run: Its folder.
        basis: What it is made of.
        values: Tensor -> the run's generalists.
        current: What they started from.
        make: See `Make`.
        send: Whether it may leave this device now: it is counted then.
        say: Told where what goes is not what the run has now.

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


def _one_round(kept: Basis, wanted: Basis) -> bool:
    return wanted == dataclasses.replace(
        kept, values=wanted.values, settings=wanted.settings
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
    stated = privacy.statement(rounds, clip, noise, delta, counts.items())
    return make(privacy.privatise(values, current, clip, noise), stated)


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
