"""A run's side of a federation: found one, take its generalists, contribute.

Only the generalists' tensors and the counters of the manifest are read of a run. MLX is
imported only when one of these functions runs.
"""

from __future__ import annotations

import contextlib
import dataclasses
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from comigs_mlx.config import read_yaml
from comigs_mlx.errors import FederationError
from comigs_mlx.expert_shape import SharedShape
from comigs_mlx.federation.exchanges.base import Exchange, Moved, Say, Unreachable
from comigs_mlx.federation.formats import contribution, signatures
from comigs_mlx.federation.formats.contribution import Prepared, Privacy
from comigs_mlx.federation.formats.manifest import BaseModel
from comigs_mlx.federation.formats.tensor_source import Array, Arrays, digest, shapes
from comigs_mlx.federation.participant import (
    if_better,
    membership,
    privacy,
    round_history,
    trust,
)
from comigs_mlx.federation.participant.if_better import Judge
from comigs_mlx.federation.participant.membership import Membership
from comigs_mlx.federation.participant.mixing import Mixing, own_or_shared
from comigs_mlx.federation.rounds import repository, verification
from comigs_mlx.federation.rounds.repository import Federation
from comigs_mlx.federation.rounds.verification import Have, Trust
from comigs_mlx.files import write_bytes
from comigs_mlx.options import ExpertOptions, PrivacyOptions
from comigs_mlx.runs.description import base_model, revision


@dataclasses.dataclass(frozen=True)
class Origin:
    """What a federation is made from.

    Attributes:
        base: The base model; of a private path only the folder's name is kept.
        experts: The shape of the generalists.
        generalists: Tensor -> its first values.
        step: The training step that they were saved at.
        licence: The name of the base model's licence, where it is known.
    """

    base: BaseModel
    experts: SharedShape
    generalists: dict[str, Array]
    step: int = 0
    licence: str | None = None


def of_run(run: Path) -> Origin:
    """The base model, shape and generalists of a run.

    Raises:
        RunError: If it is not there or damaged.
    """
    from comigs_mlx.runs import description, generalists
    from comigs_mlx.runs.folder import RunFolder

    info = RunFolder(run).read_info()
    tensors, step = generalists.read(run, info["generalists"])
    return Origin(*described(info), tensors, step, description.licence(info))


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
        *described(description.describe(mixture, base.id, fingerprint, base.revision)),
        tensors,
        licence=base.licence.name,
    )


def pull(
    run: Path,
    exchange: Exchange,
    federation: Federation,
    name: str | None,
    accept: bool = False,
    say: Say = lambda line: None,
    mixing: Mixing | None = None,
    judge: Judge | None = None,
) -> bool:
    """Replace a run's generalists by the federation's.

    Args:
        run: The folder of the run.
        exchange: The repository that the federation is in.
        federation: The state of the federation to act on, from `repository.current`.
        name: The name of the participant.
        accept: Whether to take what has changed and what cannot be verified
            (`--trust`).
        say: It is told what is accepted, a sentence each.
        mixing: How the run mixes generalists of its own from the contributions; None
            gives it what everybody receives.
        judge: It refuses generalists that make the run worse; see `if_better`. None
            takes them all.

    Returns:
        Whether anything changed; False where the run has this round already, mixed in
        this way, with or without training since.

    Raises:
        Untrusted: If the federation is not what the run takes part in, or its
            generalists are not what the contributions make.
        FederationError: If the run does not fit, or the contributions cannot be mixed;
            the run is unchanged then.
        Worse: If `judge` finds them worse; the run is unchanged then.
        RunError: If it is in use, or damaged.
    """
    from comigs_mlx.runs.folder import RunFolder

    folder = RunFolder(run)
    folder.check_exists()
    with folder.in_use():
        return bring(run, exchange, federation, name, accept, say, mixing, judge)


def bring(
    run: Path,
    exchange: Exchange,
    federation: Federation,
    name: str | None,
    accept: bool = False,
    say: Say = lambda line: None,
    mixing: Mixing | None = None,
    judge: Judge | None = None,
) -> bool:
    """`pull`, by the process that has the run's folder in use already."""
    from comigs_mlx.runs import generalists
    from comigs_mlx.runs.folder import RunFolder

    record = agreed(run, exchange, federation, accept, say)
    if record is not None and record.round == federation.round.round:
        replaced = _replaced(exchange, federation, record, accept)
        if not replaced and record.personal == (mixing and mixing.name):
            return False
    own = of_run(run)
    membership.check_fits(federation.manifest, own.experts, own.base.fingerprint)
    own_shapes = shapes(Arrays("", own.generalists))
    believed = trusting(run, exchange.uri, accept)
    believing = dataclasses.replace(federation, trust=believed)
    shared = repository.pull(exchange, believing, own_shapes)
    believed = _with_start(run, exchange.uri, federation, believed)
    parts = exchange, federation, believed, mixing, shared
    tensors, mixed = own_or_shared(*parts)
    if judge is not None:
        measure = if_better.measure_of(run, record, own.generalists)
        if_better.check(judge, federation.round.round, tensors, *measure)
    if not has_joined(run) and _only_here(record, own.step):
        joining = record is None
        number = round_history.keep_own(run, own.generalists, own.step, joining)
        say(
            f"what {run} had learnt itself is replaced, and kept on this device: sync "
            f"pull --back={number} brings it again"
        )
    generalists.replace(RunFolder(run), tensors)
    remember(run, exchange.uri, federation, name, own.step, digest(shared), mixed)
    place = membership.place(exchange.uri)
    round_history.write(run, federation.round.round, place, shared)
    return True


def _with_start(run: Path, uri: str, federation: Federation, believed: Trust) -> Trust:
    """What is trusted, with what the last round's contributions started from, if kept.

    A folder has no history to find it in, and the run may have pulled since.
    """
    before = federation.round.round - 1
    if believed.have is not None and believed.have.round == before:
        return believed
    with contextlib.suppress(FederationError):
        kept = round_history.read(run, before, membership.place(uri))
        return dataclasses.replace(believed, have=Have(before, kept))
    return believed


def agreed(
    run: Path, exchange: Exchange, federation: Federation, accept: bool, say: Say
) -> Membership | None:
    """The run's record, if it takes part in just this federation.

    A run of an earlier version remembers no manifest: it accepts the present one.

    Raises:
        Changed: If the federation is not what the run takes part in, unless `accept`.
    """
    record, manifest = membership.read(run), federation.manifest
    if record is None or record.uri != membership.place(exchange.uri):
        return None
    try:
        trust.check(record, exchange.uri, manifest, federation.round)
    except trust.Changed as change:
        if not accept:
            raise
        say(f"accepted: {str(change).removesuffix(f'; {trust.ACCEPT}')}")
    if trust.is_anew(record, manifest):
        return None
    if record.manifest != manifest:
        if record.manifest is None:
            say("this run now remembers federation.json: changes of it will be told")
        record = dataclasses.replace(record, manifest=manifest)
        membership.write(run, record)
    return record


def _replaced(
    exchange: Exchange, federation: Federation, record: Membership, accept: bool
) -> bool:
    """Whether the round that the run has must be brought again.

    Raises:
        Changed: If it is another one now, unless `accept`.
    """
    if record.generalist is None:
        return False
    if (stated := federation.round.generalist) is None or accept:
        there = federation.snapshot.revision
        stated = digest(verification.fetch(exchange, there, federation.manifest))
    if stated != record.generalist and not accept:
        stating = dataclasses.replace(federation.round, generalist=stated)
        trust.check(record, exchange.uri, federation.manifest, stating)
    return stated != record.generalist


def trusting(run: Path, uri: str, accept: bool = False) -> Trust:
    """What a run need not verify: the generalists that it has."""
    record = membership.read(run)
    if record is None or record.uri != membership.place(uri) or not record.generalist:
        return Trust(accept)
    tensors: dict[str, Array] | None = None
    with contextlib.suppress(FederationError):
        tensors = round_history.read(run, record.round, record.uri)
    if tensors is not None and digest(tensors) != record.generalist:
        tensors = None
    have = Have(record.round, tensors)
    return Trust(accept, frozenset({record.generalist}), have)


def has_joined(run: Path) -> bool:
    """Tell whether a run trains its router alone, over generalists of others."""
    file = run / "config.yaml"
    return file.is_file() and read_yaml(file).get("join") is True


def _only_here(record: Membership | None, step: int) -> bool:
    """Whether a run's generalists hold training that no federation was given."""
    if record is None:  # in no federation yet, or in another one
        return step > 0
    return record.learnt(step) > 0


def remember(
    run: Path,
    uri: str,
    federation: Federation,
    name: str | None,
    step: int,
    generalist: str | None = None,
    personal: str | None = None,
) -> None:
    """Note that a run's generalists, at this step, are those of the last round.

    Args:
        run: The folder of the run.
        uri: The address of the federation.
        federation: The state of the federation that they are of.
        name: The name of the participant; None keeps the one that it had.
        step: The training step that the run has.
        generalist: The digest of the shared generalists; None takes the one that
            round.json states.
        personal: How the run mixed its own; None means that it has the shared ones.
    """
    old = membership.read(run)
    place = membership.place(uri)
    kept = Membership(place) if old is None else old
    anew = trust.is_anew(kept, federation.manifest)
    if kept.uri != place or anew:
        # The privacy spent is of the text, wherever it was sent.
        spent = kept.private, kept.released, kept.privacy
        kept = Membership(place, None, 0, 0, 0, *spent)
    new = dataclasses.replace(
        kept,
        participant=name or kept.participant,
        round=federation.round.round,
        step=step,
        manifest=federation.manifest,
        generalist=generalist or federation.round.generalist,
        personal=personal,
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
        run: The folder of the run.
        exchange: The repository that the federation is in.
        federation: The state of the federation to act on, from `repository.current`.
        name: The name of the participant.
        options: The options of differential privacy; where they say nothing, those that
            the run used last hold.
        send: Whether the contribution is going to be sent; a private one is counted
            then.
        say: It is told when a private contribution is sent again as it was.

    Raises:
        FederationError: If the run did not start from the last closed round.
    """
    if has_joined(run):
        raise FederationError(
            f"{run} was trained with --join: its generalists are those that it pulled, "
            "so there is nothing to contribute; train a run without --join to take part"
        )
    record, own = membership.read(run), of_run(run)
    manifest, last = federation.manifest, federation.round.round
    membership.check_fits(manifest, own.experts, own.base.fingerprint)
    if record is not None and record.uri == membership.place(exchange.uri):
        trust.check(record, exchange.uri, manifest, federation.round)
    if (
        record is None
        or record.uri != membership.place(exchange.uri)
        or record.round != last
    ):
        raise FederationError(
            f"{run} does not have the generalist of round {last}: python -m "
            "comigs_mlx.sync pull, train, then push"
        )
    start, opened = _start(run, exchange, federation, record), federation.open_round
    before = membership.residual(run, exchange.uri, opened)

    def make(values: Mapping[str, Array], stated: Privacy | None) -> Prepared:
        return contribution.prepare(
            values,
            Arrays("", start),
            manifest,
            participant=name,
            round=opened,
            counters=_counters(run, own.step - record.step),
            residual=before,
            privacy=stated,
            start=digest(start),
        )

    if (settings := privacy.settings(record, options)) is None:
        prepared = make(own.generalists, None)
    else:
        of_start, of_own = digest(start), digest(own.generalists)
        basis = privacy.Basis(record.uri, name, opened, of_start, of_own, settings)
        prepared = privacy.prepare(
            run, basis, own.generalists, Arrays("", start), make, send, say
        )
    return _signed(prepared.by(exchange.account()), federation, name), before


def _start(
    run: Path, exchange: Exchange, federation: Federation, record: Membership
) -> dict[str, Array]:
    """The generalists that the run started from, as the repository has them."""
    if federation.trust == Trust():
        believed = trusting(run, exchange.uri)
        federation = dataclasses.replace(federation, trust=believed)
    start = repository.pull(exchange, federation)
    if record.generalist is not None:
        stating = dataclasses.replace(federation.round, generalist=digest(start))
        trust.check(record, exchange.uri, federation.manifest, stating)
    return start


@contextlib.contextmanager
def intended(
    run: Path, uri: str, prepared: Prepared, before: dict[str, Array]
) -> Iterator[None]:
    """Around the sending of a contribution: keep the quantisation residual of before.

    Killed after the commit and before the note of it, the run finds its contribution in
    the history, and goes on as if nothing had happened. Where it was refused, the run
    is as it was; where the answer was lost, it may count all the same.
    """
    file = membership.residual_file(run)
    old = file.read_bytes() if file.is_file() else None
    round = prepared.metadata.round
    membership.keep_residual(run, uri, round, before, prepared.residual)
    try:
        yield
    except (Unreachable, Moved):
        raise
    except FederationError:
        if old is None:
            file.unlink(missing_ok=True)
        else:
            write_bytes(file, old)
        raise


def counted(run: Path, federation: Federation, uri: str, name: str) -> bool:
    """Note a contribution that was sent just before the process was killed.

    Returns:
        Whether there was one: the history has it, and the run did not know.
    """
    record, round = membership.read(run), membership.intended(run, uri)
    if record is None or round <= record.contributed or round != record.round + 1:
        return False
    closed = {one.round: one.contributors for one in federation.round.history}
    if name not in closed.get(round, ()):
        return False
    new = dataclasses.replace(
        record, participant=name, contributed=round, contributed_step=None
    )
    membership.write(run, new)
    return True


def contributed(
    run: Path, uri: str, name: str, prepared: Prepared, before: dict[str, Array]
) -> None:
    """Note that a contribution has been sent."""
    round = prepared.metadata.round
    membership.keep_residual(run, uri, round, before, prepared.residual)
    record, steps = membership.read(run), prepared.metadata.counters.get("steps")
    if record is not None:
        step = None if steps is None else record.step + steps
        new = dataclasses.replace(
            record, participant=name, contributed=round, contributed_step=step
        )
        membership.write(run, new)


def _signed(prepared: Prepared, federation: Federation, name: str) -> Prepared:
    """Signed with the user's key, where the federation asks for it."""
    manifest = federation.manifest
    member = (manifest.participants or {}).get(name)
    listed = None if member is None else member.public_key
    if listed is None:
        return prepared
    key = signatures.load_key()
    if (own := signatures.public_key(key)) != listed:
        raise FederationError(
            f"federation.json has another key for {name} than this device: use the "
            f"device with that key, or ask the owner to put in {own}"
        )
    metadata = signatures.sign(prepared.metadata, key)
    return dataclasses.replace(prepared, metadata=metadata)


def public_name(base_id: str, fetched: bool = False) -> str:
    """What others may know a base model by: its id on the Hub, or a folder's name.

    A path is private, and one of two parts looks like an id on the Hub. Whether there
    is such a folder says nothing: it may have been moved, or be relative to another
    one. So an id is published only where the model was fetched from the Hub, as the run
    recorded or the cache on this device shows; of everything else it is the last part.

    Args:
        base_id: The id of the base model, as the run has it.
        fetched: Whether the run recorded the commit of the Hub that the model was of.
    """
    from comigs_mlx.model.base import is_from_hub

    if fetched or is_from_hub(base_id):
        return base_id
    return Path(base_id).expanduser().resolve().name or "model"


def described(info: dict[str, Any]) -> tuple[BaseModel, SharedShape]:
    """Base model and shape of the generalists, of the content of comigs.json."""
    base_id, fingerprint = base_model(info)
    name = public_name(base_id, revision(info) is not None)
    return BaseModel(name, fingerprint), SharedShape.from_json(info)


def _counters(run: Path, steps: int) -> dict[str, int]:
    """Expert steps since the last pull, and the most tokens they can have seen."""
    config = read_yaml(run / "config.yaml")
    names = ("batch_size", "seq_len", "grad_accumulation")
    batch, length, batches = (int(config.get(name, 1)) for name in names)
    steps = max(steps, 0)
    return {"steps": steps, "tokens": steps * batch * length * batches}
