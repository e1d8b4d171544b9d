"""The command line: parse, resolve, call, draw. Only here: Typer, Rich, exit codes, printing."""
