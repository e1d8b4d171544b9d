"""The run: set-up, loop, one step, checkpoints, metrics, stop signals."""
