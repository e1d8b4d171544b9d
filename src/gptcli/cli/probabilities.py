"""`gpt generate --show-probs`: a completion coloured by how likely the model found each token, and what else it
thought of."""

from __future__ import annotations

import codecs
import math
import sys
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from gptcli.cli import report

if TYPE_CHECKING:
    from gptcli.inference.language_model import Completion, LanguageModel
    from gptcli.inference.requests import Generation

ALTERNATIVES = 5  # likeliest tokens that are told for each
# From this probability on in this colour: blue to red over pale ones, which the colour-blind tell apart.
COLOURS = ((0.5, "#4a90d9"), (0.2, "#9ecae1"), (0.05, "#fdae61"), (0.0, "#e0503a"))
_BAR, _WIDEST = 10, 16  # columns of a bar, and of a token in the table


def colour_of(probability: float) -> str:
    """The colour of a token that was so likely."""
    return next((colour for least, colour in COLOURS if probability >= least), COLOURS[-1][1])


class Probabilities:
    """Draws one completion of a model: its text on standard output, the table where people look."""

    def __init__(self, model: LanguageModel) -> None:
        from rich.console import Console

        self.model = model
        out = Console(file=sys.stdout)
        self._colours = out._color_system if out.is_terminal and not out.no_color else None
        self._written = 0  # characters

    def write(self, of: Completion | Generation) -> None:
        """What the text has more than at the last call, each character in the colour of the token that completed it."""
        text, at = of.text, 0
        for piece, logprob in self._spans(of.ids, of.logprobs):
            new = text[max(at, self._written) : at + len(piece)]
            at += len(piece)
            if new:
                self._put(new, colour_of(math.exp(logprob)))
        sys.stdout.write(text[max(at, self._written) :])
        sys.stdout.flush()
        self._written = len(text)

    def _spans(self, ids: Sequence[int], logprobs: Sequence[float]) -> Iterator[tuple[str, float]]:
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        for token, logprob in zip(ids, logprobs, strict=True):
            yield decoder.decode(self.model.token_bytes([token])), logprob

    def _put(self, text: str, colour: str) -> None:
        from rich.style import Style

        # Not printed by Rich, which would turn tabs into spaces.
        sys.stdout.write(Style.parse(colour).render(text, color_system=self._colours) if self._colours else text)

    def list(self, completion: Completion) -> None:
        """For each token its probability as number and bar, and the likeliest alternatives."""
        out = report.console()
        said = ", ".join(f"from {100 * least:.0f}%" if least else "below" for least, _ in COLOURS)
        out.print("probability of each token, and the likeliest others", style="italic")
        if out.is_terminal and not out.no_color:
            for (_, colour), words in zip(COLOURS, said.split(", "), strict=True):
                out.print(f"■ {words}  ", style=colour, end="")
            out.print()
        for token, logprob, likeliest in zip(completion.ids, completion.logprobs, completion.alternatives, strict=True):
            probability = math.exp(logprob)
            bar = "█" * round(_BAR * probability)
            others = [pair for pair in likeliest if pair[0] != token][: ALTERNATIVES - 1]
            line = f" {100 * probability:5.1f}% {bar:<{_BAR}} "
            for other, value in others:
                told = f" {self._shown(other)} {100 * math.exp(value):.1f}%"
                if out.is_terminal and _WIDEST + len(line) + len(told) > out.width:
                    break
                line += f" {told}"
            out.print(f"{self._shown(token):<{_WIDEST}}", style=colour_of(probability), end="")
            out.print(line.rstrip())

    def _shown(self, token: int) -> str:
        """A token so that spaces, line breaks and parts of characters can be seen."""
        if self.model.tokenizer is None:
            return str(token)
        shown = repr(self.model.token_bytes([token]).decode("utf-8", errors="replace"))
        return shown if len(shown) <= _WIDEST else shown[: _WIDEST - 2] + "…" + shown[-1]
