"""What `gpt info` prints, and the line on a model that generate and eval print."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from small_runs import sharp, tiny, write_shards

from gptcli import GPTConfig, train
from gptcli.cli.origin_line import describe, rounded
from gptcli.info import ModelInfo, model_info
from gptcli.model.huggingface import write_model
from gptcli.model.locate import checkpoints_of
from gptcli.training.provenance import DataOrigin, Provenance

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("home")
    train(tiny(write_shards(home / "data" / "words"), home / "log"), command=["gpt", "train", "--data-root", "words"])
    return home


@pytest.fixture
def home(finished: Path, tmp_path: Path) -> Path:
    shutil.copytree(finished, tmp_path, dirs_exist_ok=True)  # where the tests' working folder is
    return tmp_path


def lines(out: str) -> dict[str, str]:
    """What is told under each word."""
    told: dict[str, str] = {}
    key = ""
    for line in out.splitlines()[1:]:
        key = line[:12].strip() or key
        told[key] = f"{told.get(key, '')} {line[12:]}".strip()
    return told


def test_a_run_is_told_to_standard_output(gpt: Any, home: Path) -> None:
    result = gpt("info")
    assert (result.code, result.err) == (0, "")
    assert result.out.startswith("log: run\n")
    told = lines(result.out)
    assert told["trained"] == "6 of 6 steps, 384 tokens"
    assert "--n-layers 2" in told["settings"]
    assert "--metrics none" in told["settings"]
    assert told["calls"].endswith("gpt train --data-root words")
    assert "step_0000003" in told["checkpoints"]
    assert "the best" in told["checkpoints"]
    assert max(map(len, result.out.splitlines())) <= 100 or str(home) in result.out


def test_a_checkpoint_a_model_and_shards_are_told(gpt: Any, home: Path) -> None:
    told = lines(gpt("info", "log/checkpoints/step_0000003").out)
    assert told["trained"].startswith("step 3 of 6, 192 tokens, validation loss ")
    assert told["run"].startswith("log, begun 20")
    assert "6,000 train, 1,050 val tokens" in told["data"]
    assert told["state"].startswith("whole, by the sizes")
    assert lines(gpt("info", "log/best", "--verify").out)["state"] == "whole: all checksums hold"
    assert lines(gpt("info", "words").out)["tokens"] == "7,050: 6,000 train in 2 shards, 1,050 val in 1 shard"
    Path("other").mkdir()
    write_model(Path("other"), sharp(GPTConfig(40, 8, 32, 2, 4)), 3)
    assert lines(gpt("info", "other").out)["origin"] == "not told: it has no provenance.json"


@pytest.mark.parametrize(("name", "kind"), [("log", "run"), ("log/best", "model"), ("words", "shards")])
def test_json_is_one_document(name: str, kind: str, gpt: Any, home: Path) -> None:
    document = json.loads(gpt("info", name, "--json").out)
    assert document["kind"] == kind
    assert Path(document["folder"]).is_dir()
    if kind != "shards":
        data = json.loads(gpt("info", "words", "--json").out)
        assert document["provenance"]["data"]["fingerprint"] == data["fingerprint"]


def test_damage_is_told_and_is_a_failure(gpt: Any, home: Path) -> None:
    (Path("log/checkpoints/step_0000006") / "config.json").unlink()
    result = gpt("info")
    assert result.code == 1
    assert lines(result.out)["damage"] == "step_0000006 lacks config.json"
    assert gpt("info", "lgo").faults == ["There is no folder lgo."]
    assert gpt("info", "lgo", "--verfy").faults == ["There is no option --verfy.", "There is no folder lgo."]


def test_generate_tells_of_a_checkpoint_by_its_data_and_versions(gpt: Any, home: Path) -> None:
    result = gpt("generate", "Say", "--max-new-tokens", "1", "--device", "cpu", "--json")
    assert json.loads(result.out)["prompt"] == "Say"
    line = result.err.splitlines()[0]
    fingerprint = json.loads(gpt("info", "--json").out)["provenance"]["data"]["fingerprint"]
    start = Path("log/checkpoints/step_0000006")
    assert line.startswith(f"{start}: ")
    assert f" parameters, data words ({fingerprint[:8]}), gpt " in line
    shutil.copytree(checkpoints_of(Path("log"))[0], "mine")
    line = gpt("generate", "Say", "--model", "mine", "--max-new-tokens", "1", "--device", "cpu").err.splitlines()[0]
    assert line.startswith("mine: step 3 of run log, ")


def test_the_line_fits_where_names_are_short(home: Path) -> None:
    info = model_info(Path("log/checkpoints/step_0000006"))
    made = Provenance(
        run="log",
        step=400,
        data=DataOrigin(folder="data/sotu", fingerprint="3caecfc4" * 8),
        versions={"gpt": "2.0.0.dev0"},
        git_commit="cdf93ac" + "0" * 33,
    )
    info = ModelInfo(**vars(info) | {"provenance": made, "parameters": 7_248_640})
    line = describe(info, "log/checkpoints/step_0000400")
    assert line == (
        "log/checkpoints/step_0000400: 7.2M parameters, data sotu (3caecfc4), gpt 2.0.0.dev0, commit cdf93ac"
    )
    assert len(line) <= 100
    moved = ModelInfo(**vars(info) | {"folder": Path("mine")})
    assert describe(moved, "mine").startswith("mine: step 400 of run log, 7.2M parameters, ")


def test_a_strangers_names_do_not_steer_the_terminal(home: Path) -> None:
    made = Provenance(run="\x1b[2Jlog\nerror: no", step=1)
    info = ModelInfo(**vars(model_info(checkpoints_of(Path("log"))[0])) | {"provenance": made})
    assert describe(info, "mine").isprintable()


def test_parameters_are_rounded_as_people_say_them() -> None:
    told = {950: "950", 28_400: "28k", 999_600: "1.0M", 7_248_640: "7.2M", 9_960_000: "10M", 124_475_904: "124M"}
    assert {number: rounded(number) for number in told} == told
    assert rounded(1_557_611_200) == "1.6B"
