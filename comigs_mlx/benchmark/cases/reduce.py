"""Sums the gradients of a step over processes of this machine, on loopback.

What a step of several Macs costs beside its computation. Seconds here are those of
memory and of the system's sockets; on a link of b bytes a second, a step of two Macs
takes bytes / b, and one of N Macs 2 (N - 1) / N times that (docs/distributed.md).
"""

from __future__ import annotations

from functools import cache, partial

from comigs_mlx.benchmark.measure import Makers, Measured, Variant
from comigs_mlx.benchmark.peers import Peers
from comigs_mlx.benchmark.setting import Setting
from comigs_mlx.benchmark.spread import Spread, rate, spread
from comigs_mlx.model import params

ORDER = 10
EXPERTS = 2
SUMMARY = f"summing a step's gradients over processes, {EXPERTS} experts"
TOKENS = 0
MAIN = ()

COUNTS = (2, 3)
ROLES = {"experts": params.EXPERTS, "routers": params.ROUTERS}


def variants(setting: Setting) -> Makers:
    """Sum the gradients of the experts and of the routers."""
    rings = {count: cache(partial(Peers, count, setting.scratch)) for count in COUNTS}

    def make(role: str, count: int) -> Variant:
        peers, values = rings[count](), _values(setting)[role]
        return Variant(lambda index: peers.sum(values))

    return {
        _name(role, count): partial(make, role, count)
        for role in ROLES
        for count in COUNTS
    }


def _name(role: str, count: int) -> str:
    return f"{role}, ring of {count}"


def _values(setting: Setting) -> dict[str, int]:
    """Count the values that a step of each level sums."""
    counts = params.counts(setting.mixture(EXPERTS).model)
    return {name: sum(counts[r] for r in roles) for name, roles in ROLES.items()}


def results(measured: dict[str, Measured], setting: Setting) -> dict[str, Spread]:
    """Return megabytes, seconds, and megabytes per second, of both levels."""
    found = {"comigs_s": spread(measured[_name("experts", 2)].seconds)}
    for role, count in _values(setting).items():
        megabytes = 4 * count / 1e6
        found[f"{role}_mb"] = spread([megabytes])
        for processes in COUNTS:
            seconds = measured[_name(role, processes)].seconds
            found[f"ring.{processes}.{role}_s"] = spread(seconds)
            found[f"ring.{processes}.{role}_mb_per_s"] = rate(megabytes, seconds)
    return found
