from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import datasets
import pytest
from hub_stand_in import COMMIT, REPOSITORY, Failure, StandIn, stand_in, stories, table
from huggingface_hub import HfFileSystem, constants, hf_hub_download
from pyarrow import parquet

from gptcli.data.hub import dataset_files
from gptcli.data.hub_file import HubFile
from gptcli.data.remote import address_files, prefetch
from gptcli.data.retries import Retries
from gptcli.errors import UsageError, UserError


@pytest.fixture
def waits() -> list[float]:
    return []


@pytest.fixture
def patient(waits: list[float]) -> Retries:
    """Retries whose waits are noted and not waited."""
    return Retries(sleep=waits.append)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[StandIn]:
    """A Hub with one dataset, and an empty cache."""
    with stand_in() as server:
        monkeypatch.setattr(constants, "ENDPOINT", server.url)
        template = f"{server.url}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
        monkeypatch.setattr(datasets.config, "HF_ENDPOINT", server.url)
        monkeypatch.setattr(
            datasets.config, "HUB_DATASETS_URL", f"{server.url}/datasets/{{repo_id}}/resolve/{{revision}}/{{path}}"
        )
        monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "datasets")
        monkeypatch.setattr(datasets.config, "DOWNLOADED_DATASETS_PATH", tmp_path / "downloads")
        HfFileSystem.clear_instance_cache()
        server.dataset(stories())
        yield server
    HfFileSystem.clear_instance_cache()


def texts(path: Path) -> list[str]:
    return list(parquet.read_table(path)["text"].to_pylist())


# Which files a dataset has


def test_a_split_is_its_files_in_order_at_the_commit(hub: StandIn, tmp_path: Path) -> None:
    files = dataset_files(REPOSITORY, "plain", "train")
    addresses = [f"hf://datasets/{REPOSITORY}@{COMMIT}/plain/train-0000{number}.parquet" for number in (0, 1)]
    assert [file.address for file in files] == addresses
    assert [file.size for file in files] == [len(table(["a"])), len(table(["b" * 5000, "c"]))]
    assert [texts(path) for path in prefetch(files, tmp_path)] == [["a"], ["b" * 5000, "c"]]


def test_the_order_is_that_of_datasets_itself(hub: StandIn, tmp_path: Path) -> None:
    rows = datasets.load_dataset(REPOSITORY, "plain", split="train", cache_dir=str(tmp_path / "rows"))
    ours = [text for file in dataset_files(REPOSITORY, "plain", "train") for text in texts(file.fetch(tmp_path))]
    assert ours == list(rows["text"])


def test_configurations_and_splits_are_chosen(hub: StandIn) -> None:
    assert [file.name for file in dataset_files(REPOSITORY, "small", "train")] == ["one.parquet"]
    assert [file.name for file in dataset_files(REPOSITORY, None, "test")] == ["test-00000.parquet"]


def test_a_mistyped_configuration_or_split_is_told_with_the_nearest(hub: StandIn) -> None:
    with pytest.raises(UsageError, match="no configuration 'plan'") as caught:
        dataset_files(REPOSITORY, "plan", "train")
    assert caught.value.faults[0].hint == "Did you mean plain? Give --remote-name; there are: plain, small."
    with pytest.raises(UsageError, match="no split 'tran'") as caught:
        dataset_files(REPOSITORY, "plain", "tran")
    assert "Did you mean train?" in caught.value.faults[0].hint


def test_a_dataset_that_is_not_there_is_a_wrong_call(hub: StandIn) -> None:
    with pytest.raises(UsageError, match="no dataset someone/tales") as caught:
        dataset_files("someone/tales", None, "train")
    assert "hf auth login" in caught.value.faults[0].hint
    with pytest.raises(UsageError, match="no dataset not a name"):
        dataset_files("not a name", None, "train")


def test_a_gated_dataset_names_the_way_in(hub: StandIn) -> None:
    hub.fail(f"/api/datasets/{REPOSITORY}", Failure(403, {"X-Error-Code": "GatedRepo"}))
    with pytest.raises(UserError, match="gated") as caught:
        dataset_files(REPOSITORY, None, "train")
    assert (caught.value.exit_code, "hf auth login" in caught.value.faults[0].hint) == (1, True)


def test_a_dataset_of_other_kinds_names_those_that_can_be_read(hub: StandIn) -> None:
    hub.dataset({"a.tsv": b"text\na", "b.xml": b"<a/>"})
    with pytest.raises(UsageError, match="no kind that can be read") as caught:
        dataset_files(REPOSITORY, None, "train")
    assert ".parquet" in caught.value.faults[0].hint
    HfFileSystem.clear_instance_cache()
    hub.dataset({"a.bin": b"\0"})
    with pytest.raises(UsageError, match="no files of a kind"):
        dataset_files(REPOSITORY, None, "train")


def test_packed_lines_are_found_too(hub: StandIn) -> None:
    hub.dataset({f"data/part-{number}.jsonl.gz": b"" for number in (2, 1)})
    assert [file.name for file in dataset_files(REPOSITORY, None, "train")] == ["part-1.jsonl.gz", "part-2.jsonl.gz"]


def test_a_local_folder_in_the_same_layout_is_taken_as_it_stands(tmp_path: Path) -> None:
    for name, content in stories().items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(content)
    files = dataset_files(str(tmp_path), "small", "train")
    assert [file.fetch(tmp_path / "cache") for file in files] == [tmp_path / "small" / "one.parquet"]
    assert files[0].address == str(tmp_path / "small" / "one.parquet")
    with pytest.raises(UsageError, match="no split 'validation'"):
        dataset_files(str(tmp_path), None, "validation")


def test_a_folder_without_configurations_takes_any_name(tmp_path: Path) -> None:
    (tmp_path / "train-0.parquet").write_bytes(table(["a"]))
    assert [file.name for file in dataset_files(str(tmp_path), "sample-10BT", "train")] == ["train-0.parquet"]


# A Hub that doesn't answer, or not at once


def test_a_hub_that_can_not_be_reached_is_told_at_once(
    hub: StandIn, monkeypatch: pytest.MonkeyPatch, patient: Retries, waits: list[float]
) -> None:
    with stand_in() as gone:
        monkeypatch.setattr(constants, "ENDPOINT", gone.url)
    with pytest.raises(UserError, match="can't be reached") as caught:
        dataset_files(REPOSITORY, None, "train", retries=patient)
    assert (caught.value.exit_code, waits) == (1, [])
    assert "gpt tokenize FILE-OR-FOLDER" in caught.value.faults[0].hint


def test_offline_mode_is_named(hub: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match="HF_HUB_OFFLINE"):
        dataset_files(REPOSITORY, None, "train")


def test_what_was_fetched_is_there_without_a_connection(
    hub: StandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (file,) = dataset_files(REPOSITORY, "small", "train")
    path = file.fetch(tmp_path)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert file.fetch(tmp_path) == path


@pytest.mark.parametrize(
    "path",
    [f"/api/datasets/{REPOSITORY}", f"/api/datasets/{REPOSITORY}/paths-info/{COMMIT}",
     f"/api/datasets/{REPOSITORY}/tree/{COMMIT}", f"/datasets/{REPOSITORY}/resolve/{COMMIT}/README.md",
     f"/datasets/{REPOSITORY}/resolve/{COMMIT}/small/one.parquet"],
)  # fmt: skip
def test_a_hub_that_asks_to_wait_is_waited_for_wherever_it_asks(
    hub: StandIn, tmp_path: Path, patient: Retries, waits: list[float], path: str
) -> None:
    hub.fail(path, Failure(429, {"RateLimit": '"api";r=0;t=40'}), Failure(429, {"Retry-After": "50"}))
    told: list[str] = []
    (file,) = dataset_files(REPOSITORY, "small", "train", told.append, patient)
    assert texts(file.fetch(tmp_path, told.append, patient)) == ["s"]
    assert told == ["127.0.0.1 asks to wait 40 s", "127.0.0.1 asks to wait 50 s"]
    assert [int(wait) // 10 for wait in waits] == [4, 5]


def test_other_users_of_the_library_are_left_alone(hub: StandIn, tmp_path: Path) -> None:
    dataset_files(REPOSITORY, "small", "train")
    hub.fail(hub.resolved("small/one.parquet"), Failure(403))
    with pytest.raises(Exception, match=r"403|locate the file"):
        hf_hub_download(REPOSITORY, "small/one.parquet", repo_type="dataset", revision=COMMIT)


# Fetching


def test_a_file_lies_in_the_cache_of_the_hub_and_is_fetched_once(hub: StandIn, tmp_path: Path) -> None:
    (file,) = dataset_files(REPOSITORY, "small", "train")
    path = file.fetch(tmp_path / "ours")
    assert path.is_relative_to(tmp_path / "hub")
    theirs = hf_hub_download(REPOSITORY, "small/one.parquet", repo_type="dataset", revision=COMMIT)
    assert Path(theirs) == path == file.fetch(tmp_path / "ours")
    assert len(hub.bodies(hub.resolved("small/one.parquet"))) == 1
    assert not (tmp_path / "ours").exists()


def test_a_login_is_sent_to_the_hub(hub: StandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_of_a_user")
    dataset_files(REPOSITORY, "small", "train")[0].fetch(tmp_path)
    asked = [asked for asked in hub.asked if asked.path == hub.resolved("small/one.parquet")]
    assert {asked.authorization for asked in asked} == {"Bearer hf_of_a_user"}


def test_what_another_tool_has_fetched_is_not_fetched_again(hub: StandIn, tmp_path: Path) -> None:
    (file,) = dataset_files(REPOSITORY, "small", "train")
    theirs = hf_hub_download(REPOSITORY, "small/one.parquet", repo_type="dataset", revision=COMMIT)
    hub.asked.clear()
    assert file.fetch(tmp_path) == Path(theirs)
    assert hub.asked == []


def test_a_file_that_a_new_commit_left_as_it_was_is_not_fetched_again(hub: StandIn, tmp_path: Path) -> None:
    dataset_files(REPOSITORY, "small", "train")[0].fetch(tmp_path)
    later = "beef" + "0" * 36
    hub.dataset(stories(), commit=later)
    HfFileSystem.clear_instance_cache()
    (file,) = dataset_files(REPOSITORY, "small", "train")
    assert later in file.address
    assert texts(file.fetch(tmp_path)) == ["s"]
    assert hub.bodies(hub.resolved("small/one.parquet", commit=later)) == []


def test_an_interrupted_fetch_goes_on_where_it_stopped(hub: StandIn, tmp_path: Path) -> None:
    file = dataset_files(REPOSITORY, "plain", "train")[1]
    hub.fail(hub.resolved("plain/train-00001.parquet"), Failure(cut=3000))
    with pytest.raises(UserError, match="broke the connection"):
        file.fetch(tmp_path, retries=Retries(tries=1))
    assert texts(file.fetch(tmp_path)) == ["b" * 5000, "c"]
    assert hub.bodies(hub.resolved("plain/train-00001.parquet")) == [None, "bytes=3000-"]


def test_a_damaged_file_of_the_cache_is_fetched_anew(hub: StandIn, tmp_path: Path) -> None:
    (file,) = dataset_files(REPOSITORY, "small", "train")
    file.fetch(tmp_path).resolve().write_bytes(b"PAR1")
    assert texts(file.fetch(tmp_path)) == ["s"]


def test_a_file_that_became_gated_names_the_way_in(hub: StandIn, tmp_path: Path) -> None:
    (file,) = dataset_files(REPOSITORY, "small", "train")
    hub.fail(hub.resolved("small/one.parquet"), Failure(401))
    with pytest.raises(UserError, match="gated or private") as caught:
        file.fetch(tmp_path)
    assert "hf auth login" in caught.value.faults[0].hint


# hf:// addresses


@pytest.mark.parametrize("path", ["", "@main", f"@{COMMIT}", "/", "@main/**/*.parquet"])
def test_an_address_of_the_hub_is_a_repository_or_a_glob(hub: StandIn, path: str) -> None:
    files = address_files(f"hf://datasets/{REPOSITORY}{path}")
    found = [file.path for file in files if isinstance(file, HubFile) and file.name != "README.md"]
    assert found == sorted(path for path in stories() if path.endswith(".parquet"))


def test_an_address_of_the_hub_is_a_folder_or_a_file_pinned_to_the_commit(hub: StandIn, tmp_path: Path) -> None:
    (file,) = address_files(f"hf://datasets/{REPOSITORY}/small/one.parquet")
    assert address_files(f"hf://datasets/{REPOSITORY}/small") == [file] == dataset_files(REPOSITORY, "small", "train")
    assert texts(file.fetch(tmp_path)) == ["s"]
    for wrong in ("/small/two.parquet", "/*.csv", "/none"):
        with pytest.raises(UsageError):
            address_files(f"hf://datasets/{REPOSITORY}{wrong}")
    with pytest.raises(UsageError, match="no address of the Hub"):
        address_files("hf://datasets/alone")


# The real wiring: nothing replaced, the library's own settings


def test_a_program_of_its_own_reads_a_hub_at_another_address(tmp_path: Path) -> None:
    code = (
        "from pathlib import Path; from gptcli.data.hub import dataset_files\n"
        "files = dataset_files('someone/stories', 'plain', 'train', print)\n"
        "print(*[file.fetch(Path('unused')).read_bytes()[:4] for file in files])\n"
    )
    with stand_in() as server:
        server.dataset(stories())
        settings = os.environ | {"HF_ENDPOINT": server.url, "HF_HOME": str(tmp_path)}
        ended = subprocess.run([sys.executable, "-c", code], env=settings, capture_output=True, text=True, timeout=60)
    assert (ended.stdout, ended.stderr) == ("b'PAR1' b'PAR1'\n", "")
