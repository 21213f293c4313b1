"""Estimates how long a training will take from earlier ones on this machine; no MLX."""

from __future__ import annotations

import statistics
from collections.abc import Iterable
from pathlib import Path

from comigs_mlx.config import read_yaml
from comigs_mlx.errors import ComigsError
from comigs_mlx.options import TrainConfig
from comigs_mlx.runs.listing import metrics
from comigs_mlx.runs.place import Place


def tokens(config: TrainConfig) -> int:
    """Count the tokens that all steps of both levels read, at most."""
    training, data = config.training, config.data
    phases = training.steps // training.router_every
    alternating = training.router == "alternating"
    routing = phases * training.router_steps if alternating else 0
    steps = training.steps * training.grad_accumulation + routing
    return steps * data.batch_size * data.seq_len


def seconds(config: TrainConfig, runs: Iterable[Path]) -> tuple[float | None, str]:
    """Estimate how long the steps of a training will take, and say from what.

    Args:
        config: The configuration of the training, as train would be given it.
        runs: Earlier runs on this machine; those of another base model or with another
            `grad_checkpoint` are left out.

    Returns:
        The seconds without loading and saving, None where nothing alike was measured;
        and a sentence on the runs it was estimated from.
    """
    alike = [run for run in runs if _alike(run, config)]
    speeds = [speed for run in alike if (speed := _speed(run)) is not None]
    if not speeds:
        return None, f"no run of {config.model} has been measured on this machine yet"
    speed = statistics.median(speeds)
    basis = f"{speed:,.0f} tokens/s in {len(speeds)} earlier runs of {config.model}"
    return tokens(config) / speed, basis.replace("1 earlier runs", "1 earlier run")


def _alike(run: Path, config: TrainConfig) -> bool:
    try:
        saved = read_yaml(Place(run).config)
    except ComigsError:
        return False
    checkpoint = saved.get("grad_checkpoint", False)
    same_checkpointing = checkpoint == config.training.grad_checkpoint
    return saved.get("model") == config.model and same_checkpointing


def _speed(run: Path) -> float | None:
    """Return the median tokens per second of a run's reports; the first one also
    compiles.
    """
    speeds = [report.get("tokens_per_second") for report in metrics(run)]
    numbers = [
        speed for speed in speeds if isinstance(speed, int | float) and speed > 0
    ]
    return statistics.median(numbers[1:] or numbers) if numbers else None
