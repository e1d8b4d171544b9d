"""`gpt runs diff`: what two runs have not in common, as a table or as JSON."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gptcli.cli import report
from gptcli.cli.options import Call
from gptcli.cli.progress import duration, short
from gptcli.cli.terminal import printable
from gptcli.errors import Errors, UsageError
from gptcli.settings import RunsDiffSettings

if TYPE_CHECKING:
    from gptcli.runs.difference import Difference

EXAMPLES = """\
gpt runs diff log/small log/large
gpt runs diff log.1 log --json"""


def run(settings: RunsDiffSettings, call: Call) -> int:
    """Compare. Returns the exit code."""
    from gptcli.runs.difference import differences

    first, second = _runs(settings)
    found = differences(first, second)
    if call.json:
        report.print_json(
            {
                "runs": [str(first), str(second)],
                "differences": [
                    {"section": item.section, "name": item.name, "values": [item.first, item.second]} for item in found
                ],
            }
        )
    else:
        sys.stdout.write("".join(f"{line}\n" for line in lines(str(first), str(second), found)))
    return report.DONE


def _runs(settings: RunsDiffSettings) -> tuple[Path, Path]:
    from gptcli.runs.follow import check_is_run

    if settings.first is None or settings.second is None:
        raise UsageError("gpt runs diff compares two runs.", "Name their folders: gpt runs diff log/a log/b")
    errors = Errors()
    for name in (settings.first, settings.second):
        with errors.collected():
            check_is_run(Path(name))
    errors.raise_all()
    return Path(settings.first), Path(settings.second)


def lines(first: str, second: str, found: Sequence[Difference]) -> list[str]:
    """A table of three columns, by section."""
    rows = [("", first, second)]
    section = ""
    for item in found:
        if item.section != section:
            section = item.section
            rows.append((f"{section}:", "", ""))
        rows.append((f"  {item.name}", shown(item.name, item.first), shown(item.name, item.second)))
    if not found:
        return [f"{first} and {second} do not differ."]
    widths = [max(len(row[column]) for row in rows) for column in (0, 1)]
    return [printable(f"{name:<{widths[0]}}  {one:<{widths[1]}}  {other}".rstrip()) for name, one, other in rows]


def shown(name: str, value: Any) -> str:
    """A value as a reader wants it; `-` for none."""
    if value is None:
        return "-"
    if isinstance(value, str) and len(value) in (40, 64) and all(letter in "0123456789abcdef" for letter in value):
        return f"{value[:12]}…"
    if isinstance(value, (list, tuple)):
        return ",".join(map(str, value)) or "-"
    if name == "seconds":
        return duration(value)
    if name == "bytes":
        return f"{short(value)}B"
    if isinstance(value, float) and ("loss" in name or name == "hellaswag"):
        return f"{value:.4f}"
    if name == "tokens_per_second":
        return short(value)
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else f"{value}"
