"""Which folder a name means, and of what kind it is, by the files that lie in it."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Literal

from gptcli.data.manifest import MANIFEST_FILE
from gptcli.data.output import is_unfinished
from gptcli.data.shard_format import SUFFIXES
from gptcli.errors import UsageError, nearest
from gptcli.model.files import CONFIG
from gptcli.model.locate import BEST, CHECKPOINTS, best_of, checkpoints_of, is_hub_id
from gptcli.settings import data_folder
from gptcli.training.run_file import RUN

Kind = Literal["model", "run", "shards"]
_KINDS = "a run, a checkpoint, a Hugging Face folder or a folder of token shards"
_MOST_NAMED = 5


def kind_of(folder: Path) -> Kind | None:
    """What a folder is. One that is several things is a model before a run, as for --model, and a run before shards."""
    if (folder / CONFIG).is_file():
        return "model"
    if (folder / RUN).is_file() or checkpoints_of(folder):
        return "run"
    if (folder / MANIFEST_FILE).is_file() or is_unfinished(folder):
        return "shards"
    if folder.is_dir() and any(path.suffix in SUFFIXES and path.name[0] != "." for path in folder.iterdir()):
        return "shards"
    return None


def locate(name: str) -> tuple[Path, Kind]:
    """The folder that `name` means: as it stands, or a bare name of one under ./data; and its kind.

    Raises UsageError, with what was probably meant, where it is none that can be told of.
    """
    for folder in dict.fromkeys((Path(name), data_folder(name))):
        if folder.is_dir() and (kind := kind_of(folder)):
            return folder, kind
    path = Path(name)
    if path.name == BEST and (best := best_of(path.parent)):
        return best, "model"
    if path.is_dir():
        raise UsageError(f"{name} is none of what gpt info tells of: {_KINDS}.", _inside(path))
    if path.exists():
        raise UsageError(f"{name} is a file; gpt info tells of folders.", f"Did you mean '{path.parent}'?")
    siblings = [*_folders(path.parent), *(entry for entry in _folders(Path("data")) if path.parent == Path())]
    if close := nearest(name, [str(entry) for entry in siblings] + [entry.name for entry in siblings]):
        raise UsageError(f"There is no folder {name}.", f"Did you mean '{close}'?")
    if is_hub_id(name):
        raise UsageError(f"There is no folder {name}.", "Models of the Hugging Face Hub are told of by gpt generate.")
    raise UsageError(f"There is no folder {name}.", f"Name {_KINDS}.")


def _inside(folder: Path) -> str:
    """What there is to name instead of a folder: the run around it, or what lies in it."""
    if folder.name == CHECKPOINTS or kind_of(folder.parent):
        return f"Did you mean '{folder.parent}'?"
    within = [str(entry) for entry in _folders(folder) if kind_of(entry)]
    if not within:
        return f"Name {_KINDS}."
    more = f" and {len(within) - _MOST_NAMED} more" if len(within) > _MOST_NAMED else ""
    return f"In it are {', '.join(within[:_MOST_NAMED])}{more}."


def _folders(folder: Path) -> Iterable[Path]:
    return sorted(path for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else []
