"""Rows side by side: the same numbers, the same gradients, and BLAS as it was."""

import threading

import mlx.core as mx
import numpy as np
import pytest

from comigs_mlx.model.gradient_checkpointing import recompute_blocks
from comigs_mlx.options import ExpertOptions, TrainingOptions
from comigs_mlx.platform import cpu, cpu_streams
from comigs_mlx.training.evaluation import Evaluator
from comigs_mlx.training.level import Level, expert_group, router_group
from tests.training.setting import batch_of, mixture_of, put, values


def with_streams(monkeypatch, count):
    monkeypatch.setattr(cpu_streams, "_cores", lambda: count)


@pytest.mark.parametrize("rows", [1, 2, 3, 5])
@pytest.mark.parametrize("cores", [1, 2, 4])
def test_every_row_is_in_one_stream_in_order(monkeypatch, rows, cores):
    with_streams(monkeypatch, cores)
    array = mx.arange(rows * 3).reshape(rows, 3)
    parts = cpu_streams.each(lambda a, b: (a, b), array, array[:, :1])
    assert len(parts) == min(rows, cores)
    assert all(len(a) == len(b) > 0 for a, b in parts)
    assert mx.array_equal(mx.concatenate([a for a, _ in parts]), array)


@pytest.mark.parametrize("checkpointed", [False, True])
@pytest.mark.parametrize(
    "options",
    [ExpertOptions(), ExpertOptions(specialists=3, top_k=2)],
    ids=["k=E", "balanced"],
)
def test_change_no_result(monkeypatch, options, checkpointed):
    """Also not the load-balancing loss, which is not a sum over rows."""
    start, found = None, []
    for cores in (1, 3):
        with_streams(monkeypatch, cores)
        mixture = mixture_of(options)
        start = start or values(mixture)
        put(mixture, start)
        if checkpointed:
            recompute_blocks(mixture)
        plan = TrainingOptions()
        groups = (expert_group(plan), router_group(plan))
        levels = [Level(mixture, [group], plan) for group in groups]
        results = [level.step([batch_of(0, rows=5)]) for level in levels]
        losses, weights = Evaluator(mixture).batch_losses(batch_of(1, rows=5), "auto")
        found.append((results, losses, weights))
    (one, *expected), (several, *measured) = found
    for a, b in zip(one, several, strict=True):
        assert b.loss == pytest.approx(a.loss, rel=1e-6)
        assert b.share == pytest.approx(a.share, rel=1e-5)
        assert b.norms == pytest.approx(a.norms, rel=1e-4)
        assert b.tokens == a.tokens
    for a, b in zip(expected, measured, strict=True):
        assert np.abs(a - b).max() <= 2e-4


def test_blas_has_its_threads_again(monkeypatch):
    before = cpu.blas_threads(2)
    if before is None:
        pytest.skip("the fast BLAS is not loaded")
    try:
        with_streams(monkeypatch, 2)
        with cpu_streams.evaluating(4):
            assert cpu.blas_threads(1) == 1
        assert cpu.blas_threads(2) == 2
        with cpu_streams.evaluating(1):  # one row: one stream, all threads
            assert cpu.blas_threads(2) == 2
    finally:
        cpu.blas_threads(before)


def test_every_thread_has_streams_of_its_own(monkeypatch):
    """MLX refuses a stream that another thread has made."""
    monkeypatch.setattr(cpu_streams, "_cores", lambda: 2)
    found = []

    def work():
        sums = cpu_streams.each(lambda rows: (rows @ rows.T).sum(), mx.ones((4, 3)))
        mx.eval(sums)
        found.append([each.item() for each in sums])

    def in_a_thread():
        work()
        mx.clear_streams()  # as every thread that used MLX must before it ends

    for _ in range(2):
        thread = threading.Thread(target=in_a_thread)
        thread.start()
        thread.join()
        work()
    assert found == [[12.0, 12.0]] * 4
