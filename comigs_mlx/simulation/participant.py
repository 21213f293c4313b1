"""A participant: arrays, optimisers and positions that take turns in one model."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from comigs_mlx.data.batches import BatchSource, training_batches
from comigs_mlx.data.content import Content
from comigs_mlx.expert_shape import split
from comigs_mlx.federation.formats.tensor_source import Array
from comigs_mlx.model import params
from comigs_mlx.model.params import Tree
from comigs_mlx.options import ExpertOptions
from comigs_mlx.runs import generalists
from comigs_mlx.simulation.participants import ParticipantData
from comigs_mlx.training.records import Report
from comigs_mlx.training.trainer_state import Supply, TrainerState

APART = 2**40
"""Between the seeds of two stages: larger than any participant's."""


@dataclass
class Participant:
    """What is one participant's own.

    Attributes:
        data: Its text and device.
        options: Shape of its experts.
        seed: Of its specialists and routers, and of the order of its text.
        values: Experts, attention LoRA and routers.
        progress: Stage -> optimisers and steps.
        report: Of its last round of training.
    """

    data: ParticipantData
    options: ExpertOptions
    seed: int
    values: Tree
    progress: dict[int, TrainerState] = field(default_factory=dict)
    report: Report | None = None

    @property
    def name(self) -> str:
        """As in the federation."""
        return self.data.name

    def generalists(self) -> dict[str, Array]:
        """What it may share: tensor -> values, called as in the adapter file."""
        flat = params.flatten(self.values)
        return generalists.of_values(flat, self.options.generalists)

    def receive(self, tensors: Mapping[str, Array]) -> None:
        """Replace its generalists by those of the federation, as far as they fit."""
        mine = cut(tensors, self.options)
        flat = generalists.into_values(params.flatten(self.values), mine)
        self.values = params.unflatten(flat)

    def with_generalists(self, tensors: Mapping[str, Array]) -> Tree:
        """Its values, were these its generalists; nothing is changed."""
        other = dataclasses.replace(self)
        other.receive(tensors)
        return other.values

    def supply(
        self, seq_len: int, batch_size: int, stage: int, router_split: str
    ) -> Supply:
        """The batches of one stage; experts and routers read texts of their own."""
        data, seed = self.data, 2 * (self.seed + APART * stage)
        router = data.valid if router_split == "valid" else data.train

        def source(content: Content, seed: int) -> BatchSource:
            sizes = {"seq_len": seq_len, "batch_size": batch_size}
            return training_batches(content, seed=seed, packing=False, **sizes)[0]

        # Without validation batches: nobody asks which save is the best one.
        return Supply(source(data.train, seed), source(router, seed + 1), [])

    def shrink(self, rank: int) -> None:
        """Give up all ranks of the experts from `rank` on, and their moments."""
        options = self.options
        self.options = dataclasses.replace(
            options, rank=rank, alpha=options.scale * rank, scaling="lora"
        )
        self.values = _shortened(self.values, rank)
        for progress in self.progress.values():
            progress.optimizers = [_shortened(s, rank) for s in progress.optimizers]


def participant_seed(seed: int, index: int) -> int:
    """The seed of participant number `index`, below 2^32; all methods use the same."""
    return int(np.random.SeedSequence([seed, index]).generate_state(1)[0])


def cut(tensors: Mapping[str, Array], options: ExpertOptions) -> dict[str, Array]:
    """The generalists that fit a participant: its first ones, their first ranks."""
    kept = {}
    for name, array in tensors.items():
        index, _ = split(name)
        if index < max(options.generalists, 1):
            rank = options.rank
            kept[name] = array[:, :rank] if name.endswith("a") else array[:rank]
    return kept


def filled(
    tensors: Mapping[str, Array], current: Mapping[str, Array], pad: bool
) -> dict[str, Array]:
    """A participant's generalists in the federation's shape.

    Args:
        tensors: The participant's.
        current: The federation's; those that the participant does not have stay so.
        pad: Whether to fill up smaller ranks with zeros (Cho et al. 2024).
    """
    full: dict[str, Array] = {}
    for name, now in current.items():
        mine = tensors.get(name)
        if mine is not None and pad and mine.shape != now.shape:
            wider = np.zeros_like(now)
            wider[: mine.shape[0], : mine.shape[1]] = mine
            mine = wider
        full[name] = now if mine is None else mine
    return full


def _shortened(tree: Tree, rank: int) -> Tree:
    """Every LoRA array of a tree (parameters or moments) with its first ranks only."""
    flat = params.flatten(tree)
    for path, array in flat.items():
        parts = path.split(".")
        if "lora_a" in parts:
            flat[path] = array[..., :rank]
        elif "lora_b" in parts:
            flat[path] = array[..., :rank, :]
    return params.unflatten(flat)
