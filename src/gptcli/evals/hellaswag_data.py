"""The HellaSwag validation set (Zellers et al. 2019): from a file, the user's cache, or the Hugging Face Hub."""

from __future__ import annotations

import gzip
import json
import lzma
import subprocess
import sys
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from filelock import FileLock

from gptcli.data.durable import write_bytes
from gptcli.distributed.runtime import cache_dir
from gptcli.errors import Fault, UsageError, UserError

CACHE_NAME = "hellaswag_val.jsonl"
N_ENDINGS = 4
_FAULTS_SHOWN = 5
_HUB_DATASET = "Rowan/hellaswag"


@dataclass(frozen=True)
class Example:
    """A context, four endings, and the number of the right one. `index` is the example's place in the file, from 0."""

    index: int
    ctx: str
    endings: tuple[str, ...]
    label: int


def load_examples(path: str | None = None, option: str = "--data") -> list[Example]:
    """The examples of the file `path`; without one those in the user's cache, which the Hub fills the first time.

    Raises UsageError where there is no such file, UserError for damaged lines and where the Hub can't be reached;
    `option` is what the user names a file with.
    """
    return _load(path, option, None)


def load_within(seconds: float, path: str | None = None, option: str = "--data") -> list[Example]:
    """`load_examples`, giving up on the Hub with a UserError after so many seconds."""
    return _load(path, option, seconds)


def _load(path: str | None, option: str, seconds: float | None) -> list[Example]:
    if path is not None:
        return read_examples(Path(path), option)
    cached = cache_dir() / CACHE_NAME
    if not cached.exists():
        _fetch_in_child(option, seconds)
    return read_examples(cached, option)


def read_examples(file: Path, option: str = "--data") -> list[Example]:
    """The examples of a `.jsonl` file, also packed as `.gz` or `.xz`. Raises as `load_examples` does."""
    if not file.is_file():
        what = "is a folder, not a file" if file.is_dir() else "is not there"
        raise UsageError(
            f"{option} {file}: it {what}.", "Name the HellaSwag validation file (.jsonl, .jsonl.gz, .jsonl.xz)."
        )
    examples: list[Example] = []
    faults: list[Fault] = []
    try:
        with _open(file) as lines:
            for number, line in enumerate(lines, start=1):
                if not line.strip():
                    continue
                parsed = _parse(line, len(examples) + len(faults))
                if isinstance(parsed, Example):
                    examples.append(parsed)
                else:
                    faults.append(Fault(f"{file}, line {number}: {parsed}."))
    except (OSError, EOFError, lzma.LZMAError, zlib.error, UnicodeDecodeError) as error:
        raise UserError(f"{file} is damaged or can't be read: {error}.", f"Name another file with {option}.") from error
    if faults:
        more = len(faults) - _FAULTS_SHOWN
        rest = [Fault(f"{file}: {more:,} more lines are damaged.")] if more > 0 else []
        raise UserError(faults=faults[:_FAULTS_SHOWN] + rest)
    if not examples:
        raise UserError(f"{file} holds no examples.", f"Name another file with {option}.")
    return examples


def _open(file: Path) -> IO[str]:
    if file.suffix == ".gz":
        return gzip.open(file, "rt", encoding="utf-8")
    if file.suffix == ".xz":
        return lzma.open(file, "rt", encoding="utf-8")
    return file.open(encoding="utf-8")


def _parse(line: str, index: int) -> Example | str:
    """An example, or what is wrong with its line."""
    try:
        told = json.loads(line)
    except ValueError as error:
        return f"it is not JSON ({error})"
    if not isinstance(told, dict):
        return "it is not a JSON object"
    missing = [key for key in ("ctx", "endings", "label") if key not in told]
    if missing:
        return f"it has no {', no '.join(missing)}"
    ctx, endings, label = told["ctx"], told["endings"], _label(told["label"])
    if not isinstance(ctx, str):
        return "ctx is not text"
    if not isinstance(endings, list) or len(endings) != N_ENDINGS or not all(isinstance(e, str) for e in endings):
        return f"endings is not a list of {N_ENDINGS} texts"
    if label is None:
        return f"label is {told['label']!r}, not a number from 0 to {N_ENDINGS - 1}"
    return Example(index, ctx, tuple(endings), label)


def _label(value: Any) -> int | None:
    """The original file has numbers, the Hub's copy has them as text, and its test split an empty one."""
    if isinstance(value, str) and value.strip().isdecimal():
        value = int(value)
    is_label = isinstance(value, int) and not isinstance(value, bool) and 0 <= value < N_ENDINGS
    return value if is_label else None


def _fetch_in_child(option: str, seconds: float | None) -> None:
    """Fill the cache from the Hub, in a process of its own: it can be ended on time whatever the network does, and its
    progress bars and threads don't reach this one."""
    hint = f"Connect this machine, or name the validation file with {option} FILE (.jsonl, also .gz or .xz)."
    command = [sys.executable, "-c", "from gptcli.evals.hellaswag_data import fetch; fetch()"]
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, timeout=seconds
        )
    except subprocess.TimeoutExpired as error:
        raise UserError(
            f"HellaSwag's data could not be had from the Hugging Face Hub within {seconds:g} seconds.", hint
        ) from error
    if done.returncode:
        lines = done.stderr.decode("utf-8", errors="replace").strip().splitlines()
        why = f" ({lines[-1][:200].rstrip('. ')})" if lines else ""
        raise UserError(f"HellaSwag's data could not be had from the Hugging Face Hub{why}.", hint)


def fetch() -> None:
    """Write the Hub's validation split into the user's cache, unless another process has done so meanwhile."""
    target = cache_dir() / CACHE_NAME
    target.parent.mkdir(parents=True, exist_ok=True)
    with _held(target):
        if target.exists():
            return
        from datasets import load_dataset

        rows = load_dataset(_HUB_DATASET, split="validation")
        keys = ("ind", "activity_label", "ctx", "endings", "source_id")
        lines = [json.dumps({key: row[key] for key in keys} | {"label": int(row["label"])}) for row in rows]
        write_bytes(target, ("\n".join(lines) + "\n").encode())


@contextmanager
def _held(target: Path) -> Iterator[None]:
    """One writer at a time; the lock ends with its process."""
    with FileLock(target.with_name(f".{target.name}.lock")):
        yield
