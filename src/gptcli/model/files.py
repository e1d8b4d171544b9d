"""What the files of a folder in Hugging Face's format tell without its weights being read: the shape of the network,
and the name, dtype and shape of every tensor. Imports no torch."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gptcli.errors import UserError
from gptcli.model.config import GPTConfig
from gptcli.model.formats import FORMATS
from gptcli.model.locate import damage_hint

WEIGHTS, WEIGHTS_INDEX, CONFIG, GENERATION_CONFIG = (
    "model.safetensors",
    "model.safetensors.index.json",
    "config.json",
    "generation_config.json",
)
_LARGEST_HEADER = 100_000_000  # bytes, as the format has it


def read_config(folder: Path) -> tuple[GPTConfig, tuple[int, ...]]:
    """The shape and the end-of-text ids that a folder's files tell.

    Raises UserError for a missing or damaged file and for a network that this one can't express.
    """
    told = read_json(folder / CONFIG)
    kind = told.get("model_type")
    if kind not in FORMATS:
        known = [format.name for format in FORMATS.values()]
        raise UserError(
            f"{folder} holds a model of type '{kind or 'unknown'}'; "
            f"{', '.join(known[:-1])} and {known[-1]} models can be read."
        )
    if "quantization_config" in told:
        raise UserError(f"The weights in {folder} are quantised.", "Take the model's version in fp32, bf16 or fp16.")
    try:
        config = FORMATS[kind].read(told)
    except KeyError as error:
        raise UserError(f"{folder / CONFIG} is damaged: it has no {error.args[0]}.") from error
    except (TypeError, ValueError) as error:
        raise UserError(f"{folder / CONFIG} is damaged: {error}.") from error
    generation = read_json(folder / GENERATION_CONFIG) if (folder / GENERATION_CONFIG).exists() else {}
    ends = [_ids(source.get("eos_token_id")) for source in (told, generation)]
    return config, tuple(dict.fromkeys(end for of_source in ends for end in of_source))


def read_json(file: Path) -> dict[str, Any]:
    """The object in one of the folder's JSON files. Raises UserError for one that is missing or damaged."""
    try:
        told = json.loads(file.read_text(encoding="utf-8"))
        if not isinstance(told, dict):
            raise TypeError("it holds no object")
    except FileNotFoundError as error:
        raise UserError(
            f"{file.parent} holds no {file.name}.", "Name a run, a checkpoint or a Hugging Face folder."
        ) from error
    except (OSError, TypeError, ValueError) as error:
        raise UserError(f"{file} is damaged: {error}.") from error
    return told


def _ids(told: object) -> list[int]:
    """The ids that a key of a configuration names: none, one or several."""
    several = told if isinstance(told, list) else [told]
    return [number for number in several if isinstance(number, int)]


def weight_files(folder: Path) -> list[Path]:
    """A folder's safetensors file, or the several that its index names. Raises UserError where there is none."""
    files = [folder / WEIGHTS]
    if not files[0].exists() and (folder / WEIGHTS_INDEX).exists():
        map_ = read_json(folder / WEIGHTS_INDEX).get("weight_map")
        if not isinstance(map_, dict) or not map_:
            raise UserError(f"{folder / WEIGHTS_INDEX} is damaged: it has no weight_map.")
        files = [folder / Path(name).name for name in sorted({str(name) for name in map_.values()})]
    if not files[0].exists():
        pickled = next(folder.glob("*.bin"), None)
        hint = (
            "Pickled weights are not opened, since they can run code; convert them to safetensors." if pickled else ""
        )
        raise UserError(f"{folder} holds no {WEIGHTS}.", hint)
    return files


@dataclass(frozen=True)
class TensorHeader:
    """A tensor as its file's header tells it; `dtype` in the words of safetensors (F32, BF16, …)."""

    dtype: str
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        """Numbers in it."""
        return math.prod(self.shape)


def read_headers(folder: Path) -> dict[str, TensorHeader]:
    """All tensors of a folder by name. Raises UserError for files that are missing, damaged or cut off."""
    headers: dict[str, TensorHeader] = {}
    for file in weight_files(folder):
        try:
            headers |= _header_of(file)
        except (OSError, ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
            why = (error.strerror or str(error)) if isinstance(error, OSError) else str(error) or "its header is none"
            raise UserError(f"{file} is damaged or can't be read: {why}.", damage_hint(folder)) from error
    return headers


def _header_of(file: Path) -> dict[str, TensorHeader]:
    """The header of a safetensors file: its length in 8 bytes, then JSON. The library would import NumPy for it, or
    torch. Raises what `read_headers` takes for damage."""
    with file.open("rb") as opened:
        length = int.from_bytes(opened.read(8), "little")
        if not 2 <= length <= _LARGEST_HEADER:
            raise ValueError("it does not begin as a safetensors file does")
        told = json.loads(opened.read(length).decode("utf-8"))
    told.pop("__metadata__", None)
    expected = 8 + length + max((entry["data_offsets"][1] for entry in told.values()), default=0)
    if (size := file.stat().st_size) != expected:
        raise ValueError(f"it has {size:,} bytes in place of {expected:,}")
    return {name: TensorHeader(entry["dtype"], tuple(entry["shape"])) for name, entry in told.items()}
