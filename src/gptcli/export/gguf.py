"""One GGUF file, as llama.cpp's own converter would write it from the model's Hugging Face folder."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch

from gptcli.errors import UserError
from gptcli.export.gguf_vocabulary import add_vocabulary
from gptcli.export.huggingface import real_rows
from gptcli.inference.load import ModelFacts
from gptcli.model.config import GPTConfig
from gptcli.model.formats import format_of, stored_tensors
from gptcli.model.huggingface import read_model
from gptcli.model.network import GPT
from gptcli.model.positions import frequencies
from gptcli.settings import ExportSettings
from gptcli.training import provenance

if TYPE_CHECKING:
    import gguf

PROVENANCE_KEY = "gptcli.provenance"  # the content of provenance.json, which no key of the format has a place for

Array = npt.NDArray[np.float32]


def write(facts: ModelFacts, file: Path, notes: list[str], settings: ExportSettings) -> int:
    """Write the model with `facts`; returns how many parameters it then has.

    Raises UserError where the package that knows the format is not installed.
    """
    try:
        import gguf
    except ImportError as error:
        raise UserError("GGUF files need the package gguf.", "Install it with: pip install gguf") from error
    model, rows = read_model(facts.folder), real_rows(facts)
    file.parent.mkdir(parents=True, exist_ok=True)
    writer = gguf.GGUFWriter(file, format_of(model.config).model_type)
    try:
        _describe(writer, model.config, rows, quantized=settings.quantize != "none")
        if origin := provenance.read(facts.folder):
            writer.add_name(f"{origin.run or facts.folder.name}, step {origin.step}")
            writer.add_string(PROVENANCE_KEY, provenance.as_json(origin))
        add_vocabulary(writer, facts, rows, notes)
        parameters = 0
        for name, values in _tensors(model, rows):
            parameters += values.size
            if settings.quantize == "q8_0" and _is_matrix(name, values):
                kind = gguf.GGMLQuantizationType.Q8_0
                if values.shape[-1] % gguf.GGML_QUANT_SIZES[kind][0] == 0:
                    writer.add_tensor(name, gguf.quants.quantize(values, kind), raw_dtype=kind)
                    continue
            writer.add_tensor(name, np.ascontiguousarray(values))
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
    finally:
        writer.close()
    return parameters


def _describe(writer: gguf.GGUFWriter, config: GPTConfig, rows: int, *, quantized: bool) -> None:
    import gguf

    writer.add_type(gguf.GGUFType.MODEL)
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_Q8_0 if quantized else gguf.LlamaFileType.ALL_F32)
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    writer.add_context_length(config.context_length)
    writer.add_embedding_length(config.emb_dim)
    writer.add_block_count(config.n_layers)
    writer.add_feed_forward_length(config.mlp_dim)
    writer.add_head_count(config.n_heads)
    writer.add_vocab_size(rows)
    if config.norm == "layer":
        writer.add_layer_norm_eps(config.norm_eps)
        return
    writer.add_layer_norm_rms_eps(config.norm_eps)
    writer.add_head_count_kv(config.n_kv_heads)
    writer.add_key_length(config.head_dim)
    writer.add_value_length(config.head_dim)
    writer.add_rope_freq_base(config.rope_base)
    writer.add_rope_dimension_count(config.head_dim)


def _tensors(model: GPT, rows: int) -> Iterator[tuple[str, Array]]:
    """All tensors by GGUF's names, in fp32 and as (out, in), the vocabulary without padding."""
    import gguf

    config, weights = model.config, model.state_dict()
    format = format_of(config)
    arch = next(arch for arch, name in gguf.MODEL_ARCH_NAMES.items() if name == format.model_type)
    names = gguf.get_tensor_name_map(arch, config.n_layers)

    def name_of(theirs: str) -> str:
        found = names.get_name(theirs, try_suffixes=(".weight", ".bias"))
        assert found is not None, f"GGUF knows no {theirs}"
        return found

    for stored in stored_tensors(config):
        whole = weights[stored.ours].detach()
        for theirs, part in zip(
            stored.theirs, torch.split(whole, list(stored.heights or whole.shape[:1])), strict=True
        ):
            if stored.ours in ("token_embedding.weight", "head.weight"):
                part = part[:rows]
            values: Array = part.numpy()
            if format.model_type == "llama" and theirs.endswith(("q_proj.weight", "k_proj.weight")):
                values = _interleaved(values, config.head_dim)
            yield name_of(theirs), values
    for theirs, shape in format.zeros(config).items():
        yield name_of(theirs), np.zeros(shape, dtype=np.float32)
    if config.rope_scaling:
        factors = frequencies(config, stretched=False) / frequencies(config)  # (D/2,)
        yield "rope_freqs.weight", factors.numpy()


def _interleaved(rows: Array, head_dim: int) -> Array:
    """Rows of queries or keys in the order that llama.cpp turns pairs of in a Llama: neighbours, where ours are half a
    head apart."""
    heads = rows.reshape(-1, 2, head_dim // 2, rows.shape[-1])
    return heads.swapaxes(1, 2).reshape(rows.shape)


def _is_matrix(name: str, values: npt.NDArray[Any]) -> bool:
    """Whether llama.cpp multiplies with it, or looks rows up in it: positions and norms it wants in full."""
    return values.ndim == 2 and not name.startswith("position_embd")
