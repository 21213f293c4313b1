"""SecAgg+ as we use it: stronger masks than Flower's, and what a participant checks.

Flower 1.42 makes a mask from 32 bits of its secret, by a generator that is not made for
secrets (flwrlabs/flower issue 7522), so that a server could try all of them. Both sides
are our processes, so both take `mask` instead: SHAKE-256 of the whole secret.

A participant also refuses settings and questions that would show its update: a server
that asks for the shares of both secrets of one node could take its masks off.
"""

from __future__ import annotations

import hashlib
import importlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from comigs_mlx.errors import FederationError
from comigs_mlx.federation.flower.secure import LEAST, STEPS

MODULUS = 2**32
"""Masked values are counted modulo this."""

BOTH_SIDES = (
    "flwr.client.mod.secure_aggregation.secaggplus_mod",
    "flwr.server.workflow.secure_aggregation.secaggplus_workflow",
)


def mask(
    seed: bytes, modulus: int, shapes: Sequence[tuple[int, ...]]
) -> list[npt.NDArray[np.int64]]:
    """Return the mask that belongs to a secret, an array for each of `shapes`.

    Args:
        seed: The whole secret that two participants share, or that one has for itself.
        modulus: The values are below this; always `MODULUS`.
        shapes: The shapes of the arrays to mask.
    """
    assert modulus == MODULUS
    sizes = [int(np.prod(shape)) for shape in shapes]
    stream = hashlib.shake_256(b"comigs mask 1" + seed).digest(4 * sum(sizes))
    values = np.frombuffer(stream, "<u4").astype(np.int64)
    parts = np.split(values, np.cumsum(sizes)[:-1])
    return [part.reshape(shape) for part, shape in zip(parts, shapes, strict=True)]


def use_strong_masks() -> None:
    """Make both sides of Flower's SecAgg+ in this process use `mask`."""
    for name in BOTH_SIDES:
        # The first package hides its module behind a function of the same name.
        module: Any = importlib.import_module(name)
        if not hasattr(module, "pseudo_rand_gen"):
            raise FederationError(
                "this version of flwr makes masks in another way than 1.42: install "
                "'comigs-mlx[flower]'"
            )
        module.pseudo_rand_gen = mask


def guarded(mod: Callable[..., Any]) -> Callable[..., Any]:
    """Put our checks before Flower's secaggplus_mod; a refusal ends the message."""

    def checked(message: Any, context: Any, call_next: Any) -> Any:
        if message.metadata.message_type == "train":
            records = message.content.config_records
            check(dict(records.get("secaggplus_configs", {})))
        return mod(message, context, call_next)

    return checked


def check(settings: Mapping[str, Any]) -> None:
    """Raise `FederationError` for what no participant of ours takes part in.

    Args:
        settings: The server's settings of one stage of SecAgg+.
    """
    stage = settings.get("stage")
    if stage == "setup":
        _check_setup(settings)
    elif stage == "unmask":
        active, dead = (
            set(settings.get(name, ())) for name in ("active_nids", "dead_nids")
        )
        if active & dead:
            raise FederationError("a node is said to have answered and not to have")
    elif stage not in ("share_keys", "collect_masked_vectors"):
        raise FederationError("this is no message of secure aggregation")


def _check_setup(settings: Mapping[str, Any]) -> None:
    names = ("sample_num", "share_num", "threshold", "target_range", "mod_range")
    given = [value for n in names if type(value := settings.get(n)) is int]
    if len(given) < len(names):
        raise FederationError("settings of secure aggregation are missing")
    nodes, shares, threshold, target, modulus = given
    if nodes < LEAST or shares < LEAST or 2 * threshold <= shares:
        raise FederationError(
            f"secure aggregation among {nodes} nodes, where {threshold} of {shares} "
            f"shares open a mask: expected at least {LEAST}, and more than half"
        )
    if (target, modulus) != (STEPS, MODULUS):
        raise FederationError(f"{target} steps modulo {modulus}, expected 2^22, 2^32")
    if settings.get("max_weight") != 1.0:
        raise FederationError("another weight than 1 for each participant")
