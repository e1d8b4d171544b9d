"""Token shards as the trainer reads them: a folder with splits, each one stream of tokens over its files."""

from __future__ import annotations

import hashlib
import re
from bisect import bisect_right
from dataclasses import dataclass, field
from itertools import accumulate
from pathlib import Path

import numpy as np

from gptcli.data.manifest import Manifest, Split
from gptcli.data.order import Indices
from gptcli.data.output import is_unfinished
from gptcli.data.shard_format import SUFFIXES, ShardError, ShardHeader, read_header
from gptcli.errors import Fault, UsageError, UserError, nearest
from gptcli.tokenizer import Tokenizer, get_tokenizer
from gptcli.tokenizer.folders import read_folder
from gptcli.tokenizer.naming import built_in_names

_SPLIT_IN_NAME = re.compile(r"(?<![a-z])(train|val)(?![a-z])|(?<![a-z])(val)idation(?![a-z])", re.IGNORECASE)


@dataclass(frozen=True)
class TokenStream:
    """The tokens of one split, running on from file to file.

    Reads are positioned and touch only what they return: a memory map would let the resident size grow to the whole
    set. Nothing stays open, so a stream pickles and forks as plain data.
    """

    files: tuple[tuple[Path, ShardHeader], ...]
    _ends: tuple[int, ...] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_ends", tuple(accumulate(header.tokens for _, header in self.files)))

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def file_of(self, position: int) -> Path:
        """The file that holds the token at `position`."""
        return self.files[bisect_right(self._ends, position)][0]

    def read(self, start: int, count: int) -> Indices:
        """Tokens start … start + count as an int64 array of its own. Raises IndexError past the end of the stream."""
        if start < 0 or count < 0 or start + count > len(self):
            raise IndexError(f"tokens {start} to {start + count} of a stream of {len(self)}")
        out = np.empty(count, dtype=np.int64)
        filled = 0
        shard = bisect_right(self._ends, start)
        while filled < count:
            path, header = self.files[shard]
            skip = start + filled - (self._ends[shard] - header.tokens)
            here = min(count - filled, header.tokens - skip)
            out[filled : filled + here] = _read_tokens(path, header, skip, here)
            filled += here
            shard += 1
        return out


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


def open_shards(folder: Path) -> Shards:
    """Open a folder of shards: ours, or one without a manifest (the original's, build-nanogpt's, llm.c's).

    Sizes and headers are checked, not contents. Raises UsageError where there is nothing to open, UserError with all
    shards that are damaged, or for a damaged manifest.
    """
    if not folder.is_dir():
        raise UsageError(f"There is no data folder {folder}.", _folder_hint(folder))
    manifest = Manifest.read(folder)
    if manifest is None and is_unfinished(folder):
        raise UsageError(f"Tokenizing into {folder} has not finished.", "Run the same `gpt tokenize` again.")
    named = _listed(folder, manifest) if manifest else _found(folder)
    if not named:
        raise UsageError(
            f"{folder} holds no token shards.",
            "Make some with `gpt tokenize`. Shards have train or val in their name and end in .npy or .bin.",
        )
    headers = _checked_headers(named, manifest)
    splits = {
        split: TokenStream(tuple((path, headers[path]) for path, its_split in named if its_split == split))
        for split in dict.fromkeys(split for _, split in named)
    }
    return Shards(folder, manifest, splits)


def _checked_headers(named: list[tuple[Path, str]], manifest: Manifest | None) -> dict[Path, ShardHeader]:
    expected = {shard.name: shard.tokens for shard in manifest.shards} if manifest else {}
    headers: dict[Path, ShardHeader] = {}
    faults = []
    for path, _ in named:
        try:
            headers[path] = read_header(path)
        except ShardError as error:
            faults.append(
                Fault(
                    f"The shard {path} {error}.",
                    "Copy it again, or tokenize again with --fresh.",
                )
            )
            continue
        if manifest and headers[path].tokens != expected[path.name]:
            faults.append(
                Fault(
                    f"The shard {path} has {headers[path].tokens:,} tokens; the manifest says {expected[path.name]:,}.",
                    "Copy the folder again from where it came from, or tokenize again with --fresh.",
                )
            )
    if faults:
        raise UserError(faults=faults)
    return headers


def _listed(folder: Path, manifest: Manifest) -> list[tuple[Path, str]]:
    return [(folder / shard.name, shard.split) for shard in manifest.shards]


def _found(folder: Path) -> list[tuple[Path, str]]:
    """The shards of a folder without a manifest, with their splits, in the order of the numbers in their names."""
    found = []
    for path in folder.iterdir():
        match = _SPLIT_IN_NAME.search(path.stem)
        if match and path.suffix in SUFFIXES and not path.name.startswith("."):
            found.append((path, (match[1] or match[2]).lower()))
    return sorted(found, key=lambda item: _by_number(item[0].name))


def _by_number(name: str) -> list[tuple[int, str]]:
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"([0-9]+)", name)]


def _read_tokens(path: Path, header: ShardHeader, skip: int, count: int) -> Indices:
    offset = header.offset + skip * header.dtype.itemsize
    try:
        tokens = np.fromfile(path, dtype=header.dtype, count=count, offset=offset)
    except OSError as error:
        raise UserError(
            f"The shard {path} can't be read any more: {error.strerror or error}.", "Put it back."
        ) from error
    if tokens.size != count:
        raise UserError(f"The shard {path} has become shorter since it was opened.", "Copy or tokenize it again.")
    return tokens.astype(np.int64)


def _folder_hint(folder: Path) -> str:
    siblings = [path.name for path in folder.parent.iterdir() if path.is_dir()] if folder.parent.is_dir() else []
    close = nearest(folder.name, siblings)
    return (
        f"Did you mean {folder.with_name(close)}?" if close else f"Make it: gpt tokenize --local-dir {folder.name} ..."
    )
