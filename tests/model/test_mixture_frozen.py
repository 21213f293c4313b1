"""While values stay as they are: the same results, made of what was kept."""

import mlx.core as mx
import pytest
from mlx_lm.models.cache import make_prompt_cache

import tests.model.families as families
from comigs_mlx.model import params
from comigs_mlx.model.mixture import Mixture
from comigs_mlx.options import ExpertOptions
from comigs_mlx.training.evaluation import Evaluator
from tests.graph import Graph
from tests.model.naive import randomise
from tests.training.setting import batch_of

TOKENS = mx.random.randint(0, 60, (2, 7), key=mx.random.key(0))
SHAPES = {
    "k=E": ExpertOptions(rank=2, specialists=2, top_k=3),
    "k<E": ExpertOptions(rank=2, specialists=2, top_k=2),
    "k=1": ExpertOptions(rank=2, specialists=2, top_k=1),
}
SELECTIONS = ["auto", "generalist", "specialist", "base"]
SELECTIONS += [(0.2, 0.5, 0.3), (0.7, 0.0, 0.1), (0.0, 2.0, 0.0)]


def mixture_of(shape="k<E", family="llama", bits=None):
    mixture = Mixture(families.build(family, bits), SHAPES[shape])
    randomise(mixture.model)
    return mixture


@pytest.fixture(params=SHAPES)
def mixture(request):
    return mixture_of(request.param)


def logits_of(mixture, selection="auto", tokens=TOKENS):
    with mixture.selected(selection):
        logits, _ = mixture(tokens)
    mx.eval(logits)
    return logits


def values(mixture, *roles):
    return params.flatten(params.select(mixture.model, roles or params.ROLES))


class TestResults:
    @pytest.mark.parametrize(
        ("family", "bits"), [("llama", None), ("llama", 4), ("gpt2", None)]
    )
    @pytest.mark.parametrize("shape", SHAPES)
    def test_are_those_outside_in_any_order_of_selections(self, shape, family, bits):
        """Twice each: what is kept for the one is not taken for the other."""
        mixture = mixture_of(shape, family, bits)
        expected = [logits_of(mixture, selection) for selection in SELECTIONS]
        assert not mx.array_equal(expected[4], expected[5])
        with mixture.frozen():
            found = [logits_of(mixture, s) for s in SELECTIONS + SELECTIONS[::-1]]
        for mine, theirs in zip(found, expected + expected[::-1], strict=True):
            assert mx.array_equal(mine, theirs)

    def test_of_one_token_after_the_other(self, mixture):
        """As text is generated: a prompt, then single tokens on top of a cache."""

        def spoken():
            cache = make_prompt_cache(mixture.model)
            parts = [TOKENS[:1, :4], *(TOKENS[:1, i : i + 1] for i in range(4, 7))]
            return [mixture(part, cache)[0] for part in parts]

        expected = spoken()
        with mixture.frozen():
            found = spoken()
        assert all(map(mx.array_equal, found, expected))

    def test_routing_is_the_same(self, mixture):
        _, expected = mixture(TOKENS)
        with mixture.frozen():
            routings = [mixture(TOKENS)[1] for _ in range(2)]
        for routing in routings:
            assert all(map(mx.array_equal, routing.arrays(), expected.arrays()))


class TestNewValues:
    """Put in the place of the old ones, as every update does."""

    @pytest.mark.parametrize("tokens", [TOKENS, TOKENS[:1, :1]], ids=["many", "one"])
    @pytest.mark.parametrize("selection", ["auto", "specialist", (0.7, 0.0, 0.1)])
    def test_of_any_one_parameter_are_seen_at_once(self, mixture, selection, tokens):
        for path, array in values(mixture).items():
            with mixture.frozen():
                logits_of(mixture, selection, tokens)
                mixture.model.update(params.unflatten({path: array + 0.3}))
                found = logits_of(mixture, selection, tokens)
            expected = logits_of(mixture, selection, tokens)
            assert mx.array_equal(found, expected), path

    def test_of_any_one_parameter_matter(self):
        """What the test above relies on, where all experts are used."""
        mixture = mixture_of("k=E")
        before = logits_of(mixture)
        for path, array in values(mixture).items():
            mixture.model.update(params.unflatten({path: array + 0.3}))
            assert not mx.array_equal(logits_of(mixture), before), path
            mixture.model.update(params.unflatten({path: array}))

    def test_are_seen_by_what_begins_after_them(self, mixture):
        with mixture.frozen():
            before = logits_of(mixture)
        randomise(mixture.model, seed=2)
        with mixture.frozen():
            found = logits_of(mixture)
        assert not mx.array_equal(found, before)
        assert mx.array_equal(found, logits_of(mixture))

    def test_are_seen_by_the_body_inside(self, mixture):
        with mixture.frozen():
            before, _ = mixture.body(TOKENS)
            randomise(mixture.model, seed=2)
            found, _ = mixture.body(TOKENS)
        assert not mx.array_equal(found, before)
        assert mx.array_equal(found, mixture.body(TOKENS)[0])

    def test_are_seen_by_an_evaluator_inside(self, mixture):
        batch, evaluator = batch_of(0), Evaluator(mixture)
        before = evaluator.score([batch]).loss
        with mixture.frozen():
            assert evaluator.score([batch]).loss == before
            logits_of(mixture)
            randomise(mixture.model, seed=2)
            found = evaluator.score([batch]).loss
        assert found != before
        assert found == Evaluator(mixture).score([batch]).loss

    def test_of_a_moment_are_seen_and_the_old_ones_again(self, mixture):
        """As where another participant's experts are swapped in, and out again."""
        mine = values(mixture)
        with mixture.frozen():
            before = logits_of(mixture)
            other = randomise(mixture.model, seed=2)
            after = logits_of(mixture)
            mixture.model.update(params.unflatten(mine))
            assert mx.array_equal(logits_of(mixture), before)
            mixture.model.update(params.unflatten(other))
            assert mx.array_equal(logits_of(mixture), after)


def keeps(mixture, run=None):
    """Whether, the second time, nothing is done to any B any more."""
    run = run or (lambda: mixture(TOKENS)[0])
    mx.eval(run())
    leaves = {p: a for p, a in values(mixture).items() if p.endswith("lora_b")}
    graph = Graph(run(), leaves)
    read = [path for path in leaves if graph.reads(path)]
    assert len(read) in (0, len(leaves))
    return not read


class TestNesting:
    def test_nothing_is_kept_outside(self, mixture):
        assert not keeps(mixture)

    def test_ends_with_the_outermost(self, mixture):
        with mixture.frozen():
            with mixture.frozen():
                assert keeps(mixture)
            assert keeps(mixture)
        assert not keeps(mixture)

    def test_can_be_lifted_for_a_while(self, mixture):
        with mixture.frozen():
            with mixture.frozen(False):
                assert not keeps(mixture)
            assert keeps(mixture)
        assert not keeps(mixture)

    def test_ends_with_an_exception(self, mixture):
        with pytest.raises(ZeroDivisionError), mixture.frozen():
            raise ZeroDivisionError
        assert not keeps(mixture)

    def test_body_keeps_nothing_and_leaves_it_as_it_was(self, mixture):
        with mixture.frozen():
            assert not keeps(mixture, lambda: mixture.body(TOKENS)[0])
            assert keeps(mixture)
        mixture.body(TOKENS)
        assert not keeps(mixture)

    def test_is_one_mixtures_own(self, mixture):
        other = mixture_of()
        with mixture.frozen():
            assert not keeps(other)
            assert keeps(mixture)

    @pytest.mark.parametrize("selection", SELECTIONS[:3])
    def test_holds_for_every_selection(self, mixture, selection):
        with mixture.frozen(), mixture.selected(selection):
            assert keeps(mixture)


def test_nothing_is_left_after_the_next_call():
    """Of A side by side and scale * B; in MLX's own count of bytes."""
    mixture = mixture_of()
    logits_of(mixture)
    before = mx.get_active_memory()
    with mixture.frozen():
        logits_of(mixture)
        kept = mx.get_active_memory() - before
    logits_of(mixture)
    b = sum(a.nbytes for path, a in values(mixture).items() if path.endswith("lora_b"))
    assert kept >= b
    assert mx.get_active_memory() <= before + b // 10
