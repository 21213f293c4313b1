"""Makes training steps of a mixture, ours or naive, as our trainer makes them."""

from __future__ import annotations

from collections.abc import Callable

from comigs_mlx.benchmark import naive
from comigs_mlx.benchmark.measure import Variant
from comigs_mlx.benchmark.setting import Setting
from comigs_mlx.model.mixture import Mixture
from comigs_mlx.options import TrainingOptions
from comigs_mlx.training.level import Group, Level, expert_group, router_group


def name(experts: int) -> str:
    """Return the variant's name: CoMiGS with this many experts."""
    return f"comigs, {experts} expert{'s' * (experts > 1)}"


def naive_name(experts: int) -> str:
    """Return the variant's name: the naive mixture of this many experts."""
    return f"naive, {experts} expert{'s' * (experts > 1)}"


def expert_step(setting: Setting, experts: int) -> Variant:
    """Make steps of the experts."""
    return _step(setting, setting.mixture(experts), expert_group)


def naive_expert_step(setting: Setting, experts: int) -> Variant:
    """Make steps of the experts, of which each runs the whole MLP."""
    mixture = naive.mixture(setting.twin(), setting.expert_options(experts))
    return _step(setting, mixture, expert_group)


def router_step(setting: Setting, experts: int) -> Variant:
    """Make steps of the routers."""
    return _step(setting, setting.mixture(experts), router_group)


def _step(
    setting: Setting, mixture: Mixture, group: Callable[[TrainingOptions], Group]
) -> Variant:
    options = TrainingOptions()
    level = Level(mixture, [group(options)], options)

    def run(index: int) -> None:
        level.step([setting.batch(index)])

    return Variant(run)
