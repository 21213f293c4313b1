"""What a new run takes over from the federation that it is to take part in."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection
from typing import Any

from comigs_mlx.errors import ConfigError
from comigs_mlx.expert_shape import shared_options
from comigs_mlx.federation.exchanges.base import Exchange
from comigs_mlx.federation.formats.manifest import Manifest, name_check
from comigs_mlx.federation.participant import membership, mixing, pull_push
from comigs_mlx.federation.rounds import repository, submit
from comigs_mlx.options import TrainConfig
from comigs_mlx.runs.session import Check


def join(
    config: TrainConfig, given: Collection[str], exchange: Exchange
) -> tuple[TrainConfig, Check]:
    """The configuration of a run in a federation, and what must hold before it begins.

    A run that takes part already needs no repository for this, so that it can go on
    while there is none in reach.

    Args:
        config: The configuration, with `sharing.federation` and `sharing.participant`
            set.
        given: The options that the user has set; the federation sets the others.
        exchange: The repository that the federation is in.

    Raises:
        FederationError: If it cannot be reached, or the participant may not contribute.
    """
    name = config.sharing.participant or ""
    if name and (problem := name_check(name)) is not None:
        raise ConfigError(f"--participant: {problem}")
    record = membership.read(config.folder) if config.resume else None
    if record is not None and record.uri == membership.place(exchange.uri):
        return config, lambda info: None
    federation = repository.current(exchange)
    if not config.sharing.join:  # which writes nothing there
        exchange.check_writable()
        submit.check_participant(exchange, federation, name)
    manifest = federation.manifest
    if config.sharing.personal is not None:
        mixing.check(manifest)

    def check(info: dict[str, Any]) -> None:
        base, experts = pull_push.described(info)
        membership.check_fits(manifest, experts, base.fingerprint)

    return config if config.resume else adopted(config, given, manifest), check


def adopted(
    config: TrainConfig, given: Collection[str], manifest: Manifest
) -> TrainConfig:
    """The configuration with the federation's base model and shape where none is given.

    What is given and does not fit is left for `membership.check_fits` to name.
    """
    model = config.model if "model" in given else manifest.base_model.id
    values = shared_options(manifest.experts, config.experts)
    free = {name: value for name, value in values.items() if name not in given}
    experts = dataclasses.replace(config.experts, **free)
    return dataclasses.replace(config, model=model, experts=experts)
