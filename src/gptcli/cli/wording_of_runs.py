"""How the numbers of a run are put into words, in the live view and in plain lines."""

from __future__ import annotations

from gptcli.cli.progress import brief, gibibytes, short
from gptcli.training.events import Evaluated, StepDone

_WORTH_TELLING = 0.01  # of a step's time, waiting for data


def figures(event: StepDone) -> list[str]:
    """Of a step, beside its loss: what is known or worth telling, from the most important on."""
    told = [f"lr {event.lr:.2e}", f"grad norm {event.grad_norm:.3g}", f"{short(event.tokens_per_second)} tokens/s"]
    told.append(brief(event.seconds))
    if event.waited >= _WORTH_TELLING:
        told.append(f"{event.waited:.0%} waiting for data")
    if event.peak_memory is not None:
        told.append(f"peak {gibibytes(event.peak_memory)}")
    if event.mfu is not None:
        told.append(f"MFU {event.mfu:.1%}")
    return told


def evaluated(event: Evaluated) -> str:
    """The scores of an evaluation in a line."""
    names = {"val": "validation", "hellaswag": "HellaSwag"}
    values = "  ".join(f"{name} {_number(value)}" for name, value in event.values.items())
    return f"step {event.step:,}  {names.get(event.kind, event.kind)}  {values}"


def percent(share: float) -> str:
    """`29.55%`."""
    return f"{100 * share:.2f}%"


def _number(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:.4f}"
