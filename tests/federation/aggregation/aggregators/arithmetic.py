"""A generalist of one linear with numbers that can be checked by hand."""

import numpy as np

from comigs_mlx.federation.aggregation import aggregate
from comigs_mlx.federation.formats.tensor_source import Arrays


def pair(a, b):
    """One linear."""
    return {"x.lora_a": np.float32(a), "x.lora_b": np.float32(b)}


def people(*values, tokens=None):
    """Participants whose lora_a is [[v]] and whose lora_b is [[2 v]]."""
    tokens = tokens or [0] * len(values)
    return [
        Arrays(f"p{i}", pair([[v]], [[2 * v]]), n)
        for i, (v, n) in enumerate(zip(values, tokens, strict=True))
    ]


def value(name, group, current=0.0, **options):
    """lora_a of the result; lora_b must be twice that."""
    start = people(current)[0]
    found = dict(aggregate.aggregate(name, group, start, options).shared)
    (a,), (b,) = found["x.lora_a"].tolist()[0], found["x.lora_b"].tolist()[0]
    np.testing.assert_allclose(b, 2 * a, rtol=1e-6)
    return a
