"""lm-evaluation-harness on our models: the numbers of its own model of transformers, and its tasks as results."""

from __future__ import annotations

import json
import lzma
import random
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("lm_eval", reason="needs the extra lm-eval")

import yaml
from lm_eval.api.instance import Instance
from lm_eval.api.task import ConfigurableTask
from lm_eval.tasks import TaskManager
from small_runs import sharp

from gptcli.errors import UsageError, UserError
from gptcli.evals.common_tasks import ARC_EASY, LAMBADA, PIQA
from gptcli.evals.harness import run_harness
from gptcli.evals.harness_model import GenerationOptions, HarnessModel
from gptcli.evals.hellaswag import HELLASWAG
from gptcli.evals.question_task import QuestionTask
from gptcli.evals.questions import prepare, score
from gptcli.inference.engine import Engine
from gptcli.inference.language_model import LanguageModel
from gptcli.inference.load import load
from gptcli.inference.requests import Generation
from gptcli.model.config import GPTConfig
from gptcli.model.huggingface import write_model
from gptcli.model.network import GPT
from gptcli.settings import EvalSettings
from gptcli.tokenizer import chars_tokenizer, get_tokenizer
from gptcli.tokenizer_files import write_tokenizer

pytestmark = pytest.mark.usefixtures("one_thread")

REAL_DATA = Path(__file__).parents[2] / "shared" / "data" / "hellaswag_val.jsonl.xz"
CONTEXT = 48
LONG = "The quick brown fox jumps over the lazy dog, and then it sleeps in the sun. " * 8


def write_random_model(folder: Path, config: GPTConfig) -> Path:
    """A random model with gpt2's tokenizer whose likelihoods differ well between texts."""
    write_model(folder, sharp(config), 50_256)
    write_tokenizer(folder, get_tokenizer("gpt2"), config.context_length)
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    config = GPTConfig(50_257, 16, CONTEXT, n_layers=2, n_heads=2, qkv_bias=True)
    return write_random_model(tmp_path_factory.mktemp("model"), config)


@pytest.fixture(scope="module")
def model(folder: Path) -> LanguageModel:
    return load(folder, device="cpu")


def reference(folder: Path, prefix: str = "") -> Any:
    """The harness's own model for the same folder; `prefix` is a token that its tokenizer puts before every text."""
    pytest.importorskip("accelerate", reason="lm_eval's own model needs accelerate")
    transformers = pytest.importorskip("transformers", reason="needs transformers to compare with")
    from lm_eval.models.huggingface import HFLM

    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    if prefix:
        from tokenizers.processors import TemplateProcessing

        special = [(prefix, tokenizer.convert_tokens_to_ids(prefix))]
        template = TemplateProcessing(single=f"{prefix} $A", special_tokens=special)
        tokenizer.backend_tokenizer.post_processor = template
    network = transformers.AutoModelForCausalLM.from_pretrained(folder).eval()
    return HFLM(pretrained=network, tokenizer=tokenizer, device="cpu", batch_size=1)


@pytest.fixture(scope="module")
def hf(folder: Path) -> Any:
    return reference(folder)


def asked(kind: str, *arguments: tuple[Any, ...], task: str = "a") -> list[Instance]:
    return [Instance(kind, {}, args, 0, metadata=(task, number, 1)) for number, args in enumerate(arguments)]


# The model


PAIRS = [
    ("The cat sat on the", " mat"),
    ("The cat sat on the", " mat and slept."),
    ("The cat sat on the ", "mat"),
    ("The cat sat on the  \n", "mat"),
    ("", " mat and slept."),
    ("", "x"),
    ("Ça va? 语言模型", " 😀 bien"),
    ("un", "believable"),
    (LONG, " mat and slept."),
    (LONG[:-1], " mat"),
]


def test_log_likelihoods_are_those_of_the_harnesss_own_model(model: LanguageModel, hf: Any) -> None:
    pairs = list(PAIRS)
    for context, _ in PAIRS[:4]:  # what the model would say itself
        text = context.rstrip()
        pairs.append((text, model.generate(text, temperature=0, max_new_tokens=1, stop_at_end=False).text))
    requests = asked("loglikelihood", *pairs)
    expected = hf.loglikelihood(requests, disable_tqdm=True)
    for batch_tokens in (1, 10_000):
        found = HarnessModel(model, batch_tokens).loglikelihood(requests)
        assert [logprob for logprob, _ in found] == pytest.approx([logprob for logprob, _ in expected], rel=1e-4)
        assert [greedy for _, greedy in found] == [greedy for _, greedy in expected]
    assert {greedy for _, greedy in expected} == {True, False}, "else this can't be told"


def test_nothing_is_certain_and_a_context_of_spaces_is_the_start_of_a_document(model: LanguageModel) -> None:
    requests = asked("loglikelihood", ("Hello", ""), ("", ""), ("  ", "x"), ("", "  x"), ("Hello", LONG))
    nothing, none_either, spaces, start, long = HarnessModel(model).loglikelihood(requests)
    assert nothing == none_either == (0.0, True)
    assert spaces == start
    assert long[0] < 0


def test_rolling_log_likelihoods_are_those_of_the_harnesss_own_model(model: LanguageModel, hf: Any) -> None:
    texts = ["Hello", "", "The cat sat on the mat.", LONG, LONG * 2]
    n = len(model.prompt_ids(LONG))
    texts += [_of_length(model, length) for length in (47, 48, 49, n)]
    requests = asked("loglikelihood_rolling", *((text,) for text in texts))
    expected = hf.loglikelihood_rolling(requests, disable_tqdm=True)
    assert HarnessModel(model, 100).loglikelihood_rolling(requests) == pytest.approx(expected, rel=1e-4)
    assert expected[1] == 0


def _of_length(model: LanguageModel, n: int) -> str:
    """A text of so many tokens."""
    assert model.tokenizer is not None
    return model.tokenizer.decode(model.prompt_ids(LONG)[:n])


def test_greedy_texts_are_those_of_the_harnesss_own_model(model: LanguageModel, hf: Any) -> None:
    (whole,) = hf.generate_until(asked("generate_until", ("Hello", {"max_gen_toks": 12})), disable_tqdm=True)
    assert len(whole) > 8
    options: list[dict[str, Any]] = [
        {"max_gen_toks": 12},
        {"until": [whole[3:6]], "max_gen_toks": 12},
        {"until": whole[5:8], "max_gen_toks": 12, "do_sample": False, "temperature": 0.7},
        {"until": ["nowhere", whole[6:8], whole[5:7]], "max_gen_toks": 12},
    ]
    contexts = ["Hello", "The cat sat on the mat. Then", LONG, LONG[:-1]]
    for told in options:
        requests = asked("generate_until", *((context, told) for context in contexts))
        assert HarnessModel(model).generate_until(requests) == hf.generate_until(requests, disable_tqdm=True)


def test_a_stop_string_that_spans_tokens_ends_the_text_and_the_generation(
    model: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[int] = []
    step = Engine.step

    def counted(engine: Engine) -> list[Generation]:
        grown = step(engine)
        steps.extend(len(generation.ids) for generation in grown)
        return grown

    monkeypatch.setattr(Engine, "step", counted)
    assert model.tokenizer is not None
    ids = model.generate("Hello", temperature=0, max_new_tokens=20).ids
    pieces = [model.tokenizer.decode([token]) for token in ids]
    stop = pieces[2][-1] + pieces[3][:1]
    assert stop not in "".join(pieces[:3])
    steps.clear()
    (text,) = HarnessModel(model).generate_until(
        asked("generate_until", ("Hello", {"until": [stop], "max_gen_toks": 20}))
    )
    assert text == "".join(pieces[:3])[:-1]
    assert steps == [1, 2, 3, 4]


def test_sampled_texts_differ_between_repeats_and_are_the_same_again(model: LanguageModel) -> None:
    told = {"do_sample": True, "temperature": 2.0, "top_p": 0.95, "max_gen_toks": 12}
    requests = asked("generate_until", ("Hello", told)) * 3
    texts = HarnessModel(model).generate_until(requests)
    assert len(set(texts)) == 3
    assert HarnessModel(model).generate_until(requests) == texts


@pytest.mark.parametrize(
    ("told", "sampling"),
    [
        ({}, (0.0, 50, 1.0)),
        ({"do_sample": False, "temperature": 0.8}, (0.0, 50, 1.0)),
        ({"temperature": 0.8}, (0.8, 50, 1.0)),
        ({"do_sample": True}, (1.0, 50, 1.0)),
        ({"do_sample": True, "temperature": 0.5, "top_k": -1, "top_p": 0.9}, (0.5, 0, 0.9)),
    ],
)
def test_how_a_task_asks_for_sampling(told: Mapping[str, Any], sampling: tuple[float, int, float]) -> None:
    found = GenerationOptions.read(told).sampling
    assert (found.temperature, found.top_k, found.top_p) == sampling


def test_what_a_task_says_of_length_stops_and_other_things() -> None:
    assert GenerationOptions.read({}).max_new_tokens == 256
    assert GenerationOptions.read({"max_new_tokens": 7}).max_new_tokens == 7
    assert GenerationOptions.read({"until": "x"}).stops == ("x",)
    assert GenerationOptions.read({"until": ["x", "", "y"]}).stops == ("x", "y")
    assert GenerationOptions.read({"until": None}).stops == ()
    told = {"num_beams": 1, "repetition_penalty": 1.2, "top_k": None}
    assert GenerationOptions.read(told).unused == ("repetition_penalty",)


def test_a_text_that_leaves_no_room_for_its_question_is_refused(model: LanguageModel) -> None:
    with pytest.raises(UserError, match="no room"):
        HarnessModel(model).generate_until(asked("generate_until", ("Hello", {"max_gen_toks": CONTEXT})))


def test_a_token_before_every_text_is_kept_as_the_harness_keeps_it(folder: Path, model: LanguageModel) -> None:
    begun = LanguageModel(model.model, model.tokenizer, [50_256], folder, prefix=[50_256])
    hf = reference(folder, "<|endoftext|>")
    ours = HarnessModel(begun, 1000)
    pairs, texts = asked("loglikelihood", *PAIRS), asked("loglikelihood_rolling", ("The cat",), (LONG,))
    prompts = asked("generate_until", ("Hello", {"max_gen_toks": 8}), (LONG, {"max_gen_toks": 8}))
    expected = [logprob for logprob, _ in hf.loglikelihood(pairs, disable_tqdm=True)]
    assert [logprob for logprob, _ in ours.loglikelihood(pairs)] == pytest.approx(expected, rel=1e-4)
    assert ours.loglikelihood_rolling(texts) == pytest.approx(
        hf.loglikelihood_rolling(texts, disable_tqdm=True), rel=1e-4
    )
    assert ours.generate_until(prompts) == hf.generate_until(prompts, disable_tqdm=True)


def test_times_and_cut_documents_are_told_by_task(model: LanguageModel) -> None:
    seen: list[tuple[int, int, str]] = []
    ours = HarnessModel(model, 1000, lambda *told: seen.append(told))
    requests = asked("loglikelihood", *PAIRS, task="a") + asked("loglikelihood", *PAIRS[:3], task="b")
    ours.loglikelihood(requests[::-1])
    assert set(ours.seconds) == {"a", "b"}
    assert ours.cut == {"a": {8, 9}}
    assert [told for told in seen if told[0] == told[1]] == [(3, 3, "b"), (len(PAIRS), len(PAIRS), "a")]


# run_harness


def write_lines(file: Path, rows: Sequence[Mapping[str, Any]]) -> Path:
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return file


@pytest.fixture
def tasks(tmp_path: Path) -> Path:
    """A folder with one task of each kind, and a group of two."""
    words = ("cat", "dog", "red ball", "old house", "small child", "sea")
    rows = [
        {
            "q": f"What does the {words[i % 6]} do on day {i}?",
            "a": [f"{words[(i + j) % 6]} {j}" for j in range(3)],
            "n": i % 3,
        }
        for i in range(9)
    ]
    data = write_lines(tmp_path / "rows.jsonl", rows)
    folder = tmp_path / "tasks"
    folder.mkdir()
    shared = {
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"validation": str(data), "test": str(data), "train": str(data)}},
        "validation_split": "validation",
        "fewshot_split": "train",
        "doc_to_text": "Question: {{q}}\nAnswer:",
    }
    choice = {"output_type": "multiple_choice", "doc_to_choice": "{{a}}", "doc_to_target": "{{n}}"}
    write_task(folder, {**shared, **choice, "task": "my_choice", "metric_list": metrics("acc", "acc_norm")})
    write_task(folder, {**shared, **choice, "task": "my_other", "metric_list": metrics("acc"), "test_split": "test"})
    last = {"output_type": "loglikelihood", "doc_to_target": "{{' ' + a[0]}}"}
    write_task(folder, {**shared, **last, "task": "my_last", "metric_list": metrics("acc", "perplexity")})
    rolling = {"output_type": "loglikelihood_rolling", "doc_to_text": "", "doc_to_target": "{{q * 5}}"}
    write_task(folder, {**shared, **rolling, "task": "my_rolling", "metric_list": metrics("word_perplexity")})
    generated = {
        "output_type": "generate_until",
        "doc_to_target": "{{a[0]}}",
        "generation_kwargs": {"until": ["\n", "e"], "max_gen_toks": 6, "num_beams": 2},
        "filter_list": [
            {"name": name, "filter": [{"function": "take_first"}]} for name in ("strict-match", "none")
        ],
    }  # fmt: skip
    write_task(folder, {**shared, **generated, "task": "my_text", "metric_list": metrics("exact_match")})
    group = {
        "group": "my_group",
        "task": ["my_choice", "my_other"],
        "aggregate_metric_list": [{"metric": "acc", "weight_by_size": True}],
    }
    (folder / "group.yaml").write_text(yaml.safe_dump(group), encoding="utf-8")
    return folder


def metrics(*names: str) -> list[dict[str, Any]]:
    averages = {"perplexity": "perplexity", "word_perplexity": "weighted_perplexity"}
    return [
        {"metric": name, "aggregation": averages.get(name, "mean"), "higher_is_better": name not in averages}
        for name in names
    ]


def write_task(folder: Path, config: Mapping[str, Any]) -> None:
    (folder / f"{config['task']}.yaml").write_text(yaml.safe_dump(dict(config)), encoding="utf-8")


ALL_KINDS = ("my_choice", "my_last", "my_rolling", "my_text")


@pytest.fixture
def only_own_tasks(monkeypatch: pytest.MonkeyPatch) -> None:
    """The harness's own tasks are thousands of files: reading them takes half a minute."""
    monkeypatch.setattr("lm_eval.tasks.TaskManager", partial(TaskManager, include_defaults=False))


@pytest.fixture
def settings(folder: Path, tasks: Path) -> Callable[..., EvalSettings]:
    def make(**changes: Any) -> EvalSettings:
        told = {"model": (str(folder),), "include_path": str(tasks), "device": "cpu", "harness": ("my_choice",)}
        return EvalSettings(**{**told, **changes})

    return make


def test_the_figures_are_those_of_the_harnesss_own_model(
    settings: Callable[..., EvalSettings], tasks: Path, hf: Any
) -> None:
    from lm_eval import evaluate

    results = run_harness(settings(harness=ALL_KINDS, num_fewshot=0))
    loaded = TaskManager(include_path=str(tasks), include_defaults=False).load(list(ALL_KINDS))
    for task in loaded["tasks"].values():
        task.set_config(key="num_fewshot", value=0)
    expected = evaluate(lm=hf, task_dict=loaded, bootstrap_iters=1000)["results"]
    assert [result.task for result in results] == list(ALL_KINDS)
    for result in results:
        assert result.measured.n == 9
        for name, value in result.measured.figures.items():
            metric, _, kind = name.removesuffix("_stderr").partition(" (")
            error = "_stderr" if name.endswith("_stderr") else ""
            told = expected[result.task][f"{metric}{error},{kind.rstrip(')') or 'none'}"]
            assert value == (None if told == "N/A" else pytest.approx(told, rel=1e-4)), (result.task, name)


def test_results_have_the_harnesss_names_and_what_gpt_tells_of_every_task(
    settings: Callable[..., EvalSettings], folder: Path
) -> None:
    seen: list[tuple[int, int, str]] = []
    results = run_harness(settings(harness=ALL_KINDS), lambda *told: seen.append(told))
    figures = {result.task: list(result.measured.figures) for result in results}
    assert figures == {
        "my_choice": ["acc", "acc_stderr", "acc_norm", "acc_norm_stderr"],
        "my_last": ["perplexity", "perplexity_stderr", "acc", "acc_stderr"],
        "my_rolling": ["word_perplexity", "word_perplexity_stderr"],
        "my_text": [
            "exact_match (strict-match)",
            "exact_match (strict-match)_stderr",
            "exact_match",
            "exact_match_stderr",
        ],
    }
    by_task = {result.task: result for result in results}
    assert by_task["my_rolling"].measured.figures["word_perplexity_stderr"] is None
    assert all((result.style, result.model) == ("lm-evaluation-harness", str(folder)) for result in results)
    assert all(result.seconds > 0 and result.tokenizer == "gpt2" for result in results)
    assert any("num_beams" in note for note in by_task["my_text"].notes)
    assert {task for done, total, task in seen if done == total} == set(ALL_KINDS)
    json.dumps([result.as_dict() for result in results], allow_nan=False)


@pytest.mark.usefixtures("only_own_tasks")
def test_a_group_has_a_result_of_its_own_before_those_of_its_tasks(settings: Callable[..., EvalSettings]) -> None:
    group, first, second = run_harness(settings(harness=("my_group",), limit=4))
    assert [group.task, first.task, second.task] == ["my_group", "my_choice", "my_other"]
    assert (group.measured.n, first.measured.n, second.measured.n) == (8, 4, 4)
    assert group.measured.figures["acc"] == (first.measured.figures["acc"] + second.measured.figures["acc"]) / 2
    assert group.seconds == pytest.approx(first.seconds + second.seconds)


@pytest.mark.usefixtures("only_own_tasks")
def test_a_pattern_stands_for_all_tasks_that_it_fits(settings: Callable[..., EvalSettings]) -> None:
    results = run_harness(settings(harness=("my_*t", "my_last"), limit=1))
    assert [result.task for result in results] == ["my_last", "my_text"]


def test_models_are_asked_the_same_few_shot_examples(settings: Callable[..., EvalSettings], folder: Path) -> None:
    once = run_harness(settings(num_fewshot=1))
    first, second = run_harness(settings(num_fewshot=1, model=(str(folder),) * 2))
    assert first.measured == second.measured == once[0].measured
    assert first.measured.truncated == 0
    assert run_harness(settings(num_fewshot=5))[0].measured.truncated == 9


def test_a_run_writes_nothing_and_leaves_global_generators_alone(
    settings: Callable[..., EvalSettings], capfd: pytest.CaptureFixture[str]
) -> None:
    random.seed(5), np.random.seed(5), torch.manual_seed(5)
    states = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
    run_harness(settings(harness=ALL_KINDS, limit=3))
    assert (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()) == states
    assert capfd.readouterr() == ("", "")


def test_what_the_harness_warns_of_becomes_a_note(settings: Callable[..., EvalSettings], tasks: Path) -> None:
    config = yaml.safe_load((tasks / "my_choice.yaml").read_text(encoding="utf-8"))
    write_task(tasks, {**config, "task": "my_bare", "num_fewshot": 0})
    bare, other = run_harness(settings(harness=("my_bare", "my_choice"), num_fewshot=1))
    told = [note for note in bare.notes if "my_bare has no examples before its questions" in note]
    assert len(told) == 1
    assert other.measured != bare.measured


@pytest.mark.usefixtures("only_own_tasks")
def test_an_unknown_task_is_refused_with_the_nearest(settings: Callable[..., EvalSettings]) -> None:
    with pytest.raises(UsageError, match="'my_chioce'") as caught:
        run_harness(settings(harness=("my_chioce",)))
    assert "my_choice" in caught.value.faults[0].hint


@pytest.mark.usefixtures("only_own_tasks")
def test_all_faults_of_a_call_are_told_at_once(settings: Callable[..., EvalSettings], tmp_path: Path) -> None:
    ids = tmp_path / "ids"
    ids.mkdir()
    write_model(ids, GPT(GPTConfig(10, 4, 4, 1, 1)), None)
    letters = tmp_path / "letters"
    letters.mkdir()
    tokenizer = chars_tokenizer(["abc"])
    write_model(letters, GPT(GPTConfig(tokenizer.vocab_size, 4, 4, 1, 1)), tokenizer.eot)
    write_tokenizer(letters, tokenizer, 4)
    models = (str(tmp_path / "nothing"), str(ids), str(letters))
    with pytest.raises(UsageError) as caught:
        run_harness(settings(model=models, harness=("xyz",), gpus=2))
    told = " ".join(fault.message for fault in caught.value.faults)
    for part in ("nothing", "no tokenizer", "does not know", "xyz", "--gpus"):
        assert part in told


def test_a_task_that_generates_more_than_the_context_is_refused_before_anything_is_computed(
    settings: Callable[..., EvalSettings], tasks: Path
) -> None:
    config = yaml.safe_load((tasks / "my_text.yaml").read_text(encoding="utf-8"))
    write_task(tasks, {**config, "task": "my_long", "generation_kwargs": {"max_gen_toks": 100}})
    with pytest.raises(UserError, match="my_long generates up to 100 tokens"):
        run_harness(settings(harness=("my_choice", "my_long")), lambda *told: pytest.fail("something was computed"))


def test_data_that_can_not_be_had_is_a_user_error_of_one_line(
    settings: Callable[..., EvalSettings], tasks: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    config = yaml.safe_load((tasks / "my_choice.yaml").read_text(encoding="utf-8"))
    write_task(tasks, {**config, "task": "my_far", "dataset_path": "nobody/nothing", "dataset_kwargs": None})
    with pytest.raises(UserError, match="my_far") as caught:
        run_harness(settings(harness=("my_far",), offline=True))
    assert not isinstance(caught.value, UsageError)
    (fault,) = caught.value.faults
    assert "nobody/nothing" in fault.message
    assert "\n" not in fault.message
    assert "--offline" in fault.hint
    assert capfd.readouterr() == ("", "")


@pytest.mark.usefixtures("only_own_tasks")
def test_a_folder_of_tasks_that_is_not_there_is_wrong_usage(settings: Callable[..., EvalSettings]) -> None:
    with pytest.raises(UsageError, match="--include-path"):
        run_harness(settings(include_path="/nowhere"))


def test_without_the_package_the_user_is_told_to_install_it(
    settings: Callable[..., EvalSettings], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    with pytest.raises(UsageError, match="needs lm-evaluation-harness") as caught:
        run_harness(settings())
    assert caught.value.faults[0].hint == "pip install 'gpt-from-scratch[lm-eval]'"


# Our tasks beside the harness's


HELLASWAG_ROWS = [
    {
        "ind": i,
        "activity_label": "Roof shingle removal",
        "ctx_a": f"A man is on a roof [title] number {i}.",
        "ctx_b": ("", "he", "they both")[i % 3],
        "ctx": "",
        "endings": [f"starts  pulling [step] up {j} shingles." for j in range(i, i + 4)],
        "label": str(i % 4),
    }
    for i in range(5)
]
PIQA_ROWS = [
    {"goal": "To open a jar, ", "sol1": "turn the lid.", "sol2": "turn the jar upside  down", "label": 0},
    {"goal": "How do I boil eggs?", "sol1": "In oil", "sol2": "In water — 10 min", "label": 1},
]
ARC_ROWS = [
    {
        "question": "Which is a gas?",
        "choices": {"text": ["Iron", "Air", "Ice", "Salt"], "label": ["A", "B", "C", "D"]},
        "answerKey": "B",
    },
    {
        "question": "What is 1 + 2? ",
        "choices": {"text": ["2", "3", "4"], "label": ["1", "2", "3"]},
        "answerKey": "2",
    },
]
LAMBADA_ROWS = [
    {"text": 'They danced until "Gabriel" looked up at the stars'},
    {"text": "A line\nand another , said  Helen"},
]


@pytest.mark.parametrize(
    ("ours", "file", "rows"),
    [
        (HELLASWAG, "hellaswag/hellaswag.yaml", HELLASWAG_ROWS),
        (PIQA, "piqa/piqa.yaml", PIQA_ROWS),
        (ARC_EASY, "arc/arc_easy.yaml", ARC_ROWS),
        (LAMBADA, "lambada/lambada_openai.yaml", LAMBADA_ROWS),
    ],
    ids=["hellaswag", "piqa", "arc-easy", "lambada"],
)
def test_our_questions_and_scores_are_those_of_the_harnesss_task(
    model: LanguageModel, tmp_path: Path, ours: QuestionTask, file: str, rows: list[dict[str, Any]]
) -> None:
    data = write_lines(tmp_path / "rows.jsonl", rows)
    task = harness_task(file, data)
    task.build_all_requests(rank=0, world_size=1)
    questions, _ = ours.questions("lm-eval", str(data))
    pairs = [(question.context, f" {answer}") for question in questions for answer in question.answers]
    assert pairs == [instance.args for instance in task.instances]
    gold = [task.doc_to_target(doc) for doc in task.eval_docs]
    if ours is not LAMBADA:
        assert [question.label for question in questions] == [int(label) for label in gold]
    assert model.tokenizer is not None
    scored = score(model.model, prepare(questions, model.tokenizer, "lm-eval", model.prefix), 1000)
    found = [logprob for row in scored for logprob in row.loglikelihoods]
    expected = [logprob for logprob, _ in HarnessModel(model, 1000).loglikelihood(task.instances)]
    assert found == pytest.approx(expected, rel=1e-5)


def harness_task(file: str, data: Path) -> ConfigurableTask:
    """A task as the installed package has it, but with its data from a local file."""
    import lm_eval.tasks
    from lm_eval.tasks.hellaswag.utils import process_docs

    path = Path(lm_eval.tasks.__file__).parent / file
    text = path.read_text(encoding="utf-8").replace("!function ", "")
    config = {**yaml.safe_load(text), "dataset_path": "json", "dataset_name": None, "num_fewshot": 0}
    if "process_docs" in config:
        config["process_docs"] = process_docs
    config["dataset_kwargs"] = {"data_files": {split: str(data) for split in ("train", "validation", "test")}}
    config.pop("tag", None)
    return ConfigurableTask(config=config)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.skipif(not REAL_DATA.exists(), reason="the HellaSwag validation set is not beside the repository")
def test_hellaswag_is_scored_as_the_harness_scores_it(tmp_path: Path) -> None:
    with lzma.open(REAL_DATA, "rt", encoding="utf-8") as lines:
        rows = [json.loads(line) for line in lines]
    data = write_lines(tmp_path / "rows.jsonl", [rows[i * len(rows) // 500] for i in range(500)])
    folder = tmp_path / "model"
    folder.mkdir()
    write_random_model(folder, GPTConfig(50_257, 64, 1024, n_layers=2, n_heads=2, qkv_bias=True))
    task = harness_task("hellaswag/hellaswag.yaml", data)
    task.build_all_requests(rank=0, world_size=1)
    expected = [logprob for logprob, _ in reference(folder).loglikelihood(task.instances)]
    model = load(folder, device="cpu")
    assert model.tokenizer is not None
    questions, _ = HELLASWAG.questions("lm-eval", str(data))
    scored = score(model.model, prepare(questions, model.tokenizer, "lm-eval"), 4096)
    found = [logprob for row in scored for logprob in row.loglikelihoods]
    assert found == pytest.approx(expected, rel=1e-3)
    differing = [row.index for row in scored if row.pred != int(np.argmax(expected[4 * row.index : 4 * row.index + 4]))]
    for index in differing:
        first, second = sorted(expected[4 * index : 4 * index + 4])[-2:]
        assert second - first < 1e-3 * abs(second), "no tie"
    assert len(differing) < 5
