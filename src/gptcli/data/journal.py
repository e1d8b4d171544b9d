"""How far an unfinished folder has come: what is whole, and where in the sources the rest begins."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ConfigDict, JsonValue, ValidationError

from gptcli.data.durable import write_json
from gptcli.data.manifest import MANIFEST_FILE, TokenizerRecord
from gptcli.data.output import JOURNAL_FILE
from gptcli.data.slices import BEGINNING, Cursor
from gptcli.data.tally import Tally
from gptcli.data.writer import Part
from gptcli.errors import UserError

_FORMAT_VERSION = 2


class Journal(BaseModel):
    """Written whenever a piece of the stream has become whole.

    parts: the whole pieces. at: the slice in which the last of them ends. before: the counts up to the beginning of
    that slice; its first tokens, up to the end of the pieces, are in them already. clean: no document was left out or
    changed, that slice included. characters: those of a character
    tokenizer that was made from the sources.
    """

    model_config = ConfigDict(frozen=True)

    format_version: int = _FORMAT_VERSION
    sources: tuple[dict[str, JsonValue], ...]
    options: dict[str, JsonValue]
    tokenizer: TokenizerRecord
    characters: str | None = None
    parts: tuple[Part, ...] = ()
    at: Cursor = BEGINNING
    before: Tally = Tally()
    clean: bool = True

    def write(self, folder: Path) -> None:
        """Write it into `folder`; it appears whole or not at all."""
        write_json(folder / JOURNAL_FILE, self.model_dump(mode="json"))

    @classmethod
    def read(cls, folder: Path) -> Journal | None:
        """The journal of an unfinished folder; None where there is none. Raises UserError for one that is damaged."""
        path = folder / JOURNAL_FILE
        if not path.exists() or (folder / MANIFEST_FILE).exists():
            return None
        try:
            journal = cls.model_validate_json(path.read_bytes())
        except (ValidationError, OSError) as error:
            raise UserError(f"{path} is damaged.", "Start over with --fresh.") from error
        if journal.format_version != _FORMAT_VERSION:
            raise UserError(f"{path} is of another version of gpt.", "Start over with --fresh.")
        return journal
