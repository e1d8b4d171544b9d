"""`gpt tokenize`: shows how far the tokenizing is, and what came of it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gptcli.cli import report
from gptcli.cli.options import Call
from gptcli.cli.progress import Interval, bar, count, duration, short
from gptcli.settings import TokenizeSettings, data_folder

if TYPE_CHECKING:
    from gptcli.data.pipeline import Progress, Summary

EXAMPLES = """\
gpt tokenize --local-dir edu_fineweb10B
gpt tokenize books.parquet notes/*.md --local-dir books
gpt tokenize --verify books"""


def run(settings: TokenizeSettings, call: Call) -> int:
    """Tokenize, or with --verify check a folder of shards. Returns the exit code."""
    from gptcli.data.pipeline import tokenize

    if settings.verify is not None:
        return _verify(data_folder(settings.verify), call)
    folder = data_folder(settings.local_dir)
    report.say(f"Folder: {folder}")
    with watching() as progress:
        summary = tokenize(settings, progress)
    if summary.moved_to:
        report.say(f"note: what was in {folder} now lies in {summary.moved_to}", "yellow")
    if call.json:
        report.print_json(as_json(summary))
    report.say(describe(summary))
    return report.DONE


def as_json(summary: Summary) -> dict[str, Any]:
    """The document of --json."""
    return {
        "folder": str(summary.folder),
        "documents": summary.documents,
        "tokens": summary.tokens,
        "bytes": summary.bytes,
        "train_tokens": summary.train_tokens,
        "val_tokens": summary.val_tokens,
        "shards": summary.shards,
        "seconds": summary.seconds,
        "tokens_per_second": summary.tokens / summary.seconds if summary.seconds > 0 else None,
        "already_done": summary.already_done,
    }


def describe(summary: Summary) -> str:
    """The one line at the end."""
    made = "was there already" if summary.already_done else f"in {duration(summary.seconds)}"
    documents, shards = count(summary.documents, "document"), count(summary.shards, "shard")
    return (
        f"{summary.folder}: {documents}, {summary.tokens:,} tokens "
        f"({summary.train_tokens:,} train, {summary.val_tokens:,} validation) in {shards}; {made}"
    )


def _verify(folder: Path, call: Call) -> int:
    from gptcli.data.pipeline import verify

    report.say(f"Folder: {folder}")
    checked = verify(folder)
    if call.json:
        report.print_json({"folder": str(folder), "shards": checked.shards, "tokens": checked.tokens})
    report.say(f"{count(checked.shards, 'shard')} with {checked.tokens:,} tokens: all as the manifest says.")
    return report.DONE


@contextlib.contextmanager
def watching() -> Iterator[Callable[[Progress], None]]:
    """Draws progress: a bar on a terminal, else a plain line every few seconds."""
    out = report.console()
    if not out.is_terminal:
        interval = Interval()

        def line(progress: Progress) -> None:
            if interval.due():
                out.print(figures(progress))

        yield line
        return
    with bar(out) as drawn:
        task = drawn.add_task("", total=None, text="")

        def move(progress: Progress) -> None:
            drawn.update(task, total=progress.total_bytes, completed=progress.bytes, text=figures(progress))

        yield move


def figures(progress: Progress) -> str:
    """Documents, text, rates, shard and time left, where the whole is known."""
    seconds = max(progress.seconds, 1e-9)
    parts = [
        count(progress.documents, "document"),
        f"{progress.bytes / 1e6:,.1f} MB",
        f"{short(progress.tokens / seconds)} tokens/s",
        f"{progress.bytes / 1e6 / seconds:,.1f} MB/s",
        progress.shard,
    ]
    if progress.total_bytes and progress.bytes:
        parts.append(f"{duration(seconds * (progress.total_bytes / progress.bytes - 1))} left")
    return "  ".join(part for part in parts if part)
