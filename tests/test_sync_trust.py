"""The sync command: proposals, keys, noise, and whose a name is."""

import json
import shutil

import pytest

import tests.hub_server as hub_server
import tests.tiny as tiny
from comigs_mlx import sync, train
from comigs_mlx.federation.exchanges import open as opening
from comigs_mlx.federation.formats import signatures
from comigs_mlx.federation.participant import membership, privacy
from tests.federation.conftest import TOKENS, reach

NAMES = iter(range(10**6))


@pytest.fixture(scope="module")
def hub():
    with hub_server.Server() as server:
        yield server


@pytest.fixture
def user(monkeypatch, hub):
    """(name) -> the commands go to the loopback Hub as this account."""

    def become(name):
        reach(monkeypatch, hub.url, TOKENS[name], patience=10)

    become("ann")
    return become


@pytest.fixture
def uri(user):
    return f"hf://ann/trust-{next(NAMES)}"


@pytest.fixture
def wrong(cli):
    """(action, flags) -> the one line that says why a command fails."""

    def failed(*argv, **options):
        code, out, err = cli(sync.main, *argv, **options)
        assert (code, out) == (2, "")
        *before, line = err.splitlines()  # secrets and licences are told before
        assert not any(said.startswith("error: ") for said in before)
        return line

    return failed


@pytest.fixture
def keys(tmp_path, monkeypatch):
    """(user) -> the commands find this user's key."""

    def become(name):
        monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / f"config-{name}"))

    return become


def trainee(run, steps):
    train.main(tiny.flags(run=run, resume=True, steps=steps))


def test_a_contribution_by_pull_request(uri, user, run, do, cli, wrong, hub):
    ann, ben = run("ann"), run("ben", seed=1)
    do("init", federation=uri, run=ann, quorum=2)
    user("ben")
    do("pull", federation=uri, run=ben)
    trainee(ben, 8)
    push = {"federation": uri, "run": ben, "participant": "ben"}
    before = membership.read(ben)
    line = wrong("push", **push)
    assert "--create-pr" in line
    assert "hf_ben" not in line
    assert membership.read(ben) == before
    sent = do("push", **push, create_pr=True)
    repo = uri.removeprefix("hf://")
    assert sent["url"] == f"{hub.url}/{repo}/discussions/1"
    assert not sent["closed"]
    assert sent["bytes_sent"] == sum(sent["files"].values())
    assert membership.read(ben).contributed == 1
    again = do("push", **push, create_pr=True)
    assert (again["url"], again["bytes_sent"]) == (sent["url"], 0)
    assert len(hub.store.repos[repo].pulls) == 1
    user("ann")
    proposal = {
        "number": 1,
        "author": "ben",
        "participant": "ben",
        "accepted": True,
        "reason": None,
        "url": sent["url"],
    }
    now = do("status", federation=uri)
    assert (now["contributions"], now["proposals"]) == ({}, [proposal])
    _, out, _ = cli(sync.main, "status", federation=uri)
    assert "proposal 1 by ben for ben  fit\n" in out
    shown = do("merge", federation=uri, dry_run=True)
    assert shown == {"due": False, "proposals": [proposal]}
    assert do("status", federation=uri) == now
    trainee(ann, 8)
    do("push", federation=uri, run=ann, participant="ann")
    merged = do("merge", federation=uri)
    assert merged == {"round": 1, "closed": True, "proposals": [proposal]}
    after = do("status", federation=uri)
    assert after["round"]["contributors"] == ["ann", "ben"]
    assert after["proposals"] == []
    user("ben")
    assert do("pull", federation=uri, run=ben)["changed"]


def test_refused_proposals_are_named_and_the_round_closes(uri, user, run, do, cli):
    ann, eve = run("ann"), run("eve", seed=1)
    do("init", federation=uri, run=ann, allow="ann=ann,ben=ben")
    trainee(ann, 8)
    real = opening.open_exchange(uri)
    user("eve")
    theirs = opening.open_exchange(uri)
    theirs.propose({"federation.json": b"{}"}, "a gift")
    push = {"federation": uri, "run": eve, "participant": "ben", "create_pr": True}
    do("pull", federation=uri, run=eve)
    code, _, err = cli(sync.main, "push", **push)
    assert code == 2
    assert "the name ben belongs to another account than eve" in err
    user("ann")
    before = real.snapshot()
    code, out, _ = cli(sync.main, "merge", federation=uri)
    assert code == 0
    assert out.splitlines() == [
        "  proposal 1 by eve for nobody  refused: it changes 'federation.json', which "
        "is no part of a contribution",
        "round 1 is not due yet",
    ]
    assert real.snapshot() == before
    assert do("push", federation=uri, run=ann, participant="ann")["closed"]


def test_signed_contributions(tmp_path, run, do, keys, wrong, cli):
    ann, uri = run("ann"), tmp_path / "pool"
    public = {}
    for name in ("ann", "ben", "eve"):
        keys(name)
        told = do("key")
        assert told["file"] == str(signatures.key_file())
        assert signatures.key_file().stat().st_mode & 0o777 == 0o600
        code, out, _ = cli(sync.main, "key")
        assert (code, out.strip()) == (0, told["public_key"])
        public[name] = told["public_key"]
    assert len(set(public.values())) == 3
    init = {"federation": uri, "run": ann, "quorum": 3, "allow": "ann,ben,cid=cid"}
    assert "--keys has eve, --allow has not" in wrong(
        "init", **init, keys=f"ann={public['ann']},eve={public['eve']}"
    )
    assert "write ben=HEX" in wrong("init", **init, keys="ben")
    assert "--allow has ann twice" in wrong("init", **{**init, "allow": "ann,ann=x"})
    assert "'beef' is not an Ed25519 public key" in wrong(
        "init", **init, keys="ann=beef"
    )
    needs = {**init, "keys": f"ann={public['ann']}", "require_signatures": True}
    needs |= {"allow": "ann,ben", "quorum": 2}
    assert "ben has no public_key" in wrong("init", **needs)
    assert "needs --allow NAME" in wrong("init", **init, require_signatures=True)
    assert not uri.exists()
    both = f"ann={public['ann']},ben={public['ben']}"
    agreed = do("init", **init, keys=both)
    assert agreed["participants"]["cid"] == {"account": "cid", "public_key": None}
    trainee(ann, 8)
    push = {"federation": uri, "run": ann}
    keys("ann")
    assert do("push", **push, participant="ann")["contribution.json"]["signature"]
    keys("eve")
    assert public["eve"] in wrong("push", **push, participant="ben")
    signed = uri / "contributions" / "1"
    forged = shutil.copytree(signed / "ann", signed / "ben")
    assert judged(do, uri) == {"ann": None, "ben": "participant 'ann', expected 'ben'"}
    metadata = json.loads((forged / "contribution.json").read_text())
    metadata["participant"] = "ben"
    (forged / "contribution.json").write_text(json.dumps(metadata))
    assert judged(do, uri) == {"ann": None, "ben": "wrong signature"}
    metadata["signature"] = None
    (forged / "contribution.json").write_text(json.dumps(metadata))
    assert judged(do, uri) == {"ann": None, "ben": "not signed"}


def judged(do, uri):
    found = do("status", federation=uri)["contributions"]
    return {name: one["reason"] for name, one in found.items()}


def test_everybody_must_sign(tmp_path, run, do, keys):
    ann, uri = run("ann"), tmp_path / "pool"
    keys("ann")
    public = do("key")["public_key"]
    init = {"federation": uri, "run": ann, "allow": "ann", "require_signatures": True}
    assert do("init", **init, keys=f"ann={public}")["require_signatures"]
    assert do("push", federation=uri, run=ann, participant="ann")["closed"]


def test_noise_is_drawn_once_and_its_price_is_told(tmp_path, run, do, cli):
    ann, uri = run("ann"), tmp_path / "pool"
    do("init", federation=uri, run=ann, quorum=2)
    trainee(ann, 8)
    push = {"federation": uri, "run": ann, "participant": "ann"}
    plain = do("push", **push, dry_run=True)
    assert plain["contribution.json"]["privacy"] is None
    noisy = {**push, "dp_clip": 0.5, "dp_noise": 2}
    shown = do("push", **noisy, dry_run=True)
    assert not membership.read(ann).private
    sent = do("push", **noisy)
    assert {key: sent[key] for key in shown} == shown
    epsilon = privacy.epsilon([(2.0, 1)], 1e-5)
    wanted = {"epsilon": epsilon, "delta": 1e-5, "clip": 0.5, "noise": 2.0}
    assert shown["contribution.json"]["privacy"] == wanted
    assert plain["contribution.json"]["files"] != shown["contribution.json"]["files"]
    now = do("status", federation=uri)["contributions"]["ann"]
    assert (now["accepted"], now["privacy"]) == (True, wanted)
    code, out, _ = cli(sync.main, "status", federation=uri)
    assert f"epsilon {epsilon:.3g} at delta 1e-05" in out
    files = {path.name: path.read_bytes() for path in pushed(uri).iterdir()}
    trainee(ann, 10)
    code, out, err = cli(sync.main, "push", **push)  # noise is remembered
    assert code == 0
    assert "round 1 has had this run's noise already" in err
    assert f"; epsilon {epsilon:.3g} at delta 1e-05 spent so far" in out
    assert {path.name: path.read_bytes() for path in pushed(uri).iterdir()} == files
    assert [one.rounds for one in membership.read(ann).private] == [1]


def pushed(uri):
    return uri / "contributions" / "1" / "ann"


def test_noise_that_could_not_be_sent_is_sent_later(uri, user, hub, run, do, wrong):
    ann = run("ann")
    do("init", federation=uri, run=ann, encoding="int8")
    trainee(ann, 8)
    push = {"federation": uri, "run": ann, "participant": "ann"}
    noisy = {**push, "dp_clip": 0.5, "dp_noise": 2}
    hub.store.repos[uri.removeprefix("hf://")].owner = "nobody"
    hub.store.repos[uri.removeprefix("hf://")].rights["ann"] = "read"
    assert "--create-pr" in wrong("push", **noisy)
    waiting = do("push", **noisy, dry_run=True)
    trainee(ann, 10)
    hub.store.repos[uri.removeprefix("hf://")].rights["ann"] = "write"
    sent = do("push", **push)
    assert {key: sent[key] for key in waiting} == waiting
    assert sent["closed"]
    assert [one.rounds for one in membership.read(ann).private] == [1]
    do("pull", federation=uri, run=ann)
    trainee(ann, 12)
    second = do("push", **push)["contribution.json"]
    assert second["privacy"]["epsilon"] == privacy.epsilon([(2.0, 2)], 1e-5)
    other = f"hf://ann/trust-{next(NAMES)}"
    do("init", federation=other, run=ann)
    third = do("push", **{**push, "federation": other})["contribution.json"]
    assert third["privacy"]["epsilon"] == privacy.epsilon([(2.0, 3)], 1e-5)


def test_noise_needs_both_numbers(run, wrong, tmp_path):
    push = {"federation": tmp_path, "run": run("ann"), "participant": "ann"}
    assert "go together" in wrong("push", **push, dp_clip=1)
    assert "--dp-noise 0.0 must be" in wrong("push", **push, dp_clip=1, dp_noise=0)


def test_pull_and_push_tell_their_bytes(uri, user, run, do, cli):
    ann, ben = run("ann"), run("ben", seed=1)
    do("init", federation=uri, run=ann, quorum=2)
    size = do("status", federation=uri)["bytes"]["generalist"]
    pulled = do("pull", federation=uri, run=ben)
    assert pulled["bytes_sent"] == 0
    # the generalist is received once, and two small JSON files with it
    assert size < pulled["bytes_received"] < size + 10_000
    push = {"federation": uri, "run": ben, "participant": "ben"}
    code, out, _ = cli(sync.main, "push", **push)
    total = do("status", federation=uri)["contributions"]["ben"]["bytes"]
    assert code == 0
    assert f"contributed to round 1 as ben ({total:,} bytes sent, " in out


def test_a_name_belongs_to_who_used_it_first(uri, user, hub, run, do, wrong):
    ann, ben = run("ann"), run("ben", seed=1)
    do("init", federation=uri, run=ann)
    hub.store.repos[uri.removeprefix("hf://")].rights["ben"] = "write"
    assert do("push", federation=uri, run=ann, participant="mac")["closed"]
    user("ben")
    do("pull", federation=uri, run=ben)
    push = {"federation": uri, "run": ben}
    line = wrong("push", **push, participant="mac")
    assert "the name mac belongs to another account than ben" in line
    assert do("push", **push, participant="imac")["closed"]
    user("ann")
    do("pull", federation=uri, run=ann)
    line = wrong("push", federation=uri, run=ann, participant="imac")
    assert "the name imac belongs to another account than ann" in line
    owners = do("status", federation=uri)["round"]["owners"]
    assert owners == {"mac": "ann", "imac": "ben"}
