"""A folder in Hugging Face's format with the model's vocabulary as it is: without the rows that pad it."""

from __future__ import annotations

import json
import shutil
from functools import reduce
from pathlib import Path

import torch
from torch import Tensor

from gptcli.inference.load import ModelFacts
from gptcli.model.files import CONFIG, GENERATION_CONFIG, WEIGHTS
from gptcli.model.formats import format_of
from gptcli.model.huggingface import from_huggingface, read_shape, read_tensors, save_tensors, to_huggingface
from gptcli.settings import ExportSettings
from gptcli.tokenizer_files import save_tokenizer
from gptcli.training import provenance

_TOKENIZER_FILES = ("tokenizer*.json", "special_tokens_map.json", "vocab.json", "merges.txt", "chat_template.jinja")


def real_rows(facts: ModelFacts) -> int:
    """Rows of the vocabulary that are not padding: all of them where no tokenizer tells."""
    rows = facts.config.vocab_size
    return min(rows, facts.tokenizer.vocab_size) if facts.tokenizer else rows


def write(facts: ModelFacts, folder: Path, notes: list[str], settings: ExportSettings) -> int:
    """Write the model with `facts` into `folder`; returns how many parameters it then has."""
    rows = real_rows(facts)
    folder.mkdir(parents=True)
    names = {
        name
        for stored in format_of(facts.config).tensors(facts.config)
        if stored.ours in ("token_embedding.weight", "head.weight")
        for name in stored.theirs
    }
    config = read_shape(facts.folder)
    weights = from_huggingface(config, read_tensors(facts.folder))
    dtype = reduce(torch.promote_types, (weight.dtype for weight in weights.values()))
    tensors: dict[str, Tensor] = {
        name: (tensor[:rows].clone() if name in names else tensor).to(dtype)
        for name, tensor in to_huggingface(config, weights).items()
    }
    save_tensors(tensors, folder / WEIGHTS)
    told = json.loads((facts.folder / CONFIG).read_text(encoding="utf-8")) | {"vocab_size": rows}
    (folder / CONFIG).write_text(json.dumps(told, indent=2) + "\n", encoding="utf-8")
    if (facts.folder / GENERATION_CONFIG).exists():
        shutil.copyfile(facts.folder / GENERATION_CONFIG, folder / GENERATION_CONFIG)
    files = sorted({file for pattern in _TOKENIZER_FILES for file in facts.folder.glob(pattern)})
    for file in files:
        shutil.copyfile(file, folder / file.name)
    if not files and facts.tokenizer:  # gpt2's, which its vocabulary has told
        save_tokenizer(folder, facts.tokenizer, facts.config.context_length)
    if origin := provenance.read(facts.folder):
        provenance.write(folder, origin)
    if rows < facts.config.vocab_size:
        notes.append(f"{facts.config.vocab_size - rows} rows of padding were left out of the vocabulary.")
    return sum(tensor.numel() for tensor in tensors.values())
