"""Metrics of a classifier, through `evaluate` but without the Hub, where its own accuracy script lies."""

import datasets
import evaluate
import numpy as np
import torch
from sklearn.metrics import accuracy_score, confusion_matrix, precision_recall_fscore_support

TOP = 5
# Below this many classes the right one is among five too often to tell models apart.
MANY_CLASSES = 20


class TopClassAccuracy(evaluate.Metric):
    """Accuracy, and top-5 accuracy where five or more classes an input are given.

    Predictions are the most probable classes of each input, best first; references are the right classes.
    """

    def _info(self):
        return evaluate.MetricInfo(
            description="Accuracy of classification, and top-5 accuracy for many classes.",
            citation="",
            inputs_description="predictions: classes, most probable first; references: the right class.",
            features=datasets.Features(
                {"predictions": datasets.Sequence(datasets.Value("int64")), "references": datasets.Value("int64")}
            ),
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


def class_report(predictions: np.ndarray, references: np.ndarray, label_names: list[str]) -> dict:
    """Precision, recall and F1 of every class in 0..1, its number of inputs, and the confusion matrix (rows: the right
    class, columns: the predicted one).

    Args:
        predictions, references: (inputs,) classes.
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
