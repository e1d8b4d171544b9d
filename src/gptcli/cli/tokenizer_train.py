"""`gpt tokenizer train`: shows how far the training is, and how well the new tokenizer compresses."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from gptcli.cli import report
from gptcli.cli.options import Call
from gptcli.cli.progress import Interval, bar, count, duration
from gptcli.settings import TokenizerTrainSettings

if TYPE_CHECKING:
    from gptcli.data.bpe_training import TrainedTokenizer, TrainingProgress

EXAMPLES = """\
gpt tokenizer train books.parquet notes/*.md --vocab-size 8192
gpt tokenize books.parquet --tokenizer-model tokenizer.json --local-dir books
gpt tokenizer train --limit-bytes 2e9 --vocab-size 32768 --output fineweb.json"""


def run(settings: TokenizerTrainSettings, call: Call) -> int:
    """Train the tokenizer, and tell what it does to text that it has not seen. Returns the exit code."""
    from gptcli.data.bpe_training import train_tokenizer

    with watching() as progress:
        trained = train_tokenizer(settings, progress, stdin=getattr(sys.stdin, "buffer", None), told=_note)
    for note in notes(trained):
        _note(note)
    if call.json:
        report.print_json(as_json(trained))
    report.say(describe(trained))
    return report.DONE


def as_json(trained: TrainedTokenizer) -> dict[str, Any]:
    """The document of --json."""
    return {
        "file": str(trained.path),
        "sha256": trained.tokenizer.sha256,
        "vocab_size": trained.tokenizer.vocab_size,
        "documents": trained.documents,
        "bytes": trained.bytes,
        "held_out_bytes": trained.held_out_bytes,
        "bytes_per_token": trained.bytes_per_token,
        "gpt2_bytes_per_token": trained.gpt2_bytes_per_token,
        "limited": trained.limited,
        "seconds": trained.seconds,
    }


def _note(text: str) -> None:
    report.say(f"note: {text}", "yellow")


def notes(trained: TrainedTokenizer) -> Iterator[str]:
    """What differs from what was asked for or could be expected."""
    if trained.moved_to:
        yield f"what was in {trained.path} now lies in {trained.moved_to}"
    if trained.limited:
        yield f"only the first {trained.bytes / 1e6:,.0f} MB of text were read: --limit-bytes"
    if trained.tokenizer.vocab_size < trained.asked:
        yield (
            f"the text is too small for {trained.asked:,} tokens: the tokenizer has {trained.tokenizer.vocab_size:,}. "
            "Give more text, or a smaller --vocab-size."
        )


def describe(trained: TrainedTokenizer) -> str:
    """The lines at the end."""
    text = f"{count(trained.documents, 'document')}, {trained.bytes / 1e6:,.1f} MB"
    lines = [f"{trained.path}: {trained.tokenizer.vocab_size:,} tokens from {text} in {duration(trained.seconds)}"]
    if trained.bytes_per_token is not None and trained.gpt2_bytes_per_token is not None:
        lines.append(
            f"{trained.bytes_per_token:.2f} bytes per token on {trained.held_out_bytes / 1e6:,.2f} MB held out; "
            f"gpt2 with its 50,257 tokens has {trained.gpt2_bytes_per_token:.2f}."
        )
    return "\n".join([*lines, f"Use it with: gpt tokenize --tokenizer-model {trained.path}"])


@contextlib.contextmanager
def watching() -> Iterator[Callable[[TrainingProgress], None]]:
    """Draws progress: a bar on a terminal, else a plain line every few seconds and at every new stage."""
    out = report.console()
    if not out.is_terminal:
        interval, stages = Interval(), set[str]()

        def line(progress: TrainingProgress) -> None:
            is_new = progress.stage not in stages
            if interval.due() or is_new:
                stages.add(progress.stage)
                out.print(figures(progress))

        yield line
        return
    with bar(out) as drawn:
        task = drawn.add_task("", total=None, text="")

        def move(progress: TrainingProgress) -> None:
            # What the sources hold is told in bytes of files, which for compressed ones is not those of the text.
            drawn.update(task, completed=progress.bytes, total=progress.total_bytes, text=figures(progress))

        yield move


def figures(progress: TrainingProgress) -> str:
    """The stage, and how much text has been read."""
    rate = f"{progress.bytes / 1e6 / max(progress.seconds, 1e-9):,.1f} MB/s"
    parts = [progress.stage, count(progress.documents, "document"), f"{progress.bytes / 1e6:,.1f} MB"]
    return "  ".join([*parts, rate] if progress.stage == "reading" else [*parts, duration(progress.seconds)])
