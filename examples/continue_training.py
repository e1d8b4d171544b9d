"""Train a finished run for another tenth of its steps, and show what it has become.

python examples/continue_training.py [RUN]
"""

import sys

from gptcli import TrainSettings, load, train
from gptcli.model.locate import locate_model, step_of

run = sys.argv[1] if len(sys.argv) > 1 else "log"
steps = step_of(locate_model(run))
result = train(TrainSettings.of_run(run, max_iters=steps + max(1, steps // 10)))
print(f"step {result.step}, validation loss {result.val_loss}")
print(load(run).generate("Once upon a time", max_new_tokens=30, seed=1).text)
