"""From a tokenizer's name to its vocabulary: tiktoken's encodings, `bytes`, files, the Hugging Face Hub."""

from __future__ import annotations

import re
from pathlib import Path

import tiktoken

from gptcli.errors import UsageError, UserError, nearest
from gptcli.tokenizer.bpe import TiktokenVocabulary
from gptcli.tokenizer.characters import BytesVocabulary
from gptcli.tokenizer.folders import FILES, read_file, read_folder
from gptcli.tokenizer.gpt2 import gpt2_encoding
from gptcli.tokenizer.vocabulary import Vocabulary

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")


def built_in_names() -> list[str]:
    """The names that mean the same everywhere."""
    return [*tiktoken.list_encoding_names(), BytesVocabulary.name]


def find_vocabulary(name: str) -> Vocabulary:
    """What `name` means. Raises UsageError where it means nothing, and UserError for what can't be fetched or read."""
    if name == "gpt2":
        return TiktokenVocabulary(gpt2_encoding())
    if name == BytesVocabulary.name:
        return BytesVocabulary()
    if name in built_in_names():
        return _tiktoken(name)
    path = Path(name)
    if name == "chars" and not path.exists():
        raise UsageError(
            "The tokenizer 'chars' is made from a text.",
            "`gpt tokenize --tokenizer-model chars` does so; its folder of shards names it from then on.",
        )
    if path.is_file():
        return read_file(path)
    if path.is_dir():
        return _in_folder(path)
    if _HUB_ID.fullmatch(name) and path.suffix != ".json":
        return _on_hub(name)
    if path.suffix == ".json":
        raise UsageError(f"There is no file {name}.", "`gpt tokenizer train` makes such a file from text.")
    known = [*built_in_names(), "chars"]
    close = nearest(name, known)
    hint = (
        f"Did you mean '{close}'?" if close else f"Known are {', '.join(known)}; or give a tokenizer.json or a Hub id."
    )
    raise UsageError(f"There is no tokenizer called '{name}'.", hint)


def _tiktoken(name: str) -> Vocabulary:
    try:
        return TiktokenVocabulary(tiktoken.get_encoding(name))
    except (OSError, ValueError) as error:  # requests' errors are OSErrors; a wrong checksum is a ValueError
        raise UserError(
            f"The vocabulary of '{name}' could not be fetched ({type(error).__name__}).",
            "tiktoken downloads it once: connect this machine, or set TIKTOKEN_CACHE_DIR to a folder that holds it. "
            "The encoding 'gpt2' needs no network.",
        ) from error


def _in_folder(folder: Path) -> Vocabulary:
    found = read_folder(folder)
    if found is None:
        raise UsageError(f"{folder} holds no tokenizer.json.", "Give the file, or a folder that holds it.")
    return found


def _on_hub(name: str) -> Vocabulary:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, RepositoryNotFoundError

    try:
        folder = Path(snapshot_download(name, allow_patterns=list(FILES)))
    except RepositoryNotFoundError as error:
        raise UsageError(
            f"There is no tokenizer {name}, neither as a file or folder here nor on the Hugging Face Hub.",
            "If it is private or gated, log in with: hf auth login",
        ) from error
    except (LocalEntryNotFoundError, HfHubHTTPError, OSError) as error:
        raise UserError(
            f"{name} is no file or folder here, and the Hugging Face Hub could not be reached for it.",
            "Connect this machine, or name a tokenizer.json.",
        ) from error
    found = read_folder(folder, name)
    if found is None:
        raise UsageError(f"{name} has no tokenizer.json on the Hugging Face Hub.", "Choose a model that has one.")
    return found
