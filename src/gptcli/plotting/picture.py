"""The figure as a picture, by matplotlib: PNG, SVG or PDF.

Curves of several runs differ in colour (those of Okabe and Ito 2008, which the colour-blind tell apart), in the dashes
of their lines and in their marks, so that a grey print can be read too.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

from gptcli.data.durable import write_bytes
from gptcli.errors import Fault, UserError, raise_if
from gptcli.plotting.content import Content, Curve, Panel
from gptcli.training.run_file import PLOTS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.ticker import Locator

FORMATS = (".png", ".svg", ".pdf")
OF_A_RUN, OF_SEVERAL = Path(PLOTS) / "training.png", Path("comparison.png")

_Dashes = tuple[float, tuple[float, ...]]

_COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#000000")
_SOLID: _Dashes = (0, ())
_DASHES: tuple[_Dashes, ...] = (_SOLID, (0, (5, 1.5)), (0, (1.5, 1)), (0, (6, 1.5, 1.5, 1.5)))
_MARKS = ("o", "s", "^", "D", "v", "P", "X", "<", ">")


@dataclass(frozen=True)
class _Look:
    """How a line is drawn; `mark` is one of matplotlib's markers."""

    colour: str
    dashes: _Dashes
    mark: str = ""


_TRAINING, _APART = _Look("#0072B2", _SOLID, "o"), _Look("#D55E00", _SOLID, "o")  # of a run alone
_LEVELS = (_Look("#333333", (0, (4, 2))), _Look("#333333", (0, (1, 2))))

_FEW, _FEW_APART = 20, 40  # points of a curve, or measured apart; of more not each is marked
_MARKS_APART = 0.14  # of the diagonal of the axes
_FAINTEST = 0.1
_INCHES, _LINE = 9.0, 0.2  # width of the picture, height of a line of its heading
_LINE_OF_NAMES = 125  # characters of small print that a line of names has room for


def target_of(runs: Sequence[Path], output: Path | None) -> Path:
    """Where the picture of these run folders goes: `output`, else into the run, or of several here.

    Raises UsageError for a file that can't be drawn into.
    """
    if output is None:
        return runs[0] / OF_A_RUN if len({run.resolve() for run in runs}) == 1 else OF_SEVERAL
    faults = []
    if output.suffix.lower() not in FORMATS:
        faults.append(
            Fault(f"--output: {output.name} is no kind of picture that can be drawn.", f"Use {', '.join(FORMATS)}.")
        )
    if not output.parent.is_dir():
        faults.append(Fault(f"--output {output}: there is no folder {output.parent}.", "Make it first."))
    raise_if(faults)
    return output


def write_picture(content: Content, target: Path) -> None:
    """Draw into the file `target`, in the format that its name ends with, one of `FORMATS`.

    Raises UserError without matplotlib, OSError where the file can't be written.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise UserError(
            "A picture needs matplotlib, which is not installed.",
            "pip install 'gpt-from-scratch[plot]', or --terminal, which draws here without it.",
        ) from error
    if target.parent.name == PLOTS:
        target.parent.mkdir(exist_ok=True)
    kind = target.suffix.lstrip(".").lower()
    picture = BytesIO()
    with _style():
        figure = Figure(dpi=160, layout="constrained")
        FigureCanvasAgg(figure)
        _draw(figure, content)
        undated = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}.get(kind)
        figure.savefig(picture, format=kind, metadata=undated)
    write_bytes(target, picture.getvalue())


@contextmanager
def _style() -> Iterator[None]:
    """Sizes and colours of what is no curve."""
    from matplotlib import rc_context

    with rc_context(
        {
            "font.size": 9,
            "axes.titlesize": 10,
            "axes.titleweight": "bold",
            "axes.titlelocation": "left",
            "axes.labelsize": 8.5,
            "axes.labelcolor": "#333333",
            "xtick.labelsize": 8,
            "ytick.labelsize": 8,
            "legend.fontsize": 8.5,
            "legend.facecolor": "white",
            "legend.edgecolor": "none",
            "legend.framealpha": 0.85,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.grid": True,
            "grid.alpha": 0.25,
            "grid.linewidth": 0.6,
            "axes.linewidth": 0.7,
            "svg.fonttype": "none",  # text stays text: it can be searched, and the file is smaller
            "svg.hashsalt": "gpt plot",  # the same figure is the same file
            "pdf.fonttype": 42,
            "text.parse_math": False,  # a name may have dollars in it
        }
    ):
        yield


def _draw(figure: Figure, content: Content) -> None:
    """Loss and scores above, large, and how the run went below."""
    main = [panel for panel in content.panels if panel.is_main]
    small = [panel for panel in content.panels if not panel.is_main]
    rows = [row for row in (main, small) if row]
    heights = [3.4 if row is main else 2.1 for row in rows]
    names = _names(content)
    columns = _columns_of_names(list(names))
    lines = 2 if content.title else -(-len(names) // columns)
    height = sum(heights) + _LINE * lines + 0.1
    figure.set_size_inches(_INCHES, height)
    cells = math.lcm(*(len(row) for row in rows))
    grid = figure.add_gridspec(len(rows), cells, height_ratios=heights)
    for number, row in enumerate(rows):
        width = cells // len(row)
        for place, panel in enumerate(row):
            axes = figure.add_subplot(grid[number, place * width : (place + 1) * width])
            _draw_panel(axes, panel, content)
    if content.title:
        figure.suptitle(f"{content.title}\n", x=0.01, ha="left", fontsize=12, fontweight="bold")
        figure.text(0.01, 1 - 1.8 * _LINE / height, content.subtitle, color="#555555")
    else:
        _draw_names(figure, names, columns)


def _names(content: Content) -> dict[str, _Look]:
    """How the runs look, and what they are compared with."""
    levels = {level.label: look for panel in content.panels for level, look in zip(panel.levels, _LEVELS, strict=False)}
    return {name: _look(number) for number, name in enumerate(content.names)} | levels


def _columns_of_names(names: Sequence[str]) -> int:
    longest = max(map(len, names)) + 8  # the sample of its line, and the space around
    return max(1, min(len(names), _LINE_OF_NAMES // longest))


def _draw_names(figure: Figure, names: Mapping[str, _Look], columns: int) -> None:
    from matplotlib.lines import Line2D

    samples = [
        Line2D([], [], color=look.colour, linestyle=look.dashes, marker=look.mark, markersize=4.5,
               linewidth=1.6 if look.mark else 1, label=name)
        for name, look in names.items()
    ]  # fmt: skip
    figure.legend(handles=samples, loc="outside upper left", ncols=columns, handlelength=3.2)


def _draw_panel(axes: Axes, panel: Panel, content: Content) -> None:
    is_alone = len(content.names) == 1
    for curve in panel.curves:
        _draw_curve(axes, curve, is_alone, len(content.names))
    for level, look in zip(panel.levels, _LEVELS, strict=False):
        axes.axhline(level.value, color=look.colour, linestyle=look.dashes, linewidth=1, zorder=3, label=level.label)
    axes.set_xlim(*_with_room(*content.x_limits))
    axes.set_ylim(*panel.limits)
    axes.set_title(panel.title)
    axes.set_xlabel(content.x)
    axes.set_ylabel(panel.unit)
    axes.xaxis.set_major_locator(_few_round_numbers(6 if panel.is_main else 4, content.whole))
    axes.xaxis.set_major_formatter("{x:,.10g}")
    if panel.is_main and is_alone:
        falls = all(curve.points.y[0] >= curve.points.y[-1] for curve in panel.curves if len(curve.points))
        axes.legend(loc="upper right" if falls else "best")


def _draw_curve(axes: Axes, curve: Curve, is_alone: bool, runs: int) -> None:
    points = curve.points
    if not len(points):
        return
    look = (_APART if curve.apart else _TRAINING) if is_alone else _look(curve.run)
    is_few = len(points) <= (_FEW_APART if curve.apart else _FEW)
    mark = look.mark if curve.apart or is_few or not is_alone else ""
    markevery = None if is_few else ((curve.run % len(_MARKS)) / len(_MARKS) * _MARKS_APART, _MARKS_APART)
    if curve.raw is not None:
        faint = max(_FAINTEST, 0.3 / runs)
        axes.plot(curve.raw.x, curve.raw.y, color=look.colour, alpha=faint, linewidth=0.6, zorder=1)
    if curve.spread is not None:
        low, high = curve.spread
        if is_few:
            axes.vlines(low.x, low.y, high.y, color=look.colour, alpha=0.35, linewidth=1.2, zorder=1)
        else:
            axes.fill_between(low.x, low.y, high.y, color=look.colour, alpha=0.15, linewidth=0, zorder=1)
    axes.plot(points.x, points.y, color=look.colour, linestyle=look.dashes, marker=mark, markevery=markevery,
              label=curve.label if is_alone else "", linewidth=1.5, markersize=3.5, zorder=2.5)  # fmt: skip
    if curve.apart and is_alone:
        axes.annotate(f"{points.y[-1]:#.4g}", (points.x[-1], points.y[-1]), xytext=(5, 0), va="center", fontsize=8,
                      textcoords="offset points", color=look.colour, annotation_clip=False)  # fmt: skip


def _look(run: int) -> _Look:
    """Of run number `run` among several."""
    return _Look(_COLOURS[run % len(_COLOURS)], _DASHES[run % len(_DASHES)], _MARKS[run % len(_MARKS)])


def _with_room(begin: float, end: float) -> tuple[float, float]:
    """Room for the last mark and the number beside it."""
    return begin - 0.015 * (end - begin), end + 0.03 * (end - begin)


def _few_round_numbers(at_most: int, whole: bool) -> Locator:
    from matplotlib.ticker import MaxNLocator

    return MaxNLocator(at_most, integer=whole, steps=[1, 2, 2.5, 5, 10])
