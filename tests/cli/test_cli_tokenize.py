"""`gpt tokenize`: what it tells, in words and as JSON."""

from __future__ import annotations

import io
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from gptcli.cli.tokenize import figures
from gptcli.data.assembly import Progress
from gptcli.data.tally import Tally


@pytest.fixture
def lines(tmp_path: Path) -> str:
    texts = ['{"text": "some words"}', "no json", '{"text": "more"}', '{"text": null}']
    (tmp_path / "a.jsonl").write_text("\n".join(texts))
    return "a.jsonl"


def test_the_folder_is_told_first_and_what_it_holds_last(gpt: Any, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("some words " * 100)
    result = gpt("tokenize", "a.txt", "--local-dir", "mine")
    folder = str(Path("data") / "mine")
    assert (result.code, result.out) == (0, "")
    assert result.err.startswith(f"Folder: {folder}\n")
    assert (
        f"{folder}: 1 document, 202 tokens (181 train, 21 validation) in 2 shards\n5.45 bytes per token;" in result.err
    )
    again = gpt("tokenize", "a.txt", "--local-dir", "mine")
    assert again.err.endswith("5.45 bytes per token; was there already\n")


def test_json_is_one_document_on_standard_output(gpt: Any, lines: str) -> None:
    result = gpt("tokenize", lines, "--on-error", "skip", "--json", "--val-tokens", "0")
    told = json.loads(result.out)
    assert (told["documents"], told["tokens"], told["bytes"], told["skipped"]) == (2, 5, 14, 2)
    assert told["bytes_per_token"] == 14 / 5
    assert told["engine"] == "gigatoken"
    assert [(problem["file"], problem["number"]) for problem in told["problems"]] == [("a.jsonl", 2), ("a.jsonl", 4)]


def test_documents_left_out_are_named_by_file_and_line(gpt: Any, lines: str) -> None:
    result = gpt("tokenize", lines, "--on-error", "skip")
    assert "note: a.jsonl, line 2: no valid JSON (Expecting value): left out" in result.err
    assert "2 documents left out" in result.err
    stopped = gpt("tokenize", lines, "--local-dir", "other")
    assert stopped.code == 1
    assert stopped.faults == ["a.jsonl, line 2: no valid JSON (Expecting value)."]
    assert "--on-error skip" in stopped.err


def test_of_many_problems_the_first_are_named_and_the_rest_counted(gpt: Any, tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "words"}\n' + "{}\n" * 25)
    result = gpt("tokenize", "a.jsonl", "--on-error", "skip")
    assert "note: and 15 more; --json lists the first 1,000" in result.err
    assert "line 11:" in result.err
    assert "line 12:" not in result.err


def test_standard_input_is_read(gpt: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"one\ntwo\n")))
    result = gpt("tokenize", "-", "--json")
    assert json.loads(result.out)["documents"] == 2


def test_progress_tells_rates_of_this_call_and_the_time_left() -> None:
    before = Tally(documents=10, bytes=10**6, tokens=200_000, source_bytes=500_000)
    tally = Tally(documents=1234, bytes=5 * 10**6, tokens=10**6, source_bytes=1_500_000)
    progress = Progress(tally, before, 3_500_000, 1.5 / 3.5, 0.5 / 3.5, "train_000002.npy", 2.0)
    told = "1,234 documents  5.0 MB  400k tokens/s  2.0 MB/s  train_000002.npy"
    assert figures(progress) == f"{told}  0:04 left"
    assert figures(replace(progress, total_bytes=None, share=None)) == told
    assert "collecting characters" in figures(replace(progress, stage="collecting characters"))
