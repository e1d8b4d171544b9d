"""Where every setting comes from: flag, environment, configuration file, preset, default, in this order."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from pydantic import ValidationError

from gptcli.cli.config_file import read_config
from gptcli.cli.fields import OptionField, fields_of, variable
from gptcli.cli.named import faults_of_names
from gptcli.cli.wording import closest, fault_of
from gptcli.errors import Fault, nearest, raise_if
from gptcli.presets import PRESETS, values_of
from gptcli.settings import COMMANDS, CommandSettings

S = TypeVar("S", bound=CommandSettings)

CONFIG_VARIABLE, DEBUG_VARIABLE = variable("config"), variable("debug")


@dataclass(frozen=True)
class Resolved(Generic[S]):
    """Settings, and for every option where its value came from, as a message would name it (`--max-lr`,
    `GPTCLI_MAX_LR`, `run.toml [train] max_lr`, `--preset demo`, `default`)."""

    settings: S
    origin: dict[str, str]


def resolve(
    settings_cls: type[S],
    flags: Mapping[str, Any],
    environ: Mapping[str, str],
    config: str | None = None,
    faults: Iterable[Fault] = (),
) -> Resolved[S]:
    """The settings of a call: `flags` by option name as they were typed, over `environ`, over the file `config`.

    Raises UsageError with all that is wrong, `faults` (those of the command line itself) first.
    """
    fields = fields_of(settings_cls)
    found = list(faults)
    values, origin = _environment(fields, environ)
    found += _mistyped_variables(environ)
    values |= flags
    origin |= {name: fields[name].flag for name in flags}
    if config == "":
        found.append(Fault("--config: '' is empty.", "It takes the name of a TOML file."))
    config = config or environ.get(CONFIG_VARIABLE)
    if config:
        from_file, places, file_faults = read_config(config, settings_cls.command, fields)
        found += file_faults
        values, origin = from_file | values, places | origin
    if "preset" in fields and values.get("preset") is not None:
        from_preset, preset_faults = _preset(values["preset"], origin["preset"], values)
        found += preset_faults
        origin = dict.fromkeys(from_preset, f"--preset {values['preset']}") | origin
        values = from_preset | values
        if preset_faults:
            values.pop("preset")  # told already
    # One value for a list is a list of one: the environment and a file may give it so.
    values = {name: (v,) if fields[name].many and isinstance(v, str) else v for name, v in values.items()}
    try:
        settings = settings_cls(**values)
    except ValidationError as error:
        # Of a value that may be a number or a word the first says what is wrong with it as a number.
        details = [detail for detail in error.errors() if detail["type"] != "literal_error" or len(detail["loc"]) == 1]
        found += [fault_of(detail, fields, origin) for detail in details]
        faulty = {str(detail["loc"][0]) for detail in details if detail["loc"]}
        values = {name: value for name, value in values.items() if name not in faulty}
        raise_if(found + _missing(settings_cls, values))
        raise
    if found:
        raise_if(found + _missing(settings_cls, values))
    return Resolved(settings, {name: origin.get(name, "default") for name in fields})


def _missing(settings_cls: type[CommandSettings], values: Mapping[str, Any]) -> list[Fault]:
    """What is named by the values that are sound and is not there, to be told beside the values that are not."""
    try:
        return faults_of_names(settings_cls(**values))
    except ValidationError:  # what is wrong with several values together
        return []


def _environment(
    fields: Mapping[str, OptionField], environ: Mapping[str, str]
) -> tuple[dict[str, Any], dict[str, str]]:
    """What the environment sets, and the variables it does so by. An empty variable sets nothing."""
    given = [field for field in fields.values() if environ.get(field.variable)]
    return {field.name: environ[field.variable] for field in given}, {field.name: field.variable for field in given}


def _mistyped_variables(environ: Mapping[str, str]) -> list[Fault]:
    """Variables that are no command's option but nearly one. Those that resemble none are someone else's."""
    known = {variable(name) for settings_cls in COMMANDS.values() for name in settings_cls.model_fields}
    known |= {CONFIG_VARIABLE, DEBUG_VARIABLE}
    prefix = variable("")
    faults = []
    for name in environ:
        if name.startswith(prefix) and name not in known and environ[name]:
            guess = nearest(name.removeprefix(prefix), [option.removeprefix(prefix) for option in known])
            if guess:
                faults.append(Fault(f"{name}: no command has such an option.", f"Did you mean {prefix}{guess}?"))
    return faults


def _preset(name: Any, origin: str, given: Mapping[str, Any]) -> tuple[dict[str, Any], list[Fault]]:
    if not isinstance(name, str):  # the settings class says so itself
        return {}, []
    if name in PRESETS:
        return dict(values_of(name, given)), []
    guess = closest(name, PRESETS)
    hint = f"Did you mean {guess!r}?" if guess else f"There are: {', '.join(PRESETS)}."
    return {}, [Fault(f"{origin}: there is no preset {name!r}.", hint)]
