"""The reference for CoMiGS: mlx-lm's own LoRA, of the same rank, on the same
linears.
"""

from __future__ import annotations

from functools import partial

import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optim
from mlx_lm.tuner.trainer import default_loss
from mlx_lm.tuner.utils import linear_to_lora_layers

from comigs_mlx.benchmark.measure import Variant
from comigs_mlx.benchmark.setting import Setting

NAME = "plain LoRA"
"""The name of this variant."""

LEARNING_RATE = 1e-4


def attach(setting: Setting, model: nn.Module) -> nn.Module:
    """Put mlx-lm's LoRA layers on every linear that a mixture adapts."""
    config = {
        "rank": setting.shape.rank,
        "scale": setting.expert_options(1).scale,
        "dropout": 0.0,
        "keys": setting.targets,
    }
    linear_to_lora_layers(model, len(model.layers), config)
    mx.eval(model.parameters())
    return model


def training_step(setting: Setting) -> Variant:
    """Make steps as mlx-lm's trainer does: its loss, AdamW, compiled over its state."""
    model = attach(setting, setting.twin())
    optimizer = optim.AdamW(LEARNING_RATE)
    # Without it, the first step gives the state its form and the second compiles anew.
    optimizer.init(model.trainable_parameters())
    gradients = nn.value_and_grad(model, default_loss)
    state = [model.state, optimizer.state]
    shape = setting.shape
    lengths = mx.array([[0, shape.seq_len + 1]] * shape.batch_size)

    @partial(mx.compile, inputs=state, outputs=state)
    def step(batch: mx.array) -> mx.array:
        (loss, _), gradient = gradients(model, batch, lengths)
        optimizer.update(model, gradient)
        return loss

    def run(index: int) -> None:
        mx.eval(step(mx.array(setting.batch(index).tokens)), state)

    return Variant(run)
