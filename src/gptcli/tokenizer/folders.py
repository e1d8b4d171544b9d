"""A tokenizer as the files of a folder, `tokenizer.json` and `tokenizer_config.json`, and back.

Other programs read them as they are. In ours the configuration also says what kind they are of, under one key of its
own, so that the way back needs no network and is checked by fingerprint.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from gptcli.errors import UsageError, UserError
from gptcli.tokenizer.bpe import TiktokenVocabulary, from_json
from gptcli.tokenizer.characters import BytesVocabulary, CharsVocabulary
from gptcli.tokenizer.gpt2 import gpt2_encoding, gpt2_merges
from gptcli.tokenizer.huggingface import LibraryVocabulary, end_of_text, parse, tokens_of
from gptcli.tokenizer.splits import for_oniguruma
from gptcli.tokenizer.vocabulary import END_OF_TEXT, Vocabulary

TOKENIZER, TOKENIZER_CONFIG = "tokenizer.json", "tokenizer_config.json"
_NEIGHBOURS = (TOKENIZER_CONFIG, "generation_config.json", "config.json")
FILES = (TOKENIZER, *_NEIGHBOURS)
RECORD = "gptcli_encoding"  # our key in tokenizer_config.json


def record_of(vocabulary: Vocabulary, sha256: str) -> dict[str, Any]:
    """What our configuration says of a tokenizer for the way back."""
    record: dict[str, Any] = {"kind": vocabulary.kind, "name": vocabulary.name, "sha256": sha256}
    if vocabulary.pattern is not None and for_oniguruma(vocabulary.pattern) != vocabulary.pattern:
        record["pattern"] = vocabulary.pattern
    if isinstance(vocabulary, LibraryVocabulary):
        record["eot"] = vocabulary.eot
    return record


def read_folder(folder: Path, name: str | None = None) -> Vocabulary | None:
    """The vocabulary that the files of `folder` tell; None where it has no tokenizer.json.

    `name` is what one that is not ours is called, by default the folder. Raises UserError for damaged files, also where
    ours are not those that were written, and UsageError where nothing tells which token is end of text.
    """
    record = read_json(folder / TOKENIZER_CONFIG).get(RECORD)
    if isinstance(record, dict):
        return _restored(folder, record)
    if not (folder / TOKENIZER).is_file():
        return None
    return _foreign(folder / TOKENIZER, name or str(folder))


def read_file(file: Path) -> Vocabulary:
    """The vocabulary in a tokenizer.json, which may have another name; raises as `read_folder` does."""
    found = read_folder(file.parent, str(file)) if file.name == TOKENIZER else None
    return found or _foreign(file, str(file))


def read_json(file: Path) -> dict[str, Any]:
    """The object in a JSON file, empty where there is none. Raises UserError for a damaged one."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except (OSError, ValueError) as error:
        raise UserError(f"{file} is damaged or can't be read: {error}.", "Copy it again.") from error
    return content if isinstance(content, dict) else {}


def is_gpt2(content: dict[str, Any]) -> bool:
    """Whether a tokenizer.json gives GPT-2's ids and has no token more."""
    model, split = content["model"], content.get("pre_tokenizer") or {}
    if model.get("type") != "BPE" or content.get("normalizer") is not None or split.get("type") != "ByteLevel":
        return False
    if split.get("add_prefix_space") or not split.get("use_regex", True):
        return False
    gpt2 = gpt2_encoding()
    if any(token["content"] != END_OF_TEXT for token in content["added_tokens"]):
        return False
    merges = [tuple(merge.split(" ") if isinstance(merge, str) else merge) for merge in model["merges"]]
    return len(model["vocab"]) in (gpt2.n_vocab, gpt2.n_vocab - 1) and merges == gpt2_merges()


def _restored(folder: Path, record: dict[str, Any]) -> Vocabulary:
    try:
        found = _of_record(folder, record)
        if found.digest() == record["sha256"]:
            return found
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise UserError(f"The tokenizer files in {folder} are damaged.", "Copy them again.") from error
    raise UserError(
        f"The vocabulary of '{found.name}' in {folder} is not the one that was written there.", "Copy the folder again."
    )


def _of_record(folder: Path, record: dict[str, Any]) -> Vocabulary:
    name, kind = record["name"], record.get("kind", TiktokenVocabulary.kind)
    if kind == BytesVocabulary.kind:
        return BytesVocabulary()
    if kind == TiktokenVocabulary.kind and name == "gpt2":
        built_in = TiktokenVocabulary(gpt2_encoding())
        if built_in.digest() == record["sha256"] or not (folder / TOKENIZER).exists():
            return built_in
    text = _read(folder / TOKENIZER)
    if kind == LibraryVocabulary.kind:
        return LibraryVocabulary(name, text, int(record["eot"]))
    content = parse(text, str(folder))
    if kind == CharsVocabulary.kind:
        return CharsVocabulary.from_json(content)
    return from_json(name, content, record.get("pattern"))


def _foreign(file: Path, name: str) -> Vocabulary:
    text = _read(file)
    content = parse(text, name)
    if is_gpt2(content):
        return TiktokenVocabulary(gpt2_encoding())
    tokens = tokens_of(content, name)
    eot = end_of_text(content, tokens, *(read_json(file.parent / neighbour) for neighbour in _NEIGHBOURS))
    if eot is None:
        raise UsageError(
            f"The tokenizer {name} does not tell which token ends a text.",
            f'Name it as "eos_token" in a {TOKENIZER_CONFIG} beside {file.name}.',
        )
    return LibraryVocabulary(name, text, eot)


def _read(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{file} is missing or can't be read.", "Copy it again.") from error
