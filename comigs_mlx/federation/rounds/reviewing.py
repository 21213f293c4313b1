"""Decides which contributions to the open round count, and why the others do not.

Sizes are checked first, from the listing; then the committing accounts; then the
content, one contribution at a time, kept in a temporary folder; and last the lengths of
all updates together. No content of a contribution makes this fail; only an error of the
exchange itself does.
"""

from __future__ import annotations

import contextlib
import dataclasses
import re
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from comigs_mlx.federation.aggregation import aggregate, clipping
from comigs_mlx.federation.exchanges.base import (
    Exchange,
    NotThere,
    Snapshot,
    TooLarge,
    undamaged,
)
from comigs_mlx.federation.formats.contribution import (
    CONTRIBUTION,
    METADATA_BYTES,
    Privacy,
    Stored,
)
from comigs_mlx.federation.formats.manifest import (
    MOST_PARTICIPANTS,
    PARTICIPANT,
    Manifest,
)
from comigs_mlx.federation.formats.round import Round
from comigs_mlx.federation.formats.strict_json import shown
from comigs_mlx.federation.formats.tensor_source import Array, Arrays, Source
from comigs_mlx.federation.rounds import attribution
from comigs_mlx.federation.rounds.attribution import FOLDER, PATH
from comigs_mlx.federation.rounds.checks import (
    Expected,
    Refused,
    check_contribution,
    check_sizes,
)


@dataclass(frozen=True)
class Review:
    """The contributions to one round.

    Attributes:
        accepted: The contributions that count, sorted by participant; outsized updates
            are clipped.
        refused: Maps a participant to the reason why its contribution is refused.
        clipped: Maps a participant to the factor that its update was clipped by.
        size: Maps a participant to the bytes that its contribution has in the
            repository.
        accounts: Maps a participant to the account that an accepted contribution counts
            for, where it is known.
        privacy: Maps a participant to the privacy that an accepted contribution states,
            where it does.
        limited: The judgement on the lengths of all updates.
    """

    accepted: list[Source] = field(default_factory=list)
    refused: dict[str, str] = field(default_factory=dict)
    clipped: dict[str, float] = field(default_factory=dict)
    size: dict[str, int] = field(default_factory=dict)
    accounts: dict[str, str] = field(default_factory=dict)
    privacy: dict[str, Privacy] = field(default_factory=dict)
    limited: clipping.Limited = field(default_factory=lambda: clipping.Limited([]))


def candidates(snapshot: Snapshot, round: int) -> dict[str, dict[str, int]]:
    """Return the size of each file of each participant in one round.

    The sizes are in bytes, by participant and by path relative to its folder. Folders
    whose name no participant can have are left out.
    """
    sizes: dict[str, dict[str, int]] = {}
    for path, file in snapshot.files.items():
        match = PATH.fullmatch(path)
        if match and match[1] == str(round) and re.fullmatch(PARTICIPANT, match[2]):
            sizes.setdefault(match[2], {})[match[3]] = file.size
    return {name: sizes[name] for name in sorted(sizes)[:MOST_PARTICIPANTS]}


@contextlib.contextmanager
def review(
    exchange: Exchange,
    snapshot: Snapshot,
    manifest: Manifest,
    round: Round,
    current: Mapping[str, Array],
) -> Iterator[Review]:
    """Judge all contributions to the round after `round`, for the time of a block.

    Args:
        exchange: The repository to read from.
        snapshot: The state of the repository to read.
        manifest: The manifest of the federation.
        round: The last closed round.
        current: The generalists that every contribution started from.

    Raises:
        FederationError: If this version does not have the manifest's aggregator.
        Moved: If the exchange keeps no history and a file has changed since.
        Unreachable: If a file cannot be read now, whatever it holds.
    """
    aggregate.check(manifest.aggregator.name, manifest.aggregator.options)
    source = Arrays("", current)
    expected = Expected(manifest, round.round + 1, source)
    sizes = candidates(snapshot, expected.round)
    result = Review(size={name: sum(files.values()) for name, files in sizes.items()})
    listed = _by_listing(exchange, snapshot, sizes, expected, round, result)
    with tempfile.TemporaryDirectory(prefix="comigs-") as folder:
        passed: list[Source] = []
        for name, files in listed.items():
            judged = _judge(exchange, snapshot, name, files, expected)
            if isinstance(judged, Refused):
                result.refused[name] = judged.reason
            else:
                passed.append(judged.keep(Path(folder) / name))
                if (stated := judged.metadata.privacy) is not None:
                    result.privacy[name] = stated
        limited = clipping.limit(passed, source, manifest, round)
        result.accepted.extend(limited.kept)
        result.refused.update(limited.refused)
        yield dataclasses.replace(result, clipped=limited.clipped, limited=limited)


def _by_listing(
    exchange: Exchange,
    snapshot: Snapshot,
    sizes: Mapping[str, Mapping[str, int]],
    expected: Expected,
    round: Round,
    result: Review,
) -> dict[str, Mapping[str, int]]:
    """Return those whose sizes and accounts pass; note the others in `result`."""
    fitting = {}
    for name, files in sizes.items():
        if refused := check_sizes(files, expected):
            result.refused[name] = refused.reason
        else:
            fitting[name] = files
    places = [_place(expected.round, n, file) for n in fitting for file in fitting[n]]
    accounts = attribution.accounts(exchange, snapshot, places)
    for name in list(fitting):
        for file in fitting[name]:
            account = accounts.get(_place(expected.round, name, file))
            parts = expected.manifest, round.owners
            if refused := attribution.check_author(exchange, name, account, *parts):
                result.refused[name] = refused.reason
                del fitting[name]
                break
        path = _place(expected.round, name, CONTRIBUTION)
        if name in fitting:
            account = attribution.owner_of(exchange, snapshot, path, accounts.get(path))
            if account is not None:
                result.accounts[name] = account
    return fitting


def _judge(
    exchange: Exchange,
    snapshot: Snapshot,
    name: str,
    sizes: Mapping[str, int],
    expected: Expected,
) -> Stored | Refused:
    files = {}
    for file in sizes:
        most = METADATA_BYTES if file == CONTRIBUTION else expected.manifest.max_bytes
        try:
            path = _place(expected.round, name, file)
            files[file] = content(exchange, snapshot, path, most)
        except (NotThere, TooLarge) as error:
            return Refused(shown(str(error)))
    return check_contribution(files, name, expected)


def content(exchange: Exchange, snapshot: Snapshot, path: str, most: int) -> bytes:
    """Read a file and compare it with the listing: a bad connection is no one's fault.

    Raises:
        Unreachable: If it is not what the listing says.
    """
    received = exchange.read(path, snapshot.revision, most)
    return undamaged(path, snapshot.files[path], received)


def _place(round: int, name: str, file: str) -> str:
    return f"{FOLDER}/{round}/{name}/{file}"
