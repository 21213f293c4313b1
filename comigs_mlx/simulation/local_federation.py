"""A method's federation, in memory: the real one, on a clock that counts rounds.

Contributions are encoded, committed, listed, checked and aggregated by the same code as
in a real federation; only the exchange is in memory, and forgets a closed round.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from comigs_mlx.federation.exchanges import memory
from comigs_mlx.federation.exchanges.base import Changes
from comigs_mlx.federation.exchanges.memory import MemoryExchange, MemoryStore
from comigs_mlx.federation.formats import adapter
from comigs_mlx.federation.formats.contribution import prepare
from comigs_mlx.federation.formats.manifest import Manifest
from comigs_mlx.federation.formats.round import Round
from comigs_mlx.federation.formats.tensor_source import Array, Arrays, Source
from comigs_mlx.federation.rounds import closing, repository, verification
from comigs_mlx.federation.rounds.reviewing import FOLDER
from comigs_mlx.federation.rounds.submit import contribute
from comigs_mlx.federation.rounds.verification import Trust

SECONDS = 60.0
"""The time between two rounds on the simulated clock; the deadline of a round is
one second.
"""


OWN = Trust(everything=True)
"""The trust without verification: no other program writes here, and the
contributions to a round are forgotten at once.
"""


@dataclass
class LocalFederation:
    """The federation of a method's participants.

    Attributes:
        manifest: The manifest of the federation.
        store: The store that holds its files.
        time: The time on the simulated clock, in seconds.
        residuals: Maps a participant to its quantisation residual; see `encoding`.
    """

    manifest: Manifest
    store: MemoryStore = field(default_factory=MemoryStore)
    time: float = 0.0
    residuals: dict[str, dict[str, Array]] = field(default_factory=dict)

    @classmethod
    def in_folder(cls, manifest: Manifest, folder: Path | None) -> LocalFederation:
        """Make one whose contributions lie in a folder of their own, if given."""
        return cls(manifest, MemoryStore(folder=folder))

    def begin(self, generalists: Mapping[str, Array]) -> None:
        """Make the federation."""
        repository.initialise(
            MemoryExchange(None, self.store), self.manifest, generalists, 0
        )

    def generalists(self) -> dict[str, Array]:
        """Return the current generalists, sorted: a file has no fixed order."""
        exchange = MemoryExchange(None, self.store)
        federation = repository.current(exchange, OWN)
        return dict(sorted(repository.pull(exchange, federation).items()))

    def contribute(
        self,
        name: str,
        values: Mapping[str, Array],
        current: Mapping[str, Array],
        counters: Mapping[str, int],
    ) -> int:
        """Put a participant's generalists into the open round; return bytes sent.

        Args:
            name: The name of the participant.
            values: The generalists of the participant.
            current: The federation's generalists, as `generalists` returned them in
                this round.
            counters: The counters of its training; see `contribution`.
        """
        exchange = MemoryExchange(name, self.store)
        federation = repository.current(exchange)
        prepared = prepare(
            values,
            Arrays("", current),
            self.manifest,
            participant=name,
            round=federation.open_round,
            counters=counters,
            residual=self.residuals.get(name),
        )
        contribute(exchange, federation, prepared)
        if self.manifest.encoding == "int8":
            self.residuals[name] = prepared.residual
        return sum(map(len, prepared.files().values()))

    def close(
        self, look: Callable[[Sequence[Source]], None] | None = None
    ) -> Round | None:
        """Close the open round if there is a contribution; return the closed round.

        Args:
            look: Is called with the contributions of the closed round, as a participant
                of a real federation reads them, while they can be read.
        """
        self.time += SECONDS
        exchange = MemoryExchange(None, self.store)
        federation = repository.current(exchange, OWN)
        closed = closing.close_if_due(exchange, federation, self.time)
        if closed is None:
            return None
        if look is not None:
            with verification.contributions(exchange, closed, OWN) as (sources, _):
                look(sources)
        files = closed.snapshot.files
        old: Changes = {path: None for path in files if path.startswith(f"{FOLDER}/")}
        exchange.commit(old, "Forget what is closed")
        self.store.forget()
        return closed.round

    def download_bytes(self) -> int:
        """Count the bytes of the current generalists, as each participant pulls
        them.
        """
        files = MemoryExchange(None, self.store).snapshot().files
        return sum(files[path].size for path in adapter.paths(self.manifest))

    def files(self) -> dict[str, bytes]:
        """Return all files of the federation, between two rounds."""
        assert self.store.history is not None
        newest = self.store.history[-1].files
        return {path: memory.read(content) for path, content in newest.items()}

    def restore(self, files: Mapping[str, bytes], time: float) -> None:
        """Put the federation where it was when `files` were read."""
        self.store, self.time = MemoryStore(folder=self.store.folder), time
        exchange = MemoryExchange(None, self.store)
        exchange.create()
        exchange.commit(dict(files), "Restore")
        self.store.forget()
