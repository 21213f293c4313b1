"""What is asked of MLX, with and without Metal, and that it is put back."""

import contextlib
import dataclasses

import mlx.core as mx
import pytest

from comigs_mlx.options import ExpertOptions
from comigs_mlx.platform import switch
from comigs_mlx.training import memory_estimate
from comigs_mlx.training.peak_memory import Architecture, Work

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
    with memory_estimate.limits(None):
        assert asked == [("cache", memory_estimate.CPU_CACHE)]
    assert asked[1:] == [("cache", 18 * 10**9)]


@pytest.mark.usefixtures("metal")
def test_on_metal_all_that_is_recommended_stays_resident(asked):
    with memory_estimate.limits(None):
        assert asked == [("cache", WORKING_SET // 4), ("wired", WORKING_SET)]
    assert asked[2:] == [("wired", 0), ("cache", 18 * 10**9)]


@pytest.mark.usefixtures("metal")
@pytest.mark.parametrize(("gb", "resident"), [(4.0, 4 * 10**9), (100.0, WORKING_SET)])
def test_a_limit_bounds_all_three_but_never_beyond_the_system(asked, gb, resident):
    with memory_estimate.limits(gb):
        expected = [("memory", gb * 10**9), ("cache", resident // 4)]
        assert asked == [*expected, ("wired", resident)]
    expected = [("wired", 0), ("cache", 18 * 10**9), ("memory", 18 * 10**9)]
    assert asked[3:] == expected


def test_mlx_takes_the_limits_and_gives_them_back():
    before = mx.get_memory_limit()
    with contextlib.suppress(ZeroDivisionError), memory_estimate.limits(2.5):
        assert mx.get_memory_limit() == 25 * 10**8
        raise ZeroDivisionError
    assert mx.get_memory_limit() == before


def test_work_goes_on_above_the_limit():
    with memory_estimate.limits(1e-6):
        total = sum(mx.ones((100, 100)).sum() for _ in range(20))
        assert total.item() == 200_000


def test_a_limit_below_what_is_in_use_is_told(monkeypatch):
    monkeypatch.setattr(mx, "get_active_memory", lambda: 54 * 10**7)
    assert memory_estimate.too_low(None) is None
    assert memory_estimate.too_low(0.6) is None
    warning = memory_estimate.too_low(0.5)
    assert warning.startswith(
        "--memory-limit 0.5 GB is less than the base model's 0.54"
    )


LLAMA_1B = Architecture(
    base_bytes=25 * 10**8,
    blocks=16,
    width=2048,
    hidden=8192,
    heads=32,
    queries=2048,
    keys=512,
    vocabulary=128_256,
    item=2,
)


def plan_of(quantised=False, **work):
    shape = Work(**{"batch_size": 4, "seq_len": 512, **work})
    return memory_estimate.Plan(LLAMA_1B, ExpertOptions(), shape, quantised)


@pytest.fixture
def on_metal(monkeypatch):
    monkeypatch.setattr(switch, "on_cpu", lambda: False)
    monkeypatch.setattr(memory_estimate.cpu_streams, "count", lambda rows: 1)


def gb(plan):
    return f"about {plan.estimate.peak / memory_estimate.GB:.1f} GB"


@pytest.mark.usefixtures("on_metal")
class TestNotes:
    def test_one_line_where_it_fits(self):
        plan = plan_of()
        assert list(plan.notes(1000.0)) == [
            f"memory: {gb(plan)} for the longest batch (4 x 512 tokens), base model "
            "2.50 GB"
        ]

    def test_above_the_limit_what_helps_most_comes_first(self):
        plan = plan_of()
        _, warning = plan.notes(8.0)
        assert warning == (
            f"note: {gb(plan)} is more than --memory-limit 8 GB; what helps, most "
            f"first: --grad-checkpoint ({gb(plan_of(checkpoint=True))}), "
            "--seq-len 256, --num-layers 8, --batch-size 2 --grad-accumulation 2, "
            "a 4-bit --model"
        )

    def test_the_order_is_by_effect_in_this_case(self):
        *_, warning = plan_of(batch_size=1, seq_len=64, checkpoint=True).notes(1.0)
        assert "most first: a 4-bit --model (about " in warning

    def test_what_is_used_already_is_not_advised(self):
        plan = plan_of(quantised=True, checkpoint=True, batch_size=1, accumulation=3)
        _, warning = plan.notes(0.1)
        for text in ("--grad-checkpoint", "--batch-size", "4-bit"):
            assert text not in warning
        assert plan_of(accumulation=3)._advice().count("--grad-accumulation 6") == 1

    def test_without_a_limit_the_machine_counts(self, monkeypatch):
        gib = {"SC_PAGE_SIZE": 2**20, "SC_PHYS_PAGES": 8 * 2**10}
        monkeypatch.setattr(memory_estimate.os, "sysconf", gib.__getitem__)
        _, warning = plan_of().notes(None)
        assert "GB is more than 80% of this machine's 9 GB; what helps" in warning
        gib["SC_PHYS_PAGES"] *= 100
        assert len(list(plan_of().notes(None))) == 1

    def test_a_slow_quantised_base_is_not_advised_on_a_cpu(self, monkeypatch):
        monkeypatch.setattr(switch, "on_cpu", lambda: True)
        assert "a 4-bit --model" not in dict(plan_of().savings())

    def test_nothing_left_to_save(self):
        one = dataclasses.replace(LLAMA_1B, blocks=1)
        work = Work(batch_size=1, seq_len=1, checkpoint=True)
        plan = memory_estimate.Plan(one, ExpertOptions(), work, quantised=True)
        _, warning = plan.notes(0.1)
        assert warning.endswith("--memory-limit 0.1 GB; choose a smaller --model")
