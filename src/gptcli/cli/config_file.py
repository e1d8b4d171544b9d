"""Configuration files: TOML with a table for each command, read by `--config` and written by `--print-config`."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from gptcli.cli.fields import OptionField
from gptcli.errors import Fault, nearest
from gptcli.settings import COMMANDS, CommandSettings


def read_config(
    path: str, command: str, fields: Mapping[str, OptionField]
) -> tuple[dict[str, Any], dict[str, str], list[Fault]]:
    """The values for `command` in the file at `path`, where each stands (for messages), and the file's faults.

    Keys are option names with dashes or underscores. Tables of other commands are left to those commands.
    """
    try:
        document = tomllib.loads(Path(path).read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        return {}, {}, [Fault(f"--config: there is no file {path}.", "--print-config > FILE writes one.")]
    except OSError as error:
        if Path(path).is_dir():
            return (
                {},
                {},
                [Fault(f"--config: {path} is a folder.", "Name a TOML file; --print-config > FILE writes one.")],
            )
        return {}, {}, [Fault(f"--config: {path} can't be read: {error.strerror}.")]
    except UnicodeDecodeError:
        return {}, {}, [Fault(f"--config: {path} is not UTF-8 text.", "Save it in UTF-8.")]
    except tomllib.TOMLDecodeError as error:
        return {}, {}, [Fault(f"--config: {path} is not valid TOML: {error}.", "Text stands in quotation marks.")]
    faults = [fault for name in document for fault in _table_faults(path, name, document[name], command, fields)]
    table = document.get(table_of(command), {})
    values: dict[str, Any] = {}
    places: dict[str, str] = {}
    for key, value in table.items() if isinstance(table, dict) else ():
        name, place = key.replace("-", "_"), f"{path} [{table_of(command)}] {key}"
        if name not in fields:
            guess = nearest(name, fields)
            hint = f"Did you mean {guess}?" if guess else f"`gpt {command} --print-config` lists them."
            faults.append(Fault(f"{place}: gpt {command} has no such option.", hint))
        elif name in values:
            faults.append(Fault(f"{place} is there twice, with a dash and with an underscore.", "Leave one of them."))
        else:
            values[name], places[name] = value, place
    return values, places, faults


def _table_faults(path: str, name: str, table: Any, command: str, fields: Collection[str]) -> list[Fault]:
    tables = list(dict.fromkeys(table_of(known) for known in COMMANDS))
    if name in tables:
        return (
            []
            if isinstance(table, dict)
            else [Fault(f"{path}: {name} is not a table.", f"Write [{name}] above its keys.")]
        )
    if name.replace("-", "_") in fields and not isinstance(table, dict):
        return [
            Fault(f"{path}: {name} stands outside of any table.", f"Write [{table_of(command)}] on a line above it.")
        ]
    guess = nearest(name, tables)
    hint = f"Did you mean [{guess}]?" if guess else f"There may be: {', '.join(f'[{known}]' for known in tables)}."
    return [Fault(f"{path}: there is no command for [{name}].", hint)]


def table_of(command: str) -> str:
    """The name of a command's table: `tokenizer-train` for `gpt tokenizer train`."""
    return COMMANDS[command].table or command.replace(" ", "-")


def write_config(settings: CommandSettings, fields: Mapping[str, OptionField]) -> str:
    """A configuration file that resolves to `settings`: one table, every option with its value, its help above it.

    Commented out stand what has no value, and defaults that bend to the run: written as values they no longer would.
    """
    lines = [f"[{table_of(settings.command)}]"]
    for name, field in fields.items():
        value = getattr(settings, name)
        left_out = value is None or (field.adapts and name not in settings.model_fields_set)
        lines += [
            "",
            f"# {field.help}",
            f"{'# ' if left_out else ''}{name} ={'' if value is None else ' ' + toml(value)}",
        ]
    return "\n".join(lines) + "\n"


def toml(value: str | float | bool | tuple[str, ...]) -> str:
    """A value as TOML writes it."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (int, float)):
        return repr(value)
    if isinstance(value, tuple):
        return f"[{', '.join(toml(item) for item in value)}]"
    # JSON's escapes are TOML's, but that TOML has no raw DEL and no pairs of surrogates.
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
