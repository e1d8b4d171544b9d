"""Attention that is kept within documents."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn.attention.flex_attention import flex_attention

from gptcli import GPT, GPTConfig
from gptcli.errors import UsageError
from gptcli.model import documents
from gptcli.model.documents import find_documents
from gptcli.training.run import train
from gptcli.training.setup import prepare
from tests.small_runs import tiny

EOT = 3
FAMILIES: dict[str, dict[str, Any]] = {
    "gpt2": {},
    "modern": {"positions": "rotary", "norm": "rms", "mlp": "swiglu", "bias": False, "qk_norm": True, "n_kv_heads": 2},
}
ROW = [7, 8, EOT, 5, 6, 9, 4, EOT, EOT, 8, 8, 8]  # the end of a document, a whole one, an empty one, a beginning
PARTS = [range(2), range(2, 7), range(7, 8), range(8, 12)]


def losses(run: Path, kind: str) -> list[float]:
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [row["loss"] for row in rows if row["kind"] == kind]


def network(family: str) -> GPT:
    model = GPT.create(
        GPTConfig(vocab_size=16, emb_dim=64, context_length=16, n_layers=2, n_heads=4, **FAMILIES[family]), 0
    ).eval()
    for parameter in model.parameters():
        parameter.data += 0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1))
    return model


@pytest.mark.parametrize("family", FAMILIES)
def test_documents_side_by_side_give_what_each_gives_alone(family: str) -> None:
    model, ids = network(family), torch.tensor([ROW, ROW[::-1]])
    together = model(ids, documents=find_documents(ids, EOT, blocks=False))[0]
    for part in PARTS:
        alone = model(ids[:1, part.start : part.stop])[0]
        torch.testing.assert_close(together[part.start : part.stop], alone, atol=1e-5, rtol=0)
    assert (model(ids)[0] - together).abs().max() > 1e-3  # the mask does something


def test_the_mask_in_blocks_gives_the_same_logits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(documents, "_flex_attention", lambda: flex_attention)  # compiled, and backward, it needs CUDA
    model, ids = network("modern"), torch.randint(0, 16, (2, 16), generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        dense, blocks = (model(ids, documents=find_documents(ids, EOT, blocks=blocks)) for blocks in (False, True))
    torch.testing.assert_close(dense, blocks, atol=1e-5, rtol=0)


def test_a_run_is_trained_and_validated_within_documents(shards: Path, tmp_path: Path) -> None:
    for file in shards.glob("*.npy"):
        ids = np.load(file)
        ids[::10] = 50_256
        (tmp_path / "data").mkdir(exist_ok=True)
        np.save(tmp_path / "data" / file.name, ids)
    for name in ("across", "within"):
        train(tiny(tmp_path / "data", tmp_path / name, document_mask=name == "within"))
    for kind in ("train", "val"):
        across, within = losses(tmp_path / "across", kind), losses(tmp_path / "within", kind)
        assert len(across) == len(within)
        assert across != within


def test_data_that_do_not_tell_where_documents_begin_are_refused(shards: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--document-mask"):
        prepare(tiny(shards, tmp_path, document_mask=True, vocab_size=60_000))
