"""`sync pull --if-better`: refuses a round that makes the run worse, takes others."""

import numpy as np
import pytest
from safetensors.numpy import load_file

import tests.tiny as tiny
from comigs_mlx import sync, train
from comigs_mlx.federation.formats.tensor_source import Arrays
from comigs_mlx.federation.participant import if_better, membership, mixing
from comigs_mlx.federation.participant import round_history as history
from comigs_mlx.runs import generalists
from comigs_mlx.runs.folder import RunFolder
from comigs_mlx.training.evaluation import Score
from tests.runs.compare import tree

ADAPTER = "generalist/adapters.safetensors"


@pytest.fixture
def uri(tmp_path):
    return str(tmp_path / "pool")


def spoil(run, noise):
    """Spoil the generalist of a run, as training that went wrong would."""
    own, _ = generalists.read(run, 1)
    rng = np.random.default_rng(0)
    moved = {
        n: (a + noise * rng.normal(size=a.shape)).astype(np.float32)
        for n, a in own.items()
    }
    generalists.replace(RunFolder(run), moved)


def go_on(run, steps):
    train.main(tiny.flags(run=run, resume=True, steps=steps))


@pytest.fixture
def pool(run, uri, do):
    """(noise of rounds 1 and 2) -> ann's run, which has pulled round 1 alone.

    Both rounds are the generalist of before the federation but for their noise.
    """

    def made(first, second):
        ann, ben = run("ann", valid_batches=8), run("ben", valid_batches=8)
        given = {"quorum": 1, "encoding": "fp32", "outsized": "off"}
        do("init", federation=uri, run=ann, **given)
        close(ann, "ann", 8, first)
        do("pull", federation=uri, run=ann)
        do("pull", federation=uri, run=ben, participant="ben")
        close(ben, "ben", 8, second)
        return ann

    def close(folder, name, steps, noise):
        """Contribute; the quorum of 1 closes the round."""
        go_on(folder, steps)
        generalists.replace(RunFolder(folder), start)
        spoil(folder, noise)
        do("push", federation=uri, run=folder, participant=name)

    start, _ = generalists.read(run("like", valid_batches=8), 1)
    return made


def loss_by_hand(run, tensors):
    return mixing.loss_of_run(run, lambda line: None)(Arrays("", tensors))


class TestSyncPull:
    def test_refuses_what_makes_the_run_worse(self, pool, uri, do, cli):
        ann = pool(0, 0.4)
        before = tree(ann)
        one = history.read(ann, 1, membership.read(ann).uri)
        two = load_file(f"{uri}/adapters.safetensors")
        pulled = do("pull", federation=uri, run=ann, if_better=True)
        assert tree(ann) == before
        assert (pulled["round"], pulled["changed"]) == (2, False)
        refused = pulled["refused"]
        assert refused["round"] == 2
        assert refused["compared_with"] == "round 1"
        assert refused["before"] == pytest.approx(loss_by_hand(ann, one))
        assert refused["loss"] == pytest.approx(loss_by_hand(ann, two))
        assert refused["difference"] == pytest.approx(
            refused["loss"] - refused["before"]
        )
        low, high = refused["ci95"]
        assert 0 < low < refused["difference"] < high
        code, out, _ = cli(sync.main, "pull", federation=uri, run=ann, if_better=True)
        assert code == 0
        numbers = f"{refused['loss']:.4f} against {refused['before']:.4f} nats"
        assert "keeps what it has: round 2 makes this run worse than round 1" in out
        assert numbers in out
        assert f"95 % interval {low:+.4f} to {high:+.4f}" in out

    def test_takes_it_without_the_flag(self, pool, uri, do):
        ann = pool(0, 0.4)
        pulled = do("pull", federation=uri, run=ann)
        assert pulled["changed"]
        assert pulled["refused"] is None

    def test_takes_what_is_better(self, pool, uri, do):
        ann = pool(0.4, 0)
        one = history.read(ann, 1, membership.read(ann).uri)
        pulled = do("pull", federation=uri, run=ann, if_better=True)
        assert pulled["changed"]
        assert pulled["refused"] is None
        now, two = load_file(ann / ADAPTER), load_file(f"{uri}/adapters.safetensors")
        assert all(np.array_equal(now[n], two[n]) for n in two)
        assert loss_by_hand(ann, two) < loss_by_hand(ann, one)
        assert membership.read(ann).round == 2

    def test_a_later_round_that_is_better_is_taken(self, pool, uri, do, run):
        """After a refusal the run is not stuck."""
        ann = pool(0, 0.4)
        assert do("pull", federation=uri, run=ann, if_better=True)["refused"]
        cy = run("cy", valid_batches=8)
        do("pull", federation=uri, run=cy, participant="cy")
        own = history.read(ann, 1, membership.read(ann).uri)
        go_on(cy, 8)
        generalists.replace(RunFolder(cy), own)
        do("push", federation=uri, run=cy, participant="cy")
        pulled = do("pull", federation=uri, run=ann, if_better=True)
        assert (pulled["round"], pulled["changed"]) == (3, True)

    def test_who_is_new_is_compared_with_what_the_run_has(self, pool, uri, do, run):
        pool(0, 0.4)
        dan = run("dan", valid_batches=8)
        before = tree(dan)
        pulled = do("pull", federation=uri, run=dan, if_better=True)
        assert pulled["refused"]["compared_with"] == "what it has now"
        assert tree(dan) == before

    def test_values_that_are_no_numbers_are_refused(self):
        refused = if_better.Refusal(4, "round 3", None, 2.5, None, None)
        assert refused.sentence == (
            "round 4 makes this run worse than round 3: its loss is no finite number "
            "(before: 2.5000)"
        )

    def test_a_dry_run_says_what_would_be_asked(self, pool, uri, cli):
        ann = pool(0, 0.4)
        options = {"federation": uri, "run": ann, "if_better": True}
        _, out, _ = cli(sync.main, "pull", dry_run=True, **options)
        assert out.endswith("round 2, unless it makes this run worse\n")

    def test_going_back_compares_nothing(self, run, cli):
        options = {"run": run("ann", valid_batches=8), "back": 1, "if_better": True}
        code, out, err = cli(sync.main, "pull", federation="x", **options)
        assert (code, out) == (2, "")
        assert "--if-better has no effect with --back: drop one of them" in err

    def test_with_personal_the_mixture_is_what_is_judged(self, pool, uri, do):
        """One contribution mixes to itself, and the model is loaded once."""
        ann = pool(0, 0.4)
        options = {"federation": uri, "run": ann, "if_better": True}
        pulled = do("pull", **options, personal="by_loss")
        assert not pulled["changed"]
        assert pulled["refused"]["compared_with"] == "round 1"


def scores(**losses):
    """(name of a source) -> a score of four documents, of 10 tokens each."""

    def of(source):
        found = losses["old" if source.read("which") else "new"]
        if found is None:
            return None
        return Score(
            {i: 10 * x for i, x in enumerate(found)}, dict.fromkeys(range(4), 10)
        )

    return lambda: of


def checked(**losses):
    new, old = {"which": np.array(0.0)}, {"which": np.array(1.0)}
    given = scores(**losses), 4, new, old, "round 3"
    if_better.check(*given)


class TestRule:
    OLD = (2.0, 3.0, 4.0, 5.0)

    def test_worse_on_every_document_is_refused(self):
        new = (2.1, 3.2, 4.3, 5.2)
        with pytest.raises(if_better.Worse, match="round 4 makes this run worse") as e:
            checked(new=new, old=self.OLD)
        refused = e.value.refusal
        assert refused.difference == pytest.approx(0.2)
        assert 0.1 <= refused.ci95[0] < 0.2 < refused.ci95[1] <= 0.3
        assert str(e.value).endswith("pull without --if-better to take it all the same")

    @pytest.mark.parametrize(
        "new",
        [(1.9, 2.8, 3.9, 4.8), (2.0, 3.0, 4.0, 5.0), (2.4, 2.8, 4.2, 4.9)],
        ids=["better", "equal", "worse within the interval"],
    )
    def test_others_are_taken(self, new):
        checked(new=new, old=self.OLD)

    def test_no_finite_loss_is_refused_unless_there_was_none(self):
        with pytest.raises(if_better.Worse, match="its loss is no finite number"):
            checked(new=None, old=self.OLD)
        checked(new=None, old=None)


def test_nothing_of_it_is_sent(pool, uri, do, tmp_path):
    ann = pool(0, 0.4)
    before = tree(tmp_path / "pool")
    do("pull", federation=uri, run=ann, if_better=True)
    assert tree(tmp_path / "pool") == before
