"""What the server tells its participants of the federation, and takes from them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from comigs_mlx.errors import FederationError
from comigs_mlx.federation.exchanges.base import Exchange, File
from comigs_mlx.federation.flower.node_folder import NodeFolder
from comigs_mlx.federation.flower.packet import Packet
from comigs_mlx.federation.formats.contribution import (
    CONTRIBUTION,
    METADATA_BYTES,
    Contribution,
    Prepared,
)
from comigs_mlx.federation.formats.manifest import PARTICIPANT
from comigs_mlx.federation.formats.tensor_source import Arrays
from comigs_mlx.federation.rounds import attribution, checks, repository, submit
from comigs_mlx.federation.rounds.attribution import FOLDER
from comigs_mlx.federation.rounds.checks import Expected, Refused
from comigs_mlx.federation.rounds.repository import Federation
from comigs_mlx.federation.rounds.verification import MOST_BYTES, MOST_CONTRIBUTIONS


def packed(
    exchange: Exchange, federation: Federation, about: Mapping[str, Any]
) -> Packet:
    """Return the federation as a participant needs it to pull and to verify.

    These are all files but contributions, and the contributions to the last round, so
    that each participant computes it again. Where they are more than anybody computes
    again, only their names and sizes are told.

    Args:
        exchange: The repository that the federation is in.
        federation: The state of the federation to send.
        about: Further facts of the packet.
    """
    snapshot = federation.snapshot
    last = f"{FOLDER}/{federation.round.round}/"
    of_last = {p: f for p, f in snapshot.files.items() if p.startswith(last)}
    others = {p for p in snapshot.files if not p.startswith(f"{FOLDER}/")}
    sent = others if _many(of_last) else others | of_last.keys()
    files = {
        path: exchange.read(path, snapshot.revision, snapshot.files[path].size)
        for path in sorted(sent)
    }
    authors = exchange.authors(of_last, snapshot.revision)
    facts = {
        "kind": "round",
        "authors": {path: a for path, a in authors.items() if a is not None},
        "listed": {p: f.size for p, f in of_last.items() if p not in sent},
    }
    return Packet({**facts, **about}, files)


def _many(files: Mapping[str, File]) -> bool:
    """Tell whether nobody computes a round of these contributions again."""
    names = {path.split("/")[2] for path in files}
    total = sum(file.size for file in files.values())
    return len(names) > MOST_CONTRIBUTIONS or total > MOST_BYTES


def most_bytes(federation: Federation) -> int:
    """Return the most bytes that a participant's answer may have."""
    return federation.manifest.max_bytes + 2 * METADATA_BYTES  # its header, and ours


@dataclass
class Door:
    """Lets contributions into the open round, each judged before it is stored.

    Attributes:
        exchange: The repository that the federation is in.
        held: Maps a name to the node that contributed under it, in one round.
    """

    exchange: NodeFolder
    held: dict[str, tuple[int, int]] = field(default_factory=dict)
    _expected: Expected | None = None

    def take(
        self, federation: Federation, node: int, account: str | None, packet: Packet
    ) -> str:
        """Put a contribution into the open round.

        Args:
            federation: The state of the federation to act on.
            node: The SuperNode that sent it.
            account: The account of its key; None where it has none that is known.
            packet: What it sent.

        Returns:
            The name of the participant.

        Raises:
            submit.Late: If its round is not open any more.
            FederationError: If it is refused, and why.
        """
        round, name = packet.about.get("round"), packet.about.get("participant")
        if not isinstance(name, str) or not re.fullmatch(PARTICIPANT, name):
            raise FederationError("its participant has no name that we could write")
        if round != federation.open_round:
            raise submit.Late(
                f"it is for round {round}, {federation.open_round} is open"
            )
        prepared = self._judged(federation, name, account, packet)
        if not self._is_there(federation, prepared):
            self._check_held(round, name, node)
        self.exchange.giver = account
        try:
            submit.contribute(self.exchange, federation, prepared)
        finally:
            self.exchange.giver = None
        self.held[name] = round, node
        return name

    def _judged(
        self,
        federation: Federation,
        name: str,
        account: str | None,
        packet: Packet,
    ) -> Prepared:
        """Return a contribution that passes every check that it can pass alone."""
        sizes = {path: len(content) for path, content in packet.files.items()}
        expected = self._expecting(federation)
        owners = submit.holders(self.exchange, federation, name)
        parts = name, account, federation.manifest, owners
        refused = checks.check_sizes(sizes, expected) or attribution.check_author(
            self.exchange, *parts
        )
        judged = refused or checks.check_contribution(packet.files, name, expected)
        if isinstance(judged, Refused):
            raise FederationError(judged.reason)
        metadata = Contribution.from_json(packet.files[CONTRIBUTION])
        tensors = {p: c for p, c in packet.files.items() if p != CONTRIBUTION}
        return Prepared(metadata, tensors, {})

    def _expecting(self, federation: Federation) -> Expected:
        if self._expected is None or self._expected.round != federation.open_round:
            start = repository.pull(self.exchange, federation)
            parts = federation.manifest, federation.open_round
            self._expected = Expected(*parts, Arrays("", start))
        return self._expected

    def _is_there(self, federation: Federation, prepared: Prepared) -> bool:
        changes = submit.contribution_changes(federation, prepared)
        files = {path: content for path, content in changes.items() if content}
        return repository.is_there(self.exchange, federation.snapshot, files)

    def _check_held(self, round: int, name: str, node: int) -> None:
        """Refuse a name that another node has in this round, and a node's second name.

        A SuperNode that was started anew is another node, unless it has a key; the same
        contribution once more is no harm, so that only a different one is refused.
        """
        of_round = {n: owner for n, (r, owner) in self.held.items() if r == round}
        others = [n for n, owner in of_round.items() if owner == node and n != name]
        if others:
            raise FederationError(f"this node has contributed as {others[0]} already")
        if of_round.get(name, node) != node:
            raise FederationError(f"another node has contributed as {name} already")
