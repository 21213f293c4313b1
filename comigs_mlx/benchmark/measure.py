"""Measures time and memory of variants in turn, so that they meet the same machine.

Each round runs every variant once. The first round is a warm-up: variants are built
and compiled in it, and it is not counted. A run must evaluate all that it computes.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import mlx.core as mx

WARM_UP = 0
"""The round that is not counted."""


def _nothing(index: int) -> None:
    del index


@dataclass(frozen=True)
class Variant:
    """A way to do what a case measures; each function gets the number of the round.

    Attributes:
        run: The function whose calls are timed.
        before: The function that is called before the clock starts.
        after: The function that is called after it has stopped.
    """

    run: Callable[[int], None]
    before: Callable[[int], None] = _nothing
    after: Callable[[int], None] = _nothing


Makers = Mapping[str, Callable[[], Variant]]
"""Maps the name of a variant to what builds it, which is called right before its
first run.
"""


class Meter:
    """The clock (seconds) and the memory (bytes) of this process."""

    def now(self) -> float:
        """Return the seconds since some moment."""
        return time.perf_counter()

    def active(self) -> int:
        """Return the bytes that arrays hold, once everything under way is done."""
        mx.synchronize()
        return mx.get_active_memory()

    def reset_peak(self) -> None:
        """Forget the highest use of memory so far."""
        mx.reset_peak_memory()

    def peak(self) -> int:
        """Return the highest use of memory since `reset_peak`, in bytes."""
        return mx.get_peak_memory()


@dataclass(frozen=True)
class VariantRun:
    """One run of a variant.

    Attributes:
        name: The name of the variant.
        round: The number of the round: `WARM_UP`, then 1, 2, ...
        seconds: The seconds that the call took.
        peak_bytes: The highest use of memory without what other variants hold; not
            known in the warm-up.
    """

    name: str
    round: int
    seconds: float
    peak_bytes: int


@dataclass
class Measured:
    """The counted runs of one variant, in the order of their rounds."""

    seconds: list[float] = field(default_factory=list)
    peak_bytes: list[int] = field(default_factory=list)


class Runner:
    """Builds variants when they first run, and measures them.

    Args:
        makers: The function that makes each variant, by name.
        meter: The meter, which reads the clock and the memory.
        shared_bytes: The bytes that all variants have in common: the base model's
            arrays.
    """

    def __init__(self, makers: Makers, meter: Meter, shared_bytes: int = 0):
        self._makers, self._meter, self._shared = makers, meter, shared_bytes
        self._built: dict[str, Variant] = {}
        self._held: dict[str, int] = {}

    def run(self, name: str, index: int) -> VariantRun:
        """Run the variant `name` in round `index`; the first time, build it first."""
        if name in self._built:
            return self._measured(name, index)
        gc.collect()
        before = self._meter.active()
        self._built[name] = self._makers[name]()
        sample = self._measured(name, index)
        self._held[name] = max(self._meter.active() - before, 0)
        return sample

    def _measured(self, name: str, index: int) -> VariantRun:
        variant, meter = self._built[name], self._meter
        variant.before(index)
        active = meter.active()
        meter.reset_peak()
        start = meter.now()
        variant.run(index)
        seconds = meter.now() - start
        used = max(meter.peak() - active, 0)
        variant.after(index)
        own = self._shared + self._held.get(name, 0)
        return VariantRun(name, index, seconds, own + used)


def interleaved(
    runner: Runner, names: Sequence[str], rounds: int
) -> Iterator[VariantRun]:
    """Yield a warm-up and `rounds` rounds, each running all variants in turn."""
    for index in range(rounds + 1):
        for name in names:
            yield runner.run(name, index)


def collect(samples: Iterable[VariantRun]) -> dict[str, Measured]:
    """Collect the runs of each variant, without the warm-up."""
    by_variant: dict[str, Measured] = {}
    for sample in samples:
        if sample.round != WARM_UP:
            measured = by_variant.setdefault(sample.name, Measured())
            measured.seconds.append(sample.seconds)
            measured.peak_bytes.append(sample.peak_bytes)
    return by_variant
