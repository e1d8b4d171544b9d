"""The figure of a run."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from small_runs import tiny

from gptcli import train
from gptcli.errors import UsageError
from gptcli.plotting import _draw_hellaswag, _is_fineweb_in_gpt2, plot


@pytest.fixture(scope="module")
def run(shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "run"
    train(tiny(shards, folder))
    rows = [{"kind": "hellaswag", "step": step, "acc": 0.25, "acc_norm": 0.26, "n": 100} for step in (3, 6)]
    with (folder / "metrics.jsonl").open("a") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)
    return folder


@pytest.mark.parametrize(("name", "magic"), [("a.png", b"\x89PNG"), ("b.svg", b"<?xml"), ("c.pdf", b"%PDF")])
def test_a_picture_is_drawn_in_the_kind_that_its_name_says(run: Path, tmp_path: Path, name: str, magic: bytes) -> None:
    picture = plot(run, tmp_path / name)
    assert picture.read_bytes().startswith(magic)
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_the_picture_lies_in_the_run_and_shows_what_was_measured(run: Path, tmp_path: Path) -> None:
    assert plot(run) == run / "plots" / "training.png"
    drawn = plot(run, tmp_path / "figure.svg").read_text()
    for text in ("run", "Training", "Validation", "HellaSwag", "GPT-2 124M (29.55%)"):
        assert f"<!-- {text} -->" in drawn
    assert "3.2924" not in drawn  # GPT-2's loss means nothing on this text


def test_gpt2s_loss_line_is_for_fineweb_edu_in_gpt2_tokens_only(tmp_path: Path) -> None:
    recorded = {"identity": {}, "steps": 1, "warmup": 0, "settings": {}, "tokenizer": "gpt2", "data": {}}
    file = tmp_path / "run.json"
    edu, other = {"dataset": "HuggingFaceFW/fineweb-edu", "configuration": None}, {"dataset": "HuggingFaceFW/fineweb"}
    for sources, tokenizer, expected in (
        ([edu], "gpt2", True),
        (edu, "gpt2", True),
        ([edu], "cl100k_base", False),
        ([other], "gpt2", False),
        ([edu, {"files": []}], "gpt2", False),
        ([], "gpt2", False),
    ):
        recorded |= {"tokenizer": tokenizer, "data": {"sources": sources}}
        file.write_text(json.dumps(recorded))
        assert _is_fineweb_in_gpt2(tmp_path) is expected


def test_what_can_not_be_drawn_is_told(run: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is not a run"):
        plot(tmp_path)
    with pytest.raises(UsageError, match="there is no folder"):
        plot(run, tmp_path / "new" / "figure.png")
    assert not list(tmp_path.iterdir())
    with pytest.raises(UsageError, match="no kind of picture"):
        plot(run, tmp_path / "figure.gif")


@pytest.mark.parametrize("scores", [[0.26], [0.26, 0.41], [0.2]])
def test_the_axes_of_the_scores_hold_them_and_what_they_are_compared_with(scores: list[float]) -> None:
    from matplotlib.figure import Figure

    axis = Figure().subplots()
    _draw_hellaswag(axis, np.arange(1, len(scores) + 1) * 250, np.array(scores))
    low, high = axis.get_ylim()
    assert low < min(25, 100 * min(scores)) < max(29.55, 100 * max(scores)) < high
    assert high - low < 25
    left, right = axis.get_xlim()
    assert right - left > 200
