"""`gpt generate --file`: a completion for each of many prompts, computed side by side and resumable.

Until all are done the completions lie in OUTPUT.part, each written as soon as it is there, after a first line that
tells which call they belong to; the same call goes on behind them.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from filelock import FileLock, Timeout
from pydantic import ValidationError

from gptcli.cli import report
from gptcli.cli.fields import fields_of
from gptcli.cli.generate import load_models, options_of, sample_of, tell_notes, tell_speed
from gptcli.cli.interruption import Terminated
from gptcli.cli.options import Call
from gptcli.cli.progress import Interval, bar
from gptcli.cli.wording import fault_of
from gptcli.errors import Fault, UsageError, UserError, nearest
from gptcli.settings import GenerateSettings

if TYPE_CHECKING:
    from collections.abc import Callable

    from gptcli.inference.language_model import Completion, LanguageModel
    from gptcli.inference.requests import Generation, Request

_OWN = ("max_new_tokens", "temperature", "top_k", "top_p", "min_p", "repetition_penalty", "seed", "stop", "stop_at_end")
_FAULTS_TOLD = 5


@dataclass(frozen=True)
class _Job:
    """A line of the file: prompt and id (None: it has none) as they are written there, the prompt's ids and what is
    asked."""

    prompt: object
    id: object
    ids: list[int]
    request: Request


def run_file(settings: GenerateSettings, call: Call) -> int:
    """Complete every prompt of `settings.file`. Returns the exit code."""
    assert settings.file
    assert settings.output
    output = Path(settings.output)
    _check_output(output)
    source, lines = _read(Path(settings.file))
    (model,) = load_models(settings)
    tell_notes(model.notes)
    jobs = _jobs(model, lines, settings)
    part = output.with_name(output.name + ".part")
    with _held(part):
        return _complete(settings, call, model, jobs, part, _header(settings, source, model))


def _complete(
    settings: GenerateSettings,
    call: Call,
    model: LanguageModel,
    jobs: Sequence[_Job],
    part: Path,
    header: Mapping[str, Any],
) -> int:
    output = part.with_suffix("")
    done = _resume(part, header, len(jobs))
    if done and not call.json:
        report.say(f"{part} holds {len(done):,} of {len(jobs):,} prompts; the others follow.")
    began, tokens = time.perf_counter(), 0
    try:
        with part.open("ab") as file, _watching(len(jobs)) as tell:
            tell(len(done), 0.0)
            for index, samples in _completions(model, jobs, set(range(len(jobs))) - done, settings.num_samples):
                file.write(json.dumps(_row(model, index, jobs[index], samples)).encode() + b"\n")
                file.flush()
                done.add(index)
                tokens += sum(len(completion.ids) for completion in samples)
                tell(len(done), tokens / (time.perf_counter() - began))
    except KeyboardInterrupt as stopped:
        report.say(f"{len(done):,} of {len(jobs):,} prompts are done, in {part}; the same command goes on.", "bold")
        if isinstance(stopped, Terminated):
            return report.STOPPED
        raise
    _publish(part, output)
    seconds = time.perf_counter() - began
    if call.json:
        rate = tokens / seconds if seconds > 0 else None
        report.print_json(
            {
                "output": str(output),
                "prompts": len(jobs),
                "tokens": tokens,
                "seconds": seconds,
                "tokens_per_second": rate,
            }
        )
    else:
        report.say(f"{len(jobs):,} prompts completed: {output}")
    if settings.stats and not call.json:
        tell_speed(model, tokens, seconds)
    return report.DONE


@contextmanager
def _held(part: Path) -> Iterator[None]:
    """Nobody else writes `part` meanwhile. Raises UsageError where somebody does."""
    lock = FileLock(f"{part}.lock", timeout=0)
    try:
        lock.acquire()
    except Timeout as error:
        raise UsageError(f"Another gpt generate is writing {part}.", "Wait, or name another --output.") from error
    try:
        yield
    finally:
        with contextlib.suppress(OSError):  # Windows removes it by itself, once it is released
            Path(lock.lock_file).unlink()
        lock.release()


def _row(model: LanguageModel, index: int, job: _Job, samples: Sequence[Completion]) -> dict[str, Any]:
    name = {} if job.id is None else {"id": job.id}
    return {"index": index, **name, "prompt": job.prompt, "samples": [sample_of(model, sample) for sample in samples]}


def _check_output(output: Path) -> None:
    if output.exists():
        raise UsageError(f"--output {output}: it is there already.", "Remove it, or name another.")
    if not output.parent.is_dir():
        raise UsageError(f"--output {output}: there is no folder {output.parent}.", "Make it first.")


def _read(file: Path) -> tuple[bytes, list[object]]:
    """The file's bytes and the value of each of its lines. Raises UserError naming the first lines that are no JSON."""
    try:
        data = file.read_bytes()
    except OSError as error:
        raise UsageError(f"--file {file}: {error.strerror or error}.", "Name a file of prompts.") from error
    lines: list[object] = []
    faults = []
    for number, line in enumerate(data.splitlines(), start=1):
        if not line.strip():
            continue
        try:
            lines.append(json.loads(line))
        except ValueError as error:
            faults.append(Fault(f"{file}, line {number}: it is no JSON ({error})."))
    if faults:
        raise UserError(faults=faults[:5])
    if not lines:
        raise UserError(f"{file} has no prompts.", 'A line is an object such as {"prompt": "On a clear day"}.')
    return data, lines


def _jobs(model: LanguageModel, lines: Sequence[object], settings: GenerateSettings) -> list[_Job]:
    """The lines' prompts and requests. Raises UserError with the first few of all that is wrong with them."""
    jobs: list[_Job] = []
    faults: list[Fault] = []
    for number, line in enumerate(lines, start=1):
        try:
            jobs.append(_job(model, {"prompt": line} if isinstance(line, str) else line, settings))
        except UserError as error:
            faults += [Fault(f"{settings.file}, prompt {number}: {each.message}", each.hint) for each in error.faults]
            if len(faults) >= _FAULTS_TOLD:
                break
    if faults:
        raise UserError(faults=faults[:_FAULTS_TOLD])
    return jobs


def _job(model: LanguageModel, line: object, settings: GenerateSettings) -> _Job:
    if not isinstance(line, dict) or "prompt" not in line:
        raise UserError("it has no `prompt`.", 'A line is an object such as {"prompt": "On a clear day"}.')
    own = {name: value for name, value in line.items() if name not in ("prompt", "id")}
    if unknown := [name for name in own if name not in _OWN]:
        known = f"Beside prompt and id it may have {', '.join(_OWN)}."
        close = nearest(unknown[0], _OWN)
        raise UserError(f"there is no option {unknown[0]}.", f"Did you mean {close}?" if close else known)
    asked = settings
    if own:
        try:
            asked = GenerateSettings.model_validate({**settings.model_dump(), **own})
        except ValidationError as error:
            faults = [fault_of(each, fields_of(GenerateSettings), {}) for each in error.errors()]
            raise UserError(faults=faults) from error
    ids = model.prompt_ids(line["prompt"])
    return _Job(line["prompt"], line.get("id"), ids, model.request(**options_of(asked)))


def _header(settings: GenerateSettings, source: bytes, model: LanguageModel) -> dict[str, Any]:
    """What completions depend on: those of another call must not be taken for this one's."""
    return {
        "file": hashlib.sha256(source).hexdigest(),
        "model": str(model.folder.resolve()),
        "weights": model.weights,
        "num_samples": settings.num_samples,
        "options": json.loads(json.dumps(options_of(settings))),
    }


def _resume(part: Path, header: Mapping[str, Any], total: int) -> set[int]:
    """The prompts whose completions `part` holds already, which is begun where it is not there. A line that was not
    written to its end is taken away. Raises UsageError where it belongs to another call."""
    if not part.exists():
        part.write_bytes(json.dumps(header).encode() + b"\n")
        return set()
    with part.open("r+b") as file:
        told = _whole_lines(file)
        first = next(told, None)
        if first != header:
            differs = ", ".join(
                name for name in header if not isinstance(first, dict) or first.get(name) != header[name]
            )
            raise UsageError(
                f"{part} was begun by another call: it differs in {differs}.",
                f"Give that call again, or remove {part}.",
            )
        done = {row["index"] for row in told if isinstance(row, dict) and row.get("index") in range(total)}
        file.truncate()
    return done


def _whole_lines(file: BinaryIO) -> Iterator[object]:
    """The values of the lines up to the first that is not whole, before which the file then stands."""
    while True:
        at = file.tell()
        line = file.readline()
        try:
            value = json.loads(line) if line.endswith(b"\n") else None
        except ValueError:
            value = None
        if value is None:
            file.seek(at)
            return
        yield value


def _completions(
    model: LanguageModel, jobs: Sequence[_Job], todo: set[int], num_samples: int
) -> Iterator[tuple[int, list[Completion]]]:
    """The samples of each prompt in `todo`, as they are done."""
    from gptcli.inference.language_model import completion_of

    if not todo:
        return
    longest = max(len(jobs[index].ids) + jobs[index].request.max_new_tokens for index in todo)
    engine = model.engine(len(todo) * num_samples, longest)
    rest = iter(sorted(todo))
    prompt_of: dict[Generation, int] = {}
    going: dict[int, list[Generation]] = {}
    while True:
        while len(prompt_of) < 2 * engine.rows and (index := next(rest, None)) is not None:
            job = jobs[index]
            going[index] = [engine.add(job.ids, job.request, number) for number in range(num_samples)]
            prompt_of |= dict.fromkeys(going[index], index)
        ended = [generation for generation in engine.step() if generation.finish_reason]
        if not ended and not engine.busy:
            return
        for index in sorted({prompt_of.pop(generation) for generation in ended}):
            if all(generation.finish_reason for generation in going[index]):
                yield index, [completion_of(generation) for generation in going.pop(index)]


def _publish(part: Path, output: Path) -> None:
    """All completions in the order of their prompts, under the file's own name."""
    from gptcli.data.durable import write_bytes

    _, *rows = part.read_text(encoding="utf-8").splitlines()
    in_order = dict(sorted((int(json.loads(row)["index"]), row) for row in rows))
    write_bytes(output, "".join(f"{row}\n" for row in in_order.values()).encode())
    part.unlink()


@contextmanager
def _watching(total: int) -> Iterator[Callable[[int, float], None]]:
    """Draws how many prompts are done and the tokens a second: a bar on a terminal, else a plain line now and then."""
    out = report.console()
    if not out.is_terminal:
        interval = Interval()

        def line(done: int, rate: float) -> None:
            if rate and interval.due():
                out.print(f"{done:,} of {total:,} prompts  {rate:,.1f} tokens/s")

        yield line
        return
    with bar(out) as drawn:
        shown = drawn.add_task("prompts", total=total, text="")

        def move(done: int, rate: float) -> None:
            drawn.update(shown, completed=done, text=f"{done:,} of {total:,}  {rate:,.1f} tokens/s")

        yield move
