"""Batches of documents through many encoding processes, results in order, only so many under way."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Generator, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass

from gptcli.data.encoder import BulkEncoder, Engine
from gptcli.data.shard_format import Ids
from gptcli.errors import UserError

BATCH_BYTES = 2**20
_BYTES_PER_DOCUMENT = 64  # what an empty document costs, so that a batch of them ends too
_BATCHES_PER_WORKER = 3
_BYTES_UNDER_WAY = 128 * 2**20

# Starting processes takes about two seconds, in which this one encodes about this much by itself.
ALONE_BYTES = {"gigatoken": 64 * 2**20, "tiktoken": 8 * 2**20, "auto": 0}


@dataclass(frozen=True)
class EncodedBatch:
    """Some documents in a row: how many, their bytes in UTF-8, and their ids."""

    documents: int
    bytes: int
    ids: Ids


def batches(documents: Iterable[str]) -> Iterator[list[str]]:
    """Documents in lists of about BATCH_BYTES of text."""
    batch: list[str] = []
    size = 0
    for text in documents:
        batch.append(text)
        size += len(text) + _BYTES_PER_DOCUMENT
        if size >= BATCH_BYTES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def encode_all(
    documents: Iterable[str], encoder: BulkEncoder, workers: int, alone_bytes: int | None = None
) -> Generator[EncodedBatch]:
    """Encode all documents, in their order, with `workers` processes.

    The first `alone_bytes` are encoded in this process, so that a small corpus starts no others; with one worker, all.
    Raises UserError when a process dies.
    """
    if alone_bytes is None:
        alone_bytes = ALONE_BYTES[encoder.engine]
    lists = batches(documents)
    encoded = 0
    while (workers == 1 or encoded < alone_bytes) and (batch := next(lists, None)):
        ids, size = encoder.encode(batch)
        encoded += size
        yield EncodedBatch(len(batch), size, ids)
    if (batch := next(lists, None)) is not None:
        yield from _by_pool(batch, lists, encoder, workers)


def _by_pool(first: list[str], rest: Iterator[list[str]], encoder: BulkEncoder, workers: int) -> Iterator[EncodedBatch]:
    # Spawned, not forked: a fork copies the locks of threads that it doesn't copy, and deadlocks.
    pool = ProcessPoolExecutor(
        workers,
        mp_context=multiprocessing.get_context("spawn"),
        initializer=_start_worker,
        initargs=(encoder.tokenizer.name, encoder.engine),
    )
    under_way: deque[tuple[int, int, Future[tuple[Ids, int]]]] = deque()
    size_under_way = 0
    try:
        with _interrupts_held_back():  # the processes are started here
            future = pool.submit(_encode, first)
        batch: list[str] | None = first
        while batch or under_way:
            if batch:
                size = sum(map(len, batch))
                under_way.append((len(batch), size, future))
                size_under_way += size
                if (batch := next(rest, None)) is not None:
                    future = pool.submit(_encode, batch)
            full = len(under_way) >= _BATCHES_PER_WORKER * workers or size_under_way >= _BYTES_UNDER_WAY
            if full or not batch:
                count, size, oldest = under_way.popleft()
                size_under_way -= size
                ids, n_bytes = oldest.result()
                yield EncodedBatch(count, n_bytes, ids)
    except BrokenProcessPool as error:
        raise UserError(
            "A process that was encoding died.",
            "Mostly for want of memory: give fewer --workers, or 1 to see the reason.",
        ) from error
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


_encoder: BulkEncoder | None = None  # one for each worker process


def _start_worker(tokenizer_name: str, engine: Engine) -> None:
    global _encoder
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent ends its workers
    threading.Thread(target=_end_with_parent, daemon=True).start()
    _encoder = BulkEncoder(tokenizer_name, engine)


def _encode(texts: list[str]) -> tuple[Ids, int]:
    assert _encoder is not None, "a worker that was not started"
    return _encoder.encode(texts)


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
