"""The options of the commands that look at runs: `gpt watch`, `gpt runs`, `gpt runs diff`."""

from __future__ import annotations

from typing import Literal

from gptcli.settings.options import CommandSettings, Name, argument, option


class WatchSettings(CommandSettings):
    """`gpt watch`: a run that goes on elsewhere, as it is seen where it was started."""

    command = "watch"

    log_dir: Name = argument("log", "Folder of the run.")


class RunsSettings(CommandSettings):
    """`gpt runs`: the runs under a folder, a line each."""

    command = "runs"

    folder: Name = argument(".", "Folder at and under which runs are looked for, four levels deep.")
    sort: Literal[
        "run", "state", "model", "parameters", "step", "tokens", "loss", "val", "best", "hellaswag", "speed", "time",
        "size", "started",
    ] = option(
        "started",
        "Column to sort by, the best, fastest, newest or largest first: run, state, model, parameters, step, tokens, "
        "loss, val, best, hellaswag, speed, time, size, started.",
        "Table",
    )  # fmt: skip
    reverse: bool = option(False, "The other way round.", "Table")


class RunsDiffSettings(CommandSettings):
    """`gpt runs diff`: what two runs have not in common."""

    command = "runs diff"

    first: Name | None = argument(None, "Folder of a run.")
    second: Name | None = argument(None, "Folder of another one.")
