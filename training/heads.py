"""Heads of saved models: their rows belong to classes by name, whatever the order."""

import copy
import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from transformers import AutoConfig, PreTrainedConfig, PreTrainedModel

from .folders import listed, say


def load_for_classes(auto_model: Any, name: str, config: PreTrainedConfig, **origin: Any) -> PreTrainedModel:
    """Loads a model to fine-tune, and gives its head a row for each class of the new data.

    Classes that the saved model has keep their rows, and others get newly initialised ones. What was done is said on
    stderr.

    Args:
        auto_model: Auto class of the model.
        name: A folder or a name on the Hub.
        config: The configuration with the labels of the new data.
        origin: Further arguments of `from_pretrained`.

    Raises:
        ValueError: If the saved labels have gaps or do not fit the head, or if a class could be two of them.
    """
    saved_labels: dict[int, str] = AutoConfig.from_pretrained(name, **origin).id2label or {}
    check_labels(saved_labels, name)
    classes = names_of(config.id2label)  # type: ignore[arg-type]
    saved = names_of(saved_labels)
    rows = matching_rows(classes, saved, name)
    is_same = rows == list(range(len(saved)))
    model, loading = auto_model.from_pretrained(
        name,
        config=config if is_same else _with_labels(config, saved_labels),
        ignore_mismatched_sizes=True,
        output_loading_info=True,
        **origin,
    )
    axes = label_axes(model)
    check_fit(loading, saved_labels, name, axes)
    is_without_head = not axes.keys().isdisjoint(loading["missing_keys"])
    _say_new_weights(loading, name, axes)
    if is_without_head:
        say(f"{name} has no head; that of the {len(classes):,} classes is new.")
        rows = [None] * len(classes)
    elif is_unnamed(saved) and not is_unnamed(classes):
        kept = f"in their order, for {listed(classes)}" if is_same else "of none of them"
        say(f"The {len(saved):,} classes of {name} have no names; the head keeps its rows {kept}.")
    else:
        _say_rows(rows, classes, saved, name)
    return model if is_same else _with_rows(model, config, rows, axes)


def names_of(labels: Mapping[int, str]) -> list[str]:
    """Names of the classes in the order of the head's rows; accents that are written apart are joined."""
    return [unicodedata.normalize("NFC", str(labels[index])) for index in sorted(labels)]


def is_unnamed(names: Sequence[str]) -> bool:
    """Whether classes have only the names that transformers makes up."""
    return all(name == f"LABEL_{index}" for index, name in enumerate(names))


def matching_rows(classes: Sequence[str], saved: Sequence[str], name: str) -> list[int | None]:
    """The row of a saved head for each class, by name; `None` for a class that it lacks.

    Classes without names are matched by their order if there are as many.

    Args:
        classes: Names of the classes to find.
        saved: Names of the classes of the head.
        name: What to call the model in an error.

    Raises:
        ValueError: If several rows have the name of a class.
    """
    if is_unnamed(saved) and len(saved) == len(classes):
        return list(range(len(saved)))
    for class_name in classes:
        if (number := saved.count(class_name)) > 1:
            rows = ", ".join(str(row) for row, other in enumerate(saved) if other == class_name)
            raise ValueError(
                f"The data has one class {class_name!r}, but {name} has {number} of that name, numbers {rows}: give "
                "them different names in `id2label` of its config.json."
            )
    row_of = {other: row for row, other in enumerate(saved)}
    return [row_of.get(class_name) for class_name in classes]


def check_labels(labels: Mapping[int, Any], name: str) -> None:
    """Refuses labels whose numbers have gaps, as a head has a row for every number.

    Args:
        labels: `id2label` of a configuration.
        name: What to call the model.

    Raises:
        ValueError: Which names a number that is missing.
    """
    missing = next((index for index in range(len(labels)) if index not in labels), None)
    if missing is not None:
        raise ValueError(
            f"`id2label` of {name} numbers its {len(labels):,} labels {listed(map(str, sorted(labels)))}: number "
            f"{missing} is missing. The numbers must be those of the head's rows, 0 to {len(labels) - 1}."
        )


def check_fit(loading: Mapping[str, Any], labels: Mapping[int, Any], name: str, axes: Mapping[str, int]) -> None:
    """Refuses a head that has another number of rows than there are labels.

    Args:
        loading: What `from_pretrained` reports with `output_loading_info` and `ignore_mismatched_sizes`.
        labels: `id2label` of the saved configuration.
        name: What to call the model.
        axes: What [`label_axes`] returned.

    Raises:
        ValueError: Which names both numbers.
    """
    for key, shape, _ in sorted(loading["mismatched_keys"]):
        if key in axes:
            raise ValueError(
                f"`id2label` of {name} has {len(labels):,} labels ({listed(map(str, labels.values()))}), but its "
                f"head has {shape[axes[key]]:,} rows ({key})."
            )


def label_axes(model: PreTrainedModel) -> dict[str, int]:
    """The parameters and buffers with a row for each class, each with the axis of the classes.

    They are those whose shape changes with the number of labels, in whatever way the model makes its head.
    """
    shapes = []
    num_labels: int = model.config.num_labels  # type: ignore[assignment]
    for number in (num_labels, num_labels + 1):
        config = copy.deepcopy(model.config)
        config.num_labels = number
        with torch.device("meta"):
            shapes.append({key: value.shape for key, value in type(model)(config).state_dict().items()})
    fewer, more = shapes
    return {
        key: next(axis for axis, size in enumerate(shape) if size != more[key][axis])
        for key, shape in fewer.items()
        if shape != more[key]
    }


def _with_labels(config: PreTrainedConfig, labels: Mapping[int, str]) -> PreTrainedConfig:
    config = copy.deepcopy(config)
    config.id2label = dict(labels)
    config.label2id = {label: index for index, label in labels.items()}
    return config


def _with_rows(
    model: PreTrainedModel, config: PreTrainedConfig, rows: Sequence[int | None], axes: Mapping[str, int]
) -> PreTrainedModel:
    """A model with the same weights, but for the head: its rows are copied from those of `model`, or new."""
    made = type(model)._from_config(config, dtype=model.dtype)
    state, fresh = model.state_dict(), made.state_dict()
    new = [index for index, row in enumerate(rows) if row is not None]
    old = [row for row in rows if row is not None]
    for key, axis in axes.items():
        kept = state[key].index_select(axis, torch.tensor(old, dtype=torch.long))
        state[key] = fresh[key].clone().index_copy_(axis, torch.tensor(new, dtype=torch.long), kept)
    made.load_state_dict(state)
    return made


def _say_rows(rows: Sequence[int | None], classes: Sequence[str], saved: Sequence[str], name: str) -> None:
    kept = [row for row in rows if row is not None]
    order = "" if kept == sorted(kept) else ", in another order"
    parts = [f"keeps {_rows(len(kept))} of {len(saved):,} by the names of the classes{order}"]
    if new := [class_name for class_name, row in zip(classes, rows, strict=True) if row is None]:
        parts.append(f"gets {_rows(len(new))} that {'is' if len(new) == 1 else 'are'} new, for {listed(new)}")
    if dropped := [other for row, other in enumerate(saved) if row not in kept]:
        parts.append(f"loses {_rows(len(dropped))}, of {listed(dropped)}")
    say(f"The head of {name} {'; '.join(parts)}.")


def _rows(number: int) -> str:
    return f"{number:,} row{'' if number == 1 else 's'}"


def _say_new_weights(loading: Mapping[str, Any], name: str, axes: Mapping[str, int]) -> None:
    """Says which weights other than the head were made at random, as the saved ones are missing or do not fit."""
    missing = sorted(key for key in loading["missing_keys"] if key not in axes)
    if missing:
        say(f"warning: {name} lacks weights that the configuration asks for, and these are new: {listed(missing)}.")
    for key, saved, wanted in sorted(loading["mismatched_keys"]):
        say(f"warning: {key} is new, as it is {tuple(saved)} in {name}, but {tuple(wanted)} by the configuration.")
