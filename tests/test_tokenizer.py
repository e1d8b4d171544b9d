"""The tokenizer against tiktoken's published facts, and its files against the `tokenizers` library."""

from __future__ import annotations

from pathlib import Path

import pytest
import tiktoken
from hypothesis import given, settings
from hypothesis import strategies as st

from gptcli import tokenizer as module
from gptcli.errors import UsageError, UserError
from gptcli.tokenizer import Tokenizer, get_tokenizer
from gptcli.tokenizer_files import _tokenizer_json, read_tokenizer, write_tokenizer

tokenizers = pytest.importorskip("tokenizers")
GPT2 = get_tokenizer("gpt2")
STRANGE = "Hello  world\r\n\n\t it's 12345 naïve 🙂👩‍👩‍👧 <|endoftext|> \x00 ไทย e\u0301" + " " * 30 + "end"


def test_gpt2_has_its_published_vocabulary() -> None:
    assert (GPT2.vocab_size, GPT2.eot) == (50_257, 50_256)
    assert GPT2.encode("Hello world") == [15496, 995]
    assert GPT2.encode("On a clear day") == [2202, 257, 1598, 1110]


def test_end_of_text_inside_a_text_is_ordinary_text() -> None:
    ids = GPT2.encode("a<|endoftext|>b")
    assert GPT2.eot not in ids
    assert GPT2.decode(ids) == "a<|endoftext|>b"


@given(st.text(max_size=200))
@settings(deadline=None, max_examples=50)
def test_what_is_encoded_decodes_to_itself(text: str) -> None:
    assert GPT2.decode(GPT2.encode(text)) == text


def test_ids_beyond_the_vocabulary_have_no_bytes() -> None:
    assert GPT2.decode_bytes([50_300, *GPT2.encode("a"), 50_257]) == b"a"


def test_the_files_that_we_write_give_equal_ids(tmp_path: Path) -> None:
    write_tokenizer(tmp_path, GPT2, context_length=64)
    theirs = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    ordinary = STRANGE.replace("<|endoftext|>", "")
    assert theirs.encode(ordinary).ids == GPT2.encode(ordinary)
    assert theirs.decode(GPT2.encode(ordinary)) == ordinary
    assert theirs.token_to_id("<|endoftext|>") == GPT2.eot


def test_transformers_takes_the_files_that_we_write(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    write_tokenizer(tmp_path, GPT2, context_length=64)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    ordinary = STRANGE.replace("<|endoftext|>", "")
    assert theirs(ordinary)["input_ids"] == GPT2.encode(ordinary)
    assert theirs.eos_token_id == GPT2.eot
    assert theirs.model_max_length == 64


def test_another_encoding_becomes_a_tokenizer_json_with_equal_ids(monkeypatch: pytest.MonkeyPatch) -> None:
    # The first 3,000 ranks under another name and split: what cl100k_base is to gpt2, without its download.
    ranks = {token: rank for token, rank in GPT2.ranks.items() if rank < 3_000}
    pattern = r"""[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"""
    encoding = tiktoken.Encoding(
        name="small", pat_str=pattern, mergeable_ranks=ranks, special_tokens={"<|endoftext|>": 3_000}
    )
    small = Tokenizer(encoding)
    monkeypatch.setattr("gptcli.tokenizer_files.get_tokenizer", lambda name: small)
    theirs = tokenizers.Tokenizer.from_str(_tokenizer_json.__wrapped__("small"))
    for text in (STRANGE.replace("<|endoftext|>", ""), "the quick brown fox 1234567", "  x\n\n\ny"):
        assert theirs.encode(text).ids == small.encode(text)


def test_a_folder_tells_its_tokenizer(tmp_path: Path) -> None:
    write_tokenizer(tmp_path, GPT2, context_length=64)
    assert read_tokenizer(tmp_path, 50_304) == (GPT2, "")
    (tmp_path / "tokenizer_config.json").unlink()
    assert read_tokenizer(tmp_path, 50_304) == (GPT2, "")  # by its merges


def test_a_folder_without_tokenizer_files_is_gpt2_by_its_vocabulary_or_takes_ids_only(tmp_path: Path) -> None:
    for vocab_size in (50_257, 50_304):
        tokenizer, note = read_tokenizer(tmp_path, vocab_size)
        assert tokenizer is GPT2
        assert "taken as gpt2's" in note
    for vocab_size in (50_256, 50_305, 3):
        tokenizer, note = read_tokenizer(tmp_path, vocab_size)
        assert tokenizer is None
        assert "ids" in note


def test_a_changed_vocabulary_is_refused(tmp_path: Path) -> None:
    write_tokenizer(tmp_path, GPT2, context_length=64)
    config = tmp_path / "tokenizer_config.json"
    config.write_text(config.read_text().replace(GPT2.sha256, "0" * 64))
    with pytest.raises(UserError, match="not the one"):
        read_tokenizer(tmp_path, 50_304)


def test_a_damaged_vocabulary_file_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "GPT2_MERGES_SHA256", "0" * 64)
    with pytest.raises(UserError, match="damaged"):
        module.gpt2_merges()


def test_an_unknown_name_suggests_the_nearest() -> None:
    with pytest.raises(UsageError) as error:
        get_tokenizer("cl100k_bse")
    assert error.value.faults[0].hint == "Did you mean 'cl100k_base'?"


def test_a_vocabulary_that_can_not_be_fetched_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(name: str) -> tiktoken.Encoding:
        raise ConnectionError(f"no route to {name}")

    monkeypatch.setattr(tiktoken, "get_encoding", unreachable)
    with pytest.raises(UserError, match="could not be fetched") as error:
        get_tokenizer.__wrapped__("cl100k_base")
    assert "TIKTOKEN_CACHE_DIR" in error.value.faults[0].hint
