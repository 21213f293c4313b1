"""The configuration of `python -m comigs_mlx.train`; a resumed run keeps its own."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from comigs_mlx.config import from_dict, given, group, option, read_yaml
from comigs_mlx.errors import ConfigError
from comigs_mlx.options import (
    DataOptions,
    ExpertOptions,
    PrivacyOptions,
    SavingOptions,
    SharingOptions,
    TrainingOptions,
)

CHANGEABLE = {
    "run",
    "resume",
    "steps",
    "save_every",
    "report_every",
    "keep",
    "learning_rate",
    "report_to",
    "token_cache",
    "memory_limit",
    *(field.name for field in dataclasses.fields(SharingOptions)),
    *(field.name for field in dataclasses.fields(PrivacyOptions)),
}
"""Options that may differ from the run's own when it is resumed."""

PATHS = {"model", "data"}
"""Options that may be a file or folder on this device."""

DEMO = "demo"
"""Model and text that are embedded; a folder of that name is `./demo`."""

MEMORY_GB = (0.1, 100_000)
"""Least and most that `--memory-limit` accepts."""


@dataclass(frozen=True)
class TrainConfig:
    """Train a personal mixture of LoRA experts on text that stays on this device.

    Experts learn from the training text; in turn with them, the router that decides for
    each token which expert speaks learns from validation text. With no flags at all it
    trains the embedded demo model on demo text.

      python -m comigs_mlx.train --data ~/Notes --run runs/notes
      python -m comigs_mlx.train --run runs/notes --resume
      python -m comigs_mlx.train --model mlx-community/Llama-3.2-1B-Instruct-4bit \\
          --data ~/Notes --run runs/llama --grad-checkpoint
      python -m comigs_mlx.train --data ~/Notes --run runs/notes \\
          --federation hf://you/notes --participant ann --rounds 20
    """

    model: str = option(
        "demo",
        "base model: a Hugging Face id, a folder, or demo (SmolLM2-135M-Instruct)",
        "ID|PATH",
    )
    run: str | None = option(
        None, "folder of the run (default: runs/ and the name of the data)", "DIR"
    )
    resume: bool = option(False, "continue the run exactly where it was last saved")
    report_to: Literal["wandb", "swanlab", "trackio"] | None = option(
        None, "also log metrics with this package, where it is installed"
    )
    memory_limit: float | None = option(
        None,
        "memory for MLX's arrays, in GB (10^9 bytes): near it, MLX finishes running "
        "work and gives back unused buffers before it takes more; a guideline, not a "
        "wall, and much slower when too low (default: MLX's own)",
        "GB",
    )
    data: DataOptions = group(DataOptions)
    experts: ExpertOptions = group(ExpertOptions)
    training: TrainingOptions = group(TrainingOptions)
    saving: SavingOptions = group(SavingOptions)
    sharing: SharingOptions = group(SharingOptions)
    privacy: PrivacyOptions = group(PrivacyOptions)

    def problems(self) -> Iterator[str]:
        """One sentence for each value that cannot work."""
        limit, (least, most) = self.memory_limit, MEMORY_GB
        if limit is not None and not least <= limit <= most:
            yield f"--memory-limit {limit} must be from {least} to {most} (GB)"

    @property
    def folder(self) -> Path:
        """The run's folder."""
        if self.run is not None:
            return Path(self.run).expanduser()
        data = local(self.data.data) or Path(self.data.data)
        name = data.name or "run"
        return Path("runs") / name.replace(":", "-").removesuffix(".txt")


def train_config(argv: Sequence[str] | None = None) -> TrainConfig:
    """The configuration from flags, `--config` and, with `--resume`, the run itself.

    In a federation the steps follow from its rounds.

    Raises:
        ConfigError: If an option is wrong, or differs from the resumed run's.
    """
    values = given(TrainConfig, "comigs_mlx.train", argv)
    for name in PATHS & values.keys():
        if isinstance(values[name], str):
            values[name] = from_anywhere(values[name])
    config = from_dict(TrainConfig, values)
    if config.resume:
        config = from_dict(TrainConfig, {**_saved(config, values), **values})
    return config if config.sharing.federation is None else _by_rounds(config, values)


def _saved(config: TrainConfig, values: Mapping[str, Any]) -> dict[str, Any]:
    """The options of the run to resume, which `values` may change only in part."""
    file = config.folder / "config.yaml"
    if not file.is_file():
        raise ConfigError(f"nothing to resume: there is no run at {config.folder}")
    saved = read_yaml(file)
    changed = [
        f"--resume continues the run as it was: --{name.replace('_', '-')} is "
        f"{saved.get(name)!r} there, {value!r} here; drop it or start a new --run"
        for name, value in values.items()
        if name not in CHANGEABLE and not _same(name, saved.get(name), value)
    ]
    if changed:
        raise ConfigError("\n".join(changed))
    return saved


def _same(name: str, saved: Any, value: Any) -> bool:
    """Whether an option is as it was; a file or folder may have moved.

    Of a base model the fingerprint tells whether it is the same one, of text a digest.
    """
    return saved == value or (name in PATHS and local(value) is not None)


def from_anywhere(value: str) -> str:
    """A file or folder that is here by its absolute path; other names as they are.

    Kept as it was typed, a relative path means something else in another folder, and
    `bases/tiny` would be looked up on the Hub there.
    """
    found = None if value == DEMO else local(value)
    return value if found is None else str(found)


def local(value: str) -> Path | None:
    """The absolute path of a file or folder that is here; None for other names."""
    path = Path(os.path.abspath(os.path.expanduser(value)))
    return path if path.exists() else None


def _by_rounds(config: TrainConfig, values: Mapping[str, Any]) -> TrainConfig:
    """The same with the steps of all rounds, and a save at the end of each."""
    sharing, saving = config.sharing, config.saving
    steps = sharing.rounds * sharing.local_steps
    if values.get("steps", steps) != steps:
        raise ConfigError(
            f"--steps {values['steps']} is not --rounds {sharing.rounds} x "
            f"--local-steps {sharing.local_steps}: drop --steps"
        )
    if sharing.local_steps % saving.save_every:
        saving = dataclasses.replace(saving, save_every=sharing.local_steps)
    training = dataclasses.replace(config.training, steps=steps)
    return dataclasses.replace(config, training=training, saving=saving)
