"""`gpt generate`: prompt and completion to standard output, as they come."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from gptcli.cli import report
from gptcli.cli.options import Call
from gptcli.settings import GenerateSettings

if TYPE_CHECKING:
    from gptcli.inference.language_model import GenerateOptions, LanguageModel

EXAMPLES = """\
gpt generate "On a clear day"
gpt generate "On a clear day" --model openai-community/gpt2 --num-samples 3 --seed 1
gpt generate "On a clear day" --temperature 0 --json"""


def run(settings: GenerateSettings, call: Call) -> int:
    """Complete the prompt as often as was asked for. Returns the exit code."""
    from gptcli.inference.load import load

    model = load(settings.model, settings.weights, settings.device)
    ids = model.prompt_ids(settings.prompt)  # what can't be read is refused here, before any note on the same matter
    for note in [*model.notes, *_cut_note(model, ids)]:
        report.say(f"note: {note}", "yellow")
    if call.json:
        report.print_json(_document(model, settings))
    elif settings.num_samples == 1 and model.tokenizer:
        _stream(model, settings)
    else:
        _write_samples(model, settings)
    return report.DONE


def _cut_note(model: LanguageModel, ids: Sequence[int]) -> list[str]:
    cut = model.read_from(ids)
    if cut == 0:
        return []
    context = model.model.config.context_length
    return [
        f"The prompt has {len(ids):,} tokens, the model's context holds {context:,}: "
        f"the completion goes on from the last {len(ids) - cut:,}."
    ]


def _options(settings: GenerateSettings) -> GenerateOptions:
    return {
        "max_new_tokens": settings.max_new_tokens,
        "temperature": settings.temperature,
        "top_k": settings.top_k or None,
        "top_p": settings.top_p,
        "seed": settings.seed,
        "stop_at_end": settings.stop_at_end,
    }


def _stream(model: LanguageModel, settings: GenerateSettings) -> None:
    sys.stdout.write(settings.prompt)
    for text in model.stream(settings.prompt, **_options(settings)):
        sys.stdout.write(text)
        sys.stdout.flush()
    sys.stdout.write("\n")


def _write_samples(model: LanguageModel, settings: GenerateSettings) -> None:
    """Several samples, computed side by side and written one below the other; ids where the model has no text."""
    completions = model.generate_many(settings.prompt, settings.num_samples, **_options(settings))
    for number, completion in enumerate(completions, start=1):
        if settings.num_samples > 1:
            sys.stdout.flush()
            report.say(f"--- sample {number} of {settings.num_samples} ---", "dim")
        text = completion.text if model.tokenizer else " ".join(map(str, completion.ids))
        sys.stdout.write(f"{settings.prompt}{text}\n")


def _document(model: LanguageModel, settings: GenerateSettings) -> dict[str, Any]:
    began = time.perf_counter()
    completions = model.generate_many(settings.prompt, settings.num_samples, **_options(settings))
    seconds = time.perf_counter() - began
    return {
        "prompt": settings.prompt,
        "samples": [{"text": c.text, "ids": c.ids, "finish_reason": c.finish_reason} for c in completions],
        "tokens_per_second": sum(len(c.ids) for c in completions) / seconds if seconds > 0 else None,
    }
