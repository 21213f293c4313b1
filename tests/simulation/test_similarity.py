"""Cosines of products, against the products themselves."""

import mlx.core as mx
import numpy as np
import pytest

from comigs_mlx.simulation.similarity import cosines, pairs_of


def values(seed, experts=2):
    random = np.random.default_rng(seed)
    paths = {f"layers.{i}.mlp.up.specialist": (experts, 5, 2, 4) for i in range(2)}
    made = {}
    for path, (n, rows, rank, columns) in paths.items():
        made[f"{path}.lora_a"] = mx.array(random.normal(size=(n, rows, rank)))
        made[f"{path}.lora_b"] = mx.array(random.normal(size=(n, rank, columns)))
    return made


def dense(pairs):
    return np.concatenate([(a @ b).ravel() for _, (a, b) in sorted(pairs.items())])


def test_equals_the_cosine_of_the_dense_products():
    experts = [pairs_of(values(s), "specialist", i) for s in (0, 1) for i in (0, 1)]
    found = cosines(experts)
    for i, one in enumerate(experts):
        for j, other in enumerate(experts):
            x, y = dense(one), dense(other)
            expected = x @ y / np.linalg.norm(x) / np.linalg.norm(y)
            assert found[i][j] == pytest.approx(expected, abs=1e-5)
    assert [found[i][i] for i in range(4)] == pytest.approx([1.0] * 4)


def test_an_expert_that_has_learnt_nothing_is_like_none():
    nothing = {
        path: a * 0 if path.endswith("b") else a for path, a in values(0).items()
    }
    some, none = (pairs_of(v, "specialist", 0) for v in (values(0), nothing))
    assert cosines([some, none])[0][1] == 0.0


def test_generalists_and_specialists_are_compared_by_their_linears():
    mine = values(0)
    as_generalist = {p.replace("specialist", "generalist"): a for p, a in mine.items()}
    pairs = [pairs_of(mine, "specialist", 0), pairs_of(as_generalist, "generalist", 0)]
    assert cosines(pairs)[0][1] == pytest.approx(1.0)
    assert pairs_of(mine, "generalist", 0) == {}
