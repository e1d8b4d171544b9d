"""What an option is: its field in a settings class, the types that several commands share, and the class of all."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Field, StringConstraints
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict


def option(
    default: Any,
    help: str,
    group: str,
    *,
    adapts: bool = False,
    takes: tuple[str, str] | None = None,
    choices: Iterable[str] = (),
    **constraints: Any,
) -> Any:
    """A field that is an option: `group` is the heading of `--help` that it stands under.

    `adapts` marks one whose default bends to the run where the same value, asked for, would not: a printed file
    does not ask for it. `takes` is the value's place in `--help` and what it takes in words, where its type does not
    tell. `examples` among the constraints are the values to offer and to suggest; `choices`, the names of a registry,
    are the only ones that are taken, too.
    """
    if names := list(choices):
        constraints |= {"pattern": f"^({'|'.join(map(re.escape, names))})$", "examples": names}
    extra: dict[str, Any] = {"group": group, "adapts": adapts, "takes": list(takes or ())}
    return Field(default, description=help, json_schema_extra=extra, **constraints)


def argument(default: Any, help: str) -> Any:
    """A field that is a positional argument."""
    return Field(default, description=help, json_schema_extra={"positional": True})


def _count(value: object) -> object:
    """Whole numbers may be written `100_000_000` or `1e8`; anything else is left to the type's own check."""
    if isinstance(value, str) and re.fullmatch(r"\d+(\.\d+)?[eE]\+?\d+", value.strip()):
        number = float(value)
        return int(number) if number.is_integer() else value
    return value


def _seconds(value: object) -> object:
    """Times may be written `2h`, `1h30m`, `1.5d` or `45s`; plain numbers are seconds, and anything else is left to the
    type's own check."""
    if isinstance(value, str) and (match := _TIME.fullmatch(value.strip())) and match[0]:
        units = {"d": 86_400, "h": 3_600, "m": 60, "s": 1}
        return sum(float(number) * units[unit] for unit, number in match.groupdict().items() if number)
    return value


def _commas(value: object) -> object:
    """Lists take commas, and what is given several times is joined, each value once: `a,b` and `a` `b` `a` are the same
    list."""
    if isinstance(value, str):
        value = [value]
    if isinstance(value, (list, tuple)):
        parts = (part.strip() for item in value for part in str(item).split(","))
        return tuple(dict.fromkeys(part for part in parts if part))
    return value


_NUMBER = r"\d+(?:\.\d+)?"
_TIME = re.compile("".join(rf"(?:(?P<{unit}>{_NUMBER}){unit})?" for unit in "dhms"))

Count = Annotated[int, BeforeValidator(_count)]
Size = Annotated[Annotated[int, Field(ge=1)] | Literal["auto"], BeforeValidator(_count)]  # counted, or measured
Name = Annotated[str, StringConstraints(min_length=1)]  # of a file, a folder, a model: empty it would mean another
Seconds = Annotated[float, BeforeValidator(_seconds)]
CommaList = Annotated[tuple[str, ...], BeforeValidator(_commas)]
A_SIZE = ("INT|auto", "a whole number, at least 1, or auto")
A_TIME = ("TIME", "a time such as 2h, 1h30m or 45s")
Device = Annotated[
    str, StringConstraints(pattern=r"^(auto|cpu|mps|cuda(:\d+)?)$"), Field(examples=["auto", "cpu", "cuda", "mps"])
]


class CommandSettings(BaseSettings):
    """What all commands' settings share. Built in Python, a settings object is what its arguments say, and nothing
    else: the environment and configuration files are read by the command line only."""

    model_config = SettingsConfigDict(extra="forbid", frozen=True, env_prefix="GPTCLI_", allow_inf_nan=False)
    command: ClassVar[str]
    table: ClassVar[str] = ""  # of a configuration file, where it is not that of the command's own name

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return (init_settings,)
