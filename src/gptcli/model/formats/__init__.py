"""The model formats of Hugging Face that our networks are written in and read from.

A new one is a module like `gpt2.py` with an object of `Format`, and its place in `FORMATS`.
"""

from __future__ import annotations

from collections.abc import Iterator

from gptcli.errors import UsageError
from gptcli.model.config import GPTConfig
from gptcli.model.formats import gpt2, llama
from gptcli.model.formats.format import Format, Stored

FORMATS: dict[str, Format] = {format.model_type: format for format in (gpt2.GPT2, llama.LLAMA, llama.QWEN3)}


def format_of(config: GPTConfig) -> Format:
    """The format that holds a network of this shape. Raises UsageError, telling how far each is from it, where none
    does: such a model could be used nowhere else."""
    lacking = {format.name: format.lacks(config) for format in FORMATS.values()}
    fitting = [format for format in FORMATS.values() if not lacking[format.name]]
    if fitting:
        return fitting[0]
    told = "; ".join(f"{name} would need {' and '.join(needs)}" for name, needs in lacking.items())
    raise UsageError("No model format holds such a network, so no other program could read it.", f"{told}.")


def stored_tensors(config: GPTConfig) -> Iterator[Stored]:
    """All tensors that the network has, but for the head where it is the token embedding."""
    for tensor in format_of(config).tensors(config):
        if tensor.ours != "head.weight" or not config.tie_embeddings:
            yield tensor
