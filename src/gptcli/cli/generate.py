"""`gpt generate`: prompt and completion to standard output, as they come."""

from __future__ import annotations

import secrets
import sys
import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from gptcli.cli import report
from gptcli.cli.options import Call
from gptcli.cli.origin_line import origin_line
from gptcli.errors import Fault, raise_if
from gptcli.model.locate import is_hub_id
from gptcli.settings import GenerateSettings

if TYPE_CHECKING:
    from gptcli.inference.language_model import Completion, GenerateOptions, LanguageModel
    from gptcli.inference.requests import Generation

EXAMPLES = """\
gpt generate "On a clear day"
gpt generate
gpt generate "On a clear day" --model log --model openai-community/gpt2 --seed 1
gpt generate "On a clear day" --temperature 0 --show-probs
gpt generate --file prompts.jsonl --output completions.jsonl"""


def run(settings: GenerateSettings, call: Call) -> int:
    """Complete the prompt as often, or the prompts of the file as it was asked for. Returns the exit code."""
    raise_if(_faults(settings))
    if settings.file:
        from gptcli.cli.generate_file import run_file

        return run_file(settings, call)
    if settings.prompt is None and not call.json and sys.stdin.isatty() and sys.stdout.isatty():
        from gptcli.cli.session import run_session

        return run_session(settings)
    prompt = sys.stdin.read() if settings.prompt == "-" else settings.prompt or ""
    if len(settings.model) > 1 and settings.seed is None:  # what differs shall be the models alone
        settings = settings.model_copy(update={"seed": secrets.randbits(32)})
    models = load_models(settings)
    for model in models:
        ids = model.prompt_ids(prompt)  # what can't be read is refused here, before any note on the same matter
        tell_notes([*model.notes, *_cut_note(model, ids)])
    if call.json:
        documents = [_document(model, prompt, settings) for model in models]
        report.print_json(documents[0] if len(documents) == 1 else {"results": documents})
    elif len(models) > 1:
        from gptcli.cli.side_by_side import write_side_by_side

        write_side_by_side(models, prompt, settings.num_samples, options_of(settings))
    elif settings.num_samples == 1 and models[0].tokenizer:
        _stream(models[0], prompt, settings)
    else:
        _write_samples(models[0], prompt, settings)
    return report.DONE


def _faults(settings: GenerateSettings) -> list[Fault]:
    """Options that don't go together."""
    faults = []
    if settings.file and not settings.output:
        faults.append(Fault("--file needs --output FILE, where the completions go.", "For example: --output out.jsonl"))
    if settings.output and not settings.file:
        faults.append(Fault("--output is where the completions of --file go.", "A text's: gpt generate … > FILE"))
    beside_file = {"a prompt": settings.prompt is not None, "--show-probs": settings.show_probs}
    if settings.file:
        for name in (name for name, given in beside_file.items() if given):
            faults.append(Fault(f"--file and {name} don't go together.", "Leave one of them out."))
    of_one = {"--file": bool(settings.file), "--show-probs": settings.show_probs, "--stats": settings.stats}
    if len(settings.model) > 1:
        for name in (name for name, given in of_one.items() if given):
            faults.append(Fault(f"{name} takes one --model.", "Call gpt generate once for each."))
    return faults


def load_models(settings: GenerateSettings) -> list[LanguageModel]:
    """The models that are named, or the newest under ./log; a line of each tells where it comes from."""
    from gptcli.inference.load import load

    models = []
    for name in settings.model or (None,):
        model = load(name, settings.weights, settings.device)
        report.say(origin_line(model.folder, model.tokenizer, name if name and is_hub_id(name) else None), "dim")
        models.append(model)
    return models


def tell_notes(notes: Sequence[str]) -> None:
    """What the user should know of the model and the prompt."""
    for note in notes:
        report.say(f"note: {note}", "yellow")


def _cut_note(model: LanguageModel, ids: Sequence[int]) -> list[str]:
    cut = model.read_from(ids)
    if cut == 0:
        return []
    context = model.model.config.context_length
    return [
        f"The prompt has {len(ids):,} tokens, the model's context holds {context:,}: "
        f"the completion goes on from the last {len(ids) - cut:,}."
    ]


def options_of(settings: GenerateSettings) -> GenerateOptions:
    """The sampling options as the model takes them."""
    from gptcli.cli.probabilities import ALTERNATIVES

    return {
        "max_new_tokens": settings.max_new_tokens,
        "temperature": settings.temperature,
        "top_k": settings.top_k or None,
        "top_p": settings.top_p,
        "min_p": settings.min_p,
        "repetition_penalty": settings.repetition_penalty,
        "seed": settings.seed,
        "stop": settings.stop,
        "stop_at_end": settings.stop_at_end,
        "alternatives": ALTERNATIVES if settings.show_probs else 0,
    }


def _stream(model: LanguageModel, prompt: str, settings: GenerateSettings) -> None:
    from gptcli.cli.probabilities import Probabilities

    began = time.perf_counter()
    stream = model.stream(prompt, **options_of(settings))
    drawn = Probabilities(model) if settings.show_probs else None
    sys.stdout.write(prompt)
    sys.stdout.flush()
    first = None
    for text in stream:
        first = first or time.perf_counter()
        if drawn:
            drawn.write(stream.generation)
        else:
            sys.stdout.write(text)
            sys.stdout.flush()
    sys.stdout.write("\n")
    sys.stdout.flush()
    ended = time.perf_counter()
    if drawn:
        drawn.list(stream.completion)
    if settings.stats:
        tell_speed(model, len(stream.completion.ids), ended - began, (first or ended) - began)


def _write_samples(model: LanguageModel, prompt: str, settings: GenerateSettings) -> None:
    """Several samples, computed side by side and written one below the other; ids where the model has no text."""
    from gptcli.cli.probabilities import Probabilities

    began = time.perf_counter()
    completions = model.generate_many(prompt, settings.num_samples, **options_of(settings))
    seconds = time.perf_counter() - began
    for number, completion in enumerate(completions, start=1):
        if settings.num_samples > 1:
            sys.stdout.flush()
            report.say(f"--- sample {number} of {settings.num_samples} ---", "dim")
        sys.stdout.write(prompt)
        drawn = Probabilities(model) if settings.show_probs else None
        if drawn and model.tokenizer:
            drawn.write(completion)
        else:
            sys.stdout.write(text_of(model, completion))
        sys.stdout.write("\n")
        if drawn:
            sys.stdout.flush()
            drawn.list(completion)
    if settings.stats:
        sys.stdout.flush()
        tell_speed(model, sum(len(completion.ids) for completion in completions), seconds)


def text_of(model: LanguageModel, completion: Completion | Generation) -> str:
    """A completion's text, or its ids where the model has no text."""
    return completion.text if model.tokenizer else " ".join(map(str, completion.ids))


def tell_speed(model: LanguageModel, tokens: int, seconds: float, first: float | None = None) -> None:
    """A line on how fast it was; `first` is when the first text was there."""
    from gptcli.cli.progress import brief, count

    rate = f": {tokens / seconds:,.1f} a second" if seconds > 0 else ""
    after = "" if first is None else f", the first text after {brief(first)}"
    where = f"weights in {model.weights} on {model.model.device}"
    report.say(f"{count(tokens, 'token')} in {brief(seconds)}{rate}{after}; {where}", "dim")


def _document(model: LanguageModel, prompt: str, settings: GenerateSettings) -> dict[str, Any]:
    began = time.perf_counter()
    completions = model.generate_many(prompt, settings.num_samples, **options_of(settings))
    seconds = time.perf_counter() - began
    document: dict[str, Any] = {
        "prompt": prompt,
        "samples": [sample_of(model, completion, settings.show_probs) for completion in completions],
        "tokens_per_second": sum(len(c.ids) for c in completions) / seconds if seconds > 0 else None,
    }
    if len(settings.model) > 1:
        document = {"model": str(model.folder), **document}
    if settings.stats:
        document |= {"seconds": seconds, "weights": model.weights, "device": str(model.model.device)}
    return document


def sample_of(model: LanguageModel, completion: Completion, probabilities: bool = False) -> dict[str, Any]:
    """A completion as JSON has it, with the likeliest alternatives of each token where `probabilities` are wanted."""
    sample: dict[str, Any] = {
        "text": completion.text,
        "ids": completion.ids,
        "finish_reason": completion.finish_reason,
    }
    if probabilities:
        sample["logprobs"] = completion.logprobs
        sample["alternatives"] = [list(_named(model, of_token)) for of_token in completion.alternatives]
    return sample


def _named(model: LanguageModel, alternatives: Sequence[tuple[int, float]]) -> Iterator[dict[str, Any]]:
    for token, logprob in alternatives:
        yield {"id": token, "text": model.token_bytes([token]).decode(errors="replace"), "logprob": logprob}
