"""A federation is made, pulled from, contributed to and closed, whatever goes wrong."""

import dataclasses
import json
import os
import threading
import time

import numpy as np
import pytest

import tests.federation.sharing as sharing
from comigs_mlx.errors import FederationError
from comigs_mlx.federation.exchanges.base import Moved, NotThere, Unreachable
from comigs_mlx.federation.exchanges.folder import FolderExchange
from comigs_mlx.federation.exchanges.memory import Fault, MemoryExchange, MemoryStore
from comigs_mlx.federation.formats.manifest import AggregatorChoice, Member
from comigs_mlx.federation.formats.tensor_source import Arrays, digest, shapes
from comigs_mlx.federation.rounds import repository
from comigs_mlx.federation.rounds.closing import close_if_due, review
from comigs_mlx.federation.rounds.submit import contribute

FIRST = sharing.tensors(generalists=2)
NOW = 1_700_000_000.0
ADAPTER = "adapters.safetensors"


def begin(exchange, now=NOW, **others):
    agreed = sharing.manifest(FIRST, 2, **{"encoding": "fp32", **others})
    return repository.initialise(exchange, agreed, FIRST, now)


def made(federation, values, name, current=FIRST, **others):
    given = {"participant": name, "round": federation.open_round, **others}
    return sharing.contributed(values, current, federation.manifest, **given)


def give(exchange, name, seed, current=FIRST, size=0.1):
    """Contribute what some training made of `current`; return it."""
    federation, values = (
        repository.current(exchange),
        sharing.moved(current, seed, size),
    )
    contribute(exchange, federation, made(federation, values, name, current))
    return values


def close(exchange, now=NOW):
    return close_if_due(exchange, repository.current(exchange), now)


def judged(exchange):
    with review(exchange, repository.current(exchange)) as found:
        return [source.name for source in found.accepted], found.refused


def same(found, wanted):
    return found.keys() == wanted.keys() and all(
        np.array_equal(found[name], wanted[name]) for name in wanted
    )


def mean(*values):
    return {
        name: np.mean([v[name] for v in values], axis=0, dtype=np.float64).astype("f4")
        for name in values[0]
    }


@pytest.fixture
def store():
    return MemoryStore()


@pytest.fixture
def ann(store):
    return MemoryExchange("ann", store)


@pytest.fixture
def ben(store):
    return MemoryExchange("ben", store)


def test_a_round_is_the_mean_of_its_contributions(exchange):
    ann = exchange("ann")
    begin(ann, quorum=2)
    ben = exchange("ben")
    own = shapes(Arrays("", FIRST))
    assert same(repository.pull(ben, repository.current(ben), own), FIRST)
    given = [give(ann, "ann", 1)]
    assert close(ann) is None
    given.append(give(ben, "ben", 2))
    closed = close(ben, NOW + 5)
    assert same(repository.pull(ann, repository.current(ann), own), mean(*given))
    assert closed.round.contributors == ("ann", "ben")
    assert closed.round.weights == {"ann": 0.5, "ben": 0.5}
    assert (closed.round.round, closed.round.closed_at) == (1, NOW + 5)
    assert closed.round.refused == {}
    assert closed.round.inexactness > 0


def test_the_repository_is_an_mlx_lm_adapter_in_every_state(ann):
    begin(ann)
    give(ann, "ann", 1)
    close(ann)
    for commit in ann.store.history[1:]:
        assert {ADAPTER, f"generalist-1/{ADAPTER}", "README.md"} <= set(commit.files)
        first = json.loads(commit.files["adapter_config.json"])
        second = json.loads(commit.files["generalist-1/adapter_config.json"])
        assert first["lora_parameters"]["keys"] == sorted(sharing.WIDTHS)
        assert second["lora_parameters"]["keys"] == ["mlp.down_proj", "mlp.up_proj"]
        assert first["lora_parameters"]["rank"] == 2
    assert [commit.message for commit in ann.store.history[1:]] == [
        "Begin the federation",
        "Contribute to round 1: ann",
        "Close round 1",
    ]


def test_joining_and_leaving(ann, ben):
    begin(ann)
    first = give(ann, "ann", 1)
    close(ann)
    second = give(ben, "ben", 2, first)
    closed = close(ben)
    assert closed.round.contributors == ("ben",)
    assert [past.contributors for past in closed.round.history] == [("ann",), ("ben",)]
    assert same(repository.pull(ann, closed), second)


def test_a_deadline_lets_fewer_close(ann):
    begin(ann, quorum=3, deadline_seconds=60.0)
    assert close(ann, NOW + 1000) is None
    values = give(ann, "ann", 1)
    assert close(ann, NOW + 59) is None
    assert same(repository.pull(ann, close(ann, NOW + 60)), values)


def test_init_is_refused_where_a_federation_is(exchange):
    begin(exchange("ann"))
    before = exchange("ann").snapshot().revision
    with pytest.raises(FederationError, match="has a federation already: join it"):
        begin(exchange("ann"), quorum=2)
    assert exchange("ann").snapshot().revision == before


def test_init_again_is_recognised(ann, store):
    begin(ann)
    assert begin(ann, NOW + 9).round.closed_at == NOW
    assert len(store.history) == 2


@pytest.mark.parametrize("error", [Unreachable("lost"), Moved("moved")])
def test_init_whose_answer_is_lost(ann, store, error):
    store.faults.append(Fault("commit", 1, error, after=True))
    assert begin(ann).round.round == 0
    assert len(store.history) == 2


def test_init_checks_the_shapes(ann):
    wrong = sharing.manifest(FIRST, 2, rank=3)
    with pytest.raises(FederationError, match="not LoRA pairs of rank 3"):
        repository.initialise(ann, wrong, FIRST, NOW)
    assert ann.store.history is None


def test_no_federation(ann):
    with pytest.raises(NotThere, match="sync init"):
        repository.current(ann)
    ann.create()
    with pytest.raises(FederationError, match="no federation in memory: check"):
        repository.current(ann)


def test_another_format_version(ann):
    begin(ann)
    content = json.loads(ann.store.history[-1].files["federation.json"])
    changed = json.dumps({**content, "format_version": 2}).encode()
    ann.commit({"federation.json": changed}, "newer")
    with pytest.raises(FederationError, match="format version 2.*update comigs_mlx"):
        repository.current(ann)


@pytest.mark.parametrize("content", [b"", b"no tensors", b"\xff" * 500])
def test_a_damaged_generalist_is_not_pulled(ann, content):
    begin(ann)
    ann.commit({ADAPTER: content}, "damage")
    with pytest.raises(FederationError, match="damaged"):
        repository.pull(ann, repository.current(ann), shapes(Arrays("", FIRST)))
    with pytest.raises(FederationError, match="damaged"):
        repository.pull(ann, repository.current(ann))


def test_the_same_contribution_again_commits_nothing(exchange):
    ann = exchange("ann")
    begin(ann, quorum=2)
    give(ann, "ann", 1)
    federation = repository.current(ann)
    again = made(federation, sharing.moved(FIRST, 1), "ann")
    assert not contribute(ann, federation, again)
    assert repository.current(ann).snapshot.revision == federation.snapshot.revision


@pytest.mark.parametrize("nth", [1, 2])
def test_a_contribution_whose_answer_is_lost(ann, store, nth):
    begin(ann, quorum=2)
    store.faults.append(Fault("commit", 1, Unreachable("lost"), after=nth == 1))
    if nth == 2:  # it was not carried out
        with pytest.raises(Unreachable):
            give(ann, "ann", 1)
    give(ann, "ann", 1)
    assert len(store.history) == 3


def test_a_newer_contribution_replaces_the_older(ann, ben):
    begin(ann, quorum=2)
    give(ann, "ann", 1)
    ann.commit({"contributions/1/ann/old.bin": b"left over"}, "an older format")
    given = [give(ann, "ann", 2), give(ben, "ben", 3)]
    assert same(repository.pull(ann, close(ann)), mean(*given))


def test_a_late_contribution_is_refused(ann, ben):
    begin(ann)
    old = repository.current(ben)
    late = made(old, sharing.moved(FIRST, 2), "ben")
    give(ann, "ann", 1)
    closed = close(ann)
    with pytest.raises(FederationError, match="round 1 is closed, round 2 is open"):
        contribute(ben, closed, late)
    with pytest.raises(FederationError, match="round 1 is closed, round 2 is open"):
        contribute(ben, old, late)  # it landed after the round was closed
    assert judged(ben) == ([], {})


def test_a_replayed_contribution_is_refused(ann, ben):
    begin(ann)
    give(ann, "ann", 1)
    close(ann)
    files = ann.store.history[-1].files
    old = {p: c for p, c in files.items() if p.startswith("contributions/1/ann/")}
    ann.commit({p.replace("/1/", "/2/", 1): c for p, c in old.items()}, "replay")
    stolen = {p.replace("/1/ann/", "/2/ben/"): c for p, c in old.items()}
    ben.commit(stolen, "somebody else's")
    accepted, refused = judged(ann)
    assert accepted == []
    assert refused == {
        "ann": "round 1, expected 2",
        "ben": "participant 'ann', expected 'ben'",
    }
    assert close(ann) is None


def test_refused_contributions_never_stop_a_round(ann, ben, store):
    begin(ann, quorum=2, norm_action="refuse", norm_factor=10.0)
    good = [give(ann, name, seed) for name, seed in (("ann", 1), ("cid", 2))]
    give(ben, "ben", 3, size=1e6)
    poison = {
        "contributions/1/dan/contribution.json": b"[" * 50_000,
        f"contributions/1/dan/{ADAPTER}": b"\xff" * 1000,
        f"contributions/1/dan/generalist-1/{ADAPTER}": b"",
        "contributions/1/eve/contribution.json": b"x" * 10**6,
        "contributions/1/fay/__init__.py": b"import os",
        "contributions/1/NO NAME/contribution.json": b"{}",
        "contributions/1/file": b"",
        "contributions/01/gus/contribution.json": b"{}",
    }
    ben.commit(poison, "poison")
    closed = close(ann)
    assert same(repository.pull(ann, closed), mean(*good))
    assert closed.round.contributors == ("ann", "cid")
    assert set(closed.round.refused) == {"ben", "dan", "eve", "fay"}
    assert "times as long as the round's median" in closed.round.refused["ben"]
    assert "unknown file" in closed.round.refused["fay"]


def test_refused_contributions_do_not_count_for_the_quorum(ann):
    begin(ann, quorum=2, deadline_seconds=60.0)
    ann.commit({"contributions/1/dan/contribution.json": b"{}"}, "poison")
    assert close(ann, NOW + 99) is None
    give(ann, "ann", 1)
    assert close(ann) is None
    assert close(ann, NOW + 99).round.contributors == ("ann",)


def test_an_outsized_update_is_clipped(ann):
    begin(ann, quorum=3, norm_factor=2.0)
    for name, seed in (("ann", 1), ("cid", 2)):
        give(ann, name, seed)
    give(ann, "ben", 3, size=1000.0)
    update = sharing.vector(repository.pull(ann, close(ann))) - sharing.vector(FIRST)
    typical = np.linalg.norm(
        sharing.vector(sharing.moved(FIRST, 1)) - sharing.vector(FIRST)
    )
    assert np.linalg.norm(update) < 2 * typical


def test_only_the_owner_of_a_name_counts(ann, ben):
    members = {"ann": Member("ann"), "ben": Member("ben")}
    begin(ann, participants=members)
    with pytest.raises(FederationError, match="cid is not among the participants"):
        give(ann, "cid", 1)
    with pytest.raises(FederationError, match="belongs to another account than ben"):
        give(ben, "ann", 1)
    federation = repository.current(ben)
    forged = made(federation, sharing.moved(FIRST, 1), "ann").files()
    ben.commit({f"contributions/1/ann/{n}": c for n, c in forged.items()}, "forged")
    assert judged(ann)[1] == {"ann": "committed by 'ben', the name belongs to ann"}


def test_a_name_stays_with_the_account_that_first_used_it(ann, ben):
    begin(ann, quorum=2)
    give(ann, "mac", 1)
    with pytest.raises(FederationError, match="belongs to another account than ben"):
        give(ben, "mac", 2)
    give(ben, "imac", 2)
    closed = close(ann)
    with pytest.raises(FederationError, match="belongs to another account than ben"):
        give(ben, "mac", 3)
    forged = made(closed, sharing.moved(FIRST, 1), "mac").files()
    ben.commit({f"contributions/2/mac/{n}": c for n, c in forged.items()}, "forged")
    assert judged(ann)[1] == {"mac": "committed by 'ben', the name belongs to ann"}


@pytest.mark.parametrize("kind", ["memory", "folder"])
def test_three_closers_at_once(kind, tmp_path, store):
    from comigs_mlx.federation.exchanges.folder import FolderExchange

    def opened(name):
        if kind == "memory":
            return MemoryExchange(name, store)
        return FolderExchange(tmp_path / "pool", name)

    begin(opened("ann"), quorum=2)
    given = [give(opened(n), n, s) for n, s in (("ann", 1), ("ben", 2))]
    found, barrier = [], threading.Barrier(3, timeout=20)

    def one(name, now):
        exchange = opened(name)
        commit = exchange.commit

        def meet(*args):  # everybody has reviewed before anybody commits
            exchange.commit = commit
            barrier.wait()
            return commit(*args)

        exchange.commit = meet
        found.append(close_if_due(exchange, repository.current(exchange), now))

    closers = [("ann", NOW), ("ben", NOW + 1), ("cid", NOW + 2)]
    threads = [threading.Thread(target=one, args=closer) for closer in closers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [federation.round.round for federation in found] == [1, 1, 1]
    assert len({federation.round.closed_at for federation in found}) == 1
    now = repository.current(opened("ann"))
    assert len(now.round.history) == 1
    assert same(repository.pull(opened("ann"), now), mean(*given))
    if kind == "memory":
        closings = [c for c in store.history if c.message.startswith("Close")]
        assert len(closings) == 1


def test_a_contribution_that_comes_while_closing_counts(ann, ben, store):
    begin(ann)
    given = [give(ann, "ann", 1)]

    class Slow(MemoryExchange):
        def commit(self, changes, message, parent=None):
            if len(given) == 1:
                given.append(give(ben, "ben", 2))
            return super().commit(changes, message, parent)

    closed = close(Slow("ann", store))
    assert closed.round.contributors == ("ann", "ben")
    assert same(repository.pull(ann, closed), mean(*given))


def test_a_close_whose_answer_is_lost(ann, store):
    begin(ann)
    values = give(ann, "ann", 1)
    store.faults.append(Fault("commit", 1, Unreachable("lost"), after=True))
    closed = close(ann)
    assert (closed.round.round, len(store.history)) == (1, 4)
    assert same(repository.pull(ann, closed), values)


def test_a_lost_connection_refuses_nobody(ann, store):
    begin(ann)
    give(ann, "ann", 1)
    federation = repository.current(ann)
    store.faults.append(Fault("read", 3, Unreachable("gone")))
    with pytest.raises(Unreachable):
        close_if_due(ann, federation, NOW)
    assert close(ann).round.refused == {}


def test_a_robust_aggregator_by_name(ann):
    begin(ann, quorum=3, aggregator=AggregatorChoice("median"))
    given = [give(ann, name, seed) for seed, name in enumerate(("ann", "ben", "cid"))]
    closed = close(ann)
    middle = {n: np.median([v[n] for v in given], axis=0) for n in FIRST}
    assert same(repository.pull(ann, closed), middle)
    assert closed.round.aggregator == "median"


def test_contributions_of_long_closed_rounds_are_cleared(ann):
    begin(ann)
    current = FIRST
    for _ in range(22):
        give(ann, "ann", 1, current)
        current = repository.pull(ann, close(ann))
    there = {p.split("/")[1] for p in ann.snapshot().files if "contributions/" in p}
    assert there == {str(number) for number in range(3, 23)}
    assert len(repository.current(ann).round.history) == 22


HOUR = 3600.0


def test_a_clock_that_is_ahead_neither_closes_a_round_nor_keeps_one_open(store, ann):
    """The store has the right time; a participant's clock is an hour ahead."""
    store.clock = lambda: store.seconds
    store.seconds = NOW
    begin(ann, NOW + HOUR, quorum=3, deadline_seconds=60.0)
    first = give(ann, "ann", 1)
    for seconds, device in ((10, HOUR), (59, HOUR), (59, 0.0), (200, -HOUR)):
        store.seconds = NOW + seconds
        assert close(ann, NOW + seconds + device) is None
    store.seconds = NOW + 61
    closed = close(ann, NOW + 61 + HOUR)
    assert closed.round.closed_at == NOW + 61
    give(ann, "ann", 2, first)
    store.seconds = NOW + 61 + 59
    assert close(ann, store.seconds) is None
    store.seconds += 2
    assert close(ann, store.seconds) is not None


def test_a_time_that_was_written_ahead_does_not_keep_a_round_open(store, ann):
    """By an earlier version; the commit has the exchange's own time."""
    store.clock = lambda: store.seconds
    store.seconds = NOW
    begin(ann, NOW, quorum=3, deadline_seconds=60.0)
    ahead = dataclasses.replace(repository.current(ann).round, closed_at=NOW + HOUR)
    ann.commit({"round.json": ahead.to_json()}, "closed by a clock that is ahead")
    give(ann, "ann", 1)
    store.seconds = NOW + 59
    assert close(ann, NOW + 59) is None
    store.seconds = NOW + 60
    assert close(ann, NOW + 60) is not None


def test_a_folder_has_the_clock_of_its_files(tmp_path):
    pool = FolderExchange(tmp_path / "pool")
    begin(pool, time.time(), quorum=3, deadline_seconds=60.0)
    give(pool, "ann", 1)
    assert close(pool, time.time() + HOUR) is None
    file = tmp_path / "pool" / "round.json"
    an_hour_ago = time.time() - HOUR
    os.utime(file, (an_hour_ago, an_hour_ago))
    values = json.loads(file.read_text())
    assert values["closed_at"] <= time.time()
    file.write_text(json.dumps({**values, "closed_at": time.time() + HOUR}))
    os.utime(file, (an_hour_ago, an_hour_ago))
    assert close(pool, time.time()) is not None


def test_the_hub_dates_its_answers(on_hub, hub):
    exchange = on_hub("ann")
    exchange.create()
    exchange.commit({"a.txt": b"1"}, "a")
    assert abs(exchange.clock() - time.time()) < 10
    revision = exchange.snapshot().revision
    assert exchange.committed("a.txt", revision) > 0
    assert exchange.committed("b.txt", revision) is None
    assert "a.txt" not in exchange.before("a.txt", revision).files


def test_a_founding_is_known_by_id_and_founder(exchange):
    ann = exchange("ann")
    made = begin(ann)
    assert made.manifest.founder == "ann"
    assert len(made.manifest.id) == 32
    assert begin(exchange("ann")).manifest == made.manifest  # the same again
    with pytest.raises(FederationError, match="has a federation already"):
        begin(ann, quorum=7)
    assert made.round.generalist == digest(FIRST)
