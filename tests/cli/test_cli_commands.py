"""What eval and plot print, and where."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from gptcli.cli.eval import aligned
from gptcli.errors import UserError
from gptcli.settings import EvalSettings, PlotSettings
from gptcli.tokenizer import get_tokenizer


def test_plot_prints_the_path_of_the_figure(gpt: Any, stub: Any) -> None:
    stub("gptcli.plotting", plot=lambda log_dir, output: output or log_dir / "plots" / "training.png")
    assert gpt("plot").out == f"{Path('log/plots/training.png')}\n"
    assert gpt("plot", "other", "--output", "x.svg").out == "x.svg\n"
    assert PlotSettings().log_dir == "log"


def scored(task: str, **figures: float) -> Any:
    """A result of `evaluate` on 200 examples."""
    document = {"task": task, "style": "completion", "model": "log", "n": 200, **figures}
    measured = SimpleNamespace(n=200, truncated=3, figures=figures, intervals={"acc_norm": (0.2, 0.29)}, rows=[])
    return SimpleNamespace(
        task=task,
        style="completion",
        model="log",
        measured=measured,
        seconds=61.0,
        notes=["told once"],
        as_dict=lambda: document,
        is_published=True,
        tokenizer="gpt2",
        weights="fp32",
    )


@pytest.fixture
def results(stub: Any) -> list[Any]:
    """What `evaluate` gives."""
    given: list[Any] = []

    def evaluate(settings: EvalSettings, progress: Any, begins: Any) -> list[Any]:
        begins(SimpleNamespace(folder=Path("log"), tokenizer=get_tokenizer("bytes")), "shown")
        progress(100, 200, "hellaswag")
        return given

    def save_rows(file: Path, result: Any) -> None:
        raise UserError(f"{file} could not be written: No space left on device.")

    tasks = {"loss": SimpleNamespace(description="The loss.")}
    stub("gptcli.evals.run", evaluate=evaluate, save_rows=save_rows, TASKS=tasks)
    row = SimpleNamespace(name="GPT-2 124M", acc=0.2859, acc_norm=0.2955, source="their own script")
    published = {("hellaswag", "completion"): [row]}
    stub("gptcli.evals.published", PUBLISHED=published, standing=lambda interval, score: "below")
    return given


def test_eval_draws_a_table_beside_the_published_figures(gpt: Any, results: list[Any]) -> None:
    results += [scored("hellaswag", acc=0.25, acc_norm=0.26, acc_stderr=0.03)] * 2
    result = gpt("eval", "hellaswag", "--data-root", "books")
    assert result.out == ""
    lines = [line.split() for line in result.err.splitlines()]
    assert lines[0] == ["Data:", str(Path("data/books"))]
    assert lines[1] == ["shown:", "unknown,", "tokenizer", "bytes"]
    assert ["hellaswag", "100", "of", "200"] in lines
    assert lines.count(["note:", "told", "once"]) == 1
    assert lines.count(["log", "200", "0.2500", "±", "0.0300", "0.2600", "1:01", "3.3", "gpt2"]) == 2
    assert ["GPT-2", "124M", "0.2859", "0.2955"] in lines
    assert "their own script" in result.err
    assert "log: 3 examples did not fit" in result.err
    assert "acc_norm is 0.2000 to 0.2900 with 95% confidence: below GPT-2 124M." in result.err


def test_eval_in_json_is_one_object_or_a_list_of_results(gpt: Any, results: list[Any]) -> None:
    results.append(scored("hellaswag", acc=0.25))
    one = json.loads(gpt("eval", "hellaswag", "--json").out)
    assert one == {"task": "hellaswag", "style": "completion", "model": "log", "n": 200, "acc": 0.25}
    results.append(scored("loss", perplexity=float("inf")))
    both = json.loads(gpt("eval", "hellaswag,loss", "--json").out)
    assert list(both) == ["results"]
    assert both["results"][0] == one
    assert both["results"][1]["perplexity"] is None


def test_scores_are_shown_before_their_rows_are_saved(gpt: Any, results: list[Any]) -> None:
    results.append(scored("hellaswag", acc=0.25))
    result = gpt("eval", "hellaswag", "--save", "rows.jsonl", "--json")
    assert (result.code, result.faults) == (1, ["rows.jsonl could not be written: No space left on device."])
    assert "0.2500" in result.err
    assert json.loads(result.out)["acc"] == 0.25


def test_the_name_of_a_model_is_never_broken() -> None:
    rows = [("model", ["n", "loss"], ""), ("log/checkpoints/step_0000006", ["200", "3.2500"], "bold")]
    assert [line for line, _ in aligned(rows, 80)] == [
        "model                           n    loss",
        "log/checkpoints/step_0000006  200  3.2500",
    ]
    assert aligned(rows, 40) == [
        ("model", ""),
        ("    n    loss", ""),
        ("log/checkpoints/step_0000006", "bold"),
        ("  200  3.2500", "bold"),
    ]


def test_eval_lists_its_tasks(gpt: Any, results: list[Any]) -> None:
    assert gpt("eval", "--list").out == "loss        The loss.\n"
    assert json.loads(gpt("eval", "--list", "--json").out) == {"loss": "The loss."}
