"""The options of training, each defined once (see `comigs_mlx.config`)."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from comigs_mlx import registry
from comigs_mlx.config import from_dict, given, group, option, read_yaml
from comigs_mlx.errors import ConfigError


@dataclass(frozen=True)
class DataOptions:
    """Where the text comes from and how it becomes batches."""

    data: str = option(
        "demo",
        "text to learn from: a folder or file of .txt/.md, a folder or file of JSONL "
        "(text, chat or completions), a Hugging Face dataset id, or demo, "
        "demo:reference, demo:code, demo:journal",
        "PATH|DATASET",
    )
    batch_size: int = option(4, "sequences in a batch", "N")
    seq_len: int = option(128, "tokens in a sequence", "TOKENS")
    packing: bool = option(
        False,
        "cut text into consecutive windows, each seen once an epoch, instead of "
        "random windows",
    )
    mask_prompt: bool = option(
        False, "chat and completions: learn from the assistant's tokens only"
    )
    token_cache: bool = option(
        True,
        "keep the text's tokens in ~/.cache/comigs_mlx/tokens (or under "
        "$XDG_CACHE_HOME; readable by you alone, at most 4 GB), so that the next start "
        "need not tokenise again; they never leave this device",
    )

    def problems(self) -> Iterator[str]:
        """One sentence for each value that cannot work."""
        yield from _at_least(self, 1, "batch_size", "seq_len")


@dataclass(frozen=True)
class ExpertOptions:
    """The mixture of LoRA experts in each block (DESIGN: the method, exactly)."""

    generalists: int = option(1, "experts shared with other participants", "G")
    specialists: int = option(1, "experts that stay on this device", "S")
    top_k: int = option(2, "experts that a token uses in each block", "K")
    rank: int = option(8, "rank of every LoRA pair", "R")
    alpha: float = option(16.0, "LoRA strength; see --scaling", "A")
    scaling: Literal["rslora", "lora"] = option(
        "rslora", "scale = alpha / sqrt(rank) (rslora) or alpha / rank (lora)"
    )
    router_type: str = option("topk", "routing function (a file of model/routers)")
    num_layers: int = option(-1, "adapt the last N blocks; -1 = all", "N")
    attention_lora: bool = option(
        True, "one shared LoRA pair on every attention linear"
    )

    @property
    def experts(self) -> int:
        """Number of experts E; 0..G-1 are generalists, the rest specialists."""
        return self.generalists + self.specialists

    @property
    def scale(self) -> float:
        """Final multiplier of every low-rank product."""
        root = math.sqrt(self.rank) if self.scaling == "rslora" else self.rank
        return self.alpha / root

    @property
    def names(self) -> list[str]:
        """Names of the experts in order: generalist, generalist-1, ..., specialist."""
        return [
            role if i == 0 else f"{role}-{i}"
            for role, count in (
                ("generalist", self.generalists),
                ("specialist", self.specialists),
            )
            for i in range(count)
        ]

    def problems(self) -> Iterator[str]:
        """One sentence for each value that cannot work."""
        yield from _at_least(self, 0, "generalists", "specialists")
        yield from _at_least(self, 1, "rank", "top_k")
        if self.experts < 1:
            yield "--generalists and --specialists are both 0: need at least one expert"
        elif self.top_k > self.experts and self.top_k != 2:
            yield (
                f"--top-k {self.top_k} is more than the {self.experts} experts: "
                "lower it, or raise --generalists or --specialists"
            )
        if not 0 < self.alpha < math.inf:
            yield f"--alpha {self.alpha} must be a number above 0"
        if self.router_type not in (known := registry.names("router")):
            yield f"--router-type {self.router_type}: choose {', '.join(known)}"
        if self.num_layers == 0 or self.num_layers < -1:
            yield f"--num-layers {self.num_layers} must be at least 1, or -1 for all"

    def resolved(self) -> ExpertOptions:
        """These options with the default top-k lowered to the number of experts."""
        return dataclasses.replace(self, top_k=min(self.top_k, self.experts))


@dataclass(frozen=True)
class TrainingOptions:
    """Bilevel training: experts on the training text, routers on validation text."""

    steps: int = option(200, "expert steps in all", "N")
    learning_rate: float = option(
        2e-3, "of both optimisers; the experts' falls to a tenth on a cosine", "LR"
    )
    weight_decay: float = option(0.01, "AdamW's decoupled weight decay", "WD")
    router: Literal["alternating", "joint", "none"] = option(
        "alternating",
        "alternating: routers learn on validation text, in turn with the experts; "
        "joint: both learn on training text; none: routers stay as they are",
    )
    router_every: int = option(30, "expert steps between two router phases", "N")
    router_steps: int = option(10, "router steps in one phase", "N")
    balance_weight: float = option(
        0.01, "weight of the load-balancing loss, used only when top-k < experts", "W"
    )
    generalist_importance: float = option(
        1.0, "factor of the generalists in the load-balancing loss", "F"
    )
    grad_accumulation: int = option(
        1, "batches whose gradients make one step, weighted by their tokens", "N"
    )
    grad_checkpoint: bool = option(
        False, "recompute each block in the backward pass: less memory, more time"
    )
    seed: int = option(0, "of the initial values and the order of the text", "N")

    def problems(self) -> Iterator[str]:
        """One sentence for each value that cannot work."""
        counts = ("steps", "router_every", "router_steps", "grad_accumulation")
        yield from _at_least(self, 1, *counts)
        factors = ("weight_decay", "balance_weight", "generalist_importance")
        yield from _at_least(self, 0, "seed", *factors)
        if not 0 < self.learning_rate < math.inf:
            yield f"--learning-rate {self.learning_rate} must be a number above 0"


@dataclass(frozen=True)
class SavingOptions:
    """What is written while training, and how often."""

    report_every: int = option(10, "expert steps between two reports", "N")
    save_every: int = option(50, "expert steps between two saves", "N")
    keep: int = option(2, "saves kept in RUN/state for --resume", "K")
    valid_batches: int = option(
        8, "validation batches whose loss chooses the best save", "N"
    )

    def problems(self) -> Iterator[str]:
        """One sentence for each value that cannot work."""
        yield from _at_least(
            self, 1, "report_every", "save_every", "keep", "valid_batches"
        )


def _at_least(options: Any, least: int, *names: str) -> Iterator[str]:
    for name in names:
        value = getattr(options, name)
        if not least <= value < math.inf:
            flag = "--" + name.replace("_", "-")
            limit = "finite" if value == math.inf else f"at least {least}"
            yield f"{flag} {value} must be {limit}"


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
}
"""Options that may differ from the run's own when it is resumed."""

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
        name = Path(self.data.data.rstrip("/")).name or "run"
        return Path("runs") / name.replace(":", "-").removesuffix(".txt")


def train_config(argv: Sequence[str] | None = None) -> TrainConfig:
    """The configuration from flags, `--config` and, with `--resume`, the run itself.

    Raises:
        ConfigError: If an option is wrong, or differs from the resumed run's.
    """
    values = given(TrainConfig, "comigs_mlx.train", argv)
    config = from_dict(TrainConfig, values)
    if not config.resume:
        return config
    saved_file = config.folder / "config.yaml"
    if not saved_file.is_file():
        raise ConfigError(f"nothing to resume: there is no run at {config.folder}")
    saved = read_yaml(saved_file)
    changed = [
        f"--resume continues the run as it was: --{name.replace('_', '-')} is "
        f"{saved.get(name)!r} there, {value!r} here; drop it or start a new --run"
        for name, value in values.items()
        if name not in CHANGEABLE and saved.get(name) != value
    ]
    if changed:
        raise ConfigError("\n".join(changed))
    return from_dict(TrainConfig, {**saved, **values})


def parse_experts(text: str) -> str | tuple[float, ...]:
    """`--experts`: a name as it is, or weights such as `0.3,0.7` as numbers."""
    if not any(character.isdigit() for character in text):
        return text
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError as error:
        raise ConfigError(
            f"--experts {text}: expected auto, base, generalist, specialist, or "
            "weights such as 0.3,0.7"
        ) from error
