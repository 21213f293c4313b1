"""`python -m comigs_mlx.report`, on tiny runs, against evaluate and plain loops."""

import html
import json
import re
import shutil

import mlx.core as mx
import numpy as np
import pytest

from comigs_mlx import evaluate
from comigs_mlx.federation.participant import membership, round_history
from comigs_mlx.federation.participant.membership import Membership
from comigs_mlx.report import main
from comigs_mlx.runs import generalists
from comigs_mlx.runs.folder import RunFolder
from tests.runs.compare import tree

OPTIONS = {"steps": 6, "learning_rate": 0.02}


@pytest.fixture(scope="module")
def plain(trained):
    """A run of one generalist and one specialist; only read."""
    return trained(**OPTIONS)


def reported(cli, run, *flags, **options):
    code, out, err = cli(main, "--json", *flags, run=run, **options)
    assert code == 0, err
    assert out.count("\n") == 1
    return json.loads(out)


def evaluated(cli, run, **options):
    code, out, err = cli(evaluate.main, "--json", run=run, **options)
    assert code == 0, err
    return json.loads(out)["results"]


def named(found, name):
    return next(c for c in found["sharing"]["candidates"] if c["name"] == name)


def keep(run, rounds):
    """Let a run have kept these rounds: number -> how much worse they are made."""
    uri = "/no/such/pool"
    own, _ = generalists.read(run, 1)
    rng = np.random.default_rng(0)
    for number, noise in rounds.items():
        moved = {
            n: (a + noise * rng.normal(size=a.shape)).astype(np.float32)
            for n, a in own.items()
        }
        round_history.write(run, number, uri, moved)
    membership.write(run, Membership(uri, "ann", max(rounds)))


def changed_router(run, weight):
    """Set all weights of the routers of a run."""
    file = run / "router" / "router.safetensors"
    arrays, about = mx.load(str(file), return_metadata=True)
    shape = next(iter(arrays.values())).shape
    row = mx.random.normal(shape, key=mx.random.key(7)) * weight
    mx.save_safetensors(str(file), dict.fromkeys(arrays, row), about)


class TestLosses:
    def test_are_those_of_evaluate(self, cli, plain):
        found, results = reported(cli, plain), evaluated(cli, plain)
        assert found["format_version"] == 1
        gap = found["oracle"]
        for name in ("generalist", "specialist"):
            assert gap["experts"][name] == pytest.approx(results[name]["loss"])
        assert gap["mixture"] == pytest.approx(results["mixture"]["loss"])
        assert named(found, "base")["loss"] == pytest.approx(results["base"]["loss"])
        assert named(found, "now")["loss"] == pytest.approx(gap["mixture"])
        assert named(found, "specialist")["loss"] == pytest.approx(
            results["specialist"]["loss"]
        )

    def test_the_oracle_is_at_most_each_expert(self, cli, trained):
        run = trained(generalists=2, specialists=2, **OPTIONS)
        found = reported(cli, run)
        gap = found["oracle"]
        names = ["generalist", "generalist-1", "specialist", "specialist-1"]
        assert list(gap["experts"]) == names
        alone = evaluated(cli, run, experts="0,1,0,0")["fixed 0,1,0,0"]["loss"]
        assert gap["experts"]["generalist-1"] == pytest.approx(alone)
        assert all(gap["oracle"] <= loss for loss in gap["experts"].values())
        assert gap["regret"] == pytest.approx(gap["mixture"] - gap["oracle"])
        assert sum(gap["best_on"].values()) == pytest.approx(1)

    def test_nothing_shared_is_the_specialist_without_the_attention_lora(
        self, cli, plain, tmp_path
    ):
        """As the run is with every B of its generalist at zero."""
        copy = shutil.copytree(plain, tmp_path / "copy")
        own, _ = generalists.read(copy, 1)
        zeros = {n: a * (not n.endswith("lora_b")) for n, a in own.items()}
        generalists.replace(RunFolder(copy), zeros)
        expected = evaluated(cli, copy, experts="specialist")["specialist"]["loss"]
        found = reported(cli, plain)
        assert named(found, "none")["loss"] == pytest.approx(expected)
        assert named(found, "none")["loss"] != named(found, "specialist")["loss"]

    def test_one_expert_is_compared_with_the_base(self, cli, trained):
        found = reported(cli, trained(specialists=0, steps=2))
        assert found["oracle"] is None
        assert found["sharing"]["reference"] == "base"
        assert [c["name"] for c in found["sharing"]["candidates"]] == ["base", "now"]

    def test_one_document_is_compared_over_windows(self, cli, plain, tmp_path):
        (tmp_path / "one.txt").write_text("a single document of some words " * 3)
        found = reported(cli, plain, data=tmp_path / "one.txt", split="all")
        assert (found["interval_over"], found["units"]) == ("windows", 6)
        assert named(found, "now")["against_none"]["ci95"] is not None

    def test_nothing_of_the_run_changes(self, cli, run):
        mine = run("mine", **OPTIONS)
        keep(mine, {1: 0.0})
        before = tree(mine)
        reported(cli, mine)
        assert tree(mine) == before


class TestSharing:
    @pytest.fixture
    def kept(self, run):
        """A run that keeps round 1 as it is now, a much worse 2, and 3 as 1."""
        mine = run("kept", **OPTIONS)
        keep(mine, {1: 0.0, 2: 0.4, 3: 0.0})
        return mine

    def test_each_kept_round_is_measured_with_the_runs_own_experts(
        self, cli, kept, tmp_path
    ):
        found = reported(cli, kept)
        one, two, three = (named(found, f"round {n}") for n in (1, 2, 3))
        assert one["loss"] == pytest.approx(named(found, "now")["loss"])
        copy = shutil.copytree(kept, tmp_path / "copy")
        tensors = round_history.read(copy, 2, "/no/such/pool")
        generalists.replace(RunFolder(copy), tensors)
        expected = evaluated(cli, copy, experts="auto")["mixture"]["loss"]
        assert two["loss"] == pytest.approx(expected)
        assert three["loss"] == one["loss"]

    def test_differences_are_paired(self, cli, kept):
        found = reported(cli, kept)
        one, two, three = (named(found, f"round {n}") for n in (1, 2, 3))
        assert one["against_before"] is None
        assert (two["before"], three["before"]) == (1, 2)
        change = two["against_before"]
        assert change["difference"] == pytest.approx(two["loss"] - one["loss"])
        low, high = change["ci95"]
        assert 0 < low < change["difference"] < high
        back = three["against_before"]
        assert back["difference"] == pytest.approx(-change["difference"])
        assert back["ci95"] == pytest.approx([-high, -low], rel=0.05)
        none = named(found, "none")
        assert none["against_none"] is None
        assert one["against_none"]["difference"] == pytest.approx(
            one["loss"] - none["loss"]
        )

    def test_a_round_that_made_it_worse_is_told_in_one_sentence(self, cli, kept):
        told = reported(cli, kept)["sharing"]["sentences"]
        about = [line for line in told if "made it worse" in line]
        assert len(about) == 1
        assert about[0].startswith("Round 2 made it worse than round 1: ")
        assert "sync pull --back=1" in about[0]
        assert "95 % interval +" in about[0]
        _, out, _ = cli(main, run=kept)
        assert about[0] in out

    def test_a_run_without_rounds_says_so(self, cli, plain):
        told = reported(cli, plain)["sharing"]["sentences"]
        assert told[-1].startswith("No round of a federation is kept in this run")

    def test_own_generalists_are_measured_too(self, cli, kept):
        own, _ = generalists.read(kept, 1)
        assert round_history.keep_own(kept, own, 6) == -1
        mine = named(reported(cli, kept), "own, of step 6, before a pull")
        assert mine["round"] == -1
        assert mine["against_before"] is None

    def test_values_that_are_no_numbers_are_told_not_fatal(self, cli, run):
        mine = run("kept", **OPTIONS)
        keep(mine, {1: 0.0, 2: np.inf})
        found = reported(cli, mine)
        assert named(found, "round 2")["loss"] is None
        told = " ".join(found["sharing"]["sentences"])
        assert "With the generalist of round 2 the loss is no finite number." in told

    def test_another_shape_is_told_not_fatal(self, cli, kept):
        tensors = round_history.read(kept, 3, "/no/such/pool")
        smaller = {n: a[:1] for n, a in tensors.items()}
        round_history.write(kept, 3, "/no/such/pool", smaller)
        told = reported(cli, kept)["sharing"]["sentences"]
        assert told[-1] == "round 3 is of another shape than the run: not measured"

    def test_rounds_of_another_federation_are_told_not_fatal(self, cli, kept):
        membership.write(kept, Membership("/another/pool", "ann", 1))
        told = reported(cli, kept)["sharing"]["sentences"]
        about = [line for line in told if line.startswith("not measured: ")]
        assert len(about) == 3
        assert "is of another federation" in about[0]


class TestDivergence:
    def test_of_the_same_text_is_0(self, cli, plain, text_folder, tmp_path):
        shutil.copy(text_folder / "test.txt", tmp_path / "same.txt")
        (each,) = reported(cli, plain, against=tmp_path / "same.txt")["divergence"]
        assert each["kind"] == "text"
        assert each["nats"] == [0.0, 0.0]
        assert each["normalised"] == [0.0, 0.0]
        assert each["within"] is not None

    def test_is_that_of_mean_weights(self, cli, run, text_folder, tmp_path):
        mine = run("mine", **OPTIONS)
        changed_router(mine, 2.0)
        shutil.copy(text_folder / "valid.txt", tmp_path / "other.txt")
        (each,) = reported(cli, mine, against=tmp_path / "other.txt")["divergence"]
        base, mixture = RunFolder(mine).load()
        groups = []
        for name in ("test", "valid"):
            documents = (text_folder / f"{name}.txt").read_text().strip().split("\n\n")
            stream = []
            for document in documents:
                stream += base.tokenizer.encode(document, add_special_tokens=False)
                stream.append(256)
            parts = [
                np.array(mixture(mx.array([stream[i : i + 17][:-1]]))[1].weights)[:, 0]
                for i in range(0, len(stream) - 1, 16)
            ]
            groups.append(np.concatenate(parts, 1).astype("d").mean(1))
        assert np.allclose(each["weights"], groups, atol=1e-6)
        p, q = groups
        entropy = lambda w: -(w * np.log(w)).sum(-1)
        mean = (entropy(p) + entropy(q)) / 2
        expected = (entropy((p + q) / 2) - mean) / mean
        assert each["normalised"] == pytest.approx(expected.tolist(), rel=1e-3)
        assert each["mean"] == pytest.approx(expected.mean(), rel=1e-3)
        assert min(each["nats"]) > 0

    def test_against_another_run_is_symmetric(self, cli, run):
        ann, ben = run("ann", **OPTIONS), run("ben", **OPTIONS)
        changed_router(ben, 2.0)
        (one,) = reported(cli, ann, against_run=ben)["divergence"]
        (other,) = reported(cli, ben, against_run=ann)["divergence"]
        assert one["kind"] == "run"
        assert one["nats"] == pytest.approx(other["nats"], abs=1e-7)
        assert min(one["nats"]) > 0
        assert one["weights"] == pytest.approx(np.array(other["weights"][::-1]))
        (none,) = reported(cli, ann, against_run=ann)["divergence"]
        assert none["nats"] == [0.0, 0.0]

    def test_runs_of_other_numbers_are_compared_by_side(self, cli, plain, trained):
        other = trained(specialists=2, **OPTIONS)
        (each,) = reported(cli, plain, against_run=other)["divergence"]
        assert each["experts"] == ["generalists", "specialists"]
        assert np.allclose(np.sum(each["weights"], -1), 1, atol=1e-5)


class TestText:
    def test_has_the_numbers_of_the_json(self, cli, plain, text_folder):
        options = {"against": text_folder / "valid.txt"}
        found = reported(cli, plain, **options)
        _, out, _ = cli(main, run=plain, **options)
        parts = [found["sharing"], found["oracle"], *found["divergence"]]
        for sentence in (line for part in parts for line in part["sentences"]):
            assert sentence in out
        assert f"{found['oracle']['oracle']:.4f}" in out
        assert out.count("model.layers.1.mlp") >= 1


ATTACK = "<img src=x onerror=document.title='hacked'>{{BODY}}"


class TestPage:
    def test_needs_nothing_else_and_has_the_sentences(
        self, cli, run, text_folder, tmp_path
    ):
        mine = run("mine", **OPTIONS)
        keep(mine, {1: 0.0, 2: 0.4})
        options = {"against": text_folder / "valid.txt", "html": tmp_path / "r.html"}
        found = reported(cli, mine, **options)
        page = (tmp_path / "r.html").read_text(encoding="utf-8")
        assert page.count("<svg ") == 2
        assert "default-src 'none'" in page
        assert "prefers-color-scheme: dark" in page
        assert not re.search(r"<script|https?://|url\(|<link|<img", page)
        for part in [found["sharing"], found["oracle"], *found["divergence"]]:
            for sentence in part["sentences"]:
                assert html.escape(sentence) in page

    def test_hostile_names_stay_text(self, cli, run, text_folder, tmp_path):
        mine = run(ATTACK.replace("/", ""), **OPTIONS)
        shutil.copytree(text_folder, evil := tmp_path / ("data" + ATTACK))
        options = {"data": evil, "against": evil, "html": tmp_path / "r.html"}
        reported(cli, mine, against_run=mine, **options)
        page = (tmp_path / "r.html").read_text(encoding="utf-8")
        assert "<img" not in page
        assert html.escape(ATTACK) in page
        assert page.count("<h1>") == 1  # {{BODY}} in a name is no placeholder

    def test_is_written_whole_or_not_at_all(self, cli, plain, tmp_path):
        (tmp_path / "folder").mkdir()
        for target, told in (
            (tmp_path / "folder", "is a folder: name a file"),
            ("/dev/null", "not an ordinary file"),
        ):
            code, out, err = cli(main, run=plain, html=target)
            assert (code, out) == (2, "")
            assert told in err.splitlines()[-1]
            assert "batch" not in err


class TestRefused:
    @pytest.mark.parametrize(
        ("flags", "expected"),
        [
            ({"run": "/no/such/run"}, "no run at /no/such/run"),
            ({"data": "/no/such/text"}, "no such file or folder"),
            ({"against": "/no/such/text"}, "no such file or folder"),
            ({"against_run": "/no/such/run"}, "no run at /no/such/run"),
            ({"seq_len": 0}, "--seq-len 0 must be at least 1"),
            ({"split": "rest"}, "invalid choice: 'rest'"),
        ],
    )
    def test_in_one_line_and_nothing_changes(self, cli, plain, flags, expected):
        before = tree(plain)
        code, out, err = cli(main, **{"run": plain, **flags})
        *_, last = err.splitlines()
        assert (code, out) == (2, "")
        assert last.startswith("error: ")
        assert expected in last
        assert tree(plain) == before

    def test_without_a_run(self, cli):
        expected = "error: --run DIR is missing: the folder of a run\n"
        assert cli(main) == (2, "", expected)

    def test_runs_that_cannot_be_compared(self, cli, plain, trained):
        for other, told in (
            (trained(family="gpt2", steps=2), "is on another base model than"),
            (trained(num_layers=1, steps=2), "has experts in other blocks than"),
            (trained(specialists=0, steps=2), "has one expert, so nothing is routed"),
        ):
            code, out, err = cli(main, run=plain, against_run=other)
            assert (code, out) == (2, "")
            assert told in err.splitlines()[-1]

    def test_one_expert_has_no_routing_to_compare(self, cli, trained, text_folder):
        run = trained(specialists=0, steps=2)
        code, _, err = cli(main, run=run, against=text_folder)
        assert code == 2
        assert "leave out --against" in err.splitlines()[-1]
