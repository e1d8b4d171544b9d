"""What the files of a model's folder tell: a checkpoint of ours, an export, or a stranger's Hugging Face folder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from gptcli.errors import UserError
from gptcli.model.checksums import damage, is_sealed
from gptcli.model.config import GPTConfig
from gptcli.model.files import CONFIG, TensorHeader, read_config, read_headers, read_json, weight_files
from gptcli.model.formats import FORMATS, format_of, stored_tensors
from gptcli.model.locate import STATE
from gptcli.tokenizer import Tokenizer
from gptcli.tokenizer.folders import RECORD, TOKENIZER_CONFIG
from gptcli.tokenizer.folders import read_json as read_object
from gptcli.tokenizer_files import read_tokenizer
from gptcli.training import provenance
from gptcli.training.provenance import Provenance


@dataclass(frozen=True)
class TokenizerTold:
    """A tokenizer by name (None for one that has none but its folder's) and fingerprint."""

    name: str | None
    sha256: str
    vocab_size: int | None = None

    @classmethod
    def of(cls, tokenizer: Tokenizer, folder: Path) -> TokenizerTold:
        """What is told of the tokenizer that was found in `folder`."""
        name = None if tokenizer.name == str(folder) else tokenizer.name
        return cls(name, tokenizer.sha256, tokenizer.vocab_size)


@dataclass(frozen=True)
class ModelInfo:
    """A model. `shape` is None where the network is none of ours, `parameters` where the weights can't be looked at,
    `tokenizer` where the folder has none that can be read, `provenance` for a model that gpt did not train.

    `dtypes` are those of the weights, in the words of safetensors, `bytes` the size of their files. `resumable` says
    that it is a checkpoint which a run can go on from, `sealed` that it has checksums. `faults` go on from the folder's
    name: what is damaged or missing.
    """

    folder: Path
    family: str
    shape: GPTConfig | None
    parameters: int | None
    dtypes: tuple[str, ...]
    bytes: int
    tokenizer: TokenizerTold | None
    provenance: Provenance | None
    resumable: bool
    sealed: bool
    verified: bool
    faults: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        """What `gpt info --json` prints."""
        told = {key: value for key, value in vars(self).items() if key not in ("folder", "shape", "provenance")}
        return {
            "kind": "model",
            "folder": str(self.folder),
            **told,
            "dtypes": list(self.dtypes),
            "faults": list(self.faults),
            "tokenizer": asdict(self.tokenizer) if self.tokenizer else None,
            "shape": asdict(self.shape) if self.shape else None,
            "provenance": self.provenance.model_dump(mode="json") if self.provenance else None,
        }


def model_info(folder: Path, *, verify: bool = False, tokenizer: Tokenizer | None = None) -> ModelInfo:
    """Look at a model's folder, whose weights are not read but, with `verify`, to compare their checksums. `tokenizer`
    is the model's where it has been read already."""
    sealed = is_sealed(folder)
    faults = [fault] if sealed and (fault := damage(folder, contents=verify)) else []
    family, shape, told_size = _shape(folder, faults)
    headers, size = _headers(folder, faults)
    if shape and headers and (missing := _missing(shape, headers)):
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        faults.append(f"has no tensor {missing[0]}{more}")
    return ModelInfo(
        folder=folder,
        family=family,
        shape=shape,
        parameters=_parameters(shape, headers) if headers else None,
        dtypes=tuple(sorted({header.dtype for header in headers.values()})),
        bytes=size,
        tokenizer=TokenizerTold.of(tokenizer, folder) if tokenizer else _tokenizer(folder, told_size, faults),
        provenance=_provenance(folder, faults),
        resumable=(folder / STATE).is_file(),
        sealed=sealed,
        verified=sealed and verify,
        faults=tuple(faults),
    )


def _shape(folder: Path, faults: list[str]) -> tuple[str, GPTConfig | None, int]:
    """Family, shape and size of the vocabulary, as far as config.json tells them."""
    try:
        told = read_json(folder / CONFIG)
    except UserError as error:
        faults.append(_as_fault(folder, error))
        return "unknown", None, 0
    kind, size = told.get("model_type"), told.get("vocab_size")
    try:
        shape = read_config(folder)[0]
        return FORMATS[kind].name if kind in FORMATS else str(kind), shape, shape.vocab_size
    except UserError as error:
        if kind in FORMATS:  # one that should be known, with something in it that is not
            faults.append(_as_fault(folder, error))
        return str(kind or "unknown"), None, size if isinstance(size, int) else 0


def _headers(folder: Path, faults: list[str]) -> tuple[Mapping[str, TensorHeader], int]:
    """The tensors, and the bytes of the files that they lie in."""
    try:
        return read_headers(folder), sum(file.stat().st_size for file in weight_files(folder))
    except UserError as error:
        if not faults:  # else a damaged file has been told of
            faults.append(_as_fault(folder, error))
        return {}, 0


def _wanted(shape: GPTConfig) -> dict[str, tuple[str, ...]]:
    """Every tensor of a network by the name that its format gives it, with the spellings that files may have."""
    prefix = format_of(shape).prefix
    names = (name for stored in stored_tensors(shape) for name in stored.theirs)
    return {name: (name, name.removeprefix(prefix)) for name in names}


def _missing(shape: GPTConfig, headers: Mapping[str, TensorHeader]) -> list[str]:
    return [name for name, spellings in _wanted(shape).items() if not headers.keys() & set(spellings)]


def _parameters(shape: GPTConfig | None, headers: Mapping[str, TensorHeader]) -> int:
    """Numbers that were trained: those of the network's own tensors where it is known, which leaves out buffers, a head
    that is stored beside the embedding it shares, and zeros in the place of biases; else of all tensors."""
    if shape is None:
        return sum(header.size for header in headers.values())
    found = (next((headers[name] for name in names if name in headers), None) for names in _wanted(shape).values())
    return sum(header.size for header in found if header)


def _tokenizer(folder: Path, vocab_size: int, faults: list[str]) -> TokenizerTold | None:
    """Of our own folders the record tells it; other tokenizers have to be read."""
    try:
        record = read_object(folder / TOKENIZER_CONFIG).get(RECORD)
        if isinstance(record, dict) and isinstance(record.get("name"), str) and isinstance(record.get("sha256"), str):
            return TokenizerTold(record["name"], record["sha256"])
        found = read_tokenizer(folder, vocab_size)[0]
    except UserError as error:
        faults.append(_as_fault(folder, error))
        return None
    return TokenizerTold.of(found, folder) if found else None


def _provenance(folder: Path, faults: list[str]) -> Provenance | None:
    try:
        return provenance.read(folder)
    except UserError as error:
        faults.append(_as_fault(folder, error))
        return None


def _as_fault(folder: Path, error: UserError) -> str:
    """A message in words that go on from the folder's name."""
    message = error.faults[0].message.removesuffix(".")
    return message.removeprefix(f"{folder} ") if message.startswith(f"{folder} ") else f"is damaged: {message}"
