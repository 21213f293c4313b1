"""A guess of the time of a first training, by arithmetic."""

import pytest

from comigs_mlx.options import ExpertOptions, TrainConfig
from comigs_mlx.training import speed_estimate
from comigs_mlx.training.peak_memory import Architecture

SMALL = Architecture(
    base_bytes=1000,
    blocks=10,
    width=4,
    hidden=6,
    heads=2,
    queries=4,
    keys=2,
    vocabulary=100,
)


def test_operations_are_four_a_weight_of_the_base_and_six_of_the_experts():
    config = TrainConfig(experts=ExpertOptions(rank=2))
    base = 10 * (3 * 4 * 6 + 2 * 4 * (4 + 2)) + 100 * 4
    experts = SMALL.expert_bytes(config.experts) / 4
    assert speed_estimate.operations(SMALL, config) == 4 * base + 6 * experts


def test_twice_the_tokens_or_half_the_speed_take_twice_as_long():
    config = TrainConfig()
    once = speed_estimate.seconds(SMALL, config, 1000, 1e9)
    for tokens, speed in ((2000, 1e9), (1000, 5e8)):
        longer = speed_estimate.seconds(SMALL, config, tokens, speed)
        assert longer == pytest.approx(2 * once)


def test_a_device_has_a_speed():
    assert speed_estimate.device_speed() > 1e6
