"""Answers that mean "later": which they are, how long is waited, that they pass."""

import random
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import httpx2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from comigs_mlx.errors import FederationError
from comigs_mlx.federation.exchanges.base import NotAllowed, NotThere, Unreachable
from comigs_mlx.federation.exchanges.hub import client, retry_after
from comigs_mlx.federation.exchanges.hub.known import Known
from comigs_mlx.federation.exchanges.hub.retry_after import (
    LONGEST_ASKED,
    later,
    pause,
    requested_wait,
)
from tests.federation.conftest import TOKENS
from tests.hub_server import Fault, Server

COMMIT = ("POST", "/api/models/ann/pool/commit/main")
READ = ("GET", "/api/models/ann/pool/tree/main")
BUSY = "Another commit operation is in progress for this repository. Please try again."


@pytest.fixture(autouse=True)
def _fast(monkeypatch):
    monkeypatch.setattr(client, "FIRST_WAIT", 0.02)


@pytest.fixture
def ann(on_hub):
    made = on_hub("ann")
    made.create()
    made.commit({"round.json": b"0", "big.safetensors": b"weights" * 99}, "start")
    return made


def answer(status, text="", request=READ, **headers):
    url = f"http://hub{request[1]}"
    made = {"content-length": str(len(text)), **headers}
    asked = httpx2.Request(request[0], url)
    return httpx2.Response(status, headers=made, text=text, request=asked)


@pytest.mark.parametrize(
    ("status", "text", "request_"),
    [
        (408, "", READ),
        (409, "anything", COMMIT),
        (409, "Cannot create repo: another conflicting operation", READ),
        (423, "Locked", COMMIT),
        (425, "", READ),
        (429, "", READ),
        (403, "Too many requests: slow down", COMMIT),
        (403, "You have been rate-limited", READ),
        (400, "LFS pointer pointed to a file that does not exist", COMMIT),
        (403, "<Message>Request has expired</Message>", ("PUT", "/bucket/ab")),
        *[(status, "", READ) for status in (500, 502, 503, 504, 520, 524, 529, 599)],
    ],
)
def test_what_passes(status, text, request_):
    found = later(answer(status, text, request_))
    assert isinstance(found, Unreachable)
    assert found.passing
    assert str(status) in str(found)
    assert found.maybe_done == (status >= 500 or status == 408)


@pytest.mark.parametrize(
    ("status", "text"),
    [
        (200, BUSY),
        (307, ""),
        (400, "bad request"),
        (401, "too many"),
        (403, "You don't have the rights to create a model here"),
        (403, "pass `create_pr=1` as a query parameter"),
        (403, "Request has expired"),
        (404, BUSY),
        (409, "You already created this model repo"),
        (409, "reference already exists"),
        (412, "A commit has happened since"),
        (413, ""),
    ],
)
def test_what_is_final(status, text):
    assert later(answer(status, text)) is None


def test_the_reason_is_read_in_the_header_too():
    said = {"x-error-message": "Too many requests"}
    assert later(answer(403, request=COMMIT, **said)) is not None


def http_date(seconds, now):
    return format_datetime(now + timedelta(seconds=seconds), usegmt=True)


def test_a_wait_that_is_asked_for():
    for value, seconds in (("0", None), ("7", 7), ("1.5", 1.5), (" 30 ", 30)):
        assert requested_wait({"retry-after": value}) == seconds
    now = datetime.now(UTC)
    assert 50 < requested_wait({"retry-after": http_date(60, now)}) <= 61
    assert requested_wait({"retry-after": http_date(-60, now)}) is None
    wrong = now + timedelta(days=3)  # a clock here that is wrong does not matter
    dates = {"retry-after": http_date(60, wrong), "date": http_date(0, wrong)}
    assert requested_wait(dates) == 60
    assert requested_wait({"ratelimit": '"api";r=0;t=55, "pages";r=3;t=9'}) == 55
    assert requested_wait({"ratelimit": '"api";r=0;t=0'}) is None
    assert requested_wait({"ratelimit": '"api";r=949;t=55'}) is None
    assert requested_wait({}) is None


@given(st.text(max_size=60), st.text(max_size=60), st.text(max_size=60))
def test_headers_are_a_strangers(retry, date, limit):
    found = requested_wait({"retry-after": retry, "date": date, "ratelimit": limit})
    assert found is None or found > 0


@given(
    st.none() | st.floats(min_value=1e-9, max_value=1e9),
    st.floats(min_value=1, max_value=30),
    st.integers(0, 99),
)
def test_every_wait_has_a_floor_a_cap_and_chance(asked, own, seed):
    found = pause(asked, own, 1.0, random.Random(seed).uniform)
    assert 0.5 <= found <= 1.25 * LONGEST_ASKED
    if asked is not None:
        assert found >= min(max(asked, 1.0), LONGEST_ASKED)
    assert len({pause(asked, own, 1.0) for _ in range(20)}) > 1


CALLS = {
    "/revision/": lambda e, now, n: e.snapshot(),
    "/tree/": lambda e, now, n: e.snapshot(),
    "/resolve/": lambda e, now, n: e.read("round.json", now, 99),
    "/paths-info/": lambda e, now, n: e.read("round.json", now, 99),
    "/commits/": lambda e, now, n: e.authors(["round.json"], now),
    "^POST .*/commit/": lambda e, now, n: e.commit({"a": b"%d" % n}, "one"),
    "^POST .*/preupload/": lambda e, now, n: e.commit({"b": b"%d" % n}, "one"),
    "/batch$": lambda e, now, n: e.commit({"c.safetensors": b"%d" % n}, "one"),
    "/auth-check": lambda e, now, n: e.check_writable(),
    "/discussions": lambda e, now, n: e.proposals(),
    "/whoami-v2": lambda e, now, n: e.account(),
    "/repos/create": lambda e, now, n: e.create(),
}
ANSWERS = {
    "409": (409, b'{"error": "%s"}' % BUSY.encode()),
    "423": (423, b""),
    "425": (425, b""),
    "403": (403, b'{"error": "Too many requests"}'),
    "429": (429, b""),
    "524": (524, b"<html>"),
}


@pytest.mark.parametrize("pattern", CALLS)
def test_every_request_waits_for_every_answer_that_passes(ann, hub, on_hub, pattern):
    now = ann.snapshot().revision
    for status, body in ANSWERS.values():
        fault = Fault(pattern, status=status, body=body, times=2)
        hub.faults[:] = [fault]
        CALLS[pattern](on_hub("ann"), now, status)
        assert fault.times == 0, status


def test_what_a_commit_built_upon_is_listed_as_patiently(ann, hub, on_hub):
    ann.commit({"round.json": b"one"}, "one")
    ann.commit({"round.json": b"two"}, "two")
    now = ann.snapshot().revision
    hub.faults[:] = [fault := Fault("/tree/", status=425, times=2)]
    assert "round.json" in on_hub("ben").before("round.json", now).files
    assert fault.times == 0


def test_a_right_that_is_missing_is_told_at_once(ann, hub, on_hub):
    hub.requests.clear()
    with pytest.raises(NotAllowed, match="--create-pr"):
        on_hub("eve").commit({"a": b"1"}, "no right")
    assert sum("/preupload/" in request.line for request in hub.requests) == 1


def test_many_commit_where_one_at_a_time_may(ann, hub, on_hub, repo):
    from tests.federation.exchanges.test_contract import together

    hub.commit_seconds = 0.1
    others = [on_hub("ann", patience=60) for _ in range(4)]
    done = together(lambda i: others[i].commit({f"by/{i}": b"%d" % i}, f"by {i}"), 4)
    assert not [one for one in done if isinstance(one, Exception)]
    titles = [commit.title for commit in hub.store.repos[repo].history("main")]
    assert sorted(titles[:4]) == [f"by {i}" for i in range(4)]
    assert len(titles) == 6


@pytest.mark.parametrize("code", ["RevisionNotFound", "RepoNotFound", "EntryNotFound"])
@pytest.mark.parametrize("pattern", ["/revision/", "/tree/", "/resolve/"])
def test_a_404_of_what_was_there_a_moment_ago_passes(ann, hub, pattern, code):
    now = ann.snapshot()
    headers = {"X-Error-Code": code}
    hub.faults.append(Fault(pattern, status=404, headers=headers, times=2))
    ann._known = Known()
    assert ann.snapshot() == now
    assert ann.read("round.json", now.revision, 9) == b"0"
    assert hub.faults[0].times == 0


def test_a_404_of_what_was_never_there_is_told_at_once(ann, hub, on_hub):
    hub.requests.clear()
    with pytest.raises(NotThere, match="sync init"):
        on_hub("ann", repo="ann/never").snapshot()
    with pytest.raises(NotThere, match="no such branch"):
        on_hub("ann", branch="never").snapshot()
    with pytest.raises(NotThere):
        ann.proposed(99)
    assert len(hub.requests) == 3


def test_a_repository_that_is_gone_is_told_after_a_while(ann, hub, repo):
    ann.snapshot()
    hub.store.delete(repo)
    hub.requests.clear()
    with pytest.raises(NotThere, match="sync init"):
        ann.snapshot()
    assert len(hub.requests) == client.DOUBTFUL_TRIES


def test_a_new_repository_that_is_not_visible_yet(hub, on_hub):
    missing = {"X-Error-Code": "RepoNotFound"}
    hub.faults.append(Fault("^GET .*/models/", status=404, headers=missing, times=3))
    made = on_hub("ann")
    made.create()
    assert made.snapshot().files == {}


def test_a_repository_that_is_there_already_without_an_address(ann, hub, on_hub):
    error = b'{"error": "A repository with this name already exists"}'
    hub.faults.append(Fault("/repos/create", status=409, body=error))
    on_hub("ann").create()
    assert hub.faults[0].times == 0


@pytest.mark.parametrize(
    "pattern", ["/revision/", "/tree/", "/paths-info/", "/commits/"]
)
@pytest.mark.parametrize("body", [b"", b"{", b'{"id": "ann/pool"}', b"[[1]]", b"\xff"])
def test_an_answer_cut_to_shorter_json_is_asked_for_again(
    ann, hub, on_hub, pattern, body
):
    now = ann.snapshot().revision
    hub.faults.append(Fault(pattern, "body", 200, body=body))
    reader = on_hub("ann")
    CALLS[pattern](reader, now, 0)
    assert hub.faults[0].times == 0


def test_an_answer_that_never_makes_sense_is_out_of_reach(ann, hub):
    hub.faults.append(Fault("/tree/", "body", 200, body=b"{", times=99))
    ann._known = Known()
    with pytest.raises(Unreachable, match="check HF_ENDPOINT"):
        ann.snapshot()
    assert 99 - hub.faults[0].times == client.DOUBTFUL_TRIES


def test_an_upload_the_hub_only_believes_to_have(hub, on_hub, repo):
    content = {"a.safetensors": b"weights" * 50}
    hub.believes_lfs = True
    first = on_hub("ann")
    first.create()
    first.commit(content, "one")
    hub.store.delete(repo)
    second, lines = on_hub("ann"), []
    second.create()

    def say(line):
        lines.append(line)
        hub.believes_lfs = False

    second.say = say
    second.commit(content, "again")
    assert "lost an upload" in lines[0]
    assert second.read("a.safetensors", second.snapshot().revision, 999)


def test_downloads_from_another_host_bring_no_token_there(ann, hub):
    with Server(store=hub.store, name="localhost") as downloads:
        hub.downloads = downloads
        now = ann.snapshot().revision
        assert ann.read("big.safetensors", now, 999) == b"weights" * 99
        assert len(downloads.requests) == 1
        downloads.faults.append(Fault("/cdn/", "wrong"))
        assert ann.read("big.safetensors", now, 999) == b"weights" * 99
        seen = repr(downloads.requests)
    assert TOKENS["ann"] in repr(hub.requests)
    assert TOKENS["ann"] not in seen


def test_a_repository_that_was_renamed_goes_on(ann, hub, repo, on_hub):
    hub.store.rename(repo, f"{repo}-new")
    ann.commit({"a.safetensors": b"1", "b": b"2"}, "after")
    now = on_hub("ann").snapshot()
    assert {"a.safetensors", "b"} <= now.files.keys()
    assert ann.read("a.safetensors", now.revision, 9) == b"1"
    assert ann.authors(["b"], now.revision) == {"b": "ann"}


def test_what_a_squash_takes_away_is_told_as_moved(ann, hub, on_hub, repo):
    from comigs_mlx.federation.exchanges.base import Moved

    found, store = on_hub("ann"), hub.store.repos[repo]
    old = found.snapshot().revision
    store.squash("main", "ann", "squashed")
    del store.commits[old]
    with pytest.raises(Moved, match="rewritten"):
        found.read("round.json", old, 9)
    with pytest.raises(Moved, match="rewritten"):
        found.authors(["round.json"], old)
    now = found.snapshot().revision
    assert found.read("round.json", now, 9) == b"0"
    assert found.authors(["round.json"], now) == {"round.json": "ann"}


def test_an_error_is_ours_whatever_the_answer(ann, hub, on_hub):
    for status in range(400, 600):
        if status not in retry_after.STATUSES:
            hub.faults[:] = [Fault("/resolve/", status=status, times=99)]
            with pytest.raises(FederationError) as error:
                ann.read("round.json", ann.snapshot().revision, 9)
            assert "\n" not in str(error.value)


def test_doubtful_answers_among_others_do_not_end_the_patience(ann, hub, monkeypatch):
    """Each of these passes; only one kind, one after the other, looks final."""
    monkeypatch.setattr(client, "FIRST_WAIT", 0.002)
    gone = {"X-Error-Code": "RevisionNotFound"}
    answers = [404, 500, 404, 503] * 2 + [404, 500]
    assert answers.count(404) == client.DOUBTFUL_TRIES
    hub.faults[:] = [
        Fault("/revision/", status=status, headers=gone) for status in answers
    ]
    assert ann.snapshot().files
    assert all(fault.times == 0 for fault in hub.faults)
