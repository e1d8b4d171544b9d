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
from gptcli.training.events import Spent, TrainResult

EXAMPLES = """\
gpt train --preset gpt2 --gpus 8
gpt train --data-root books --preset demo --log-dir log/books
gpt train --preset gpt2-medium --dry-run"""

_FILE_SYSTEM_SECONDS = 2  # the coarsest that file systems count in


def run(settings: TrainSettings, call: Call) -> int:
    """Train, or with --dry-run tell what would be trained. Returns the exit code."""
    if settings.dry_run:
        return _dry_run(settings, call)
    from gptcli.distributed.runtime import detect, launcher

    ranks = detect()
    began = time.time()
    try:
        if ranks.launched:
            return _train_as_rank(settings, call, ranks.rank)
        if settings.gpus == settings.nodes == 1:
            return _train(settings, call, is_main=True)
        code = _launch(settings, call)
    except KeyboardInterrupt as error:
        code = report.stop_code(error, "train")
        if launcher() is not None or ranks.rank > 0:
            return code  # told by the process that launched this one, or by the first
    if code in (report.STOPPED, report.INTERRUPTED) and settings.node_rank == 0:
        _tell_stop(Path(settings.log_dir), began)
    return code


def _train(settings: TrainSettings, call: Call, is_main: bool) -> int:
    from gptcli.cli.monitor import watching
    from gptcli.training.run import train

    with watching(settings.monitor, is_main) as listener:
        result = train(settings, listener, ["gpt", *call.words])
    if is_main:
        tell_end(result, settings.fresh)
    return exit_code(result)


def _train_as_rank(settings: TrainSettings, call: Call, rank: int) -> int:
    """As one of several processes: what nobody foresaw is told with its traceback, since the others end for it."""
    try:
        return _train(settings, call, rank == 0)
    except UserError:
        raise
    except Exception as error:  # noqa: BLE001 (told in full, and the process ends)
        report.trace(error, f"rank {rank}")
        return report.FAILED


def _launch(settings: TrainSettings, call: Call) -> int:
    from gptcli.distributed.launch import launch
    from gptcli.training.setup import preflight

    preflight(settings)
    if settings.nodes > 1:
        report.say(f"Machine {settings.node_rank} of {settings.nodes}; meeting the others at {settings.rdzv_endpoint}.")
    return launch(list(call.words), settings)


def _tell_stop(run: Path, began: float) -> None:
    """Tell of a stop that the run has not told of: before its first step, or with steps not saved (UserError)."""
    if saved_since(run, began):
        return
    if stepped_since(run, began):
        raise UserError(
            "The run was stopped before it could save.",
            "What came after its last checkpoint is computed again when the same command continues.",
        )
    report.say("Stopped before the first step; nothing was lost.", "bold")


def exit_code(result: TrainResult) -> int:
    """0 for a complete run, 130 for one interrupted from the keyboard, 75 for one stopped in another way."""
    if result.complete:
        return report.DONE
    return report.INTERRUPTED if result.signal == signal.SIGINT else report.STOPPED


def saved_since(run: Path, moment: float) -> bool:
    """Whether the run's newest checkpoint was written after `moment` (seconds since the epoch)."""
    from gptcli.model.locate import checkpoints_of

    checkpoints = checkpoints_of(run)
    return bool(checkpoints) and checkpoints[-1].stat().st_mtime >= moment - _FILE_SYSTEM_SECONDS


def stepped_since(run: Path, moment: float) -> bool:
    """Whether the run has taken steps after `moment`, and after its newest checkpoint."""
    from gptcli.model.locate import checkpoints_of, step_of
    from gptcli.training import metrics

    file = run / metrics.METRICS
    if not file.exists() or file.stat().st_mtime < moment - _FILE_SYSTEM_SECONDS:
        return False
    checkpoints = checkpoints_of(run)
    saved = step_of(checkpoints[-1]) if checkpoints else 0
    return any(row.get("kind") == "train" and row["step"] > saved for row in metrics.read(file))


def tell_end(result: TrainResult, fresh: bool = False) -> None:
    """How the run ended, where its checkpoint lies, and what to type next."""
    if result.checkpoint is None:
        report.say("Stopped before the first step; nothing was lost.", "bold")
        return
    if not result.complete:
        report.say(f"Stopped after step {result.step:,} of {result.steps:,}; checkpoint in {result.checkpoint}", "bold")
        _tell_costs(result)
        report.say("The same command without --fresh continues." if fresh else "The same command continues.")
        return
    if result.already_finished:
        report.say(
            f"This run is complete: {result.steps:,} steps. --fresh starts it again, --max-iters makes it longer."
        )
    else:
        loss = "" if result.val_loss is None else f", validation loss {result.val_loss:.4f}"
        report.say(f"Done: {result.step:,} steps{loss}", "bold green")
    _tell_costs(result)
    report.say(f"Checkpoint: {result.checkpoint}")
    folder = str(result.log_dir)
    elsewhere = folder != "log"
    report.say(f"Next: gpt plot{f' {shlex.quote(folder)}' if elsewhere else ''}")
    report.say(f'      gpt generate "On a clear day"{f" --model {shlex.quote(folder)}" if elsewhere else ""}')


def _tell_costs(result: TrainResult) -> None:
    from gptcli.cli.progress import gibibytes

    if result.spent.steps:
        report.say(where_time_went(result.spent))
        if result.peak_memory is not None:
            report.say(f"Memory: {gibibytes(result.peak_memory)} at most")


def where_time_went(spent: Spent) -> str:
    """What the steps, evaluations and saves of a call took."""
    from gptcli.cli.progress import duration

    pace, share = spent.tokens / spent.steps, spent.waiting / spent.steps
    return (
        f"Time: {duration(spent.steps)} in steps at {pace:,.0f} tokens/s, {share:.1%} of it waiting for data; "
        f"{duration(spent.evaluating)} evaluating, {duration(spent.saving)} waiting for saves"
    )


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
