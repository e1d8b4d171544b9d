"""What a run will be, before it is: size, length, arithmetic and memory. Allocates nothing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace

import torch

from gptcli.distributed.runtime import Ranks, detect
from gptcli.errors import UsageError
from gptcli.model.config import GPTConfig
from gptcli.model.network import GPT
from gptcli.settings import TrainSettings
from gptcli.training.setup import Setup, describe, prepare
from gptcli.training.telemetry import flops_per_token

FP32 = 4  # bytes


@dataclass(frozen=True)
class Plan:
    """A run in numbers; sizes in bytes, memory for one process."""

    parameters: int
    weight_bytes: int
    gradient_bytes: int
    optimizer_bytes: int
    activation_bytes: int
    logit_bytes: int
    steps: int
    warmup_iters: int
    tokens: int
    tokens_per_step: int
    tokens_per_micro_batch: int
    accumulation: int
    epochs: float
    flops: int
    facts: Mapping[str, str]

    @property
    def peak_memory_bytes(self) -> int:
        """The most that lies in memory at once: at the end of a forward pass, or during the update."""
        state = self.weight_bytes + self.gradient_bytes + self.optimizer_bytes
        return state + self.activation_bytes + self.logit_bytes

    def as_dict(self) -> dict[str, object]:
        """For --json."""
        numbers = {name: value for name, value in asdict(self).items() if name != "facts"}
        return {**numbers, "peak_memory_bytes": self.peak_memory_bytes}


def plan(settings: TrainSettings) -> Plan:
    """The plan of a call of `gpt train`. Raises what the call itself would raise for its settings."""
    if settings.fit_time:
        raise UsageError(
            "--dry-run can't tell how many steps --fit-time will give: that is measured when the run begins.",
            "Plan with --max-iters.",
        )
    ranks = detect()
    if not ranks.launched:
        ranks = Ranks(world_size=settings.gpus * settings.nodes)
    setup = prepare(settings, ranks)
    with torch.device("meta"):
        parameters = GPT(setup.config).n_parameters()
    micro_batch = settings.n_batches * setup.length
    activations = micro_batch * _activation_values(setup.config, setup.length, settings.drop_rate > 0) * FP32
    # The head's output, its gradient, and the softmax that the loss keeps between the two.
    logits = 3 * micro_batch * setup.config.vocab_size * FP32
    parts = 1 if settings.shard == "none" else ranks.world_size
    # With --shard optimizer the gathered weights lie beside a process' part of them.
    gathered = parameters if settings.shard == "optimizer" and parts > 1 else 0
    numbers = Plan(
        parameters=parameters,
        weight_bytes=(parameters // parts + gathered) * FP32,
        gradient_bytes=parameters // parts * FP32,
        optimizer_bytes=_moments(setup, parameters) // parts * FP32,
        activation_bytes=activations,
        logit_bytes=logits,
        steps=setup.steps,
        warmup_iters=setup.warmup,
        tokens=setup.steps * setup.tokens_per_step,
        tokens_per_step=setup.tokens_per_step,
        tokens_per_micro_batch=micro_batch,
        accumulation=setup.accumulation(ranks.world_size),
        epochs=setup.steps * setup.windows_per_step / setup.train_windows,
        flops=flops_per_token(setup.config, parameters, setup.length) * setup.steps * setup.tokens_per_step,
        facts={},
    )
    return replace(numbers, facts=_facts(setup, numbers, ranks.world_size))


def _moments(setup: Setup, parameters: int) -> int:
    """Numbers that the optimiser keeps: two for each parameter, one for the hidden matrices under Muon."""
    if setup.settings.optimizer != "muon":
        return 2 * parameters
    with torch.device("meta"):
        hidden = sum(p.numel() for p in GPT(setup.config).blocks.parameters() if p.dim() == 2)
    return 2 * parameters - hidden


def _activation_values(config: GPTConfig, length: int, dropout: bool) -> int:
    """Numbers that the backward pass of the blocks needs for one token.

    A block keeps the inputs of its two norms and their outputs (4 widths), q, k, v and attention's output, that output
    in the order of tokens, and the MLP's inside before and after its activation: two of its widths with GELU, four with
    SwiGLU (both halves, the gate's activation, the product). The fused kernel recomputes attention's scores. QK norm
    keeps q and k before it, normalised, and turned; rotary positions alone keep nothing. Dropout keeps two masks more.
    After the blocks come the final norm's input and output.
    """
    queries, keys = config.n_heads * config.head_dim, config.n_kv_heads * config.head_dim
    attention = 3 * queries + 2 * keys + (2 * (queries + keys) if config.qk_norm else 0)
    mlp = (4 if config.mlp == "swiglu" else 2) * config.mlp_dim
    per_block = (6 if dropout else 4) * config.emb_dim + attention + mlp
    return config.n_layers * per_block + 3 * config.emb_dim


def _facts(setup: Setup, plan: Plan, processes: int) -> dict[str, str]:
    gib = 2**30
    return {
        **describe(setup, plan.parameters, processes),
        "Arithmetic": f"{plan.flops:.3g} FLOPs",
        "Memory": f"{plan.peak_memory_bytes / gib:.2f} GiB for each process in fp32 (an estimate): "
        f"weights {plan.weight_bytes / gib:.2f}, gradients {plan.gradient_bytes / gib:.2f}, "
        f"optimiser {plan.optimizer_bytes / gib:.2f}, activations {plan.activation_bytes / gib:.2f}, "
        f"logits {plan.logit_bytes / gib:.2f}",
        **({"Note": "; ".join(setup.notes)} if setup.notes else {}),
    }
