"""The fake fails on schedule, before or after the work was done."""

import pytest

from comigs_mlx.federation.exchanges.base import Moved, NotAllowed, Unreachable
from comigs_mlx.federation.exchanges.memory import Fault, MemoryExchange, MemoryStore


@pytest.fixture
def ann():
    made = MemoryExchange("ann", MemoryStore(writers={"ann", "ben"}))
    made.create()
    return made


def test_faults_come_when_they_are_due(ann):
    lost = Unreachable("the answer is lost")
    ann.store.faults += [
        Fault("commit", 2, lost, after=True),
        Fault("commit", 3, Moved("early")),
        Fault("read", 1, Unreachable("no network")),
    ]
    first = ann.commit({"a": b"1"}, "one")
    with pytest.raises(Unreachable, match="no network"):
        ann.read("a", first, 9)
    assert ann.read("a", first, 9) == b"1"
    with pytest.raises(Unreachable, match="lost"):
        ann.commit({"a": b"2"}, "landed all the same")
    with pytest.raises(Moved, match="early"):
        ann.commit({"a": b"3"}, "did not land")
    assert ann.read("a", ann.snapshot().revision, 9) == b"2"
    assert [c.message for c in ann.store.history] == ["", "one", "landed all the same"]
    ann.commit({"a": b"4"}, "four")
    assert ann.store.faults == []


def test_who_may_write(ann):
    eve = MemoryExchange("eve", ann.store)
    for call in (
        eve.check_writable,
        lambda: eve.commit({"a": b""}, "no"),
        lambda: eve.dismiss(1, "no"),
    ):
        with pytest.raises(NotAllowed, match="eve may not write here"):
            call()
    assert ann.snapshot().files == {}
    MemoryExchange("ben", ann.store).commit({"a": b""}, "yes")


def test_a_public_repository_does_not_become_private(ann):
    with pytest.raises(NotAllowed, match="public"):
        ann.create(private=True)


def test_a_history_that_was_forgotten_keeps_its_newest_state(ann):
    ann.commit({"a": b"1", "b": b"2"}, "one")
    head = ann.commit({"a": None}, "two")
    before = ann.snapshot()
    ann.store.forget()
    assert ann.snapshot() == before
    assert ann.read("b", head, 9) == b"2"
    assert len(ann.store.history) == 1
    assert ann.authors(["b"], head) == {"b": None}  # nobody knows any more
    ann.commit({"c": b"3"}, "three", parent=head)
    assert ann.authors(["c"], ann.snapshot().revision) == {"c": "ann"}
