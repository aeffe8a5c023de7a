"""Reads the label column of data sets, of any type, and checks it; the inputs are not touched."""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any

import datasets
import numpy as np
from datasets import ClassLabel, Dataset, DatasetDict, Value

from .folders import MOST_NAMES, listed, printable, say

WORDS = ("string", "large_string", "string_view")
PURPOSES = {"train": "to train on", "validation": "to evaluate on"}
# What data sets give examples whose label is withheld.
UNLABELLED = -1


@dataclass
class Labels:
    """What the label column of some splits holds.

    Attributes:
        names: Names of the classes.
        is_multi_label: Whether an example has a list of labels.
        is_declared: Whether the data set declares its classes, as opposed to having them found among its labels.
        counts: For each split, the number of examples of each class.
        num_unclassified: For each split, the number of examples with an empty list of labels.
    """

    names: list[str]
    is_multi_label: bool
    is_declared: bool
    counts: dict[str, list[int]] = field(default_factory=dict)
    num_unclassified: dict[str, int] = field(default_factory=dict)


def is_class_label(feature: Any) -> bool:
    """Whether a column holds class labels or lists of them."""
    return isinstance(single_feature(feature), ClassLabel)


def has_labels(examples: Dataset, column: str) -> bool:
    """Whether any example has a label in the column of this name."""
    feature = examples.features.get(column)
    if feature is None:
        return False
    values = _column(examples.select_columns([column]).rename_columns({column: "label"}))
    return not all(_is_missing(value, feature) for value in values)


def single_feature(feature: Any) -> Any:
    """The type of a single label of a column, which may hold lists of them."""
    return feature.feature if isinstance(feature, (datasets.List, datasets.LargeList)) else feature


def read_labels(splits: DatasetDict) -> tuple[DatasetDict, Labels]:
    """Makes class labels of the column `label`, the same in all splits.

    A label may be a class label, a word, a whole number or a truth value, or a list of these. Lists of truth values,
    and lists of equal length of zeros and ones, have an entry for each class. A split to evaluate on that has no
    labels at all, as where they are withheld, is dropped if there is one to train on.

    Raises:
        ValueError: If the column has another type, or labels are missing or out of range.
    """
    splits = DatasetDict(splits)
    features = {split: examples.features["label"] for split, examples in splits.items()}
    _check_types(features)
    keys: dict[str, list] = {}
    for split, examples in list(splits.items()):
        feature = features[split]
        values = _column(examples)
        missing = [index for index, value in enumerate(values) if _is_missing(value, feature)]
        if len(missing) < len(values) and not is_class_label(feature) and not _is_list(feature):
            # Among other whole numbers, -1 is a number like them.
            missing = [index for index in missing if values[index] != UNLABELLED]
        if len(missing) == len(values) and split == "validation" and "train" in splits:
            say(f"None of the {len(values):,} examples to evaluate on has a label; some to train on are held out.")
            del splits[split]
        elif missing or not values:
            number = f"{len(missing):,} of {len(values):,}" if len(missing) < len(values) else f"All {len(values):,}"
            first = f" (the first: number {missing[0]:,})" if missing else ""
            raise ValueError(
                f"{number} examples {PURPOSES[split]} have no label{first}: give them one or remove them."
            )
        else:
            keys[split] = _to_keys(values, feature, split)
    return _with_classes(splits, keys, features)


def _check_types(features: dict[str, Any]) -> None:
    for feature in features.values():
        single = single_feature(feature)
        is_known = isinstance(single, ClassLabel) or (isinstance(single, Value) and _is_known(single.dtype))
        is_rows = _is_list(feature) and isinstance(single, Value) and single.dtype.startswith(("float", "double"))
        if not is_known and not is_rows:
            raise ValueError(
                f"Labels must be class labels, words, whole numbers or truth values, or lists of these, not {feature}."
            )
    if len({_kind(feature) for feature in features.values()}) > 1:
        raise ValueError(
            "The labels have other types in other splits: "
            + ", ".join(f"{feature} {PURPOSES[split]}" for split, feature in features.items())
            + "."
        )


def _is_known(dtype: str) -> bool:
    return dtype in (*WORDS, "bool", "null") or dtype.startswith(("int", "uint"))


def _kind(feature: Any) -> tuple[bool, str]:
    """Whether it is a list, and of what; numbers of all widths are alike, and so are words."""
    single = single_feature(feature)
    if isinstance(single, ClassLabel):
        return _is_list(feature), "class label"
    dtype = single.dtype
    return _is_list(feature), "word" if dtype in WORDS else dtype.lstrip("u").rstrip("0123456789")


def _is_list(feature: Any) -> bool:
    return single_feature(feature) is not feature


def _column(examples: Dataset) -> list:
    """The labels as Python's values, without class names in the place of numbers."""
    return examples.select_columns(["label"]).with_format("arrow")[:]["label"].to_pylist() if len(examples) else []


def _is_missing(value: Any, feature: Any) -> bool:
    """Whether a label is missing or, for a list, an entry of it."""
    if value is None:
        return True
    if isinstance(value, list):
        return any(_is_missing(entry, single_feature(feature)) for entry in value)
    if isinstance(value, str):
        return not value.strip()
    if isinstance(value, float):
        return np.isnan(value)
    return not isinstance(value, bool) and value == UNLABELLED


def _to_keys(values: list, feature: Any, split: str) -> list:
    """Class labels become their names, other labels stay."""
    single = single_feature(feature)
    if not isinstance(single, ClassLabel):
        return values
    names = single.names
    flat = (entry for value in values for entry in (value if isinstance(value, list) else [value]))
    if (wrong := next((entry for entry in flat if not 0 <= entry < len(names)), None)) is not None:
        raise ValueError(
            f"An example {PURPOSES[split]} has the label {wrong}, but the data set declares {len(names)} classes, "
            f"from 0 to {len(names) - 1}."
        )
    return [[names[entry] for entry in value] if isinstance(value, list) else names[value] for value in values]


def _rows_of_zeros_and_ones(keys: dict[str, list], feature: Any) -> int | None:
    """The length of lists that have an entry for each class; `None` for lists of classes.

    Raises:
        ValueError: If lists of truth values or of fractions are no such rows.
    """
    single = single_feature(feature)
    if not _is_list(feature) or isinstance(single, ClassLabel) or single.dtype in (*WORDS, "null"):
        return None
    lists = [value for values in keys.values() for value in values]
    lengths = {len(value) for value in lists}
    is_binary = all(entry in (0, 1) for value in lists for entry in value)
    if is_binary and len(lengths) == 1 and min(lengths) > 1:
        return lengths.pop()
    if single.dtype.startswith(("int", "uint")):
        return None
    raise ValueError(
        f"Labels that are lists of {single.dtype} must be zeros and ones, one for each class and in each example "
        f"equally many; there are lists of {listed(map(str, sorted(lengths)))} entries"
        f"{'' if is_binary else ' and other values'}."
    )


def _with_classes(splits: DatasetDict, keys: dict[str, list], features: dict[str, Any]) -> tuple[DatasetDict, Labels]:
    feature = features[next(iter(splits))]
    single = single_feature(feature)
    is_list = _is_list(feature)
    num_columns = _rows_of_zeros_and_ones(keys, feature)
    if num_columns is not None:
        keys = {split: [np.flatnonzero(row).tolist() for row in rows] for split, rows in keys.items()}
        classes: Sequence[Hashable] = range(num_columns)
    elif isinstance(single, ClassLabel):
        others = (name for split in splits for name in single_feature(features[split]).names)
        classes = list(dict.fromkeys([*single.names, *others]))
    else:
        classes = sorted({key for rows in keys.values() for row in rows for key in (row if is_list else [row])})
    names = [str(key) for key in classes]
    if is_list and not any(any(rows) for rows in keys.values()):
        raise ValueError("No example has a label: all lists of labels are empty.")
    number = {key: index for index, key in enumerate(classes)}
    labels = Labels(names, is_list, is_declared=num_columns is not None or isinstance(single, ClassLabel))
    wanted = datasets.List(ClassLabel(names=names)) if is_list else ClassLabel(names=names)
    for split, rows in keys.items():
        numbers: list = [[number[key] for key in row] if is_list else number[row] for row in rows]
        flat = [index for row in numbers for index in row] if is_list else numbers
        labels.counts[split] = np.bincount(np.array(flat, np.int64), minlength=len(names)).tolist()
        labels.num_unclassified[split] = sum(not row for row in numbers) if is_list else 0
        if features[split] != wanted:
            splits[split] = splits[split].remove_columns("label").add_column("label", numbers, feature=wanted)
    return splits, labels


def describe_labels(labels: Labels, noun: str) -> str:
    """Says how many examples each class has; of many, only the class with the fewest and that with the most."""
    numbers = labels.counts.get("train") or labels.counts["validation"]
    order = sorted(range(len(numbers)), key=lambda index: numbers[index])
    used = [index for index in order if numbers[index]]
    parts = [f"{len(used):,} classes" if len(used) != 1 else "1 class"]
    if len(used) <= MOST_NAMES:
        counts = (f"{printable(labels.names[index])} ({numbers[index]:,})" for index in sorted(used))
        parts[0] += f": {', '.join(counts)}" if used else ""
    else:
        first, last = used[0], used[-1]
        parts.append(
            f"the smallest {listed([labels.names[first]])} ({numbers[first]:,}), "
            f"the largest {listed([labels.names[last]])} ({numbers[last]:,})"
        )
    if unused := [labels.names[index] for index in sorted(order) if not numbers[index]]:
        parts.append(f"without an example {listed(unused)}")
    if without := sum(labels.num_unclassified.values()):
        parts.append(f"{without:,} {noun} without a label")
    return "; ".join(parts)
