"""Weights & Biases, online or as WANDB_MODE says; its other variables hold too: WANDB_PROJECT, WANDB_ENTITY …"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import ClassVar

import wandb

from gptcli.training.tracking.registry import PROJECT, TrackedRun


class WeightsAndBiases:
    """Its steps only go up, so what it has of a step stays."""

    takes_back: ClassVar[bool] = False

    def __init__(self, run: TrackedRun) -> None:
        # An argument would overrule the environment, in which sweeps and clusters say such things.
        own = {"project": PROJECT, "name": run.name, "dir": str(run.folder), "run_id": run.id}
        free = {name: value for name, value in own.items() if not os.environ.get(f"WANDB_{name.upper()}")}
        if "run_id" in free:
            free["id"] = free.pop("run_id")
        self._run = wandb.init(
            **free,
            config=dict(run.configuration),
            resume="allow",
            allow_val_change=True,
            settings=wandb.Settings(console="off", silent=True, disable_code=True),
        )
        self.where = self._run.url or f"wandb sync {self._run.settings.sync_dir}"

    def log(self, step: int, values: Mapping[str, float]) -> None:
        # A run that continues begins one step after its last; what was still due at that one is told then.
        self._run.log(dict(values), step=max(step, self._run.step))

    def sample(self, step: int, prompt: str, text: str) -> None:
        table = wandb.Table(columns=["step", "prompt", "text"], data=[[step, prompt, text]])
        self._run.log({"samples": table}, step=max(step, self._run.step))

    def finish(self) -> None:
        self._run.finish()
