"""What the tokens of a folder follow from, as its manifest and journal have it, and in what a call differs from it."""

from __future__ import annotations

from collections.abc import Iterable

from pydantic import JsonValue

from gptcli.data.manifest import TokenizerRecord
from gptcli.data.sources import Sources, unescape
from gptcli.settings import TokenizeSettings
from gptcli.tokenizer import Tokenizer

CHARACTERS = "chars"  # the tokenizer that is made of the sources' characters


def options_of(settings: TokenizeSettings) -> dict[str, JsonValue]:
    """The options that the bytes of the shards depend on, by name."""
    return {
        "shard_size": settings.shard_size,
        "val_tokens": settings.val_tokens,
        "text_column": settings.text_column,
        "separator": None if settings.separator is None else unescape(settings.separator),
        "on_error": settings.on_error,
        "limit_documents": settings.limit_documents,
        "limit_tokens": settings.limit_tokens,
    }


def differences(
    recorded: Iterable[dict[str, JsonValue]],
    options: dict[str, JsonValue],
    record: TokenizerRecord,
    sources: Sources,
    settings: TokenizeSettings,
    tokenizer: Tokenizer | None,
    *,
    ask: bool,
) -> list[str]:
    """In what a folder made from the first three differs from what is called for now, in words.

    tokenizer: None for the one that is made of the sources' characters. ask: whether servers are asked for changes.
    """
    now = options_of(settings)
    found = [
        f"--{name.replace('_', '-')} {_shown(options.get(name))} (now {_shown(now[name])})"
        for name in now
        if options.get(name) != now[name]
    ]
    name = tokenizer.name if tokenizer else CHARACTERS
    if record.sha256 != tokenizer.sha256 if tokenizer else record.name != CHARACTERS:
        is_named = record.name != name
        found.append(f"the tokenizer '{record.name}' (now '{name}')" if is_named else f"another tokenizer '{name}'")
    return found + sources.differences(recorded, ask=ask)


def _shown(value: JsonValue) -> str:
    return "default" if value is None else repr(value) if isinstance(value, str) else str(value)
