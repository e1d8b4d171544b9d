"""A corpus as large as wanted out of a small one: its paragraphs, shuffled anew for every part, as new documents.

No document occurs twice, so that nothing is won by remembering documents, and each is as long as one of the books'.
Words do recur, as in any prose. Made once: a part that lies in the folder is used again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

SEED = 1337
PART_MEGABYTES = 25
ROWS_IN_GROUP = 1_000
TEXT_BYTES = b"text_bytes"  # where a part keeps how many bytes of text it holds


@dataclass(frozen=True)
class Corpus:
    """What to tokenize: paths, in order, and the documents and bytes of UTF-8 text that they hold."""

    paths: tuple[Path, ...]
    documents: int
    bytes: int


class Books:
    """The documents of a parquet file with a column `text`, and what can be made of their paragraphs in `folder`."""

    def __init__(self, file: Path, folder: Path) -> None:
        fingerprint = hashlib.sha256(file.read_bytes()).hexdigest()[:12]
        self._file = file
        self._folder = folder / f"corpus_{fingerprint}_{SEED}"
        self._folder.mkdir(parents=True, exist_ok=True)
        self._lengths: list[int] = []
        self._paragraphs: list[str] = []

    def corpus(self, megabytes: int) -> Corpus:
        """At least so many million bytes of text in parquet files, shared with corpora of other sizes."""
        sizes = [PART_MEGABYTES] * (megabytes // PART_MEGABYTES)
        if megabytes % PART_MEGABYTES:
            sizes.append(megabytes % PART_MEGABYTES)
        files = tuple(self._part(number, size) for number, size in enumerate(sizes))
        documents = sum(pq.read_metadata(file).num_rows for file in files)
        return Corpus(files, documents, sum(int(pq.read_schema(file).metadata[TEXT_BYTES]) for file in files))

    def text_files(self, count: int) -> Corpus:
        """A folder of so many .txt files of one paragraph each. Raises SystemExit if there are fewer paragraphs."""
        folder = self._folder / f"{count}_files"
        if not folder.exists():
            self._read()
            if count > len(self._paragraphs):
                raise SystemExit(f"{self._file} has only {len(self._paragraphs):,} paragraphs for {count:,} files.")
            unfinished = folder.with_suffix(".unfinished")
            unfinished.mkdir(exist_ok=True)
            chosen = np.random.default_rng([SEED, count]).permutation(len(self._paragraphs))[:count]
            for number, paragraph in enumerate(chosen):
                (unfinished / f"{number:06d}.txt").write_bytes(self._paragraphs[paragraph].encode())
            unfinished.rename(folder)
        return Corpus((folder,), count, sum(file.stat().st_size for file in folder.iterdir()))

    def _part(self, number: int, megabytes: int) -> Path:
        file = self._folder / f"part_{number:04d}_{megabytes}MB.parquet"
        if not file.exists():
            texts = list(self._documents(number, megabytes * 1_000_000))
            schema = pa.schema({"text": pa.string()}, {TEXT_BYTES: str(sum(len(text.encode()) for text in texts))})
            unfinished = file.with_suffix(".unfinished")
            table = pa.table({"text": texts}, schema)
            pq.write_table(table, unfinished, compression="zstd", row_group_size=ROWS_IN_GROUP)
            unfinished.rename(file)
        return file

    def _documents(self, part: int, size: int) -> Iterator[str]:
        """New documents of at least `size` bytes in all, made of paragraphs of which none is used twice in a part."""
        self._read()
        rng = np.random.default_rng([SEED, part])
        order = iter(rng.permutation(len(self._paragraphs)))
        while size > 0:
            length = self._lengths[rng.integers(len(self._lengths))]
            chosen: list[str] = []
            # Of two at least: one paragraph alone would be the same document in another part.
            while length > 0 or len(chosen) < 2:
                paragraph = self._paragraphs[next(order)]
                chosen.append(paragraph)
                length -= len(paragraph) + 2
            text = "\n\n".join(chosen)
            size -= len(text.encode())
            yield text

    def _read(self) -> None:
        if not self._paragraphs:
            texts = pq.read_table(self._file, columns=["text"]).column("text").to_pylist()
            self._lengths = [len(text) for text in texts]
            paragraphs = dict.fromkeys(part for text in texts for part in text.split("\n\n") if part.strip())
            self._paragraphs = list(paragraphs)
            if sum(map(len, self._paragraphs)) < 2 * PART_MEGABYTES * 1_000_000:
                raise SystemExit(f"{self._file} holds too little text: {2 * PART_MEGABYTES} MB are needed.")
