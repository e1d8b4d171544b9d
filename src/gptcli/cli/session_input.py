"""How a session reads a line: with history, completion of commands, and line breaks inside."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence

from platformdirs import user_state_path
from prompt_toolkit import PromptSession
from prompt_toolkit.completion import WordCompleter
from prompt_toolkit.filters import Condition
from prompt_toolkit.history import FileHistory, History, InMemoryHistory
from prompt_toolkit.input import Input
from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent
from prompt_toolkit.output import ColorDepth, Output


def reader(
    commands: Sequence[str],
    status: Callable[[], str],
    input: Input | None = None,
    output: Output | None = None,
    history: History | None = None,
) -> Callable[[], str]:
    """What reads the next line, or several with breaks put in by Alt-Enter. It raises EOFError at Ctrl-D and
    KeyboardInterrupt at Ctrl-C. `status` is shown beneath while it waits, read once for each line."""
    keys = KeyBindings()

    @keys.add("escape", "enter")
    def _break(event: KeyPressEvent) -> None:
        event.current_buffer.insert_text("\n")

    told = ""
    session: PromptSession[str] = PromptSession(
        "> ",
        history=history or _history(),
        key_bindings=keys,
        completer=WordCompleter(list(commands), sentence=True),
        complete_while_typing=Condition(lambda: session.default_buffer.text.startswith("/")),
        bottom_toolbar=lambda: told,
        prompt_continuation="  ",
        reserve_space_for_menu=4,
        color_depth=ColorDepth.DEPTH_1_BIT if os.environ.get("NO_COLOR") else None,
        input=input,
        output=output,
    )

    def read() -> str:
        nonlocal told
        told = status()
        return session.prompt()

    return read


def _history() -> History:
    """What was typed in earlier sessions; of this one alone where no file can be written."""
    folder = user_state_path("gpt-from-scratch", appauthor=False)
    file = folder / "history"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file.touch(mode=0o600)
    except OSError:
        return InMemoryHistory()
    return FileHistory(str(file))
