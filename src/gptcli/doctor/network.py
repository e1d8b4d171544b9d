"""How processes reach each other, and the Hugging Face Hub."""

from __future__ import annotations

import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import torch

from gptcli.doctor.finding import Finding, fault, ok, warning
from gptcli.settings import DoctorSettings

MEET_SECONDS = 90.0
HUB_SECONDS = 5.0
_MEET = """
import sys, torch, torch.distributed as dist
backend, rank, file = sys.argv[1], int(sys.argv[2]), sys.argv[3]
dist.init_process_group(backend, init_method="file:///" + file.lstrip("/"), rank=rank, world_size=2)
device = f"cuda:{rank}" if backend == "nccl" else "cpu"
value = torch.full((1,), rank + 1.0, device=device)
dist.all_reduce(value)
dist.destroy_process_group()
sys.exit(0 if value.item() == 3 else 1)
"""


def check_backends(settings: DoctorSettings) -> Iterator[Finding]:
    """Two processes add up a number, over gloo and, where there are two GPUs, over NCCL."""
    backends = ["gloo", *(["nccl"] if torch.cuda.is_available() and torch.cuda.device_count() > 1 else [])]
    for backend in backends:
        mend = {
            "gloo": "Say which network card is used: export GLOO_SOCKET_IFNAME=lo (or eth0, on several machines).",
            "nccl": "NCCL_DEBUG=INFO tells why. In containers: more shared memory, --ipc=host; or NCCL_P2P_DISABLE=1.",
        }[backend]
        trouble = _meet(backend)
        yield fault(backend, trouble, mend) if trouble else ok(backend, "two processes reach each other")


def _meet(backend: str) -> str:
    """Why two processes can't meet; empty when they did."""
    with tempfile.TemporaryDirectory(prefix="gpt-doctor-", ignore_cleanup_errors=True) as folder:
        words = [sys.executable, "-c", _MEET, backend]
        file = str(Path(folder, "store"))
        processes = [
            subprocess.Popen([*words, str(rank), file], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
            for rank in range(2)
        ]
        trouble = ""
        try:
            for process in processes:
                _, told = process.communicate(timeout=MEET_SECONDS)
                if process.returncode and not trouble:
                    trouble = f"two processes can't reach each other: {(told.strip().splitlines() or ['?'])[-1][:200]}"
        except subprocess.TimeoutExpired:
            trouble = f"two processes did not meet within {MEET_SECONDS:.0f} s"
        finally:
            for process in processes:
                process.kill()
                process.wait()
    return trouble


def check_ports(settings: DoctorSettings) -> Iterator[Finding]:
    """Whether this machine finds itself by its own name, and has a port to offer."""
    name = socket.gethostname()
    mend = f"Add a line '127.0.0.1 {name}' to /etc/hosts, or: export GLOO_SOCKET_IFNAME=lo"
    try:
        with socket.create_server(("", 0)) as server:
            port = server.getsockname()[1]
            with socket.create_connection((name, port), timeout=HUB_SECONDS):
                pass
    except OSError as error:
        yield warning("ports", f"this machine can't reach itself as {name}: {error.strerror or error}", mend)
        return
    yield ok("ports", f"this machine reaches itself as {name}")


def check_hub(settings: DoctorSettings) -> Iterator[Finding]:
    """Whether the Hugging Face Hub answers, and knows who asks."""
    import requests
    from huggingface_hub import constants, get_token

    token = "logged in" if get_token() else "not logged in, which public models and datasets don't need"
    if constants.HF_HUB_OFFLINE:
        yield ok("Hub", "switched off by HF_HUB_OFFLINE")
        return
    try:
        requests.head(constants.ENDPOINT, timeout=HUB_SECONDS)
    except requests.RequestException as error:
        mend = "Needed only for what is not on this machine. Behind a proxy: export HTTPS_PROXY=..."
        yield warning("Hub", f"{constants.ENDPOINT} can't be reached ({type(error).__name__})", mend)
        return
    yield ok("Hub", f"{constants.ENDPOINT} answers; {token}")
