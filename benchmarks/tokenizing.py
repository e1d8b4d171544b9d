"""`gpt tokenize` against the original's pipeline: throughput, peak memory, growth.

    python benchmarks/tokenizing.py --books FILE --work FOLDER --make-peer FOLDER/peer [--memory-megabytes 200,2000]
        [--growth]

`--books` is a parquet file with English prose in its column `text`, of which a corpus of `--megabytes` is made. All
sides tokenize the same files by whole commands, from start to exit, each in processes of its own and in turns, and
must give the same tokens. The figures are of one run; the memory is measured in runs that are not timed.
"""

from __future__ import annotations

import argparse
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path

from corpus import Books, Corpus
from original import Original, make_environment
from process_memory import Peak, peak_memory
from token_stream import TokenStream, token_stream
from turns import spread

TINY_MEGABYTES = 1  # what a command takes by itself is what it takes for so little text


@dataclass(frozen=True)
class Side:
    """One of those compared: the command that tokenizes a corpus into a folder, and what is set in its environment."""

    name: str
    command: Callable[[Corpus, Path], list[str]]
    environment: dict[str, str] = field(default_factory=dict)


def ours() -> list[Side]:
    """`gpt tokenize` with each engine that can be asked for; the first is what it does by default."""
    gpt = [sys.executable, "-m", "gptcli", "tokenize"]
    wide = os.environ | {"COLUMNS": "200"}
    described = subprocess.run([*gpt, "--help"], env=wide, capture_output=True, encoding="utf-8", check=True).stdout
    engines = "--engine" in described

    def side(engine: str) -> Side:
        options = [*(["--engine", engine] if engines else []), "--local-dir"]
        return Side(f"gpt, {engine}", lambda corpus, folder: [*gpt, *map(str, corpus.paths), *options, str(folder)])

    return [side("auto"), *([side("tiktoken")] if engines else [])]


class Bench:
    """Runs commands, with their output and what they write below `work`."""

    def __init__(self, work: Path) -> None:
        self._work = work
        self._log = work / "output_of_last_command.txt"

    def seconds(self, side: Side, corpus: Corpus) -> tuple[float, TokenStream]:
        """How long it takes to tokenize, and what came of it."""
        if hasattr(os, "sync"):
            os.sync()  # nobody pays for the writing of the one before
        with self._folder() as folder, self._log.open("wb") as log:
            began = time.perf_counter()
            done = subprocess.run(
                side.command(corpus, folder), env=self._environment(side), stdout=log, stderr=log, check=False
            )
            seconds = time.perf_counter() - began
            self._check(side, done.returncode)
            return seconds, token_stream(folder)

    def memory(self, side: Side, corpus: Corpus) -> Peak:
        """The most that it holds at a time while it tokenizes."""
        with self._folder() as folder, self._log.open("wb") as log:
            code, peak = peak_memory(side.command(corpus, folder), self._environment(side), log)
            self._check(side, code)
            return peak

    @contextmanager
    def _folder(self) -> Iterator[Path]:
        """The path of a folder that is not there yet, and is gone afterwards."""
        with tempfile.TemporaryDirectory(prefix="shards_", dir=self._work) as parent:
            yield Path(parent) / "shards"

    def _environment(self, side: Side) -> dict[str, str]:
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("GPTCLI_")}
        return inherited | side.environment

    def _check(self, side: Side, code: int) -> None:
        if code:
            end = self._log.read_text(encoding="utf-8", errors="replace")[-2000:]
            raise SystemExit(f"{side.name} ended with {code}:\n{end}")


def compare_throughput(bench: Bench, sides: list[Side], corpus: Corpus, runs: int) -> None:
    """Every side in every round, the order turned by one each time. SystemExit where the tokens are not the same."""
    text = f"{corpus.documents:,} documents, {corpus.bytes / 1e6:.0f} MB of text in {len(corpus.paths)} files"
    print(f"\nThroughput: {text}")
    rates: dict[str, list[float]] = {side.name: [] for side in sides}
    expected: TokenStream | None = None
    for number in range(runs):
        turn = number % len(sides)
        for side in sides[turn:] + sides[:turn]:
            seconds, stream = bench.seconds(side, corpus)
            expected = expected or stream
            if stream != expected:
                raise SystemExit(f"{side.name} gives other tokens: {stream}, not {expected}")
            rates[side.name].append(corpus.bytes / 1e6 / seconds)
            print(f"  run {number + 1}  {side.name:<16} {rates[side.name][-1]:7.1f} MB/s  {seconds:7.2f} s", flush=True)
    if expected:
        print(f"All the same {expected.tokens:,} tokens, sha256 {expected.sha256[:12]}")
    for side in sides:
        print(f"{side.name:<16} {spread(rates[side.name], 1)} MB/s")
    *measured, reference = sides
    for side in measured:
        ratios = [a / b for a, b in zip(rates[side.name], rates[reference.name], strict=True)]
        print(f"{side.name} / {reference.name}: {spread(ratios)}")


def compare_memory(bench: Bench, sides: list[Side], tiny: Corpus, corpora: list[Corpus]) -> None:
    """Peak memory for each corpus, less that for a tiny one."""
    print(f"\nPeak memory in MiB above that for {tiny.bytes / 1e6:.0f} MB of text; in brackets without pages of files")
    for side in sides:
        least = bench.memory(side, tiny)
        print(f"  {side.name:<16} {tiny.bytes / 1e6:6.0f} MB: {least} in all", flush=True)
        for corpus in corpora:
            peak = bench.memory(side, corpus)
            print(f"  {side.name:<16} {corpus.bytes / 1e6:6.0f} MB: {peak} in all, {peak - least} above", flush=True)


def compare_growth(bench: Bench, side: Side, pairs: list[tuple[str, Corpus, Corpus]], tiny: Corpus, runs: int) -> None:
    """The time of a large corpus over that of a small one, for each document; also without what a tiny one takes."""
    print("\nGrowth: time per document of the second over that of the first")
    for name, small, large in pairs:
        whole, net = [], []
        for number in range(runs):
            start, a, b = (bench.seconds(side, corpus)[0] for corpus in (tiny, small, large))
            growth = large.documents / small.documents
            whole.append(b / a / growth)
            net.append((b - start) / (a - start) / growth)
            print(f"  run {number + 1}  {name}: {start:.2f} s to start, {a:.2f} s, {b:.2f} s", flush=True)
        print(f"{name}, {small.documents:,} and {large.documents:,}: {spread(whole)}; without the start {spread(net)}")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--books", type=Path, required=True, help="parquet file with a column `text`")
    parser.add_argument("--work", type=Path, required=True, help="folder for the corpus and what is made of it")
    parser.add_argument("--megabytes", type=int, default=500, help="size of the corpus for the throughput")
    parser.add_argument("--runs", type=int, default=5, help="rounds of throughput and growth; 0 for none")
    peer = parser.add_mutually_exclusive_group()
    peer.add_argument("--peer-python", type=Path, help="Python of an environment that has the original")
    peer.add_argument("--make-peer", type=Path, metavar="FOLDER", help="make such an environment there, unless it is")
    parser.add_argument("--peer-processes", type=int, default=0, help="default: half the cores, as the original does")
    parser.add_argument("--memory-megabytes", default="", help="sizes for the peak memory, with commas between")
    parser.add_argument(
        "--growth", type=int, nargs="?", const=200, metavar="MEGABYTES", help="time so much text and ten times as much"
    )
    parser.add_argument("--small-files", type=int, default=10_000, help="files for --growth, and ten times as many")
    return parser.parse_args()


def main() -> None:
    arguments = parse()
    work = arguments.work.resolve()
    work.mkdir(parents=True, exist_ok=True)
    books = Books(arguments.books, work)
    bench = Bench(work)
    print(f"{os.cpu_count()} cores, {platform.platform()}, Python {platform.python_version()}")
    print(", ".join(f"{name} {version(name)}" for name in ("gigatoken", "tiktoken", "pyarrow", "datasets", "torch")))

    gpt = ours()
    python = make_environment(arguments.make_peer.resolve()) if arguments.make_peer else arguments.peer_python
    original = Original(python.absolute(), work, arguments.peer_processes) if python else None
    sides = [*gpt, *([Side("original", original.command, original.environment)] if original else [])]

    def prepared(megabytes: int, *, for_original: bool = True) -> Corpus:
        corpus = books.corpus(megabytes)
        if original and for_original:
            original.prepare(corpus)
        for file in [*corpus.paths, *(original.arrow_files() if original and for_original else [])]:
            with file.open("rb") as opened:  # into the disk's cache: nobody is the first to read it
                while opened.read(2**24):
                    pass
        return corpus

    if arguments.runs:
        compare_throughput(bench, sides, prepared(arguments.megabytes), arguments.runs)
    if sizes := [int(size) for size in arguments.memory_megabytes.split(",") if size]:
        compare_memory(bench, sides, prepared(TINY_MEGABYTES), [prepared(size) for size in sizes])
    if arguments.growth and arguments.runs:
        few, many = arguments.small_files, 10 * arguments.small_files
        small, large = (prepared(size, for_original=False) for size in (arguments.growth, 10 * arguments.growth))
        pairs = [("documents", small, large), ("files", books.text_files(few), books.text_files(many))]
        compare_growth(bench, gpt[0], pairs, prepared(TINY_MEGABYTES, for_original=False), arguments.runs)


if __name__ == "__main__":
    main()
