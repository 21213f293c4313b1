"""The flow of an export: weights, gap, refusal."""

import pytest

from comigs_mlx.errors import ConfigError


def test_what_loses_too_much_leaves_nothing(exported, tmp_path):
    with pytest.raises(ConfigError) as error:
        exported("mlx", max_gap=-9.0, experts="auto")
    text = str(error.value)
    assert "\n" not in text
    assert "more than --max-gap -9: nothing was written" in text
    assert "--experts (generalist, specialist" in text
    assert list(tmp_path.iterdir()) == []
