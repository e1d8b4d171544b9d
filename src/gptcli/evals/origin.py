"""Where a task's examples come from: a file of the user's, the user's cache, or the place where they were published."""

from __future__ import annotations

import gzip
import hashlib
import json
import lzma
import subprocess
import sys
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any, TypeVar

from filelock import FileLock

from gptcli.data.durable import write_bytes
from gptcli.distributed.runtime import cache_dir
from gptcli.errors import Fault, UsageError, UserError

Row = Mapping[str, Any]
Example = TypeVar("Example")
KINDS = (".jsonl", ".jsonl.gz", ".jsonl.xz", ".parquet")
_FAULTS_SHOWN = 5
_PACKED = {".gz": gzip.open, ".xz": lzma.open}


@dataclass(frozen=True)
class Published:
    """One published file with a task's examples: `address` is `hf://datasets/NAME/REPOSITORY@COMMIT/PATH` or a web
    address, `sha256` that of its bytes."""

    address: str
    sha256: str

    @property
    def suffix(self) -> str:
        """What its name tells of its format."""
        return ".parquet" if self.address.endswith(".parquet") else ".jsonl"


@dataclass(frozen=True)
class Origin:
    """The examples of the task `task`: the files in which they were published, the first of which can be had counts."""

    task: str
    files: tuple[Published, ...]

    def cached(self) -> Path | None:
        """The file in the user's cache, if one is there. It is called by its checksum, and was checked when it came."""
        found = (self.place(file) for file in self.files)
        return next((place for place in found if place.is_file()), None)

    def place(self, file: Published) -> Path:
        """Where one of the files is kept."""
        return cache_dir() / "tasks" / f"{self.task}-{file.sha256[:16]}{file.suffix}"


@dataclass(frozen=True)
class Rows:
    """Where rows were read from, and whether that is a published file, byte for byte."""

    file: Path
    is_published: bool


def locate(
    origin: Origin, path: str | None, *, offline: bool = False, option: str = "--data", seconds: float | None = None
) -> Rows:
    """The file `path`; without one that in the user's cache, which is filled the first time.

    Raises UsageError where there is no such file, UserError where the cache is empty and `offline` forbids to fill it
    or nobody who publishes the file can be reached, within `seconds` where they are given. `option` is what the user
    names a file with.
    """
    if path is not None:
        file = Path(path)
        if not file.is_file():
            what = "is a folder, not a file" if file.is_dir() else "is not there"
            raise UsageError(f"{option} {file}: it {what}.", f"Name the examples of {origin.task} ({' '.join(KINDS)}).")
        return Rows(file, _checksum(file, option) in {published.sha256 for published in origin.files})
    hint = f"Connect this machine, or name a file with {option} FILE ({' '.join(KINDS)})."
    if origin.cached() is None:
        if offline:
            raise UserError(f"The data of {origin.task} is not in the cache, and --offline forbids to fetch it.", hint)
        _fetch_in_child(origin, hint, seconds)
    cached = origin.cached()
    assert cached is not None, "fetch has put it there or raised"
    return Rows(cached, True)


def read(rows: Rows, parse: Callable[[Row, int], Example | str], option: str = "--data") -> list[Example]:
    """The examples in the file, each by `parse` from a row and its number, from 0; what it gives as text is what is
    wrong with the row. Raises UserError for all of these at once, and for what can't be read."""
    examples: list[Example] = []
    faults: list[Fault] = []
    try:
        for where, row in _rows(rows.file):
            parsed = parse(row, len(examples) + len(faults)) if isinstance(row, Mapping) else row
            if isinstance(parsed, str):
                faults.append(Fault(f"{rows.file}, {where}: {parsed}."))
            else:
                examples.append(parsed)
    except (OSError, EOFError, lzma.LZMAError, zlib.error, UnicodeDecodeError, ValueError) as error:
        raise _damaged(rows.file, error, option) from error
    if faults:
        more = len(faults) - _FAULTS_SHOWN
        rest = [Fault(f"{rows.file}: {more:,} more lines are damaged.")] if more > 0 else []
        raise UserError(faults=faults[:_FAULTS_SHOWN] + rest)
    if not examples:
        raise UserError(f"{rows.file} holds no examples.", f"Name another file with {option}.")
    return examples


def _damaged(file: Path, error: Exception, option: str) -> UserError:
    return UserError(f"{file} is damaged or can't be read: {error}.", f"Name another file with {option}.")


def _rows(file: Path) -> Iterator[tuple[str, Row | str]]:
    """Each row with where it stands; a text in its place tells what is wrong with it."""
    if file.suffix == ".parquet":
        from pyarrow import parquet

        for number, row in enumerate(parquet.read_table(file).to_pylist(), start=1):
            yield f"row {number}", row
        return
    with _open(file) as lines:
        for number, line in enumerate(lines, start=1):
            if line.strip():
                yield f"line {number}", _parsed(line)


def _parsed(line: bytes) -> Row | str:
    try:
        told = json.loads(line.decode())
    except json.JSONDecodeError as error:
        return f"it is not JSON ({error})"
    return told if isinstance(told, dict) else "it is not a JSON object"


def _open(file: Path) -> IO[bytes]:
    opened: IO[bytes] = _PACKED.get(file.suffix, open)(file, "rb")  # type: ignore[operator]
    return opened


def _checksum(file: Path, option: str) -> str:
    try:
        with _open(file) as content:
            return hashlib.file_digest(content, "sha256").hexdigest()  # type: ignore[arg-type]
    except (OSError, EOFError, lzma.LZMAError, zlib.error) as error:
        raise _damaged(file, error, option) from error


def _fetch_in_child(origin: Origin, hint: str, seconds: float | None) -> None:
    """Fill the cache in a process of its own: it can be ended on time whatever the network does, and its progress bars
    and threads don't reach this one."""
    program = f"import sys; from {__name__} import fetch_told; sys.exit(fetch_told(sys.argv[1]))"
    command = [sys.executable, "-c", program, json.dumps(asdict(origin))]
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, timeout=seconds
        )
    except subprocess.TimeoutExpired as error:
        raise UserError(f"The data of {origin.task} could not be had within {seconds:g} seconds.", hint) from error
    if done.returncode:
        lines = done.stderr.decode("utf-8", errors="replace").strip().splitlines()
        why = f" ({lines[-1][:300].rstrip('. ')})" if lines else ""
        raise UserError(f"The data of {origin.task} could not be had{why}.", hint)


def fetch_told(told: str) -> int:
    """`fetch` of an origin as JSON tells it; failures go to standard error, on the last line. Returns an exit code."""
    origin = json.loads(told)
    try:
        fetch(Origin(origin["task"], tuple(Published(**file) for file in origin["files"])))
    except UserError as error:
        sys.stderr.write("\n" + " ".join(fault.message for fault in error.faults) + "\n")
        return 1
    return 0


def fetch(origin: Origin) -> None:
    """Fill the user's cache from the first published file that can be had, unless another process has done so
    meanwhile. Raises UserError where none can, and for bytes that are not those that were published."""
    folder = cache_dir() / "tasks"
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / f".{origin.task}.lock"):  # one writer at a time; the lock ends with its process
        if origin.cached():
            return
        faults: list[Fault] = []
        for file in origin.files:
            try:
                content = _fetched(file, folder / "fetching")
            except UserError as error:
                faults += error.faults
                continue
            write_bytes(origin.place(file), content)
            return
        raise UserError(faults=faults)


def _fetched(file: Published, folder: Path) -> bytes:
    from gptcli.data.remote import address_files

    (found,) = address_files(file.address)
    path = found.fetch(folder)
    content = path.read_bytes()
    if hashlib.sha256(content).hexdigest() != file.sha256:
        raise UserError(f"{file.address} has other bytes than were published: its sha256 is not {file.sha256}.")
    return content


def spread(examples: Iterable[Example], n: int) -> list[Example]:
    """`n` examples at equal distances over the file, or all if there are fewer. The first ones would not do: the first
    third of HellaSwag's validation file is short ActivityNet text, the rest long WikiHow text."""
    everything = list(examples)
    n = min(n, len(everything))
    return [everything[i * len(everything) // n] for i in range(n)]
