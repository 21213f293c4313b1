"""A contribution comes into the round it is for, or not at all."""

import time

import pytest

import tests.federation.sharing as sharing
from comigs_mlx.federation.rounds import repository, submit
from comigs_mlx.federation.rounds.closing import close_if_due
from comigs_mlx.federation.rounds.submit import Late, contribute, propose

FIRST = sharing.tensors(blocks=1)


def begun(exchange):
    agreed = sharing.manifest(FIRST, quorum=1)
    return repository.initialise(exchange, agreed, FIRST, 0.0)


def made(federation, name, round, seed=1):
    given = {"participant": name, "round": round}
    values = sharing.moved(FIRST, seed)
    return sharing.contributed(values, FIRST, federation.manifest, **given)


def closed_once(exchange):
    """The federation with round 1 closed, by ann's contribution."""
    federation = begun(exchange)
    contribute(exchange, federation, made(federation, "ann", 1))
    return close_if_due(exchange, repository.current(exchange), 1.0)


@pytest.mark.parametrize("send", [contribute, propose])
@pytest.mark.parametrize(
    ("round", "words"), [(1, "round 1 is closed"), (3, "round 3 is not open yet")]
)
def test_what_is_for_another_round_is_not_even_sent(exchange, send, round, words):
    ann = exchange("ann")
    federation = closed_once(ann)
    before = ann.snapshot()
    with pytest.raises(Late, match=words):
        send(ann, federation, made(federation, "ben", round))
    assert ann.snapshot() == before
    assert ann.proposals() == []


def test_a_round_that_closes_meanwhile_is_told(exchange):
    """Read before, sent after: it is there, but its sender knows that it is late."""
    ann = exchange("ann")
    federation = begun(ann)
    contribute(ann, federation, made(federation, "ann", 1))
    seen = repository.current(ann)
    close_if_due(ann, seen, 1.0)
    with pytest.raises(Late, match="round 1 is closed, round 2 is open"):
        contribute(exchange("ben"), seen, made(seen, "ben", 1, seed=2))
    assert repository.current(ann).round.contributors == ("ann",)


def test_the_same_is_sent_once(exchange):
    ann = exchange("ann")
    federation = begun(ann)
    prepared = made(federation, "ann", 1)
    assert contribute(ann, federation, prepared)
    before = ann.snapshot()
    assert not contribute(ann, repository.current(ann), prepared)
    assert ann.snapshot() == before
    named = submit.contribution_changes(repository.current(ann), prepared)
    assert set(named) <= set(before.files)


def test_too_late_is_told_though_the_hub_lags_and_was_squashed(on_hub, hub, repo):
    """What is named as the newest state is one that nobody here has seen, from before
    the round was closed, and the squash hides that it is older than the commit."""
    ann, ben = on_hub("ann"), on_hub("ben")
    federation = begun(ann)
    hub.store.repos[repo].rights["ben"] = "write"
    contribute(ann, federation, made(federation, "ann", 1))
    seen, commit = repository.current(ben), ben.commit
    time.sleep(0.6)
    hub.lag = 0.6
    hub.store.repos[repo].commit("main", "ann", "between", "", {})
    close_if_due(ann, repository.current(ann), 1.0)
    hub.store.repos[repo].squash("main", "ann", "squashed")

    def slow(*given):
        revision = commit(*given)
        moves = hub.store.repos[repo].moves["main"]
        titles = {c.oid: c.title for c in hub.store.repos[repo].commits.values()}
        between = [at for at, oid in moves if titles[oid] == "between"]
        hub.lag = time.monotonic() - between[0] - 0.001
        return revision

    ben.commit = slow
    with pytest.raises(Late, match="round 1 is closed"):
        contribute(ben, seen, made(seen, "ben", 1, seed=2))
