"""What every exchange must do: memory, a folder, the Hub (real client, loopback)."""

import hashlib
import random
from concurrent.futures import ThreadPoolExecutor

import pytest

from comigs_mlx.errors import FederationError
from comigs_mlx.federation.exchanges.base import Moved, NotAllowed, NotThere, TooLarge

UNUSUAL = [
    "contributions/1/ann/adapters.safetensors",
    "with space/and #hash?.txt",
    "100%25 + plus&amp=1.json",
    "ünïcode/日本/🦜.txt",
    "a" * 200,
    "deep/" * 20 + "file",
    "UPPER/lower.TXT",
    "-dash/--force",
]


@pytest.fixture
def ready(exchange):
    """An exchange on a repository that was just made."""
    made = exchange()
    made.create()
    return made


def state(exchange):
    """Path -> content of everything at the newest revision."""
    now = exchange.snapshot()
    return {path: exchange.read(path, now.revision, 10**7) for path in now.files}


def outcome(call):
    try:
        return call()
    except Exception as error:
        return error


def together(work, count=8):
    """Results of work(0), work(1), ... at the same time; exceptions are results."""

    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(lambda i: outcome(lambda: work(i)), range(count)))


def test_a_missing_repository(exchange):
    missing = exchange()
    for call in (
        missing.snapshot,
        lambda: missing.commit({"a": b"1"}, "one"),
        missing.check_writable,
    ):
        with pytest.raises(NotThere, match="sync init"):
            call()


def test_a_new_repository_is_empty_and_made_once(ready):
    first = ready.snapshot()
    assert first.files == {}
    assert ready.snapshot() == first
    ready.check_writable()
    ready.commit({"a": b"1"}, "one")
    ready.create()
    assert state(ready) == {"a": b"1"}


def test_what_is_committed_is_read_by_others(ready, exchange):
    changes = {path: f"{path}!".encode() for path in UNUSUAL} | {"empty": b""}
    revision = ready.commit(changes, "all")
    other = exchange("ben")
    snapshot = other.snapshot()
    assert snapshot.revision == revision
    assert state(other) == changes
    for path, file in snapshot.files.items():
        assert file.size == len(changes[path])
        assert file.sha256 in (None, hashlib.sha256(changes[path]).hexdigest())


def test_several_megabytes(ready, exchange):
    content = random.Random(3).randbytes(3_000_001)
    ready.commit({"adapters.safetensors": content, "b.safetensors": b"B"}, "big")
    assert state(exchange("ben")) == {
        "adapters.safetensors": content,
        "b.safetensors": b"B",
    }


def test_a_commit_changes_adds_and_deletes_at_once(ready):
    first = ready.commit({"a": b"1", "d/b": b"2", "d/c": b"3"}, "three")
    second = ready.commit({"a": b"4", "d/b": None, "e": b"5", "never": None}, "mixed")
    assert first != second
    assert state(ready) == {"a": b"4", "d/c": b"3", "e": b"5"}
    ready.commit({"d/c": None}, "the last of its folder")
    ready.commit({"d": b"now a file"}, "in its place")
    assert state(ready) == {"a": b"4", "e": b"5", "d": b"now a file"}


def test_a_commit_that_changes_nothing(ready):
    before = ready.commit({"a": b"1"}, "one")
    assert ready.commit({"never": None}, "nothing") == before
    assert ready.commit({}, "nothing", parent=before) == before
    ready.commit({"a": b"1"}, "the same")
    assert state(ready) == {"a": b"1"}


def test_the_parent_is_a_lock(ready):
    first = ready.commit({"round.json": b"1"}, "one")
    second = ready.commit({"round.json": b"2"}, "two", parent=first)
    for stale in ({"round.json": b"3"}, {"round.json": b"2"}, {"new": b""}, {}):
        with pytest.raises(Moved):
            ready.commit(stale, "late", parent=first)
    assert state(ready) == {"round.json": b"2"}
    assert ready.snapshot().revision == second


def test_everybody_commits_a_file_at_once(ready, exchange):
    ready.commit({"start": b""}, "start")
    others = [exchange(name) for name in ("ann", "ben") for _ in range(4)]
    results = together(
        lambda i: others[i].commit({f"by/{i}": b"%d" % i, f"also/{i}": b""}, f"by {i}")
    )
    assert not [result for result in results if isinstance(result, Exception)]
    expected = {f"by/{i}": b"%d" % i for i in range(8)}
    expected |= {f"also/{i}": b"" for i in range(8)} | {"start": b""}
    assert state(ready) == expected


def test_exactly_one_of_many_closers_wins(ready, exchange):
    parent = ready.commit({"round.json": b"0"}, "start")
    others = [exchange(name) for name in ("ann", "ben") for _ in range(4)]
    results = together(
        lambda i: others[i].commit(
            {"round.json": b"1 by %d" % i, "adapters.safetensors": b"%d" % i},
            f"close by {i}",
            parent=parent,
        )
    )
    won = [i for i, result in enumerate(results) if isinstance(result, str)]
    assert len(won) == 1, results
    assert all(isinstance(r, Moved) for i, r in enumerate(results) if i not in won)
    expected = {"round.json": b"1 by %d" % won[0]}
    assert state(ready) == {**expected, "adapters.safetensors": b"%d" % won[0]}


def test_readers_see_whole_commits_while_others_write(ready, exchange):
    ready.commit({"a": b"0", "b": b"0"}, "start")
    reader, broken, running = exchange("ben"), [], [True]

    def read(_):
        while running[0]:
            now = reader.snapshot()
            try:
                a, b = (reader.read(path, now.revision, 99) for path in "ab")
            except Moved:
                continue
            if a != b:
                broken.append((a, b))

    def write(_):
        for i in range(1, 15):
            ready.commit({"a": b"%d" % i * i, "b": b"%d" % i * i}, "step")
        running[0] = False

    results = together(lambda i: (write, read)[i](i), 2)
    assert results == [None, None]
    assert broken == []


def test_reading_is_capped(ready):
    revision = ready.commit({"a.json": b"x" * 100, "b.safetensors": b"y" * 100}, "a")
    for path in ("a.json", "b.safetensors"):
        assert len(ready.read(path, revision, 100)) == 100
        with pytest.raises(TooLarge, match="100 bytes where at most 99"):
            ready.read(path, revision, 99)
    with pytest.raises(NotThere):
        ready.read("missing", revision, 99)


def test_the_history_is_kept_or_the_reader_is_told(ready):
    first = ready.commit({"a": b"1"}, "one")
    ready.snapshot()
    ready.commit({"a": b"22"}, "two")
    found = outcome(lambda: ready.read("a", first, 99))
    assert found == b"1" or isinstance(found, Moved)
    assert "read a new snapshot" in str(found) or found == b"1"


def test_authors(ready, exchange):
    first = ready.commit({"a": b"1", "b": b"1"}, "by ann")
    exchange("ben").commit({"b": b"2", "c": b"2"}, "by ben\n\nCo-authored-by: ann")
    now = ready.snapshot().revision
    found = ready.authors(["a", "b", "c", "missing"], now)
    assert found in (
        {"a": "ann", "b": "ben", "c": "ben"},
        {"a": None, "b": None, "c": None},
    )
    if found["a"] is not None:
        assert ready.authors(["b", "c"], first) == {"b": "ann"}
    assert ready.account() == "ann"


@pytest.mark.parametrize(
    "path",
    ["", "/abs", "a/../b", "../b", "a//b", "a/", ".git/config", "d/.hidden", "a\\b",
     "a\nb", "a\0b", "x" * 201, "y/" * 600 + "y", "\ud800"],
)  # fmt: skip
def test_paths_that_are_refused(ready, path):
    before = ready.snapshot().revision
    with pytest.raises(NotAllowed, match="cannot be a file"):
        ready.commit({"fine": b"1", path: b"2"}, "bad")
    with pytest.raises(NotAllowed, match="cannot be a file"):
        ready.read(path, before, 99)
    assert ready.snapshot().revision == before


def test_a_commit_without_message_or_with_a_file_in_a_file(ready):
    with pytest.raises(FederationError, match="needs a message"):
        ready.commit({"a": b""}, " ")
    with pytest.raises(NotAllowed, match="a file and a folder"):
        ready.commit({"a": b"", "a/b": b""}, "both")
    assert ready.snapshot().files == {}


def test_proposals_or_a_clear_error(ready, exchange):
    ready.commit({"a": b"1"}, "one")
    shown = outcome(lambda: exchange("eve").propose({"b": b"2"}, "add b", "please"))
    if isinstance(shown, NotAllowed):
        assert "has no pull requests" in str(shown)
        assert ready.proposals() == []
        for call in (ready.proposed, lambda number: ready.dismiss(number, "no")):
            with pytest.raises(NotThere, match="there is no proposal 1"):
                call(1)
        return
    (proposal,) = ready.proposals()
    assert (proposal.title, proposal.author, proposal.url) == ("add b", "eve", shown)
    ready.commit({"c": b"3"}, "meanwhile")
    offered, changed = ready.proposed(proposal.number)
    assert changed == {"b"}
    assert {path: file.size for path, file in offered.files.items()} == {"a": 1, "b": 1}
    assert ready.read("b", offered.revision, 9) == b"2"
    assert ready.authors(["a", "b"], offered.revision) == {"a": "ann", "b": "eve"}
    ready.dismiss(proposal.number, "thank you")
    assert state(ready) == {"a": b"1", "c": b"3"}
    assert ready.proposals() == []
    with pytest.raises(NotThere, match="no open p"):
        ready.dismiss(proposal.number, "again")
    with pytest.raises(NotThere):
        ready.proposed(99)


def test_what_a_proposal_changes(ready, exchange):
    """Changed, deleted and back again, against where it began."""
    eve = exchange("eve")
    ready.commit({"a": b"1", "b": b"1", "c": b"1"}, "one")
    made = outcome(lambda: eve.propose({"a": b"2", "b": None, "c": b"1"}, "change"))
    if isinstance(made, NotAllowed):
        return
    ready.commit({"a": b"2"}, "the same by somebody else")
    _, changed = ready.proposed(1)
    assert changed == {"a", "b"}


def test_addresses_for_people(ready):
    assert ready.url("a/b.json").endswith("a/b.json")
    assert ready.url()
