"""The loop: step, evaluate, log, save, until the run is complete or is asked to stop."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import torch

from gptcli.errors import UserError
from gptcli.model.locate import checkpoints_of
from gptcli.schedules import learning_rate
from gptcli.training import checkpoint, saver, signals
from gptcli.training.checkpoint import Progress
from gptcli.training.evaluation import Evaluator
from gptcli.training.events import TrainResult
from gptcli.training.feed import Feed
from gptcli.training.logbook import Logbook, StepNumbers
from gptcli.training.places import name_places
from gptcli.training.profiling import Profile
from gptcli.training.saver import Failed, Saver
from gptcli.training.setup import Setup
from gptcli.training.signals import StopSignals
from gptcli.training.spikes import LIMIT_SPAN, RecentSteps
from gptcli.training.step import StepResult, Trainee, take_step


def reads_late(device: torch.device) -> bool:
    """Whether the device computes on its own while the host goes on, so that a step's numbers are read a step later."""
    return device.type != "cpu"


@dataclass(frozen=True)
class _Unread:
    """A step whose numbers are still on the device."""

    step: int
    lr: float
    seconds: float
    waited: float
    profiled: bool
    result: StepResult


@dataclass
class Loop:
    """One run of the loop; `start` is where an earlier one stood. `saver` and `profile` are the first process'."""

    setup: Setup
    trainee: Trainee
    feed: Feed
    evaluator: Evaluator
    logbook: Logbook
    saver: Saver | None
    stop: StopSignals
    start: Progress | None
    profile: Profile | None
    _step: int = field(init=False)
    _evaluation_due: bool = field(init=False)
    _sample_due: bool = field(init=False)
    _val_loss: float | None = field(init=False)
    _best_loss: float | None = field(init=False)
    _is_best: bool = field(init=False, default=False)
    _spiking: bool = field(init=False, default=False)
    _recent: RecentSteps = field(init=False)
    _unread: _Unread | None = field(init=False, default=None)
    _saved: Path | None = field(init=False, default=None)
    _saved_as: Progress | None = field(init=False, default=None)
    _save_fault: str = field(init=False, default="")

    def __post_init__(self) -> None:
        self._run = Path(self.setup.settings.log_dir)
        start = self.start
        self._step = start.step if start else 0
        self._evaluation_due = start.evaluation_due if start else True  # validation begins at step 0
        self._sample_due = start.sample_due if start else False
        self._val_loss, self._best_loss = (start.val_loss, start.best_loss) if start else (None, None)
        self._recent = start.recent if start else RecentSteps()

    def run(self) -> TrainResult:
        """Train until the run is complete or is asked to stop; either way it ends with a checkpoint."""
        settings, group = self.setup.settings, self.trainee.group
        self._measure()  # what is due at step 0, or was when an earlier call was stopped
        while self._step < self.setup.steps and not group.any(bool(self.stop)):
            if self.profile:
                self.profile.begin(self._step)
            if not self._take_step():
                break
            last = self._step == self.setup.steps
            if self.profile:
                self.profile.end(self._step, last)
            self._val_loss, self._is_best = None, False
            self._evaluation_due = last or self._step % settings.eval_every == 0
            self._sample_due = last or self._step % settings.sample_every == 0
            self._measure()
            if not last and (self._step % settings.save_every == 0 or (self._is_best and settings.keep_best)):
                self._save()
            self._tell_saves()
        self._read()
        if self.profile:
            self.profile.end(self._step, last=True)
        self._save()
        complete = self._step == self.setup.steps and not (self._evaluation_due or self._sample_due)
        self._saved = group.on_main(lambda: self._finish_saving(complete))
        # Ranks that no signal reached stop with those that one did, and for the same reason.
        received = [number for number in group.gather(self.stop.received) if number is not None]
        signal = received[0] if received and not complete else None
        self._log_end(complete, signal)
        return TrainResult(
            self._run,
            self._saved,
            self._step,
            self.setup.steps,
            self._val_loss,
            signal,
            out_of_time=not complete and signal is None,
            spent=self.logbook.spent,
            peak_memory=self.logbook.memory.bytes(),
        )

    def _log_end(self, complete: bool, signal: int | None) -> None:
        if complete:
            self.logbook.note(self._step, "finished", told=True, topic="finished")
        else:
            why = signals.name(signal) if signal is not None else "--max-time"
            self.logbook.note(self._step, f"stopped by {why}", told=True, topic="stopped")

    def _take_step(self) -> bool:
        """One optimiser step and its line; False when it was stopped before the weights were touched."""
        settings, began, waited = self.setup.settings, time.monotonic(), self.feed.waited
        lr = learning_rate(
            self._step,
            steps=self.setup.steps,
            warmup=self.setup.warmup,
            max_lr=settings.max_lr,
            min_lr=settings.min_lr,
            schedule=settings.schedule,
            decay_share=settings.decay_share,
        )
        limits = self._recent.limits(settings.spike_zscore if settings.on_spike == "skip" else None)
        stop = lambda: bool(self.stop)  # noqa: E731
        take = partial(take_step, self.trainee, self.feed, self._step, lr, settings.grad_clip, stop, limits)
        profiled = self.profile is not None and self.profile.recording
        result = self.profile.take(self._step + 1, take) if self.profile else take()
        if result is None:
            return False
        self._step += 1
        if reads_late(self.trainee.group.device):
            # To read this step's numbers now would be to wait for it. Those of the step before are there while this one
            # runs, and waiting for them keeps the host just one step ahead: the time between is a step's.
            self._read()
        seconds, waited = time.monotonic() - began, self.feed.waited - waited
        self._unread = _Unread(self._step, lr, seconds, waited, profiled, result)
        if not reads_late(self.trainee.group.device):
            self._read()
        return True

    def _read(self) -> None:
        """Log the step that is still unread, and judge it."""
        unread, self._unread = self._unread, None
        if unread is None:
            return
        loss, grad_norm, left_out = unread.result.numbers.tolist()
        if left_out and self._overflowed(loss, grad_norm):
            pass  # the scale of the loss was too large, and is smaller now
        elif left_out:
            self._recent = self._recent.with_skipped(unread.step)
            self._tell_bad_step(unread, loss, grad_norm)
        else:
            self._tell_spike(unread.step, loss)
            self._recent = self._recent.with_good(loss, grad_norm)
        self.logbook.step_done(
            StepNumbers(
                step=unread.step,
                loss=loss,
                lr=unread.lr,
                grad_norm=grad_norm,
                seconds=unread.seconds,
                waited=unread.waited,
                skipped=bool(left_out),
                profiled=unread.profiled,
            )
        )

    def _tell_spike(self, step: int, loss: float) -> None:
        """Tell of the first of some steps that reached the weights though their loss is far above those before."""
        zscore = self.setup.settings.spike_zscore
        highest, _ = self._recent.limits(zscore)
        was_spiking, self._spiking = self._spiking, loss > highest
        if self._spiking and not was_spiking:
            what = f"Step {step} has a loss of {loss:.4g}, more than {zscore:g} standard deviations above the last ones"
            self.logbook.note(step, f"{what}; --on-spike skip leaves such steps out.", topic="spike")

    def _overflowed(self, loss: float, grad_norm: float) -> bool:
        """Whether fp16 could not hold the gradients as they were scaled, which says nothing of the run."""
        scaler = self.trainee.scaler
        return scaler.is_enabled() and math.isfinite(loss) and not math.isfinite(grad_norm) and scaler.get_scale() >= 1

    def _tell_bad_step(self, unread: _Unread, loss: float, grad_norm: float) -> None:
        """Name a step that did not reach the weights, and the place of its batch in the data. Raises UserError where
        the run is not to go on."""
        group, settings = self.trainee.group, self.setup.settings
        losses = group.gather(unread.result.micro_losses.tolist())
        places = name_places(self.feed.batches, unread.step - 1, losses, group.ranks.world_size)
        what = f"Step {unread.step} gave a loss of {loss:g} and a gradient norm of {grad_norm:g}"
        if settings.on_spike == "stop":
            self.logbook.note(unread.step, f"{what}. {places}", told=True, topic="spike")
            raise self._not_finite(what, places)
        self.logbook.note(unread.step, f"{what}, so it was left out. {places}", topic="spike")
        if len(self._recent.skipped) > settings.spike_limit:
            span = f"{len(self._recent.skipped)} of the last {LIMIT_SPAN} steps were left out"
            raise self._not_finite(f"{what}, and {span}", f"{places} --spike-limit allows {settings.spike_limit}.")

    def _not_finite(self, what: str, more: str = "") -> UserError:
        """The run has gone wrong on all processes alike. Such weights are never saved."""
        if self.saver:
            self.saver.settle()
        good = checkpoints_of(self._run)
        hint = "Train with a lower --max-lr or a longer --warmup-iters, or leave such steps out with --on-spike skip; "
        hint += f"the last good weights are in {good[-1]}." if good else "no checkpoint was written yet."
        return self.trainee.group.told_once(UserError(f"{what}, so the run stops. {more}".rstrip(), hint))

    def _measure(self) -> None:
        """What is due at this step; it stays due where the run is asked to stop, and a later call does it first."""
        if self._evaluation_due or self._sample_due:
            self._read()
        if self._evaluation_due:
            self._evaluate()
        if self._sample_due and not self.trainee.group.any(bool(self.stop)):
            self._sample_due = not self._sample()

    def _evaluate(self) -> None:
        began = time.monotonic()
        val_loss = self.evaluator.validation_loss()
        if val_loss is None:
            return
        if not math.isfinite(val_loss):
            raise self._not_finite(f"After step {self._step} the validation loss is {val_loss:g}")
        validated = time.monotonic()
        scores: Mapping[str, float] | None = None
        if self.evaluator.items and self._step > 0:
            scores = self.evaluator.hellaswag(final=self._step == self.setup.steps)
            if scores is None:
                return
        self._evaluation_due = False
        self._val_loss = val_loss
        self._is_best = self._best_loss is not None and val_loss < self._best_loss
        self._best_loss = val_loss if self._best_loss is None else min(val_loss, self._best_loss)
        self.logbook.evaluated(self._step, "val", {"loss": val_loss}, validated - began)
        if scores:
            self.logbook.evaluated(self._step, "hellaswag", scores, time.monotonic() - validated)

    def _sample(self) -> bool:
        """Complete the prompt; False when it was stopped."""
        began = time.monotonic()
        sampled = self.evaluator.sample(self._step)
        self.logbook.evaluating(time.monotonic() - began)
        if self.trainee.group.any(bool(self.stop)):
            return False
        if sampled and self.trainee.group.ranks.is_main:
            self.logbook.sampled(self._step, *sampled)
        return True

    def _save(self) -> None:
        """Take a snapshot, which is written while training goes on."""
        self._read()
        group, began = self.trainee.group, time.monotonic()
        if group.any(not all(bool(weight.isfinite().all()) for weight in group.parts(self.trainee.model))):
            raise self._not_finite(f"After step {self._step} there are weights that are not finite")
        progress = Progress(
            step=self._step,
            seed=self.setup.settings.seed,
            seconds=self.logbook.seconds,
            evaluation_due=self._evaluation_due,
            sample_due=self._sample_due,
            val_loss=self._val_loss,
            best_loss=self._best_loss,
            recent=self._recent,
            numerics=self.trainee.numerics.as_dict(),
            loss_scale=self.trainee.scaler.state_dict(),
        )
        if group.on_main(lambda: self._is_saved(progress)):
            return  # a stop just after a save
        self._saved_as = progress
        self.trainee.optimizers.zero_grad()  # which the next step does anyway: now their memory is the snapshot's
        take: Callable[[], checkpoint.Snapshot | None] = lambda: checkpoint.snapshot(  # noqa: E731
            progress, self.trainee.model, self.trainee.optimizers, group
        )
        if self.saver:
            self.saver.save(take, began)
        else:
            take()

    def _is_saved(self, progress: Progress) -> bool:
        """Whether the last save was of the same state, and has not failed."""
        assert self.saver is not None
        if self._saved_as is None or replace(progress, seconds=0) != replace(self._saved_as, seconds=0):
            return False
        self.saver.settle()
        self._tell_saves()
        return not self._save_fault

    def _finish_saving(self, complete: bool) -> Path:
        """The folder of the last checkpoint, once it is whole. Raises UserError where it is not: soon in a run
        that was stopped, since whoever stopped it does not wait."""
        assert self.saver is not None
        patience = saver.LAST_PATIENCE if complete else 0.0
        while self.saver.is_trying(patience):
            self._tell_saves()
        self._tell_saves()
        if self._saved is None or self._save_fault:
            last = checkpoints_of(self._run)
            raise UserError(
                f"The last checkpoint, of step {self._step}, could not be written to {self._run}: {self._save_fault}",
                f"Make room; the same command then continues from {last[-1].name}." if last else "Make room first.",
            )
        return self._saved

    def _tell_saves(self) -> None:
        """Log what became of saves, on the first process."""
        for outcome in self.saver.outcomes() if self.saver else ():
            if isinstance(outcome, Failed):
                self._save_fault = outcome.reason
                last = checkpoints_of(self._run)
                kept = f" The last good one is {last[-1].name}." if last else ""
                message = f"The checkpoint of step {outcome.step} could not be written: {outcome.reason}{kept}"
                self.logbook.note(outcome.step, f"{message} It is tried again.")
            else:
                self._saved, self._save_fault = outcome.folder, ""
                self.logbook.saved(outcome)
