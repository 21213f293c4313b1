"""What commands, the app and the simulation call of a federation.

Every function takes a run's folder and an exchange, and returns plain data. One round:

    participant i, on its own device              the repository (an exchange)
    --------------------------------              ----------------------------
    pull           <---------------------------   generalists of round n - 1
      verify them                                 federation.json, round.json
      or mix its own (--personal)                 contributions/n-1/*
      or refuse what is worse (--if-better)
      keep the run's own to go back to
    train          local steps of the run
    submit         --------------------------->   contributions/n/i/
      privacy: clip the update, add noise           adapters.safetensors
      encode, keep the residual, sign               contribution.json

    whoever finds round n due (a quorum, or the deadline) closes it:

    checks         <---------------------------   contributions/n/*/
      sizes, account, metadata, shapes, finite
    clipping       of outsized updates
    aggregate      contributions -> generalists
    one commit     --------------------------->   generalists of round n, round.json
      on the state that was read; who loses
      the race reads again and finds n closed

    verification   with the next pull: compute round n again from its contributions
                   and compare, before anything of the run is replaced
"""

from __future__ import annotations

import dataclasses
import functools
import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from comigs_mlx.errors import ComigsError, FederationError
from comigs_mlx.federation.exchanges.base import Exchange, Say
from comigs_mlx.federation.formats import adapter
from comigs_mlx.federation.formats import invitation as invitations
from comigs_mlx.federation.formats.contribution import CONTRIBUTION, Prepared
from comigs_mlx.federation.formats.invitation import Invitation
from comigs_mlx.federation.formats.manifest import MANIFEST, Manifest
from comigs_mlx.federation.formats.tensor_source import Array, digest
from comigs_mlx.federation.participant import (
    init,
    membership,
    mixing,
    next_step,
    pull_push,
    round_history,
)
from comigs_mlx.federation.participant.if_better import Refusal, Worse
from comigs_mlx.federation.participant.next_step import ParticipantStatus
from comigs_mlx.federation.participant.options import InitConfig
from comigs_mlx.federation.participant.privacy import GIVES_AWAY
from comigs_mlx.federation.participant.round_history import Kept
from comigs_mlx.federation.rounds import (
    attribution,
    closing,
    pull_requests,
    repository,
    status,
    submit,
)
from comigs_mlx.federation.rounds.repository import Federation
from comigs_mlx.federation.rounds.verification import Trust, Untrusted
from comigs_mlx.model.licence import Licence
from comigs_mlx.options import PrivacyOptions
from comigs_mlx.runs import description
from comigs_mlx.runs import trained_secrets as secrets_of_run
from comigs_mlx.runs.place import Place, reports


@dataclass(frozen=True)
class Pulled:
    """What a pull did.

    Attributes:
        round: The last closed round.
        changed: Whether the run did not have it already.
        personal: How the run mixed its own generalists from the contributions of the
            round; None means that it has what everybody receives.
        refused: Why the run keeps what it had (`if_better`); None: it was not refused.
    """

    round: int
    changed: bool
    personal: str | None = None
    refused: Refusal | None = None


@dataclass(frozen=True)
class Closing:
    """What came of closing a round.

    Attributes:
        round: The number of the round that was open.
        closed: Whether it is closed now.
        proposals: What became of each pull request; see
            `pull_requests.Verdict.as_dict`.
    """

    round: int
    closed: bool
    proposals: list[dict[str, object]]


def overview(exchange: Exchange, now: float | None = None) -> dict[str, Any]:
    """How the federation stands: see `status.status`.

    Args:
        exchange: The repository that the federation is in.
        now: The time to judge by, in seconds since the epoch; None means the present.

    Raises:
        FederationError: If it cannot be read.
    """
    at = time.time() if now is None else now
    return status.status(exchange, repository.current(exchange), at)


def manifest(exchange: Exchange) -> Manifest:
    """What the participants of a federation agree on.

    Raises:
        FederationError: If it cannot be read.
    """
    return repository.current(exchange).manifest


def founding(config: InitConfig, say: Say = lambda line: None) -> dict[str, Any]:
    """What making a federation would put into its repository; nothing is sent.

    Args:
        config: The options of `sync init`.
        say: It is told what takes time.

    Returns:
        Like `leaving`: "files", "tensors" and "base_license"; and "federation.json".
    """
    made = init.founding(config, say)
    weights = adapter.files(made.origin.generalists, made.manifest)
    agreed = made.manifest.to_json()
    files = {path: len(content) for path, content in weights.items()}
    shapes = {name: array.size for name, array in made.origin.generalists.items()}
    licence = made.manifest.base_license
    return {
        "files": {**files, MANIFEST: len(agreed)},
        "tensors": {"all of them": shapes},
        MANIFEST: json.loads(agreed),
        **({} if licence is None else {"base_license": licence}),
    }


def found(
    config: InitConfig,
    exchange: Exchange,
    sender: str | None = None,
    say: Say = lambda line: None,
) -> Invitation:
    """Make a federation; see `init.found`.

    Args:
        config: The options of `sync init`.
        exchange: The empty repository.
        sender: The name of who invites.
        say: It is told what takes time.

    Returns:
        The invitation to it.
    """
    made = init.founding(config, say)
    federation = init.found(made, exchange, config.private, time.time())
    if sender is not None and made.run is not None:
        step = made.origin.step
        pull_push.remember(made.run, exchange.uri, federation, sender, step)
    return invitation(exchange.uri, federation.manifest, sender)


def invitation(uri: str, manifest: Manifest, sender: str | None = None) -> Invitation:
    """The invitation to a federation, for whoever is to join; see `Invitation`."""
    return invitations.of(membership.place(uri), manifest, sender)


def participant_status(
    run: Path, overview: dict[str, Any], step: int
) -> ParticipantStatus:
    """How a run stands to the open round: what is left to do in it.

    Args:
        run: The folder of the run.
        overview: What `overview` has told of the federation.
        step: The training step that the run has.

    Raises:
        FederationError: If the run's record of the federation is damaged.
    """
    return next_step.of(run, overview, step)


def leaving(
    run: Path,
    exchange: Exchange,
    participant: str | None,
    options: PrivacyOptions | None = None,
) -> dict[str, Any]:
    """Everything that a push would send, and nothing is sent: see `status.leaving`."""
    _, prepared, _ = _prepared(run, exchange, participant, options, send=False)
    return {**status.leaving(prepared), **_licence(run)}


def remarks(leaving: dict[str, Any]) -> list[str]:
    """What people should know of a push, a sentence each, for commands and the app.

    Args:
        leaving: What `leaving` or `push` has returned.
    """
    sentences = [] if leaving[CONTRIBUTION]["privacy"] else [GIVES_AWAY]
    if (name := leaving.get("base_license")) is not None:
        sentences += Licence(name).duties
    if leaving[CONTRIBUTION]["counters"].get("steps") == 0:
        sentences.append(
            "this run has not been trained since its last pull: what it contributes is "
            "the generalist as it was, which a mean leaves out"
        )
    return sentences


def trained_secrets(run: Path) -> str:
    """On how many secrets a run was trained, in a sentence to say before a push."""
    return secrets_of_run.sentence(Place(run).path)


def pull(
    run: Path,
    exchange: Exchange,
    participant: str | None = None,
    accept: bool = False,
    say: Say = lambda line: None,
    personal: str | None = None,
    if_better: bool = False,
) -> Pulled:
    """Replace a run's generalists by the federation's; they are kept to go back to.

    Args:
        run: The folder of the run.
        exchange: The repository that the federation is in.
        participant: The run's name in the federation.
        accept: Whether to take what has changed or cannot be verified (`--trust`).
        say: It is told what is accepted, a sentence each.
        personal: How the run mixes its own generalists (see `mixing`); None gives it
            what everybody receives.
        if_better: Whether to refuse generalists that make the run worse (see
            `participant.if_better`).

    Raises:
        Untrusted: Unless `accept`, if the federation is not what the run takes part in
            or the generalists are not what the contributions make.
        ComigsError: If it cannot be read or the run does not fit; the run is
            unchanged then.
    """
    federation = repository.current(exchange)
    scores = functools.cache(lambda: mixing.scores_of_run(run, say))
    loss = lambda: mixing.as_loss(scores())
    how = None if personal is None else mixing.Mixing(personal, loss)
    given = participant, accept, say, how, scores if if_better else None
    try:
        changed = pull_push.pull(run, exchange, federation, *given)
    except Worse as worse:
        return Pulled(federation.round.round, False, personal, worse.refusal)
    return Pulled(federation.round.round, changed, personal)


def push(
    run: Path,
    exchange: Exchange,
    participant: str | None = None,
    options: PrivacyOptions | None = None,
    propose: bool = False,
    say: Say = lambda line: None,
    accept: bool = False,
) -> dict[str, Any]:
    """Contribute a run's generalists to the open round, and close it if it is due.

    Args:
        run: The folder of the run.
        exchange: The repository that the federation is in.
        participant: The run's name in the federation; None means the one that it had
            last.
        options: The options of differential privacy; None means those that the run had
            last.
        propose: Whether to open a pull request for those who may write, and close
            nothing.
        say: It is told on how many secrets the run was trained, before anything is
            sent, and when a private contribution is sent again as it was.
        accept: Whether to take what has changed in federation.json (`--trust`).

    Returns:
        What `leaving` lists, with "participant", "round" and whether it is "closed"
        now; of a proposal also its "url" and whether it is "new".

    Raises:
        ComigsError: If the round does not take them, and what to do.
    """
    federation, prepared, before = _prepared(
        run, exchange, participant, options, True, say, accept
    )
    name, number = prepared.metadata.participant, federation.open_round
    result = {"participant": name, "round": number, "closed": False}
    say(trained_secrets(run))
    with pull_push.intended(run, exchange.uri, prepared, before):
        if propose:
            url, new = submit.propose(exchange, federation, prepared)
            result |= {"url": url, "new": new}
        else:
            submit.contribute(exchange, federation, prepared)
    pull_push.contributed(run, exchange.uri, name, prepared, before)
    if not propose:
        result["closed"] = is_closed(exchange, number, federation.trust)
    return {**result, **status.leaving(prepared), **_licence(run)}


def _licence(run: Path) -> dict[str, str]:
    """What is known of the licence of the run's base model, for `remarks`."""
    name = description.licence(Place(run).read_info())
    return {} if name is None else {"base_license": name}


def close(
    exchange: Exchange, say: Say = lambda line: None, accept: bool = False
) -> Closing:
    """Accept the proposals that are fit, and close the open round if it is due.

    Args:
        exchange: The repository that the federation is in.
        say: It is told which pull request could not be closed, and why.
        accept: Whether to take a manifest that somebody else than the founder has
            changed, and generalists that cannot be verified (`--trust`).

    Raises:
        Untrusted: Unless `accept`.
    """
    federation = repository.current(exchange, believed := Trust(accept))
    stranger = attribution.stranger(exchange, federation.snapshot)
    if stranger is not None and not accept:
        raise Untrusted(
            f"federation.json was last changed by {stranger}, who did not found the "
            "federation: look at sync status, and accept it with sync merge --trust"
        )
    number = federation.open_round
    proposals = [one.as_dict() for one in pull_requests.accept(exchange, say, believed)]
    return Closing(number, is_closed(exchange, number, believed), proposals)


def is_closed(exchange: Exchange, round: int, believed: Trust | None = None) -> bool:
    """Whether a round is closed now, by this call or by somebody else."""
    now = repository.current(exchange, believed)
    if now.open_round > round:
        return True
    return closing.close_if_due(exchange, now, time.time()) is not None


def _prepared(
    run: Path,
    exchange: Exchange,
    participant: str | None,
    options: PrivacyOptions | None,
    send: bool,
    say: Say = lambda line: None,
    accept: bool = False,
) -> tuple[Federation, Prepared, dict[str, Array]]:
    """The federation, a contribution to it, and the residual that went into it."""
    record = membership.read(run)
    name = participant or (record.participant if record else None)
    if name is None:
        raise FederationError(
            "--participant NAME is missing: your name in the federation"
        )
    federation = repository.current(exchange, pull_push.trusting(run, exchange.uri))
    pull_push.agreed(run, exchange, federation, accept and send, say)
    submit.check_participant(exchange, federation, name)
    contribution = pull_push.prepare(
        run, exchange, federation, name, options, send, say
    )
    return federation, *contribution


def history(run: Path) -> list[dict[str, Any]]:
    """What a run wrote of each round it trained in, oldest first."""
    return [each for each, _ in reports(Place(run).rounds, "round")]


def kept(run: Path) -> list[int]:
    """What generalists are kept on this device: own ones below 0, then rounds."""
    folder = Place(run).path
    return [*round_history.own(folder), *round_history.rounds(folder)]


def kept_as(run: Path) -> dict[int, str]:
    """Each of `kept` with what it is, for people."""
    return {one.number: one.label for one in kept_all(run)}


def kept_all(run: Path) -> list[Kept]:
    """All of `kept`, with what is known of them."""
    return [round_history.kept(Place(run).path, number) for number in kept(run)]


def before_joining(run: Path) -> int | None:
    """The number of what a run had before it joined; None: none is kept, or it has it.

    Of several federations one after the other, the last counts.
    """
    record = membership.read(Place(run).path)
    known = [one for one in kept_all(run) if one.joining]
    if record is None or record.round == -1 or not known:
        return None
    newest = min(known, key=lambda one: one.number)
    same = record.step == newest.step and record.generalist == newest.digest
    return None if same and record.contributed == 0 else newest.number


def kept_generalists(run: Path, number: int) -> dict[str, Array]:
    """The tensors of one of `kept`.

    Raises:
        FederationError: If it is not kept, damaged or of another federation.
    """
    record = membership.read(Place(run).path)
    return round_history.read(Place(run).path, number, record.uri if record else "")


def roll_back(run: Path, round: int) -> None:
    """Give a run the generalists of an earlier round again; needs no network.

    The run then stands where a pull of that round left it, and with its own where it
    was before a pull: a push is refused until the newest round is pulled, and a pull
    brings that again.

    Args:
        run: The folder of a run that is not being trained.
        round: The number of a round, one of those that `kept` lists.

    Raises:
        ComigsError: If that round is not kept, or the run is in use, damaged or of
            another shape; nothing has been changed then.
    """
    from comigs_mlx.runs import generalists
    from comigs_mlx.runs.folder import RunFolder

    folder = RunFolder(run)
    folder.check_exists()
    with folder.in_use():
        before = membership.read(folder.path)
        if before is None:
            raise FederationError(f"{run} takes part in no federation: pull first")
        tensors = round_history.read(folder.path, round, before.uri)
        step = pull_push.of_run(folder.path).step
        # The record first: killed in between, the run only has to pull again.
        own = round < 0
        after = dataclasses.replace(
            before,
            round=-1 if own else round,
            step=step,
            generalist=None if own else digest(tensors),
            personal=None,
        )
        membership.write(folder.path, after)
        try:
            generalists.replace(folder, tensors)
        except ComigsError:
            membership.write(folder.path, before)
            raise
