"""Loss, perplexity and bits per byte over the validation split of a folder of token shards."""

from __future__ import annotations

import math

import numpy as np
import torch

from gptcli.data.batches import WindowReader
from gptcli.data.order import Indices, n_windows
from gptcli.data.shards import Shards, open_shards
from gptcli.errors import UsageError
from gptcli.evals.task import Measured, Progress, Scorer, Task
from gptcli.inference.language_model import LanguageModel
from gptcli.inference.load import ModelFacts
from gptcli.inference.logprobs import target_logprobs
from gptcli.model.config import GPTConfig
from gptcli.settings import EvalSettings, data_folder
from gptcli.tokenizer import Tokenizer

_LARGEST_EXPONENT = 700.0  # beyond, the perplexity of a broken model is no number that JSON has


def bytes_of_tokens(tokenizer: Tokenizer) -> Indices:
    """UTF-8 bytes of each id, (V,). The end-of-text token is no text and has none."""
    sizes = np.array([len(tokenizer.token_bytes(token)) for token in range(tokenizer.vocab_size)], dtype=np.int64)
    sizes[tokenizer.eot] = 0
    return sizes


def validation_loss(
    model: LanguageModel, shards: Shards, batch_tokens: int, limit: int | None = None, progress: Progress | None = None
) -> Measured:
    """Loss in nats per token over the validation split, in windows of the model's context length, each predicted from
    its own tokens only. `limit` takes the first so many windows.

    Bits per byte relate the same loss to the text's bytes, so that models with different tokenizers compare; None where
    the tokenizer is not known. Raises UsageError for too few tokens, UserError for ids that the model does not have.
    """
    length = model.model.config.context_length
    reader = WindowReader(shards.split("val"), length, model.model.config.vocab_size)
    check_length(model.model.config, shards)
    n = min(len(reader), limit or len(reader))
    sizes = bytes_of_tokens(model.tokenizer) if model.tokenizer else None
    per_batch = max(1, batch_tokens // length)
    nats, n_bytes = 0.0, 0
    for start in range(0, n, per_batch):
        x, y = reader.read(np.arange(start, min(start + per_batch, n), dtype=np.int64))  # (N, T) each
        nats += _nats(model, x, y)
        n_bytes += int(sizes[y].sum()) if sizes is not None else 0
        if progress:
            progress(min(start + per_batch, n), n)
    tokens = n * length
    loss = nats / tokens
    figures = {
        "loss": loss,
        "perplexity": math.exp(loss) if loss < _LARGEST_EXPONENT else None,
        "bits_per_byte": nats / math.log(2) / n_bytes if n_bytes else None,
        "tokens": tokens,
    }
    taken = model.tokenizer is not None and shards.tokenizer_name is None
    note = f"{shards.folder} does not name its tokenizer; its ids are taken as the model's." if taken else ""
    return Measured(n, truncated=0, figures=figures, notes=[note] if note else [])


@torch.inference_mode()
def _nats(model: LanguageModel, x: Indices, y: Indices) -> float:
    """The sum of the losses of targets y (N, T) after inputs x (N, T)."""
    device = model.model.device
    hidden = model.model.hidden(torch.from_numpy(x).to(device)).flatten(0, 1)  # (N·T, C)
    logprobs = target_logprobs(model.model, hidden, torch.from_numpy(y).to(device).flatten())
    return -logprobs.cpu().double().sum().item()


def check_length(config: GPTConfig, shards: Shards) -> None:
    """Raise UsageError where the validation split is too short for one window of a model with this shape."""
    tokens = len(shards.split("val"))
    if n_windows(tokens, config.context_length) == 0:
        raise UsageError(
            f"The validation split of {shards.folder} has {tokens:,} tokens; "
            f"one window of this model takes {config.context_length + 1:,}.",
            "Tokenize again with a larger --val-tokens.",
        )


def check_same_tokenizer(model: ModelFacts, shards: Shards) -> None:
    """Raise UsageError where the ids of `shards` mean other tokens than those of `model`."""
    theirs, ours = shards.tokenizer_name, model.tokenizer
    named = ours.name if ours and ours.is_packaged else model.folder
    hint = f"Tokenize the text with the model's tokenizer: gpt tokenize --tokenizer-model {named}"
    if ours and shards.manifest and shards.manifest.tokenizer.sha256 != ours.sha256:
        if theirs == ours.name:
            message = f"{shards.folder} and the model {model.folder} have different vocabularies called '{theirs}'."
        else:
            message = f"{shards.folder} is tokenized with '{theirs}', the model {model.folder} with '{ours.name}'."
        raise UsageError(message, hint)
    rows = model.config.vocab_size
    if shards.vocab_size is not None and shards.vocab_size > rows:
        raise UsageError(
            f"{shards.folder} has a vocabulary of {shards.vocab_size:,} tokens ('{theirs}'), "
            f"the model {model.folder} one of {rows:,}.",
            hint,
        )


def _prepare_task(settings: EvalSettings) -> Scorer:
    if settings.data_root is None:
        raise UsageError("The task loss needs a folder of token shards.", "Name it with --data-root.")
    shards = open_shards(data_folder(settings.data_root))
    shards.split("val")

    def check(facts: ModelFacts) -> None:
        check_same_tokenizer(facts, shards)
        check_length(facts.config, shards)

    def measure(model: LanguageModel, progress: Progress) -> Measured:
        return validation_loss(model, shards, settings.batch_tokens, settings.limit, progress)

    return Scorer(check, measure)


LOSS = Task(
    name="loss",
    description="Loss, perplexity and bits per byte over a validation split (--data-root).",
    style="windows",
    prepare=_prepare_task,
)
