"""The network against GPT-2 as `transformers` has it, and against itself."""

from __future__ import annotations

import base64
import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from gptcli import GPT, GPTConfig
from gptcli.errors import UserError
from gptcli.model.cache import KVCache
from gptcli.model.config import RopeScaling, padded_vocabulary
from gptcli.model.files import read_config
from gptcli.model.formats import format_of
from gptcli.model.huggingface import MISSING_BIASES, read_model, write_model
from gptcli.presets import PRESETS

transformers = pytest.importorskip("transformers")

SORT_MODEL = Path(__file__).parents[2] / "shared" / "data" / "gpt-nano-sort"
MODERN: dict[str, Any] = {"positions": "rotary", "norm": "rms", "mlp": "swiglu", "bias": False}
SHAPES = {
    "tied": GPTConfig(vocab_size=61, emb_dim=32, context_length=12, n_layers=3, n_heads=4, qkv_bias=True),
    "untied": GPTConfig(vocab_size=50, emb_dim=24, context_length=9, n_layers=1, n_heads=1, tie_embeddings=False),
    "no query biases": GPTConfig(vocab_size=128, emb_dim=16, context_length=30, n_layers=2, n_heads=8, qkv_bias=False),
    "no biases": GPTConfig(vocab_size=40, emb_dim=16, context_length=8, n_layers=2, n_heads=2, bias=False, mlp_dim=40),
    "qwen3": GPTConfig(
        vocab_size=61, emb_dim=32, context_length=12, n_layers=3, n_heads=4, qk_norm=True, tie_embeddings=False,
        **MODERN,
    ),
    "qwen3, tied and grouped": GPTConfig(
        vocab_size=61, emb_dim=24, context_length=12, n_layers=2, n_heads=4, n_kv_heads=2, head_dim=16, qk_norm=True,
        norm_eps=1e-6, rope_base=1e6, **MODERN,
    ),
    "llama": GPTConfig(vocab_size=50, emb_dim=36, context_length=9, n_layers=2, n_heads=6, n_kv_heads=1, **MODERN),
    "llama 3": GPTConfig(
        vocab_size=50, emb_dim=32, context_length=64, n_layers=2, n_heads=2, rope_base=500.0, tie_embeddings=False,
        rope_scaling=RopeScaling(8.0, 1.0, 4.0, 16), **MODERN,
    ),
}  # fmt: skip


def random_model(config: GPTConfig) -> GPT:
    """Every weight and bias drawn, so that one that is left out or misplaced shows."""
    model = GPT.create(config, seed=3).eval()
    generator = torch.Generator().manual_seed(4)
    for parameter in model.parameters():
        parameter.data += 0.1 * torch.randn(parameter.shape, generator=generator)
    return model


@pytest.mark.parametrize("config", SHAPES.values(), ids=SHAPES.keys())
def test_logits_equal_those_of_transformers_on_what_we_write(config: GPTConfig, tmp_path: Path) -> None:
    model = random_model(config)
    write_model(tmp_path, model, eot=0)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    ids = torch.randint(0, config.vocab_size, (3, config.context_length), generator=torch.Generator().manual_seed(5))
    with torch.no_grad():
        torch.testing.assert_close(model(ids), theirs(ids).logits, atol=1e-5, rtol=0)


@pytest.mark.parametrize("tie", [True, False])
def test_what_transformers_writes_is_read(tie: bool, tmp_path: Path) -> None:
    config = transformers.GPT2Config(
        vocab_size=40, n_positions=10, n_embd=12, n_layer=2, n_head=3, tie_word_embeddings=tie, initializer_range=0.3
    )
    theirs = transformers.GPT2LMHeadModel(config).eval()
    theirs.save_pretrained(tmp_path)
    ours = read_model(tmp_path)
    ids = torch.arange(10)[None]
    with torch.no_grad():
        torch.testing.assert_close(ours(ids), theirs(ids).logits, atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("Llama", {"num_key_value_heads": 2, "tie_word_embeddings": True}),
        ("Llama", {"num_key_value_heads": 4, "head_dim": 6, "rms_norm_eps": 1e-3}),
        (
            "Llama",
            {
                "max_position_embeddings": 256,
                "rope_parameters": {
                    "rope_type": "llama3", "rope_theta": 5e3, "factor": 4.0, "low_freq_factor": 1.0,
                    "high_freq_factor": 4.0, "original_max_position_embeddings": 32,
                },
            },
        ),
        ("Qwen3", {"num_key_value_heads": 1, "head_dim": 10}),
        ("Qwen3", {"num_key_value_heads": 2, "tie_word_embeddings": True}),
    ],
)  # fmt: skip
def test_what_transformers_writes_of_the_modern_family_is_read(
    kind: str, options: dict[str, Any], tmp_path: Path
) -> None:
    size = {
        "vocab_size": 40, "hidden_size": 24, "intermediate_size": 56, "num_hidden_layers": 3, "num_attention_heads": 4,
        "max_position_embeddings": 128, "initializer_range": 0.3, "eos_token_id": [7, 9],
    }  # fmt: skip
    theirs = getattr(transformers, f"{kind}ForCausalLM")(
        getattr(transformers, f"{kind}Config")(**size | options)
    ).eval()
    theirs.save_pretrained(tmp_path, max_shard_size="20KB")
    assert (tmp_path / "model.safetensors.index.json").exists()
    ours = read_model(tmp_path)
    ids = torch.randint(0, 40, (2, ours.config.context_length), generator=torch.Generator().manual_seed(5))
    with torch.no_grad():
        torch.testing.assert_close(ours(ids), theirs(ids).logits, atol=1e-4, rtol=0)
    assert read_config(tmp_path)[1] == (7, 9)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"rope_scaling": {"type": "yarn", "factor": 4.0}, "rope_parameters": None}, "'yarn'"),
        ({"attention_bias": True}, "attention_bias"),
        ({"use_sliding_window": True}, "use_sliding_window"),
        ({"hidden_act": "gelu"}, "hidden_act"),
        ({"quantization_config": {}}, "quantised"),
        ({"model_type": "mistral"}, "'mistral'"),
    ],
)
def test_what_our_network_can_not_express_is_refused_by_name(change: dict[str, Any], told: str, tmp_path: Path) -> None:
    write_model(tmp_path, random_model(SHAPES["qwen3"]), eot=None)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | change))
    with pytest.raises(UserError, match=told):
        read_model(tmp_path)


def test_a_network_that_no_format_holds_is_refused_with_what_each_would_need() -> None:
    with pytest.raises(UserError, match="No model format") as error:
        format_of(GPTConfig(positions="rotary", norm="rms"))
    assert "Llama would need --mlp swiglu and --no-bias;" in error.value.faults[0].hint


@pytest.mark.parametrize("config", SHAPES.values(), ids=SHAPES.keys())
def test_the_way_there_and_back_is_exact_to_the_bit(config: GPTConfig, tmp_path: Path) -> None:
    model = random_model(config)
    write_model(tmp_path, model, eot=None)
    back = read_model(tmp_path)
    assert back.config == config
    assert back.state_dict().keys() == model.state_dict().keys()
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, back.state_dict()[name]), name
    assert (back.head.weight is back.token_embedding.weight) == config.tie_embeddings


def test_biases_marked_as_missing_count_again_once_they_are_not_zero(tmp_path: Path) -> None:
    write_model(tmp_path, random_model(SHAPES["no query biases"]), eot=None)
    assert MISSING_BIASES in json.loads((tmp_path / "config.json").read_text())
    tensors = load_file(tmp_path / "model.safetensors")
    tensors["transformer.h.0.attn.c_attn.bias"][3] = 0.5
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    back = read_model(tmp_path)
    assert back.config.qkv_bias
    assert back.blocks[0].attention.qkv.bias[3] == 0.5


def test_weights_in_several_files_are_read(tmp_path: Path) -> None:
    model = random_model(SHAPES["tied"])
    write_model(tmp_path, model, eot=None)
    tensors = list(load_file(tmp_path / "model.safetensors").items())
    (tmp_path / "model.safetensors").unlink()
    parts = {
        "model-00001-of-00002.safetensors": dict(tensors[::2]),
        "model-00002-of-00002.safetensors": dict(tensors[1::2]),
    }
    for name, part in parts.items():
        save_file(part, tmp_path / name)
    weight_map = {tensor: name for name, part in parts.items() for tensor in part}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    for name, tensor in read_model(tmp_path).state_dict().items():
        assert torch.equal(tensor, model.state_dict()[name])


def test_a_folder_that_can_not_be_read_is_told_in_words(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no config\.json"):
        read_model(tmp_path)
    write_model(tmp_path, random_model(SHAPES["tied"]), eot=None)
    (tmp_path / "model.safetensors").rename(tmp_path / "pytorch_model.bin")
    with pytest.raises(UserError, match=r"no model\.safetensors") as pickled:
        read_model(tmp_path)
    assert "can run code" in pickled.value.faults[0].hint
    (tmp_path / "model.safetensors").write_bytes(b"not a safetensors file")
    with pytest.raises(UserError, match="damaged"):
        read_model(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    with pytest.raises(UserError, match="no num_attention_heads"):
        read_model(tmp_path)


def test_a_shape_that_does_not_fit_its_weights_names_every_tensor(tmp_path: Path) -> None:
    write_model(tmp_path, random_model(SHAPES["tied"]), eot=None)
    told = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(told | {"n_layer": 4}))
    with pytest.raises(UserError) as error:
        read_model(tmp_path)
    assert len(error.value.faults) == 12
    assert "transformer.h.3.ln_1.weight" in error.value.faults[0].message


@pytest.mark.parametrize(
    ("preset", "published"),
    [
        ("gpt2", 124_439_808),
        ("gpt2-medium", 354_823_168),
        ("gpt2-large", 774_030_080),
        ("gpt2-xl", 1_557_611_200),
    ],
)
def test_presets_have_the_published_number_of_parameters(preset: str, published: int) -> None:
    shape = {name: value for name, value in PRESETS[preset].items() if name in GPTConfig.__dataclass_fields__}
    with torch.device("meta"):
        assert GPT(GPTConfig(vocab_size=50_257, **shape)).n_parameters() == published


@pytest.mark.parametrize("config", SHAPES.values(), ids=SHAPES.keys())
def test_the_cache_does_not_change_the_result(config: GPTConfig) -> None:
    model = random_model(config)
    ids = torch.randint(0, config.vocab_size, (2, config.context_length), generator=torch.Generator().manual_seed(6))
    with torch.no_grad():
        whole = model(ids)
        for cuts in ((1, 2, 3), (4, 5), (7,)):
            cache = KVCache(config, 2, model.device, torch.float32)
            borders = [0, *cuts, config.context_length]
            parts = [
                model(ids[:, start:end], cache.extend(range(2), end - start))
                for start, end in itertools.pairwise(borders)
            ]
            torch.testing.assert_close(torch.cat(parts, dim=1), whole, atol=1e-5, rtol=0)


def test_initial_weights_follow_gpt2_and_the_seed_only() -> None:
    config = GPTConfig(vocab_size=512, emb_dim=128, context_length=64, n_layers=8, n_heads=4)
    torch.manual_seed(1)
    model = GPT.create(config, seed=7)
    torch.manual_seed(2)
    again = GPT.create(config, seed=7)
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[name]), name
    assert not torch.equal(model.token_embedding.weight, GPT.create(config, seed=8).token_embedding.weight)
    assert model.token_embedding.weight.std().item() == pytest.approx(0.02, rel=0.05)
    assert model.blocks[0].attention.qkv.weight.std().item() == pytest.approx(0.02, rel=0.05)
    for projection in (model.blocks[3].attention.proj, model.blocks[3].mlp.down):
        assert projection.weight.std().item() == pytest.approx(0.02 / 4, rel=0.05)  # 1/sqrt(2·8)
        assert not projection.bias.any()
    assert torch.equal(model.final_norm.weight, torch.ones(128))


def test_vocabularies_are_padded_to_round_sizes() -> None:
    assert [padded_vocabulary(size) for size in (1, 128, 129, 50_257)] == [128, 128, 256, 50_304]


@pytest.mark.skipif(not SORT_MODEL.exists(), reason="the trained sorting model is not at hand")
def test_a_trained_model_of_others_sorts_every_input() -> None:
    model = read_model(SORT_MODEL)
    inputs = torch.tensor(list(itertools.product(range(3), repeat=6)))  # all 729
    ids = inputs
    with torch.no_grad():
        for _ in range(6):
            ids = torch.cat([ids, model(ids)[:, -1].argmax(dim=-1, keepdim=True)], dim=1)
    assert torch.equal(ids[:, 6:], inputs.sort(dim=1).values)


@pytest.mark.skipif(not SORT_MODEL.exists(), reason="the trained sorting model is not at hand")
def test_a_trained_model_of_others_computes_what_its_authors_stored_block_by_block() -> None:
    stored = json.loads((SORT_MODEL / "gpt-nano-sort-t0-partials.json").read_text(encoding="utf-8"))

    def activation(name: str) -> torch.Tensor:
        values = np.frombuffer(base64.b64decode(stored[name]["data"]), dtype=np.float32)
        return torch.tensor(values).view(stored[name]["shape"])

    model = read_model(SORT_MODEL)
    seen: dict[str, torch.Tensor] = {}
    first = model.blocks[0]
    modules = {
        "tok_emb": model.token_embedding, "ln1": first.norm1, "qkv": first.attention.qkv, "attn": first.attention,
        "ln2": first.norm2, "fc": first.mlp.up, "mlp": first.mlp, "ln_f": model.final_norm, "lm_head": model.head,
        **{f"block{i}": block for i, block in enumerate(model.blocks)},
    }  # fmt: skip
    for name, module in modules.items():
        module.register_forward_hook(lambda _, __, out, name=name: seen.update({name: out}))
    with torch.no_grad():
        model(activation("idx").long())
    seen["yProj"] = seen.pop("attn")
    for name, ours in seen.items():
        torch.testing.assert_close(ours, activation(name), atol=1e-5, rtol=1e-5, msg=lambda m, n=name: f"{n}: {m}")


def test_a_shape_that_can_not_be_built_is_told_in_the_names_of_its_fields() -> None:
    with pytest.raises(UserError, match=r"width \(emb_dim\) of 8 can't be divided among 3 heads \(n_heads\)"):
        GPT(GPTConfig(n_heads=3, emb_dim=8))


def test_a_sequence_past_the_context_is_refused_with_both_lengths() -> None:
    config = SHAPES["tied"]
    model, cache = random_model(config), KVCache(config, 1, torch.device("cpu"), torch.float32)
    with pytest.raises(ValueError, match=r"13 tokens; the model's context holds 12"):
        model(torch.zeros(1, 13, dtype=torch.long))
    with torch.inference_mode():
        model(torch.zeros(1, 12, dtype=torch.long), cache.extend(range(1), 12))
    with torch.inference_mode(), pytest.raises(ValueError, match=r"13 tokens; the model's context holds 12"):
        model(torch.zeros(1, 1, dtype=torch.long), cache.extend(range(1), 1))


def test_the_hint_for_a_damaged_checkpoint_names_the_one_before_it(tmp_path: Path) -> None:
    folders = [tmp_path / "run" / "checkpoints" / f"step_000000{step}" for step in (2, 4)]
    for folder in folders:
        folder.mkdir(parents=True)
        write_model(folder, random_model(SHAPES["tied"]), None)
        (folder / "model.safetensors").write_bytes(b"damaged")
    hints = []
    for folder in folders:
        with pytest.raises(UserError, match="damaged") as caught:
            read_model(folder)
        hints.append(caught.value.faults[0].hint)
    assert "no earlier checkpoint" in hints[0]
    assert f"--model {folders[0]}" in hints[1]
