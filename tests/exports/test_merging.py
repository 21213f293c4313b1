"""Merging a mixture into one adapter, against arithmetic, mlx-lm and single experts."""

import json

import mlx.core as mx
import numpy as np
import pytest
from safetensors.numpy import load_file

from comigs_mlx.errors import ConfigError
from comigs_mlx.exports import merging
from comigs_mlx.merge import main
from comigs_mlx.runs.folder import RunFolder

TOKENS = mx.array([[3, 14, 15, 92, 65, 35, 89, 79]])
OPTIONS = {"specialists": 2, "steps": 4, "learning_rate": 0.05, "router_steps": 8}


@pytest.fixture(scope="module")
def run(trained):
    """One generalist and two specialists, whose weights no token changes."""
    return trained(router_type="static", top_k=3, **OPTIONS)


@pytest.fixture
def loaded(run):
    return RunFolder(run).load()


def pairs_of(mixture, site, name):
    linear = site.mlp[name]
    stacks = (linear.stacks("lora_a"), linear.stacks("lora_b"))
    return [np.array(mx.concatenate(stack)) for stack in stacks]


class TestWeights:
    def test_a_static_router_has_the_same_for_every_token(self, loaded):
        _, mixture = loaded
        weights = np.array(merging.block_weights(mixture, "auto"))
        _, routing = mixture(TOKENS)
        expected = np.array(routing.weights)[:, 0]  # [layers, tokens, E]
        assert np.ptp(expected[0, 0]) > 1e-3  # the router has learnt
        np.testing.assert_allclose(
            expected, np.broadcast_to(weights[:, None], expected.shape), atol=1e-7
        )

    def test_fixed_weights_need_no_static_router(self, trained):
        _, mixture = RunFolder(trained(**OPTIONS)).load()
        weights = merging.block_weights(mixture, (0.25, 0.0, 0.5))
        assert weights == [[0.25, 0.0, 0.5]] * 2
        assert merging.block_weights(mixture, "generalist") == [[1.0, 0.0, 0.0]] * 2

    @pytest.mark.parametrize("selection", ["auto", "specialist"])
    def test_other_routers_are_refused(self, trained, selection):
        _, mixture = RunFolder(trained(**OPTIONS)).load()
        with pytest.raises(ConfigError) as error:
            merging.block_weights(mixture, selection)
        assert "topk weighs the experts token by token" in str(error.value)
        assert "--router-type static" in str(error.value)
        assert "--experts 0.33,0.33,0.33" in str(error.value)

    def test_nobody_cannot_be_merged(self, loaded):
        with pytest.raises(ConfigError, match="base has no experts to merge"):
            merging.block_weights(loaded[1], "base")


class TestMerge:
    def test_the_formulas(self, loaded):
        _, mixture = loaded
        weights = [[0.2, 0.3, 0.5], [0.6, 0.1, 0.3]]
        mean = merging.merge(mixture, weights, "mean")
        stack = merging.merge(mixture, weights, "stack")
        assert (mean.rank, stack.rank) == (2, 6)
        for site, w in zip(mixture.sites, np.array(weights), strict=True):
            for name in site.mlp_linears:
                a, b = pairs_of(mixture, site, name)
                exact = np.einsum("e,eir,ero->io", w, a, b)
                path = f"{site.mlp_path}.{name}"
                got_a, got_b = (np.array(m) for m in stack.pairs[path])
                np.testing.assert_allclose(got_a @ got_b, exact, atol=1e-6)
                got_a, got_b = (np.array(m) for m in mean.pairs[path])
                np.testing.assert_allclose(
                    got_a, np.einsum("e,eir->ir", w, a), atol=1e-6
                )
                np.testing.assert_allclose(
                    got_b, np.einsum("e,ero->ro", w, b), atol=1e-6
                )

    @pytest.mark.parametrize("how", merging.HOWS)
    @pytest.mark.parametrize("expert", range(3))
    def test_one_hot_weights_are_that_expert(self, loaded, how, expert):
        _, mixture = loaded
        weights = [[float(e == expert) for e in range(3)]] * 2
        merged = merging.merge(mixture, weights, how)
        assert merged.rank == 2
        for site in mixture.sites:
            for name in site.mlp_linears:
                a, b = pairs_of(mixture, site, name)
                pair = merged.pairs[f"{site.mlp_path}.{name}"]
                assert np.array_equal(np.array(pair[0]), a[expert])
                assert np.array_equal(np.array(pair[1]), b[expert])

    def test_the_generalist_alone_is_its_published_adapter(self, run, loaded):
        base, mixture = loaded
        weights = merging.block_weights(mixture, "generalist")
        merged = merging.merge(mixture, weights, "mean").arrays()
        published = load_file(run / "generalist/adapters.safetensors")
        assert merged.keys() == published.keys()
        assert all(np.array_equal(np.array(merged[n]), published[n]) for n in merged)

    def test_weights_that_leave_a_rest_to_the_base(self, loaded):
        """Half an expert: the mean must not halve A and B, a quarter in all."""
        _, mixture = loaded
        for how in merging.HOWS:
            merged = merging.merge(mixture, [[0.5, 0.0, 0.0]] * 2, how)
            site = mixture.sites[0]
            a, b = pairs_of(mixture, site, site.mlp_linears[0])
            pair = merged.pairs[f"{site.mlp_path}.{site.mlp_linears[0]}"]
            product = np.array(pair[0]) @ np.array(pair[1])
            np.testing.assert_allclose(product, 0.5 * a[0] @ b[0], atol=1e-6)

    @pytest.mark.parametrize("bits", [None, 4])
    def test_in_place_an_expert_alone_computes_what_it_did(self, trained, bits):
        run = trained(bits=bits, router_type="static", top_k=3, **OPTIONS)
        _, mixture = RunFolder(run).load()
        before, _ = mixture(TOKENS)
        with mixture.selected("generalist"):
            expected, _ = mixture(TOKENS)
        assert mx.abs(before - expected).max() > 1e-4
        weights = merging.block_weights(mixture, "generalist")
        for how in merging.HOWS:
            merged = merging.merge(mixture, weights, how)
            with merging.in_place(mixture, merged):
                logits, _ = mixture(TOKENS)
            np.testing.assert_allclose(logits, expected, atol=1e-5)
        after, _ = mixture(TOKENS)
        assert mx.array_equal(before, after)


class TestCommand:
    @pytest.mark.parametrize("how", merging.HOWS)
    @pytest.mark.parametrize("family", ["llama", "gpt2"])
    def test_mlx_lm_computes_what_we_do(
        self, trained, tiny_folder, tmp_path, how, family
    ):
        from mlx_lm import load

        run = trained(family=family, router_type="static", top_k=3, **OPTIONS)
        out = tmp_path / "adapter"
        main(["--run", str(run), "--out", str(out), "--how", how, "--no-measure"])
        _, mixture = RunFolder(run).load()
        weights = merging.block_weights(mixture, "auto")
        with merging.in_place(mixture, merging.merge(mixture, weights, how)):
            expected, _ = mixture(TOKENS)
        config = json.loads((out / "adapter_config.json").read_text())
        ranks = {a.shape for n, a in load_file(out / "adapters.safetensors").items()}
        rank = config["lora_parameters"]["rank"]
        assert rank == (6 if how == "stack" else 2)
        assert all(rank in shape for shape in ranks)
        model, _ = load(str(tiny_folder(family)), adapter_path=str(out))
        np.testing.assert_allclose(model(TOKENS), expected, atol=1e-5)
        with mixture.selected("base"):
            base, _ = mixture(TOKENS)
        assert mx.abs(expected - base).max() > 1e-4

    def test_the_losses_are_measured_and_told(self, cli, run, tmp_path):
        out = tmp_path / "adapter"
        code, said, _ = cli(main, run=run, out=out, json=True)
        results = json.loads(said)
        assert (code, results["split"], results["rank"]) == (0, "test", 6)
        losses = results["loss"]
        assert set(losses) == {"mixture", "mean", "stack"}
        assert abs(losses["stack"] - losses["mixture"]) < 0.05
        assert losses["stack"] != losses["mean"]
        code, said, _ = cli(main, run=run, out=tmp_path / "second", how="mean")
        assert f"mean      loss {losses['mean']:.4f}" in said
        assert f"{tmp_path / 'second'}: one adapter (mean, rank 2)" in said

    def test_the_loss_of_the_mixture_is_evaluates(self, cli, run, tmp_path):
        from comigs_mlx import evaluate

        _, said, _ = cli(evaluate.main, run=run, experts="auto", json=True)
        expected = json.loads(said)["results"]["mixture"]["loss"]
        _, said, _ = cli(main, run=run, out=tmp_path / "adapter", json=True)
        assert json.loads(said)["loss"]["mixture"] == pytest.approx(expected, abs=1e-6)

    def test_a_blend_of_any_router(self, cli, trained, tmp_path):
        run = trained(**OPTIONS)
        given = {"experts": "0.3,0.3,0.4", "measure": True}
        code, said, _ = cli(main, run=run, out=tmp_path / "blend", **given)
        assert (code, "rank 6" in said) == (0, True)

    def test_what_cannot_be_merged_writes_nothing(self, cli, trained, run, tmp_path):
        out = tmp_path / "adapter"
        code, _, told = cli(main, run=trained(**OPTIONS), out=out)
        assert code == 2
        assert told.strip().splitlines()[-1].startswith("error: the router topk weighs")
        code, _, told = cli(main, run=run, out=out, data=tmp_path / "nothing")
        assert code == 2
        assert not out.exists()
        out.mkdir()
        code, _, told = cli(main, run=run, out=out)
        assert (code, "exists: remove it" in told) == (2, True)
        assert list(out.iterdir()) == []
