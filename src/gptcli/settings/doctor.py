"""The options of `gpt doctor` and `gpt doctor resume`."""

from __future__ import annotations

from typing import Self

from pydantic import model_validator

from gptcli.settings.options import CommandSettings, Count, Device, Name, option
from gptcli.settings.train import TrainSettings


class DoctorSettings(CommandSettings):
    """`gpt doctor`: a machine in, what is wrong with it out."""

    command = "doctor"

    data_root: Name = option("edu_fineweb10B", "Folder of token shards; a bare name lies under ./data.", "What is used")
    log_dir: Name = option("log", "Folder of the run.", "What is used")
    device: Device = option("auto", "auto, cpu, cuda or mps.", "What is used")
    gpus: Count = option(1, "Processes on this machine, one for each GPU.", "What is used", ge=1)


class DoctorResumeSettings(TrainSettings):
    """`gpt doctor resume`: a configuration of `gpt train` in, the proof that its runs are resumed exactly out."""

    command = "doctor resume"
    table = "train"

    @model_validator(mode="after")
    def _check_combinations(self) -> Self:
        """What would be ignored is refused."""
        if self.dry_run or self.fresh:
            raise ValueError("--dry-run and --fresh say nothing here: the proof has folders of its own")
        if self.nodes > 1:
            raise ValueError("--nodes: the proof is made on one machine; try it with --gpus")
        return self
