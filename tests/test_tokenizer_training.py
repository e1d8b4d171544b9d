"""Training a tokenizer: its ids by the library, its size, what is held out, and what happens to the file."""

from __future__ import annotations

import _thread
import io
import json
import time
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiktoken
import tokenizers
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import pre_tokenizers

from gptcli.data import bpe_training
from gptcli.data.bpe_training import TrainedTokenizer, TrainingProgress, train_tokenizer
from gptcli.errors import UsageError, UserError
from gptcli.settings import TokenizerTrainSettings
from gptcli.tokenizer import get_tokenizer
from gptcli.tokenizer.splits import GPT4, GPT4_PLAIN, for_oniguruma

WORDS = [
    "the",
    "a",
    "of",
    "to",
    "and",
    "in",
    "is",
    "it",
    "you",
    "that",
    "he",
    "was",
    "for",
    "on",
    "are",
    "with",
    "as",
    "I",
    "his",
    "they",
    "be",
    "at",
    "one",
    "have",
    "this",
]
STRANGE = "it's 12345 The naïve 🙂 \r\n\n  x<|endoftext|>y \x00 ไทย"


def prose(n: int, seed: int = 0) -> str:
    """So many words in a row of sentences."""
    generator = np.random.default_rng(seed)
    words = [WORDS[i] for i in generator.integers(0, len(WORDS), n)]
    return " ".join(chain.from_iterable([*words[i : i + 9], "42.\n"] for i in range(0, n, 9)))


@pytest.fixture
def trained(tmp_path: Path) -> Any:
    """`trained(text, option=value, ...)` trains on one file of this text."""

    def train(text: str, progress: Any = None, **options: Any) -> TrainedTokenizer:
        source = tmp_path / "text.txt"
        source.write_text(text, encoding="utf-8", newline="")
        options = {"vocab_size": 300, "output": str(tmp_path / "tokenizer.json"), **options}
        return train_tokenizer(TokenizerTrainSettings(sources=(str(source),), **options), progress)

    return train


@pytest.mark.parametrize("split", ["gpt2", "gpt4"])
def test_the_library_reads_the_file_with_equal_ids(split: str, trained: Any) -> None:
    result = trained(prose(3_000), split=split)
    theirs = tokenizers.Tokenizer.from_file(str(result.path))
    ours = get_tokenizer(str(result.path))
    ordinary = STRANGE.replace("<|endoftext|>", "")
    assert ours.encode(ordinary) == theirs.encode(ordinary).ids == result.tokenizer.encode(ordinary)
    assert theirs.decode(ours.encode(ordinary)) == ordinary
    assert ours == result.tokenizer
    assert ours.cuts == "words"
    assert ours.decode(ours.encode(STRANGE)) == STRANGE


def test_the_vocabulary_is_the_bytes_then_merges_and_last_end_of_text(trained: Any) -> None:
    tokenizer = trained(prose(3_000)).tokenizer
    assert tokenizer.vocab_size == 300
    assert tokenizer.specials == {"<|endoftext|>": 299}
    assert tokenizer.eot == 299
    assert sorted(tokenizer.token_bytes(token) for token in range(256)) == [bytes([byte]) for byte in range(256)]
    assert all(len(tokenizer.token_bytes(token)) > 1 for token in range(256, 299))


def test_the_split_decides_about_numbers(trained: Any, tmp_path: Path) -> None:
    text = "1234567 " * 200
    by_gpt2 = trained(text, split="gpt2", vocab_size=270).tokenizer
    by_gpt4 = trained(text, split="gpt4", vocab_size=270, output=str(tmp_path / "b.json")).tokenizer
    assert by_gpt2.encode("1234567") != by_gpt4.encode("1234567")
    assert [by_gpt4.decode([token]) for token in by_gpt4.encode("1234567")] == ["123", "456", "7"]


@given(st.text(alphabet=st.sampled_from([*" \n\r\t", *"aZ9'.ſſé\u0301\x85", *"L1"]), max_size=40))
def test_the_split_of_gpt4_has_the_same_pieces_as_tiktokens(text: str) -> None:
    plain, fast = (pre_tokenizers.Split(tokenizers.Regex(p), "isolated") for p in (GPT4_PLAIN, for_oniguruma(GPT4)))
    text += "."  # white space that ends a text is another matter
    assert plain.pre_tokenize_str(text) == fast.pre_tokenize_str(text)


def test_the_same_text_gives_the_same_file(trained: Any, tmp_path: Path) -> None:
    first = trained(prose(5_000)).path.read_bytes()
    assert trained(prose(5_000), output=str(tmp_path / "again.json")).path.read_bytes() == first


def test_a_text_that_is_too_small_gives_fewer_tokens(trained: Any) -> None:
    result = trained("abc abc abc abc", vocab_size=5_000)
    assert result.asked == 5_000
    assert 257 < result.tokenizer.vocab_size < 270
    assert result.tokenizer.eot == result.tokenizer.vocab_size - 1


def test_compression_is_measured_on_text_that_was_not_trained_on(trained: Any) -> None:
    text = prose(5_000)
    result = trained(text + "zqzq " * (len(text) // 45))  # the last tenth, of which nothing was seen
    rest = text + "zqzq " * (len(text) // 45)
    held_out = rest[len(rest) * 9 // 10 :]
    assert result.held_out_bytes == len(held_out)
    assert result.bytes_per_token == len(held_out) / len(result.tokenizer.encode(held_out))
    assert result.gpt2_bytes_per_token == len(held_out) / len(get_tokenizer("gpt2").encode(held_out))
    assert b"zq" not in {result.tokenizer.token_bytes(token) for token in range(300)}


def test_every_fiftieth_document_is_held_out(trained: Any) -> None:
    documents = [f"{'qzqz ' * 200}" if i % 50 == 49 else prose(30, seed=i) for i in range(160)]
    result = trained("\x1e".join(documents), separator="\x1e")
    assert result.documents == 160
    assert result.held_out_bytes == 3 * 1_000
    assert b"qz" not in {result.tokenizer.token_bytes(token) for token in range(300)}


def test_of_few_documents_the_last_tenth_is_held_out(trained: Any) -> None:
    result = trained("abc" * 20)
    assert (result.held_out_bytes, result.bytes) == (6, 60)
    assert trained("x", fresh=True).bytes_per_token == 1.0


def test_limits_end_the_reading(trained: Any) -> None:
    documents = [prose(20, seed=i) for i in range(200)]
    by_number = trained("\x1e".join(documents), separator="\x1e", limit_documents=70)
    assert (by_number.documents, by_number.limited) == (70, False)
    assert by_number.bytes == sum(map(len, documents[:70]))
    by_bytes = trained("\x1e".join(documents), separator="\x1e", limit_bytes=1_000, fresh=True)
    assert (by_bytes.bytes, by_bytes.limited) == (1_000, True)


def test_a_limit_inside_a_character_leaves_it_out(trained: Any) -> None:
    assert trained("é" * 1_000, limit_bytes=101).bytes in (100, 101)


def test_long_documents_are_trained_on_in_pieces_that_change_nothing(
    trained: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = prose(4_000) + "\r\n\n  12345 x" * 50
    whole = trained(text).path.read_bytes()
    monkeypatch.setattr(bpe_training, "_PIECE", 7)
    assert len(list(bpe_training._pieces(text))) > 500
    assert "".join(bpe_training._pieces(text)) == text
    assert trained(text, output=str(tmp_path / "pieces.json")).path.read_bytes() == whole


def test_a_tokenizer_that_was_trained_is_one_that_tiktoken_could_be(trained: Any) -> None:
    # Ids are ranks: merges in the order of the ids give the same tokens.
    tokenizer = trained(prose(3_000), split="gpt4").tokenizer
    ranks = {tokenizer.token_bytes(token): token for token in range(299)}
    theirs = tiktoken.Encoding(
        name="trained", pat_str=GPT4, mergeable_ranks=ranks, special_tokens={"<|endoftext|>": 299}
    )
    assert theirs.encode_ordinary(prose(500, seed=7)) == tokenizer.encode(prose(500, seed=7))


def test_progress_is_told_in_stages(trained: Any) -> None:
    told: list[TrainingProgress] = []
    result = trained("\x1e".join(prose(20, seed=i) for i in range(80)), told.append, separator="\x1e")
    assert list(dict.fromkeys(progress.stage for progress in told)) == ["reading", "merging", "measuring"]
    assert (told[-1].documents, told[-1].bytes) == (result.documents, result.bytes)
    assert told[0].total_bytes == result.bytes + 79  # the separators


def test_an_interruption_ends_the_reading(trained: Any, tmp_path: Path) -> None:
    told: list[TrainingProgress] = []

    def interrupting(progress: TrainingProgress) -> None:
        if not told:
            _thread.interrupt_main()
        told.append(progress)
        time.sleep(0.001)

    with pytest.raises(KeyboardInterrupt):
        trained("\x1e".join(["a b c"] * 3_000), interrupting, separator="\x1e")
    assert told[-1].stage == "reading"
    assert len(told) < 3_000
    assert not (tmp_path / "tokenizer.json").exists()


def test_standard_input_is_text_too(tmp_path: Path) -> None:
    settings = TokenizerTrainSettings(sources=("-",), vocab_size=300, output=str(tmp_path / "t.json"))
    result = train_tokenizer(settings, stdin=io.BytesIO(prose(3_000).encode()))
    assert result.tokenizer.vocab_size == 300
    assert result.documents == prose(3_000).count("\n")
    with pytest.raises(UsageError, match="not open"):
        train_tokenizer(settings.model_copy(update={"output": str(tmp_path / "u.json")}))


def test_columns_of_json_lines_are_text(tmp_path: Path) -> None:
    lines = [json.dumps({"body": prose(50, seed=i)}) for i in range(60)]
    (tmp_path / "a.jsonl").write_text("\n".join([*lines, "{"]))
    options: dict[str, Any] = {"sources": (str(tmp_path / "a.jsonl"),), "vocab_size": 300, "text_column": "body"}
    options["output"] = str(tmp_path / "t.json")
    with pytest.raises(UserError, match=r"a\.jsonl, line 61"):
        train_tokenizer(TokenizerTrainSettings(**options))
    assert not (tmp_path / "t.json").exists()
    assert train_tokenizer(TokenizerTrainSettings(**options, on_error="skip")).documents == 60


def test_an_existing_file_is_kept_or_moved_aside(trained: Any, tmp_path: Path) -> None:
    before = trained(prose(1_000)).path.read_bytes()
    with pytest.raises(UsageError, match=r"a file .*tokenizer\.json already"):
        trained(prose(2_000, seed=1))
    result = trained(prose(2_000, seed=1), fresh=True)
    assert result.moved_to == tmp_path / "tokenizer.old-1.json"
    assert result.moved_to.read_bytes() == before
    assert result.path.read_bytes() != before
    assert trained(prose(10), fresh=True).moved_to == tmp_path / "tokenizer.old-2.json"


def test_a_failure_leaves_what_was_there(trained: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = trained(prose(1_000)).path.read_bytes()

    def full(path: Path, content: bytes) -> None:
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr(bpe_training, "write_bytes", full)
    with pytest.raises(OSError, match="No space"):
        trained(prose(2_000), fresh=True)
    assert (tmp_path / "tokenizer.json").read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["text.txt", "tokenizer.json"]


@pytest.mark.parametrize(
    ("output", "message"),
    [(".", "is a folder"), ("missing/t.json", "no folder"), ("t.txt", "a tokenizer is a .json file")],
)
def test_a_file_that_can_not_be_is_told_before_anything_is_read(
    output: str, message: str, trained: Any, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match=message):
        trained("", output=str(tmp_path / output))


def test_sources_without_text_are_refused(trained: Any, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="hold no text"):
        trained("")
    with pytest.raises(UsageError, match="no file"):
        train_tokenizer(
            TokenizerTrainSettings(sources=(str(tmp_path / "missing.txt"),), output=str(tmp_path / "t.json"))
        )
