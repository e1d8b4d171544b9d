"""`gpt plot`: where the figure of runs lies, or the figure itself as text."""

from __future__ import annotations

import locale
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from gptcli.cli import report
from gptcli.cli.options import Call
from gptcli.errors import Errors, UsageError
from gptcli.settings import PlotSettings

if TYPE_CHECKING:
    from gptcli.plotting.content import Content

EXAMPLES = """\
gpt plot log
gpt plot log --terminal
gpt plot runs/small runs/large --x flops --output scaling.pdf"""

# Of Okabe and Ito 2008 those that can be seen on black as on white; curves have their marks too.
_COLOURS = ("#56B4E9", "#E69F00", "#009E73", "#CC79A7", "#D55E00", "#0072B2")
_STYLES = {"text": "", "strong": "bold", "faint": "dim"}


def run(settings: PlotSettings, call: Call) -> int:
    """Draw the figure and print its path to standard output, or itself with --terminal. Returns the exit code."""
    from gptcli.plotting.content import content_of
    from gptcli.plotting.picture import target_of, write_picture
    from gptcli.plotting.runs import open_runs

    folders = [Path(name) for name in settings.log_dir]
    target, runs = Path(), []
    errors = Errors()
    with errors.collected():
        runs = open_runs(folders, settings.x)
    with errors.collected():
        if settings.terminal and settings.output:
            raise UsageError("--terminal writes no picture.", "Leave it or --output.")
        target = target_of(folders, Path(settings.output) if settings.output else None)
    errors.raise_all()
    content = content_of(runs, settings.x, settings.smoothing)
    for note in content.notes:
        report.say(f"note: {note}", "yellow")
    if settings.terminal:
        _show(content)
    else:
        write_picture(content, target)
        sys.stdout.write(f"{target}\n")
    return report.DONE


def _show(content: Content) -> None:
    """The figure on standard output, in colours where these are wanted."""
    from rich.console import Console
    from rich.text import Text

    from gptcli.plotting.terminal import draw

    out = Console(file=sys.stdout, markup=False, emoji=False, highlight=False)
    for line in draw(content, out.width, plain=out.options.ascii_only or _is_c_locale()):
        text = Text(no_wrap=True, overflow="ignore")
        for part, style in line:
            text.append(part, _STYLES[style] if isinstance(style, str) else _COLOURS[style % len(_COLOURS)])
        text.rstrip()
        out.print(text, crop=False)


def _is_c_locale() -> bool:
    """Whether the user asked for the C locale, which is ASCII; Python writes UTF-8 there all the same."""
    return locale.setlocale(locale.LC_CTYPE) in ("C", "POSIX")
