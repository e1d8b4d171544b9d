"""Runs as they lie on the disk: what they are doing, how far they have come, how two of them differ."""
