"""What a run measures of itself between steps: validation loss, HellaSwag, a sample. None of it touches the state of
training: the model comes back in the mode it was in, and the global random numbers are not drawn from."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass

import numpy as np
import torch

from gptcli.data.batches import WindowReader
from gptcli.distributed import sharding
from gptcli.distributed.group import Group
from gptcli.errors import UserError
from gptcli.evals.hellaswag import HELLASWAG
from gptcli.evals.origin import spread
from gptcli.evals.question_task import count_right
from gptcli.evals.questions import Item, prepare, score
from gptcli.inference.engine import complete
from gptcli.training.setup import Setup
from gptcli.training.step import Trainee

HELLASWAG_SECONDS = 10  # how long a run waits for HellaSwag's data before it goes on without
SAMPLE_PROMPT, SAMPLE_TOKENS = "Once upon a time", 25  # the original's


@dataclass(frozen=True)
class Evaluator:
    """The measurements of one run; `stop` ends each of them early, on all processes alike. `items` are all examples of
    HellaSwag."""

    setup: Setup
    trainee: Trainee
    items: list[Item]
    stop: Callable[[], bool]

    def validation_loss(self) -> float | None:
        """Mean loss in nats over the first `val_windows` windows of the validation split; None when it was stopped.

        The same tokens whatever the number of processes: their batches are dealt out in turn and the sums added.
        """
        setup, group = self.setup, self.trainee.group
        reader = WindowReader(setup.shards.split("val"), setup.length, setup.config.vocab_size)
        size = setup.micro_batch
        total, tokens = 0.0, 0
        with _evaluating(self.trainee):
            for turn in range(0, setup.val_windows, group.ranks.world_size * size):
                if group.any(self.stop()):
                    return None
                start = turn + group.ranks.rank * size
                mine = np.arange(start, max(start, min(start + size, setup.val_windows)))
                if len(mine) == 0 and not group.is_sharded:
                    continue
                x, y = reader.read(mine if len(mine) else np.arange(1))  # all take part in a pass of a sharded model
                targets = torch.from_numpy(y).to(group.device)
                ids = torch.from_numpy(x).to(group.device)
                loss = self.trainee.eager().loss(self.trainee.model, ids, targets)
                if len(mine):
                    total += loss.item() * targets.numel()
                    tokens += targets.numel()
        parts = group.gather((total, tokens))
        return sum(part[0] for part in parts) / sum(part[1] for part in parts)

    def hellaswag(self, final: bool = False) -> dict[str, float] | None:
        """`acc`, `acc_norm` and `n` on the run's fixed examples, spread over the file, which are more at its end; None
        when it was stopped."""
        group = self.trainee.group
        items = spread(self.items, self.n_examples(final))
        mine = items[group.ranks.rank :: group.ranks.world_size]
        batch_tokens = max(self.setup.micro_batch * self.setup.length, 4096)
        turns = _Turns(group, self.stop)
        with _evaluating(self.trainee), self.trainee.numerics.autocast(group.device):
            scored = score(self.trainee.model, mine, batch_tokens, turns.stopped)
            while turns.others_go_on():
                if group.is_sharded:
                    self.trainee.model.hidden(torch.zeros(1, 1, dtype=torch.int64, device=group.device))
        if group.any(self.stop()):
            return None
        rows = [row for part in group.gather(scored) for row in part]
        return {**{name: right / len(rows) for name, right in count_right(rows).items()}, "n": len(rows)}

    def n_examples(self, final: bool) -> int:
        """How many examples of HellaSwag are scored, during the run or at its end."""
        settings = self.setup.settings
        return min(
            len(self.items), (settings.final_eval_examples or len(self.items)) if final else settings.eval_examples
        )

    def sample(self, step: int) -> tuple[str, str, list[int]] | None:
        """Prompt, completion and its ids by the model as it is; None without a tokenizer. All processes call it, and
        what the first one gets counts."""
        tokenizer, group = self.setup.tokenizer, self.trainee.group
        if tokenizer is None:
            return None
        turns, ids = _Turns(group, self.stop), list[int]()
        try:
            prompt, prompt_ids = SAMPLE_PROMPT, tokenizer.encode(SAMPLE_PROMPT)
        except UserError:  # it lacks a letter: from the start of a document, then
            prompt, prompt_ids = "", [tokenizer.eot]
        with _evaluating(self.trainee), self.trainee.numerics.autocast(group.device):
            if group.ranks.is_main or group.is_sharded:
                ids = complete(
                    self.trainee.model,
                    prompt_ids,
                    vocab_size=tokenizer.vocab_size,
                    # All processes of a sharded model complete the prompt, and none may be done before the others.
                    ends=() if group.is_sharded else (tokenizer.eot,),
                    max_new_tokens=SAMPLE_TOKENS,
                    seed=self.setup.settings.seed + step,
                    stop=turns.stopped,
                )
            while turns.others_go_on():
                pass
        if tokenizer.eot in ids:
            ids = ids[: ids.index(tokenizer.eot) + 1]
        return prompt, tokenizer.decode([token for token in ids if token != tokenizer.eot]), ids


class _Turns:
    """The passes of a measurement of which processes have unequal numbers: before each they agree whether all stop,
    since a signal may reach one machine only, and whether there is one more, since those of a sharded model are taken
    by all together."""

    def __init__(self, group: Group, stop: Callable[[], bool]) -> None:
        self._group, self._stop = group, stop
        self._over = False

    def stopped(self) -> bool:
        """Before a pass of this process' own: whether all stop here."""
        stopped, _ = self._group.agree([self._stop(), True])
        self._over = bool(stopped)
        return self._over

    def others_go_on(self) -> bool:
        """When this process has no more passes of its own: whether another one has."""
        if self._over:
            return False
        stopped, busy = self._group.agree([self._stop(), False])
        return bool(busy and not stopped)


@contextmanager
def _evaluating(trainee: Trainee) -> Iterator[None]:
    """No gradients and no dropout; afterwards the model trains on."""
    model = trainee.model
    model.eval()
    # Batches have other shapes than training's here: nothing is compiled for them.
    eager = torch.compiler.set_stance("force_eager") if trainee.numerics.compile else nullcontext()
    try:
        with torch.no_grad(), sharding.evaluating(model), eager:
            yield
    finally:
        model.train()


def hellaswag_items(setup: Setup) -> tuple[list[Item], str]:
    """The examples that the run can score itself on, tokenised, and a note where it has to do without (else empty).

    Raises UserError when HellaSwag was asked for and can't be had.
    """
    if "hellaswag" not in setup.metrics:
        return [], ""
    try:
        if setup.tokenizer is None:
            raise UserError("HellaSwag is text, and this data's tokenizer is not known.", "Train with --metrics none.")
        questions, _ = HELLASWAG.questions(
            "completion", setup.settings.hellaswag_data, option="--hellaswag-data", seconds=HELLASWAG_SECONDS
        )
        return prepare(questions, setup.tokenizer, "completion"), ""
    except UserError as error:
        if setup.metrics_asked_for:
            raise
        return [], f"Training goes on without HellaSwag: {error.faults[0].message} {error.faults[0].hint}".strip()
