"""What is asked of MLX, with and without Metal, and that it is put back."""

import contextlib

import mlx.core as mx
import pytest

from comigs_mlx.training import memory

WORKING_SET = 12 * 10**9


@pytest.fixture
def asked(monkeypatch):
    """Calls of MLX's three setters as (name, bytes); each answers what was before."""
    calls, now = [], {"memory": 18 * 10**9, "cache": 18 * 10**9, "wired": 0}

    def setter(name):
        def set_limit(value):
            calls.append((name, value))
            now[name], before = value, now[name]
            return before

        return set_limit

    for name in now:
        monkeypatch.setattr(mx, f"set_{name}_limit", setter(name))
    return calls


@pytest.fixture
def metal(monkeypatch):
    monkeypatch.setattr(mx.metal, "is_available", lambda: True)
    info = {"max_recommended_working_set_size": WORKING_SET}
    monkeypatch.setattr(mx, "device_info", lambda: info)


@pytest.fixture
def cpu(monkeypatch):
    monkeypatch.setattr(mx.metal, "is_available", lambda: False)


@pytest.mark.usefixtures("cpu")
def test_on_a_cpu_nothing_is_wired_and_the_cache_stays_small(asked):
    with memory.limits(None):
        assert asked == [("cache", memory.CPU_CACHE)]
    assert asked[1:] == [("cache", 18 * 10**9)]


@pytest.mark.usefixtures("metal")
def test_on_metal_all_that_is_recommended_stays_resident(asked):
    with memory.limits(None):
        assert asked == [("cache", WORKING_SET // 4), ("wired", WORKING_SET)]
    assert asked[2:] == [("wired", 0), ("cache", 18 * 10**9)]


@pytest.mark.usefixtures("metal")
@pytest.mark.parametrize(("gb", "resident"), [(4.0, 4 * 10**9), (100.0, WORKING_SET)])
def test_a_limit_bounds_all_three_but_never_beyond_the_system(asked, gb, resident):
    with memory.limits(gb):
        expected = [("memory", gb * 10**9), ("cache", resident // 4)]
        assert asked == [*expected, ("wired", resident)]
    expected = [("wired", 0), ("cache", 18 * 10**9), ("memory", 18 * 10**9)]
    assert asked[3:] == expected


def test_mlx_takes_the_limits_and_gives_them_back():
    before = mx.get_memory_limit()
    with contextlib.suppress(ZeroDivisionError), memory.limits(2.5):
        assert mx.get_memory_limit() == 25 * 10**8
        raise ZeroDivisionError
    assert mx.get_memory_limit() == before


def test_work_goes_on_above_the_limit():
    with memory.limits(1e-6):
        total = sum(mx.ones((100, 100)).sum() for _ in range(20))
        assert total.item() == 200_000


def test_a_limit_below_what_is_in_use_is_told(monkeypatch):
    monkeypatch.setattr(mx, "get_active_memory", lambda: 54 * 10**7)
    assert memory.too_low(None) is None
    assert memory.too_low(0.6) is None
    warning = memory.too_low(0.5)
    assert warning.startswith(
        "--memory-limit 0.5 GB is less than the base model's 0.54"
    )
