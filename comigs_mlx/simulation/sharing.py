"""The federation of a round: takes contributions as they come, closes it, hands on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from comigs_mlx.federation.aggregation import aggregate
from comigs_mlx.federation.formats.round import Round
from comigs_mlx.federation.formats.tensor_source import Array
from comigs_mlx.simulation.host import Host
from comigs_mlx.simulation.local_federation import LocalFederation
from comigs_mlx.simulation.method import Method
from comigs_mlx.simulation.participant import filled


@dataclass
class Sharing:
    """The federation of a method's participants, and how they use it.

    Attributes:
        federation: The federation of the participants.
        method: The method, which says what each participant receives.
        host: Whoever holds the participants.
        local_steps: The expert steps of a participant in a round.
        received: Whether the participants have ever received what a round gave.
    """

    federation: LocalFederation
    method: Method
    host: Host
    local_steps: int
    received: bool = False
    _sent: dict[str, int] = field(default_factory=dict)
    _current: dict[str, Array] = field(default_factory=dict)

    def open(self) -> None:
        """Begin a round: every contribution starts from the generalists of now."""
        self._sent, self._current = {}, self.federation.generalists()

    def contribute(self, name: str, own: Mapping[str, Array], tokens: int) -> None:
        """Put a participant's generalists into the open round.

        Args:
            name: The name of the participant.
            own: Its generalists, in its own shape.
            tokens: The tokens that its experts saw in the round.
        """
        pad = not aggregate.load(self.federation.manifest.aggregator.name).HANDLES_RANKS
        self._sent[name] = self.federation.contribute(
            name,
            filled(own, self._current, pad),
            self._current,
            {"steps": self.local_steps, "tokens": tokens},
        )

    def close(self, active: int) -> tuple[int, Round | None]:
        """Close the round, and let each participant receive its generalists.

        If nothing has arrived, the generalists stay those of the round before; a
        participant that combines for itself goes on with what it trained.

        Args:
            active: The number of participants that take part.

        Returns:
            The bytes sent and received by all of them, and the round as it was
            closed; None where nothing arrived.
        """
        sent, current = sum(self._sent.values()), self._current
        if self.method.personal is not None:
            mix = self.host.mix
            round = self.federation.close(lambda accepted: mix(accepted, current))
            return active * sent, round  # everybody needs all contributions but its own
        round = self.federation.close()
        self.host.receive(self.federation.generalists())
        self.received = True
        return sent + active * self.federation.download_bytes(), round
