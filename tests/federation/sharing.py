"""A small federation for tests: two blocks, attention LoRA, one or two generalists."""

from __future__ import annotations

import numpy as np

from comigs_mlx.expert_shape import SharedShape
from comigs_mlx.federation.formats.contribution import prepare
from comigs_mlx.federation.formats.manifest import BaseModel, Manifest, cap
from comigs_mlx.federation.formats.tensor_source import Arrays, shapes

WIDTHS = {"mlp.up_proj": (6, 10), "mlp.down_proj": (10, 6), "self_attn.q_proj": (6, 6)}
FINGERPRINT = "sha256:" + "ab" * 32


def tensors(seed=0, rank=2, generalists=1, scale=1.0, blocks=2, zero_b=False):
    """Random generalists; attention LoRA in the first one only."""
    random, made = np.random.default_rng(seed), {}
    for index in range(generalists):
        folder = f"generalist-{index}/" if index else ""
        for block in range(blocks):
            for linear, (rows, columns) in WIDTHS.items():
                if index and "attn" in linear:
                    continue
                path = f"{folder}model.layers.{block}.{linear}"
                b = random.normal(size=(rank, columns)) * scale * (not zero_b)
                made[f"{path}.lora_a"] = random.normal(size=(rows, rank)) * scale
                made[f"{path}.lora_b"] = b
    return {name: array.astype(np.float32) for name, array in made.items()}


def moved(current, seed, size=0.1):
    """`current` after some training."""
    random = np.random.default_rng(seed)
    return {
        name: (array + size * random.normal(size=array.shape)).astype(np.float32)
        for name, array in current.items()
    }


def products(tensors):
    """Linear -> lora_a @ lora_b, in float64."""
    return {
        name[:-7]: array.astype(np.float64) @ tensors[name[:-1] + "b"]
        for name, array in tensors.items()
        if name.endswith(".lora_a")
    }


def manifest(current, generalists=1, rank=2, **others):
    """A manifest for these generalists."""
    experts = SharedShape(generalists, rank, 4.0, 2, True, tuple(sorted(WIDTHS)))
    most = cap(shapes(Arrays("", current)))
    given = {"max_bytes": most, **others}
    return Manifest(BaseModel("some/model", FINGERPRINT), experts, **given)


def contributed(values, current, agreed, participant="ann", round=3, **others):
    """The files of a contribution, by name."""
    counters = {"tokens": 1000, "steps": 10}
    given = {"counters": counters, **others}
    return prepare(
        values,
        Arrays("", current),
        agreed,
        participant=participant,
        round=round,
        **given,
    )


def vector(tensors):
    """All tensors as one vector, in the order of their names."""
    return np.concatenate([np.ravel(tensors[name]) for name in sorted(tensors)])
