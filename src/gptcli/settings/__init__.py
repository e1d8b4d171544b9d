"""The options of every command, each told once: name, type, default, bounds, help text, and the group it is shown in.

The command line, `--print-config`, the environment, configuration files and `run.json` are all made from these classes.
"""

from __future__ import annotations

import os
from pathlib import Path

from gptcli.settings.doctor import DoctorResumeSettings, DoctorSettings
from gptcli.settings.options import CommandSettings
from gptcli.settings.runs import RunsDiffSettings, RunsSettings, WatchSettings
from gptcli.settings.tokenize import TokenizerTrainSettings, TokenizeSettings
from gptcli.settings.train import TrainSettings
from gptcli.settings.use import EvalSettings, ExportSettings, GenerateSettings, InfoSettings, PlotSettings, Weights

COMMANDS: dict[str, type[CommandSettings]] = {
    cls.command: cls
    for cls in (
        TokenizeSettings,
        TokenizerTrainSettings,
        TrainSettings,
        EvalSettings,
        GenerateSettings,
        ExportSettings,
        WatchSettings,
        RunsSettings,
        RunsDiffSettings,
        InfoSettings,
        PlotSettings,
        DoctorSettings,
        DoctorResumeSettings,
    )
}


def data_folder(name: str) -> Path:
    """Where the shards of data folder `name` lie: a bare name under ./data, what has a path separator as it stands."""
    separators = {"/", os.sep, os.altsep} - {None}
    if name in (".", "..") or any(separator in name for separator in separators if separator):
        return Path(name)
    return Path("data") / name


__all__ = [
    "COMMANDS",
    "CommandSettings",
    "DoctorResumeSettings",
    "DoctorSettings",
    "EvalSettings",
    "ExportSettings",
    "GenerateSettings",
    "InfoSettings",
    "PlotSettings",
    "RunsDiffSettings",
    "RunsSettings",
    "TokenizeSettings",
    "TokenizerTrainSettings",
    "TrainSettings",
    "WatchSettings",
    "Weights",
    "data_folder",
]
