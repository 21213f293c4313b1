"""The newest commit never goes back behind what this process knows."""

import time

import pytest

from comigs_mlx.federation.exchanges.hub import client, newest
from comigs_mlx.federation.exchanges.hub.newest import Newest
from tests.hub_server import Fault

HISTORY = ["c0", "c1", "c2", "c3", "c4"]


def watched():
    asked = []

    def ancestors(revision):
        asked.append(revision)
        return HISTORY[: HISTORY.index(revision) + 1]

    return Newest(ancestors), asked


def test_an_older_answer_is_not_believed_for_a_while(monkeypatch):
    found, asked = watched()
    assert [found.latest(head) for head in ("c0", "c1", "c0", "c2", "c1", "c0")] == [
        "c0", "c1", "c1", "c2", "c2", "c2",
    ]  # fmt: skip
    assert asked == []
    now = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now + newest.LAG + 1)
    assert found.latest("c1") == "c1"  # put back by somebody, then


def test_our_own_commit_is_newer_than_all_before_it():
    found, asked = watched()
    assert found.latest("c0") == "c0"
    found.committed("c3")  # upon c2, which somebody else made meanwhile
    assert [found.latest(head) for head in ("c0", "c2", "c1", "c4", "c3")] == [
        "c3", "c3", "c3", "c4", "c4",
    ]  # fmt: skip
    assert asked == ["c3"]


@pytest.fixture
def ann(on_hub, monkeypatch):
    monkeypatch.setattr(client, "FIRST_WAIT", 0.05)
    made = on_hub("ann")
    made.create()
    return made


def test_we_see_what_we_committed_though_the_hub_lags(ann, hub, on_hub, repo):
    hub.lag = 30
    for number in range(3):
        revision = ann.commit({"a": b"%d" % number}, f"{number}")
        now = ann.snapshot()
        assert now.revision == revision
        assert ann.read("a", revision, 9) == b"%d" % number
        ann.commit({"b": b"%d" % number}, "on it", parent=revision)
    assert "a" not in on_hub("ann").snapshot().files  # others see it later


def test_a_state_put_back_is_seen_in_the_end(ann, hub, repo, monkeypatch):
    monkeypatch.setattr(newest, "LAG", 0.2)
    first = ann.commit({"a": b"1"}, "one")
    ann.commit({"a": b"2"}, "two")
    hub.store.repos[repo].put("main", first)
    assert ann.snapshot().revision != first
    time.sleep(0.3)
    assert ann.snapshot().revision == first


@pytest.mark.parametrize("kind", ["after", "reset-after"])
def test_a_lost_answer_is_not_taken_for_done_before_it_shows(ann, hub, kind):
    """Or a contribution that came too late would be told as one in time."""
    ann.commit({"a": b"1"}, "one")
    time.sleep(0.5)
    hub.lag = 0.4
    hub.faults.append(Fault("^POST .*/commit/", kind))
    revision = ann.commit({"a": b"2", "b.safetensors": b"3"}, "two")
    assert ann.read("a", revision, 9) == b"2"
    assert ann.snapshot().revision == revision
    assert hub.faults[0].times == 0


def test_a_state_between_that_we_never_saw_is_older_than_ours(ann, hub, on_hub, repo):
    hub.store.repos[repo].rights["ben"] = "write"
    ann.snapshot()
    on_hub("ben").commit({"b": b"1"}, "between")
    hub.lag = 0.6
    time.sleep(0.3)
    mine = ann.commit({"a": b"1"}, "ours")
    time.sleep(0.35)  # now the answer is the state between
    assert ann.snapshot().revision == mine
