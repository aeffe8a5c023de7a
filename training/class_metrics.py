"""The metrics of classification, with one label per example or several.

The metrics for one label are those of `evaluate`, but without the Hub, which its own accuracy script needs. Those for
several labels are AudioSet's: an average over the classes, each with its own ranking of all inputs (Gemmeke et al.,
*Audio Set: An ontology and human-labeled dataset for audio events*, ICASSP 2017). The rows of both arrays are inputs
and the columns classes; the first version of the Perceiver's paper swapped them and reported figures that were too
high.
"""

from typing import Any

import evaluate
import numpy as np
import torch
from datasets import Features, Sequence, Value
from scipy.stats import norm
from sklearn.metrics import (
    accuracy_score,
    average_precision_score,
    confusion_matrix,
    precision_recall_fscore_support,
    roc_auc_score,
)

TOP = 5
# With fewer classes, the right one is among the first five too often to tell models apart.
MANY_CLASSES = 20
# A perfect ranking has no finite d-prime, and JSON has no infinity; this one is shown as 6.72.
LARGEST_AUC = 1 - 1e-6


class TopClassAccuracy(evaluate.Metric):
    """Accuracy, and top-5 accuracy if five or more classes are given per input.

    Predictions are the most probable classes of each input, best first; references are the right classes.
    """

    def _info(self):
        return evaluate.MetricInfo(
            description="Accuracy of classification, and top-5 accuracy for many classes.",
            citation="",
            inputs_description="predictions: classes, most probable first; references: the right class.",
            features=Features({"predictions": Sequence(Value("int64")), "references": Value("int64")}),
        )

    def _compute(self, predictions, references):
        predictions, references = np.array(predictions), np.array(references)
        scores = {"accuracy": float(accuracy_score(references, predictions[:, 0]))}
        if predictions.shape[1] >= TOP:
            scores["top5_accuracy"] = float((predictions[:, :TOP] == references[:, None]).any(axis=1).mean())
        return scores


def most_probable(logits: torch.Tensor) -> torch.Tensor:
    """(B, num_labels) -> (B, 1), or (B, 5) for many classes."""
    return logits.topk(TOP if logits.shape[-1] >= MANY_CLASSES else 1).indices


def accuracy(predictions: np.ndarray, references: np.ndarray) -> dict[str, float]:
    """`accuracy` in 0..1, and `top5_accuracy` for many classes; see [`most_probable`]."""
    return TopClassAccuracy().compute(predictions=predictions.tolist(), references=references.tolist())


def class_report(predictions: np.ndarray, references: np.ndarray, label_names: list[str]) -> dict[str, Any]:
    """Precision, recall and F1 of every class in 0..1, its number of inputs, and the confusion matrix.

    The matrix has a row per right class and a column per predicted one.

    Args:
        predictions: (inputs,) classes.
        references: (inputs,) classes.
        label_names: Names of the classes.
    """
    classes = list(range(len(label_names)))
    columns = precision_recall_fscore_support(references, predictions, labels=classes, zero_division=0.0)
    rows = zip(label_names, *(column.tolist() for column in columns), strict=True)
    return {
        "classes": [
            {"label": label, "precision": precision, "recall": recall, "f1": f1, "number": number}
            for label, precision, recall, f1, number in rows
        ],
        "confusion_matrix": confusion_matrix(references, predictions, labels=classes).tolist(),
    }


def d_prime(roc_auc: float) -> float:
    """The distance, in standard deviations, of two normal distributions whose ROC curve has this area under it."""
    return float(2**0.5 * norm.ppf(np.clip(roc_auc, 1 - LARGEST_AUC, LARGEST_AUC)))


def ranking_by_class(scores: np.ndarray, references: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Average precision and area under the ROC curve of every class, NaN if it holds all inputs or none.

    Args:
        scores: (inputs, classes), higher for more probable classes.
        references: (inputs, classes), zeros and ones.
    """
    precisions, areas = np.full((2, references.shape[1]), np.nan)
    for index, (score, reference) in enumerate(zip(scores.T, references.T, strict=True)):
        if 0 < reference.sum() < len(reference):
            precisions[index] = average_precision_score(reference, score)
            areas[index] = roc_auc_score(reference, score)
    return precisions, areas


def ranking_scores(scores: np.ndarray, references: np.ndarray) -> dict[str, float]:
    """`mean_average_precision` and `roc_auc` in 0..1, averaged over classes, and `d_prime` of the averaged area.

    The averages leave out classes that cannot be ranked. Arguments as for [`ranking_by_class`].

    Raises:
        ValueError: If no class has both inputs that belong to it and inputs that do not.
    """
    precisions, areas = ranking_by_class(scores, references)
    if np.isnan(areas).all():
        raise ValueError("No class can be ranked: each belongs to all inputs, or to none.")
    roc_auc = float(np.nanmean(areas))
    return {
        "mean_average_precision": float(np.nanmean(precisions)),
        "roc_auc": roc_auc,
        "d_prime": d_prime(roc_auc),
    }


def ranking_report(scores: np.ndarray, references: np.ndarray, label_names: list[str]) -> dict[str, Any]:
    """Average precision, area under the ROC curve and number of inputs of every class.

    The first two are `None` if the class cannot be ranked. Arguments as for [`ranking_by_class`].
    """
    columns = (*ranking_by_class(scores, references), references.sum(axis=0))
    rows = zip(label_names, *(column.tolist() for column in columns), strict=True)
    return {
        "classes": [
            {
                "label": label,
                "average_precision": None if np.isnan(precision) else precision,
                "roc_auc": None if np.isnan(area) else area,
                "number": int(number),
            }
            for label, precision, area, number in rows
        ]
    }
