"""What scores mean: intervals, two models compared, several processes, and the way a call of `gpt eval` goes."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from test_hellaswag import random_model, rows, write

from gptcli.errors import UsageError
from gptcli.evals.batching import batch_tokens, bytes_per_token
from gptcli.evals.common_tasks import LAMBADA
from gptcli.evals.comparison import compare
from gptcli.evals.published import standing
from gptcli.evals.questions import Scored
from gptcli.evals.run import TASKS, evaluate
from gptcli.evals.statistics import interval, mcnemar, standard_error_of_mean
from gptcli.model.huggingface import write_model
from gptcli.settings import EvalSettings


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    write_model(folder, random_model(), 50_256)
    return folder


# Statistics


def test_an_interval_is_wilsons() -> None:
    # Newcombe 1998, Statistics in Medicine 17, table I
    known = {(81, 263): (0.2553, 0.3662), (15, 148): (0.0624, 0.1605), (0, 20): (0, 0.1611), (1, 29): (0.0061, 0.1718)}
    for (right, n), ends in known.items():
        assert interval(right, n) == pytest.approx(ends, abs=5e-5)


@given(st.integers(0, 60), st.integers(0, 60))
def test_mcnemars_p_is_that_of_as_many_throws_of_a_coin(first: int, second: int) -> None:
    n = first + second
    as_far = [k for k in range(n + 1) if abs(2 * k - n) >= abs(first - second)]
    assert mcnemar(first, second) == pytest.approx(sum(math.comb(n, k) for k in as_far) / 2**n)


def test_mcnemars_p_of_thousands_is_a_number() -> None:
    assert 0 < mcnemar(2600, 2400) < 0.01
    assert mcnemar(5000, 5000) == 1.0


def test_a_score_is_above_another_only_where_its_interval_is() -> None:
    standings = [standing((0.30, 0.32), score) for score in (0.2955, 0.31, 0.33)]
    assert standings == ["above", "not told apart from", "below"]


def test_the_standard_error_of_a_mean() -> None:
    assert standard_error_of_mean([1.0, 2.0, 3.0]) == pytest.approx(1 / math.sqrt(3))
    assert standard_error_of_mean([1.0]) is None


def test_words_are_right_where_the_model_says_them_by_itself() -> None:
    figures, intervals = LAMBADA.count([Scored(0, 0, 0, 0, (-1.0,)), Scored(1, 0, -1, -1, (-3.0,))])
    assert (figures["acc"], figures["perplexity"]) == (0.5, pytest.approx(math.exp(2)))
    assert intervals["acc"] == interval(1, 2)
    assert LAMBADA.count([Scored(0, 0, -1, -1, (-1e9,))])[0]["perplexity"] > 1e300  # no overflow


# Calls


def call(folder: Path, data: Path, **changes: Any) -> EvalSettings:
    given: dict[str, Any] = {"tasks": ("hellaswag",), "data": str(data), "model": (str(folder),), "device": "cpu"}
    return EvalSettings(**{**given, **changes})


def test_both_styles_are_two_results_with_choices_of_their_own(folder: Path, tmp_path: Path) -> None:
    data = write(tmp_path / "val.jsonl", rows())
    completion, lm_eval = evaluate(call(folder, data, style="both"))
    assert (completion.style, lm_eval.style) == ("completion", "lm-eval")
    assert completion.measured.rows != lm_eval.measured.rows
    assert evaluate(call(folder, data, style="lm-eval"))[0].measured == lm_eval.measured
    assert evaluate(call(folder, data))[0].measured == completion.measured
    assert not completion.is_published


def test_a_style_that_a_task_does_not_have_is_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="the task piqa has no such style"):
        evaluate(call(folder, tmp_path, tasks=("piqa",), style="completion"))


def test_two_models_are_compared_on_the_same_questions(folder: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    model = random_model()
    with torch.no_grad():  # its tied head looks for tokens that are unlike
        model.final_norm.weight.mul_(-1)
    write_model(other, model, 50_256)
    data = write(tmp_path / "val.jsonl", rows(60))
    results = evaluate(call(folder, data, model=(str(folder), str(other))))
    found = {comparison.figure: comparison for comparison in compare(results)}
    assert found.keys() == {"acc", "acc_norm"}
    for figure, choice in (("acc", "pred"), ("acc_norm", "pred_norm")):
        first, second = ([row[choice] == row["label"] for row in result.measured.rows] for result in results)
        assert found[figure].only_first == sum(a and not b for a, b in zip(first, second, strict=True))
        assert found[figure].only_second == sum(b and not a for a, b in zip(first, second, strict=True))
        assert found[figure].n == 60
    assert any(each.only_first and each.only_second for each in found.values()), "else nothing is told"
    assert compare(results[:1]) == []


@pytest.mark.timeout(200)
def test_two_processes_give_the_same_integers_and_one_document(folder: Path, tmp_path: Path) -> None:
    data = write(tmp_path / "val.jsonl", rows())
    documents = []
    for name, gpus in (("one", "1"), ("two", "2")):
        saved = tmp_path / f"{name}.jsonl"
        words = ["eval", "hellaswag", "--data", data, "--model", folder, "--device", "cpu", "--gpus", gpus, "--json"]
        done = subprocess.run(
            [sys.executable, "-m", "gptcli", *map(str, words), "--save", str(saved)],
            capture_output=True, text=True, timeout=150, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert done.stderr.count(f"{folder}: GPT-2, ") == 1, "one line on the model, however many processes"
        lines = [json.loads(line) for line in saved.read_text(encoding="utf-8").splitlines()]
        documents.append((json.loads(done.stdout), lines))
    (one, its_lines), (two, their_lines) = documents
    assert {key: one[key] for key in ("n", "acc", "acc_norm", "truncated")} == {
        key: two[key] for key in ("n", "acc", "acc_norm", "truncated")
    }
    assert [(line["index"], line["pred"], line["pred_norm"]) for line in its_lines] == [
        (line["index"], line["pred"], line["pred_norm"]) for line in their_lines
    ]


def test_more_gpus_than_there_are_are_refused(folder: Path, tmp_path: Path) -> None:
    data = write(tmp_path / "val.jsonl", rows(1))
    with pytest.raises(UsageError, match="--gpus 2"):
        evaluate(call(folder, data, gpus=2, device="auto" if not torch.cuda.is_available() else "cuda:0"))


def test_tokens_at_once_follow_from_the_memory_unless_they_are_said(monkeypatch: pytest.MonkeyPatch) -> None:
    model = random_model()
    assert batch_tokens(7, model) == 7
    fitting = bytes_per_token(model.config, torch.float32)
    monkeypatch.setattr("gptcli.evals.batching.free_memory", lambda device: 2 * 100 * fitting)
    assert batch_tokens(None, model) == 100
    monkeypatch.setattr("gptcli.evals.batching.free_memory", lambda device: 0)
    assert batch_tokens(None, model) == 1


def test_the_tasks_are_those_that_are_promised() -> None:
    assert {"hellaswag", "piqa", "arc-easy", "lambada", "loss"} <= TASKS.keys()
