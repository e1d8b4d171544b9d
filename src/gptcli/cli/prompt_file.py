"""The prompts of `gpt generate --file`: a line of JSON each, with sampling options of its own if need be."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import ValidationError

from gptcli.cli.fields import fields_of
from gptcli.cli.generate import options_of
from gptcli.cli.wording import fault_of
from gptcli.errors import Fault, UsageError, UserError, nearest
from gptcli.settings import GenerateSettings

if TYPE_CHECKING:
    from gptcli.inference.language_model import LanguageModel
    from gptcli.inference.requests import Request

_OWN = ("max_new_tokens", "temperature", "top_k", "top_p", "min_p", "repetition_penalty", "seed", "stop", "stop_at_end")
_FAULTS_TOLD = 5


@dataclass(frozen=True)
class Job:
    """A line of the file: prompt and id (None: it has none) as they are written there, the prompt's ids and what is
    asked."""

    prompt: object
    id: object
    ids: list[int]
    request: Request


def read_lines(file: Path) -> tuple[bytes, list[object]]:
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
        raise UserError(faults=faults[:_FAULTS_TOLD])
    if not lines:
        raise UserError(f"{file} has no prompts.", 'A line is an object such as {"prompt": "On a clear day"}.')
    return data, lines


def jobs_of(model: LanguageModel, lines: Sequence[object], settings: GenerateSettings) -> list[Job]:
    """The lines' prompts and requests. Raises UserError with the first few of all that is wrong with them."""
    jobs: list[Job] = []
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


def _job(model: LanguageModel, line: object, settings: GenerateSettings) -> Job:
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
    return Job(line["prompt"], line.get("id"), ids, model.request(**options_of(asked)))
