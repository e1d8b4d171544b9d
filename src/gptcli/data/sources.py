"""What is tokenized: files, folders, globs, standard input, addresses and datasets, in the order given."""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Callable, Generator, Iterable
from contextlib import closing
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

from pydantic import JsonValue

from gptcli.data.bundling import bundled, placed, read_texts
from gptcli.data.formats import fault_of, is_plain_text
from gptcli.data.local_files import expand, identity
from gptcli.data.remote_file import RemoteFile, without_secrets
from gptcli.data.retries import Told
from gptcli.data.slices import BEGINNING, Bundle, Cursor, Cuts, Reading
from gptcli.data.source_records import condensed
from gptcli.data.standard_input import StandardInput
from gptcli.data.tally import SliceFacts, Tally
from gptcli.errors import Fault, raise_if
from gptcli.settings import TokenizeSettings

STANDARD_INPUT = "-"

_LISTED_FILES = 1000  # in the manifest by name; more of them as one checksum


@dataclass(frozen=True)
class LocalFiles:
    """Files of this machine that one argument names."""

    files: tuple[Path, ...]
    reading: Reading

    def record(self) -> dict[str, JsonValue]:
        """Path as given, size and what tells one content from another."""
        listed: list[JsonValue] = [{"path": _text(path), **identity(path)} for path in self.files]
        return {"files": listed if len(listed) <= _LISTED_FILES else condensed(listed)}


@dataclass(frozen=True)
class Piped:
    """Standard input; `kept` is what came in, once it has been read."""

    reading: Reading
    kept: StandardInput | None = None

    def record(self) -> dict[str, JsonValue]:
        """Size and checksum."""
        assert self.kept, "standard input has not been read"
        return {"standard_input": True, "bytes": self.kept.bytes, "sha256": self.kept.sha256}


@dataclass(frozen=True)
class RemoteFiles:
    """Files that are fetched: of a dataset, or behind an address. They are listed when they are needed."""

    given: dict[str, JsonValue]
    reading: Reading
    listing: Callable[[], list[RemoteFile]] = field(compare=False)

    @cached_property
    def files(self) -> list[RemoteFile]:
        """Asks the server. Raises UserError where it can't be reached, UsageError where there are no such files."""
        return self.listing()

    def record(self) -> dict[str, JsonValue]:
        """What was asked for, and one checksum over what the server said there is."""
        listed: list[JsonValue] = [
            {"path": file.place, "bytes": file.size, "version": file.version} for file in self.files
        ]
        return {**self.given, "files": condensed(listed)}


Origin = LocalFiles | Piped | RemoteFiles


@dataclass(frozen=True)
class _File:
    path: Path | RemoteFile
    name: str
    reading: Reading


@dataclass(frozen=True)
class Sources:
    """All that one call reads."""

    origins: tuple[Origin, ...]

    @property
    def reads_standard_input(self) -> bool:
        """Whether standard input is among them and has not been read."""
        return any(isinstance(origin, Piped) and origin.kept is None for origin in self.origins)

    @property
    def hold_plain_text(self) -> bool:
        """Whether plain text is among them."""
        return any(is_plain_text(file.path.name) for file in self._files)

    def with_standard_input(self, kept: StandardInput) -> Sources:
        """The same, with what came in."""
        return Sources(
            tuple(replace(origin, kept=kept) if isinstance(origin, Piped) else origin for origin in self.origins)
        )

    def record(self) -> tuple[dict[str, JsonValue], ...]:
        """What the manifest says of them."""
        return tuple(origin.record() for origin in self.origins)

    def differences(self, recorded: Iterable[dict[str, JsonValue]], *, ask: bool) -> list[str]:
        """In what `recorded` differs, in words. Servers are asked whether their files have changed if `ask` says so.

        The path of a local file does not count, its content does.
        """
        old = list(recorded)
        if len(old) != len(self.origins):
            return [f"{len(old)} sources (now {len(self.origins)})"]
        found = []
        for before, origin in zip(old, self.origins, strict=True):
            if isinstance(origin, RemoteFiles) and not ask:
                if {**before, "files": None} != {**origin.given, "files": None}:
                    found.append(f"another source than {_named(origin.given)}")
            else:
                found += _changes(before, origin.record())
        return found

    def states(self) -> list[tuple[int, int]]:
        """Size and time of the last change of every local file, by which a change meanwhile is seen."""
        found = [file.path.stat() for file in self._files if isinstance(file.path, Path)]
        return [(state.st_size, state.st_mtime_ns) for state in found]

    def total_bytes(self) -> int | None:
        """The size of all files; None where a server doesn't tell."""
        total = 0
        for file in self._files:
            size = file.path.size if isinstance(file.path, RemoteFile) else file.path.stat().st_size
            if size is None:
                return None
            total += size
        return total

    def bundles(
        self, cache: Path, cuts: Cuts, start: Cursor = BEGINNING, told: Told | None = None
    ) -> Generator[Bundle]:
        """Everything from `start` on. What has to be fetched lies in `cache` meanwhile; `told` hears of waiting.

        Raises UserError for a file that can't be read or fetched.
        """
        files = self._files[start.file :]
        with closing(_fetched(files, cache, told)) as paths:
            yield from bundled(
                each
                for number, (file, path) in enumerate(zip(files, paths, strict=True), start.file)
                for each in placed(path, file.name, replace(file.reading, cuts=cuts), number, cache)
                if each.at >= start
            )

    def documents(self) -> Generator[str]:
        """Every document. Raises UserError for one that can't be read."""
        with closing(self.pieces("none")) as pieces:
            for text, _ in pieces:
                yield text

    def pieces(self, cuts: Cuts, told: Told | None = None) -> Generator[tuple[str, bool]]:
        """Every document, long ones in pieces, and whether it goes on with the one before.

        Raises UserError for one that can't be read.
        """
        tally = Tally()
        with (
            tempfile.TemporaryDirectory(prefix="gpt-") as cache,
            closing(self.bundles(Path(cache), cuts, told=told)) as bundles,
        ):
            for bundle in bundles:
                read = read_texts(bundle)
                facts = [SliceFacts(texts.units, texts.unit, texts.problems) for texts in read]
                tally = tally.after(bundle, facts, bundle.reading.on_error)
                for texts in read:
                    start = 0
                    for number, end in enumerate(texts.ends.tolist()):
                        yield bytes(texts.data[start:end]).decode(), texts.continues and number == 0
                        start = end

    @cached_property
    def _files(self) -> list[_File]:
        files: list[_File] = []
        for origin in self.origins:
            if isinstance(origin, LocalFiles):
                files += [_File(path, _text(path), origin.reading) for path in origin.files]
            elif isinstance(origin, RemoteFiles):
                files += [_File(file, file.address, origin.reading) for file in origin.files]
            else:
                assert origin.kept, "standard input has not been read"
                files.append(_File(origin.kept.path, "standard input", origin.reading))
        return files


def open_source(settings: TokenizeSettings, told: Told | None = None) -> Sources:
    """The sources that the settings name; `told` hears of waiting for servers.

    Raises UsageError with all that is wrong with them at once.
    """
    separator = None if settings.separator is None else unescape(settings.separator)
    reading = Reading(settings.text_column, separator, on_error=settings.on_error)
    if not settings.sources:
        return Sources((_dataset(settings, reading, told),))
    faults: list[Fault] = []
    seen: set[str] = set()
    origins = [_origin(argument, reading, seen, faults, told) for argument in settings.sources]
    for origin in origins:
        if isinstance(origin, LocalFiles):
            faults += [fault for path in origin.files if (fault := fault_of(path, origin.reading))]
    raise_if(faults)
    return Sources(tuple(origin for origin in origins if origin))


def unescape(text: str) -> str:
    r"""The text with \n, \r, \t and \\ replaced by what they stand for."""
    meanings = {"n": "\n", "r": "\r", "t": "\t", "\\": "\\"}
    return re.sub(r"\\([nrt\\])", lambda match: meanings[match[1]], text)


def _origin(argument: str, reading: Reading, seen: set[str], faults: list[Fault], told: Told | None) -> Origin | None:
    if argument == STANDARD_INPUT:
        if argument in seen:
            return None
        seen.add(argument)
        return Piped(reading if reading.separator else replace(reading, separator="\n"))
    if "://" in argument:
        return RemoteFiles({"address": without_secrets(argument)}, reading, lambda: _address_files(argument, told))
    files = []
    for path in expand(argument, faults):
        whole = os.path.realpath(path)
        if whole not in seen:
            seen.add(whole)
            files.append(path)
    return LocalFiles(tuple(files), reading) if files else None


def _dataset(settings: TokenizeSettings, reading: Reading, told: Told | None) -> RemoteFiles | LocalFiles:
    from gptcli.data.hub import dataset_files

    path, name, split = settings.dataset_path, settings.remote_name or None, settings.split
    if Path(path).is_dir():
        return LocalFiles(tuple(Path(file.address) for file in dataset_files(path, name, split)), reading)
    given: dict[str, JsonValue] = {"dataset": path, "name": name, "split": split}
    return RemoteFiles(given, reading, lambda: dataset_files(path, name, split, told))


def _address_files(address: str, told: Told | None) -> list[RemoteFile]:
    from gptcli.data.remote import address_files  # fsspec takes a tenth of a second

    return address_files(address, told)


def _fetched(files: list[_File], cache: Path, told: Told | None) -> Generator[Path]:
    """Where each file lies. Those that are elsewhere are fetched, one ahead."""
    remote = [file.path for file in files if isinstance(file.path, RemoteFile)]
    if not remote:
        yield from (file.path for file in files if isinstance(file.path, Path))
        return
    from gptcli.data.remote import prefetch

    with closing(prefetch(remote, cache, told)) as arriving:
        for file in files:
            yield file.path if isinstance(file.path, Path) else next(arriving)


def _changes(before: dict[str, JsonValue], now: dict[str, JsonValue]) -> list[str]:
    old, new = before.get("files"), now.get("files")
    if not (isinstance(old, list) and isinstance(new, list)):
        return [] if before == now else [f"another content of {_named(now)}"]
    if len(old) != len(new):
        return [f"{len(old)} files (now {len(new)})"]
    pairs = [(a, b) for a, b in zip(old, new, strict=True) if isinstance(a, dict) and isinstance(b, dict)]
    changed = [b for a, b in pairs if {**a, "path": "", "changed_ns": 0} != {**b, "path": "", "changed_ns": 0}]
    if not changed and (touched := [b for a, b in pairs if a.get("changed_ns") != b.get("changed_ns")]):
        return [f"{touched[0].get('path')} as it was before its last change (of the same size)"]
    more = f" and {len(changed) - 1} more" if len(changed) > 1 else ""
    return [f"another content of {changed[0].get('path')}{more}"] if changed else []


def _named(record: dict[str, JsonValue]) -> str:
    if "standard_input" in record:
        return "standard input"
    return str(record.get("dataset") or record.get("address") or "the files")


def _text(path: Path) -> str:
    """A path as JSON and messages can hold it."""
    return os.fsencode(path.as_posix()).decode("utf-8", errors="replace")
