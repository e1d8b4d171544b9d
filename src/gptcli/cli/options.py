"""A Typer command out of a settings class: the class has every option once, the signature is made from it."""

from __future__ import annotations

import inspect
import os
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import typer
from typer.core import TyperCommand

from gptcli.cli.arguments import Scan, dashed, scan
from gptcli.cli.config_file import write_config
from gptcli.cli.fields import OptionField, fields_of
from gptcli.cli.resolve import resolve
from gptcli.errors import Fault
from gptcli.settings import CommandSettings

if TYPE_CHECKING:
    from typer._click.core import Context

_SCAN = "gptcli.scan"
_COMMON = "Every command"
_NO = "no_"


@dataclass(frozen=True)
class Call:
    """What a command knows of its call beside the settings: whether JSON is wanted, and the words after `gpt`."""

    json: bool
    words: tuple[str, ...]


class SettingsCommand(TyperCommand):
    """A command that collects what is wrong with its command line instead of stopping at the first fault."""

    def parse_args(self, ctx: Context, args: list[str]) -> list[str]:
        ctx.meta[_SCAN] = found = scan(self.name or "", self.get_params(ctx), args)
        ctx.meta[_SCAN + ".words"] = (*(self.name or "").split(), *args)
        return super().parse_args(ctx, found.args)

    def get_help_option(self, ctx: Context) -> Any:
        option = super().get_help_option(ctx)
        if option is not None:
            option.rich_help_panel = _COMMON
        return option


def make_command(
    settings_cls: type[CommandSettings],
    run: Callable[[Any, Call], int],
    *,
    summary: str,
    examples: str = "",
    json: bool = False,
) -> TyperCommand:
    """The command that resolves the settings of its call and ends with the exit code of `run(settings, call)`.

    `json` gives it the option of that name.
    """
    fields = fields_of(settings_cls)

    def command(ctx: typer.Context, **values: Any) -> None:
        found: Scan = ctx.meta[_SCAN]
        flags = _flags(found.given, values, fields)
        wants_json = bool(values.get("json"))
        faults = [*found.faults, *_json_faults(settings_cls.command, wants_json, flags, values["print_config"])]
        settings = resolve(settings_cls, flags, os.environ, values["config"], faults).settings
        if values["print_config"]:
            sys.stdout.write(write_config(settings, fields))
            raise typer.Exit(0)
        raise typer.Exit(run(settings, Call(json=wants_json, words=ctx.meta[_SCAN + ".words"])))

    context = inspect.Parameter("ctx", inspect.Parameter.KEYWORD_ONLY, annotation=typer.Context)
    declared = [parameter for field in fields.values() for parameter in _parameters(field)]
    parameters = [context, *declared, *_common_parameters(json)]
    # Typer reads a function's signature; this one has the fields of the settings class for its parameters.
    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    command.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}

    app = typer.Typer(add_completion=False, rich_markup_mode="rich")
    app.command(
        settings_cls.command,
        cls=SettingsCommand,
        help=_plain(summary),
        epilog=_plain(examples),
        context_settings={"help_option_names": ["--help", "-h"], "token_normalize_func": _dashes},
    )(command)
    made = typer.main.get_command(app)
    assert isinstance(made, TyperCommand)
    return made


def _dashes(name: str) -> str:
    return dashed("--" + name)[2:]


def _json_faults(command: str, wanted: bool, flags: dict[str, Any], print_config: bool) -> list[Fault]:
    if wanted and print_config:
        return [Fault("--json and --print-config both want standard output.", "Leave one of them.")]
    if wanted and command == "train" and not flags.get("dry_run"):
        return [Fault("--json tells of a dry run only.", "Add --dry-run; a run writes metrics.jsonl, which is JSON.")]
    return []


def _plain(text: str) -> str:
    """Text in which Rich sees no markup."""
    return text.replace("[", "\\[")


def _flags(given: Iterable[str], values: Mapping[str, Any], fields: Mapping[str, OptionField]) -> dict[str, Any]:
    """What the command line sets, by field. Of `--fresh` and `--no-fresh` the last one counts."""
    flags: dict[str, Any] = {}
    for name in given:
        if name in fields:
            flags[name] = values[name]
        elif name.removeprefix(_NO) in fields:
            flags[name.removeprefix(_NO)] = False
    return flags


def _parameters(field: OptionField) -> list[inspect.Parameter]:
    """The parameter of a field, and where it is a switch that is off by default, a hidden one that turns it off again
    (after a preset, say). One that is on shows both."""
    if field.kind is bool:
        return _switches(field)
    annotation: Any = list[str] if field.many else str
    if field.many:
        default: Any = [str(item) for item in field.default] or None
    else:
        default = f"{field.default:g}" if isinstance(field.default, float) else str(field.default or "") or None
    if field.positional:
        declared = typer.Argument(default, help=_plain(field.help), metavar=field.flag, show_envvar=False)
    else:
        declared = typer.Option(
            default,
            field.flag,
            help=_plain(field.help),
            metavar=field.metavar,
            rich_help_panel=field.group,
            autocompletion=_completion(field) if field.choices else None,
        )
    return [_keyword(field.name, annotation, declared)]


def _switches(field: OptionField) -> list[inspect.Parameter]:
    off = f"--no-{field.flag[2:]}"
    shown = typer.Option(
        field.default,
        f"{field.flag}/{off}" if field.default else field.flag,
        help=_plain(field.help),
        metavar="",
        show_default=bool(field.default),
        rich_help_panel=field.group,
    )
    if field.default:
        return [_keyword(field.name, bool, shown)]
    return [_keyword(field.name, bool, shown), _keyword(_NO + field.name, bool, typer.Option(False, off, hidden=True))]


def _keyword(name: str, annotation: Any, declared: Any) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=declared, annotation=annotation)


def _completion(field: OptionField) -> Callable[[str], list[str]]:
    def complete(incomplete: str) -> list[str]:
        # Of a list, the value after the last comma.
        done, comma, last = incomplete.rpartition(",") if field.commas else ("", "", incomplete)
        return [f"{done}{comma}{choice}" for choice in field.choices if choice.startswith(last)]

    return complete


def _common_parameters(json: bool) -> list[inspect.Parameter]:
    declared = {
        "config": (
            str,
            None,
            "TOML file with a table for each command; GPTCLI_<OPTION> in the environment overrules it.",
        ),
        "print_config": (bool, False, "Print such a file with the settings of this call, and do nothing else."),
        "json": (bool, False, "Print one JSON document to standard output."),
        "debug": (bool, False, "Show the traceback of an error."),
    }
    return [
        _keyword(
            name,
            kind,
            typer.Option(
                default,
                "--" + name.replace("_", "-"),
                help=_plain(text),
                metavar="FILE" if kind is str else "",
                show_default=False,
                rich_help_panel=_COMMON,
            ),
        )
        for name, (kind, default, text) in declared.items()
        if json or name != "json"
    ]
