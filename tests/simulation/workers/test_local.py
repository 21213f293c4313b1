"""Cores are divided evenly; the processes themselves: tests/test_simulate.py."""

import pytest

from comigs_mlx.simulation.workers.local import shares


@pytest.mark.parametrize(
    ("cores", "count", "expected"),
    [
        ([0, 1], 2, [[0], [1]]),
        ([2, 3, 5], 2, [[2, 5], [3]]),
        ([4, 7], 3, [[4], [7], [4]]),
        ([], 2, [[], []]),
    ],
)
def test_every_core_has_its_process(cores, count, expected):
    assert shares(cores, count) == expected
