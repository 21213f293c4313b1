"""`sync status` shows what somebody with the right to write has done."""

import dataclasses

import numpy as np
import pytest

import tests.federation.sharing as sharing
from comigs_mlx.federation import api
from comigs_mlx.federation.exchanges.memory import MemoryExchange, MemoryStore
from comigs_mlx.federation.formats import adapter
from comigs_mlx.federation.rounds import repository, status
from comigs_mlx.federation.rounds.closing import close_if_due
from comigs_mlx.federation.rounds.submit import contribute
from comigs_mlx.federation.rounds.verification import Trust, Untrusted

FIRST = sharing.tensors(blocks=1)


@pytest.fixture
def pool():
    store = MemoryStore()
    made = lambda user: MemoryExchange(user, store)
    repository.initialise(made("ann"), sharing.manifest(FIRST), FIRST, 0.0)
    give(made("ann"))
    close_if_due(made("ann"), repository.current(made("ann")), 1.0)
    return made


def give(exchange):
    federation = repository.current(exchange)
    values = sharing.moved(FIRST, 1)
    given = {"participant": "ann", "round": federation.open_round}
    made = sharing.contributed(values, FIRST, federation.manifest, **given)
    contribute(exchange, federation, made)


def shown(exchange):
    federation = repository.current(exchange)
    values = status.status(exchange, federation, 2.0)
    return values["trust"], status.table(values)


def test_an_honest_round(pool):
    values, text = shown(pool("ben"))
    assert values["founder"] == "ann"
    assert values["founder_shown_by_history"]
    assert (values["manifest_changed_by"], values["problem"]) == (None, None)
    assert values["computed_again"]
    assert values["closed_by"] == "committed by ann"
    assert "founded by ann" in text
    assert "checked: the generalist is what its contributions make" in text
    assert "NOT TRUSTED" not in text


def test_a_replaced_generalist_and_a_changed_manifest(pool):
    eve = pool("eve")
    now = repository.current(eve)
    bad = {name: np.full_like(array, 7.0) for name, array in FIRST.items()}
    other = dataclasses.replace(now.manifest, quorum=5)
    files = {**adapter.files(bad, now.manifest), "federation.json": other.to_json()}
    eve.commit(files, "x")
    values, text = shown(pool("ben"))
    assert values["manifest_changed_by"] == "eve"
    assert "NOT TRUSTED: it is not the one that round.json states" in text
    assert "committed by eve" in text
    assert "NOT TRUSTED: federation.json was last changed by eve" in text


def test_a_squashed_history_is_taken_on_trust(pool):
    store = pool("ann").store
    last = store.history[-1]
    squashed = dataclasses.replace(last, author="eve", changed=frozenset(last.files))
    store.history[:] = [squashed]
    values, text = shown(pool("ben"))
    assert not values["computed_again"]
    assert "not checked: it cannot be computed again here" in text
    assert "no history shows who founded it" in text


def test_nobody_merges_under_a_manifest_that_a_stranger_changed(pool):
    eve = pool("eve")
    now = repository.current(eve, Trust())
    other = dataclasses.replace(now.manifest, norm_action="off")
    eve.commit({"federation.json": other.to_json()}, "x")
    with pytest.raises(Untrusted, match="last changed by eve, .* sync merge --trust"):
        api.close(pool("ann"))
    assert api.close(pool("ann"), accept=True).round == 2
