"""`load`: from whatever names a model to one that is ready for use."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from gptcli.distributed.runtime import resolve_device
from gptcli.inference.held_weights import check_weights, hold_weights
from gptcli.inference.language_model import LanguageModel
from gptcli.model.config import GPTConfig
from gptcli.model.huggingface import read_config, read_model
from gptcli.model.locate import locate_model
from gptcli.tokenizer import Tokenizer
from gptcli.tokenizer_files import read_prefix, read_tokenizer


@dataclass(frozen=True)
class ModelFacts:
    """What a model's folder tells without its weights: the shape, the tokenizer (None: ids only), the end-of-text ids,
    of which the first begins documents too, the ids that go before every text, and what the user should be told."""

    folder: Path
    config: GPTConfig
    tokenizer: Tokenizer | None
    ends: tuple[int, ...]
    prefix: tuple[int, ...]
    notes: list[str]


def read_facts(folder: Path) -> ModelFacts:
    """Read a folder's configuration and tokenizer. Raises UserError where they are missing or damaged."""
    config, ends = read_config(folder)
    tokenizer, note = read_tokenizer(folder, config.vocab_size)
    if tokenizer:
        ends = tuple(dict.fromkeys((tokenizer.eot, *ends)))
    return ModelFacts(folder, config, tokenizer, ends, read_prefix(folder), [note] if note else [])


def load(model: str | Path | None = None, weights: str = "fp32", device: str = "auto") -> LanguageModel:
    """The model that `model` names, ready for use.

    `model` is a run folder (its newest checkpoint), a checkpoint, a folder in Hugging Face format or a Hub id; None is
    the newest checkpoint under ./log. `weights` is how the matrices are held: "fp32", "bf16", "int8", or "auto" for
    bf16 where the device computes in it. `device` is auto, cpu, cuda or mps. Raises UsageError for a name or value that
    there is not, and UserError for a model that can't be read.
    """
    on = resolve_device(device)
    check_weights(weights)
    notes: list[str] = []
    facts = read_facts(locate_model(None if model is None else str(model), notes))
    network = read_model(facts.folder)
    hold_weights(network, "fp32" if weights == "auto" else weights)
    return LanguageModel(
        network.to(on), facts.tokenizer, facts.ends, facts.folder, [*notes, *facts.notes], facts.prefix
    )
