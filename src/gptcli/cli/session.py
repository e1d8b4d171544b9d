"""`gpt generate` without a prompt, on a terminal: a text that you and the model write in turns."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import ValidationError

from gptcli.cli import report
from gptcli.cli.fields import OptionField, fields_of
from gptcli.cli.generate import load_models, options_of, tell_notes, tell_speed
from gptcli.cli.interruption import Terminated, noted
from gptcli.cli.manuscript import Manuscript
from gptcli.cli.probabilities import Probabilities
from gptcli.cli.wording import fault_of
from gptcli.errors import UsageError, UserError, nearest
from gptcli.settings import GenerateSettings

if TYPE_CHECKING:
    from gptcli.inference.language_model import Completion, LanguageModel
    from gptcli.inference.requests import Generation

SETTINGS = {
    name: field
    for name, field in fields_of(GenerateSettings).items()
    if field.group == "Sampling" and name != "num_samples"
} | {name: fields_of(GenerateSettings)[name] for name in ("show_probs", "stats")}
COMMANDS = {
    "/retry": "write the last part again, another way",
    "/undo": "take back the last part, and what you wrote before it",
    "/show": "show the whole text",
    "/save FILE": "write the text to a file",
    "/new": "begin another text",
    "/settings": "show the settings, each of which /NAME VALUE changes: /temperature 0.7",
    "/help": "show this",
    "/quit": "end, as Ctrl-D does",
}
_ROOM = 2048  # tokens that a session has memory for at first
_HELP = """\
Write, and the model goes on from there. Enter alone: it goes on. Ctrl-C: it stops.
Alt-Enter, or Esc and Enter: a line break. Arrow up: what you wrote before. //: a text that begins with /."""


def run_session(settings: GenerateSettings) -> int:
    """Write in turns until the person leaves. Returns the exit code."""
    from gptcli.cli.session_input import reader

    if len(settings.model) > 1:
        raise UsageError("A session is with one model.", "Give a prompt to see several side by side.")
    if settings.num_samples > 1:
        raise UsageError("A session writes one text.", "Give a prompt for several samples; /retry writes a part again.")
    (model,) = load_models(settings)
    if model.tokenizer is None:
        raise UserError(f"The model in {model.folder} has no tokenizer: it takes token ids, not text.")
    tell_notes(model.notes)
    session = Session(model, settings)
    report.say(f"Weights in {model.weights}. /help tells how to use this.", "dim")
    read = reader([*(word.split()[0] for word in COMMANDS), *map(slashed, SETTINGS)], session.status)
    while True:
        try:
            line = read()
        except EOFError:
            return report.DONE
        except Terminated:
            raise
        except KeyboardInterrupt:  # the line is given up, not the session
            continue
        if not session.take(line):
            return report.DONE


def slashed(name: str) -> str:
    """The command that changes a setting."""
    return "/" + name.replace("_", "-")


class Session:
    """The text so far, the settings, and what a line that was typed does to them."""

    def __init__(self, model: LanguageModel, settings: GenerateSettings) -> None:
        self.model, self.settings = model, settings
        self.manuscript = Manuscript()
        self._room = min(_ROOM, model.model.config.context_length)
        self._engine = model.engine(1, self._room)  # it keeps what it has computed of the text
        self._attempt = 0
        self._commands: dict[str, Callable[[str], bool]] = {
            "/retry": self._retry,
            "/undo": self._undo,
            "/show": self._show,
            "/save": self._save,
            "/new": self._new,
            "/settings": self._tell_settings,
            "/help": self._help,
            "/quit": lambda _: False,
        }

    def status(self) -> str:
        """A line on where the session stands."""
        ids = self._ids()
        context, out_of_reach = self.model.model.config.context_length, self.model.read_from(ids)
        room = f" (the last {len(ids) - out_of_reach:,} in reach)" if out_of_reach else ""
        changed = [
            f"{name.replace('_', '-')} {value}"
            for name in SETTINGS
            if (value := getattr(self.settings, name)) != SETTINGS[name].default
        ]
        return "  ".join([f"{len(ids):,} of {context:,} tokens{room}", *changed, "/help"])

    def take(self, line: str) -> bool:
        """Do what a line asks for; false where it ends the session."""
        if line.startswith("/") and not line.startswith("//"):
            word, _, value = line.strip().partition(" ")
            if command := self._commands.get(word):
                return command(value.strip())
            return self._set(word, value.strip())
        if text := line.removeprefix("/") if line.startswith("//") else line:
            try:
                self._write(text)
            except UserError as error:  # a character that the model's tokenizer has not
                report.show(error.faults)
                return True
        self._attempt = 0
        return self._go_on()

    def _write(self, text: str) -> None:
        """Add what a person wrote. Raises UserError where the tokenizer has no token for it."""
        try:
            joined = self.manuscript.joined(text)
            ids = self._encode(joined)
        except UserError:  # perhaps it is the space that there is no token for
            joined = text
            ids = self._encode(joined)
        self.manuscript.add(False, joined, ids)

    def _encode(self, text: str) -> list[int]:
        """The ids of a part of the text; the first one's have what the model begins texts with."""
        assert self.model.tokenizer is not None
        return self.model.tokenizer.encode(text) if self.manuscript.turns else self.model.prompt_ids(text)

    def _ids(self) -> list[int]:
        turns = self.manuscript.turns
        begin = self.model.prompt_ids("") if not turns or turns[0].by_model else []
        return [*begin, *self.manuscript.ids]

    def _go_on(self) -> bool:
        """Let the model write, token by token, until it ends or Ctrl-C comes."""
        from gptcli.inference.language_model import TextStream

        began = time.perf_counter()
        ids, request = self._ids(), self.model.request(**options_of(self.settings))
        needed = min(len(ids) + request.max_new_tokens, self.model.model.config.context_length)
        if needed > self._room:
            self._room = min(2 * needed, self.model.model.config.context_length)
            self._engine = self.model.engine(1, self._room)
        stream = TextStream(self._engine, self._engine.add(ids, request, self._attempt))
        drawn = Probabilities(self.model) if self.settings.show_probs else None
        shown = 0
        with noted() as stopped, stream:
            while not stopped() and stream.step():
                shown = self._show_new(stream.generation, shown, drawn)
        self._show_new(stream.generation, shown, drawn)
        completion = stream.completion
        self._keep(completion)
        sys.stdout.write("\n")
        sys.stdout.flush()
        if completion.ids and completion.ids[-1] in self.model.ends:
            report.say("(the model ended the text here)", "dim")
        if drawn:
            drawn.list(completion)
        if self.settings.stats:
            tell_speed(self.model, len(completion.ids), time.perf_counter() - began)
        return True

    def _show_new(self, generation: Generation, shown: int, drawn: Probabilities | None) -> int:
        """Write the pieces after the first `shown`; how many there are."""
        if drawn:
            drawn.write(generation)
        elif new := "".join(generation.pieces[shown:]):
            sys.stdout.write(new)
            sys.stdout.flush()
        return len(generation.pieces)

    def _keep(self, completion: Completion) -> None:
        """Add what the model wrote, but for an end of the text, after which nothing would go on, and for what came with
        a stop string."""
        ids = completion.ids
        if ids and ids[-1] in self.model.ends:
            ids = ids[:-1]
        if self.model.token_bytes(ids).decode("utf-8", errors="replace") != completion.text:
            ids = self._encode(completion.text) if completion.text else []
        self.manuscript.add(True, completion.text, ids)

    def _retry(self, _: str) -> bool:
        if not self.manuscript.take_back():
            return _said("There is nothing of the model's at the end to write again.")
        self._attempt += 1
        return self._go_on()

    def _undo(self, _: str) -> bool:
        if not self.manuscript.undo():
            return _said("There is nothing to take back.")
        text = self.manuscript.text
        return _said(f"The text ends: …{text[-60:]}" if text else "The text is empty.")

    def _show(self, _: str) -> bool:
        sys.stdout.write(self.manuscript.text + "\n")
        sys.stdout.flush()
        return True

    def _save(self, file: str) -> bool:
        from gptcli.data.durable import write_bytes

        if not file:
            return _said("Name a file: /save story.txt")
        path = Path(file).expanduser()
        if path.exists():
            return _said(f"{path} is there already; name another.")
        try:
            write_bytes(path, (self.manuscript.text + "\n").encode())
        except OSError as error:
            return _said(f"{path} could not be written: {error.strerror or error}.")
        return _said(f"Saved: {path}")

    def _new(self, _: str) -> bool:
        self.manuscript = Manuscript()
        return _said("The text is empty.")

    def _help(self, _: str) -> bool:
        _said(_HELP)
        for command, meaning in COMMANDS.items():
            _said(f"{command:<12}{meaning}")
        return True

    def _tell_settings(self, _: str) -> bool:
        for name, field in SETTINGS.items():
            value = getattr(self.settings, name)
            shown = " ".join(map(repr, value)) if isinstance(value, tuple) else value
            _said(f"{slashed(name):<22}{'' if value is None else shown!s:<10}{field.help}")
        return True

    def _set(self, word: str, value: str) -> bool:
        """Change a setting; a switch without a value is turned, a list without one is emptied."""
        name = word.removeprefix("/").replace("-", "_")
        field = SETTINGS.get(name)
        if field is None:
            close = nearest(word, [*self._commands, *map(slashed, SETTINGS)])
            return _said(
                f"There is no {word}." + (f" Did you mean {close}?" if close else " /help lists what there is.")
            )
        try:
            new = self._read(field, value)
            self.settings = GenerateSettings.model_validate({**self.settings.model_dump(), name: new})
        except ValidationError as error:
            report.show([fault_of(each, {name: field}, {name: word}) for each in error.errors()])
            return True
        return _said(f"{word.removeprefix('/')} is {getattr(self.settings, name)}")

    def _read(self, field: OptionField, value: str) -> object:
        if field.kind is bool:
            return value or not getattr(self.settings, field.name)
        if field.many:
            return [value.replace("\\n", "\n")] if value else []
        return value or field.default


def _said(text: str) -> bool:
    report.say(text, "dim")
    return True
