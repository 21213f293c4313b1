"""Training that takes part in a federation: pull, train, contribute, close, repeat.

A round of this run ends at every multiple of `local_steps`. There the run has been
saved; its generalists are contributed to the open round, the round is closed if it is
due, and the next generalists are brought into the saved run and the running one. A
contribution is made of the save alone, so that after a kill or a lost answer the same
bytes are made again, and found to be there already. What could not be sent while the
repository was out of reach is sent at the end of a later round, as the run is then.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, cast

from comigs_mlx.errors import FederationError
from comigs_mlx.federation.exchanges.base import Exchange, Moved, Unreachable
from comigs_mlx.federation.exchanges.metered import Metered
from comigs_mlx.federation.participant import membership, mixing, pull_push
from comigs_mlx.federation.participant.membership import Membership
from comigs_mlx.federation.participant.mixing import Mixing
from comigs_mlx.federation.participant.trust import Changed
from comigs_mlx.federation.rounds import closing, repository, submit
from comigs_mlx.federation.rounds.repository import Federation
from comigs_mlx.federation.rounds.submit import Late
from comigs_mlx.federation.rounds.verification import Untrusted
from comigs_mlx.messages import Note
from comigs_mlx.model import params
from comigs_mlx.options import TrainConfig
from comigs_mlx.runs import trained_secrets
from comigs_mlx.runs.session import Say, Session, has_learnt
from comigs_mlx.training import checkpoint
from comigs_mlx.training.records import Boundary, Exchanged, Pause, Report, Step

Event = Step | Report | Boundary | Pause | Exchanged
Stop = Callable[[], bool]

FIRST_PAUSE, LONGEST_PAUSE = 1.0, 15.0
"""Seconds between two looks at whether the others are ready."""


def _never() -> bool:
    return False


@dataclass(frozen=True)
class RoundEnd:
    """How a round of a run ends: the run closes it, and looks for news.

    Attributes:
        close: Closes a round that is due, as `closing.close_if_due` does; nobody but a
            server does where there is one.
        pause: Waits for news for so many seconds at most.
        over: Tells whether there are no further rounds.
    """

    close: Callable[[Exchange, Federation, float], Federation | None] = (
        closing.close_if_due
    )
    pause: Callable[[float], None] = time.sleep
    over: Stop = _never


WITHOUT_SERVER = RoundEnd()
"""How it is at a repository, where nobody leads the rounds."""


@dataclass(frozen=True)
class Connection:
    """The repository of a federation, and how rounds end there."""

    exchange: Exchange
    round_end: RoundEnd = WITHOUT_SERVER


class Participation:
    """One run's part in a federation.

    Args:
        exchange: The repository that the federation is in.
        session: The session of the run, opened already.
        config: The configuration; its `sharing.federation` is the exchange's URI.
        say: It is told what is waited for.
        accept: Whether to take what has changed or cannot be verified at the start.
        round_end: How the rounds of the run end.
    """

    def __init__(
        self,
        exchange: Exchange,
        session: Session,
        config: TrainConfig,
        say: Say,
        accept: bool = False,
        round_end: RoundEnd = WITHOUT_SERVER,
    ):
        self._round_end = round_end
        self._metered = Metered(exchange)
        self.exchange = cast("Exchange", self._metered)
        self.session, self.say = session, say
        self.options, self.privacy = config.sharing, config.privacy
        self.run_folder = session.folder.path
        self.name = self.options.participant or ""
        self._valid_loss: float | None = None
        self._accept = accept
        self._refusal: Untrusted | None = None
        self._told_secrets = False

    @property
    def steps_left(self) -> int:
        """Steps still to be made, if every round ends with a pull."""
        trainer = self.session.trainer
        left = trainer.options.steps - trainer.position.step
        refreshing = self.options.router_refresh if trainer.routers else 0
        return trainer.steps_left + refreshing * -(-left // self.options.local_steps)

    def run(self, stop: Stop) -> Iterator[Event]:
        """Train to the last step; every exchange yields what came of it.

        Args:
            stop: It is asked at each boundary and while waiting. If it is true,
                training is saved and ends there, and what is not contributed is
                contributed at the next start.

        Raises:
            FederationError: If the run does not fit, or may not contribute; the run
                has been saved then.
            Untrusted: At the end, where the federation was not trusted any more.
        """
        yield from self._begin(stop)
        self._accept = False
        for event in self.session.run(stop):
            yield event
            if isinstance(event, Boundary) and self._ends_round(event.step):
                self._valid_loss = event.valid_loss
                if not stop():
                    yield from self._or_offline(self._met(stop))
                    yield from self._refreshed()
                if stop() or self._round_end.over():  # while it waited for the others
                    break
        if self._refusal is not None:  # told once more, where it is seen
            raise self._refusal

    def _ends_round(self, step: int) -> bool:
        return self.session.trainer.ended or step % self.options.local_steps == 0

    def _begin(self, stop: Stop) -> Iterator[Event]:
        """Bring the run to where its next steps start from."""
        step = self.session.trainer.position.step
        if not checkpoint.saves(self.session.folder.states):
            self.session.save(Boundary(step, None))
        record = self._record()
        if record is None:
            yield from self._pulled(self._current())
        elif step > record.step and self._ends_round(step):
            yield from self._or_offline(self._met(stop))
        else:
            yield from self._or_offline(self._newer())
        if step == 0 and self.options.join:
            self._check_worth_joining()
        if step == 0 and self.options.specialist_from is not None:
            self._start_specialists()
        yield from self._refreshed()

    def _check_worth_joining(self) -> None:
        """Refuse to train a router over generalists that have learnt nothing yet.

        Raises:
            FederationError: If all of them compute what the base does.
        """
        model = self.session.trainer.mixture.model
        generalists = params.flatten(params.select(model, ("generalist",)))
        if not has_learnt(generalists, "generalist"):
            raise FederationError(
                f"the generalists of {self.exchange.uri} have learnt nothing yet, so "
                "there is nothing to join: wait until a round is closed, or leave out "
                "--join to train them"
            )

    def _start_specialists(self) -> None:
        if self.session.copy_generalists():
            self.say("the specialists begin as copies of the generalists")
        else:
            self.say(
                Note(
                    "--specialist-from generalist copies nothing: the generalists "
                    "have learnt nothing yet, or the specialists are copies already"
                )
            )

    def _refreshed(self) -> Iterator[Event]:
        """Train the router on new generalists, where no step was made since a pull."""
        trainer = self.session.trainer
        if trainer.position.step == self._joined().step and not trainer.ended:
            yield from trainer.refresh(self.options.router_refresh)

    def _or_offline(self, exchanging: Iterator[Event]) -> Iterator[Event]:
        """The events; a repository out of reach ends them, and is one more.

        So is one that was rewritten between two looks: the next look finds it whole.
        What is not trusted is told, and training goes on with its own values.
        """
        try:
            yield from exchanging
            self._refusal = None
        except Untrusted as error:
            self._refusal = error
            yield self._exchanged("refused", self._joined().round + 1, note=str(error))
        except (Moved, Unreachable) as error:
            yield self._exchanged("offline", self._joined().round + 1, note=str(error))

    def _newer(self) -> Iterator[Event]:
        federation = self._current()
        if self._accept or federation.round.round != self._joined().round:
            yield from self._pulled(federation)

    def _current(self) -> Federation:
        """The federation as it is now, if it is what the run takes part in.

        Raises:
            Changed: If it is not.
            FederationError: If it does not let this participant take part any more.
        """
        place = self.exchange.uri
        believed = pull_push.trusting(self.run_folder, place)
        federation = repository.current(self.exchange, believed)
        parts = self.run_folder, self.exchange, federation
        try:
            pull_push.agreed(*parts, self._accept, self.say)
        except Changed as change:
            allowed = federation.manifest.participants
            if allowed is None or self.name in allowed or self.options.join:
                raise
            raise FederationError(
                f"{self.name} is not among the participants of {place} any more: ask "
                f"its owner; {change}"
            ) from change
        return federation

    def _met(self, stop: Stop) -> Iterator[Event]:
        """The end of a round of this run: contribute, close, pull.

        With `join` there is nothing to contribute: the run only looks for newer
        generalists, and not after its last step, as its router is of those it has.
        """
        if self.options.join:
            if not self.session.trainer.ended:
                yield from self._newer()
            return
        federation, round = self._current(), self._joined().round + 1
        if federation.open_round == round:
            try:
                yield from self._contribute(federation)
            except Late:
                federation = self._current()
        if federation.open_round == round:
            federation = self._closed(federation, stop)
        if federation.open_round > round:
            run, place = self.run_folder, self.exchange.uri
            if pull_push.counted(run, federation, place, self.name):
                yield self._exchanged("contributed", round)
            elif self._joined().contributed < round:
                yield self._exchanged("late", round, note="closed without this run")
            yield from self._pulled(federation)

    def _contribute(self, federation: Federation) -> Iterator[Exchanged]:
        run, place, round = self.run_folder, self.exchange.uri, federation.open_round
        if not self._told_secrets:
            self.say(trained_secrets.sentence(run))
            self._told_secrets = True
        prepared, before = pull_push.prepare(
            run, self.exchange, federation, self.name, self.privacy, say=self.say
        )
        with pull_push.intended(run, place, prepared, before):
            new = submit.contribute(self.exchange, federation, prepared)
        known = self._joined().contributed == round
        pull_push.contributed(run, place, self.name, prepared, before)
        if new or not known:
            spent, loss = prepared.metadata.privacy, self._valid_loss
            note = "" if spent is None else f"epsilon {spent.epsilon:.2f} spent so far"
            yield self._exchanged("contributed", round, valid_loss=loss, note=note)

    def _closed(self, opened: Federation, stop: Stop) -> Federation:
        """The federation once its open round is closed, or when waiting is over."""
        end, pause, told = time.monotonic() + self.options.wait, FIRST_PAUSE, False
        while True:
            now = self._current()
            if now.round.round > opened.round.round:
                return now
            closed = self._round_end.close(self.exchange, now, time.time())
            left = end - time.monotonic()
            if closed is not None or stop():
                return closed or now
            if left <= 0:
                self.say(f"round {opened.open_round} is still open: it counts later")
                return now
            if not told:
                text = f"waiting for the others, {left:.0f} s at most"
                self.say(f"round {opened.open_round}: {text}")
                told = True
            self._round_end.pause(min(pause, left))
            pause = min(1.5 * pause, LONGEST_PAUSE)

    def _pulled(self, federation: Federation) -> Iterator[Exchanged]:
        """Bring the last round's generalists into the saved run and the running one."""
        parts = self.run_folder, self.exchange, federation, self.name
        if not pull_push.bring(*parts, self._accept, self.say, self._mixing()):
            return
        self.session.take_generalists()
        last = federation.round
        reason = last.refused.get(self.name)
        yield self._exchanged(
            "pulled",
            last.round,
            contributors=list(last.contributors),
            note="" if reason is None else f"your contribution was refused: {reason}",
        )

    def _mixing(self) -> Mixing | None:
        """How the run mixes; a round that cannot be mixed does not end its training."""
        if self.options.personal is None:
            return None
        judge = functools.partial(mixing.loss_in_training, self.session.trainer)
        return Mixing(self.options.personal, judge, lambda text: self.say(Note(text)))

    def _exchanged(self, kind: str, round: int, **more: Any) -> Exchanged:
        """A record of what happened, also kept in the run's rounds.jsonl."""
        sent, received = self._metered.take()
        record = Exchanged(
            step=self.session.trainer.position.step,
            event=kind,
            round=round,
            bytes_sent=sent,
            bytes_received=received,
            **more,
        )
        self.session.folder.add_round(record.to_dict())
        return record

    def _record(self) -> Membership | None:
        """The run's record, if it is of this federation."""
        record = membership.read(self.run_folder)
        place = membership.place(self.exchange.uri)
        return record if record is not None and record.uri == place else None

    def _joined(self) -> Membership:
        record = self._record()
        assert record is not None
        return record
