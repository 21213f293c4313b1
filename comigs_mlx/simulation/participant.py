"""A participant: arrays, optimisers and positions that take turns in one model."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import mlx.core as mx
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
from comigs_mlx.simulation.states import State, States
from comigs_mlx.training.records import Position, Report
from comigs_mlx.training.trainer_state import Supply, TrainerState

APART = 2**40
"""The distance between the seeds of two stages, larger than any participant's seed."""


@dataclass
class Participant:
    """One participant; its arrays lie in `states`, in memory or on the disk.

    Attributes:
        data: The text and the device of the participant.
        options: The shape of its experts.
        seed: The seed of its specialists and routers, and of the order of its text.
        begin: The function that makes the values that it begins with, each time the
            same ones.
        states: The states of this and other participants.
        positions: Maps a stage to the steps made in it.
        report: The report of its last round of training.
        received: The generalists that it received last, if it has not changed since;
            its values get them when they are needed, so that who sits out a round
            costs nothing.
    """

    data: ParticipantData
    options: ExpertOptions
    seed: int
    begin: Callable[[], Tree]
    states: States = field(default_factory=States)
    positions: dict[int, Position] = field(default_factory=dict)
    report: Report | None = None
    received: Mapping[str, Array] | None = None
    _receipts: int = 0

    @property
    def name(self) -> str:
        """The participant's name in the federation."""
        return self.data.name

    @property
    def values(self) -> Tree:
        """The values of experts, attention LoRA and routers."""
        return self._state().values

    @values.setter
    def values(self, values: Tree) -> None:
        self._put(values, self._state().optimizers)

    @property
    def progress(self) -> dict[int, TrainerState]:
        """Maps a stage to its optimisers and steps; see `learnt`."""
        optimizers = self._state().optimizers
        return {
            stage: TrainerState(optimizers[stage], position)
            for stage, position in self.positions.items()
        }

    def learnt(self, values: Tree, stage: int, progress: TrainerState) -> None:
        """Take over what it has learnt in a round."""
        self.positions[stage] = progress.position
        optimizers = {**self._state().optimizers, stage: progress.optimizers}
        self._put(values, optimizers)

    def generalists(self) -> dict[str, Array]:
        """Return its generalists, with the tensor names of the adapter file."""
        flat = params.flatten(self.values)
        return generalists.of_values(flat, self.options.generalists)

    def receive(self, tensors: Mapping[str, Array]) -> None:
        """Replace its generalists by those of the federation, as far as they fit."""
        self.received = tensors
        self._receipts += 1

    def mix(self, tensors: Mapping[str, Array]) -> None:
        """Replace its generalists by what it has made for itself alone."""
        self.values = self.with_generalists(tensors)

    def with_generalists(self, tensors: Mapping[str, Array]) -> Tree:
        """Return its values with these generalists; nothing is changed."""
        return self._with(self.values, tensors)

    def _with(self, values: Tree, tensors: Mapping[str, Array]) -> Tree:
        fitting = cut(tensors, self.options)
        return params.unflatten(
            generalists.into_values(params.flatten(values), fitting)
        )

    def _state(self) -> State:
        state = self.states.get(self.name)
        if state is None:
            state = State(self.begin())
            self.states.hold(self.name, state)
        if self.received is not None and state.receipts != self._receipts:
            state.values = self._with(state.values, self.received)
            mx.eval(state.values)
            state.receipts = self._receipts
        return state

    def _put(self, values: Tree, optimizers: dict[int, list[Tree]]) -> None:
        self.received = None
        self.states.put(self.name, State(values, optimizers, self._receipts))

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
        state = self._state()
        self.take_rank(rank)
        optimizers = {
            stage: [_shortened(one, rank) for one in of_stage]
            for stage, of_stage in state.optimizers.items()
        }
        self._put(_shortened(state.values, rank), optimizers)

    def take_rank(self, rank: int) -> None:
        """Change the rank of its experts to that of its arrays; the scale stays."""
        options = self.options
        self.options = dataclasses.replace(
            options, rank=rank, alpha=options.scale * rank, scaling="lora"
        )


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
