"""HellaSwag by lm-evaluation-harness: its prompts, its model `hf` in fp32, its order by length."""

from __future__ import annotations

from datasets import Dataset
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks.hellaswag.utils import process_docs
from turns import Turns, given

from sides.eval_task import EvalTask


def main() -> None:
    """Score until nobody asks any more."""
    turns, task = Turns(), given(EvalTask)
    turns.measure_memory()
    model = HFLM(pretrained=task.model, dtype="float32", device="cpu", batch_size=task.batch)
    for rows in task.turns():
        documents = process_docs(Dataset.from_list(rows))
        requests = [
            Instance("loglikelihood", {}, (document["query"], f" {choice}"), 0)
            for document in documents
            for choice in document["choices"]
        ]
        turns.next()
        model.loglikelihood(requests, disable_tqdm=True)
