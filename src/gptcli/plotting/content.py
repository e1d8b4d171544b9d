"""What the figure of one or several runs shows, however it is drawn: panels, their curves, what these stand beside.

A run alone has its training and validation loss in one panel; several are told apart in each.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from gptcli.evals.published import PUBLISHED
from gptcli.evals.statistics import interval
from gptcli.plotting.curves import Points, beginning, limits, medians, smoothed, thinned
from gptcli.plotting.runs import Run
from gptcli.plotting.units import Axis, Unit, in_powers, in_thousands, unit_of

# GPT-2 124M on FineWeb-Edu's validation shard in gpt2 tokens (karpathy/build-nanogpt, play.ipynb): on other text it
# means nothing. Its HellaSwag is that of `gpt eval hellaswag`, and of the evaluations of a run.
GPT2_LOSS = 3.2924
_GPT2 = PUBLISHED["hellaswag", "completion"][0]
_GUESSING = 25.0  # per cent: one of four endings

_STRETCHES, _SMOOTH_STRETCHES = 300, 120  # of the x axis, that a curve is thinned to: as much as a panel can show
_AS_MANY = 4  # spans of the average over both sides hold as many points as it counts in full
_CROWD = 5  # runs; behind the averages of more than these the raw curves would be a fog
_NATS = "Cross-entropy, nats per token"


@dataclass(frozen=True)
class Curve:
    """A line of a panel: of run number `run`, called `label`; `points` are what was measured, averaged where it is
    noisy, `raw` the same before. `apart` are measures taken now and then, which are marked; `spread` (2, N) is how far
    below and above the true value may lie."""

    run: int
    label: str
    points: Points
    raw: Points | None = None
    apart: bool = False
    spread: tuple[Points, Points] | None = None


@dataclass(frozen=True)
class Level:
    """A value to compare with, drawn from side to side."""

    label: str
    value: float


@dataclass(frozen=True)
class Panel:
    """A pair of axes: what is measured (`title`), in what (`unit`), and from where to where it is shown."""

    title: str
    unit: str
    curves: Sequence[Curve]
    levels: Sequence[Level]
    limits: tuple[float, float]
    is_main: bool = False


@dataclass(frozen=True)
class Content:
    """The whole figure: `title` and what stands small beneath it, names of the runs, panels over the axis `x`, and what
    the user should know of them. `whole` says that there is nothing between two whole numbers on that axis."""

    title: str
    subtitle: str
    names: Sequence[str]
    x: str
    whole: bool
    x_limits: tuple[float, float]
    panels: Sequence[Panel]
    notes: Sequence[str]


def content_of(runs: Sequence[Run], axis: Axis, smoothing: float) -> Content:
    """What the figure of these runs shows; `smoothing` is the part of the x axis at which a neighbour counts 1/e as
    much in the averages of noisy curves."""
    ends = [points.x[[0, -1]] for run in runs for kind in ("train", "val") if len(points := _measured(run, axis, kind))]
    begin, end = (float(min(x[0] for x in ends)), float(max(x[1] for x in ends))) if ends else (0.0, 1.0)
    unit = unit_of(axis, end)
    series = _Series(runs, axis, unit.size, smoothing * (end - begin) / unit.size)
    alone = len(runs) == 1
    panels = [*(series.loss() if alone else series.losses()), *series.hellaswag(), *series.how_it_went()]
    return Content(
        title=runs[0].name if alone else "",
        subtitle=_facts(runs[0]) if alone else "",
        names=[run.name for run in runs],
        x=unit.label,
        whole=axis == "step",
        x_limits=_widened(begin / unit.size, end / unit.size),
        panels=[panel for panel in panels if any(len(curve.points) for curve in panel.curves)],
        notes=_notes(runs),
    )


def _measured(run: Run, axis: Axis, kind: str) -> Points:
    return run.points(axis, kind, "lr" if kind == "train" else "loss")


class _Series:
    """The panels of runs over an axis in units of `size`; `span` is what is averaged over, in these."""

    def __init__(self, runs: Sequence[Run], axis: Axis, size: float, span: float) -> None:
        self.runs, self.axis, self.size, self.span = runs, axis, size, span
        self.start = min(beginning(self._points(run, "train", "lr")) for run in runs)

    def loss(self) -> list[Panel]:
        """Training and validation loss of the only run."""
        curves = [self._training(0, "Training"), self._validation(0, "Validation")]
        return [self._panel("Loss", _NATS, curves, self._gpt2_loss(), is_main=True)]

    def losses(self) -> list[Panel]:
        """The same of several runs, in a panel each."""
        numbered = list(enumerate(self.runs))
        training = [self._training(number, run.name) for number, run in numbered]
        validation = [self._validation(number, run.name) for number, run in numbered]
        both = self._panel("Loss", _NATS, [*training, *validation], self._gpt2_loss(), is_main=True)
        return [  # on the same scale, so that they can be compared
            replace(both, title="Training loss", curves=training),
            replace(both, title="Validation loss", curves=validation),
        ]

    def hellaswag(self) -> list[Panel]:
        """The score of each run; of one that is alone with the 95% interval of each measure."""
        curves = []
        for number, run in enumerate(self.runs):
            points = self._points(run, "hellaswag", "acc_norm", 0.01)
            label = "This model" if len(self.runs) == 1 else run.name
            spread = self._intervals(run) if len(self.runs) == 1 else None
            curves.append(Curve(number, label, points, apart=True, spread=spread))
        gpt2 = 100 * _GPT2.acc_norm
        levels = [Level(f"{_GPT2.name} ({gpt2:.2f}%)", gpt2), Level(f"Guessing ({_GUESSING:.0f}%)", _GUESSING)]
        return [self._panel("HellaSwag", "Length-normalised accuracy, %", curves, levels, is_main=True)]

    def how_it_went(self) -> list[Panel]:
        """Learning rate, gradient norm, throughput."""
        rate = in_powers("", self._highest("lr"))
        speed = in_thousands("Tokens/s", self._highest("tokens_per_second"))
        return [
            self._over_steps("Learning rate", rate, "lr", averaged="", floor=0.0),
            self._over_steps("Gradient norm", Unit(1.0, "Before clipping"), "grad_norm", averaged="mean", floor=0.0),
            self._over_steps("Throughput", speed, "tokens_per_second", averaged="median", floor=0.0),
        ]

    def _training(self, number: int, label: str) -> Curve:
        run = self.runs[number]
        raw = self._points(run, "train", "loss")
        counted = self._points(run, "train", "loss", without="skipped")
        return Curve(number, label, self._thinned(smoothed(counted, self.span)), self._behind(raw))

    def _validation(self, number: int, label: str) -> Curve:
        return Curve(number, label, self._points(self.runs[number], "val", "loss"), apart=True)

    def _over_steps(self, title: str, unit: Unit, key: str, averaged: str, floor: float) -> Panel:
        curves = []
        for number, run in enumerate(self.runs):
            # Steps that are recorded by a profiler are slow, those that were skipped not of the run.
            without = "profiled" if averaged == "median" else "skipped"
            points = self._points(run, "train", key, unit.size, without)
            shown = points
            if averaged == "mean":
                shown = smoothed(points, self.span)
            elif averaged == "median":
                shown = medians(points, _AS_MANY * self.span)
            raw = self._behind(points) if averaged else None
            curves.append(Curve(number, run.name, self._thinned(shown), raw))
        return self._panel(title, unit.label, curves, floor=floor)

    def _points(self, run: Run, kind: str, key: str, size: float = 1.0, without: str = "") -> Points:
        points = run.points(self.axis, kind, key, without)
        return Points(points.x / self.size, points.y / size)

    def _behind(self, points: Points) -> Points | None:
        """The raw curve, where an average differs from it."""
        return thinned(points, _STRETCHES) if self._is_averaged(points) and len(self.runs) <= _CROWD else None

    def _thinned(self, points: Points) -> Points:
        return thinned(points, _SMOOTH_STRETCHES if self._is_averaged(points) else _STRETCHES)

    def _is_averaged(self, points: Points) -> bool:
        """Whether `span` reaches further than from one point to the next, so that averaging changes anything."""
        return len(points) > 2 and self.span > 0.1 * float(np.median(np.diff(points.x)))

    def _intervals(self, run: Run) -> tuple[Points, Points] | None:
        right, n = (run.points(self.axis, "hellaswag", key) for key in ("acc_norm", "n"))
        if len(right) != len(n) or not len(n) or n.y.min() < 1:
            return None
        bounds = [interval(round(share * of), int(of)) for share, of in zip(right.y, n.y, strict=True)]
        low, high = (np.array([100 * bound[end] for bound in bounds]) for end in (0, 1))
        return Points(right.x / self.size, low), Points(right.x / self.size, high)

    def _panel(
        self,
        title: str,
        unit: str,
        curves: Sequence[Curve],
        levels: Sequence[Level] = (),
        is_main: bool = False,
        floor: float | None = None,
    ) -> Panel:
        shown = [curve.points for curve in curves] + [end for curve in curves for end in curve.spread or ()]
        raw = [curve.raw for curve in curves if curve.raw is not None]
        between = limits(shown, raw, [level.value for level in levels], self.start, floor)
        return Panel(title, unit, curves, levels, between, is_main)

    def _gpt2_loss(self) -> list[Level]:
        is_meant = all(run.is_fineweb_in_gpt2 for run in self.runs)
        return [Level(f"{_GPT2.name} ({GPT2_LOSS})", GPT2_LOSS)] if is_meant else []

    def _highest(self, key: str) -> float:
        found = [points.y.max() for run in self.runs if len(points := run.points(self.axis, "train", key))]
        return float(max(found)) if found else 0.0


def _widened(begin: float, end: float) -> tuple[float, float]:
    """The x axis; of a run with a single point around it."""
    return (begin, end) if end > begin else (end - (abs(end) or 1.0), end + (abs(end) or 1.0))


def _facts(run: Run) -> str:
    """`124 million parameters, 19,073 steps, 10 billion tokens, MFU 41%`, of these what is known."""
    parameters = run.recorded.get("resolved", {}).get("parameters")
    facts = [f"{_amount(parameters)} parameters"] if isinstance(parameters, int) else []
    last = run.rows["train"][-1]
    facts.append(f"{last['step']:,} step{'' if last['step'] == 1 else 's'}")
    if isinstance(tokens := last.get("tokens"), int):
        facts.append(f"{_amount(tokens)} tokens")
    if len(mfu := run.points("step", "train", "mfu", without="profiled")):
        facts.append(f"MFU {np.median(mfu.y):.0%}")
    return ", ".join(facts)


def _amount(number: int) -> str:
    unit = in_thousands("", number)
    return f"{number / unit.size:.3g} {unit.label.removeprefix(', ')[:-1]}".rstrip()


def _notes(runs: Sequence[Run]) -> list[str]:
    told = [run.recorded.get("identity", {}) for run in runs]
    different = [name for name in ("tokenizer", "data") if len({of_run.get(name) for of_run in told}) > 1]
    if not different:
        return []
    what = " and ".join({"tokenizer": "tokenizers", "data": "data"}[name] for name in different)
    return [f"The runs have different {what}: their losses are not measured on the same tokens."]
