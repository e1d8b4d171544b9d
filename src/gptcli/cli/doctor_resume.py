"""`gpt doctor resume`: shows the proof that runs of a configuration are resumed exactly."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from gptcli.cli import report
from gptcli.cli.config_file import write_config
from gptcli.cli.fields import fields_of
from gptcli.cli.options import Call
from gptcli.settings import DoctorResumeSettings, TrainSettings

EXAMPLES = """\
gpt doctor resume --data-root books --preset demo
gpt doctor resume --config run.toml --gpus 2"""


def run(settings: DoctorResumeSettings, call: Call) -> int:
    """Make the proof. Returns 0 where it holds, else 1."""
    from gptcli.doctor.resume import prove

    with tempfile.TemporaryDirectory(prefix="gpt-doctor-", ignore_cleanup_errors=True) as folder:

        def start(one: TrainSettings) -> list[str]:
            file = Path(folder, "run.toml")
            file.write_text(write_config(one, fields_of(TrainSettings)), encoding="utf-8")
            return [sys.executable, "-m", "gptcli", "train", "--config", str(file)]

        proof = prove(settings, start, report.say)
    if call.json:
        report.print_json(
            {
                "holds": proof.holds,
                "exact": not proof.difference,
                "steps": proof.steps,
                "interruptions": list(proof.interruptions),
                "difference": proof.difference or None,
                "largest_loss_difference": proof.largest,
            }
        )
    for interruption in proof.interruptions:
        report.say(f"The second run was {interruption}.")
    compared = " and ".join(proof.compared)
    if not proof.difference:
        report.say(f"Exact: {proof.steps} steps; {compared} are equal bit for bit.", "bold green")
    elif proof.holds:
        report.say(
            f"Resumed as promised here: losses differ by {proof.largest:.2g} at most. First: {proof.difference}."
        )
        report.say("Equal bits are promised for one process on a CPU.")
    else:
        report.say(f"Not exact: {proof.difference}.", "bold red")
    if proof.folder:
        report.say(f"Both runs are kept in {proof.folder}")
    return report.DONE if proof.holds else report.FAILED
