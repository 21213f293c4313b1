"""The average of the products: exact where it can be, the best where it cannot."""

import numpy as np
import pytest

from comigs_mlx.federation.aggregation import aggregate
from comigs_mlx.federation.aggregation.lowrank import LowRankSum, norm
from comigs_mlx.federation.formats.tensor_source import Arrays
from tests.federation.aggregation.aggregators.arithmetic import pair


def random_pair(random, rows, rank, columns):
    return pair(random.normal(size=(rows, rank)), random.normal(size=(rank, columns)))


def product(tensors):
    return tensors["x.lora_a"].astype(np.float64) @ tensors["x.lora_b"]


def averaged(group, current):
    people = [Arrays(f"p{i:04}", tensors) for i, tensors in enumerate(group)]
    made = aggregate.aggregate("svd", people, Arrays("", current))
    return dict(made.shared)


def test_an_average_of_the_federations_rank_is_exact():
    """Participants who share lora_a average to that rank: sum_i A B_i = A sum_i B_i."""
    random = np.random.default_rng(0)
    a = random.normal(size=(9, 3))
    group = [pair(a, random.normal(size=(3, 7))) for _ in range(5)]
    mean = sum(product(tensors) for tensors in group) / 5
    found = averaged(group, group[0])
    assert np.allclose(product(found), mean, atol=1e-6)
    assert np.linalg.matrix_rank(product(found), tol=1e-4) == 3


@pytest.mark.parametrize("ranks", [(1, 2, 4), (3, 3), (8, 1)])
def test_otherwise_it_is_the_best_of_that_rank(ranks):
    """Eckart and Young: the error is the singular values left out."""
    random = np.random.default_rng(1)
    group = [random_pair(random, 9, rank, 7) for rank in ranks]
    mean = sum(product(tensors) for tensors in group) / len(group)
    found = product(averaged(group, random_pair(random, 9, 2, 7)))
    u, s, v = np.linalg.svd(mean)
    assert np.allclose(found, (u[:, :2] * s[:2]) @ v[:2], atol=1e-5)
    missed = np.linalg.norm(found - mean)
    assert missed == pytest.approx(np.linalg.norm(s[2:]), rel=1e-5)


@pytest.mark.parametrize("size", [1e-12, 1e-4, 1e12])
def test_small_and_large_products_are_as_exact(size):
    random = np.random.default_rng(7)
    one = random_pair(random, 9, 3, 7)
    group = [pair(one["x.lora_a"], size * one["x.lora_b"])] * 2
    found = product(averaged(group, one))
    assert np.allclose(found / size, product(one), atol=1e-5)


def test_both_factors_have_the_same_length():
    random = np.random.default_rng(2)
    group = [random_pair(random, 9, 2, 7) for _ in range(3)]
    found = averaged(group, group[0])
    a, b = found["x.lora_a"], found["x.lora_b"]
    assert np.allclose(np.linalg.norm(a, axis=0), np.linalg.norm(b, axis=1), rtol=1e-5)
    assert np.allclose(b @ b.T, np.diag(np.diag(b @ b.T)), atol=1e-5)


def test_directions_that_are_not_used_can_still_learn():
    random = np.random.default_rng(3)
    current = random_pair(random, 9, 4, 7)
    found = averaged([random_pair(random, 9, 1, 7)] * 2, current)
    assert np.array_equal(found["x.lora_a"][:, 1:], current["x.lora_a"][:, 1:])
    assert (found["x.lora_b"][1:] == 0).all()
    assert (np.abs(found["x.lora_b"][0]) > 0).all()


def test_folding_hundreds_of_contributions_loses_nothing():
    random = np.random.default_rng(4)
    group = [random_pair(random, 30, 4, 50) for _ in range(200)]
    mean = sum(product(tensors) for tensors in group) / 200
    u, s, v = np.linalg.svd(mean, full_matrices=False)
    found = product(averaged(group, random_pair(random, 30, 8, 50)))
    assert np.allclose(found, (u[:, :8] * s[:8]) @ v[:8], atol=1e-5)


@pytest.mark.parametrize(("rows", "columns"), [(20, 30), (300, 400)])
@pytest.mark.parametrize("count", [1, 2, 70, 130])
def test_the_sum_of_products_is_the_sum(rows, columns, count):
    total, random = LowRankSum(), np.random.default_rng(5)
    whole = np.zeros((rows, columns))
    for _ in range(count):
        a, b = random.normal(size=(rows, 4)), random.normal(size=(4, columns))
        total.add(a, b)
        whole += a @ b
    assert total.norm() == pytest.approx(np.linalg.norm(whole), rel=1e-12)
    u, values, v = total.svd()
    assert len(values) == min(4 * count, rows)
    assert np.allclose((u * values) @ v, whole, atol=1e-9)
    assert np.allclose(u.T @ u, np.eye(len(values)), atol=1e-9)
    assert (np.take_along_axis(v, np.abs(v).argmax(1)[:, None], 1) > 0).all()


def test_many_of_a_low_rank_keep_that_rank():
    """Else a direction nobody uses would become too short to learn."""
    random = np.random.default_rng(8)
    a, b = random.normal(size=(300, 3)), random.normal(size=(3, 400))
    total = LowRankSum()
    for size in random.normal(size=200):
        total.add(size * a, b)
    assert len(total.svd()[1]) == 3


@pytest.mark.parametrize("rank", [1, 5, 40])
def test_the_norm_of_a_product_needs_no_product(rank):
    random = np.random.default_rng(6)
    lefts = [random.normal(size=(12, rank)) for _ in range(3)]
    rights = [random.normal(size=(rank, 700)) for _ in range(3)]
    whole = sum(left @ right for left, right in zip(lefts, rights, strict=True))
    assert norm(lefts, rights) == pytest.approx(np.linalg.norm(whole), rel=1e-12)
