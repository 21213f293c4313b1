"""A run's side of a federation: found one, take its generalists, contribute.

Only the generalists' tensors and the counters of the manifest are read of a run. MLX is
imported only when one of these functions runs.
"""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from comigs_mlx.config import read_yaml
from comigs_mlx.errors import FederationError
from comigs_mlx.federation import (
    contribution,
    kept,
    membership,
    private,
    rounds,
    signatures,
)
from comigs_mlx.federation.contribution import Prepared, Privacy
from comigs_mlx.federation.exchange import Exchange
from comigs_mlx.federation.manifest import BaseModel, Experts
from comigs_mlx.federation.membership import Membership
from comigs_mlx.federation.rounds import Federation
from comigs_mlx.federation.sources import Array, Arrays, digest, shapes
from comigs_mlx.options import ExpertOptions, PrivacyOptions
from comigs_mlx.runs.description import base_model


@dataclasses.dataclass(frozen=True)
class Origin:
    """What a federation is made from.

    Attributes:
        base: The base model; a folder's path is private, so of one its name only.
        experts: Shape of the generalists.
        generalists: Tensor -> first values.
        step: The training step they are of.
    """

    base: BaseModel
    experts: Experts
    generalists: dict[str, Array]
    step: int = 0


def of_run(run: Path) -> Origin:
    """The base model, shape and generalists of a run.

    Raises:
        RunError: If it is not there or damaged.
    """
    from comigs_mlx.runs import generalists
    from comigs_mlx.runs.folder import RunFolder

    info = RunFolder(run).read_info()
    tensors, step = generalists.read(run, info["generalists"])
    return Origin(*described(info), tensors, step)


def of_model(model: str, options: ExpertOptions, seed: int, say: Any) -> Origin:
    """A base model with fresh generalists: the model itself, before any training."""
    from comigs_mlx.model.base import load_base
    from comigs_mlx.model.mixture import Mixture
    from comigs_mlx.runs import description, experts, generalists

    base = load_base(model, say)
    fingerprint = base.fingerprint()
    mixture = Mixture(base.model, options, seed)
    with tempfile.TemporaryDirectory(prefix="comigs-") as folder:
        experts.write(Path(folder), mixture, base.id, 0)
        tensors, _ = generalists.read(Path(folder), options.generalists)
    return Origin(
        *described(description.describe(mixture, base.id, fingerprint)), tensors
    )


def pull(
    run: Path, exchange: Exchange, federation: Federation, name: str | None
) -> bool:
    """Replace a run's generalists by the federation's.

    Returns:
        Whether anything changed; False where the run has this round already, with or
        without training since.

    Raises:
        FederationError: If the run does not fit; it is unchanged then.
        RunError: If it is in use, or damaged.
    """
    from comigs_mlx.runs.folder import RunFolder

    folder = RunFolder(run)
    folder.check_exists()
    with folder.in_use():
        return bring(run, exchange, federation, name)


def bring(
    run: Path, exchange: Exchange, federation: Federation, name: str | None
) -> bool:
    """`pull`, by the process that has the run's folder in use already."""
    from comigs_mlx.runs import generalists
    from comigs_mlx.runs.folder import RunFolder

    record = membership.read(run)
    same = record is not None and record.uri == membership.place(exchange.uri)
    if record is not None and same and record.round == federation.round.round:
        return False
    mine = of_run(run)
    membership.check_fits(federation.manifest, mine.experts, mine.base.fingerprint)
    own = shapes(Arrays("", mine.generalists))
    tensors = rounds.pull(exchange, federation, own)
    generalists.replace(RunFolder(run), tensors)
    remember(run, exchange.uri, federation, name, mine.step)
    place = membership.place(exchange.uri)
    kept.write(run, federation.round.round, place, tensors)
    return True


def remember(
    run: Path, uri: str, federation: Federation, name: str | None, step: int
) -> None:
    """Note that a run's generalists, at this step, are those of the last round."""
    old = membership.read(run)
    place = membership.place(uri)
    kept = Membership(place) if old is None else old
    if kept.uri != place:  # the privacy spent is of the text, wherever it was sent
        spent = kept.private, kept.released, kept.privacy
        kept = Membership(place, None, 0, 0, 0, *spent)
    new = dataclasses.replace(
        kept,
        participant=name or kept.participant,
        round=federation.round.round,
        step=step,
    )
    membership.write(run, new)


def prepare(
    run: Path,
    exchange: Exchange,
    federation: Federation,
    name: str,
    options: PrivacyOptions | None = None,
    send: bool = True,
    say: Callable[[str], None] = lambda line: None,
) -> tuple[Prepared, dict[str, Array]]:
    """A contribution of a run to the open round, and the residual that went into it.

    Args:
        run: Its folder.
        exchange: Where the federation is.
        federation: From `rounds.current`.
        name: Of the participant.
        options: Differential privacy; what the run used last where they say nothing.
        send: Whether it is going to be sent; a private one is counted then.
        say: Told where a private one is sent again as it was.

    Raises:
        FederationError: If the run did not start from the last closed round.
    """
    record, mine = membership.read(run), of_run(run)
    manifest, last = federation.manifest, federation.round.round
    membership.check_fits(manifest, mine.experts, mine.base.fingerprint)
    if (
        record is None
        or record.uri != membership.place(exchange.uri)
        or record.round != last
    ):
        raise FederationError(
            f"{run} does not have the generalist of round {last}: python -m "
            "comigs_mlx.sync pull, train, then push"
        )
    start, opened = rounds.pull(exchange, federation), federation.open_round
    before = membership.residual(run, exchange.uri, opened)

    def make(values: Mapping[str, Array], stated: Privacy | None) -> Prepared:
        return contribution.prepare(
            values,
            Arrays("", start),
            manifest,
            participant=name,
            round=opened,
            counters=_counters(run, mine.step - record.step),
            residual=before,
            privacy=stated,
        )

    if (settings := private.settings(record, options)) is None:
        prepared = make(mine.generalists, None)
    else:
        of_start, of_mine = digest(start), digest(mine.generalists)
        basis = private.Basis(record.uri, name, opened, of_start, of_mine, settings)
        prepared = private.prepare(
            run, basis, mine.generalists, Arrays("", start), make, send, say
        )
    return _signed(prepared.by(exchange.account()), federation, name), before


def contributed(
    run: Path, uri: str, name: str, prepared: Prepared, before: dict[str, Array]
) -> None:
    """Note that a contribution has been sent."""
    round = prepared.metadata.round
    membership.keep_residual(run, uri, round, before, prepared.residual)
    record = membership.read(run)
    if record is not None:
        new = dataclasses.replace(record, participant=name, contributed=round)
        membership.write(run, new)


def _signed(prepared: Prepared, federation: Federation, name: str) -> Prepared:
    """Signed with the user's key, where the federation asks for it."""
    manifest = federation.manifest
    member = (manifest.participants or {}).get(name)
    wanted = None if member is None else member.public_key
    if wanted is None:
        return prepared
    key = signatures.load_key()
    if (mine := signatures.public_key(key)) != wanted:
        raise FederationError(
            f"federation.json has another key for {name} than this device: use the "
            f"device with that key, or ask the owner to put in {mine}"
        )
    metadata = signatures.sign(prepared.metadata, key)
    return dataclasses.replace(prepared, metadata=metadata)


def described(info: dict[str, Any]) -> tuple[BaseModel, Experts]:
    """Base model and shape of the generalists, of the content of comigs.json."""
    base_id, fingerprint = base_model(info)
    if Path(base_id).expanduser().exists():
        base_id = Path(base_id).expanduser().resolve().name
    names = [field.name for field in dataclasses.fields(Experts)]
    values = {name: info[name] for name in names}
    shape = {**values, "targets": tuple(sorted(info["targets"]))}
    return BaseModel(base_id, fingerprint), Experts(**shape)


def _counters(run: Path, steps: int) -> dict[str, int]:
    """Expert steps since the last pull, and the most tokens they can have seen."""
    config = read_yaml(run / "config.yaml")
    names = ("batch_size", "seq_len", "grad_accumulation")
    batch, length, batches = (int(config.get(name, 1)) for name in names)
    steps = max(steps, 0)
    return {"steps": steps, "tokens": steps * batch * length * batches}
