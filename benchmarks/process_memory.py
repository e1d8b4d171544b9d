"""The memory of a command and of every process that it starts, sampled from Linux's /proc.

A page that several of them share counts once: sums of PSS, not of RSS, which would count forked memory many times.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import IO

SECONDS_BETWEEN_SAMPLES = 0.05
PROC = Path("/proc")


@dataclass(frozen=True)
class Peak:
    """The most at any one time, each figure by itself: bytes, of these not pages of files, processes."""

    bytes: int
    without_files: int
    processes: int

    def __sub__(self, other: Peak) -> Peak:
        return Peak(
            self.bytes - other.bytes, self.without_files - other.without_files, self.processes - other.processes
        )

    def __str__(self) -> str:
        return f"{self.bytes / 2**20:.0f} ({self.without_files / 2**20:.0f}) MiB, {self.processes} processes"


def peak_memory(command: list[str], environment: dict[str, str], output: IO[bytes]) -> tuple[int, Peak]:
    """Run a command. Returns its exit code and the peak. Raises SystemExit on systems without /proc."""
    if not (PROC / "self" / "smaps_rollup").exists():
        raise SystemExit("Memory is measured on Linux only.")
    # In a session of its own, which every process that it starts belongs to, orphans too.
    started = subprocess.Popen(command, env=environment, stdout=output, stderr=output, start_new_session=True)
    peak = Peak(0, 0, 0)
    try:
        while (code := started.poll()) is None:
            now = _sample(started.pid)
            peak = Peak(
                max(peak.bytes, now.bytes),
                max(peak.without_files, now.without_files),
                max(peak.processes, now.processes),
            )
            time.sleep(SECONDS_BETWEEN_SAMPLES)
    except BaseException:
        os.killpg(started.pid, signal.SIGKILL)
        raise
    return code, peak


def _sample(session: int) -> Peak:
    """What the processes of a session hold now."""
    total = without_files = processes = 0
    for folder in PROC.iterdir():
        if not folder.name.isdigit():
            continue
        try:
            # The name, in brackets, can hold anything; behind it: state, parent, group, session.
            if int((folder / "stat").read_text().rpartition(")")[2].split()[3]) != session:
                continue
            lines = (folder / "smaps_rollup").read_text().splitlines()[1:]
        except (OSError, ValueError):  # ended meanwhile
            continue
        kib = {name: int(value.split()[0]) for name, value in (line.split(":") for line in lines)}
        total += kib["Pss"] * 1024
        without_files += (kib["Pss_Anon"] + kib["Pss_Shmem"]) * 1024
        processes += 1
    return Peak(total, without_files, processes)
