"""The loop: step, evaluate, log, save, until the run is complete or is asked to stop."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch

from gptcli.errors import UserError
from gptcli.model.locate import checkpoints_of
from gptcli.optim.schedules import warmup_cosine
from gptcli.training import checkpoint, metrics
from gptcli.training.checkpoint import Progress
from gptcli.training.evaluation import Evaluator
from gptcli.training.events import Evaluated, Listener, Sampled, Saved, StepDone, TrainResult
from gptcli.training.setup import Setup
from gptcli.training.signals import StopSignals
from gptcli.training.step import Batches, StepResult, Trainee, take_step
from gptcli.training.telemetry import PeakMemory, flops_per_token, peak_flops


def reads_late(device: torch.device) -> bool:
    """Whether the device computes on its own while the host goes on, so that a step's numbers are read a step later."""
    return device.type != "cpu"


@dataclass(frozen=True)
class _Unread:
    """A step whose numbers are still on the device."""

    step: int
    lr: float
    seconds: float
    result: StepResult


@dataclass
class Loop:
    """One run of the loop; `start` is where an earlier one stood."""

    setup: Setup
    trainee: Trainee
    batches: Batches
    evaluator: Evaluator
    memory: PeakMemory
    stop: StopSignals
    tell: Listener
    start: Progress | None
    _step: int = field(init=False)
    _evaluation_due: bool = field(init=False)
    _sample_due: bool = field(init=False)
    _val_loss: float | None = field(init=False, default=None)
    _unread: _Unread | None = field(init=False, default=None)
    _saved: Path | None = field(init=False, default=None)
    _saved_as: Progress | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        self._run = Path(self.setup.settings.log_dir)
        self._step = self.start.step if self.start else 0
        self._evaluation_due = self.start.evaluation_due if self.start else True  # validation begins at step 0
        self._sample_due = self.start.sample_due if self.start else False
        self._began = time.monotonic() - (self.start.seconds if self.start else 0.0)
        config, parameters = self.setup.config, self.trainee.model.n_parameters()
        self._flops_per_step = flops_per_token(config, parameters, self.setup.length) * self.setup.tokens_per_step
        self._peak_flops = peak_flops(self.trainee.group.device)

    def run(self) -> TrainResult:
        """Train until the run is complete or a signal asks to stop; either way it ends with a checkpoint."""
        settings, group = self.setup.settings, self.trainee.group
        self._measure()  # what is due at step 0, or was when an earlier call was stopped
        while self._step < self.setup.steps and not group.any(bool(self.stop)):
            if not self._take_step():
                break
            last = self._step == self.setup.steps
            self._evaluation_due = last or self._step % settings.eval_every == 0
            self._sample_due = last or self._step % settings.sample_every == 0
            self._measure()
            if not last and self._step % settings.save_every == 0:
                self._save()
        self._read()
        self._save()
        complete = self._step == self.setup.steps and not (self._evaluation_due or self._sample_due)
        # Ranks that no signal reached stop with those that one did, and for the same reason.
        signals = [number for number in group.gather(self.stop.received) if number is not None]
        signal = signals[0] if signals and not complete else None
        assert self._saved is not None
        return TrainResult(self._run, self._saved, self._step, self.setup.steps, self._val_loss, signal)

    def log_notes(self, notes: Sequence[str]) -> None:
        """Write what the user was told at the start as `event` lines."""
        for note in notes:
            self._log("event", self._step, {"message": note})

    def _take_step(self) -> bool:
        """One optimiser step and its line; False when it was stopped before the weights were touched."""
        settings, began = self.setup.settings, time.monotonic()
        lr = warmup_cosine(
            self._step,
            steps=self.setup.steps,
            warmup=self.setup.warmup,
            max_lr=settings.max_lr,
            min_lr=settings.min_lr,
        )
        result = take_step(self.trainee, self.batches, self._step, lr, settings.grad_clip, lambda: bool(self.stop))
        if result is None:
            return False
        self._step += 1
        if reads_late(self.trainee.group.device):
            # To read this step's numbers now would be to wait for it. Those of the step before are there while this one
            # runs, and waiting for them keeps the host just one step ahead: the time between is a step's.
            self._read()
            self._unread = _Unread(self._step, lr, time.monotonic() - began, result)
        else:
            self._unread = _Unread(self._step, lr, time.monotonic() - began, result)
            self._read()
        return True

    def _read(self) -> None:
        """Log the step that is still unread."""
        unread, self._unread = self._unread, None
        self._log_step(unread)

    def _log_step(self, unread: _Unread | None) -> None:
        if unread is None:
            return
        loss, grad_norm = unread.result.loss.item(), unread.result.grad_norm.item()
        if not (math.isfinite(loss) and math.isfinite(grad_norm)):
            numbers = f"a loss of {loss:g} and a gradient norm of {grad_norm:g}"
            raise self._not_finite(f"Step {unread.step} gave {numbers}")
        row: dict[str, float | int] = {
            "loss": loss,
            "lr": unread.lr,
            "grad_norm": grad_norm,
            "tokens_per_second": self.setup.tokens_per_step / unread.seconds,
            "step_ms": 1000 * unread.seconds,
        }
        peak = self.memory.bytes()
        if peak is not None:
            row["peak_memory_bytes"] = peak
        if self._peak_flops:
            row["mfu"] = (
                self._flops_per_step / unread.seconds / (self._peak_flops * self.trainee.group.ranks.world_size)
            )
        self._log("train", unread.step, row)
        self.tell(
            StepDone(
                unread.step,
                loss,
                unread.lr,
                grad_norm,
                row["tokens_per_second"],
                unread.step * self.setup.tokens_per_step,
            )
        )

    def _not_finite(self, what: str) -> UserError:
        """The run has gone wrong on all processes alike. Such weights are never saved."""
        good = checkpoints_of(self._run)
        hint = "Train with a lower --max-lr or a longer --warmup-iters; "
        hint += f"the last good weights are in {good[-1]}." if good else "no checkpoint was written yet."
        return self.trainee.group.told_once(UserError(f"{what}, so the run stops.", hint))

    def _measure(self) -> None:
        """What is due at this step; it stays due where the run is asked to stop, and a later call does it first."""
        if self._evaluation_due or self._sample_due:
            self._read()
        if self._evaluation_due:
            self._evaluate()
        if self._sample_due and not self.trainee.group.any(bool(self.stop)):
            self._sample()
            self._sample_due = False

    def _evaluate(self) -> None:
        val_loss = self.evaluator.validation_loss()
        if val_loss is None:
            return
        if not math.isfinite(val_loss):
            raise self._not_finite(f"After step {self._step} the validation loss is {val_loss:g}")
        scores = None
        if self.evaluator.items and self._step > 0:
            scores = self.evaluator.hellaswag()
            if scores is None:
                return
        self._val_loss = val_loss
        self._evaluation_due = False
        self._log_evaluation("val", {"loss": val_loss})
        if scores:
            self._log_evaluation("hellaswag", scores)

    def _log_evaluation(self, kind: str, values: Mapping[str, float]) -> None:
        self._log(kind, self._step, values)
        self.tell(Evaluated(self._step, kind, values))

    def _sample(self) -> None:
        if not self.trainee.group.ranks.is_main:
            return
        sampled = self.evaluator.sample(self._step)
        if sampled:
            prompt, text, ids = sampled
            row = {"step": self._step, "prompt": prompt, "text": text, "ids": ids}
            metrics.append(self._run / metrics.SAMPLES, row)
            self.tell(Sampled(self._step, prompt, text))

    def _log(self, kind: str, step: int, values: Mapping[str, float | str]) -> None:
        if self.trainee.group.ranks.is_main:
            row = {
                "kind": kind,
                "step": step,
                "tokens": step * self.setup.tokens_per_step,
                "time": time.monotonic() - self._began,
            }
            metrics.append(self._run / metrics.METRICS, {**row, **values})

    def _save(self) -> None:
        self._read()
        if not all(bool(parameter.isfinite().all()) for parameter in self.trainee.model.parameters()):
            raise self._not_finite(f"After step {self._step} there are weights that are not finite")
        progress = Progress(
            step=self._step,
            seed=self.setup.settings.seed,
            seconds=time.monotonic() - self._began,
            evaluation_due=self._evaluation_due,
            sample_due=self._sample_due,
            numerics=self.trainee.numerics.as_dict(),
        )
        if self._saved_as and replace(progress, seconds=0) == replace(self._saved_as, seconds=0):
            return  # a stop just after a save
        self._saved_as = progress
        self._saved = self.trainee.group.on_main(
            lambda: checkpoint.save(
                self._run,
                progress,
                self.trainee.model,
                self.trainee.optimizer,
                self.setup.tokenizer,
                self.setup.settings.keep_last,
            )
        )
        self.tell(Saved(self._step, self._saved))
