"""`gpt train`: draws the run, or its plan."""

from __future__ import annotations

import shlex
import signal
import time
from pathlib import Path

from gptcli.cli import report
from gptcli.cli.options import Call
from gptcli.errors import UserError
from gptcli.settings import TrainSettings
from gptcli.training.events import TrainResult

EXAMPLES = """\
gpt train --preset gpt2 --gpus 8
gpt train --data-root books --preset demo --log-dir log/books
gpt train --preset gpt2-medium --dry-run"""


def run(settings: TrainSettings, call: Call) -> int:
    """Train, or with --dry-run tell what would be trained. Returns the exit code."""
    if settings.dry_run:
        return _dry_run(settings, call)
    from gptcli.distributed.runtime import detect

    ranks = detect()
    if settings.gpus > 1 and not ranks.launched:
        from gptcli.distributed.launch import launch
        from gptcli.training.setup import preflight

        preflight(settings)
        began = time.time()
        code = launch(list(call.words), settings.gpus)
        if code in (report.STOPPED, report.INTERRUPTED) and not saved_since(Path(settings.log_dir), began):
            raise UserError(
                "The run was stopped before it could save.",
                "What came after its last checkpoint is computed again when the same command continues.",
            )
        return code

    from gptcli.cli.monitor import watching
    from gptcli.training.run import train

    with watching(settings.monitor, ranks.rank == 0) as listener:
        result = train(settings, listener, ["gpt", *call.words])
    if ranks.rank == 0:
        tell_end(result, settings.fresh)
    return exit_code(result)


def exit_code(result: TrainResult) -> int:
    """0 for a complete run, 130 for one interrupted from the keyboard, 75 for one stopped in another way."""
    if result.signal is None:
        return report.DONE
    return report.INTERRUPTED if result.signal == signal.SIGINT else report.STOPPED


def saved_since(run: Path, moment: float) -> bool:
    """Whether the run's newest checkpoint was written after `moment` (seconds since the epoch)."""
    from gptcli.model.locate import checkpoints_of

    checkpoints = checkpoints_of(run)
    return bool(checkpoints) and checkpoints[-1].stat().st_mtime >= moment - 2  # file systems count in up to 2 s


def tell_end(result: TrainResult, fresh: bool = False) -> None:
    """How the run ended, where its checkpoint lies, and what to type next."""
    if result.signal is not None:
        report.say(f"Stopped after step {result.step:,} of {result.steps:,}; checkpoint in {result.checkpoint}", "bold")
        report.say("The same command without --fresh continues." if fresh else "The same command continues.")
        return
    if result.already_finished:
        report.say(
            f"This run is complete: {result.steps:,} steps. --fresh starts it again, --max-iters makes it longer."
        )
    else:
        loss = "" if result.val_loss is None else f", validation loss {result.val_loss:.4f}"
        report.say(f"Done: {result.step:,} steps{loss}", "bold green")
    report.say(f"Checkpoint: {result.checkpoint}")
    folder = str(result.log_dir)
    elsewhere = folder != "log"
    report.say(f"Next: gpt plot{f' {shlex.quote(folder)}' if elsewhere else ''}")
    report.say(f'      gpt generate "On a clear day"{f" --model {shlex.quote(folder)}" if elsewhere else ""}')


def _dry_run(settings: TrainSettings, call: Call) -> int:
    from gptcli.planning import plan

    planned = plan(settings)
    if call.json:
        report.print_json(planned.as_dict())
        return report.DONE
    width = max((len(name) for name in planned.facts), default=0)
    for name, value in planned.facts.items():
        report.say(f"{name:<{width}}  {value}")
    return report.DONE
