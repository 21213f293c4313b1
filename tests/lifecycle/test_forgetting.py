"""`forget`: what changes, what does not, and what is said about it."""

import json
import shutil

import mlx.core as mx
import numpy as np
import pytest

import tests.tiny as tiny
from comigs_mlx import train
from comigs_mlx.forget import ForgetConfig, lines, main
from comigs_mlx.lifecycle import forgetting
from comigs_mlx.lifecycle.forgetting import Target
from comigs_mlx.model import params
from comigs_mlx.runs.folder import RunFolder
from comigs_mlx.training import checkpoint

OPTIONS = {"specialists": 2, "steps": 30, "router_every": 10, "learning_rate": 0.02}
RATE = {"learning_rate": 0.01}


@pytest.fixture(scope="module")
def documents(tmp_path_factory):
    """Twenty documents that resemble nothing else of the training text."""
    folder = tiny.write_text(tmp_path_factory.mktemp("documents"), 20, seed=7)
    file = folder / "old.txt"
    file.write_text((folder / "train.txt").read_text().upper())
    return file


@pytest.fixture(scope="module")
def trained_on(trained, documents, text_folder, tmp_path_factory):
    """(options) -> a run that has learnt the documents among other text."""
    folder = shutil.copytree(text_folder, tmp_path_factory.mktemp("text") / "text")
    with (folder / "train.txt").open("a") as file:
        file.write(f"\n{documents.read_text()}")
    return lambda **options: trained(data=folder, **options)


@pytest.fixture
def known(trained_on, tmp_path):
    """A copy of a run whose specialists know the documents."""
    return shutil.copytree(trained_on(**OPTIONS), tmp_path / "known")


def values(run):
    newest = checkpoint.latest(RunFolder(run).states)
    return {path: np.array(a) for path, a in checkpoint.load_values(newest).items()}


def changed(before, after):
    assert before.keys() == after.keys()
    return {path for path in before if not np.array_equal(before[path], after[path])}


def every_file(run):
    """Name -> bytes of all that a resume or a use reads."""
    return {
        str(path.relative_to(run)): path.read_bytes()
        for path in run.rglob("*")
        if path.is_file() and not path.name.startswith(".")
    }


def forgotten(cli, run, documents, **options):
    given = {"run": run, "data": documents, "json": True, **RATE, **options}
    code, said, told = cli(main, **given)
    assert code == 0, told
    return json.loads(said)


class TestUnlearning:
    def test_the_documents_and_nothing_else(self, cli, known, documents):
        before = values(known)
        results = forgotten(cli, known, documents)
        after = values(known)
        losses = results["documents"]
        assert losses["before"] < results["generalist"] <= losses["after"]
        remaining = results["remaining"]
        assert remaining["after"] < 1.01 * remaining["before"]
        block = f"model.layers.{results['block']}.mlp."
        expert = {"specialist": 0, "specialist-1": 1}[results["expert"]]
        different = changed(before, after)
        assert different
        for path in different:
            assert path.startswith(block)
            assert params.role_of(path) != "generalist"
            if params.role_of(path) == "specialist":  # the other one, to the last bit
                assert np.array_equal(before[path][1 - expert], after[path][1 - expert])
        assert {params.role_of(path) for path in different} == {"specialist", "router"}

    def test_what_is_used_is_what_was_saved(self, cli, known, documents):
        results = forgotten(cli, known, documents)
        config = RunFolder(known).read_config()
        for best in (False, True):
            base, mixture = RunFolder(known).load(best=best)
            in_use = params.flatten(params.select(mixture.model, params.ROLES))
            assert not changed(
                values(known), {path: np.array(a) for path, a in in_use.items()}
            )
            texts = forgetting.read_texts(config, base, str(documents), print)
            measured = forgetting.Unlearning(mixture, texts, config, 0.1).losses()
            assert measured.forget == pytest.approx(results["documents"]["after"])
        assert len(checkpoint.saves(RunFolder(known).states)) == 1

    def test_the_moments_of_what_was_learnt_go(self, cli, known, documents):
        forgotten(cli, known, documents)
        newest = checkpoint.latest(RunFolder(known).states)
        arrays = checkpoint.load_optimizers(newest)
        moments = {n: a for n, a in arrays.items() if n.endswith((".m", ".v"))}
        kept = {n for n, a in moments.items() if mx.any(a != 0).item()}
        assert kept
        assert all("generalist" in name.split(".") for name in kept)

    def test_training_goes_on_from_there(self, cli, known, documents):
        forgotten(cli, known, documents)
        train.main(tiny.flags(run=known, resume=True, steps=32))
        assert RunFolder(known).load_values(RunFolder(known).load()[1]) == 32

    def test_undone_every_file_is_as_it_was(self, cli, known, documents):
        before = every_file(known)
        forgotten(cli, known, documents)
        assert every_file(known) != before
        code, said, _ = cli(main, run=known, undo=True)
        assert (code, said.startswith("undone: ")) == (0, True)
        assert every_file(known) == before

    def test_not_reached_in_time_nothing_is_changed(self, cli, known, documents):
        before = every_file(known)
        given = {"run": known, "data": documents, "learning_rate": 1e-9, "steps": 3}
        code, _, told = cli(main, **given)
        assert (code, "not forgotten after 3 steps" in told) == (2, True)
        assert every_file(known) == before

    def test_where_it_diverges_nothing_is_changed(self, cli, known, documents):
        before = every_file(known)
        given = {"run": known, "data": documents, "learning_rate": 1e30}
        code, _, told = cli(main, **given)
        assert (code, "unlearning diverges" in told) == (2, True)
        assert "lower --learning-rate, or use --retrain" in told
        assert every_file(known) == before

    def test_what_is_forgotten_need_not_be_forgotten_again(self, cli, known, documents):
        forgotten(cli, known, documents)
        before = every_file(known)
        code, said, _ = cli(main, run=known, data=documents, **RATE)
        assert (code, "nothing to forget" in said) == (0, True)
        assert every_file(known) == before

    def test_what_it_means_is_said(self, cli, known, documents):
        code, said, told = cli(main, run=known, data=documents, **RATE)
        assert code == 0
        assert "no proof of removal" in said
        assert "cannot be recalled" in said
        assert f"{known}/before" in said
        assert "or --resume learns them again" in said
        assert "20 documents are among them" in told
        assert "got worse" not in said

    def test_that_the_rest_got_worse_is_said(self):
        after = {"before": 1.0, "after": 1.02}
        parts = {"documents": after, "remaining": after, "generalist": 1.02}
        said = lines({**parts, "steps": 3}, ForgetConfig(run="x", data="y"))
        assert "got worse by more than 1 %: --undo brings the run back" in said


class TestRetraining:
    def test_the_specialist_is_learnt_anew(self, cli, known, documents):
        before = values(known)
        results = forgotten(cli, known, documents, retrain=True)
        after = values(known)
        assert results["steps"] == 30
        roles = {params.role_of(path) for path in changed(before, after)}
        assert roles == {"specialist", "router"}
        code, _, _ = cli(main, run=known, undo=True)
        assert (code, changed(before, values(known))) == (0, set())

    def test_nothing_of_the_old_specialists_is_left(
        self, cli, trained_on, documents, tmp_path
    ):
        run = shutil.copytree(trained_on(**OPTIONS), tmp_path / "one")
        other = shutil.copytree(trained_on(**OPTIONS), tmp_path / "two")
        newest = checkpoint.latest(RunFolder(other).states)
        scrambled = {
            path: array + 1 if params.role_of(path) == "specialist" else array
            for path, array in checkpoint.load_values(newest).items()
        }
        checkpoint.replace_values(newest, scrambled)
        for folder in (run, other):
            forgotten(cli, folder, documents, retrain=True)
        assert not changed(values(run), values(other))


class TestParts:
    def test_affinity_is_the_mean_of_means(self, trained_on, documents):
        run = trained_on(**OPTIONS)
        base, mixture = RunFolder(run).load()
        config = RunFolder(run).read_config()
        texts = forgetting.read_texts(config, base, str(documents), print)
        batches = list(forgetting.evaluation_batches(texts.forget, 16, 2))
        means = []
        for batch in batches:
            for tokens, mask in zip(batch.tokens, batch.mask, strict=True):
                if mask.any():
                    _, routing = mixture(mx.array(tokens[None, :-1]))
                    p = np.array(routing.probabilities)[:, 0]  # [layers, T, E]
                    means.append(p[:, mask > 0].mean(1))
        expected = np.mean(means, axis=0)
        found = forgetting.affinity(mixture, batches)
        np.testing.assert_allclose(found, expected, atol=1e-5)
        layer, specialist = np.unravel_index(expected[:, 1:].argmax(), (2, 2))
        assert forgetting.target_of(mixture, batches) == Target(specialist, layer)

    def test_the_loss_is_what_the_module_says(self, trained_on, documents):
        run = RunFolder(trained_on(**OPTIONS))
        base, mixture = run.load()
        config = run.read_config()
        texts = forgetting.read_texts(config, base, str(documents), print)
        unlearning = forgetting.Unlearning(mixture, texts, config, 0.1)
        forget, retain = unlearning._forget[-1], unlearning._retain[0]
        reference = np.random.default_rng(0).normal(-60, 9, len(forget.tokens))

        def losses(batch):
            logits, routing = mixture(mx.array(batch.tokens[:, :-1]))
            z = np.array(logits).astype(np.float64)
            picked = np.take_along_axis(z, batch.tokens[:, 1:, None], -1)[..., 0]
            return (np.log(np.exp(z).sum(-1)) - picked) * batch.mask, routing

        each, routing = losses(forget)
        tokens, rows = forget.mask.sum(), forget.mask.sum(1) > 0
        difference = -each.sum(1) - reference
        expected = (20 * np.log1p(np.exp(0.1 * difference)))[rows].sum() / tokens
        target = np.eye(3)[1 + unlearning.target.specialist]
        p = np.array(routing.probabilities)[unlearning.target.layer]
        distance = ((p - target) ** 2).sum(-1)
        expected += (distance * forget.mask).sum() / tokens
        expected += losses(retain)[0].sum() / retain.mask.sum()
        arrays = (forget.tokens, forget.mask, reference, retain.tokens, retain.mask)
        found = unlearning._objective(*(mx.array(array) for array in arrays))
        assert found.item() == pytest.approx(expected, rel=1e-4)

    def test_npo_is_bounded_and_its_slope_starts_at_one(self):
        reference = mx.array([-20.0])
        npo = forgetting.npo
        assert npo(reference, reference).item() == pytest.approx(20 * np.log(2))
        assert npo(reference - 1e4, reference).item() == pytest.approx(0.0, abs=1e-5)
        slope = mx.grad(lambda pi: npo(pi, reference).sum())(reference)
        assert slope.item() == pytest.approx(1.0)

    def test_parts_of_a_document_count_as_it(self):
        samples = [{"text": text} for text in ("one\n", "two", "three four", "five")]
        forget = [{"text": "zero one two"}, {"text": "four"}]
        assert forgetting.without(samples, forget) == [{"text": "five"}]
        chat = [{"messages": [1]}, {"messages": [2]}]
        assert forgetting.without(chat, chat[:1]) == chat[1:]

    def test_moments_of_generalists_stay(self):
        arrays = {
            "0.step": mx.array(3),
            "0.a.generalist.lora_a.m": mx.array([1.0]),
            "0.a.specialist.lora_a.m": mx.array([1.0]),
            "1.a.router.weight.v": mx.array([1.0]),
        }
        found = {n: a.tolist() for n, a in forgetting.forgetful(arrays).items()}
        assert list(found.values()) == [3, [1.0], [0.0], [0.0]]


class TestRefused:
    def test_bad_input(self, cli, known, documents, write):
        before = every_file(known)
        whole = write({"train.txt": "a b c d e f"}, "other")
        for options, expected in (
            ({"run": known}, "--data PATH is missing"),
            ({"data": documents}, "--run DIR is missing"),
            ({"run": known, "undo": True, "retrain": True}, "goes without"),
            ({"run": known, "undo": True}, "there is nothing to undo"),
            ({"run": known, "data": whole / "nothing"}, "no such file"),
            ({"run": whole, "data": documents}, "no run at"),
            ({"run": known, "data": documents, "steps": 0}, "at least 1"),
        ):
            code, _, told = cli(main, **options)
            assert (code, expected in told) == (2, True), told
        assert every_file(known) == before

    def test_all_of_the_text(self, cli, trained, text_folder):
        code, _, told = cli(main, run=trained(), data=text_folder / "train.txt")
        assert (code, "no training text is left" in told) == (2, True)

    def test_no_specialist(self, cli, trained, documents):
        run = trained(specialists=0, steps=2)
        code, _, told = cli(main, run=run, data=documents)
        assert (code, "no specialist that has learnt anything" in told) == (2, True)
