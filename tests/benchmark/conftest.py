"""A benchmark small enough for tests."""

import pytest

from comigs_mlx.benchmark.models import base_model
from comigs_mlx.benchmark.setting import Setting
from comigs_mlx.benchmark.shape import BenchShape

SHAPE = BenchShape(
    model="tiny",
    batch_size=2,
    seq_len=8,
    rank=2,
    experts=(1, 2, 4),
    naive=(2,),
    rounds=2,
)


@pytest.fixture
def shape():
    return SHAPE


@pytest.fixture
def setting(tmp_path):
    return Setting(SHAPE, base_model("tiny"), tmp_path)
