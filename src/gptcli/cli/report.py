"""What people and programs are told: faults, notes and JSON, and the exit code that goes with each."""

from __future__ import annotations

import contextlib
import errno
import json
import math
import select
import sys
import traceback
from collections.abc import Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any

from typer import TyperException

from gptcli.cli.interruption import CarriedError, Terminated, raising
from gptcli.errors import Fault, ToldElsewhereError, UserError

if TYPE_CHECKING:
    from rich.console import Console

DONE, FAILED, USAGE, STOPPED, INTERRUPTED = 0, 1, 2, 75, 130
_RESUMED = ("tokenize", "train")  # commands that go on, given again, where they were stopped

_OS_ERRORS = {
    errno.ENOSPC: ("The disk is full", "Make room and give the same command again."),
    errno.EDQUOT if hasattr(errno, "EDQUOT") else -1: ("The disk quota is used up", "Make room and start again."),
    errno.EACCES: ("No permission", "Choose another folder, or change who may use this one."),
    errno.EROFS: ("The file system can't be written to", "Choose another folder."),
    errno.EMFILE: ("Too many open files", "Raise the limit (ulimit -n) or take fewer --workers."),
}


def console() -> Console:
    """A Rich console on standard error, where everything for people goes."""
    from gptcli.cli.terminal import Terminal

    return Terminal()


def say(text: str, style: str | None = None) -> None:
    """One line for people."""
    console().print(text, style=style)


def print_json(document: Any) -> None:
    """The one JSON document of a call, to standard output. What JSON has no number for (inf, nan) is null."""
    sys.stdout.write(json.dumps(_finite(document), indent=2, allow_nan=False) + "\n")


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


class Reporting:
    """Runs its block, tells of any error that leaves it in a line or two, and has the exit code in `code` after it.

    A signal that asks the process to end unwinds the block as Ctrl-C does; `command` is the one that runs.
    """

    def __init__(self, command: str, debug: bool) -> None:
        self.command, self.debug = command, debug
        self.code = DONE
        self._signals = raising()

    def __enter__(self) -> Reporting:
        self._signals.__enter__()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> bool:
        self._signals.__exit__(None, None, None)
        if isinstance(error, CarriedError):
            error = error.__cause__
        if error is None:
            return True
        if isinstance(error, SystemExit):
            # Rich ends the process so where the reader of a help page goes away.
            return isinstance(error.__context__, BrokenPipeError)
        if isinstance(error, BrokenPipeError) and _nobody_reads():
            _forget_stdout()
            return True  # `| head` has all that it wanted
        if self.debug:
            traceback.print_exception(error)
        if isinstance(error, KeyboardInterrupt):
            self.code = stop_code(error, self.command)
            say("The same command goes on." if self.code == STOPPED else "Interrupted.", "bold")
            return True
        self.code, faults = explain(error)
        show(faults)
        return True


def stop_code(error: KeyboardInterrupt, command: str) -> int:
    """The exit code of a command that was stopped with nothing lost: 75 where starting it again goes on and a signal
    asked for that, else 130."""
    return STOPPED if isinstance(error, Terminated) and command in _RESUMED else INTERRUPTED


def explain(error: BaseException) -> tuple[int, list[Fault]]:
    """The exit code for an error, and what to tell of it."""
    if isinstance(error, ToldElsewhereError):
        return error.exit_code, []
    if isinstance(error, UserError):
        return error.exit_code, error.faults
    if isinstance(error, TyperException):
        return error.exit_code, [Fault(error.format_message(), "gpt --help lists commands and options.")]
    if isinstance(error, MemoryError) or _is_out_of_memory(error):
        return FAILED, [
            Fault("There is not enough memory.", "Ask for less: a smaller batch, a smaller model, fewer --workers.")
        ]
    if type(error).__name__ == "OutOfMemoryError":  # torch's, which is not imported here
        return FAILED, [
            Fault("The GPU is out of memory.", "Take a smaller batch: --n-batches, or --batch-tokens of eval.")
        ]
    if isinstance(error, OSError):
        what, hint = _OS_ERRORS.get(
            error.errno or 0, (error.strerror or str(error), "--debug shows where it happened.")
        )
        return FAILED, [Fault(f"{what}: {error.filename}." if error.filename else f"{what}.", hint)]
    return FAILED, [
        Fault(f"{type(error).__name__}: {error}", "This should not have happened. --debug shows where it did.")
    ]


def _is_out_of_memory(error: BaseException) -> bool:
    """Whether torch found no memory on the processor, for which it has no class."""
    return isinstance(error, RuntimeError) and "can't allocate memory" in str(error)


def trace(error: BaseException, who: str) -> None:
    """An error with its traceback, in one piece: other processes may be writing too."""
    text = "".join(traceback.format_exception(error))
    sys.stderr.write("".join(f"{who}: {line}\n" for line in text.splitlines()))


def show(faults: Sequence[Fault]) -> None:
    """Each fault as one line, its hint on a line beneath."""
    if not faults:
        return
    out = console()
    for fault in faults:
        out.print("error: ", style="bold red", end="")
        out.print(fault.message)
        if fault.hint:
            out.print(f"  {fault.hint}", style="dim")


def _nobody_reads() -> bool:
    """Whether standard output is a pipe that has lost its reader. Pipes to other processes can break too."""
    try:
        poll = select.poll()
        poll.register(sys.stdout, 0)
        return bool(poll.poll(0))
    except (AttributeError, ValueError, OSError):  # Windows has no poll; a stand-in for a stream has no descriptor
        return False


def _forget_stdout() -> None:
    """Nobody reads standard output any more: what is still in its buffer must not fail when the interpreter ends."""
    with contextlib.suppress(OSError):
        sys.stdout.close()
