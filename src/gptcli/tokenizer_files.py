"""A tokenizer as the files that a Hugging Face folder holds, and back.

`tokenizer.json` is what the `tokenizers` library reads: the same ids by its byte-level BPE as by tiktoken.
"""

from __future__ import annotations

import hashlib
import json
from functools import lru_cache
from pathlib import Path
from typing import Any

from gptcli.errors import UserError
from gptcli.tokenizer import END_OF_TEXT, GPT2_MERGES_SHA256, Tokenizer, byte_alphabet, get_tokenizer, gpt2_merges

TOKENIZER, TOKENIZER_CONFIG = "tokenizer.json", "tokenizer_config.json"
GPT2_VOCABULARIES = range(50_257, 50_305)  # GPT-2's vocabulary, as it is and padded to round sizes


def write_tokenizer(folder: Path, tokenizer: Tokenizer, context_length: int) -> None:
    """Write `tokenizer.json` and `tokenizer_config.json` into `folder`. Our key names the encoding for the way back."""
    (folder / TOKENIZER).write_text(_tokenizer_json(tokenizer.name), encoding="utf-8")
    config = {
        "tokenizer_class": "GPT2Tokenizer" if tokenizer.name == "gpt2" else "PreTrainedTokenizerFast",
        "bos_token": END_OF_TEXT,
        "eos_token": END_OF_TEXT,
        "unk_token": END_OF_TEXT,
        "add_prefix_space": False,
        "clean_up_tokenization_spaces": False,
        "model_max_length": context_length,
        "gptcli_encoding": {"name": tokenizer.name, "sha256": tokenizer.sha256},
    }
    (folder / TOKENIZER_CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def read_tokenizer(folder: Path, vocab_size: int) -> tuple[Tokenizer | None, str]:
    """The tokenizer of a model folder, and a note for the user (empty when there is nothing to say).

    A folder without tokenizer files and with GPT-2's vocabulary is taken to mean `gpt2`; None means that the model
    takes ids only. Raises UserError when the files name an encoding whose vocabulary is not the one trained with.
    """
    named = _read_json(folder / TOKENIZER_CONFIG).get("gptcli_encoding")
    if named:
        tokenizer = get_tokenizer(named["name"])
        if tokenizer.sha256 != named["sha256"]:
            raise UserError(f"The vocabulary of '{tokenizer.name}' is not the one that {folder} was trained with.")
        return tokenizer, ""
    files = [name for name in (TOKENIZER, "merges.txt", "vocab.json") if (folder / name).exists()]
    if not files:
        if vocab_size in GPT2_VOCABULARIES:
            return get_tokenizer(
                "gpt2"
            ), f"{folder} has no tokenizer files; its {vocab_size:,} tokens are taken as gpt2's."
        return None, f"{folder} has no tokenizer files: it takes token ids, not text."
    if _holds_gpt2(folder):
        return get_tokenizer("gpt2"), ""
    return None, f"The tokenizer of {folder} is not one that gpt knows: it takes token ids, not text."


def _holds_gpt2(folder: Path) -> bool:
    model = _read_json(folder / TOKENIZER).get("model", {})
    if model.get("type") == "BPE":
        merges = [tuple(merge.split(" ")) if isinstance(merge, str) else tuple(merge) for merge in model["merges"]]
        return merges == gpt2_merges()
    merges_file = folder / "merges.txt"
    return merges_file.exists() and hashlib.sha256(merges_file.read_bytes()).hexdigest() == GPT2_MERGES_SHA256


def _read_json(file: Path) -> dict[str, Any]:
    if not file.exists():
        return {}
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{file} is damaged: {error}.") from error
    return content if isinstance(content, dict) else {}


@lru_cache(maxsize=2)
def _tokenizer_json(name: str) -> str:
    tokenizer = get_tokenizer(name)
    alphabet = byte_alphabet()

    def spelled(token: bytes) -> str:
        return "".join(alphabet[byte] for byte in token)

    merges = gpt2_merges() if name == "gpt2" else [(spelled(a), spelled(b)) for a, b in _merges(tokenizer.ranks)]
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    split = {"type": "Split", "pattern": {"Regex": tokenizer.pattern}, "behavior": "Isolated", "invert": False}
    content = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            {"id": rank, "content": special, "single_word": False, "lstrip": False, "rstrip": False,
             "normalized": False, "special": True}
            for special, rank in sorted(tokenizer.special_tokens.items(), key=lambda item: item[1])
        ],
        "normalizer": None,
        # GPT-2's own split is built into ByteLevel; naming it there keeps the file as its authors wrote it.
        "pre_tokenizer": (
            byte_level | {"use_regex": True}
            if name == "gpt2"
            else {"type": "Sequence", "pretokenizers": [split, byte_level]}
        ),
        "post_processor": byte_level | {"trim_offsets": False},
        "decoder": byte_level,
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": name != "gpt2",  # tiktoken takes a piece that is a token whole
            "vocab": {spelled(token): rank for token, rank in tokenizer.ranks.items()},
            "merges": [list(merge) for merge in merges],
        },
    }  # fmt: skip
    return json.dumps(content, ensure_ascii=False)


def _merges(ranks: dict[bytes, int]) -> list[tuple[bytes, bytes]]:
    """The merge that makes each token: byte-pair encoding it with the ranks below its own leaves its two halves."""
    merges = []
    for token, rank in sorted(ranks.items(), key=lambda item: item[1]):
        if len(token) == 1:
            continue
        parts = [token[i : i + 1] for i in range(len(token))]
        while len(parts) > 2:
            pairs = [(ranks.get(parts[i] + parts[i + 1], rank), i) for i in range(len(parts) - 1)]
            best, i = min(pairs)
            if best >= rank:
                break
            parts[i : i + 2] = [parts[i] + parts[i + 1]]
        if len(parts) == 2:
            merges.append((parts[0], parts[1]))
    return merges
