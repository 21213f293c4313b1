"""A run notices what somebody changed in its federation, and takes it with --trust."""

import dataclasses
import json
import shutil

import pytest

import tests.federation.sharing as sharing
import tests.tiny as tiny
from comigs_mlx import sync
from comigs_mlx.federation.formats.manifest import AggregatorChoice, Member
from comigs_mlx.federation.formats.round import Round
from comigs_mlx.federation.participant import membership, trust
from comigs_mlx.federation.participant.membership import Membership
from comigs_mlx.federation.participant.trust import Changed

FIRST = sharing.tensors(blocks=1)
AGREED = sharing.manifest(FIRST, id="ab" * 16, founder="ann")
DIGEST, OTHER = "1" * 64, "2" * 64


def changed(now=AGREED, round=None, **record):
    """The line that a run with this record is told; None: all is as it was."""
    given = {"round": 2, "manifest": AGREED, "generalist": DIGEST, **record}
    known = Membership("pool", "ann", **given)
    last = round or Round(round=2, generalist=DIGEST)
    try:
        trust.check(known, "pool", now, last)
    except Changed as change:
        text = str(change)
    else:
        return None
    assert "--trust" in text
    assert "\n" not in text
    return text


def test_what_is_as_it_was_is_not_told():
    assert changed() is None
    assert changed(round=Round(round=7, generalist=OTHER)) is None
    assert changed(round=Round(round=2)) is None  # closed by an earlier version
    assert changed(round=Round(round=2, generalist=OTHER), generalist=None) is None
    anew = dataclasses.replace(AGREED, id="cd" * 16, quorum=9)
    assert changed(anew, manifest=None) is None  # joined by an earlier version


def test_an_older_state_a_new_federation_and_another_round():
    assert "went back to an older state: round 1, and this run has round 2" in changed(
        round=Round(round=1, generalist=DIGEST)
    )
    text = changed(dataclasses.replace(AGREED, id="cd" * 16))
    assert "was founded anew" in text
    assert "cd" * 16 in text
    assert "closed twice or replaced" in changed(round=Round(round=2, generalist=OTHER))


def test_each_changed_field_is_told_with_both_values():
    other = dataclasses.replace(
        AGREED,
        quorum=3,
        founder="eve",
        deadline_seconds=60.0,
        aggregator=AggregatorChoice("trimmed_mean", {"fraction": 0.1}),
        participants={"ann": Member("ann", None)},
    )
    told = list(trust.differences(AGREED, other))
    assert told == [
        "aggregator.name 'mean' -> 'trimmed_mean'",
        "aggregator.options.fraction added",
        "deadline_seconds none -> 60.0",
        "founder 'ann' -> 'eve'",
        "participants none -> ann",
        "quorum 1 -> 3",
    ]
    assert all(one in changed(other) for one in told)
    more = dataclasses.replace(
        other, participants={"ann": Member("eve", None), "eve": Member()}
    )
    assert list(trust.differences(other, more)) == [
        "participants.ann.account 'ann' -> 'eve'",
        "participants.eve added",
    ]
    many = {f"p{i}": Member() for i in range(30)}
    text = changed(
        dataclasses.replace(AGREED, participants=many),
        manifest=dataclasses.replace(AGREED, participants={"ann": Member()}),
    )
    assert "participants.ann removed" in text
    assert "25 more" in text


@pytest.fixture
def pool(tmp_path, run):
    """A federation in a folder, and a run of it that has round 0."""
    uri, ann = tmp_path / "pool", run("ann")
    sync.main(["init", *tiny.flags(federation=uri, run=ann)])
    return uri, ann


@pytest.fixture
def do(cli):
    def done(*argv, **options):
        code, out, err = cli(sync.main, *argv, **options)
        return code, out, err

    return done


def rewrite(uri, **changes):
    file = uri / "federation.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


def contents(run):
    return {p: p.read_bytes() for p in sorted(run.rglob("*")) if p.is_file()}


def test_a_changed_manifest_is_not_used_until_it_is_accepted(pool, do):
    uri, ann = pool
    flags = {"federation": uri, "run": ann, "participant": "ann"}
    rewrite(uri, quorum=2)
    before = contents(ann)
    for action in ("pull", "push"):
        code, out, err = do(action, **flags)
        assert (code, out) == (2, "")
        assert "quorum 1 -> 2" in err
        assert "--trust" in err
    assert contents(ann) == before
    assert not (uri / "contributions").exists()
    code, _, err = do("pull", **flags, trust=True)
    assert code == 0
    assert "accepted: federation.json" in err
    assert do("push", **flags)[0] == 0
    assert membership.read(ann).manifest.quorum == 2
    rewrite(uri, quorum=1)
    assert do("push", **flags)[0] == 2
    code, out, _ = do("push", **flags, trust=True)
    assert code == 0
    assert "the round is closed" in out


def test_a_dry_run_accepts_nothing(pool, do):
    uri, ann = pool
    rewrite(uri, quorum=2)
    before = contents(ann)
    flags = {"federation": uri, "run": ann, "participant": "ann", "trust": True}
    assert do("push", **flags, dry_run=True)[0] == 2
    assert contents(ann) == before


def test_a_run_of_an_earlier_version_accepts_once_and_says_so(pool, do):
    uri, ann = pool
    record = membership.read(ann)
    membership.write(ann, dataclasses.replace(record, manifest=None, generalist=None))
    assert b"manifest" not in (ann / "federation.json").read_bytes()
    flags = {"federation": uri, "run": ann, "participant": "ann"}
    code, _, err = do("pull", **flags)
    assert (code, "remembers federation.json" in err) == (0, True)
    code, _, err = do("pull", **flags)
    assert (code, err) == (0, "")
    rewrite(uri, quorum=2)
    assert do("pull", **flags)[0] == 2


def test_a_federation_founded_anew_is_joined_with_trust(pool, do, run):
    uri, ann = pool
    flags = {"federation": uri, "run": ann, "participant": "ann"}
    old = membership.read(ann)
    shutil.rmtree(uri)
    do("init", federation=uri, run=run("ben", seed=1))
    for action in ("pull", "push"):
        code, _, err = do(action, **flags)
        assert (code, "founded anew" in err) == (2, True)
    assert not (uri / "contributions").exists()
    code, out, _ = do("pull", **flags, trust=True)
    assert (code, "now has" in out) == (0, True)
    new = membership.read(ann)
    assert new.manifest.id != old.manifest.id
    assert new.generalist != old.generalist
    assert do("push", **flags)[0] == 0


def test_an_older_state_is_told_and_taken_with_trust(pool, do, tmp_path):
    uri, ann = pool
    flags = {"federation": uri, "run": ann, "participant": "ann"}
    shutil.copytree(uri, tmp_path / "older")
    do("push", **flags)
    do("pull", **flags)
    assert membership.read(ann).round == 1
    shutil.rmtree(uri)
    shutil.copytree(tmp_path / "older", uri)
    for action in ("pull", "push"):
        code, _, err = do(action, **flags)
        assert (code, "older state" in err) == (2, True)
    assert do("pull", **flags, trust=True)[0] == 0
    assert membership.read(ann).round == 0
    assert do("push", **flags)[0] == 0


def test_a_round_that_is_another_one_is_told(pool, do):
    """Two that a synchroniser kept apart closed the same round (or one was forged)."""
    uri, ann = pool
    flags = {"federation": uri, "run": ann, "participant": "ann"}
    file = uri / "round.json"
    before = file.read_text()
    file.write_text(json.dumps({**json.loads(before), "generalist": OTHER}))
    code, _, err = do("pull", **flags)
    assert (code, "closed twice or replaced" in err) == (2, True)
    file.write_text(before)
    assert do("pull", **flags)[0] == 0
    # An earlier version states no digest: the bytes are compared.
    plain = {k: v for k, v in json.loads(before).items() if k != "generalist"}
    file.write_text(json.dumps(plain))
    assert do("pull", **flags)[0] == 0
    membership.write(ann, dataclasses.replace(membership.read(ann), generalist=OTHER))
    code, _, err = do("pull", **flags)
    assert (code, "closed twice or replaced" in err) == (2, True)
    code, _, err = do("push", **flags)
    assert (code, "closed twice or replaced" in err) == (2, True)
    assert not (uri / "contributions").exists()


def test_init_is_the_same_again_and_another_one_is_not(pool, do, run):
    uri, ann = pool
    first = (uri / "federation.json").read_bytes()
    assert do("init", federation=uri, run=ann)[0] == 0
    assert (uri / "federation.json").read_bytes() == first
    code, _, err = do("init", federation=uri, run=ann, quorum=3)
    assert (code, "has a federation already" in err) == (2, True)
