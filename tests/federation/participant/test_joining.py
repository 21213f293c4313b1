"""`train --join` and `--specialist-from`: what new runs make of pulled generalists."""

import mlx.core as mx
import numpy as np
import pytest
from safetensors.numpy import load_file

import comigs_mlx.train as train
import tests.tiny as tiny
from comigs_mlx import sync
from comigs_mlx.config import read_yaml
from comigs_mlx.federation.participant import membership
from comigs_mlx.runs.folder import RunFolder

GENERALIST = "generalist/adapters.safetensors"
SPECIALIST = "specialist/experts.safetensors"
ROUTER = "router/router.safetensors"
ROUNDS = {"rounds": 2, "local_steps": 3, "wait": 0}


def empty_pool(tmp_path, tiny_folder, **options):
    """A new federation on the tiny model, in which nobody has contributed."""
    uri = tmp_path / "pool"
    given = {"model": tiny_folder(), "rank": 2, "encoding": "fp32", **options}
    sync.main(["init", *tiny.flags(federation=uri, **given)])
    return uri


@pytest.fixture
def flags(tiny_folder, text_folder, tmp_path):
    """(federation, name of the run, options) -> the flags of its training."""

    def made(uri, run, **options):
        shape = {k: v for k, v in tiny.TRAINING.items() if k not in ("steps", "rank")}
        paths = {"model": tiny_folder(), "data": text_folder, "run": tmp_path / run}
        given = {**shape, "save_every": 3, **paths, "federation": uri, **ROUNDS}
        return tiny.flags(**{**given, **options})

    return made


@pytest.fixture
def pool(tmp_path, tiny_folder, flags):
    """A federation whose generalist has learnt for two rounds of ann's."""
    uri = empty_pool(tmp_path, tiny_folder)
    train.main(flags(uri, "ann", participant="ann", learning_rate=0.02))
    return uri


def arrays(run):
    files = (GENERALIST, SPECIALIST, ROUTER)
    return {name: load_file(run / name) for name in files}


def equal(one, other):
    return one.keys() == other.keys() and all(
        np.array_equal(one[name], other[name]) for name in one
    )


def contents(uri):
    files = (path for path in uri.rglob("*") if path.is_file() and path.suffix != "")
    return {str(path): path.read_bytes() for path in files}


class TestJoin:
    def test_the_router_alone_learns_over_what_was_pulled(self, pool, flags, tmp_path):
        before = contents(pool)
        train.main(flags(pool, "short", join=True, rounds=1, local_steps=1))
        train.main(flags(pool, "long", join=True, learning_rate=0.05))
        short, long = arrays(tmp_path / "short"), arrays(tmp_path / "long")
        assert equal(short[GENERALIST], load_file(pool / "adapters.safetensors"))
        assert equal(short[GENERALIST], long[GENERALIST])
        assert equal(short[SPECIALIST], long[SPECIALIST])
        assert not equal(short[ROUTER], long[ROUTER])
        assert not any(a.any() for n, a in long[SPECIALIST].items() if "lora_b" in n)
        assert contents(pool) == before  # nothing is written there

    def test_the_router_of_a_joined_run_lowers_the_loss(self, pool, flags, tmp_path):
        options = {"rounds": 1, "local_steps": 40, "save_every": 1}
        train.main(flags(pool, "bob", join=True, **options, learning_rate=0.05))
        best = RunFolder(tmp_path / "bob").best()
        assert best is not None
        assert best[0] > 1

    def test_resumed_it_goes_on_as_if_it_had_never_ended(self, pool, flags, tmp_path):
        train.main(flags(pool, "whole", join=True, rounds=2))
        train.main(flags(pool, "parts", join=True, rounds=1))
        train.main(tiny.flags(run=tmp_path / "parts", resume=True, rounds=2))
        whole, parts = arrays(tmp_path / "whole"), arrays(tmp_path / "parts")
        assert all(equal(whole[name], parts[name]) for name in whole)

    def test_newer_generalists_come_while_it_learns(self, pool, flags, tmp_path, cli):
        train.main(flags(pool, "bob", join=True, rounds=1))
        train.main(
            tiny.flags(run=tmp_path / "ann", resume=True, rounds=3, learning_rate=0.02)
        )
        code, _, told = cli(train.main, run=tmp_path / "bob", resume=True, rounds=2)
        assert (code, "has the generalist of round 3" in told) == (0, True)
        assert "learnt itself" not in told
        now = load_file(pool / "adapters.safetensors")
        assert equal(load_file(tmp_path / "bob" / GENERALIST), now)

    def test_what_is_said_and_kept(self, pool, flags, tmp_path, cli):
        code, _, told = cli(train.main, *flags(pool, "bob", join=True))
        assert code == 0
        assert "trainable: the router alone, 128; nothing is contributed" in told
        config = read_yaml(tmp_path / "bob" / "config.yaml")
        assert (config["join"], config["router"]) == (True, "joint")
        record = membership.read(tmp_path / "bob")
        assert (record.round, record.contributed) == (2, 0)

    def test_it_has_nothing_to_push(self, pool, flags, tmp_path, cli):
        train.main(flags(pool, "bob", join=True))
        given = {"federation": pool, "run": tmp_path / "bob", "participant": "bob"}
        code, _, told = cli(sync.main, "push", **given)
        assert code == 2
        assert "was trained with --join" in told

    def test_generalists_that_have_learnt_nothing(
        self, tmp_path, tiny_folder, flags, cli
    ):
        uri = empty_pool(tmp_path, tiny_folder)
        code, _, told = cli(train.main, *flags(uri, "bob", join=True))
        assert code == 2
        assert "have learnt nothing yet, so there is nothing to join" in told

    @pytest.mark.parametrize(
        ("changed", "told"),
        [
            ({"router": "none"}, "leave out --router"),
            ({"router_refresh": 3}, "leave out --router-refresh"),
            ({"specialists": 0}, "nothing to route with one expert"),
            ({"dp_clip": 1, "dp_noise": 1}, "leave out --dp-clip and --dp-noise"),
            ({"specialist_from": "generalist"}, "leave out --specialist-from"),
        ],
    )
    def test_what_cannot_be_joined(self, pool, flags, tmp_path, cli, changed, told):
        code, _, said = cli(train.main, *flags(pool, "bob", join=True, **changed))
        assert (code, told in said) == (2, True)
        assert len(said.strip().splitlines()) <= 3
        assert not (tmp_path / "bob" / "config.yaml").exists()

    def test_it_is_for_a_federation(self, cli, tmp_path):
        for options, told in (
            ({"join": True}, "--join needs --federation"),
            ({"specialist_from": "generalist"}, "--specialist-from generalist needs"),
        ):
            code, _, said = cli(train.main, run=tmp_path / "x", **options)
            assert (code, told in said) == (2, True)

    def test_a_run_stays_what_it_is(self, pool, flags, tmp_path, cli):
        train.main(flags(pool, "bob", join=True))
        code, _, told = cli(train.main, "--no-join", run=tmp_path / "bob", resume=True)
        assert (code, "--join is True there" in told) == (2, True)


class TestSpecialistFrom:
    def test_it_begins_as_the_generalist(self, pool, flags, tmp_path, cli):
        given = {"participant": "bob", "rounds": 1, "local_steps": 1}
        tiny_rate = {"learning_rate": 1e-12, "specialist_from": "generalist"}
        code, _, told = cli(train.main, *flags(pool, "bob", **given, **tiny_rate))
        assert (code, "begin as copies of the generalists" in told) == (0, True)
        run = tmp_path / "bob"
        generalist, specialist = (
            load_file(run / GENERALIST),
            load_file(run / SPECIALIST),
        )
        for name, array in specialist.items():
            np.testing.assert_allclose(array[0], generalist[name], atol=1e-9)
        assert specialist["model.layers.0.mlp.up_proj.lora_b"].any()

    @pytest.mark.parametrize("router", ["topk", "static", "dynmole", "relu"])
    @pytest.mark.parametrize("top_k", [1, 2])
    def test_equal_experts_are_one(self, pool, flags, tmp_path, router, top_k):
        """The weights sum to 1, or the base takes the rest: then it is between."""
        kinds = {"router_type": router, "top_k": top_k, "learning_rate": 1e-12}
        given = {"participant": "bob", "rounds": 1, "local_steps": 1, **kinds}
        train.main(flags(pool, "bob", specialist_from="generalist", **given))
        _, mixture = RunFolder(tmp_path / "bob").load()
        tokens = mx.array([[3, 14, 15, 92, 65]])
        logits, routing = mixture(tokens)
        with mixture.selected("generalist"):
            generalist, _ = mixture(tokens)
        with mixture.selected("base"):
            base, _ = mixture(tokens)
        assert mx.abs(generalist - base).max() > 1e-4
        if mx.allclose(routing.weights.sum(-1), mx.array(1.0), atol=1e-6):
            np.testing.assert_allclose(logits, generalist, atol=2e-6)
        else:
            assert (top_k, router) != (2, "topk")

    def test_it_learns_on_its_own(self, pool, flags, tmp_path):
        given = {"participant": "bob", "learning_rate": 0.02}
        train.main(flags(pool, "bob", specialist_from="generalist", **given))
        run = tmp_path / "bob"
        generalist, specialist = (
            load_file(run / GENERALIST),
            load_file(run / SPECIALIST),
        )
        name = "model.layers.0.mlp.up_proj.lora_b"
        assert not np.allclose(specialist[name][0], generalist[name], atol=1e-3)

    def test_nothing_to_copy_is_said(self, tmp_path, tiny_folder, flags, cli):
        uri = empty_pool(tmp_path, tiny_folder)
        given = {"participant": "bob", "specialist_from": "generalist"}
        code, _, told = cli(train.main, *flags(uri, "bob", **given))
        assert (code, "copies nothing" in told) == (0, True)
