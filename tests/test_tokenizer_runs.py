"""Nobody names a tokenizer twice: from shards of characters to a model that is trained, measured and asked."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from small_runs import tiny
from test_tokenizer import LIBRARY

from gptcli import load, train
from gptcli.data.manifest import Manifest, ShardRecord, TokenizerRecord, Totals
from gptcli.data.shards import open_shards
from gptcli.errors import UsageError, UserError
from gptcli.evals.run import evaluate
from gptcli.settings import EvalSettings
from gptcli.tokenizer import Tokenizer, chars_tokenizer, get_tokenizer
from gptcli.tokenizer_files import save_tokenizer
from gptcli.training.setup import prepare

TEXT = "to be or not to be,\nthat is the question. "
HELLASWAG = {"ind": 1, "activity_label": "A", "ctx": "A man — he", "endings": ["a", "b", "c", "d"], "label": 0}


def write_text_shards(folder: Path, tokenizer: Tokenizer, text: str = TEXT) -> Path:
    """Shards of a text, as tokenizing leaves them."""
    folder.mkdir()
    tokens = [tokenizer.eot, *tokenizer.encode(text * 40)]
    shards, n_val = [], len(tokens) // 8
    for split, number, part in (("val", 0, tokens[:n_val]), ("train", 1, tokens[n_val:])):
        name = f"{split}_{number:06d}.npy"
        np.save(folder / name, np.array(part, dtype=np.uint16))
        shards.append(ShardRecord(name=name, split=split, tokens=len(part), sha256="0" * 64))
    record = TokenizerRecord.of(tokenizer)
    if record.file:
        save_tokenizer(folder, tokenizer)
    totals = Totals(documents=1, tokens=len(tokens), bytes=len(text) * 40)
    manifest = Manifest(tokenizer=record, dtype="uint16", shards=tuple(shards), totals=totals, sources=(), options={})
    manifest.write(folder)
    return folder


CHARS = chars_tokenizer(TEXT)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on shards of characters, whose settings name no tokenizer."""
    folder = tmp_path_factory.mktemp("chars")
    train(tiny(write_text_shards(folder / "data", CHARS), folder / "run", max_iters=20))
    return folder


def test_a_run_on_characters_generates_characters(run: Path) -> None:
    model = load(run / "run", device="cpu")
    assert model.tokenizer == CHARS
    assert model.vocab_size == CHARS.vocab_size
    completion = model.generate("to be", max_new_tokens=30, seed=1)
    assert set(completion.text) <= set(TEXT)
    assert "".join(model.stream("to be", max_new_tokens=30, seed=1)) == completion.text
    with pytest.raises(UserError, match="no 'é'"):
        model.generate("é")


def test_a_run_on_characters_samples_from_the_start_of_a_document(run: Path) -> None:
    rows = [json.loads(line) for line in (run / "run" / "samples.jsonl").read_text().splitlines()]
    assert rows
    assert all(row["prompt"] == "" and len(row["ids"]) > 0 for row in rows)  # the usual prompt has a capital O


def test_a_run_on_characters_is_measured_on_its_shards(run: Path) -> None:
    settings = EvalSettings(tasks=("loss",), model=(str(run / "run"),), data_root=str(run / "data"), device="cpu")
    (result,) = evaluate(settings)
    figures = result.measured.figures
    # Every character here is a byte, so that nats per token and bits per byte are the same but for the unit.
    assert figures["bits_per_byte"] == pytest.approx(figures["loss"] / np.log(2), rel=0.02)


def test_another_tokenizer_of_the_same_name_is_refused(run: Path, tmp_path: Path) -> None:
    other = write_text_shards(tmp_path / "other", chars_tokenizer(TEXT + "é"))
    with pytest.raises(UsageError, match="different vocabularies called 'chars'") as error:
        evaluate(EvalSettings(tasks=("loss",), model=(str(run / "run"),), data_root=str(other), device="cpu"))
    assert "--tokenizer-model" in error.value.faults[0].hint
    with pytest.raises(UsageError, match="has the tokenizer 'chars'"):
        prepare(tiny(other, tmp_path / "run", init_from=str(run / "run")))


def test_the_tokenizer_of_a_model_can_be_named_by_its_folder(run: Path) -> None:
    (checkpoint,) = (run / "run" / "checkpoints").glob("step_0000020")
    assert get_tokenizer(str(checkpoint)) == CHARS
    assert get_tokenizer(str(run / "data")) == CHARS


def test_hellaswag_is_left_out_for_characters_unless_it_was_asked_for(run: Path, tmp_path: Path) -> None:
    settings = tiny(run / "data", tmp_path / "run")
    given = {name: getattr(settings, name) for name in settings.model_fields_set - {"metrics"}}
    setup = prepare(type(settings)(**given))
    assert setup.metrics == ()
    assert any("HellaSwag has characters" in note for note in setup.notes)
    with pytest.raises(UsageError, match="HellaSwag has characters that the tokenizer 'chars' does not know"):
        prepare(tiny(run / "data", tmp_path / "run", metrics=("hellaswag",)))


def test_hellaswag_refuses_a_model_of_characters(run: Path, tmp_path: Path) -> None:
    file = tmp_path / "hellaswag.jsonl"
    file.write_text(json.dumps(HELLASWAG) + "\n")
    with pytest.raises(UserError, match="HellaSwag has characters that the tokenizer 'chars' does not know"):
        evaluate(EvalSettings(tasks=("hellaswag",), model=(str(run / "run"),), data=str(file), device="cpu"))


@pytest.mark.parametrize("tokenizer", [get_tokenizer("bytes"), LIBRARY["llama"], LIBRARY["bytelevel"]])
def test_a_run_on_any_tokenizer_streams_whole_characters(tokenizer: Tokenizer, tmp_path: Path) -> None:
    train(
        tiny(
            write_text_shards(tmp_path / "data", tokenizer, "naïve 🙂 ไทย "),
            tmp_path / "run",
            max_iters=2,
            warmup_iters=1,
        )
    )
    model = load(tmp_path / "run", device="cpu")
    assert model.tokenizer == tokenizer
    stream = model.stream("naïve", max_new_tokens=40, seed=2, stop_at_end=False)
    pieces = list(stream)
    assert "".join(pieces) == stream.completion.text


@pytest.mark.parametrize("tokenizer", [get_tokenizer("gpt2"), get_tokenizer("bytes"), CHARS, LIBRARY["llama"]])
def test_shards_find_their_tokenizer(tokenizer: Tokenizer, tmp_path: Path) -> None:
    shards = open_shards(write_text_shards(tmp_path / "data", tokenizer, "to be"))
    assert shards.tokenizer() == tokenizer
    assert (tmp_path / "data" / "tokenizer.json").exists() == (tokenizer.name not in ("gpt2", "bytes"))


def test_shards_without_a_manifest_name_no_tokenizer(shards: Path) -> None:
    assert open_shards(shards).tokenizer() is None


def test_manifests_of_before_name_the_tokenizer_alone(tmp_path: Path) -> None:
    folder = write_text_shards(tmp_path / "data", get_tokenizer("gpt2"))
    before = open_shards(folder)
    assert before.manifest is not None
    content = json.loads((folder / "manifest.json").read_text())
    del content["tokenizer"]["file"]
    (folder / "manifest.json").write_text(json.dumps(content))
    after = open_shards(folder)
    assert after.tokenizer() == get_tokenizer("gpt2")
    assert after.fingerprint == before.fingerprint
    record = replace(after, manifest=before.manifest.model_copy(update={"tokenizer": TokenizerRecord.of(CHARS)}))
    assert record.fingerprint != before.fingerprint


@pytest.mark.parametrize("stored", [None, chars_tokenizer("abc"), get_tokenizer("bytes")])
def test_shards_whose_tokenizer_is_another_are_refused_naming_both(stored: Tokenizer | None, tmp_path: Path) -> None:
    folder = write_text_shards(tmp_path / "data", CHARS)
    for file in ("tokenizer.json", "tokenizer_config.json"):
        (folder / file).unlink()
    if stored:
        save_tokenizer(folder, stored)
    with pytest.raises(UserError, match=rf"'chars'.*'{stored.name}'" if stored else "'chars'.*not there"):
        open_shards(folder).tokenizer()
    with pytest.raises(UserError, match="'chars'"):
        prepare(tiny(folder, tmp_path / "run"))


def test_a_manifest_can_not_have_tokenizers_fetched_from_anywhere(tmp_path: Path) -> None:
    folder = write_text_shards(tmp_path / "data", CHARS)
    content = json.loads((folder / "manifest.json").read_text())
    content["tokenizer"] |= {"file": None, "name": "someone/something"}
    (folder / "manifest.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match=r"'someone/something'.*not there"):
        open_shards(folder).tokenizer()
