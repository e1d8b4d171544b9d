"""A command line as it was typed: what is wrong with it is collected, the rest is left for Typer to read.

Typer stops at the first option that it does not know. So that all faults of a call are told at once, this reads the
words before Typer does, takes out the faulty ones, and leaves the others in their plainest spelling.
"""

from __future__ import annotations

import difflib
import re
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field

from typer.core import TyperArgument, TyperOption

from gptcli.errors import Fault, nearest

_SURELY = 0.9  # how alike a word and an option's name are, by difflib's ratio, where one was meant for the other
_NUMBER = re.compile(r"-(\d|\.\d|inf\b)")


@dataclass
class Scan:
    """`args` for Typer, the names of the parameters that were `given` in the order of their last mention, and the
    `faults` of what was left out."""

    args: list[str] = field(default_factory=list)
    given: dict[str, None] = field(default_factory=dict)  # a set that keeps its order
    faults: list[Fault] = field(default_factory=list)

    def give(self, name: str) -> None:
        self.given.pop(name, None)
        self.given[name] = None


def dashed(word: str) -> str:
    """`--local_dir` as `--local-dir`."""
    return word.replace("_", "-") if word.startswith("--") else word


def scan(command: str, params: Iterable[object], words: Iterable[str]) -> Scan:
    """Read the `words` after the name of a command that has these Typer parameters.

    A value may begin with a dash (`--min-lr -1`) unless it is itself the name of an option.
    """
    params = list(params)
    options = {
        name: param
        for param in params
        if isinstance(param, TyperOption)
        for name in (*param.opts, *param.secondary_opts)
    }
    arguments = [param for param in params if isinstance(param, TyperArgument)]
    result = Scan()
    positionals: list[str] = []
    rest = deque(words)
    while rest:
        word = rest.popleft()
        if word == "--":
            positionals.extend(rest)
            break
        if _is_value(word, bool(arguments)):
            positionals.append(word)
        else:
            _read_option(word, rest, options, result)
    _place(command, positionals, arguments, options, result)
    return result


def _is_value(word: str, takes_arguments: bool) -> bool:
    """Whether a word is a value rather than an option; a text with spaces in it is none."""
    if not word.startswith("-") or word == "-" or _NUMBER.match(word):
        return True
    return takes_arguments and any(character.isspace() for character in word.partition("=")[0])


def _read_option(word: str, rest: deque[str], options: dict[str, TyperOption], result: Scan) -> None:
    typed, equals, value = word.partition("=")
    name = dashed(typed)
    option = options.get(name)
    if option is None:
        guess = options.get(_guess(name, options))
        result.faults.append(Fault(f"There is no option {typed}.", _hint(name, options)))
        # What follows is its value, most likely, and no fault of its own.
        if not equals and rest and not rest[0].startswith("-") and not (guess and guess.is_flag):
            rest.popleft()
    elif option.is_flag:
        if equals:
            other = f" or {option.secondary_opts[0]}" if option.secondary_opts else ""
            result.faults.append(Fault(f"{name} takes no value.", f"Write {option.opts[0]}{other}."))
        else:
            result.args.append(name)
            result.give(option.name)
    elif not equals and (not rest or dashed(rest[0].partition("=")[0]) in options):
        example = option.metavar or "VALUE"
        result.faults.append(Fault(f"{name} needs a value.", f"{name} {example}: {option.help}"))
    else:
        result.args.append(f"{name}={value if equals else rest.popleft()}")
        result.give(option.name)


def _guess(name: str, options: Iterable[str]) -> str:
    """The option that `name` was probably meant to be; the dashes that all have in common tell nothing."""
    guess = nearest(name.strip("-"), [option.removeprefix("--") for option in options])
    return f"--{guess}" if guess else ""


def _hint(name: str, options: Iterable[str]) -> str:
    guess = _guess(name, options)
    if guess:
        return f"Did you mean {guess}?"
    word = name.strip("-")
    alike = [option for option in options if word and word in option.strip("-").split("-")]
    return f"Did you mean {' or '.join(alike)}?" if alike else "--help lists the options."


def _place(
    command: str, positionals: list[str], arguments: list[TyperArgument], options: Iterable[str], result: Scan
) -> None:
    """Give the positional words to the command's arguments; those too many are faults."""
    unlimited = any(argument.nargs == -1 for argument in arguments)
    taken = positionals if unlimited else positionals[: len(arguments)]
    for word in positionals[len(taken) :]:
        # An option without its dashes, most likely; a likeness that is good enough for a misspelt option would find one
        # for many a word of a text.
        meant = difflib.get_close_matches(
            f"--{word.partition('=')[0].replace('_', '-')}", list(options), n=1, cutoff=_SURELY
        )
        if meant:
            hint = f"Did you mean {meant[0]}?"
        elif arguments:
            hint = "A text with spaces in it needs quotation marks around it."
        else:
            hint = f"gpt {command} takes options only; a list takes commas between its values."
        result.faults.append(Fault(f"There is one word too many: {word!r}.", hint))
    if taken:
        for argument in arguments[: len(taken)]:
            result.give(argument.name)
        result.args.extend(["--", *taken])
