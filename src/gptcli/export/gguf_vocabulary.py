"""A tokenizer in GGUF's metadata. llama.cpp cuts text by patterns that it has by name, so it holds byte-level BPE with
one of these, and no other kind."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from gptcli.inference.load import ModelFacts
from gptcli.tokenizer.huggingface import parse, types_of
from gptcli.tokenizer.splits import GPT2, GPT4, GPT4_PLAIN, O200K, QWEN2, for_oniguruma

if TYPE_CHECKING:
    import gguf

# llama.cpp's name for each split. Its llama-bpe takes a piece that is a token whole, as tiktoken does.
_PRE = {
    **dict.fromkeys(GPT2, "gpt-2"),
    **dict.fromkeys((GPT4, GPT4_PLAIN, for_oniguruma(GPT4)), "llama-bpe"),
    QWEN2: "qwen2",
    O200K: "gpt-4o",
}

_NEVER = "!! !!"  # a merge that nothing leads to: llama.cpp reads no file without merges


def add_vocabulary(writer: gguf.GGUFWriter, facts: ModelFacts, rows: int, notes: list[str]) -> None:
    """Add the model's tokenizer, or that it has none that llama.cpp could hold, with a note."""
    content = parse(facts.tokenizer.to_json(), facts.tokenizer.name) if facts.tokenizer else None
    pre = _pre_of(content) if content else None
    if facts.tokenizer is None or content is None or pre is None:
        if facts.tokenizer:
            notes.append(
                f"The tokenizer '{facts.tokenizer.name}' is not byte-level BPE whose split llama.cpp has by name, "
                "so it is not in the file, which takes token ids, not text."
            )
        writer.add_tokenizer_model("none")
        return
    import gguf

    added = {token["id"]: token for token in content["added_tokens"]}
    tokens = {number: token for token, number in content["model"]["vocab"].items()}
    tokens |= {number: token["content"] for number, token in added.items()}
    kinds = [
        gguf.TokenType.UNUSED
        if number not in tokens
        else gguf.TokenType.NORMAL
        if number not in added
        else gguf.TokenType.CONTROL
        if added[number].get("special")
        else gguf.TokenType.USER_DEFINED
        for number in range(rows)
    ]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    writer.add_token_list([tokens.get(number, f"[PAD{number}]") for number in range(rows)])
    writer.add_token_types(kinds)
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in content["model"]["merges"]]
    writer.add_token_merges(merges or [_NEVER])
    begin = facts.prefix[0] if facts.prefix else facts.tokenizer.eot
    writer.add_bos_token_id(begin)
    writer.add_eos_token_id(facts.tokenizer.eot)
    writer.add_add_bos_token(bool(facts.prefix))


def _pre_of(content: dict[str, Any]) -> str | None:
    """llama.cpp's name for the way that a tokenizer.json cuts text into pieces; None for any that it does not have."""
    split = content.get("pre_tokenizer") or {}
    normalizer = (content.get("normalizer") or {}).get("type")
    if content["model"].get("type") != "BPE" or normalizer not in (
        None,
        "NFC",
    ):  # llama.cpp leaves NFC out, as for Qwen
        return None
    parts = split.get("pretokenizers") or [split]
    if "ByteLevel" not in types_of(split) or any(part.get("add_prefix_space") for part in parts):
        return None
    patterns = [part["pattern"].get("Regex") for part in parts if part["type"] == "Split"]
    if not patterns and any(part.get("use_regex", True) for part in parts):
        return "gpt-2"
    if not patterns and not content["model"].get("merges"):
        return "gpt-2"  # nothing is merged, so it does not matter where text is cut
    return _PRE.get(patterns[0]) if len(patterns) == 1 else None
