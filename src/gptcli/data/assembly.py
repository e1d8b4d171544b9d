"""From sources to a finished folder: what the encoders give is put together, and every whole shard is noted."""

from __future__ import annotations

import errno
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from gptcli.data import output
from gptcli.data.encoding_job import CollectingCharacters, Encoding
from gptcli.data.executor import Executor, LocalProcesses
from gptcli.data.identity import CHARACTERS, options_of
from gptcli.data.journal import Journal
from gptcli.data.limits import Limits
from gptcli.data.manifest import Manifest, TokenizerRecord, Totals
from gptcli.data.retries import Told
from gptcli.data.sources import Sources
from gptcli.data.tally import LocatedProblem, Tally
from gptcli.data.writer import NothingToTrainOnError, ShardWriter, check_room
from gptcli.distributed.runtime import n_cores
from gptcli.errors import UserError
from gptcli.settings import TokenizeSettings
from gptcli.tokenizer import Tokenizer, chars_tokenizer
from gptcli.tokenizer_files import save_tokenizer

# Starting processes takes about a second, in which this one encodes about this much by itself. Of compressed files
# it is more text.
_ALONE_BYTES = {"gigatoken": 128 * 2**20, "tiktoken": 8 * 2**20, "tokenizers": 4 * 2**20}
_ALONE_BYTES_OTHERS = 128 * 2**20


@dataclass(frozen=True)
class Progress:
    """How far it is. `tally` counts all, `before` what an earlier call had done, `seconds` are those of this one.

    total_bytes: of the sources, as `tally.source_bytes`; None where unknown. share: what is done of all there is to do;
    None where unknown. began_at: the share at which this call began. stage: what is being done.
    """

    tally: Tally
    before: Tally
    total_bytes: int | None
    share: float | None
    began_at: float
    shard: str
    seconds: float
    stage: str = "encoding"


@dataclass(frozen=True)
class Summary:
    """What lies in the folder, and how it came there.

    already_done: it lay there before. moved_to: where --fresh put what was there. engine: what encoded. continued:
    the tokens that an earlier call had left. problems: documents left out (`skipped` in all) or changed (`replaced`).
    """

    folder: Path
    documents: int
    tokens: int
    bytes: int
    train_tokens: int
    val_tokens: int
    shards: int
    skipped: int
    replaced: int
    seconds: float
    already_done: bool
    engine: str = ""
    moved_to: Path | None = None
    continued: int = 0
    fell_back: str = ""
    problems: tuple[LocatedProblem, ...] = ()


def summary_of(folder: Path, manifest: Manifest) -> Summary:
    """The summary of a folder that is finished."""
    totals = manifest.totals
    return Summary(
        folder=folder,
        documents=totals.documents,
        tokens=totals.tokens,
        bytes=totals.bytes,
        train_tokens=manifest.tokens("train"),
        val_tokens=manifest.tokens("val"),
        shards=len(manifest.shards),
        skipped=totals.skipped,
        replaced=totals.replaced,
        seconds=0.0,
        already_done=True,
    )


def _nothing_left(tally: Tally) -> NothingToTrainOnError:
    if tally.skipped:
        told = f"Nothing with text is left: {tally.skipped:,} left out, the first being {tally.problems[0]}."
        return NothingToTrainOnError(told, "Mend them.")
    return NothingToTrainOnError("The sources hold no text, as far as they are taken.", "Give files with text.")


Listener = Callable[[Progress], None]


class Assembly:
    """The making of one folder. `told` hears of waiting for servers, `listener` how far it is."""

    def __init__(
        self,
        settings: TokenizeSettings,
        sources: Sources,
        tokenizer: Tokenizer | None,
        folder: Path,
        executor: Executor | None = None,
        told: Told | None = None,
        listener: Listener | None = None,
    ) -> None:
        self._settings = settings
        self._sources = sources
        self._tokenizer = tokenizer
        self._folder = folder
        self._executor = executor
        self._told = told
        self._listener = listener
        self._limits = Limits(settings.limit_documents, settings.limit_tokens)
        self._started = self._began_encoding = time.monotonic()
        self._tally = self._continued = Tally()
        self._total_bytes: int | None = None
        self._itemsize = 2

    def make(self, journal: Journal | None) -> Summary:
        """Write all shards and the manifest, or what `journal` says is left of them. The folder's lock must be held."""
        with self._room_on_disk():
            return self._make(journal)

    def _make(self, journal: Journal | None) -> Summary:
        folder, settings = self._folder, self._settings
        self._total_bytes = self._sources.total_bytes()
        self._tally = self._continued = journal.before if journal else Tally()
        characters = journal.characters if journal else None
        tokenizer = self._tokenizer
        if tokenizer is None:
            characters = characters or self._characters()
            tokenizer = chars_tokenizer(characters)
            self._began_encoding = time.monotonic()
        job = Encoding(tokenizer, settings.engine)
        self._itemsize = job.dtype.itemsize
        journal = (journal or Journal(sources=(), options={}, tokenizer=TokenizerRecord.of(tokenizer))).model_copy(
            update={"sources": self._sources.record(), "options": options_of(settings), "characters": characters}
        )
        journal.write(folder)
        states = self._sources.states()
        with closing(
            ShardWriter(folder, job.dtype, settings.shard_size, settings.val_tokens, journal.parts, self._room)
        ) as writer:
            continued = writer.tokens
            self._assemble(writer, journal, job)
            if self._sources.states() != states:
                raise NothingToTrainOnError(
                    "A file was changed while it was read.", "Start again when all is complete."
                )
            if self._tally.bytes == 0:
                raise _nothing_left(self._tally)
            shards = writer.finish()
        if not tokenizer.is_packaged:
            save_tokenizer(folder, tokenizer)
        tally = self._tally
        manifest = Manifest(
            tokenizer=journal.tokenizer,
            dtype="uint16" if self._itemsize == 2 else "uint32",
            shards=shards,
            totals=Totals(
                documents=tally.documents,
                tokens=tally.tokens,
                bytes=tally.bytes,
                skipped=tally.skipped,
                replaced=tally.replaced,
            ),
            sources=journal.sources,
            options=journal.options,
        )
        manifest.write(folder)
        output.finish(folder)
        return replace(
            summary_of(folder, manifest),
            already_done=False,
            seconds=self._seconds,
            engine=job.engine,
            continued=continued,
            problems=tally.problems,
        )

    def _assemble(self, writer: ShardWriter, journal: Journal, job: Encoding) -> None:
        """Bring the ids of all bundles to the writer, in order; note every piece that has become whole."""
        there = writer.tokens - self._tally.tokens  # of the first bundle's tokens, that many are in the shards
        bundles = self._sources.bundles(self._cache, job.tokenizer.cuts, journal.at, self._told)
        executor = self._executor or self._processes(job.engine)
        with closing(bundles), closing(executor.run(bundles, job)) as results:
            for bundle, encoded in results:
                before = self._tally
                taken = self._limits.take(encoded, before, job.tokenizer)
                tally = before.after(bundle, encoded.slices, self._settings.on_error)
                self._tally = tally.counted(taken.documents, taken.bytes, taken.ids.size)
                n_parts = len(writer.parts)
                writer.append(taken.ids[there:])
                there = 0
                if len(writer.parts) > n_parts:
                    clean = not (self._tally.skipped or self._tally.replaced)
                    update = {"parts": tuple(writer.parts), "at": bundle.at, "before": before, "clean": clean}
                    journal.model_copy(update=update).write(self._folder)
                self._tell(writer.shard_name)
                if taken.full:
                    return

    def _characters(self) -> str:
        """All characters of the sources, in the order of their code points."""
        tally, distinct = Tally(), set[str]()
        bundles = self._sources.bundles(self._cache, "characters", told=self._told)
        executor = self._executor or self._processes(CHARACTERS)
        with closing(bundles), closing(executor.run(bundles, CollectingCharacters())) as results:
            for bundle, found in results:
                tally = tally.after(bundle, found.slices, self._settings.on_error)
                tally = tally.counted(found.documents, found.bytes, found.documents + found.characters)
                distinct.update(found.distinct)
                self._tell("", tally, "collecting characters")
                if self._limits.reached(tally):
                    break
        if not distinct:
            raise NothingToTrainOnError("The sources hold no text.", "Give files that are not empty.")
        return "".join(sorted(distinct))

    def _processes(self, engine: str) -> Executor:
        small = self._total_bytes is not None and self._total_bytes <= _ALONE_BYTES.get(engine, _ALONE_BYTES_OTHERS)
        return LocalProcesses(1 if small else self._settings.workers or n_cores())

    def _tell(self, shard: str, tally: Tally | None = None, stage: str = "encoding") -> None:
        if self._listener:
            at = tally or self._tally
            total = self._total_bytes
            share, began_at = self._limits.share(at, total), self._limits.share(self._continued, total) or 0.0
            seconds = time.monotonic() - self._began_encoding
            self._listener(Progress(at, self._continued, total, share, began_at, shard, seconds, stage))

    def _room(self, piece: int) -> None:
        """Check that there is room for a piece of so many bytes, or for all that is left where that is less."""
        tally = self._tally
        if self._total_bytes is not None and tally.tokens:
            left = (self._total_bytes - tally.source_bytes) * tally.tokens / max(tally.source_bytes, 1)
            piece = min(piece, int(2 * left * self._itemsize) + 2**20)
        elif self._total_bytes is not None:  # mostly 4 bytes of text are a token, and 3 of compressed text are 10
            piece = min(piece, self._total_bytes * self._itemsize)
        check_room(self._folder, piece)

    @property
    def _cache(self) -> Path:
        return self._folder / output.SOURCES_FOLDER

    @property
    def _seconds(self) -> float:
        return time.monotonic() - self._started

    @contextmanager
    def _room_on_disk(self) -> Iterator[None]:
        """Turn a full disk into an error that says how much room is needed."""
        try:
            yield
        except OSError as error:
            if error.errno not in (errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC)):
                raise
            at = self._tally
            needed = f"so far {at.tokens * self._itemsize / 1e6:,.1f} MB of tokens were made"
            if self._total_bytes and at.source_bytes:
                whole = at.tokens * self._itemsize * max(1.0, self._total_bytes / at.source_bytes)
                needed += f"; all need about {whole / 1e6:,.1f} MB, twice that while the size of validation is open"
            raise UserError(
                f"The disk of {self._folder} is full; {needed}.",
                "Free some space and start again: whole shards stay. Or give another --local-dir.",
            ) from error
