"""The options of `gpt train`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

from pydantic import model_validator

from gptcli.errors import UsageError, UserError
from gptcli.presets import PRESETS, values_of
from gptcli.schedules import SCHEDULES
from gptcli.settings.options import (
    A_SIZE,
    A_TIME,
    CommaList,
    CommandSettings,
    Count,
    Device,
    Name,
    Seconds,
    Size,
    option,
)


class TrainSettings(CommandSettings):
    """`gpt train`: token shards in, checkpoints and metrics out. A step is an optimiser step."""

    command = "train"

    @model_validator(mode="before")
    @classmethod
    def _apply_preset(cls, values: dict[str, Any]) -> dict[str, Any]:
        """What the preset says holds where nothing else was said."""
        preset = values.get("preset")
        if not isinstance(preset, str):
            return values
        if preset not in PRESETS:
            raise ValueError(f"there is no preset '{preset}'; there are {', '.join(PRESETS)}")
        return {**values_of(preset, values), **values}

    @classmethod
    def of_run(cls, run: str | Path, more_iters: int = 0, **changes: Any) -> TrainSettings:
        """The settings of the run in a folder, to go on with it, for `more_iters` steps than it was to have; `changes`
        are what shall be otherwise. Raises UsageError where no run is there, and UserError where its `run.json` is
        damaged."""
        file = Path(run) / "run.json"
        try:
            content = json.loads(file.read_text(encoding="utf-8"))
            told, steps = content["settings"], int(content["steps"])
            cls.model_validate(told)
        except FileNotFoundError as error:
            raise UsageError(f"There is no run in {run}.", "Name the folder that holds its run.json.") from error
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UserError(f"{file} is damaged: {error}.", "Give the settings themselves.") from error
        longer = {"max_iters": steps + more_iters} if more_iters else {}
        return cls.model_validate({**told, "fresh": False, "profile": None, "log_dir": str(run), **longer, **changes})

    preset: str | None = option(
        None, f"A model and recipe by name: {', '.join(PRESETS)}.", "Model", examples=list(PRESETS)
    )
    n_layers: Count = option(12, "Transformer blocks.", "Model", ge=1)
    n_heads: Count = option(12, "Attention heads of a block.", "Model", ge=1)
    emb_dim: Count = option(768, "Width of the embeddings.", "Model", ge=1)
    context_length: Count = option(1024, "Longest sequence, in tokens.", "Model", ge=1)
    vocab_size: Count | None = option(
        None, "Rows of the embedding. Default: the data's vocabulary, rounded up to a multiple of 128.", "Model", ge=1
    )
    drop_rate: float = option(0.0, "Dropout probability.", "Model", ge=0, lt=1)
    n_kv_heads: Count | None = option(
        None, "Key-value heads, each shared by as many of the heads. Default: one for every head.", "Model", ge=1
    )
    mlp_dim: Count | None = option(
        None, "Width inside the MLP. Default: 4 times the width; 8/3 times with swiglu.", "Model", ge=1
    )
    positions: Literal["learned", "rotary"] = option(
        "learned", "How a token's place is told: learned embeddings or rotary (RoPE).", "Model"
    )
    norm: Literal["layer", "rms"] = option("layer", "layer: LayerNorm; rms: RMS norm.", "Model")
    mlp: Literal["gelu", "swiglu"] = option(
        "gelu", "Inside the MLP: GELU, or SwiGLU, where one half gates the other.", "Model"
    )
    qk_norm: bool = option(False, "Normalise queries and keys.", "Model")
    bias: bool = option(True, "Biases, but for those of queries, keys and values.", "Model")
    qkv_bias: bool = option(False, "Biases in the query, key and value projections.", "Model")
    tie_embeddings: bool = option(True, "Share the token embedding with the output head.", "Model")
    init_from: Name | None = option(
        None, "Start from these weights: a run, a checkpoint, a Hugging Face folder or Hub id.", "Model"
    )

    data_root: Name = option("edu_fineweb10B", "Folder of token shards; a bare name lies under ./data.", "Data")
    n_tokens: Count | None = option(None, "Tokens of one sequence. Default: the context length.", "Data", ge=1)
    document_mask: bool = option(False, "Keep attention within a document, in training and validation.", "Data")
    n_batches: Size = option(
        16, "Sequences in the micro-batch of one process; auto: as many as fit.", "Data", takes=A_SIZE
    )
    total_batch_size: Count = option(524_288, "Tokens of one step, over all processes.", "Data", ge=1)

    max_iters: Count | None = option(
        None, "Steps; the data repeats as needed. Default: 19,073 or one pass, the shorter.", "Optimisation", ge=1
    )
    n_epochs: float | None = option(
        None, "Passes over the data; with --max-iters the shorter counts.", "Optimisation", gt=0
    )
    optimizer: Literal["adamw", "muon"] = option(
        "adamw", "What moves the weights; muon: the hidden matrices by Muon, the rest by AdamW.", "Optimisation"
    )
    init: Literal["gpt2", "zero"] = option(
        "gpt2", "First weights: as GPT-2's, or with zero residual projections and head.", "Optimisation"
    )
    max_lr: float = option(6e-4, "Learning rate after warm-up.", "Optimisation", gt=0)
    embedding_lr: float | None = option(
        None, "Learning rate of the embeddings after warm-up. Default: --max-lr.", "Optimisation", gt=0
    )
    head_lr: float | None = option(
        None,
        "Learning rate of the output head, norms and biases after warm-up. Default: --max-lr.",
        "Optimisation",
        gt=0,
    )
    min_lr: float = option(6e-5, "Learning rate at the end.", "Optimisation", ge=0)
    warmup_iters: Count = option(
        715, "Steps of linear warm-up; a tenth of a run too short for the default.", "Optimisation", adapts=True, ge=0
    )
    schedule: str = option(
        "cosine",
        "What follows warm-up: " + ", ".join(f"{name} ({each.told})" for name, each in SCHEDULES.items()) + ".",
        "Optimisation",
        choices=SCHEDULES,
    )
    decay_share: float = option(
        0.4,
        "Part of the run after warm-up in which a schedule with a stable part, such as wsd, goes down.",
        "Optimisation",
        gt=0,
        le=1,
    )
    weight_decay: float = option(
        0.1, "Decay of matrices and embeddings; with muon of the hidden matrices alone.", "Optimisation", ge=0
    )
    beta1: float = option(0.9, "AdamW: decay of the mean of gradients (muon has its own).", "Optimisation", ge=0, lt=1)
    beta2: float = option(0.95, "AdamW: decay of the mean of squared gradients.", "Optimisation", ge=0, lt=1)
    grad_clip: float = option(1.0, "Longest gradient norm; 0 clips nothing.", "Optimisation", ge=0)
    seed: Count = option(
        1337, "Seed of the initial weights, the data order and dropout.", "Optimisation", ge=0, lt=2**63
    )

    on_spike: Literal["stop", "skip"] = option(
        "stop",
        "stop ends the run at a loss or gradient that is not finite; skip leaves such steps out, and those far above "
        "the recent ones.",
        "Optimisation",
    )
    spike_zscore: float = option(
        6.0,
        "What counts as a spike: so many standard deviations above the mean of the last steps.",
        "Optimisation",
        gt=0,
    )
    spike_limit: Count = option(
        10, "Steps out of 1,000 that --on-spike skip may leave out before the run ends.", "Optimisation", ge=0
    )

    log_dir: Name = option("log", "Folder of the run. The same command on an existing run continues it.", "Run")
    fresh: bool = option(False, "Move an existing run aside, to LOG_DIR.1 and so on, and start again.", "Run")
    save_every: Count = option(1000, "Steps between checkpoints.", "Run", ge=1)
    keep_last: Count = option(3, "Checkpoints that are kept: the newest so many.", "Run", ge=1)
    keep_every: Count | None = option(
        None, "Also keep those of every so many steps, a multiple of --save-every.", "Run", ge=1
    )
    keep_best: bool = option(
        True, "Also save, and keep, where the validation loss is the lowest so far: --model LOG_DIR/best.", "Run"
    )
    max_time: Seconds | None = option(
        None, "Stop and save after this time (2h, 45m); the same command continues.", "Run", takes=A_TIME, gt=0
    )
    fit_time: Seconds | None = option(
        None,
        "As many steps as end, with their evaluations, in this time; measured once.",
        "Run",
        takes=A_TIME,
        gt=0,
    )
    profile: Count | None = option(
        None, "Profile so many steps, after the first ones: a trace, and where their time went.", "Run", ge=1
    )
    monitor: bool = option(True, "Show progress while training. Metrics are written in any case.", "Run")
    track: CommaList = option(
        (), "Also track the run with tensorboard, wandb or trackio (extras of these names).", "Run",
        examples=["tensorboard", "wandb", "trackio", "none"],
    )  # fmt: skip
    dry_run: bool = option(False, "Tell size, memory, length and time of the run, and train nothing.", "Run")
    on: Name | None = option(None, "With --dry-run: plan for these GPUs, such as 8xh100, not this machine.", "Run")

    eval_every: Count = option(250, "Steps between evaluations.", "Evaluation", ge=1)
    eval_iters: Count = option(
        20, "Validation loss is taken over so many times --total-batch-size tokens.", "Evaluation", ge=1
    )
    metrics: CommaList = option(
        ("hellaswag",),
        "Scores besides the loss: hellaswag, or none.",
        "Evaluation",
        adapts=True,
        examples=["hellaswag", "none"],
    )
    eval_examples: Count = option(1000, "HellaSwag examples scored at each evaluation.", "Evaluation", ge=1)
    final_eval_examples: Count | None = option(
        None, "HellaSwag examples scored at the end of the run. Default: all.", "Evaluation", ge=1
    )
    hellaswag_data: Name | None = option(None, "The HellaSwag validation file (.jsonl, also .gz .xz).", "Evaluation")
    sample_every: Count = option(250, "Steps between sample completions.", "Evaluation", ge=1)

    device: Device = option("auto", "auto, cpu, cuda or mps.", "Device and processes")
    gpus: Count = option(
        1, "Processes on this machine, one for each GPU; with --device cpu, on its cores.", "Device and processes", ge=1
    )
    nodes: Count = option(
        1, "Machines, each started with this command and --gpus processes.", "Device and processes", ge=1
    )
    node_rank: Count = option(0, "Which of the machines this is, from 0.", "Device and processes", ge=0)
    rdzv_endpoint: Name | None = option(
        None, "HOST:PORT on machine 0, where the machines meet.", "Device and processes"
    )
    shard: Literal["none", "optimizer", "full"] = option(
        "none",
        "optimizer: spread it and gradients over the processes; full: the weights too.",
        "Device and processes",
    )
    precision: Literal["auto", "fp32", "bf16", "fp16"] = option(
        "auto", "Of matrix products; auto: what the device computes fastest.", "Device and processes"
    )
    activation_checkpointing: Literal["none", "block"] = option(
        "none", "block: compute blocks again in the backward pass, for less memory.", "Device and processes"
    )
    torch_matmul_precision: Literal["highest", "high", "medium"] = option(
        "high", "Of fp32 matrix products: highest, high (TF32) or medium (bf16).", "Device and processes"
    )
    compile: Literal["auto", "on", "off"] = option(
        "auto", "torch.compile: auto compiles on CUDA, where it works.", "Device and processes"
    )  # type: ignore[assignment,unused-ignore]
