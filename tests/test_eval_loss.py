"""Loss, perplexity and bits per byte over a validation split."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from gptcli.data.manifest import Manifest, ShardRecord, TokenizerRecord, Totals
from gptcli.errors import UsageError, UserError
from gptcli.evals.loss import bytes_of_tokens
from gptcli.evals.run import evaluate
from gptcli.evals.task import TaskResult
from gptcli.model.config import GPTConfig
from gptcli.model.huggingface import write_model
from gptcli.model.network import GPT
from gptcli.settings import EvalSettings
from gptcli.tokenizer import get_tokenizer
from gptcli.tokenizer_files import write_tokenizer

CONTEXT = 16
TEXT = [
    "To be, or not to be: that is the question. Ça va? 语言模型 " * 5,
    "",
    "Whether 'tis nobler in the mind to suffer",
]


def tokens_of(texts: list[str]) -> list[int]:
    """The texts as documents, each after an end-of-text token."""
    tokenizer = get_tokenizer("gpt2")
    return [token for text in texts for token in (tokenizer.eot, *tokenizer.encode(text))]


def write_shards(folder: Path, tokens: list[int], tokenizer: TokenizerRecord | None = None) -> Path:
    """A data folder whose validation split is `tokens`, with a manifest if a tokenizer is named."""
    folder.mkdir()
    shards = []
    for split, number, part in (("val", 0, tokens), ("train", 1, tokens[:5])):
        np.save(folder / f"{split}_{number:06d}.npy", np.array(part, dtype=np.uint16))
        shards.append(ShardRecord(name=f"{split}_{number:06d}.npy", split=split, tokens=len(part), sha256="0" * 64))
    if tokenizer:
        Manifest(
            tokenizer=tokenizer,
            dtype="uint16",
            shards=tuple(shards),
            totals=Totals(documents=1, tokens=len(tokens), bytes=1),
            sources={},
            options={},
        ).write(folder)
    return folder


def gpt2_record(**changes: str | int) -> TokenizerRecord:
    gpt2 = get_tokenizer("gpt2")
    record = {"name": "gpt2", "vocab_size": gpt2.vocab_size, "eot": gpt2.eot, "sha256": gpt2.sha256}
    return TokenizerRecord.model_validate(record | changes)


def random_model(vocab_size: int) -> GPT:
    model = GPT(GPTConfig(vocab_size, 16, CONTEXT, n_layers=2, n_heads=2, qkv_bias=True))
    model.initialise(torch.Generator().manual_seed(0))
    with torch.no_grad():
        model.token_embedding.weight.mul_(20)
    return model.eval()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random model with gpt2's tokenizer and padded rows."""
    folder = tmp_path_factory.mktemp("model")
    write_model(folder, random_model(50_304), 50_256)
    write_tokenizer(folder, get_tokenizer("gpt2"), CONTEXT)
    return folder


def measure(model: Path, shards: Path, batch_tokens: int = 1000, limit: int | None = None) -> TaskResult:
    (result,) = evaluate(
        EvalSettings(
            tasks=("loss",),
            data_root=str(shards),
            model=(str(model),),
            batch_tokens=batch_tokens,
            limit=limit,
            device="cpu",
        )
    )
    return result


@pytest.mark.parametrize("limit", [None, 3])
def test_the_loss_is_that_of_transformers_on_the_same_windows(folder: Path, tmp_path: Path, limit: int | None) -> None:
    from transformers import GPT2LMHeadModel

    tokens = tokens_of(TEXT)
    result = measure(folder, write_shards(tmp_path / "data", tokens, gpt2_record()), limit=limit).as_dict()
    theirs = GPT2LMHeadModel.from_pretrained(folder).eval()
    windows = (len(tokens) - 1) // CONTEXT
    losses = []
    for window in range(min(windows, limit or windows)):
        ids = torch.tensor([tokens[window * CONTEXT : (window + 1) * CONTEXT + 1]])
        with torch.no_grad():
            logs = torch.log_softmax(theirs(ids[:, :-1]).logits.double(), -1)
        losses += (-logs.gather(-1, ids[:, 1:, None])).flatten().tolist()
    expected = sum(losses) / len(losses)
    assert result["loss"] == pytest.approx(expected, abs=1e-4)
    assert result["perplexity"] == pytest.approx(math.exp(expected), rel=1e-3)
    assert result["tokens"] == len(losses)
    assert result["n"] == len(losses) // CONTEXT


def test_bits_per_byte_relate_the_loss_to_the_bytes_of_the_targets(folder: Path, tmp_path: Path) -> None:
    tokenizer = get_tokenizer("gpt2")
    tokens = tokens_of(TEXT)
    result = measure(folder, write_shards(tmp_path / "data", tokens, gpt2_record())).as_dict()
    scored = tokens[1 : 1 + (len(tokens) - 1) // CONTEXT * CONTEXT]
    n_bytes = len(tokenizer.decode_bytes([token for token in scored if token != tokenizer.eot]))
    assert result["bits_per_byte"] == pytest.approx(result["loss"] * len(scored) / math.log(2) / n_bytes)


def test_the_bytes_of_tokens_add_up_to_those_of_the_text() -> None:
    sizes = bytes_of_tokens(get_tokenizer("gpt2"))
    assert sizes[tokens_of(TEXT)].sum() == sum(len(text.encode()) for text in TEXT)


def test_the_batch_size_changes_no_loss(folder: Path, tmp_path: Path) -> None:
    shards = write_shards(tmp_path / "data", tokens_of(TEXT), gpt2_record())
    losses = [measure(folder, shards, batch_tokens).as_dict()["loss"] for batch_tokens in (1, 50, 10_000)]
    assert losses == pytest.approx([losses[0]] * 3, abs=1e-5)


def test_the_keys_are_those_of_the_contract_and_json(folder: Path, tmp_path: Path) -> None:
    result = measure(folder, write_shards(tmp_path / "data", tokens_of(TEXT), gpt2_record())).as_dict()
    assert {"task", "style", "model", "n", "loss", "perplexity", "bits_per_byte", "tokens", "seconds"} <= set(result)
    json.dumps(result, allow_nan=False)


def test_shards_that_name_no_tokenizer_are_taken_as_the_models_and_that_is_said(folder: Path, tmp_path: Path) -> None:
    named = measure(folder, write_shards(tmp_path / "named", tokens_of(TEXT), gpt2_record()))
    result = measure(folder, write_shards(tmp_path / "data", tokens_of(TEXT)))
    assert result.as_dict()["bits_per_byte"] == named.as_dict()["bits_per_byte"]
    assert not named.notes
    assert "does not name its tokenizer" in result.notes[0]


def test_a_model_of_ids_has_a_loss_and_no_bits_per_byte(tmp_path: Path) -> None:
    model = tmp_path / "model"
    model.mkdir()
    write_model(model, random_model(30), None)
    result = measure(model, write_shards(tmp_path / "data", [i * 7 % 30 for i in range(100)])).as_dict()
    assert result["bits_per_byte"] is None
    assert result["tokens"] == 96


def test_shards_of_another_tokenizer_are_refused_naming_both(folder: Path, tmp_path: Path) -> None:
    shards = write_shards(tmp_path / "data", tokens_of(TEXT), gpt2_record(name="p50k_base", sha256="f" * 64))
    with pytest.raises(UsageError, match=r"'p50k_base'.*'gpt2'"):
        measure(folder, shards)


def test_shards_of_the_same_vocabulary_by_another_name_are_measured(folder: Path, tmp_path: Path) -> None:
    shards = write_shards(tmp_path / "data", tokens_of(TEXT), gpt2_record(name="r50k_base"))
    assert measure(folder, shards).measured.n > 0


def test_another_vocabulary_of_the_same_name_is_refused(folder: Path, tmp_path: Path) -> None:
    shards = write_shards(tmp_path / "data", tokens_of(TEXT), gpt2_record(sha256="f" * 64))
    with pytest.raises(UsageError, match="different vocabularies"):
        measure(folder, shards)


def test_a_vocabulary_larger_than_the_models_is_refused(tmp_path: Path) -> None:
    model = tmp_path / "model"
    model.mkdir()
    write_model(model, random_model(30), None)
    with pytest.raises(UsageError, match="50,257"):
        measure(model, write_shards(tmp_path / "data", [1] * 100, gpt2_record()))
    with pytest.raises(UserError, match="the id 30"):
        measure(model, write_shards(tmp_path / "unnamed", [30] * 100))


def test_a_split_shorter_than_a_window_is_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="16 tokens"):
        measure(folder, write_shards(tmp_path / "data", [1] * CONTEXT, gpt2_record()))


def test_a_missing_data_root_is_wrong_usage(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="needs a folder of token shards"):
        evaluate(EvalSettings(tasks=("loss",), model=(str(folder),), device="cpu"))
    with pytest.raises(UsageError, match="missing"):
        measure(folder, tmp_path / "missing")
