"""Which checkpoints of a run stay, and room for the next one."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from gptcli.errors import UserError
from gptcli.model.locate import checkpoints_of, step_of, val_loss_of
from gptcli.training import checkpoint


@dataclass(frozen=True)
class Retention:
    """The newest `last` checkpoints stay, those whose step is a multiple of `every`, and with `best` the one with the
    lowest validation loss."""

    last: int
    every: int | None
    best: bool

    def superfluous(self, val_losses: Mapping[int, float | None]) -> list[int]:
        """The steps, of those whose validation losses are given (None: not measured), that don't stay; oldest first."""
        steps = sorted(val_losses)
        measured = {step: loss for step in steps if (loss := val_losses[step]) is not None}
        stays = set(steps[-self.last :])
        stays |= {step for step in steps if self.every and step % self.every == 0}
        stays |= {min(measured, key=measured.__getitem__)} if self.best and measured else set()
        return [step for step in steps if step not in stays]


def prune(run: Path, retention: Retention) -> None:
    """Remove what does not stay. Raises OSError."""
    folders = {step_of(folder): folder for folder in checkpoints_of(run)}
    for step in retention.superfluous({step: val_loss_of(folder) for step, folder in folders.items()}):
        checkpoint.remove(folders[step])


def make_room(run: Path, retention: Retention, needed: int, progress: checkpoint.Progress) -> None:
    """See to it that there are `needed` bytes for the checkpoint of `progress`, by removing what will not stay beside
    it: but never the newest that is there, which is all there is if this save fails.

    Raises UserError where that is not enough, OSError.
    """
    folders = {step_of(folder): folder for folder in checkpoints_of(run)}
    losses = {step: val_loss_of(folder) for step, folder in folders.items()}
    going = retention.superfluous({**losses, progress.step: progress.val_loss})
    for step in going:
        if free_bytes(run) >= needed:
            return
        if step in folders and step != max(folders):
            checkpoint.remove(folders[step])
    check_room(run, needed)


def check_room(run: Path, needed: int) -> None:
    """Raise UserError where less than `needed` bytes are free for a checkpoint."""
    if (free := free_bytes(run)) < needed:
        raise UserError(
            f"A checkpoint needs {needed / 1e9:.2f} GB, and {run} has {free / 1e9:.2f} GB free.",
            "Make room on that disk, or name another with --log-dir.",
        )


def free_bytes(folder: Path) -> int:
    """Bytes that this user may still write to the file system of `folder`."""
    return shutil.disk_usage(folder).free
