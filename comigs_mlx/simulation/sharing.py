"""The end of a round: contributions in, a closed round, everybody's generalists out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from comigs_mlx.federation.aggregation import aggregate
from comigs_mlx.federation.aggregation.personal import Loss
from comigs_mlx.federation.formats.round import Round
from comigs_mlx.federation.formats.tensor_source import Array, Arrays, Source
from comigs_mlx.federation.participant.mixing import in_memory, valid_loss
from comigs_mlx.simulation.local_federation import LocalFederation
from comigs_mlx.simulation.measuring import Measuring
from comigs_mlx.simulation.method import Method
from comigs_mlx.simulation.participant import Participant, filled


@dataclass
class Sharing:
    """How a method's participants share.

    Attributes:
        federation: Their federation.
        method: Says what everybody receives.
        participants: All of them.
        measuring: For methods that choose by a participant's validation text.
        local_steps: Expert steps of a participant in a round.
    """

    federation: LocalFederation
    method: Method
    participants: Sequence[Participant]
    measuring: Measuring
    local_steps: int

    def share(
        self, arrived: Mapping[str, int], active: int
    ) -> tuple[int, Round | None]:
        """Contribute, close the round, and let everybody receive what is theirs.

        Where nothing arrives, the generalists stay those of the round before; whoever
        mixes for itself goes on with what it trained.

        Args:
            arrived: Participant whose contribution arrives -> tokens behind it.
            active: The number of participants that take part.

        Returns:
            The bytes sent and received by all of them, and the round as it was
            closed; None where nothing arrived.
        """
        current = self.federation.generalists()
        sent = self._contribute(arrived, current)
        if self.method.personal is not None:
            round = self.federation.close(lambda found: self._mix(found, current))
            # Everybody needs all contributions but its own.
            return active * sum(sent.values()), round
        round = self.federation.close()
        closed = self.federation.generalists()
        for participant in self.participants:
            participant.receive(closed)
        received = active * self.federation.download_bytes()
        return sum(sent.values()) + received, round

    def _contribute(
        self, arrived: Mapping[str, int], current: Mapping[str, Array]
    ) -> dict[str, int]:
        """Participant -> bytes it sent."""
        name = self.federation.manifest.aggregator.name
        pad = not aggregate.load(name).HANDLES_RANKS
        sent = {}
        for participant in self.participants:
            if participant.name in arrived:
                tokens = arrived[participant.name]
                sent[participant.name] = self.federation.contribute(
                    participant.name,
                    filled(participant.generalists(), current, pad),
                    current,
                    {"steps": self.local_steps, "tokens": tokens},
                )
        return sent

    def _mix(self, accepted: Sequence[Source], current: Mapping[str, Array]) -> None:
        """Let every participant receive what it makes of the contributions."""
        personal, start = self.method.personal, Arrays("", current)
        assert personal is not None
        sources = in_memory(accepted)  # everybody reads all of them
        for participant in self.participants:
            participant.receive(personal(sources, start, self.loss(participant)))

    def loss(self, participant: Participant) -> Loss:
        """How a participant judges generalists: by its validation text."""

        evaluator = self.measuring.layouts.evaluator(participant.options)
        batches, speaks = self.measuring.valid[participant.name], self.method.speaks[0]
        return valid_loss(evaluator, batches, speaks, participant.with_generalists)
