"""What the loss is measured on, as one row of tokens: the validation split of a folder of shards, or a text."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from gptcli.data.formats.texts import ends_of
from gptcli.data.order import Indices
from gptcli.data.shards import Shards, open_shards
from gptcli.data.sources import LocalFiles, open_source
from gptcli.data.token_stream import TokenStream
from gptcli.errors import UsageError, UserError
from gptcli.evals.loss_windows import Stream, window_tokens
from gptcli.inference.language_model import LanguageModel
from gptcli.inference.load import ModelFacts
from gptcli.settings import EvalSettings, TokenizeSettings, data_folder

_AT_ONCE = 2**22  # tokens that are searched for documents


@dataclass(frozen=True)
class Tokens:
    """Tokens in a row. `begins`: where documents begin, (D,); None where they are read on from one to the next.
    `n_begin`: how many tokens begin each. `whole`: a window at the end that is not full does not count."""

    stream: Stream
    begins: Indices | None
    n_begin: int
    whole: bool


class LossSource(Protocol):
    """What the loss is measured on."""

    @property
    def name(self) -> str:
        """What the user knows it by."""

    def check(self, facts: ModelFacts, stride: int | None) -> None:
        """Raise UserError for a model that can't be measured on it."""

    def tokens(self, model: LanguageModel) -> Tokens:
        """Its tokens, as the model reads them. Raises UserError for a text that its tokenizer can't cope with."""

    def notes(self, model: LanguageModel) -> list[str]:
        """What the user should be told."""


def open_loss_source(settings: EvalSettings) -> LossSource:
    """What `settings` name, of which one of `data_root` and `text` is given. Raises UsageError where it is not there or
    is not what it has to be, UserError where it is damaged."""
    if settings.text is not None:
        return _read_text(settings.text, settings.per_document)
    assert settings.data_root is not None, "one of the two is given"
    shards = open_shards(data_folder(settings.data_root))
    stream = shards.split("val")
    if not settings.per_document:
        return ShardsSource(shards, None)
    if shards.eot is None:
        raise UsageError(
            f"--per-document: {shards.folder} does not name its tokenizer, nor so where its documents begin.",
            "Name the text itself with --text, or tokenize it again with gpt tokenize.",
        )
    return ShardsSource(shards, _begins(stream, shards.eot))


@dataclass(frozen=True)
class ShardsSource:
    """The validation split of `shards`. `begins`: where its documents begin, None where they are not asked for; what
    stands before the first is the end of one that began elsewhere, and belongs to none."""

    shards: Shards
    begins: Indices | None

    @property
    def name(self) -> str:
        return f"the validation split of {self.shards.folder}"

    def check(self, facts: ModelFacts, stride: int | None) -> None:
        """Raise UsageError where the ids mean other tokens than the model's, or are too few for one window."""
        check_same_tokenizer(facts, self.shards)
        n_tokens, needed = len(self.shards.split("val")), window_tokens(facts.config.context_length, stride)
        if self.begins is None and n_tokens < needed:
            raise UsageError(
                f"The validation split of {self.shards.folder} has {n_tokens:,} tokens; "
                f"one window of this model takes {needed:,}.",
                "Tokenize again with a larger --val-tokens.",
            )

    def tokens(self, model: LanguageModel) -> Tokens:
        stream = _CheckedStream(self.shards.split("val"), model.model.config.vocab_size)
        return Tokens(stream, self.begins, n_begin=1, whole=self.begins is None)

    def notes(self, model: LanguageModel) -> list[str]:
        if model.tokenizer is None or self.shards.tokenizer_name is not None:
            return []
        return [f"{self.shards.folder} does not name its tokenizer; its ids are taken as the model's."]


@dataclass(frozen=True)
class TextSource:
    """The documents of a text: their UTF-8 one after another, and where each ends. Where they are not read each by
    itself, one follows the other as in shards: what begins a document is predicted as the end of the one before."""

    name: str
    data: bytes
    ends: Indices
    per_document: bool

    def check(self, facts: ModelFacts, stride: int | None) -> None:
        """Raise UserError for a model without a tokenizer, and for one whose tokenizer lacks characters of the text."""
        if facts.tokenizer is None:
            raise UserError(
                f"{self.name} is text, and the model in {facts.folder} has no tokenizer that gpt knows.",
                "Measure the model on token shards: gpt eval loss --data-root FOLDER",
            )
        if not facts.tokenizer.covers_all_text:
            facts.tokenizer.encode_texts(self.data, self.ends)

    def tokens(self, model: LanguageModel) -> Tokens:
        assert model.tokenizer is not None, "checked before"
        first = model.prompt_ids("")
        ids, ends = model.tokenizer.encode_texts(self.data, self.ends)
        starts = np.concatenate(([0], ends[:-1]))
        row = np.insert(ids, np.repeat(starts, len(first)), np.tile(np.array(first, dtype=np.uint32), len(starts)))
        if row.max() >= model.model.config.vocab_size:
            raise UserError(
                f"The tokenizer '{model.tokenizer.name}' makes the id {row.max():,} of {self.name}; the model in "
                f"{model.folder} has a vocabulary of {model.model.config.vocab_size:,}.",
                "Its tokenizer files are those of another model: copy the right ones into the folder.",
            )
        begins = starts + len(first) * np.arange(len(starts), dtype=np.int64)
        return Tokens(_EncodedText(row), begins if self.per_document else None, len(first), whole=False)

    def notes(self, model: LanguageModel) -> list[str]:
        return []


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


@dataclass(frozen=True)
class _CheckedStream:
    """A stream of shards, every id of which has to be one of the model's."""

    stream: TokenStream
    vocab_size: int

    def __len__(self) -> int:
        return len(self.stream)

    def read(self, start: int, count: int) -> Indices:
        """As the stream does; raises UserError for an id beyond the vocabulary too."""
        ids = self.stream.read(start, count)
        if ids.size and ids.max() >= self.vocab_size:
            at = start + int(ids.argmax())
            raise UserError(
                f"{self.stream.file_of(at)} holds the id {ids.max():,} as token {at:,} of the split; the model has a "
                f"vocabulary of {self.vocab_size:,}.",
                "The shard is damaged (gpt tokenize --verify FOLDER tells), or made for another model.",
            )
        return ids


@dataclass(frozen=True)
class _EncodedText:
    ids: npt.NDArray[np.uint32]

    def __len__(self) -> int:
        return len(self.ids)

    def read(self, start: int, count: int) -> Indices:
        return self.ids[start : start + count].astype(np.int64)


def _read_text(path: str, per_document: bool) -> TextSource:
    sources = open_source(TokenizeSettings(sources=(path,)))
    if not all(isinstance(origin, LocalFiles) for origin in sources.origins):  # the others can't be read twice
        raise UsageError(f"--text {path}: it is no file of this machine.", "Save it in a file, and name that.")
    texts = [text.encode() for text in sources.documents()]
    if not any(texts):
        raise UserError(f"{path} holds no text.", "Name another with --text.")
    return TextSource(path, b"".join(texts), ends_of(texts), per_document)


def _begins(stream: TokenStream, eot: int) -> Indices:
    """Where the token `eot` stands, a part of the stream at a time."""
    parts = [
        start + np.flatnonzero(stream.read(start, min(_AT_ONCE, len(stream) - start)) == eot)
        for start in range(0, len(stream), _AT_ONCE)
    ]
    return np.concatenate([np.empty(0, dtype=np.int64), *parts])
