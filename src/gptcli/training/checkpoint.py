"""Checkpoints: a Hugging Face model folder that tells where it comes from (`provenance.py`), and in its subfolder
`training/` what a resume needs beyond the weights.

A checkpoint is written under a hidden name, sealed with checksums, and renamed when it is whole and on disk. Going on,
a run takes the newest one whose checksums hold.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
import shutil
from contextlib import ExitStack
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from gptcli.data.durable import sync_folder
from gptcli.distributed.group import Group
from gptcli.errors import Fault, UserError
from gptcli.model.checksums import TRAINING, damage, seal
from gptcli.model.config import GPTConfig
from gptcli.model.files import WEIGHTS
from gptcli.model.formats import format_of, stored_tensors
from gptcli.model.formats.format import Stored
from gptcli.model.huggingface import save_tensors, to_huggingface, write_tensors
from gptcli.model.locate import CHECKPOINTS, STATE, checkpoints_of, damage_hint, step_of
from gptcli.model.network import GPT
from gptcli.optim.optimizers import Optimizers
from gptcli.tokenizer import Tokenizer
from gptcli.tokenizer_files import write_tokenizer
from gptcli.training import provenance
from gptcli.training.provenance import Origin
from gptcli.training.spikes import RecentSteps

OPTIMIZER = f"{TRAINING}/optimizer.safetensors"
DAMAGED = "damaged_"  # before the name of a checkpoint that was found so: it is kept, and never taken
_REPLACED = ".replaced-"
_BESIDES = (
    64 * 2**20
)  # bytes of a checkpoint beside its tensors, at most: the tokenizer, JSON, what a file system rounds


@dataclass(frozen=True)
class Progress:
    """Where a run stands at the border of two steps. Dropout's random numbers follow from seed, step and rank, and the
    order of the data from seed and step, so these two are the state of both."""

    step: int
    seed: int
    seconds: float
    evaluation_due: bool  # stopped before the evaluation, or the sample, of this step was done
    sample_due: bool
    val_loss: float | None  # measured at this step
    best_loss: float | None  # the lowest so far
    recent: RecentSteps
    numerics: dict[str, Any]
    loss_scale: dict[str, Any] = dataclasses.field(default_factory=dict)  # of the GradScaler, where there is one


@dataclass(frozen=True)
class Snapshot:
    """All that goes into a checkpoint, in memory of its own, so that training can go on while it is written: `weights`
    in Hugging Face's names and layout, `moments` of the optimiser after `optimizer_steps` updates."""

    progress: Progress
    config: GPTConfig
    weights: dict[str, Tensor]
    moments: dict[str, Tensor]
    optimizer_steps: int

    @property
    def bytes(self) -> int:
        """Room that the checkpoint takes on the disk, at most."""
        tensors = (*self.weights.values(), *self.moments.values())
        return sum(tensor.numel() * tensor.element_size() for tensor in tensors) + _BESIDES


def size(config: GPTConfig, parameters: int) -> int:
    """Bytes of a checkpoint before there is one, at most."""
    zeros = sum(math.prod(shape) for shape in format_of(config).zeros(config).values())
    return (3 * parameters + zeros) * 4 + _BESIDES


def snapshot(progress: Progress, model: GPT, optimizers: Optimizers, group: Group) -> Snapshot | None:
    """Copy the state of the run. All processes call this; the first gets the copy, the others None."""
    weights = group.gathered(_weights(model))
    moments = group.gathered(optimizers.moments())
    if weights is None or moments is None:
        return None
    copies = {name: torch.empty(tensor.shape).copy_(tensor) for name, tensor in moments.items()}
    return Snapshot(progress, model.config, to_huggingface(model.config, weights), copies, optimizers.updates())


def write(run: Path, taken: Snapshot, tokenizer: Tokenizer | None, origin: Origin | None = None) -> Path:
    """Write the checkpoint of a snapshot into its run, which `origin` tells of; returns its folder, whole and on disk.

    Raises OSError or SafetensorError when it can't be written; nothing half-written stays then, and an older checkpoint
    of the same step is still there.
    """
    name = f"step_{taken.progress.step:07d}"
    folder, hidden = run / CHECKPOINTS / name, run / CHECKPOINTS / f".{name}"
    try:
        shutil.rmtree(hidden, ignore_errors=True)
        (hidden / TRAINING).mkdir(parents=True)
        write_tensors(hidden, taken.config, taken.weights, tokenizer.eot if tokenizer else None)
        if tokenizer:
            write_tokenizer(hidden, tokenizer, taken.config.context_length)
        if origin:
            progress = taken.progress
            provenance.write(hidden, origin.at(progress.step, progress.val_loss, provenance.now()))
        save_tensors(taken.moments, hidden / OPTIMIZER)
        state = asdict(taken.progress) | {"optimizer_steps": taken.optimizer_steps}
        (hidden / STATE).write_text(json.dumps(state, indent=2, allow_nan=False) + "\n", encoding="utf-8")
        seal(hidden)
        _flush(hidden)
        _replace(hidden, folder)
        sync_folder(folder.parent)
    except BaseException:
        shutil.rmtree(hidden, ignore_errors=True)
        raise
    return folder


def newest_valid(run: Path) -> tuple[Path | None, list[str]]:
    """The newest checkpoint whose checksums hold, and notes on those that were passed over for it. These are renamed,
    so that nobody takes them for the newest; without a valid one nothing is renamed.

    Raises UserError where all are damaged: to begin again silently would bury what may still be rescued.
    """
    faults: dict[Path, str] = {}
    for folder in reversed(checkpoints_of(run)):
        fault = damage(folder, contents=True) or _misnamed(folder)
        if not fault:
            return folder, [_set_aside(damaged, why) for damaged, why in faults.items()]
        faults[folder] = fault
    if faults:
        told = [Fault(f"The checkpoint {folder} {fault}.") for folder, fault in faults.items()]
        hint = "The run has no other. Copy one of them again from where there is a backup, or start again with --fresh."
        raise UserError(faults=[*told[:-1], Fault(told[-1].message, hint)])
    return None, []


def _misnamed(folder: Path) -> str:
    """What is wrong where a checkpoint was given the name of another step; empty as a rule."""
    try:
        step = json.loads((folder / STATE).read_text(encoding="utf-8"))["step"]
    except (OSError, ValueError, KeyError, TypeError):
        return ""  # of another version, perhaps: `read_progress` tells
    return "" if step == step_of(folder) else f"is named wrongly: it is that of step {step}"


def _set_aside(folder: Path, fault: str) -> str:
    names = (f"{DAMAGED}{folder.name}{suffix}" for suffix in ("", *(f".{i}" for i in range(1, 1000))))
    aside = next(path for name in names if not (path := folder.with_name(name)).exists())
    folder.rename(aside)
    return f"The checkpoint {folder} {fault}. It is passed over, and kept as {aside.name}."


def read_progress(folder: Path) -> Progress:
    """Where the run stood. Raises UserError when the file is of another version."""
    try:
        state = json.loads((folder / STATE).read_text(encoding="utf-8"))
        known = {field.name: state[field.name] for field in fields(Progress) if field.name != "loss_scale"}
        known["loss_scale"] = state.get("loss_scale", {})  # which older versions did not have
        return Progress(**known | {"recent": RecentSteps(**state["recent"])})
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{folder / STATE} can't be understood, so the run can't be continued from {folder}.",
            "It was written by another version of gpt; continue with that one, or start from its weights with "
            "--init-from.",
        ) from error


def restore(folder: Path | None, model: GPT, optimizers: Optimizers, group: Group) -> None:
    """Put weights and optimiser state back, exact to the bit. All processes call this; the first one has the `folder`,
    the others None, since a machine of its own may not see it.

    Tensors are read one at a time, so that no second copy of the whole is ever in memory. Raises UserError.
    """
    try:
        with ExitStack() as stack:
            weights = stack.enter_context(_opened(folder / WEIGHTS)) if folder else None
            moments = stack.enter_context(_opened(folder / OPTIMIZER)) if folder else None
            targets = _weights(model)
            for stored in stored_tensors(model.config):
                group.put(targets[stored.ours], _stored(weights, stored) if weights else None)
            updates = group.on_main(lambda: _optimizer_steps(folder))
            if updates:
                optimizers.prepare_moments(updates)
                for name, target in optimizers.moments().items():
                    group.put(target, moments.get_tensor(name) if moments else None)
    except (OSError, SafetensorError) as error:
        raise UserError(f"{folder} can't be read: {error}.", damage_hint(folder) if folder else "") from error


def _weights(model: GPT) -> dict[str, Tensor]:
    """The live weights by our names, those that the embedding and the head share once."""
    return {name: parameter.detach() for name, parameter in model.named_parameters()}


def _stored(file: Any, stored: Stored) -> Tensor:
    """One of our tensors, put together from its parts in an opened file."""
    parts = [file.get_tensor(name) for name in stored.theirs]
    tensor: Tensor = parts[0] if len(parts) == 1 else torch.cat(parts)
    return tensor.T if stored.transposed else tensor


def _opened(file: Path) -> Any:
    """A safetensors file to read tensors from, not mapped: the pages of a mapped file would stay with the process."""
    return safe_open(file, framework="pt", backend="pread")


def _optimizer_steps(folder: Path | None) -> int:
    assert folder is not None, "the first process knows the checkpoint"
    return int(json.loads((folder / STATE).read_text(encoding="utf-8"))["optimizer_steps"])


def remove_unfinished(run: Path) -> None:
    """Clear away what an interrupted save or removal left behind; a checkpoint that was not replaced is put back."""
    for hidden in (run / CHECKPOINTS).glob(".*"):
        before = hidden.with_name(hidden.name.removeprefix(_REPLACED))
        if hidden.name.startswith(_REPLACED) and not before.exists():
            hidden.rename(before)
        else:
            shutil.rmtree(hidden, ignore_errors=True)


def remove(folder: Path) -> None:
    """Remove a whole checkpoint: hidden first, so that a crash in between leaves no part of one. Raises OSError."""
    hidden = folder.with_name(f".removed-{folder.name}")
    folder.rename(hidden)
    shutil.rmtree(hidden)


def _replace(new: Path, folder: Path) -> None:
    """Give the whole checkpoint `new` its name; one of the same step that was there is gone afterwards."""
    if not folder.exists():
        new.rename(folder)
        return
    old = folder.with_name(f"{_REPLACED}{folder.name}")
    folder.rename(old)
    new.rename(folder)
    shutil.rmtree(old, ignore_errors=True)


def _flush(folder: Path) -> None:
    """Wait until everything in `folder` is on disk: a rename must not get there first."""
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb+") as opened:
                os.fsync(opened.fileno())
        else:
            sync_folder(path)
    sync_folder(folder)
