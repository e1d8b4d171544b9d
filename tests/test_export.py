"""A model exported is the model: read back by the formats' own packages."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from gptcli import GPT, GPTConfig, load
from gptcli.errors import UsageError
from gptcli.export import Exported, export
from gptcli.model.config import RopeScaling
from gptcli.model.huggingface import read_model, write_model
from gptcli.settings import ExportSettings
from gptcli.tokenizer import Tokenizer, chars_tokenizer, get_tokenizer
from gptcli.tokenizer_files import write_tokenizer

gguf = pytest.importorskip("gguf")

SIZE: dict[str, Any] = {"emb_dim": 64, "context_length": 16, "n_layers": 2, "n_heads": 4, "vocab_size": 384}
MODERN: dict[str, Any] = {"positions": "rotary", "norm": "rms", "mlp": "swiglu", "bias": False}
FAMILIES = {
    "gpt2": GPTConfig(**SIZE, qkv_bias=True),
    "gpt2, untied, no biases": GPTConfig(**SIZE, bias=False, tie_embeddings=False),
    "llama": GPTConfig(**SIZE, **MODERN, n_kv_heads=2),
    "llama 3": GPTConfig(
        **SIZE, **MODERN, tie_embeddings=False, rope_base=5e5, rope_scaling=RopeScaling(8.0, 1.0, 4.0, 8)
    ),
    "qwen3": GPTConfig(**SIZE, **MODERN, qk_norm=True, tie_embeddings=False, head_dim=32),
}


def model_in(folder: Path, config: GPTConfig, tokenizer: Tokenizer | None) -> GPT:
    folder.mkdir()
    model = GPT.create(config, 0).eval()
    for parameter in model.parameters():
        parameter.data += 0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1))
    write_model(folder, model, tokenizer.eot if tokenizer else None)
    if tokenizer:
        write_tokenizer(folder, tokenizer, config.context_length)
    return model


def exported(source: Path, out: Path, **options: Any) -> Exported:
    return export(ExportSettings(model=str(source), out=str(out), **options))


def fields(file: Path) -> dict[str, Any]:
    return {name: field.contents() for name, field in gguf.GGUFReader(file).fields.items()}


def tensors(file: Path) -> dict[str, np.ndarray]:
    return {
        tensor.name: gguf.quants.dequantize(tensor.data, tensor.tensor_type) for tensor in gguf.GGUFReader(file).tensors
    }


def halves_apart(rows: np.ndarray, head_dim: int) -> np.ndarray:
    """The order of a head's rows that pairs numbers half a head apart, from that which pairs neighbours."""
    return rows.reshape(-1, head_dim // 2, 2, rows.shape[-1]).swapaxes(1, 2).reshape(rows.shape)


def expected(model: GPT, rows: int) -> dict[str, np.ndarray]:
    """What a GGUF file has to hold, told once more in GGUF's names."""
    config, weights = model.config, {name: tensor.detach().numpy() for name, tensor in model.state_dict().items()}
    told = {"token_embd.weight": weights["token_embedding.weight"][:rows]}
    if not config.tie_embeddings:
        told["output.weight"] = weights["head.weight"][:rows]
    if config.positions == "learned":
        told["position_embd.weight"] = weights["position_embedding.weight"]
    for kind in ("weight", "bias"):
        for ours, theirs in {"final_norm": "output_norm"}.items():
            if f"{ours}.{kind}" in weights:
                told[f"{theirs}.{kind}"] = weights[f"{ours}.{kind}"]
        for i in range(config.n_layers):
            names = {
                "norm1": "attn_norm", "norm2": "ffn_norm", "attention.proj": "attn_output", "mlp.down": "ffn_down",
                "attention.q_norm": "attn_q_norm", "attention.k_norm": "attn_k_norm",
            }  # fmt: skip
            if config.mlp == "gelu":
                names |= {"attention.qkv": "attn_qkv", "mlp.up": "ffn_up"}
            for ours, theirs in names.items():
                if f"blocks.{i}.{ours}.{kind}" in weights:
                    told[f"blk.{i}.{theirs}.{kind}"] = weights[f"blocks.{i}.{ours}.{kind}"]
    if config.mlp == "swiglu":
        queries, keys = config.n_heads * config.head_dim, config.n_kv_heads * config.head_dim
        for i in range(config.n_layers):
            qkv, up = weights[f"blocks.{i}.attention.qkv.weight"], weights[f"blocks.{i}.mlp.up.weight"]
            told |= {
                f"blk.{i}.attn_q.weight": qkv[:queries],
                f"blk.{i}.attn_k.weight": qkv[queries : queries + keys],
                f"blk.{i}.attn_v.weight": qkv[queries + keys :],
                f"blk.{i}.ffn_gate.weight": up[: config.mlp_dim],
                f"blk.{i}.ffn_up.weight": up[config.mlp_dim :],
            }
    return told


@pytest.mark.parametrize("family", FAMILIES)
def test_the_tensors_of_a_gguf_file_are_those_of_the_model(family: str, tmp_path: Path) -> None:
    config, tokenizer = FAMILIES[family], get_tokenizer("bytes")
    model = model_in(tmp_path / "model", config, tokenizer)
    written = exported(tmp_path / "model", tmp_path / "m.gguf")
    found = tensors(tmp_path / "m.gguf")
    if family.startswith("llama"):
        turned = {
            name: halves_apart(values, config.head_dim)
            for name, values in found.items()
            if "_q." in name or "_k." in name
        }
        assert any(not np.array_equal(found[name], values) for name, values in turned.items())
        found |= turned
    for name, values in expected(model, tokenizer.vocab_size).items():
        np.testing.assert_array_equal(found.pop(name).reshape(values.shape), values, err_msg=name)
    rest = {name: values for name, values in found.items() if name != "rope_freqs.weight"}
    assert all(name.endswith(".bias") and not values.any() for name, values in rest.items())
    assert ("rope_freqs.weight" in found) == (config.rope_scaling is not None)
    assert written.format == "gguf"
    assert written.bytes == (tmp_path / "m.gguf").stat().st_size


def test_the_stretching_of_positions_is_told_pair_by_pair(tmp_path: Path) -> None:
    from transformers import LlamaConfig
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    model_in(tmp_path / "model", FAMILIES["llama 3"], None)
    exported(tmp_path / "model", tmp_path / "m.gguf")
    stretched, _ = ROPE_INIT_FUNCTIONS["llama3"](LlamaConfig.from_pretrained(tmp_path / "model"), "cpu")
    plain = 1 / 5e5 ** (torch.arange(0, 16, 2) / 16)
    factors = tensors(tmp_path / "m.gguf")["rope_freqs.weight"].ravel()
    np.testing.assert_allclose(factors, (plain / stretched).numpy(), rtol=1e-5)


@pytest.mark.parametrize(("family", "arch"), [("gpt2", "gpt2"), ("llama", "llama"), ("qwen3", "qwen3")])
def test_the_metadata_of_a_gguf_file_tell_the_shape(family: str, arch: str, tmp_path: Path) -> None:
    config = FAMILIES[family]
    model_in(tmp_path / "model", config, get_tokenizer("bytes"))
    exported(tmp_path / "model", tmp_path / "m.gguf")
    told = fields(tmp_path / "m.gguf")
    assert told["general.architecture"] == arch
    shape = {
        "context_length": 16, "embedding_length": 64, "block_count": 2, "attention.head_count": 4,
        "feed_forward_length": config.mlp_dim, "vocab_size": 257,
    }  # fmt: skip
    if arch == "gpt2":
        shape["attention.layer_norm_epsilon"] = pytest.approx(1e-5)
    else:
        shape |= {
            "attention.head_count_kv": config.n_kv_heads, "attention.key_length": config.head_dim,
            "attention.value_length": config.head_dim, "rope.dimension_count": config.head_dim,
            "rope.freq_base": 10_000.0, "attention.layer_norm_rms_epsilon": pytest.approx(1e-5),
        }  # fmt: skip
    assert {name: told[f"{arch}.{name}"] for name in shape} == shape


def test_a_gguf_file_has_the_tokenizer(tmp_path: Path) -> None:
    tokenizer = get_tokenizer("gpt2")
    model_in(tmp_path / "model", GPTConfig(**SIZE | {"vocab_size": 50_304}), tokenizer)
    exported(tmp_path / "model", tmp_path / "m.gguf")
    told = fields(tmp_path / "m.gguf")
    content = json.loads(tokenizer.to_json())
    tokens = told["tokenizer.ggml.tokens"]
    assert (told["tokenizer.ggml.model"], told["tokenizer.ggml.pre"]) == ("gpt2", "gpt-2")
    assert len(tokens) == len(told["tokenizer.ggml.token_type"]) == 50_257
    assert {token: number for number, token in enumerate(tokens[:-1])} == {
        token: number for token, number in content["model"]["vocab"].items() if number < 50_256
    }
    assert (tokens[-1], told["tokenizer.ggml.token_type"][-1]) == ("<|endoftext|>", gguf.TokenType.CONTROL)
    assert told["tokenizer.ggml.merges"][:2] == ["Ġ t", "Ġ a"]
    assert told["tokenizer.ggml.eos_token_id"] == tokenizer.eot
    assert told["tokenizer.ggml.add_bos_token"] is False


def test_a_tokenizer_that_llama_cpp_has_no_kind_for_is_left_out_with_a_note(tmp_path: Path) -> None:
    model_in(tmp_path / "model", FAMILIES["gpt2"], chars_tokenizer(["some text"]))
    written = exported(tmp_path / "model", tmp_path / "m.gguf")
    assert fields(tmp_path / "m.gguf")["tokenizer.ggml.model"] == "none"
    assert any("takes token ids, not text" in note for note in written.notes)


@pytest.mark.parametrize("family", ["gpt2", "qwen3"])
def test_quantised_matrices_are_near_and_the_rest_is_whole(family: str, tmp_path: Path) -> None:
    model_in(tmp_path / "model", FAMILIES[family], get_tokenizer("bytes"))
    exported(tmp_path / "model", tmp_path / "whole.gguf")
    exported(tmp_path / "model", tmp_path / "q8.gguf", quantize="q8_0")
    whole, near = tensors(tmp_path / "whole.gguf"), tensors(tmp_path / "q8.gguf")
    kinds = {tensor.name: tensor.tensor_type for tensor in gguf.GGUFReader(tmp_path / "q8.gguf").tensors}
    assert whole.keys() == near.keys()
    for name, values in whole.items():
        assert np.abs(near[name] - values).max() <= np.abs(values).max() / 127
        quantised = values.ndim == 2 and name != "position_embd.weight"
        assert (kinds[name] == gguf.GGMLQuantizationType.Q8_0) == quantised, name
    assert (tmp_path / "q8.gguf").stat().st_size < 0.5 * (tmp_path / "whole.gguf").stat().st_size


@pytest.mark.parametrize("family", FAMILIES)
def test_a_folder_without_padding_has_the_same_logits_and_tokenizer(family: str, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = model_in(tmp_path / "model", FAMILIES[family], get_tokenizer("bytes"))
    written = exported(tmp_path / "model", tmp_path / "out")
    ids = torch.arange(12)[None]
    back = read_model(tmp_path / "out")
    assert back.config.vocab_size == 257
    with torch.no_grad():
        assert torch.equal(back(ids), model(ids)[..., :257])
        theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "out")(ids).logits
    torch.testing.assert_close(theirs, model(ids)[..., :257].detach(), atol=1e-4, rtol=0)
    assert AutoTokenizer.from_pretrained(tmp_path / "out")("héllo").input_ids == get_tokenizer("bytes").encode("héllo")
    assert load(tmp_path / "out", device="cpu").prompt_ids("") == [256]
    assert any("127 rows of padding" in note for note in written.notes)
    assert not (tmp_path / "out" / "training").exists()


def test_a_model_without_tokenizer_keeps_all_rows(tmp_path: Path) -> None:
    model_in(tmp_path / "model", FAMILIES["qwen3"], None)
    exported(tmp_path / "model", tmp_path / "out")
    assert read_model(tmp_path / "out").config.vocab_size == 384


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"out": "taken"}, "exists already"),
        ({"out": "new", "quantize": "q8_0"}, "only GGUF"),
        ({}, "where to"),
    ],
)
def test_calls_that_can_not_be_kept_are_refused_and_leave_nothing(
    options: dict[str, Any], told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    model_in(tmp_path / "model", FAMILIES["gpt2"], None)
    Path("taken").mkdir()
    Path("taken/file").touch()
    with pytest.raises(UsageError, match=told):
        export(ExportSettings(model="model", **options))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model", "taken"]


def test_what_fails_on_the_way_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model_in(tmp_path / "model", FAMILIES["gpt2"], None)
    monkeypatch.setattr(gguf.GGUFWriter, "write_tensors_to_file", lambda self: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        exported(tmp_path / "model", tmp_path / "m.gguf")
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
