"""`gpt plot`: which runs are drawn and what their figure shows."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_runs import tiny

from gptcli import train
from gptcli.errors import UsageError, UserError
from gptcli.evals.published import PUBLISHED
from gptcli.model.arithmetic import flops_per_token
from gptcli.model.config import GPTConfig
from gptcli.plotting.content import Content, content_of
from gptcli.plotting.picture import target_of, write_picture
from gptcli.plotting.runs import names_of, open_runs
from gptcli.plotting.terminal import draw
from gptcli.plotting.units import Axis

WriteRun = Callable[..., Path]
FINEWEB = {"dataset": "HuggingFaceFW/fineweb-edu", "configuration": None}


@pytest.fixture
def write_run(tmp_path: Path) -> WriteRun:
    """Writes a run of so many steps, as `gpt train` leaves one, with what is given in place of its rows' values."""

    def write(
        name: str,
        steps: int = 30,
        val_every: int = 10,
        scores: Sequence[float] = (),
        changed: dict[int, dict[str, Any]] | None = None,
        source: dict[str, Any] | None = None,
        resolved: dict[str, Any] | None = None,
        identity: dict[str, Any] | None = None,
    ) -> Path:
        folder = tmp_path / name
        folder.mkdir(parents=True)
        rows: list[dict[str, Any]] = []
        for step in range(steps + 1):
            place = {"step": step, "tokens": 512 * step, "time": 0.4 * step}
            loss = 4 + 6.9 * float(np.exp(-step / 10))
            if step:
                values = {"loss": loss, "lr": 1e-3 / step, "grad_norm": 1.0, "tokens_per_second": 1280.0}
                rows.append({"kind": "train", **place, **values, **(changed or {}).get(step, {})})
            if val_every and step % val_every == 0:
                rows.append({"kind": "val", **place, "loss": loss + 0.1})
        for number, score in enumerate(scores, 1):
            step = number * steps // len(scores)
            place = {"step": step, "tokens": 512 * step, "time": 0.4 * step}
            rows.append({"kind": "hellaswag", **place, "acc": score, "acc_norm": score, "n": 100})
        (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        recorded = {
            "identity": {"data": "d", "tokenizer": "t"} if identity is None else identity,
            "resolved": {"parameters": 7_248_640, "flops_per_token": 1_000} if resolved is None else resolved,
            "steps": steps, "warmup": 0, "settings": {}, "tokenizer": "gpt2",
            "data": {"sources": [source or {"files": []}]},
        }  # fmt: skip
        (folder / "run.json").write_text(json.dumps(recorded))
        return folder

    return write


def content(*folders: Path, axis: Axis = "step", smoothing: float = 0.005) -> Content:
    return content_of(open_runs(folders, axis), axis, smoothing)


def svg(found: Content, folder: Path) -> str:
    """The figure as SVG; its text is text there."""
    target = folder / "figure.svg"
    write_picture(found, target)
    return target.read_text(encoding="utf-8")


def texts(picture: str) -> list[str]:
    return re.findall(r"<text[^>]*>([^<]*)</text>", picture)


def titles(found: Content) -> list[str]:
    return [panel.title for panel in found.panels]


def test_a_trained_run_is_drawn(shards: Path, tmp_path: Path) -> None:
    train(tiny(shards, tmp_path / "run"))
    found = content(tmp_path / "run", axis="flops")
    assert titles(found) == ["Loss", "Learning rate", "Gradient norm", "Throughput"]
    assert [len(curve.points) for curve in found.panels[0].curves] == [6, 3]
    assert found.notes == []
    assert re.fullmatch(r"\S+ thousand parameters, 6 steps, 384 tokens", found.subtitle)


@pytest.mark.parametrize(("name", "magic"), [("a.png", b"\x89PNG"), ("b.svg", b"<?xml"), ("c.PDF", b"%PDF")])
def test_a_picture_is_drawn_in_the_kind_that_its_name_says(
    write_run: WriteRun, tmp_path: Path, name: str, magic: bytes
) -> None:
    found, folder = content(write_run("run")), tmp_path / "pictures"
    folder.mkdir()
    write_picture(found, folder / name)
    assert (folder / name).read_bytes().startswith(magic)
    assert [path.name for path in folder.iterdir()] == [name]


def test_the_same_figure_is_the_same_file(write_run: WriteRun, tmp_path: Path) -> None:
    run = write_run("run")
    assert svg(content(run), tmp_path) == svg(content(run), tmp_path)


def test_the_figure_of_a_run_shows_what_was_measured_and_in_what(write_run: WriteRun, tmp_path: Path) -> None:
    found = texts(svg(content(write_run("my run", scores=[0.25, 0.27])), tmp_path))
    for text in (
        "my run", "7.25 million parameters, 30 steps, 15.4 thousand tokens",
        "Loss", "Training", "Validation", "Cross-entropy, nats per token", "Step",
        "HellaSwag", "This model", "GPT-2 124M (29.55%)", "Guessing (25%)", "27.00",
        "Learning rate", "× 10⁻³", "Gradient norm", "Throughput", "Tokens/s, thousands",
    ):  # fmt: skip
        assert text in found
    assert not any("3.2924" in text for text in found)  # GPT-2's loss means nothing on this text


def test_several_runs_are_told_apart_in_every_panel(write_run: WriteRun, tmp_path: Path) -> None:
    runs = [write_run(f"sweep/{name}/log", scores=[0.26]) for name in ("base", "wide")]
    found = content(*runs)
    assert titles(found) == [
        "Training loss", "Validation loss", "HellaSwag", "Learning rate", "Gradient norm", "Throughput",
    ]  # fmt: skip
    assert all([curve.label for curve in panel.curves] == ["base", "wide"] for panel in found.panels)
    assert found.panels[0].limits == found.panels[1].limits
    shown = texts(svg(found, tmp_path))
    for text in ("base", "wide", "GPT-2 124M (29.55%)"):
        assert shown.count(text) == 1


@pytest.mark.parametrize("runs", [2, 5, 9, 12])
def test_no_two_of_several_runs_look_the_same(runs: int) -> None:
    from gptcli.plotting.picture import _look

    assert len({_look(run) for run in range(runs)}) == runs
    assert len({(_look(run).dashes, _look(run).mark) for run in range(runs)}) == runs  # in grey too


def test_a_name_that_matplotlib_would_read_as_something_else_is_shown(write_run: WriteRun, tmp_path: Path) -> None:
    shown = texts(svg(content(write_run("_a$b$"), write_run("c")), tmp_path))
    assert "_a$b$" in shown


def test_gpt2s_loss_line_is_for_fineweb_edu_in_gpt2_tokens_only(write_run: WriteRun, tmp_path: Path) -> None:
    fineweb, other = write_run("a", source=FINEWEB), write_run("b")
    assert [level.value for level in content(fineweb).panels[0].levels] == [3.2924]
    assert "GPT-2 124M (3.2924)" in texts(svg(content(fineweb), tmp_path))
    assert content(fineweb, other).panels[0].levels == []

    recorded = json.loads((fineweb / "run.json").read_text())
    for sources, tokenizer, expected in (
        (FINEWEB, "gpt2", True),  # as runs of earlier versions have it
        ([FINEWEB], "cl100k_base", False),
        ([{"dataset": "HuggingFaceFW/fineweb"}], "gpt2", False),
        ([FINEWEB, {"files": []}], "gpt2", False),
        ([], "gpt2", False),
    ):
        recorded |= {"tokenizer": tokenizer, "data": {"sources": sources}}
        (fineweb / "run.json").write_text(json.dumps(recorded))
        assert open_runs([fineweb])[0].is_fineweb_in_gpt2 is expected


def test_gpt2s_score_is_the_published_one(write_run: WriteRun) -> None:
    panel = next(panel for panel in content(write_run("a", scores=[0.2])).panels if panel.title == "HellaSwag")
    assert [level.value for level in panel.levels] == [100 * PUBLISHED["hellaswag", "completion"][0].acc_norm, 25]


@pytest.mark.parametrize("scores", [[0.26], [0.26, 0.41], [0.2]])
def test_the_axis_of_the_scores_holds_them_their_intervals_and_what_they_are_beside(
    write_run: WriteRun, scores: list[float]
) -> None:
    panel = next(panel for panel in content(write_run("a", scores=scores)).panels if panel.title == "HellaSwag")
    (curve,) = panel.curves
    assert curve.spread is not None
    low, high = curve.spread
    np.testing.assert_allclose(curve.points.y, [100 * score for score in scores])
    assert (low.y < curve.points.y).all()
    assert (curve.points.y < high.y).all()
    assert panel.limits[0] < min(25, low.y.min()) < max(29.55, high.y.max()) < panel.limits[1]


@pytest.mark.parametrize(
    ("axis", "label", "end"),
    [
        ("step", "Step", 30), ("tokens", "Tokens, thousands", 15.36), ("time", "Time, seconds", 12),
        ("flops", "Training FLOPs × 10⁷", 1.536),
    ],
)  # fmt: skip
def test_curves_run_over_what_is_asked_for(write_run: WriteRun, axis: Axis, label: str, end: float) -> None:
    found = content(write_run("a", scores=[0.3]), axis=axis)
    assert found.x == label
    for panel in found.panels:
        for curve in panel.curves:
            assert curve.points.x[-1] == pytest.approx(end)


def test_the_arithmetic_of_an_earlier_run_follows_from_its_shape(write_run: WriteRun) -> None:
    config = GPTConfig(vocab_size=512, emb_dim=64, n_layers=2, n_heads=4, context_length=32)
    identity = {f"model {name}": value for name, value in vars(config).items()} | {"n_tokens": 16}
    (run,) = open_runs([write_run("a", identity=identity, resolved={"parameters": 100_000})], "flops")
    assert run.flops_per_token == flops_per_token(config, 100_000, 16)


def test_a_run_that_does_not_tell_its_arithmetic_is_refused_over_flops_only(write_run: WriteRun) -> None:
    run = write_run("a", resolved={})
    with pytest.raises(UsageError, match="does not tell how much arithmetic"):
        open_runs([run], "flops")
    assert content(run).subtitle == "30 steps, 15.4 thousand tokens"


def test_averages_are_drawn_over_the_raw_curve(write_run: WriteRun) -> None:
    run = write_run("a", steps=300, changed={step: {"loss": 5.0 + step % 2} for step in range(100, 301)})
    training = content(run).panels[0].curves[0]
    assert training.raw is not None
    assert np.ptp(training.points.y[-50:]) < 0.5 < np.ptp(training.raw.y[-50:])
    plain = content(run, smoothing=0).panels[0].curves[0]
    assert plain.raw is None
    assert np.ptp(plain.points.y[-50:]) == 1


def test_a_skipped_step_leaves_a_gap_and_a_profiled_one_counts_for_no_speed(write_run: WriteRun) -> None:
    changed = {
        7: {"loss": None, "grad_norm": None, "skipped": True}, 8: {"loss": 99.0, "grad_norm": 50.0, "skipped": True},
        9: {"tokens_per_second": 3.0, "mfu": 0.01, "profiled": True}, 10: {"mfu": 0.413},
    }  # fmt: skip
    drawn = content(write_run("a", changed=changed), smoothing=0)
    assert drawn.subtitle.endswith(" tokens, MFU 41%")
    found = {panel.title: panel for panel in drawn.panels}
    training = found["Loss"].curves[0]
    assert len(training.points) == 28
    assert training.points.y.max() < 11
    assert found["Gradient norm"].curves[0].points.y.max() == 1
    assert 9 not in found["Throughput"].curves[0].points.x


@pytest.mark.parametrize(("how", "runs"), [({"steps": 1, "val_every": 0}, 1), ({"steps": 1, "scores": [0.25]}, 2)])
def test_a_run_that_has_just_begun_is_drawn(write_run: WriteRun, tmp_path: Path, how: Any, runs: int) -> None:
    found = content(*[write_run(f"{number}", **how) for number in range(runs)])
    assert "Learning rate" in texts(svg(found, tmp_path))
    assert draw(found, 80, plain=False)


def test_a_run_without_a_single_finite_loss_is_drawn(write_run: WriteRun, tmp_path: Path) -> None:
    changed = {step: {"loss": None, "grad_norm": None} for step in range(1, 31)}
    for found in (content(write_run("a", changed=changed)), content(write_run("b", changed=changed, val_every=0))):
        assert "Learning rate" in texts(svg(found, tmp_path))
        assert draw(found, 80, plain=True)


def test_the_file_of_a_long_run_stays_small(write_run: WriteRun, tmp_path: Path) -> None:
    changed = {step: {"loss": 4 + np.sin(step * step)} for step in range(1, 20_001)}
    run = write_run("a", steps=20_000, val_every=250, changed=changed)
    assert len(svg(content(run), tmp_path)) < 200_000


def test_a_run_that_is_named_twice_is_drawn_once(write_run: WriteRun) -> None:
    run = write_run("a")
    assert content(run, run.parent / "." / "a").title == "a"


@pytest.mark.parametrize(
    ("folders", "names"),
    [
        (["runs/base"], ["base"]),
        (["a/log", "b/log"], ["a", "b"]),
        (["x/a/log", "x/b/log", "x/b/new"], ["a/log", "b/log", "b/new"]),
        (["log", "log/a"], ["log", "log/a"]),
        ([20 * "ab" + "1", 20 * "ab" + "2"], ["abababababababa…ababababababab1", "abababababababa…ababababababab2"]),
        (
            [20 * "a" + "1" + 20 * "b", 20 * "a" + "2" + 20 * "b"],
            [20 * "a" + "1" + 20 * "b", 20 * "a" + "2" + 20 * "b"],
        ),
    ],
)
def test_runs_have_short_names_that_tell_them_apart(folders: list[str], names: list[str]) -> None:
    assert names_of([Path(folder) for folder in folders]) == names


def test_all_that_can_not_be_drawn_is_told_at_once(write_run: WriteRun, tmp_path: Path) -> None:
    write_run("sweep/small")
    write_run("sweep/large")
    (tmp_path / "empty").mkdir()
    begun = write_run("begun", steps=0)
    damaged = write_run("damaged")
    (damaged / "run.json").write_text("{")
    wanted = [tmp_path / name for name in ("sweep/smal", "nothing", "sweep", "empty")]
    with pytest.raises(UsageError) as caught:
        open_runs([*wanted, begun, damaged, tmp_path / "sweep" / "small" / "metrics.jsonl"])
    told = [(fault.message, fault.hint) for fault in caught.value.faults]
    assert [message.replace(str(tmp_path), "").replace("\\", "/") for message, _ in told] == [
        "There is no folder /sweep/smal.",
        "There is no folder /nothing.",
        "/sweep is not a run: it has no metrics.jsonl.",
        "/empty is not a run: it has no metrics.jsonl.",
        "/begun has no steps to draw yet.",
        "/damaged/run.json is damaged.",
        "/sweep/small/metrics.jsonl is a file; a run is a folder.",
    ]
    assert told[0][1] == f"Did you mean '{tmp_path / 'sweep' / 'small'}'?"
    assert str(tmp_path / "sweep" / "large") in told[2][1]
    assert told[6][1] == f"Did you mean '{tmp_path / 'sweep' / 'small'}'?"


def test_runs_that_measure_different_things_are_noted(write_run: WriteRun) -> None:
    runs = [write_run(name, identity={"data": name, "tokenizer": "t"}) for name in "ab"]
    assert content(*runs).notes == ["The runs have different data: their losses are not measured on the same tokens."]
    assert content(runs[0]).notes == []


def test_a_picture_goes_into_the_run_or_of_several_here_or_where_it_is_told_to(
    write_run: WriteRun, tmp_path: Path
) -> None:
    a, b = write_run("a"), write_run("b")
    target = target_of([a, a], None)
    assert target == a / "plots" / "training.png"
    write_picture(content(a), target)
    assert target.exists()
    assert target_of([a, b], None) == Path("comparison.png")
    assert target_of([a], tmp_path / "x.pdf") == tmp_path / "x.pdf"
    with pytest.raises(UsageError) as caught:
        target_of([a], tmp_path / "new" / "figure.gif")
    first, second = [fault.message for fault in caught.value.faults]
    assert "no kind of picture" in first
    assert "there is no folder" in second


def test_without_matplotlib_a_picture_is_refused_and_the_terminal_draws(
    write_run: WriteRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "matplotlib"] or ["matplotlib"]:
        monkeypatch.setitem(sys.modules, name, None)
    found = content(write_run("a"))
    assert draw(found, 80, plain=False)
    with pytest.raises(UserError) as caught:
        write_picture(found, tmp_path / "a.png")
    assert "--terminal" in caught.value.faults[0].hint


def lines(found: Content, width: int, plain: bool = False) -> list[str]:
    return ["".join(text for text, _ in line) for line in draw(found, width, plain)]


@pytest.mark.parametrize("plain", [False, True])
@pytest.mark.parametrize("width", [30, 60, 80, 120, 400])
@pytest.mark.parametrize("runs", [1, 3])
def test_the_drawing_fits_its_terminal(write_run: WriteRun, width: int, plain: bool, runs: int) -> None:
    found = content(*[write_run(f"run-{number}", scores=[0.25, 0.3]) for number in range(runs)])
    drawn = lines(found, width, plain)
    assert max(map(len, drawn)) <= width
    assert "".join(drawn).isascii() is plain
    assert plain or any("⠀" < character <= "⣿" for character in "".join(drawn))


def test_the_drawing_tells_what_is_what_without_colours(write_run: WriteRun) -> None:
    one = "\n".join(lines(content(write_run("solo", scores=[0.25])), 100))
    for text in ("solo", "─── Training", "─●─ Validation", "╌╌ GPT-2 124M (29.55%)", "Loss", "× 10⁻³", "Step"):
        assert text in one
    two = "\n".join(lines(content(write_run("x/a"), write_run("x/b")), 100, plain=True))
    for text in ("1 a", "2 b", "Training loss", "Validation loss", "x 10-3"):
        assert text in two


def test_the_ticks_of_steps_are_whole_in_both_drawings(write_run: WriteRun, tmp_path: Path) -> None:
    found = content(write_run("a", steps=1, val_every=0), axis="step")
    assert {"0", "1", "2"} <= set(texts(svg(found, tmp_path)))
    assert "0.5" not in lines(found, 120)[-2]
