"""The options of `python -m comigs_mlx.simulate`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from comigs_mlx.config import configured, group, like, option
from comigs_mlx.errors import ConfigError
from comigs_mlx.federation.participant.options import InitConfig, wrong_norms
from comigs_mlx.options import (
    DataOptions,
    ExpertOptions,
    MacOptions,
    TrainingOptions,
)


@dataclass(frozen=True)
class RoundOptions:
    """Rounds, and who takes part in them."""

    rounds: int = option(20, "rounds", "N")
    local_steps: int = option(10, "expert steps of each participant in a round", "N")
    participation: float = option(
        1.0, "share of the participants in each round, drawn anew", "SHARE"
    )
    dropout: float = option(
        0.0, "chance that a participant's contribution is lost, each round", "CHANCE"
    )
    encoding: Literal["fp32", "fp16", "int8"] = option("fp32", "of contributions")
    aggregator: str | None = option(
        None,
        "an aggregator, with options as in sync init (default: the method's own)",
        "NAME[:key=value,...]",
    )
    outsized: Literal["clip", "refuse", "off"] = like(InitConfig, "outsized", "off")
    norm_factor: float | None = like(InitConfig, "norm_factor")

    def problems(self) -> Iterator[str]:
        """Yield one sentence for each value that cannot work."""
        for name in ("rounds", "local_steps"):
            if (value := getattr(self, name)) < 1:
                yield f"--{name.replace('_', '-')} {value} must be at least 1"
        if not 0 < self.participation <= 1:
            yield f"--participation {self.participation} must be above 0, at most 1"
        if not 0 <= self.dropout < 1:
            yield f"--dropout {self.dropout} must be at least 0, below 1"
        if self.aggregator is not None:
            from comigs_mlx.federation.aggregation.aggregate import misnamed

            yield from misnamed(self.aggregator)
        yield from wrong_norms(self.outsized, self.norm_factor)


@dataclass(frozen=True)
class ShapeOptions:
    """The experts; a method says how many, and which of them are shared."""

    rank: int = like(ExpertOptions, "rank")
    alpha: float = like(ExpertOptions, "alpha")
    scaling: Literal["rslora", "lora"] = like(ExpertOptions, "scaling")
    top_k: int = like(ExpertOptions, "top_k")
    router_type: str = like(ExpertOptions, "router_type")
    num_layers: int = like(ExpertOptions, "num_layers")
    attention_lora: bool = like(ExpertOptions, "attention_lora")

    def problems(self) -> Iterator[str]:
        """Yield one sentence for each value that cannot work."""
        yield from self.experts(1, 1).problems()

    def experts(self, generalists: int, specialists: int) -> ExpertOptions:
        """Return these options for so many experts; top-k is lowered if they are
        fewer.
        """
        total = generalists + specialists
        return ExpertOptions(
            generalists,
            specialists,
            min(self.top_k, total) if total > 1 else 1,
            self.rank,
            self.alpha,
            self.scaling,
            self.router_type,
            self.num_layers,
            self.attention_lora,
        )


@dataclass(frozen=True)
class LearningOptions:
    """How participants learn."""

    learning_rate: float = like(TrainingOptions, "learning_rate")
    weight_decay: float = like(TrainingOptions, "weight_decay")
    router: Literal["alternating", "joint", "none"] | None = option(
        None, "in place of how a method trains its routers, where it has any"
    )
    router_split: Literal["valid", "train"] | None = option(
        None, "in place of the text that a method's alternating routers learn from"
    )
    router_every: int = like(TrainingOptions, "router_every")
    router_steps: int = like(TrainingOptions, "router_steps")
    balance_weight: float = like(TrainingOptions, "balance_weight")
    generalist_importance: float = like(TrainingOptions, "generalist_importance")
    batch_size: int = like(DataOptions, "batch_size", 64)
    seq_len: int = like(DataOptions, "seq_len")
    token_cache: bool = like(DataOptions, "token_cache")

    def problems(self) -> Iterator[str]:
        """Yield one sentence for each value that cannot work."""
        yield from self.training(1, 0).problems()
        yield from DataOptions("", self.batch_size, self.seq_len).problems()

    def training(self, steps: int, seed: int, accumulation: int = 1) -> TrainingOptions:
        """Return the options of a trainer with so many expert steps."""
        return TrainingOptions(
            steps,
            self.learning_rate,
            self.weight_decay,
            router=self.router or "alternating",
            router_every=self.router_every,
            router_steps=self.router_steps,
            balance_weight=self.balance_weight,
            generalist_importance=self.generalist_importance,
            grad_accumulation=accumulation,
            seed=seed,
        )


@dataclass(frozen=True)
class MeasuringOptions:
    """What is measured, and written."""

    eval_every: int = option(
        5, "rounds between two measurements on test text; the last is one", "ROUNDS"
    )
    test_tokens: int = option(
        0, "measure on this many test tokens a participant at most; 0: all", "N"
    )
    valid_batches: int = option(
        2, "validation batches that a method may choose by (pcl, fdlora)", "N"
    )
    save_every: int = option(5, "rounds between two saves for --resume", "ROUNDS")
    selections: bool = option(
        False,
        "in the end, also measure each kind of expert alone, and the best expert of "
        "each token (oracle)",
    )
    plots: bool = option(True, "draw PNG files, where matplotlib is installed")

    def problems(self) -> Iterator[str]:
        """Yield one sentence for each value that cannot work."""
        for name in ("eval_every", "valid_batches", "save_every"):
            if (value := getattr(self, name)) < 1:
                yield f"--{name.replace('_', '-')} {value} must be at least 1"
        if self.test_tokens < 0:
            yield f"--test-tokens {self.test_tokens} must be at least 0"


@dataclass(frozen=True)
class SimulateConfig:
    """Compare ways of learning together: many participants on one machine.

    Every folder of --users is a participant, with train, valid and test as for train
    (train.txt, valid.txt, test.txt or .jsonl). All methods see the same participants,
    text, steps and seeds. Results go to --out as they come: results.json, .md, .csv,
    a line a round, and plots. On a CPU, --jobs uses the cores better than one process.

      python -m comigs_mlx.simulate --users texts --method local fedavg comigs-1g1s \\
          --seeds 3 --jobs 2 --out results
      python -m comigs_mlx.simulate --out results --worker
      python -m comigs_mlx.simulate --users texts --method comigs-1gxs \\
          --specialists 1,2,4,8 --out results-1gxs
    """

    users: str = option("", "one folder a participant, with train, valid, test", "DIR")
    method: tuple[str, ...] = option(
        ("local", "fedavg", "comigs-1g1s"),
        "methods to compare (files of simulation/methods), or all",
        "NAME",
    )
    out: str = option("", "folder for the results", "DIR")
    model: str = option(
        "demo", "base model: a Hugging Face id, a folder, or demo", "ID|PATH"
    )
    seeds: tuple[int, ...] = option(
        (1,), "one number: so many seeds, from 0; several: those seeds", "N"
    )
    resume: bool = option(
        False, "go on where a killed simulation stopped; methods and seeds may be added"
    )
    memory_limit: float | None = option(
        None,
        "memory for what participants have learnt; the rest lies in files of --out "
        "(default: a third of the machine's, shared by the --jobs)",
        "GB",
    )
    cpu_streams: int = option(
        1,
        "on a Linux CPU: the parts that a batch is computed in, side by side; the same "
        "number, the same bits, on however many cores",
        "N",
    )
    jobs: int = option(
        1,
        "processes side by side, each with a base and a share of the cores of its own; "
        "on a CPU, one a core is fastest",
        "N",
    )
    backend: str = option(
        "local",
        "who computes: local (the --jobs take a method and seed each), shared (this "
        "process) or ray (the --jobs are actors of a cluster and share out the "
        "participants of a round; ray:address=HOST:PORT)",
        "NAME[:key=value,...]",
    )
    worker: bool = option(
        False,
        "join in: take methods and seeds of --out that nobody computes yet, on any "
        "machine that sees the folder",
    )
    caffeinate: bool = like(MacOptions, "caffeinate")
    participants: str | None = option(
        None,
        "what differs between participants: name: {specialists, generalists, rank, "
        "train_share}",
        "FILE.yaml",
    )
    specialists: tuple[int, ...] = option(
        (), "specialists of each participant, in the order of their names", "N,..."
    )
    sharing: RoundOptions = group(RoundOptions)
    shape: ShapeOptions = group(ShapeOptions)
    learning: LearningOptions = group(LearningOptions)
    measuring: MeasuringOptions = group(MeasuringOptions)

    def problems(self) -> Iterator[str]:
        """Yield one sentence for each value that cannot work."""
        from comigs_mlx.simulation import method

        if not self.users and not self.worker:
            yield "--users DIR is missing: a folder with one folder a participant"
        if not self.out:
            yield "--out DIR is missing: a folder for the results"
        if not self.method:
            yield f"--method is empty: choose {', '.join(method.names())}, or all"
        accepted = {*method.names(), "all"}
        for name in self.method:
            if name.lower() not in accepted:
                choice = ", ".join(method.names())
                yield f"unknown method {name!r}: choose {choice}, or all"
        try:
            configured("worker", self.backend)
        except ConfigError as error:
            yield f"--backend: {error}"
        if self.worker and self.resume:
            yield "--worker joins in and --resume goes on: choose one of them"
        if self.jobs < 1:
            yield f"--jobs {self.jobs} must be at least 1"
        if self.memory_limit is not None and self.memory_limit < 0:
            yield f"--memory-limit {self.memory_limit} must be at least 0"
        if self.cpu_streams < 1:
            yield f"--cpu-streams {self.cpu_streams} must be at least 1"
        if not self.seeds or min(self.seeds) < 0:
            yield "--seeds must be numbers of at least 0"
        if any(count < 0 for count in self.specialists):
            yield "--specialists must be numbers of at least 0"

    @property
    def folder(self) -> Path:
        """The folder of the results."""
        return Path(self.out).expanduser()

    @property
    def seed_list(self) -> list[int]:
        """The seeds themselves, each once."""
        if len(self.seeds) == 1 and self.seeds[0] > 0:
            return list(range(self.seeds[0]))
        return list(dict.fromkeys(self.seeds))

    @property
    def methods(self) -> list[str]:
        """The methods' names, each once, in the order given."""
        from comigs_mlx.simulation import method

        names = [name.lower() for name in self.method]
        if "all" in names:
            names = method.names()
        return list(dict.fromkeys(names))
