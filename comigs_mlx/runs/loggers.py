"""Sends metrics to an experiment tracker, if the user asks for one that is
installed.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import os
from collections.abc import Callable, Iterator
from typing import Any

from comigs_mlx.errors import ConfigError

Log = Callable[[dict[str, Any]], None]

KEPT_HERE = {"wandb": ("WANDB_MODE", "offline"), "swanlab": ("SWANLAB_MODE", "offline")}
"""Trackers that would send metrics to a server; this setting keeps them on the
device unless the user has set it otherwise.
"""


def check_installed(package: str | None) -> None:
    """Raise `ConfigError`, with the install command, if a tracker is not installed."""
    if package is not None and importlib.util.find_spec(package) is None:
        raise ConfigError(
            f"--report-to {package}: not installed: pip install {package}"
        )


@contextlib.contextmanager
def logger(package: str | None, run: str, config: dict[str, Any]) -> Iterator[Log]:
    """Give a function that logs one report.

    Args:
        package: The tracker: wandb, swanlab or trackio; None logs nothing.
        run: The name of the run.
        config: The configuration of the run, in flat form.

    Raises:
        ConfigError: If the package is not installed.
    """
    if package is None:
        yield lambda metrics: None
        return
    check_installed(package)
    if package in KEPT_HERE:
        os.environ.setdefault(*KEPT_HERE[package])
    tracker = importlib.import_module(package)
    name = "experiment_name" if package == "swanlab" else "name"
    tracker.init(project="comigs_mlx", config=config, **{name: run})
    try:
        yield lambda metrics: tracker.log(flat(metrics), step=metrics["step"])
    finally:
        tracker.finish()


def flat(metrics: dict[str, Any]) -> dict[str, float]:
    """Flatten a report to `expert_share/<name>` entries, without missing values."""
    shares = metrics["expert_share"].items()
    merged = {**metrics, **{f"expert_share/{name}": share for name, share in shares}}
    return {k: v for k, v in merged.items() if isinstance(v, (int, float))}
