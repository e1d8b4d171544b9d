"""The tokenizer files of a folder: written, read by other programs, and found again without a network."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import tiktoken
import tokenizers
from test_tokenizer import EVERY, GPT2_TOKENIZER, LIBRARY, STRANGE, small_encoding, trained

from gptcli.errors import UsageError, UserError
from gptcli.tokenizer import Tokenizer, chars_tokenizer, get_tokenizer
from gptcli.tokenizer.splits import GPT4, O200K
from gptcli.tokenizer_files import read_tokenizer, save_tokenizer, write_tokenizer

ORDINARY = STRANGE.replace("<|endoftext|>", "")


@pytest.fixture(autouse=True)
def _no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(name: str, **_: object) -> None:
        raise ConnectionError(f"{name} was to be fetched")

    monkeypatch.setattr(tiktoken, "get_encoding", unreachable)
    monkeypatch.setattr("huggingface_hub.snapshot_download", unreachable)


def folder_of(tmp_path: Path, kind: str, **config: object) -> Path:
    """A folder in Hugging Face format that we did not write."""
    (tmp_path / "tokenizer.json").write_text(trained(kind).to_str())
    if config:
        (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    return tmp_path


@pytest.mark.parametrize("name", EVERY)
def test_every_kind_is_found_again_without_a_network(name: str, tmp_path: Path) -> None:
    save_tokenizer(tmp_path, EVERY[name])
    for found in (read_tokenizer(tmp_path, 1)[0], get_tokenizer(str(tmp_path))):
        assert found == EVERY[name]
        assert found is not None
        assert (found.name, found.eot, found.cuts) == (EVERY[name].name, EVERY[name].eot, EVERY[name].cuts)
        assert found.encode(STRANGE) == EVERY[name].encode(STRANGE)


@pytest.mark.parametrize("pattern", [GPT4, O200K, r"\S+\s*|\s+"])
def test_an_encoding_comes_back_with_its_own_pattern(pattern: str, tmp_path: Path) -> None:
    encoding = small_encoding(pattern)
    save_tokenizer(tmp_path, encoding)
    found, note = read_tokenizer(tmp_path, 1)
    assert found is not None
    assert (found.pattern, found.ranks, found.special_tokens) == (
        encoding.pattern, encoding.ranks, encoding.special_tokens,
    )  # fmt: skip
    assert note == ""


@pytest.mark.parametrize("name", EVERY)
def test_the_library_reads_what_we_write(name: str, tmp_path: Path) -> None:
    write_tokenizer(tmp_path, EVERY[name], context_length=64)
    theirs = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    assert theirs.encode(ORDINARY, add_special_tokens=False).ids == EVERY[name].encode(ORDINARY)


@pytest.mark.parametrize("name", ["gpt2", "small", "bytes", "chars", "bytelevel"])
def test_transformers_takes_the_files_that_we_write(name: str, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    write_tokenizer(tmp_path, EVERY[name], context_length=64)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    assert theirs(ORDINARY)["input_ids"] == EVERY[name].encode(ORDINARY)
    assert theirs.decode(EVERY[name].encode(ORDINARY)) == ORDINARY
    assert theirs.eos_token_id == EVERY[name].eot
    assert theirs.model_max_length == 64
    assert len(theirs) <= EVERY[name].vocab_size


def test_a_tokenizer_that_was_changed_after_it_was_written_is_refused(tmp_path: Path) -> None:
    save_tokenizer(tmp_path, chars_tokenizer("abc"))
    file = tmp_path / "tokenizer.json"
    file.write_text(file.read_text().replace('"b"', '"x"'))
    with pytest.raises(UserError, match="not the one"):
        read_tokenizer(tmp_path, 128)
    file.write_text(file.read_text()[:100])
    with pytest.raises(UserError, match="damaged"):
        read_tokenizer(tmp_path, 128)
    file.unlink()
    with pytest.raises(UserError, match="missing"):
        read_tokenizer(tmp_path, 128)


def test_a_changed_fingerprint_is_refused(tmp_path: Path) -> None:
    save_tokenizer(tmp_path, GPT2_TOKENIZER)
    config = tmp_path / "tokenizer_config.json"
    config.write_text(config.read_text().replace(GPT2_TOKENIZER.sha256, "0" * 64))
    with pytest.raises(UserError, match="not the one"):
        read_tokenizer(tmp_path, 50_304)


def test_gpt2_is_known_by_its_merges(tmp_path: Path) -> None:
    save_tokenizer(tmp_path, GPT2_TOKENIZER)
    (tmp_path / "tokenizer_config.json").unlink()
    found, note = read_tokenizer(tmp_path, 50_304)
    assert (found, note) == (GPT2_TOKENIZER, "")
    assert found is not None
    assert found.name == "gpt2"


def test_gpt2_with_more_tokens_is_not_gpt2(tmp_path: Path) -> None:
    made = tokenizers.Tokenizer.from_str(GPT2_TOKENIZER.to_json())
    made.add_special_tokens(["<|user|>"])
    made.save(str(tmp_path / "tokenizer.json"))
    found, _ = read_tokenizer(tmp_path, 50_304)
    assert found is not None
    assert (found.vocab_size, found.eot) == (50_258, 50_256)
    assert found != GPT2_TOKENIZER
    assert found.encode(STRANGE) == GPT2_TOKENIZER.encode(STRANGE)


def test_gpt2_with_another_split_is_not_gpt2(tmp_path: Path) -> None:
    made = tokenizers.Tokenizer.from_str(GPT2_TOKENIZER.to_json())
    made.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=True)
    made.save(str(tmp_path / "tokenizer.json"))
    found, _ = read_tokenizer(tmp_path, 50_304)
    assert found is not None
    assert found.encode("world") == GPT2_TOKENIZER.encode(" world")


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("tokenizer_config.json", {"eos_token": "<s>"}),
        ("tokenizer_config.json", {"eos_token": {"content": "<s>", "lstrip": False}}),
        ("generation_config.json", {"eos_token_id": [1, 2]}),
        ("config.json", {"eos_token_id": 1}),
    ],
)
def test_files_beside_tell_the_end_of_text(file: str, content: dict[str, object], tmp_path: Path) -> None:
    folder = folder_of(tmp_path, "llama")
    assert get_tokenizer(str(folder)).eot == 2  # </s>, by its name
    (folder / file).write_text(json.dumps(content))
    assert get_tokenizer(str(folder)).eot == 1
    assert get_tokenizer(str(folder / "tokenizer.json")).eot == 1


def test_a_tokenizer_without_an_end_of_text_says_so(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, "bytelevel")
    file = folder / "tokenizer.json"
    file.write_text(file.read_text().replace("</s>", "<pad>"))
    with pytest.raises(UsageError, match="does not tell which token ends a text") as error:
        get_tokenizer(str(file))
    assert "eos_token" in error.value.faults[0].hint
    tokenizer, note = read_tokenizer(folder, 384)
    assert tokenizer is None
    assert "token ids, not text" in note


def test_a_foreign_folder_takes_text_by_the_library(tmp_path: Path) -> None:
    found, note = read_tokenizer(folder_of(tmp_path, "llama", eos_token="</s>"), 32_000)
    assert (found, note) == (LIBRARY["llama"], "")


def test_a_file_of_any_name_is_a_tokenizer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("mine.json").write_text(trained("bytelevel").to_str())
    assert get_tokenizer("mine.json") == LIBRARY["bytelevel"]
    assert get_tokenizer("mine.json").name == "mine.json"
    with pytest.raises(UsageError, match=r"no file yours\.json"):
        get_tokenizer("yours.json")
    Path("config.json").write_text("{}")
    with pytest.raises(UserError, match="damaged or none"):
        get_tokenizer("config.json")
    with pytest.raises(UsageError, match="holds no tokenizer"):
        get_tokenizer(".")


def test_a_file_that_has_changed_is_read_again(tmp_path: Path) -> None:
    file = tmp_path / "tokenizer.json"
    file.write_text(trained("bytelevel").to_str())
    before = get_tokenizer(str(file))
    file.write_text(trained("llama").to_str())
    assert get_tokenizer(str(file)) != before


def test_a_folder_without_tokenizer_files_is_gpt2_by_its_vocabulary_or_takes_ids_only(tmp_path: Path) -> None:
    for vocab_size in (50_257, 50_304):
        tokenizer, note = read_tokenizer(tmp_path, vocab_size)
        assert tokenizer == GPT2_TOKENIZER
        assert "taken as gpt2's" in note
    for vocab_size in (50_256, 50_305, 3):
        tokenizer, note = read_tokenizer(tmp_path, vocab_size)
        assert tokenizer is None
        assert "ids" in note


def test_a_tokenizer_in_another_format_is_not_taken_for_gpt2(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.model").write_bytes(b"sentencepiece")
    tokenizer, note = read_tokenizer(tmp_path, 50_304)
    assert tokenizer is None
    assert "no tokenizer.json" in note


def test_names_do_not_make_tokenizers_different() -> None:
    ranks, pattern = GPT2_TOKENIZER.ranks, GPT2_TOKENIZER.pattern
    assert ranks is not None
    assert pattern is not None
    r50k = tiktoken.Encoding(
        name="r50k_base", pat_str=pattern, mergeable_ranks=ranks, special_tokens={"<|endoftext|>": 50_256}
    )
    assert Tokenizer(r50k) == GPT2_TOKENIZER
