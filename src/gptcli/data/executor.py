"""Who does the work on slices: an interface, and the processes of this machine as its first implementation.

A bundle of slices and a job are plain data, a result depends on nothing else, and results come back in the order of
the bundles: a cluster is another class with the same `run`.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any, Protocol, TypeVar

from gptcli.data.slices import Bundle
from gptcli.distributed.runtime import one_thread_each
from gptcli.errors import UserError

R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)

_BUNDLES_PER_PROCESS = 3
_MOST_PROCESSES = 61 if os.name == "nt" else 10_000  # Windows waits for no more processes than that


class Job(Protocol[R_co]):
    """What is done with every bundle. It pickles."""

    def prepare(self) -> Callable[[Bundle], R_co]:
        """The function that does it, with what it needs loaded; called once in every process."""


class Executor(Protocol):
    """Does a job on bundles, anywhere."""

    def run(self, bundles: Iterator[Bundle], job: Job[R]) -> Generator[tuple[Bundle, R]]:
        """Every bundle with its result, in the order of the bundles. Only so many bundles are taken ahead."""


class LocalProcesses:
    """Processes of this machine, this one among them: it works too while the others have enough to do.

    Starting others takes about a second, in which this one works alone.
    """

    def __init__(self, workers: int) -> None:
        self.others = min(workers - 1, _MOST_PROCESSES)

    def run(self, bundles: Iterator[Bundle], job: Job[R]) -> Generator[tuple[Bundle, R]]:
        """See Executor. Raises UserError when a process dies."""
        if not self.others:
            work = job.prepare()
            for bundle in bundles:
                yield bundle, work(bundle)
            return
        # Spawned, not forked: a fork copies the locks of threads that it doesn't copy, and deadlocks.
        pool = ProcessPoolExecutor(
            self.others,
            mp_context=multiprocessing.get_context("spawn"),
            initializer=_start_worker,
            initargs=(job,),
        )
        try:
            with _interrupts_held_back():  # the processes are started here
                started = [pool.submit(_ready) for _ in range(self.others)]
            work = job.prepare()
            for bundle in bundles:
                yield bundle, work(bundle)
                if any(future.done() for future in started):
                    break
            yield from self._together(bundles, pool, work)
        except BrokenProcessPool as error:
            raise UserError(
                "A process that was encoding died.",
                "Mostly for want of memory: give fewer --workers, or 1 to see the reason.",
            ) from error
        finally:
            pool.shutdown(wait=True, cancel_futures=True)

    def _together(
        self, bundles: Iterator[Bundle], pool: ProcessPoolExecutor, work: Callable[[Bundle], R]
    ) -> Iterator[tuple[Bundle, R]]:
        """A bundle goes to the others while they have few waiting, else it is done here."""
        under_way: deque[tuple[Bundle, Future[R]]] = deque()
        for bundle in bundles:
            if sum(not future.done() for _, future in under_way) < _BUNDLES_PER_PROCESS * self.others:
                under_way.append((bundle, pool.submit(_work_on, bundle)))
            else:
                here: Future[R] = Future()
                here.set_result(work(bundle))
                under_way.append((bundle, here))
            while under_way and (under_way[0][1].done() or len(under_way) > 2 * _BUNDLES_PER_PROCESS * self.others):
                oldest, future = under_way.popleft()
                yield oldest, future.result()
        while under_way:
            oldest, future = under_way.popleft()
            yield oldest, future.result()


_work: Callable[[Bundle], Any] | None = None  # one for each worker process


def _start_worker(job: Job[Any]) -> None:
    global _work
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent ends its workers
    threading.Thread(target=_end_with_parent, daemon=True).start()
    one_thread_each()
    _work = job.prepare()


def _work_on(bundle: Bundle) -> Any:
    assert _work is not None, "a worker that was not started"
    return _work(bundle)


def _ready() -> None:
    """Done as soon as a worker has started."""


def _end_with_parent() -> None:
    """A worker holds both ends of its queue and would wait for ever on a parent that was killed."""
    parent = multiprocessing.parent_process()
    assert parent is not None, "a worker without a parent"
    parent.join()
    os._exit(1)


@contextlib.contextmanager
def _interrupts_held_back() -> Iterator[None]:
    """Block SIGINT in this thread, and in the processes started meanwhile for good, where the system can.

    Otherwise Ctrl-C while they import would have each of them print a traceback.
    """
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
