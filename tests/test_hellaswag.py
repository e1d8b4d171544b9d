"""HellaSwag: its data, its scoring, and `evaluate` around it."""

from __future__ import annotations

import importlib.util
import json
import lzma
import math
import subprocess
import sys
import zipfile
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import tiktoken
import torch
from small_runs import sharp
from torch.nn import functional as F

from gptcli.errors import UsageError, UserError
from gptcli.evals import scoring
from gptcli.evals.hellaswag import HELLASWAG
from gptcli.evals.origin import spread
from gptcli.evals.question_task import count_choices
from gptcli.evals.questions import Item, Question, Scored, Style, prepare, score, truncated
from gptcli.evals.run import TASKS, evaluate, save_rows
from gptcli.evals.scoring import Continuation, Tree, batches
from gptcli.inference import logprobs
from gptcli.model.config import GPTConfig
from gptcli.model.huggingface import write_model
from gptcli.model.network import GPT
from gptcli.settings import EvalSettings
from gptcli.tokenizer import get_tokenizer

pytestmark = pytest.mark.usefixtures("one_thread")

REAL_DATA = Path(__file__).parents[2] / "shared" / "data" / "hellaswag_val.jsonl.xz"
SUBJECTS = ("A man", "The old dog", "She", "A very small child with a red ball in the garden")
ENDINGS = ("runs away.", "is holding a rubik's cube.", "sits down, and sings a song about the sea.", "starts.")


def rows(n: int = 12) -> list[dict[str, Any]]:
    """Lines as the original file has them."""
    return [
        {
            "ind": 7 * i,
            "activity_label": "Playing [outside]",
            "ctx_a": f"{SUBJECTS[i % 4]} is outside on day {i}. " * (1 + i % 3),
            "ctx_b": "then",
            "ctx": f"{SUBJECTS[i % 4]} is outside on day {i}. " * (1 + i % 3) + "then",
            "endings": [f"{ENDINGS[(i + j) % 4]} {'Again. ' * (i * j % 4)}".strip() for j in range(4)],
            "label": (i * 3) % 4,
        }
        for i in range(n)
    ]


def write(file: Path, lines: list[dict[str, Any]]) -> Path:
    file.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return file


def questions_of(file: Path, style: Style = "completion") -> list[Question]:
    return HELLASWAG.questions(style, str(file))[0]


def random_model(context_length: int = 96, drop_rate: float = 0.0) -> GPT:
    """A random network for gpt2's tokens."""
    return sharp(GPTConfig(50_304, 16, context_length, n_layers=2, n_heads=2, qkv_bias=True, drop_rate=drop_rate))


@pytest.fixture(scope="module")
def model() -> GPT:
    return random_model()


@pytest.fixture(scope="module")
def items(tmp_path_factory: pytest.TempPathFactory) -> list[Item]:
    file = write(tmp_path_factory.mktemp("data") / "val.jsonl", rows())
    return prepare(questions_of(file), get_tokenizer("gpt2"), "completion")


# Items


def test_an_ending_is_tokenised_by_itself_after_a_space(items: list[Item]) -> None:
    tokenizer = get_tokenizer("gpt2")
    row = rows()[2]
    assert list(items[2].context) == tokenizer.encode(row["ctx"])
    assert [list(ending) for ending in items[2].endings] == [tokenizer.encode(" " + e) for e in row["endings"]]


def test_an_empty_context_is_the_start_of_a_document() -> None:
    tokenizer = get_tokenizer("gpt2")
    (item,) = prepare([Question(0, "", ("a", "b", "c", ""), 0)], tokenizer, "completion")
    assert item.context == (tokenizer.eot,)
    assert all(item.endings)


def test_a_subset_is_spread_over_the_file() -> None:
    assert spread(range(10), 4) == [0, 2, 5, 7]
    assert spread(range(10), 10) == spread(range(10), 99) == list(range(10))


# Scoring


def reference(model: GPT, item: Item) -> tuple[list[float], list[float]]:
    """The original's method: four padded rows, all logits, sums and means over the endings' tokens."""
    tokens = [item.context + ending for ending in item.endings]
    ids = torch.zeros(4, max(map(len, tokens)), dtype=torch.long)
    mask = torch.zeros_like(ids)
    for i, row in enumerate(tokens):
        ids[i, : len(row)] = torch.tensor(row)
        mask[i, len(item.context) : len(row)] = 1
    with torch.no_grad():
        logits = model(ids)[:, :-1]
    losses = F.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten(), reduction="none").view(4, -1)
    shifted = mask[:, 1:]
    sums = (losses * shifted).sum(1)
    return (-sums).tolist(), (-sums / shifted.sum(1)).tolist()


def test_log_likelihoods_and_choices_are_those_of_the_original_method(model: GPT, items: list[Item]) -> None:
    for item, scored in zip(items, score(model, items, 256), strict=True):
        sums, means = reference(model, item)
        assert scored.loglikelihoods == pytest.approx(sums, abs=1e-4, rel=1e-6)
        assert scored.pred == sums.index(max(sums))
        assert scored.pred_norm == means.index(max(means))
        assert (scored.index, scored.label) == (item.index, item.label)


def compiled(model: GPT) -> GPT:
    """The same with its blocks compiled, by a compiler that generates no code."""
    for block in model.blocks:
        block.compile(backend="eager", dynamic=True)
    return model


def test_branches_of_a_network_with_rotary_positions_score_as_rows_of_their_own(items: list[Item]) -> None:
    config = GPTConfig(
        50_304, 16, 96, n_layers=2, n_heads=4, n_kv_heads=2, positions="rotary", norm="rms", mlp="swiglu", qk_norm=True
    )
    network = sharp(config)
    for item, scored in zip(items, score(network, items, 256), strict=True):
        assert scored.loglikelihoods == pytest.approx(reference(network, item)[0], abs=1e-4, rel=1e-5)


def by_index(scored: list[Scored]) -> list[Scored]:
    return sorted(scored, key=lambda row: row.index)


@pytest.mark.parametrize(
    "setting", ["a row at a time", "small batches", "one batch", "the other way round", "by two", "compiled"]
)
def test_nothing_about_the_computation_changes_a_decision(setting: str, model: GPT, items: list[Item]) -> None:
    expected = score(model, items, 200)
    got = {
        "a row at a time": lambda: score(model, items, 1),
        "small batches": lambda: score(model, items, 50),
        "one batch": lambda: score(model, items, 100_000),
        "the other way round": lambda: score(model, items[::-1], 333)[::-1],
        "by two": lambda: [
            row for pair in zip(*(score(model, items[i::2], 200) for i in (0, 1)), strict=True) for row in pair
        ],
        "compiled": lambda: score(compiled(random_model()), items, 200),
    }[setting]()
    assert [row.index for row in got] == [row.index for row in expected]
    for one, other, item in zip(got, expected, items, strict=True):
        assert one.loglikelihoods == pytest.approx(other.loglikelihoods, abs=1e-4)
        sums = list(other.loglikelihoods)
        means = [value / length for value, length in zip(sums, item.lengths, strict=True)]
        assert sums[one.pred] == pytest.approx(sums[other.pred], abs=1e-4), "equal but for ties"
        assert means[one.pred_norm] == pytest.approx(means[other.pred_norm], abs=1e-4), "equal but for ties"


def test_chunks_of_logits_change_nothing(model: GPT, items: list[Item], monkeypatch: pytest.MonkeyPatch) -> None:
    expected = score(model, items[:3], 1000)
    monkeypatch.setattr(logprobs, "LOGITS_AT_ONCE", 3 * 50_304)
    for a, b in zip(score(model, items[:3], 1000), expected, strict=True):
        assert a.loglikelihoods == pytest.approx(b.loglikelihoods, abs=1e-4)


def test_the_normalised_choice_is_by_the_mean_per_token(model: GPT, items: list[Item]) -> None:
    assert any(row.pred != row.pred_norm for row in score(model, items, 1000)), "else this can't be told"


def test_equal_endings_score_equal_and_the_first_is_chosen(model: GPT, items: list[Item]) -> None:
    ending = items[0].endings[1]
    same = [Item(0, 2, items[0].context, (ending,) * 4, (len(ending),) * 4), *items]
    scored = score(model, same, 60)[0]
    assert len(set(scored.loglikelihoods)) == 1
    assert (scored.pred, scored.pred_norm) == (0, 0)


def test_batches_hold_at_most_so_many_tokens_but_one_row_at_least() -> None:
    sizes = (9, 7, 7, 4, 2, 2, 1)
    parts = list(batches([Tree((0,) * n, ((0,),)) for n in sizes], 8))
    assert [[tree.size for tree in part] for part in parts] == [[9], [7], [7], [4, 2], [2, 1]]


def test_a_long_example_is_cut_from_the_left_and_counted() -> None:
    small = random_model(context_length=6)
    context, endings = (1, 2, 3, 4), ((10, 11, 12), (13,), (14, 15, 16, 17), (18, 19))
    lengths = tuple(map(len, endings))
    item, fits = Item(0, 0, context, endings, lengths), Item(1, 0, (1,), endings, lengths)
    scored = score(small, [item, fits], 100)[0]
    for ending, value in zip(endings, scored.loglikelihoods, strict=True):
        whole = (*context, *ending)
        inputs = torch.tensor([whole[:-1][-6:]])
        with torch.no_grad():
            logs = torch.log_softmax(small(inputs)[0], -1)
        expected = sum(logs[len(inputs[0]) - len(ending) + i, token].item() for i, token in enumerate(ending))
        assert value == pytest.approx(expected, abs=1e-4)
    assert truncated([item, fits], 6) == 1
    assert truncated([item, fits], 7) == 0


def test_an_ending_longer_than_the_context_is_scored_on_its_end() -> None:
    row = Continuation.fitted((1,), (2, 3, 4, 5, 6), 3)
    assert (row.context, row.targets, row.cut) == ((3,), (4, 5, 6), True)


def test_a_model_in_training_is_scored_without_dropout_and_trains_on(items: list[Item]) -> None:
    training = random_model(drop_rate=0.5).train()
    assert score(training, items[:2], 500) == score(random_model(), items[:2], 500)
    assert training.training
    assert torch.is_grad_enabled()


def test_stopping_returns_only_examples_that_are_complete(model: GPT, items: list[Item]) -> None:
    asked = iter([False] * 20 + [True] * 1000)
    scored = score(model, items, 1, stop=lambda: next(asked))
    assert 0 < len(scored) < len(items)
    everything = {row.index: row for row in score(model, items, 1)}
    assert all(everything[row.index] == row for row in scored)


def test_progress_ends_with_all_examples(model: GPT, items: list[Item]) -> None:
    seen: list[tuple[int, int]] = []
    score(model, items, 100, progress=lambda done, total: seen.append((done, total)))
    assert seen == sorted(seen)
    assert seen[-1] == (len(items), len(items))


def test_accuracies_have_the_standard_errors_of_lm_eval() -> None:
    scored = [Scored(i, 0, int(i >= 3), int(i >= 5), (0.0,) * 4) for i in range(8)]
    figures, _ = count_choices(scored)
    assert (figures["acc"], figures["acc_norm"]) == (3 / 8, 5 / 8)
    assert figures["acc_stderr"] == pytest.approx(math.sqrt(3 / 8 * 5 / 8 / 7))
    assert count_choices(scored[:1])[0]["acc_stderr"] is None


# evaluate


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a random model and no tokenizer files: its vocabulary is gpt2's."""
    folder = tmp_path_factory.mktemp("model")
    write_model(folder, random_model(), 50_256)
    return folder


def test_results_have_the_keys_of_the_contract(folder: Path, tmp_path: Path) -> None:
    data, saved = write(tmp_path / "val.jsonl", rows()), tmp_path / "rows.jsonl"
    settings = EvalSettings(
        tasks=("hellaswag",), data=str(data), model=(str(folder),), limit=5, save=str(saved), device="cpu"
    )
    seen: list[tuple[int, int, str]] = []
    (result,) = evaluate(settings, lambda *progress: seen.append(progress))
    save_rows(saved, result)
    told = result.as_dict()
    assert list(told) == (
        [
            "task",
            "style",
            "model",
            "weights",
            "tokenizer",
            "n",
            "truncated",
            "acc",
            "acc_norm",
            "acc_stderr",
            "acc_norm_stderr",
            "acc_interval",
            "acc_norm_interval",
            "seconds",
            "examples_per_second",
        ]
    )
    assert (told["task"], told["style"], told["model"], told["n"]) == ("hellaswag", "completion", str(folder), 5)
    assert seen[-1] == (5, 5, "hellaswag")
    assert "gpt2" in result.notes[0]
    lines = [json.loads(line) for line in saved.read_text(encoding="utf-8").splitlines()]
    assert [list(line) for line in lines] == [["index", "label", "pred", "pred_norm", "loglikelihoods"]] * 5
    assert sum(line["pred"] == line["label"] for line in lines) / 5 == told["acc"]


def test_two_models_are_scored_on_the_same_examples(folder: Path, tmp_path: Path) -> None:
    data = write(tmp_path / "val.jsonl", rows(3))
    settings = EvalSettings(tasks=("hellaswag",), data=str(data), model=(str(folder),) * 2, device="cpu")
    first, second = evaluate(settings)
    assert first.measured == second.measured


def test_an_unknown_task_is_refused_with_the_nearest() -> None:
    with pytest.raises(UsageError) as caught:
        evaluate(EvalSettings(tasks=("helaswag", "loss")))
    assert "'hellaswag'" in caught.value.faults[0].hint
    with pytest.raises(UsageError, match="No task"):
        evaluate(EvalSettings())


def test_all_faults_of_a_call_are_told_before_anything_is_computed(folder: Path, tmp_path: Path) -> None:
    settings = EvalSettings(
        tasks=("hellaswag", "loss"),
        data=str(tmp_path / "none.jsonl"),
        model=(str(folder), str(tmp_path / "nothing")),
        save=str(tmp_path / "missing" / "rows.jsonl"),
        device="cpu",
    )
    with pytest.raises(UsageError) as caught:
        evaluate(settings)
    told = " ".join(fault.message for fault in caught.value.faults)
    for part in (
        "none.jsonl",
        "nothing",
        "one task and one model",
        "no folder",
        "a line for each document",
        "needs a folder",
    ):
        assert part in told


def test_a_model_without_tokenizer_is_refused_before_the_others_are_scored(folder: Path, tmp_path: Path) -> None:
    other = tmp_path / "ids"
    other.mkdir()
    write_model(other, GPT(GPTConfig(10, 4, 4, 1, 1)), None)
    data = write(tmp_path / "val.jsonl", rows(3))
    settings = EvalSettings(tasks=("hellaswag",), data=str(data), model=(str(folder), str(other)), device="cpu")
    with pytest.raises(UserError, match="no tokenizer"):
        evaluate(settings, lambda *progress: pytest.fail("something was scored"))


def test_rows_that_can_not_be_written_leave_no_file(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    data = write(tmp_path / "val.jsonl", rows(1))
    settings = EvalSettings(tasks=("hellaswag",), data=str(data), model=(str(folder),), device="cpu")
    (result,) = evaluate(settings)
    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(UserError, match="No space left"):
        save_rows(tmp_path / "rows.jsonl", result)
    assert [path.name for path in tmp_path.iterdir()] == ["val.jsonl"]


def test_a_file_that_can_not_be_written_is_refused_before_anything_is_scored(folder: Path, tmp_path: Path) -> None:
    data = write(tmp_path / "val.jsonl", rows(1))
    for name, what in ((str(data / "rows"), "no folder"), (str(tmp_path / ("x" * 300)), "can't be written")):
        settings = EvalSettings(tasks=("hellaswag",), data=str(data), model=(str(folder),), save=name, device="cpu")
        with pytest.raises(UsageError, match=what):
            evaluate(settings, lambda *progress: pytest.fail("something was scored"))


def test_every_task_says_what_it_is() -> None:
    assert all(name == task.name and task.description and task.styles for name, task in TASKS.items())


@pytest.mark.skipif(not REAL_DATA.exists(), reason="the HellaSwag validation set is not beside the repository")
def test_the_real_validation_set_has_its_known_labels_and_tokens() -> None:
    questions, is_published = HELLASWAG.questions("completion", str(REAL_DATA))
    assert is_published
    assert Counter(question.label for question in questions) == {0: 2515, 1: 2485, 2: 2584, 3: 2458}
    items = prepare(questions, get_tokenizer("gpt2"), "completion")
    endings = sum(len(ending) for item in items for ending in item.endings)
    assert endings == 1_265_192
    assert endings + sum(len(item.context) for item in items) == 1_780_261
    part = {question.index for question in spread(questions, 1000)}
    assert len(part) == 1000
    third = len(questions) // 3
    assert sum(index < third for index in part) == pytest.approx(333, abs=2)


def test_the_longest_rows_come_first(model: GPT, items: list[Item], monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    compute = scoring._score

    def recorded(model: GPT, batch: list[Tree]) -> list[list[scoring.Likelihood]]:
        sizes.append(max(tree.size for tree in batch))
        return compute(model, batch)

    monkeypatch.setattr(scoring, "_score", recorded)
    score(model, items, 100)
    assert sizes == sorted(sizes, reverse=True)


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.skipif(not REAL_DATA.exists(), reason="the HellaSwag validation set is not beside the repository")
def test_the_choices_are_those_of_gpt_from_scratch_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its evaluator as it is on the package index, on our network, without its autocast to bf16."""
    wheel = "gpt-from-scratch==1.1"
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(tmp_path), wheel]
    if subprocess.run(pip, capture_output=True, check=False).returncode:
        pytest.skip(f"{wheel} can't be had from the package index")
    with zipfile.ZipFile(next(tmp_path.glob("*.whl"))) as content:
        content.extract("gpt_from_scratch/metrics/hellaswag.py", tmp_path)
    found = importlib.util.spec_from_file_location("original", tmp_path / "gpt_from_scratch/metrics/hellaswag.py")
    assert found is not None
    assert found.loader is not None
    original = importlib.util.module_from_spec(found)
    found.loader.exec_module(original)
    gpt2 = get_tokenizer("gpt2")
    assert gpt2.pattern is not None
    encoding = tiktoken.Encoding(
        "gpt2", pat_str=gpt2.pattern, mergeable_ranks=dict(gpt2.ranks or {}), special_tokens=dict(gpt2.specials)
    )
    monkeypatch.setattr(tiktoken, "get_encoding", lambda name: encoding)
    with lzma.open(REAL_DATA, "rt", encoding="utf-8") as lines:
        examples = spread(map(json.loads, lines), 500)
    network = random_model(context_length=1024)
    scored = score(network, prepare(spread(questions_of(REAL_DATA), 500), gpt2, "completion"), 4096)
    for example, row in zip(examples, scored, strict=True):
        _, tokens, mask, label = original.render_example(example)
        with torch.no_grad():
            logits = network(tokens)
        losses = F.cross_entropy(logits[:, :-1].flatten(0, 1), tokens[:, 1:].flatten(), reduction="none").view(4, -1)
        sums = -(losses * mask[:, 1:]).sum(1)
        means = (sums / mask[:, 1:].sum(1)).tolist()
        assert row.loglikelihoods == pytest.approx(sums.tolist(), rel=1e-3)
        assert row.label == label
        chosen = original.get_most_likely_row(tokens, mask, logits)
        assert row.pred_norm == chosen or means[row.pred_norm] == pytest.approx(means[chosen], abs=1e-4), "but for ties"
