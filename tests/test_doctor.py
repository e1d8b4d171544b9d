"""`gpt doctor`: what it finds, and that it finds it."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections import namedtuple
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from small_runs import tiny, write_shards
from test_distributed import words_of
from test_training import stopping_at

from gptcli import train
from gptcli.cli import main as cli
from gptcli.distributed import machine_memory
from gptcli.doctor import examination, files, machine, network
from gptcli.doctor.examination import CHECKS, examine
from gptcli.doctor.finding import Finding, ok
from gptcli.doctor.resume import compare, prove, shortened
from gptcli.errors import UserError
from gptcli.model.checksums import CHECKSUMS, seal
from gptcli.model.locate import checkpoints_of
from gptcli.settings import DoctorSettings, TokenizeSettings, TrainSettings

Usage = namedtuple("Usage", "total used free")


@pytest.fixture
def settings(tmp_path: Path) -> DoctorSettings:
    return DoctorSettings(data_root=str(tmp_path / "data"), log_dir=str(tmp_path / "log"), device="cpu")


def one(findings: Iterator[Finding]) -> Finding:
    (finding,) = findings
    return finding


def test_every_check_says_something_and_what_is_not_well_has_a_mend(
    settings: DoctorSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(network, "HUB_SECONDS", 0.2)
    findings = list(examine(settings))
    assert {finding.state for finding in findings} <= {"ok", "warning"}, findings
    assert all(finding.mend for finding in findings if finding.state != "ok")
    names = {finding.name for finding in findings}
    assert {"versions", "device", "precision", "gloo", "ports", "disk", "cache", "data", "Hub"} <= names
    assert not list(Path(settings.log_dir).parent.glob(".gpt-doctor*"))


def test_a_check_that_fails_itself_is_a_fault_and_the_others_go_on(
    settings: DoctorSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(settings: DoctorSettings) -> Iterator[Finding]:
        raise RuntimeError("unforeseen")
        yield

    def well(settings: DoctorSettings) -> Iterator[Finding]:
        yield ok("second", "well")

    monkeypatch.setattr(examination, "CHECKS", {"first": broken, "second": well})
    first, second = examine(settings)
    assert (first.name, first.state) == ("first", "fault")
    assert "unforeseen" in first.found
    assert second.state == "ok"


def test_a_shard_that_has_changed_is_named(settings: DoctorSettings, tmp_path: Path) -> None:
    from gptcli.data.pipeline import tokenize

    text = tmp_path / "text.txt"
    text.write_text("On a clear day you can see the sea. " * 500)
    tokenize(TokenizeSettings(sources=(str(text),), local_dir=settings.data_root, tokenizer_model="bytes"))
    assert one(files.check_data(settings)).state == "ok"
    shard = Path(settings.data_root, "train_000001.npy")
    content = bytearray(shard.read_bytes())
    content[-1] ^= 1
    shard.write_bytes(bytes(content))
    finding = one(files.check_data(settings))
    assert finding.state == "fault"
    assert "train_000001.npy" in finding.found
    assert "--verify" in finding.mend
    shard.write_bytes(bytes(content[:-1]))
    assert "cut off" in one(files.check_data(settings)).found
    shutil.rmtree(settings.data_root)
    assert one(files.check_data(settings)).state == "warning"


def test_shards_without_a_manifest_are_well(settings: DoctorSettings) -> None:
    write_shards(Path(settings.data_root))
    assert "no manifest" in one(files.check_data(settings)).found


def test_a_folder_that_can_not_be_written_is_a_fault(settings: DoctorSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(folder: Path) -> float:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(files, "_write", refused)
    finding = one(files.check_disk(settings))
    assert (finding.state, "Permission denied" in finding.found) == ("fault", True)


def test_little_room_on_the_disk_is_told(settings: DoctorSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "free_bytes", lambda folder: 10**9)
    finding = one(files.check_disk(settings))
    assert (finding.state, "1.0 GB free" in finding.found) == ("warning", True)


@pytest.mark.skipif(not Path("/dev/shm").is_dir(), reason="there is no /dev/shm")
def test_a_container_with_little_shared_memory_is_told(
    settings: DoctorSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(64 * 2**20, 0, 64 * 2**20))
    finding = one(machine.check_shared_memory(settings))
    assert finding.state == "warning"
    assert "--shm-size" in finding.mend


@pytest.mark.skipif(sys.platform == "win32", reason="no such limit there")
def test_few_file_handles_are_told_with_the_limit_that_can_be_had(
    settings: DoctorSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    import resource

    monkeypatch.setattr(resource, "getrlimit", lambda kind: (256, 4096))
    finding = one(machine.check_file_handles(settings))
    assert (finding.state, "ulimit -n 4096" in finding.mend) == ("warning", True)


def test_a_containers_limit_counts_as_memory(
    settings: DoctorSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    limit = tmp_path / "memory.max"
    limit.write_text(f"{2**30}\n")
    (tmp_path / "memory.current").write_text(f"{2**29}\n")
    (tmp_path / "memory.stat").write_text(f"anon 1\ninactive_file {2**28}\n")
    files = ((tmp_path / "none", "", ""), (limit, "memory.current", "inactive_file"))
    monkeypatch.setattr(machine_memory, "_CGROUPS", files)
    assert machine_memory.free_memory(torch.device("cpu")) == 2**30 - 2**28
    finding = one(machine.check_memory(settings))
    assert (finding.state, "may use 1.0" in finding.found) == ("warning", True)


@pytest.mark.skipif(os.name != "posix", reason="gloo reads that variable there only")
def test_processes_that_can_not_meet_are_a_fault_with_its_mend(
    settings: DoctorSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "no-such-card")
    finding = one(network.check_backends(settings))
    assert finding.state == "fault"
    assert "GLOO_SOCKET_IFNAME" in finding.mend


def test_a_host_name_that_leads_nowhere_is_told(settings: DoctorSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("socket.gethostname", lambda: "no such host")
    finding = one(network.check_ports(settings))
    assert (finding.state, "/etc/hosts" in finding.mend) == ("warning", True)


def test_a_gpu_that_is_not_there_is_a_fault(settings: DoctorSettings) -> None:
    if torch.cuda.is_available():
        pytest.skip("it is there")
    asked = settings.model_copy(update={"device": "cuda"})
    assert one(machine.check_devices(asked)).state == "fault"


@pytest.mark.parametrize(("state", "code"), [("ok", 0), ("warning", 0), ("fault", 1)])
def test_the_exit_code_is_that_of_the_worst(
    state: str, code: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def check(settings: DoctorSettings) -> Iterator[Finding]:
        yield ok("first", "well")
        yield Finding("second", state, "so and so", "do this")  # type: ignore[arg-type]

    monkeypatch.setattr(examination, "CHECKS", {"any": check})
    assert cli.run(["doctor", "--json"]) == code
    out, err = capsys.readouterr()
    assert json.loads(out)["findings"][1] == {"name": "second", "state": state, "found": "so and so", "mend": "do this"}
    assert json.loads(out)["ok"] == (code == 0)
    assert "do this" in err


def test_there_is_a_check_for_each_name() -> None:
    assert len(CHECKS) == 13


# gpt doctor resume


def start(settings: TrainSettings) -> list[str]:
    return [sys.executable, "-m", "gptcli", *words_of(settings)]


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_a_configuration_that_is_resumed_exactly_is_said_to_be(shards: Path, tmp_path: Path) -> None:
    told: list[str] = []
    mine = tiny(shards, tmp_path / "mine", total_batch_size=2048, drop_rate=0.1)
    proof = prove(mine, start, told.append)
    assert proof.holds
    assert proof.difference == ""
    assert [interruption.split()[0] for interruption in proof.interruptions] == ["killed", "stopped"]
    assert all("continued from" in interruption for interruption in proof.interruptions)
    assert any("in place of 2,048" in line for line in told)
    assert not (tmp_path / "mine").exists()
    assert proof.folder is None


def spoil(run: Path) -> None:
    """Change a moment of the optimiser, as if it had not been restored."""
    from safetensors.torch import load_file, save_file

    for folder in checkpoints_of(run):
        file = folder / "training/optimizer.safetensors"
        moments = load_file(file)
        moments["final_norm.weight.exp_avg"] += 1
        save_file(moments, file, metadata={"format": "pt"})
        (folder / CHECKSUMS).unlink()
        seal(folder)


def test_the_first_difference_of_two_runs_is_told(shards: Path, tmp_path: Path) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    train(tiny(shards, whole))
    train(tiny(shards, parts), stopping_at(2))
    spoil(parts)
    train(tiny(shards, parts))
    difference, largest, _ = compare(whole, parts)
    assert difference.startswith("loss of the val line of step 3 is")
    assert largest > 0
    shutil.copy(whole / "metrics.jsonl", parts)
    assert compare(whole, parts)[0].startswith("transformer.h.0.")
    shutil.copytree(checkpoints_of(whole)[-1], checkpoints_of(parts)[-1], dirs_exist_ok=True)
    spoil(parts)
    assert "final_norm.weight.exp_avg in training/optimizer.safetensors differs by up to 1" in compare(whole, parts)[0]


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_a_resume_that_is_not_exact_is_found_and_both_runs_are_kept(shards: Path, tmp_path: Path) -> None:
    def spoiled(settings: TrainSettings) -> list[str]:
        spoil(Path(settings.log_dir))
        return start(settings)

    proof = prove(tiny(shards, tmp_path / "mine"), spoiled, lambda line: None)
    assert not proof.holds
    assert "of the train line of step" in proof.difference
    assert proof.folder
    assert (proof.folder / "whole").is_dir()
    shutil.rmtree(proof.folder)


def test_a_configuration_that_does_not_run_says_why(shards: Path, tmp_path: Path) -> None:
    def failing(settings: TrainSettings) -> list[str]:
        return [sys.executable, "-c", "import sys; sys.exit('out of luck')"]

    with pytest.raises(UserError, match="exit code 1: out of luck"):
        prove(tiny(shards, tmp_path), failing, lambda line: None)


def test_the_batch_is_as_small_as_accumulation_needs(shards: Path, tmp_path: Path) -> None:
    mine = tiny(shards, tmp_path, n_batches=2, total_batch_size=1024, context_length=16, save_every=500)
    few = shortened(mine, tmp_path, lambda line: None)
    assert (few.total_batch_size, few.save_every, few.n_batches) == (64, 2, 2)


@pytest.mark.parametrize("words", [["--fresh"], ["--dry-run"], ["--nodes", "2"]])
def test_what_the_proof_can_not_do_is_refused(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["doctor", "resume", *words]) == 2
    assert "error:" in capsys.readouterr().err
