"""The data of tasks: read from files of any kind, fetched once, checked, kept; and what is wrong with it told."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import lzma
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hub_stand_in import COMMIT, StandIn, stand_in
from pyarrow import parquet

from gptcli.errors import UsageError, UserError
from gptcli.evals import origin
from gptcli.evals.common_tasks import ARC_EASY, LAMBADA, PIQA
from gptcli.evals.hellaswag import HELLASWAG
from gptcli.evals.origin import Origin, Published, fetch, locate
from gptcli.evals.questions import Question


def rows(n: int = 5) -> list[dict[str, Any]]:
    """Lines as the original HellaSwag file has them."""
    return [
        {
            "ind": 7 * i,
            "activity_label": "Playing [outside]",
            "ctx_a": f"A man is outside on day {i}.",
            "ctx_b": "then" if i % 2 else "",
            "ctx": f"A man is outside on day {i}." + (" then" if i % 2 else ""),
            "endings": [f"ending {j} of {i} [title] The end" for j in range(4)],
            "label": (i * 3) % 4,
        }
        for i in range(n)
    ]


def lines(of: list[dict[str, Any]]) -> bytes:
    return "".join(json.dumps(line) + "\n" for line in of).encode()


def table(of: list[dict[str, Any]]) -> bytes:
    """The rows as a Parquet file, with labels as text, as the Hub's copy has them."""
    written = io.BytesIO()
    parquet.write_table(pa.Table.from_pylist([row | {"label": str(row["label"])} for row in of]), written)
    return written.getvalue()


def questions(file: Path) -> list[Question]:
    return HELLASWAG.questions("completion", str(file))[0]


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's cache folder, empty."""
    monkeypatch.setattr(origin, "cache_dir", lambda: tmp_path / "cache")
    return tmp_path / "cache"


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[StandIn]:
    """A Hub of this machine."""
    from huggingface_hub import constants

    with stand_in() as server:
        monkeypatch.setattr(constants, "ENDPOINT", server.url)
        monkeypatch.setattr(
            constants, "HUGGINGFACE_CO_URL_TEMPLATE", server.url + "/{repo_id}/resolve/{revision}/{filename}"
        )
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
        yield server


# Files


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.jsonl", lines(rows())),
        ("a.jsonl.gz", gzip.compress(lines(rows()), mtime=0)),
        ("a.jsonl.xz", lzma.compress(lines(rows()))),
        ("a.parquet", table(rows())),
    ],
)
def test_a_file_is_read_whatever_its_kind(name: str, content: bytes, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    found = questions(tmp_path / name)
    assert [question.label for question in found] == [row["label"] for row in rows()]
    assert [list(question.answers) for question in found] == [row["endings"] for row in rows()]
    assert [question.index for question in found] == [0, 1, 2, 3, 4]


def test_every_bad_line_is_named_with_its_number_and_fault(tmp_path: Path) -> None:
    good = rows(1)[0]
    content = [
        json.dumps(good),
        "{broken",
        json.dumps({"ctx": "x"}),
        "",
        json.dumps(good | {"label": ""}),
        json.dumps(good | {"label": 4}),
        json.dumps(good | {"endings": ["only", "three", "endings"]}),
        json.dumps(["no", "object"]),
    ]
    (tmp_path / "val.jsonl").write_text("\n".join(content), encoding="utf-8")
    with pytest.raises(UserError) as caught:
        questions(tmp_path / "val.jsonl")
    messages = [fault.message for fault in caught.value.faults]
    assert [message.split("line ")[1].split(":")[0] for message in messages[:5]] == ["2", "3", "5", "6", "7"]
    assert "no endings, no label" in messages[1]
    assert "1 more lines are damaged" in messages[5]


@pytest.mark.parametrize("content", [b"", b"\n\n"])
def test_an_empty_file_holds_no_examples(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "val.jsonl").write_bytes(content)
    with pytest.raises(UserError, match="no examples"):
        questions(tmp_path / "val.jsonl")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.jsonl.gz", b"not packed"),
        ("b.jsonl.xz", b"not packed"),
        ("c.jsonl.gz", gzip.compress(b"x" * 10_000, mtime=0)[:-20]),
        ("d.jsonl.xz", lzma.compress(b"x" * 10_000)[:-20]),
        ("e.jsonl", b"\xff\xfe\x00"),
        ("f.parquet", b"PAR1 no"),
    ],
)
def test_a_damaged_file_is_a_user_error(name: str, content: bytes, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match="damaged") as caught:
        questions(tmp_path / name)
    assert not isinstance(caught.value, UsageError)


def test_a_missing_file_is_wrong_usage_in_the_words_of_the_command(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--hellaswag-data"):
        locate(HELLASWAG.origin, str(tmp_path / "none.jsonl"), option="--hellaswag-data")


def test_a_file_of_ones_own_is_told_from_the_published_one(tmp_path: Path) -> None:
    content = lines(rows())
    published = Origin("some", (Published("https://nowhere.invalid/a.jsonl", hashlib.sha256(content).hexdigest()),))
    (tmp_path / "same.jsonl.gz").write_bytes(gzip.compress(content))
    (tmp_path / "other.jsonl").write_bytes(content + b"\n")
    assert locate(published, str(tmp_path / "same.jsonl.gz")).is_published
    assert not locate(published, str(tmp_path / "other.jsonl")).is_published


# What the tasks ask


def test_lm_evals_hellaswag_has_the_activity_and_no_marks(tmp_path: Path) -> None:
    (tmp_path / "val.jsonl").write_bytes(lines(rows(2)))
    first, second = HELLASWAG.questions("lm-eval", str(tmp_path / "val.jsonl"))[0]
    assert first.context == "Playing : A man is outside on day 0."
    assert second.context == "Playing : A man is outside on day 1. Then"
    assert first.answers[1] == "ending 1 of 0. The end"
    without = [{key: value for key, value in row.items() if key != "ctx_a"} for row in rows(2)]
    (tmp_path / "val.jsonl").write_bytes(lines(without))
    with pytest.raises(UserError, match="no ctx_a, which the style lm-eval needs"):
        HELLASWAG.questions("lm-eval", str(tmp_path / "val.jsonl"))


def test_the_other_tasks_ask_as_lm_eval_does(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_bytes(lines([{"goal": "To open a jar", "sol1": "turn", "sol2": "hit", "label": 1}]))
    assert PIQA.questions("lm-eval", str(file))[0] == [
        Question(0, "Question: To open a jar\nAnswer:", ("turn", "hit"), 1)
    ]
    choices = {"text": ["red", "blue"], "label": ["A", "B"]}
    file.write_bytes(lines([{"question": "Which?", "choices": choices, "answerKey": "B"}]))
    assert ARC_EASY.questions("lm-eval", str(file))[0] == [Question(0, "Question: Which?\nAnswer:", ("red", "blue"), 1)]
    file.write_bytes(lines([{"text": "she said  to him"}]))
    assert LAMBADA.questions("lm-eval", str(file))[0] == [Question(0, "she said  to", ("him",), 0)]


def test_a_row_that_is_no_question_is_named(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_bytes(lines([{"question": "Which?", "choices": {"text": ["a"], "label": ["A"]}, "answerKey": "C"}]))
    with pytest.raises(UserError, match=r"line 1: it is no question of ARC-Easy: 'C' is not in list"):
        ARC_EASY.questions("lm-eval", str(file))


# The cache and the Hub


def published_at(server: StandIn, content: bytes, sha256: str | None = None) -> Origin:
    """An origin whose file a stand-in for the Hub serves."""
    server.dataset({"data/val.parquet": content}, "someone/task")
    address = f"hf://datasets/someone/task@{COMMIT}/data/val.parquet"
    return Origin("task", (Published(address, sha256 or hashlib.sha256(content).hexdigest()),))


def test_the_published_file_is_fetched_once_and_kept_whole(cache: Path, hub: StandIn) -> None:
    content = table(rows())
    task = published_at(hub, content)
    fetch(task)
    asked = len(hub.asked)
    assert asked
    fetch(task)
    assert len(hub.asked) == asked
    found = locate(task, None, offline=True)
    assert (found.file.read_bytes(), found.is_published) == (content, True)
    kept = [path for path in (cache / "tasks").iterdir() if not path.name.startswith(".") and path.is_file()]
    assert kept == [found.file]


def test_other_bytes_than_were_published_are_refused_and_the_next_place_is_asked(cache: Path, hub: StandIn) -> None:
    good = lines(rows())
    task = published_at(hub, table(rows()), sha256="0" * 64)
    with pytest.raises(UserError, match="other bytes than were published"):
        fetch(task)
    assert task.cached() is None
    second = Published(hub.file("/val.jsonl", good), hashlib.sha256(good).hexdigest())
    fetch(Origin("task", (*task.files, second)))
    assert locate(Origin("task", (*task.files, second)), None).file.read_bytes() == good


def test_offline_only_the_cache_is_read(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subprocess, "run", lambda *args, **kwargs: pytest.fail("something was fetched"))
    with pytest.raises(UserError, match="--offline forbids") as caught:
        locate(HELLASWAG.origin, None, offline=True)
    assert "--data FILE" in caught.value.faults[0].hint
    place = HELLASWAG.origin.place(HELLASWAG.origin.files[1])
    place.parent.mkdir(parents=True)
    place.write_bytes(lines(rows(3)))
    assert len(HELLASWAG.questions("completion", offline=True)[0]) == 3


def test_what_can_not_be_had_is_a_user_error_that_names_the_option(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    failing = subprocess.CompletedProcess([], 1, stderr=b"Traceback\nConnectionError: no route to host\n")
    monkeypatch.setattr(subprocess, "run", lambda *args, **kwargs: failing)
    with pytest.raises(UserError, match="no route to host") as caught:
        locate(HELLASWAG.origin, None, option="--hellaswag-data")
    assert "--hellaswag-data FILE" in caught.value.faults[0].hint
    assert not isinstance(caught.value, UsageError)


def test_the_process_that_fetches_tells_why_it_could_not(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    nowhere = Origin("task", (Published("hf://datasets/a/b@" + "0" * 40 + "/c.parquet", "0" * 64),))
    with pytest.raises(UserError, match=r"The data of task could not be had \(.*a/b") as caught:
        locate(nowhere, None)
    assert "Traceback" not in caught.value.faults[0].message


def test_a_place_that_does_not_answer_is_given_up_on_in_time(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run: Callable[..., Any] = subprocess.run
    sleeping = [sys.executable, "-c", "import time; time.sleep(60)"]
    monkeypatch.setattr(subprocess, "run", lambda command, **kwargs: run(sleeping, **kwargs))
    began = time.monotonic()
    with pytest.raises(UserError, match=r"within 0\.5 seconds"):
        locate(HELLASWAG.origin, None, seconds=0.5)
    assert time.monotonic() - began < 50
