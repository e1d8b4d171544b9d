"""Token shards as the trainer reads them: a folder with splits, each one stream of tokens over its files."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from gptcli.data.manifest import Manifest, ShardRecord, Split
from gptcli.data.output import is_unfinished
from gptcli.data.shard_format import (
    SUFFIXES,
    ShardError,
    ShardHeader,
    check_written,
    open_shard,
    read_header,
    written_header,
)
from gptcli.data.token_stream import TokenStream
from gptcli.errors import Fault, UsageError, UserError, nearest
from gptcli.tokenizer import Tokenizer, get_tokenizer
from gptcli.tokenizer.folders import read_folder
from gptcli.tokenizer.naming import built_in_names

_SPLIT_IN_NAME = re.compile(r"(?<![a-z])(train|val)(?![a-z])|(?<![a-z])(val)idation(?![a-z])", re.IGNORECASE)


# What waits for a network file system waits at the same time; on a local one as many are as fast as one.
_THREADS, _FILES_AT_A_TIME = 32, 64
_MOST_FAULTS = 20
_HINT = "Copy it again from where it came from, or tokenize again with --fresh."

S = TypeVar("S")
T = TypeVar("T")


@dataclass(frozen=True)
class Shards:
    """A folder of token shards. What only a manifest tells is None where there is none."""

    folder: Path
    manifest: Manifest | None
    splits: dict[str, TokenStream]

    @property
    def fingerprint(self) -> str:
        """What a run remembers its data by: the manifest's fingerprint; without one, sha256 over names and sizes."""
        if self.manifest:
            return self.manifest.fingerprint
        digest = hashlib.sha256()
        for split, stream in sorted(self.splits.items()):
            for path, header in stream.files:
                digest.update(f"{split} {path.name} {header.tokens} {header.dtype}\n".encode())
        return digest.hexdigest()

    @property
    def tokenizer_name(self) -> str | None:
        """The name of the ids' tokenizer."""
        return self.manifest.tokenizer.name if self.manifest else None

    def tokenizer(self) -> Tokenizer | None:
        """The tokenizer of the ids, from the folder's own files where its name is not enough; None without a manifest.

        Raises UserError where what is found is not what the manifest says, or nothing is.
        """
        if self.manifest is None:
            return None
        record = self.manifest.tokenizer
        hint = "Copy the folder again from where it came from, or tokenize the text again."
        if record.file:
            stored = read_folder(self.folder)
            found = Tokenizer(stored) if stored else None
        else:
            found = get_tokenizer(record.name) if record.name in built_in_names() else None
        if found is None:
            raise UserError(f"The tokenizer '{record.name}' of {self.folder} is not there.", hint)
        if found.sha256 != record.sha256:
            raise UserError(
                f"{self.folder} was tokenized with '{record.name}' ({record.sha256[:12]}…); "
                f"{'in it lies' if record.file else 'here it is'} '{found.name}' ({found.sha256[:12]}…).",
                hint,
            )
        return found

    @property
    def vocab_size(self) -> int | None:
        """The number of different ids there can be."""
        return self.manifest.tokenizer.vocab_size if self.manifest else None

    @property
    def eot(self) -> int | None:
        """The id that begins every document."""
        return self.manifest.tokenizer.eot if self.manifest else None

    def split(self, name: Split) -> TokenStream:
        """The stream of one split. Raises UsageError where the folder has no such shard."""
        if name not in self.splits:
            raise UsageError(
                f"{self.folder} has no {name} shards.",
                "Tokenize again with --val-tokens above 0." if name == "val" else "Choose another folder.",
            )
        return self.splits[name]


def open_shards(folder: Path, *, check: bool = True) -> Shards:
    """Open a folder of shards: ours, or one without a manifest (the original's, build-nanogpt's, llm.c's).

    Sizes and headers are checked, not contents: of all shards now, or, without `check` and with a manifest, of each one
    when it is first read. One process of a run has to check; thousands that open every file at once would only keep a
    network file system busy. Raises UsageError where there is nothing to open, UserError with all shards that are
    damaged, or for a damaged manifest.
    """
    if not folder.is_dir():
        raise UsageError(f"There is no data folder {folder}.", _folder_hint(folder))
    manifest = Manifest.read(folder)
    if manifest is None and is_unfinished(folder):
        raise UsageError(f"Tokenizing into {folder} has not finished.", "Run the same `gpt tokenize` again.")
    splits = _listed(folder, manifest, check) if manifest else _found(folder)
    if not splits:
        raise UsageError(
            f"{folder} holds no token shards.",
            "Make some with `gpt tokenize`. Shards have train or val in their name and end in .npy or .bin.",
        )
    return Shards(folder, manifest, splits)


def _listed(folder: Path, manifest: Manifest, check: bool) -> dict[str, TokenStream]:
    """The splits as the manifest has them."""
    if check:
        _check_all(folder, manifest)
    by_split: dict[str, list[ShardRecord]] = {}
    for shard in manifest.shards:
        by_split.setdefault(shard.split, []).append(shard)
    return {
        split: TokenStream(
            folder,
            [shard.name for shard in shards],
            [written_header(shard.tokens, manifest.dtype) for shard in shards],
            checked=check,
        )
        for split, shards in by_split.items()
    }


def _check_all(folder: Path, manifest: Manifest) -> None:
    place = f"{folder}{os.sep}"

    def check(shard: ShardRecord) -> Fault | None:
        try:
            descriptor = open_shard(place + shard.name)
        except OSError as error:
            return Fault(f"The shard {place}{shard.name} can't be read: {error.strerror or error}.", _HINT)
        try:
            check_written(place + shard.name, descriptor, shard.tokens, manifest.dtype)
        except ShardError as error:
            return Fault(f"The shard {place}{shard.name} {error}.", _HINT)
        finally:
            os.close(descriptor)
        return None

    _raise_damages([fault for fault in _for_all(manifest.shards, check) if fault])


def _found(folder: Path) -> dict[str, TokenStream]:
    """The splits of a folder without a manifest, by the names of its files, in the order of the numbers in these."""
    split_of = {}
    for path in folder.iterdir():
        match = _SPLIT_IN_NAME.search(path.stem)
        if match and path.suffix in SUFFIXES and not path.name.startswith("."):
            split_of[path.name] = (match[1] or match[2]).lower()
    names = sorted(split_of, key=_by_number)

    def header(name: str) -> ShardHeader | Fault:
        try:
            return read_header(folder / name)
        except ShardError as error:
            return Fault(f"The shard {folder / name} {error}.", _HINT)

    found = _for_all(names, header)
    _raise_damages([fault for fault in found if isinstance(fault, Fault)])
    headers = {name: result for name, result in zip(names, found, strict=True) if isinstance(result, ShardHeader)}
    by_split: dict[str, list[str]] = {}
    for name in names:
        by_split.setdefault(split_of[name], []).append(name)
    return {
        split: TokenStream(folder, of_split, [headers[name] for name in of_split], checked=True)
        for split, of_split in by_split.items()
    }


def _for_all(items: Sequence[S], function: Callable[[S], T]) -> list[T]:
    """`function` of all items, in order, many at a time."""
    parts = [items[start : start + _FILES_AT_A_TIME] for start in range(0, len(items), _FILES_AT_A_TIME)]
    with ThreadPoolExecutor(_THREADS) as pool:
        try:
            done = pool.map(lambda part: [function(item) for item in part], parts)
            return [result for part in done for result in part]
        finally:
            pool.shutdown(wait=False, cancel_futures=True)  # an interruption does not wait for the rest


def _raise_damages(faults: list[Fault]) -> None:
    """Raise UserError with the first of `faults` and the number of the others; nothing where there are none."""
    if more := faults[_MOST_FAULTS:]:
        faults = [*faults[:_MOST_FAULTS], Fault(f"{len(more):,} more shards are damaged or missing.", _HINT)]
    if faults:
        raise UserError(faults=faults)


def _by_number(name: str) -> list[tuple[int, str]]:
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"([0-9]+)", name)]


def _folder_hint(folder: Path) -> str:
    siblings = [path.name for path in folder.parent.iterdir() if path.is_dir()] if folder.parent.is_dir() else []
    close = nearest(folder.name, siblings)
    return (
        f"Did you mean {folder.with_name(close)}?" if close else f"Make it: gpt tokenize --local-dir {folder.name} ..."
    )
