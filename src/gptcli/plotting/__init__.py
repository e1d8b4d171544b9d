"""The figure of runs. `runs` reads their curves, `content` says what is shown, `picture` and `terminal` draw it.

A further measure is a panel in `content`; both ways of drawing then show it.
"""
