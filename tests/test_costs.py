"""What a call and a step cost, counted: products, traces and bytes, but no seconds."""

import itertools

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest

import tests.model.families as families
from comigs_mlx.data.batches import PaddedSamples
from comigs_mlx.data.tokens import LabelledSample
from comigs_mlx.model import params
from comigs_mlx.model.mixture import Mixture
from comigs_mlx.options import ExpertOptions, SavingOptions, TrainingOptions
from comigs_mlx.platform import cpu_streams
from comigs_mlx.training import losses, trainer
from comigs_mlx.training.evaluation import Evaluator
from comigs_mlx.training.level import Level, Stats, expert_group, router_group
from tests.graph import PRODUCTS, Graph
from tests.model.naive import randomise
from tests.training.setting import arrays, batch_of

TOKENS = mx.random.randint(0, 60, (2, 7), key=mx.random.key(0))
LINEARS = (nn.Linear, nn.QuantizedLinear)
LAYOUTS = [(0, 1), (1, 2), (7, 1), (7, 2), (7, 8)]
"""Specialists and k, beside one generalist."""


def mixture_of(bits=None, specialists=2, top_k=2, **changes):
    model = families.build("llama", bits, **changes)
    mixture = Mixture(
        model, ExpertOptions(rank=2, specialists=specialists, top_k=top_k)
    )
    randomise(mixture.model)
    return mixture


def level_of(mixture, group, kind=Level):
    options = TrainingOptions()
    return kind(mixture, [group(options)], options)


def base_weights(mixture):
    """Path -> weight of every linear of the base model."""
    return {
        f"{path}.weight": module.weight
        for path, module in mixture.model.named_modules()
        if isinstance(module, LINEARS)
    }


def roles(mixture):
    return params.flatten(params.select(mixture.model, params.ROLES))


@pytest.mark.parametrize("bits", [None, 4], ids=["plain", "4bit"])
@pytest.mark.parametrize(("specialists", "top_k"), LAYOUTS)
class TestBaseProducts:
    def test_one_a_linear_in_a_forward_pass(self, bits, specialists, top_k):
        mixture = mixture_of(bits, specialists, top_k)
        weights = base_weights(mixture)
        assert len(weights) == 2 * (3 + 4) + 1  # blocks * linears, and the head
        for tokens in (TOKENS, TOKENS[:1, :1]):
            graph = Graph(mixture(tokens)[0], weights)
            assert {graph.products(path) for path in weights} == {1}

    def test_two_a_linear_and_lane_in_a_step(self, bits, specialists, top_k):
        """One more in the backward pass, but for what reads the embedding."""
        mixture = mixture_of(bits, specialists, top_k)
        level, weights = level_of(mixture, expert_group), base_weights(mixture)
        graph = Graph(gradients_of(level), weights)
        parts = cpu_streams.count(len(batch_of(0).tokens))
        counts = {path: graph.products(path) / parts for path in weights}
        first = {path for path, count in counts.items() if count == 1}
        assert set(counts.values()) == {1, 2}
        assert first == {
            f"model.layers.0.self_attn.{name}_proj.linear.weight" for name in "qkv"
        }

    def test_calls_of_the_linears_themselves(
        self, monkeypatch, bits, specialists, top_k
    ):
        mixture = mixture_of(bits, specialists, top_k)
        called = []
        for kind in LINEARS:
            run = kind.__call__

            def call(module, x, run=run):
                called.append((id(module), x.size // x.shape[-1]))
                return run(module, x)

            monkeypatch.setattr(kind, "__call__", call)
        mixture(TOKENS)
        expected = {id(m) for m in mixture.model.modules() if type(m) in LINEARS}
        assert {module for module, _ in called} == expected
        assert len(called) == len(expected)
        assert {rows for _, rows in called} == {TOKENS.size}


def gradients_of(level):
    """The gradient tree of one batch, not evaluated."""
    model, batch = level.mixture.model, batch_of(0)
    trained, others = (params.select(model, r) for r in (level.roles, level.others))
    return level._gradients(trained, others, None, level._inputs(batch, 0, 0))[0]


def test_low_rank_products_do_not_grow_in_number_with_the_experts():
    """They grow in width: 16 experts are as many products as 3."""
    counts = set()
    for specialists in (2, 7, 15):
        mixture = mixture_of(specialists=specialists)
        counts.add(Graph(mixture(TOKENS)[0], {}).count(*PRODUCTS))
    assert len(counts) == 1


@pytest.mark.parametrize("bits", [None, 4], ids=["plain", "4bit"])
@pytest.mark.parametrize("tokens", [TOKENS, TOKENS[:1, :1]], ids=["many", "one"])
class TestBase:
    def test_reads_no_router_and_no_pair(self, bits, tokens):
        mixture = mixture_of(bits)
        leaves = roles(mixture)
        with mixture.selected("base"):
            base = Graph(mixture(tokens), leaves)
        auto = Graph(mixture(tokens), leaves)
        assert [path for path in leaves if base.reads(path)] == []
        assert all(auto.reads(path) for path in leaves)

    def test_has_the_products_of_the_bare_model(self, bits, tokens):
        mixture = mixture_of(bits)
        with mixture.selected("base"):
            found = Graph(mixture(tokens)[0], {}).count(*PRODUCTS)
        expected = Graph(families.build("llama", bits)(tokens), {}).count(*PRODUCTS)
        assert found == expected > 0
        assert Graph(mixture(tokens)[0], {}).count(*PRODUCTS) > found

    def test_asks_no_router(self, monkeypatch, bits, tokens):
        mixture = mixture_of(bits)
        kind, asked = type(mixture.sites[0].mlp.router), []
        run = kind.__call__
        call = lambda router, *given: asked.append(router) or run(router, *given)
        monkeypatch.setattr(kind, "__call__", call)
        with mixture.selected("base"):
            mixture(tokens)
        assert asked == []
        mixture(tokens)
        assert len(asked) == len(mixture.sites)


class TestRouterStep:
    def test_asks_for_no_expert_gradient(self):
        mixture = mixture_of()
        routers = [path for path in roles(mixture) if "router" in path.split(".")]
        found = params.flatten(gradients_of(level_of(mixture, router_group)))
        assert sorted(found) == sorted(routers)
        assert all(gradient.any() for gradient in found.values())

    def test_keeps_no_state_for_an_expert(self):
        mixture = mixture_of()
        level = level_of(mixture, router_group)
        level.step([batch_of(0)])
        moments = arrays(level.groups[0].optimizer.state)
        paths = {p[:-2] for p in moments if p.endswith((".m", ".v"))}
        assert paths == {path for path in roles(mixture) if ".router." in path}
        assert set(moments) == {f"{p}.{mv}" for p in paths for mv in "mv"} | {
            "step",
            "learning_rate",
        }

    def test_has_fewer_products_than_an_expert_step(self):
        """No pair is differentiated, and nothing before the first router is."""
        mixture = mixture_of()
        counts = [
            Graph(gradients_of(level_of(mixture, group)), {}).count(*PRODUCTS)
            for group in (router_group, expert_group)
        ]
        assert counts[0] < 0.8 * counts[1]


def conversations(seed, count=40):
    """Of 10 to 120 tokens, so padded to 32, 64 and 96."""
    rng = np.random.default_rng(seed)
    samples = []
    for length in rng.integers(10, 120, count):
        tokens = rng.integers(0, 60, length).astype(np.int32)
        samples.append(LabelledSample(tokens, np.arange(length) > 2))
    return PaddedSamples(samples, seq_len=96, batch_size=2, seed=seed)


@pytest.fixture
def traced(monkeypatch):
    """(Roles or "evaluation", shape of the tokens) of every time Python code ran."""
    found = []

    class Counted(Level):
        def _step(self, trained, others, states, k, batch):
            found.append((self.roles, tuple(batch["tokens"].shape)))
            return super()._step(trained, others, states, k, batch)

    class CountedEvaluator(Evaluator):
        def _run(self, values, tokens):
            found.append(("evaluation", tuple(tokens.shape)))
            return super()._run(values, tokens)

    monkeypatch.setattr(trainer, "Level", Counted)
    monkeypatch.setattr(trainer, "Evaluator", CountedEvaluator)
    return found


def test_a_hundred_steps_trace_each_level_once_a_shape(traced):
    options = TrainingOptions(steps=70, router_every=14, router_steps=6)
    saving = SavingOptions(report_every=50, save_every=35)
    valid = [conversations(3).batch(i) for i in range(6)]
    sources = conversations(1), conversations(2)
    run = trainer.Trainer(mixture_of(), *sources, valid, options, saving)
    list(run.run())
    position = run.position
    assert position.step + position.router_step == 100
    shapes = [(2, length + 1) for length in (32, 64, 96)]
    assert {batch.tokens.shape for batch in valid} == {*shapes}
    kinds = [params.EXPERTS, params.ROUTERS, "evaluation"]
    expected = itertools.product(kinds, shapes)
    assert sorted(map(str, traced)) == sorted(map(str, expected))


class Plain(Level):
    """A level whose loss makes all logits at once."""

    def _objective(self, k, batch):
        tokens, mask = batch["tokens"], batch["mask"]
        logits, routing = self.mixture(tokens[:, :-1])
        loss = (nn.losses.cross_entropy(logits, tokens[:, 1:]) * mask).sum()
        share = routing.weights.sum((1, 2)).mean(0)
        return loss, Stats(loss, mask.sum(), share)


class PlainEvaluator(Evaluator):
    def _run(self, values, tokens):
        self.mixture.model.update(values)
        logits, routing = self.mixture(tokens[:, :-1])
        each = nn.losses.cross_entropy(logits, tokens[:, 1:])
        return each, routing.weights.mean(0)


ROWS, LENGTH, WORDS = 16, 64, 16384
LOGITS = ROWS * LENGTH * WORDS * 4
"""Bytes of all logits in float32: 67 MB; the model and its optimiser are 4 MB."""


@pytest.fixture(scope="module")
def wordy():
    return mixture_of(specialists=1, vocab_size=WORDS)


def peak(run, rows=ROWS):
    """Bytes that were needed beside those in use before."""
    batch = batch_of(0, rows=rows, length=LENGTH)
    mx.synchronize()
    mx.clear_cache()
    before = mx.get_active_memory()
    mx.reset_peak_memory()
    run(batch)
    return mx.get_peak_memory() - before


def step(mixture, kind=Level):
    level = level_of(mixture, expert_group, kind)
    return lambda batch: level.step([batch])


def evaluate(mixture, kind=Evaluator):
    return lambda batch: kind(mixture).score([batch])


MAKES_ALL = {"step": (step, Plain), "evaluation": (evaluate, PlainEvaluator)}


@pytest.mark.parametrize(("work", "plain"), MAKES_ALL.values(), ids=MAKES_ALL)
class TestMemory:
    """With a vocabulary so large that nothing else counts; in one stream."""

    @pytest.fixture(autouse=True)
    def _one_lane(self, monkeypatch):
        monkeypatch.setattr(cpu_streams, "_cores", lambda: 1)

    @pytest.fixture
    def small(self, monkeypatch):
        monkeypatch.setattr(losses, "CHUNK", dict.fromkeys((True, False), 2**18))

    @pytest.mark.usefixtures("small")
    def test_all_logits_are_never_there_at_once(self, wordy, work, plain):
        assert peak(work(wordy)) < LOGITS / 2

    def test_a_plain_loss_would_have_them_all(self, wordy, work, plain):
        assert peak(work(wordy, plain)) > LOGITS

    @pytest.mark.usefixtures("small")
    def test_does_not_grow_with_the_logits(self, wordy, work, plain):
        """Twice the tokens, 67 MB more logits: a fraction of that more."""
        once, twice = peak(work(wordy)), peak(work(wordy), rows=2 * ROWS)
        assert twice - once < LOGITS / 4

    def test_nor_are_they_in_chunks_of_the_size_for_a_cpu(
        self, monkeypatch, wordy, work, plain
    ):
        """Of 268 MB. MLX allocates ahead, so about 16 chunks are there at once."""
        monkeypatch.setitem(losses.CHUNK, False, losses.CHUNK[True])
        assert peak(work(wordy), rows=4 * ROWS) < 3 * LOGITS
