"""The console script `gpt`. It knows the commands by name; each is imported when it is called.

A new command is a line in `_COMMANDS`, a settings class in `gptcli.settings`, and a module of its name here, with
`EXAMPLES` and `run(settings, call) -> exit code`. A command of two words (`tokenizer train`) also needs its first one
in `_GROUPS`; in names of modules and tables the words are joined.
"""

from __future__ import annotations

import importlib
import io
import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer
from typer.core import TyperCommand, TyperGroup

from gptcli import __version__
from gptcli.cli.interruption import carried, over
from gptcli.cli.report import Reporting
from gptcli.distributed.runtime import limit_spinning
from gptcli.errors import UsageError, nearest

if TYPE_CHECKING:
    from typer._click.core import Command, Context


class _Entry(NamedTuple):
    panel: str
    summary: str
    json: bool


_COMMANDS = {
    "tokenize": _Entry("From text to a model", "Turn text into token shards.", json=True),
    "tokenizer train": _Entry("From text to a model", "Train a tokenizer on text.", json=True),
    "train": _Entry("From text to a model", "Train a GPT on token shards, or continue a run.", json=True),
    "eval": _Entry("With a model", "Score a model: HellaSwag, loss, perplexity.", json=True),
    "generate": _Entry("With a model", "Complete a prompt.", json=True),
    "export": _Entry("With a model", "Write a model for other programs.", json=True),
    "watch": _Entry("With a run", "Watch a run that goes on in another process or on another machine.", json=False),
    "runs": _Entry("With a run", "List runs: state, losses, scores, speed, size.", json=True),
    "runs diff": _Entry("With a run", "Show how two runs differ, in settings and results.", json=True),
    "info": _Entry("With a run", "Tell what a run, model or data folder is and comes from.", json=True),
    "plot": _Entry("With a run", "Draw the curves of runs: loss, HellaSwag, learning rate, speed.", json=False),
    "doctor": _Entry("When in doubt", "Look at what usually fails on a machine, with its mend.", json=True),
    "doctor resume": _Entry("When in doubt", "Prove that a run of yours is resumed exactly.", json=True),
}

# The first words of commands of two: panel and summary.
_GROUPS = {
    "tokenizer": ("From text to a model", "Make a tokenizer of your own: gpt tokenizer train."),
    "runs": ("With a run", "List runs: state, losses, scores, speed, size. Also: gpt runs diff A B."),
    "doctor": ("When in doubt", "Look at what usually fails on a machine, with its mend. Also: gpt doctor resume."),
}

_EPILOG = """\
gpt COMMAND --help tells the options of a command. Four lines do the classic run:

gpt tokenize --local-dir edu_fineweb10B
gpt train --gpus 8
gpt eval hellaswag
gpt generate "On a clear day"
"""


class CommandGroup(TyperGroup):
    """Commands that cost nothing until they are called: names and summaries are known, the rest is imported.

    `prefix` is the word that they have in common, with a space behind it; empty for the commands of `gpt` itself.
    """

    prefix = ""

    def make_context(self, *args: Any, **options: Any) -> Context:
        with carried():
            return super().make_context(*args, **options)

    def invoke(self, ctx: Context) -> Any:
        with carried():
            return super().invoke(ctx)

    def resolve_command(self, ctx: Context, args: list[str]) -> tuple[str | None, Command | None, list[str]]:
        name = args[0]
        names_group = len(args) > 1 and f"{name} {args[1]}" in _COMMANDS
        if self.prefix + name in _COMMANDS and not names_group:
            return name, load(self.prefix + name), args[1:]
        if name in _GROUPS and not self.prefix:
            # Alone it shows its help, but while a command line is being completed.
            return name, _group(name), args[1:] or ([] if ctx.resilient_parsing else ["--help"])
        if ctx.resilient_parsing or name.startswith("-"):
            return super().resolve_command(ctx, args)
        guess = nearest(name, self.commands)
        hint = f"Did you mean `gpt {self.prefix}{guess}`?" if guess else f"There are: {', '.join(self.commands)}."
        raise UsageError(f"There is no command {self.prefix + name!r}.", hint)


def load(name: str) -> TyperCommand:
    """The command `name`, with its module and settings imported."""
    from gptcli.cli.options import make_command
    from gptcli.settings import COMMANDS

    limit_spinning(20_000 if name in ("generate", "eval") else 1_000)  # eval measures for generate
    entry = _COMMANDS[name]
    module = importlib.import_module(f"gptcli.cli.{name.replace(' ', '_')}")
    return make_command(COMMANDS[name], module.run, summary=entry.summary, examples=module.EXAMPLES, json=entry.json)


def _version(wanted: bool) -> None:
    if wanted:
        sys.stdout.write(f"gpt {__version__}\n")
        raise typer.Exit(0)


def _group(word: str) -> Command:
    """The commands that begin with `word`."""
    panel, summary = _GROUPS[word]
    app = _typer(completion=False)

    @app.callback(help=summary)
    def _words() -> None:
        pass

    for name, entry in _COMMANDS.items():
        if name.startswith(f"{word} "):
            app.command(name.removeprefix(f"{word} "), help=entry.summary, rich_help_panel=panel)(lambda: None)
    group = typer.main.get_command(app)
    assert isinstance(group, CommandGroup)
    group.prefix = f"{word} "
    return group


def _typer(completion: bool) -> typer.Typer:
    return typer.Typer(
        cls=CommandGroup,
        rich_markup_mode="rich",
        add_completion=completion,
        context_settings={"help_option_names": ["--help", "-h"]},
    )


def _root() -> Command:
    app = _typer(completion=True)

    @app.callback(
        help="From raw text to a GPT that you trained, measured and can use.",
        epilog=_EPILOG,
    )
    def _options(
        version: Annotated[
            bool, typer.Option("--version", callback=_version, is_eager=True, metavar="", help="Show the version.")
        ] = False,
    ) -> None:
        pass

    for name, entry in _COMMANDS.items():
        word, *more = name.split()
        panel, summary = _GROUPS[word] if more else (entry.panel, entry.summary)
        app.command(word, help=summary, rich_help_panel=panel)(lambda: None)
    return typer.main.get_command(app)


def run(words: Sequence[str]) -> int:
    """Run `gpt` with the words after its name; returns the exit code."""
    words = list(words) or ["--help"]
    if words[0] == "help":
        words = [*words[1:], "--help"]
    with Reporting(words[0], debug="--debug" in words or bool(os.environ.get("GPTCLI_DEBUG"))) as outcome:
        code = _root().main(words, prog_name="gpt", standalone_mode=False)
        sys.stdout.flush()
        outcome.code = code if isinstance(code, int) else 0
    return outcome.code


def main() -> None:
    """Run `gpt` with the process's arguments and end with its exit code."""
    for stream in (sys.stdout, sys.stderr):
        # A terminal or pipe that can't show a character shows a question mark; it is no reason to fail.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    code = run(sys.argv[1:])
    over()
    sys.exit(code)
