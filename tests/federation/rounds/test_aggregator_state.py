"""What an aggregator remembers lies in the federation, checked and recomputable."""

import dataclasses
import json

import numpy as np
import pytest

import tests.federation.sharing as sharing
from comigs_mlx.errors import FederationError
from comigs_mlx.federation.aggregation import aggregate, state_file
from comigs_mlx.federation.aggregation.state_file import STATE_FILE
from comigs_mlx.federation.exchanges.folder import FolderExchange
from comigs_mlx.federation.exchanges.memory import MemoryExchange, MemoryStore
from comigs_mlx.federation.formats.manifest import AggregatorChoice
from comigs_mlx.federation.formats.tensor_source import Arrays, digest
from comigs_mlx.federation.rounds import aggregator_state, repository
from comigs_mlx.federation.rounds.closing import close_if_due
from comigs_mlx.federation.rounds.submit import contribute
from comigs_mlx.federation.rounds.verification import Trust, Unverified

FIRST = sharing.tensors(generalists=2)
KEEPING = ("fedadam", "fedavgm")


@pytest.fixture(params=["memory", "folder"])
def pool(request, tmp_path):
    """(user) -> an exchange on one repository."""
    if request.param == "folder":
        return lambda user: FolderExchange(tmp_path / "pool", user)
    store = MemoryStore()
    return lambda user: MemoryExchange(user, store)


def begin(exchange, name, **options):
    agreed = sharing.manifest(
        FIRST,
        generalists=2,
        quorum=2,
        encoding="fp32",
        norm_action="off",
        aggregator=AggregatorChoice(name, options),
    )
    repository.initialise(exchange, agreed, FIRST, 0.0)


def current(exchange, **trust):
    federation = repository.current(exchange, Trust(**trust))
    return federation, dict(sorted(repository.pull(exchange, federation).items()))


def play(pool, number):
    """Close one round of ann and ben; return what they gave."""
    given = {}
    for seed, name in enumerate(("ann", "ben")):
        federation, start = current(pool(name))
        given[name] = sharing.moved(start, 10 * number + seed)
        round = federation.open_round
        parts = given[name], start, federation.manifest, name, round
        contribute(pool(name), federation, sharing.contributed(*parts))
    assert close_if_due(pool("ann"), repository.current(pool("ann")), 1.0)
    return [Arrays(name, values) for name, values in given.items()]


def held(exchange):
    federation, values = current(exchange, everything=True)
    parts = federation.snapshot, federation.manifest, federation.round
    return aggregator_state.read(exchange, *parts, Arrays("", values))


@pytest.mark.parametrize("name", KEEPING)
def test_rounds_go_on_from_the_state_that_the_last_one_left(pool, name):
    begin(pool("ann"), name)
    values, state = FIRST, None
    for number in range(3):
        given = play(pool, number)
        made = aggregate.aggregate(name, given, Arrays("", values), state=state)
        values, state = dict(made.shared), made.state
        federation, pulled = current(pool("ben"))  # verified: computed once more
        assert all(np.array_equal(pulled[key], values[key]) for key in values)
        assert federation.round.state == digest(state)
        there = held(pool("ben"))
        assert there.keys() == state.keys()
        assert all(np.array_equal(there[key], state[key]) for key in state)


def test_a_federation_without_state_has_nothing_new(pool):
    begin(pool("ann"), "mean")
    play(pool, 0)
    exchange = pool("ann")
    snapshot = exchange.snapshot()
    assert STATE_FILE not in snapshot.files
    content = exchange.read("round.json", snapshot.revision, 10**6)
    assert "state" not in json.loads(content)


def forge(exchange, change, **stated):
    """Commit another state, with a round.json that agrees with it."""
    federation = repository.current(exchange)
    state = {name: change(array) for name, array in held(exchange).items()}
    stated = {"state": digest(state), **stated}
    closed = dataclasses.replace(federation.round, **stated)
    files = {STATE_FILE: state_file.to_bytes(state), "round.json": closed.to_json()}
    exchange.commit(files, "Close a round")


class TestForged:
    @pytest.fixture
    def pool(self):
        store = MemoryStore()
        return lambda user: MemoryExchange(user, store)

    @pytest.mark.parametrize("known", [False, True])
    def test_a_state_that_the_round_does_not_make_is_refused(self, pool, known):
        begin(pool("ann"), "fedavgm")
        play(pool, 0)
        values = current(pool("ann"))[1]
        forge(pool("eve"), lambda array: array + 1)
        seen = frozenset({digest(values)} if known else ())
        with pytest.raises(Unverified, match="is not what fedavgm makes of the round"):
            current(pool("ann"), known=seen)

    def test_it_is_seen_one_round_later_too(self, pool):
        begin(pool("ann"), "fedavgm")
        play(pool, 0)
        values = current(pool("ann"))[1]
        forge(pool("eve"), lambda array: array + 1)
        for seed, name in enumerate(("ann", "ben")):
            federation = repository.current(pool(name))
            parts = federation.manifest, name, federation.open_round
            moved = sharing.moved(values, seed)
            made = sharing.contributed(moved, values, *parts)
            contribute(pool(name), federation, made)
        exchange = pool("eve")
        trusting = repository.current(exchange, Trust(everything=True))
        assert close_if_due(exchange, trusting, 1.0)
        with pytest.raises(Unverified, match="round 1 before it: .* fedavgm makes"):
            current(pool("ann"), known=frozenset({digest(values)}))

    @pytest.mark.parametrize(
        ("content", "reason"),
        [
            (None, "is missing in the federation"),
            (b"no tensors", "cannot be used: not a safetensors file"),
            (state_file.to_bytes({"x": np.zeros(1, "f")}), "unknown|missing tensor"),
        ],
    )
    def test_a_file_that_cannot_be_used_closes_no_round(self, pool, content, reason):
        begin(pool("ann"), "fedadam")
        play(pool, 0)
        pool("eve").commit({STATE_FILE: content}, "Break it")
        with pytest.raises(FederationError, match=reason):
            held(pool("ann"))
        with pytest.raises(Unverified, match=reason):
            current(pool("ann"))

    def test_values_that_are_not_finite_are_refused(self, pool):
        begin(pool("ann"), "fedavgm")
        play(pool, 0)
        forge(pool("eve"), lambda array: array * np.float32(np.nan))
        with pytest.raises(FederationError, match="a value is not finite"):
            held(pool("ann"))


def test_what_an_earlier_aggregator_left_is_removed(pool):
    begin(pool("ann"), "fedavgm")
    play(pool, 0)
    exchange = pool("ann")
    federation = repository.current(exchange)
    changed = dataclasses.replace(federation.manifest, aggregator=AggregatorChoice())
    exchange.commit({"federation.json": changed.to_json()}, "Choose the mean")
    play(pool, 1)
    assert STATE_FILE not in exchange.snapshot().files
    assert repository.current(exchange).round.state is None
