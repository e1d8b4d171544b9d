"""What pydantic found wrong with a value, in the terms of whoever gave it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from pydantic_core import ErrorDetails

from gptcli.cli.fields import OptionField
from gptcli.errors import Fault, nearest

# Words that people use for a value, where spelling alone would suggest another (gpu is nearer to cpu than to cuda).
_MEANT = {"gpu": "cuda", "nvidia": "cuda", "metal": "mps", "apple": "mps", "true": "on", "false": "off"}

_BOUNDS = {
    "greater_than_equal": ("ge", "below"),
    "greater_than": ("gt", "not above"),
    "less_than_equal": ("le", "above"),
    "less_than": ("lt", "not below"),
}
_KINDS = {
    "int_parsing": "not a whole number",
    "int_from_float": "not a whole number",
    "int_type": "not a whole number",
    "int_parsing_size": "too large",
    "float_parsing": "not a number",
    "float_type": "not a number",
    "finite_number": "not a finite number",
    "bool_parsing": "not true or false",
    "bool_type": "not true or false",
    "string_type": "not text",
    "string_unicode": "not readable as text",
    "tuple_type": "not a list",
    "string_too_short": "empty",
}


def fault_of(error: ErrorDetails, fields: Mapping[str, OptionField], origin: Mapping[str, str]) -> Fault:
    """The fault behind one of pydantic's errors: where the value came from, what is wrong with it, what it takes."""
    name = str(error["loc"][0]) if error["loc"] else ""
    field = fields.get(name)
    if field is None:
        return Fault(f"{name}: {error['msg']}" if name else error["msg"])
    return Fault(f"{origin.get(name, field.flag)}: {_problem(error, field)}.", suggestion(error["input"], field))


def suggestion(value: Any, field: OptionField) -> str:
    """What to give instead of `value`: the nearest choice, else what the option takes."""
    guess = closest(str(value), field.choices)
    return f"Did you mean {guess!r}?" if guess else f"It takes {field.takes}."


def closest(word: str, choices: Iterable[str]) -> str:
    """The choice that `word` was probably meant to be, by meaning or by spelling, or an empty string."""
    choices = list(choices)
    meant = _MEANT.get(word.lower(), "")
    return meant if meant in choices else nearest(word.lower(), choices)


def _problem(error: ErrorDetails, field: OptionField) -> str:
    value = error["input"]
    # What was typed comes back as text; quotation marks around a number would say that it was taken for text.
    shown = repr(value) if isinstance(value, str) and error["type"] not in _BOUNDS else str(value)
    if error["type"] in _BOUNDS:
        key, word = _BOUNDS[error["type"]]
        return f"{shown} is {word} {error['ctx'][key]:g}"
    if field.choices and error["type"] in ("literal_error", "string_pattern_mismatch"):
        return f"{shown} is not one of {', '.join(field.choices)}"
    if field.told and error["type"] in _KINDS:
        return f"{shown} is not {field.told[1].partition(' such')[0]}"
    if error["type"] in _KINDS:
        return f"{shown} is {_KINDS[error['type']]}"
    return f"{shown}: {error['msg']}"
