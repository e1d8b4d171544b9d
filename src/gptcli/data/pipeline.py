"""Text in, token shards out: sources → slices → encoders → shard files → manifest.

A call that was cut off, whenever and by whatever, goes on after its last whole shard when it is made again.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO

from gptcli.data import output, standard_input
from gptcli.data.assembly import Assembly, Listener, Summary, summary_of
from gptcli.data.encoder import MismatchError
from gptcli.data.executor import Executor
from gptcli.data.identity import CHARACTERS, differences
from gptcli.data.journal import Journal
from gptcli.data.limits import longest_token
from gptcli.data.locks import FolderLock
from gptcli.data.manifest import Manifest
from gptcli.data.retries import Told
from gptcli.data.shards import open_shards
from gptcli.data.sources import Sources, open_source, unescape
from gptcli.data.writer import NothingToTrainOnError
from gptcli.errors import Fault, UsageError, UserError
from gptcli.settings import TokenizeSettings, data_folder
from gptcli.tokenizer import Tokenizer, get_tokenizer


@dataclass(frozen=True)
class VerifyReport:
    """A folder whose shards are all as they were written."""

    folder: Path
    shards: int
    tokens: int


def tokenize(
    settings: TokenizeSettings,
    progress: Listener | None = None,
    *,
    stdin: BinaryIO | None = None,
    told: Told | None = None,
    executor: Executor | None = None,
) -> Summary:
    """Write the token shards that the settings describe, and tell `progress` after every bundle of text.

    A folder that holds just these already is left as it is. One that was left unfinished is gone on with. On an error
    before the first shard is whole the folder is left as if nothing had begun; afterwards the whole shards stay for the
    next call. `told` hears of waiting for servers. Raises UsageError for sources or options that can't be used or
    differ from those of what lies there, UserError for text that can't be read, a folder in use, a full disk.
    """
    sources = open_source(settings, told)
    tokenizer = None if settings.tokenizer_model == CHARACTERS else get_tokenizer(settings.tokenizer_model)
    folder = data_folder(settings.local_dir)
    if sources.reads_standard_input and stdin is None:
        raise UsageError("Standard input is not open.", "Give files.")
    done = None if settings.fresh or sources.reads_standard_input else _finished(folder, sources, tokenizer, settings)
    if done and not output.has_remains(folder):
        return done
    with FolderLock(folder):
        output.clear_unpacked(folder)
        if settings.fresh:
            output.forget_fetched(folder)
        if sources.reads_standard_input and stdin is not None:
            sources = sources.with_standard_input(_kept(stdin, folder, settings, tokenizer))
        if not settings.fresh and (done := _finished(folder, sources, tokenizer, settings)):
            output.finish(folder)  # which the call that made it may not have come to
            return done
        journal = None if settings.fresh else _unfinished(folder, sources, tokenizer, settings)

        def assembly(engine: str) -> Assembly:
            chosen = settings.model_copy(update={"engine": engine})
            return Assembly(chosen, sources, tokenizer, folder, executor, told, progress)

        work = assembly(settings.engine)
        if tokenizer is None or not tokenizer.is_packaged:
            output.check_tokenizer_place(folder, settings.tokenizer_model)
        moved_to = None if journal else output.prepare(folder, settings.fresh)
        try:
            try:
                summary = work.make(journal)
            except MismatchError as error:
                if settings.on_mismatch == "stop":
                    raise
                output.clear(folder)  # what gigatoken has made is not trusted any more
                summary = replace(assembly("tiktoken").make(None), fell_back=str(error))
        except BaseException as error:
            _leave(folder, error, moved_to)
            raise
        return replace(summary, moved_to=moved_to)


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


def _kept(
    stdin: BinaryIO, folder: Path, settings: TokenizeSettings, tokenizer: Tokenizer | None
) -> standard_input.StandardInput:
    begun = None if settings.fresh else Journal.read(folder)
    holds_tokens = not settings.fresh and (Manifest.read(folder) is not None or bool(begun and begun.parts))
    enough = standard_input.Enough(
        separator=unescape(settings.separator or "\n").encode(),
        documents=settings.limit_documents,
        size=settings.limit_tokens and settings.limit_tokens * longest_token(tokenizer),
    )
    return standard_input.keep(stdin, folder, enough, look_only=holds_tokens)


def _finished(
    folder: Path, sources: Sources, tokenizer: Tokenizer | None, settings: TokenizeSettings
) -> Summary | None:
    """The summary of a folder that is finished. Raises UsageError where it was made from something else."""
    manifest = Manifest.read(folder)
    if manifest is None:
        return None
    found = differences(manifest.sources, manifest.options, manifest.tokenizer, sources, settings, tokenizer, ask=False)
    if found:
        raise UsageError(
            f"{folder} already holds tokens, made with {', '.join(found)}.",
            "Give another --local-dir, or --fresh to move them aside.",
        )
    open_shards(folder)  # raises for a shard that is missing or cut off
    return summary_of(folder, manifest)


def _unfinished(
    folder: Path, sources: Sources, tokenizer: Tokenizer | None, settings: TokenizeSettings
) -> Journal | None:
    """What an earlier call left to go on with. Raises UsageError where it was made from something else."""
    journal = Journal.read(folder)
    if journal is None or not journal.parts:
        return None
    options = journal.options
    if journal.clean and not sources.hold_plain_text:
        # Nothing has been skipped or replaced yet, so the tokens so far are the same; and so are the slices, but for
        # plain text, of which a long document that is to be skipped is one.
        options = options | {"on_error": settings.on_error}
    found = differences(journal.sources, options, journal.tokenizer, sources, settings, tokenizer, ask=True)
    if found:
        raise UsageError(
            f"{folder} holds unfinished tokens, made with {', '.join(found)}.",
            "Give what it was begun with, or another --local-dir, or --fresh to begin anew.",
        )
    return journal


def _leave(folder: Path, error: BaseException, moved_to: Path | None) -> None:
    """What an error leaves: whole shards, and what was fetched. Before the first shard, only what lay there before; of
    standard input what an interruption left, since after a fault of the text another will come.

    Shards of an engine that has erred are not trusted, and those of too little text serve no other call.
    """
    journal = Journal.read(folder)
    if journal and journal.parts and not isinstance(error, (MismatchError, NothingToTrainOnError)):
        return
    if isinstance(error, UserError):
        standard_input.forget(folder)
    output.clear(folder)
    if moved_to:
        output.restore(folder, moved_to)
