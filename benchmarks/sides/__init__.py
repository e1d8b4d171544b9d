"""The sides of `training.py`, each in a process of its own; a new one is a file here and a line in `SIDES` there."""
