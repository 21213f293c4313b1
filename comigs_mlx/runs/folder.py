"""One training run on disk (a public format).

    RUN/config.yaml        the full resolved configuration
    RUN/comigs.json        base model and shape of the mixture
    RUN/generalist/ specialist/ router/     the experts as last saved (`runs.experts`)
    RUN/best/step-N/       the same, of the save with the lowest validation loss
    RUN/state/step-N/      what an exact resume needs (`training.checkpoint`)
    RUN/metrics.jsonl      one object per report, and per pause and its end
    RUN/held_out.jsonl     one object per measurement of held-out text
    RUN/rounds.jsonl       one object per exchange with a federation

A save writes best, then state, then experts. If the process is killed in between,
`load` sees that the experts are of different steps and writes them again from the
newest state.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import shutil
from typing import Any

from comigs_mlx import json_files
from comigs_mlx.config import dump_yaml
from comigs_mlx.errors import RunError
from comigs_mlx.files import (
    replacing_dir,
    set_aside,
    sweep,
    write_json,
    write_text,
)
from comigs_mlx.messages import Say, quiet
from comigs_mlx.model import params
from comigs_mlx.model.base import Base, load_base
from comigs_mlx.model.mixture import Mixture
from comigs_mlx.runs import description, experts
from comigs_mlx.runs.gain import Gain
from comigs_mlx.runs.place import Place, add_line
from comigs_mlx.training import checkpoint
from comigs_mlx.training.records import Boundary, Pause, Report
from comigs_mlx.training.trainer import Trainer

BEST = "best.json"


class RunFolder(Place):
    """A run's folder; opening it reads nothing."""

    def create(
        self,
        config: Any,
        mixture: Mixture,
        base_id: str,
        base: str,
        revision: str | None = None,
        licence: str | None = None,
    ) -> None:
        """Write the run's configuration and description, also when it is resumed.

        Args:
            config: The resolved configuration.
            mixture: The mixture, attached to its model.
            base_id: The name under which the base model was loaded.
            base: The fingerprint of the base model.
            revision: The commit of the base model, if it is of the Hub.
            licence: The name of the base model's licence, where it is known.
        """
        write_text(self.config, dump_yaml(config))
        info = description.describe(mixture, base_id, base, revision, licence)
        write_json(self.info, info)

    def save(
        self, trainer: Trainer, boundary: Boundary, identity: dict[str, Any]
    ) -> None:
        """Save for an exact resume and for use; keep the save as the best if it is.

        Args:
            trainer: The trainer, at a `Boundary`.
            boundary: The boundary that the trainer is at; without a validation loss it
                cannot be the best.
            identity: The values that a resume compares, as `training.checkpoint.save`
                takes them.
        """
        if self._improves(boundary):
            self._save_best(trainer.mixture, boundary)
        checkpoint.save(trainer, self.states, identity, trainer.saving.keep)
        self.write_experts(trainer.mixture, boundary.step)

    def write_experts(self, mixture: Mixture, step: int) -> None:
        """Write the experts and routers in use, as they are after `step`."""
        experts.write(self.path, mixture, self._base_id(), step)

    def _base_id(self) -> str:
        return description.base_model(self.read_info())[0]

    def _improves(self, boundary: Boundary) -> bool:
        """Tell whether this is the best save, or the best one made again."""
        if boundary.valid_loss is None or not math.isfinite(boundary.valid_loss):
            return False
        best = self.best()
        return best is None or boundary.valid_loss < best[1] or best[0] == boundary.step

    def _save_best(self, mixture: Mixture, boundary: Boundary) -> None:
        folder = self.path / "best" / f"step-{boundary.step:07d}"
        with replacing_dir(folder) as temporary:
            experts.write(temporary, mixture, self._base_id(), boundary.step)
            write_json(temporary / BEST, dataclasses.asdict(boundary))
        self._prune_best(boundary.step)

    def _prune_best(self, step: int) -> None:
        for folder in checkpoint.saves(self.path / "best"):
            if folder.name != f"step-{step:07d}":
                shutil.rmtree(folder, ignore_errors=True)

    def tidy(self, keep: int) -> None:
        """Remove what a killed process left: temporary files and saves too many."""
        sweep(self.path)
        checkpoint.prune(self.states, keep)
        if (best := self.best()) is not None:
            self._prune_best(best[0])

    def best(self) -> tuple[int, float] | None:
        """Return step and validation loss of the best save so far, if there is one."""
        losses = []
        for folder in checkpoint.saves(self.path / "best"):
            values = json_files.known(folder / BEST)
            loss, step = values.get("valid_loss"), values.get("step")
            if isinstance(loss, int | float) and type(step) is int:
                losses.append((loss, step))
        if not losses:
            return None
        loss, step = min(losses)
        return step, loss

    def add_metrics(self, report: Report) -> None:
        """Append one line to metrics.jsonl."""
        add_line(self.metrics, dataclasses.asdict(report), finite=False)

    def add_pause(self, pause: Pause) -> None:
        """Append one line on a pause, or on its end, to metrics.jsonl."""
        event = {"event": "resumed", "paused_seconds": round(pause.seconds, 1)}
        if pause.reason is not None:
            event = {"event": "paused", "reason": pause.reason}
        add_line(self.metrics, {"step": pause.step, **event})

    def add_gain(self, step: int, gained: Gain) -> None:
        """Append one line to held_out.jsonl."""
        add_line(self.held_out, {"step": step, **gained.to_dict()})

    def add_round(self, values: dict[str, Any]) -> None:
        """Append one line to rounds.jsonl; `values` have a `step`."""
        add_line(self.rounds, values, finite=False)

    def load(self, best: bool = False, report: Say = quiet) -> tuple[Base, Mixture]:
        """Load the run's base model and attach its experts.

        Args:
            best: Whether to load the best save instead of the last one.
            report: Receives a sentence before each step that takes time.

        Raises:
            ComigsError: If the base model cannot be loaded, is not the one the run was
                trained on, or the run's files do not fit.
        """
        info = self.read_info()
        base_id, _ = description.base_model(info)
        options = description.expert_options(info)
        base = load_base(base_id, report, description.revision(info))
        self.check_base(base.id, base.fingerprint())
        mixture = Mixture(base.model, options)
        self.load_values(mixture, best)
        return base, mixture

    def check_base(self, base_id: str, fingerprint: str) -> None:
        """Raise `RunError` unless the run was trained on the base of `fingerprint`."""
        _, expected = description.base_model(self.read_info())
        if fingerprint != expected:
            raise RunError(
                f"{base_id} is not the base model {self.path} was trained on: its "
                f"fingerprint is {fingerprint[:12]}, the run's {expected[:12]}"
            )

    def load_values(self, mixture: Mixture, best: bool = False) -> int:
        """Put the run's experts and routers into a mixture of the same shape.

        Args:
            mixture: The mixture, attached to the run's base model.
            best: Whether to load the best save instead of the last one.

        Returns:
            The training step of the loaded values.

        Raises:
            RunError: If the run's files are missing, damaged or do not fit.
        """
        if set_aside(self.path):  # by a killed process, or by one that saves right now
            with contextlib.suppress(RunError, OSError), self.in_use():
                pass
        if not best:
            step = experts.read(self.path, mixture)
            return self._repair(mixture) if step is None else step
        if (best_save := self.best()) is None:
            raise RunError(f"{self.path} has no best save yet")
        folder = self.path / "best" / f"step-{best_save[0]:07d}"
        if (step := experts.read(folder, mixture)) is None:
            raise RunError(f"{folder} is incomplete: leave out --best")
        return step

    def _repair(self, mixture: Mixture) -> int:
        """Take the experts of the newest state: a save was interrupted, or goes on.

        They are written again if possible: not while a process trains here, which will
        write them itself, and not on a disk that is full or may only be read.
        """
        if not checkpoint.saves(self.states):
            raise RunError(
                f"{self.path} has no complete experts, and no save in "
                f"{self.states.name}/ to make them from: train it with --resume"
            )
        newest = checkpoint.latest(self.states)
        step: int = checkpoint.read_state(newest)["position"]["step"]
        mixture.model.update(params.unflatten(checkpoint.load_values(newest)))
        with contextlib.suppress(RunError, OSError), self.in_use():
            if checkpoint.latest(self.states) == newest:
                self.write_experts(mixture, step)
        return step
