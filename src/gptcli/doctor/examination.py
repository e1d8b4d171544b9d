"""All checks, one after the other. A new one is a function in the file of its subject, and a place in `CHECKS`."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from gptcli.doctor import arithmetic, files, machine, network
from gptcli.doctor.finding import Finding, fault
from gptcli.settings import DoctorSettings

Check = Callable[[DoctorSettings], Iterator[Finding]]

CHECKS: dict[str, Check] = {
    "versions": machine.check_versions,
    "device": machine.check_devices,
    "memory": machine.check_memory,
    "precision": arithmetic.check_precision,
    "compiler": arithmetic.check_compiler,
    "backends": network.check_backends,
    "ports": network.check_ports,
    "shared memory": machine.check_shared_memory,
    "file handles": machine.check_file_handles,
    "disk": files.check_disk,
    "cache": files.check_cache,
    "data": files.check_data,
    "Hub": network.check_hub,
}


def examine(settings: DoctorSettings) -> Iterator[Finding]:
    """What every check finds, as soon as it does. A check that fails itself is a fault, and the others go on."""
    for name, check in CHECKS.items():
        try:
            yield from check(settings)
        except Exception as error:  # noqa: BLE001 (whatever it is, the next check is none the worse for it)
            found = f"could not be looked at: {type(error).__name__}: {error}"
            yield fault(name, found, "This should not have happened; --debug shows more of other commands.")
