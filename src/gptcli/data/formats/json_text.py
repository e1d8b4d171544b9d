"""The text in a JSON value, and what to say where there is none."""

from __future__ import annotations

import json
from typing import Any

from gptcli.data.formats.faults import columns_hint
from gptcli.data.formats.texts import UTF16_HINT, is_utf16, not_utf8
from gptcli.data.slices import Problem, Reading

_KINDS = {
    type(None): "null",
    bool: "a truth value",
    int: "a number",
    float: "a number",
    list: "a list",
    dict: "an object",
    str: "a string",
}
decoder = json.JSONDecoder()


def text_of_value(value: Any, number: int, reading: Reading, unit: str) -> str | Problem:
    """The text at the key that the reading names; an item may also be a plain string."""
    if unit == "item" and isinstance(value, str):
        return value
    column = reading.text_column
    text = value.get(column) if isinstance(value, dict) else None
    if isinstance(text, str):
        return text
    if not isinstance(value, dict):
        example = f'{{"{column}": "..."}}'
        return Problem(number, f"{_KINDS[type(value)]}, not an object", f"Every {unit} is an object such as {example}.")
    if column not in value:
        return Problem(number, f"no key '{column}'", columns_hint(column, list(value)))
    wrong = "null" if text is None else f"{_KINDS[type(text)]}, not text"
    return Problem(
        number, f"'{column}' is {wrong}", f"Give --on-error skip to leave such {unit}s out, or --text-column."
    )


def utf8(text: str) -> bytes:
    """The text in UTF-8; lone surrogates, which JSON can spell and UTF-8 can't, become U+FFFD as in tiktoken."""
    try:
        return text.encode("utf-8")
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace").encode("utf-8")


def text_of_bytes(raw: bytes, number: int, reading: Reading, unit: str) -> tuple[bytes | None, Problem | None]:
    """The text in the JSON that `raw` holds, or why there is none; both where bytes of it had to be replaced."""
    try:
        value = decoder.decode(raw.decode("utf-8", errors="replace"))
    except (ValueError, RecursionError) as error:
        return None, invalid(number, error, raw, unit)
    text = text_of_value(value, number, reading, unit)
    if isinstance(text, Problem):
        return None, text
    # Bytes that are not UTF-8 are a fault where they are in the text; then the ways to decode them differ in it.
    other = text_of_value(decoder.decode(raw.decode("utf-8", errors="surrogateescape")), number, reading, unit)
    if text == other:
        return utf8(text), None
    return (utf8(text) if reading.on_error is None else None), not_utf8(number, b"", reading)


def invalid(number: int, error: Exception, begin: bytes, unit: str, more: str = "") -> Problem:
    """The problem of JSON that could not be decoded; `more` follows the reason."""
    if isinstance(error, json.JSONDecodeError):
        reason = error.msg
    else:
        reason = "nested too deep" if isinstance(error, RecursionError) else "a number that is too long"
    if is_utf16(begin):
        hint = UTF16_HINT
    elif unit == "line":
        hint = "Every line is a JSON object of its own."
    else:
        hint = "The file is to be an array of objects, or objects one after another."
    return Problem(number, f"no valid JSON ({reason}){more}", hint)
