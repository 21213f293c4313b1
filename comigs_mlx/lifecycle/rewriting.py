"""Writes a run anew with another number of experts, as one change (`runs.versions`)."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import mlx.core as mx

from comigs_mlx.config import dump_yaml, to_dict
from comigs_mlx.errors import RunError
from comigs_mlx.files import write_json, write_text
from comigs_mlx.lifecycle import reshaping
from comigs_mlx.lifecycle.reshaping import Reshaping
from comigs_mlx.messages import Say
from comigs_mlx.model import params
from comigs_mlx.model.base import Base
from comigs_mlx.model.mixture import Mixture
from comigs_mlx.options import TrainConfig
from comigs_mlx.runs import description, experts, versions
from comigs_mlx.runs.folder import BEST, RunFolder
from comigs_mlx.training import checkpoint
from comigs_mlx.training.level import Schedule

DESCRIPTORS = "state/descriptors.safetensors"


def check_saved(folder: RunFolder) -> Path:
    """Return the newest save of a run, which must be that of its experts in use.

    Raises:
        RunError: If there is none; only a training makes one.
    """
    folder.check_exists()
    if not checkpoint.saves(folder.states):
        raise RunError(
            f"{folder.path} has no save in {folder.states.name}/: train it with "
            "--resume first"
        )
    return checkpoint.latest(folder.states)


@dataclasses.dataclass
class Rewriting:
    """A run that is about to change, with its base model and its mixture.

    Attributes:
        folder: The run, which is locked.
        base: Its base model.
        mixture: Its mixture, as it is before the change.
        config: The configuration of the run.
        best: The values of the best save before the change, by path; None if there is
            none.
    """

    folder: RunFolder
    base: Base
    mixture: Mixture
    config: TrainConfig
    best: Mapping[str, mx.array] | None = None

    @classmethod
    def of(cls, folder: RunFolder, say: Say) -> Self:
        """Load a run that has a save.

        Raises:
            ComigsError: If it cannot be loaded.
        """
        check_saved(folder)
        config = folder.read_config()
        base, mixture = folder.load(report=say)
        return cls(folder, base, mixture, config)

    def reshape(self, change: Reshaping) -> None:
        """Put the mixture after a change in the place of the one before it."""
        old, model = self.mixture, self.base.model
        values = params.flatten(params.select(model, params.ROLES))
        if self.folder.best() is not None:
            self.folder.load_values(old, best=True)
            self.best = params.flatten(params.select(model, params.ROLES))
        old.detach()
        self.mixture = Mixture(model, change.options, self.config.training.seed)
        put(self.mixture, change.values(values))

    @contextlib.contextmanager
    def changing(
        self, change: Reshaping, frozen: Sequence[str], command: str, what: str
    ) -> Iterator[Path]:
        """Let the run be what it is after a change; `reshape` was called before.

        Yields the folder of the new files, into which the block may write more; the
        change is decided at its end, and not at all after an exception.

        Args:
            change: The change.
            frozen: The names of the experts that do not learn from now on.
            command: The name of the command that makes the change.
            what: A sentence on it.
        """
        newest = check_saved(self.folder)
        state = checkpoint.read_state(newest)
        step = state["position"]["step"]
        training = dataclasses.replace(self.config.training, frozen=",".join(frozen))
        config = dataclasses.replace(
            self.config, experts=change.options, training=training
        )
        with versions.changing(self.folder.path, command, step, what) as new:
            write_text(new / self.folder.config.name, dump_yaml(config))
            info = self.folder.read_info()
            base = (*description.base_model(info), description.revision(info))
            licence = description.licence(info)
            info = description.describe(self.mixture, *base, licence)
            write_json(new / self.folder.info.name, info)
            self._write_save(newest, state, change, new)
            for name in (self.folder.metrics.name, DESCRIPTORS):
                versions.copy_unchanged(self.folder.path, new, name)
            yield new

    def _write_save(
        self,
        newest: Path,
        state: Mapping[str, Any],
        change: Reshaping,
        new: Path,
    ) -> None:
        """Write what a resume needs, the best save, and the experts in use.

        Args:
            newest: The newest save of the run.
            state: The JSON part of it.
            change: The change.
            new: The folder to write into.
        """
        mixture = self.mixture
        values = checkpoint.load_values(newest)
        put(mixture, changed := change.values(values))
        experts.write(new, mixture, self.base.id, state["position"]["step"])
        states = checkpoint.load_optimizers(newest)
        states = reshaping.optimizers(states, values, changed, change)
        folder = new / self.folder.states.name / newest.name
        told = self._told(state, change)
        checkpoint.rewrite(folder, told, changed, states)
        best = self.folder.best()
        if best is not None and self.best is not None:
            name = f"best/step-{best[0]:07d}"
            put(mixture, change.values(self.best))
            experts.write(new / name, mixture, self.base.id, best[0])
            versions.copy_unchanged(self.folder.path, new, f"{name}/{BEST}")
            put(mixture, changed)

    def _told(self, state: Mapping[str, Any], change: Reshaping) -> dict[str, Any]:
        """Return the JSON part of a save after the change."""
        position = dict(state["position"])
        for name in ("expert_sums", "router_sums"):
            sums = position[name]
            position[name] = {**sums, "share": change.shares(sums["share"])}
        experts = to_dict(self.mixture.options)
        identity = {**state["identity"], "experts": experts}
        told = {**state, "position": position, "identity": identity}
        if change.fresh:
            training = self.config.training
            anew = Schedule(training.steps, position["step"])
            rate = {"learning_rate": training.learning_rate}
            told["schedule"] = {**dataclasses.asdict(anew), **rate}
        return told


def put(mixture: Mixture, values: Mapping[str, mx.array]) -> None:
    """Give a mixture these values, which are all that it has.

    Raises:
        RunError: If names or shapes differ; nothing is changed then.
    """
    own = params.flatten(params.select(mixture.model, params.ROLES))
    if {p: a.shape for p, a in own.items()} != {p: a.shape for p, a in values.items()}:
        raise RunError("the experts have other names or shapes than the run says")
    mixture.model.update(params.unflatten(dict(values)))
    mx.eval(dict(values))
