"""A trained model on labelled inputs, without the Trainer."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import groupby, islice
from operator import itemgetter
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from transformers import PreTrainedModel

from .labelled_datasets import undivided
from .problem_types import ProblemType


def model_positions(label_names: list[str], id2label: dict[int, str]) -> np.ndarray:
    """The number that the model has for each class of a data set: by name, or the same where its labels have no names.

    Raises:
        ValueError: if a class of the data set is none of the model's.
    """
    label2id = {name: index for index, name in id2label.items()}
    is_unnamed = all(name == f"LABEL_{index}" for index, name in id2label.items())
    if is_unnamed and len(label_names) <= len(id2label):
        return np.arange(len(label_names))
    if unknown := [name for name in label_names if name not in label2id]:
        raise ValueError(f"The model has no class {unknown[0]!r}; its classes are {', '.join(label2id)}.")
    return np.array([label2id[name] for name in label_names])


@torch.inference_mode()
def _reduced_logits(
    model: PreTrainedModel,
    process: Callable[[list], Mapping[str, torch.Tensor]],
    problem: ProblemType,
    inputs: Iterable,
    parts: Callable[[Any], list],
    batch_size: int,
) -> Iterator[torch.Tensor]:
    dtype = getattr(model, "input_dtype", model.dtype)
    numbered = ((number, part) for number, value in enumerate(inputs) for part in parts(value))

    def numbered_logits() -> Iterator[tuple[int, torch.Tensor]]:
        while batch := list(islice(numbered, batch_size)):
            numbers, together = zip(*batch, strict=True)
            moved = {
                name: value.to(model.device, dtype if value.is_floating_point() else None)
                for name, value in process(list(together)).items()
            }
            yield from zip(numbers, model(**moved).logits.float().cpu(), strict=True)

    for _, of_input in groupby(numbered_logits(), key=itemgetter(0)):
        logits = torch.stack([row for _, row in of_input])
        yield problem.reduce(problem.average(logits).unsqueeze(0))


def evaluate_model(
    model: PreTrainedModel,
    process: Callable[[list], Mapping[str, torch.Tensor]],
    problem: ProblemType,
    dataset: Dataset,
    column: str,
    label_names: list[str],
    batch_size: int = 64,
    parts: Callable[[Any], list] = undivided,
) -> dict[str, Any]:
    """The metrics of the problem, the report of every class, and the number of examples.

    Args:
        process: a list of inputs -> what the model takes.
        dataset: with the inputs in `column`, and `label`.
        label_names: of the data set, by label.
        batch_size: what the model sees at once.
        parts: an input -> the parts of it that the model sees; the mean of their scores is the input's.

    Raises:
        ValueError: if a class of the data set is none of the model's.
    """
    config: Any = model.config
    id2label: dict[int, str] = config.id2label
    positions = model_positions(label_names, id2label)
    references = problem.match_labels(list(dataset["label"]), positions, len(id2label))
    reduced = _reduced_logits(model.eval(), process, problem, dataset[column], parts, batch_size)
    predictions = torch.cat(list(reduced)).numpy()
    return {
        "examples": len(dataset),
        **problem.scores(predictions, references),
        **problem.report(predictions, references, [id2label[index] for index in range(len(id2label))]),
    }


def report_table(problem: ProblemType, results: dict[str, Any]) -> str:
    """What `evaluate_model` returns, as text for a terminal."""
    lines = [problem.table(results), ""]
    for key, value in problem.measured(results).items():
        lines.append(f"{problem.titles[key]} on {results['examples']:,} examples: {problem.format(key, value)}")
    return "\n".join(lines)
