"""`Tokenizer`: text to ids and back, whatever kind of vocabulary is behind it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property, lru_cache

import numpy as np
import numpy.typing as npt
import tiktoken

from gptcli.errors import UserError
from gptcli.tokenizer.bpe import TiktokenVocabulary
from gptcli.tokenizer.characters import CharsVocabulary
from gptcli.tokenizer.naming import built_in_names, find_vocabulary
from gptcli.tokenizer.vocabulary import Cuts, Ids, Vocabulary


class Tokenizer:
    """Text to ids and back.

    name: what it is asked for by. vocab_size: ids lie in `range(vocab_size)`. eot: end of text, which begins every
    document. specials: special tokens and their ids. cuts: where a document may be cut and encoded in pieces without a
    change of its ids: between an ASCII letter or digit and ASCII white space behind it ("words"), between any two
    characters, or nowhere ("none"). covers_all_text: whether every text has ids; where not, `encode` may raise.
    """

    def __init__(self, source: str | tiktoken.Encoding | Vocabulary) -> None:
        """`source` is a name as `get_tokenizer` takes it, or what that would find."""
        if isinstance(source, str):
            source = get_tokenizer(source).vocabulary
        self.vocabulary: Vocabulary = source if isinstance(source, Vocabulary) else TiktokenVocabulary(source)
        self.name: str = self.vocabulary.name
        self.vocab_size: int = self.vocabulary.vocab_size
        self.eot: int = self.vocabulary.eot
        self.specials: Mapping[str, int] = self.vocabulary.specials
        self.cuts: Cuts = self.vocabulary.cuts
        self.covers_all_text: bool = self.vocabulary.covers_all_text

    def encode(self, text: str) -> list[int]:
        """The ids of `text`. What looks like a special token is ordinary text: a document can't end itself. Lone
        surrogates, which UTF-8 can't hold, become U+FFFD.

        Raises UserError for a text that the tokenizer can't cope with, naming the characters that it does not have.
        """
        try:
            return self.vocabulary.encode(text)
        except UnicodeEncodeError:
            return self.vocabulary.encode(text.encode("utf-16", "surrogatepass").decode("utf-16", "replace"))

    def encode_batch(self, texts: Iterable[str]) -> list[list[int]]:
        """`encode` of each text."""
        return [self.encode(text) for text in texts]

    def encode_texts(self, data: bytes | memoryview, ends: npt.NDArray[np.int64]) -> tuple[Ids, npt.NDArray[np.int64]]:
        """The ids of many texts one after another, and where those of each text end; no end-of-text tokens between.

        `data` is the UTF-8 of the texts one after another, `ends` the byte that each ends before; UTF-8 that is not
        valid raises UnicodeDecodeError. Raises UserError as `encode` does.
        """
        return self.vocabulary.encode_texts(data, ends)

    def decode_bytes(self, ids: Sequence[int]) -> bytes:
        """The bytes of `ids` as they go on from other text; an id that there is not (padding) has none."""
        return b"".join(map(self.token_bytes, ids))

    def decode(self, ids: Sequence[int]) -> str:
        """The text of `ids`; bytes that are not whole UTF-8 characters become U+FFFD. A tokenizer that puts a space
        before the first word takes it away again here, not in `decode_bytes`."""
        return self.vocabulary.decode(ids)

    def token_bytes(self, token: int) -> bytes:
        """The bytes of one id, empty for an id that there is not."""
        return self.vocabulary.token_bytes(token)

    @cached_property
    def sha256(self) -> str:
        """A fingerprint of everything that decides ids. Tokenizers that have the same are equal, by whatever name."""
        return self.vocabulary.digest()

    def to_json(self) -> str:
        """A tokenizer.json of the same ids, for the `tokenizers` library."""
        return self.vocabulary.to_json()

    @property
    def ranks(self) -> dict[bytes, int] | None:
        """For tiktoken's encodings every ordinary token and its id; merges happen in the order of the ids."""
        return self.vocabulary.ranks

    @property
    def pattern(self) -> str | None:
        """For tiktoken's encodings the regular expression that cuts text into pieces before merging."""
        return self.vocabulary.pattern

    @property
    def special_tokens(self) -> dict[str, int] | None:
        """For tiktoken's encodings every special token and its id."""
        return dict(self.specials) if self.ranks is not None else None

    @property
    def json_text(self) -> str | None:
        """For a tokenizer.json its content without the special tokens, which an engine would find in text."""
        return self.vocabulary.json_text

    @property
    def is_packaged(self) -> bool:
        """Whether it comes with the package, so that its name is enough to find it anywhere."""
        return self.name in ("gpt2", "bytes")

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Tokenizer) and (self is other or self.sha256 == other.sha256)

    def __hash__(self) -> int:
        return hash(self.sha256)

    def __repr__(self) -> str:
        return f"Tokenizer({self.name!r})"

    def __reduce__(self) -> tuple[type[Tokenizer], tuple[Vocabulary]]:
        return Tokenizer, (self.vocabulary,)


def get_tokenizer(name: str) -> Tokenizer:
    """The tokenizer called `name`: an encoding of tiktoken's, `bytes`, a tokenizer.json or a folder that holds one, or
    a Hub id.

    Raises UsageError for a name that nothing has, and UserError where its files are damaged or can't be fetched.
    """
    return _built_in(name) if name in built_in_names() else Tokenizer(find_vocabulary(name))


@lru_cache(maxsize=4)
def _built_in(name: str) -> Tokenizer:
    return Tokenizer(find_vocabulary(name))


def chars_tokenizer(characters: Iterable[str]) -> Tokenizer:
    """The tokenizer whose tokens are the distinct characters in the texts `characters`, and end of text.

    Raises UserError where there are none.
    """
    distinct = set().union(*characters)
    # Lone surrogates are encoded as this.
    distinct = {"\ufffd" if "\ud800" <= character <= "\udfff" else character for character in distinct}
    if not distinct:
        raise UserError("There are no characters to make a tokenizer of.", "Give text that is not empty.")
    return Tokenizer(CharsVocabulary("".join(sorted(distinct))))
