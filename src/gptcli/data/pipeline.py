"""Text in, token shards out: source → documents → encoders → shard files → manifest."""

from __future__ import annotations

import errno
import hashlib
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from pydantic import JsonValue

from gptcli.data import output
from gptcli.data.durable import write_bytes
from gptcli.data.encoder import BulkEncoder, rank_file
from gptcli.data.locks import FolderLock
from gptcli.data.manifest import Manifest, TokenizerRecord, Totals
from gptcli.data.shards import open_shards
from gptcli.data.sources import Source, open_source, unescape
from gptcli.data.workers import EncodedBatch, encode_all
from gptcli.data.writer import ShardWriter
from gptcli.distributed.runtime import n_cores
from gptcli.errors import Fault, UsageError, UserError
from gptcli.settings import TokenizeSettings, data_folder


@dataclass(frozen=True)
class Progress:
    """How far it is. `bytes` and `total_bytes` are of text; the total is an estimate, None where unknown."""

    documents: int
    bytes: int
    tokens: int
    total_bytes: int | None
    shard: str
    seconds: float


@dataclass(frozen=True)
class Summary:
    """What lies in the folder. `already_done`: it lay there before. `moved_to`: where --fresh put what was there."""

    folder: Path
    documents: int
    tokens: int
    bytes: int
    train_tokens: int
    val_tokens: int
    shards: int
    seconds: float
    already_done: bool
    moved_to: Path | None = None


@dataclass(frozen=True)
class VerifyReport:
    """A folder whose shards are all as they were written."""

    folder: Path
    shards: int
    tokens: int


def tokenize(settings: TokenizeSettings, progress: Callable[[Progress], None] | None = None) -> Summary:
    """Write the token shards that the settings describe, and tell `progress` after every batch of text.

    A folder that holds just these already is left as it is. On any error the folder is left as if nothing had begun.
    Raises UsageError for sources or options that can't be used or differ from those of a finished folder, UserError for
    text that can't be read, a folder in use, a full disk.
    """
    source = open_source(settings)
    folder = data_folder(settings.local_dir)
    if not settings.fresh and (done := _finished(folder, source, settings)):
        return done
    meter = _Meter(source.total_bytes(), progress)
    encoder = BulkEncoder(settings.tokenizer_model)
    with _room_on_disk(folder, meter, encoder.dtype.itemsize), FolderLock(folder):
        if not settings.fresh and (done := _finished(folder, source, settings)):  # by another, in the meantime
            return done
        moved_to = output.prepare(folder, settings.fresh)
        try:
            manifest = _write(folder, source, encoder, settings, meter)
            manifest.write(folder)
        except BaseException:
            output.clear(folder)
            if moved_to:
                output.restore(folder, moved_to)
            raise
        output.finish(folder)
    return _summary(folder, manifest, meter.seconds, already_done=False, moved_to=moved_to)


def verify(folder: Path) -> VerifyReport:
    """Compare every shard with the checksum in the manifest. Raises UserError that names each one that differs."""
    manifest = open_shards(folder).manifest
    if manifest is None:
        raise UsageError(f"{folder} has no manifest to check its shards against.", "Only `gpt tokenize` writes one.")
    faults = []
    for shard in manifest.shards:
        with (folder / shard.name).open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
        if found != shard.sha256:
            faults.append(
                Fault(f"The shard {folder / shard.name} is damaged: its checksum differs from the manifest's.")
            )
    if faults:
        faults[-1] = replace(faults[-1], hint="Copy it again from where it came from, or tokenize again with --fresh.")
        raise UserError(faults=faults)
    return VerifyReport(folder, len(manifest.shards), manifest.totals.tokens)


class _Meter:
    """Counts what has been done, and tells whoever listens."""

    def __init__(self, total_bytes: int | None, listener: Callable[[Progress], None] | None) -> None:
        self.at = Progress(0, 0, 0, total_bytes, "", 0.0)
        self._listener = listener
        self._started = time.monotonic()

    @property
    def seconds(self) -> float:
        return time.monotonic() - self._started

    def add(self, batch: EncodedBatch, shard: str) -> None:
        at = self.at
        self.at = Progress(
            at.documents + batch.documents,
            at.bytes + batch.bytes,
            at.tokens + batch.ids.size,
            at.total_bytes,
            shard,
            self.seconds,
        )
        if self._listener:
            self._listener(self.at)


def _write(folder: Path, source: Source, encoder: BulkEncoder, settings: TokenizeSettings, meter: _Meter) -> Manifest:
    """Write all shards; the manifest is returned, not written."""
    sources = source.record()
    tokenizer = encoder.tokenizer
    with (
        closing(ShardWriter(folder, encoder.dtype, settings.shard_size, settings.val_tokens)) as writer,
        closing(source.documents()) as documents,
        closing(encode_all(documents, encoder, settings.workers or n_cores())) as batches,
    ):
        for batch in batches:
            meter.add(batch, writer.shard_name)
            writer.append(batch.ids)
        if meter.at.bytes == 0:
            raise UsageError("The sources hold no text.", "Give files that are not empty.")
        shards = writer.finish()
    if tokenizer.name != "gpt2":
        write_bytes(folder / output.TOKENIZER_FILE, rank_file(tokenizer))
    return Manifest(
        tokenizer=TokenizerRecord(
            name=tokenizer.name, vocab_size=tokenizer.vocab_size, eot=tokenizer.eot, sha256=tokenizer.sha256
        ),
        dtype="uint16" if encoder.dtype.itemsize == 2 else "uint32",
        shards=shards,
        totals=Totals(documents=meter.at.documents, tokens=meter.at.tokens, bytes=meter.at.bytes),
        sources=sources,
        options=_options(settings),
    )


def _finished(folder: Path, source: Source, settings: TokenizeSettings) -> Summary | None:
    """The summary of a folder that is finished. Raises UsageError where it was made from something else."""
    manifest = Manifest.read(folder)
    if manifest is None:
        return None
    differences = _differences(manifest.options, _options(settings))
    if manifest.sources != source.record():
        differences.append("other sources")
    if differences:
        raise UsageError(
            f"{folder} already holds tokens, made with {', '.join(differences)}.",
            "Give another --local-dir, or --fresh to move them aside.",
        )
    open_shards(folder)  # raises for a shard that is missing or cut off
    return _summary(folder, manifest, 0.0, already_done=True)


def _summary(
    folder: Path, manifest: Manifest, seconds: float, *, already_done: bool, moved_to: Path | None = None
) -> Summary:
    totals = manifest.totals
    return Summary(
        folder=folder,
        documents=totals.documents,
        tokens=totals.tokens,
        bytes=totals.bytes,
        train_tokens=manifest.tokens("train"),
        val_tokens=manifest.tokens("val"),
        shards=len(manifest.shards),
        seconds=seconds,
        already_done=already_done,
        moved_to=moved_to,
    )


def _options(settings: TokenizeSettings) -> dict[str, JsonValue]:
    """The options that the bytes of the shards depend on, by name."""
    return {
        "tokenizer_model": settings.tokenizer_model,
        "shard_size": settings.shard_size,
        "val_tokens": settings.val_tokens,
        "text_column": settings.text_column,
        "separator": None if settings.separator is None else unescape(settings.separator),
    }


def _differences(old: dict[str, JsonValue], new: dict[str, JsonValue]) -> list[str]:
    names = [name for name in new if old.get(name) != new[name]]
    return [f"--{name.replace('_', '-')} {_shown(old.get(name))} (now {_shown(new[name])})" for name in names]


def _shown(value: JsonValue) -> str:
    return "default" if value is None else repr(value) if isinstance(value, str) else str(value)


@contextmanager
def _room_on_disk(folder: Path, meter: _Meter, bytes_per_token: int) -> Iterator[None]:
    """Turn a full disk into an error that says how much room is needed."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC)):
            raise
        at = meter.at
        needed = f"so far {at.tokens * bytes_per_token / 1e6:,.1f} MB of tokens were made"
        if at.total_bytes and at.bytes:
            whole = at.tokens * bytes_per_token * max(1.0, at.total_bytes / at.bytes)
            needed += f"; all need about {whole / 1e6:,.1f} MB, twice that while the size of validation is open"
        raise UserError(
            f"The disk of {folder} is full; {needed}.", "Free some space, or give another --local-dir."
        ) from error
