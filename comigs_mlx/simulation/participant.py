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
"""The distance between the seeds of two stages, larger than any participant's seed."""


@dataclass
class Participant:
    """The state that belongs to one participant.

    Attributes:
        data: The text and the device of the participant.
        options: The shape of its experts.
        seed: The seed of its specialists and routers, and of the order of its text.
        values: The values of experts, attention LoRA and routers.
        progress: Maps a stage to its optimisers and steps.
        report: The report of its last round of training.
    """

    data: ParticipantData
    options: ExpertOptions
    seed: int
    values: Tree
    progress: dict[int, TrainerState] = field(default_factory=dict)
    report: Report | None = None

    @property
    def name(self) -> str:
        """The participant's name in the federation."""
        return self.data.name

    def generalists(self) -> dict[str, Array]:
        """Return its generalists, with the tensor names of the adapter file."""
        flat = params.flatten(self.values)
        return generalists.of_values(flat, self.options.generalists)

    def receive(self, tensors: Mapping[str, Array]) -> None:
        """Replace its generalists by those of the federation, as far as they fit."""
        fitting = cut(tensors, self.options)
        flat = generalists.into_values(params.flatten(self.values), fitting)
        self.values = params.unflatten(flat)

    def with_generalists(self, tensors: Mapping[str, Array]) -> Tree:
        """Return its values with these generalists; nothing is changed."""
        copy = dataclasses.replace(self)
        copy.receive(tensors)
        return copy.values

    def supply(
        self, seq_len: int, batch_size: int, stage: int, router_split: str
    ) -> Supply:
        """Make the batches of one stage; experts and routers read texts of their
        own.
        """
        data, seed = self.data, 2 * (self.seed + APART * stage)
        router = data.valid if router_split == "valid" else data.train

        def source(content: Content, seed: int) -> BatchSource:
            sizes = {"seq_len": seq_len, "batch_size": batch_size}
            return training_batches(content, seed=seed, packing=False, **sizes)[0]

        # There are no validation batches, because no best save is chosen.
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
    """Return participant `index`'s seed, below 2^32, the same for all methods."""
    return int(np.random.SeedSequence([seed, index]).generate_state(1)[0])


def cut(tensors: Mapping[str, Array], options: ExpertOptions) -> dict[str, Array]:
    """Return the generalists that fit a participant: the first ones, their first
    ranks.
    """
    fitting = {}
    for name, array in tensors.items():
        index, _ = split(name)
        if index < max(options.generalists, 1):
            rank = options.rank
            fitting[name] = array[:, :rank] if name.endswith("a") else array[:rank]
    return fitting


def filled(
    tensors: Mapping[str, Array], current: Mapping[str, Array], pad: bool
) -> dict[str, Array]:
    """Bring a participant's generalists into the federation's shape.

    Args:
        tensors: The generalists of the participant.
        current: The generalists of the federation; those that the participant does not
            have stay so.
        pad: Whether to fill up smaller ranks with zeros (Cho et al. 2024).
    """
    full: dict[str, Array] = {}
    for name, shared in current.items():
        own = tensors.get(name)
        if own is not None and pad and own.shape != shared.shape:
            wider = np.zeros_like(shared)
            wider[: own.shape[0], : own.shape[1]] = own
            own = wider
        full[name] = shared if own is None else own
    return full


def _shortened(tree: Tree, rank: int) -> Tree:
    """Keep the first ranks only of every LoRA array of a tree (parameters or
    moments).
    """
    flat = params.flatten(tree)
    for path, array in flat.items():
        parts = path.split(".")
        if "lora_a" in parts:
            flat[path] = array[..., :rank]
        elif "lora_b" in parts:
            flat[path] = array[..., :rank, :]
    return params.unflatten(flat)
