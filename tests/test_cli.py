"""The command line as a person meets it: options, faults, precedence, exit codes, and what goes to which stream."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gptcli.cli import main as cli
from gptcli.cli.config_file import write_config
from gptcli.cli.fields import fields_of
from gptcli.cli.resolve import resolve
from gptcli.errors import UsageError, UserError
from gptcli.presets import PRESETS
from gptcli.settings import COMMANDS, PlotSettings, TokenizeSettings, TrainSettings

FAULT = re.compile(r"^error: (.*)$", re.MULTILINE)


@pytest.fixture(autouse=True)
def _no_settings_from_outside(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in list(os.environ):
        if name.startswith("GPTCLI_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Settings that the commands were called with; the commands themselves do nothing."""
    seen: list[Any] = []

    def record(settings: Any, call: Any) -> int:
        seen.append((settings, call))
        return 0

    for name in COMMANDS:
        monkeypatch.setattr(f"gptcli.cli.{name}.run", record)
    return seen


@dataclass
class Output:
    code: int
    out: str
    err: str

    @property
    def faults(self) -> list[str]:
        return FAULT.findall(self.err)


@pytest.fixture
def gpt(capsys: pytest.CaptureFixture[str]) -> Any:
    def call(*words: str) -> Output:
        code = cli.run(list(words))
        return Output(code, *capsys.readouterr())

    return call


def stub(monkeypatch: pytest.MonkeyPatch, module: str, **members: Any) -> None:
    """Replace a whole module of the core for what a command imports from it."""
    made = ModuleType(module)
    for name, member in members.items():
        setattr(made, name, member)
    monkeypatch.setitem(sys.modules, module, made)


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
        (["train", "--lr", "3"], "There is no option --lr.", "Did you mean --max-lr or --min-lr?"),
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
        (["frobnicate"], "There is no command 'frobnicate'.", "There are: tokenize, train, eval, generate, plot."),
    ],
)
def test_a_fault_names_the_nearest_valid_thing(
    words: list[str], message: str, hint: str, gpt: Any, calls: list[Any]
) -> None:
    result = gpt(*words)
    assert result.code == 2
    assert result.err.splitlines() == [f"error: {message}", f"  {hint}"]
    assert not calls


def test_an_unknown_option_of_gpt_itself_is_wrong_usage(gpt: Any) -> None:
    result = gpt("--verison")
    assert result.code == 2
    assert "--verison" in result.faults[0]


def test_flag_goes_before_environment_before_file_before_preset_before_default(tmp_path: Path) -> None:
    config = tmp_path / "c.toml"
    config.write_text('[train]\nn-layers = 3\nmax_lr = 0.25\npreset = "demo"\nmetrics = "none"\n[eval]\nlimit = 5\n')
    environ = {"GPTCLI_N_LAYERS": "2", "GPTCLI_N_HEADS": "2", "GPTCLI_LOG_DIR": "", "GPTCLI_LIMIT": "junk"}
    resolved = resolve(TrainSettings, {"n_layers": "1"}, environ, str(config))
    settings, origin = resolved.settings, resolved.origin
    assert (settings.n_layers, origin["n_layers"]) == (1, "--n-layers")
    assert (settings.n_heads, origin["n_heads"]) == (2, "GPTCLI_N_HEADS")
    assert (settings.max_lr, origin["max_lr"]) == (0.25, f"{config} [train] max_lr")
    assert (settings.emb_dim, origin["emb_dim"]) == (PRESETS["demo"]["emb_dim"], "--preset demo")
    assert (settings.log_dir, origin["log_dir"]) == ("log", "default")
    assert settings.metrics == ("none",)
    asked = {"n_layers", "n_heads", "max_lr", "preset", "metrics", *PRESETS["demo"]}
    assert settings.model_fields_set == asked


@pytest.mark.parametrize("where", ["flag", "environment", "file"])
def test_a_preset_may_be_named_anywhere(where: str, tmp_path: Path) -> None:
    config = tmp_path / "c.toml"
    config.write_text('[train]\npreset = "gpt2-xl"\n' if where == "file" else "")
    flags = {"preset": "gpt2-xl"} if where == "flag" else {}
    environ = {"GPTCLI_PRESET": "gpt2-xl"} if where == "environment" else {}
    assert resolve(TrainSettings, flags, environ, str(config)).settings.n_layers == 48


def test_a_configuration_file_may_be_named_in_the_environment(
    gpt: Any, calls: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "c.toml").write_text("[train]\nseed = 7\n")
    monkeypatch.setenv("GPTCLI_CONFIG", "c.toml")
    gpt("train")
    assert calls[0][0].seed == 7


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "there is no file"),
        ("max_lr = 3", "max_lr stands outside of any table"),
        ("train = 3", "train is not a table"),
        ("[train\n", "is not valid TOML"),
        ("[train]\nmax-lr = 1\nmax_lr = 2\n", "is there twice"),
        ("[train]\npreset = 3\n", "[train] preset: 3 is not text"),
        ("[train]\nmetrics = 3\n", "[train] metrics: 3 is not a list"),
        ("[train]\nn_layers = 1.5\n", "[train] n_layers: 1.5 is not a whole number"),
    ],
)
def test_a_faulty_configuration_file_is_told_with_table_and_key(text: str | None, message: str, tmp_path: Path) -> None:
    config = tmp_path / "c.toml"
    if text is not None:
        config.write_text(text)
    with pytest.raises(UsageError, match=re.escape(message)) as caught:
        resolve(TrainSettings, {}, {}, str(config))
    assert len(caught.value.faults) == 1


_PLAIN = st.characters(exclude_categories=["Cs"])
TRAINS = st.fixed_dictionaries(
    {},
    optional={
        "preset": st.sampled_from(list(PRESETS)),
        "n_layers": st.integers(1, 2**62),
        "max_lr": st.floats(1e-300, 1e300),
        "n_epochs": st.floats(min_value=0, exclude_min=True, allow_infinity=False),
        "log_dir": st.text(_PLAIN),
        "hellaswag_data": st.text(_PLAIN),
        "metrics": st.lists(st.text(_PLAIN, min_size=1)),
        "qkv_bias": st.booleans(),
        "warmup_iters": st.integers(0, 10**6),
        "device": st.sampled_from(["auto", "cpu", "cuda", "cuda:3", "mps"]),
        "seed": st.integers(0, 2**63 - 1),
    },
)


@given(TRAINS)
def test_a_printed_configuration_given_back_resolves_to_the_same_settings(flags: dict[str, Any]) -> None:
    import tempfile

    settings = resolve(TrainSettings, flags, {}).settings
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "c.toml"
        file.write_text(write_config(settings, fields_of(TrainSettings)), encoding="utf-8", newline="\n")
        again = resolve(TrainSettings, {}, {}, str(file)).settings
    assert again == settings
    # What bends to the run unless it is asked for must not have been asked for by printing it.
    assert {"metrics", "warmup_iters"} & again.model_fields_set == {"metrics", "warmup_iters"} & settings.model_fields_set


@pytest.mark.parametrize("command", list(COMMANDS))
def test_a_printed_configuration_has_every_option_with_its_value_and_help(
    command: str, gpt: Any, calls: list[Any], tmp_path: Path
) -> None:
    printed = gpt(command, "--print-config").out
    table = tomllib.loads(printed)
    assert list(table) == [command]
    for name, option in fields_of(COMMANDS[command]).items():
        assert f"# {option.help}\n" in printed
        assert name in table[command] or re.search(rf"^# {name} =", printed, re.MULTILINE)
    (tmp_path / "c.toml").write_text(printed)
    assert gpt(command, "--config", "c.toml", "--print-config").out == printed
    assert not calls


def test_text_with_quotes_backslashes_and_line_breaks_survives_a_configuration_file(gpt: Any, calls: list[Any]) -> None:
    odd = 'a"b\\n\n\t\x7f\U0001f600é'
    Path("c.toml").write_text(gpt("generate", odd, "--print-config").out, encoding="utf-8", newline="\n")
    gpt("generate", "--config", "c.toml")
    assert calls[0][0].prompt == odd


def test_json_of_train_is_for_a_dry_run_only(gpt: Any, calls: list[Any]) -> None:
    assert gpt("train", "--json").code == 2
    assert gpt("train", "--json", "--dry-run").code == 0
    assert calls[0][1].json


def test_a_command_is_told_the_words_that_it_was_called_with(gpt: Any, calls: list[Any]) -> None:
    gpt("train", "--n_layers", "2", "--no-monitor")
    assert calls[0][1].words == ("train", "--n_layers", "2", "--no-monitor")


@pytest.mark.parametrize(
    ("error", "code", "told"),
    [
        (UserError("The shard is damaged.", "Make it again."), 1, ["error: The shard is damaged.", "  Make it again."]),
        (UsageError("There is no such folder."), 2, ["error: There is no such folder."]),
        (KeyboardInterrupt(), 130, []),
        (BrokenPipeError(32, "Broken pipe"), 1, []),
    ],
)
def test_an_error_gives_its_exit_code_and_no_traceback(
    error: BaseException, code: int, told: list[str], monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    result = _fail_with(error, monkeypatch, capsys)
    assert result.code == code
    assert result.out == ""
    assert "Traceback" not in result.err
    if told:
        assert result.err.splitlines() == told


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (OSError(28, "No space left on device", "shard.npy"), "error: The disk is full: shard.npy."),
        (MemoryError(), "error: There is not enough memory."),
        (ValueError("three is not four"), "error: ValueError: three is not four"),
    ],
)
def test_an_unexpected_error_is_one_line_with_a_hint_and_exit_code_1(
    error: BaseException, message: str, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    result = _fail_with(error, monkeypatch, capsys)
    assert result.code == 1
    first, hint = result.err.splitlines()
    assert first == message
    assert hint.startswith("  ")
    assert "Traceback" in _fail_with(error, monkeypatch, capsys, "--debug").err


def _fail_with(error: BaseException, monkeypatch: pytest.MonkeyPatch, capsys: Any, *words: str) -> Output:
    def fail(settings: Any, call: Any) -> int:
        raise error

    monkeypatch.setattr("gptcli.cli.generate.run", fail)
    if isinstance(error, BrokenPipeError):
        with pytest.raises(SystemExit) as ended:
            cli.run(["generate", *words])
        return Output(int(ended.value.code or 0), *capsys.readouterr())
    return Output(cli.run(["generate", *words]), *capsys.readouterr())


def test_an_error_of_a_json_call_leaves_standard_output_empty(gpt: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def load(*_: Any) -> Any:
        raise UserError("There is no checkpoint under ./log.", "Train one: gpt train")

    stub(monkeypatch, "gptcli.inference.load", load=load)
    result = gpt("generate", "x", "--json")
    assert (result.code, result.out, result.faults) == (1, "", ["There is no checkpoint under ./log."])


class FakeModel:
    """Says two words. Its second sample differs from its first."""

    tokenizer: Any = object()
    notes = ("vocabulary taken for gpt2",)

    def __init__(self) -> None:
        self.options: list[dict[str, Any]] = []

    def stream(self, prompt: str, **options: Any) -> Iterator[str]:
        self.options.append(options)
        yield from (" one", " two")

    def generate_many(self, prompt: str, n: int, **options: Any) -> list[Any]:
        self.options.append(options)
        return [SimpleNamespace(text=f" one {i}", ids=[1, i], finish_reason="length") for i in range(n)]


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch) -> FakeModel:
    fake = FakeModel()
    stub(monkeypatch, "gptcli.inference.load", load=lambda model, weights, device: fake)
    return fake


def test_generate_writes_prompt_and_completion_to_standard_output_and_notes_elsewhere(
    gpt: Any, model: FakeModel
) -> None:
    result = gpt("generate", "Say", "--top-k", "0", "--seed", "3")
    assert (result.code, result.out) == (0, "Say one two\n")
    assert "vocabulary taken for gpt2" in result.err
    assert (model.options[0]["top_k"], model.options[0]["seed"]) == (None, 3)


def test_several_samples_stand_under_separators_that_are_not_part_of_the_text(gpt: Any, model: FakeModel) -> None:
    result = gpt("generate", "Say", "--num-samples", "2")
    assert result.out == "Say one 0\nSay one 1\n"
    assert "sample 2 of 2" in result.err


def test_generate_in_json_is_one_document(gpt: Any, model: FakeModel) -> None:
    document = json.loads(gpt("generate", "Say", "--num-samples", "2", "--json").out)
    assert list(document) == ["prompt", "samples", "tokens_per_second"]
    assert document["samples"][1] == {"text": " one 1", "ids": [1, 1], "finish_reason": "length"}


@dataclass
class FakeSummary:
    folder: Path = Path("data/books")
    documents: int = 3
    tokens: int = 100
    bytes: int = 400
    train_tokens: int = 90
    val_tokens: int = 10
    shards: int = 2
    seconds: float = 2.0
    already_done: bool = False


def test_tokenize_tells_its_folder_first_and_its_summary_last(gpt: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def tokenize(settings: TokenizeSettings, progress: Any) -> FakeSummary:
        progress(
            SimpleNamespace(documents=2, bytes=2_000_000, tokens=50, total_bytes=4_000_000, shard=1, seconds=1.0)
        )
        return FakeSummary()

    stub(monkeypatch, "gptcli.data.pipeline", tokenize=tokenize)
    result = gpt("tokenize", "books.txt", "--local-dir", "books")
    first, progress, last = result.err.splitlines()
    assert first == f"Folder: {Path('data/books')}"
    assert progress == "2 documents  2.0 MB  50 tokens/s  2.0 MB/s  shard 1  0:01 left"
    assert "3 documents, 100 tokens (90 train, 10 validation) in 2 shards" in last
    assert result.out == ""
    document = json.loads(gpt("tokenize", "--json").out)
    assert document["tokens_per_second"] == 50.0
    assert document["already_done"] is False
    assert document["folder"] == str(Path("data/books"))


def train_events(settings: TrainSettings, listener: Any, command: Any) -> None:
    from gptcli.training import events

    run = Path(settings.log_dir)
    listener(events.Started(run, 0, 2, 8, {"Device": "cpu, fp32"}))
    listener(events.Note("HellaSwag is left out."))
    listener(events.StepDone(1, 3.5, 1e-3, 1.0, 1000.0, 8))
    listener(events.Evaluated(1, "val", {"loss": 3.25}))
    listener(events.Sampled(1, "Once", " upon"))
    listener(events.StepDone(2, 3.0, 1e-3, 1.0, 1000.0, 16))
    listener(events.Saved(2, run / "checkpoints" / "step_0000002"))


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """A `train` that plays a short run; what it is given and how it ends is kept here."""
    from gptcli.training.events import TrainResult

    kept = SimpleNamespace(signal=None, launched=[], command=None, rank=0, is_rank=False)

    def train(settings: TrainSettings, listener: Any, command: Any) -> TrainResult:
        kept.command = command
        train_events(settings, listener, command)
        run = Path(settings.log_dir)
        return TrainResult(run, run / "checkpoints" / "step_0000002", 2, 2, 3.25, kept.signal)

    def launch(words: list[str], processes: int) -> int:
        kept.launched.append((words, processes))
        return 75

    stub(monkeypatch, "gptcli.training.run", train=train)
    stub(monkeypatch, "gptcli.training.setup", preflight=lambda settings: None)
    stub(monkeypatch, "gptcli.distributed.launch", launch=launch)
    stub(
        monkeypatch,
        "gptcli.distributed.runtime",
        detect=lambda: SimpleNamespace(rank=kept.rank, launched=kept.is_rank),
    )
    return kept


def test_train_without_a_terminal_writes_plain_lines_and_says_what_to_type_next(
    gpt: Any, trained: SimpleNamespace
) -> None:
    result = gpt("train", "--log-dir", "my log")
    assert (result.code, result.out) == (0, "")
    checkpoint = Path("my log/checkpoints/step_0000002")
    assert [re.sub(r"\d:\d\d left", "… left", line) for line in result.err.splitlines()] == [
        "Device  cpu, fp32",
        "note: HellaSwag is left out.",
        "step 1/2  loss 3.5000  lr 1.00e-03  1k tokens/s  … left",
        "step 1  validation  loss 3.2500",
        "step 1  sample: Once upon",
        "step 2/2  loss 3.0000  lr 1.00e-03  1k tokens/s  … left",
        f"step 2  saved {checkpoint}",
        "Done: 2 steps, validation loss 3.2500",
        f"Checkpoint: {checkpoint}",
        "Next: gpt plot 'my log'",
        "      gpt generate \"On a clear day\" --model 'my log'",
    ]
    assert trained.command == ["gpt", "train", "--log-dir", "my log"]


def test_train_on_a_terminal_draws_a_bar_with_loss_rate_and_rest(
    gpt: Any, trained: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.delenv("NO_COLOR")
    err = gpt("train").err
    assert "━" in err
    assert "loss 3.0000  lr 1.00e-03  1k tokens/s" in err
    assert "validation  loss 3.2500" in err


def test_no_monitor_draws_nothing_between_the_beginning_and_the_end(gpt: Any, trained: SimpleNamespace) -> None:
    lines = gpt("train", "--no-monitor").err.splitlines()
    assert lines[:3] == ["Device  cpu, fp32", "note: HellaSwag is left out.", "Done: 2 steps, validation loss 3.2500"]


def test_only_the_first_process_speaks(gpt: Any, trained: SimpleNamespace) -> None:
    trained.rank, trained.is_rank = 1, True
    result = gpt("train", "--gpus", "2")
    assert (result.code, result.out, result.err, trained.launched) == (0, "", "", [])


def test_several_processes_are_launched_with_the_same_words_and_their_exit_code_is_passed_on(
    gpt: Any, trained: SimpleNamespace
) -> None:
    assert gpt("train", "--gpus", "2", "--n_layers=3").code == 75
    assert trained.launched == [(["train", "--gpus", "2", "--n_layers=3"], 2)]


@pytest.mark.parametrize(("signal", "code"), [(None, 0), (2, 130), (15, 75), (10, 75)])
def test_the_exit_code_tells_how_a_run_was_stopped(
    signal: int | None, code: int, gpt: Any, trained: SimpleNamespace
) -> None:
    trained.signal = signal
    result = gpt("train")
    assert result.code == code
    assert ("The same command continues." in result.err) is (signal is not None)


def test_a_dry_run_is_a_table_for_people_and_a_document_for_programs(gpt: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = SimpleNamespace(facts={"Model": "124 M", "Steps": "10"}, as_dict=lambda: {"parameters": 124, "mfu": float("nan")})
    stub(monkeypatch, "gptcli.planning", plan=lambda settings: plan)
    people, programs = gpt("train", "--dry-run"), gpt("train", "--dry-run", "--json")
    assert people.err.splitlines() == ["Model  124 M", "Steps  10"]
    assert people.out == ""
    assert json.loads(programs.out) == {"parameters": 124, "mfu": None}


def test_plot_prints_the_path_of_the_figure(gpt: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    stub(monkeypatch, "gptcli.plotting", plot=lambda log_dir, output: output or log_dir / "plots" / "training.png")
    assert gpt("plot").out == f"{Path('log/plots/training.png')}\n"
    assert gpt("plot", "other", "--output", "x.svg").out == "x.svg\n"
    assert PlotSettings().log_dir == "log"


SOURCE = str(Path(cli.__file__).parents[2])


def in_a_process(code: str, **environ: str) -> str:
    env = {**os.environ, "PYTHONPATH": SOURCE, **environ}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, timeout=60)
    return done.stdout + done.stderr


@pytest.mark.parametrize("words", [["--help"], *([command, "--help"] for command in COMMANDS), ["train", "--max-lrr"]])
def test_help_and_a_mistyped_flag_import_nothing_heavy(words: list[str]) -> None:
    shown = in_a_process(
        f"import sys; from gptcli.cli.main import run; run({words!r});"
        "print('HEAVY', sorted({'torch', 'datasets', 'tiktoken', 'numpy', 'gigatoken'} & set(sys.modules)))"
        + ("; print('LIGHT', 'pydantic' not in sys.modules)" if words == ["--help"] else "")
    )
    assert "HEAVY []" in shown
    assert words != ["--help"] or "LIGHT True" in shown


def test_gpt_alone_shows_its_help_with_every_command(gpt: Any) -> None:
    result = gpt()
    assert result.code == 0
    assert all(re.search(rf"│ {command} ", result.out) for command in COMMANDS)


@pytest.mark.parametrize("command", list(COMMANDS))
def test_help_shows_every_option_with_its_default_under_its_group(command: str, gpt: Any) -> None:
    shown = gpt(command, "--help").out
    for option in fields_of(COMMANDS[command]).values():
        name = option.name if option.positional else option.flag
        assert re.search(rf"│ +{re.escape(name)}\b", shown), name
        assert option.positional or f"─ {option.group} ─" in shown
        if option.kind in (int, float) and option.default is not None:
            assert f"[default: {option.default:g}]" in shown or f"[default: {option.default}]" in shown


def test_the_summary_table_of_the_group_has_the_commands_of_the_settings() -> None:
    assert list(cli._COMMANDS) == list(COMMANDS)


def complete(line: str, word: int) -> list[str]:
    code = "from gptcli.cli.main import main; main()"
    return in_a_process(code, _GPT_COMPLETE="complete_bash", COMP_WORDS=line, COMP_CWORD=str(word)).split()


@pytest.mark.parametrize(
    ("line", "word", "expected"),
    [
        ("gpt t", 1, ["tokenize", "train"]),
        ("gpt train --devi", 2, ["--device"]),
        ("gpt train --device c", 3, ["cpu", "cuda"]),
        ("gpt train --compile o", 3, ["on", "off"]),
        ("gpt train --preset gpt2-", 3, ["gpt2-medium", "gpt2-large", "gpt2-xl"]),
        ("gpt train --metrics none,h", 3, ["none,hellaswag"]),
    ],
)
def test_the_shell_completes_commands_options_and_values(line: str, word: int, expected: list[str]) -> None:
    assert complete(line, word) == expected


def test_the_shell_can_be_taught_to_complete() -> None:
    code = "import sys; sys.argv = ['gpt', '--show-completion']; from gptcli.cli.main import main; main()"
    assert "_GPT_COMPLETE" in in_a_process(code, SHELL="/bin/bash") or sys.platform == "win32"


@pytest.mark.parametrize("characters", [10, 10_000_000])  # fewer and more than a buffer holds
def test_a_reader_that_goes_away_ends_the_command_quietly(characters: int) -> None:
    code = (
        "import sys; from gptcli.cli import main, generate\n"
        "def run(settings, call):\n"
        f"    sys.stdout.write('x' * {characters}); return 0\n"
        "generate.run = run; sys.argv = ['gpt', 'generate']; main.main()"
    )
    env = {**os.environ, "PYTHONPATH": SOURCE, "PYTHONUNBUFFERED": ""}  # buffered, as for a user
    process = subprocess.Popen(
        [sys.executable, "-c", code], env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout
    assert process.stderr
    process.stdout.close()
    assert process.wait(timeout=60) == 1
    assert process.stderr.read() == ""
    process.stderr.close()


@dataclass
class FakeResult:
    values: dict[str, Any] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        return self.values


@pytest.fixture
def scores(monkeypatch: pytest.MonkeyPatch) -> list[FakeResult]:
    """The results that `evaluate` gives."""
    results: list[FakeResult] = []
    stub(monkeypatch, "gptcli.evals.run", evaluate=lambda settings, progress: results, TASKS={"loss": "The loss."})
    published = [SimpleNamespace(name="GPT-2 124M", acc=0.2859, acc_norm=0.2955, source="Karpathy")]
    stub(monkeypatch, "gptcli.evals.published", GPT2_COMPLETION=published)
    return results


HELLASWAG = {"task": "hellaswag", "style": "completion", "model": "log", "n": 200, "acc": 0.25, "acc_norm": 0.26}


def test_eval_is_a_table_beside_the_published_figures_and_one_document_in_json(
    gpt: Any, scores: list[FakeResult]
) -> None:
    scores.append(FakeResult(HELLASWAG))
    result = gpt("eval", "hellaswag", "--json")
    assert json.loads(result.out) == HELLASWAG
    assert "0.2600" in result.err
    assert "GPT-2 124M" in result.err
    scores.append(FakeResult({"task": "loss", "model": "log", "loss": 3.25, "perplexity": float("inf")}))
    both = json.loads(gpt("eval", "hellaswag,loss", "--json").out)
    assert list(both) == ["results"]
    assert both["results"][1]["perplexity"] is None


def test_eval_lists_its_tasks(gpt: Any, scores: list[FakeResult]) -> None:
    assert gpt("eval", "--list").out == "loss        The loss.\n"
