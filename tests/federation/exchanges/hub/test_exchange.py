"""The Hub: what goes wrong there, what its users read, what leaves this device."""

import base64
import dataclasses
import hashlib
import logging
import subprocess
import sys
import time
import traceback

import pytest

import comigs_mlx
from comigs_mlx.errors import FederationError
from comigs_mlx.federation.exchanges.base import (
    Moved,
    NotAllowed,
    NotThere,
    TooLarge,
    Unreachable,
)
from comigs_mlx.federation.exchanges.hub import client, commit
from tests.federation.conftest import TOKENS
from tests.hub_server import Fault

COMMIT = "^POST .*/commit/"
ROUND = {"round.json": b"1", "adapters.safetensors": b"weights" * 99}


@pytest.fixture(autouse=True)
def _fast(monkeypatch):
    monkeypatch.setattr(client, "FIRST_WAIT", 0.05)


@pytest.fixture
def ann(on_hub, hub, repo):
    """The owner, on a repository with one commit; ben may write, eve may read."""
    made = on_hub("ann")
    made.create()
    made.commit({"round.json": b"0", "README.md": b"# Pool"}, "start")
    hub.store.repos[repo].rights["ben"] = "write"
    return made


def state(exchange):
    now = exchange.snapshot()
    return {path: exchange.read(path, now.revision, 10**6) for path in now.files}


def titles(hub, repo):
    return [commit.title for commit in hub.store.repos[repo].history("main")]


FAULTS = {
    "500 before": Fault(COMMIT, status=500),
    "500 twice": Fault(COMMIT, status=502, times=2),
    "500 after it landed": Fault(COMMIT, "after", status=500),
    "504 after it landed": Fault(COMMIT, "after", status=504),
    "reset before": Fault(COMMIT, "reset"),
    "reset after it landed": Fault(COMMIT, "reset-after"),
    "answer cut": Fault(COMMIT, "cut"),
    "429": Fault(COMMIT, status=429, headers={"Retry-After": "0"}),
    "500 at preupload": Fault("^POST .*/preupload/", status=503),
    "500 at the upload": Fault("^PUT /lfs/", status=500),
    "reset at verify": Fault("/verify$", "reset"),
    "500 at the head": Fault("^GET .*/revision/", status=500),
}


@pytest.mark.parametrize("parent", [True, False], ids=["lock", "no lock"])
@pytest.mark.parametrize("name", FAULTS)
def test_a_commit_lands_exactly_once(ann, hub, repo, name, parent):
    fault = FAULTS[name]
    hub.faults.append(dataclasses.replace(fault))
    lines = []
    ann.say = lines.append
    head = ann.snapshot().revision
    landed = ann.commit(ROUND, "close", parent=head if parent else None)
    assert landed == ann.snapshot().revision
    assert titles(hub, repo) == ["close", "start", "initial commit"]
    assert state(ann) == {"README.md": b"# Pool", **ROUND}
    assert hub.faults[0].times == 0
    if name not in ("reset at verify",):  # the library's own upload retries
        assert lines
    assert all("trying again in" in line for line in lines)


def test_a_412_without_parent_is_tried_again(ann, hub, repo):
    hub.faults.append(Fault(COMMIT, status=412, times=2))
    ann.commit({"a": b"1"}, "contribute")
    assert titles(hub, repo)[0] == "contribute"
    hub.faults.append(Fault(COMMIT, status=412))
    with pytest.raises(Moved):
        ann.commit({"a": b"2"}, "close", parent=ann.snapshot().revision)


def test_lost_answer_and_then_a_rival(ann, on_hub, hub, repo):
    """Ours did not land, somebody else's did: that is Moved, and nothing doubles."""
    parent = ann.snapshot().revision
    hub.faults.append(Fault(COMMIT, status=500))
    ann.say = lambda line: on_hub("ben").commit({"round.json": b"ben"}, "ben's")
    with pytest.raises(Moved):
        ann.commit({"round.json": b"ann"}, "ann's", parent=parent)
    assert titles(hub, repo)[0] == "ben's"
    assert state(ann)["round.json"] == b"ben"


@pytest.mark.parametrize("path", ["adapters.safetensors", "round.json"])
def test_lost_answer_and_then_a_rivals_file_of_the_same_name(ann, on_hub, hub, path):
    """Only the content tells whose it is: LFS by its SHA-256, text by git's hash."""
    parent = ann.snapshot().revision
    hub.faults.append(Fault(COMMIT, status=500))
    ann.say = lambda line: on_hub("ben").commit({path: b"ben's!"}, "ben's")
    with pytest.raises(Moved):
        ann.commit({path: b"ann's!"}, "ann's", parent=parent)
    assert state(ann)[path] == b"ben's!"


def test_a_lost_delete_is_found_done(ann, hub, repo):
    hub.faults.append(Fault(COMMIT, "reset-after"))
    ann.commit({"README.md": None}, "without")
    assert titles(hub, repo) == ["without", "start", "initial commit"]


def test_the_librarys_early_return_minds_the_parent(ann, on_hub, hub, monkeypatch):
    """A rival with the same content lands between our look and the library's."""
    parent = ann.snapshot().revision
    inner = commit.operations

    def late(changes):
        monkeypatch.setattr(commit, "operations", inner)
        on_hub("ben").commit({"round.json": b"1"}, "ben's")
        return inner(changes)

    monkeypatch.setattr(commit, "operations", late)
    with pytest.raises(Moved):
        ann.commit({"round.json": b"1"}, "ann's", parent=parent)


def test_a_refused_closer_sends_nothing_of_the_files(ann, hub):
    stale = ann.snapshot().revision
    ann.commit({"a": b"1"}, "moves on")
    hub.requests.clear()
    with pytest.raises(Moved):
        ann.commit({"secret": b"private words"}, "late", parent=stale)
    assert [request.line.split()[0] for request in hub.requests] == ["GET"]


def test_only_what_was_committed_ever_leaves(ann, hub):
    hub.requests.clear()
    ann.commit(ROUND, "close", parent=ann.snapshot().revision)
    sent = b"".join(r.body for r in hub.requests if "/commit/" in r.line)
    assert b"README" not in sent
    assert base64.b64encode(b"1") in sent
    uploads = [r.body for r in hub.requests if r.line.startswith("PUT")]
    assert uploads == [ROUND["adapters.safetensors"]]


def test_a_large_upload_in_parts(ann, hub):
    hub.part_bytes = 1000
    content = bytes(range(256)) * 13
    ann.commit({"adapters.safetensors": content}, "parts")
    assert state(ann)["adapters.safetensors"] == content
    assert sum("/part/" in request.line for request in hub.requests) == 4


def test_how_long_to_wait_is_the_servers_word_within_our_patience(ann, hub, on_hub):
    lines, begun = [], time.monotonic()
    ann.say = lines.append
    hub.faults.append(Fault(COMMIT, status=429, headers={"Retry-After": "1"}))
    ann.commit({"a": b"1"}, "one")
    assert 1 <= time.monotonic() - begun < 5
    assert lines == [
        "the Hub asks to slow down (status 429): try again later; trying again in 1 s"
    ]
    for headers in ({"Retry-After": "3600"}, {"RateLimit": '"api";r=0;t=3600'}):
        for pattern in (COMMIT, "preupload", "/revision/", "/tree/"):
            hub.faults[:] = [Fault(pattern, status=429, headers=headers, times=99)]
            begun = time.monotonic()
            ann = on_hub("ann", patience=2)
            with pytest.raises(Unreachable, match="slow down") as error:
                (ann.commit({f"{len(lines)}": pattern.encode()}, "n"), ann.snapshot())
            lines.append("next")
            assert time.monotonic() - begun < 2
            assert error.value.after == 3600


@pytest.mark.parametrize(
    "pattern", [COMMIT, "/revision/", "/tree/", "/resolve/", "^PUT", "/batch$"]
)
def test_a_hung_server_does_not_hang_us(ann, hub, on_hub, pattern):
    now = ann.snapshot().revision
    hub.faults.append(Fault(pattern, "hang", times=99))
    files = {f"{name}/adapters.safetensors": name.encode() for name in "abc"}

    def work(exchange):
        exchange.commit(files, "several large files")

    hasty, begun = on_hub("ann", patience=0.6), time.monotonic()
    with pytest.raises(Unreachable, match="in time|too slow"):
        (work(hasty), hasty.snapshot(), hasty.read("round.json", now, 99))
    assert time.monotonic() - begun < 4


@pytest.mark.parametrize("kind", ["reset", "cut", "status"])
def test_reading_goes_on_after_a_passing_fault(ann, hub, kind):
    now = ann.snapshot().revision
    hub.faults.append(Fault("/resolve/", kind, times=2))
    assert ann.read("round.json", now, 99) == b"0"
    assert hub.faults[0].times == 0


@pytest.mark.parametrize("kind", ["wrong", "longer", "shorter"])
@pytest.mark.parametrize("path", ["README.md", "adapters.safetensors"])
def test_a_damaged_file_is_read_again(ann, hub, on_hub, path, kind):
    """By its SHA-256, or git's hash of a text file, with and without a listing."""
    content = {"README.md": b"# Pool", "adapters.safetensors": b"weights" * 99}[path]
    ann.commit(ROUND, "close")
    now = ann.snapshot().revision
    for reader in (ann, on_hub("ben")):
        hub.faults[:] = [Fault("/resolve/", kind, times=2)]
        assert reader.read(path, now, 999) == content
        assert hub.faults[0].times == 0
    hub.faults[:] = [Fault("/resolve/", kind, times=10**6)]
    hasty = on_hub("ann", patience=1.0)  # a busy machine needs its time
    with pytest.raises(Unreachable, match="damaged on its way|too slow"):
        hasty.read(path, now, 999)


def test_a_damaged_listing_is_asked_for_again(ann, hub):
    """A digit of a hash or a size that turned must not refuse the file for good."""
    for old, new in ((hashlib.sha1(b"blob 6\0# Pool").hexdigest(), "0" * 40),):
        hub.faults[:] = [Fault("/tree/", "replace", old=old.encode(), new=new.encode())]
        now = ann.snapshot()
        assert ann.read("README.md", now.revision, 99) == b"# Pool"


def test_more_bytes_than_are_accepted_are_refused(ann, hub):
    now = ann.snapshot().revision
    hub.requests.clear()
    with pytest.raises(TooLarge):
        ann.read("README.md", now, 3)
    assert hub.requests == []  # refused before the download


def test_reading_leaves_nothing_on_disk(ann, tmp_path):
    assert state(ann)["round.json"] == b"0"
    assert not (tmp_path / "hf").exists()


def test_more_files_than_a_page(ann, hub):
    hub.entries_a_page = 20
    many = {f"contributions/1/p{i}/contribution.json": b"%d" % i for i in range(45)}
    revision = ann.commit(many, "many")
    assert set(ann.snapshot().files) == {*many, "README.md", "round.json"}
    assert ann.authors(many, revision) == dict.fromkeys(many, "ann")


def test_authors_are_the_accounts_that_committed(ann, on_hub, hub, repo):
    on_hub("ben").commit({"b": b"1"}, "ben's\n\nCo-authored-by: ann")
    for i in range(25):
        ann.commit({"a": b"%d" % i}, "ann's")
    now = ann.snapshot().revision
    hub.requests.clear()
    hub.commits_a_page = 20
    assert ann.authors(["a", "b"], now) == {"a": "ann", "b": "ben"}
    pages = [r.line for r in hub.requests if "/commits/" in r.line]
    assert len(pages) == 2


def test_a_branch_of_its_own(ann, on_hub, hub, repo):
    dev = on_hub("ann", branch="dev")
    with pytest.raises(NotThere, match="no such branch or revision"):
        dev.snapshot()
    dev.create()
    dev.commit({"only": b"here"}, "on dev")
    assert "only" in dev.snapshot().files
    assert "only" not in ann.snapshot().files
    assert dev.url("a.json") == f"{hub.url}/{repo}/blob/dev/a.json"


def test_pull_requests(ann, on_hub, hub, repo):
    eve = on_hub("eve")
    with pytest.raises(NotAllowed, match="--create-pr"):
        eve.commit({"e": b"1"}, "no right")
    hub.faults.append(Fault(COMMIT, "reset-after"))
    url = eve.propose({"e": b"1", "adapters.safetensors": b"w"}, "eve's", "please")
    (proposal,) = ann.proposals()
    assert url == proposal.url == f"{hub.url}/{repo}/discussions/1"
    assert (proposal.title, proposal.author) == ("eve's", "eve")
    offered, changed = ann.proposed(1)
    assert changed == {"e", "adapters.safetensors"}
    assert ann.read("e", offered.revision, 9) == b"1"
    hub.store.repos[repo].rights.clear()
    with pytest.raises(NotAllowed):
        on_hub("ben").dismiss(1, "neither writer nor author")
    hub.faults.append(Fault("/status$", "reset-after"))
    ann.dismiss(1, "seen")
    assert hub.store.repos[repo].pulls[1].comment == "seen"
    assert ann.proposals() == []
    with pytest.raises(NotThere, match="no open pull request 1"):
        ann.dismiss(1, "seen")


def test_create(on_hub, hub, repo):
    on_hub("ann").create(private=True)
    assert hub.store.repos[repo].private
    on_hub("ann").create(private=True)
    with pytest.raises(NotThere):
        on_hub("ben").snapshot()
    hub.store.repos[repo].private = False
    with pytest.raises(NotAllowed, match="already and public: make it private"):
        on_hub("ann").create(private=True)
    with pytest.raises(NotAllowed, match="may not write to bob/x"):
        on_hub("ann", repo="bob/x").create()


def test_an_ignored_file_is_named(ann, hub, repo):
    from tests.hub_store import Stored

    files = hub.store.repos[repo].revision("main").files
    files[".gitignore"] = Stored(b"*.safetensors", False)
    with pytest.raises(FederationError, match=r"gitignore in .* kept adapters"):
        ann.commit(ROUND, "close")


READS = (
    lambda e: e.snapshot(),
    lambda e: e.read("README.md", "main", 99),
)
WRITES = (
    lambda e: e.commit({"a": b"1"}, "one"),
    lambda e: e.check_writable(),
)


@pytest.mark.parametrize(
    ("user", "calls", "kind", "text"),
    [
        ("hf_wrong", READS + WRITES, NotAllowed, "does not accept the token"),
        ("eve", WRITES, NotAllowed, "ask its owner for the right, use a token with"),
        (None, WRITES, NotThere, "hf auth login"),
        ("hf_bad\nX: y", READS + WRITES, FederationError, "check HF_TOKEN"),
    ],
)
def test_who_may_do_what(ann, on_hub, hub, user, calls, kind, text):
    for call in calls:
        with pytest.raises(kind, match=text):
            call(on_hub(user))


def test_repositories_one_may_not_see(ann, on_hub, hub, repo):
    missing = on_hub("ann", repo="ann/never")
    hub.store.repos[repo].private = True
    for exchange in (missing, on_hub("eve"), on_hub(None)):
        for call in READS + WRITES:
            with pytest.raises(NotThere, match=r"check the name.* private.*sync init"):
                call(exchange)
    hub.store.repos[repo].private, hub.store.repos[repo].gated = False, True
    with pytest.raises(NotAllowed, match="is gated: open its page on the Hub, ask"):
        state(on_hub("eve"))
    assert on_hub(None).account() is None


def test_connections_that_cannot_work(on_hub, monkeypatch):
    # Long enough that also a busy machine comes to its first try.
    closed = on_hub("ann", endpoint="http://127.0.0.1:9", patience=3)
    with pytest.raises(Unreachable, match=r"connection .* failed .*check the network"):
        closed.snapshot()
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(Unreachable, match="HF_HUB_OFFLINE is set: unset it"):
        on_hub("ann", patience=99).snapshot()


def test_something_else_answers(ann, hub):
    page = {"Content-Type": "text/html"}
    hub.faults.append(Fault("/revision/", "body", 200, page, b"<h1>Login</h1>"))
    with pytest.raises(Unreachable, match="check HF_ENDPOINT.*login in the browser"):
        ann.snapshot()


@pytest.mark.parametrize(
    ("status", "text"), [(402, "storage"), (413, "too large"), (418, "status 418")]
)
def test_other_answers_are_one_sentence(ann, hub, status, text):
    hub.faults.append(Fault(COMMIT, status=status))
    with pytest.raises(FederationError, match=text) as error:
        ann.commit({"a": b"1"}, "one")
    assert "\n" not in str(error.value)


def test_a_token_with_a_letter_that_no_header_can_carry(on_hub):
    with pytest.raises(NotAllowed, match="stray characters: check HF_TOKEN"):
        on_hub("hf_é" + "x" * 30).snapshot()


def test_requests_say_which_version_asks(ann, hub):
    ann.read("README.md", ann.snapshot().revision, 99)
    sent = [{k.lower(): v for k, v in r.headers.items()} for r in hub.requests]
    wanted = f"comigs_mlx/{comigs_mlx.__version__}; "
    assert all(wanted in headers["user-agent"] for headers in sent)


def test_an_address_with_a_password_is_not_shown(on_hub, hub):
    endpoint = hub.url.replace("//", "//me:Secret@")
    made = on_hub("ann", endpoint=endpoint)
    assert "Secret" not in made.url() + made.url("a") + made._proposal_url(1)


def test_bad_metadata_of_the_card(ann):
    with pytest.raises(
        FederationError, match=r"metadata of README.md.* mend the lines"
    ):
        ann.commit({"README.md": b"---\nlicense: [\n---"}, "card")


def test_no_token_in_any_text(ann, on_hub, hub, caplog, capfd):
    """Not even where the server quotes it, or a header with it cannot be sent."""
    caplog.set_level(logging.INFO)
    caplog.set_level(logging.DEBUG, "huggingface_hub")
    secret = TOKENS["ann"] = "hf_SecretSecretSecret"
    hub.store.users[secret] = "ann"
    lines, texts = [], []
    quoting = b'{"error": "bad header Authorization: Bearer %s"}' % secret.encode()
    for token, fault in (
        (secret, Fault(".", "body", 418, {}, quoting)),
        (secret, Fault(".", "body", 403, {"X-Error-Message": secret}, quoting)),
        (secret, Fault(".", status=500, times=3)),
        (secret, Fault(".", "reset", times=3)),
        (f"{secret}\n", Fault("never")),
        (f"{secret}x", Fault("never")),
    ):
        hub.faults[:] = [fault]
        exchange = on_hub(token, say=lines.append, patience=0.2)
        texts.append(repr(exchange) + repr(vars(exchange).get("uri")))
        for call in READS + WRITES:
            try:
                call(exchange)
            except FederationError as error:
                texts += ["".join(traceback.format_exception(error)), repr(error)]
    TOKENS["ann"] = "hf_ann"
    shown = "".join([*texts, *lines, caplog.text, *capfd.readouterr()])
    assert len(texts) > 12
    assert "Secret" not in shown


def test_the_library_is_imported_when_it_is_needed():
    program = (
        "import sys; from comigs_mlx.federation.exchanges import open;"
        "open.open_exchange('hf://a/b'); assert 'huggingface_hub' not in sys.modules"
    )
    result = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, check=False
    )
    assert result.returncode == 0, result.stderr.decode()
