"""The options of training, each defined once (see `comigs_mlx.config`).

`TrainConfig` puts the groups together for `python -m comigs_mlx.train`; a resumed run
keeps the options that it was started with.
"""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from comigs_mlx.config import (
    configured,
    from_dict,
    given,
    group,
    like,
    option,
    read_yaml,
)
from comigs_mlx.errors import ConfigError

BATCH, WINDOW, RANK, EXPERTS = 2**16, 2**24, 2**16, 2**10
"""Most sequences in a batch, tokens in one of them, columns of a LoRA matrix and
experts of a kind: beyond any machine, and such that their products can be counted."""


@dataclass(frozen=True)
class Reading:
    """How people's own files become text: chats, mail, tables.

    Attributes:
        me: The names, numbers and addresses of the one who trains, in any case.
        learn_others: Whether other people's words are learnt too.
        learn_answers: Whether another model's answers are learnt, and not the
            questions.
        pause_hours: The hours of silence that end a conversation.
        mail_threads: Whether mail becomes conversations, one for each thread.
        columns: What the columns of tables stand for, such as "text=body".
        redact: Whether secrets are replaced by what they are.
    """

    me: tuple[str, ...] = option(
        (),
        "who you are in chats and mail: all your names, numbers and addresses there, "
        "in any case; only what you wrote is learnt",
        "NAME",
    )
    learn_others: bool = option(
        False, "learn other people's words in chats and mail, too"
    )
    learn_answers: bool = option(
        False,
        "learn the answers in ChatGPT's and Claude's exports, not your questions; "
        "their terms of use may forbid training other models on them",
    )
    pause_hours: float = option(
        6.0, "a chat is cut into conversations at pauses as long as this", "HOURS"
    )
    mail_threads: bool = option(
        False,
        "learn mail as conversations, one for each thread, instead of each mail that "
        "you wrote as a text of its own",
    )
    columns: str = option(
        "",
        "what is learnt of tables (CSV, JSONL, datasets): text=COLUMN, or "
        "prompt=COLUMN,completion=COLUMN, or messages=COLUMN",
        "NAME=COLUMN",
    )
    redact: bool = option(
        False, "replace passwords, keys and card numbers by [REDACTED KIND]"
    )

    def problems(self) -> Iterator[str]:
        """One sentence for each value that cannot work."""
        if self.pause_hours <= 0:
            yield f"--pause-hours {self.pause_hours} must be above 0"
        names = set(self.mapping) - {"tools"}
        known = ({"text"}, {"prompt", "completion"}, {"messages"})
        if self.columns and not (names in known and all(self.mapping.values())):
            yield (
                f"--columns {self.columns}: write text=COLUMN, or prompt=COLUMN,"
                "completion=COLUMN, or messages=COLUMN"
            )

    @property
    def mapping(self) -> dict[str, str]:
        """What `columns` says: mlx-lm's name of a column -> its name in the table."""
        parts = (part.partition("=") for part in self.columns.split(",") if part)
        return {name.strip(): column.strip() for name, _, column in parts}


@dataclass(frozen=True)
class ReadingGiven:
    """How people's own files become text, where not as for the run's own.

    The attributes are those of `Reading`; None stands for what the run says.
    """

    me: tuple[str, ...] | None = like(Reading, "me", None)
    learn_others: bool | None = like(Reading, "learn_others", None)
    learn_answers: bool | None = like(Reading, "learn_answers", None)
    pause_hours: float | None = like(Reading, "pause_hours", None)
    mail_threads: bool | None = like(Reading, "mail_threads", None)
    columns: str | None = like(Reading, "columns", None)
    redact: bool | None = like(Reading, "redact", None)


@dataclass(frozen=True)
class DataOptions:
    """Where the text comes from and how it becomes batches."""

    data: str = option(
        "demo",
        "text to learn from: a folder or file of notes, mail, chats, documents or code "
        "(docs/formats.md lists what is read), a folder or file of JSONL (text, chat "
        "or completions), a Hugging Face dataset id, or demo, demo:reference, "
        "demo:code, demo:journal",
        "PATH|DATASET",
    )
    batch_size: int = option(4, "sequences in a batch", "N", BATCH)
    seq_len: int = option(128, "tokens in a sequence", "TOKENS", WINDOW)
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
    reading: Reading = group(Reading)

    def problems(self) -> Iterator[str]:
        """One sentence for each value that cannot work."""
        yield from _at_least(self, 1, "batch_size", "seq_len")


@dataclass(frozen=True)
class ExpertOptions:
    """The mixture of LoRA experts in each block (DESIGN: the method, exactly)."""

    generalists: int = option(1, "experts shared with other participants", "G", EXPERTS)
    specialists: int = option(1, "experts that stay on this device", "S", EXPERTS)
    top_k: int = option(2, "experts that a token uses in each block", "K")
    rank: int = option(8, "rank of every LoRA pair", "R", RANK)
    alpha: float = option(16.0, "LoRA strength; see --scaling", "A")
    scaling: Literal["rslora", "lora"] = option(
        "rslora", "scale = alpha / sqrt(rank) (rslora) or alpha / rank (lora)"
    )
    router_type: str = option(
        "topk",
        "how tokens find experts (a file of model/routers), with options as "
        "NAME:key=value,key=value",
        "ROUTER",
    )
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
        try:
            configured("router", self.router_type)
        except ConfigError as error:
            yield f"--router-type: {error}"
        if self.num_layers == 0 or self.num_layers < -1:
            yield f"--num-layers {self.num_layers} must be at least 1, or -1 for all"

    def resolved(self) -> ExpertOptions:
        """These options with the default top-k lowered to the number of experts."""
        return dataclasses.replace(self, top_k=min(self.top_k, self.experts))


DECAY = 0.01
"""The weight decay where none is given."""


@dataclass(frozen=True)
class TrainingOptions:
    """Bilevel training: experts on the training text, routers on validation text."""

    steps: int = option(200, "expert steps in all", "N")
    learning_rate: float = option(
        2e-3, "of both optimisers; the experts' falls on a schedule", "LR"
    )
    weight_decay: float = option(DECAY, "decoupled weight decay; adam has none", "WD")
    router: Literal["alternating", "joint", "none"] = option(
        "alternating",
        "alternating: routers learn on validation text, in turn with the experts; "
        "joint: both learn on training text; none: routers stay as they are",
    )
    router_every: int = option(30, "expert steps between two router phases", "N")
    router_steps: int = option(10, "router steps in one phase", "N")
    top_k_from: int = option(
        0, "let top-k grow from K to --top-k over all steps; 0 = it is fixed", "K"
    )
    teach: str = option(
        "",
        "teach the router beside its loss: losses (which experts predict each token "
        "best) or neighbours (what is alike is routed alike), with options as "
        "NAME:key=value,key=value",
        "TEACHER",
    )
    balance_weight: float = option(
        0.01, "weight of the load-balancing loss, used only when top-k < experts", "W"
    )
    generalist_importance: float = option(
        1.0, "factor of the generalists in the load-balancing loss", "F"
    )
    grad_accumulation: int = option(
        1, "batches whose gradients make one step, weighted by their tokens", "N", BATCH
    )
    grad_checkpoint: bool = option(
        False, "recompute each block in the backward pass: less memory, more time"
    )
    seed: int = option(0, "of the initial values and the order of the text", "N")
    optimizer: Literal["adamw", "adam", "sgd", "adafactor", "muon"] = option(
        "adamw",
        "of experts and routers, as mlx_lm names them; each needs a rate of its own",
    )
    lr_schedule: Literal["cosine", "linear", "constant"] = option(
        "cosine",
        "how the experts' learning rate falls, down to a tenth; the routers' stays",
    )
    warmup: int = option(
        0, "steps of each level over which its learning rate rises at first", "N"
    )
    frozen: str = option(
        "",
        "experts that do not learn, such as specialist,specialist-1; of a run that is "
        "there, python -m comigs_mlx.freeze changes it",
        "NAME,...",
    )

    @property
    def frozen_names(self) -> list[str]:
        """The names of the experts that do not learn."""
        return [name.strip() for name in self.frozen.split(",") if name.strip()]

    def problems(self) -> Iterator[str]:
        """One sentence for each value that cannot work."""
        counts = ("steps", "router_every", "router_steps", "grad_accumulation")
        yield from _at_least(self, 1, *counts)
        factors = ("weight_decay", "balance_weight", "generalist_importance")
        yield from _at_least(self, 0, "seed", "top_k_from", "warmup", *factors)
        if self.optimizer == "adam" and self.weight_decay not in (0.0, DECAY):
            yield f"--weight-decay {self.weight_decay}: adam has none, adamw has"
        if self.teach:
            yield from self._teach_problems()
        if not 0 < self.learning_rate < math.inf:
            yield f"--learning-rate {self.learning_rate} must be a number above 0"

    def _teach_problems(self) -> Iterator[str]:
        try:
            configured("teacher", self.teach)
        except ConfigError as error:
            yield f"--teach: {error}"
        if self.router != "alternating":
            yield f"--teach needs --router alternating, not {self.router}"


@dataclass(frozen=True)
class SavingOptions:
    """What is written while training, and how often."""

    report_every: int = option(10, "expert steps between two reports", "N")
    save_every: int = option(50, "expert steps between two saves", "N")
    keep: int = option(2, "saves kept in RUN/state for --resume", "K")
    valid_batches: int = option(
        8, "validation batches whose loss chooses the best save", "N"
    )
    patience: int = option(
        0,
        "stop when the validation loss, measured at each save, has not got better so "
        "many times in a row; the best save is kept for --best; 0 = never",
        "N",
    )

    def problems(self) -> Iterator[str]:
        """One sentence for each value that cannot work."""
        yield from _at_least(
            self, 1, "report_every", "save_every", "keep", "valid_batches"
        )
        yield from _at_least(self, 0, "patience")


PERSONAL = (
    "mix your own generalists from the contributions of the round instead of taking "
    "what everybody receives: by_loss trusts each the more the lower its loss on your "
    "validation text; the losses stay here, and your next contribution starts from "
    "the mixture"
)


JOIN = (
    "for little text: take the federation's generalists as they are, and let the "
    "router alone learn, on the training text; nothing is contributed, so no "
    "--participant is needed"
)

SPECIALIST_FROM = (
    "start a new run's specialists as copies of the generalists that it pulls, instead "
    "of from nothing: its outputs then begin as the generalist's, not as the base's"
)


@dataclass(frozen=True)
class SharingOptions:
    """Train in a federation: pull, train, contribute, close the round, repeat."""

    federation: str | None = option(
        None,
        "share the generalists through hf://owner/repo, hf://owner/repo@branch or a "
        "folder; base model and shape of the experts are the federation's",
        "URI",
    )
    participant: str | None = option(
        None, "your name in the federation: a-z, 0-9 and -", "NAME"
    )
    rounds: int = option(
        20, "rounds in all; a run has rounds x local-steps expert steps", "R"
    )
    local_steps: int = option(10, "expert steps in a round", "N")
    router_refresh: int = option(
        0,
        "router steps after each pull, because the router has met new generalists",
        "N",
    )
    wait: float = option(
        300.0,
        "how long to wait for the others after contributing; then training goes on, "
        "and contributes again",
        "SECONDS",
    )
    personal: Literal["by_loss"] | None = option(None, PERSONAL)
    join: bool = option(False, JOIN)
    specialist_from: Literal["generalist"] | None = option(None, SPECIALIST_FROM)
    trust: bool = option(
        False,
        "accept what was changed in the federation since this run took part, and what "
        "cannot be verified, as it is at the start: look at sync status first",
    )

    def problems(self) -> Iterator[str]:
        """One sentence for each value that cannot work."""
        yield from _at_least(self, 1, "rounds", "local_steps")
        yield from _at_least(self, 0, "router_refresh", "wait")
        named = self.participant is not None or self.join
        if self.federation is not None and not named:
            yield "--participant NAME is missing: your name in the federation"
        if self.federation is None and self.participant is not None:
            yield "--participant needs --federation URI"
        if self.federation is None and self.personal is not None:
            yield "--personal needs --federation URI"
        yield from self._joining_problems()

    def _joining_problems(self) -> Iterator[str]:
        if self.federation is None:
            if self.join:
                yield "--join needs --federation URI: whose generalists it joins"
            if self.specialist_from is not None:
                yield (
                    "--specialist-from generalist needs --federation URI: the "
                    "generalist of a new run alone has learnt nothing"
                )
        if self.join and self.specialist_from is not None:
            yield (
                "--join trains no specialist, and a router learns nothing from two "
                "equal experts: leave out --specialist-from, or --join"
            )
        if self.join and self.router_refresh:
            yield "--join trains the router anyway: leave out --router-refresh"


@dataclass(frozen=True)
class PrivacyOptions:
    """Differential privacy of contributions: updates clipped, and noise on them."""

    dp_clip: float | None = option(None, "longest update; with --dp-noise", "C")
    dp_noise: float | None = option(
        None, "noise in units of --dp-clip; both are remembered by the run", "SIGMA"
    )
    dp_delta: float = option(1e-5, "delta of the (epsilon, delta) stated", "D")

    def problems(self) -> Iterator[str]:
        """One sentence for each value that cannot work."""
        if (self.dp_clip is None) != (self.dp_noise is None):
            yield "--dp-clip and --dp-noise go together: give both"
        for name in ("dp_clip", "dp_noise"):
            if (value := getattr(self, name)) is not None and not 0 < value < math.inf:
                yield f"--{name.replace('_', '-')} {value} must be a number above 0"
        if not 0 < self.dp_delta < 1:
            yield f"--dp-delta {self.dp_delta} must be between 0 and 1"


@dataclass(frozen=True)
class MacOptions:
    """A Mac in daily life: sleep, battery, heat, the GPU watchdog (docs/mac.md)."""

    caffeinate: bool = option(
        True,
        "on a Mac: keep it awake until the run has ended (the display may sleep; a "
        "closed lid sleeps all the same)",
    )
    pause_on_battery: int = option(
        30,
        "on a Mac: save and pause while it draws from a battery that is below this, "
        "and go on by itself; 0 = never",
        "PERCENT",
        100,
    )
    pause_on_heat: bool = option(
        True,
        "on a Mac: save and pause while its thermal state is serious or critical, and "
        "go on by itself",
    )
    pause_in_low_power_mode: bool = option(
        True,
        "on a Mac: save and pause while Low Power Mode is on, and go on by itself",
    )
    retries: int = option(
        1,
        "times to go on by itself from the last save after macOS has ended work on "
        "the GPU, because it kept the display from being drawn or took too long",
        "N",
    )
    notify: bool = option(
        True,
        "on a Mac: a notification when a run of more than a minute is done or has "
        "failed, and at each closed round: the run's name, and no text",
    )

    peer_timeout: float = option(
        600.0,
        "on several Macs: the longest time of a step, and of silence of another Mac, "
        "before all of them end (docs/distributed.md)",
        "SECONDS",
    )

    def problems(self) -> Iterator[str]:
        """One sentence for each value that cannot work."""
        yield from _at_least(self, 0, "pause_on_battery", "retries")
        yield from _at_least(self, 10, "peer_timeout")


def _at_least(options: Any, least: int, *names: str) -> Iterator[str]:
    for name in names:
        value = getattr(options, name)
        if not least <= value < math.inf:
            flag = "--" + name.replace("_", "-")
            limit = "finite" if value == math.inf else f"at least {least}"
            yield f"{flag} {value} must be {limit}"


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


CHANGEABLE = {
    "run",
    "resume",
    "steps",
    "save_every",
    "report_every",
    "keep",
    "patience",
    "learning_rate",
    "grad_checkpoint",
    "report_to",
    "token_cache",
    "memory_limit",
    *(field.name for field in dataclasses.fields(SharingOptions)),
    *(field.name for field in dataclasses.fields(PrivacyOptions)),
    *(field.name for field in dataclasses.fields(MacOptions)),
} - {"join", "specialist_from"}
"""Options that may differ from the run's own when it is resumed."""

PATHS = {"model", "data", "init_adapter"}
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
      python -m comigs_mlx.train --data ~/Notes --run runs/notes \\
          --federation hf://you/notes --join
      python -m comigs_mlx.train --data ~/Notes --run runs/notes \\
          --init-adapter ~/adapters/mine
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
    init_adapter: str | None = option(
        None,
        "begin a new run with a LoRA adapter that was trained elsewhere: the folder or "
        "Hugging Face id of one of mlx-lm or PEFT, of at most --rank",
        "PATH|ID",
    )
    init_as: Literal["generalist", "specialist"] = option(
        "specialist", "the role whose first expert begins as --init-adapter"
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
    mac: MacOptions = group(MacOptions)

    def problems(self) -> Iterator[str]:
        """One sentence for each value that cannot work."""
        limit, (least, most) = self.memory_limit, MEMORY_GB
        if limit is not None and not least <= limit <= most:
            yield f"--memory-limit {limit} must be from {least} to {most} (GB)"
        yield from self._init_problems()
        if self.sharing.join:
            if self.training.router != "joint":
                yield "--join trains the router alone: leave out --router"
            if self.privacy.dp_noise is not None:
                yield "--join contributes nothing: leave out --dp-clip and --dp-noise"
        names = self.experts.names
        for name in self.training.frozen_names:
            if name not in names:
                yield f"--frozen {name}: the experts are {', '.join(names)}"

    def _init_problems(self) -> Iterator[str]:
        if self.init_adapter is None:
            return
        if not getattr(self.experts, f"{self.init_as}s"):
            yield f"--init-as {self.init_as}: there is none, raise --{self.init_as}s"
        if self.init_as == "generalist" and self.sharing.federation is not None:
            yield (
                "--init-as generalist: the federation's generalist takes its place; "
                "begin as the specialist, or without --federation"
            )
        if self.init_as == "specialist" and self.sharing.specialist_from is not None:
            yield (
                "--init-adapter and --specialist-from both say what the specialist "
                "begins as: leave out one of them"
            )

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
    if values.get("join") is True:
        values = {"router": "joint", **values}
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
