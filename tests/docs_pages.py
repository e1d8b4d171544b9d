"""The pages in docs/ as something to run: their blocks, a small shell for the lines in them, what is there before.

A block of kind `sh` or `python` is run, in the order of the page, in one folder for the page. Other kinds
(`console`, `text`) show what can't be run here: another program, a cluster, a package index.
"""

from __future__ import annotations

import contextlib
import gzip
import io
import json
import os
import re
import shlex
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import torch
from pyarrow import parquet

from gptcli.cli.main import run
from gptcli.model.config import GPTConfig
from gptcli.model.huggingface import write_model
from gptcli.model.network import GPT
from gptcli.tokenizer import Tokenizer
from gptcli.tokenizer_files import save_tokenizer

DOCS = Path(__file__).parents[1] / "docs"
RUN = ("sh", "python")
SHOWN = ("console", "text")

# What makes every run take about a second: it holds where a page's own flags say nothing else.
TINY = {
    "GPTCLI_N_LAYERS": "1",
    "GPTCLI_N_HEADS": "2",
    "GPTCLI_EMB_DIM": "16",
    "GPTCLI_CONTEXT_LENGTH": "32",
    "GPTCLI_N_BATCHES": "2",
    "GPTCLI_TOTAL_BATCH_SIZE": "512",
    "GPTCLI_MAX_ITERS": "3",
    "GPTCLI_WARMUP_ITERS": "1",
    "GPTCLI_EVAL_ITERS": "1",
    "GPTCLI_METRICS": "none",
    "GPTCLI_MAX_NEW_TOKENS": "4",
    "GPTCLI_WORKERS": "1",
    "GPTCLI_DEVICE": "cpu",
}


@dataclass(frozen=True)
class Swap:
    """What a command says instead of `says` while it is tested, and why. `page` is the only page, where it is not for
    all."""

    says: str
    instead: str
    why: str
    page: str = ""


SWAPS = (
    Swap(r"--max-iters [\d_]+", "--max-iters 3", "a test is no place for so many steps"),
    Swap(
        r"--n-batches \d+",
        "--n-batches 2",
        "a step is 512 tokens: two sequences of 32 for each of 8 processes",
    ),
    Swap(r"--total-batch-size \d+", "--total-batch-size 512", "so many tokens take long"),
    Swap(r"--n-tokens \d+", "--n-tokens 32", "the stand-in models have a context of 32 tokens"),
    Swap(r"--stride \d+", "--stride 16", "the stand-in models have a context of 32 tokens"),
    Swap(r"--max-new-tokens \d+", "--max-new-tokens 4", "so many tokens take long"),
    Swap(r"--fit-time \w+", "--max-iters 3", "what ends in a given time depends on the machine's clock"),
    Swap(r"--max-time \w+", "--max-time 1h", "what ends in a given time depends on the machine's clock"),
    Swap(r"--vocab-size \d+", "--vocab-size 300", "the small texts have no more words to merge"),
    Swap(r"--profile \d+", "--profile 1", "a run of three steps has one to profile"),
    Swap(r"--limit \d+", "--limit 2", "the stand-in for HellaSwag has four examples"),
    Swap(
        r"(gpt doctor.*)",
        r"\1 --print-config",
        "it takes half a minute; test_doctor.py runs it",
    ),
    Swap(r"--save-every \d+", "--save-every 1", "--keep-every has to be a multiple of it"),
    Swap(r"--keep-every \d+", "--keep-every 2", "of a run of three steps nothing else would be kept"),
)


@dataclass(frozen=True)
class Block:
    """A fenced block of a page: its kind, its text, and the number of its first line."""

    page: str
    kind: str
    text: str
    line: int


def pages() -> list[str]:
    """The names of all pages, without .md."""
    return sorted(path.stem for path in DOCS.glob("*.md"))


def text_of(page: str) -> str:
    return (DOCS / f"{page}.md").read_text(encoding="utf-8")


def blocks(page: str) -> list[Block]:
    text = text_of(page)
    found = re.finditer(r"^```(\w*)\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    return [Block(page, match[1], match[2], text.count("\n", 0, match.start()) + 2) for match in found]


def commands(block: Block) -> Iterator[str]:
    """The command lines of a block; one that ends in a backslash goes on in the next line."""
    for line in block.text.replace("\\\n", " ").splitlines():
        if line.strip() and not line.lstrip().startswith("#"):
            yield line.strip()


def swapped(line: str, page: str, swaps: tuple[Swap, ...] = SWAPS) -> str:
    """The line as it is tested."""
    for swap in swaps:
        if swap.page in ("", page):
            line = re.sub(swap.says, swap.instead, line)
    return line


class Shell:
    """Runs lines as a shell would, with `gpt` in this process: pipes, `<` and `>`, `NAME=value gpt …`, `cat`, `zcat`.

    Raises AssertionError where a command fails, or is none of these."""

    def __init__(self, environ: dict[str, str]) -> None:
        self._environ = environ
        self.told: list[str] = []  # what each `gpt` wrote to standard output

    def line(self, text: str) -> None:
        words = _split(text)
        given = b""
        while words:
            at = words.index("|") if "|" in words else len(words)
            given = self._stage(words[:at], given, text)
            words = words[at + 1 :]

    def _stage(self, words: list[str], given: bytes, line: str) -> bytes:
        words, source, target = _redirections(words)
        given = Path(source).read_bytes() if source else given
        variables: dict[str, str] = {}
        while words and (match := re.fullmatch(r"([A-Z][A-Z_]*)=(.*)", words[0], re.DOTALL)):
            variables[match[1]] = match[2]
            words = words[1:]
        program, *words = words
        made = self._gpt(words, given, variables, line) if program == "gpt" else _PROGRAMS[program](words)
        if target:
            Path(target).write_bytes(made)
        return b"" if target else made

    def _gpt(self, words: list[str], given: bytes, variables: dict[str, str], line: str) -> bytes:
        out = io.StringIO()
        before = dict(os.environ)
        os.environ.update(self._environ | variables)
        stdin, sys.stdin = sys.stdin, io.TextIOWrapper(io.BytesIO(given), encoding="utf-8")
        try:
            with contextlib.redirect_stdout(out):
                code = run(words)
        finally:
            sys.stdin = stdin
            os.environ.clear()
            os.environ.update(before)
        assert code == 0, f"{line}: exit code {code}"
        self.told.append(out.getvalue())
        return out.getvalue().encode()


def _cat(files: list[str]) -> bytes:
    return b"".join(Path(file).read_bytes() for file in files)


def _zcat(files: list[str]) -> bytes:
    return b"".join(gzip.decompress(Path(file).read_bytes()) for file in files)


_PROGRAMS: dict[str, Callable[[list[str]], bytes]] = {"cat": _cat, "zcat": _zcat}


def _split(line: str) -> list[str]:
    lexer = shlex.shlex(line, posix=True, punctuation_chars="|<>")
    lexer.whitespace_split = True
    return list(lexer)


def _redirections(words: list[str]) -> tuple[list[str], str, str]:
    """The words without `< FILE` and `> FILE`, and these files."""
    files = {"<": "", ">": ""}
    kept = []
    rest = iter(words)
    for word in rest:
        if word in files:
            files[word] = next(rest)
        else:
            kept.append(word)
    return kept, files["<"], files[">"]


SENTENCES = (
    "The sea was calm and the boats went out before the sun had risen.",
    "Nobody in the village had seen a winter as long as this one.",
    "She read the letter twice, folded it, and put it back into the drawer.",
    "On a clear day you can see the mountains on the other side of the bay.",
    "He had a plan, and it was a good plan, but it needed another day.",
)


def prose(sentences: int) -> str:
    """A text of so many sentences, in which each is a little different."""
    return "\n\n".join(f"{SENTENCES[i % 5]} That was in the year {1800 + i}." for i in range(sentences))


def write_inputs(folder: Path) -> None:
    """The texts that the pages name, and small models under the names of those on the Hub."""
    _write_texts(folder)
    _write_dataset(folder / "HuggingFaceFW" / "fineweb-edu", "sample-10BT")
    _write_dataset(folder / "roneneldan" / "TinyStories", "default")
    shape = GPTConfig(vocab_size=50_257, emb_dim=16, context_length=32, n_layers=1, n_heads=2, qkv_bias=True)
    _write_model(folder / "openai-community" / "gpt2", shape)
    modern = GPTConfig(
        vocab_size=50_257, emb_dim=16, context_length=32, n_layers=1, n_heads=2, positions="rotary", norm="rms",
        mlp="swiglu", bias=False, qk_norm=True, mlp_dim=64,
    )  # fmt: skip
    _write_model(folder / "Qwen" / "Qwen3-0.6B-Base", modern)


def _write_texts(folder: Path) -> None:
    documents = prose(60).split("\n\n")
    for name in ("notes", "speeches", "books"):
        (folder / name).mkdir()
    (folder / "notes" / "monday.md").write_text(prose(40), encoding="utf-8")
    (folder / "notes" / "tuesday.txt").write_text(prose(30), encoding="utf-8")
    (folder / "speeches" / "1790.txt").write_text(prose(80), encoding="utf-8")
    for name in ("stories.txt", "shakespeare.txt", "book.txt"):
        (folder / name).write_text(prose(60), encoding="utf-8")
    (folder / "prompt.txt").write_text("The sea was", encoding="utf-8")
    rows = "".join(json.dumps({"text": text, "body": text}) + "\n" for text in documents)
    (folder / "essays.jsonl").write_text(rows, encoding="utf-8")
    with pa.CompressedOutputStream(str(folder / "essays.jsonl.zst"), "zstd") as packed:
        packed.write(rows.encode())
    (folder / "lines.txt.gz").write_bytes(gzip.compress("\n".join(documents).encode()))
    parquet.write_table(pa.table({"text": documents}), folder / "books" / "one.parquet")
    prompts = [{"prompt": "The sea"}, {"prompt": "On a clear day", "id": "second", "temperature": 0}]
    (folder / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in prompts), encoding="utf-8")


def _write_dataset(folder: Path, configuration: str) -> None:
    """A folder as a dataset's repository is."""
    folder.mkdir(parents=True)
    parquet.write_table(pa.table({"text": prose(60).split("\n\n")}), folder / "part.parquet")
    told = (
        f"---\nconfigs:\n- config_name: {configuration}\n  data_files:\n  - split: train\n    path: part.parquet\n---\n"
    )
    (folder / "README.md").write_text(told, encoding="utf-8")


def _write_model(folder: Path, config: GPTConfig) -> None:
    folder.mkdir(parents=True)
    tokenizer = Tokenizer("gpt2")
    model = GPT(config)
    model.initialise(torch.Generator().manual_seed(0))
    write_model(folder, model, tokenizer.eot)
    save_tokenizer(folder, tokenizer, config.context_length)


def hellaswag_rows() -> str:
    """Four lines as the file that HellaSwag's authors published has them."""
    endings = ["rows out to sea.", "sings a song.", "reads a letter.", "goes home."]
    row = {"activity_label": "Sailing", "ctx_a": "A man stands in a boat.", "ctx_b": "he", "endings": endings}
    return "".join(
        json.dumps({"ind": i, "ctx": "A man stands in a boat. he", "split": "val", "split_type": "indomain",
                    "label": i, "source_id": f"activitynet~{i}", **row}) + "\n"
        for i in range(4)
    )  # fmt: skip


def copy_into(folder: Path, target: Path) -> None:
    shutil.copytree(folder, target, dirs_exist_ok=True)
