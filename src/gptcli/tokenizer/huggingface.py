"""Tokenizers in a tokenizer.json, by the `tokenizers` library that the format is from."""

from __future__ import annotations

import copy
import hashlib
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from gptcli.errors import UserError
from gptcli.tokenizer.gpt2 import unspelled
from gptcli.tokenizer.splits import WORDS
from gptcli.tokenizer.vocabulary import Cuts, Ids, Vocabulary, joined, texts_of

if TYPE_CHECKING:
    from tokenizers import Tokenizer as Library

# Put before special tokens where the library would find them in text: noncharacters, which no text has.
_HIDDEN = "\U0010ffff\U0010fffe"
_FAMILIAR_ENDS = (
    "<|endoftext|>", "<|end_of_text|>", "<｜end▁of▁sentence｜>", "<|end▁of▁sentence|>", "</s>", "<eos>", "<EOT>",
    "<|im_end|>", "<|eot_id|>",
)  # fmt: skip
_SPACE_MARK = "▁"
_CUT = re.compile(r"[A-Za-z0-9][\t-\r ]")


class LibraryVocabulary(Vocabulary):
    """The content of a tokenizer.json. Text gives no special tokens, and nothing is added around it."""

    kind = "tokenizers"

    def __init__(self, name: str, json_text: str, eot: int) -> None:
        """Raises UserError where `json_text` is no tokenizer that the library reads."""
        self.name, self.eot = name, eot
        self._text = json_text
        self._content = parse(json_text, name)
        self._library = _load(_encoding_copy(self._content), name)
        self._library.encode_special_tokens = True  # as ordinary text, that is
        tokens = {shown(token): number for token, number in self._library.get_vocab(with_added_tokens=True).items()}
        self._token_of = {number: token for token, number in tokens.items()}
        self.vocab_size = max(self._token_of, default=-1) + 1
        self._added = set(self._library.get_added_tokens_decoder())
        self.specials = {
            token["content"]: tokens[token["content"]]
            for token in self._content["added_tokens"]
            if token.get("special")
        }
        ordinary = [
            token | {"id": tokens[token["content"]]}
            for token in self._content["added_tokens"]
            if not token.get("special")
        ]
        self.json_text: str = json.dumps(self._content | {"added_tokens": ordinary}, ensure_ascii=False)
        self.cuts: Cuts = "words" if _cuts_between_words(self._content) else "none"

    def encode(self, text: str) -> list[int]:
        text.encode("utf-8")  # the library's error for lone surrogates is another
        try:
            ids: list[int] = self._library.encode(text, add_special_tokens=False).ids
        except Exception as error:  # the library raises no other class
            raise self._failed(text, error) from error
        return ids

    def encode_texts(self, data: bytes | memoryview, ends: npt.NDArray[np.int64]) -> tuple[Ids, npt.NDArray[np.int64]]:
        texts = texts_of(data, ends)
        try:
            encoded = self._library.encode_batch_fast(texts, add_special_tokens=False)
        except Exception:
            for text in texts:
                self.encode(text)  # raises for the text that it was
            raise
        return joined([np.array(one.ids, dtype=np.uint32) for one in encoded])

    def token_bytes(self, token: int) -> bytes:
        if token not in self._token_of:
            return b""
        name = self._token_of[token]
        if token in self._added:
            return name.encode("utf-8")
        return self._bytes_of(token, name)

    def decode(self, ids: Sequence[int]) -> str:
        """As the library decodes, but that special tokens are shown and that ids which there are not have no text."""
        if self._bytes_of == self._by_alphabet:
            return super().decode(ids)
        return self._decoder.decode([token for token in ids if token in self._token_of], skip_special_tokens=False)

    def digest(self) -> str:
        model = {key: value for key, value in self._content["model"].items() if key != "dropout"}
        if "merges" in model:
            model["merges"] = [merge.split(" ") if isinstance(merge, str) else merge for merge in model["merges"]]
        deciding = {key: self._content.get(key) for key in ("added_tokens", "normalizer", "pre_tokenizer")}
        canonical = json.dumps(deciding | {"model": model, "eot": self.eot}, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()

    def to_json(self) -> str:
        """The file as it was, but that nothing is put before a text: our documents begin with the end of text."""
        if not prefix_of(self._content):
            return self._text
        return json.dumps({**parse(self._text, self.name), "post_processor": None}, ensure_ascii=False)

    def recipe(self) -> tuple[Callable[..., Vocabulary], tuple[Any, ...]]:
        return LibraryVocabulary, (self.name, self._text, self.eot)

    @cached_property
    def _bytes_of(self) -> Callable[[int, str], bytes]:
        """How an ordinary token tells its bytes: byte-level, with marks for spaces, or by decoding its id."""
        types = set(types_of(self._content.get("decoder")))
        if "ByteLevel" in types:
            return self._by_alphabet
        if types & {"Metaspace", "ByteFallback"}:
            return self._by_marks
        return self._by_decoding

    def _by_alphabet(self, token: int, name: str) -> bytes:
        found = unspelled(name)
        return name.encode("utf-8") if found is None else found

    def _by_marks(self, token: int, name: str) -> bytes:
        if len(name) == 6 and name.startswith("<0x") and name.endswith(">"):
            return bytes.fromhex(name[3:5])
        return name.replace(_SPACE_MARK, " ").encode("utf-8")

    def _by_decoding(self, token: int, name: str) -> bytes:
        """What the token adds to a text behind another: the first of a text may lose the space before it."""
        before = self._decoder.decode([self._anchor], skip_special_tokens=False)
        both = self._decoder.decode([self._anchor, token], skip_special_tokens=False)
        return both.removeprefix(before).encode("utf-8")

    @cached_property
    def _anchor(self) -> int:
        return next((number for number, name in self._token_of.items() if name.isalpha()), min(self._token_of))

    @cached_property
    def _decoder(self) -> Library:
        return _load(self._content, self.name)

    def _failed(self, text: str, error: Exception) -> UserError:
        return UserError(f"The tokenizer {self.name} fails on the text that begins {text[:40]!r}: {error}.")


def parse(json_text: str, name: str) -> dict[str, Any]:
    """The content of a tokenizer.json. Raises UserError for a text that is none."""
    try:
        content = json.loads(json_text)
        if not isinstance(content["model"], dict):
            raise TypeError("the model is no object")
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"The tokenizer.json of {name} is damaged or none.", "Copy it again.") from error
    return {**content, "added_tokens": content.get("added_tokens") or []}


def end_of_text(content: Mapping[str, Any], tokens: Mapping[str, int], *neighbours: Mapping[str, Any]) -> int | None:
    """The end-of-text id of a tokenizer.json whose tokens have the ids `tokens`; None where nothing tells.

    `neighbours` are the tokenizer_config.json, generation_config.json and config.json beside it, each of which may
    name it; otherwise it is a special token with one of the names that such a token mostly has.
    """
    for told in neighbours:
        named = told.get("eos_token")
        named = named.get("content") if isinstance(named, dict) else named
        if isinstance(named, str) and named in tokens:
            return tokens[named]
        number = told.get("eos_token_id")
        number = number[0] if isinstance(number, list) and number else number
        if isinstance(number, int) and number in tokens.values():
            return number
    specials = {token["content"] for token in content["added_tokens"] if token.get("special")}
    return next((tokens[name] for name in _FAMILIAR_ENDS if name in specials and name in tokens), None)


def prefix_of(content: Mapping[str, Any]) -> tuple[int, ...]:
    """The ids that a tokenizer.json puts before a text: a template's special tokens up to the text itself."""
    processor = content.get("post_processor") or {}
    templates = [
        part for part in processor.get("processors") or [processor] if part.get("type") == "TemplateProcessing"
    ]
    ids: list[int] = []
    for template in templates:
        for piece in template["single"]:
            if "Sequence" in piece:
                break
            ids += template["special_tokens"][piece["SpecialToken"]["id"]]["ids"]
    return tuple(ids)


def tokens_of(content: dict[str, Any], name: str) -> dict[str, int]:
    """Every token of a tokenizer.json with its id, as the library numbers them."""
    return dict(_load(content, name).get_vocab(with_added_tokens=True))


def shown(token: str) -> str:
    """The name of a token that may be hidden."""
    return token.removeprefix(_HIDDEN)


def _load(content: Mapping[str, Any], name: str) -> Library:
    from tokenizers import Tokenizer as Library

    try:
        return Library.from_str(json.dumps(content, ensure_ascii=False))
    except Exception as error:  # the library raises no other class
        raise UserError(f"The tokenizer.json of {name} can't be read: {error}.", "Copy it again.") from error


def _encoding_copy(content: Mapping[str, Any]) -> dict[str, Any]:
    """The tokenizer for plain text: no truncation or padding, no random merges, and special tokens that no text spells.

    The library looks up special tokens in text by itself, which `encode_special_tokens` ends. Where they stand in the
    model's vocabulary as well, some models find them there; these get a name that no text has. They are not dropped,
    since the library numbers added tokens in their order.
    """
    model, added = copy.copy(content["model"]), [dict(token) for token in content["added_tokens"]]
    if "dropout" in model:
        model["dropout"] = None
    finds_whole = model.get("ignore_merges") or model.get("type") != "BPE"
    merged = {"".join(merge.split(" ") if isinstance(merge, str) else merge) for merge in model.get("merges", ())}
    hidden = {token["content"] for token in added if token.get("special") and finds_whole} - merged

    def name_of(token: str) -> str:
        return _HIDDEN + token if token in hidden else token

    vocab = model.get("vocab")
    if isinstance(vocab, dict):
        model["vocab"] = {name_of(token): number for token, number in vocab.items()}
    elif isinstance(vocab, list):  # Unigram: token and score
        model["vocab"] = [[name_of(token), score] for token, score in vocab]
    if isinstance(model.get("unk_token"), str):
        model["unk_token"] = name_of(model["unk_token"])
    for token in added:
        token["content"] = name_of(token["content"])
    unwanted = dict.fromkeys(("truncation", "padding", "post_processor"))
    return {**content, **unwanted, "model": model, "added_tokens": added}


def types_of(part: Any) -> Iterator[str]:
    """The types of a pre-tokenizer or decoder and of those in it."""
    if isinstance(part, dict):
        yield str(part.get("type"))
        for inner in part.get("pretokenizers") or part.get("decoders") or ():
            yield from types_of(inner)


def _cuts_between_words(content: Mapping[str, Any]) -> bool:
    """Whether text can be cut between a letter or digit and white space: its split is known, nothing changes the text
    before, and no added token reaches across or looks at what stands around it."""
    if content.get("normalizer") is not None or not _splits_words(content.get("pre_tokenizer")):
        return False
    ordinary = [token for token in content["added_tokens"] if not token.get("special")]
    looking = any(token.get(key) for token in ordinary for key in ("lstrip", "rstrip", "single_word"))
    return not looking and not any(_CUT.search(token["content"]) for token in ordinary)


def _splits_words(part: Any) -> bool:
    if not isinstance(part, dict):
        return False
    if part.get("type") == "ByteLevel":
        return not part.get("add_prefix_space", True) and part.get("use_regex", True)
    if part.get("type") == "Split":
        is_plain = part.get("behavior") == "Isolated" and not part.get("invert")
        return is_plain and part["pattern"].get("Regex") in WORDS
    if part.get("type") != "Sequence":
        return False
    first, *rest = part["pretokenizers"]
    return _splits_words(first) and all(
        inner.get("type") == "ByteLevel" and not inner.get("add_prefix_space", True) for inner in rest
    )
