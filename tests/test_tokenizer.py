"""The tokenizers: tiktoken's encodings against tiktoken, the others against the `tokenizers` library and each other."""

from __future__ import annotations

import json
from itertools import pairwise
from multiprocessing.reduction import ForkingPickler
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiktoken
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers, processors, trainers

from gptcli.errors import UsageError, UserError
from gptcli.tokenizer import Tokenizer, chars_tokenizer, get_tokenizer, gpt2
from gptcli.tokenizer.huggingface import LibraryVocabulary
from gptcli.tokenizer.splits import GPT2, GPT4, GPT4_PLAIN, O200K, WORDS, for_oniguruma

GPT2_TOKENIZER = get_tokenizer("gpt2")
BYTES = get_tokenizer("bytes")
STRANGE = (
    "Hello  world\r\n\n\t it's 12345678 naïve 🙂👩‍👩‍👧 <|endoftext|> \x00 ไทย e\u0301 ſ'ſ I'LL CamelCase ١٢٣ ²½Ⅷ "
    "\x1c\x85\u2028\u3000x" + " " * 30 + "end  \n \n\n  "
)
CHARS = chars_tokenizer([STRANGE, "abcdefghijklmnopqrstuvwxyz"])
OF_CHARS = st.text(alphabet=sorted(set(STRANGE)), max_size=60)
CORPUS = ["It's the first line, and 12 of 345 words.\n", "The second line — naïve 🙂\n\n", "a quick brown fox " * 20]


def small_encoding(pattern: str, ranks: int = 3_000, end: int | None = None) -> Tokenizer:
    """An encoding as cl100k_base is one, without its download: gpt2's first ranks, another split and a gap before the
    special tokens."""
    first = {token: rank for token, rank in GPT2_TOKENIZER.vocabulary.ranks.items() if rank < ranks}
    specials = {"<|endoftext|>": ranks + 1 if end is None else end, "<|fim_prefix|>": ranks + 20}
    return Tokenizer(tiktoken.Encoding(name="small", pat_str=pattern, mergeable_ranks=first, special_tokens=specials))


def trained(kind: str) -> tokenizers.Tokenizer:
    """A small tokenizer of the `tokenizers` library, as one family or another has them."""
    if kind == "wordpiece":
        made = tokenizers.Tokenizer(models.WordPiece(unk_token="[UNK]"))
        made.pre_tokenizer, made.decoder = pre_tokenizers.Whitespace(), decoders.WordPiece(cleanup=False)
        made.train_from_iterator(CORPUS, trainers.WordPieceTrainer(vocab_size=90, special_tokens=["[UNK]", "</s>"]))
    elif kind == "unigram":
        made = tokenizers.Tokenizer(models.Unigram())
        made.pre_tokenizer, made.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
        trainer = trainers.UnigramTrainer(vocab_size=90, special_tokens=["<unk>", "</s>"], unk_token="<unk>")
        made.train_from_iterator([*CORPUS, "</s> is a tag, </s>"], trainer)
    elif kind == "llama":
        made = tokenizers.Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
        made.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
        fallback = [f"<0x{byte:02X}>" for byte in range(256)]
        trainer = trainers.BpeTrainer(vocab_size=400, special_tokens=["<unk>", "<s>", "</s>", *fallback])
        made.train_from_iterator(CORPUS, trainer)
        content = json.loads(made.to_str())
        content["added_tokens"] = content["added_tokens"][:3]  # the bytes are ordinary tokens
        made = tokenizers.Tokenizer.from_str(json.dumps(content))
        made.decoder = decoders.Sequence(
            [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
        )
        made.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    else:
        made = tokenizers.Tokenizer(models.BPE(ignore_merges=True))
        split = pre_tokenizers.Split(tokenizers.Regex(GPT4_PLAIN), "isolated")
        made.pre_tokenizer = pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(False, use_regex=False)])
        made.decoder = decoders.ByteLevel()
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        trainer = trainers.BpeTrainer(vocab_size=330, special_tokens=["</s>"], initial_alphabet=alphabet)
        made.train_from_iterator(CORPUS, trainer)
    return made


def library(kind: str, **changes: Any) -> Tokenizer:
    """The tokenizer that `trained` makes, with changes to its tokenizer.json, as ours."""
    content = json.loads(trained(kind).to_str()) | changes
    text = json.dumps(content)
    eot = tokenizers.Tokenizer.from_str(text).token_to_id("</s>")
    assert eot is not None
    return Tokenizer(LibraryVocabulary(kind, text, eot))


LIBRARY = {kind: library(kind) for kind in ("llama", "unigram", "wordpiece", "bytelevel")}
EVERY = {"gpt2": GPT2_TOKENIZER, "bytes": BYTES, "chars": CHARS, "small": small_encoding(GPT4), **LIBRARY}


def utf8(texts: list[str]) -> tuple[bytes, Any]:
    encoded = [text.encode() for text in texts]
    return b"".join(encoded), np.cumsum([len(one) for one in encoded], dtype=np.int64)


def test_gpt2_has_its_published_vocabulary() -> None:
    assert (GPT2_TOKENIZER.vocab_size, GPT2_TOKENIZER.eot) == (50_257, 50_256)
    assert GPT2_TOKENIZER.encode("Hello world") == [15496, 995]
    assert Tokenizer("gpt2").encode("On a clear day") == [2202, 257, 1598, 1110]


@pytest.mark.parametrize("name", EVERY)
def test_a_special_token_inside_a_text_is_ordinary_text(name: str) -> None:
    tokenizer = EVERY[name]
    for special in (*tokenizer.specials, "<|endoftext|>"):
        ids = tokenizer.encode(f"a {special} b") if name != "chars" else tokenizer.encode(special)
        unknown = tokenizer.specials.get("<unk>", tokenizer.specials.get("[UNK]"))
        assert not {*tokenizer.specials.values()} - {unknown} & {*ids}
        assert tokenizer.eot not in ids


@given(st.text(max_size=200))
def test_tiktokens_ids_are_its_own(text: str) -> None:
    assert GPT2_TOKENIZER.encode(text) == gpt2.gpt2_encoding().encode_ordinary(text)


@given(st.text(max_size=200))
@settings(max_examples=50)
def test_what_is_encoded_decodes_to_itself(text: str) -> None:
    for name in ("gpt2", "bytes", "small", "bytelevel"):
        assert EVERY[name].decode(EVERY[name].encode(text)) == text, name


@given(OF_CHARS)
def test_characters_decode_to_themselves_and_are_one_token_each(text: str) -> None:
    ids = CHARS.encode(text)
    assert len(ids) == len(text)
    assert CHARS.decode(ids) == text


def test_the_ids_of_characters_are_in_the_order_of_code_points_and_end_of_text_is_last() -> None:
    tokenizer = chars_tokenizer(["hello", "\n é"])
    assert tokenizer.encode("\n ehloé") == [0, 1, 2, 3, 4, 5, 6]
    assert (tokenizer.eot, tokenizer.vocab_size) == (7, 8)
    assert not tokenizer.covers_all_text


def test_the_ids_of_bytes_are_the_bytes_and_end_of_text_is_256() -> None:
    assert BYTES.encode("aé\x00") == [97, 0xC3, 0xA9, 0]
    assert (BYTES.eot, BYTES.vocab_size) == (256, 257)


def test_a_character_that_there_is_not_is_named() -> None:
    tokenizer = chars_tokenizer("abc")
    with pytest.raises(UserError, match="'chars' has no 'é', '\\\\n'"):
        tokenizer.encode("aé\nb")
    with pytest.raises(UserError, match="and 2 more"):
        tokenizer.encode("1234567")
    with pytest.raises(UserError, match="no 'd'"):
        tokenizer.encode_texts(*utf8(["abc", "abd"]))


def test_characters_of_no_text_are_refused() -> None:
    with pytest.raises(UserError, match="no characters"):
        chars_tokenizer(["", ""])


@pytest.mark.parametrize("name", EVERY)
def test_many_texts_have_the_ids_of_each(name: str) -> None:
    tokenizer = EVERY[name]
    texts = ["", "it's", STRANGE, "", "\n\n x", "ï🙂", ""]
    data, ends = utf8(texts)
    ids, counts = tokenizer.encode_texts(memoryview(data), ends)
    assert ids.dtype == np.uint32
    assert counts.dtype == np.int64
    pieces = [ids[start:end].tolist() for start, end in pairwise([0, *counts.tolist()])]
    assert pieces == [tokenizer.encode(text) for text in texts]


@pytest.mark.parametrize("name", EVERY)
def test_no_texts_have_no_ids(name: str) -> None:
    ids, counts = EVERY[name].encode_texts(b"", np.empty(0, dtype=np.int64))
    assert (ids.size, counts.size) == (0, 0)


@given(st.lists(OF_CHARS, max_size=6))
def test_many_texts_of_characters_have_the_ids_of_each(texts: list[str]) -> None:
    for tokenizer in (CHARS, BYTES):
        ids, counts = tokenizer.encode_texts(*utf8(texts))
        assert ids.tolist() == [token for text in texts for token in tokenizer.encode(text)]
        assert np.diff(counts, prepend=0).tolist() == [len(tokenizer.encode(text)) for text in texts]


@pytest.mark.parametrize("name", EVERY)
def test_a_tokenizer_is_the_same_in_another_process(name: str) -> None:
    copy = ForkingPickler.loads(ForkingPickler.dumps(EVERY[name]))
    assert copy == EVERY[name]
    assert copy.encode(STRANGE) == EVERY[name].encode(STRANGE)
    assert (copy.name, copy.eot, copy.cuts, copy.specials) == (
        EVERY[name].name, EVERY[name].eot, EVERY[name].cuts, EVERY[name].specials,
    )  # fmt: skip


def test_gpt2_pickles_to_its_name() -> None:
    assert len(ForkingPickler.dumps(GPT2_TOKENIZER)) < 500


def test_fingerprints_differ_where_anything_that_decides_ids_differs() -> None:
    content = json.loads(trained("bytelevel").to_str())
    model = content["model"]
    fewer = model | {"merges": model["merges"][:-1]}
    tokenizers_ = [
        *EVERY.values(),
        small_encoding(GPT4, ranks=2_999, end=3_001),
        small_encoding(GPT4, end=3_002),
        small_encoding(O200K),
        chars_tokenizer("abc"),
        chars_tokenizer("abd"),
        library("bytelevel", model=fewer),
        library("bytelevel", normalizer={"type": "NFC"}),
        library("bytelevel", pre_tokenizer=content["pre_tokenizer"]["pretokenizers"][1]),
        Tokenizer(LibraryVocabulary("bytelevel", json.dumps(content), 5)),
    ]
    assert len({tokenizer.sha256 for tokenizer in tokenizers_}) == len(tokenizers_)


def test_fingerprints_are_the_same_where_only_the_spelling_of_a_file_differs() -> None:
    content = json.loads(trained("bytelevel").to_str())
    merges = [" ".join(merge) for merge in content["model"]["merges"]]
    other = content | {"model": content["model"] | {"merges": merges}, "post_processor": None, "decoder": None}
    assert Tokenizer(LibraryVocabulary("other", json.dumps(other, indent=2), 0)) == library("bytelevel")


def test_fingerprints_stay_what_manifests_say() -> None:
    assert GPT2_TOKENIZER.sha256[:16] == "d20bca7543c4b379"
    assert chars_tokenizer("abc").sha256[:16] == "f85b0d25f6834aff"
    assert BYTES.sha256[:16] == "534a4f8b937aa3b3"


@given(st.text(max_size=100))
@settings(max_examples=50)
def test_a_tokenizer_json_has_the_librarys_ids(text: str) -> None:
    for kind, ours in LIBRARY.items():
        theirs = tokenizers.Tokenizer.from_str(ours.to_json())
        assert ours.encode(text) == theirs.encode(text, add_special_tokens=False).ids, kind


@pytest.mark.parametrize("kind", LIBRARY)
def test_a_tokenizer_json_decodes_as_the_library_does(kind: str) -> None:
    ours = LIBRARY[kind]
    theirs = tokenizers.Tokenizer.from_str(ours.to_json())
    for text in ("The quick brown fox", "It's the first line,  and 12 words.", "naïve 🙂 ไทย"):
        ids = ours.encode(text)
        assert ours.decode(ids) == theirs.decode(ids, skip_special_tokens=False)


@pytest.mark.parametrize("kind", ["llama", "unigram", "wordpiece", "bytelevel"])
def test_the_bytes_of_tokens_go_on_from_a_text(kind: str) -> None:
    ours = LIBRARY[kind]
    ids = ours.encode("The quick fox")
    assert b"".join(ours.token_bytes(token) for token in ids).decode().lstrip() == "The quick fox"
    assert ours.decode_bytes([*ids[:2], 100_000]) == ours.decode_bytes(ids[:2])
    assert ours.token_bytes(ours.eot) == b"</s>"


def test_bytes_that_no_token_has_come_back_byte_by_byte() -> None:
    llama = LIBRARY["llama"]
    ids = llama.encode("ไ")
    assert [llama.token_bytes(token) for token in ids[-3:]] == [bytes([byte]) for byte in "ไ".encode()]


def test_dropout_and_truncation_of_a_file_change_no_ids() -> None:
    content = json.loads(trained("bytelevel").to_str())
    random = library(
        "bytelevel",
        model=content["model"] | {"dropout": 0.5},
        truncation={"direction": "Right", "max_length": 3, "strategy": "LongestFirst", "stride": 0},
    )
    assert random.encode(STRANGE) == LIBRARY["bytelevel"].encode(STRANGE)
    assert random == LIBRARY["bytelevel"]


def test_ids_beyond_the_vocabulary_have_no_bytes() -> None:
    assert GPT2_TOKENIZER.decode_bytes([50_300, *GPT2_TOKENIZER.encode("a"), 50_257]) == b"a"
    assert BYTES.decode([97, 257, -1]) == "a"
    assert CHARS.decode([CHARS.vocab_size, -1]) == ""


def test_lone_surrogates_become_replacement_characters() -> None:
    for tokenizer in (GPT2_TOKENIZER, BYTES, LIBRARY["bytelevel"], chars_tokenizer(["a\ud800"])):
        assert tokenizer.decode(tokenizer.encode("a\udfff")) == "a\ufffd"


def test_a_text_that_tiktoken_can_not_cope_with_is_an_error_for_people() -> None:
    with pytest.raises(UserError, match="fails on the text that begins"):
        small_encoding(GPT4).encode(" " * 1_000_000 + "x")


def test_a_million_spaces_before_a_word_are_no_problem_for_gpt2() -> None:
    ids = GPT2_TOKENIZER.encode("a" + " " * 1_000_000 + "x")
    assert GPT2_TOKENIZER.decode(ids) == "a" + " " * 1_000_000 + "x"
    data, ends = utf8([" " * 1_000_000 + "x"])
    assert GPT2_TOKENIZER.encode_texts(data, ends)[0].tolist() == ids[1:]


@pytest.mark.parametrize("pattern", sorted(WORDS))
@given(data=st.data())
@settings(max_examples=40)
def test_between_words_a_text_can_be_cut(pattern: str, data: st.DataObject) -> None:
    tokenizer = small_encoding(pattern)
    alphabet = st.sampled_from([*" \t\r\n", " \n", "'s", "'LL", "aB", "7", "123", "é", "\x85", "/", "...", "\u0301"])
    before, after = ("".join(data.draw(st.lists(alphabet, max_size=8))) for _ in range(2))
    end = data.draw(st.sampled_from("aZ09"))
    space = data.draw(st.sampled_from(" \t\r\n\v\f"))
    before, after = before + end, space + after
    assert tokenizer.encode(before) + tokenizer.encode(after) == tokenizer.encode(before + after)


def test_where_a_text_can_be_cut_is_known_only_of_known_splits() -> None:
    assert [EVERY[name].cuts for name in ("gpt2", "small", "bytelevel", "llama", "chars", "bytes")] == [
        "words", "words", "words", "none", "characters", "characters",
    ]  # fmt: skip
    assert small_encoding(r"\S+\s*|\s+").cuts == "none"
    split = json.loads(trained("bytelevel").to_str())["pre_tokenizer"]["pretokenizers"][0]
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    across = {"id": 330, "content": "the first", "single_word": False, "lstrip": False, "rstrip": False,
              "normalized": True, "special": False}  # fmt: skip
    added = json.loads(trained("bytelevel").to_str())["added_tokens"]
    for cuts, changes in (
        ("words", {"pre_tokenizer": byte_level}),
        ("words", {"added_tokens": [*added, across | {"content": "  "}]}),
        ("none", {"pre_tokenizer": byte_level | {"add_prefix_space": True}}),
        ("none", {"pre_tokenizer": byte_level | {"use_regex": False}}),
        ("none", {"pre_tokenizer": split | {"behavior": "MergedWithNext"}}),
        ("none", {"pre_tokenizer": split | {"pattern": {"Regex": r"\S+\s"}}}),
        ("none", {"pre_tokenizer": None}),
        ("none", {"normalizer": {"type": "NFC"}}),
        ("none", {"added_tokens": [*added, across]}),
        ("none", {"added_tokens": [*added, across | {"content": "x", "rstrip": True}]}),
    ):
        assert library("bytelevel", **changes).cuts == cuts, changes


def test_an_added_token_that_is_not_special_is_found_in_text_with_its_own_id() -> None:
    made = trained("bytelevel")
    added, size = json.loads(made.to_str())["added_tokens"], made.get_vocab_size()
    more = [
        {**added[0], "id": size + i, "content": name, "special": i == 0} for i, name in enumerate(["<s>", "<tool>"])
    ]
    tokenizer = library("bytelevel", added_tokens=[*added, *more])
    assert tokenizer.specials == {"</s>": 0, "<s>": size}
    assert size + 1 in tokenizer.encode("a<tool>b")
    assert size not in tokenizer.encode("a<s>b")
    assert tokenizer.decode([size + 1, size]) == "<tool><s>"
    assert tokenizer.vocab_size == size + 2


def test_special_tokens_that_a_model_finds_as_whole_pieces_are_not_found_in_text() -> None:
    # With ignore_merges a piece that is in the vocabulary is a token: here the special token is one piece.
    made = tokenizers.Tokenizer(models.BPE({"<": 0, "/": 1, "s": 2, ">": 3, "</s>": 4}, [], ignore_merges=True))
    made.decoder = decoders.Fuse()
    made.add_special_tokens([AddedToken("</s>")])
    made.encode_special_tokens = True
    assert made.encode("</s>").ids == [4]
    assert Tokenizer(LibraryVocabulary("x", made.to_str(), 4)).encode("</s>") == [0, 1, 2, 3]


def test_possessive_counts_are_written_so_that_the_library_reads_them_right() -> None:
    assert for_oniguruma(r"\p{N}{1,3}+|a{2}+b") == r"\p{N}{1,3}|a{2}+b"
    assert for_oniguruma(O200K) == O200K
    split = pre_tokenizers.Split(tokenizers.Regex(for_oniguruma(GPT4)), "isolated")
    assert [piece for piece, _ in split.pre_tokenize_str("12345678")] == ["123", "456", "78"]


@pytest.mark.parametrize("pattern", [GPT4, GPT4_PLAIN, O200K, *sorted(GPT2)])
@given(text=st.text(max_size=60))
@settings(max_examples=40)
def test_the_tokenizer_json_of_an_encoding_has_equal_ids(pattern: str, text: str) -> None:
    small = SMALL.setdefault(pattern, small_encoding(pattern))
    theirs = THEIRS.setdefault(pattern, tokenizers.Tokenizer.from_str(small.to_json()))
    for sample in (text, STRANGE.replace("<|endoftext|>", "")):
        assert theirs.encode(sample).ids == small.encode(sample)
        assert theirs.decode(small.encode(sample)) == sample
    assert {name: theirs.token_to_id(name) for name in small.specials} == small.specials


SMALL: dict[str, Tokenizer] = {}
THEIRS: dict[str, tokenizers.Tokenizer] = {}


@given(OF_CHARS)
def test_the_tokenizer_json_of_characters_and_bytes_has_equal_ids(text: str) -> None:
    for ours in (CHARS, BYTES):
        theirs = THEIRS.setdefault(ours.name, tokenizers.Tokenizer.from_str(ours.to_json()))
        theirs.encode_special_tokens = True  # as text, which is not its default
        assert theirs.encode(text).ids == ours.encode(text)
        assert theirs.decode(ours.encode(text)) == text
        assert theirs.token_to_id("<|endoftext|>") == ours.eot


def test_the_tokenizer_json_of_characters_refuses_others() -> None:
    with pytest.raises(Exception, match="UNK"):
        tokenizers.Tokenizer.from_str(chars_tokenizer("abc").to_json()).encode("abcd")


def test_each_kind_gives_the_engines_what_they_load_it_from() -> None:
    assert GPT2_TOKENIZER.ranks is not None
    assert GPT2_TOKENIZER.ranks[b" the"] == 262
    assert GPT2_TOKENIZER.special_tokens == {"<|endoftext|>": 50_256}
    assert GPT2_TOKENIZER.pattern in GPT2
    assert GPT2_TOKENIZER.json_text is None
    for tokenizer in (BYTES, CHARS, LIBRARY["llama"]):
        assert (tokenizer.ranks, tokenizer.pattern, tokenizer.special_tokens) == (None, None, None)
    assert json.loads(LIBRARY["llama"].json_text or "")["model"]["type"] == "BPE"


def test_a_fast_engine_that_is_given_a_tokenizer_json_finds_no_special_tokens_in_text() -> None:
    gigatoken = pytest.importorskip("gigatoken")
    added = json.loads(trained("bytelevel").to_str())["added_tokens"]
    size = LIBRARY["bytelevel"].vocab_size
    more = [
        {**added[0], "id": size + i, "content": name, "special": i == 0} for i, name in enumerate(["<s>", "<tool>"])
    ]
    tokenizer = library("bytelevel", added_tokens=[*added, *more])
    engine = gigatoken.Tokenizer.from_json(tokenizer.json_text)
    for text in (STRANGE, "a<s>b</s>", "a<tool>b"):
        ids = engine.encode_batch([text.encode()], parallel=False)[0]
        assert [int(token) for token in ids] == tokenizer.encode(text)


def test_a_damaged_vocabulary_file_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpt2, "MERGES_SHA256", "0" * 64)
    with pytest.raises(UserError, match="damaged"):
        gpt2.gpt2_merges()


def test_an_unknown_name_suggests_the_nearest() -> None:
    with pytest.raises(UsageError) as error:
        get_tokenizer("cl100k_bse")
    assert error.value.faults[0].hint == "Did you mean 'cl100k_base'?"


def test_characters_need_a_text_to_be_made_of() -> None:
    with pytest.raises(UsageError, match="made from a text"):
        get_tokenizer("chars")


def test_a_vocabulary_that_can_not_be_fetched_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(name: str) -> tiktoken.Encoding:
        raise ConnectionError(f"no route to {name}")

    monkeypatch.setattr(tiktoken, "get_encoding", unreachable)
    with pytest.raises(UserError, match="could not be fetched") as error:
        get_tokenizer("p50k_edit")
    assert "TIKTOKEN_CACHE_DIR" in error.value.faults[0].hint


def test_the_hub_that_can_not_be_reached_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(name: str, **_: object) -> str:
        raise ConnectionError(f"no route to {name}")

    monkeypatch.setattr("huggingface_hub.snapshot_download", unreachable)
    with pytest.raises(UserError, match="could not be reached") as error:
        get_tokenizer("someone/something")
    assert "tokenizer.json" in error.value.faults[0].hint


def test_a_tokenizer_of_the_hub_is_called_by_its_id(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text(LIBRARY["llama"].to_json())
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda name, **_: str(tmp_path))
    found = get_tokenizer("someone/something")
    assert (found.name, found) == ("someone/something", LIBRARY["llama"])
