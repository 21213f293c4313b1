"""Estimates the peak memory of an expert step from shapes alone.

    peak = base + 3 P + sums + max(P + activations + loss,   all is kept, the loss runs
                                   inputs + blocks at once,  with --grad-checkpoint
                                   3 P)                      the update at the end

P is the bytes of the experts; docs/memory.md explains each term and compares the sum
with measurements. Nothing here computes an array.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from comigs_mlx.model.routers import router_kind
from comigs_mlx.options import ExpertOptions
from comigs_mlx.training.losses import CHUNK, FEWEST

FLOAT = 4
"""The bytes of a float32: the experts, their moments, the routing and the loss."""

LOGITS_AT_ONCE = 4
"""The float32 arrays of a chunk's logits that the loss works on together."""

BLOCKS_AT_ONCE = 6.0
"""The blocks' worth of arrays while one is recomputed: they, gradients, temporaries."""

LOGITS_AHEAD = 11
BLOCKS_AHEAD = 3.5
"""The slack on a CPU: arrays of what MLX plans ahead, about 100 operations."""

MOMENTS = {"adamw": 2, "adam": 2, "sgd": 1, "adafactor": 1, "muon": 1}
"""The arrays of a parameter's size that MLX's optimisers keep of it, at most: Adafactor
keeps a row and a column, and SGD one that it does not use."""

METAL_AHEAD = 500 * 10**6
"""The slack on Metal in bytes: about ten command buffers of 40 to 50 MB each."""


@dataclass(frozen=True)
class Machine:
    """The way in which MLX computes a step.

    Attributes:
        cpu: Whether MLX computes on the CPU.
        x86: Whether the functions of `platform.x86` are used, which keep less.
        streams: The number of parts of a batch that `platform.cpu_streams` computes
            side by side.
    """

    cpu: bool
    x86: bool = False
    streams: int = 1


METAL = Machine(cpu=False)


@dataclass(frozen=True)
class Architecture:
    """The numbers of a base model that memory depends on.

    Attributes:
        base_bytes: The bytes of its weights as loaded.
        blocks: The number of blocks that take experts; those before them keep nothing.
        width: The size of a token's vector between blocks.
        hidden: The size of the MLP's inner vectors.
        heads: The number of attention heads of a block.
        queries: The size of all heads' queries together.
        keys: The size of all heads' keys together; values have the same.
        vocabulary: The number of logits of a token.
        readers: The number of linears of the MLP that read its input: 2 with a gate,
            else 1.
        item: The bytes of an element of the activations.
    """

    base_bytes: int
    blocks: int
    width: int
    hidden: int
    heads: int
    queries: int
    keys: int
    vocabulary: int
    readers: int = 2
    item: int = FLOAT

    def expert_bytes(self, experts: ExpertOptions) -> int:
        """Compute P: LoRA pairs of all experts and of attention, with routers, in
        float32.
        """
        mlp = experts.experts * (self.readers + 1) * (self.width + self.hidden)
        attention = 2 * (self.width + self.queries) + 2 * (self.width + self.keys)
        pairs = mlp + attention * experts.attention_lora
        router = experts.experts * self.width
        return FLOAT * self.blocks * (experts.rank * pairs + router)


HALF = 2
"""The bytes of a number in half precision."""

NUMBERS = {
    "blocks": ("num_hidden_layers", "n_layer", "n_layers"),
    "width": ("hidden_size", "n_embd", "dim"),
    "heads": ("num_attention_heads", "n_head", "n_heads"),
    "vocabulary": ("vocab_size",),
}
"""The names that families give, in config.json, to what memory depends on."""


def described(config: Mapping[str, Any], base_bytes: int) -> Architecture | None:
    """Read the numbers from config.json, before the model is loaded.

    `memory_estimate.architecture` reads them from the model itself and goes first where
    it is loaded: this one knows plain families only.

    Args:
        config: The content of config.json.
        base_bytes: The bytes of the weights as they are loaded.

    Returns:
        None where a number is missing, or where a block holds experts of its own.
    """
    nested = config.get("text_config")
    config = nested if isinstance(nested, Mapping) else config
    found = {key: _number(config, *names) for key, names in NUMBERS.items()}
    inner_experts = _number(config, "num_experts", "num_local_experts")
    if inner_experts or not all(found.values()):
        return None
    width, heads = found["width"], found["heads"]
    head = _number(config, "head_dim") or width // heads
    floats = config.get("torch_dtype", config.get("dtype")) in (None, "float32")
    return Architecture(
        base_bytes,
        hidden=_number(config, "intermediate_size") or 4 * width,
        queries=heads * head,
        keys=(_number(config, "num_key_value_heads") or heads) * head,
        item=FLOAT if floats else HALF,
        **found,
    )


def _number(config: Mapping[str, Any], *names: str) -> int:
    """Return the first of some entries that is a whole number above 0, else 0."""
    values = (config.get(name) for name in names)
    return next((v for v in values if isinstance(v, int) and v > 0), 0)


@dataclass(frozen=True)
class Work:
    """The batches that one step works through.

    Attributes:
        batch_size: The number of sequences in a batch.
        seq_len: The number of tokens in a sequence.
        checkpoint: Whether blocks are recomputed in the backward pass.
        accumulation: The number of batches in a step.
        measured: The tokens in the longest sequence whose loss is only measured.
        optimizer: The name of the optimiser.
    """

    batch_size: int
    seq_len: int
    checkpoint: bool = False
    accumulation: int = 1
    measured: int = 0
    optimizer: str = "adamw"

    @property
    def tokens(self) -> int:
        """Tokens of a batch."""
        return self.batch_size * self.seq_len


@dataclass(frozen=True)
class Estimate:
    """The terms of the peak, in bytes.

    Attributes:
        base: The weights of the base model, as loaded.
        experts: The LoRA pairs and what the optimiser keeps of them.
        sums: The gradients of the batches before, where several make a step.
        forward: All that is kept for the backward pass, while the loss is computed.
        backward: The blocks' inputs and the recomputed blocks; 0 without recomputation.
        update: The gradients or new values, and both new moments, as the step ends;
            other optimisers than AdamW need no more.
        measured: Some blocks and the loss of validation text, without gradients.
    """

    base: int
    experts: int
    sums: int
    forward: int
    backward: int
    update: int
    measured: int = 0

    @property
    def peak(self) -> int:
        """Bytes at the most demanding moment of a step."""
        lasting = self.base + self.experts + self.sums
        return lasting + max(self.forward, self.backward, self.update, self.measured)


def estimate(
    model: Architecture, experts: ExpertOptions, work: Work, machine: Machine
) -> Estimate:
    """Estimate the peak of an expert step.

    Args:
        model: The numbers that describe the base model.
        experts: The number of experts, their rank and so on.
        work: The shape of the longest batch.
        machine: The way in which MLX computes on this machine.
    """
    experts = experts.resolved()
    trained = model.expert_bytes(experts)
    slack = 0 if machine.cpu else METAL_AHEAD
    block = work.tokens * block_bytes(model, experts, work.seq_len, machine.x86)
    inputs = model.blocks * work.tokens * input_bytes(model, experts)
    recomputed = int(blocks_at_once(machine) * block) + slack
    until_backward = inputs if work.checkpoint else trained + model.blocks * block
    return Estimate(
        base=model.base_bytes,
        experts=(1 + MOMENTS[work.optimizer]) * trained,
        sums=trained if work.accumulation > 1 else 0,
        forward=until_backward + loss_bytes(model, work, machine) + slack,
        backward=inputs + recomputed if work.checkpoint else 0,
        update=3 * trained,
        measured=measured_bytes(model, experts, work, machine) if work.measured else 0,
    )


def measured_bytes(
    model: Architecture, experts: ExpertOptions, work: Work, machine: Machine
) -> int:
    """Estimate what it takes to measure one batch: nothing is kept for gradients."""
    work = dataclasses.replace(work, seq_len=work.measured)
    block = work.tokens * block_bytes(model, experts, work.seq_len, machine.x86)
    blocks = 1 + (BLOCKS_AHEAD if machine.cpu else 0)
    slack = 0 if machine.cpu else METAL_AHEAD
    return int(blocks * block) + loss_bytes(model, work, machine) + slack


def blocks_at_once(machine: Machine) -> float:
    """Count the blocks whose arrays exist together in a backward pass that
    recomputes.
    """
    return BLOCKS_AT_ONCE + (BLOCKS_AHEAD if machine.cpu else 0)


def block_bytes(
    model: Architecture, experts: ExpertOptions, seq_len: int, x86: bool
) -> int:
    """Count the bytes that a block keeps of each token for its gradients."""
    return (
        mlp_bytes(model, router_kind(experts.router_type).slots(experts), x86)
        + attention_bytes(model, seq_len)
        + low_rank_bytes(model, experts)
        + input_bytes(model, experts)
    )


def mlp_bytes(model: Architecture, slots: int, x86: bool) -> int:
    """Count the bytes that an MLP keeps of each token.

    It keeps its normed input and, in each slot, the linears' results and the steps of
    the activation: the sigmoid, its product with the gate (not on x86), and the result.
    In half precision, the inputs of LoRA pairs are kept in float32 as well.
    """
    steps = model.readers + (2 if x86 else 3)
    copies = _copy(model) * (model.width + slots * model.hidden)
    return copies + model.item * (model.width + slots * steps * model.hidden)


def attention_bytes(model: Architecture, seq_len: int) -> int:
    """Count the bytes that attention keeps of each token.

    It keeps its normed input, queries, keys, values, weights, result in two orders, and
    sum. The weights, `heads` x `seq_len` for each token, would be made again, but
    `mx.compile` sees that it knows them, also on Metal.
    """
    vectors = 2 * model.width + 3 * model.queries + 2 * model.keys
    copies = _copy(model) * (model.width + model.queries)
    return copies + model.item * (vectors + model.heads * seq_len)


def low_rank_bytes(model: Architecture, experts: ExpertOptions) -> int:
    """Count the bytes between A and B that LoRA pairs keep of each token.

    Of each expert they are kept twice; with k < E, all of them in each slot. Attention
    has one pair a linear.
    """
    every = experts.experts * experts.rank
    sparse = experts.top_k < experts.experts
    copies = 1 + experts.top_k if sparse else 2
    mix_back = every * (2 * experts.top_k + 1 if sparse else 2)
    attention = 4 * experts.rank * experts.attention_lora
    return FLOAT * (model.readers * copies * every + mix_back + attention)


def input_bytes(model: Architecture, experts: ExpertOptions) -> int:
    """Count the bytes that enter a block, and of its weights, choice and
    probabilities.
    """
    return model.item * model.width + 3 * FLOAT * experts.experts


def loss_bytes(model: Architecture, work: Work, machine: Machine) -> int:
    """Count the bytes of logits that exist together, last vectors and their
    gradient.
    """
    tokens = math.ceil(work.batch_size / machine.streams) * work.seq_len
    most = max(CHUNK[machine.cpu] // model.vocabulary, FEWEST)
    size = math.ceil(tokens / math.ceil(tokens / most))
    together = machine.streams * LOGITS_AT_ONCE + machine.cpu * LOGITS_AHEAD
    logits = together * FLOAT * size * model.vocabulary
    return logits + 2 * model.item * work.tokens * model.width


def _copy(model: Architecture) -> int:
    """Return the bytes of the float32 copy of an element that a LoRA pair reads."""
    return FLOAT if model.item < FLOAT else 0
