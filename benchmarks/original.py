"""What `gpt tokenize` and `gpt train` are measured against: gpt-from-scratch 1.1, in an environment of its own.

That distribution has our name, hence an environment that holds nothing of ours. Its scripts, in its repository
`scripts/tokenize_documents_parallel.py` and `scripts/train_gpt.py`, are not in the distribution: PROGRAM and
`sides/original_gpt.py` call the package as they do.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

from corpus import Corpus

from gptcli.tokenizer import END_OF_TEXT
from gptcli.tokenizer.gpt2 import byte_alphabet, gpt2_merges

RELEASE = "1.1"
REQUIRED = ("datasets", "numpy", "tiktoken", "torch")  # the same versions as here, so that only the pipelines differ

# As in the script: half as many processes as cores, documents handed out by 16, shards of 10^8 tokens.
PROGRAM = """\
import multiprocessing
import os
import sys

from datasets import load_dataset
from gpt_from_scratch.dataset import ShardManager, Tokenizer


def main(folder, *files):
    documents = load_dataset("parquet", data_files=list(files), split="train")
    if not folder:
        return
    os.makedirs(folder)
    tokenizer = Tokenizer("gpt2")
    shards = ShardManager(folder, 100_000_000)
    with multiprocessing.Pool(int(os.environ["PROCESSES"]) or max(1, os.cpu_count() // 2)) as pool:
        for tokens in pool.imap(tokenizer.tokenize_doc, documents, chunksize=16):
            shards.add_tokens(tokens)
    shards.finalize()


if __name__ == "__main__":
    main(*sys.argv[1:])
"""

# Where tiktoken has GPT-2's files from; its cache names them by the sha1 of the address.
FILES = "https://openaipublic.blob.core.windows.net/gpt-2/encodings/main"


def make_environment(folder: Path) -> Path:
    """Make an environment with the original in it, if `folder` is not there yet. Returns its Python.

    Raises SystemExit, and leaves no folder, where a package can't be had.
    """
    python = folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    if folder.exists():
        return python
    install = [str(python), "-m", "pip", "install", "--quiet"]
    required = [f"{name}=={version(name).partition('+')[0]}" for name in REQUIRED]
    try:
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
        subprocess.run([*install, "tqdm", *required], check=True)
        subprocess.run([*install, "--no-deps", f"gpt-from-scratch=={RELEASE}"], check=True)
    except subprocess.CalledProcessError as error:
        shutil.rmtree(folder, ignore_errors=True)
        raise SystemExit(f"The environment {folder} could not be made.") from error
    return python


class Original:
    """The original in the environment of `python`. processes: of its pool; 0 as its script has it."""

    def __init__(self, python: Path, work: Path, processes: int = 0) -> None:
        self._python = python
        self._program = work / "original_tokenize.py"
        self._program.write_text(PROGRAM, encoding="utf-8")
        self._cache = work / "original_datasets"
        self.environment = {
            **environment_of(python, work),
            "HF_DATASETS_CACHE": str(self._cache),
            "PROCESSES": str(processes),
        }

    def command(self, corpus: Corpus, folder: Path | str) -> list[str]:
        """The command that tokenizes the files of `corpus` into `folder`."""
        return [str(self._python), str(self._program), str(folder), *map(str, corpus.paths)]

    def prepare(self, corpus: Corpus) -> None:
        """Have `datasets` make its Arrow copy of the files beforehand, so that no timed run pays for it."""
        command = self.command(corpus, "")
        subprocess.run(command, env=os.environ | self.environment, check=True, stderr=subprocess.DEVNULL)

    def arrow_files(self) -> list[Path]:
        """The copies that `prepare` made."""
        return sorted(self._cache.rglob("*.arrow"))


def environment_of(python: Path, work: Path) -> dict[str, str]:
    """The variables that it runs with; what it reads lies in `work`. Raises SystemExit where `python` has not the
    release, or other versions than those here of what it requires."""
    vocabulary = work / "original_vocabulary"
    write_vocabulary(vocabulary)
    environment = {"HF_HUB_OFFLINE": "1", "TIKTOKEN_CACHE_DIR": str(vocabulary), "PYTHONPATH": ""}  # nothing of ours
    if not python.is_file():
        raise SystemExit(f"There is no Python at {python}.")
    names = ["gpt-from-scratch", *REQUIRED]
    found = subprocess.run(
        [str(python), "-c", f"from importlib.metadata import version; print(*map(version, {names}))"],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=False,
    )
    expected = [RELEASE, *(version(name).partition("+")[0] for name in REQUIRED)]
    if [told.partition("+")[0] for told in found.stdout.split()] != expected:
        told = ", ".join(f"{name} {number}" for name, number in zip(names, expected, strict=True))
        raise SystemExit(f"{python} has not {told}: make an environment with --make-peer.")
    return environment


def write_vocabulary(folder: Path) -> None:
    """Fill a folder for TIKTOKEN_CACHE_DIR with GPT-2's two files, byte for byte as published: tiktoken checks them."""
    folder.mkdir(parents=True, exist_ok=True)
    merges = gpt2_merges()
    lines = ["#version: 0.2", *(f"{first} {second}" for first, second in merges), ""]
    tokens = [*byte_alphabet().values(), *(first + second for first, second in merges), END_OF_TEXT]
    contents = {"vocab.bpe": "\n".join(lines), "encoder.json": json.dumps({token: i for i, token in enumerate(tokens)})}
    for name, content in contents.items():
        key = hashlib.sha1(f"{FILES}/{name}".encode(), usedforsecurity=False).hexdigest()
        (folder / key).write_bytes(content.encode())
