"""Options as they are typed, and everything that can be wrong with them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from gptcli.cli.fields import fields_of
from gptcli.settings import COMMANDS

# Every option of the original scripts, with the default that it had there.
ORIGINAL: Mapping[str, Mapping[str, Any]] = {
    "tokenize": {
        "local_dir": "edu_fineweb10B",
        "remote_name": "sample-10BT",
        "shard_size": 100_000_000,
        "dataset_path": "HuggingFaceFW/fineweb-edu",
        "tokenizer_model": "gpt2",
    },
    "train": {
        "n_batches": 16,
        "n_tokens": None,
        "data_root": "edu_fineweb10B",
        "vocab_size": None,
        "emb_dim": 768,
        "context_length": 1024,
        "drop_rate": 0.0,
        "n_layers": 12,
        "n_heads": 12,
        "qkv_bias": False,
        "monitor": True,
        "torch_matmul_precision": "high",
        "log_dir": "log",
        "n_epochs": None,
        "warmup_iters": 715,
        "max_iters": None,
        "total_batch_size": 524_288,
        "metrics": ("hellaswag",),
        "max_lr": 6e-4,
        "min_lr": 6e-5,
    },
}
ORIGINAL_OPTIONS = [(command, name) for command, options in ORIGINAL.items() for name in options]


@pytest.mark.parametrize(("command", "name"), ORIGINAL_OPTIONS)
def test_every_option_of_the_original_scripts_has_its_default(
    command: str, name: str, gpt: Any, calls: list[Any]
) -> None:
    assert gpt(command).code == 0
    assert getattr(calls[0][0], name) == ORIGINAL[command][name]


@pytest.mark.parametrize(("command", "name"), ORIGINAL_OPTIONS)
def test_every_option_of_the_original_scripts_is_taken_with_dashes_and_with_underscores(
    command: str, name: str, gpt: Any, calls: list[Any]
) -> None:
    kind = fields_of(COMMANDS[command])[name]
    value = {bool: [], int: ["1"], float: ["0.5"], str: [(kind.choices or ("x",))[0]]}[kind.kind]
    for spelling in (name, name.replace("_", "-")):
        assert gpt(command, f"--{spelling}", *value).code == 0
    assert calls[0][0] == calls[1][0]
    assert calls[0][0].model_fields_set == {name}


def test_numbers_may_be_attached_with_an_equals_sign_and_written_in_scientific_notation(
    gpt: Any, calls: list[Any]
) -> None:
    assert gpt("train", "--max-lr=3e-4", "--total_batch_size=1e6").code == 0
    assert (calls[0][0].max_lr, calls[0][0].total_batch_size) == (3e-4, 1_000_000)


def test_a_negative_number_is_a_value_and_not_an_option(gpt: Any, calls: list[Any]) -> None:
    result = gpt("train", "--min-lr", "-1")
    assert result.code == 2
    assert result.faults == ["--min-lr: -1 is below 0."]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--metrics", "a,b"], ("a", "b")),
        (["--metrics", "a", "--metrics", "b"], ("a", "b")),
        (["--metrics", "a,b", "--metrics", "a"], ("a", "b")),
        (["--metrics=none"], ("none",)),
    ],
)
def test_lists_take_commas_or_repetition(
    words: list[str], expected: tuple[str, ...], gpt: Any, calls: list[Any]
) -> None:
    gpt("train", *words)
    assert calls[0][0].metrics == expected


@pytest.mark.parametrize("name", ["qkv_bias", "tie_embeddings", "monitor", "fresh"])
def test_a_switch_can_be_turned_on_and_off_and_the_last_one_counts(name: str, gpt: Any, calls: list[Any]) -> None:
    on, off = f"--{name}", f"--no-{name}"
    for words in ([on], [off], [on, off], [off, on], [on, off, on]):
        gpt("train", *words)
    assert [getattr(settings, name) for settings, _ in calls] == [True, False, False, True, True]


def test_positional_arguments_may_stand_between_options_and_begin_with_a_dash(gpt: Any, calls: list[Any]) -> None:
    gpt("tokenize", "a.txt", "--shard-size", "5", "b.txt", "--", "--odd.txt")
    gpt("generate", "-5 degrees", "--seed", "1")
    gpt("eval", "hellaswag,loss")
    gpt("eval", "hellaswag", "loss")
    assert calls[0][0].sources == ("a.txt", "b.txt", "--odd.txt")
    assert calls[1][0].prompt == "-5 degrees"
    assert calls[2][0].tasks == calls[3][0].tasks == ("hellaswag", "loss")


def test_all_faults_of_a_call_are_told_at_once_each_with_its_mend(
    gpt: Any, calls: list[Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("GPTCLI_MIN_LR", "abc")
    monkeypatch.setenv("GPTCLI_WARMUP_ITRES", "3")
    config = tmp_path / "run.toml"
    config.write_text('[train]\nkeep_lats = 3\nseed = "x"\n[evl]\nlimit = 1\n')
    result = gpt(
        "train", "--max_lrr", "3", "--n-heads", "x", "--n-layers", "--drop-rate", "1.5", "stray", "--device", "gpu",
        "--monitor=1", "--preset", "gtp2", "--config", str(config),
    )  # fmt: skip
    assert result.code == 2
    assert not calls
    assert result.out == ""
    assert result.err.splitlines() == [
        "error: There is no option --max_lrr.",
        "  Did you mean --max-lr?",
        "error: --n-layers needs a value.",
        "  --n-layers INT>=1: Transformer blocks.",
        "error: --monitor takes no value.",
        "  Write --monitor or --no-monitor.",
        "error: There is one word too many: 'stray'.",
        "  gpt train takes options only; a list takes commas between its values.",
        "error: GPTCLI_WARMUP_ITRES: no command has such an option.",
        "  Did you mean GPTCLI_WARMUP_ITERS?",
        f"error: {config}: there is no command for [evl].",
        "  Did you mean [eval]?",
        f"error: {config} [train] keep_lats: gpt train has no such option.",
        "  Did you mean keep_last?",
        "error: --preset: there is no preset 'gtp2'.",
        "  Did you mean 'gpt2'?",
        "error: --n-heads: 'x' is not a whole number.",
        "  It takes a whole number, at least 1.",
        "error: --drop-rate: 1.5 is not below 1.",
        "  It takes a number, at least 0 and below 1.",
        "error: GPTCLI_MIN_LR: 'abc' is not a number.",
        "  It takes a number, at least 0.",
        f"error: {config} [train] seed: 'x' is not a whole number.",
        "  It takes a whole number, at least 0.",
        "error: --device: 'gpu' is not one of auto, cpu, cuda, mps.",
        "  Did you mean 'cuda'?",
    ]


@pytest.mark.parametrize(
    ("words", "message", "hint"),
    [
        (
            ["train", "--lr", "3"],
            "There is no option --lr.",
            "Did you mean --max-lr or --embedding-lr or --head-lr or --min-lr?",
        ),
        (["train", "--xyzzy"], "There is no option --xyzzy.", "--help lists the options."),
        (["train", "--compile", "false"], "--compile: 'false' is not one of auto, on, off.", "Did you mean 'off'?"),
        (["train", "max-lr=3"], "There is one word too many: 'max-lr=3'.", "Did you mean --max-lr?"),
        (["train", "--max-lr", "inf"], "--max-lr: 'inf' is not a finite number.", "It takes a number, above 0."),
        (
            ["generate", "On a", "clear day"],
            "There is one word too many: 'clear day'.",
            "A text with spaces in it needs quotation marks around it.",
        ),
        (["tokenize", "--separator="], "--separator: '' is empty.", "It takes text."),
        (["trian"], "There is no command 'trian'.", "Did you mean `gpt train`?"),
        (
            ["frobnicate"],
            "There is no command 'frobnicate'.",
            "There are: tokenize, tokenizer, train, eval, generate, export, watch, runs, info, plot, doctor.",
        ),
    ],
)
def test_a_fault_names_the_nearest_valid_thing(
    words: list[str], message: str, hint: str, gpt: Any, calls: list[Any]
) -> None:
    result = gpt(*words)
    assert result.code == 2
    assert result.err.splitlines() == [f"error: {message}", f"  {hint}"]
    assert not calls


@pytest.mark.parametrize(
    ("command", "option"),
    [
        ("train", "--data-root"),
        ("train", "--log-dir"),
        ("eval", "--model"),
        ("generate", "--model"),
        ("plot", "--output"),
    ],
)
def test_an_empty_name_of_a_file_or_folder_is_refused(command: str, option: str, gpt: Any, calls: list[Any]) -> None:
    result = gpt(command, f"{option}=")
    assert (result.code, result.faults) == (2, [f"{option}: '' is empty."])
    assert not calls


@pytest.mark.parametrize("word", ["data", "model", "books.txt", "resume", "layer"])
def test_a_stray_word_is_no_option_unless_it_is_spelt_like_one(word: str, gpt: Any, calls: list[Any]) -> None:
    result = gpt("train", word)
    assert result.faults == [f"There is one word too many: {word!r}."]
    assert "Did you mean" not in result.err


def test_files_and_models_that_are_not_there_are_told_beside_wrong_options(
    gpt: Any, calls: list[Any], tmp_path: Path
) -> None:
    (tmp_path / "here.jsonl").write_text("{}")
    assert gpt("train", "--n-heads", "x", "--data-root", "./nowhere", "--hellaswag-data", "none.jsonl").faults == [
        "--n-heads: 'x' is not a whole number.",
        "There is no data folder nowhere.",
        "--hellaswag-data: there is no file none.jsonl.",
    ]
    assert gpt("eval", "hellaswag", "--limt", "3", "--model", "nope", "--data", "here.jsonl").faults == [
        "There is no option --limt.",
        "There is no model at nope.",
    ]
    # Neither a default nor a name on the Hub is looked at.
    assert gpt("train", "--n-heads", "x", "--init-from", "some/model").faults == [
        "--n-heads: 'x' is not a whole number."
    ]
    assert gpt("generate", "x", "--top-k", "-1").faults == ["--top-k: -1 is below 0."]
    assert not calls


def test_help_is_a_word_too(gpt: Any) -> None:
    assert gpt("help").out == gpt("--help").out != ""
    assert gpt("help", "train").out == gpt("train", "--help").out != ""


def test_an_unknown_option_of_gpt_itself_is_wrong_usage(gpt: Any) -> None:
    result = gpt("--verison")
    assert result.code == 2
    assert "--verison" in result.faults[0]


def test_json_of_train_is_for_a_dry_run_only(gpt: Any, calls: list[Any]) -> None:
    assert gpt("train", "--json").code == 2
    assert gpt("train", "--json", "--dry-run").code == 0
    assert calls[0][1].json


def test_a_command_is_told_the_words_that_it_was_called_with(gpt: Any, calls: list[Any]) -> None:
    gpt("train", "--n_layers", "2", "--no-monitor")
    assert calls[0][1].words == ("train", "--n_layers", "2", "--no-monitor")
