"""Measures of a model: HellaSwag, loss and bits per byte. A new task is a file here and its entry in `run.TASKS`."""
