"""`gpt info`: what a folder is and comes from, to standard output."""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Iterable
from typing import TYPE_CHECKING

from gptcli.cli import report
from gptcli.cli.options import Call
from gptcli.cli.origin_words import (
    DIGITS,
    Line,
    call_of,
    calls_of,
    computed,
    data_lines,
    megabytes,
    options_of,
    source_of,
    time_of,
    tokenizer_line,
    totals_of,
    trained,
    word_of,
)
from gptcli.cli.progress import count
from gptcli.cli.terminal import printable
from gptcli.settings import InfoSettings

if TYPE_CHECKING:
    from gptcli.info import Info, ModelInfo, RunInfo, ShardsInfo
    from gptcli.info.run import CheckpointState
    from gptcli.model.config import GPTConfig

EXAMPLES = """\
gpt info
gpt info log/best
gpt info log/checkpoints/step_0001000 --verify
gpt info data/books --json"""

_KEY, _WIDTH = 12, 100


def run(settings: InfoSettings, call: Call) -> int:
    """Tell of the folder. Returns 1 where something in it is damaged, else 0."""
    from gptcli.info import examine

    info = examine(settings.path, verify=settings.verify)
    faults = getattr(info, "faults", ())
    if call.json:
        report.print_json(info.as_dict())
    else:
        sys.stdout.write("".join(f"{line}\n" for line in drawn(info)))
    return report.FAILED if faults else report.DONE


def drawn(info: Info) -> Iterable[str]:
    """The folder, then its lines, each under the word for what it is about."""
    from gptcli.info import ModelInfo, RunInfo

    if isinstance(info, RunInfo):
        kind, lines = "run", _of_run(info)
    elif isinstance(info, ModelInfo):
        kind, lines = "checkpoint" if info.resumable else "model", _of_model(info)
    else:
        kind, lines = "token shards", _of_shards(info)
    yield printable(f"{info.folder}: {kind}")
    for key, text in lines:
        broken = textwrap.wrap(printable(text), _WIDTH - _KEY, break_long_words=False, break_on_hyphens=False)
        for number, part in enumerate(broken):
            yield f"{key if number == 0 else '':<{_KEY}}{part}"


def _of_run(info: RunInfo) -> Iterable[Line]:
    origin = info.provenance
    if origin is None:
        yield "", "It has no run.json, so how it was trained is not known."
    else:
        yield "model", ", ".join([*_network(info.family, info.parameters), *_shape(info.shape)])
        told = [f"{origin.step or 0:,} of {count(origin.steps or 0, 'step')}"]
        told += [f"{origin.tokens:,} tokens"] if origin.tokens else []
        yield "trained", ", ".join(told)
        yield from data_lines(origin.data)
        yield from tokenizer_line(origin)
        if info.changed:
            yield "settings", options_of(info.changed)
        yield from computed(origin)
    yield from calls_of(info.calls)
    yield from _checkpoints(info.checkpoints)
    if info.set_aside:
        yield "set aside", ", ".join(path.name for path in info.set_aside)
    yield from _soundness(info.faults, sealed=bool(info.checkpoints), verified=info.verified)


def _of_model(info: ModelInfo) -> Iterable[Line]:
    origin = info.provenance
    dtypes = ", ".join(info.dtypes)
    weights = [f"{megabytes(info.bytes)} in {dtypes}"] if info.bytes else []
    yield "model", ", ".join([*_network(info.family, info.parameters), *_shape(info.shape), *weights])
    if info.tokenizer:
        own = info.tokenizer.name or "of its own"
        size = f", {info.tokenizer.vocab_size:,} tokens" if info.tokenizer.vocab_size else ""
        yield "tokenizer", f"{own} ({info.tokenizer.sha256[:DIGITS]}){size}"
    else:
        yield "tokenizer", "none that gpt can read: it takes token ids"
    if origin:
        yield from trained(origin)
        yield from data_lines(origin.data)
        if origin.settings:
            from gptcli.info.run import changed

            yield "settings", options_of(changed(origin.settings))
        yield from computed(origin)
        if origin.command or origin.versions:
            call = {"command": origin.command, "versions": origin.versions, "git_commit": origin.git_commit}
            yield "call", call_of(call)
    else:
        yield "origin", f"not told: it has no {_provenance_file()}"
    yield from _soundness(info.faults, sealed=info.sealed, verified=info.verified)


def _of_shards(info: ShardsInfo) -> Iterable[Line]:
    splits = [f"{split.tokens:,} {name} in {count(split.shards, 'shard')}" for name, split in info.splits.items()]
    yield "tokens", f"{info.tokens:,}: {', '.join(splits)}"
    if info.totals:
        yield "documents", totals_of(info.totals)
    kinds = ", ".join(info.formats)
    yield "files", f"{megabytes(info.bytes)} in {', '.join(info.dtypes)} ({kinds})"
    if info.tokenizer:
        size = f", {info.tokenizer.vocab_size:,} tokens" if info.tokenizer.vocab_size else ""
        yield "tokenizer", f"{info.tokenizer.name} ({info.tokenizer.sha256[:DIGITS]}){size}"
    else:
        yield "tokenizer", "not told: there is no manifest"
    yield "fingerprint", info.fingerprint[:DIGITS]
    for number, source in enumerate(info.sources):
        yield "sources" if number == 0 else "", source_of(source)
    if options := {name: value for name, value in info.options.items() if value is not None}:
        yield "options", " ".join(f"--{name.replace('_', '-')} {word_of(value)}" for name, value in options.items())
    yield "state", "whole: all checksums hold" if info.verified else "whole, by sizes and headers"


def _network(family: str | None, parameters: int | None) -> list[str]:
    return [*([family] if family else []), *([f"{parameters:,} parameters"] if parameters is not None else [])]


def _shape(shape: GPTConfig | None) -> list[str]:
    if shape is None:
        return []
    return [
        count(shape.n_layers, "layer"),
        count(shape.n_heads, "head"),
        f"width {shape.emb_dim:,}",
        f"context {shape.context_length:,}",
        f"vocabulary {shape.vocab_size:,}",
    ]


def _checkpoints(states: Iterable[CheckpointState]) -> Iterable[Line]:
    states = list(states)
    if not states:
        yield "checkpoints", "none"
    for number, state in enumerate(states):
        told = [state.folder.name, megabytes(state.bytes)]
        told += [f"validation loss {state.val_loss:.4f}"] if state.val_loss is not None else []
        told += ["the best"] if state.is_best else []
        told += [f"saved {time_of(state.saved)}"] if state.saved else []
        yield "checkpoints" if number == 0 else "", ", ".join(told) + (f"; it {state.fault}" if state.fault else "")


def _soundness(faults: Iterable[str], *, sealed: bool, verified: bool) -> Iterable[Line]:
    if faults := list(faults):
        for number, fault in enumerate(faults):
            yield "damage" if number == 0 else "", fault
    elif verified:
        yield "state", "whole: all checksums hold"
    elif sealed:
        yield "state", "whole, by the sizes of its files (--verify compares checksums)"


def _provenance_file() -> str:
    from gptcli.training.provenance import PROVENANCE

    return PROVENANCE
