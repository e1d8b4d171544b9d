"""What `gpt generate` writes and where: one text, several, those of a file, of several models, and a session."""

from __future__ import annotations

import io
import json
import math
import os
import re
import signal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from prompt_toolkit.history import InMemoryHistory
from prompt_toolkit.input import create_pipe_input
from prompt_toolkit.output import DummyOutput
from rich.color import Color, ColorSystem
from small_runs import sharp

from gptcli.cli import generate_file, part_file, side_by_side
from gptcli.cli.interruption import Terminated
from gptcli.cli.manuscript import Manuscript, Turn
from gptcli.cli.probabilities import Probabilities, colour_of
from gptcli.cli.session import Session
from gptcli.cli.session_input import reader
from gptcli.inference.language_model import LanguageModel
from gptcli.inference.load import load
from gptcli.model.config import GPTConfig
from gptcli.model.huggingface import write_model
from gptcli.settings import GenerateSettings
from gptcli.tokenizer import chars_tokenizer
from gptcli.tokenizer_files import write_tokenizer

pytestmark = pytest.mark.usefixtures("one_thread")

LETTERS = "\n /abcdefghijklmnopqrstuvwxyz.,ABCDEFGHIJKLMNOPQRSTUVWXYZ-"


def write_letters(folder: Path, context: int = 32) -> Path:
    """A random model of letters."""
    tokenizer = chars_tokenizer(LETTERS)
    write_model(folder, sharp(GPTConfig(tokenizer.vocab_size, context, 32, 2, 4)), tokenizer.eot)
    write_tokenizer(folder, tokenizer, context)
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_letters(tmp_path_factory.mktemp("letters"))


@pytest.fixture(scope="module")
def model(folder: Path) -> LanguageModel:
    return load(folder, device="cpu")


@pytest.fixture
def generate(gpt: Any, folder: Path) -> Any:
    """`gpt generate` with the model of letters."""
    return lambda *words: gpt("generate", "--model", str(folder), "--device", "cpu", *words)


def test_prompt_and_completion_go_to_standard_output_and_one_line_on_the_model_to_standard_error(
    generate: Any, model: LanguageModel
) -> None:
    result = generate("Say", "--seed", "3", "--max-new-tokens", "9")
    assert result.code == 0
    assert result.out == "Say" + model.generate("Say", seed=3, max_new_tokens=9).text + "\n"
    assert result.err == f"{model.folder}: GPT-2, 28k parameters, tokenizer chars\n"


def test_a_dash_reads_the_prompt_from_standard_input(
    generate: Any, model: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("Say\nit"))
    out = generate("-", "--seed", "3", "--max-new-tokens", "9").out
    assert out == "Say\nit" + model.generate("Say\nit", seed=3, max_new_tokens=9).text + "\n"


def test_without_a_prompt_and_a_terminal_a_document_is_begun(generate: Any, model: LanguageModel) -> None:
    expected = model.generate("", seed=3, max_new_tokens=9).text + "\n"
    assert generate("--seed", "3", "--max-new-tokens", "9").out == expected
    assert generate("", "--seed", "3", "--max-new-tokens", "9").out == expected


def test_every_sampling_option_reaches_the_model(generate: Any, model: LanguageModel) -> None:
    words = {"temperature": 1.3, "top_k": 9, "top_p": 0.9, "min_p": 0.01, "repetition_penalty": 1.2, "seed": 5}
    flags = [word for name, value in words.items() for word in (f"--{name}", str(value))]
    expected = model.generate("Say", max_new_tokens=30, stop_at_end=False, **words).text  # type: ignore[arg-type]
    assert generate("Say", "--no-stop-at-end", "--max-new-tokens", "30", *flags).out == f"Say{expected}\n"
    first = expected[4]
    cut = generate("Say", "--no-stop-at-end", "--max-new-tokens", "30", *flags, "--stop", "#", "--stop", first).out
    assert cut == f"Say{expected.partition(first)[0]}\n"


def test_a_prompt_that_is_not_read_from_its_beginning_is_noted(generate: Any) -> None:
    assert "goes on from" not in generate("Say", "--max-new-tokens", "1").err
    told = generate("a" * 40, "--max-new-tokens", "1").err
    assert "The prompt has 40 tokens, the model's context holds 32: the completion goes on from the last 24." in told


def test_a_model_that_takes_no_text_is_told_of_once(gpt: Any, tmp_path: Path) -> None:
    write_model(tmp_path, sharp(GPTConfig(40, 8, 32, 2, 4)), 3)
    result = gpt("generate", "Say", "--model", str(tmp_path), "--device", "cpu")
    assert result.faults == [f"The model in {tmp_path} has no tokenizer: it takes token ids, not text."]
    assert len(gpt("generate", "--model", str(tmp_path), "--device", "cpu", "--no-stop-at-end").out.split()) == 100


def test_several_samples_stand_under_separators_that_are_not_part_of_the_text(
    generate: Any, model: LanguageModel
) -> None:
    result = generate("Say", "--num-samples", "2", "--seed", "1", "--max-new-tokens", "9", "--top-k", "5")
    texts = [sample.text for sample in model.generate_many("Say", 2, seed=1, max_new_tokens=9, top_k=5)]
    assert result.out == "".join(f"Say{text}\n" for text in texts)
    assert "sample 2 of 2" in result.err


def test_json_is_one_document(generate: Any, model: LanguageModel) -> None:
    words = ("Say", "--num-samples", "2", "--seed", "1", "--max-new-tokens", "9", "--json")
    document = json.loads(generate(*words).out)
    assert list(document) == ["prompt", "samples", "tokens_per_second"]
    expected = model.generate_many("Say", 2, seed=1, max_new_tokens=9)
    for sample, completion in zip(document["samples"], expected, strict=True):
        assert sample == {"text": completion.text, "ids": completion.ids, "finish_reason": completion.finish_reason}
    document = json.loads(generate(*words, "--stats", "--show-probs").out)
    assert (document["weights"], document["device"]) == ("fp32", "cpu")
    sample = document["samples"][0]
    assert len(sample["ids"]) == len(sample["logprobs"]) == len(sample["alternatives"])
    assert [len(likeliest) for likeliest in sample["alternatives"]] == [5] * len(sample["ids"])
    likeliest = sample["alternatives"][0][0]
    assert likeliest["text"] == model.token_bytes([likeliest["id"]]).decode()
    assert likeliest["logprob"] >= sample["logprobs"][0]


def test_probabilities_are_listed_for_every_token_with_the_likeliest_others(
    generate: Any, model: LanguageModel
) -> None:
    result = generate("Say", "--temperature", "0", "--max-new-tokens", "3", "--show-probs")
    completion = model.generate("Say", temperature=0, max_new_tokens=3, alternatives=5)
    assert result.out == f"Say{completion.text}\n", "no colours where nobody looks"
    lines = result.err.splitlines()[-3:]
    for line, token, logprob in zip(lines, completion.ids, completion.logprobs, strict=True):
        assert line.startswith(repr(model.token_bytes([token]).decode()))
        assert f" {100 * torch.tensor(logprob).exp().item():5.1f}%" in line
        assert line.count("%") == 5


def test_each_character_has_the_colour_of_the_token_that_completed_it(capsys: Any) -> None:
    text = {0: b"a\t", 1: "é".encode()[:1], 2: "é".encode()[1:] + b"!", 3: b"held", 4: b" back"}
    model: Any = SimpleNamespace(token_bytes=lambda ids: b"".join(text[token] for token in ids))
    drawn = Probabilities(model)
    drawn._colours = ColorSystem.TRUECOLOR
    likely = {0: 0.9, 1: 0.3, 2: 0.1, 3: 0.01, 4: 0.6}

    def shown(n: int, so_far: str) -> list[tuple[str, str]]:
        ids = list(range(n))
        drawn.write(SimpleNamespace(ids=ids, logprobs=[math.log(likely[i]) for i in ids], text=so_far))  # type: ignore[arg-type]
        return re.findall("\x1b\\[38;2;([0-9;]+)m(.*?)\x1b\\[0m", capsys.readouterr().out)

    def rgb(probability: float) -> str:
        return ";".join(map(str, Color.parse(colour_of(probability)).triplet or ()))

    assert shown(1, "a\t") == [(rgb(0.9), "a\t")]
    assert shown(2, "a\t") == []
    assert shown(3, "a\té!") == [(rgb(0.1), "é!")]
    assert shown(5, "a\té!held ba") == [(rgb(0.01), "held"), (rgb(0.6), " ba")]
    assert len({rgb(p) for p in (0.9, 0.3, 0.1, 0.01)}) == 4


def test_texts_are_drawn_side_by_side_in_a_table(model: LanguageModel, capsys: Any) -> None:
    streams = [model.stream("Say", seed=seed, max_new_tokens=12, stop_at_end=False, stop="\n") for seed in (1, 2)]
    side_by_side._draw(["before", "after"], "Say", streams, [model, model])
    out = capsys.readouterr().out
    assert re.search("before .* after", out)
    for stream in streams:
        assert f"Say{stream.completion.text.rstrip()}" in out
    folders = [Path("run/checkpoints/step_1"), Path("run/checkpoints/step_2"), Path("run")]
    named = [SimpleNamespace(folder=folder) for folder in folders]
    assert side_by_side._names(named[:2]) == ["step_1", "step_2"]  # type: ignore[arg-type]
    assert side_by_side._names(named) == [str(folder) for folder in folders]  # type: ignore[arg-type]


def test_speed_is_told_apart_from_the_text(generate: Any) -> None:
    words = ("Say", "--max-new-tokens", "3", "--no-stop-at-end", "--seed", "1")
    result = generate(*words, "--stats")
    assert result.out == generate(*words).out
    assert result.err.splitlines()[1].startswith("3 tokens in ")
    assert "weights in fp32 on cpu" in result.err


def test_several_models_go_on_from_the_same_prompt_with_the_same_random_numbers(
    generate: Any, folder: Path, model: LanguageModel
) -> None:
    words = ("Say", "--model", str(folder), "--max-new-tokens", "9", "--num-samples", "2")
    result = generate(*words)
    _, *texts = result.out.split("Say")
    assert len(texts) == 4
    assert texts[0] == texts[1] != texts[2] == texts[3], "one model twice, two samples"
    assert "sample 1 of 2" in result.err
    assert result.err.count("28k parameters") == 2, "a line for each model"
    document = json.loads(generate(*words, "--json", "--seed", "4").out)
    assert [list(each) for each in document["results"]] == [["model", "prompt", "samples", "tokens_per_second"]] * 2
    both = json.loads(generate(*words, "--json").out)["results"]
    assert both[0]["samples"] == both[1]["samples"]
    expected = model.generate("Say", seed=4, max_new_tokens=9).text
    assert document["results"][1]["samples"][0]["text"] == expected


def test_options_that_do_not_go_together_are_all_told_at_once(generate: Any, folder: Path) -> None:
    faults = generate("Say", "--file", "p.jsonl", "--show-probs", "--stats", "--model", str(folder)).faults
    assert faults == [
        "--file needs --output FILE, where the completions go.",
        "--file and a prompt don't go together.",
        "--file and --show-probs don't go together.",
        "--file takes one --model.",
        "--show-probs takes one --model.",
        "--stats takes one --model.",
    ]
    assert generate("Say", "--output", "x").faults == ["--output is where the completions of --file go."]


# Many prompts.

PROMPTS: list[Any] = [
    {"prompt": "Say", "id": "first"},
    "It is",
    {"prompt": "a", "seed": 9, "max_new_tokens": 4},
    {"prompt": [5, 6, 7], "temperature": 0},
    {"prompt": "", "stop": ["e"]},
    *[f"Number {'abcdefghij'[i % 10] * (1 + i % 7)}" for i in range(25)],
]


def write_prompts(path: Path) -> Path:
    path.write_text("\n\n".join(json.dumps(line) for line in PROMPTS) + "\n")
    return path


def test_each_prompt_of_a_file_gets_what_it_gets_alone(generate: Any, model: LanguageModel, tmp_path: Path) -> None:
    prompts, out = write_prompts(tmp_path / "p.jsonl"), tmp_path / "out.jsonl"
    words = ("--file", str(prompts), "--output", str(out), "--seed", "2", "--max-new-tokens", "12")
    result = generate(*words, "--num-samples", "2", "--json")
    assert json.loads(result.out)["prompts"] == len(PROMPTS)
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert [row["index"] for row in rows] == list(range(len(PROMPTS)))
    assert rows[0]["id"] == "first"
    assert "id" not in rows[1]
    for told, row in zip(PROMPTS, rows, strict=True):
        own = {"prompt": told} if isinstance(told, str) else dict(told)
        own.pop("id", None)
        prompt = own.pop("prompt")
        expected = model.generate_many(prompt, 2, **{"seed": 2, "max_new_tokens": 12, **own})
        assert row["prompt"] == prompt
        assert [sample["ids"] for sample in row["samples"]] == [completion.ids for completion in expected]
    assert not out.with_name("out.jsonl.part").exists()
    assert generate(*words).faults == [f"--output {out}: it is there already."]


@pytest.mark.parametrize(("error", "code"), [(Terminated, 75), (KeyboardInterrupt, 130)])
def test_a_stopped_file_goes_on_where_it_was(
    error: type[BaseException], code: int, generate: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompts, out, whole = write_prompts(tmp_path / "p.jsonl"), tmp_path / "out.jsonl", tmp_path / "whole.jsonl"
    words = ("--file", str(prompts), "--seed", "2", "--max-new-tokens", "8")
    assert generate(*words, "--output", str(whole)).code == 0
    row = generate_file._row
    rows: list[int] = []

    def stopping(*args: Any) -> dict[str, Any]:
        if len(rows) == 7:
            raise error
        rows.append(args[1])
        return row(*args)

    monkeypatch.setattr(generate_file, "_row", stopping)
    result = generate(*words, "--output", str(out))
    assert result.code == code
    assert "7 of 30 prompts are done" in result.err
    assert not out.exists()
    part = out.with_name("out.jsonl.part")
    with part.open("ab") as file:
        file.write(b'{"index": 29, "prom')  # a line that the disk got half of
    other = generate("--file", str(prompts), "--seed", "3", "--max-new-tokens", "8", "--output", str(out))
    assert other.faults == [f"{part} was begun by another call: it differs in options."]
    rows.clear()
    monkeypatch.setattr(generate_file, "_row", lambda *args: rows.append(args[1]) or row(*args))
    assert generate(*words, "--output", str(out)).code == 0
    assert len(rows) == len(PROMPTS) - 7, "none is computed twice"
    assert out.read_bytes() == whole.read_bytes()


def test_two_calls_do_not_write_one_file(generate: Any, tmp_path: Path) -> None:
    prompts, out = write_prompts(tmp_path / "p.jsonl"), tmp_path / "out.jsonl"
    words = ("--file", str(prompts), "--output", str(out), "--max-new-tokens", "2")
    with part_file.held(tmp_path / "out.jsonl.part"):
        assert generate(*words).faults == [f"Another gpt generate is writing {out}.part."]
    assert generate(*words).code == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.jsonl", "p.jsonl"]


def test_what_is_wrong_in_a_file_is_told_by_line(generate: Any, tmp_path: Path) -> None:
    prompts = tmp_path / "p.jsonl"
    words = ("--file", str(prompts), "--output", str(tmp_path / "out.jsonl"))
    assert generate(*words).faults == [f"--file {prompts}: No such file or directory."]
    prompts.write_text("\n")
    assert generate(*words).faults == [f"{prompts} has no prompts."]
    prompts.write_text('{"prompt": "a"}\nSay\n')
    assert generate(*words).faults[0].startswith(f"{prompts}, line 2: it is no JSON")
    prompts.write_text('{"text": "a"}\n{"prompt": "a", "tempature": 1}\n{"prompt": "a", "seed": -1}\n{"prompt": 5}\n')
    assert generate(*words).faults == [
        f"{prompts}, prompt 1: it has no `prompt`.",
        f"{prompts}, prompt 2: there is no option tempature.",
        f"{prompts}, prompt 3: --seed: -1 is below 0.",
        f"{prompts}, prompt 4: A prompt is a text or a list of token ids, not 5.",
    ]
    assert not (tmp_path / "out.jsonl.part").exists()


# A session.


@pytest.fixture
def session(model: LanguageModel) -> Session:
    return Session(model, GenerateSettings(max_new_tokens=6, seed=1, stop_at_end=False))


def test_person_and_model_write_in_turns(session: Session, model: LanguageModel, capsys: Any) -> None:
    assert session.take("Say it")
    first = model.generate("Say it", max_new_tokens=6, seed=1, stop_at_end=False).text
    assert capsys.readouterr().out == first + "\n"
    assert session.take("")
    second = model.generate("Say it" + first, max_new_tokens=6, seed=1, stop_at_end=False).text
    assert [(turn.by_model, turn.text) for turn in session.manuscript.turns] == [
        (False, "Say it"), (True, first), (True, second),
    ]  # fmt: skip
    session.take("//and")
    assert session.manuscript.text.startswith(f"Say it{first}{second}/and")


def test_the_last_part_is_written_another_way_and_taken_back(session: Session, capsys: Any) -> None:
    session.take("Say it")
    before = session.manuscript.text
    session.take("/retry")
    assert session.manuscript.text != before
    assert [turn.by_model for turn in session.manuscript.turns] == [False, True]
    session.take("more")
    assert len(session.manuscript.turns) == 4
    session.take("/undo")
    assert len(session.manuscript.turns) == 2
    session.take("/undo")
    assert session.manuscript.turns == []
    capsys.readouterr()
    session.take("/undo")
    session.take("/retry")
    assert capsys.readouterr().err.splitlines() == [
        "There is nothing to take back.",
        "There is nothing of the model's at the end to write again.",
    ]


def test_what_the_tokenizer_has_no_token_for_is_told_and_not_written(session: Session, capsys: Any) -> None:
    session.take("Say it")
    before = session.manuscript.text
    assert session.take("señor")
    assert session.manuscript.text == before
    assert "has no 'ñ'" in capsys.readouterr().err


def test_a_model_without_a_space_goes_on_without_one(tmp_path: Path, capsys: Any) -> None:
    tokenizer = chars_tokenizer("ACGT")
    write_model(tmp_path, sharp(GPTConfig(tokenizer.vocab_size, 16, 32, 2, 4)), tokenizer.eot)
    write_tokenizer(tmp_path, tokenizer, 16)
    genes = Session(load(tmp_path, device="cpu"), GenerateSettings(max_new_tokens=4, seed=1))
    genes.take("ACG")
    genes.take("TTA")
    assert "TTA" in genes.manuscript.text
    assert " " not in genes.manuscript.text


def test_the_models_own_ids_stay_as_they_were(model: LanguageModel, capsys: Any) -> None:
    ended = Session(model, GenerateSettings(max_new_tokens=200, seed=1, temperature=5.0, top_k=0))
    ended.take("a")
    assert "the model ended the text here" in capsys.readouterr().err
    assert model.eot not in ended.manuscript.ids
    on = Session(model, GenerateSettings(max_new_tokens=200, seed=1, temperature=5.0, top_k=0, stop_at_end=False))
    on.take("a")
    assert model.eot in on.manuscript.ids, "an end of text in the middle is a token, no text"
    assert on.take("")


def test_a_part_that_a_stop_string_ended_is_kept_without_it(session: Session) -> None:
    session.take("Say it")
    part = session.manuscript.turns[1].text
    session.take("/new")
    session.take(f"/stop {part[2:4]}")
    session.take("Say it")
    assert session.manuscript.turns[1].text == part[:2]
    assert len(session.manuscript.turns[1].ids) == 2


def test_a_session_takes_lines_until_it_is_left_and_gives_up_a_line_at_ctrl_c(
    gpt: Any, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines: list[Any] = []

    def read() -> str:
        line = lines.pop(0)
        if isinstance(line, str):
            return line
        raise line

    monkeypatch.setattr("gptcli.cli.session_input.reader", lambda *_: read)
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    words = ("generate", "--model", str(folder), "--device", "cpu", "--max-new-tokens", "3")
    for end, code in (("/quit", 0), (EOFError(), 0), (Terminated(), 130)):
        lines[:] = ["Say", KeyboardInterrupt(), "it", end]
        result = gpt(*words)
        assert (result.code, lines) == (code, [])
    assert gpt(*words, "--num-samples", "2").faults == ["A session writes one text."]
    assert gpt(*words, "--model", str(folder)).faults == ["A session is with one model."]


def test_settings_change_within_their_bounds(session: Session, capsys: Any) -> None:
    session.take("/temperature 0")
    session.take("/top_k 7")
    session.take("/stop .")
    session.take("/show-probs")
    assert (session.settings.temperature, session.settings.top_k) == (0.0, 7)
    assert session.settings.stop == (".",)
    assert session.settings.show_probs is True
    assert "temperature 0.0" in session.status()
    session.take("/stop")
    session.take("/show-probs")
    assert (session.settings.stop, session.settings.show_probs) == ((), False)
    capsys.readouterr()
    for line in ("/temperature -1", "/max-new-tokens many", "/tempratur 1", "/model x"):
        assert session.take(line)
    assert capsys.readouterr().err.splitlines() == [
        "error: /temperature: -1 is below 0.",
        "  It takes a number, at least 0.",
        "error: /max-new-tokens: 'many' is not a whole number.",
        "  It takes a whole number, at least 1.",
        "There is no /tempratur. Did you mean /temperature?",
        "There is no /model. /help lists what there is.",
    ]
    assert session.settings.temperature == 0.0
    session.take("/settings")
    assert "/repetition-penalty" in capsys.readouterr().err


def test_a_text_is_shown_saved_and_begun_anew(session: Session, tmp_path: Path, capsys: Any) -> None:
    session.take("Say it")
    text = session.manuscript.text
    capsys.readouterr()
    session.take("/show")
    assert capsys.readouterr().out == text + "\n"
    session.take(f"/save {tmp_path / 'story.txt'}")
    assert (tmp_path / "story.txt").read_text() == text + "\n"
    session.take("/new")
    session.take(f"/save {tmp_path / 'story.txt'}")
    session.take("/save")
    session.take(f"/save {tmp_path / 'none' / 'story.txt'}")
    err = capsys.readouterr().err
    assert "is there already; name another." in err
    assert "Name a file" in err
    assert "could not be written: No such file or directory." in err
    assert (tmp_path / "story.txt").read_text() == text + "\n"
    assert session.manuscript.text == ""
    session.take("/help")
    assert "/retry" in capsys.readouterr().err
    assert not session.take("/quit")


def test_a_text_may_outgrow_the_context(session: Session, model: LanguageModel) -> None:
    session.take("Say it")
    for _ in range(9):
        session.take("")
    text = session.manuscript.text
    assert len(text) > 2 * model.model.config.context_length
    assert "in reach" in session.status()
    turn = session.manuscript.turns[-1].text
    assert turn == model.generate(text[: -len(turn)], max_new_tokens=6, seed=1, stop_at_end=False).text


@pytest.mark.skipif(os.name != "posix", reason="sends itself Ctrl-C")
def test_ctrl_c_ends_a_part_and_keeps_what_is_there(
    session: Session, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    session.take("/max-new-tokens 500")
    session.take("/stop " + "".join(f"{c}" for c in "abcdefghijklm"))  # text may be held back for it
    show = Session._show_new

    def interrupting(session: Session, generation: Any, *args: Any) -> int:
        if len(generation.ids) == 5 and generation.finish_reason is None:
            os.kill(os.getpid(), signal.SIGINT)
        return show(session, generation, *args)

    monkeypatch.setattr(Session, "_show_new", interrupting)
    assert session.take("Say it")
    monkeypatch.undo()
    assert len(session.manuscript.turns[1].text) == 5
    assert capsys.readouterr().out == session.manuscript.turns[1].text + "\n"
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    session.take("/max-new-tokens 3")
    assert session.take("")
    assert len(session.manuscript.turns) == 3


def test_a_space_is_put_between_two_words_and_nowhere_else() -> None:
    for before, text, expected in (
        ("day", "and", " and"), ("day.", "And", " And"), ("day ", "and", "and"), ("day\n", "and", "and"),
        ("day", ", and", ", and"), ("day", " and", " and"), ("", "and", "and"), ("天", "气", "气"), ("天", "a", "a"),
    ):  # fmt: skip
        manuscript = Manuscript([Turn(True, before, (1,))] if before else [])
        assert manuscript.joined(text) == expected


def test_lines_are_read_with_breaks_history_and_an_end() -> None:
    history = InMemoryHistory()
    history.append_string("before")
    with create_pipe_input() as pipe:
        read = reader(["/help"], lambda: "status", pipe, DummyOutput(), history)
        pipe.send_text("\x1b[A\r")
        assert read() == "before"
        pipe.send_text("one\x1b\rtwo\r")
        assert read() == "one\ntwo"
        pipe.send_text("\x03")
        with pytest.raises(KeyboardInterrupt):
            read()
        pipe.send_text("\x04")
        with pytest.raises(EOFError):
            read()
