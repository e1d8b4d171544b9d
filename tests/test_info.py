"""Where a model comes from: what a checkpoint knows by itself, and what is told of runs, models and shards."""

from __future__ import annotations

import json
import shutil
import struct
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from small_runs import MODERN, sharp, tiny
from test_training import stopping_at

import gptcli
from gptcli import GPTConfig, load, train
from gptcli.data.pipeline import tokenize
from gptcli.data.source_records import shortened
from gptcli.errors import UsageError, UserError
from gptcli.export import export
from gptcli.info import ModelInfo, RunInfo, ShardsInfo, examine, model_info
from gptcli.model.checksums import CHECKSUMS, seal
from gptcli.model.files import WEIGHTS
from gptcli.model.huggingface import write_model
from gptcli.model.locate import checkpoints_of
from gptcli.settings import ExportSettings, TokenizeSettings
from gptcli.tokenizer import get_tokenizer
from gptcli.training import provenance
from gptcli.training.provenance import PROVENANCE

pytestmark = pytest.mark.usefixtures("one_thread")

SIZE: dict[str, Any] = {"vocab_size": 300, "emb_dim": 16, "context_length": 8, "n_layers": 2, "n_heads": 2}
SHAPES = {
    "gpt2": GPTConfig(**SIZE, qkv_bias=True),
    "gpt2 without biases": GPTConfig(**SIZE, bias=False),
    "gpt2 untied": GPTConfig(**SIZE, tie_embeddings=False),
    "llama": GPTConfig(**SIZE, positions="rotary", norm="rms", mlp="swiglu", bias=False, n_kv_heads=1),
}


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shards with a manifest, of two files."""
    home = tmp_path_factory.mktemp("texts")
    for name, text in (("one", "On a clear day. " * 200), ("two", "You can see the sea. " * 200)):
        (home / f"{name}.txt").write_text(text)
    sources = (str(home / "one.txt"), str(home / "two.txt"))
    tokenize(TokenizeSettings(sources=sources, local_dir=str(home / "shards"), tokenizer_model="bytes", workers=1))
    return home / "shards"


@pytest.fixture(scope="module")
def finished(texts: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on them."""
    run = tmp_path_factory.mktemp("runs") / "log"
    train(tiny(texts, run), command=["gpt", "train", "--data-root", "texts"])
    return run


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    """A copy of it to be changed."""
    return Path(shutil.copytree(finished, tmp_path / "log"))


def forget(run: Path) -> None:
    """Make the checkpoints those of a version that wrote no provenance."""
    for folder in checkpoints_of(run):
        (folder / PROVENANCE).unlink()
        (folder / CHECKSUMS).unlink()
        seal(folder)


# What a checkpoint knows


def test_a_checkpoint_knows_its_run_data_tokenizer_settings_versions_and_commit(finished: Path, texts: Path) -> None:
    told = provenance.read(checkpoints_of(finished)[0])
    recorded = json.loads((finished / "run.json").read_text())
    manifest = json.loads((texts / "manifest.json").read_text())
    metrics = [json.loads(line) for line in (finished / "metrics.jsonl").read_text().splitlines()]
    (val,) = [row for row in metrics if row["kind"] == "val" and row["step"] == 3]
    assert told
    assert (told.run, told.step, told.steps, told.tokens) == ("log", 3, 6, val["tokens"])
    assert told.val_loss == val["loss"]
    assert told.started == recorded["calls"][0]["time"] <= (told.saved or "")
    assert told.data.fingerprint == recorded["data"]["fingerprint"]
    assert told.data.totals == manifest["totals"]
    assert sum(told.data.tokens.values()) == manifest["totals"]["tokens"]
    assert list(told.data.sources) == manifest["sources"]
    assert told.tokenizer
    assert (told.tokenizer.name, told.tokenizer.sha256) == ("bytes", get_tokenizer("bytes").sha256)
    assert told.settings == tiny(texts, finished).model_dump(mode="json")
    assert told.versions == recorded["versions"]
    assert (told.versions["gpt"], told.versions["torch"]) == (gptcli.__version__, torch.__version__)
    assert told.git_commit == recorded["git_commit"]
    assert told.command == ("gpt", "train", "--data-root", "texts")


def test_it_knows_that_wherever_it_is_copied(finished: Path, tmp_path: Path) -> None:
    checkpoint = checkpoints_of(finished)[-1]
    shutil.copytree(checkpoint, tmp_path / "mine", ignore=lambda *_: ["training"])
    assert provenance.read(tmp_path / "mine") == provenance.read(checkpoint)
    assert load(tmp_path / "mine", device="cpu").generate("On", max_new_tokens=2, seed=1).ids


def test_nothing_of_the_environment_is_in_it(texts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_neverToBeSeen")
    folder = train(tiny(texts, tmp_path / "run", max_iters=3)).checkpoint
    assert folder
    assert all(b"hf_neverToBeSeen" not in file.read_bytes() for file in folder.rglob("*") if file.is_file())


def test_a_resumed_run_tells_of_the_call_that_wrote_the_checkpoint(texts: Path, tmp_path: Path) -> None:
    settings = tiny(texts, tmp_path / "run")
    train(settings, stopping_at(4), command=["first"])
    train(settings, command=["second"])
    before, after = (provenance.read(folder) for folder in checkpoints_of(tmp_path / "run")[-2:])
    assert before
    assert after
    assert ((before.step, before.command), (after.step, after.command)) == ((4, ("first",)), (6, ("second",)))
    assert before.started == after.started
    assert len(examine(str(tmp_path / "run")).calls) == 2  # type: ignore[union-attr]


def test_long_lists_of_files_are_told_in_short() -> None:
    files: Any = [{"path": f"books/{i % 3}/{i}.txt", "bytes": 10, "sha256": str(i)} for i in range(30)]
    assert shortened({"files": files[:20]}) == {"files": files[:20]}
    short: Any = shortened({"files": files})["files"]
    assert (short["count"], short["bytes"], short["under"]) == (30, 300, "books")
    renamed: Any = [{**file, "path": file["path"].replace("books", "texts")} for file in files]
    assert shortened({"files": renamed})["files"]["sha256"] == short["sha256"], "names don't count"  # type: ignore
    assert shortened({"files": files[::-1]})["files"]["sha256"] != short["sha256"]  # type: ignore
    remote: Any = {"dataset": "some/data", "files": {"count": 9, "sha256": "ab"}}
    assert shortened(remote) == remote
    apart: Any = shortened({"files": [*files, {"path": "/far/x.txt", "bytes": 1, "sha256": "x"}]})["files"]
    assert apart["under"] == ""


# Checkpoints of earlier versions


def test_a_checkpoint_without_it_is_told_by_its_run_loaded_and_resumed(
    texts: Path, finished: Path, tmp_path: Path
) -> None:
    settings = tiny(texts, tmp_path / "log")
    train(settings, stopping_at(4), command=["gpt", "train", "--data-root", "texts"])
    own = provenance.read(checkpoints_of(tmp_path / "log")[-1])
    forget(tmp_path / "log")
    derived = provenance.read(checkpoints_of(tmp_path / "log")[-1])
    assert own
    assert derived == own.model_copy(update={"saved": None})
    assert load(tmp_path / "log", device="cpu").folder.name == "step_0000004"
    assert train(settings).step == 6
    whole, joined = (load_file(checkpoints_of(path)[-1] / WEIGHTS) for path in (finished, tmp_path / "log"))
    assert all(torch.equal(whole[name], joined[name]) for name in whole)


def test_what_several_calls_differ_in_is_not_told_of_a_checkpoint_that_does_not_say_whose_it_is(run: Path) -> None:
    recorded = json.loads((run / "run.json").read_text())
    recorded["calls"].append(recorded["calls"][0] | {"git_commit": "0" * 40, "command": ["another"]})
    (run / "run.json").write_text(json.dumps(recorded))
    forget(run)
    told = provenance.read(checkpoints_of(run)[0])
    assert told
    assert (told.command, told.git_commit) == (None, None)
    assert told.versions == recorded["versions"], "which both have"


def test_without_its_run_nothing_is_made_up(run: Path) -> None:
    forget(run)
    moved = checkpoints_of(run)[0].rename(run.parent / "moved")
    info = model_info(moved)
    assert info.provenance is None
    assert (info.family, info.resumable, info.faults) == ("GPT-2", True, ())


# Exports


def test_an_exported_folder_tells_what_the_checkpoint_does(finished: Path, tmp_path: Path) -> None:
    checkpoint = checkpoints_of(finished)[-1]
    export(ExportSettings(model=str(finished), out=str(tmp_path / "out"), format="hf"))
    info = examine(str(tmp_path / "out"))
    assert isinstance(info, ModelInfo)
    assert info.provenance == provenance.read(checkpoint)
    assert info.parameters == load(tmp_path / "out", device="cpu").model.n_parameters()
    assert (info.resumable, info.sealed) == (False, False)
    assert info.tokenizer
    assert info.tokenizer.name == "bytes"


def test_a_gguf_file_has_it_in_its_metadata(finished: Path, tmp_path: Path) -> None:
    gguf = pytest.importorskip("gguf")
    export(ExportSettings(model=str(finished), out=str(tmp_path / "m.gguf")))
    fields = {name: field.contents() for name, field in gguf.GGUFReader(tmp_path / "m.gguf").fields.items()}
    assert fields["general.name"] == "log, step 6"
    assert fields["gptcli.provenance"] == (checkpoints_of(finished)[-1] / PROVENANCE).read_text(encoding="utf-8")


# Models


@pytest.mark.parametrize("name", SHAPES)
def test_parameters_are_counted_from_the_headers(name: str, tmp_path: Path) -> None:
    model = sharp(SHAPES[name])
    write_model(tmp_path, model, None)
    info = model_info(tmp_path)
    assert info.parameters == model.n_parameters()
    assert info.shape == SHAPES[name]
    assert info.dtypes == ("F32",)


def test_what_older_files_keep_beside_the_weights_is_not_counted(tmp_path: Path) -> None:
    model = sharp(SHAPES["gpt2"])
    write_model(tmp_path, model, None)
    tensors = load_file(tmp_path / WEIGHTS)
    plain = {name.removeprefix("transformer."): tensor for name, tensor in tensors.items()}
    plain |= {"h.0.attn.bias": torch.ones(1, 1, 8, 8), "lm_head.weight": tensors["transformer.wte.weight"].clone()}
    save_file(plain, tmp_path / WEIGHTS)
    assert model_info(tmp_path).parameters == model.n_parameters()


def stranger(folder: Path, files: int = 1) -> Path:
    """A model of a family that gpt can't run."""
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"model_type": "mistral", "vocab_size": 100}))
    names = [WEIGHTS] if files == 1 else [f"model-{i}.safetensors" for i in range(files)]
    for i, name in enumerate(names):
        save_file({f"tensor{i}": torch.zeros(10, 5, dtype=torch.bfloat16)}, folder / name)
    if files > 1:
        index = {"weight_map": {f"tensor{i}": name for i, name in enumerate(names)}}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return folder


def test_of_a_strangers_model_is_told_what_is_known(tmp_path: Path) -> None:
    for files in (1, 3):
        info = model_info(stranger(tmp_path / str(files), files))
        assert (info.family, info.shape, info.parameters, info.dtypes) == ("mistral", None, 50 * files, ("BF16",))
        assert (info.tokenizer, info.provenance, info.faults) == (None, None, ())


def test_files_that_are_missing_or_cut_off_are_told(tmp_path: Path) -> None:
    folder = stranger(tmp_path / "split", 3)
    (folder / "model-1.safetensors").unlink()
    assert "model-1.safetensors" in model_info(folder).faults[0]
    whole = stranger(tmp_path / "cut") / WEIGHTS
    for content in (whole.read_bytes()[:-7], b"version https://git-lfs.github.com/spec/v1\n", b"\x02\0\0\0\0\0\0\0[]"):
        whole.write_bytes(content)
        info = model_info(whole.parent)
        assert "is damaged" in info.faults[0]
        assert info.parameters is None
    whole.unlink()
    assert model_info(whole.parent).faults == (f"holds no {WEIGHTS}",)
    write_model(tmp_path, sharp(SHAPES["gpt2"]), None)
    tensors = load_file(tmp_path / WEIGHTS)
    del tensors["transformer.ln_f.weight"]
    save_file(tensors, tmp_path / WEIGHTS)
    assert model_info(tmp_path).faults == ("has no tensor transformer.ln_f.weight",)


def test_sizes_are_looked_at_and_contents_where_it_is_asked_for(run: Path) -> None:
    checkpoint = checkpoints_of(run)[0]
    assert (model_info(checkpoint).faults, model_info(checkpoint, verify=True).faults) == ((), ())
    content = bytearray((checkpoint / WEIGHTS).read_bytes())
    content[-1] ^= 1
    (checkpoint / WEIGHTS).write_bytes(bytes(content))
    assert model_info(checkpoint).faults == ()
    assert model_info(checkpoint, verify=True).faults == (f"is damaged: the content of {WEIGHTS} has changed",)
    (checkpoint / WEIGHTS).write_bytes(bytes(content[:-9]))
    assert "is damaged: model.safetensors has" in model_info(checkpoint).faults[0]


def test_a_damaged_provenance_is_told_and_keeps_nobody_from_the_model(run: Path) -> None:
    checkpoint = checkpoints_of(run)[-1]
    for content in ("{", "[]", '{"step": "far"}', ""):
        (checkpoint / PROVENANCE).write_text(content)
        info = model_info(checkpoint)
        assert info.provenance is None
        assert any(PROVENANCE in fault for fault in info.faults)
        assert load(checkpoint, device="cpu").model


# Runs


def test_a_run_tells_its_set_up_calls_and_checkpoints(finished: Path, texts: Path) -> None:
    info = examine(str(finished))
    assert isinstance(info, RunInfo)
    assert (info.family, info.parameters) == ("GPT-2", model_info(checkpoints_of(finished)[0]).parameters)
    assert info.provenance
    assert (info.provenance.step, info.provenance.steps) == (6, 6)
    assert [state.step for state in info.checkpoints] == [3, 6]
    losses = {state.step: state.val_loss for state in info.checkpoints}
    assert [state.step for state in info.checkpoints if state.is_best] == [min(losses, key=lambda s: losses[s] or 9e9)]
    assert all(state.bytes > 0 and state.saved and not state.fault for state in info.checkpoints)
    assert info.changed["n_layers"] == 2
    assert info.changed["data_root"] == str(texts)
    assert "beta1" not in info.changed
    assert [call["command"] for call in info.calls] == [["gpt", "train", "--data-root", "texts"]]


def test_a_modern_run_is_told_by_its_family(texts: Path, tmp_path: Path) -> None:
    train(tiny(texts, tmp_path, **MODERN, max_iters=3))
    info = examine(str(tmp_path))
    assert isinstance(info, RunInfo)
    assert info.family == "Qwen3"
    assert info.parameters == model_info(checkpoints_of(tmp_path)[-1]).parameters


def test_a_damaged_checkpoint_of_a_run_is_named_and_the_one_before_it_is_where_it_stands(run: Path) -> None:
    (checkpoints_of(run)[-1] / "config.json").unlink()
    info = examine(str(run))
    assert isinstance(info, RunInfo)
    assert info.faults == ("step_0000006 lacks config.json",)
    assert info.provenance
    assert info.provenance.step == 3


def test_a_run_without_checkpoints_or_without_run_json_is_told_as_far_as_it_goes(run: Path) -> None:
    kept = (run / "run.json").read_bytes()
    (run / "run.json").unlink()
    info = examine(str(run))
    assert isinstance(info, RunInfo)
    assert (info.provenance, len(info.checkpoints)) == (None, 2)
    (run / "run.json").write_bytes(kept)
    shutil.rmtree(run / "checkpoints")
    info = examine(str(run))
    assert isinstance(info, RunInfo)
    assert info.provenance
    assert (info.provenance.step, info.checkpoints) == (0, ())


# Shards


def test_shards_with_a_manifest_tell_tokenizer_sources_and_documents(texts: Path) -> None:
    info = examine(str(texts), verify=True)
    manifest = json.loads((texts / "manifest.json").read_text())
    assert isinstance(info, ShardsInfo)
    assert info.tokens == manifest["totals"]["tokens"]
    assert info.totals == manifest["totals"]
    assert {name: split.shards for name, split in info.splits.items()} == {"train": 1, "val": 1}
    assert info.tokenizer
    assert (info.tokenizer.name, info.dtypes, info.formats) == ("bytes", ("uint16",), (".npy",))
    assert list(info.sources) == manifest["sources"]
    assert info.verified


def test_shards_without_a_manifest_tell_what_their_headers_do(shards: Path, tmp_path: Path) -> None:
    info = examine(str(shards))
    assert isinstance(info, ShardsInfo)
    assert {name: (split.shards, split.tokens) for name, split in info.splits.items()} == {
        "train": (2, 6_000),
        "val": (1, 1_050),
    }
    assert (info.has_manifest, info.tokenizer, info.totals) == (False, None, None)
    for split, tokens in (("train", 70), ("val", 30)):
        header = np.zeros(256, dtype="<i4")
        header[:3] = 20240520, 1, tokens
        ids = np.arange(tokens, dtype="<u2")
        (tmp_path / f"book_{split}_000000.bin").write_bytes(header.tobytes() + ids.tobytes())
    llmc = examine(str(tmp_path))
    assert isinstance(llmc, ShardsInfo)
    assert (llmc.tokens, llmc.formats, llmc.dtypes) == (100, (".bin",), ("uint16",))


def test_damaged_shards_are_named(texts: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(texts, tmp_path / "copy"))
    file = copy / "train_000001.npy"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(bytes(content))
    assert isinstance(examine(str(copy)), ShardsInfo)
    with pytest.raises(UserError, match="checksum differs"):
        examine(str(copy), verify=True)
    file.write_bytes(bytes(content[:-2]))
    with pytest.raises(UserError, match=r"train_000001\.npy is cut off"):
        examine(str(copy))


# Names


def refused(name: str, **options: bool) -> str:
    with pytest.raises(UsageError) as error:
        examine(name, **options)
    return f"{error.value.faults[0].message} {error.value.faults[0].hint}"


def test_a_name_that_means_no_such_folder_is_told_with_what_was_meant(
    run: Path, texts: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(run.parent)
    shutil.copytree(texts, "data/books")
    Path("empty").mkdir()
    assert isinstance(examine("books"), ShardsInfo), "a bare name lies under ./data"
    assert examine("log/best").folder.parent == Path("log/checkpoints")
    assert "There is no folder lgo. Did you mean 'log'?" in refused("lgo")
    assert "Did you mean 'books'?" in refused("boks")
    assert "Did you mean 'log'?" in refused("log/checkpoints")
    assert "Did you mean 'log'?" in refused("log/run.json")
    assert "In it are log." in refused(".")
    assert "none of what gpt info tells of" in refused("empty")
    assert "gpt generate" in refused("someone/a-model-of-theirs")


def test_there_must_be_checksums_to_verify_by(run: Path, shards: Path, tmp_path: Path) -> None:
    write_model(tmp_path, sharp(SHAPES["gpt2"]), None)
    assert "has no checksums" in refused(str(tmp_path), verify=True)
    assert "has no manifest" in refused(str(shards), verify=True)
    shutil.rmtree(run / "checkpoints")
    assert "has checksums" in refused(str(run), verify=True)


def test_torch_is_not_imported(finished: Path, texts: Path, tmp_path: Path) -> None:
    write_model(tmp_path, sharp(replace(SHAPES["gpt2"], vocab_size=50_304)), None)
    names = [str(name) for name in (finished, checkpoints_of(finished)[0], texts, tmp_path)]
    code = f"import sys; from gptcli.cli.main import run; assert not any(run(['info', n]) for n in {names!r})"
    done = subprocess.run(
        [sys.executable, "-c", f"{code}; assert 'torch' not in sys.modules"], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr


def test_a_header_is_read_as_the_format_has_it(tmp_path: Path) -> None:
    folder = stranger(tmp_path / "model")
    length = struct.unpack("<Q", (folder / WEIGHTS).read_bytes()[:8])[0]
    (folder / WEIGHTS).write_bytes(struct.pack("<Q", length + 2**40) + (folder / WEIGHTS).read_bytes()[8:])
    assert "does not begin as a safetensors file does" in model_info(folder).faults[0]
