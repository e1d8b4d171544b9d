"""`gpt generate --show-probs`: a completion coloured by how likely the model found each token, and what else it
thought of."""

from __future__ import annotations

import math
import sys
from typing import TYPE_CHECKING

from gptcli.cli import report

if TYPE_CHECKING:
    from rich.console import Console

    from gptcli.inference.language_model import Completion, LanguageModel

ALTERNATIVES = 5  # likeliest tokens that are told for each
# From this probability on in this colour: blue to red over pale ones, which the colour-blind tell apart.
COLOURS = ((0.5, "#4a90d9"), (0.2, "#9ecae1"), (0.05, "#fdae61"), (0.0, "#e0503a"))
_BAR, _WIDEST = 10, 16  # columns of a bar, and of a token in the table


def colour_of(probability: float) -> str:
    """The colour of a token that was so likely."""
    return next(colour for least, colour in COLOURS if probability >= least)


class Probabilities:
    """Draws one model's completions: text to standard output, the table to where people look."""

    def __init__(self, model: LanguageModel) -> None:
        from rich.console import Console

        self.model = model
        self._out: Console = Console(file=sys.stdout, markup=False, emoji=False, highlight=False, soft_wrap=True)

    def write(self, text: str, logprob: float) -> None:
        """A piece of text, in the colour of the token that it came with."""
        self._out.print(text, end="", style=colour_of(math.exp(logprob)))

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
