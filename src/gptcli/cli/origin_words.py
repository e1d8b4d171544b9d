"""What is known of a model's making, in lines for people: a word for what each is about, and what is told."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from gptcli.cli.fields import fields_of
from gptcli.cli.progress import count
from gptcli.settings import TrainSettings

if TYPE_CHECKING:
    from gptcli.training.provenance import DataOrigin, Provenance

Line = tuple[str, str]  # what it is about, empty where that is what the line above it is about; and what is told
DIGITS = 12  # of a checksum or commit
_LAST_CALLS = 3
_LEFT = {"skipped": "left out", "replaced": "with bytes replaced"}  # documents, in the totals of a manifest


def trained(origin: Provenance) -> Iterable[Line]:
    """How far training had come, in which run."""
    told = [] if origin.step is None else [f"step {origin.step:,}" + (f" of {origin.steps:,}" if origin.steps else "")]
    told += [f"{origin.tokens:,} tokens"] if origin.tokens else []
    told += [f"validation loss {origin.val_loss:.4f}"] if origin.val_loss is not None else []
    if told:
        yield "trained", ", ".join(told)
    run = [origin.run] if origin.run else []
    run += [f"begun {time_of(origin.started)}"] if origin.started else []
    run += [f"saved {time_of(origin.saved)}"] if origin.saved else []
    if run:
        yield "run", ", ".join(run)


def data_lines(data: DataOrigin) -> Iterable[Line]:
    """The shards, what they were made from, and how much of it."""
    if data.folder is None:
        return
    known = f" ({data.fingerprint[:DIGITS]})" if data.fingerprint else ""
    splits = ", ".join(f"{tokens:,} {name}" for name, tokens in data.tokens.items())
    yield "data", f"{data.folder}{known}" + (f": {splits} tokens" if splits else "")
    if data.totals:
        yield "", f"documents: {totals_of(data.totals)}"
    for source in data.sources:
        yield "", f"from {source_of(source)}"


def totals_of(totals: Mapping[str, int]) -> str:
    """`249 of 12.2 MB of text`: the documents of a manifest."""
    told = [f"{totals.get('documents', 0):,} of {megabytes(totals.get('bytes', 0))} of text"]
    told += [f"{totals[name]:,} {word}" for name, word in _LEFT.items() if totals.get(name)]
    return ", ".join(told)


def source_of(source: Mapping[str, Any]) -> str:
    """A source as a manifest has it, in words."""
    files, size = source.get("files"), source.get("bytes")
    if source.get("standard_input"):
        return "standard input" + (f", {megabytes(size)}" if isinstance(size, int) else "")
    named = ", ".join(f"{value}" for key, value in source.items() if key != "files" and value is not None)
    if isinstance(files, list):
        many = ", ".join(str(file.get("path")) for file in files if isinstance(file, dict))
    elif isinstance(files, dict):
        number, size = files.get("count"), files.get("bytes")
        many = count(number, "file") if isinstance(number, int) else "files"
        many += f" of {megabytes(size)}" if isinstance(size, int) else ""
        many += f" under {files['under']}" if files.get("under") else ""
    else:
        many = ""
    return ": ".join(filter(None, (named, many)))


def tokenizer_line(origin: Provenance) -> Iterable[Line]:
    """The tokenizer that the data was in."""
    if origin.tokenizer:
        sha256 = origin.tokenizer.sha256
        yield "tokenizer", origin.tokenizer.name + (f" ({sha256[:DIGITS]})" if sha256 else "")
    else:
        yield "tokenizer", "not known: token ids"


def options_of(settings: Mapping[str, Any]) -> str:
    """Settings as they would be typed."""
    told = []
    for name, value in settings.items():
        field, flag = fields_of(TrainSettings).get(name), "--" + name.replace("_", "-")
        if isinstance(value, bool):
            told.append(flag if value else f"--no-{flag[2:]}")
        elif isinstance(value, list) and field and not field.commas:
            told += [f"{flag} {word_of(item)}" for item in value]
        elif value is not None:
            told.append(f"{flag} {word_of(value)}")
    return " ".join(told) or "the defaults"


def word_of(value: Any) -> str:
    """A value as a shell takes it."""
    return shlex.quote(",".join(map(str, value)) if isinstance(value, list) else str(value))


def computed(origin: Provenance) -> Iterable[Line]:
    """What it was computed on, and how."""
    facts = origin.computed
    told = [str(facts[name]) for name in ("hardware", "device", "precision") if facts.get(name)]
    told += ["compiled"] if facts.get("compile") else []
    if isinstance(processes := facts.get("processes"), int):
        told.append(f"{processes} process{'' if processes == 1 else 'es'}")
    if told:
        yield "computed", ", ".join(told)


def calls_of(calls: Sequence[Mapping[str, Any]]) -> Iterable[Line]:
    """The first, and the last few where there are many: a run of days on a cluster has one for each of its jobs."""
    left_out = range(1, len(calls) - _LAST_CALLS)
    for number, call in enumerate(calls):
        if number not in left_out:
            yield "calls" if number == 0 else "", call_of(call)
        elif number == left_out[0]:
            yield "", f"and {count(len(left_out), 'call')} between"


def call_of(call: Mapping[str, Any]) -> str:
    """When it was made and what with, and the command."""
    versions = ", ".join(f"{name} {version}" for name, version in (call.get("versions") or {}).items())
    commit = f"commit {call['git_commit'][:DIGITS]}" if call.get("git_commit") else ""
    told = ", ".join(filter(None, (time_of(call.get("time")), versions, commit)))
    command = shlex.join(map(str, call["command"])) if call.get("command") else ""
    return ": ".join(filter(None, (told, command)))


def time_of(told: str | None) -> str:
    """`2026-11-28 08:14 UTC`."""
    if not told:
        return ""
    day, _, clock = told.partition("T")
    return f"{day} {clock[:5]} UTC" if clock.endswith(("+00:00", "Z")) else told


def megabytes(size: int) -> str:
    """`12.2 MB`."""
    return f"{size / 1e6:,.1f} MB"
