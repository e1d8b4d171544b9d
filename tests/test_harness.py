"""Our models in lm-evaluation-harness: its own tasks and its own figures, without an export."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

lm_eval = pytest.importorskip("lm_eval", reason="lm-evaluation-harness is not installed: pip install '.[lm-eval]'")
from lm_eval.api.instance import Instance  # noqa: E402
from lm_eval.models.huggingface import HFLM  # noqa: E402

from gptcli.errors import UsageError, UserError  # noqa: E402
from gptcli.evals.harness import run_harness  # noqa: E402
from gptcli.evals.harness_model import HarnessModel  # noqa: E402
from gptcli.evals.hellaswag import HELLASWAG  # noqa: E402
from gptcli.evals.origin import spread  # noqa: E402
from gptcli.evals.questions import prepare, score  # noqa: E402
from gptcli.evals.run import evaluate  # noqa: E402
from gptcli.inference.load import load  # noqa: E402
from gptcli.model.config import GPTConfig  # noqa: E402
from gptcli.model.huggingface import write_model  # noqa: E402
from gptcli.model.network import GPT  # noqa: E402
from gptcli.settings import EvalSettings  # noqa: E402
from gptcli.tokenizer import get_tokenizer  # noqa: E402
from gptcli.tokenizer_files import write_tokenizer  # noqa: E402

CONTEXT = 48
REAL_DATA = Path(__file__).parents[2] / "shared" / "data" / "hellaswag_val.jsonl.xz"
WORDS = "the old dog sat by the river and sang of what it had seen"


def model_in(folder: Path, context: int = CONTEXT) -> Path:
    """A random network whose likelihoods differ well, with gpt2's tokenizer, as a Hugging Face folder."""
    model = GPT(GPTConfig(50_304, 32, context, n_layers=2, n_heads=2, qkv_bias=True))
    model.initialise(torch.Generator().manual_seed(0))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 2:
                parameter.mul_(8)
    folder.mkdir(exist_ok=True)
    write_model(folder, model, 50_256)
    write_tokenizer(folder, get_tokenizer("gpt2"), context)
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return model_in(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def theirs(folder: Path) -> Any:
    """The harness's own model `hf` on the same folder."""
    return HFLM(pretrained=str(folder), dtype="float32", device="cpu", batch_size=4)


@pytest.fixture(scope="module")
def ours(folder: Path) -> HarnessModel:
    return HarnessModel(load(folder, device="cpu"))


def requests(kind: str, *arguments: tuple[Any, ...]) -> list[Instance]:
    return [
        Instance(request_type=kind, doc={}, arguments=each, idx=0, metadata=("task", number, 1))
        for number, each in enumerate(arguments)
    ]


def test_likelihoods_are_those_of_the_harness_own_model(ours: HarnessModel, theirs: Any) -> None:
    asked = requests(
        "loglikelihood",
        (WORDS, " today"),
        (WORDS, " tomorrow, and the day after"),
        (WORDS + "  ", "today"),
        ("", WORDS),
        (WORDS * 6, " today"),
    )
    for (logprob, greedy), (expected, expected_greedy) in zip(
        ours.loglikelihood(asked), theirs.loglikelihood(asked, disable_tqdm=True), strict=True
    ):
        assert logprob == pytest.approx(expected, rel=1e-4)
        assert greedy == expected_greedy
    assert ours.loglikelihood(requests("loglikelihood", (WORDS, ""))) == [(0.0, True)]
    too_long = requests("loglikelihood", ("a", " " + WORDS * 6))  # which the harness's own model takes for a fault
    assert ours.loglikelihood(too_long)[0][0] < 0


def test_what_a_model_says_by_itself_is_greedy(ours: HarnessModel, theirs: Any) -> None:
    (said,) = theirs.generate_until(requests("generate_until", (WORDS, {"until": [], "max_gen_toks": 3})))
    asked = requests("loglikelihood", (WORDS, said))
    assert ours.loglikelihood(asked)[0][1] == theirs.loglikelihood(asked, disable_tqdm=True)[0][1]


def test_texts_are_read_in_rolling_windows_as_by_the_harness_own_model(ours: HarnessModel, theirs: Any) -> None:
    asked = requests("loglikelihood_rolling", (WORDS,), (WORDS * 7,))
    expected = theirs.loglikelihood_rolling(asked, disable_tqdm=True)
    assert ours.loglikelihood_rolling(asked) == pytest.approx(expected, rel=1e-4)


def test_generation_stops_where_the_harness_own_model_does(ours: HarnessModel, theirs: Any) -> None:
    (whole,) = ours.generate_until(requests("generate_until", (WORDS, {"until": [], "max_gen_toks": 12})))
    assert len(whole) > 8
    asked = requests(
        "generate_until",
        (WORDS, {"until": [], "max_gen_toks": 12}),
        (WORDS, {"until": [whole[5:8]], "max_gen_toks": 12}),
        (WORDS * 9, {"until": ["\n"], "max_gen_toks": 12, "do_sample": False}),
    )
    found = ours.generate_until(asked)
    assert found == theirs.generate_until(asked, disable_tqdm=True)
    assert found[1] == whole[: whole.index(whole[5:8])]


# Whole tasks


@pytest.fixture
def tasks(tmp_path: Path) -> Path:
    """A folder with a task of each kind, whose data lie beside it."""
    rows = [
        {"q": f"{WORDS[: 9 + 3 * i]}", "a": ["red", "blue and green", "no"], "right": i % 3, "text": WORDS[i:]}
        for i in range(7)
    ]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    common = (
        f"dataset_path: json\ndataset_kwargs:\n  data_files:\n    test: {tmp_path / 'rows.jsonl'}\ntest_split: test\n"
    )
    kinds = {
        "own_choice": (
            'output_type: multiple_choice\ndoc_to_text: "Question: {{q}}\\nAnswer:"\ndoc_to_choice: "{{a}}"\n'
            "doc_to_target: right\nmetric_list:\n  - metric: acc\n  - metric: acc_norm\n"
        ),
        "own_text": (
            'output_type: loglikelihood_rolling\ndoc_to_text: ""\ndoc_to_target: "{{text}}"\n'
            "metric_list:\n  - metric: byte_perplexity\n"
        ),
        "own_words": (
            'output_type: generate_until\ndoc_to_text: "{{q}}"\ndoc_to_target: "{{text}}"\ngeneration_kwargs:\n'
            '  until: ["."]\n  max_gen_toks: 5\nmetric_list:\n  - metric: exact_match\n'
        ),
    }
    for name, more in kinds.items():
        (tmp_path / f"{name}.yaml").write_text(f"task: {name}\n{common}{more}", encoding="utf-8")
    return tmp_path


@pytest.fixture
def quiet_streams(capfd: pytest.CaptureFixture[str]) -> Iterator[None]:
    yield
    assert capfd.readouterr().out == "", "standard output carries results only"


@pytest.mark.usefixtures("quiet_streams")
def test_tasks_of_every_kind_give_the_harness_own_figures(folder: Path, tasks: Path, theirs: Any) -> None:
    from lm_eval.tasks import TaskManager

    names = ("own_choice", "own_text", "own_words")
    settings = EvalSettings(
        harness=names, include_path=str(tasks), model=(str(folder),), device="cpu", limit=5, num_fewshot=0
    )
    seen: list[tuple[int, int, str]] = []
    results = {result.task: result for result in run_harness(settings, lambda *told: seen.append(told))}
    manager = TaskManager(include_path=str(tasks), include_defaults=False)
    from gptcli.evals.harness import _quiet

    with _quiet([]):
        told = lm_eval.simple_evaluate(theirs, tasks=list(names), task_manager=manager, limit=5, num_fewshot=0)
    compared = {"own_choice": ("acc", "acc_norm"), "own_text": ("byte_perplexity",), "own_words": ("exact_match",)}
    for name, figures in compared.items():
        expected = {figure: told["results"][name][f"{figure},none"] for figure in figures}
        assert {figure: results[name].measured.figures[figure] for figure in figures} == pytest.approx(
            expected, rel=1e-4
        )
    assert results["own_choice"].measured.figures["acc_stderr"] is not None
    assert {result.measured.n for result in results.values()} == {5}
    assert {name for _, _, name in seen} == set(names)


def test_what_is_wrong_is_told_before_anything_is_computed(
    folder: Path, tasks: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def call(*names: str, **more: Any) -> None:
        run_harness(EvalSettings(harness=names, include_path=str(tasks), model=(str(folder),), device="cpu", **more))

    with pytest.raises(UsageError) as caught:
        call("own_choise")
    assert "own_choice" in caught.value.faults[0].hint
    with pytest.raises(UserError, match="hellaswag can't be loaded"):
        call("hellaswag", offline=True)
    other = tmp_path / "ids"
    other.mkdir()
    write_model(other, GPT(GPTConfig(10, 4, 4, 1, 1)), None)
    with pytest.raises(UserError, match="no tokenizer"):
        run_harness(EvalSettings(harness=("own_choice",), include_path=str(tasks), model=(str(other),), device="cpu"))
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UsageError, match="needs lm-evaluation-harness") as caught:
        call("own_choice")
    assert "gpt-from-scratch[lm-eval]" in caught.value.faults[0].hint


ROWS: dict[str, list[dict[str, Any]]] = {
    "piqa": [
        {"goal": f"To open jar {i}", "sol1": "turn the lid " * (1 + i % 2), "sol2": "hit it", "label": i % 2}
        for i in range(8)
    ],
    "arc-easy": [
        {
            "question": f"Which of {i} is warm?",
            "choices": {
                "text": ["the sun", "ice", "a cold stone in the shade"][: 2 + i % 2],
                "label": ["A", "B", "C"][: 2 + i % 2],
            },
            "answerKey": "AB"[i % 2],
        }
        for i in range(8)
    ],
    "lambada": [{"text": " ".join(WORDS.split()[: 5 + i])} for i in range(8)],
}
THEIR_FILES = {
    "piqa": "piqa/piqa.yaml",
    "arc-easy": "arc/arc_easy.yaml",
    "lambada": "lambada/lambada_openai.yaml",
}


@pytest.mark.parametrize("name", list(ROWS))
def test_the_other_tasks_score_as_the_harness_own(name: str, folder: Path, tmp_path: Path) -> None:
    data = tmp_path / "rows.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in ROWS[name]), encoding="utf-8")
    task = yaml.safe_load((Path(lm_eval.__file__).parent / "tasks" / THEIR_FILES[name]).read_text(encoding="utf-8"))
    for split in ("training_split", "validation_split", "dataset_name", "tag"):
        task.pop(split, None)
    task |= {"task": "theirs", "dataset_path": "json", "test_split": "test"}
    task["dataset_kwargs"] = {"data_files": {"test": str(data)}}
    (tmp_path / "theirs.yaml").write_text(yaml.safe_dump(task), encoding="utf-8")
    settings = EvalSettings(harness=("theirs",), include_path=str(tmp_path), model=(str(folder),), device="cpu")
    (theirs,) = run_harness(settings)
    (ours,) = evaluate(EvalSettings(tasks=(name,), data=str(data), model=(str(folder),), device="cpu"))
    shared = ours.measured.figures.keys() & theirs.measured.figures.keys() - {"perplexity_stderr"}  # theirs is drawn
    assert {"acc", "acc_stderr"} <= shared
    for figure in shared:
        assert ours.measured.figures[figure] == pytest.approx(theirs.measured.figures[figure], rel=1e-4)


# Scores


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.skipif(not REAL_DATA.exists(), reason="the HellaSwag validation set is not beside the repository")
def test_hellaswag_in_lm_evals_style_is_lm_evals(tmp_path: Path) -> None:
    import datasets
    from lm_eval.tasks.hellaswag.utils import process_docs

    folder = model_in(tmp_path / "model", context=1024)
    questions = spread(HELLASWAG.questions("lm-eval", str(REAL_DATA))[0], 500)
    model = load(folder, device="cpu")
    scored = score(model.model, prepare(questions, get_tokenizer("gpt2"), "lm-eval"), 4096)
    import lzma

    with lzma.open(REAL_DATA, "rt", encoding="utf-8") as lines:
        rows = [json.loads(line) for line in lines]
    chosen = [rows[question.index] for question in questions]
    documents = process_docs(datasets.Dataset.from_list([{**row, "label": str(row["label"])} for row in chosen]))
    pairs = [(row["query"], f" {choice}") for row in documents for choice in row["choices"]]
    theirs = HFLM(pretrained=str(folder), dtype="float32", device="cpu", batch_size=16)
    found = iter(theirs.loglikelihood(requests("loglikelihood", *pairs), disable_tqdm=True))
    for row, document in zip(scored, documents, strict=True):
        expected = [next(found)[0] for _ in range(4)]
        assert row.loglikelihoods == pytest.approx(expected, rel=1e-3)
        normalised = [value / len(text) for value, text in zip(expected, document["choices"], strict=True)]
        for choice, values in ((row.pred, expected), (row.pred_norm, normalised)):
            assert values[choice] == pytest.approx(max(values), rel=1e-4), "equal but for ties"
