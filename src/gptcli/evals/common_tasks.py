"""Other tasks, each as lm-evaluation-harness asks and scores it."""

from __future__ import annotations

import math
from collections.abc import Sequence

from gptcli.evals.origin import Origin, Published, Row
from gptcli.evals.question_task import QuestionTask, count_choices
from gptcli.evals.questions import Question, Scored
from gptcli.evals.statistics import interval, standard_error, standard_error_of_mean
from gptcli.evals.task import Figure


def _piqa(row: Row, index: int) -> Question:
    return Question(index, f"Question: {row['goal']}\nAnswer:", (row["sol1"], row["sol2"]), int(row["label"]))


PIQA = QuestionTask(
    name="piqa",
    title="PIQA",
    description="Which of two ways of doing a thing works (Bisk et al. 2020).",
    origin=Origin(
        "piqa",
        (
            Published(
                "hf://datasets/baber/piqa@142f6d7367fd9877f0fb3b5734ea6a545f54cdd1/piqa_validation.parquet",
                "2b17ee1215b1ceb2ddabf4c90a05c5a8b833bef9d207960f57d111c43a2080f3",
            ),
        ),
    ),
    columns=("goal", "sol1", "sol2", "label"),
    ask={"lm-eval": _piqa},
    count=count_choices,
)


def _arc(row: Row, index: int) -> Question:
    answers = tuple(row["choices"]["text"])
    right = list(row["choices"]["label"]).index(row["answerKey"])
    return Question(index, f"Question: {row['question']}\nAnswer:", answers, right)


ARC_EASY = QuestionTask(
    name="arc-easy",
    title="ARC-Easy",
    description="School science, the easier questions (Clark et al. 2018).",
    origin=Origin(
        "arc-easy",
        (
            Published(
                "hf://datasets/allenai/ai2_arc@210d026faf9955653af8916fad021475a3f00453/ARC-Easy/test-00000-of-00001.parquet",
                "4160597d618ae851c7eb04e281574f3f654776216ac6b6641588d64527b47177",
            ),
        ),
    ),
    columns=("question", "choices", "answerKey"),
    ask={"lm-eval": _arc},
    count=count_choices,
)


def _lambada(row: Row, index: int) -> Question:
    context, _, last = row["text"].rpartition(" ")
    return Question(index, context, (last,), 0)


def _count_words(scored: Sequence[Scored]) -> tuple[dict[str, Figure], dict[str, tuple[float, float]]]:
    """How often the model says the word by itself, and the perplexity of the words."""
    n, right = len(scored), sum(row.pred == row.label for row in scored)
    logprobs = [row.loglikelihoods[0] for row in scored]
    perplexity = math.exp(min(-math.fsum(logprobs) / n, _LARGEST_EXPONENT))
    error = standard_error_of_mean(logprobs)
    figures: dict[str, Figure] = {
        "acc": right / n,
        "perplexity": perplexity,
        "acc_stderr": standard_error(right / n, n),
        "perplexity_stderr": None if error is None else perplexity * error,
    }
    return figures, {"acc": interval(right, n)}


_LARGEST_EXPONENT = 700.0  # beyond, the perplexity of a broken model is no number that JSON has

LAMBADA = QuestionTask(
    name="lambada",
    title="LAMBADA",
    description="The last word of a passage, as OpenAI cut them (Paperno et al. 2016).",
    origin=Origin(
        "lambada",
        (
            Published(
                "hf://datasets/EleutherAI/lambada_openai@900124bf3b8235c6daf21033af9948b3f07346c4/data/lambada_test_en.jsonl",
                "4aa8d02cd17c719165fc8a7887fddd641f43fcafa4b1c806ca8abc31fabdb226",
            ),
        ),
    ),
    columns=("text",),
    ask={"lm-eval": _lambada},
    count=_count_words,
)
