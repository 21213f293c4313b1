"""One step of one level: what it changes, by how much, and what it leaves alone."""

import dataclasses
import math

import mlx.core as mx
import numpy as np
import pytest

from comigs_mlx.errors import ModelError
from comigs_mlx.model import params
from comigs_mlx.model.gradient_checkpointing import RecomputedBlock, recompute_blocks
from comigs_mlx.model.routing import tsallis_entropy
from comigs_mlx.options import TrainingOptions
from comigs_mlx.training.level import Level, expert_group, router_group
from tests.model.naive import naive_logits, router_weights
from tests.training.setting import (
    SHAPES,
    arrays,
    batch_of,
    changed,
    mixture_of,
    poison,
    poisoned,
    put,
    same,
    trainer_of,
    values,
)

OPTIONS = TrainingOptions(steps=20, learning_rate=1e-2)


def levels_of(mixture, options=OPTIONS):
    experts = Level(mixture, [expert_group(options)], options)
    return experts, Level(mixture, [router_group(options)], options)


def state(level):
    return arrays([group.optimizer.state for group in level.groups])


@pytest.fixture(params=SHAPES)
def mixture(request):
    return mixture_of(SHAPES[request.param], std=0.1)


class TestNothingLeaks:
    def test_expert_steps_change_every_expert_tensor_and_no_router(self, mixture):
        experts, routers = levels_of(mixture)
        before, idle = values(mixture), state(routers)
        for seed in range(2):
            experts.step([batch_of(seed)])
        after = values(mixture)
        assert changed(before, after) == values(mixture, *params.EXPERTS).keys()
        assert same(idle, state(routers))

    def test_router_steps_change_every_router_and_no_expert(self, mixture):
        experts, routers = levels_of(mixture)
        before, idle = values(mixture), state(experts)
        routers.step([batch_of(0)])
        after = values(mixture)
        assert changed(before, after) == values(mixture, "router").keys()
        assert same(idle, state(experts))

    def test_at_the_first_step_only_b_has_a_gradient(self):
        mixture = mixture_of()
        experts, _ = levels_of(mixture, TrainingOptions(weight_decay=0.0))
        before = values(mixture)
        experts.step([batch_of(0)])
        b = {path for path in before if path.endswith("lora_b")}
        assert len(b) == 2 * (3 * 2 + 4)  # blocks x (MLP linears x roles + attention)
        assert changed(before, values(mixture)) == b

    @pytest.mark.parametrize("own", [0, 1], ids=["expert", "router"])
    def test_a_step_depends_on_values_own_state_and_batch_alone(self, mixture, own):
        levels = levels_of(mixture)
        level, other = levels[own], levels[1 - own]
        for seed in range(2):  # both optimisers have a past
            level.step([batch_of(seed)])
            other.step([batch_of(seed)])
        start, moments = values(mixture), [g.optimizer.state for g in level.groups]

        level.step([batch_of(7)])
        expected, expected_state = values(mixture), state(level)

        put(mixture, start)
        for group, saved in zip(level.groups, moments, strict=True):
            group.optimizer.state = saved
        other.step([batch_of(8)])
        other.step([batch_of(9), batch_of(10)])
        assert not same(values(mixture), start)
        put(mixture, start)
        level.step([batch_of(7)])
        assert same(values(mixture), expected)
        assert same(state(level), expected_state)

    def test_joint_changes_everything(self, mixture):
        groups = [expert_group(OPTIONS), router_group(OPTIONS)]
        level = Level(mixture, groups, OPTIONS)
        before = values(mixture)
        result = level.step([batch_of(0)])
        assert changed(before, values(mixture)) == before.keys()
        assert result.norms.keys() == set(params.ROLES)


def naive_objective(mixture, flat, batch, options):
    """The summed loss, from whole MLPs one after the other; float64 sums."""
    experts, routing = mixture.options, []

    def weights_of(x, matrix):
        weights = router_weights(x, matrix, experts.top_k)
        routing.append((np.array(weights), np.array(mx.softmax(x @ matrix.T, -1))))
        return weights

    bare = mixture_of(experts)  # the same base values
    sites = bare.sites
    bare.detach()
    tokens = mx.array(batch.tokens)
    logits = naive_logits(bare.model, sites, flat, experts, tokens[:, :-1], weights_of)
    z = np.array(logits).astype(np.float64)
    top = z.max(-1, keepdims=True)
    losses = np.log(np.exp(z - top).sum(-1)) + top[..., 0]
    losses -= np.take_along_axis(z, batch.tokens[:, 1:, None], -1)[..., 0]
    used = batch.mask > 0
    total, chosen = losses[used].sum(), [w[used] > 0 for w, _ in routing]
    if experts.top_k < experts.experts:
        factor = np.ones(experts.experts)
        factor[: experts.generalists] = options.generalist_importance
        balance = np.mean(
            [
                experts.experts * (factor * c.mean(0) * p[used].mean(0)).sum()
                for c, (_, p) in zip(chosen, routing, strict=True)
            ]
        )
        total += options.balance_weight * balance * used.sum()
    return total, chosen


class TestRouterGradient:
    """Against central differences of an independent computation of the objective."""

    STEP = 5e-3

    def test_equals_central_differences(self, mixture):
        options = TrainingOptions(balance_weight=0.5, generalist_importance=3.0)
        _, routers = levels_of(mixture, options)
        batch = clear_cut(mixture, 0.05)
        others = params.select(mixture.model, params.EXPERTS)
        trained = params.select(mixture.model, params.ROUTERS)
        tokens, mask = mx.array(batch.tokens), mx.array(batch.mask)
        gradients, stats = routers._gradients(
            trained, others, None, {"tokens": tokens, "mask": mask}
        )
        gradients = arrays(gradients)
        assert gradients.keys() == values(mixture, "router").keys()

        flat = values(mixture)
        total, _ = naive_objective(mixture, as_mx(flat), batch, options)
        if mixture.options.top_k == mixture.options.experts:
            assert float(stats.loss) == pytest.approx(total, rel=1e-5)
        rng = np.random.default_rng(0)
        size = math.sqrt(sum((g**2).sum() for g in gradients.values()))
        directions = [{path: g / size for path, g in gradients.items()}]
        for _ in range(5):
            some = {p: rng.normal(size=g.shape) for p, g in gradients.items()}
            length = math.sqrt(sum((d**2).sum() for d in some.values()))
            directions.append({path: d / length for path, d in some.items()})
        for direction in directions:
            expected = sum((direction[p] * g).sum() for p, g in gradients.items())
            found = self.slope(mixture, flat, direction, batch, options)
            assert found == pytest.approx(expected, abs=2e-3 * size)

    def slope(self, mixture, flat, direction, batch, options):
        ends, choices = [], []
        for sign in (1, -1):
            moved = dict(flat)
            for path, by in direction.items():
                moved[path] = flat[path] + (sign * self.STEP * by).astype(np.float32)
            total, chosen = naive_objective(mixture, as_mx(moved), batch, options)
            ends.append(total)
            choices.append(chosen)
        assert all(np.array_equal(a, b) for a, b in zip(*choices, strict=True))
        return (ends[0] - ends[1]) / (2 * self.STEP)


def clear_cut(mixture, margin):
    """A batch whose choice of experts does not hang by a hair, where it would jump."""
    k, seed = mixture.options.top_k, 0
    while True:
        batch = batch_of(seed, rows=1, length=8, counted=6)
        _, routing = mixture(mx.array(batch.tokens[:, :-1]))
        z = np.sort(np.log(np.array(routing.probabilities)), axis=-1)[..., ::-1]
        if k == z.shape[-1] or (z[..., k - 1] - z[..., k]).min() > margin:
            return batch
        seed += 1


def as_mx(flat):
    return {path: mx.array(array) for path, array in flat.items()}


class TestAccumulation:
    """With different numbers of counted tokens: 2 x 12 against 2 x 3."""

    MANY, FEW = batch_of(1), batch_of(2, counted=3)

    def first_moments(self, batches):
        """The optimiser's first moment after one step: 0.1 x the gradient."""
        mixture = mixture_of(std=0.1)
        experts, _ = levels_of(mixture)
        result = experts.step(batches)
        moments = {k: v for k, v in state(experts).items() if k.endswith(".m")}
        assert moments
        return result, moments, values(mixture)

    def test_is_weighted_by_tokens(self):
        many, gradient_many, _ = self.first_moments([self.MANY])
        few, gradient_few, _ = self.first_moments([self.FEW])
        both, gradient, _ = self.first_moments([self.MANY, self.FEW])
        assert (many.tokens, few.tokens, both.tokens) == (24, 6, 30)
        assert both.loss == pytest.approx((24 * many.loss + 6 * few.loss) / 30)
        for path, found in gradient.items():
            mean = (24 * gradient_many[path] + 6 * gradient_few[path]) / 30
            close = 1e-5 * np.abs(mean).max()
            assert np.abs(found - mean).max() <= close
            unweighted = (gradient_many[path] + gradient_few[path]) / 2
            assert np.abs(found - unweighted).max() > 100 * close

    def test_equals_one_batch_of_all_rows(self):
        joined = type(self.MANY)(
            *(
                np.concatenate([getattr(b, name) for b in (self.MANY, self.FEW)])
                for name in ("tokens", "mask", "documents")
            )
        )
        one, gradient, after = self.first_moments([joined])
        two, accumulated, after_two = self.first_moments([self.MANY, self.FEW])
        assert two.loss == pytest.approx(one.loss, rel=1e-6)
        assert two.share == pytest.approx(one.share, rel=1e-5)
        for path, expected in gradient.items():
            error = np.abs(accumulated[path] - expected).max()
            assert error <= 1e-5 * np.abs(expected).max()
        for path, expected in after.items():
            assert np.abs(after_two[path] - expected).max() <= 1e-4

    def test_tokens_that_do_not_count_change_nothing(self):
        hidden = self.FEW.tokens.copy()
        hidden[:, 4:] = batch_of(3).tokens[:, 4:]
        other = self.FEW._replace(tokens=hidden)
        _, gradient, _ = self.first_moments([self.FEW])
        _, found, _ = self.first_moments([other])
        assert same(gradient, found)


class TestGradientCheckpointing:
    @pytest.mark.parametrize("accumulated", [1, 2])
    def test_changes_no_result(self, mixture, accumulated):
        plain, start = mixture, values(mixture)
        outcomes = []
        for checkpointed in (False, True):
            mixture = mixture_of(plain.options)
            put(mixture, start)
            if checkpointed:
                recompute_blocks(mixture)
                assert all(isinstance(s.block, RecomputedBlock) for s in mixture.sites)
            experts, routers = levels_of(mixture)
            results = []
            for seed in range(3):
                batches = [batch_of([seed, i]) for i in range(accumulated)]
                results.append(experts.step(batches))
                results.append(routers.step(batches))
            outcomes.append((results, values(mixture)))
        (expected, after), (found, after_checkpointed) = outcomes
        assert not same(start, after)
        for a, b in zip(expected, found, strict=True):
            assert b.loss == pytest.approx(a.loss, rel=1e-6)
            assert b.share == pytest.approx(a.share, rel=1e-5)
            assert b.norms == pytest.approx(a.norms, rel=1e-4)
        for path, array in after.items():
            assert np.abs(after_checkpointed[path] - array).max() <= 1e-5


class TestOptimisers:
    def test_expert_rate_falls_on_a_cosine_and_router_rate_stays(self):
        options = TrainingOptions(steps=6, learning_rate=3e-3)
        experts, routers = levels_of(mixture_of(), options)
        for n in range(6):
            experts.step([batch_of(n)])
            routers.step([batch_of(n)])
            cosine = (1 + math.cos(math.pi * n / 6)) / 2
            expected = 3e-4 + (3e-3 - 3e-4) * cosine
            rate = experts.groups[0].optimizer.learning_rate.item()
            assert rate == pytest.approx(expected, rel=1e-5)
            rate = routers.groups[0].optimizer.learning_rate.item()
            assert rate == pytest.approx(3e-3, rel=1e-6)

    @pytest.mark.parametrize("own", [0, 1], ids=["expert", "router"])
    def test_updates_are_those_of_adamw(self, own):
        options = TrainingOptions(steps=4, learning_rate=1e-2, weight_decay=0.01)
        mixture = mixture_of(std=0.1)
        level = levels_of(mixture, options)[own]
        rates = [1e-2, 1e-3 + 9e-3 * (1 + math.cos(math.pi / 4)) / 2]
        if own:
            rates = [1e-2, 1e-2]
        m = v = dict.fromkeys(values(mixture, *level.roles), 0.0)
        for t, rate in enumerate(rates, 1):
            batch = batch_of(t, counted=9)
            tokens, mask = mx.array(batch.tokens), mx.array(batch.mask)
            others = params.select(mixture.model, level.others)
            trained = params.select(mixture.model, level.roles)
            given = {"tokens": tokens, "mask": mask}
            summed = arrays(level._gradients(trained, others, None, given)[0])
            gradient = {k: g.astype(np.float64) / (2 * 9) for k, g in summed.items()}
            m = {k: 0.9 * m[k] + 0.1 * g for k, g in gradient.items()}
            v = {k: 0.95 * v[k] + 0.05 * g**2 for k, g in gradient.items()}
            before = values(mixture, *level.roles)
            result = level.step([batch])
            after = values(mixture, *level.roles)
            for k in gradient:
                unbiased = m[k] / (1 - 0.9**t), v[k] / (1 - 0.95**t)
                step = unbiased[0] / (np.sqrt(unbiased[1]) + 1e-8)
                expected = before[k] * (1 - rate * 0.01) - rate * step
                # Gradients near eps are sensitive to their last bits.
                firm = np.abs(gradient[k]) > 1e-5
                assert firm.any()
                assert np.abs(after[k] - expected)[firm].max() <= 2e-4 * rate + 1e-7
            for role, norm in result.norms.items():
                mine = [g for k, g in gradient.items() if role in k.split(".")]
                expected = math.sqrt(sum((g**2).sum() for g in mine))
                assert norm == pytest.approx(expected, rel=1e-4)


class TestStepResult:
    def test_share_and_loss_are_means_over_counted_tokens(self, mixture):
        experts, _ = levels_of(mixture)
        batch = batch_of(6, counted=5)
        logits, routing = mixture(mx.array(batch.tokens[:, :-1]))
        used = batch.mask > 0
        share = np.array(routing.weights)[:, used].mean((0, 1))
        z = np.array(logits)[used].astype(np.float64)
        picked = z[np.arange(len(z)), batch.tokens[:, 1:][used]]
        result = experts.step([batch])
        assert result.tokens == 10
        assert result.share == pytest.approx(share.tolist(), rel=1e-5)
        expected = (np.log(np.exp(z).sum(-1)) - picked).mean()
        assert result.loss == pytest.approx(expected, rel=1e-5)

    @pytest.mark.parametrize("accumulated", [1, 2])
    def test_what_is_not_finite_changes_nothing(self, mixture, accumulated):
        poison(mixture)
        experts, _ = levels_of(mixture)
        experts.step([batch_of(0)])
        before, moments = values(mixture), state(experts)
        result = experts.step([poisoned(batch_of(1)), batch_of(2)][:accumulated])
        assert not result.finite
        assert same(before, values(mixture))
        assert same(moments, state(experts))


@pytest.mark.parametrize("batches", [1, 2])
def test_tokens_that_the_base_does_not_know_are_refused_and_nothing_changes(batches):
    mixture = mixture_of()
    level = Level(mixture, [expert_group(TrainingOptions())], TrainingOptions())
    before, bad = values(mixture), batch_of(0)
    tokens = bad.tokens.copy()
    tokens[0, -1] = mixture.tables.vocabulary
    with pytest.raises(ModelError, match="has token id 64, the base model knows"):
        level.step([batch_of(1)] * (batches - 1) + [bad._replace(tokens=tokens)])
    assert same(values(mixture), before)


class TestNoise:
    """Drawn anew in every step, level and micro-batch, from the seed alone."""

    def keys(self, seed):
        options = TrainingOptions(seed=seed)
        routed = dataclasses.replace(SHAPES["k=E"], router_type="stochastic")
        levels = levels_of(mixture_of(routed), options)
        return [
            tuple(level._inputs(batch_of(0), number, index)["key"].tolist())
            for level in levels
            for number in range(3)
            for index in range(3)
        ]

    def test_no_two_draws_are_the_same(self):
        drawn = [*self.keys(0), *self.keys(1)]
        assert len(set(drawn)) == len(drawn) == 36

    def test_the_same_place_draws_the_same(self):
        assert self.keys(2) == self.keys(2)

    def test_who_wants_none_has_no_key(self):
        level, _ = levels_of(mixture_of(), TrainingOptions())
        assert "key" not in level._inputs(batch_of(0), 0, 0)

    def test_a_trainer_counts_the_steps(self, monkeypatch):
        """Every step of a run is told how many of its level came before."""
        told, real = [], Level._inputs

        def inputs(level, batch, number, index):
            told.append((level.trains_routers, number, index))
            return real(level, batch, number, index)

        monkeypatch.setattr(Level, "_inputs", inputs)
        options = {"steps": 4, "router_every": 2, "router_steps": 1}
        list(trainer_of(**options, grad_accumulation=2).run())
        experts = [place[1:] for place in told if not place[0]]
        assert experts == [(n, i) for n in range(4) for i in range(2)]
        assert [place[1:] for place in told if place[0]] == [(0, 0), (1, 0)]


class TestRouterPenalty:
    """What a router adds to the loss: where routers learn, and nowhere else."""

    def gradients(self, weight, index):
        """Those of the experts' (0) or the routers' (1) level, and the mixture."""
        kind = f"topk:entropy={weight}"
        routed = dataclasses.replace(SHAPES["k=E"], router_type=kind)
        mixture = mixture_of(routed, std=0.3)
        level = levels_of(mixture)[index]
        trained = params.select(mixture.model, level.roles)
        others = params.select(mixture.model, level.others)
        inputs = level._inputs(batch_of(0, counted=7), 0, 0)
        return arrays(level._gradients(trained, others, None, inputs)[0]), mixture

    def test_is_summed_over_counted_tokens_and_averaged_over_blocks(self):
        (without, mixture), (found, _) = self.gradients(0, 1), self.gradients(0.5, 1)
        batch = batch_of(0, counted=7)

        def penalty(tokens, mask):
            with mixture.training():
                _, routing = mixture.body(tokens[:, :-1])
            entropy = tsallis_entropy(routing.probabilities).mean(0)  # over blocks
            return 0.5 * (entropy * mask).sum()

        trained = params.select(mixture.model, params.ROUTERS)
        given = (mx.array(batch.tokens), mx.array(batch.mask))
        _, slopes = params.value_and_grad(mixture.model, penalty)(trained, *given)
        slopes = arrays(slopes)
        assert max(np.abs(slope).max() for slope in slopes.values()) > 1e-2
        for path, slope in slopes.items():
            assert np.allclose(found[path] - without[path], slope, atol=1e-4), path

    def test_is_not_met_by_experts(self):
        (without, _), (found, _) = self.gradients(0, 0), self.gradients(0.5, 0)
        assert found.keys() == without.keys()
        for path, gradient in found.items():
            assert np.array_equal(gradient, without[path]), path
