"""`gpt generate --file`: a completion for each of many prompts, computed side by side and resumable."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gptcli.cli import report
from gptcli.cli.generate import load_models, options_of, sample_of, tell_notes, tell_speed
from gptcli.cli.interruption import Terminated
from gptcli.cli.options import Call
from gptcli.cli.part_file import held, publish, resume
from gptcli.cli.progress import Interval, bar
from gptcli.cli.prompt_file import Job, jobs_of, read_lines
from gptcli.errors import UsageError
from gptcli.settings import GenerateSettings

if TYPE_CHECKING:
    from collections.abc import Callable

    from gptcli.inference.language_model import Completion, LanguageModel
    from gptcli.inference.requests import Generation


def run_file(settings: GenerateSettings, call: Call) -> int:
    """Complete every prompt of `settings.file`. Returns the exit code."""
    assert settings.file
    assert settings.output
    output = Path(settings.output)
    _check_output(output)
    source, lines = read_lines(Path(settings.file))
    (model,) = load_models(settings)
    tell_notes(model.notes)
    jobs = jobs_of(model, lines, settings)
    part = output.with_name(output.name + ".part")
    with held(part):
        return _complete(settings, call, model, jobs, part, _header(settings, source, model))


def _complete(
    settings: GenerateSettings,
    call: Call,
    model: LanguageModel,
    jobs: Sequence[Job],
    part: Path,
    header: Mapping[str, Any],
) -> int:
    output = part.with_suffix("")
    done = resume(part, header, len(jobs))
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
    publish(part, output)
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


def _row(model: LanguageModel, index: int, job: Job, samples: Sequence[Completion]) -> dict[str, Any]:
    name = {} if job.id is None else {"id": job.id}
    return {"index": index, **name, "prompt": job.prompt, "samples": [sample_of(model, sample) for sample in samples]}


def _check_output(output: Path) -> None:
    if output.exists():
        raise UsageError(f"--output {output}: it is there already.", "Remove it, or name another.")
    if not output.parent.is_dir():
        raise UsageError(f"--output {output}: there is no folder {output.parent}.", "Make it first.")


def _header(settings: GenerateSettings, source: bytes, model: LanguageModel) -> dict[str, Any]:
    """What completions depend on: those of another call must not be taken for this one's."""
    return {
        "file": hashlib.sha256(source).hexdigest(),
        "model": str(model.folder.resolve()),
        "weights": model.weights,
        "num_samples": settings.num_samples,
        "options": json.loads(json.dumps(options_of(settings))),
    }


def _completions(
    model: LanguageModel, jobs: Sequence[Job], todo: set[int], num_samples: int
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
