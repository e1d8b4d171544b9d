"""What eval and plot print, and where."""

from __future__ import annotations

import json
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from gptcli.cli.eval import aligned
from gptcli.errors import UserError
from gptcli.settings import EvalSettings, PlotSettings
from gptcli.tokenizer import get_tokenizer


def write_run(folder: str) -> Path:
    """A run of three steps, of which nothing but its metrics is left."""
    run = Path(folder)
    run.mkdir(parents=True)
    row = {"kind": "train", "tokens": 512, "time": 1.5, "loss": 9.0, "lr": 1e-3}
    (run / "metrics.jsonl").write_text("".join(json.dumps(row | {"step": step}) + "\n" for step in (1, 2, 3)))
    return run


def test_plot_prints_the_path_of_the_figure(gpt: Any) -> None:
    assert PlotSettings().log_dir == ("log",)
    for run in ("log", "other"):
        write_run(run)
    for words, picture in (
        ((), Path("log/plots/training.png")),
        (("other",), Path("other/plots/training.png")),
        (("log", "other"), Path("comparison.png")),
        (("log", "other", "--x", "tokens", "--output", "x.svg"), Path("x.svg")),
    ):
        result = gpt("plot", *words)
        assert (result.code, result.out, result.err) == (0, f"{picture}\n", "")
        assert picture.stat().st_size > 1_000


def test_plot_draws_on_the_terminal_with_colours_where_they_are_wanted(
    gpt: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_run("log")
    plain = gpt("plot", "--terminal")
    assert "Learning rate" in plain.out
    assert "\x1b" not in plain.out
    assert not Path("log/plots").exists()
    monkeypatch.delenv("NO_COLOR")
    monkeypatch.setenv("FORCE_COLOR", "1")
    coloured = gpt("plot", "--terminal").out
    assert "\x1b[" in coloured
    assert re.sub(r"\x1b\[[0-9;]*m", "", coloured) == plain.out
    monkeypatch.setattr("locale.setlocale", lambda *_: "C")
    assert gpt("plot", "--terminal").out.isascii()


def test_plot_tells_all_faults_at_once(gpt: Any) -> None:
    write_run("runs/small")
    result = gpt("plot", "runs/smal", "nothing", "--output", "x.gif")
    assert result.code == 2
    assert result.faults == [
        f"There is no folder {Path('runs/smal')}.",
        "There is no folder nothing.",
        "--output: x.gif is no kind of picture that can be drawn.",
    ]
    assert f"Did you mean '{Path('runs/small')}'?" in result.err
    assert gpt("plot", "runs/small", "--terminal", "--output", "x.png").faults == ["--terminal writes no picture."]
    mistyped = gpt("plot", "nothing", "--x", "token", "--smoothing", "1")
    assert mistyped.faults == [
        "--x: 'token' is not one of step, tokens, time, flops.",
        "--smoothing: 1 is not below 1.",
        "There is no folder nothing.",
    ]


def test_plot_needs_no_torch(python: Any) -> None:
    write_run("log")
    code = (
        "import sys; from gptcli.cli.main import run\n"
        "for words in ([], ['--terminal', '--x', 'tokens']): assert run(['plot', *words]) == 0\n"
        "print('torch' in sys.modules)"
    )
    assert python(code).splitlines()[-1] == "False"


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
