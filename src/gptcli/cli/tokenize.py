"""`gpt tokenize`: shows how far the tokenizing is, and what came of it."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gptcli.cli import report
from gptcli.cli.options import Call
from gptcli.cli.progress import Interval, bar, count, duration, short
from gptcli.settings import TokenizeSettings, data_folder

if TYPE_CHECKING:
    from gptcli.data.assembly import Progress, Summary

EXAMPLES = """\
gpt tokenize --local-dir edu_fineweb10B
gpt tokenize books.parquet notes/*.md --local-dir books
cat notes/*.txt | gpt tokenize - --separator "\\n\\n" --local-dir notes
gpt tokenize --verify books"""

_SHOWN_PROBLEMS = 10


def run(settings: TokenizeSettings, call: Call) -> int:
    """Tokenize, or with --verify check a folder of shards. Returns the exit code."""
    from gptcli.data.pipeline import tokenize

    if settings.verify is not None:
        return _verify(data_folder(settings.verify), call)
    folder = data_folder(settings.local_dir)
    report.say(f"Folder: {folder}")
    with watching() as progress:
        summary = tokenize(settings, progress, stdin=getattr(sys.stdin, "buffer", None), told=_note)
    if summary.moved_to:
        _note(f"what was in {folder} now lies in {summary.moved_to}")
    if summary.fell_back:
        _note(f"{summary.fell_back} All was made with tiktoken instead.")
    if summary.continued:
        _note(f"{summary.continued:,} tokens of an earlier call were there already")
    _list_problems(summary)
    if call.json:
        report.print_json(as_json(summary))
    report.say(describe(summary))
    return report.DONE


def as_json(summary: Summary) -> dict[str, Any]:
    """The document of --json."""
    new_tokens, rate = summary.tokens - summary.continued, summary.seconds > 0
    return {
        "folder": str(summary.folder),
        "documents": summary.documents,
        "tokens": summary.tokens,
        "bytes": summary.bytes,
        "bytes_per_token": summary.bytes / summary.tokens,
        "train_tokens": summary.train_tokens,
        "val_tokens": summary.val_tokens,
        "shards": summary.shards,
        "skipped": summary.skipped,
        "replaced": summary.replaced,
        "problems": [problem.model_dump() for problem in summary.problems],
        "engine": summary.engine or None,
        "continued_tokens": summary.continued,
        "seconds": summary.seconds,
        "tokens_per_second": new_tokens / summary.seconds if rate else None,
        "already_done": summary.already_done,
    }


def describe(summary: Summary) -> str:
    """The lines at the end."""
    documents, shards = count(summary.documents, "document"), count(summary.shards, "shard")
    lines = [
        f"{summary.folder}: {documents}, {summary.tokens:,} tokens "
        f"({summary.train_tokens:,} train, {summary.val_tokens:,} validation) in {shards}"
    ]
    told = [f"{summary.bytes / summary.tokens:.2f} bytes per token"]
    if summary.skipped:
        told.append(f"{count(summary.skipped, 'document')} left out")
    if summary.replaced:
        told.append(f"{count(summary.replaced, 'document')} with bytes replaced")
    if summary.already_done:
        told.append("was there already")
    else:
        share = 1 - summary.continued / summary.tokens
        speed = share * summary.bytes / 1e6 / max(summary.seconds, 1e-9)
        told.append(f"{duration(summary.seconds)} with {summary.engine}, {speed:,.1f} MB/s")
    return "\n".join([*lines, "; ".join(told)])


def _note(text: str) -> None:
    report.say(f"note: {text}", "yellow")


def _list_problems(summary: Summary) -> None:
    """Name the documents that were left out or changed: the first few, and how many there are of each kind."""
    for problem in summary.problems[:_SHOWN_PROBLEMS]:
        _note(f"{problem}{': replaced by U+FFFD' if problem.replaced else ': left out'}")
    if (more := summary.skipped + summary.replaced - _SHOWN_PROBLEMS) > 0 and summary.problems:
        _note(f"and {more:,} more; --json lists the first 1,000")


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
            total = None if progress.share is None else 1.0
            drawn.update(task, total=total, completed=progress.share or 0.0, text=figures(progress))

        yield move


def figures(progress: Progress) -> str:
    """Documents, text, rates, shard and time left, where the whole is known."""
    tally, before = progress.tally, progress.before
    seconds = max(progress.seconds, 1e-9)
    rates = f"{(tally.bytes - before.bytes) / 1e6 / seconds:,.1f} MB/s"
    parts = [count(tally.documents, "document"), f"{tally.bytes / 1e6:,.1f} MB"]
    if progress.stage == "encoding":
        parts += [f"{short((tally.tokens - before.tokens) / seconds)} tokens/s", rates, progress.shard]
    else:
        parts += [progress.stage, rates]
    if progress.share and progress.share > progress.began_at:
        left = seconds * (1 - min(progress.share, 1)) / (progress.share - progress.began_at)
        parts.append(f"{duration(left)} left")
    return "  ".join(part for part in parts if part)
