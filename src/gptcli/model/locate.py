"""What `--model` means: the folder that holds a model, from a run, a checkpoint, a Hugging Face folder or a Hub id."""

from __future__ import annotations

import json
import re
from pathlib import Path

from gptcli.errors import UsageError, UserError, nearest
from gptcli.model.checksums import TRAINING, damage, is_sealed

CHECKPOINTS, STATE = "checkpoints", f"{TRAINING}/state.json"
BEST = "best"  # RUN/best is the checkpoint of RUN with the lowest validation loss
_CHECKPOINT_NAME = re.compile(r"step_\d{7,}")
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[\w.-]+)?")


def checkpoints_of(run: Path) -> list[Path]:
    """The whole checkpoints of a run folder, oldest first. One that is being written has another name."""
    folders = [path for path in (run / CHECKPOINTS).glob("step_*") if _CHECKPOINT_NAME.fullmatch(path.name)]
    return sorted(folders, key=step_of)


def step_of(checkpoint: Path) -> int:
    """The number of steps that a checkpoint folder has in its name."""
    return int(checkpoint.name.removeprefix("step_"))


def best_of(run: Path) -> Path | None:
    """The checkpoint of a run with the lowest validation loss, the oldest of equals; None where none has one."""
    losses = {folder: loss for folder in checkpoints_of(run) if (loss := val_loss_of(folder)) is not None}
    return min(losses, key=losses.__getitem__) if losses else None


def val_loss_of(checkpoint: Path) -> float | None:
    """The validation loss that was measured where the checkpoint was saved, None where that is not known."""
    try:
        loss = json.loads((checkpoint / STATE).read_text(encoding="utf-8"))["val_loss"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return float(loss) if isinstance(loss, (int, float)) else None


def newest_whole(run: Path, notes: list[str] | None = None) -> Path | None:
    """The newest checkpoint of a run whose files have the sizes that they should; those that were passed over for it
    are named in `notes`. None for a run without any."""
    for folder in reversed(checkpoints_of(run)):
        fault = damage(folder, contents=False) if is_sealed(folder) else ""
        if not fault:
            return folder
        if notes is not None:
            notes.append(f"The checkpoint {folder} {fault}; it is passed over.")
    return None


def damage_hint(folder: Path) -> str:
    """What to do about a damaged file in a model's folder: the checkpoint before it, where there is one."""
    if _CHECKPOINT_NAME.fullmatch(folder.name) and folder.parent.name == CHECKPOINTS:
        before = [path for path in checkpoints_of(folder.parent.parent) if step_of(path) < step_of(folder)]
        if not before:
            return "The run has no earlier checkpoint; gpt train --fresh starts it again."
        return f"Name the one before it, --model {before[-1]}, or remove {folder}: the run then continues from there."
    return "Copy the folder again from where it came from."


def is_hub_id(name: str) -> bool:
    """Whether a model of that name would be looked for on the Hugging Face Hub."""
    return not Path(name).exists() and "/" in name and bool(_HUB_ID.fullmatch(name))


def locate_model(name: str | None, notes: list[str] | None = None) -> Path:
    """The folder that holds the model `name`; None is the newest checkpoint of the runs at and under ./log. What the
    user should know of the choice is added to `notes`.

    Raises UsageError when nothing is there, and UserError when the Hub can't be reached.
    """
    if name is None:
        return _newest_under(Path("log"), notes)
    folder = Path(name)
    if folder.is_dir():
        if (folder / "config.json").exists():
            return folder
        if newest := newest_whole(folder, notes):
            return newest
        if damaged := checkpoints_of(folder):
            raise UserError(
                f"All checkpoints of the run {name} are damaged: {damaged[-1]} {damage(damaged[-1], contents=False)}.",
                "Copy the run again from where it came from.",
            )
        if (folder / "run.json").exists():
            raise UsageError(f"The run {name} has no checkpoint yet.", "Train it further: gpt train --log-dir " + name)
        raise UsageError(
            f"{name} is neither a run nor a model: it has no checkpoints and no config.json.",
            "Name a run folder, a checkpoint, a Hugging Face folder or a Hub id such as openai-community/gpt2.",
        )
    if folder.name == BEST and (best := best_of(folder.parent)):
        return best
    if folder.exists():
        raise UsageError(f"{name} is a file; a model is a folder.", f"Did you mean '{folder.parent}'?")
    if is_hub_id(name):
        return _from_hub(name)
    siblings = [str(path) for path in folder.parent.glob("*") if path.is_dir()] if folder.parent.is_dir() else []
    close = nearest(name, siblings)
    what = "a run, a checkpoint, a Hugging Face folder or a Hub id such as openai-community/gpt2"
    raise UsageError(f"There is no model at {name}.", f"Did you mean '{close}'?" if close else f"Name {what}.")


def _newest_under(log: Path, notes: list[str] | None) -> Path:
    runs = [log, *(path for path in log.glob("*") if path.is_dir())] if log.is_dir() else []
    newest = {run: folder for run in runs if (folder := newest_whole(run))}
    if not newest:
        raise UsageError(
            "There is no trained model under ./log.", "Train one with gpt train, or name one with --model."
        )
    run = max(newest, key=lambda run: newest[run].stat().st_mtime)
    return newest_whole(run, notes) or newest[run]


def _from_hub(repository: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, RepositoryNotFoundError

    try:
        return Path(
            snapshot_download(repository, allow_patterns=["*.json", "*.safetensors", "merges.txt", "vocab.json"])
        )
    except RepositoryNotFoundError as error:
        raise UsageError(
            f"There is no model at {repository}, neither as a folder here nor on the Hugging Face Hub.",
            "If it is private or gated, log in with: hf auth login",
        ) from error
    except (LocalEntryNotFoundError, HfHubHTTPError, OSError) as error:
        raise UserError(
            f"{repository} is no folder here, and the Hugging Face Hub could not be reached for it.",
            "Connect this machine, or name a folder.",
        ) from error
