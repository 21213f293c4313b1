"""What every router must do, checked for each file of `model/routers`."""

import mlx.core as mx
import pytest

from comigs_mlx import registry
from comigs_mlx.model.params import flatten
from comigs_mlx.model.routing import Choice

DIMS, BATCH, TOKENS = 16, 2, 5
CASES = [  # (experts, k, among)
    (1, 1, (0,)),
    (2, 2, (0, 1)),
    (2, 1, (0, 1)),
    (4, 2, (0, 1, 2, 3)),
    (4, 4, (0, 1, 2, 3)),
    (4, 1, (0, 1, 2, 3)),
    (5, 3, (0, 1, 2, 3, 4)),
    (5, 2, (1, 2, 4)),
    (5, 1, (2, 4)),
    (5, 1, (3,)),
    (5, 2, (0, 1)),
]


@pytest.fixture(params=registry.names("router"))
def router_class(request):
    return registry.load("router", request.param).Router


@pytest.fixture
def x():
    return mx.random.normal((BATCH, TOKENS, DIMS), key=mx.random.key(7))


def test_there_is_a_router_and_it_has_the_papers_name():
    assert "topk" in registry.names("router")


@pytest.mark.parametrize(("experts", "k", "among"), CASES)
class TestChoice:
    def choose(self, router_class, x, experts, k, among) -> Choice:
        return router_class(DIMS, experts, mx.random.key(3))(10 * x, k, among)

    def test_shapes_and_types(self, router_class, x, experts, k, among):
        choice = self.choose(router_class, x, experts, k, among)
        assert choice.weights.shape == (BATCH, TOKENS, k)
        assert choice.probabilities.shape == (BATCH, TOKENS, len(among))
        assert choice.weights.dtype == choice.probabilities.dtype == mx.float32
        assert choice.among == among
        if choice.slots is None:
            assert k == len(among)
        else:
            assert choice.slots.shape == (BATCH, TOKENS, k)

    def test_slots_are_different_experts_in_range(
        self, router_class, x, experts, k, among
    ):
        slots = self.choose(router_class, x, experts, k, among).slots
        for token in [] if slots is None else slots.reshape(-1, k).tolist():
            assert set(token) <= set(range(len(among)))
            assert len(set(token)) == k

    def test_weights_are_shares(self, router_class, x, experts, k, among):
        choice = self.choose(router_class, x, experts, k, among)
        assert choice.weights.min().item() >= 0
        sums = choice.weights.sum(-1)
        assert mx.allclose(choice.probabilities.sum(-1), mx.array(1.0), atol=1e-6)
        if k > 1:
            assert choice.normalised
        if choice.normalised:
            assert mx.allclose(sums, mx.array(1.0), atol=1e-6)
        else:
            assert sums.max().item() < 1 + 1e-6

    def test_routing_uses_k_experts_of_among_only(
        self, router_class, x, experts, k, among
    ):
        choice = self.choose(router_class, x, experts, k, among)
        routing = choice.routing(experts)
        others = [e for e in range(experts) if e not in among]
        for field in routing:
            assert field.shape == (BATCH, TOKENS, experts)
            assert not others or field[..., mx.array(others)].abs().max().item() == 0
        assert mx.array_equal((routing.weights > 0).sum(-1), mx.full((2, 5), k))
        assert mx.array_equal(routing.chosen, routing.weights > 0)
        if choice.slots is not None:
            slots = mx.array(among)[choice.slots]
            found = mx.take_along_axis(routing.weights, slots, axis=-1)
            assert mx.array_equal(found, choice.weights)

    def test_weights_of_several_experts_teach_the_gate(
        self, router_class, x, experts, k, among
    ):
        router = router_class(DIMS, experts, mx.random.key(3))

        def through_weights(values):
            router.update(values)
            weights = router(x, k, among).routing(experts).weights
            return (weights * mx.arange(1, experts + 1) ** 2).sum()

        gradients = flatten(mx.grad(through_weights)(router.trainable_parameters()))
        assert gradients
        for name, gradient in gradients.items():
            largest = gradient.abs().max().item()
            assert largest == 0 if len(among) == 1 else largest > 1e-4, name


def test_one_key_makes_one_router(router_class, x):
    """The same values for the same key, different ones for another."""
    first, again, other = (
        router_class(DIMS, 4, mx.random.key(seed)) for seed in (3, 3, 4)
    )
    values = [flatten(router.parameters()) for router in (first, again, other)]
    assert values[0]
    for name, array in values[0].items():
        assert mx.array_equal(array, values[1][name])
        assert not mx.array_equal(array, values[2][name])
    routed = first(x, 2, (0, 1, 2, 3)), again(x, 2, (0, 1, 2, 3))
    assert mx.array_equal(routed[0].weights, routed[1].weights)


def test_half_precision_input_is_routed_in_float32(router_class, x):
    router = router_class(DIMS, 4, mx.random.key(3))
    half = x.astype(mx.bfloat16)
    choice = router(half, 2, (0, 1, 2, 3))
    same = router(half.astype(mx.float32), 2, (0, 1, 2, 3))
    assert mx.array_equal(choice.weights, same.weights)


def test_a_compiled_router_decides_the_same(router_class, x):
    router = router_class(DIMS, 4, mx.random.key(3))

    def weights(x):
        return router(x, 2, (0, 1, 2, 3)).routing(4).weights

    assert mx.allclose(mx.compile(weights)(x), weights(x), atol=1e-6)
