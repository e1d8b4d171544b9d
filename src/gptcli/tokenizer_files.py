"""The tokenizer files of a folder of shards or of a model: written for every kind, and found again with what the folder
tells beside."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

from gptcli.errors import UsageError
from gptcli.tokenizer import Tokenizer, get_tokenizer
from gptcli.tokenizer.folders import RECORD, TOKENIZER, TOKENIZER_CONFIG, read_folder, read_json, record_of
from gptcli.tokenizer.gpt2 import MERGES_SHA256
from gptcli.tokenizer.huggingface import prefix_of

GPT2_VOCABULARIES = range(50_257, 50_305)  # GPT-2's vocabulary, as it is and padded to round sizes


def save_tokenizer(folder: Path, tokenizer: Tokenizer, context_length: int | None = None) -> None:
    """Write `tokenizer.json` and `tokenizer_config.json` into `folder`."""
    _write(folder / TOKENIZER, tokenizer.to_json())
    config = json.dumps(_config(tokenizer, context_length), indent=2, ensure_ascii=False) + "\n"
    _write(folder / TOKENIZER_CONFIG, config)


def _write(path: Path, text: str) -> None:
    """Write a file, and bring it to the disk: what is written next may say that it is there."""
    with path.open("w", encoding="utf-8", newline="\n") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def write_tokenizer(folder: Path, tokenizer: Tokenizer, context_length: int) -> None:
    """`save_tokenizer` for a model that takes `context_length` tokens."""
    save_tokenizer(folder, tokenizer, context_length)


def read_tokenizer(folder: Path, vocab_size: int) -> tuple[Tokenizer | None, str]:
    """The tokenizer of a model folder, and a note for the user (empty when there is nothing to say).

    A folder without tokenizer files and with GPT-2's vocabulary is taken to mean `gpt2`; None means that the model
    takes ids only. Raises UserError for damaged files, and where ours are not those that were written.
    """
    try:
        found = read_folder(folder)
    except UsageError as error:  # what a user who names the tokenizer has to mend is none of a model's user
        return None, f"{error.faults[0].message} The model takes token ids, not text."
    if found:
        return Tokenizer(found), ""
    files = [name for name in ("merges.txt", "vocab.json", "tokenizer.model") if (folder / name).exists()]
    if not files:
        if vocab_size in GPT2_VOCABULARIES:
            note = f"{folder} has no tokenizer files; its {vocab_size:,} tokens are taken as gpt2's."
            return get_tokenizer("gpt2"), note
        return None, f"{folder} has no tokenizer files: it takes token ids, not text."
    merges = folder / "merges.txt"
    if merges.exists() and hashlib.sha256(merges.read_bytes()).hexdigest() == MERGES_SHA256:
        return get_tokenizer("gpt2"), ""
    return None, f"{folder} has no {TOKENIZER}: it takes token ids, not text."


def read_prefix(folder: Path) -> tuple[int, ...]:
    """The ids that a model of other programs was trained to find before every text, as its tokenizer.json tells; none
    where it tells none, and in our own folders, whose documents begin with the end of text."""
    if RECORD in read_json(folder / TOKENIZER_CONFIG) or not (folder / TOKENIZER).is_file():
        return ()
    return prefix_of(read_json(folder / TOKENIZER))


def _config(tokenizer: Tokenizer, context_length: int | None) -> dict[str, Any]:
    end = next(name for name, token in tokenizer.specials.items() if token == tokenizer.eot)
    config: dict[str, Any] = {
        "tokenizer_class": "GPT2Tokenizer" if tokenizer.name == "gpt2" else "PreTrainedTokenizerFast",
        "bos_token": end,
        "eos_token": end,
        "add_prefix_space": False,
        "clean_up_tokenization_spaces": False,
        RECORD: record_of(tokenizer.vocabulary, tokenizer.sha256),
    }
    if tokenizer.ranks is not None:
        config["unk_token"] = end  # nothing is unknown to it, but GPT2Tokenizer wants the key
    if context_length is not None:
        config["model_max_length"] = context_length
    return config
