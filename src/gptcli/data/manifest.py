"""manifest.json: what lies in a folder of token shards, and what it was made from. Written last, so a folder that has
one is whole."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError, field_validator
from pydantic.dataclasses import dataclass

from gptcli.data.durable import write_json
from gptcli.errors import UserError
from gptcli.tokenizer import Tokenizer

FORMAT_VERSION = 1
MANIFEST_FILE = "manifest.json"
Split = Literal["train", "val"]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True)


class TokenizerRecord(_Part):
    """Which tokenizer the ids belong to; `sha256` is its fingerprint. `file`: where it lies in the folder, None for one
    that its name alone tells."""

    name: str
    vocab_size: int = Field(ge=1)
    eot: int = Field(ge=0)
    sha256: str
    file: Literal["tokenizer.json"] | None = None

    @classmethod
    def of(cls, tokenizer: Tokenizer) -> TokenizerRecord:
        """The record of a tokenizer, which `save_tokenizer` has to put into the folder where `file` says so."""
        return cls(
            name=tokenizer.name,
            vocab_size=tokenizer.vocab_size,
            eot=tokenizer.eot,
            sha256=tokenizer.sha256,
            file=None if tokenizer.is_packaged else "tokenizer.json",
        )


@dataclass(frozen=True, slots=True)  # there may be 150,000 of them, and a model takes four times as much
class ShardRecord:
    """One shard; `sha256` is that of the whole file, header included."""

    name: Annotated[
        str, Field(pattern=r"^[^/\\\x00]+$")
    ]  # a file of the folder itself, wherever the manifest comes from
    split: Split
    tokens: Annotated[int, Field(ge=1)]
    sha256: str


class Totals(_Part):
    """Documents, tokens, and bytes of text in UTF-8; documents left out, and those with bytes replaced by U+FFFD."""

    documents: int
    tokens: int
    bytes: int
    skipped: int = 0
    replaced: int = 0


class Manifest(_Part):
    """The record of a finished folder. `sources` and `options` are what the bytes of the shards depend on."""

    format_version: int = FORMAT_VERSION
    tokenizer: TokenizerRecord
    dtype: Literal["uint16", "uint32"]
    shards: tuple[ShardRecord, ...]
    totals: Totals
    sources: tuple[dict[str, JsonValue], ...]
    options: dict[str, JsonValue]

    @field_validator("sources", mode="before")
    @classmethod
    def _one_or_several(cls, sources: object) -> object:
        """Manifests of before there could be several say what the one was."""
        return (sources,) if isinstance(sources, dict) else sources

    @property
    def fingerprint(self) -> str:
        """sha256 over what the tokens are: tokenizer, dtype, the shards' contents; not sources or file names."""
        tokenizer = self.tokenizer.model_dump_json(exclude={"file", "name"} if self.tokenizer.file else {"file"})
        digest = hashlib.sha256(f"{tokenizer} {self.dtype}\n".encode())
        for shard in self.shards:
            digest.update(f"{shard.split} {shard.tokens} {shard.sha256}\n".encode())
        return digest.hexdigest()

    def tokens(self, split: Split) -> int:
        """Tokens of one split."""
        return sum(shard.tokens for shard in self.shards if shard.split == split)

    def write(self, folder: Path) -> None:
        """Write manifest.json into `folder`; it appears whole or not at all."""
        write_json(folder / MANIFEST_FILE, self.model_dump(mode="json"))

    @classmethod
    def read(cls, folder: Path) -> Manifest | None:
        """The manifest of `folder`, None where there is none. Raises UserError for one that is damaged or too new."""
        path = folder / MANIFEST_FILE
        try:
            content = path.read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise UserError(f"{path} can't be read: {error.strerror}.", "Check the permissions.") from error
        try:
            manifest = cls.model_validate_json(content)
        except ValidationError as error:
            _check_version(path, _version_in(content))
            first = error.errors(include_url=False, include_input=False)[0]
            where = ".".join(str(part) for part in first["loc"]) or "the whole"
            raise UserError(
                f"The manifest {path} is damaged: {where}: {first['msg'].lower()}.",
                "Tokenize again with --fresh, or copy the folder again from where it came from.",
            ) from error
        _check_version(path, manifest.format_version)
        return manifest


def _version_in(content: bytes) -> int:
    """The format version of a manifest that is not of this one."""
    try:
        data = json.loads(content)
    except ValueError:
        return FORMAT_VERSION
    version = data.get("format_version") if isinstance(data, dict) else None
    return version if isinstance(version, int) else FORMAT_VERSION


def _check_version(path: Path, version: int) -> None:
    if version > FORMAT_VERSION:
        raise UserError(
            f"{path} has format version {version}; this version of gpt reads {FORMAT_VERSION}.", "Update gpt."
        )
