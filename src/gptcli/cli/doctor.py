"""`gpt doctor`: shows what the checks find, each line as soon as it is known."""

from __future__ import annotations

from dataclasses import asdict

from gptcli.cli import report
from gptcli.cli.options import Call
from gptcli.settings import DoctorSettings

EXAMPLES = """\
gpt doctor
gpt doctor --data-root books --gpus 8
gpt doctor resume --data-root books --preset demo"""

_STYLES = {"ok": "green", "warning": "yellow", "fault": "bold red"}
_NAME_WIDTH = 13


def run(settings: DoctorSettings, call: Call) -> int:
    """Look at everything. Returns 0 where nothing is a fault, else 1."""
    from gptcli.doctor.examination import examine

    findings = []
    out = report.console()
    for finding in examine(settings):
        findings.append(finding)
        # The word tells as much as its colour.
        out.print(f"{finding.state:<8}", style=_STYLES[finding.state], end="")
        out.print(f"{finding.name:<{_NAME_WIDTH}} {finding.found}", markup=False, highlight=False)
        if finding.mend:
            out.print(f"{'':8}{finding.mend}", style="dim", markup=False, highlight=False)
    faults = sum(finding.state == "fault" for finding in findings)
    if call.json:
        report.print_json({"ok": faults == 0, "findings": [asdict(finding) for finding in findings]})
    if faults:
        report.say(f"{faults} fault{'' if faults == 1 else 's'}; what to do stands below each.", "bold")
    return report.FAILED if faults else report.DONE
