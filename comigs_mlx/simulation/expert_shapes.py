"""Decides the shapes of everybody's experts from a method and the devices."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import mlx.core as mx

from comigs_mlx.errors import ConfigError
from comigs_mlx.federation.aggregation import aggregate
from comigs_mlx.federation.formats.manifest import (
    AggregatorChoice,
    Manifest,
    Member,
    cap,
)
from comigs_mlx.federation.formats.tensor_source import Array, Arrays
from comigs_mlx.federation.formats.tensor_source import shapes as tensor_shapes
from comigs_mlx.federation.participant.options import NORM_FACTOR
from comigs_mlx.federation.participant.pull_push import described
from comigs_mlx.model import params
from comigs_mlx.model.mixture import Mixture
from comigs_mlx.model.params import Tree
from comigs_mlx.options import ExpertOptions, TrainingOptions
from comigs_mlx.runs import description
from comigs_mlx.runs import generalists as of_runs
from comigs_mlx.simulation.method import Method
from comigs_mlx.simulation.options import ShapeOptions, SimulateConfig
from comigs_mlx.simulation.participant import Participant
from comigs_mlx.simulation.participants import ParticipantData

ParticipantShapes = dict[str, ExpertOptions]


def with_overrides(name: str, method: Method, config: SimulateConfig) -> Method:
    """Return the method, with what the configuration sets in place of its own.

    Raises:
        ConfigError: If an option could have no effect on the method.
    """
    if method.personal is not None and config.sharing.aggregator is not None:
        raise ConfigError(
            f"--aggregator {config.sharing.aggregator} has no effect on --method "
            f"{name}, whose participants combine contributions for themselves: leave "
            "out one of the two"
        )
    learning = config.learning
    changes: dict[str, Any] = {}
    if method.router != "none":
        changes["router"] = learning.router or method.router
        changes["router_split"] = learning.router_split or method.router_split
    changes["aggregator"] = config.sharing.aggregator or method.aggregator
    return dataclasses.replace(method, **changes)


def shapes(
    name: str,
    method: Method,
    members: Sequence[ParticipantData],
    config: SimulateConfig,
) -> ParticipantShapes:
    """Return the shape of each participant's experts.

    Raises:
        ConfigError: If they differ in what the method needs to be equal.
    """
    by_participant = {data.name: _shape(method, data, config.shape) for data in members}
    ranks = sorted({options.rank for options in by_participant.values()})
    if method.shared and len(ranks) > 1:
        if config.sharing.encoding == "int8":
            raise ConfigError("--encoding int8 needs equal ranks: choose fp16 or fp32")
        if not method.any_rank:
            raise ConfigError(
                f"--method {name} cannot share experts of ranks "
                f"{', '.join(map(str, ranks))}: choose flexlora, hetlora, or a method "
                "that shares nothing"
            )
    return by_participant


def _shape(method: Method, data: ParticipantData, shape: ShapeOptions) -> ExpertOptions:
    device = data.device
    counts = (
        device.generalists if method.generalists is None else method.generalists,
        device.specialists if method.specialists is None else method.specialists,
    )
    if sum(counts) == 0:
        raise ConfigError(f"{data.name} has no expert: raise its specialists")
    options = shape.experts(*counts)
    if device.rank in (None, options.rank):
        return options
    # One scale for all, or products of different ranks could not be compared.
    alpha = options.scale * device.rank
    return dataclasses.replace(options, rank=device.rank, alpha=alpha, scaling="lora")


def common(shapes: Sequence[ExpertOptions], shape: ShapeOptions) -> ExpertOptions:
    """Return the shape whose generalists have room for those of all participants."""
    largest = max(shapes, key=lambda options: options.rank)
    generalists = max(options.generalists for options in shapes)
    specialists = min(options.specialists for options in shapes)
    counts = shape.experts(generalists, max(specialists, int(generalists == 0)))
    return dataclasses.replace(
        counts, rank=largest.rank, alpha=largest.alpha, scaling=largest.scaling
    )


def generalists(values: Tree, options: ExpertOptions) -> dict[str, Array]:
    """Return the generalists among the values of a mixture of this shape."""
    return of_runs.of_values(params.flatten(values), options.generalists)


def training(
    method: Method, config: SimulateConfig, steps: int, accumulation: int
) -> TrainingOptions:
    """Return the options of a stage's trainer; seeds are in the batches."""
    options = config.learning.training(steps, 0, accumulation)
    return dataclasses.replace(options, router=method.router)


def manifest(
    fingerprint: str,
    base_id: str,
    mixture: Mixture,
    generalists: Mapping[str, Array],
    method: Method,
    config: SimulateConfig,
    members: Sequence[ParticipantData],
) -> Manifest:
    """Make the federation's manifest; no update is outsized unless the options say
    so.
    """
    base, experts = described(description.describe(mixture, base_id, fingerprint))
    return Manifest(
        base,
        experts,
        max_bytes=cap(tensor_shapes(Arrays("", generalists))),
        aggregator=AggregatorChoice(*aggregate.parse(method.aggregator)),
        quorum=len(members),
        deadline_seconds=1.0,
        participants={data.name: Member() for data in members},
        encoding=config.sharing.encoding,
        norm_action=config.sharing.outsized,
        norm_factor=config.sharing.norm_factor or NORM_FACTOR,
    )


def prune(
    participant: Participant, before: Mapping[str, mx.array], share: float | None
) -> None:
    """Cut a participant's last ranks if they have shrunk in this round.

    The last ranks are those from `share` of its rank on; their size is the sum over
    all pairs of |A| |B|, Frobenius norms. Source: Cho et al., HetLoRA, EMNLP 2024.

    Args:
        participant: The participant after its training.
        before: Maps a path to its value before the training.
        share: The share of the rank from which on the ranks are the last; see
            `Method.prune`.
    """
    if share is None:
        return
    rank = participant.options.rank
    rank_kept = min(max(1, int(share * rank)), rank)
    after = params.flatten(participant.values)
    if rank_kept < rank and bool(tail(after, rank_kept) < tail(before, rank_kept)):
        participant.shrink(rank_kept)


def tail(values: Mapping[str, mx.array], first: int) -> mx.array:
    """Sum |A| |B| of the ranks from `first` on, over all pairs; a scalar."""
    total = mx.array(0.0)
    for path, a in values.items():
        if path.endswith("lora_a"):
            b = values[path[:-1] + "b"]
            ends = (a[..., first:], b[..., first:, :])
            norms = [(end.square().sum((-2, -1)) + 1e-12).sqrt() for end in ends]
            total = total + (norms[0] * norms[1]).sum()
    return total
