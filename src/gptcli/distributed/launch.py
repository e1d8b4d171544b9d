"""Starting one process for each GPU of this machine, by torchrun's own launcher, in this process."""

from __future__ import annotations

import logging
import signal
from collections.abc import Sequence

import torch
from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.run import get_args_parser, run

from gptcli.distributed.runtime import announce_launcher, n_cores, share_cores
from gptcli.errors import UsageError, UserError

SHUTDOWN_SECONDS = 10  # between SIGTERM and SIGKILL to the other ranks; torch waits 30
STOPPED, INTERRUPTED = 75, 130  # exit codes of a rank that saved and stopped; others than these are failures


def check_processes(processes: int, device: str) -> None:
    """Raise UsageError where this machine can't give every process a device of its own."""
    on_cuda = device.startswith("cuda") or (device == "auto" and torch.cuda.is_available())
    if ":" in device and processes > 1:
        raise UsageError(
            f"--device {device} names one GPU, --gpus {processes} asks for {processes}.", "Use --device cuda."
        )
    if on_cuda and processes > torch.cuda.device_count():
        raise UsageError(
            f"--gpus {processes}: this machine has {torch.cuda.device_count()} GPUs.",
            f"Use --gpus {max(1, torch.cuda.device_count())}, or --device cpu to train on the processor.",
        )
    if not on_cuda and processes > 1 and device != "cpu":
        raise UsageError(
            f"--gpus {processes}: this machine has no GPU that torch can use.",
            f"To train on the processor: --gpus {processes} --device cpu",
        )
    if device == "cpu" and processes > max(n_cores(), 2):
        raise UsageError(f"--gpus {processes}: this machine has {n_cores()} cores.", f"Use --gpus {n_cores()} at most.")


def launch(argv: Sequence[str], processes: int) -> int:
    """Run `gpt` with the arguments `argv` as `processes` ranks; returns the exit code of the whole.

    That is 0 when all ended well; 75 or 130 when they were stopped and saved; else the code of the rank that failed
    first, whose message is already on standard error. Raises UserError for a rank that was killed.
    """
    signals = [name for name in ("SIGTERM", "SIGINT", "SIGUSR1") if hasattr(signal, name)]
    args = get_args_parser().parse_args(
        [
            "--standalone",
            f"--nproc-per-node={processes}",
            f"--signals-to-handle={','.join(signals)}",
            f"--shutdown-timeout={SHUTDOWN_SECONDS}",
            "--module",
            "gptcli",
            *argv,
        ]
    )
    share_cores(processes)
    announce_launcher()
    logging.disable(logging.ERROR)  # this process only launches: what its ranks have to say they say themselves
    try:
        run(args)  # type: ignore[no-untyped-call]  # torch has no types here
    except ChildFailedError as error:
        return _exit_code(error)
    except SignalException as error:
        return INTERRUPTED if error.sigval == signal.SIGINT else STOPPED
    return 0


def _exit_code(error: ChildFailedError) -> int:
    failures = sorted(error.failures.items(), key=lambda item: item[1].timestamp)
    codes = [(rank, failure.exitcode) for rank, failure in failures]
    real = [(rank, code) for rank, code in codes if code not in (STOPPED, INTERRUPTED)]
    if not real:
        return INTERRUPTED if any(code == INTERRUPTED for _, code in codes) else STOPPED
    rank, code = real[0]
    if code < 0:  # killed by a signal
        why = "Memory may have run out. " if -code == getattr(signal, "SIGKILL", None) else ""
        raise UserError(
            f"Rank {rank} was killed by {signal.Signals(-code).name}.",
            f"{why}The same command continues from the last checkpoint.",
        )
    return code
