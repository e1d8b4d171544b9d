"""What a run will be, before it is: `plan` tells size, memory, length and time from the settings."""

from gptcli.planning.planner import Plan, plan

__all__ = ["Plan", "plan"]
