"""How well many labels an input are ranked, as AudioSet reports it, by scikit-learn.

An average over the classes, each with its own ranking of all inputs: Gemmeke et al., *Audio Set: An ontology and
human-labeled dataset for audio events*, ICASSP 2017. The rows of both arrays are inputs and the columns classes; the
first version of the Perceiver's paper had them the other way around, and figures that were too high.
"""

from typing import Any

import numpy as np
from scipy.stats import norm
from sklearn.metrics import average_precision_score, roc_auc_score

# A perfect ranking has no finite d-prime, and JSON no infinity; this one is shown as 6.72.
LARGEST_AUC = 1 - 1e-6


def d_prime(roc_auc: float) -> float:
    """How many standard deviations two normal distributions lie apart whose ROC curve has this area under it."""
    return float(2**0.5 * norm.ppf(np.clip(roc_auc, 1 - LARGEST_AUC, LARGEST_AUC)))


def by_class(scores: np.ndarray, references: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Average precision and area under the ROC curve of every class, NaN where all inputs or none belong to it.

    Args:
        scores: (inputs, classes), the higher the more probable.
        references: (inputs, classes), zeros and ones.
    """
    precisions, areas = np.full((2, references.shape[1]), np.nan)
    for index, (score, reference) in enumerate(zip(scores.T, references.T, strict=True)):
        if 0 < reference.sum() < len(reference):
            precisions[index] = average_precision_score(reference, score)
            areas[index] = roc_auc_score(reference, score)
    return precisions, areas


def ranking_scores(scores: np.ndarray, references: np.ndarray) -> dict[str, float]:
    """`mean_average_precision` and `roc_auc` in 0..1, averaged over the classes that can be ranked, and `d_prime`, of
    the average area; arguments as [`by_class`].

    Raises:
        ValueError: if no class has both inputs that belong to it and inputs that do not.
    """
    precisions, areas = by_class(scores, references)
    if np.isnan(areas).all():
        raise ValueError("No class can be ranked: each belongs to all inputs, or to none.")
    roc_auc = float(np.nanmean(areas))
    return {
        "mean_average_precision": float(np.nanmean(precisions)),
        "roc_auc": roc_auc,
        "d_prime": d_prime(roc_auc),
    }


def ranking_report(scores: np.ndarray, references: np.ndarray, label_names: list[str]) -> dict[str, Any]:
    """Average precision and area under the ROC curve of every class, `None` where there is none, and its number of
    inputs; arguments as [`by_class`]."""
    columns = (*by_class(scores, references), references.sum(axis=0))
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
