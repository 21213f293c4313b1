"""Text of its own kind is no drift, that of another one is; what is kept is private."""

import json
import random

import mlx.core as mx
import numpy as np
import pytest

from comigs_mlx import grow
from comigs_mlx.data.batches import Batch
from comigs_mlx.errors import DataError, RunError
from comigs_mlx.lifecycle import drift
from comigs_mlx.runs.folder import RunFolder
from tests.runs.compare import tree
from tests.training.setting import batch_of, mixture_of

BLOCKS, DIMS = 3, 24
MIX = np.random.default_rng(9).normal(size=(DIMS, DIMS))


def drawn(seed, n, shift=0.0, scale=1.0):
    """Window means of one kind of text: correlated, and a `shift` makes another."""
    rng = np.random.default_rng(seed)
    latent = rng.normal(size=(BLOCKS, n, 6)) * scale
    return latent @ MIX[:6] + shift + 0.3 * rng.normal(size=(BLOCKS, n, DIMS))


def known():
    return [drift.fit(drawn(0, 300), drawn(1, 200))]


class TestZ:
    def test_of_the_same_kind_it_is_about_one(self):
        found = drift.compare(drawn(2, 400), known(), [0, 1, 2])
        assert np.sqrt(np.square(found.z).mean()) == pytest.approx(1, abs=0.25)
        assert found.z.mean() == pytest.approx(0, abs=0.2)
        assert found.share < 0.05

    def test_of_another_kind_it_is_large(self):
        found = drift.compare(drawn(3, 50, shift=1.0), known(), [0, 1, 2])
        assert found.z.min() > drift.LIMIT
        assert found.share == 1.0

    def test_a_low_error_is_no_drift(self):
        """The sign counts: text that is nearer than usual is not unlike."""
        middle = np.broadcast_to(drawn(0, 300).mean(1, keepdims=True), (3, 5, DIMS))
        found = drift.compare(middle, known(), [0, 1, 2])
        assert found.z.max() < -drift.LIMIT
        assert found.share == 0.0

    def test_the_nearest_descriptor_decides(self):
        other = drawn(3, 100, shift=1.0)
        both = [*known(), drift.fit(drawn(4, 300, shift=1.0), drawn(5, 99, shift=1.0))]
        assert drift.compare(other, both, [0, 1, 2]).share < 0.1
        assert drift.compare(drawn(6, 100), both, [0, 1, 2]).share < 0.1

    def test_half_of_the_blocks_decide(self):
        means = np.array([[3.0, 3.0, 1.0], [3.0, 1.0, 1.0], [1.0, 1.0, 3.0], [1.0] * 3])
        assert drift.Drift(means, [0, 1, 2, 3]).share == pytest.approx(1 / 3)

    def test_it_is_the_formula(self):
        windows, others, new = drawn(0, 40), drawn(1, 20), drawn(2, 7)
        (first, *_), x = drift.fit(windows, others), new[0]
        center = windows[0].mean(0)
        _, vectors = np.linalg.eigh(np.cov(windows[0].T))
        basis = vectors[:, -10:]  # 40 // 4 components

        def error(rows):
            apart = rows - center
            return np.square(apart - apart @ basis @ basis.T).mean(1)

        own = error(others[0])
        assert np.allclose(first.z(x), (error(x) - own.mean()) / own.std(ddof=1))

    def test_too_little_text_is_refused(self):
        with pytest.raises(DataError, match="too little text to describe: 40 windows"):
            drift.fit(drawn(0, 40), drawn(1, 3))


class TestWindowMeans:
    def test_they_are_the_means_of_what_the_mlp_reads(self):
        mixture = mixture_of(std=0.5)
        batch = batch_of(0, rows=3, length=12, counted=9)
        heard = {}
        with mixture.selected("base"), drift._listening(mixture, [1], heard):
            mixture.body(mx.array(batch.tokens[:, :-1]))
        expected = np.array(heard[1])[:, :9].mean(1)
        (means,) = drift.window_means(mixture, [batch], [1])
        assert means.shape == (3, mixture.sites[1].dims)
        assert np.allclose(means, expected, atol=1e-5)

    def test_experts_do_not_speak(self):
        first, second = (
            drift.window_means(mixture_of(std=std), [batch_of(0)], [0, 1])
            for std in (0.5, None)
        )
        assert np.array_equal(first, second)

    def test_afterwards_the_mixture_is_as_before(self):
        mixture = mixture_of(std=0.5)
        tokens = mx.array(batch_of(1).tokens)
        before = np.array(mixture(tokens)[0])
        choose = mixture.sites[1].mlp._routing.choose
        drift.window_means(mixture, [batch_of(0)], [1])
        assert mixture.sites[1].mlp._routing.choose is choose
        assert np.array_equal(np.array(mixture(tokens)[0]), before)

    def test_short_windows_are_left_out(self):
        batch = batch_of(0, rows=2, length=12)
        mask = batch.mask.copy()
        mask[1, 4:] = 0
        short = Batch(batch.tokens, mask, batch.documents)
        assert drift.window_means(mixture_of(), [short], [0]).shape[1] == 1

    @pytest.mark.parametrize(("blocks", "layers"), [(2, [1]), (8, [6, 7]), (5, [3, 4])])
    def test_the_last_quarter(self, blocks, layers):
        class Sites:
            sites = range(blocks)

        assert drift.last_quarter(Sites()) == layers


def test_descriptors_survive_the_disk(tmp_path):
    file = tmp_path / "descriptors.safetensors"
    both = [*known(), drift.fit(drawn(4, 40), drawn(5, 20))]
    drift.save(file, both)
    loaded = drift.load(file)
    old, new = (drift.compare(drawn(2, 9), d, [0, 1, 2]).z for d in (both, loaded))
    assert np.allclose(old, new, atol=1e-3)
    file.write_bytes(file.read_bytes()[:-9])
    with pytest.raises(RunError, match="remove it: python -m comigs_mlx.grow makes it"):
        drift.load(file)


def person(folder, letters):
    """Somebody's text, in three splits of one kind."""
    rng = random.Random(letters)
    folder.mkdir()
    for name, documents in (("train", 300), ("valid", 150), ("test", 150)):
        words = (["".join(rng.choices(letters, k=4)) for _ in range(40)],) * documents
        texts = [" ".join(rng.choices(of, k=12)) for of in words]
        (folder / f"{name}.txt").write_text("\n\n".join(texts) + "\n")
    return folder


def test_only_text_of_another_kind_makes_a_run_grow(run, cli, tmp_path):
    mine, other = person(tmp_path / "ann", "abcdef"), person(tmp_path / "ben", "UVWXYZ")
    folder = run(data=mine)

    def grown(**options):
        code, out, err = cli(grow.main, run=folder, json=True, windows=64, **options)
        assert code == 0, err
        return json.loads(out)

    report = grown(data=mine, split="test")
    assert report["expert"] is None
    assert report["drift"] < 0.2
    assert abs(report["z"]["1"]) < 1
    before = tree(folder)
    report = grown(data=other, dry_run=True)
    assert report["expert"] is None
    assert report["drift"] > 0.5
    assert tree(folder) == before
    assert grown(data=other)["expert"] == "specialist-1"
    assert grown(data=other, dry_run=True)["drift"] < 0.5  # it is known now


def test_what_is_kept_is_in_the_state_alone(run, cli, text_folder):
    folder = run()
    before = tree(folder)
    assert cli(grow.main, run=folder, data=text_folder, dry_run=True)[0] == 0
    assert tree(folder).keys() - before.keys() == {"state/descriptors.safetensors"}
    assert RunFolder(folder).states.name == "state"


def test_the_lines_for_people(run, cli, text_folder):
    folder = run()
    code, out, _ = cli(grow.main, run=folder, data=text_folder)
    drifted, z, loss, left = out.splitlines()
    assert drifted.startswith("drift: ")
    assert "windows are unlike the run's text" in drifted
    assert z.startswith("mean z by block: 1: ")
    assert loss.startswith("loss before: ")
    assert left.startswith("the run was left as it is: at most 50% is nothing new")
