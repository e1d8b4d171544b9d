"""The figure of a run: training and validation loss, and HellaSwag beside GPT-2."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from gptcli.data.durable import write_bytes
from gptcli.errors import UsageError, UserError
from gptcli.training import metrics
from gptcli.training.run_file import PLOTS, RUN, read

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# GPT-2 124M as OpenAI released it. Its loss was measured on FineWeb-Edu's validation shard in gpt2 tokens
# (karpathy/build-nanogpt, play.ipynb) and means nothing on other text; its score is that of `gpt eval hellaswag`.
GPT2_LOSS, GPT2_HELLASWAG = 3.2924, 0.2955
DEFAULT_NAME = Path(PLOTS) / "training.png"
PICTURES = (".png", ".svg", ".pdf")
_MARGIN = 1.0  # of a percentage point, above and below the scores
_TRAIN, _VAL, _BASELINE = "#9ecae1", "#08519c", "#b03a2e"


def plot(run: Path, output: Path | None = None) -> Path:
    """Draw the figure of the run folder `run` into `output`, or into its `plots/training.png`; returns where it lies.

    Raises UsageError where there is no run or nothing logged, UserError without matplotlib.
    """
    rows = metrics.read(run / metrics.METRICS)
    if not any(row.get("kind") == "train" for row in rows):
        what = "has no steps to draw yet" if rows or (run / RUN).exists() else "is not a run"
        raise UsageError(f"{run} {what}: its {metrics.METRICS} is missing or empty.", "Name a run folder of gpt train.")
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise UserError("Drawing needs matplotlib, which is not installed.", "pip install matplotlib") from error
    target = output or run / DEFAULT_NAME
    if target.suffix.lower() not in PICTURES:
        raise UsageError(f"--output: {target.name} is no kind of picture that can be drawn.", "Use .png, .svg or .pdf.")
    if output is None:
        target.parent.mkdir(exist_ok=True)
    elif not target.parent.is_dir():
        raise UsageError(f"--output {target}: there is no folder {target.parent}.", "Make it first.")
    scores = _series(rows, "hellaswag", "acc_norm")
    figure = Figure(figsize=(12 if len(scores[0]) else 7, 4.5), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, 2 if len(scores[0]) else 1, squeeze=False)[0]
    _draw_loss(axes[0], rows, _is_fineweb_in_gpt2(run))
    if len(scores[0]):
        _draw_hellaswag(axes[1], *scores)
    for axis in axes:
        axis.set_xlabel("Step")
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(alpha=0.25)
    figure.suptitle(run.resolve().name)
    picture = BytesIO()
    figure.savefig(picture, format=target.suffix.lstrip(".").lower())
    write_bytes(target, picture.getvalue())
    return target


def _draw_loss(axis: Axes, rows: list[dict[str, Any]], beside_gpt2: bool) -> None:
    steps, losses = _series(rows, "train", "loss")
    axis.plot(steps, losses, color=_TRAIN, linewidth=1, label="Training")
    val_steps, val_losses = _series(rows, "val", "loss")
    if len(val_steps):
        axis.plot(val_steps, val_losses, color=_VAL, marker="o", markersize=3, linewidth=1.5, label="Validation")
        axis.annotate(
            f"{val_losses[-1]:.3f}",
            (val_steps[-1], val_losses[-1]),
            textcoords="offset points",
            xytext=(0, -14),
            ha="right",
            color=_VAL,
        )
    if beside_gpt2:
        axis.axhline(GPT2_LOSS, color=_BASELINE, linestyle="--", linewidth=1, label=f"GPT-2 124M ({GPT2_LOSS})")
    axis.set_title("Loss")
    axis.set_ylabel("Cross-entropy, nats per token")
    axis.legend(frameon=False)


def _draw_hellaswag(axis: Axes, steps: np.ndarray[Any, Any], scores: np.ndarray[Any, Any]) -> None:
    axis.plot(steps, 100 * scores, color=_VAL, marker="o", markersize=3, linewidth=1.5, label="This model")
    label = f"GPT-2 124M ({100 * GPT2_HELLASWAG:.2f}%)"
    axis.axhline(100 * GPT2_HELLASWAG, color=_BASELINE, linestyle="--", linewidth=1, label=label)
    axis.axhline(25, color="grey", linestyle=":", linewidth=1, label="Guessing (25%)")
    low, high = min(25.0, 100 * scores.min()), max(100 * GPT2_HELLASWAG, 100 * scores.max())
    axis.set_ylim(low - _MARGIN, high + _MARGIN)
    if len(steps) == 1:  # else one point's axis is a fraction of a step wide
        axis.set_xlim(0, 2 * max(1, steps[0]))
    axis.set_title("HellaSwag")
    axis.set_ylabel("Length-normalised accuracy, %")
    axis.legend(frameon=False)


def _series(rows: list[dict[str, Any]], kind: str, key: str) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    points = [(row["step"], row[key]) for row in rows if row.get("kind") == kind]
    return np.array([step for step, _ in points]), np.array([value for _, value in points], dtype=float)


def _is_fineweb_in_gpt2(run: Path) -> bool:
    """Whether the run's data is what GPT-2's loss line was measured on."""
    recorded = read(run) or {}
    told = recorded.get("data", {}).get("sources", [])
    sources = [told] if isinstance(told, dict) else told  # runs of earlier versions have one, not in a list
    datasets = [str(source.get("dataset", "")).lower() for source in sources]
    is_fineweb = bool(datasets) and all(dataset.endswith("/fineweb-edu") for dataset in datasets)
    return recorded.get("tokenizer") == "gpt2" and is_fineweb
