"""The memory that a training step takes, by kind, from the shape of the network alone."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from gptcli.model.config import GPTConfig
from gptcli.model.loss import rows_at_once
from gptcli.model.size import hidden_parameters, parameters_by_part
from gptcli.training.setup import Setup

FP32 = 4  # bytes
# What a process on a CPU holds beside its tensors: buffers of its threads. And what glibc's allocator, asked to keep
# what is freed, holds in holes too small for the next tensor, as a share of all. Measured: 0.05 to 0.3.
_THREADS = 40 * 2**20
_HOLES = 0.15


@dataclass(frozen=True)
class Memory:
    """Bytes on one device. `peak` is the most at a time, which is less than all kinds together: activations are gone
    when the last gradients come. `head` is what the loss takes beside the activations: logits by chunks and the
    gradient of the head while they are made; `buffers` is what low precision, gathering and the allocator hold."""

    weights: int
    gradients: int
    optimizer: int
    activations: int
    head: int
    buffers: int
    snapshot: int  # the copy that a checkpoint is written from, in the host's memory
    peak: int


@dataclass(frozen=True)
class Shape:
    """What a step's memory depends on. `moments` are the numbers that the optimiser keeps, `tokens` those of one
    micro-batch in sequences of `length`, `processes` how many share what `shard` says."""

    config: GPTConfig
    parameters: int
    hidden_parameters: int  # in the matrices of the blocks
    moments: int
    tokens: int
    length: int
    accumulation: int
    precision: str
    recompute: bool
    device_type: str
    processes: int = 1
    shard: Literal["none", "optimizer", "full"] = "none"
    saves_amid: bool = True  # a checkpoint is written while training goes on

    @classmethod
    def of(cls, setup: Setup, micro_batch: int, precision: str, device_type: str, processes: int) -> Shape:
        """That of a run with so many sequences in a micro-batch."""
        config, settings = setup.config, setup.settings
        parameters, hidden = sum(parameters_by_part(config).values()), hidden_parameters(config)
        return cls(
            config=config,
            parameters=parameters,
            hidden_parameters=hidden,
            moments=2 * parameters - (hidden if settings.optimizer == "muon" else 0),
            tokens=micro_batch * setup.length,
            length=setup.length,
            accumulation=setup.windows_per_step // (micro_batch * processes),
            precision=precision,
            recompute=settings.activation_checkpointing == "block",
            device_type=device_type,
            processes=processes,
            shard=settings.shard,
            saves_amid=setup.steps > min(settings.save_every, settings.eval_every if settings.keep_best else math.inf),
        )

    @property
    def number(self) -> int:
        """Bytes of a number in the products."""
        return FP32 if self.precision == "fp32" else 2


def memory_of(shape: Shape) -> Memory:
    """The memory of a run, each kind as its own largest, and the peak over the step."""
    config, low = shape.config, shape.precision != "fp32"
    parts = 1 if shape.shard == "none" else shape.processes
    weights = shape.parameters // parts * FP32
    gradients = shape.parameters // parts * FP32
    moments = shape.moments // parts * FP32
    fused = shape.device_type == "cuda"
    per_block = block_bytes(config, shape.number, shape.length, fused)
    outside = outside_bytes(config, shape.number)
    kept = config.n_layers * (FP32 * config.emb_dim if shape.recompute else per_block)
    activations = shape.tokens * (kept + outside)
    head_matrix = config.vocab_size * config.emb_dim
    rows = min(shape.tokens, rows_at_once(config.vocab_size, shape.device_type))
    chunk = rows * config.vocab_size * (8 if low else 4)
    head = head_matrix * FP32 + (2 * 2 * head_matrix if low else 0) + chunk
    copies = 2 * shape.hidden_parameters if low else 0  # of the weights, which autocast makes once a pass
    gathered = 0
    if parts > 1:  # the whole weights, or with "full" two blocks of them at a time
        share = 1 if shape.shard == "optimizer" else 2 / config.n_layers
        gathered = int(shape.parameters * shape.number * share)
    there = gradients if shape.accumulation > 1 or shape.processes > 1 else 0
    state = weights + moments + gathered
    once_more = shape.tokens * per_block if shape.recompute else 0
    passing = shape.tokens * (2 * config.mlp_dim + 2 * config.emb_dim) * shape.number
    peak = state + max(
        there + copies + activations + head,
        there + copies + activations + head_matrix * FP32 + max(passing, once_more),
        gradients + 2 * head_matrix * FP32,
    )
    snapshot = (shape.parameters + shape.moments) * FP32
    holes = 0
    if shape.device_type == "cpu":
        peak = peak + snapshot if shape.saves_amid else max(peak, state + snapshot)
        holes = _THREADS + int(_HOLES * peak)
        peak += holes
    return Memory(weights, gradients, moments, activations, head, copies + gathered + holes, snapshot, peak)


def block_bytes(config: GPTConfig, number: int, length: int, fused: bool) -> int:
    """Bytes that the backward pass of one block needs for one token; a number in the products has `number` of them.
    `fused`: RMS norm and attention with dropout are one kernel each (CUDA), which keep their inputs only.

    The two norms keep their inputs, in fp32; the projections theirs, which are what the norms give. Attention keeps q,
    k, v and its output; the fused kernel computes the scores again. QK norm keeps q and k as it reads and as it gives
    them in fp32; rotary positions keep them turned, and attention's output in the order of tokens. The MLP keeps its
    inside before and after the activation: two of its widths with GELU, four with SwiGLU (both halves, the gate's
    activation, the product).
    """
    width = config.emb_dim
    queries, keys = config.n_heads * config.head_dim, config.n_kv_heads * config.head_dim
    attention = 2 * queries + 2 * keys
    if config.positions == "rotary":
        attention += 2 * queries + keys
    mlp = (4 if config.mlp == "swiglu" else 2) * config.mlp_dim
    total = 2 * FP32 * width + number * (2 * width + attention + mlp)
    if config.qk_norm:
        total += (queries + keys) * (FP32 if number == FP32 else 2 * FP32)
    if config.norm == "rms" and not fused:
        total += 2 * FP32 * width
    if config.drop_rate:
        total += 2 * width if fused else 2 * FP32 * width + 3 * number * config.n_heads * length
    return total


def outside_bytes(config: GPTConfig, number: int) -> int:
    """The same outside the blocks: the final norm's input and output, the gradient by it, and it in low precision."""
    return 3 * FP32 * config.emb_dim + (number * config.emb_dim if number < FP32 else 0)
