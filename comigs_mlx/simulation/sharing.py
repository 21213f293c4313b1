"""Ends a round: collects contributions, closes it, hands generalists to
participants.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from comigs_mlx.federation.aggregation import aggregate
from comigs_mlx.federation.aggregation.personal import Loss
from comigs_mlx.federation.formats.round import Round
from comigs_mlx.federation.formats.tensor_source import Array, Arrays, Source
from comigs_mlx.federation.participant.mixing import (
    as_loss,
    in_memory,
    valid_scores,
)
from comigs_mlx.simulation.local_federation import LocalFederation
from comigs_mlx.simulation.measuring import Measuring
from comigs_mlx.simulation.method import Method
from comigs_mlx.simulation.participant import Participant, filled


@dataclass
class Sharing:
    """The federation of a method's participants, and how they use it.

    Attributes:
        federation: The federation of the participants.
        method: The method, which says what each participant receives.
        participants: The participants, all of them.
        measuring: The measuring, for methods that choose by a participant's validation
            text.
        local_steps: The expert steps of a participant in a round.
    """

    federation: LocalFederation
    method: Method
    participants: Sequence[Participant]
    measuring: Measuring
    local_steps: int

    def share(
        self, arrived: Mapping[str, int], active: int
    ) -> tuple[int, Round | None]:
        """Contribute, close the round, and let each participant receive its
        generalists.

        If nothing arrives, the generalists stay those of the round before; a
        participant that combines for itself goes on with what it trained.

        Args:
            arrived: Maps each participant whose contribution arrives to its tokens.
            active: The number of participants that take part.

        Returns:
            The bytes sent and received by all of them, and the round as it was
            closed; None where nothing arrived.
        """
        current = self.federation.generalists()
        bytes_sent = self._contribute(arrived, current)
        if self.method.personal is not None:
            round = self.federation.close(lambda accepted: self._mix(accepted, current))
            # Everybody needs all contributions but its own.
            return active * sum(bytes_sent.values()), round
        round = self.federation.close()
        closed = self.federation.generalists()
        for participant in self.participants:
            participant.receive(closed)
        received = active * self.federation.download_bytes()
        return sum(bytes_sent.values()) + received, round

    def _contribute(
        self, arrived: Mapping[str, int], current: Mapping[str, Array]
    ) -> dict[str, int]:
        """Contribute; return the bytes that each participant sent."""
        name = self.federation.manifest.aggregator.name
        pad = not aggregate.load(name).HANDLES_RANKS
        bytes_sent = {}
        for participant in self.participants:
            if participant.name in arrived:
                tokens = arrived[participant.name]
                bytes_sent[participant.name] = self.federation.contribute(
                    participant.name,
                    filled(participant.generalists(), current, pad),
                    current,
                    {"steps": self.local_steps, "tokens": tokens},
                )
        return bytes_sent

    def _mix(self, accepted: Sequence[Source], current: Mapping[str, Array]) -> None:
        """Let each participant receive its own combination of the contributions."""
        personal, start = self.method.personal, Arrays("", current)
        assert personal is not None
        sources = in_memory(accepted)  # every participant reads all of them
        for participant in self.participants:
            participant.receive(personal(sources, start, self.loss(participant)))

    def loss(self, participant: Participant) -> Loss:
        """Return the function by which a participant judges generalists: its loss."""

        evaluator = self.measuring.layouts.evaluator(participant.options)
        batches, speaks = self.measuring.valid[participant.name], self.method.speaks[0]
        judged = (evaluator, batches, speaks, participant.with_generalists)
        return as_loss(valid_scores(*judged))
