"""Experiment trackers beside `metrics.jsonl`, which stays the truth: each reads that file as it grows, in a process of
its own, so that whatever becomes of a tracker the run does not feel it."""
