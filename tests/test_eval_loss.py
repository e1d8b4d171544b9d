"""Loss, perplexity and bits per byte over a validation split or a text."""

from __future__ import annotations

import json
import math
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import GPT2LMHeadModel

from gptcli.data.manifest import Manifest, ShardRecord, TokenizerRecord, Totals
from gptcli.distributed.group import Group
from gptcli.distributed.runtime import Ranks
from gptcli.errors import UsageError, UserError
from gptcli.evals.loss import LOSS, bytes_of_tokens, ratio_stderr
from gptcli.evals.loss_windows import Windows, batches, windows_of_documents, windows_of_stream
from gptcli.evals.run import evaluate
from gptcli.evals.task import Measured, TaskResult
from gptcli.inference.load import load
from gptcli.model.config import GPTConfig
from gptcli.model.huggingface import write_model
from gptcli.model.network import GPT
from gptcli.settings import EvalSettings
from gptcli.tokenizer import Tokenizer, get_tokenizer
from gptcli.tokenizer.characters import CharsVocabulary
from gptcli.tokenizer_files import write_tokenizer

CONTEXT = 16
BYTES = get_tokenizer("bytes")  # few ids, so that all is fast
TEXT = [
    "To be, or not to be: that is the question. Ça va? 语言模型 " * 3 + "Adieu.",
    "",
    "Whether 'tis nobler in the mind to suffer",
]


def tokens_of(texts: list[str]) -> list[int]:
    """The texts as documents, each after an end-of-text token."""
    return [token for text in texts for token in (BYTES.eot, *BYTES.encode(text))]


def write_shards(folder: Path, tokens: list[int], tokenizer: TokenizerRecord | None = None) -> Path:
    """A data folder whose validation split is `tokens`, with a manifest if a tokenizer is named."""
    folder.mkdir()
    shards = []
    for split, number, part in (("val", 0, tokens), ("train", 1, tokens[:5])):
        np.save(folder / f"{split}_{number:06d}.npy", np.array(part, dtype=np.uint16))
        shards.append(ShardRecord(name=f"{split}_{number:06d}.npy", split=split, tokens=len(part), sha256="0" * 64))
    if tokenizer:
        Manifest(
            tokenizer=tokenizer,
            dtype="uint16",
            shards=tuple(shards),
            totals=Totals(documents=1, tokens=len(tokens), bytes=1),
            sources={},
            options={},
        ).write(folder)
    return folder


def bytes_record(**changes: str | int) -> TokenizerRecord:
    record = {"name": "bytes", "vocab_size": BYTES.vocab_size, "eot": BYTES.eot, "sha256": BYTES.sha256}
    return TokenizerRecord.model_validate(record | changes)


def random_model(vocab_size: int) -> GPT:
    model = GPT(GPTConfig(vocab_size, 16, CONTEXT, n_layers=2, n_heads=2, qkv_bias=True))
    model.initialise(torch.Generator().manual_seed(0))
    with torch.no_grad():
        model.token_embedding.weight.mul_(20)
    return model.eval()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random model with a tokenizer and padded rows."""
    folder = tmp_path_factory.mktemp("model")
    write_model(folder, random_model(264), BYTES.eot)
    write_tokenizer(folder, BYTES, CONTEXT)
    return folder


@pytest.fixture(scope="module")
def model_of_ids(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random model of 30 ids, without a tokenizer."""
    folder = tmp_path_factory.mktemp("ids")
    write_model(folder, random_model(30), None)
    return folder


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """TEXT in shards that name their tokenizer."""
    return write_shards(tmp_path_factory.mktemp("shards") / "data", tokens_of(TEXT), bytes_record())


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """TEXT as a line of JSON for each document."""
    file = tmp_path_factory.mktemp("text") / "text.jsonl"
    file.write_text("".join(json.dumps({"text": document}) + "\n" for document in TEXT), encoding="utf-8")
    return file


@pytest.fixture(scope="module")
def theirs(folder: Path) -> GPT2LMHeadModel:
    """The same model in transformers."""
    return GPT2LMHeadModel.from_pretrained(folder).eval()


def measure(model: Path, shards: Path | None = None, **options: Any) -> TaskResult:
    if shards is not None:
        options["data_root"] = str(shards)
    settings = EvalSettings(tasks=("loss",), model=(str(model),), device="cpu", **{"batch_tokens": 1000} | options)
    (result,) = evaluate(settings)
    return result


def figures(model: Path, shards: Path | None = None, **options: Any) -> Any:
    return measure(model, shards, **options).as_dict()


def nats_side_by_side(theirs: GPT2LMHeadModel, ids: list[int]) -> list[float]:
    """The loss of every token but the first in windows side by side."""
    losses: list[float] = []
    for start in range(0, len(ids) - 1, CONTEXT):
        window = torch.tensor([ids[start : start + CONTEXT + 1]])
        with torch.no_grad():
            logs = torch.log_softmax(theirs(window[:, :-1]).logits.double(), -1)
        losses += (-logs.gather(-1, window[:, 1:, None])).flatten().tolist()
    return losses


def sliding_loss(theirs: GPT2LMHeadModel, ids: list[int], stride: int) -> float:
    """The recipe of https://huggingface.co/docs/transformers/perplexity, weighted by the tokens that are predicted."""
    nats, n_tokens, previous = 0.0, 0, 0
    for begin in range(0, len(ids), stride):
        end = min(begin + CONTEXT, len(ids))
        window = torch.tensor([ids[begin:end]])
        targets = window.clone()
        targets[:, : previous - begin] = -100
        count = int((targets[:, 1:] != -100).sum())
        with torch.no_grad():
            nats += theirs(window, labels=targets).loss.item() * count
        n_tokens, previous = n_tokens + count, end
        if end == len(ids):
            break
    return nats / n_tokens


# Against transformers


@pytest.mark.parametrize("limit", [None, 3])
def test_the_loss_is_that_of_transformers_on_the_same_windows(
    folder: Path, theirs: GPT2LMHeadModel, shards: Path, limit: int | None
) -> None:
    result = figures(folder, shards, limit=limit)
    tokens = tokens_of(TEXT)
    windows = min((len(tokens) - 1) // CONTEXT, limit or len(tokens))
    losses = nats_side_by_side(theirs, tokens[: windows * CONTEXT + 1])
    expected = sum(losses) / len(losses)
    assert result["loss"] == pytest.approx(expected, abs=1e-4)
    assert result["perplexity"] == pytest.approx(math.exp(expected), rel=1e-3)
    assert (result["tokens"], result["n"]) == (windows * CONTEXT, windows)


@pytest.mark.parametrize("stride", [1, 5, CONTEXT - 1])
def test_a_stride_gives_the_loss_of_hugging_faces_recipe(
    folder: Path, theirs: GPT2LMHeadModel, text: Path, stride: int
) -> None:
    result = figures(folder, text=str(text), stride=stride)
    ids = tokens_of(TEXT)
    assert result["loss"] == pytest.approx(sliding_loss(theirs, ids, stride), abs=1e-4)
    assert result["tokens"] == len(ids) - 1


def test_the_loss_of_a_text_is_that_of_transformers_on_all_of_its_tokens(
    folder: Path, theirs: GPT2LMHeadModel, tmp_path: Path
) -> None:
    file = tmp_path / "text.txt"
    file.write_text(TEXT[0], encoding="utf-8")
    result = figures(folder, text=str(file))
    losses = nats_side_by_side(theirs, tokens_of(TEXT[:1]))
    assert len(losses) % CONTEXT, "the last window should be shorter"
    assert result["loss"] == pytest.approx(sum(losses) / len(losses), abs=1e-4)
    assert result["tokens"] == len(losses) == len(TEXT[0].encode())
    assert result["n"] == math.ceil(len(losses) / CONTEXT)


def test_a_documents_loglikelihood_is_that_of_transformers_on_it_alone(
    folder: Path, theirs: GPT2LMHeadModel, shards: Path
) -> None:
    rows = measure(folder, shards, per_document=True).measured.rows
    expected = [-sum(nats_side_by_side(theirs, tokens_of([TEXT[number]]))) for number in (0, 2)]
    assert [row["index"] for row in rows] == [0, 2]
    assert [row["loglikelihood"] for row in rows] == pytest.approx(expected, abs=1e-3)


# Figures


def test_bits_per_byte_relate_the_loss_to_the_bytes_of_the_targets(folder: Path, shards: Path) -> None:
    tokens = tokens_of(TEXT)
    result = figures(folder, shards)
    scored = tokens[1 : 1 + (len(tokens) - 1) // CONTEXT * CONTEXT]
    n_bytes = sum(token != BYTES.eot for token in scored)
    assert n_bytes < len(scored)
    assert result["bits_per_byte"] == pytest.approx(result["loss"] * len(scored) / math.log(2) / n_bytes)


def test_the_bytes_of_tokens_add_up_to_those_of_the_text() -> None:
    gpt2 = get_tokenizer("gpt2")
    sizes = bytes_of_tokens(gpt2, 50_304)
    assert all(sizes[gpt2.encode(text)].sum() == len(text.encode()) for text in TEXT)
    assert sizes[50_256:].sum() == 0


@pytest.mark.parametrize("name", ["gpt2", "bytes", "chars"])
def test_the_bytes_that_are_counted_are_the_texts_whatever_the_tokenizer(tmp_path: Path, name: str) -> None:
    written = "Ça va? 语言模型 " * 4
    characters = CharsVocabulary("".join(sorted(set(written))))
    tokenizer = Tokenizer(characters) if name == "chars" else get_tokenizer(name)
    file, model = tmp_path / "text.txt", tmp_path / "model"
    file.write_text(written, encoding="utf-8")
    model.mkdir()
    write_model(model, random_model(tokenizer.vocab_size), tokenizer.eot)
    write_tokenizer(model, tokenizer, CONTEXT)
    result = figures(model, text=str(file))
    bits = result["loss"] * result["tokens"] / math.log(2)
    assert result["bits_per_byte"] == pytest.approx(bits / len(written.encode()))


def test_a_ratios_standard_error_is_that_of_a_mean_where_all_sizes_are_equal() -> None:
    values = np.array([3.0, 1.0, 4.0, 1.0, 5.0])
    expected = (values / 7).std(ddof=1) / math.sqrt(5)
    assert ratio_stderr(values, np.full(5, 7)) == pytest.approx(expected)
    assert ratio_stderr(values[:1], np.array([7])) is None


def test_a_ratios_standard_error_is_how_far_it_lies_off_in_samples() -> None:
    generator = np.random.default_rng(0)
    sizes = generator.integers(1, 50, (4000, 40))
    values = sizes * 3.0 + generator.normal(0, 10, sizes.shape)
    told = [ratio_stderr(*sample) for sample in zip(values, sizes, strict=True)]
    assert np.mean(told) == pytest.approx((values.sum(1) / sizes.sum(1)).std(), rel=0.05)


def test_the_standard_errors_are_between_windows_or_documents(folder: Path, text: Path) -> None:
    measured = measure(folder, text=str(text), per_document=True).measured
    nats = np.array([-row["loglikelihood"] for row in measured.rows])  # type: ignore[operator]
    n_tokens, n_bytes = (np.array([row[name] for row in measured.rows]) for name in ("tokens", "bytes"))
    assert measured.figures["loss_stderr"] == pytest.approx(ratio_stderr(nats, n_tokens))
    assert measured.figures["bits_per_byte_stderr"] == pytest.approx(ratio_stderr(nats / math.log(2), n_bytes))
    one = measure(folder, text=str(text), limit=1).measured.figures
    assert (one["loss_stderr"], one["bits_per_byte_stderr"]) == (None, None)


def test_the_keys_are_those_of_the_contract_and_json(folder: Path, shards: Path) -> None:
    measured = measure(folder, shards, per_document=True)
    result = measured.as_dict()
    assert {"task", "style", "model", "n", "loss", "perplexity", "bits_per_byte", "tokens", "seconds"} <= set(result)
    assert {"loss_stderr", "bits_per_byte_stderr"} <= set(result)
    json.dumps([result, *measured.measured.rows], allow_nan=False)


@pytest.mark.parametrize("options", [{}, {"stride": 5}, {"per_document": True}])
def test_the_batch_size_changes_nothing(folder: Path, shards: Path, options: dict[str, Any]) -> None:
    results = [measure(folder, shards, **options, batch_tokens=size) for size in (1, 50, None)]
    for name, value in results[0].measured.figures.items():
        assert [result.measured.figures[name] for result in results] == pytest.approx([value] * 3, rel=1e-6)
    for rows in zip(*(result.measured.rows for result in results), strict=True):
        assert all(dict(row) == pytest.approx(dict(rows[0]), rel=1e-6) for row in rows)


@pytest.mark.parametrize("options", [{}, {"stride": 5}, {"per_document": True}, {"limit": 2}])
def test_processes_share_the_work_and_all_have_the_same_result(
    folder: Path, shards: Path, options: dict[str, Any]
) -> None:
    settings = EvalSettings(data_root=str(shards), batch_tokens=40, **options)
    model, scorer = load(folder, device="cpu"), LOSS.prepare(settings, "windows")
    alone = scorer.score(model, Group(Ranks(), torch.device("cpu")), lambda *_: None)
    results = together(3, lambda group: scorer.score(model, group, lambda *_: None))
    assert results[1:] == results[:1] * 2
    assert results[0].n == alone.n
    assert results[0].figures == pytest.approx(alone.figures, rel=1e-6)
    for ours, other in zip(results[0].rows, alone.rows, strict=True):
        assert ours == pytest.approx(other, rel=1e-6)


def together(n: int, work: Callable[[Group], Measured]) -> list[Measured]:
    """What `work` gives in each of `n` processes; here they are threads."""
    barrier, told = threading.Barrier(n, timeout=60), [None] * n
    results: dict[int, Measured] = {}

    class Threads(Group):
        def gather(self, value: Any) -> Any:
            told[self.ranks.rank] = value
            barrier.wait()
            return list(told)

    def run(rank: int) -> None:
        results[rank] = work(Threads(Ranks(rank, rank, n, n), torch.device("cpu")))

    threads = [threading.Thread(target=run, args=(rank,)) for rank in range(n)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return [results[rank] for rank in range(n)]


def test_progress_goes_up_to_all_windows(folder: Path, shards: Path) -> None:
    told: list[tuple[int, int]] = []
    scorer = LOSS.prepare(EvalSettings(data_root=str(shards), batch_tokens=40), "windows")
    measured = scorer.score(
        load(folder, device="cpu"), Group(Ranks(), torch.device("cpu")), lambda *done: told.append(done)
    )
    assert told == sorted(told)
    assert told[-1] == (measured.n, measured.n)


# Windows and documents


def positions_scored(windows: Windows) -> list[int]:
    """The positions of all tokens that count, window by window."""
    return [
        start + length + 1 - back
        for start, length, scored in zip(windows.starts, windows.lengths, windows.scored, strict=True)
        for back in range(scored, 0, -1)
    ]


@given(
    n_tokens=st.integers(1, 200), n_begin=st.integers(1, 2), context=st.integers(2, 20), data=st.data()
)  # fmt: skip
def test_every_token_of_a_text_counts_once_after_enough_others(
    n_tokens: int, n_begin: int, context: int, data: st.DataObject
) -> None:
    stride = data.draw(st.none() | st.integers(1, context))
    if stride not in (None, context):
        n_begin = min(n_begin, context - 1)
    windows = windows_of_stream(n_tokens, n_begin, context, stride, whole=False, limit=None)
    assert positions_scored(windows) == list(range(n_begin, n_tokens))
    assert (windows.lengths <= context).all()
    before = windows.lengths - windows.scored + 1  # tokens before the first that counts
    assert (before[1:] >= context - (stride or context)).all()
    assert (windows.starts + windows.lengths < n_tokens).all()


@given(n_tokens=st.integers(1, 200), context=st.integers(2, 20), data=st.data())
def test_of_a_stream_of_shards_only_whole_windows_count(n_tokens: int, context: int, data: st.DataObject) -> None:
    stride = data.draw(st.integers(1, context))
    windows = windows_of_stream(n_tokens, 1, context, stride, whole=True, limit=None)
    assert (windows.lengths == (context if stride == context else context - 1)).all()
    positions = positions_scored(windows)
    assert positions == list(range(1, len(positions) + 1))
    assert n_tokens - 1 - len(positions) < (stride if len(windows) else context)


@given(n_tokens=st.integers(1, 200), context=st.integers(2, 20), limit=st.integers(1, 30), data=st.data())
def test_a_limit_takes_the_first_windows(n_tokens: int, context: int, limit: int, data: st.DataObject) -> None:
    stride, whole = data.draw(st.integers(1, context)), data.draw(st.booleans())
    everything = windows_of_stream(n_tokens, 1, context, stride, whole=whole, limit=None)
    limited = windows_of_stream(n_tokens, 1, context, stride, whole=whole, limit=limit)
    for name in ("starts", "lengths", "scored"):
        assert getattr(limited, name).tolist() == getattr(everything, name)[:limit].tolist()


@given(sizes=st.lists(st.integers(1, 60), min_size=1, max_size=8), context=st.integers(2, 20), data=st.data())
def test_every_token_of_every_document_counts_once_and_none_sees_another_document(
    sizes: list[int], context: int, data: st.DataObject
) -> None:
    stride = data.draw(st.none() | st.integers(1, context))
    ends = np.cumsum(sizes)
    begins = ends - np.array(sizes)
    windows = windows_of_documents(begins, int(ends[-1]), 1, context, stride, None)
    assert positions_scored(windows) == [at for at in range(int(ends[-1])) if at not in begins]
    assert (windows.starts >= begins[windows.units]).all()
    assert (windows.starts + windows.lengths < ends[windows.units]).all()
    totals = windows.per_unit(windows.scored).tolist()
    assert totals == [size - 1 for size in sizes if size > 1]


@given(
    lengths=st.lists(st.integers(1, 20), min_size=1, max_size=50),
    batch_tokens=st.integers(1, 100),
    n_parts=st.integers(1, 4),
)
def test_batches_hold_every_window_once_and_no_more_tokens_than_asked(
    lengths: list[int], batch_tokens: int, n_parts: int
) -> None:
    sizes = np.array(lengths)
    windows = Windows(np.cumsum(sizes), sizes, sizes, np.arange(len(sizes)))
    found = [batch for part in range(n_parts) for batch in batches(windows, batch_tokens, part, n_parts)]
    assert sorted(np.concatenate(found).tolist()) == list(range(len(sizes)))
    assert all(len(batch) == 1 or len(batch) * sizes[batch].max() <= batch_tokens for batch in found)


def test_a_stride_of_the_context_length_is_the_default(folder: Path, shards: Path) -> None:
    default, strided = measure(folder, shards).measured, measure(folder, shards, stride=CONTEXT).measured
    assert strided == default


def test_more_context_is_there_with_a_stride_on_shards_too(folder: Path, theirs: GPT2LMHeadModel, shards: Path) -> None:
    result = figures(folder, shards, stride=5)
    whole = 1 + (len(tokens_of(TEXT)) - CONTEXT) // 5
    ids = tokens_of(TEXT)[: CONTEXT + (whole - 1) * 5]
    assert result["n"] == whole
    assert result["loss"] == pytest.approx(sliding_loss(theirs, ids, 5), abs=1e-4)


@pytest.mark.parametrize("stride", [None, 5])
def test_documents_add_up_to_the_total(folder: Path, text: Path, stride: int | None) -> None:
    measured = measure(folder, text=str(text), per_document=True, stride=stride).measured
    total: dict[str, Any] = {name: sum(row[name] for row in measured.rows) for name in ("tokens", "bytes")}  # type: ignore[misc]
    nats = -sum(row["loglikelihood"] for row in measured.rows)  # type: ignore[misc]
    assert measured.n == len(measured.rows) == 2
    assert total["tokens"] == measured.figures["tokens"] == len(tokens_of(TEXT)) - 3
    assert total["bytes"] == sum(len(document.encode()) for document in TEXT)
    assert measured.figures["loss"] == pytest.approx(nats / total["tokens"])
    assert measured.figures["bits_per_byte"] == pytest.approx(nats / math.log(2) / total["bytes"])
    row = measured.rows[1]
    assert row["loss"] == pytest.approx(-row["loglikelihood"] / row["tokens"])  # type: ignore[operator]
    assert row["bits_per_byte"] == pytest.approx(row["loss"] * row["tokens"] / row["bytes"] / math.log(2))  # type: ignore[operator]


def test_the_documents_of_shards_are_those_of_the_text(folder: Path, shards: Path, text: Path) -> None:
    of_shards = measure(folder, shards, per_document=True).measured
    assert of_shards == measure(folder, text=str(text), per_document=True).measured


def test_what_stands_before_the_first_document_of_shards_belongs_to_none(folder: Path, tmp_path: Path) -> None:
    ids = BYTES.encode("the end of another document")
    shards = write_shards(tmp_path / "data", [*ids, *tokens_of(TEXT[2:])], bytes_record())
    (row,) = measure(folder, shards, per_document=True).measured.rows
    assert row["bytes"] == len(TEXT[2].encode())


def test_a_limit_takes_the_first_documents_with_text(folder: Path, tmp_path: Path) -> None:
    file = tmp_path / "text.jsonl"
    file.write_text("".join(json.dumps({"text": text}) + "\n" for text in ["", "one", "", "two", "three"]))
    rows = measure(folder, text=str(file), per_document=True, limit=2).measured.rows
    assert [row["index"] for row in rows] == [1, 3]


def test_a_text_scores_as_its_shards_do(folder: Path, shards: Path, text: Path) -> None:
    limit = figures(folder, shards)["n"]
    assert measure(folder, text=str(text), limit=limit).measured == measure(folder, shards).measured


def test_a_text_shorter_than_a_window_is_measured(folder: Path, tmp_path: Path) -> None:
    file = tmp_path / "text.md"
    file.write_text("Hello world")
    result = figures(folder, text=str(file), stride=3)
    assert (result["tokens"], result["n"], result["loss_stderr"]) == (11, 1, None)


# Shards, models and calls that don't fit


def test_shards_that_name_no_tokenizer_are_taken_as_the_models_and_that_is_said(
    folder: Path, shards: Path, tmp_path: Path
) -> None:
    named = measure(folder, shards)
    result = measure(folder, write_shards(tmp_path / "data", tokens_of(TEXT)))
    assert result.as_dict()["bits_per_byte"] == named.as_dict()["bits_per_byte"]
    assert not named.notes
    assert "does not name its tokenizer" in result.notes[0]


def test_a_model_of_ids_has_a_loss_and_no_bits_per_byte(model_of_ids: Path, tmp_path: Path) -> None:
    result = figures(model_of_ids, write_shards(tmp_path / "data", [i * 7 % 30 for i in range(100)]))
    assert (result["bits_per_byte"], result["bits_per_byte_stderr"]) == (None, None)
    assert result["loss_stderr"] > 0
    assert result["tokens"] == 96


def test_a_model_of_ids_has_documents_without_bytes(model_of_ids: Path, tmp_path: Path) -> None:
    record = bytes_record(name="mine", vocab_size=30, eot=29)
    shards = write_shards(tmp_path / "data", [29, 1, 2, 29, 29, 3, 4, 5], record)
    rows = measure(model_of_ids, shards, per_document=True).measured.rows
    assert [(row["index"], row["tokens"], row["bytes"]) for row in rows] == [(0, 2, None), (2, 3, None)]


def test_shards_of_another_tokenizer_are_refused_naming_both(folder: Path, tmp_path: Path) -> None:
    shards = write_shards(tmp_path / "data", tokens_of(TEXT), bytes_record(name="p50k_base", sha256="f" * 64))
    with pytest.raises(UsageError, match=r"'p50k_base'.*'bytes'"):
        measure(folder, shards)


def test_shards_of_the_same_vocabulary_by_another_name_are_measured(folder: Path, tmp_path: Path) -> None:
    shards = write_shards(tmp_path / "data", tokens_of(TEXT), bytes_record(name="r50k_base"))
    assert measure(folder, shards).measured.n > 0


def test_another_vocabulary_of_the_same_name_is_refused(folder: Path, tmp_path: Path) -> None:
    shards = write_shards(tmp_path / "data", tokens_of(TEXT), bytes_record(sha256="f" * 64))
    with pytest.raises(UsageError, match="different vocabularies"):
        measure(folder, shards)


def test_a_vocabulary_larger_than_the_models_is_refused(model_of_ids: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="257"):
        measure(model_of_ids, write_shards(tmp_path / "data", [1] * 100, bytes_record()))
    with pytest.raises(UserError, match="the id 30"):
        measure(model_of_ids, write_shards(tmp_path / "unnamed", [30] * 100))


def test_a_split_shorter_than_a_window_is_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="16 tokens"):
        measure(folder, write_shards(tmp_path / "data", [1] * CONTEXT, bytes_record()))


def test_without_a_token_to_score_that_is_said(folder: Path, tmp_path: Path) -> None:
    shards = write_shards(tmp_path / "data", [BYTES.eot] * 50, bytes_record())
    with pytest.raises(UserError, match="no token to score"):
        measure(folder, shards, per_document=True)
    empty = tmp_path / "text.txt"
    empty.touch()
    with pytest.raises(UserError, match="holds no text"):
        measure(folder, text=str(empty))


def test_a_model_without_a_tokenizer_takes_no_text(model_of_ids: Path, text: Path) -> None:
    with pytest.raises(UserError, match="has no tokenizer"):
        measure(model_of_ids, text=str(text))


def test_a_text_with_characters_that_the_tokenizer_lacks_is_refused_before_the_weights_are_read(tmp_path: Path) -> None:
    tokenizer = Tokenizer(CharsVocabulary("abc"))
    write_model(tmp_path, random_model(tokenizer.vocab_size), tokenizer.eot)
    write_tokenizer(tmp_path, tokenizer, CONTEXT)
    (tmp_path / "model.safetensors").write_bytes(b"")
    (tmp_path / "text.txt").write_text("abcd")
    with pytest.raises(UserError, match="has no 'd'"):
        measure(tmp_path, text=str(tmp_path / "text.txt"))


def test_documents_can_not_be_told_in_shards_that_name_no_tokenizer(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="where its documents begin"):
        measure(folder, write_shards(tmp_path / "data", tokens_of(TEXT)), per_document=True)


def test_a_stride_longer_than_the_context_is_wrong_usage(folder: Path, shards: Path) -> None:
    with pytest.raises(UsageError, match="from 1 to 16"):
        measure(folder, shards, stride=CONTEXT + 1)


def test_one_of_shards_and_text_is_asked_for(folder: Path, shards: Path, text: Path) -> None:
    with pytest.raises(UsageError, match="needs a folder of token shards or a text") as error:
        measure(folder)
    assert "--text" in error.value.faults[0].hint
    with pytest.raises(UsageError, match="on one of them"):
        measure(folder, shards, text=str(text))


def test_rows_to_save_are_those_of_documents(folder: Path, shards: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="a line for each document") as error:
        measure(folder, shards, save=str(tmp_path / "rows.jsonl"))
    assert "--per-document" in error.value.faults[0].hint
    assert measure(folder, shards, save=str(tmp_path / "rows.jsonl"), per_document=True).measured.rows


def test_what_is_not_there_or_no_file_of_this_machine_is_wrong_usage(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="missing"):
        measure(folder, tmp_path / "missing")
    with pytest.raises(UsageError, match="There is no file"):
        measure(folder, text=str(tmp_path / "missing.txt"))
    for elsewhere in ("-", "https://example.org/text.txt"):
        with pytest.raises(UsageError, match="no file of this machine"):
            measure(folder, text=elsewhere)
