"""The end of a round: contributions in, a closed round, everybody's generalists out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from comigs_mlx.federation.aggregation import aggregate
from comigs_mlx.federation.formats.tensor_source import Array, Source
from comigs_mlx.simulation.local_federation import Pool
from comigs_mlx.simulation.measuring import Measuring
from comigs_mlx.simulation.method import Meeting, Method, Tensors
from comigs_mlx.simulation.participant import Participant, filled


@dataclass
class Sharing:
    """How a method's participants share.

    Attributes:
        pool: Their federation.
        method: Says what everybody receives.
        participants: All of them.
        measuring: For methods that choose by a participant's validation text.
        local_steps: Expert steps of a participant in a round.
    """

    pool: Pool
    method: Method
    participants: Sequence[Participant]
    measuring: Measuring
    local_steps: int

    def share(
        self, arrived: Mapping[str, int], active: int
    ) -> tuple[int, float | None]:
        """Contribute, close the round, and let everybody receive what is theirs.

        Where nothing arrives, the generalists stay those of the round before; who has
        a mix of its own goes on with what it trained.

        Args:
            arrived: Participant whose contribution arrives -> tokens behind it.
            active: Number of participants that take part.

        Returns:
            Bytes sent and received by all of them, and the inexactness of the average.
        """
        current = self.pool.generalists()
        sent = self._contribute(arrived, current)
        mixed: dict[str, Tensors] = {}

        def look(sources: Sequence[Source]) -> None:
            if self.method.mix is not None and sources:
                mixed.update(self.method.mix(self._meeting(sources, current)))

        inexactness = self.pool.close(look if self.method.mix is not None else None)
        closed = self.pool.generalists()
        if self.method.mix is None or arrived:
            for participant in self.participants:
                participant.receive(mixed.get(participant.name, closed))
        if len({id(tensors) for tensors in mixed.values()}) > 1:
            # Everybody makes a mix of its own, so needs all contributions but its own.
            return active * sum(sent.values()), inexactness
        received = active * self.pool.download_bytes()
        return sum(sent.values()) + received, inexactness

    def _contribute(
        self, arrived: Mapping[str, int], current: Mapping[str, Array]
    ) -> dict[str, int]:
        """Participant -> bytes it sent."""
        name = self.pool.manifest.aggregator.name
        pad = not aggregate.load(name).HANDLES_RANKS
        sent = {}
        for participant in self.participants:
            if participant.name in arrived:
                tokens = arrived[participant.name]
                sent[participant.name] = self.pool.contribute(
                    participant.name,
                    filled(participant.generalists(), current, pad),
                    current,
                    {"steps": self.local_steps, "tokens": tokens},
                )
        return sent

    def _meeting(
        self, sources: Sequence[Source], current: Mapping[str, Array]
    ) -> Meeting:
        members = {participant.name: participant for participant in self.participants}

        def loss(name: str, tensors: Tensors) -> float:
            values = members[name].with_generalists(tensors)
            speaks = self.method.speaks[0]
            return self.measuring.valid_loss(members[name], speaks, values)

        return Meeting(
            sources=sources,
            current=current,
            ranks={name: p.options.rank for name, p in members.items()},
            generalists={name: p.options.generalists for name, p in members.items()},
            loss=loss,
        )
