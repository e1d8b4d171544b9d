"""What a folder of token shards tells: ours, or one without a manifest."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pydantic import JsonValue

from gptcli.data.shards import open_shards
from gptcli.data.source_records import shortened
from gptcli.info.model import TokenizerTold


@dataclass(frozen=True)
class SplitTold:
    """One split of the shards."""

    shards: int
    tokens: int


@dataclass(frozen=True)
class ShardsInfo:
    """Token shards. What only a manifest tells (`tokenizer`, `totals`, `sources`, `options`) is None or empty where
    there is none. `formats` are the endings of the files, `fingerprint` what runs know the data by."""

    folder: Path
    fingerprint: str
    has_manifest: bool
    splits: Mapping[str, SplitTold]
    dtypes: tuple[str, ...]
    formats: tuple[str, ...]
    bytes: int
    tokenizer: TokenizerTold | None
    totals: Mapping[str, int] | None
    sources: tuple[Mapping[str, JsonValue], ...]
    options: Mapping[str, JsonValue]
    verified: bool = False

    @property
    def tokens(self) -> int:
        """Of all splits."""
        return sum(split.tokens for split in self.splits.values())

    def as_dict(self) -> dict[str, Any]:
        """What `gpt info --json` prints."""
        return {
            "kind": "shards",
            **vars(self),
            "folder": str(self.folder),
            "tokens": self.tokens,
            "splits": {name: asdict(split) for name, split in self.splits.items()},
            "dtypes": list(self.dtypes),
            "formats": list(self.formats),
            "tokenizer": asdict(self.tokenizer) if self.tokenizer else None,
            "sources": [dict(source) for source in self.sources],
        }


def shards_info(folder: Path, *, verify: bool = False) -> ShardsInfo:
    """Look at a folder of shards, whose sizes and headers are checked, and with `verify` their checksums.

    Raises UserError naming the shards that are damaged, and UsageError where there are none, tokenizing has not
    finished, or there is no manifest to verify by.
    """
    shards = open_shards(folder)
    if verify:
        from gptcli.data.pipeline import verify as compare  # all that tokenizing needs comes with it

        compare(folder)
    manifest = shards.manifest
    by_split = {name: list(stream.files) for name, stream in sorted(shards.splits.items())}
    files = [file for of_split in by_split.values() for file in of_split]
    return ShardsInfo(
        folder=folder,
        fingerprint=shards.fingerprint,
        has_manifest=manifest is not None,
        splits={name: SplitTold(len(of_split), len(shards.splits[name])) for name, of_split in by_split.items()},
        dtypes=tuple(sorted({header.dtype.name for _, header in files})),
        formats=tuple(sorted({path.suffix for path, _ in files})),
        bytes=sum(header.file_size for _, header in files),
        tokenizer=TokenizerTold(manifest.tokenizer.name, manifest.tokenizer.sha256, manifest.tokenizer.vocab_size)
        if manifest
        else None,
        totals=manifest.totals.model_dump() if manifest else None,
        sources=tuple(shortened(source) for source in manifest.sources) if manifest else (),
        options=manifest.options if manifest else {},
        verified=verify,
    )
