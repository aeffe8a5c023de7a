"""One label an input, or many: what decides the loss, the metrics and the report, whatever the modality."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch.nn.functional import logsigmoid

from .labelled_datasets import multi_hot
from .loss import SmoothedCrossEntropy
from .metrics import accuracy, class_report, most_probable
from .multilabel_metrics import ranking_report, ranking_scores


class ProblemType(ABC):
    """A kind of classification, by the name that transformers' configurations have for it.

    Attributes:
        titles: what to call each metric in a table, by its key; the first is the one that counts. All are in 0..1 and
            shown in percent, except those in `plain`.
        plain: the keys of the metrics that are no parts of a whole.
    """

    titles: dict[str, str]
    plain: frozenset[str] = frozenset()

    @property
    def main_metric(self) -> str:
        """Key of the metric that counts."""
        return next(iter(self.titles))

    def format(self, key: str, value: float) -> str:
        """A metric's value for people."""
        return f"{value:.3f}" if key in self.plain else f"{100 * value:.2f} %"

    def measured(self, metrics: dict[str, float], prefix: str = "") -> dict[str, float]:
        """Those of `metrics` that have a title, by their key without the prefix."""
        return {key: metrics[prefix + key] for key in self.titles if prefix + key in metrics}

    @abstractmethod
    def loss(self, label_smoothing: float, has_mixed_labels: bool) -> Callable | None:
        """For the Trainer's `compute_loss_func`; `None` is the model's own loss.

        Args:
            label_smoothing: the part of a label that is spread evenly over all classes.
            has_mixed_labels: whether an augmentation may have made probabilities of labels.
        """

    @abstractmethod
    def average(self, logits: torch.Tensor) -> torch.Tensor:
        """(parts, num_labels) of the parts of one input -> (num_labels,), the logits of the mean of their scores."""

    @abstractmethod
    def reduce(self, logits: torch.Tensor, labels: torch.Tensor | None = None) -> torch.Tensor:
        """(B, num_labels) -> (B, ...), all that the metrics need, so all that is kept in memory. The Trainer's
        `preprocess_logits_for_metrics`, which gets the labels as well."""

    @abstractmethod
    def scores(self, predictions: np.ndarray, references: np.ndarray) -> dict[str, float]:
        """The metrics of what `reduce` has left."""

    @abstractmethod
    def match_labels(self, references: list, positions: np.ndarray, num_labels: int) -> np.ndarray:
        """The data set's labels as the model numbers them.

        Args:
            references: labels as the data set has them.
            positions: (data set's classes,), the number that the model has for each.
            num_labels: of the model.
        """

    @abstractmethod
    def report(self, predictions: np.ndarray, references: np.ndarray, label_names: list[str]) -> dict[str, Any]:
        """Figures for every class, in `classes`, and what else is worth knowing."""

    @abstractmethod
    def table(self, results: dict[str, Any]) -> str:
        """What `report` returns, as text for a terminal."""


class SingleLabelClassification(ProblemType):
    """One class an input; predictions are (B, 1) or (B, 5) classes, the most probable first."""

    titles = {"accuracy": "accuracy", "top5_accuracy": "top-5 accuracy"}  # noqa: RUF012

    def loss(self, label_smoothing: float, has_mixed_labels: bool) -> Callable | None:
        return SmoothedCrossEntropy(label_smoothing) if label_smoothing or has_mixed_labels else None

    def average(self, logits: torch.Tensor) -> torch.Tensor:
        return logits.log_softmax(dim=1).logsumexp(dim=0)

    def reduce(self, logits: torch.Tensor, labels: torch.Tensor | None = None) -> torch.Tensor:
        return most_probable(logits)

    def scores(self, predictions: np.ndarray, references: np.ndarray) -> dict[str, float]:
        return accuracy(predictions, references)

    def match_labels(self, references: list, positions: np.ndarray, num_labels: int) -> np.ndarray:
        return positions[np.array(references)]

    def report(self, predictions: np.ndarray, references: np.ndarray, label_names: list[str]) -> dict[str, Any]:
        return class_report(predictions[:, 0], references, label_names)

    def table(self, results: dict[str, Any]) -> str:
        rows = results["classes"]
        width = max(len("class"), *(len(row["label"]) for row in rows))
        lines = [f"{'class':<{width}}  precision   recall       F1   number"]
        lines += [
            f"{row['label']:<{width}}  {row['precision']:>9.2%} {row['recall']:>8.2%} {row['f1']:>8.2%} "
            f"{row['number']:>8}"
            for row in rows
        ]
        return "\n".join(lines)


class MultiLabelClassification(ProblemType):
    """Any number of classes an input; predictions are (B, num_labels) logits."""

    titles = {  # noqa: RUF012
        "mean_average_precision": "mean average precision",
        "roc_auc": "area under the ROC curve",
        "d_prime": "d-prime",
    }
    plain = frozenset({"d_prime"})

    def loss(self, label_smoothing: float, has_mixed_labels: bool) -> Callable | None:
        """The model's own.

        Raises:
            ValueError: if labels are to be smoothed.
        """
        if label_smoothing:
            raise ValueError(f"`--label_smoothing_factor` is for one label an input, got {label_smoothing}.")
        return None

    def average(self, logits: torch.Tensor) -> torch.Tensor:
        present, absent = (logsigmoid(sign * logits).logsumexp(dim=0) for sign in (1, -1))
        return present - absent

    def reduce(self, logits: torch.Tensor, labels: torch.Tensor | None = None) -> torch.Tensor:
        return logits.float()

    def scores(self, predictions: np.ndarray, references: np.ndarray) -> dict[str, float]:
        return ranking_scores(predictions, references)

    def match_labels(self, references: list, positions: np.ndarray, num_labels: int) -> np.ndarray:
        """(inputs, num_labels) zeros and ones."""
        return multi_hot([positions[classes].tolist() for classes in references], num_labels)

    def report(self, predictions: np.ndarray, references: np.ndarray, label_names: list[str]) -> dict[str, Any]:
        return ranking_report(predictions, references, label_names)

    def table(self, results: dict[str, Any]) -> str:
        rows = results["classes"]
        width = max(len("class"), *(len(row["label"]) for row in rows))
        lines = [f"{'class':<{width}}  average precision  ROC-AUC   number"]
        for row in rows:
            precision, area = (
                "-" if row[key] is None else f"{row[key]:.2%}" for key in ("average_precision", "roc_auc")
            )
            lines.append(f"{row['label']:<{width}}  {precision:>17} {area:>8} {row['number']:>8}")
        return "\n".join(lines)


PROBLEM_TYPES: dict[str, ProblemType] = {
    "single_label_classification": SingleLabelClassification(),
    "multi_label_classification": MultiLabelClassification(),
}
