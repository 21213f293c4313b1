"""The server's rounds: ask the participants, take what they answer, close what is due.

The server adds nothing to a federation but the carrying: it keeps the folder, and calls
the same `closing` that any participant of a folder calls. It may be killed at any
moment; started again, it goes on with the contributions that are in the folder.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from comigs_mlx.errors import FederationError
from comigs_mlx.federation.exchanges.base import Say
from comigs_mlx.federation.flower import state
from comigs_mlx.federation.flower.node_folder import NodeFolder
from comigs_mlx.federation.flower.packet import Packet, pack, unpack
from comigs_mlx.federation.flower.state import Door
from comigs_mlx.federation.formats.strict_json import visible
from comigs_mlx.federation.rounds import closing, repository, reviewing
from comigs_mlx.federation.rounds.repository import Federation
from comigs_mlx.federation.rounds.submit import Late

AGAIN_SECONDS = 20.0
"""After an answer without a contribution, a node is asked again so much later."""

TOLD_SECONDS = 30.0
"""How often it is said whom a round waits for."""

FAREWELL_SECONDS = 20.0
"""How long the last message may take to reach everybody."""


@dataclass(frozen=True)
class Answer:
    """What became of one message.

    Attributes:
        node: The SuperNode that it went to.
        content: The bytes that the SuperNode answered; None if there was none.
        error: Why there was none.
    """

    node: int
    content: bytes | None
    error: str = ""


class Grid(Protocol):
    """The nodes that are connected, and messages to them."""

    def nodes(self) -> Mapping[int, str | None]:
        """Return the nodes that are connected, each with its account, if it has one."""

    def ask(self, node: int, content: bytes, seconds: float) -> None:
        """Send a message to a node, whose answer has so many seconds."""

    def answers(self) -> list[Answer]:
        """Return the answers that have come since the last call."""


@dataclass(frozen=True)
class Limits:
    """How long the server waits.

    Attributes:
        round: The seconds that one round may take; then the server ends.
        answer: The seconds that a node has for an answer.
        look: The seconds between two looks.
    """

    round: float = 24 * 3600.0
    answer: float = 3600.0
    look: float = 1.0


@dataclass
class Server:
    """Leads a federation through rounds.

    Attributes:
        exchange: The folder of the federation.
        grid: The nodes of its participants.
        say: It is told what happens, a line each.
        limits: How long the server waits.
        pause: It waits so many seconds.
        clock: The present, in seconds, of any beginning.
    """

    exchange: NodeFolder
    grid: Grid
    say: Say
    limits: Limits = field(default_factory=Limits)
    pause: Callable[[float], None] = time.sleep
    clock: Callable[[], float] = time.monotonic

    def __post_init__(self) -> None:
        self._door = Door(self.exchange)
        self._asked: set[int] = set()  # nodes whose answer has not come yet
        self._quiet: dict[int, float] = {}  # node -> not before then
        self._given: dict[int, int] = {}  # node -> the round that it is done with
        self._told: set[int] = set()  # nodes whose answer is to a refusal
        self._known: set[int] = set()

    def run(self, rounds: int) -> None:
        """Close so many more rounds, and tell everybody that it is over.

        Raises:
            FederationError: If a round is not closed in time, or cannot be.
        """
        federation = repository.current(self.exchange)
        last = federation.round.round + rounds
        while federation.round.round < last:
            federation = self._closed(federation)
        self.farewell(self._message(federation, over=True))

    def _closed(self, federation: Federation) -> Federation:
        """Lead the open round to its end."""
        number, began = federation.open_round, self.clock()
        message, told = self._message(federation), began
        while True:
            self._ask(number, message)
            for answer in self.grid.answers():
                self._take(repository.current(self.exchange), answer)
            now = repository.current(self.exchange)
            if (closed := self._close(now, self.clock() - began)) is not None:
                self.say(_line(closed))
                return closed
            waited = self.clock() - began
            if waited > self.limits.round:
                raise FederationError(self._too_long(now, waited))
            if self.clock() - told > TOLD_SECONDS:
                self.say(self._awaited(now, waited))
                told = self.clock()
            self.pause(self.limits.look)

    def _close(self, federation: Federation, waited: float) -> Federation | None:
        """Close the round if it is due; its deadline counts from the first message."""
        manifest = federation.manifest
        there = len(_there(federation))
        deadline = manifest.deadline_seconds
        if there < manifest.quorum and (deadline is None or waited < deadline):
            return None
        closed = closing.close_if_due(self.exchange, federation, time.time())
        return closed

    def _ask(self, number: int, message: bytes) -> None:
        now, nodes = self.clock(), self.grid.nodes()
        for node in nodes.keys() - self._known:
            self.say(f"node {node} is connected; {len(nodes)} in all")
        for node in self._known - nodes.keys():
            self.say(f"node {node} has gone; {len(nodes)} in all")
        self._known = set(nodes)
        for node in nodes:
            free = node not in self._asked and self._quiet.get(node, now) <= now
            if free and self._given.get(node) != number:
                self.grid.ask(node, message, self.limits.answer)
                self._asked.add(node)

    def _take(self, federation: Federation, answer: Answer) -> None:
        """Take one answer; nothing that it holds ends the server."""
        node = answer.node
        self._asked.discard(node)
        if node in self._told:
            self._told.discard(node)
            return
        if answer.content is None:
            self._later(node, answer.error)
            return
        try:
            if len(answer.content) > (most := state.most_bytes(federation)):
                raise FederationError(f"{len(answer.content)} bytes, at most {most}")
            packet = unpack(answer.content)
            if packet.kind != "contribution":
                self._later(node, str(packet.about.get("why", "")))
                return
            account = self.grid.nodes().get(node)
            name = self._door.take(federation, node, account, packet)
        except Late as error:
            self.say(f"node {node} comes late: {error}")
        except FederationError as error:
            self._refuse(federation, node, str(error))
        else:
            self._given[node] = federation.open_round
            size = sum(len(content) for content in packet.files.values())
            whose = "" if account is None else f" ({account})"
            self.say(f"round {federation.open_round}: {name}{whose}, {size:,} bytes")

    def _later(self, node: int, why: str) -> None:
        self._quiet[node] = self.clock() + AGAIN_SECONDS
        if why:
            self.say(f"node {node}: {visible(why)[:200]}")

    def _refuse(self, federation: Federation, node: int, why: str) -> None:
        """Say why a contribution is refused, here and to whoever sent it."""
        why = visible(why.partition("\n")[0])[:200]
        self.say(f"round {federation.open_round}: node {node} is refused: {why}")
        self._given[node] = federation.open_round
        told = pack(Packet({"kind": "refused", "why": why}))
        self.grid.ask(node, told, FAREWELL_SECONDS)
        self._asked.add(node)
        self._told.add(node)

    def _message(self, federation: Federation, **more: Any) -> bytes:
        about = {"mode": "plain", "seconds": self.limits.answer, **more}
        return pack(state.packed(self.exchange, federation, about))

    def farewell(self, message: bytes) -> None:
        """Bring a last message to everybody who is connected, within bounds."""
        end = self.clock() + FAREWELL_SECONDS
        waiting: set[int] = set()
        for node in self.grid.nodes().keys() - self._asked:
            self.grid.ask(node, message, FAREWELL_SECONDS)
            waiting.add(node)
        while waiting and self.clock() < end:
            self.pause(self.limits.look)
            waiting -= {answer.node for answer in self.grid.answers()}

    def _awaited(self, federation: Federation, waited: float) -> str:
        names, quorum = sorted(_there(federation)), federation.manifest.quorum
        here = f"{len(names)} of {quorum} contributions ({', '.join(names) or 'none'})"
        return (
            f"round {federation.open_round}: {here} after {waited:.0f} s, "
            f"{len(self._known)} nodes are connected, waiting "
            f"{self.limits.round:.0f} s at most"
        )

    def _too_long(self, federation: Federation, waited: float) -> str:
        return (
            f"{self._awaited(federation, waited)}: start the server again to go on "
            "with them, with a longer --wait, or found the federation with a smaller "
            "--quorum or with --deadline"
        )


def _there(federation: Federation) -> Mapping[str, Mapping[str, int]]:
    """Return the participants that have contributed to the open round."""
    return reviewing.candidates(federation.snapshot, federation.open_round)


def _line(closed: Federation) -> str:
    """Say how a round was closed."""
    last = closed.round
    refused = "".join(f"; refused: {n} ({why})" for n, why in last.refused.items())
    notes = "".join(f"; {note}" for note in last.notes or ())
    return (
        f"round {last.round} is closed: {', '.join(last.contributors)}{refused}{notes}"
    )
