"""What the figures of a classifier mean: beside chance, class by class, and example by example."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy.special import expit

from .folders import listed, printable
from .objective import Findings, Mistake, Outcome

# Weakest classes and most frequent confusions that are named.
MOST_NAMED = 3
# With more classes, the card has no table of them.
MOST_ROWS = 20
# A result is near chance if it is less than this many standard errors better.
STANDARD_ERRORS = 2
LONGEST_NAME = 40


def class_findings(outcome: Outcome, names: Sequence[str], noun: str) -> Findings:
    """Compares the accuracy with chance and with the most frequent class, and names weak classes and confusions.

    A result is near chance if it is not more than two standard errors better than always answering the most frequent
    class. The standard error of a share p of n examples is (p (1 - p) / n)^0.5.

    Args:
        outcome: Predictions (examples, 1 or more), the most probable class first, and references (examples,).
        names: Names of the classes.
        noun: What several inputs are called.
    """
    predicted, right = outcome.predictions[:, 0], outcome.references
    total = len(right)
    numbers = np.bincount(right, minlength=len(names))
    hits = np.bincount(right[predicted == right], minlength=len(names))
    recalls = hits / numbers.clip(min=1)
    largest = int(numbers.argmax())
    chance, majority, accuracy = 1 / len(names), float(numbers[largest] / total), float(hits.sum() / total)
    most_frequent = short(names[largest])

    is_balanced = numbers.min() == numbers.max()
    remarks = [
        f"Chance is {percent(chance)}: {len(names):,} classes, all equally frequent."
        if is_balanced
        else f"Chance is {percent(chance)}, one of {len(names):,} classes; always answering {most_frequent}, the most "
        f"frequent class, gives {percent(majority)}."
    ]
    present = np.flatnonzero(numbers)
    weak = sorted(present[recalls[present] < 1], key=lambda index: (recalls[index], -numbers[index]))
    if weak := weak[: min(MOST_NAMED, (len(present) + 1) // 2)]:
        described = [f"{short(names[i])} (recall {percent(recalls[i])}, {hits[i]:,} of {numbers[i]:,})" for i in weak]
        remarks.append(f"Weakest {'class' if len(weak) == 1 else 'classes'}: {', '.join(described)}.")
    is_wrong = predicted != right
    confusions = Counter(zip(right[is_wrong].tolist(), predicted[is_wrong].tolist(), strict=True))
    if confusions:
        described = [
            f"{short(names[target])} taken for {short(names[answer])} ({_times(number)})"
            for (target, answer), number in confusions.most_common(MOST_NAMED)
        ]
        remarks.append(f"Most often confused: {', '.join(described)}.")

    error = (majority * (1 - majority) / total) ** 0.5
    limit = majority + STANDARD_ERRORS * error
    warning = None
    if accuracy <= limit:
        warning = (
            f"This is near chance: an accuracy of {percent(accuracy)} cannot be told from always answering "
            f"{most_frequent}, which on {total:,} {noun} gives up to {percent(min(limit, 1))} by luck."
        )
    table = [
        {"class": name, "recall": percent(recall) if number else "-", noun: f"{number:,}"}
        for name, recall, number in zip(names, recalls, numbers, strict=True)
    ]
    baselines = {"chance": chance}
    if not is_balanced:
        baselines["always the most frequent class"] = majority
    return Findings(
        baselines=baselines,
        remarks=remarks,
        warning=warning,
        table=table if len(table) <= MOST_ROWS else [],
    )


def class_mistakes(outcome: Outcome, names: Sequence[str]) -> list[Mistake]:
    """The examples whose most probable class is wrong, those that the model is surest of first."""
    predicted, right = outcome.predictions[:, 0], outcome.references
    wrong = np.flatnonzero(predicted != right)
    wrong = wrong[np.argsort(-outcome.confidences[wrong], kind="stable")]
    return [
        Mistake(number, names[right[number]], names[predicted[number]], float(outcome.confidences[number]))
        for number in wrong.tolist()
    ]


def ranking_findings(rows: Sequence[dict[str, Any]], total: int, noun: str) -> Findings:
    """Compares mean average precision with a random order, and names the weakest classes.

    A random order has an area under the ROC curve of 1/2 with a standard error of ((P + N + 1) / (12 P N))^0.5 for P
    inputs of the class and N others, as that area is the Mann-Whitney statistic. The classes' errors are averaged as
    if they were one, which is the most that their mean can have.

    Args:
        rows: The report of every class: `label`, `average_precision`, `roc_auc` and `number`.
        total: Number of inputs.
        noun: What several inputs are called.
    """
    ranked = [row for row in rows if row["roc_auc"] is not None]
    shares = [row["number"] / total for row in ranked]
    errors = [((total + 1) / (12 * row["number"] * (total - row["number"]))) ** 0.5 for row in ranked]
    area, limit = float(np.mean([row["roc_auc"] for row in ranked])), 0.5 + STANDARD_ERRORS * float(np.mean(errors))
    chance = float(np.mean(shares))
    weakest = sorted(ranked, key=lambda row: row["average_precision"])[: min(MOST_NAMED, (len(ranked) + 1) // 2)]
    described = [
        f"{short(row['label'])} (average precision {percent(row['average_precision'])}, {row['number']:,} {noun})"
        for row in weakest
    ]
    warning = None
    if area <= limit:
        warning = (
            f"This is near chance: an area under the ROC curve of {percent(area)} cannot be told from a random order, "
            f"which on {total:,} {noun} has up to {percent(min(limit, 1))} by luck."
        )
    table = [
        {
            "class": row["label"],
            "average precision": "-" if row["average_precision"] is None else percent(row["average_precision"]),
            noun: f"{row['number']:,}",
        }
        for row in rows
    ]
    return Findings(
        baselines={"a random order": chance},
        remarks=[
            f"A random order has a mean average precision of about {percent(chance)}.",
            f"Weakest {'class' if len(weakest) == 1 else 'classes'}: {', '.join(described)}.",
        ],
        warning=warning,
        table=table if len(table) <= MOST_ROWS else [],
    )


def ranking_mistakes(outcome: Outcome, names: Sequence[str]) -> list[Mistake]:
    """The examples with a class on the wrong side of a probability of 1/2, those furthest on it first."""
    scores, right = expit(outcome.predictions), outcome.references
    distances = np.abs(scores - right).max(axis=1)
    wrong = np.flatnonzero(((scores >= 0.5) != (right >= 0.5)).any(axis=1))
    return [
        Mistake(number, _several(right[number], names), _several(scores[number], names), float(distances[number]))
        for number in wrong[np.argsort(-distances[wrong], kind="stable")].tolist()
    ]


def short(name: str) -> str:
    """A name for a sentence, cut off if it is long."""
    name = printable(name)
    return name if len(name) <= LONGEST_NAME else f"{name[: LONGEST_NAME - 3]}..."


def percent(value: float) -> str:
    """A share in 0..1 as a percentage."""
    return f"{100 * value:.2f} %"


def _several(scores: np.ndarray, names: Sequence[str]) -> str:
    return listed(names[index] for index in np.flatnonzero(scores >= 0.5).tolist()) or "none"


def _times(number: int) -> str:
    return "once" if number == 1 else f"{number:,} times"
