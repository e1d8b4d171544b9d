"""Train a run for another hundred steps, and show what it has become.

python examples/continue_training.py [RUN]
"""

import sys

from gptcli import TrainSettings, load, train

run = sys.argv[1] if len(sys.argv) > 1 else "log"
result = train(TrainSettings.of_run(run, more_iters=100))
print(f"step {result.step}, validation loss {result.val_loss}")
print(load(run).generate("Once upon a time", max_new_tokens=30, seed=1).text)
