"""Files, folders and models that a call names and that are not there.

The commands find out by themselves, and this asks the same functions. It serves calls that are wrong in another way
already, so that the user hears of everything at once: it imports nothing large, and asks no other machine.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from gptcli.errors import Errors, Fault, UsageError, UserError
from gptcli.settings import CommandSettings, data_folder


def faults_of_names(settings: CommandSettings) -> list[Fault]:
    """What is wrong with the names that `settings` were given; defaults are not looked at."""
    errors = Errors()
    for key, check in _CHECKS.items():
        command, _, option = key.rpartition(" ")
        if command not in ("", settings.command) or option not in settings.model_fields_set:
            continue
        value = getattr(settings, option)
        for name in value if isinstance(value, tuple) else (value,):
            with errors.collected():
                if name is not None:
                    check(name)
    try:
        errors.raise_all()
    except UserError as error:
        return error.faults
    return []


def _check_data_root(name: str) -> None:
    from gptcli.data.shards import open_shards

    open_shards(data_folder(name))


def _check_model(name: str) -> None:
    from gptcli.model.locate import is_hub_id, locate_model

    if not is_hub_id(name):
        locate_model(name)


def _check_run(name: str) -> None:
    from gptcli.plotting.runs import open_runs

    open_runs([Path(name)])


def _check_path(name: str) -> None:
    from gptcli.info.places import locate

    locate(name)


def _check_data(name: str) -> None:
    _check_file("--data", name)


def _check_hellaswag_data(name: str) -> None:
    _check_file("--hellaswag-data", name)


def _check_file(option: str, name: str) -> None:
    if not Path(name).is_file():
        raise UsageError(f"{option}: there is no file {name}.")


# By option, or by command and option where another command means another thing by it.
_CHECKS: dict[str, Callable[[str], None]] = {
    "data_root": _check_data_root,
    "init_from": _check_model,
    "model": _check_model,
    "path": _check_path,
    "data": _check_data,
    "hellaswag_data": _check_hellaswag_data,
    "plot log_dir": _check_run,
}
