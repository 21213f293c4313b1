"""Oracle gap and routing divergence, on numbers that can be checked by hand."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from comigs_mlx.reports.divergence import by_side, divergence
from comigs_mlx.reports.divergence import sentences as told_of_divergence
from comigs_mlx.reports.oracle import oracle_gap, sentences

G = np.array([1.0, 2.0, 3.0, 0.50])
S = np.array([2.0, 1.0, 3.05, 0.40])
MIXTURE = np.array([1.2, 1.1, 3.0, 0.45])
WEIGHTS = np.array([[0.7, 0.3], [0.6, 0.4], [0.1, 0.9], [0.9, 0.1]])


def gap(mixture=MIXTURE, experts=None, sides=(G, S), weights=WEIGHTS, generalists=1):
    experts = {"generalist": G, "specialist": S} if experts is None else experts
    return oracle_gap(mixture, experts, sides, weights, generalists)


class TestOracleGap:
    def test_is_the_mean_of_the_smallest_losses(self):
        found = gap()
        assert found.oracle == pytest.approx((1.0 + 1.0 + 3.0 + 0.4) / 4)
        assert found.mixture == pytest.approx((1.2 + 1.1 + 3.0 + 0.45) / 4)
        assert found.regret == pytest.approx((0.2 + 0.1 + 0.0 + 0.05) / 4)
        assert found.experts["generalist"] == pytest.approx(6.5 / 4)
        assert found.experts["specialist"] == pytest.approx(6.45 / 4)
        assert found.best_on == {"generalist": 0.5, "specialist": 0.5}

    def test_agreement_counts_only_tokens_on_which_the_sides_differ(self):
        """Tokens 0 (right) and 1 (wrong) differ by 1 nat, 2 by 0.05, 3 by 0.1."""
        found = gap()
        assert found.decided == 2
        assert found.agreement == 0.5

    def test_the_router_is_right_where_the_better_side_weighs_more(self):
        """All on the generalist, which is better on two tokens of three."""
        generalist, specialist = np.array([1.0, 2, 1]), np.array([2.0, 1, 3])
        experts = {"generalist": generalist, "specialist": specialist}
        sides, weights = (generalist, specialist), np.tile([0.6, 0.4], (3, 1))
        found = gap(generalist, experts, sides, weights)
        assert found.agreement == pytest.approx(2 / 3)
        turned = gap(generalist, experts, sides, weights[:, ::-1])
        assert turned.agreement == pytest.approx(1 / 3)

    def test_equal_weights_are_no_agreement(self):
        assert gap(weights=np.full((4, 2), 0.5)).agreement == 0.0

    def test_of_several_experts_the_sides_are_sums(self):
        """Two specialists of 0.3 each outweigh a generalist of 0.4."""
        weights = np.tile([0.4, 0.3, 0.3], (4, 1))
        experts = {"generalist": G, "specialist": S, "specialist-1": S + 1}
        assert gap(experts=experts, weights=weights).agreement == 0.5
        two = gap(experts=experts, weights=weights, generalists=2)
        assert two.agreement == 0.5  # 0.7 for generalists: right on token 0 alone

    def test_where_the_sides_agree_nothing_is_decided(self):
        found = gap(sides=(G, G + 0.09))
        assert (found.decided, found.agreement) == (0, None)
        assert "no token shows" in " ".join(sentences(found))

    def test_without_a_side_nothing_is_decided(self):
        assert gap(sides=None).agreement is None

    def test_a_mixture_can_be_better_than_the_oracle(self):
        found = gap(mixture=np.full(4, 0.3))
        assert found.regret < 0
        told = " ".join(sentences(found))
        assert f"a regret of {found.regret:+.4f}" in told
        assert "oracle is one over selections" in told
        assert "regret negative" in told

    @given(arrays(np.float64, (3, 7), elements=st.floats(0, 20)))
    def test_is_at_most_the_loss_of_each_expert(self, losses):
        experts = {str(e): each for e, each in enumerate(losses)}
        weights = np.full((7, 3), 1 / 3)
        found = gap(losses.mean(0), experts, (losses[0], losses[1]), weights)
        for loss in found.experts.values():
            assert found.oracle <= loss + 1e-12
        assert math.fsum(found.best_on.values()) == pytest.approx(1)
        assert found.regret == pytest.approx(found.mixture - found.oracle)
        assert found.agreement is None or 0 <= found.agreement <= 1

    def test_nothing_to_compare_is_refused(self):
        with pytest.raises(ValueError, match="0 tokens"):
            gap(mixture=np.array([]))
        with pytest.raises(ValueError, match="4 tokens, experts of 3"):
            gap(experts={"generalist": G[:3], "specialist": S[:3]})


WEIGHT_ROWS = arrays(np.float64, (4, 3), elements=st.floats(0, 1)).map(
    lambda rows: rows / max(1.0, float(rows.sum(1).max()))
)


class TestDivergence:
    def test_by_hand(self):
        """(1, 0) against (1/2, 1/2): JS = H(3/4, 1/4) - ln(2)/2; entropy ln(2)/2."""
        found = divergence(np.array([[1.0, 0.0]]), np.array([[0.5, 0.5]]))
        between = -(0.75 * math.log(0.75) + 0.25 * math.log(0.25))
        half = math.log(2) / 2
        assert found.nats == pytest.approx([between - half])
        assert found.entropy == pytest.approx([half])
        assert found.normalised == pytest.approx([(between - half) / half])
        assert found.mean == pytest.approx((between - half) / half)

    def test_what_weights_lack_to_1_is_the_bases(self):
        half = divergence(np.array([[0.5, 0.0]]), np.array([[0.0, 0.5]]))
        assert half.nats == pytest.approx([math.log(2) / 2])
        assert half.entropy == pytest.approx([math.log(2)])
        none = divergence(np.zeros((1, 2)), np.array([[1.0, 0.0]]))
        assert none.nats == pytest.approx([math.log(2)])

    def test_certain_routers_that_differ_have_no_ratio(self):
        found = divergence(np.array([[1.0, 0.0]] * 2), np.array([[0.0, 1], [1, 0]]))
        assert found.nats == pytest.approx([math.log(2), 0])
        assert found.normalised == [None, 0.0]
        told = told_of_divergence(found, None, ["a", "b"], "other")
        assert told[1] == "Routing differs most in a and least in b."

    def test_no_block_with_a_ratio_is_told(self):
        found = divergence(np.array([[1.0, 0.0]]), np.array([[0.0, 1.0]]))
        assert found.mean is None
        assert told_of_divergence(found, None, ["a"], "other") == [
            "Every block gives other to one expert and this text to another."
        ]

    @given(WEIGHT_ROWS)
    def test_of_equal_groups_is_0(self, weights):
        found = divergence(weights, weights.copy())
        assert found.nats == [0.0] * 4
        assert found.normalised == [0.0] * 4

    @given(WEIGHT_ROWS, WEIGHT_ROWS)
    def test_is_symmetric_and_at_most_ln_2(self, one, other):
        found, turned = divergence(one, other), divergence(other, one)
        assert found.nats == pytest.approx(turned.nats, abs=1e-12)
        assert found.entropy == pytest.approx(turned.entropy, abs=1e-12)
        assert all(0 <= value <= math.log(2) + 1e-12 for value in found.nats)

    def test_other_shapes_are_refused(self):
        with pytest.raises(ValueError, match=r"\(1, 2\) and \(2, 2\)"):
            divergence(np.ones((1, 2)), np.ones((2, 2)))

    def test_sides_are_sums(self):
        found = by_side(np.array([[0.1, 0.2, 0.7]]), generalists=2)
        assert np.allclose(found, [[0.3, 0.7]])
