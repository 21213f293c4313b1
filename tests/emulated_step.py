"""A product of matrices and a compiled training step; prints the losses as JSON.

Run natively and on emulated processors by test_emulated.py. Small, because an emulator
takes a hundred times as long, and without mlx-lm, whose import takes most of that.
"""

import comigs_mlx  # noqa: F401  isort: skip

import json
import sys

import mlx.core as mx

from comigs_mlx.platform.x86.activations import swiglu

WIDTH, HIDDEN, CLASSES, STEPS = 24, 40, 11, 5


def loss(weights, x, targets):
    gate, up, out = weights
    logits = swiglu(x @ gate, x @ up) @ out
    chosen = mx.take_along_axis(logits, targets[:, None], axis=-1)
    return (mx.logsumexp(logits, axis=-1) - chosen[:, 0]).mean()


@mx.compile
def step(weights, x, targets):
    value, gradients = mx.value_and_grad(loss)(weights, x, targets)
    return value, [w - 0.1 * g for w, g in zip(weights, gradients, strict=True)]


def main():
    keys = mx.random.split(mx.random.key(0), 4)
    shapes = [(WIDTH, HIDDEN), (WIDTH, HIDDEN), (HIDDEN, CLASSES)]
    weights = [
        mx.random.normal(s, key=k) / 4 for s, k in zip(shapes, keys, strict=False)
    ]
    x = mx.random.normal((17, WIDTH), key=keys[3])
    targets = mx.arange(17) % CLASSES
    losses = []
    for _ in range(STEPS):
        value, weights = step(weights, x, targets)
        losses.append(value.item())
    sys.stdout.write(json.dumps({"losses": losses, "blas": "openblas-" in maps()}))


def maps():
    with open("/proc/self/maps") as file:
        return file.read()


if __name__ == "__main__":
    main()
