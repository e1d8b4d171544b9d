"""What a field of a settings class is to the command line: its spellings, its kind, the values to offer."""

from __future__ import annotations

import types
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import annotated_types
from pydantic import BeforeValidator
from pydantic.fields import FieldInfo

from gptcli.settings import CommandSettings

_WORDS = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}
_METAVARS = {int: "INT", float: "FLOAT", bool: "BOOL", str: "TEXT"}
_SIGNS = {">=": "at least", ">": "above", "<=": "at most", "<": "below"}
_LARGEST = 2**31  # a bound beyond this keeps a value storable; it is nothing to tell a reader of --help

_WIDEST = 20  # characters of a value's place in --help that leave the text beside it readable on 80


@dataclass(frozen=True)
class OptionField:
    """One option or positional argument of a command.

    `many` says that it takes several values of `kind`, `commas` that one word may hold several of them; `choices` are
    the values to offer and to suggest. `bounds` are pairs of sign and number, such as (">=", 1), the lower one first.
    `adapts` and `told` (`takes` there) are explained at `settings.option`.
    """

    name: str
    kind: type
    many: bool
    commas: bool
    positional: bool
    choices: tuple[str, ...]
    bounds: tuple[tuple[str, float], ...]
    default: Any
    help: str
    group: str
    adapts: bool
    told: tuple[str, ...] = ()

    @property
    def flag(self) -> str:
        """As it is typed: `--max-lr`, or the name of a positional argument in capitals."""
        return self.name.upper() if self.positional else "--" + self.name.replace("_", "-")

    @property
    def variable(self) -> str:
        """As it stands in the environment."""
        return variable(self.name)

    @property
    def metavar(self) -> str:
        """The value's place in `--help`, with its choices or bounds: `INT>=1`, `0<=FLOAT<1`, `auto|on|off`."""
        if self.told:
            return self.told[0]
        choices = "|".join(self.choices)
        if choices and not self.many:
            return choices if len(choices) <= _WIDEST else "NAME"
        word = _METAVARS[self.kind] + (",..." if self.commas else "")
        if len(self.bounds) == 2:
            (lower, low), (upper, high) = self.bounds
            return f"{low:g}{lower.replace('>', '<')}{word}{upper}{high:g}"
        return word + "".join(f"{sign}{number:g}" for sign, number in self.bounds)

    @property
    def takes(self) -> str:
        """What it takes, in words: `a whole number, at least 1`."""
        if self.told:
            return self.told[1]
        if self.choices:
            return f"one of {', '.join(self.choices)}"
        bounds = " and ".join(f"{_SIGNS[sign]} {number:g}" for sign, number in self.bounds)
        return _WORDS[self.kind] + (f", {bounds}" if bounds else "")


def variable(name: str) -> str:
    """The environment variable that sets the option `name`."""
    return f"GPTCLI_{name.upper()}"


@cache
def fields_of(settings_cls: type[CommandSettings]) -> Mapping[str, OptionField]:
    """All fields of a settings class by name, in its order."""
    return {name: _read(name, info) for name, info in settings_cls.model_fields.items()}


def _read(name: str, info: FieldInfo) -> OptionField:
    extra = info.json_schema_extra
    assert isinstance(extra, dict), f"{name} was not made by option() or argument()"
    kind = _bare(info.annotation)
    many = get_origin(kind) is tuple
    if many:
        kind = _bare(get_args(kind)[0])
    choices = get_args(kind) if get_origin(kind) is Literal else tuple(str(value) for value in info.examples or ())
    if get_origin(kind) is Literal:
        kind = str
    return OptionField(
        name=name,
        kind=kind,
        many=many,
        commas=many and any(isinstance(mark, BeforeValidator) for mark in info.metadata),
        positional=bool(extra.get("positional")),
        choices=choices,
        bounds=_bounds(info),
        default=info.default,
        help=info.description or "",
        group=str(extra.get("group", "")),
        adapts=bool(extra.get("adapts")),
        told=tuple(str(part) for part in told) if isinstance(told := extra.get("takes"), list) else (),
    )


def _bare(annotation: Any) -> Any:
    """The type itself, out of `Annotated[...]`, `... | None` and `... | Literal["auto"]`."""
    if get_origin(annotation) is Annotated:
        return _bare(get_args(annotation)[0])
    if get_origin(annotation) in (Union, types.UnionType):
        inner = [part for part in get_args(annotation) if part is not type(None)]
        return _bare(next(part for part in inner if len(inner) == 1 or get_origin(part) is not Literal))
    return annotation


def _bounds(info: FieldInfo) -> tuple[tuple[str, float], ...]:
    found: list[tuple[str, Any]] = []
    for mark in info.metadata:
        match mark:
            case annotated_types.Ge(ge=number):
                found.append((">=", number))
            case annotated_types.Gt(gt=number):
                found.append((">", number))
            case annotated_types.Le(le=number):
                found.append(("<=", number))
            case annotated_types.Lt(lt=number):
                found.append(("<", number))
    return tuple(sorted((bound for bound in found if abs(bound[1]) < _LARGEST), reverse=True))
