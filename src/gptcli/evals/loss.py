"""Loss, perplexity and bits per byte over the validation split of a folder of token shards, or over a text."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import torch

from gptcli.data.order import Indices
from gptcli.distributed.group import Group
from gptcli.errors import Fault, UsageError, UserError, raise_if
from gptcli.evals.batching import batch_tokens
from gptcli.evals.loss_sources import LossSource, Tokens, open_loss_source
from gptcli.evals.loss_windows import Flags, Windows, batches, windows_of_documents, windows_of_stream
from gptcli.evals.task import Figure, Measured, Progress, Row, Scorer, Task
from gptcli.inference.language_model import LanguageModel
from gptcli.inference.load import ModelFacts
from gptcli.inference.logprobs import target_logprobs
from gptcli.settings import EvalSettings
from gptcli.tokenizer import Tokenizer

Sums = npt.NDArray[np.float64]

_LARGEST_EXPONENT = 700.0  # beyond, the perplexity of a broken model is no number that JSON has


def bytes_of_tokens(tokenizer: Tokenizer, vocab_size: int) -> Indices:
    """UTF-8 bytes of each id below `vocab_size`, (V,). Special tokens, such as the end of text, are no text and have
    none, nor has padding of the vocabulary."""
    sizes = np.array([len(tokenizer.token_bytes(token)) for token in range(vocab_size)], dtype=np.int64)
    special = np.array([tokenizer.eot, *tokenizer.specials.values()], dtype=np.int64)
    sizes[special[special < vocab_size]] = 0
    return sizes


def ratio_stderr(values: Sums, sizes: npt.NDArray[np.number]) -> float | None:
    """The standard error of the sum of `values` over the sum of `sizes`, (N,) each, when the N units that they are of
    are a sample (Cochran, Sampling Techniques, 1977, §2.11); one unit has none."""
    n, total = len(values), float(sizes.sum())
    if n < 2 or total == 0:
        return None
    residuals = values - values.sum() / total * sizes
    return math.sqrt(n / (n - 1) * float((residuals**2).sum())) / total


def measure_loss(
    model: LanguageModel, source: LossSource, settings: EvalSettings, group: Group, progress: Progress
) -> Measured:
    """The loss of `source` in nats per token, its perplexity, and bits per byte: the same loss for each byte of text,
    so that models with different tokenizers compare; None where the tokenizer is not known. The standard errors are
    between windows, or documents where each is read by itself; one alone has none.

    `settings` tell how it is read: stride, per_document, limit and batch_tokens. The processes of the group share the
    windows. Raises UserError where there is nothing to score or an id is none of the model's.
    """
    tokens = source.tokens(model)
    windows = _windows(tokens, model.model.config.context_length, settings)
    if not len(windows):
        raise group.told_once(UserError(f"There is no token to score in {source.name}.", "Take a longer text."))
    nats, n_bytes = _score(model, tokens, windows, batch_tokens(settings.batch_tokens, model.model), group, progress)
    unit_nats, unit_tokens = windows.per_unit(nats), windows.per_unit(windows.scored)
    unit_bytes = None if n_bytes is None else windows.per_unit(n_bytes)
    return Measured(
        n=len(unit_nats),
        truncated=0,
        figures=_figures(unit_nats, unit_tokens, unit_bytes),
        rows=_rows(np.unique(windows.units), unit_nats, unit_tokens, unit_bytes) if settings.per_document else (),
        notes=source.notes(model),
    )


def _windows(tokens: Tokens, context_length: int, settings: EvalSettings) -> Windows:
    n, stride, limit = len(tokens.stream), settings.stride, settings.limit
    if tokens.begins is not None:
        return windows_of_documents(tokens.begins, n, tokens.n_begin, context_length, stride, limit)
    return windows_of_stream(n, tokens.n_begin, context_length, stride, whole=tokens.whole, limit=limit)


def _score(
    model: LanguageModel, tokens: Tokens, windows: Windows, batch_size: int, group: Group, progress: Progress
) -> tuple[Sums, Indices | None]:
    """The loss of each window in nats, and the bytes of what counts in it, (N,) each: the same on all processes. They
    take the windows in turn, whatever the batch size of each."""
    sizes = bytes_of_tokens(model.tokenizer, model.model.config.vocab_size) if model.tokenizer else None
    nats, n_bytes = np.zeros(len(windows)), np.zeros(len(windows), dtype=np.int64)
    own, done = [np.empty(0, dtype=np.int64)], 0
    for chosen in batches(windows, batch_size, group.ranks.rank, group.ranks.world_size):
        x, y, counts = windows.read(tokens.stream, chosen)
        nats[chosen] = _nats(model, x, y, counts)
        if sizes is not None:
            n_bytes[chosen] = (sizes[y] * counts).sum(1)
        own.append(chosen)
        done += len(chosen)
        progress(min(len(windows), done * group.ranks.world_size), len(windows))
    mine = np.concatenate(own)
    for theirs, their_nats, their_bytes in group.gather((mine, nats[mine], n_bytes[mine])):
        nats[theirs], n_bytes[theirs] = their_nats, their_bytes
    return nats, None if sizes is None else n_bytes


@torch.inference_mode()
def _nats(model: LanguageModel, x: Indices, y: Indices, counts: Flags) -> Sums:
    """The sum of the losses of those targets y (B, T) after inputs x (B, T) that count, (B,)."""
    device = model.model.device
    hidden = model.model.hidden(torch.from_numpy(x).to(device))[torch.from_numpy(counts).to(device)]  # (N, C)
    logprobs = target_logprobs(model.model, hidden, torch.from_numpy(y[counts]).to(device))
    # Added in fp64 on the CPU: how many windows are in a batch then does not show in the sum.
    firsts = np.cumsum(counts.sum(1)) - counts.sum(1)
    sums: Sums = -np.add.reduceat(logprobs.cpu().double().numpy(), firsts)
    return sums


def _figures(nats: Sums, tokens: Indices, n_bytes: Indices | None) -> dict[str, Figure]:
    """Of all units together; what each of them has is given, (N,) each."""
    loss = float(nats.sum()) / int(tokens.sum())
    bits = nats / math.log(2)
    return {
        "loss": loss,
        "loss_stderr": ratio_stderr(nats, tokens),
        "perplexity": math.exp(loss) if loss < _LARGEST_EXPONENT else None,
        "bits_per_byte": None if n_bytes is None else _bits_per_byte(float(bits.sum()), int(n_bytes.sum())),
        "bits_per_byte_stderr": None if n_bytes is None else ratio_stderr(bits, n_bytes),
        "tokens": int(tokens.sum()),
    }


def _rows(numbers: Indices, nats: Sums, tokens: Indices, n_bytes: Indices | None) -> list[Row]:
    """A row for each document. `index` is its place among all, those without text too."""
    sizes = [None] * len(numbers) if n_bytes is None else n_bytes.tolist()
    return [
        {
            "index": number,
            "tokens": count,
            "bytes": size,
            "loglikelihood": -value,
            "loss": value / count,
            "bits_per_byte": None if size is None else _bits_per_byte(value / math.log(2), size),
        }
        for number, value, count, size in zip(numbers.tolist(), nats.tolist(), tokens.tolist(), sizes, strict=True)
    ]


def _bits_per_byte(bits: float, n_bytes: int) -> float | None:
    return bits / n_bytes if n_bytes else None


def _prepare(settings: EvalSettings, style: str) -> Scorer:
    _check_call(settings)
    source = open_loss_source(settings)

    def check(facts: ModelFacts) -> None:
        _check_stride(facts, settings.stride)
        source.check(facts, settings.stride)

    def score(model: LanguageModel, group: Group, progress: Progress) -> Measured:
        return measure_loss(model, source, settings, group, progress)

    return Scorer(check, score)


def _check_call(settings: EvalSettings) -> None:
    """Raise UsageError with all options that don't go together."""
    faults = []
    if settings.data_root is None and settings.text is None:
        hint = "Name it with --data-root FOLDER or --text FILE."
        faults.append(Fault("The task loss needs a folder of token shards or a text.", hint))
    if settings.data_root is not None and settings.text is not None:
        faults.append(Fault("--data-root and --text: the loss is measured on one of them.", "Leave the other out."))
    if settings.save is not None and not settings.per_document:
        faults.append(Fault("--save: the task loss has a line for each document.", "Add --per-document."))
    raise_if(faults)


def _check_stride(facts: ModelFacts, stride: int | None) -> None:
    longest = facts.config.context_length
    if stride is not None and not 1 <= stride <= longest:
        raise UsageError(
            f"--stride {stride:,}: it has to be from 1 to {longest:,}, the context length of the model {facts.folder}.",
            f"Half of that is common: --stride {max(1, longest // 2)}",
        )


LOSS = Task(
    name="loss",
    description="Loss, perplexity and bits per byte of a validation split (--data-root) or a text (--text).",
    styles=("windows",),
    prepare=_prepare,
)
