"""Loops that others may overtake pause between their tries."""

import time

import pytest

import tests.federation.sharing as sharing
from comigs_mlx.federation.exchanges import retry
from comigs_mlx.federation.exchanges.base import Moved, Unreachable
from comigs_mlx.federation.exchanges.memory import MemoryExchange
from comigs_mlx.federation.rounds import repository


@pytest.fixture
def slept(monkeypatch):
    found = []
    monkeypatch.setattr(time, "sleep", found.append)
    return found


def test_pauses_grow_to_a_cap_and_all_tries_take_about_half_a_minute(slept):
    assert list(retry.tries()) == list(range(retry.TRIES))
    assert len(slept) == retry.TRIES - 1
    assert all(0 < pause <= retry.LONGEST_PAUSE for pause in slept)
    assert 15 <= sum(slept) <= 60
    assert max(slept[:3]) < 0.5  # who lost a race once hardly waits
    assert len(set(slept)) == len(slept)


def test_the_first_try_is_at_once(slept):
    assert next(iter(retry.tries())) == 0
    assert slept == []


def test_a_federation_that_is_always_overtaken(slept):
    class Overtaken(MemoryExchange):
        def commit(self, changes, message, parent=None):
            raise Moved("somebody was faster")

        def read(self, path, revision, max_bytes):
            raise Moved("it changes all the time")

    first = sharing.tensors()
    exchange = Overtaken("ann")
    with pytest.raises(Unreachable, match="being written to all the time"):
        repository.initialise(exchange, sharing.manifest(first), first, 0.0)
    assert len(slept) == retry.TRIES - 1
    made = MemoryExchange("ann")
    repository.initialise(made, sharing.manifest(first), first, 0.0)
    slept.clear()
    with pytest.raises(Unreachable, match="being written to all the time"):
        repository.current(Overtaken("ann", made.store))
    assert len(slept) == retry.TRIES - 1
