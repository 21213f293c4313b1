"""Peak memory of an expert step, from shapes alone: known before the first step.

    peak = base + 3 P + sums + max(P + activations + loss,   all is kept, the loss runs
                                   inputs + blocks at once,  with --grad-checkpoint
                                   3 P)                      the update at the end

P is the bytes of the experts; docs/memory.md says what each term is and compares the
sum with measurements. Nothing here computes an array.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass

from comigs_mlx.model.routers import router_kind
from comigs_mlx.options import ExpertOptions
from comigs_mlx.training.losses import CHUNK, FEWEST

FLOAT = 4
"""Bytes of a float32: the experts, their moments, the routing and the loss."""

LOGITS_AT_ONCE = 4
"""Float32 arrays of a chunk's logits that the loss works on together."""

BLOCKS_AT_ONCE = 6.0
"""Blocks' worth of arrays while one is recomputed: they, gradients, temporaries."""

LOGITS_AHEAD = 11
BLOCKS_AHEAD = 3.5
"""Slack on a CPU: arrays of what MLX plans ahead, about 100 operations."""

METAL_AHEAD = 500 * 10**6
"""Slack on Metal, bytes: about ten command buffers, each closed at 40 to 50 MB."""


@dataclass(frozen=True)
class Machine:
    """How MLX computes a step.

    Attributes:
        cpu: Whether MLX computes on the CPU.
        x86: With the functions of `platform.x86`, which keep less.
        streams: Parts of a batch that `platform.cpu_streams` computes side by side.
    """

    cpu: bool
    x86: bool = False
    streams: int = 1


METAL = Machine(cpu=False)


@dataclass(frozen=True)
class Architecture:
    """The numbers of a base model that memory depends on.

    Attributes:
        base_bytes: Its weights as loaded, bytes.
        blocks: Blocks that take experts; those before them keep nothing.
        width: Size of a token's vector between blocks.
        hidden: Size of the MLP's inner vectors.
        heads: How many attention heads a block has.
        queries: Size of all heads' queries together.
        keys: Size of all heads' keys together; values have the same.
        vocabulary: How many logits a token has.
        readers: Linears of the MLP that read its input: 2 with a gate, else 1.
        item: Bytes of an element of the activations.
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
        """P: LoRA pairs of all experts and of attention, with routers, in float32."""
        mlp = experts.experts * (self.readers + 1) * (self.width + self.hidden)
        attention = 2 * (self.width + self.queries) + 2 * (self.width + self.keys)
        pairs = mlp + attention * experts.attention_lora
        router = experts.experts * self.width
        return FLOAT * self.blocks * (experts.rank * pairs + router)


@dataclass(frozen=True)
class Work:
    """What one step works through.

    Attributes:
        batch_size: How many sequences a batch has.
        seq_len: How many tokens a sequence has.
        checkpoint: Whether blocks are recomputed in the backward pass.
        accumulation: How many batches make a step.
        measured: Tokens in the longest sequence whose loss is only measured.
    """

    batch_size: int
    seq_len: int
    checkpoint: bool = False
    accumulation: int = 1
    measured: int = 0

    @property
    def tokens(self) -> int:
        """Tokens of a batch."""
        return self.batch_size * self.seq_len


@dataclass(frozen=True)
class Estimate:
    """The terms of the peak, in bytes.

    Attributes:
        base: Weights of the base model, as loaded.
        experts: LoRA pairs and their two AdamW moments.
        sums: Gradients of the batches before, where several make a step.
        forward: All that is kept for the backward pass, while the loss is computed.
        backward: The blocks' inputs and the blocks recomputed; 0 without that.
        update: Gradients or new values, and both new moments, as the step ends.
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
    """The peak of an expert step.

    Args:
        model: The numbers that describe the base model.
        experts: How many experts, of what rank.
        work: Shape of the longest batch.
        machine: How MLX computes on this machine.
    """
    experts = experts.resolved()
    trained = model.expert_bytes(experts)
    slack = 0 if machine.cpu else METAL_AHEAD
    block = work.tokens * block_bytes(model, experts, work.seq_len, machine.x86)
    inputs = model.blocks * work.tokens * input_bytes(model, experts)
    recomputed = int(blocks_at_once(machine) * block) + slack
    kept = inputs if work.checkpoint else trained + model.blocks * block
    return Estimate(
        base=model.base_bytes,
        experts=3 * trained,
        sums=trained if work.accumulation > 1 else 0,
        forward=kept + loss_bytes(model, work, machine) + slack,
        backward=inputs + recomputed if work.checkpoint else 0,
        update=3 * trained,
        measured=measured_bytes(model, experts, work, machine) if work.measured else 0,
    )


def measured_bytes(
    model: Architecture, experts: ExpertOptions, work: Work, machine: Machine
) -> int:
    """What measuring the loss of one batch needs: nothing is kept for gradients."""
    work = dataclasses.replace(work, seq_len=work.measured)
    block = work.tokens * block_bytes(model, experts, work.seq_len, machine.x86)
    blocks = 1 + (BLOCKS_AHEAD if machine.cpu else 0)
    slack = 0 if machine.cpu else METAL_AHEAD
    return int(blocks * block) + loss_bytes(model, work, machine) + slack


def blocks_at_once(machine: Machine) -> float:
    """Blocks whose arrays are there together in the backward pass that recomputes."""
    return BLOCKS_AT_ONCE + (BLOCKS_AHEAD if machine.cpu else 0)


def block_bytes(
    model: Architecture, experts: ExpertOptions, seq_len: int, x86: bool
) -> int:
    """What a block keeps of each token for its gradients."""
    return (
        mlp_bytes(model, router_kind(experts.router_type).slots(experts), x86)
        + attention_bytes(model, seq_len)
        + low_rank_bytes(model, experts)
        + input_bytes(model, experts)
    )


def mlp_bytes(model: Architecture, slots: int, x86: bool) -> int:
    """Its normed input; in each slot what the linears give, the activation's steps.

    Those are the sigmoid, its product with the gate (not on x86), and the result. In
    half precision what a LoRA pair reads is kept in float32 as well.
    """
    steps = model.readers + (2 if x86 else 3)
    read = _copy(model) * (model.width + slots * model.hidden)
    return read + model.item * (model.width + slots * steps * model.hidden)


def attention_bytes(model: Architecture, seq_len: int) -> int:
    """Normed input, queries, keys, values, weights, result in two orders, and sum.

    The weights, `heads` x `seq_len` for each token, are kept: they would be made
    again, but `mx.compile` sees that it knows them. So does attention on Metal.
    """
    vectors = 2 * model.width + 3 * model.queries + 2 * model.keys
    read = _copy(model) * (model.width + model.queries)
    return read + model.item * (vectors + model.heads * seq_len)


def low_rank_bytes(model: Architecture, experts: ExpertOptions) -> int:
    """What is between A and B: of each expert twice; all of them in each slot, k < E.

    Attention has one pair a linear.
    """
    every = experts.experts * experts.rank
    sparse = experts.top_k < experts.experts
    copies = 1 + experts.top_k if sparse else 2
    last = every * (2 * experts.top_k + 1 if sparse else 2)
    attention = 4 * experts.rank * experts.attention_lora
    return FLOAT * (model.readers * copies * every + last + attention)


def input_bytes(model: Architecture, experts: ExpertOptions) -> int:
    """What enters a block, and how it routes: weights, choice and probabilities."""
    return model.item * model.width + 3 * FLOAT * experts.experts


def loss_bytes(model: Architecture, work: Work, machine: Machine) -> int:
    """Chunks of logits that are there together; last vectors and their gradient."""
    tokens = math.ceil(work.batch_size / machine.streams) * work.seq_len
    most = max(CHUNK[machine.cpu] // model.vocabulary, FEWEST)
    size = math.ceil(tokens / math.ceil(tokens / most))
    together = machine.streams * LOGITS_AT_ONCE + machine.cpu * LOGITS_AHEAD
    logits = together * FLOAT * size * model.vocabulary
    return logits + 2 * model.item * work.tokens * model.width


def _copy(model: Architecture) -> int:
    """Bytes of the float32 copy of an element that a LoRA pair reads."""
    return FLOAT if model.item < FLOAT else 0
