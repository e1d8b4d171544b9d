"""Every command and every Python block in docs/ is run, and what the pages quote is there.

Runs are tiny: `docs_pages.TINY` says how, `docs_pages.SWAPS` which words of a command are others here, and why.
"""

from __future__ import annotations

import ast
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
from docs_pages import (
    DOCS,
    RUN,
    SHOWN,
    TINY,
    Block,
    Shell,
    blocks,
    commands,
    copy_into,
    hellaswag_rows,
    pages,
    swapped,
    text_of,
    write_inputs,
)

from gptcli.cli.config_file import table_of
from gptcli.evals import origin
from gptcli.evals.hellaswag import HELLASWAG
from gptcli.settings import COMMANDS

ROOT = DOCS.parent
PAGES_THAT_RUN = [page for page in pages() if any(block.kind in RUN for block in blocks(page))]
# Pages that go on from a run which their reader has: the one that your-own-text.md and first-run.md end with.
WITH_A_RUN = {"exporting", "extending", "python-api", "watching"}
STARTS_PROCESSES = re.compile(r"--(gpus|nodes|node-rank|rdzv-endpoint) \S+")


@pytest.fixture(scope="session")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the texts that the pages name, and two folders of shards made of them."""
    folder = tmp_path_factory.mktemp("docs")
    write_inputs(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        shell = Shell(dict(TINY))
        # With few tokens: most of a small model's work is its vocabulary.
        shell.line("gpt tokenizer train notes/ essays.jsonl --vocab-size 300 --output few.json")
        shell.line("gpt tokenize notes/ essays.jsonl --tokenizer-model few.json --local-dir mine")
        shell.line("gpt tokenize notes/ --tokenizer-model few.json --local-dir edu_fineweb10B")
        shell.line("gpt tokenize shakespeare.txt --tokenizer-model chars --local-dir shakespeare")
    return folder


@pytest.fixture(scope="session")
def a_run(prepared: Path) -> Path:
    """The folder of a finished run on these shards."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(prepared)
        Shell(dict(TINY)).line("gpt train --data-root mine --log-dir log --preset gpt2")
    return prepared / "log"


@pytest.fixture
def place(prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder that a page is run in. HellaSwag is four examples of ours there, in a cache of its own."""
    folder = tmp_path / "page"
    folder.mkdir()
    for child in prepared.iterdir():
        if child.name != "log":
            copy_into(child, folder / child.name) if child.is_dir() else (folder / child.name).write_bytes(
                child.read_bytes()
            )
    for name in [name for name in os.environ if name.startswith("GPTCLI_")]:
        monkeypatch.delenv(name)
    monkeypatch.setattr(origin, "cache_dir", lambda: tmp_path / "cache")
    published = next(file for file in HELLASWAG.origin.files if file.suffix == ".jsonl")
    HELLASWAG.origin.place(published).parent.mkdir(parents=True)
    HELLASWAG.origin.place(published).write_text(hellaswag_rows(), encoding="utf-8")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def handlers_kept() -> Iterator[None]:
    """The launcher that a command becomes handles signals in a way of its own, to the end of its process."""
    numbers = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGUSR1") if hasattr(signal, name)]
    before = {number: signal.getsignal(number) for number in numbers}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def without_processes(line: str) -> str:
    """The command for one process: to start several takes ten seconds, which one test and the slow ones do."""
    return re.sub(r"\s+", " ", STARTS_PROCESSES.sub("", line)).strip()


def run_block(block: Block, shell: Shell) -> None:
    if block.kind == "python":
        code = "\n" * (block.line - 1) + block.text
        exec(compile(code, f"docs/{block.page}.md", "exec"), {"__name__": "__main__"})  # noqa: S102 (our own page)
        return
    for line in commands(block):
        shell.line(without_processes(swapped(line, block.page)))


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("page", PAGES_THAT_RUN)
def test_what_a_page_tells_to_type_works(page: str, place: Path, request: pytest.FixtureRequest) -> None:
    if page in WITH_A_RUN:
        copy_into(request.getfixturevalue("a_run"), place / "log")
    for name in made_by(page):
        shutil.rmtree(place / "data" / name, ignore_errors=True)
    shell = Shell(dict(TINY))
    for block in blocks(page):
        if block.kind in RUN:
            run_block(block, shell)


def made_by(page: str) -> set[str]:
    """Folders of shards that the page makes itself."""
    lines = [line for block in blocks(page) if block.kind == "sh" for line in commands(block)]
    return {name for line in lines for name in re.findall(r"--local-dir (\S+)", line)}


def lines_with(option: str) -> Iterator[tuple[str, str]]:
    for page in PAGES_THAT_RUN:
        for block in blocks(page):
            if block.kind == "sh":
                yield from ((page, line) for line in commands(block) if re.search(rf"{option} [2-9]", line))


@pytest.mark.usefixtures("handlers_kept")
def test_a_command_for_several_gpus_is_run_by_several_processes(place: Path) -> None:
    """The first of them, by two processes on the processor, which is what stands in for GPUs here."""
    page, line = next(lines_with("--gpus"))
    Shell(dict(TINY)).line(re.sub(r"--gpus \d+", "--gpus 2 --device cpu", swapped(line, page)))
    assert (place / "log" / "run.json").exists()


@pytest.mark.slow
@pytest.mark.usefixtures("handlers_kept")
@pytest.mark.parametrize(("page", "line"), [(p, n) for p, n in lines_with("--gpus") if "--nodes" not in n])
def test_every_command_for_several_gpus_is_run_by_several_processes(
    page: str, line: str, place: Path, a_run: Path
) -> None:
    if line.startswith("gpt eval"):
        copy_into(a_run, place / "log")
        (place / "hellaswag.jsonl").write_text(hellaswag_rows(), encoding="utf-8")
        line += " --data hellaswag.jsonl"  # the cache of this test is not that of other processes
    Shell(dict(TINY)).line(re.sub(r"--gpus \d+", "--gpus 2 --device cpu", swapped(line, page)))


def pairs() -> list[tuple[str, str, str]]:
    """Commands that belong together: for machine 0 and for machine 1."""
    found = list(lines_with("--nodes"))
    assert len(found) % 2 == 0
    return [(page, first, second) for (page, first), (_, second) in zip(found[::2], found[1::2], strict=True)]


@pytest.mark.slow
@pytest.mark.usefixtures("handlers_kept")
@pytest.mark.parametrize(("page", "first", "second"), pairs())
def test_commands_for_two_machines_are_run_by_two_that_meet(page: str, first: str, second: str, place: Path) -> None:
    """Both machines are this one, with a process each."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    started = []
    for number, line in enumerate((first, second)):
        line = re.sub(r"--rdzv-endpoint \S+", f"--rdzv-endpoint 127.0.0.1:{port}", swapped(line, page))
        words = re.sub(r"--gpus \d+", "--gpus 1", line).split()[1:]
        here = place if number == 0 else place / "machine"
        if number:
            copy_into(place / "data", here / "data")
        started.append(subprocess.Popen([sys.executable, "-m", "gptcli", *words], cwd=here, env=os.environ | TINY))
    assert [process.wait(timeout=200) for process in started] == [0, 0]


def shown_commands() -> list[tuple[str, str]]:
    """Commands of ours in blocks that are not run, behind a prompt."""
    return [
        (page, line.removeprefix("$ ").split("  #")[0])
        for page in pages()
        for block in blocks(page)
        if block.kind == "console"
        for line in commands(block)
        if re.match(r"\$ gpt (?!--)", line) and "<Tab>" not in line
    ]


@pytest.mark.parametrize(("page", "line"), shown_commands())
def test_a_command_that_is_only_shown_is_one_that_gpt_takes(page: str, line: str, place: Path) -> None:
    shell = Shell({})
    shell.line(f"{line} --print-config")
    words = line.split()[1:]
    command = next(name for name in (" ".join(words[:2]), words[0]) if name in COMMANDS)
    assert f"[{table_of(command)}]" in shell.told[0]


def test_blocks_are_run_or_of_a_kind_that_is_known_not_to_be() -> None:
    assert [b for page in pages() for b in blocks(page) if b.kind not in RUN + SHOWN] == []
    assert all(text_of(page).count("\n```") % 2 == 0 for page in pages())


def test_the_index_names_every_page() -> None:
    named = re.findall(r"\]\(([\w-]+)\.md\)", text_of("README"))
    assert set(pages()) - {"README"} <= set(named)


@pytest.mark.parametrize("page", pages())
def test_links_lead_to_files_and_headings_that_are_there(page: str) -> None:
    broken = []
    for link in re.findall(r"\]\(([^)\s]+)\)", text_of(page)):
        if re.match(r"https?://", link):
            continue
        name, _, anchor = link.partition("#")
        target = (DOCS / name) if name else DOCS / f"{page}.md"
        if not target.exists() or (anchor and anchor not in headings(target)):
            broken.append(link)
    assert broken == []


def headings(file: Path) -> set[str]:
    """The anchors of a page's headings, as forges make them."""
    found = re.findall(r"^#+ (.*)$", file.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in found}


# --- what troubleshooting.md quotes -----------------------------------------------------------------------------------


@cache
def told_in_source() -> list[str]:
    """Every text in the package's code; what is filled in when it is told is a NUL."""
    found = []
    for file in (ROOT / "src").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.JoinedStr):
                parts = (p.value if isinstance(p, ast.Constant) else "\0" for p in node.values)
                found.append("".join(map(str, parts)))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.append(node.value)
    return found


def quoted_messages() -> list[str]:
    """The messages of troubleshooting.md: the first column of its tables, in code marks."""
    return re.findall(r"^\| `(.+?)` \|", text_of("troubleshooting"), re.MULTILINE)


def test_enough_messages_are_explained() -> None:
    assert len(quoted_messages()) >= 25
    assert len(set(quoted_messages())) == len(quoted_messages())


@pytest.mark.parametrize("message", quoted_messages())
def test_a_message_that_is_explained_is_one_that_is_told(message: str) -> None:
    """`…` stands for what is filled in."""
    pattern = re.compile(".*".join(re.escape(part.strip()) for part in message.split("…")), re.DOTALL)
    assert any(pattern.search(text) for text in told_in_source()), message
