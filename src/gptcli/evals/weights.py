"""`gpt eval loss --weights auto`: the loss of a model in fp32, bf16 and int8, and which of them it is to be used in."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import torch

from gptcli.errors import Fault, UsageError, raise_if
from gptcli.evals.task import TaskResult
from gptcli.inference.language_model import LanguageModel
from gptcli.inference.load import ModelFacts
from gptcli.inference.weight_choice import Decision, decide
from gptcli.model.locate import CHECKPOINTS
from gptcli.model.network import GPT
from gptcli.settings import EvalSettings, data_folder

_TOKENS = 16_384  # of the loss: on the same tokens even small differences show


def is_decision(settings: EvalSettings) -> bool:
    """Whether the call asks for the weights that a model is to be used in. Raises UsageError for what does not go
    together with that."""
    if settings.weights != "auto" or "loss" not in settings.tasks:
        return False
    faults = []
    if len(set(settings.tasks)) > 1:
        faults.append(Fault("--weights auto with the task loss decides by it alone.", "Call gpt eval once for each."))
    if settings.gpus > 1:
        faults.append(Fault(f"--weights auto measures on one device, not on --gpus {settings.gpus}.", "Leave it out."))
    if settings.save is not None:
        faults.append(Fault("--save: --weights auto scores a model three times.", "Name one way to hold the weights."))
    raise_if(faults)
    return True


def on_own_split(settings: EvalSettings, models: Sequence[ModelFacts]) -> EvalSettings:
    """The settings with the validation split that the models were trained beside, where no other text is named, and
    with as many sequences as show a difference. Raises UsageError where that is not one split."""
    shortest = min(facts.config.context_length for facts in models)
    changed: dict[str, object] = {"limit": settings.limit or max(8, -(-_TOKENS // shortest))}
    if settings.data_root is None and settings.text is None:
        splits = {_split_of(facts.folder) for facts in models}
        changed["data_root"] = splits.pop()
        if splits or changed["data_root"] is None:
            raise UsageError(
                "--weights auto measures the loss on a text, and the models don't name one that is their own.",
                "Name it with --data-root FOLDER or --text FILE.",
            )
    return settings.model_copy(update=changed)


def _split_of(checkpoint: Path) -> str | None:
    """The folder of shards that the run of `checkpoint` was trained on; None for a model from elsewhere."""
    if checkpoint.parent.name != CHECKPOINTS:
        return None
    try:
        folder = json.loads((checkpoint.parent.parent / "run.json").read_text(encoding="utf-8"))["data"]["folder"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return str(folder) if Path(folder).is_dir() else None


def weigh(
    facts: ModelFacts, device: torch.device, settings: EvalSettings, score: Callable[[LanguageModel], TaskResult]
) -> list[TaskResult]:
    """The results of the model held in each way; the notes of the first tell what was decided and on which text, which
    is remembered."""
    settings = on_own_split(settings, [facts])
    source = settings.text or data_folder(settings.data_root or "")
    found: list[TaskResult] = []

    def loss_of(network: GPT, weights: str) -> float:
        found.append(score(facts.language_model(network, weights)))
        loss = found[-1].measured.figures["loss"]
        assert isinstance(loss, float)
        return loss

    decision = decide(facts.folder, device, loss_of)
    tokens = f"The losses are those of {found[0].measured.figures['tokens']:,} tokens of {source}."
    return [replace(found[0], notes=[*found[0].notes, tokens, _told(decision)]), *found[1:]]


def _told(decision: Decision) -> str:
    speeds = ", ".join(f"{speed:,.1f} in {name}" for name, speed in decision.tokens_per_second.items())
    change = 100 * (decision.loss[decision.weights] / decision.loss["fp32"] - 1)
    cost = "" if decision.weights == "fp32" else f" Its loss is {change:+.2f}% of fp32's."
    return (
        f"--weights auto takes {decision.weights} for this model on this device from now on. "
        f"Tokens a second: {speeds}.{cost}"
    )
