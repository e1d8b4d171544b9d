"""`gpt plot`: where the figure of a run lies."""

from __future__ import annotations

import sys
from pathlib import Path

from gptcli.cli import report
from gptcli.cli.options import Call
from gptcli.settings import PlotSettings

EXAMPLES = """\
gpt plot log
gpt plot log --output curves.pdf"""


def run(settings: PlotSettings, call: Call) -> int:
    """Draw the figure and print its path to standard output. Returns the exit code."""
    from gptcli.plotting import plot

    picture = plot(Path(settings.log_dir), Path(settings.output) if settings.output else None)
    sys.stdout.write(f"{picture}\n")
    return report.DONE
