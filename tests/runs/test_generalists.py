"""Generalists as arrays for a federation, and back: each one stays itself."""

import mlx.core as mx
import numpy as np

from comigs_mlx.runs import generalists

LINEAR = "model.layers.0.mlp.up_proj.generalist"


def values(count):
    """A mixture's values: `count` generalists, a specialist, the attention's one."""
    number = iter(range(1, 100))

    def array(*shape):
        return mx.full(shape, next(number)) + mx.arange(shape[0]).reshape(
            -1, *[1] * (len(shape) - 1)
        )

    return {
        f"{LINEAR}.lora_a": array(count, 4, 2),
        f"{LINEAR}.lora_b": array(count, 2, 4),
        "model.layers.0.self_attn.q_proj.generalist.lora_a": array(4, 2),
        "model.layers.0.mlp.up_proj.specialist.lora_a": array(1, 4, 2),
    }


def test_several_keep_their_places_there_and_back():
    before = values(3)
    tensors = generalists.of_values(before, 3)
    firsts = {n: float(t.flat[0]) for n, t in tensors.items() if "up_proj.lora_a" in n}
    name = "model.layers.0.mlp.up_proj.lora_a"
    assert firsts == {
        name: 1.0,
        f"generalist-1/{name}": 2.0,
        f"generalist-2/{name}": 3.0,
    }
    after = generalists.into_values(values(3), tensors)
    assert all(mx.array_equal(after[path], before[path]) for path in before)


def test_others_replace_the_generalists_alone():
    before = values(2)
    new = {n: t + 100 for n, t in generalists.of_values(before, 2).items()}
    for path, array in generalists.into_values(before, new).items():
        moved = 0 if "specialist" in path else 100
        assert np.array_equal(np.array(array), np.array(before[path]) + moved), path
