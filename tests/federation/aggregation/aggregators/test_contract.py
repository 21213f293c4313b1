"""What every aggregator must do, for each file of `aggregation/aggregators`."""

import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tests.federation.sharing as sharing
from comigs_mlx import registry
from comigs_mlx.errors import FederationError
from comigs_mlx.federation.aggregation import aggregate
from comigs_mlx.federation.aggregation.aggregate import Option, Update
from comigs_mlx.federation.formats.tensor_source import Arrays

NAMES = registry.names("aggregator")
KEEPS_STATE = [n for n in NAMES if hasattr(registry.load("aggregator", n), "init")]
ANY_RANK = [n for n in NAMES if registry.load("aggregator", n).HANDLES_RANKS]
CURRENT = sharing.tensors(generalists=2)
PEOPLE = ("ann", "bob", "cy", "dee", "eve", "fay", "gus")


def result(name, given, current=CURRENT, **options):
    made = aggregate.aggregate(name, given, Arrays("", current), options)
    return dict(made.shared)


def group(count=7, size=0.1, names=PEOPLE):
    return [
        Arrays(names[i], sharing.moved(CURRENT, i, size), 100 * (i + 1))
        for i in range(count)
    ]


def far(one, other):
    """Length of the difference of the products, all linears together."""
    one, other = sharing.products(one), sharing.products(other)
    return sum(((one[name] - other[name]) ** 2).sum() for name in one) ** 0.5


def test_there_are_aggregators_and_one_is_the_papers():
    assert {"mean", "tokens", "svd", "median", "trimmed_mean"} <= set(NAMES)
    assert {"multi_krum", "clipped_mean"} <= set(NAMES)


@pytest.mark.parametrize("name", NAMES)
class TestAggregator:
    def test_it_describes_itself(self, name):
        plugin = registry.load("aggregator", name)
        assert 10 < len(plugin.SUMMARY) < 88
        assert "\n" not in plugin.SUMMARY
        if "withstands" in plugin.SUMMARY:  # one or two have no majority
            assert re.search(r", from (three|four) on$", plugin.SUMMARY)
        assert isinstance(plugin.HANDLES_RANKS, bool)
        assert isinstance(plugin.ROBUST, bool)
        for option in plugin.OPTIONS.values():
            assert isinstance(option, Option)
            assert option.low <= option.default <= option.high
        assert len(plugin.__doc__.splitlines()) > 5
        assert "<-" in plugin.__doc__ or "->" in plugin.__doc__

    @pytest.mark.parametrize("count", [1, 2, 3, 6, 7])
    def test_names_shapes_types_and_shares(self, name, count):
        given, current = group(count), Arrays("", CURRENT)
        made = aggregate.aggregate(name, given, current)
        assert isinstance(made, Update)
        found = dict(made.shared)
        assert found.keys() == CURRENT.keys()
        for key, array in found.items():
            assert array.shape == CURRENT[key].shape
            assert array.dtype == np.float32
            assert np.isfinite(array).all()
        if made.weights:
            assert made.weights.keys() == {source.name for source in given}
            assert sum(made.weights.values()) == pytest.approx(1)
            assert min(made.weights.values()) >= 0

    def test_equal_contributions_keep_what_they_mean(self, name):
        if name in KEEPS_STATE:
            pytest.skip("its step is its own; see TestState")
        values = sharing.moved(CURRENT, 4)
        for count in (1, 2, 5):
            equal = [Arrays(PEOPLE[i], values, 10) for i in range(count)]
            found = sharing.products(result(name, equal))
            for linear, product in sharing.products(values).items():
                assert np.allclose(found[linear], product, atol=2e-6)

    def test_no_change_is_no_change(self, name):
        same = [Arrays(person, CURRENT, 10) for person in PEOPLE]
        assert far(result(name, same), CURRENT) < 1e-5

    def test_the_order_of_participants_changes_no_bit(self, name):
        given = group()
        first = result(name, given)
        for order in ([6, 5, 4, 3, 2, 1, 0], [3, 0, 6, 1, 5, 2, 4]):
            again = result(name, [given[i] for i in order])
            assert all(np.array_equal(again[key], first[key]) for key in first)

    def test_their_names_change_nothing(self, name):
        first = result(name, group())
        renamed = result(name, group(names=PEOPLE[::-1]))
        assert far(first, renamed) < 1e-5

    def test_inputs_are_left_alone(self, name):
        given = group()
        before = [{k: v.copy() for k, v in s.tensors.items()} for s in given]
        for source in given:
            for array in source.tensors.values():
                array.flags.writeable = False
        found = result(name, given)
        assert not any(
            np.shares_memory(array, source.tensors[key])
            for key, array in found.items()
            for source in given
        )
        for source, copy in zip(given, before, strict=True):
            assert all(np.array_equal(source.tensors[k], copy[k]) for k in copy)

    def test_one_poisoned_of_seven(self, name):
        """Sign-flipped and 100 times as long: the robust ones hardly notice."""
        given = group()
        honest = result("mean", given[:6])
        spread = np.median([far(source.tensors, honest) for source in given[:6]])
        poison = {
            key: start - 100 * (given[6].tensors[key] - start)
            for key, start in CURRENT.items()
        }
        moved = far(result(name, [*given[:6], Arrays("gus", poison, 700)]), honest)
        if registry.load("aggregator", name).ROBUST:
            assert moved < spread
        elif name not in KEEPS_STATE:
            assert moved > 5 * spread

    def test_before_anything_is_learnt_it_stays_able_to_learn(self, name):
        """lora_b = 0 with lora_a = 0 too would have no gradient for ever."""
        start = sharing.tensors(zero_b=True)
        people = [Arrays(person, start, 1) for person in PEOPLE]
        found = result(name, people, start)
        for key, array in found.items():
            if key.endswith(".lora_a"):
                assert (np.abs(array).max(axis=0) > 1e-3).all()
            else:
                assert (array == 0).all()

    def test_an_option_it_does_not_have_is_refused(self, name):
        with pytest.raises(FederationError, match=f"{name} has no option"):
            result(name, group(2), magic=1)

    def test_options_at_their_limits_work(self, name):
        for key, option in registry.load("aggregator", name).OPTIONS.items():
            for value in (option.low, option.high, option.default):
                assert result(name, group(4), **{key: value}).keys() == CURRENT.keys()
            with pytest.raises(FederationError, match=f"{name}: {key} "):
                result(name, group(4), **{key: option.high * 2 + 1})


@pytest.mark.parametrize("name", NAMES)
class TestState:
    """What an aggregator remembers; one without `init` remembers nothing."""

    def played(self, name, rounds):
        """Shared tensors and state after each of some rounds."""
        current, state, found = CURRENT, None, []
        for number in range(rounds):
            given = [
                Arrays(person, sharing.moved(current, 10 * number + i), i + 1)
                for i, person in enumerate(PEOPLE)
            ]
            made = aggregate.aggregate(name, given, Arrays("", current), state=state)
            current, state = dict(made.shared), made.state
            found.append((given, current, state))
        return found

    def test_it_keeps_its_names_and_shapes_and_is_finite(self, name):
        first = aggregate.initial(name, Arrays("", CURRENT))
        assert bool(first) == (name in KEEPS_STATE)
        for _, _, state in self.played(name, 3):
            assert {k: a.shape for k, a in state.items()} == {
                k: a.shape for k, a in first.items()
            }
            for array in [*state.values(), *first.values()]:
                assert array.dtype == np.float32
                assert np.isfinite(array).all()

    def test_from_the_same_state_it_computes_the_same_bits(self, name):
        rounds = self.played(name, 3)
        (_, start, state), (given, shared, after) = rounds[1:]
        copies = {k: a.copy() for k, a in state.items()}
        for array in copies.values():
            array.flags.writeable = False
        made = aggregate.aggregate(name, given, Arrays("", start), state=copies)
        again = dict(made.shared)
        assert all(np.array_equal(again[k], shared[k]) for k in shared)
        assert all(np.array_equal(made.state[k], after[k]) for k in after)

    def test_the_first_step_goes_where_the_contributions_went(self, name):
        (given, shared, _) = self.played(name, 1)[0]
        step = sharing.vector(shared) - sharing.vector(CURRENT)
        mean = np.mean([sharing.vector(s.tensors) for s in given], axis=0)
        if name not in ANY_RANK:  # factors made anew are no step from the old ones
            assert step @ (mean - sharing.vector(CURRENT)) > 0

    def test_it_makes_a_difference_only_where_there_is_one(self, name):
        given, start = self.played(name, 2)[1][0], self.played(name, 1)[0][1]
        fresh = result(name, given, start)
        late = self.played(name, 2)[1][1]
        same = all(np.array_equal(fresh[key], late[key]) for key in fresh)
        assert same == (name not in KEEPS_STATE)


@pytest.mark.parametrize("name", ANY_RANK)
def test_other_ranks_come_back_as_the_federations(name):
    people = [
        Arrays(PEOPLE[i], sharing.tensors(i, rank, 2)) for i, rank in enumerate((1, 3))
    ]
    found = result(name, people)
    wanted = {key: array.shape for key, array in CURRENT.items()}
    assert {key: array.shape for key, array in found.items()} == wanted


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from([name for name in NAMES if name not in KEEPS_STATE]),
    st.integers(1, 9),
    st.integers(0, 10**6),
    st.sampled_from([1e-6, 1e-2, 1.0, 1e3]),
)
def test_any_group_keeps_within_what_was_sent(name, count, seed, size):
    """No number, or no product, lies beyond what participants and start span."""
    random = np.random.default_rng(seed)
    current = {
        "x.lora_a": random.normal(size=(4, 2)).astype(np.float32),
        "x.lora_b": random.normal(size=(2, 3)).astype(np.float32),
    }
    people = [
        Arrays(
            f"p{i}",
            {
                key: (start + size * random.normal(size=start.shape)).astype(np.float32)
                for key, start in current.items()
            },
            int(random.integers(0, 1000)),
        )
        for i in range(count)
    ]
    found = result(name, people, current)
    longest = max(np.linalg.norm(sharing.products(p.tensors)["x"]) for p in people)
    parts = [np.stack([p.tensors[key] for p in people]) for key in current]
    if registry.load("aggregator", name).HANDLES_RANKS:
        assert np.linalg.norm(sharing.products(found)["x"]) <= longest * (1 + 1e-5)
        return
    for key, values in zip(current, parts, strict=True):
        values = np.concatenate([values, current[key][None]])
        slack = 1e-6 * np.abs(values).max()
        assert (found[key] >= values.min(axis=0) - slack).all()
        assert (found[key] <= values.max(axis=0) + slack).all()


@pytest.mark.parametrize("name", NAMES)
def test_a_round_needs_contributions_of_different_participants(name):
    with pytest.raises(FederationError, match="the round has no contribution"):
        result(name, [])
    with pytest.raises(FederationError, match="contributes twice"):
        result(name, [*group(2), group(1)[0]])
