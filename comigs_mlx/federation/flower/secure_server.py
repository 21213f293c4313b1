"""The server's rounds in the secure mode: it is asked by Flower's workflow, and
answers."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from comigs_mlx.errors import FederationError
from comigs_mlx.federation.exchanges.base import Say
from comigs_mlx.federation.flower import secure, state
from comigs_mlx.federation.flower.node_folder import NodeFolder
from comigs_mlx.federation.flower.packet import Packet, pack
from comigs_mlx.federation.flower.server import Limits
from comigs_mlx.federation.formats.tensor_source import Array
from comigs_mlx.federation.rounds import closing, repository, submit

MOST_ATTEMPTS = 5
"""A round that secure aggregation has begun so many times in vain ends the server."""


@dataclass
class SecureServer:
    """Answers what the ServerApp asks in secure rounds.

    Attributes:
        exchange: The folder of the federation.
        rounds: The number of rounds to close.
        say: It is told what happens, a line each.
        limits: How long the server waits.
        widest: The range of an update's values in the first round.
        clock: The present, in seconds, of any beginning.
    """

    exchange: NodeFolder
    rounds: int
    say: Say
    limits: Limits = field(default_factory=Limits)
    widest: float = 0.25
    clock: Callable[[], float] = time.monotonic

    def __post_init__(self) -> None:
        federation = repository.current(self.exchange)
        secure.check(federation.manifest)
        self._last = federation.round.round + self.rounds
        self._mean: Array | None = None
        self._began, self._attempts = self.clock(), 0
        self._told: tuple[int, int] = (0, 0)

    def answer(self, asked: Packet) -> Packet:
        """Answer the ServerApp.

        Raises:
            FederationError: If a round has failed too often, or takes too long.
        """
        if asked.kind == "round":
            return self._begin([str(node) for node in asked.about["nodes"]])
        if asked.kind == "mean":
            return self._close(asked)
        raise FederationError(f"an unknown question {asked.kind!a} of the ServerApp")

    def over(self) -> bytes:
        """Return the last message for everybody."""
        federation = repository.current(self.exchange)
        about = {"mode": "secure", "seconds": self.limits.answer, "over": True}
        return pack(state.packed(self.exchange, federation, about))

    def _begin(self, nodes: list[str]) -> Packet:
        """Let the open round begin if enough nodes are there."""
        federation = repository.current(self.exchange)
        if federation.round.round >= self._last:
            return Packet({"kind": "over"})
        number, quorum = federation.open_round, federation.manifest.quorum
        if self.clock() - self._began > self.limits.round:
            raise FederationError(
                f"round {number} was not closed within {self.limits.round:.0f} s: "
                f"{len(nodes)} of {quorum} nodes are connected; start the server again "
                "with a longer --wait"
            )
        if (number, len(nodes)) != self._told:
            self.say(f"round {number}: {len(nodes)} nodes are connected of {quorum}")
            self._told = number, len(nodes)
        if len(nodes) < quorum:
            return Packet({"kind": "wait"})
        self._attempts += 1
        if self._attempts > MOST_ATTEMPTS:
            raise FederationError(
                f"round {number} failed {MOST_ATTEMPTS} times: see --log FILE for what "
                "the participants answered"
            )
        limit = secure.fitted(self._mean, self.widest)
        about = {"mode": "secure", "seconds": self.limits.answer, "range": limit}
        message = pack(state.packed(self.exchange, federation, about))
        self.say(f"round {number}: begins with {len(nodes)} nodes, range {limit:.3g}")
        return Packet({**about, "kind": "go"}, {"message": message})

    def _close(self, asked: Packet) -> Packet:
        """Close the open round with the mean of its updates."""
        federation = repository.current(self.exchange)
        mean = np.frombuffer(asked.files["mean"], np.float32)
        nodes = [int(node) for node in asked.about["nodes"]]
        number = federation.open_round
        try:
            prepared = secure.contributed(self.exchange, federation, mean, nodes)
            submit.contribute(self.exchange, federation, prepared)
            now = repository.current(self.exchange)
            if not closing.close_if_due(self.exchange, now, time.time(), len(nodes)):
                raise FederationError("the checks of the federation refuse the mean")
        except FederationError as error:
            self.say(f"round {number} begins again: {error}")
            return Packet({"kind": "again"})
        self.say(f"round {number} is closed: the mean of {len(nodes)}")
        self._mean, self._began, self._attempts = mean, self.clock(), 0
        return Packet({"kind": "closed"})
