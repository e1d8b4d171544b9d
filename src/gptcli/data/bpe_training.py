"""A byte-level BPE tokenizer trained on the user's text, and how well it compresses text that it has not seen."""

from __future__ import annotations

import re
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, wait
from contextlib import closing
from dataclasses import dataclass, field
from itertools import chain, islice
from pathlib import Path
from typing import BinaryIO, Literal

import numpy as np

from gptcli.data import standard_input
from gptcli.data.durable import check_writable, write_bytes
from gptcli.data.retries import Told
from gptcli.data.sources import Sources, open_source, unescape
from gptcli.errors import UsageError, UserError
from gptcli.settings import TokenizerTrainSettings, TokenizeSettings
from gptcli.tokenizer import END_OF_TEXT, Tokenizer, get_tokenizer
from gptcli.tokenizer.huggingface import LibraryVocabulary
from gptcli.tokenizer.splits import GPT4_PLAIN

Stage = Literal["reading", "merging", "measuring"]

_EVERY = 50  # one document in so many is held out
_HELD_OUT_BYTES = 8_000_000  # enough to tell the third digit; what is beyond is trained on
_LEAST_FREQUENCY = 2  # a pair that occurs once compresses nothing

_SECONDS_BETWEEN_LOOKS, _SECONDS_TO_END = 0.2, 2.0

# The library keeps dozens of bytes for each character of a text while it splits it, so long texts come in pieces, cut
# where the split cuts in any case (see `tokenizer.splits`).
_PIECE = 2**16
_CUT = re.compile(r"[A-Za-z0-9](?=[ \t\r\n])")


@dataclass(frozen=True)
class TrainingProgress:
    """How far it is: documents and bytes of text read; `total_bytes` those of all sources, None where unknown."""

    stage: Stage
    documents: int
    bytes: int
    total_bytes: int | None
    seconds: float


Listener = Callable[[TrainingProgress], None]


@dataclass(frozen=True)
class TrainedTokenizer:
    """What was written to `path`, and from what.

    asked: the vocabulary size that was wanted; the tokenizer has fewer tokens where the text is too small for it.
    documents, bytes: read. bytes_per_token: over the held-out text, by this tokenizer and by gpt2; None where there was
    too little text to hold any out. limited: --limit-bytes ended the reading. moved_to: where the file lies that was in
    the way.
    """

    path: Path
    tokenizer: Tokenizer
    asked: int
    documents: int
    bytes: int
    held_out_bytes: int
    bytes_per_token: float | None
    gpt2_bytes_per_token: float | None
    limited: bool
    seconds: float
    moved_to: Path | None = None


def train_tokenizer(
    settings: TokenizerTrainSettings,
    progress: Listener | None = None,
    *,
    stdin: BinaryIO | None = None,
    told: Told | None = None,
) -> TrainedTokenizer:
    """Train the tokenizer that the settings describe and write its tokenizer.json, whole or not at all. `told` hears of
    waiting for servers.

    Raises UsageError for sources that can't be used and for a file that is in the way, UserError for text that can't be
    read and a file that can't be written.
    """
    began = time.monotonic()
    path = Path(settings.output)
    _check_output(path, settings.fresh)
    sources = open_source(_as_tokenize(settings), told)
    with tempfile.TemporaryDirectory(prefix="gpt-") as kept:
        if sources.reads_standard_input:
            separator = unescape(settings.separator or "\n").encode()
            enough = standard_input.Enough(separator, settings.limit_documents, settings.limit_bytes)
            if stdin is None:
                raise UsageError("Standard input is not open.", "Give files.")
            sources = sources.with_standard_input(standard_input.keep(stdin, Path(kept), enough, look_only=False))
        corpus = _Corpus(sources, settings.limit_documents, settings.limit_bytes, began, progress, told)
        json_text = _interruptible(lambda: _trained(corpus.pieces(), settings.vocab_size, settings.split), corpus)
    tokenizer = Tokenizer(LibraryVocabulary(str(path), json_text, _end_of(json_text)))
    corpus.tell("measuring")
    held_out = "".join(corpus.held_out)
    result = TrainedTokenizer(
        path=path,
        tokenizer=tokenizer,
        asked=settings.vocab_size,
        documents=corpus.documents,
        bytes=corpus.bytes,
        held_out_bytes=len(held_out.encode()),
        bytes_per_token=_bytes_per_token(tokenizer, corpus.held_out),
        gpt2_bytes_per_token=_bytes_per_token(get_tokenizer("gpt2"), corpus.held_out),
        limited=corpus.limited,
        seconds=time.monotonic() - began,
        moved_to=_move_aside(path) if path.exists() else None,
    )
    try:
        write_bytes(path, json_text.encode("utf-8"))
    except BaseException:
        if result.moved_to:
            result.moved_to.replace(path)
        raise
    return result


@dataclass
class _Corpus:
    """The documents of the sources up to a limit, counted on the way, some of them held out."""

    sources: Sources
    limit_documents: int | None
    limit_bytes: int
    began: float
    listener: Listener | None
    told: Told | None
    documents: int = 0
    bytes: int = 0
    limited: bool = False
    stopped: bool = False  # set from outside: nothing more is read
    held_out: list[str] = field(default_factory=list)
    _total_bytes: int | None = None

    def pieces(self) -> Iterator[str]:
        """The text to train on, in pieces of bounded length. Raises UsageError where there is none."""
        self._total_bytes = self.sources.total_bytes()
        with closing(self.sources.pieces("words", self.told)) as pieces:
            for text in self._without_held_out(self._counted(pieces)):
                yield from _pieces(text)
        if self.bytes == 0:
            raise UsageError("The sources hold no text.", "Give files that are not empty.")
        self.tell("merging")

    def tell(self, stage: Stage) -> None:
        if self.listener:
            seconds = time.monotonic() - self.began
            self.listener(TrainingProgress(stage, self.documents, self.bytes, self._total_bytes, seconds))

    def _counted(self, pieces: Iterable[tuple[str, bool]]) -> Iterator[str]:
        for text, continues in pieces:
            if self.stopped:
                raise InterruptedError
            if not continues and self.documents == self.limit_documents:
                return
            data = text.encode("utf-8")
            room = self.limit_bytes - self.bytes
            if len(data) > room:
                self.limited = True
                data = data[:room]
                text = data.decode("utf-8", errors="ignore")  # the last character may be cut
            self.documents += not continues
            self.bytes += len(data)
            self.tell("reading")
            yield text
            if self.limited:
                return

    def _without_held_out(self, documents: Iterator[str]) -> Iterator[str]:
        """What is trained on: all but every 50th document, where a long one counts in pieces; of fewer all but the last
        tenth of the text."""
        first = list(islice(documents, _EVERY))
        if len(first) < _EVERY:
            left = sum(map(len, first)) * 9 // 10
            for text in first:
                yield text[:left]
                self.held_out.append(text[left:])
                left = max(0, left - len(text))
            return
        size = 0
        for number, text in enumerate(chain(first, documents), start=1):
            if number % _EVERY == 0 and size < _HELD_OUT_BYTES:
                size += len(text)
                self.held_out.append(text)
            else:
                yield text


def _pieces(text: str) -> Iterator[str]:
    """The library takes 256 pieces at a time."""
    begin = 0
    while cut := _CUT.search(text, begin + _PIECE):
        yield text[begin : cut.end()]
        begin = cut.end()
    yield text[begin:]


def _interruptible(work: Callable[[], str], corpus: _Corpus) -> str:
    """What `work` returns, done in a thread of its own: the library gives Ctrl-C no chance before it is through.

    Interrupted while it reads `corpus` it ends in good order; while it merges it is left to end with the process.
    """
    future: Future[str] = Future()

    def run() -> None:
        try:
            future.set_result(work())
        except BaseException as error:  # noqa: BLE001 - raised again by `result`
            future.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    try:
        while not wait([future], _SECONDS_BETWEEN_LOOKS).done:  # on Windows nothing interrupts a longer wait
            pass
    except BaseException:
        corpus.stopped = True
        wait([future], _SECONDS_TO_END)
        raise
    return future.result()


def _trained(pieces: Iterator[str], vocab_size: int, split: Literal["gpt2", "gpt4"]) -> str:
    """The tokenizer.json: ids 0 to 255 are the bytes, then come the merges in their order, last end of text."""
    from tokenizers import Regex, decoders, models, pre_tokenizers, trainers
    from tokenizers import Tokenizer as Library

    library = Library(models.BPE())
    if split == "gpt2":
        library.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    else:
        by_pattern = pre_tokenizers.Split(Regex(GPT4_PLAIN), "isolated")
        spelling = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        library.pre_tokenizer = pre_tokenizers.Sequence([by_pattern, spelling])
    library.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size - 1,
        min_frequency=_LEAST_FREQUENCY,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    library.train_from_iterator(pieces, trainer)
    library.add_special_tokens([END_OF_TEXT])
    return library.to_str(pretty=True) + "\n"


def _end_of(json_text: str) -> int:
    from tokenizers import Tokenizer as Library

    end: int | None = Library.from_str(json_text).token_to_id(END_OF_TEXT)
    assert end is not None, "it was added"
    return end


def _bytes_per_token(tokenizer: Tokenizer, texts: list[str]) -> float | None:
    encoded = [text.encode("utf-8") for text in texts if text]
    if not encoded:
        return None
    ends = np.cumsum([len(text) for text in encoded], dtype=np.int64)
    ids, _ = tokenizer.encode_texts(b"".join(encoded), ends)
    return int(ends[-1]) / ids.size


def _as_tokenize(settings: TokenizerTrainSettings) -> TokenizeSettings:
    shared = ("sources", "dataset_path", "remote_name", "text_column", "separator", "on_error")
    return TokenizeSettings(**{name: getattr(settings, name) for name in shared})


def _check_output(path: Path, fresh: bool) -> None:
    if path.is_dir():
        raise UsageError(f"--output {path}: it is a folder.", f"Name a file in it: {path / 'tokenizer.json'}")
    if not path.parent.is_dir():
        raise UsageError(f"--output {path}: there is no folder {path.parent}.", "Make it first.")
    if path.suffix != ".json":
        raise UsageError(f"--output {path}: a tokenizer is a .json file.", f"Name it {path.name}.json.")
    if path.exists() and not fresh:
        raise UsageError(f"There is a file {path} already.", "Give another --output, or --fresh to move it aside.")
    try:
        check_writable(path)
    except OSError as error:
        raise UserError(f"{path} can't be written: {error.strerror or error}.", "Give another --output.") from error


def _move_aside(path: Path) -> Path:
    number = 1
    while (aside := path.with_name(f"{path.stem}.old-{number}{path.suffix}")).exists():
        number += 1
    path.rename(aside)
    return aside
