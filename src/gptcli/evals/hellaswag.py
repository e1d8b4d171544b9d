"""HellaSwag (Zellers et al. 2019): which of four endings does the model find likeliest after the context?"""

from __future__ import annotations

import re

from gptcli.evals.origin import Origin, Published, Row
from gptcli.evals.question_task import QuestionTask, count_choices
from gptcli.evals.questions import Question

N_ENDINGS = 4

# The Hub's copy at the commit that it has had since 2023, and the authors' own file.
ORIGIN = Origin(
    "hellaswag",
    (
        Published(
            "hf://datasets/Rowan/hellaswag@218ec52e09a7e7462a5400043bb9a69a41d06b76/data/validation-00000-of-00001.parquet",
            "899813071e1e95efafec90f856e1987d2150fa4d020fc005df6962c259f660cd",
        ),
        Published(
            "https://raw.githubusercontent.com/rowanz/hellaswag/master/data/hellaswag_val.jsonl",
            "0aa3b88843990f3f10a97b9575c94d7b71fb2205240ba04ae4884d9e9c992588",
        ),
    ),
)


def _completion(row: Row, index: int) -> Question:
    """The raw context and endings."""
    return Question(index, _text(row, "ctx"), _endings(row), _label(row))


def _as_lm_eval(row: Row, index: int) -> Question:
    """The activity before the context, its second half as a sentence, and all without WikiHow's marks."""
    for column in ("activity_label", "ctx_a", "ctx_b"):
        if column not in row:
            raise ValueError(f"it has no {column}, which the style lm-eval needs")
    begun, going_on = _text(row, "ctx_a"), _text(row, "ctx_b").capitalize()
    context = _without_marks(f"{_text(row, 'activity_label')}: {begun} {going_on}")
    return Question(index, context, tuple(map(_without_marks, _endings(row))), _label(row))


def _without_marks(text: str) -> str:
    text = text.strip().replace(" [title]", ". ")
    return re.sub(r"\[.*?\]", "", text).replace("  ", " ")


def _text(row: Row, column: str) -> str:
    if not isinstance(row[column], str):
        raise ValueError(f"{column} is not text")
    return str(row[column])


def _endings(row: Row) -> tuple[str, ...]:
    endings = row["endings"]
    if not isinstance(endings, list) or len(endings) != N_ENDINGS or not all(isinstance(e, str) for e in endings):
        raise ValueError(f"endings is not a list of {N_ENDINGS} texts")
    return tuple(endings)


def _label(row: Row) -> int:
    """The original file has numbers, the Hub's copy has them as text, and its test split an empty one."""
    value = row["label"]
    if isinstance(value, str) and value.strip().isdecimal():
        value = int(value)
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < N_ENDINGS:
        raise ValueError(f"label is {row['label']!r}, not a number from 0 to {N_ENDINGS - 1}")
    return value


HELLASWAG = QuestionTask(
    name="hellaswag",
    title="HellaSwag",
    description="Which of four endings follows.",
    origin=ORIGIN,
    columns=("ctx", "endings", "label"),
    ask={"completion": _completion, "lm-eval": _as_lm_eval},
    count=count_choices,
)
