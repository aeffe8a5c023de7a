"""Evaluates a trained model on labelled examples, without the Trainer."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import groupby, islice
from operator import itemgetter
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from transformers import PreTrainedModel

from .examples import LeftOut, Origin, each, unreadable
from .modality import Modality, Transform, single_chunk
from .objective import Objective

Chunk = tuple[int, Any]  # the row of an example, and one of the parts that the model sees one by one


@dataclass
class Evaluator:
    """Predicts the examples of a data set, each from all of its chunks, and scores the predictions.

    Attributes:
        model: The model.
        modality: Modality of the inputs.
        objective: What is predicted.
        targets: What `objective.load_targets` returned.
        dataset: The examples.
        transform: Turns inputs into tensors.
        batch_size: Number of chunks that the model sees at once.
        chunks: Cuts an input into the chunks that the model sees one by one, whose predictions are merged.
        left_out: Gets each example that cannot be read when it is found; by default, none may be unreadable.
    """

    model: PreTrainedModel
    modality: Modality
    objective: Objective
    targets: Any
    dataset: Dataset
    transform: Transform
    batch_size: int = 64
    chunks: Callable[[Any], Iterable] = single_chunk
    left_out: LeftOut | None = None
    _refused: set[int] = field(default_factory=set, init=False, repr=False)

    def evaluate(self) -> dict[str, Any]:
        """Computes the metrics and the report of the objective.

        Returns:
            The number of `examples`, the metrics and the report. If the modality has several views, these are those
            of the first, and `views` has the metrics of each.

        Raises:
            ValueError: If the model cannot predict a target of the data set, or too many examples cannot be read.
        """
        objective, targets, config = self.objective, self.targets, self.model.config
        references = objective.references(self.dataset, config, targets)
        self.model.eval()
        rows, found = zip(*self.predictions(), strict=True)
        predictions = {name: torch.cat([views[name] for views in found]).numpy() for name in found[0]}
        references = references[list(rows)]
        metrics = {name: objective.metrics(values, references, targets) for name, values in predictions.items()}
        first = next(iter(metrics))
        return {
            "examples": len(rows),
            **metrics[first],
            **({"views": metrics} if len(metrics) > 1 else {}),
            **objective.report(predictions[first], references, config, targets),
        }

    @torch.inference_mode()
    def predictions(self) -> Iterator[tuple[int, dict[str, torch.Tensor]]]:
        """Yields the row of each readable example, and its prediction under each view, with a batch axis of 1."""
        objective, targets = self.objective, self.targets
        for row, of_input in groupby(self._logits(), key=itemgetter(0)):
            views = [views for _, views in of_input]
            if row in self._refused:  # found out in one of its chunks
                continue
            merged = {
                name: objective.merge_chunks(torch.stack([view[name] for view in views]), targets) for name in views[0]
            }
            yield row, {name: objective.reduce(logits.unsqueeze(0), None, targets) for name, logits in merged.items()}

    def _logits(self) -> Iterator[tuple[int, dict[str, torch.Tensor]]]:
        dtype = getattr(self.model, "input_dtype", self.model.dtype)
        chunks = self._chunks()
        while batch := list(islice(chunks, self.batch_size)):
            processed = [tensors for tensors in each(batch, self._process, self._refuse) if tensors is not None]
            if not processed:
                continue
            rows, tensors = zip(*processed, strict=True)
            moved = {}
            for name in tensors[0]:
                stacked = torch.stack([tensor[name] for tensor in tensors])
                moved[name] = stacked.to(self.model.device, dtype if stacked.is_floating_point() else None)
            logits = {
                name: self.model(**view).logits.float().cpu() for name, view in self.modality.views(moved).items()
            }
            for position, row in enumerate(rows):
                yield row, {name: values[position] for name, values in logits.items()}

    def _chunks(self) -> Iterator[Chunk]:
        for row in range(len(self.dataset)):
            try:
                (value,) = self.modality.inputs(self.dataset[row : row + 1])
                for chunk in self.chunks(value):
                    yield row, chunk
            except Exception as error:  # a broken file can raise anything in its decoder
                self._refuse((row, None), error)

    def _process(self, batch: list[Chunk]) -> list[tuple[int, dict[str, torch.Tensor]]]:
        tensors = self.transform([chunk for _, chunk in batch])
        return [
            (row, {name: values[position] for name, values in tensors.items()})
            for position, (row, _) in enumerate(batch)
        ]

    def _refuse(self, chunk: Chunk, error: Exception) -> None:
        row, _ = chunk
        self._refused.add(row)
        if self.left_out is None:
            self.left_out = LeftOut(Origin("validation", np.arange(len(self.dataset))), largest_share=0.0)
        self.left_out.add([unreadable(self.dataset, row, self.modality, error)])


def report_table(objective: Objective, results: dict[str, Any], targets: Any) -> str:
    """Formats what [`Evaluator.evaluate`] returned as text for a terminal."""
    titles = objective.titles(targets)
    lines = [objective.table(results, targets), ""]
    for name, metrics in results.get("views", {"": results}).items():
        for key, value in objective.measured(metrics, targets).items():
            view = f" ({name})" if name else ""
            value_text = objective.format_metric(key, value)
            lines.append(f"{titles[key]} on {results['examples']:,} examples{view}: {value_text}")
    return "\n".join(lines)
