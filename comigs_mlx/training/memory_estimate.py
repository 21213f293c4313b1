"""Estimates the memory that training will need, and limits what MLX may use."""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections.abc import Iterator, Mapping
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from comigs_mlx.messages import Note
from comigs_mlx.model import float_base, params
from comigs_mlx.model.attach import Site
from comigs_mlx.model.experts import dimensions
from comigs_mlx.model.mixture import Mixture
from comigs_mlx.options import ExpertOptions, TrainConfig
from comigs_mlx.platform import cpu_streams, switch
from comigs_mlx.training.peak_memory import (
    FLOAT,
    Architecture,
    Estimate,
    Machine,
    Work,
    described,
    estimate,
)

GB = 10**9

SAFE_SHARE = 0.8
"""The share of the machine's memory above which a peak is warned of, if there is no
limit.
"""

FOUR_BITS = 4.5
"""The bits of a weight in a 4-bit model, with scale and bias of each group of 64."""

HEADS = ("n_heads", "num_heads", "n_head", "num_attention_heads")
"""The names that mlx-lm's families give to the number of attention heads."""

CACHE_SHARE = 0.25
"""The share of MLX's memory that its cache of freed buffers may hold on Metal.

A step needs the same sizes again, and the cache has them; it needs no more than one
step's intermediates. Metal's own limit is 1.5 times the recommended working set, so
that with several lengths the buffers of all of them stay.
"""

CPU_CACHE = 32 * 2**20
"""The bytes of freed buffers kept on a CPU, as in MLX: more made no step faster."""


@contextlib.contextmanager
def limits(gb: float | None) -> Iterator[None]:
    """Bound MLX's memory, its buffer cache and, on Metal, what stays resident.

    The limits that were there before are put back at the end.

    Args:
        gb: The limit in GB (10^9 bytes), a guideline to MLX; None keeps MLX's own.
    """
    limit = None if gb is None else int(gb * GB)
    with contextlib.ExitStack() as stack:
        if limit is not None:
            stack.callback(mx.set_memory_limit, mx.set_memory_limit(limit))
        metal = mx.metal.is_available()
        working_set = _working_set(limit) if metal else 0
        cache = int(CACHE_SHARE * working_set) if metal else CPU_CACHE
        stack.callback(mx.set_cache_limit, mx.set_cache_limit(cache))
        if metal:
            stack.callback(mx.set_wired_limit, mx.set_wired_limit(working_set))
        yield


def _working_set(limit: int | None) -> int:
    """Return the bytes that can stay resident, at most what the system recommends."""
    most = int(mx.device_info()["max_recommended_working_set_size"])
    return most if limit is None else min(limit, most)


def too_low(gb: float | None) -> str | None:
    """Warn if a limit is below what is in use now, the base model."""
    used = mx.get_active_memory() / GB
    if gb is None or used <= gb:
        return None
    return (
        f"--memory-limit {gb} GB is less than the base model's {used:.2f} GB: training "
        "will wait for memory all the time; raise it, or choose a smaller or quantised "
        "--model"
    )


@dataclasses.dataclass(frozen=True)
class Plan:
    """A training before its first step, to estimate its peak memory.

    Attributes:
        model: The numbers that describe the base model.
        experts: The number of experts, their rank and so on.
        work: The shape of the longest batch.
        quantised: Whether the base model is already quantised.
    """

    model: Architecture
    experts: ExpertOptions
    work: Work
    quantised: bool

    @property
    def estimate(self) -> Estimate:
        """The peak of an expert step on the device MLX computes on now."""
        x86 = switch.x86_cpu() and self.model.item == FLOAT
        streams = cpu_streams.count(self.work.batch_size)
        machine = Machine(switch.on_cpu(), x86, streams)
        return estimate(self.model, self.experts, self.work, machine)

    def notes(self, limit_gb: float | None) -> Iterator[str]:
        """Yield what `train` says of memory, and a warning if the peak is too high.

        Args:
            limit_gb: The value of `--memory-limit`, in GB; None compares with the
                machine's memory.
        """
        peak, work = self.estimate.peak, self.work
        length = max(work.seq_len, work.measured)
        yield (
            f"memory: {_about(peak)} for the longest batch ({work.batch_size} x "
            f"{length} tokens), base model {self.model.base_bytes / GB:.2f} GB"
        )
        excess = _excess(peak, limit_gb)
        if excess is not None:
            yield Note(f"{_about(peak)} {excess}{self._advice()}")

    def _advice(self) -> str:
        """List what helps, most first, with what the first of these would need."""
        peaks = {text: plan.estimate.peak for text, plan in self.savings()}
        useful = {t: p for t, p in peaks.items() if p < self.estimate.peak}
        if not useful:
            return "; choose a smaller --model"
        best_flags, *more_flags = sorted(useful, key=lambda text: useful[text])
        best = f"{best_flags} ({_about(useful[best_flags])})"
        return f"; what helps, most first: {', '.join([best, *more_flags])}"

    def savings(self) -> Iterator[tuple[str, Plan]]:
        """Yield each change that could save memory, as flags, with the changed plan."""
        work = self.work
        if not work.checkpoint:
            yield "--grad-checkpoint", self._working(checkpoint=True)
        if work.batch_size > 1:
            size, sums = work.batch_size // 2, 2 * work.accumulation
            plan = self._working(batch_size=size, accumulation=sums)
            yield f"--batch-size {size} --grad-accumulation {sums}", plan
        if work.seq_len > 1:
            halved = work.seq_len // 2
            measured = min(work.measured, halved)
            plan = self._working(seq_len=halved, measured=measured)
            yield f"--seq-len {halved}", plan
        if self.model.blocks > 1:
            halved = self.model.blocks // 2
            yield f"--num-layers {halved}", self._based(blocks=halved)
        if not self.quantised and not switch.on_cpu():  # there it is far too slow
            weights = self.model.base_bytes / self.model.item
            smaller = int(weights * FOUR_BITS / 8)
            yield "a 4-bit --model", self._based(base_bytes=smaller)

    def _working(self, **changes: Any) -> Plan:
        work = dataclasses.replace(self.work, **changes)
        return dataclasses.replace(self, work=work)

    def _based(self, **changes: Any) -> Plan:
        model = dataclasses.replace(self.model, **changes)
        return dataclasses.replace(self, model=model)


@dataclasses.dataclass(frozen=True)
class Fit:
    """Whether a training fits into this machine, before the model is loaded.

    Attributes:
        peak: The bytes of an expert step at its peak; None where they are not known.
        total: The bytes of this machine's memory.
    """

    peak: int | None
    total: int

    @property
    def fits(self) -> bool:
        """Whether the peak is not warned of; what is not known fits."""
        return self.peak is None or self.peak <= SAFE_SHARE * self.total


def before_loading(
    config: Mapping[str, Any], base_bytes: int, training: TrainConfig
) -> Fit:
    """Estimate the peak memory of a training from its base's config.json alone.

    Args:
        config: The content of config.json.
        base_bytes: The bytes of the base's weights.
        training: The options of the training.
    """
    found = described(config, base_bytes)
    if found is None:
        return Fit(None, total_memory())
    if switch.float32_is_faster():
        found = dataclasses.replace(found, item=FLOAT)
        size = float_base.described_bytes(config, base_bytes)
        if float_base.is_kept(size):
            found = dataclasses.replace(found, base_bytes=size)
    data, options = training.data, training.training
    work = Work(
        data.batch_size,
        data.seq_len,
        options.grad_checkpoint,
        options.grad_accumulation,
        measured=data.seq_len,
        optimizer=options.optimizer,
    )
    return Fit(Plan(found, training.experts, work, False).estimate.peak, total_memory())


def total_memory() -> int:
    """Return the bytes of this machine's memory."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def plan(mixture: Mixture, work: Work) -> Plan:
    """Plan the training of an attached mixture."""
    linears = (module for _, module in mixture.model.named_modules())
    quantised = any(isinstance(linear, nn.QuantizedLinear) for linear in linears)
    return Plan(architecture(mixture), mixture.options, work, quantised)


def architecture(mixture: Mixture) -> Architecture:
    """Return the numbers of an attached mixture's base; no array is computed."""
    values = params.select(mixture.model, params.ROLES)
    site, arrays = mixture.sites[-1], params.flatten(mixture.model.parameters())
    hidden, _ = mixture.body(mx.zeros((1, 1), mx.int32))
    mixture.model.update(values)  # not what a recomputed block was traced with
    trained = params.flatten(values)
    inner = dimensions(site.mlp[site.mix_back].linear)[0]
    queries, keys = _attention_sizes(site)
    return Architecture(
        base_bytes=sum(a.nbytes for path, a in arrays.items() if path not in trained),
        blocks=len(mixture.sites),
        width=site.dims,
        hidden=inner,
        heads=_heads(mixture, site, queries),
        queries=queries,
        keys=keys,
        vocabulary=mixture.head(hidden).shape[-1],
        readers=len(site.fan_out),
        item=hidden.dtype.size,
    )


def _attention_sizes(site: Site) -> tuple[int, int]:
    """Return sizes of queries and keys: the last linear reads all the queries."""
    modules = [site.attention[name] for name in site.attention_linears]
    sizes = [dimensions(getattr(m, "linear", m)) for m in modules]
    if len(sizes) < 2:
        return site.dims, site.dims
    queries = sizes[-1][0]
    return queries, max((sum(out for _, out in sizes[:-1]) - queries) // 2, 0)


def _heads(mixture: Mixture, site: Site, queries: int) -> int:
    """Count the attention heads by any of their names; else assume 64 dims a head."""
    for owner in (site.attention, getattr(mixture.model, "args", None)):
        for name in HEADS:
            if isinstance(heads := getattr(owner, name, None), int):
                return heads
    return max(queries // 64, 1)


def _excess(peak: int, limit_gb: float | None) -> str | None:
    """Tell how a peak is too much, if it is."""
    if limit_gb is not None:
        text = f"is more than --memory-limit {limit_gb:g} GB"
        return text if peak > limit_gb * GB else None
    total = total_memory()
    if peak <= SAFE_SHARE * total:
        return None
    return f"is more than {SAFE_SHARE:.0%} of this machine's {total / GB:.0f} GB"


def _about(size: int) -> str:
    return f"about {size / GB:.{1 if size >= GB else 2}f} GB"
