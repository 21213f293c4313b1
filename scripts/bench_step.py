"""What does a CoMiGS training step cost, compared with mlx-lm's plain LoRA?

Method: same base model (the demo model), same rank, same linears, same random batches,
AdamW, compiled steps. All variants run in turn in one process, so that a change of the
machine's speed meets them all; the first round is dropped as warm-up; everything is
evaluated before the clock stops. Read the ratios, not the seconds.

    python scripts/bench_step.py [--batch-size 4] [--seq-len 128] [--rounds 6]

The last line of stdout is one JSON object.
"""

import comigs_mlx  # isort: skip  (first: it loads the fast BLAS before MLX)

import argparse
import json
import platform
import statistics
import time
from functools import partial
from importlib.metadata import version

import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optim
import numpy as np
from mlx_lm.tuner.trainer import default_loss
from mlx_lm.tuner.utils import linear_to_lora_layers

from comigs_mlx.data.batches import Batch
from comigs_mlx.runs.experts import targets
from comigs_mlx.training.levels import Level, expert_group, router_group

EXPERTS = {"1 expert": (1, 0), "2 experts": (1, 1), "4 experts, top 2": (1, 3)}


def plain_lora(tokens, keys, options):
    """Mlx-lm's own step: its LoRA on `keys`, its loss, compiled as its trainer does."""
    model = comigs_mlx.load_base("demo").model
    config = {
        "rank": options.rank,
        "scale": options.scale,
        "dropout": 0.0,
        "keys": keys,
    }
    linear_to_lora_layers(model, len(model.layers), config)
    optimizer = optim.AdamW(1e-4)
    gradients = nn.value_and_grad(model, default_loss)
    state = [model.state, optimizer.state]
    lengths = mx.array([[0, tokens.shape[-1]]] * tokens.shape[1])

    @partial(mx.compile, inputs=state, outputs=state)
    def step(batch):
        (loss, _), gradient = gradients(model, batch, lengths)
        optimizer.update(model, gradient)
        return loss

    def run(index):
        mx.eval(step(mx.array(tokens[index])), state)

    return run


def comigs(tokens, generalists, specialists, group):
    """A step of one level of ours."""
    experts = comigs_mlx.ExpertOptions(generalists=generalists, specialists=specialists)
    mixture = comigs_mlx.Mixture(comigs_mlx.load_base("demo").model, experts)
    options = comigs_mlx.TrainingOptions()
    level = Level(mixture, [group(options)], options)
    ones = np.ones(tokens[0, :, 1:].shape, np.float32)
    return mixture, lambda i: level.step(
        [Batch(tokens[i], ones, ones.astype(np.int32))]
    )


def measure(variants, rounds):
    """Seconds of each variant, rounds interleaved, the first one dropped."""
    seconds = {name: [] for name in variants}
    for index in range(rounds + 1):
        for name, run in variants.items():
            start = time.perf_counter()
            run(index)
            if index > 0:
                seconds[name].append(time.perf_counter() - start)
    return seconds


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--seq-len", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=6)
    args = parser.parse_args()
    shape = (args.rounds + 1, args.batch_size, args.seq_len + 1)
    tokens = np.random.default_rng(0).integers(0, 49152, shape).astype(np.int32)

    ours = {name: comigs(tokens, *e, expert_group) for name, e in EXPERTS.items()}
    mixture = ours["2 experts"][0]
    keys, options = targets(mixture), mixture.options
    variants = {"mlx-lm LoRA": plain_lora(tokens, keys, options)}
    variants |= {name: run for name, (_, run) in ours.items()}
    variants["router step"] = comigs(tokens, 1, 1, router_group)[1]

    seconds = measure(variants, args.rounds)
    medians = {name: statistics.median(each) for name, each in seconds.items()}
    ratios = {name: m / medians["mlx-lm LoRA"] for name, m in medians.items()}
    for name, each in seconds.items():
        print(
            f"{name:18} {medians[name]:7.3f} s  ({min(each):.3f} to {max(each):.3f})  "
            f"ratio {ratios[name]:.2f}"
        )
    environment = {p: version(p) for p in ("mlx", "mlx-lm", "comigs-mlx")}
    environment |= {"machine": platform.machine(), "system": platform.system()}
    found = {"seconds": medians, "ratio": ratios}
    print(json.dumps({"environment": environment, **vars(args), **found}))


if __name__ == "__main__":
    main()
