"""Checkpoints: a Hugging Face model folder, and in its subfolder `training/` what a resume needs beyond the weights.

A checkpoint is written under a hidden name and renamed when it is whole and on disk.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch.optim import Optimizer

from gptcli.errors import UserError
from gptcli.model.huggingface import read_model, save_tensors, write_model
from gptcli.model.locate import CHECKPOINTS, checkpoints_of, damage_hint
from gptcli.model.network import GPT
from gptcli.tokenizer import Tokenizer
from gptcli.tokenizer_files import write_tokenizer

TRAINING, OPTIMIZER, STATE = "training", "optimizer.safetensors", "state.json"
_MOMENTS = ("exp_avg", "exp_avg_sq")
_REPLACED = ".replaced-"


@dataclass(frozen=True)
class Progress:
    """Where a run stands at the border of two steps. Dropout's random numbers follow from seed, step and rank, and the
    order of the data from seed and step, so these two are the state of both."""

    step: int
    seed: int
    seconds: float
    evaluation_due: bool  # stopped before the evaluation, or the sample, of this step was done
    sample_due: bool
    numerics: dict[str, Any]


def save(
    run: Path, progress: Progress, model: GPT, optimizer: Optimizer, tokenizer: Tokenizer | None, keep_last: int
) -> Path:
    """Write the checkpoint of `progress` and remove all but the newest `keep_last`; returns its folder.

    Raises UserError when it can't be written; nothing half-written stays then, and no older checkpoint is lost.
    """
    name = f"step_{progress.step:07d}"
    folder, hidden = run / CHECKPOINTS / name, run / CHECKPOINTS / f".{name}"
    try:
        shutil.rmtree(hidden, ignore_errors=True)
        (hidden / TRAINING).mkdir(parents=True)
        write_model(hidden, model, tokenizer.eot if tokenizer else None)
        if tokenizer:
            write_tokenizer(hidden, tokenizer, model.config.context_length)
        optimizer_steps, moments = _optimizer_tensors(model, optimizer)
        save_tensors(moments, hidden / TRAINING / OPTIMIZER)
        state = asdict(progress) | {"optimizer_steps": optimizer_steps}
        (hidden / TRAINING / STATE).write_text(json.dumps(state, indent=2) + "\n", encoding="utf-8")
        _flush(hidden)
        _replace(hidden, folder)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(hidden, ignore_errors=True)
        raise _unwritable(run, progress.step, error) from error
    for old in checkpoints_of(run)[:-keep_last]:
        _remove(old)
    return folder


def _unwritable(run: Path, step: int, error: Exception) -> UserError:
    full = getattr(error, "errno", None) == errno.ENOSPC or "No space left" in str(error)
    what = "The disk is full" if full else str(error)
    last = checkpoints_of(run)
    return UserError(
        f"The checkpoint of step {step} could not be written to {run}: {what}.",
        f"Make room; the run then continues from {last[-1]}." if last else "Make room and start again.",
    )


def read_progress(folder: Path) -> Progress:
    """Where the run stood. Raises UserError when the file is missing or damaged."""
    file = folder / TRAINING / STATE
    try:
        state = json.loads(file.read_text(encoding="utf-8"))
        del state["optimizer_steps"]
        return Progress(**state)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{file} is missing or damaged, so the run can't be continued from {folder}.",
            f"Remove {folder}; the run then continues from the checkpoint before it.",
        ) from error


def restore(folder: Path, model: GPT, optimizer: Optimizer) -> None:
    """Put weights and optimiser state back, exact to the bit. Raises UserError for damaged files."""
    model.load_state_dict(read_model(folder).state_dict())
    steps = json.loads((folder / TRAINING / STATE).read_text(encoding="utf-8"))["optimizer_steps"]
    if steps == 0:
        return
    file = folder / TRAINING / OPTIMIZER
    saved: dict[int, dict[str, torch.Tensor]] = {}
    try:
        with safe_open(file, framework="pt") as opened:
            for i, name in enumerate(_names(model, optimizer)):
                saved[i] = {moment: opened.get_tensor(f"{name}.{moment}") for moment in _MOMENTS}
                saved[i]["step"] = torch.tensor(float(steps))
    except (OSError, SafetensorError) as error:
        raise UserError(f"{file} is damaged or missing: {error}.", damage_hint(folder)) from error
    optimizer.load_state_dict({"state": saved, "param_groups": optimizer.state_dict()["param_groups"]})


def remove_unfinished(run: Path) -> None:
    """Clear away what an interrupted save or removal left behind; a checkpoint that was not replaced is put back."""
    for hidden in (run / CHECKPOINTS).glob(".*"):
        before = hidden.with_name(hidden.name.removeprefix(_REPLACED))
        if hidden.name.startswith(_REPLACED) and not before.exists():
            hidden.rename(before)
        else:
            shutil.rmtree(hidden, ignore_errors=True)


def _optimizer_tensors(model: GPT, optimizer: Optimizer) -> tuple[int, dict[str, torch.Tensor]]:
    """The optimiser's count of steps, and its moments as `<parameter>.exp_avg` and `<parameter>.exp_avg_sq`."""
    state = optimizer.state_dict()["state"]
    if not state:
        return 0, {}
    names = dict(enumerate(_names(model, optimizer)))
    moments = {
        f"{names[i]}.{moment}": values[moment].detach().cpu().contiguous()
        for i, values in state.items()
        for moment in _MOMENTS
    }
    return int(state[0]["step"]), moments


def _names(model: GPT, optimizer: Optimizer) -> Iterator[str]:
    """Our name of every parameter in the optimiser's own order."""
    name_of = {id(parameter): name for name, parameter in model.named_parameters()}
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            yield name_of[id(parameter)]


def _replace(new: Path, folder: Path) -> None:
    """Give the whole checkpoint `new` its name; one of the same step that was there is gone afterwards."""
    if not folder.exists():
        new.rename(folder)
        return
    old = folder.with_name(f"{_REPLACED}{folder.name}")
    folder.rename(old)
    new.rename(folder)
    shutil.rmtree(old)


def _remove(folder: Path) -> None:
    """Remove a whole checkpoint: hidden first, so that a crash in between leaves no part of one."""
    hidden = folder.with_name(f".removed-{folder.name}")
    folder.rename(hidden)
    shutil.rmtree(hidden)


def _flush(folder: Path) -> None:
    """Wait until everything in `folder` is on disk: a rename must not get there first."""
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb+") as opened:
                os.fsync(opened.fileno())
