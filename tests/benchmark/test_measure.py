"""Order, warm-up, what the clock sees and whose memory is whose: on a fake machine."""

import pytest

from comigs_mlx.benchmark.measure import (
    WARM_UP,
    Measured,
    Meter,
    Runner,
    Variant,
    collect,
    interleaved,
)


class Machine(Meter):
    """A clock and a memory that only move when a variant moves them."""

    def __init__(self):
        self.time, self.held, self.highest = 0.0, 0, 0

    def now(self):
        return self.time

    def active(self):
        return self.held

    def reset_peak(self):
        self.highest = 0  # as MLX does: it is seen again at the next allocation

    def peak(self):
        return self.highest

    def work(self, seconds, memory=0):
        self.time += seconds
        if memory:
            self.highest = max(self.highest, self.held + memory)


@pytest.fixture
def machine():
    return Machine()


@pytest.fixture
def log():
    return []


def maker(machine, log, name, seconds, holds=0, uses=0):
    """A variant that takes `seconds(round)`, keeps `holds` bytes, needs `uses` more."""

    def make():
        log.append(f"make {name}")
        machine.held += holds

        def note(what, time):
            def do(index):
                log.append(f"{what} {name} {index}")
                machine.work(time(index), uses if what == "run" else 0)

            return do

        return Variant(
            note("run", seconds),
            note("before", lambda _: 100.0),
            note("after", lambda _: 100.0),
        )

    return make


def test_variants_run_in_turn_and_are_built_in_the_warm_up(machine, log):
    makers = {n: maker(machine, log, n, lambda _: 1.0) for n in ("a", "b")}
    samples = list(interleaved(Runner(makers, machine), list(makers), 2))
    assert [(s.name, s.round) for s in samples] == [
        ("a", WARM_UP),
        ("b", WARM_UP),
        ("a", 1),
        ("b", 1),
        ("a", 2),
        ("b", 2),
    ]
    one = ["before a 0", "run a 0", "after a 0"]
    assert log[:4] == ["make a", *one]
    assert log[4] == "make b"
    assert [entry for entry in log if entry.startswith("make")] == ["make a", "make b"]
    assert log[-3:] == ["before b 2", "run b 2", "after b 2"]


def test_the_clock_sees_the_run_alone(machine, log):
    makers = {"a": maker(machine, log, "a", lambda i: 1.0 + i)}
    samples = interleaved(Runner(makers, machine), ["a"], 3)
    assert [sample.seconds for sample in samples] == [1.0, 2.0, 3.0, 4.0]


def test_the_warm_up_is_not_counted(machine, log):
    slow_first = {"a": maker(machine, log, "a", lambda i: 50.0 if i == 0 else float(i))}
    found = collect(interleaved(Runner(slow_first, machine), ["a"], 3))
    assert found == {"a": Measured([1.0, 2.0, 3.0], [0, 0, 0])}


def test_peak_memory_leaves_out_what_other_variants_hold(machine, log):
    machine.held = 1000  # the base model
    makers = {
        "small": maker(machine, log, "small", lambda _: 1.0, holds=10, uses=5),
        "large": maker(machine, log, "large", lambda _: 1.0, holds=300, uses=70),
        "still": maker(machine, log, "still", lambda _: 1.0),
    }
    runner = Runner(makers, machine, shared_bytes=1000)
    found = collect(interleaved(runner, list(makers), 2))
    assert found["small"].peak_bytes == [1015, 1015]
    assert found["large"].peak_bytes == [1370, 1370]
    assert found["still"].peak_bytes == [1000, 1000]


def test_the_real_meter_sees_arrays_and_time():
    import mlx.core as mx

    meter = Meter()
    before, start = meter.active(), meter.now()
    kept = mx.ones((1000,)) + 1
    meter.reset_peak()
    mx.eval(kept)
    assert meter.active() - before >= kept.nbytes
    assert meter.peak() >= meter.active()
    assert meter.now() > start
