"""The live view of a run, `gpt watch`, `gpt runs` and `gpt runs diff`: what they show and how they end."""

from __future__ import annotations

import io
import json
import re
import threading
from pathlib import Path
from typing import Any, get_args

import pytest
from rich.console import Console

from gptcli.cli import watch
from gptcli.cli.dashboard import Room, dashboard, printable
from gptcli.cli.live import Canvas, LiveRun
from gptcli.cli.runs import COLUMNS, table
from gptcli.cli.sparkline import ASCII, BLOCKS, loss_sparkline, sparkline
from gptcli.data.locks import FolderLock
from gptcli.runs.progress import RunProgress
from gptcli.runs.summary import summarise
from gptcli.settings import RunsSettings
from gptcli.training.events import Evaluated, Event, Note, Sampled, Saved, Started, StepDone

LOG = Path("log")


def step_done(step: int, loss: float = 3.5) -> StepDone:
    return StepDone(step, loss, 6e-4, 0.31, 12_345.0, 64 * step, 0.5, 0.05, 3 * 2**30, 0.41)


EVENTS: list[Event] = [
    Started(LOG, 0, 1_000, 64, {}),
    Evaluated(0, "val", {"loss": 10.8}),
    *(step_done(step, 10.8 - step / 20) for step in range(1, 101)),
    Evaluated(100, "val", {"loss": 5.75}),
    Evaluated(100, "hellaswag", {"acc": 0.26, "acc_norm": 0.2708, "n": 100}),
    Sampled(100, "Once upon a time", " there\nwas \x1b[31ma king. " + "And so on. " * 40),
    Saved(100, LOG / "checkpoints" / "step_0000100", 1.0, 2.0),
    Note("Slow data: 25% of the last 30 s were spent waiting for it.", 100, "slow data"),
]


@pytest.fixture
def progress() -> RunProgress:
    made = RunProgress()
    for number, event in enumerate(EVENTS):
        made.take(event, float(number))
    return made


def shown(progress: RunProgress, width: int = 90, height: int = 30, ascii_only: bool = False) -> list[str]:
    room = Room(width, height, ascii_only)
    return [line.plain for line in dashboard(progress, "log/books", "running", 3_723.0, room)]


# --- the view ---------------------------------------------------------------------------------------------------------


def test_the_view_has_all_that_is_known_of_the_run(progress: RunProgress) -> None:
    lines = shown(progress)
    assert re.fullmatch(r"log/books +running  1:02:03", lines[0])
    assert re.fullmatch(r"━+─+  100/1,000  10%  \d+:\d\d left", lines[1])
    assert re.fullmatch(r"train loss  5\.8000  [▁-█]{40}", lines[2])
    assert lines[3] == "validation  5.7500  █▁  best 5.7500 at step 100"
    assert lines[4] == "HellaSwag   27.08%  ▄  GPT-2 124M 29.55%"
    assert "   ".join(lines[5:7]) == (
        "lr 6.00e-04   grad norm 0.31   12.3k tokens/s   500 ms   5% waiting for data   peak 3 GiB   MFU 41.0%"
    )
    assert lines[7].startswith("sample      Once upon a time there was \ufffd[31ma king.")
    assert lines[8].endswith("…")
    assert lines[9:] == [
        "events      100  saved step_0000100",
        "            100  Slow data: 25% of the last 30 s were spent waiting for it.",
    ]


@pytest.mark.parametrize("width", [4, 20, 40, 60, 80, 200])
@pytest.mark.parametrize("height", [1, 2, 5, 9, 24])
@pytest.mark.parametrize("ascii_only", [True, False])
def test_the_view_fits_its_room(progress: RunProgress, width: int, height: int, ascii_only: bool) -> None:
    lines = shown(progress, width, height, ascii_only)
    assert len(lines) <= height
    assert all(len(line) <= width for line in lines)
    assert not ascii_only or all(line.replace("…", "").replace("\ufffd", "").isascii() for line in lines)


def test_where_there_is_little_room_events_and_the_sample_go_first(progress: RunProgress) -> None:
    assert [line.split()[0] for line in shown(progress, 90, 7)][2:5] == ["train", "validation", "HellaSwag"]
    assert not any(line.startswith(("events", "sample")) for line in shown(progress, 90, 7))
    assert shown(progress, 90, 8)[-1].startswith("sample")


def test_a_run_before_its_first_step_has_a_view_too() -> None:
    assert len(shown(RunProgress())) == 2


@pytest.mark.parametrize("levels", [BLOCKS, ASCII])
def test_a_curve_goes_from_its_highest_level_to_its_lowest(levels: str) -> None:
    drawn = loss_sparkline([10.0 * 0.97**step for step in range(200)], 40, levels)
    assert len(drawn) == 40
    assert (drawn[0], drawn[-1]) == (levels[-1], levels[0])
    assert sorted(drawn, key=levels.index, reverse=True) == list(drawn)


def test_a_curve_of_equal_values_or_of_none_is_no_error() -> None:
    assert sparkline([2.0, 2.0], 10) == "▁▁"
    assert sparkline([], 10) == ""
    assert sparkline([1.0], 0) == ""
    assert sparkline([0.2, 0.25, 0.5], 10, low=0.25, high=0.3) == "▁▁█"


def test_what_a_model_writes_can_not_move_the_cursor() -> None:
    assert printable("a\x1b[2Jb\u202ed") == "a\ufffd[2Jb\ufffdd"


# --- drawing ----------------------------------------------------------------------------------------------------------


class Screen(Console):
    """A terminal of which the size can be set, and that keeps what is written."""

    def __init__(self) -> None:
        self.columns = 80
        super().__init__(file=io.StringIO(), force_terminal=True, width=80, height=24, legacy_windows=False)

    def resize(self, columns: int) -> None:
        self.width = columns

    @property
    def written(self) -> str:
        assert isinstance(self.file, io.StringIO)
        return self.file.getvalue()


def test_a_terminal_of_another_size_is_cleared_and_drawn_anew() -> None:
    out, above = Screen(), list[str]()
    canvas = Canvas(out, lambda: "the view", lambda: above.append("printed"))
    canvas.draw()
    assert (above, "\x1b[2J" in out.written) == ([], False)
    out.resize(60)
    canvas.draw()
    canvas.close()
    assert (above, out.written.count("\x1b[2J")) == (["printed"], 1)
    assert out.written.rstrip("\x1b[?25h\n").endswith("the view")


def test_what_is_printed_meanwhile_stands_above_the_view() -> None:
    out = Screen()
    live = LiveRun(out)
    with live:
        for event in EVENTS:
            live(event)
        out.print("a warning of a library")
        live(Note("a note"))
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", out.written)
    assert plain.index("a warning of a library") < plain.index("note: a note") < plain.rindex("validation")
    assert "stopped" in plain[plain.rindex("log  ") :]
    assert not [thread for thread in threading.enumerate() if thread.name == "live view"]


class Lost(Screen):
    """A terminal whose connection is lost after some writing."""

    def __init__(self) -> None:
        super().__init__()
        self.gone = False

    def print(self, *objects: Any, **options: Any) -> None:
        if self.gone:
            raise OSError(5, "Input/output error")
        super().print(*objects, **options)

    def on_broken_pipe(self) -> None:
        self.gone, self.quiet = False, True


def test_a_terminal_that_goes_away_stops_no_run() -> None:
    out = Lost()
    with LiveRun(out) as live:
        live(EVENTS[0])
        out.gone = True
        for event in (*EVENTS[1:], Note("a note")):
            live(event)
    assert live.progress.step == 100


def test_a_second_ctrl_c_leaves_no_terminal_without_a_cursor(monkeypatch: pytest.MonkeyPatch) -> None:
    out = Screen()
    canvas = Canvas(out, lambda: "the view", lambda: None)

    def interrupt() -> None:
        raise KeyboardInterrupt

    canvas._closed.set()
    canvas._thread.join()
    monkeypatch.setattr(canvas, "draw", interrupt)
    with pytest.raises(KeyboardInterrupt):
        canvas.close()
    assert out.written.rstrip("\n").endswith("\x1b[?25h")


def test_a_resumed_run_whose_log_was_spoiled_is_drawn_all_the_same() -> None:
    write_run(LOG)
    spoiled = ['{"kind": "val", "step": 3, "loss": null}', '{"kind": "val", "step": 3}', '{"kind": "train", "step": 4}']
    with (LOG / "metrics.jsonl").open("a") as file:
        file.write("\n".join((*spoiled, '{"kind": "hellaswag", "step": 3, "time": null}', "")))
    with LiveRun(Screen()) as live:
        live(Started(LOG, 3, 10, 64, {}))
    assert live.progress.val == Evaluated(0, "val", {"loss": 9.0})


def test_an_error_closes_the_view_and_is_passed_on() -> None:
    out = Screen()
    live = LiveRun(out)

    def fail() -> None:
        with live:
            live(EVENTS[0])
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert out.written.endswith("\x1b[?25h")  # the cursor is shown again


# --- gpt watch --------------------------------------------------------------------------------------------------------


def write_run(folder: Path, steps: int = 3, **changes: Any) -> Path:
    """A run folder, as one that has come to `steps` of 10 steps leaves it."""
    folder.mkdir(parents=True, exist_ok=True)
    recorded = {
        "settings": {"preset": "demo", "max_lr": 1e-3, "log_dir": str(folder)}, "identity": {"model n_layers": 4},
        "steps": 10, "warmup": 1, "resolved": {"tokens_per_step": 64, "parameters": 7_248_640},
        "facts": {"Model": "GPT-2"}, "data": {"folder": "data/books"}, "calls": [{"time": "2026-01-01T00:00:00+00:00"}],
    }  # fmt: skip
    (folder / "run.json").write_text(json.dumps({**recorded, **changes}))
    rows = [{"kind": "val", "step": 0, "tokens": 0, "time": 0.5, "loss": 9.0}]
    rows += [train_row(step) for step in range(1, steps + 1)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def train_row(step: int) -> dict[str, Any]:
    return {
        "kind": "train", "step": step, "tokens": 64 * step, "time": float(step), "loss": 9.0 - step, "lr": 1e-3,
        "grad_norm": 1.0, "tokens_per_second": 64.0, "step_ms": 1000.0, "data_ms": 0.0,
    }  # fmt: skip


def test_watch_tells_where_a_run_that_has_ended_stands(gpt: Any) -> None:
    write_run(LOG)
    result = gpt("watch")
    assert (result.code, result.out) == (0, "")
    lines = result.err.splitlines()
    assert lines[:2] == ["Model  GPT-2", "step 0  validation  loss 9.0000"]
    assert lines[2].startswith("step 3/10  loss 6.0000  lr 1.00e-03")
    assert lines[3:] == [
        "log has crashed after step 3; it has no checkpoint. Its command, without --fresh, goes on."
    ]  # fmt: skip


def test_watch_follows_a_run_until_it_ends(gpt: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    write_run(LOG)
    lock = FolderLock(LOG)
    lock.__enter__()
    looks = iter([lambda: append(train_row(4)), lambda: append(train_row(10)), lambda: lock.__exit__(None, None, None)])

    def append(row: dict[str, Any]) -> None:
        with (LOG / "metrics.jsonl").open("a") as file:
            file.write(json.dumps(row) + "\n")

    monkeypatch.setattr(watch.time, "sleep", lambda seconds: next(looks)())
    result = gpt("watch")
    assert "step 10/10  loss -1.0000" in result.err
    assert result.err.endswith(
        "log has crashed after step 10; it has no checkpoint. Its command, without --fresh, goes on.\n"
    )


def test_watch_on_a_terminal_draws_the_view_that_train_has(gpt: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.delenv("NO_COLOR")
    write_run(LOG)
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", gpt("watch").err)
    assert re.search(r"log +crashed  0:03", plain)
    assert "3/10  30%" in plain


def test_ctrl_c_leaves_a_run_alone(gpt: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    write_run(LOG)

    def interrupt(seconds: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(watch.time, "sleep", interrupt)
    with FolderLock(LOG):
        result = gpt("watch")
    assert result.code == 0
    assert "crashed" not in result.err


def test_a_run_that_goes_on_from_an_earlier_checkpoint_is_not_told_twice(
    gpt: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_run(LOG, 5)
    lock = FolderLock(LOG)
    lock.__enter__()

    def resume() -> None:
        (LOG / "metrics.jsonl").unlink()
        write_run(LOG, 3)

    looks = iter([resume, lambda: lock.__exit__(None, None, None)])
    monkeypatch.setattr(watch.time, "sleep", lambda seconds: next(looks)())
    told = gpt("watch").err.splitlines()
    assert [line.split("  ")[0] for line in told if line.startswith("step")] == ["step 0", "step 5/10", "step 0"]


def test_watch_of_what_is_no_run_is_told(gpt: Any) -> None:
    (Path("log") / "books").mkdir(parents=True)
    assert gpt("watch", "log").faults == ["log is not a run: it has no run.json."]
    assert gpt("watch", "log").code == 2


# --- gpt runs ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def three_runs() -> None:
    write_run(Path("log/a"), 3)
    write_run(Path("log/b"), 5, calls=[{"time": "2026-02-01T00:00:00+00:00"}])
    write_run(Path("log/c"), 0, calls=[{"time": "2026-03-01T00:00:00+00:00"}])


def names(out: str) -> list[str]:
    return re.findall(r"^log\S([abc]) ", out, re.MULTILINE)


@pytest.mark.usefixtures("three_runs")
def test_runs_are_a_table_on_standard_output_the_newest_first(gpt: Any) -> None:
    result = gpt("runs")
    assert result.code == 0
    assert names(result.out) == ["c", "b", "a"]
    assert re.search(r"log.b +crashed +demo +7\.25M +5/10 +320 +4\.0000 +9\.0000 +9\.0000 +64 +0:05", result.out)


@pytest.mark.usefixtures("three_runs")
@pytest.mark.parametrize(
    ("words", "order"),
    [
        (["--sort", "loss"], ["b", "a", "c"]),
        (["--sort", "loss", "--reverse"], ["a", "b", "c"]),  # what has none stays last
        (["--sort", "step"], ["b", "a", "c"]),
        (["--sort", "run"], ["a", "b", "c"]),
        (["--sort", "started", "--reverse"], ["a", "b", "c"]),
    ],
)
def test_runs_are_sorted_the_best_first(words: list[str], order: list[str], gpt: Any) -> None:
    assert names(gpt("runs", "log", *words).out) == order


@pytest.mark.usefixtures("three_runs")
def test_every_column_can_be_sorted_by_and_every_run_is_in_the_json(gpt: Any) -> None:
    assert get_args(RunsSettings.model_fields["sort"].annotation) == tuple(column.name for column in COLUMNS)
    for column in COLUMNS:
        assert len(names(gpt("runs", "--sort", column.name).out)) == 3
    told = json.loads(gpt("runs", "--json").out)["runs"]
    assert [Path(run["path"]).name for run in told] == ["c", "b", "a"]
    assert told[1]["best_val_loss"] == 9.0
    assert told[1]["hellaswag"] is None


@pytest.mark.usefixtures("three_runs")
@pytest.mark.parametrize(("columns", "left_out"), [(150, ()), (100, ("started",)), (60, ("model", "size", "loss"))])
def test_a_narrow_terminal_leaves_out_columns_and_breaks_no_number(columns: int, left_out: tuple[str, ...]) -> None:
    summaries = [summarise(Path("log") / name) for name in "abc"]
    out = Console(file=io.StringIO(), width=columns)
    out.print(table(summaries, columns))
    drawn = out.file.getvalue()  # type: ignore[attr-defined]
    assert len(drawn.splitlines()) == 4
    assert "…" not in drawn
    header = drawn.splitlines()[0].split()
    assert not set(left_out) & set(header)
    assert {"run", "state", "step", "best"} <= set(header)


def test_a_damaged_run_is_told_and_the_others_are_listed(gpt: Any) -> None:
    write_run(Path("log/a"))
    (Path("log/b")).mkdir()
    Path("log/b/run.json").write_text("{")
    result = gpt("runs")
    assert names(result.out) == ["a"]
    assert "is damaged" in result.err


def test_damaged_runs_alone_are_a_fault(gpt: Any) -> None:
    Path("log").mkdir()
    Path("log/run.json").write_text("{")
    result = gpt("runs")
    assert (result.code, result.faults) == (1, ["None of the runs under . can be read."])


def test_a_row_without_its_number_hides_no_run(gpt: Any) -> None:
    write_run(Path("log/a"))
    write_run(Path("log/b"))
    with Path("log/a/metrics.jsonl").open("a") as file:
        file.write('{"kind": "val", "step": 3, "loss": null}\n{"kind": "hellaswag", "step": 3, "time": "x"}\n')
    assert len(json.loads(gpt("runs", "--json").out)["runs"]) == 2
    assert gpt("runs", "diff", "log/a", "log/b").code == 0


@pytest.mark.parametrize("words", [["runs"], ["runs", "nowhere"]])
def test_no_runs_are_a_fault(words: list[str], gpt: Any) -> None:
    result = gpt(*words)
    assert (result.code, len(result.faults)) == (2, 1)


# --- gpt runs diff ----------------------------------------------------------------------------------------------------


def test_a_difference_is_a_line_for_people_and_an_entry_for_programs(gpt: Any) -> None:
    write_run(Path("a"), 3)
    write_run(Path("b"), 3, identity={"model n_layers": 8})
    result = gpt("runs", "diff", "a", "b")
    assert result.out.splitlines()[1:] == ["settings:", "  n_layers  4  8"]
    assert json.loads(gpt("runs", "diff", "a", "b", "--json").out)["differences"] == [
        {"section": "settings", "name": "n_layers", "values": [4, 8]}
    ]
    assert gpt("runs", "diff", "a", "a").out == "a and a do not differ.\n"


def test_all_that_is_wrong_with_the_two_names_is_told(gpt: Any) -> None:
    assert gpt("runs", "diff", "x", "y").faults == [
        "x is not a run: it has no run.json.",
        "y is not a run: it has no run.json.",
    ]
    assert gpt("runs", "diff", "x").faults == ["gpt runs diff compares two runs."]


def test_commands_that_read_a_run_import_no_torch(python: Any) -> None:
    write_run(LOG)
    for words in (["watch"], ["runs"], ["runs", "diff", "log", "log"]):
        told = python(f"import sys; from gptcli.cli.main import run; run({words!r}); print('torch' in sys.modules)")
        assert "False" in told.splitlines(), words
