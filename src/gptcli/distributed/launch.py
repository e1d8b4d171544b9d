"""Starting one process for each GPU of this machine, by torchrun's own launcher, in this process; with --nodes on
several machines, each of which is started by hand or by a scheduler."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import socket
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
import torch.distributed as dist
from torch.distributed.elastic.multiprocessing import api
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.run import get_args_parser, run

from gptcli.distributed.runtime import Ranks, announce_launcher, n_cores, share_cores
from gptcli.errors import Fault, UsageError, UserError, raise_if
from gptcli.settings import TrainSettings

# Ranks that were asked to stop get the time that their checkpoint takes: who asked decides how long he waits. When a
# rank has failed the others end by themselves (`peers`); torch kills what is left 30 s later.
STOP_SECONDS = 24 * 3600
MEET_SECONDS = 3600  # for which a machine waits until all the others have come
STOPPED, INTERRUPTED = 75, 130  # exit codes of a rank that saved and stopped; others than these are failures
_HEARING_SECONDS = 2.0


class Processes(Protocol):
    """How many processes on how many machines, and where these meet: as `TrainSettings` has them."""

    @property
    def gpus(self) -> int: ...
    @property
    def nodes(self) -> int: ...
    @property
    def node_rank(self) -> int: ...
    @property
    def rdzv_endpoint(self) -> str | None: ...


@dataclass(frozen=True)
class OnThisMachine:
    """`gpus` processes on this machine alone."""

    gpus: int
    nodes: int = 1
    node_rank: int = 0
    rdzv_endpoint: str | None = None


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
            f"Use --gpus {max(1, torch.cuda.device_count())}, or --device cpu to compute on the processor.",
        )
    if not on_cuda and processes > 1 and device != "cpu":
        raise UsageError(
            f"--gpus {processes}: this machine has no GPU that torch can use.",
            f"To compute on the processor: --gpus {processes} --device cpu",
        )
    # A run that was begun with more processes goes on with fewer cores, only slower; but not with any number.
    if device == "cpu" and processes > max(4 * n_cores(), 8):
        raise UsageError(f"--gpus {processes}: this machine has {n_cores()} cores.", f"Use --gpus {n_cores()} at most.")


def check_nodes(settings: TrainSettings) -> None:
    """Raise UsageError for options of several machines that don't fit together, or can't work on this one."""
    faults = []
    nodes, rank, endpoint = settings.nodes, settings.node_rank, settings.rdzv_endpoint
    if rank >= nodes:
        faults.append(
            Fault(f"--node-rank {rank}: with --nodes {nodes} it is at most {nodes - 1}.", "The first machine is 0.")
        )
    if nodes > 1 and endpoint is None:
        faults.append(
            Fault(
                "--nodes needs --rdzv-endpoint HOST:PORT.", "HOST is machine 0 as the others reach it; any free PORT."
            )
        )
    if nodes == 1 and endpoint is not None:
        faults.append(Fault("--rdzv-endpoint is where several machines meet.", "Say how many there are with --nodes."))
    if nodes > 1 and endpoint is not None:
        faults += _endpoint_faults(endpoint, is_server=rank == 0)
    raise_if(faults)


def check_launched(settings: TrainSettings, ranks: Ranks) -> None:
    """Raise UsageError where the options ask for other processes than those that a launcher has started."""
    here, machines = ranks.local_world_size, ranks.world_size // ranks.local_world_size
    asked = [("--gpus", settings.gpus, here), ("--nodes", settings.nodes, machines)]
    raise_if(
        [
            Fault(
                f"{option} {wanted}: this process is one of {here} that were started on each of {machines} machines.",
                f"Leave {option} out: torchrun or srun says how many there are, one task for each GPU.",
            )
            for option, wanted, found in asked
            if wanted not in (1, found)
        ]
    )


def _endpoint_faults(endpoint: str, is_server: bool) -> list[Fault]:
    host, port = _split(endpoint)
    if not host or not 0 < port < 2**16:
        return [Fault(f"--rdzv-endpoint {endpoint} is not of the form HOST:PORT.", "For example 10.0.0.1:29400.")]
    try:
        socket.getaddrinfo(host, port)
    except OSError:
        return [Fault(f"--rdzv-endpoint: there is no host {host} that this machine knows.", "Try its address.")]
    if is_server:
        try:
            socket.create_server(("", port)).close()
        except OSError as error:
            reason = error.strerror or str(error)
            return [
                Fault(f"--rdzv-endpoint: port {port} can't be used here: {reason}.", "Take another on all machines.")
            ]
    return []


def _split(endpoint: str) -> tuple[str, int]:
    """Host and port of HOST:PORT or [IPv6]:PORT; port 0 where there is none."""
    host, _, port = endpoint.rpartition(":")
    return host.strip("[]"), int(port) if port.isdecimal() else 0


def launch(argv: Sequence[str], settings: Processes) -> int:
    """Run `gpt` with the arguments `argv` as the ranks of this machine; returns the exit code of the whole.

    That is 0 when all ended well; 75 or 130 when they were stopped and saved; else the code of the rank that failed
    first, whose message is already on standard error. Raises UserError for a rank that was killed, or where the other
    machines don't come.
    """
    signals = [name for name in ("SIGTERM", "SIGINT", "SIGUSR1") if hasattr(signal, name)]
    args = get_args_parser().parse_args(
        [
            *_meeting(settings),
            f"--nproc-per-node={settings.gpus}",
            f"--signals-to-handle={','.join(signals)}",
            f"--shutdown-timeout={STOP_SECONDS}",
            "--module",
            "gptcli",
            *argv,
        ]
    )
    share_cores(settings.gpus)
    announce_launcher()
    logging.disable(logging.ERROR)  # this process only launches: what its ranks have to say they say themselves
    try:
        with _hearing():
            run(args)  # type: ignore[no-untyped-call]  # torch has no types here
    except ChildFailedError as error:
        return _exit_code(error)
    except api.SignalException as error:
        return INTERRUPTED if error.sigval == signal.SIGINT else STOPPED
    except dist.DistError as error:
        raise UserError(
            f"The {settings.nodes} machines did not meet at {settings.rdzv_endpoint}: {str(error).splitlines()[0]}",
            "Start the same command on each, with its own --node-rank, and see that they reach that address.",
        ) from error
    return 0


def _meeting(settings: Processes) -> list[str]:
    """torchrun's options for where the ranks meet: machine 0 serves, and ranks follow the numbers of the machines."""
    if settings.nodes == 1:
        return ["--standalone"]
    return [
        f"--nnodes={settings.nodes}",
        f"--node-rank={settings.node_rank}",
        "--rdzv-backend=static",
        f"--rdzv-endpoint={settings.rdzv_endpoint}",
        f"--rdzv-conf=timeout={MEET_SECONDS}",
    ]


@contextlib.contextmanager
def _hearing() -> Iterator[None]:
    """End this process at a signal that comes while it waits for other machines: in native code, where Python's own
    handlers are not reached. Once there are ranks, torch's handlers stop them."""
    if os.name != "posix" or threading.current_thread() is not threading.main_thread():
        yield
        return
    reader, writer = socket.socketpair()
    writer.setblocking(False)
    over = threading.Event()

    def hear() -> None:
        while number := reader.recv(1):
            if over.wait(_HEARING_SECONDS):
                return
            has_ranks = signal.getsignal(signal.SIGTERM) is api._terminate_process_handler
            if not has_ranks and number[0] in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
                os._exit(INTERRUPTED if number[0] == signal.SIGINT else STOPPED)

    before = signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
    listener = threading.Thread(target=hear, name="hearing", daemon=True)
    listener.start()
    try:
        yield
    finally:
        over.set()
        signal.set_wakeup_fd(before)
        writer.close()
        listener.join()
        reader.close()


def _exit_code(error: ChildFailedError) -> int:
    failures = sorted(error.failures.items(), key=lambda item: item[1].timestamp)
    codes = [(rank, failure.exitcode) for rank, failure in failures]
    real = [(rank, code) for rank, code in codes if code not in (STOPPED, INTERRUPTED)]
    if not real:
        return INTERRUPTED if any(code == INTERRUPTED for _, code in codes) else STOPPED
    # The one that a signal killed is the cause; those that ended when they lost it may be noted first. But SIGTERM is
    # what torch sends to those that are still ending when one has failed.
    killed = [(rank, code) for rank, code in real if code < 0 and code != -signal.SIGTERM]
    failed = [(rank, code) for rank, code in real if code > 0]
    rank, code = (killed or failed or real)[0]
    if code < 0:
        why = "Memory may have run out. " if -code == getattr(signal, "SIGKILL", None) else ""
        raise UserError(
            f"Rank {rank} was killed by {signal.Signals(-code).name}.",
            f"{why}The same command can be started again; a run continues from its last checkpoint.",
        )
    return code
