"""`gpt export`: a model for other programs."""

from __future__ import annotations

from gptcli.cli import report
from gptcli.cli.options import Call
from gptcli.settings import ExportSettings

EXAMPLES = """\
gpt export log model.gguf
gpt export log model.gguf --quantize q8_0
gpt export openai-community/gpt2 my-gpt2 --format hf"""


def run(settings: ExportSettings, call: Call) -> int:
    """Export, and say what was written. Returns the exit code."""
    from gptcli.export import export

    written = export(settings)
    for note in written.notes:
        report.say(f"note: {note}", "yellow")
    if call.json:
        told = {"path": str(written.path), "format": written.format}
        report.print_json(told | {"parameters": written.parameters, "bytes": written.bytes})
    else:
        size = f"{written.bytes / 1e6:,.1f} MB"
        report.say(f"{written.path}: {written.format}, {written.parameters:,} parameters, {size}")
    return report.DONE
