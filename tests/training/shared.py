"""`python shared.py OUT NAME,...`: a rank that makes the steps of some settings.

Every rank writes what it holds at the end to OUT/RANK/NAME.npz, and the leader the
results of its steps to OUT/NAME.json. Tests call `steps` themselves for one process.
"""

import dataclasses
import json
import os
import sys
from pathlib import Path

import comigs_mlx  # noqa: F401  isort: skip

import numpy as np

import tests.training.setting as setting
from comigs_mlx.model.gradient_checkpointing import recompute_blocks
from comigs_mlx.options import ExpertOptions, TrainingOptions
from comigs_mlx.training import parallel
from comigs_mlx.training.evaluation import Evaluator
from comigs_mlx.training.level import Level, Task, expert_group, router_group
from comigs_mlx.training.teachers import teacher

ROWS = 5
"""Neither two nor three ranks can share them evenly."""


def experts(router="topk", **more):
    return ExpertOptions(rank=2, specialists=2, router_type=router, **more)


# Name -> experts, options, micro-batches in a step. Plain gradient descent shows the
# gradients themselves.
SETTINGS = {
    "all experts": (ExpertOptions(rank=2), {}, 1),
    "two of three": (experts(top_k=2), {"balance_weight": 3.0}, 1),
    "in two batches": (experts(top_k=1), {"balance_weight": 3.0}, 2),
    "noise": (experts("stochastic"), {}, 1),
    "penalties of tokens": (experts("relu"), {"balance_weight": 3.0}, 1),
    "joint": (experts(top_k=2), {"router": "joint"}, 1),
    "recomputed": (experts(top_k=2), {"grad_checkpoint": True}, 1),
    "adamw": (experts(top_k=2), {"optimizer": "adamw", "learning_rate": 1e-3}, 1),
    "taught": (experts(), {"teach": "losses:weight=2"}, 1),
    "neighbours": (experts(), {"teach": "neighbours:weight=2"}, 1),
}


def batch(seed):
    """A batch whose rows count different numbers of tokens; the last one none."""
    made = setting.batch_of(seed, rows=ROWS)
    mask = made.mask.copy()
    for row in range(ROWS):
        mask[row, 12 - 3 * row :] = 0
    return made._replace(mask=mask)


class Steps:
    """Two steps of each level of a setting, and a measurement."""

    def __init__(self, name, ranks):
        options, given, self.micro = SETTINGS[name]
        chosen = {
            "optimizer": "sgd",
            "learning_rate": 0.1,
            "weight_decay": 0.0,
            **given,
        }
        training = TrainingOptions(**chosen)
        self.mixture = setting.mixture_of(options, std=0.05)
        evaluator = Evaluator(self.mixture, ranks)
        task = Task(
            teacher=teacher(training.teach, evaluator) if training.teach else None
        )
        joint = [router_group(training)] * (training.router == "joint")
        groups = [expert_group(training), *joint]
        self.levels = [Level(self.mixture, groups, training, ranks=ranks)]
        if not joint:
            groups = [router_group(dataclasses.replace(training, warmup=0))]
            self.levels.append(Level(self.mixture, groups, training, task, ranks))
        if training.grad_checkpoint:
            recompute_blocks(self.mixture)
        self.evaluator = evaluator

    def make(self):
        """Make the steps; the results of all of them."""
        results = []
        for number in range(2):
            for level in self.levels:
                batches = [batch([number, i]) for i in range(self.micro)]
                results.append(dataclasses.asdict(level.step(batches, number)))
        score = self.evaluator.score([batch(7), batch(8)])
        results.append({"loss": score.loss, "tokens": score.token_count})
        return results

    def values(self):
        return setting.values(self.mixture)


def main():
    out, names = Path(sys.argv[1]), sys.argv[2].split(",")
    with parallel.opened() as ranks:
        every = {name: Steps(name, ranks) for name in names}
        if ranks.leader:
            for name, steps in every.items():
                (out / f"{name}.json").write_text(json.dumps(steps.make()))
        else:
            ranks.follow()
    folder = out / os.environ["MLX_RANK"]
    folder.mkdir()
    for name, steps in every.items():
        np.savez(folder / f"{name}.npz", **steps.values())


if __name__ == "__main__":
    main()
