"""`python at_once.py ROLE FOLDER NAME`: push contributions, or close rounds, till done.

A pusher's last line says which rounds it was told to have contributed to.
"""

import json
import sys
import time

import tests.federation.sharing as sharing
from comigs_mlx.federation.exchanges.folder import FolderExchange
from comigs_mlx.federation.rounds import repository
from comigs_mlx.federation.rounds.closing import close_if_due
from comigs_mlx.federation.rounds.submit import Late, contribute

FIRST = sharing.tensors()
PUSHERS, CLOSERS, EACH, QUORUM = 8, 3, 2, 3
LIMIT = 120.0
"""Seconds after which something hangs."""


def begin(exchange):
    """A federation whose rounds close by quorum, the last ones by deadline."""
    agreed = sharing.manifest(FIRST, quorum=QUORUM, deadline_seconds=1)
    return repository.initialise(exchange, agreed, FIRST, time.time())


def push(exchange, name):
    """Contribute to `EACH` rounds; their numbers, and how often it was too late."""
    told, late, end = [], 0, time.monotonic() + LIMIT
    while len(told) < EACH:
        assert time.monotonic() < end
        federation = repository.current(exchange)
        if told and federation.open_round <= told[-1]:
            time.sleep(0.01)
            continue
        given = {"participant": name, "round": federation.open_round}
        values = sharing.moved(FIRST, sum(name.encode()) + len(told))
        made = sharing.contributed(values, FIRST, federation.manifest, **given)
        try:
            contribute(exchange, federation, made)
            told.append(federation.open_round)
        except Late:
            late += 1
    return told, late


def counted(federation):
    """Round -> contributors, of all closed rounds."""
    return {one.round: one.contributors for one in federation.round.history}


def close(exchange):
    """Close what is due until every contribution is in a round."""
    end = time.monotonic() + LIMIT
    while True:
        assert time.monotonic() < end
        federation = repository.current(exchange)
        if sum(map(len, counted(federation).values())) >= PUSHERS * EACH:
            return
        close_if_due(exchange, federation, time.time())
        time.sleep(0.01)


def check(federation, told):
    """Nothing lost, nothing twice, no round missing."""
    found = counted(federation)
    assert list(found) == list(range(1, federation.round.round + 1))
    wanted = sorted((n, name) for name, numbers in told.items() for n in numbers)
    got = sorted((n, name) for n, names in found.items() for name in names)
    assert got == wanted
    assert len(got) == PUSHERS * EACH
    assert len(found) >= EACH


if __name__ == "__main__":
    role, folder, name = sys.argv[1:]
    opened = FolderExchange(folder, name, patience=60)
    result = push(opened, name) if role == "push" else close(opened)
    print(json.dumps(result))  # noqa: T201
