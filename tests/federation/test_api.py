"""The desk: as sync does it, and back to an earlier generalist without a network."""

import json
import shutil

import numpy as np
import pytest
from safetensors.numpy import load_file

import tests.tiny as tiny
from comigs_mlx import sync, train
from comigs_mlx.errors import ComigsError, FederationError, RunError
from comigs_mlx.federation import api
from comigs_mlx.federation.exchanges.open import open_exchange
from comigs_mlx.federation.formats.manifest import Manifest
from comigs_mlx.federation.participant import membership, round_history
from comigs_mlx.federation.participant.options import InitConfig
from comigs_mlx.options import PrivacyOptions
from comigs_mlx.runs.folder import RunFolder
from tests.federation import sharing


@pytest.fixture
def uri(tmp_path):
    return str(tmp_path / "pool")


@pytest.fixture
def ann(run, uri):
    """Ann's run; it founded the federation."""
    folder = run("ann")
    sync.main(["init", *tiny.flags(federation=uri, run=folder, encoding="fp32")])
    return folder


def generalist(run):
    return load_file(run / "generalist" / "adapters.safetensors")


def same(found, wanted):
    return found.keys() == wanted.keys() and all(
        np.array_equal(found[name], wanted[name]) for name in wanted
    )


def tree(folder):
    """Path -> content of every file but the lock."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != ".lock"
    }


def go_on(run, steps):
    train.main(tiny.flags(run=run, resume=True, steps=steps))


def a_round(run, uri, steps):
    """Train, push, which closes the round, and pull."""
    go_on(run, steps)
    assert api.push(run, open_exchange(uri), "ann")["closed"]
    assert api.pull(run, open_exchange(uri)).changed
    return generalist(run)


def test_overview_is_the_status_command_s(ann, uri, capsys):
    capsys.readouterr()
    sync.main(["status", *tiny.flags(federation=uri, json=True)])
    assert json.loads(json.dumps(api.overview(open_exchange(uri)))) == json.loads(
        capsys.readouterr().out
    )


def test_what_would_leave_is_what_leaves_and_looking_changes_nothing(ann, uri):
    go_on(ann, 8)
    before, pool = tree(ann), api.overview(open_exchange(uri), now=0.0)
    listed = api.leaving(ann, open_exchange(uri), "ann")
    assert tree(ann) == before
    assert api.overview(open_exchange(uri), now=0.0) == pool
    sent = api.push(ann, open_exchange(uri), "ann")
    assert sent == {"participant": "ann", "round": 1, "closed": True, **listed}
    assert set(listed["files"]) == {"adapters.safetensors", "contribution.json"}


def test_push_closes_only_what_is_due(run, uri):
    folder = run("ann")
    sync.main(["init", *tiny.flags(federation=uri, run=folder, quorum=2)])
    go_on(folder, 8)
    assert not api.close(open_exchange(uri)).closed
    assert not api.push(folder, open_exchange(uri), "ann")["closed"]
    assert api.overview(open_exchange(uri))["contributions"]["ann"]["accepted"]
    assert not api.close(open_exchange(uri)).closed
    assert not api.pull(folder, open_exchange(uri)).changed


def test_a_name_is_needed_once(ann, uri):
    go_on(ann, 8)
    with pytest.raises(FederationError, match="--participant NAME is missing"):
        api.push(ann, open_exchange(uri))
    api.push(ann, open_exchange(uri), "ann")
    api.pull(ann, open_exchange(uri))
    go_on(ann, 10)
    assert api.push(ann, open_exchange(uri))["round"] == 2


def test_rolling_back_brings_the_very_generalist_and_nothing_else(ann, uri):
    rounds = {n: a_round(ann, uri, 6 + 2 * n) for n in (1, 2)}
    assert api.kept(ann) == [-1, 1, 2]
    assert not same(rounds[1], rounds[2])
    shutil.rmtree(uri)  # no network
    before = tree(ann)
    api.roll_back(ann, 1)
    assert same(generalist(ann), rounds[1])
    after = tree(ann)
    changed = {path for path in before | after if before.get(path) != after.get(path)}
    newest = sorted((ann / "state").glob("step-*"))[-1].relative_to(ann)
    assert changed == {
        "federation.json",
        "generalist/adapters.safetensors",
        f"{newest}/values.safetensors",
        f"{newest}/trainer_state.json",
    }
    RunFolder(ann).load()
    api.roll_back(ann, 2)
    assert same(generalist(ann), rounds[2])
    assert {p: tree(ann)[p] for p in before} == before


class TestOwn:
    """What a run has learnt itself is not lost by a pull."""

    @pytest.fixture
    def ben(self, run, ann):
        """Ben's run, trained on its own and in no federation yet."""
        folder = run("ben")
        go_on(folder, 8)
        return folder

    def adapter(self, run):
        return (run / "generalist" / "adapters.safetensors").read_bytes()

    def test_the_first_pull_keeps_it_and_says_so(self, ben, uri):
        before, said = self.adapter(ben), []
        api.pull(ben, open_exchange(uri), "ben", say=said.append)
        assert self.adapter(ben) != before
        assert api.kept(ben) == [-1, 0]
        assert api.kept_as(ben) == {
            -1: "own, of step 8, before joining",
            0: "round 0",
        }
        assert said == [
            f"what {ben} had learnt itself is replaced, and kept on this device: sync "
            "pull --back=-1 brings it again"
        ]
        api.roll_back(ben, -1)
        assert self.adapter(ben) == before

    def test_a_round_pulled_into_an_untouched_run_keeps_nothing(self, ben, uri):
        api.pull(ben, open_exchange(uri), "ben")
        api.roll_back(ben, 0)
        api.roll_back(ben, -1)
        assert api.pull(ben, open_exchange(uri)).changed
        assert api.kept(ben) == [-1, 0]

    def test_after_it_a_push_asks_for_a_pull_even_of_the_same_round(self, ben, uri):
        api.pull(ben, open_exchange(uri), "ben")
        api.roll_back(ben, -1)
        with pytest.raises(FederationError, match="pull, train, then push"):
            api.push(ben, open_exchange(uri), "ben")
        assert api.pull(ben, open_exchange(uri)).changed
        assert not api.pull(ben, open_exchange(uri)).changed

    def test_training_that_no_round_has_had_is_kept_too(self, ann, ben, uri):
        api.pull(ben, open_exchange(uri), "ben")
        go_on(ben, 10)
        lost = generalist(ben)
        a_round(ann, uri, 8)  # closes without ben
        api.pull(ben, open_exchange(uri))
        assert api.kept(ben) == [-2, -1, 0, 1]
        api.roll_back(ben, -2)
        assert same(generalist(ben), lost)

    def test_what_was_contributed_needs_no_copy(self, ann, uri):
        a_round(ann, uri, 8)
        assert api.kept(ann) == [-1, 1]

    def test_the_founder_s_is_kept_as_it_was_before_the_federation(self, ann, uri):
        before = generalist(ann)
        a_round(ann, uri, 8)
        assert api.kept_as(ann)[-1] == "own, of step 6, before joining"
        api.roll_back(ann, -1)
        assert same(generalist(ann), before)

    def test_what_was_learnt_after_a_contribution_is_kept(self, ann, uri):
        go_on(ann, 8)
        assert api.push(ann, open_exchange(uri), "ann")["closed"]
        go_on(ann, 10)
        lost = generalist(ann)
        api.pull(ann, open_exchange(uri))
        assert api.kept_as(ann)[-2] == "own, of step 10, before a pull"
        api.roll_back(ann, -2)
        assert same(generalist(ann), lost)

    def test_what_was_learnt_from_an_earlier_round_is_kept(self, ann, uri):
        for steps in (8, 10):
            a_round(ann, uri, steps)
        api.roll_back(ann, 1)
        go_on(ann, 12)
        lost = generalist(ann)
        api.pull(ann, open_exchange(uri))
        api.roll_back(ann, -2)
        assert same(generalist(ann), lost)

    def test_by_the_command_line_without_a_federation_in_reach(self, ben, uri, capsys):
        before = self.adapter(ben)
        sync.main(["pull", *tiny.flags(federation=uri, run=ben, participant="ben")])
        shutil.rmtree(uri)
        sync.main(["pull", *tiny.flags(run=ben), "--back=-1"])
        assert "has again: own, of step 8, before joining" in capsys.readouterr().out
        assert self.adapter(ben) == before

    def test_the_first_stays_of_many(self, tmp_path):
        made = {n: sharing.tensors(seed=n) for n in range(1, 9)}
        numbers = [round_history.keep_own(tmp_path, made[n], n) for n in made]
        assert numbers == [-1, -2, -3, -4, -5, -6, -7, -8]
        assert round_history.own(tmp_path) == [-8, -7, -6, -5, -1]
        assert all(
            same(round_history.read(tmp_path, -n, "pool"), made[n]) for n in (1, 8)
        )
        assert round_history.keep_own(tmp_path, made[8], 8) == -8  # the very same

    def test_pulling_from_another_federation_keeps_them(self, tmp_path):
        round_history.keep_own(tmp_path, sharing.tensors(), 1)
        round_history.write(tmp_path, 1, "old", sharing.tensors(seed=1))
        round_history.write(tmp_path, 2, "new", sharing.tensors(seed=2))
        assert round_history.own(tmp_path) == [-1]
        assert round_history.rounds(tmp_path) == [2]


class TestParticipantStatus:
    """The one thing to do next."""

    def of(self, run, uri, step):
        return api.participant_status(run, api.overview(open_exchange(uri)), step)

    def test_one_round_of_two(self, run, ann, uri):
        file = ann.parent / "pool" / "federation.json"
        file.write_text(file.read_text().replace('"quorum": 1', '"quorum": 2'))
        ben = run("ben")
        assert self.of(ben, uri, 6).next == "get"
        assert not self.of(ben, uri, 6).joined
        api.pull(ben, open_exchange(uri), "ben")
        assert self.of(ben, uri, 6).next == "learn"
        go_on(ben, 8)
        found = self.of(ben, uri, 8)
        assert (found.next, found.learnt, found.missing) == ("send", 2, 2)
        api.push(ben, open_exchange(uri), "ben")
        found = self.of(ben, uri, 8)
        assert (found.next, found.learnt, found.missing) == ("wait", 0, 1)
        assert (found.name, found.others, found.contributed) == ("ben", (), True)
        assert self.of(ben, uri, 10).next == "send"  # more than the round was given
        assert self.of(ann, uri, 6).others == ("ben",)

    def test_it_is_another_federation_s(self, ann, uri, tmp_path):
        overview = api.overview(open_exchange(uri))
        other = {**overview, "uri": str(tmp_path / "elsewhere")}
        assert api.participant_status(ann, overview, 6).joined
        assert not api.participant_status(ann, other, 6).joined


class TestFounding:
    def test_what_it_would_put_there_is_what_it_puts_there(self, run, uri):
        folder = run("ann")
        config = InitConfig(federation=uri, run=str(folder), quorum=2)
        before = tree(folder)
        listed = api.founding(config)
        assert tree(folder) == before
        assert listed["federation.json"]["quorum"] == 2
        made = api.found(config, open_exchange(uri), "ann")
        assert made.sender == "ann"
        assert membership.read(folder).participant == "ann"
        pool = api.overview(open_exchange(uri))
        made.check(
            Manifest.from_json((folder.parent / "pool/federation.json").read_bytes())
        )
        there = {
            str(path.relative_to(uri)): path.stat().st_size
            for path in sorted((folder.parent / "pool").rglob("*.safetensors"))
        }
        assert there == {p: n for p, n in listed["files"].items() if p in there}
        assert pool["manifest"]["quorum"] == 2


class TestRemarks:
    def test_what_a_contribution_can_give_away_and_that_it_is_untrained(self, ann, uri):
        gives, untrained = api.remarks(api.leaving(ann, open_exchange(uri), "ann"))
        assert "can give passages of it away" in gives
        assert "has not been trained since its last pull" in untrained

    def test_a_trained_one_with_noise_needs_neither(self, ann, uri):
        go_on(ann, 8)
        options = PrivacyOptions(dp_clip=1.0, dp_noise=1.0)
        made = api.leaving(ann, open_exchange(uri), "ann", options)
        assert api.remarks(made) == []

    def test_sync_push_says_them(self, ann, uri, capsys):
        sync.main(
            [
                "push",
                *tiny.flags(federation=uri, run=ann, participant="ann", dry_run=True),
            ]
        )
        told = capsys.readouterr().err
        assert "can give passages of it away" in told
        assert "has not been trained" in told


def test_after_rolling_back_a_pull_comes_before_a_push(ann, uri):
    rounds = {n: a_round(ann, uri, 6 + 2 * n) for n in (1, 2)}
    api.roll_back(ann, 1)
    with pytest.raises(
        FederationError, match="does not have the generalist of round 2"
    ):
        api.push(ann, open_exchange(uri), "ann")
    assert api.pull(ann, open_exchange(uri)).changed
    assert same(generalist(ann), rounds[2])
    go_on(ann, 12)
    assert (
        api.push(ann, open_exchange(uri))["contribution.json"]["counters"]["steps"] == 2
    )


def test_training_goes_on_after_rolling_back(ann, uri):
    for n in (1, 2):
        a_round(ann, uri, 6 + 2 * n)
    api.roll_back(ann, 1)
    go_on(ann, 12)
    assert RunFolder(ann).load()


class TestRefused:
    def test_rounds_that_are_not_kept(self, ann, uri):
        a_round(ann, uri, 8)
        before = tree(ann)
        with pytest.raises(
            FederationError, match=r"round 7 \(kept: -1, 1\): choose one"
        ):
            api.roll_back(ann, 7)
        assert tree(ann) == before

    def test_a_run_of_no_federation(self, run):
        folder = run()
        assert api.kept(folder) == []
        with pytest.raises(FederationError, match="in no federation: pull first"):
            api.roll_back(folder, 1)

    def test_a_run_in_training(self, ann, uri):
        a_round(ann, uri, 8)
        before = tree(ann)
        with RunFolder(ann).in_use(), pytest.raises(RunError, match="is in use"):
            api.roll_back(ann, 1)
        assert tree(ann) == before

    def test_a_damaged_file(self, ann, uri):
        a_round(ann, uri, 8)
        round_history._file(ann, 1).write_bytes(b"no")
        before = tree(ann)
        with pytest.raises(FederationError, match="damaged .*: choose another round"):
            api.roll_back(ann, 1)
        assert tree(ann) == before

    def test_another_shape(self, ann, uri):
        a_round(ann, uri, 8)
        place = membership.read(ann).uri
        round_history.write(ann, 1, place, sharing.tensors())
        before = tree(ann)
        with pytest.raises(RunError, match="generalists of another shape"):
            api.roll_back(ann, 1)
        assert tree(ann) == before

    def test_no_run_and_no_federation(self, tmp_path, ann):
        with pytest.raises(RunError, match="no run at"):
            api.roll_back(tmp_path / "nothing", 1)
        with pytest.raises(ComigsError):
            api.overview(open_exchange(tmp_path / "nowhere"))


class TestKept:
    def test_the_last_five_as_they_were(self, tmp_path):
        made = {n: sharing.tensors(seed=n) for n in (3, 1, 2, 10, 4, 5, 6)}
        for n in sorted(made):
            round_history.write(tmp_path, n, "pool", made[n])
        assert round_history.rounds(tmp_path) == [3, 4, 5, 6, 10]
        assert all(
            same(round_history.read(tmp_path, n, "pool"), made[n]) for n in (3, 10)
        )

    def test_of_one_federation_only(self, tmp_path):
        round_history.write(tmp_path, 1, "old", sharing.tensors(seed=1))
        with pytest.raises(FederationError, match="is of another federation"):
            round_history.read(tmp_path, 1, "new")
        round_history.write(tmp_path, 2, "new", sharing.tensors(seed=2))
        assert round_history.rounds(tmp_path) == [2]


def test_history_without_a_torn_last_line(tmp_path):
    assert api.history(tmp_path) == []
    rounds = [{"round": n, "step": 10 * n, "valid_loss": 3.0 / n} for n in (1, 2)]
    lines = "".join(json.dumps(each) + "\n" for each in rounds)
    (tmp_path / "rounds.jsonl").write_text(lines + '{"round": 3, "st')
    assert api.history(tmp_path) == rounds
