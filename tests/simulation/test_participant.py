"""What of the federation's generalists is a participant's, and the way back."""

import numpy as np

from comigs_mlx.options import ExpertOptions
from comigs_mlx.simulation.participant import cut, filled, participant_seed


def tensors(rank=4):
    random = np.random.default_rng(0)
    return {
        f"{folder}x.lora_{part}": random.normal(size=shape).astype(np.float32)
        for folder in ("", "generalist-1/", "generalist-2/")
        for part, shape in (("a", (5, rank)), ("b", (rank, 3)))
    }


def test_first_generalists_and_first_ranks_are_cut():
    found = cut(tensors(), ExpertOptions(generalists=2, rank=3))
    assert found.keys() == {t for t in tensors() if "generalist-2" not in t}
    for tensor, array in found.items():
        part = tensors()[tensor]
        part = part[:, :3] if tensor.endswith("a") else part[:3]
        assert np.array_equal(array, part)


def test_cut_and_filled_with_zeros_keeps_the_product_of_the_first_ranks():
    current = tensors()
    mine = cut(current, ExpertOptions(generalists=1, rank=2))
    full = filled(mine, current, pad=True)
    assert {t: a.shape for t, a in full.items()} == {
        t: a.shape for t, a in current.items()
    }
    assert np.array_equal(
        full["x.lora_a"] @ full["x.lora_b"], mine["x.lora_a"] @ mine["x.lora_b"]
    )
    assert full["generalist-2/x.lora_a"] is current["generalist-2/x.lora_a"]
    assert filled(mine, current, pad=False)["x.lora_a"].shape == (5, 2)


def test_seeds_differ_between_participants_and_seeds():
    seeds = {participant_seed(seed, i) for seed in range(5) for i in range(50)}
    assert len(seeds) == 250
    assert max(seeds) < 2**32
