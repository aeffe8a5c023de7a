"""Evaluates a trained model on labelled examples, without the Trainer."""

from collections.abc import Callable, Iterable, Iterator
from itertools import groupby, islice
from operator import itemgetter
from typing import Any

import torch
from datasets import Dataset
from transformers import PreTrainedModel

from .modality import Modality, Transform, single_chunk
from .objective import Objective


@torch.inference_mode()
def _predictions(
    model: PreTrainedModel,
    modality: Modality,
    objective: Objective,
    targets: Any,
    dataset: Dataset,
    transform: Transform,
    chunks: Callable[[Any], Iterable],
    batch_size: int,
) -> Iterator[dict[str, torch.Tensor]]:
    """Yields the predictions for each input under each view, both with a batch axis of 1."""
    dtype = getattr(model, "input_dtype", model.dtype)
    inputs = (value for rows in dataset.iter(batch_size) for value in modality.inputs(rows))
    numbered = ((number, chunk) for number, value in enumerate(inputs) for chunk in chunks(value))

    def numbered_logits() -> Iterator[tuple[int, dict[str, torch.Tensor]]]:
        while batch := list(islice(numbered, batch_size)):
            numbers, together = zip(*batch, strict=True)
            moved = {
                name: value.to(model.device, dtype if value.is_floating_point() else None)
                for name, value in transform(list(together)).items()
            }
            logits = {name: model(**view).logits.float().cpu() for name, view in modality.views(moved).items()}
            for position, number in enumerate(numbers):
                yield number, {name: rows[position] for name, rows in logits.items()}

    for _, of_input in groupby(numbered_logits(), key=itemgetter(0)):
        views = [views for _, views in of_input]
        merged = {
            name: objective.merge_chunks(torch.stack([view[name] for view in views]), targets) for name in views[0]
        }
        yield {name: objective.reduce(logits.unsqueeze(0), None, targets) for name, logits in merged.items()}


def evaluate_model(
    model: PreTrainedModel,
    modality: Modality,
    objective: Objective,
    targets: Any,
    dataset: Dataset,
    transform: Transform,
    batch_size: int = 64,
    chunks: Callable[[Any], Iterable] = single_chunk,
) -> dict[str, Any]:
    """Computes the metrics and the report of the objective.

    Args:
        model: The model.
        modality: Modality of the inputs.
        objective: What is predicted.
        targets: What `objective.load_targets` returned.
        dataset: The examples.
        transform: Turns inputs into tensors.
        batch_size: Number of chunks that the model sees at once.
        chunks: Cuts an input into the chunks that the model sees one by one, whose predictions are merged.

    Returns:
        The number of `examples`, the metrics and the report. If the modality has several views, these are those of
        the first, and `views` has the metrics of each.

    Raises:
        ValueError: If the model cannot predict a target of the data set.
    """
    references = objective.references(dataset, model.config, targets)
    rows = list(_predictions(model.eval(), modality, objective, targets, dataset, transform, chunks, batch_size))
    predictions = {name: torch.cat([row[name] for row in rows]).numpy() for name in rows[0]}
    metrics = {name: objective.metrics(values, references, targets) for name, values in predictions.items()}
    first = next(iter(metrics))
    return {
        "examples": len(dataset),
        **metrics[first],
        **({"views": metrics} if len(metrics) > 1 else {}),
        **objective.report(predictions[first], references, model.config, targets),
    }


def report_table(objective: Objective, results: dict[str, Any], targets: Any) -> str:
    """Formats what `evaluate_model` returned as text for a terminal."""
    titles = objective.titles(targets)
    lines = [objective.table(results, targets), ""]
    for name, metrics in results.get("views", {"": results}).items():
        for key, value in objective.measured(metrics, targets).items():
            view = f" ({name})" if name else ""
            value_text = objective.format_metric(key, value)
            lines.append(f"{titles[key]} on {results['examples']:,} examples{view}: {value_text}")
    return "\n".join(lines)
