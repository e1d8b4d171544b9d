"""The options of every command, each told once: name, type, default, bounds, help text, and the group it is shown in.

The command line, `--print-config`, the environment, configuration files and `run.json` are all made from these classes.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import BeforeValidator, Field, StringConstraints, model_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from gptcli.presets import PRESETS


def option(default: Any, help: str, group: str, *, adapts: bool = False, **constraints: Any) -> Any:
    """A field that is an option: `group` is the heading of `--help` that it stands under.

    `adapts` marks one whose default bends to the run where the same value, asked for, would not: a printed file
    does not ask for it. `examples` among the constraints are the values to offer and to suggest.
    """
    return Field(default, description=help, json_schema_extra={"group": group, "adapts": adapts}, **constraints)


def argument(default: Any, help: str) -> Any:
    """A field that is a positional argument."""
    return Field(default, description=help, json_schema_extra={"positional": True})


def _count(value: object) -> object:
    """Whole numbers may be written `100_000_000` or `1e8`; anything else is left to the type's own check."""
    if isinstance(value, str) and re.fullmatch(r"\d+(\.\d+)?[eE]\+?\d+", value.strip()):
        number = float(value)
        return int(number) if number.is_integer() else value
    return value


def _commas(value: object) -> object:
    """Lists take commas, and what is given several times is joined, each value once: `a,b` and `a` `b` `a` are the same
    list."""
    if isinstance(value, str):
        value = [value]
    if isinstance(value, (list, tuple)):
        parts = (part.strip() for item in value for part in str(item).split(","))
        return tuple(dict.fromkeys(part for part in parts if part))
    return value


Count = Annotated[int, BeforeValidator(_count)]
Name = Annotated[str, StringConstraints(min_length=1)]  # of a file, a folder, a model: empty it would mean another
CommaList = Annotated[tuple[str, ...], BeforeValidator(_commas)]
Device = Annotated[
    str, StringConstraints(pattern=r"^(auto|cpu|mps|cuda(:\d+)?)$"), Field(examples=["auto", "cpu", "cuda", "mps"])
]


class CommandSettings(BaseSettings):
    """What all commands' settings share. Built in Python, a settings object is what its arguments say, and nothing
    else: the environment and configuration files are read by the command line only."""

    model_config = SettingsConfigDict(extra="forbid", frozen=True, env_prefix="GPTCLI_", allow_inf_nan=False)
    command: ClassVar[str]

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return (init_settings,)


class TokenizeSettings(CommandSettings):
    """`gpt tokenize`: text in, token shards out."""

    command = "tokenize"

    @model_validator(mode="after")
    def _check_combinations(self) -> Self:
        """What would be ignored is refused."""
        if self.verify is not None and (self.sources or self.fresh):
            raise ValueError("--verify only checks a folder; leave the sources and --fresh out")
        return self

    sources: tuple[Name, ...] = argument(
        (),
        "Files (.txt .md .jsonl .json .csv .parquet .arrow, also .gz .zst .xz .bz2), folders, globs, addresses, or - "
        "for standard input. Without any: a Hugging Face dataset.",
    )
    dataset_path: str = option("HuggingFaceFW/fineweb-edu", "Dataset on the Hugging Face Hub.", "Source", min_length=1)
    remote_name: str = option("sample-10BT", "Configuration of that dataset.", "Source")
    split: str = option("train", "Split of that dataset.", "Source")
    text_column: str = option("text", "Column or JSON key that holds the text.", "Source")
    separator: str | None = option(
        None,
        "Cut .txt and .md files into documents at this text (\\n: line break). Otherwise a file is one document, and a "
        "line of standard input.",
        "Source",
        min_length=1,
    )
    limit_documents: Count | None = option(None, "Take only the first so many documents.", "Source", ge=1)
    limit_tokens: Count | None = option(None, "Take only the first so many tokens.", "Source", ge=2)
    on_error: Literal["stop", "skip"] | None = option(
        None,
        "What to do at a document that can't be read: stop or skip it. Default: stop, but replace bytes that are not "
        "UTF-8.",
        "Source",
    )
    tokenizer_model: str = option(
        "gpt2",
        "gpt2, another encoding of tiktoken's, bytes, chars (made from the text), a tokenizer.json, a folder with one "
        "(a model's, say), or a Hub id.",
        "Tokens",
        min_length=1,
    )
    local_dir: Name = option("edu_fineweb10B", "Folder for the shards; a bare name lies under ./data.", "Output")
    shard_size: Count = option(100_000_000, "Tokens in a shard.", "Output", ge=1)
    val_tokens: Count | None = option(
        None,
        "Tokens of the validation split. Default: one shard, or a tenth of all where that is less.",
        "Output",
        ge=0,
    )
    fresh: bool = option(
        False, "Move the tokens in the folder aside and start again; unfinished ones are removed.", "Output"
    )
    workers: Count | None = option(None, "Processes that encode. Default: one for each core.", "Run", ge=1)
    engine: Literal["auto", "gigatoken", "tiktoken"] = option(
        "auto", "What encodes: auto takes gigatoken, checked against tiktoken, where it can read the tokenizer.", "Run"
    )
    on_mismatch: Literal["stop", "fall-back"] = option(
        "stop", "Where gigatoken's ids are not tiktoken's: stop, or fall back and begin anew with tiktoken.", "Run"
    )
    verify: Name | None = option(
        None, "Check every shard of this folder against its manifest, and do nothing else.", "Run"
    )


class TokenizerTrainSettings(CommandSettings):
    """`gpt tokenizer train`: text in, a byte-level BPE tokenizer out."""

    command = "tokenizer train"

    sources: tuple[Name, ...] = argument(
        (), "Files, folders, globs or addresses, or - for standard input. Without any: a Hugging Face dataset."
    )
    dataset_path: str = option("HuggingFaceFW/fineweb-edu", "Dataset on the Hugging Face Hub.", "Source")
    remote_name: str = option("sample-10BT", "Configuration of that dataset.", "Source")
    text_column: str = option("text", "Column or JSON key that holds the text.", "Source")
    separator: str | None = option(
        None, "Cut .txt and .md files into documents at this text (\\n: line break).", "Source", min_length=1
    )
    limit_documents: Count | None = option(None, "Take only the first so many documents.", "Source", ge=1)
    limit_bytes: Count = option(1_000_000_000, "Take only the first so many bytes of text.", "Source", ge=1)
    on_error: Literal["stop", "skip"] | None = option(
        None, "What to do at a document that can't be read: stop (the default) or skip it.", "Source"
    )
    vocab_size: Count = option(8192, "Tokens, with the 256 bytes and end of text among them.", "Tokenizer", ge=257)
    split: Literal["gpt2", "gpt4"] = option(
        "gpt4", "How text is cut into words before merging: as GPT-2 or as GPT-4 does.", "Tokenizer"
    )
    output: Name = option("tokenizer.json", "File to write.", "Output")
    fresh: bool = option(False, "Move an existing file aside.", "Output")


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
        return {**PRESETS[preset], **values}

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
    qkv_bias: bool = option(False, "Biases in the query, key and value projections.", "Model")
    tie_embeddings: bool = option(True, "Share the token embedding with the output head.", "Model")
    init_from: Name | None = option(
        None, "Start from these weights: a run, a checkpoint, a Hugging Face folder or Hub id.", "Model"
    )

    data_root: Name = option("edu_fineweb10B", "Folder of token shards; a bare name lies under ./data.", "Data")
    n_tokens: Count | None = option(None, "Tokens of one sequence. Default: the context length.", "Data", ge=1)
    n_batches: Count = option(16, "Sequences in the micro-batch of one process.", "Data", ge=1)
    total_batch_size: Count = option(524_288, "Tokens of one step, over all processes.", "Data", ge=1)

    max_iters: Count | None = option(
        None, "Steps; the data repeats as needed. Default: 19,073 or one pass, the shorter.", "Optimisation", ge=1
    )
    n_epochs: float | None = option(
        None, "Passes over the data; with --max-iters the shorter counts.", "Optimisation", gt=0
    )
    max_lr: float = option(6e-4, "Learning rate after warm-up.", "Optimisation", gt=0)
    min_lr: float = option(6e-5, "Learning rate at the end.", "Optimisation", ge=0)
    warmup_iters: Count = option(
        715, "Steps of linear warm-up; a tenth of a run too short for the default.", "Optimisation", adapts=True, ge=0
    )
    weight_decay: float = option(0.1, "Decay of matrices and embeddings.", "Optimisation", ge=0)
    beta1: float = option(0.9, "AdamW: decay of the mean of gradients.", "Optimisation", ge=0, lt=1)
    beta2: float = option(0.95, "AdamW: decay of the mean of squared gradients.", "Optimisation", ge=0, lt=1)
    grad_clip: float = option(1.0, "Longest gradient norm; 0 clips nothing.", "Optimisation", ge=0)
    seed: Count = option(
        1337, "Seed of the initial weights, the data order and dropout.", "Optimisation", ge=0, lt=2**63
    )

    log_dir: Name = option("log", "Folder of the run. The same command on an existing run continues it.", "Run")
    fresh: bool = option(False, "Move an existing run aside and start again.", "Run")
    save_every: Count = option(1000, "Steps between checkpoints.", "Run", ge=1)
    keep_last: Count = option(3, "Checkpoints that are kept.", "Run", ge=1)
    monitor: bool = option(True, "Show progress while training. Metrics are written in any case.", "Run")
    dry_run: bool = option(False, "Tell size, memory and length of the run, and train nothing.", "Run")

    eval_every: Count = option(250, "Steps between evaluations.", "Evaluation", ge=1)
    eval_iters: Count = option(20, "Validation loss is taken over this many total batches.", "Evaluation", ge=1)
    metrics: CommaList = option(
        ("hellaswag",),
        "Scores besides the loss: hellaswag, or none.",
        "Evaluation",
        adapts=True,
        examples=["hellaswag", "none"],
    )
    eval_examples: Count = option(1000, "HellaSwag examples scored during training.", "Evaluation", ge=1)
    hellaswag_data: Name | None = option(None, "The HellaSwag validation file (.jsonl, also .gz .xz).", "Evaluation")
    sample_every: Count = option(250, "Steps between sample completions.", "Evaluation", ge=1)

    device: Device = option("auto", "auto, cpu, cuda or mps.", "Device and processes")
    gpus: Count = option(
        1, "Processes on this machine, one for each GPU; with --device cpu, on its cores.", "Device and processes", ge=1
    )
    torch_matmul_precision: Literal["highest", "high", "medium"] = option(
        "high", "Precision of fp32 matrix products: highest, high (TF32) or medium.", "Device and processes"
    )
    compile: Literal["auto", "on", "off"] = option(
        "auto", "torch.compile: auto compiles on CUDA.", "Device and processes"
    )  # type: ignore[assignment,unused-ignore]


class EvalSettings(CommandSettings):
    """`gpt eval`: a model in, scores out."""

    command = "eval"

    tasks: CommaList = argument((), "Tasks, with commas between: hellaswag, loss.")
    list: bool = option(False, "List the tasks and end.", "Task")
    data: Name | None = option(
        None, "The task's file; without it, from the user's cache or the Hugging Face Hub.", "Task"
    )
    data_root: Name | None = option(None, "Folder of token shards, for the task loss.", "Task")
    limit: Count | None = option(None, "Score only the first so many examples (loss: sequences).", "Task", ge=1)
    save: Name | None = option(None, "Write one line of JSON for each example to this file.", "Task")
    model: tuple[Name, ...] = option(
        (),
        "Run, checkpoint, Hugging Face folder or Hub id; several times to compare. Default: the newest under ./log.",
        "Model",
    )
    batch_tokens: Count = option(16_384, "Tokens in one forward pass.", "Device", ge=1)
    device: Device = option("auto", "auto, cpu, cuda or mps.", "Device")


class GenerateSettings(CommandSettings):
    """`gpt generate`: a prompt in, its completion out."""

    command = "generate"

    prompt: str = argument("", "The text to go on from. Without one: from the start of a document.")
    max_new_tokens: Count = option(100, "Longest completion, in tokens.", "Sampling", ge=1)
    temperature: float = option(1.0, "Above 1 wilder, below 1 tamer; 0 takes the likeliest token.", "Sampling", ge=0)
    top_k: Count | None = option(50, "Choose among so many likeliest tokens; 0 for all.", "Sampling", ge=0)
    top_p: float = option(1.0, "Choose among the likeliest tokens that hold this probability.", "Sampling", gt=0, le=1)
    seed: Count | None = option(
        None, "The same seed gives the same text. Default: a new one each time.", "Sampling", ge=0, lt=2**63
    )
    num_samples: Count = option(1, "Completions of the prompt.", "Sampling", ge=1)
    stop_at_end: bool = option(True, "Stop where the model ends the document.", "Sampling")
    model: Name | None = option(
        None, "Run, checkpoint, Hugging Face folder or Hub id. Default: the newest checkpoint under ./log.", "Model"
    )
    weights: Literal["auto", "fp32", "bf16", "int8"] = option("fp32", "How the weights are held.", "Model")
    device: Device = option("auto", "auto, cpu, cuda or mps.", "Device")


class PlotSettings(CommandSettings):
    """`gpt plot`: a run in, its figure out."""

    command = "plot"

    log_dir: Name = argument("log", "Folder of the run.")
    output: Name | None = option(
        None, "Picture to write (.png .svg .pdf). Default: plots/training.png in the run.", "Output"
    )


COMMANDS: dict[str, type[CommandSettings]] = {
    cls.command: cls
    for cls in (
        TokenizeSettings,
        TokenizerTrainSettings,
        TrainSettings,
        EvalSettings,
        GenerateSettings,
        PlotSettings,
    )
}


def data_folder(name: str) -> Path:
    """Where the shards of data folder `name` lie: a bare name under ./data, what has a path separator as it stands."""
    separators = {"/", os.sep, os.altsep} - {None}
    if name in (".", "..") or any(separator in name for separator in separators if separator):
        return Path(name)
    return Path("data") / name
