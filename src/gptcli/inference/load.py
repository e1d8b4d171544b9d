"""`load`: from whatever names a model to one that is ready for use."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from gptcli.distributed.runtime import resolve_device
from gptcli.inference.held_weights import check_weights
from gptcli.inference.language_model import LanguageModel
from gptcli.inference.weight_choice import read_held
from gptcli.model.config import GPTConfig
from gptcli.model.files import read_config
from gptcli.model.locate import locate_model
from gptcli.model.network import GPT
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

    def language_model(self, network: GPT, weights: str = "fp32") -> LanguageModel:
        """The model with its `network`, whose weights are held as `weights` says."""
        return LanguageModel(network, self.tokenizer, self.ends, self.folder, self.notes, self.prefix, weights)


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
    what `gpt eval loss --weights auto` found to be the fastest without loss for this model on this device, fp32 where
    it has not been asked. `device` is auto, cpu, cuda or mps. Raises UsageError for a name or value that there is not,
    and UserError for a model that can't be read.
    """
    on = resolve_device(device)
    check_weights(weights)
    notes: list[str] = []
    facts = read_facts(locate_model(None if model is None else str(model), notes))
    network, held_as = read_held(facts.folder, weights, on)
    return replace(facts, notes=[*notes, *facts.notes]).language_model(network, held_as)
