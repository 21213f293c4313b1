"""The side of a participant: answers the server's messages while its run trains.

Flower starts a new process for every message, and a base model takes seconds to load.
So the process that trains stays, and the ClientApp only passes the message on to it.
"""

from __future__ import annotations

from typing import Literal

from comigs_mlx.errors import FederationError
from comigs_mlx.federation.exchanges.base import Say
from comigs_mlx.federation.flower import secure
from comigs_mlx.federation.flower.packet import Packet, pack, unpack
from comigs_mlx.federation.flower.served import ServedExchange
from comigs_mlx.federation.formats.strict_json import visible
from comigs_mlx.federation.formats.tensor_source import Array

Mode = Literal["plain", "secure"]

MARGIN = 0.9
"""The share of a message's time after which its answer says: later."""

LONGEST_WAIT = 24 * 3600.0
"""The most seconds that a message of the server can make an answer wait."""


class Resident:
    """Answers messages of the server for one run.

    Args:
        exchange: The repository as the run sees it, which trains in another thread.
        mode: How the participant contributes; the server's other mode is refused.
        say: It is told what the server says of the run's contributions.
    """

    def __init__(self, exchange: ServedExchange, mode: Mode, say: Say):
        self.exchange, self.mode, self.say = exchange, mode, say

    def reply(self, message: bytes) -> bytes:
        """Make the answer to one message; whatever is wrong with it is told."""
        try:
            return pack(self._answered(unpack(message)))
        except FederationError as error:
            return pack(nothing(str(error)))
        except Exception as error:  # the next message must find somebody who answers
            return pack(nothing(f"the trainer has failed: {error!r}"))

    def _answered(self, message: Packet) -> Packet:
        if message.kind == "refused":
            why = visible(str(message.about.get("why", ""))[:300])
            self.say(f"the server refuses the contribution of this run: {why}")
            return nothing("noted")
        if message.kind != "round":
            raise FederationError(f"an unknown message {message.kind[:40]!a}")
        if (asked := message.about.get("mode")) != self.mode:
            raise FederationError(
                f"this participant contributes in the mode {self.mode}, the server "
                f"asks for {str(asked)[:40]!a}"
            )
        self.exchange.bring(message)
        if self.exchange.over:
            return nothing("over")
        return self._contribution(self.exchange.round + 1, message)

    def _contribution(self, round: int, message: Packet) -> Packet:
        seconds = MARGIN * _positive(message, "seconds")
        ready = self.exchange.answer(round, seconds)
        if ready is None:
            raise FederationError(f"still training for round {round}")
        about = {
            "kind": "contribution",
            "participant": ready.participant,
            "round": ready.round,
        }
        if self.mode == "secure":
            update = secure.update_of(self.exchange, ready)
            self._tell_clipped(update, _positive(message, "range"))
            return Packet({**about, "count": update.size}, {"update": update.tobytes()})
        return Packet(about, ready.files)

    def _tell_clipped(self, update: Array, limit: float) -> None:
        """Say how much of an update is outside the range that was agreed."""
        if count := secure.clipped(update, limit):
            self.say(
                f"{count:,} of {update.size:,} values of this update are clipped to "
                f"the range {limit:g}: the server's owner can widen it with "
                "--clipping-range"
            )


def nothing(why: str) -> Packet:
    """Return the answer without a contribution, and why there is none."""
    return Packet({"kind": "nothing", "why": why})


def _positive(message: Packet, name: str) -> float:
    """Return a positive number that a message states, or `LONGEST_WAIT` at most."""
    given = message.about.get(name)
    if not isinstance(given, int | float) or isinstance(given, bool) or given <= 0:
        raise FederationError(f"a message without {name}")
    return min(float(given), LONGEST_WAIT)
