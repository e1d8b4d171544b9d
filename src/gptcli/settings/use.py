"""The options of the commands that take a model or a run: `gpt eval`, `gpt generate`, `gpt export`, `gpt info`,
`gpt plot`."""

from __future__ import annotations

from typing import Literal

from gptcli.settings.export_formats import EXPORT_FORMATS
from gptcli.settings.options import CommaList, CommandSettings, Count, Device, Name, argument, option

Weights = Literal["auto", "fp32", "bf16", "int8"]


class EvalSettings(CommandSettings):
    """`gpt eval`: a model in, scores out."""

    command = "eval"

    tasks: CommaList = argument((), "Tasks, with commas between, such as hellaswag,loss; --list tells all.")
    list: bool = option(False, "List the tasks and end.", "Task")
    style: Literal["completion", "lm-eval", "both"] | None = option(
        None,
        "How a task that has both is scored, such as HellaSwag: completion (the default; GPT From Scratch, "
        "build-nanogpt), lm-eval, or both.",
        "Task",
    )
    data: Name | None = option(
        None, "The task's file; without it, from the user's cache or the Hugging Face Hub.", "Task"
    )
    offline: bool = option(False, "Fetch nothing: a task's data must be in the cache.", "Task")
    limit: Count | None = option(None, "Score only the first so many examples (loss: sequences).", "Task", ge=1)
    save: Name | None = option(None, "Write one line of JSON for each example to this file.", "Task")

    data_root: Name | None = option(None, "Folder of token shards, whose validation split is scored.", "Loss")
    text: Name | None = option(None, "A file of text (.txt .md .jsonl .parquet …), instead of shards.", "Loss")
    stride: Count | None = option(
        None,
        "Predict each token from at least context length minus so many before it. Default: windows side by side.",
        "Loss",
        ge=1,
    )
    per_document: bool = option(False, "Read each document by itself; --save then has a line for each.", "Loss")

    harness: CommaList = option(
        (), "Tasks of lm-evaluation-harness, with commas between (needs the extra lm-eval).", "Harness",
        examples=["mmlu", "gsm8k"],
    )  # fmt: skip
    num_fewshot: Count | None = option(None, "Examples before each question. Default: the task's.", "Harness", ge=0)
    include_path: Name | None = option(None, "Folder with tasks of your own for the harness.", "Harness")

    model: tuple[Name, ...] = option(
        (),
        "Run, checkpoint, Hugging Face folder or Hub id; several times to compare. Default: the newest under ./log.",
        "Model",
    )
    weights: Weights = option(
        "fp32",
        "How the weights are held: auto, fp32, bf16 or int8; the task loss with auto decides what auto is.",
        "Model",
    )
    batch_tokens: Count | None = option(None, "Tokens in one forward pass. Default: by the memory.", "Device", ge=1)
    device: Device = option("auto", "auto, cpu, cuda or mps.", "Device")
    gpus: Count = option(
        1, "Processes on this machine, one for each GPU; with --device cpu, on its cores.", "Device", ge=1
    )


class GenerateSettings(CommandSettings):
    """`gpt generate`: a prompt in, its completion out."""

    command = "generate"

    prompt: str | None = argument(
        None,
        'The text to go on from; - reads it from standard input, "" is the start of a document. '
        "Without one: a session on a terminal, else the start of a document.",
    )
    max_new_tokens: Count = option(100, "Longest completion, in tokens.", "Sampling", ge=1)
    temperature: float = option(1.0, "Above 1 wilder, below 1 tamer; 0 takes the likeliest token.", "Sampling", ge=0)
    top_k: Count | None = option(50, "Choose among so many likeliest tokens; 0 for all.", "Sampling", ge=0)
    top_p: float = option(1.0, "Choose among the likeliest tokens that hold this probability.", "Sampling", gt=0, le=1)
    min_p: float = option(0.0, "Leave out tokens less likely than this part of the likeliest.", "Sampling", ge=0, le=1)
    repetition_penalty: float = option(
        1.0, "Above 1: tokens that are in the text already become less likely.", "Sampling", gt=0
    )
    seed: Count | None = option(
        None, "The same seed gives the same text. Default: a new one each time.", "Sampling", ge=0, lt=2**63
    )
    num_samples: Count = option(1, "Completions of the prompt.", "Sampling", ge=1)
    stop: tuple[Name, ...] = option((), "Stop before this text; may be given several times.", "Sampling")
    stop_at_end: bool = option(True, "Stop where the model ends the document.", "Sampling")

    file: Name | None = option(
        None,
        "Prompts, one JSON object a line with `prompt` and, if need be, sampling options of its own.",
        "Many prompts",
    )
    output: Name | None = option(None, "Where the completions of --file go, a line of JSON each.", "Many prompts")

    show_probs: bool = option(False, "Colour each token by its probability and list the alternatives.", "Output")
    stats: bool = option(False, "Tell how fast it was.", "Output")

    model: tuple[Name, ...] = option(
        (),
        "Run, checkpoint, Hugging Face folder or Hub id; several times for a text of each, side by side. "
        "Default: the newest checkpoint under ./log.",
        "Model",
    )
    weights: Weights = option(
        "auto",
        "How the weights are held: fp32, bf16, int8, or auto: as `gpt eval loss --weights auto` decided, else fp32.",
        "Model",
    )
    device: Device = option("auto", "auto, cpu, cuda or mps.", "Device")


class ExportSettings(CommandSettings):
    """`gpt export`: a model in, a folder or file for other programs out."""

    command = "export"

    model: Name | None = argument(None, "Run, checkpoint, Hugging Face folder or Hub id.")
    out: Name | None = argument(None, "Folder or file to write.")
    format: str | None = option(
        None,
        "; ".join(f"{name}: {each.told}" for name, each in EXPORT_FORMATS.items()) + ". Default: by OUT's name.",
        "Output",
        choices=EXPORT_FORMATS,
    )
    quantize: Literal["none", "q8_0"] = option("none", "q8_0: the matrices of a GGUF file in 8 bits.", "Output")


class InfoSettings(CommandSettings):
    """`gpt info`: a folder in, what is known of it out."""

    command = "info"

    path: Name = argument("log", "Run, checkpoint, Hugging Face folder or folder of token shards.")
    verify: bool = option(False, "Compare checksums too, which reads every byte.", "Check")


class PlotSettings(CommandSettings):
    """`gpt plot`: runs in, their figure out."""

    command = "plot"

    log_dir: tuple[Name, ...] = argument(("log",), "Folders of runs; several are laid over each other.")
    x: Literal["step", "tokens", "time", "flops"] = option(
        "step", "What the curves run over: step, tokens, time, or flops, the arithmetic of training.", "Figure"
    )
    smoothing: float = option(
        0.005,
        "Share of the x axis at which a neighbour counts 1/e in the averages of noisy curves; 0 for none.",
        "Figure",
        ge=0,
        lt=1,
    )
    output: Name | None = option(
        None,
        "Picture to write (.png .svg .pdf). Default: plots/training.png in the run, or of several ./comparison.png.",
        "Output",
    )
    terminal: bool = option(False, "Draw here, as text, instead of writing a picture.", "Output")
