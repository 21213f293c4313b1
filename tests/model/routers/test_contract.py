"""What every router must do, checked for each file of `model/routers`."""

import mlx.core as mx
import numpy as np
import pytest
from mlx_lm.models.cache import make_prompt_cache

import tests.model.families as families
from comigs_mlx import registry
from comigs_mlx.data.batches import Batch
from comigs_mlx.model import params
from comigs_mlx.model.gradient_checkpointing import recompute_blocks
from comigs_mlx.model.mixture import Mixture
from comigs_mlx.model.routers import router_kind
from comigs_mlx.model.routing import Ask
from comigs_mlx.options import ExpertOptions, TrainingOptions
from comigs_mlx.training.level import Level, expert_group, router_group
from tests.model.naive import randomise

DIMS, BATCH, TOKENS = 16, 2, 5
CASES = [  # (experts, k, among)
    (2, 2, (0, 1)),
    (2, 1, (0, 1)),
    (4, 2, (0, 1, 2, 3)),
    (4, 4, (0, 1, 2, 3)),
    (4, 1, (0, 1, 2, 3)),
    (5, 3, (0, 1, 2, 3, 4)),
    (5, 2, (1, 2, 4)),
    (5, 1, (2, 4)),
    (5, 2, (0, 1)),
]
FOUR = (0, 1, 2, 3)
ROUTERS = registry.names("router")
IDS = mx.random.randint(0, 60, (2, 12), key=mx.random.key(0))
LEARNING = TrainingOptions(learning_rate=0.05, balance_weight=0.0)


class Stack:
    """The routers of three blocks, and what they choose one after the other."""

    def __init__(self, name, experts, seed=3, std=0.5):
        self.kind, self.experts = router_kind(name), experts
        keys = mx.random.split(mx.random.key(seed), 3)
        self.routers = [
            self.kind.make(layer == 0, DIMS, experts, key)
            for layer, key in enumerate(keys)
        ]
        if std:
            for layer, router in enumerate(self.routers):
                flat = params.flatten(router.parameters())
                keys = mx.random.split(mx.random.key(layer), max(len(flat), 1))
                noisy = {
                    path: array + std * mx.random.normal(array.shape, key=key)
                    for (path, array), key in zip(flat.items(), keys, strict=False)
                }
                router.update(params.unflatten(noisy))

    def choices(self, x, k, among, **asked):
        """The choice of each block for `x + layer`; each hands its carry on."""
        choices, carry = [], ()
        noise = asked.pop("noise", None)
        for layer, router in enumerate(self.routers):
            draw = None if noise is None else noise[:, :, layer]
            ask = Ask(k, among, noise=draw, carry=carry, **asked)
            choices.append(router(x + layer, ask))
            carry = choices[-1].carry
        return choices

    def weights(self, x, k, among, **asked):
        """`[layers, batch, tokens, E]`."""
        choices = self.choices(x, k, among, **asked)
        return mx.stack([choice.routing(self.experts).weights for choice in choices])


@pytest.fixture(params=ROUTERS)
def name(request):
    return request.param


@pytest.fixture
def x():
    return mx.random.normal((BATCH, TOKENS, DIMS), key=mx.random.key(7))


def noise_of(experts, seed=0, tokens=TOKENS):
    shape = (BATCH, tokens, 3, experts)
    return mx.random.uniform(shape=shape, key=mx.random.key(seed))


def test_there_is_a_router_and_it_has_the_papers_name():
    assert "topk" in ROUTERS


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize(("experts", "k", "among"), CASES)
class TestChoice:
    @pytest.fixture
    def choices(self, name, x, experts, k, among, training):
        asked = {"training": True, "noise": noise_of(experts)} if training else {}
        return Stack(name, experts).choices(3 * x, k, among, **asked)

    def test_shapes_and_types(self, choices, k, among):
        for choice in choices:
            assert choice.weights.shape == (BATCH, TOKENS, k)
            assert choice.probabilities.shape == (BATCH, TOKENS, len(among))
            assert choice.weights.dtype == choice.probabilities.dtype == mx.float32
            assert choice.among == among
            if choice.slots is None:
                assert k == len(among)
            else:
                assert choice.slots.shape == (BATCH, TOKENS, k)

    def test_slots_are_different_experts_in_range(self, choices, k, among):
        for choice in choices:
            slots = choice.slots
            for token in [] if slots is None else slots.reshape(-1, k).tolist():
                assert set(token) <= set(range(len(among)))
                assert len(set(token)) == k

    def test_weights_are_shares(self, choices):
        for choice in choices:
            assert choice.weights.min().item() >= 0
            sums = choice.weights.sum(-1)
            total = choice.probabilities.sum(-1)
            assert mx.allclose(total, mx.array(1.0), atol=1e-6)
            if choice.normalised:
                assert mx.allclose(sums, mx.array(1.0), atol=1e-6)
            else:
                assert sums.max().item() <= 1 + 1e-6

    def test_routing_uses_at_most_k_experts_of_among(self, choices, experts, k, among):
        others = [e for e in range(experts) if e not in among]
        for choice in choices:
            routing = choice.routing(experts)
            for field in routing[:3]:
                assert field.shape == (BATCH, TOKENS, experts)
                foreign = field[..., mx.array(others, mx.int32)] if others else None
                assert foreign is None or foreign.abs().max().item() == 0
            assert (routing.weights > 0).sum(-1).max().item() <= k
            assert mx.array_equal(routing.chosen, routing.weights > 0)

    def test_a_penalty_is_a_number_for_each_token(self, choices, training):
        for choice in choices:
            assert choice.penalty is None or training
            if choice.penalty is not None:
                assert choice.penalty.shape == (BATCH, TOKENS)
                assert mx.isfinite(choice.penalty).all().item()


class TestUse:
    """Local and causal: chunks, caches and batches cannot change a result."""

    @pytest.mark.parametrize("k", [1, 2, 4])
    def test_a_token_is_routed_by_itself(self, name, x, k):
        stack = Stack(name, 4)
        whole = stack.weights(x, k, FOUR)
        for t in range(TOKENS):
            alone = stack.weights(x[:, t : t + 1], k, FOUR)
            assert mx.allclose(alone, whole[:, :, t : t + 1], atol=1e-6)
        row = stack.weights(x[1:], k, FOUR)
        assert mx.allclose(row, whole[:, 1:], atol=1e-6)

    def test_noise_is_of_no_effect(self, name, x):
        stack = Stack(name, 4)
        noisy = stack.weights(x, 2, FOUR, noise=noise_of(4))
        assert mx.array_equal(noisy, stack.weights(x, 2, FOUR))

    def test_restricted_is_the_mixture_of_those_alone(self, name, x):
        """Whatever other experts there are: the restricted choice does not see them."""
        stack, among = Stack(name, 4), (1, 3)
        before = stack.weights(x, 2, among)
        tilt = mx.array([50.0, 0.0, -50.0, 0.0])
        assert mx.allclose(stack.weights(x, 2, among, tilt=tilt), before, atol=1e-6)


class TestTilt:
    @pytest.mark.parametrize("k", [1, 2, 4])
    def test_zero_is_none_bit_for_bit(self, name, x, k):
        stack = Stack(name, 4)
        tilted = stack.weights(x, k, FOUR, tilt=mx.zeros(4))
        assert mx.array_equal(tilted, stack.weights(x, k, FOUR))

    def test_a_large_one_is_that_expert_alone(self, name, x):
        weights = Stack(name, 4).weights(x, 2, FOUR, tilt=mx.array([0, 0, 1e6, 0.0]))
        assert mx.allclose(weights, mx.array([0, 0, 1.0, 0]), atol=1e-4)

    def test_more_of_an_expert_is_never_less(self, name, x):
        stack = Stack(name, 4)
        shares = [
            stack.weights(x, 4, FOUR, tilt=mx.array([0, t, 0.0, 0]))[..., 1].mean()
            for t in (-1.0, 0.0, 1.0)
        ]
        low, middle, high = (share.item() for share in shares)
        assert low < middle < high


class TestTraining:
    def test_the_same_noise_is_the_same_choice(self, name, x):
        stack = Stack(name, 4)
        first, again = (
            stack.weights(x, 2, FOUR, training=True, noise=noise_of(4, 5))
            for _ in range(2)
        )
        assert mx.array_equal(first, again)

    def test_who_wants_noise_uses_it(self, name, x):
        stack = Stack(name, 4)
        draws = [
            stack.weights(x, 2, FOUR, training=True, noise=noise_of(4, seed))
            for seed in range(12)
        ]
        differ = any(not mx.array_equal(draws[0], draw) for draw in draws)
        assert differ == stack.kind.noise

    def test_every_parameter_learns_through_the_last_block(self, name, x):
        """Those of the block itself, and those that it shares with others."""
        stack = Stack(name, 4)
        loss = weighing(stack, x)
        for layer, router in enumerate(stack.routers):
            if not (values := router.trainable_parameters()):
                continue
            flat = params.flatten(mx.grad(loss(layer))(values))
            for path, gradient in flat.items():
                assert gradient.abs().max().item() > 1e-6, (layer, path)


def weighing(stack, x):
    """(layer) -> a loss of that block's parameters that sees all blocks' weights."""

    def of(layer):
        def loss(values):
            stack.routers[layer].update(values)
            weights = stack.weights(x, 3, FOUR, training=True)
            penalties = [
                choice.penalty.sum()
                for choice in stack.choices(x, 3, FOUR, training=True)
                if choice.penalty is not None
            ]
            return (weights * mx.arange(1, 5) ** 2).sum() + sum(penalties)

        return loss

    return of


def test_one_key_makes_one_router(name, x):
    """The same values for the same key; drawn ones are others for another key."""
    values = [
        {
            f"{layer}.{path}": array
            for layer, router in enumerate(Stack(name, 4, seed, 0).routers)
            for path, array in params.flatten(router.parameters()).items()
        }
        for seed in (3, 3, 4)
    ]
    assert values[0]
    for path, array in values[0].items():
        assert array.dtype == mx.float32
        assert mx.array_equal(array, values[1][path])
        if array.max().item() > array.min().item():
            assert not mx.array_equal(array, values[2][path])


def test_half_precision_input_is_routed_in_float32(name, x):
    stack, half = Stack(name, 4), x.astype(mx.bfloat16)
    ask = Ask(2, FOUR)
    choice = stack.routers[0](half, ask)
    same = stack.routers[0](half.astype(mx.float32), ask)
    assert mx.array_equal(choice.weights, same.weights)


def test_a_compiled_router_decides_the_same(name, x):
    stack = Stack(name, 4)
    compiled = mx.compile(lambda x: stack.weights(x, 2, FOUR))
    assert mx.allclose(compiled(x), stack.weights(x, 2, FOUR), atol=1e-6)


SHAPES = [  # (generalists, specialists, k)
    (1, 1, 2),
    (1, 1, 1),
    (2, 2, 1),
    (2, 2, 3),
]


@pytest.mark.parametrize(("generalists", "specialists", "k"), SHAPES)
def test_fresh_experts_change_nothing(name, generalists, specialists, k):
    """Every router, every k, every selection: the model computes what it did."""
    model = families.build("gpt2")  # its linears have biases
    expected = model(IDS)
    options = ExpertOptions(generalists, specialists, k, router_type=name)
    mixture = Mixture(model, options)
    routers = params.flatten(params.select(model, params.ROUTERS))
    loud = {path: array + 0.3 for path, array in routers.items()}
    model.update(params.unflatten(loud))
    fixed = (0.3, *[0.0] * (options.experts - 2), 0.4)
    for selection in ("auto", "generalist", "specialist", fixed):
        with mixture.selected(selection):
            assert mx.allclose(mixture(IDS)[0], expected, atol=2e-5), selection
    mixture.detach()


@pytest.fixture
def attached(name):
    """(options) -> a mixture of this router with random experts on a small model."""
    made = []

    def attach(**options):
        mixture = Mixture(
            families.build("llama"),
            ExpertOptions(
                **{"specialists": 3, "top_k": 2, "router_type": name, **options}
            ),
        )
        randomise(mixture.model, std=0.2)
        made.append(mixture)
        return mixture

    return attach


def test_chunks_and_cache_are_the_whole(attached):
    mixture = attached()
    logits, routing = mixture(IDS)
    cache = make_prompt_cache(mixture.model)
    parts = [mixture(IDS[:, a:b], cache=cache) for a, b in ((0, 5), (5, 6), (6, 12))]
    assert mx.allclose(mx.concatenate([p[0] for p in parts], 1), logits, atol=1e-4)
    weights = mx.concatenate([p[1].weights for p in parts], axis=2)
    assert mx.allclose(weights, routing.weights, atol=1e-5)


def batch(seed=0, rows=2, tokens=9):
    made = mx.random.randint(0, 60, (rows, tokens), key=mx.random.key(seed))
    ones = np.ones((rows, tokens - 1), np.float32)
    return Batch(np.array(made, np.int32), ones, np.zeros_like(ones, np.int32))


def levels(mixture):
    return (
        Level(mixture, [expert_group(LEARNING)], LEARNING),
        Level(mixture, [router_group(LEARNING)], LEARNING),
    )


def values_of(mixture):
    return params.flatten(params.select(mixture.model, params.ROLES))


def counting(function, calls):
    return lambda *given: calls.append(1) or function(*given)


@pytest.mark.parametrize("options", [{}, {"top_k": 1}, {"specialists": 1}])
def test_checkpointed_gradients_are_the_same(attached, options):
    """Both levels: an array that a block captured would get none at all."""
    plain, checkpointed = attached(**options), attached(**options)
    recompute_blocks(checkpointed)
    for index in range(2):
        gradients = []
        for mixture in (plain, checkpointed):
            level = levels(mixture)[index]
            trained, others = params.select_by(mixture.model, level.trains), {}
            inputs = (None, level._inputs(batch(), 0, 0))
            gradients.append(
                params.flatten(level._gradients(trained, others, *inputs)[0])
            )
        assert gradients[0].keys() == gradients[1].keys()
        for path, gradient in gradients[0].items():
            other = gradients[1][path]
            scale = max(gradient.abs().max().item(), 1e-6)
            assert (gradient - other).abs().max().item() < 1e-3 * scale, path


def test_a_level_changes_its_own_and_never_retraces(attached):
    mixture = attached()
    for level, role in zip(levels(mixture), ("expert", "router"), strict=True):
        before, traces = dict(values_of(mixture)), []
        level._objective = counting(level._objective, traces)
        for number in range(3):
            assert level.step([batch(number)], number).finite
        assert len(traces) == 1
        for path, array in values_of(mixture).items():
            mine = (params.role_of(path) == "router") == (role == "router")
            if not mine:
                assert mx.array_equal(array, before[path]), path
        assert any(
            not mx.array_equal(array, before[path])
            for path, array in values_of(mixture).items()
        )


def test_padding_does_not_matter(attached):
    """Rows that only fill the batch change no gradient of the others."""
    mixture = attached()
    one = batch(rows=1)
    other, nothing = one.tokens[:, ::-1], np.zeros_like(one.mask)
    filled = Batch(
        np.concatenate([one.tokens, other]),
        np.concatenate([one.mask, nothing]),
        np.zeros((2, 8), np.int32),
    )
    results = []
    for each in (one, filled):
        level = levels(mixture)[1]
        inputs = level._inputs(each, 0, 0)
        inputs.pop("key", None)  # the noise of another shape is another
        trained = params.select_by(mixture.model, level.trains)
        results.append(params.flatten(level._gradients(trained, {}, None, inputs)[0]))
    for path, gradient in results[0].items():
        assert mx.allclose(gradient, results[1][path], atol=1e-5), path
