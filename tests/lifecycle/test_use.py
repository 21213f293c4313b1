"""A run that grew or was pruned is a run as any other: shared, spoken with, listed."""

import json

import pytest

import tests.tiny as tiny
from comigs_mlx import evaluate, generate, grow, prune, sync, train
from comigs_mlx.runs import listing
from tests.lifecycle.conftest import generalist_bytes
from tests.runs.compare import tree

NAMES = ["generalist", "specialist", "specialist-1"]


@pytest.fixture
def do(cli):
    """(main, flags) -> the command's JSON."""

    def done(main, *argv, **options):
        code, out, err = cli(main, *argv, json=True, **options)
        assert code == 0, err
        return json.loads(out)

    return done


@pytest.fixture
def older(run, do, text_folder):
    """A run that has grown."""
    folder = run("older")
    do(grow.main, run=folder, data=text_folder, force=True)
    return folder


def test_it_is_measured_spoken_with_and_listed(older, cli, do, tmp_path):
    results = do(evaluate.main, run=older)
    assert list(results["expert_share"]) == NAMES
    assert set(results["results"]) == {"base", "generalist", "specialist", "mixture"}
    trace = tmp_path / "trace.json"
    for experts in ("auto", "generalist", "specialist", "0.2,0.3,0.5"):
        code, _, err = cli(
            generate.main,
            run=older,
            prompt="abc",
            max_tokens=3,
            experts=experts,
            trace=trace,
        )
        assert code == 0, err
        assert json.loads(trace.read_text())["experts"] == NAMES
    entry = listing.entry(older)
    assert (entry.experts, entry.problem, entry.step) == (NAMES, None, 6)


def test_participants_may_differ_in_their_specialists(older, run, do, tmp_path):
    ben, uri = run("ben", seed=1), tmp_path / "pool"
    do(sync.main, "init", federation=uri, run=ben, quorum=2, encoding="fp32")
    assert do(sync.main, "pull", federation=uri, run=older)["changed"]
    assert generalist_bytes(older) == generalist_bytes(ben)
    for who in (older, ben):
        train.main(tiny.flags(run=who, resume=True, steps=8))
    sent = do(sync.main, "push", federation=uri, run=older, participant="ann")
    assert not any("specialist" in name or "router" in name for name in sent["files"])
    assert do(sync.main, "push", federation=uri, run=ben, participant="ben")["closed"]
    for who in (older, ben):
        assert do(sync.main, "pull", federation=uri, run=who)["changed"]
    assert generalist_bytes(older).keys() == generalist_bytes(ben).keys()


def test_a_member_grows_between_two_rounds(run, do, cli, text_folder, tmp_path):
    ann, ben, uri = run("ann"), run("ben", seed=1), tmp_path / "pool"
    do(sync.main, "init", federation=uri, run=ben)
    do(sync.main, "pull", federation=uri, run=ann)
    kept = {n: raw for n, raw in tree(ann).items() if n.startswith("state/rounds/")}
    assert kept
    shared = tree(uri)
    do(grow.main, run=ann, data=text_folder, force=True)
    now = tree(ann)
    assert {n: now[n] for n in kept} == kept
    assert tree(uri) == shared
    assert not any("descriptors" in name for name in shared)
    train.main(tiny.flags(run=ann, resume=True, steps=8))
    assert do(sync.main, "push", federation=uri, run=ann, participant="ann")["closed"]
    assert do(sync.main, "pull", federation=uri, run=ann)["round"] == 1
    code, _, err = cli(grow.main, run=ann, undo=True)
    assert code == 2
    assert "was trained for 2 steps since" in err


def test_undo_tells_that_a_generalist_was_pulled_since(run, do, cli, tmp_path):
    ann, ben, uri = run("ann", specialists=2), run("ben", seed=1), tmp_path / "pool"
    do(sync.main, "init", federation=uri, run=ben)
    do(prune.main, run=ann, experts="specialist")
    do(sync.main, "pull", federation=uri, run=ann)
    pulled = tree(ann)
    code, _, err = cli(prune.main, run=ann, undo=True)
    assert code == 2
    assert "have exchanged generalists since" in err
    assert tree(ann) == pulled
    assert cli(prune.main, run=ann, undo=True, force=True)[0] == 0
    assert listing.entry(ann).experts == NAMES
    do(evaluate.main, run=ann)
