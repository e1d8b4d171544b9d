"""`gpt tokenizer train`: a command of two words, what it is told, and what it tells."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import tokenizers

from gptcli.cli.tokenizer_train import figures, notes
from gptcli.data.bpe_training import TrainedTokenizer, TrainingProgress
from gptcli.settings import TokenizerTrainSettings
from gptcli.tokenizer import get_tokenizer

TEXT = "".join(f"the {i} quick brown foxes and the lazy dog number {i * 7}\n" for i in range(400))


@pytest.fixture
def text(tmp_path: Path) -> str:
    (tmp_path / "text.txt").write_text(TEXT)
    return "text.txt"


def test_a_tokenizer_is_trained_and_its_compression_shown_beside_gpt2s(gpt: Any, text: str) -> None:
    result = gpt("tokenizer", "train", text, "--vocab-size", "300")
    assert result.code == 0
    assert result.out == ""
    assert "tokenizer.json: 300 tokens from 1 document" in result.err
    assert "bytes per token" in result.err
    assert "gpt2 with its 50,257 tokens" in result.err
    assert "gpt tokenize --tokenizer-model tokenizer.json" in result.err
    assert tokenizers.Tokenizer.from_file("tokenizer.json").get_vocab_size() == 300


def test_json_is_one_document_on_standard_output(gpt: Any, text: str) -> None:
    result = gpt("tokenizer", "train", text, "--vocab-size", "300", "--split", "gpt2", "--json", "--output", "a.json")
    told = json.loads(result.out)
    trained = get_tokenizer("a.json")
    assert (told["file"], told["vocab_size"], told["sha256"]) == ("a.json", 300, trained.sha256)
    held_out = TEXT[len(TEXT) * 9 // 10 :]
    assert told["bytes"] == len(TEXT)
    assert told["held_out_bytes"] == len(held_out)
    assert told["bytes_per_token"] == len(held_out) / len(trained.encode(held_out))
    assert told["gpt2_bytes_per_token"] == len(held_out) / len(get_tokenizer("gpt2").encode(held_out))


def test_a_text_that_is_too_small_is_said(gpt: Any, text: str) -> None:
    result = gpt("tokenizer", "train", text, "--vocab-size", "8192")
    assert result.code == 0
    assert "too small for 8,192 tokens" in result.err


def test_a_file_that_is_there_is_kept_or_moved_aside(gpt: Any, text: str) -> None:
    Path("tokenizer.json").write_text("mine")
    refused = gpt("tokenizer", "train", text)
    assert refused.code == 2
    assert refused.faults == ["There is a file tokenizer.json already."]
    assert Path("tokenizer.json").read_text() == "mine"
    fresh = gpt("tokenizer", "train", text, "--fresh", "--vocab-size", "300")
    assert fresh.code == 0
    assert "now lies in tokenizer.old-1.json" in fresh.err
    assert Path("tokenizer.old-1.json").read_text() == "mine"


def test_the_group_alone_shows_its_commands(gpt: Any) -> None:
    for words in (["tokenizer"], ["tokenizer", "--help"], ["help", "tokenizer"]):
        result = gpt(*words)
        assert result.code == 0
        assert "Train a tokenizer on text." in result.out


def test_a_misspelt_command_of_the_group_suggests(gpt: Any) -> None:
    result = gpt("tokenizer", "trian", "x.txt")
    assert result.code == 2
    assert result.faults == ["There is no command 'tokenizer trian'."]
    assert "Did you mean `gpt tokenizer train`?" in result.err
    assert "Did you mean `gpt tokenizer`?" in gpt("tokeniser").err


def test_its_settings_come_from_flags_environment_and_its_table(
    gpt: Any, calls: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("c.toml").write_text('[tokenizer-train]\nvocab-size = 500\noutput = "a.json"\nsplit = "gpt2"\n')
    monkeypatch.setenv("GPTCLI_OUTPUT", "b.json")
    assert gpt("tokenizer", "train", "x.txt", "--config", "c.toml", "--split", "gpt4").code == 0
    settings, call = calls[0]
    assert settings == TokenizerTrainSettings(sources=("x.txt",), vocab_size=500, output="b.json", split="gpt4")
    assert call.words[:3] == ("tokenizer", "train", "x.txt")


def test_faults_of_its_call_name_the_command(gpt: Any) -> None:
    Path("c.toml").write_text("[tokenizer-trian]\nvocab_size = 3\n[tokenizer-train]\nvocabsize = 3\n")
    result = gpt("tokenizer", "train", "--config", "c.toml", "--vocab-size", "3", "--splitt", "gpt2")
    assert result.code == 2
    assert len(result.faults) == 4
    assert "[tokenizer-train]" in result.err
    assert "--vocab-size: 3 is below 257." in result.faults
    assert "There is no option --splitt." in result.faults


def test_progress_tells_stage_and_text() -> None:
    at = TrainingProgress("reading", 1_200, 3_000_000, 9_000_000, 2.0)
    assert figures(at) == "reading  1,200 documents  3.0 MB  1.5 MB/s"
    assert figures(TrainingProgress("merging", 1, 3_000_000, None, 61.0)) == "merging  1 document  3.0 MB  1:01"


def test_a_limit_that_ended_the_reading_is_said() -> None:
    trained = TrainedTokenizer(
        path=Path("t.json"),
        tokenizer=get_tokenizer("bytes"),
        asked=257,
        documents=1,
        bytes=2_000_000_000,
        held_out_bytes=0,
        bytes_per_token=None,
        gpt2_bytes_per_token=None,
        limited=True,
        seconds=1.0,
    )
    assert list(notes(trained)) == ["only the first 2,000 MB of text were read: --limit-bytes"]
