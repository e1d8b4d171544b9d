"""Texts from a model: the cache, the window, streams, scores, and how weights are held."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gptcli.errors import UsageError, UserError
from gptcli.inference.engine import Engine, complete, window_start
from gptcli.inference.language_model import Completion, LanguageModel
from gptcli.inference.load import load
from gptcli.inference.requests import Generation, Request
from gptcli.inference.sampling import Sampling
from gptcli.inference.text import GrowingText
from gptcli.model.config import GPTConfig
from gptcli.model.huggingface import write_model
from gptcli.model.network import GPT
from gptcli.tokenizer import get_tokenizer
from gptcli.tokenizer_files import read_tokenizer, write_tokenizer

pytestmark = pytest.mark.usefixtures("one_thread")

MODERN: dict[str, Any] = {
    "positions": "rotary", "norm": "rms", "mlp": "swiglu", "bias": False, "qkv_bias": False, "qk_norm": True,
    "n_kv_heads": 2,
}  # fmt: skip


def small_model(context_length: int = 8, vocab_size: int = 40, seed: int = 0, **changes: Any) -> GPT:
    """A random network whose next-token distributions are far from uniform."""
    shape = {"emb_dim": 32, "n_layers": 2, "n_heads": 4, "qkv_bias": True} | changes
    config = GPTConfig(vocab_size=vocab_size, context_length=context_length, **shape)
    model = GPT(config)
    model.initialise(torch.Generator().manual_seed(seed))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 2:
                parameter.mul_(8)
    return model.eval()


def run(
    model: GPT, prompt: list[int], request: Request, samples: int = 1, ends: tuple[int, ...] = (), rows: int = 16
) -> list[Generation]:
    engine = Engine(model, vocab_size=40, ends=ends, rows=rows)
    generations = [engine.add(prompt, request, number) for number in range(samples)]
    while engine.busy:
        engine.step()
    return generations


def greedy(model: GPT, prompt: list[int], n: int) -> list[int]:
    return run(model, prompt, Request(n, Sampling(0.0)))[0].ids


def assert_greedy(model: GPT, generation: Generation) -> None:
    """That every token is the likeliest after its window, computed without a cache; among two that are within 1e-4 it
    may be either."""
    ids = generation.prompt + generation.ids
    for n in range(len(generation.prompt), len(ids)):
        with torch.inference_mode():
            logits = model(torch.tensor([ids[window_start(n, model.config.context_length) : n]]))[0, -1, :40]
        assert logits[ids[n]] >= logits.max() - 1e-4


@pytest.fixture(scope="module")
def text_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a random model of gpt2's vocabulary, padded, and its tokenizer."""
    folder = tmp_path_factory.mktemp("model")
    tokenizer = get_tokenizer("gpt2")
    write_model(folder, small_model(16, 50_304), tokenizer.eot)
    write_tokenizer(folder, tokenizer, 16)
    return folder


@pytest.fixture(scope="module")
def loaded(text_model: Path) -> LanguageModel:
    return load(text_model, device="cpu")


@given(context=st.integers(1, 40), n=st.integers(1, 200))
def test_the_window_fits_the_context_and_moves_by_halves(context: int, n: int) -> None:
    start = window_start(n, context)
    assert 1 <= n - start <= context
    assert (start == 0) == (n <= context)
    assert start % max(1, context // 2) == 0
    assert start == 0 or n - start > context - max(1, context // 2), "never more than the older half is dropped"
    assert start <= window_start(n + 1, context)


@given(
    fixed=st.booleans(),
    family=st.sampled_from([{}, MODERN]),
    context=st.integers(1, 24),
    rows=st.integers(1, 4),
    texts=st.lists(
        st.tuples(
            st.integers(0, 2),  # which beginning it has
            st.integers(1, 40),  # how much of it
            st.integers(1, 30),  # new tokens
            st.integers(0, 12),  # the step before which it joins
            st.one_of(st.none(), st.integers(0, 30)),  # the step before which it is cancelled
        ),
        min_size=1,
        max_size=6,
    ),
)
@settings(max_examples=100, deadline=None)
def test_texts_that_join_and_leave_at_any_time_are_those_without_a_cache(
    fixed: bool, family: dict[str, Any], context: int, rows: int, texts: list[tuple[int, int, int, int, int | None]]
) -> None:
    model = small_model(context, **family)
    engine = Engine(model, vocab_size=40, rows=rows, fixed_shapes=fixed)
    generations: dict[int, Generation] = {}
    for step in range(1000):
        for i, (kind, length, new, joins, cancelled) in enumerate(texts):
            if joins == step:
                prompt = [(7 * j + 3 + kind * (j > 20)) % 40 for j in range(length)]
                generations[i] = engine.add(prompt, Request(new, Sampling(0.0)))
            if cancelled == step and i in generations:
                engine.cancel(generations[i])
        before = {i: len(generation.ids) for i, generation in generations.items()}
        grown = engine.step()
        assert len(grown) <= rows
        for i, generation in generations.items():
            assert len(generation.ids) == before[i] + (generation in grown)
        if step > 12 and not engine.busy:
            break
    for (_, _, new, *_), generation in zip(texts, (generations[i] for i in range(len(texts))), strict=True):
        assert generation.finish_reason == "cancelled" or len(generation.ids) == new
        assert_greedy(model, generation)


def test_the_next_token_is_predicted_from_the_window_alone() -> None:
    model = small_model(6)
    ids = [1, 2, 3]
    expected = list(ids)
    for _ in range(15):
        window = expected[window_start(len(expected), 6) :]
        expected.append(int(model(torch.tensor([window]))[0, -1].argmax()))
    assert ids + greedy(model, ids, 15) == expected


@pytest.mark.parametrize("family", [{}, MODERN], ids=["gpt2", "modern"])
def test_greedy_generation_agrees_with_transformers(family: dict[str, Any], tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    model = small_model(32, **family)
    write_model(tmp_path, model, None)
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path)
    out = theirs.generate(torch.tensor([[3, 1, 4, 1, 5]]), max_new_tokens=20, do_sample=False, pad_token_id=0)
    assert greedy(model, [3, 1, 4, 1, 5], 20) == out[0, 5:].tolist()


@pytest.mark.parametrize("samples", [2, 5, 18])
def test_a_row_has_the_same_text_alone_and_beside_others(samples: int) -> None:
    model = small_model()
    request = Request(12, Sampling(1.0, 10), seed=11)
    together = run(model, [5, 6], request, samples, ends=(3,))
    for number in (0, 1, samples - 1):
        engine = Engine(model, vocab_size=40, ends=(3,), rows=1)
        alone = engine.add([5, 6], request, number)
        while engine.busy:
            engine.step()
        assert together[number].ids == alone.ids


def test_a_row_that_ended_stops_while_others_go_on() -> None:
    model = small_model()
    request = Request(30, Sampling(1.0, None), seed=1)
    rows = run(model, [5], request, 12, ends=(3,))
    stopped = [row for row in rows if row.finish_reason == "stop"]
    others = [row for row in rows if row.finish_reason == "length"]
    assert 0 < len(stopped) < len(rows), "the seed was chosen so that both happen"
    assert all(row.ids.index(3) == len(row.ids) - 1 == len(row.logprobs) - 1 for row in stopped)
    assert all(3 not in row.ids and len(row.ids) == len(row.logprobs) == 30 for row in others)


def test_without_stopping_the_end_of_text_is_a_token_like_any_other() -> None:
    model = small_model()
    request = Request(40, Sampling(1.0, None), seed=1, stop_at_end=False)
    rows = run(model, [5], request, 12, ends=(3,))
    assert all(len(row.ids) == 40 and row.finish_reason == "length" for row in rows)
    assert any(3 in row.ids for row in rows)


def test_prompts_that_begin_alike_are_computed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    model = small_model(64)
    computed: list[int] = []
    hidden = model.hidden

    def counted(ids: torch.Tensor, *args: Any) -> torch.Tensor:
        computed.append(ids.numel())
        return hidden(ids, *args)

    monkeypatch.setattr(model, "hidden", counted)
    prompt = [(7 * i + 3) % 40 for i in range(30)]
    engine = Engine(model, vocab_size=40, rows=4)
    texts = [engine.add(prompt, Request(3, Sampling(0.0)), number) for number in range(3)]
    engine.step()
    assert computed == [30], "several completions of a prompt"
    texts.append(engine.add([*prompt[:25], 1, 2], Request(3, Sampling(0.0))))
    engine.step()
    assert computed == [30, 3, 2], "a prompt that begins as one that is running"
    while engine.busy:
        engine.step()
    computed.clear()
    texts.append(engine.add(texts[3].prompt + texts[3].ids, Request(3, Sampling(0.0))))
    engine.step()
    assert computed == [1], "one that goes on from what was generated"
    while engine.busy:
        engine.step()
    for text in texts:
        assert_greedy(model, text)


def test_prompts_of_like_length_are_computed_together(monkeypatch: pytest.MonkeyPatch) -> None:
    model = small_model(64)
    computed: list[tuple[int, ...]] = []
    hidden = model.hidden

    def counted(ids: torch.Tensor, *args: Any) -> torch.Tensor:
        computed.append(tuple(ids.shape))
        return hidden(ids, *args)

    monkeypatch.setattr(model, "hidden", counted)
    engine = Engine(model, vocab_size=40, rows=4)
    for number, length in enumerate((5, 40, 4, 30)):
        engine.add([number + 1] * length, Request(2, Sampling(0.0)))
    engine.step()
    assert computed == [(2, 5), (2, 40)]


def test_a_request_that_is_cancelled_makes_room_for_the_next() -> None:
    engine = Engine(small_model(), vocab_size=40, rows=1)
    first, second, third = (engine.add([5, 6], Request(50, Sampling(0.0))) for _ in range(3))
    assert engine.step() == [first]
    engine.cancel(second)
    assert (second.finish_reason, second.ids) == ("cancelled", [])
    engine.cancel(first)
    assert (first.finish_reason, len(first.ids)) == ("cancelled", 1)
    assert engine.step() == [third]
    engine.cancel(third)
    assert not engine.busy
    assert engine.step() == []


def test_a_stream_that_is_left_stops_there(loaded: LanguageModel) -> None:
    with loaded.stream("So", max_new_tokens=50, seed=2) as stream:
        first = next(stream)
    completion = stream.completion
    assert completion.finish_reason == "cancelled"
    assert completion.text.startswith(first)
    assert len(completion.ids) < 50


@given(
    parts=st.lists(st.sampled_from(["a", "b", "ab", "é", "语", "aab", " "]), max_size=12),
    stops=st.lists(st.sampled_from(["ab", "b", "é ", "语a", "aaab"]), max_size=2),
    size=st.integers(1, 3),
)
def test_a_text_grows_by_whole_characters_up_to_the_first_stop_string(
    parts: list[str], stops: list[str], size: int
) -> None:
    text = "".join(parts)
    data = text.encode()
    growing = GrowingText(stops)
    shown = ""
    for at in range(0, len(data), size):
        shown += growing.push(data[at : at + size])
        assert text.startswith(shown), "what was shown stays"
        if growing.stopped:
            break
        assert not any(stop in shown for stop in stops)
    else:
        shown += growing.push(b"", final=True)
    ends = [text.find(stop) for stop in stops if stop in text]
    if growing.stopped:
        # Of several stop strings in one piece the first counts; one that ends in a later piece is not waited for.
        assert any(shown + stop == text[: len(shown) + len(stop)] for stop in stops)
        assert len(shown) >= min(ends)
    else:
        assert not ends
        assert shown == text


def test_a_stop_string_ends_the_text_before_it_wherever_its_tokens_begin(loaded: LanguageModel) -> None:
    whole = loaded.generate("So", max_new_tokens=20, temperature=0, stop_at_end=False)
    stop = whole.text[7:11]
    at = whole.text.index(stop)
    cut = loaded.generate("So", max_new_tokens=20, temperature=0, stop_at_end=False, stop=["never there", stop])
    assert (cut.text, cut.finish_reason) == (whole.text[:at], "stop")
    assert cut.ids == whole.ids[: len(cut.ids)]
    assert loaded.tokenizer is not None
    assert stop in loaded.tokenizer.decode(cut.ids)
    assert stop not in loaded.tokenizer.decode(cut.ids[:-1])
    assert "".join(loaded.stream("So", max_new_tokens=20, temperature=0, stop_at_end=False, stop=stop)) == cut.text


def test_an_empty_stop_string_and_one_without_text_are_refused(loaded: LanguageModel, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="stop string is empty"):
        loaded.generate("So", stop="")
    write_model(tmp_path, small_model(), 3)
    with pytest.raises(UserError, match="no tokenizer"):
        load(tmp_path, device="cpu").generate([1], stop=".")


def test_alternatives_are_the_likeliest_tokens_with_their_log_probabilities(loaded: LanguageModel) -> None:
    completion = loaded.generate("So it", max_new_tokens=3, temperature=0, alternatives=4, stop_at_end=False)
    ids = loaded.prompt_ids("So it") + completion.ids
    logprobs = loaded.model(torch.tensor([ids]))[0, :, : loaded.vocab_size].log_softmax(-1)
    for n, likeliest in enumerate(completion.alternatives):
        expected = logprobs[len(ids) - 4 + n].topk(4)
        assert [token for token, _ in likeliest] == expected.indices.tolist()
        torch.testing.assert_close(torch.tensor([value for _, value in likeliest]), expected.values, atol=1e-4, rtol=0)
        assert likeliest[0][0] == completion.ids[n]
    assert loaded.generate("So it", max_new_tokens=3, seed=1).alternatives == []


def test_requests_of_different_sampling_share_a_batch() -> None:
    model = small_model()
    asked = [
        Request(8, Sampling(0.0)), Request(8, Sampling(1.0, 5), 3), Request(8, Sampling(2.0, None), 4),
        Request(8, Sampling(0.0, repetition_penalty=3.0)), Request(8, Sampling(1.0, 5), 3), Request(4, Sampling(0.0)),
    ]  # fmt: skip
    engine = Engine(model, vocab_size=40, rows=4)
    together = [engine.add([i, 2], request) for i, request in enumerate(asked)]
    while engine.busy:
        engine.step()
    for generation, request in zip(together, asked, strict=True):
        (alone,) = run(model, generation.prompt, request)
        assert generation.ids == alone.ids
    assert len(set(together[3].ids)) == 8, "the penalty was chosen so high that nothing is said twice"


def never() -> bool:
    return False


def test_a_model_in_training_comes_back_in_training_with_the_random_state_untouched() -> None:
    model = small_model(drop_rate=0.5).train()
    before = torch.get_rng_state()
    ids = complete(model, [1], vocab_size=40, ends=(), max_new_tokens=10, seed=4, stop=never)
    assert model.training
    assert torch.equal(before, torch.get_rng_state())
    assert ids == complete(model.eval(), [1], vocab_size=40, ends=(), max_new_tokens=10, seed=4, stop=never), (
        "no dropout"
    )


def test_the_callers_gradients_are_on_between_the_tokens_of_a_stream(loaded: LanguageModel) -> None:
    stream = loaded.stream("To be", max_new_tokens=3, seed=0)
    next(stream)
    assert torch.is_grad_enabled()
    assert not torch.is_inference_mode_enabled()


def test_a_completion_is_text_ids_and_log_probabilities_of_the_new_tokens(loaded: LanguageModel) -> None:
    completion = loaded.generate("On a clear day", max_new_tokens=9, seed=3)
    assert loaded.tokenizer is not None
    assert completion.finish_reason == "length"
    assert len(completion.ids) == len(completion.logprobs) == 9
    assert completion.text == loaded.tokenizer.decode(completion.ids)


def test_the_same_seed_gives_the_same_text_and_none_gives_another(loaded: LanguageModel) -> None:
    def text(seed: int | None) -> str:
        return loaded.generate("So", max_new_tokens=12, seed=seed, top_k=None).text

    assert text(5) == text(5)
    assert text(5) != text(6)
    assert text(None) != text(None)


def test_the_first_of_many_is_what_one_alone_would_be(loaded: LanguageModel) -> None:
    many = loaded.generate_many("So", 3, max_new_tokens=8, seed=2)
    assert many[0].ids == loaded.generate("So", max_new_tokens=8, seed=2).ids
    assert len({tuple(completion.ids) for completion in many}) == 3


def test_no_padding_id_is_ever_generated(text_model: Path) -> None:
    model = load(text_model, device="cpu")
    with torch.no_grad():  # every hidden state now prefers the padded rows
        model.model.final_norm.bias.fill_(1.0)
        model.model.token_embedding.weight[50_257:] = 5.0
    for temperature in (0.0, 1.0):
        ids = model.generate("So", max_new_tokens=10, temperature=temperature, top_k=None, seed=0).ids
        assert max(ids) < 50_257


def test_a_stream_joins_to_the_text_in_whole_characters(text_model: Path) -> None:
    model = load(text_model, device="cpu")
    assert model.tokenizer is not None
    # Half of a character a token: only tokens of single bytes above ASCII can come.
    single = [model.tokenizer.encode(character) for character in "语言é"]
    wanted = [token for ids in single for token in ids]
    with torch.no_grad():
        model.model.final_norm.bias.fill_(1.0)
        model.model.token_embedding.weight[wanted] += 5.0
    stream = model.stream("a", max_new_tokens=40, seed=1, temperature=3.0)
    pieces = list(stream)
    completion = stream.completion
    assert "".join(pieces) == completion.text
    assert len(pieces) < len(completion.ids), "some tokens were no whole character"
    assert completion == model.generate("a", max_new_tokens=40, seed=1, temperature=3.0)


def test_the_completion_of_a_stream_can_be_had_at_any_time(loaded: LanguageModel) -> None:
    stream = loaded.stream("So", max_new_tokens=8, seed=2)
    next(stream)
    assert stream.completion == loaded.generate("So", max_new_tokens=8, seed=2)


def test_a_completion_that_stopped_has_its_end_in_the_ids_and_not_in_the_text(text_model: Path) -> None:
    model = load(text_model, device="cpu")
    assert model.tokenizer is not None
    with torch.no_grad():
        model.model.final_norm.bias.fill_(1.0)
        model.model.token_embedding.weight[model.tokenizer.eot] = 20.0
    completion = model.generate("So", max_new_tokens=5, temperature=0)
    assert completion == Completion("", [model.tokenizer.eot], completion.logprobs, "stop")
    assert list(model.stream("So", max_new_tokens=5, temperature=0)) == []


def test_an_empty_prompt_is_the_start_of_a_document(loaded: LanguageModel) -> None:
    assert loaded.tokenizer is not None
    assert loaded.prompt_ids("") == loaded.prompt_ids([]) == [loaded.tokenizer.eot]
    assert loaded.prompt_ids("So it") == loaded.tokenizer.encode("So it")


@pytest.mark.parametrize("n", [3, 12, 60])
def test_the_log_probabilities_of_a_completion_are_the_scores_of_its_ids(loaded: LanguageModel, n: int) -> None:
    completion = loaded.generate("", max_new_tokens=n, seed=8, stop_at_end=False)
    score = loaded.score(completion.ids)
    assert score.ids == completion.ids
    torch.testing.assert_close(torch.tensor(score.logprobs), torch.tensor(completion.logprobs), atol=1e-4, rtol=0)


def test_an_empty_text_has_an_empty_score(loaded: LanguageModel) -> None:
    score = loaded.score("")
    assert score.ids == []
    assert score.logprobs == []


def test_ids_outside_the_vocabulary_are_named(loaded: LanguageModel) -> None:
    with pytest.raises(UserError, match="50257, -1"):
        loaded.generate([5, 50_257, -1])


def test_a_model_without_tokenizer_takes_ids_and_refuses_text(tmp_path: Path) -> None:
    write_model(tmp_path, small_model(), 3)
    model = load(tmp_path, device="cpu")
    assert model.tokenizer is None
    assert model.eot == 3
    assert "token ids" in model.notes[0]
    completion = model.generate([1, 2], max_new_tokens=4, seed=0, stop_at_end=False)
    assert len(completion.ids) == 4
    assert completion.text == ""
    assert len(model.score([1, 2]).logprobs) == 2
    for call in (model.generate, model.stream, model.score):
        with pytest.raises(UserError, match="token ids, not text"):
            call("text")


def foreign_model(folder: Path) -> Path:
    """A Llama whose tokenizer puts a token before every text, and which ends texts by two others."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    made = Tokenizer(models.BPE({letter: i for i, letter in enumerate(alphabet)}, []))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.add_special_tokens(["<begin>", "<end>", "<turn>"])
    made.post_processor = processors.Sequence(
        [
            processors.ByteLevel(trim_offsets=False),
            processors.TemplateProcessing("<begin> $A", "<begin> $A $B", [("<begin>", 256)]),
        ]
    )
    model = small_model(16, 259, **MODERN | {"qk_norm": False, "tie_embeddings": False})
    write_model(folder, model, eot=257)
    made.save(str(folder / "tokenizer.json"))
    told = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<end>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(told))
    (folder / "generation_config.json").write_text('{"eos_token_id": [257, 258]}')
    return folder


def test_a_foreign_model_reads_text_as_its_own_program_gives_it(tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    model = load(foreign_model(tmp_path), device="cpu")
    assert model.prompt_ids("On a day") == AutoTokenizer.from_pretrained(tmp_path)("On a day").input_ids
    assert model.prompt_ids([5, 6]) == [5, 6]
    assert model.prompt_ids("") == [256]
    logits = model.model(torch.tensor([[256, 65]]))[0, :-1].log_softmax(-1)
    assert model.score([65]).logprobs == pytest.approx([logits[0, 65].item()], abs=1e-5)


@pytest.mark.parametrize("end", [257, 258])
def test_each_of_a_foreign_models_end_of_text_ids_ends_a_completion(end: int, tmp_path: Path) -> None:
    model = load(foreign_model(tmp_path), device="cpu")
    with torch.no_grad():
        model.model.head.weight.zero_()
        model.model.head.weight[end] = 1e3 * model.model.hidden(torch.tensor([[256, 65]]))[0, -1]
    completion = model.generate([256, 65], temperature=0.0, max_new_tokens=5)
    assert (completion.ids, completion.text, completion.finish_reason) == ([end], "", "stop")


def test_what_we_train_from_a_foreign_tokenizer_begins_documents_with_the_end_of_text(tmp_path: Path) -> None:
    foreign, ours = tmp_path / "foreign", tmp_path / "ours"
    for folder in (foreign, ours):
        folder.mkdir()
    tokenizer, _ = read_tokenizer(foreign_model(foreign), 259)
    assert tokenizer is not None
    write_model(ours, small_model(16, 259, **MODERN), eot=257)
    write_tokenizer(ours, tokenizer, 16)
    model = load(ours, device="cpu")
    assert model.prompt_ids("a") == tokenizer.encode("a")
    assert model.prompt_ids("") == [257]
    assert json.loads((ours / "tokenizer.json").read_text())["post_processor"] is None
    assert read_tokenizer(ours, 259)[0] == tokenizer


def test_a_document_needs_an_end_of_text_token_to_begin_with(tmp_path: Path) -> None:
    write_model(tmp_path, small_model(), None)
    model = load(tmp_path, device="cpu")
    with pytest.raises(UserError, match="end-of-text"):
        model.generate([])
    assert model.generate([1], max_new_tokens=2).finish_reason == "length"


@pytest.mark.parametrize(
    "options", [{"max_new_tokens": 0}, {"temperature": -1.0}, {"top_p": 1.5}, {"top_k": -2}, {"seed": -1}]
)
def test_options_that_mean_nothing_are_refused(loaded: LanguageModel, options: dict[str, float]) -> None:
    with pytest.raises(UsageError):
        loaded.generate("So", **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("prompt", [None, 3, [1.5], ["a", "b"], torch.tensor([0.5])])
def test_what_is_neither_text_nor_ids_is_no_prompt(prompt: object, loaded: LanguageModel) -> None:
    for call in (loaded.generate, loaded.score, loaded.stream):
        with pytest.raises(UsageError, match="a text or a list of token ids"):
            call(prompt)  # type: ignore[operator]
    assert loaded.generate(torch.tensor([3, 4]), max_new_tokens=1).ids  # type: ignore[arg-type]


@pytest.mark.parametrize("n", [0, -1])
def test_fewer_than_one_sample_is_refused(n: int, loaded: LanguageModel) -> None:
    with pytest.raises(UsageError, match=f"num_samples is {n}"):
        loaded.generate_many("a", n)


def test_how_much_of_a_long_prompt_is_not_read_is_known(loaded: LanguageModel) -> None:
    context = loaded.model.config.context_length
    assert loaded.read_from([0] * context) == 0
    cut = loaded.read_from([0] * (context + 1))
    assert cut == window_start(context + 1, context) > 0
