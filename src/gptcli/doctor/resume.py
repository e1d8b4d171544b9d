"""The proof that a run is resumed exactly: the same steps without and with interruptions, compared file by file."""

from __future__ import annotations

import json
import math
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import safe_open

from gptcli.distributed.runtime import Ranks, resolve_device
from gptcli.errors import UserError
from gptcli.model.checksums import CHECKSUMS
from gptcli.model.locate import STATE, checkpoints_of
from gptcli.settings import TrainSettings
from gptcli.training import metrics
from gptcli.training.provenance import PROVENANCE
from gptcli.training.setup import prepare

LEAST_STEPS, MOST_STEPS = 6, 600
LEAST_SECONDS = 2.0  # from the first step to the last, so that there is time to interrupt it
ACCUMULATED = 2  # micro-batches of a step at most: what more of them would add is time
TOLERANCE = 1e-3  # of a loss, where kernels or sums over processes don't promise equal bits
_TOLD_APART = ("loss", "lr", "grad_norm", "acc", "acc_norm", "n")

Start = Callable[[TrainSettings], list[str]]
Tell = Callable[[str], None]


@dataclass(frozen=True)
class Proof:
    """How it went. `difference` is the first one in words, empty where there is none; `largest` is that of two losses,
    and `promised` says whether equal bits were to be expected. `folder` is kept where there was a difference."""

    steps: int
    interruptions: tuple[str, ...]
    compared: tuple[str, ...]
    difference: str
    largest: float
    promised: bool
    folder: Path | None

    @property
    def holds(self) -> bool:
        """Whether resuming does what is promised."""
        return not self.difference or (not self.promised and self.largest <= TOLERANCE)


def prove(settings: TrainSettings, start: Start, tell: Tell) -> Proof:
    """Run the configuration in a temporary folder: once undisturbed, once killed and once stopped on the way.

    `start` gives the words that run `gpt train` with some settings. Raises UserError where a run fails.
    """
    folder = Path(tempfile.mkdtemp(prefix="gpt-doctor-"))
    try:
        settings = shortened(settings, folder, tell)
        tell("Training undisturbed ...")
        _finish(start, settings, "whole")
        steps = _steps_for(folder / "whole")
        if steps > LEAST_STEPS:
            settings = settings.model_copy(update={"max_iters": steps})
            shutil.rmtree(folder / "whole")
            _finish(start, settings, "whole")
        interruptions = tuple(_disturbed(start, settings, steps, tell))
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    whole, parts = folder / "whole", folder / "parts"
    difference, largest, compared = compare(whole, parts)
    if not difference:
        shutil.rmtree(folder, ignore_errors=True)
    promised = settings.gpus == 1 and resolve_device(settings.device).type == "cpu"
    return Proof(steps, interruptions, compared, difference, largest, promised, folder if difference else None)


def shortened(settings: TrainSettings, folder: Path, tell: Tell) -> TrainSettings:
    """The settings of a few steps with all that a run does between them."""
    setup = prepare(settings, Ranks(world_size=settings.gpus))
    at_once = setup.micro_batch or 1  # of auto the least: it is the resuming that is to be proved
    least = at_once * setup.length * settings.gpus
    batch = min(settings.total_batch_size, ACCUMULATED * least)
    if batch < settings.total_batch_size:
        tell(f"A step has {batch:,} tokens here in place of {settings.total_batch_size:,}.")
    changes: dict[str, Any] = {
        "log_dir": str(folder / "run"),
        "n_batches": at_once,
        "total_batch_size": batch,
        "max_iters": LEAST_STEPS,
        "n_epochs": None,
        "fit_time": None,
        "max_time": None,
        "profile": None,
        "track": (),
        "warmup_iters": min(settings.warmup_iters, 2),
        "eval_every": 2,
        "eval_iters": 1,
        "sample_every": 3,
        "save_every": 2,
        "keep_every": None,
        "keep_last": 2,
    }
    if "metrics" not in settings.model_fields_set:
        changes["metrics"] = ("none",)
    return settings.model_copy(update=changes)


def _steps_for(run: Path) -> int:
    """Steps that take long enough, by those of a first run with all that came between them."""
    times = [float(row["time"]) for row in metrics.read(run / metrics.METRICS) if row.get("kind") == "train"]
    pace = (times[-1] - times[0]) / (len(times) - 1)
    return max(LEAST_STEPS, min(math.ceil(LEAST_SECONDS / max(pace, 1e-6)), MOST_STEPS))


def _process(start: Start, settings: TrainSettings, name: str) -> subprocess.Popen[str]:
    run = Path(settings.log_dir).with_name(name)
    words = start(settings.model_copy(update={"log_dir": str(run)}))
    return subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


def _finish(start: Start, settings: TrainSettings, name: str) -> None:
    """Run to the end. Raises UserError with what the run said where it fails."""
    process = _process(start, settings, name)
    try:
        _, told = process.communicate()
    except BaseException:
        _end(process)
        raise
    _check(process.returncode, told)


def _disturbed(start: Start, settings: TrainSettings, steps: int, tell: Tell) -> Iterator[str]:
    """The run with a kill after a third of its steps and a stop after two thirds; yields what was done."""
    run = Path(settings.log_dir).with_name("parts")
    for after, number, word in (
        (steps // 3, getattr(signal, "SIGKILL", signal.SIGTERM), "killed"),
        (2 * steps // 3, signal.SIGTERM, "stopped"),
    ):
        process = _process(start, settings, "parts")
        try:
            reached = _wait_for(process, run, after)
            if reached is not None:
                process.send_signal(number)
            _, told = process.communicate()
        except BaseException:
            _end(process)
            raise
        if reached is None:
            _check(process.returncode, told)
            continue
        saved = checkpoints_of(run)
        yield f"{word} after step {reached}" + (f", continued from {saved[-1].name}" if saved else ", begun again")
        tell(f"{word.capitalize()} after step {reached}; continuing ...")
    _finish(start, settings, "parts")


def _wait_for(process: subprocess.Popen[str], run: Path, step: int) -> int | None:
    """The step that the run has reached, at least `step` and with a checkpoint; None where it ended before."""
    while process.poll() is None:
        rows = metrics.read(run / metrics.METRICS)
        reached = max((row["step"] for row in rows if row.get("kind") == "train"), default=0)
        if reached >= step and checkpoints_of(run):
            return int(reached)
        time.sleep(0.02)
    return None


def _end(process: subprocess.Popen[str]) -> None:
    """End a run in a hurry: its ranks, if it has any, end with it."""
    process.terminate()
    try:
        process.wait(timeout=30)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _check(code: int, told: str) -> None:
    if code != 0:
        last = " ".join(told.strip().splitlines()[-4:])
        raise UserError(f"A run of this configuration ended with exit code {code}: {last}", "Mend that first.")


def compare(whole: Path, parts: Path) -> tuple[str, float, tuple[str, ...]]:
    """The first difference between two runs in words, the largest one of two losses, and what was compared."""
    rows = [_rows(run) for run in (whole, parts)]
    folders = [checkpoints_of(run)[-1] for run in (whole, parts)]
    files = [_files(folder) for folder in folders]
    compared = (f"{len(rows[0])} lines of {metrics.METRICS}", f"{len(files[0])} files of {folders[0].name}")
    pairs = zip(rows[0], rows[1], strict=False)
    losses = [abs(a["loss"] - b["loss"]) for a, b in pairs if a.get("loss") is not None and b.get("loss") is not None]
    difference = _row_difference(*rows)
    if folders[0].name != folders[1].name:
        difference = difference or f"the last checkpoint is {folders[1].name} in place of {folders[0].name}"
    difference = difference or _file_difference(*files)
    samples = [metrics.read(run / metrics.SAMPLES) for run in (whole, parts)]
    if samples[0] != samples[1]:
        difference = difference or "the samples are others"
    return difference, max(losses, default=0.0), compared


def _rows(run: Path) -> list[dict[str, Any]]:
    return [row for row in metrics.read(run / metrics.METRICS) if row.get("kind") != "event"]


def _row_difference(whole: list[dict[str, Any]], parts: list[dict[str, Any]]) -> str:
    if [(row["kind"], row["step"]) for row in whole] != [(row["kind"], row["step"]) for row in parts]:
        return f"{metrics.METRICS} has other lines: {len(parts)} in place of {len(whole)}"
    for a, b in zip(whole, parts, strict=True):
        for key in _TOLD_APART:
            if a.get(key) != b.get(key):
                return f"{key} of the {a['kind']} line of step {a['step']} is {b.get(key)} in place of {a.get(key)}"
    return ""


def _files(folder: Path) -> dict[str, Path]:
    paths = {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()}
    # These tell of the calls, and of the time that the run took.
    return {name: path for name, path in paths.items() if name not in (CHECKSUMS, PROVENANCE)}


def _file_difference(whole: dict[str, Path], parts: dict[str, Path]) -> str:
    if other := whole.keys() ^ parts.keys():
        return f"only one of the checkpoints has {min(other)}"
    for name, path in whole.items():
        if name == STATE:
            states = [json.loads(one.read_text(encoding="utf-8")) | {"seconds": 0} for one in (path, parts[name])]
            if states[0] != states[1]:
                keys = [key for key in states[0] if states[0][key] != states[1].get(key)]
                return f"{name} differs in {', '.join(keys)}"
        elif path.read_bytes() != parts[name].read_bytes():
            return _tensor_difference(name, path, parts[name]) if path.suffix == ".safetensors" else f"{name} differs"
    return ""


def _tensor_difference(name: str, whole: Path, parts: Path) -> str:
    with safe_open(whole, framework="pt") as one, safe_open(parts, framework="pt") as other:
        if set(one.keys()) != set(other.keys()):
            return f"{name} has other tensors"
        for key in one.keys():  # noqa: SIM118 (no mapping)
            apart = (one.get_tensor(key) - other.get_tensor(key)).abs().max().item()
            if apart:
                return f"{key} in {name} differs by up to {apart:.3g}"
    return f"{name} differs outside of its tensors"
