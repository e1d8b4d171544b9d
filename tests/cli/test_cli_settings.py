"""Where settings come from, and configuration files there and back."""

from __future__ import annotations

import re
import tempfile
import tomllib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gptcli.cli.config_file import table_of, write_config
from gptcli.cli.fields import fields_of
from gptcli.cli.resolve import resolve
from gptcli.errors import UsageError
from gptcli.presets import PRESETS
from gptcli.settings import COMMANDS, TrainSettings


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
        ("/", "is a folder"),
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
    if text == "/":
        config.mkdir()
    elif text is not None:
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
        "log_dir": st.text(_PLAIN, min_size=1),
        "hellaswag_data": st.text(_PLAIN, min_size=1),
        "metrics": st.lists(st.text(_PLAIN, min_size=1)),
        "qkv_bias": st.booleans(),
        "warmup_iters": st.integers(0, 10**6),
        "device": st.sampled_from(["auto", "cpu", "cuda", "cuda:3", "mps"]),
        "seed": st.integers(0, 2**63 - 1),
    },
)


@given(TRAINS)
def test_a_printed_configuration_given_back_resolves_to_the_same_settings(flags: dict[str, Any]) -> None:
    settings = resolve(TrainSettings, flags, {}).settings
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "c.toml"
        file.write_text(write_config(settings, fields_of(TrainSettings)), encoding="utf-8", newline="\n")
        again = resolve(TrainSettings, {}, {}, str(file)).settings
    assert again == settings
    # What bends to the run unless it is asked for must not have been asked for by printing it.
    bending = {"metrics", "warmup_iters"}
    assert bending & again.model_fields_set == bending & settings.model_fields_set


@pytest.mark.parametrize("command", list(COMMANDS))
def test_a_printed_configuration_has_every_option_with_its_value_and_help(
    command: str, gpt: Any, calls: list[Any], tmp_path: Path
) -> None:
    printed = gpt(*command.split(), "--print-config").out
    name_of_table = table_of(command)
    table = tomllib.loads(printed)
    assert list(table) == [name_of_table]
    for name, option in fields_of(COMMANDS[command]).items():
        assert f"# {option.help}\n" in printed
        assert name in table[name_of_table] or re.search(rf"^# {name} =", printed, re.MULTILINE)
    (tmp_path / "c.toml").write_text(printed)
    assert gpt(*command.split(), "--config", "c.toml", "--print-config").out == printed
    assert not calls


def test_text_with_quotes_backslashes_and_line_breaks_survives_a_configuration_file(gpt: Any, calls: list[Any]) -> None:
    odd = 'a"b\\n\n\t\x7f\U0001f600é'
    Path("c.toml").write_text(gpt("generate", odd, "--print-config").out, encoding="utf-8", newline="\n")
    gpt("generate", "--config", "c.toml")
    assert calls[0][0].prompt == odd
