"""Inputs and their labels from built-in data sets, from folders, or from `datasets.load_dataset`, for any modality."""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import numpy as np
from datasets import ClassLabel, Dataset, DatasetDict, Features, Value
from sklearn.model_selection import train_test_split

from .arguments import DataArguments

VALIDATION_NAMES = ("validation", "valid", "val", "dev", "test")


@dataclass(frozen=True)
class InputKind:
    """What tells the data sets of one modality from those of another.

    Attributes:
        column: name of the column of the inputs.
        noun: what they are called, in the plural.
        feature: type of that column where its inputs are files.
        suffixes: of the files that a folder is searched for, lower case.
        holds: whether a column of a data set, by its type, can be one of inputs.
        read: a file's path -> an input, as a data set's column gives it.
        built_in: the data sets that come with the package, by name: what makes the split `train`, and `validation`
            if fixed.
        prepare: brings the column of a data set that was loaded to what `read` returns.
    """

    column: str
    noun: str
    feature: Any
    suffixes: frozenset[str]
    holds: Callable[[Any], bool]
    read: Callable[[str], Any]
    built_in: Mapping[str, Mapping[str, Callable[[], Dataset]]]
    prepare: Callable[[DatasetDict], DatasetDict] = lambda splits: splits


@dataclass
class LabelledExamples:
    """Inputs to train and to evaluate on, in the column of their kind, and labels, in the column `label`.

    Attributes:
        train: what to train on; `None` where only an evaluation was asked for.
        validation: what to evaluate on.
        label_names: names of the classes; a label is an index into them, or a list of these for many labels an input.
        source: what to call the data set in a sentence.
        unreadable: files that were left out, each with the reason.
    """

    train: Dataset
    validation: Dataset
    label_names: list[str]
    source: str
    unreadable: list[str]

    @property
    def problem_type(self) -> str:
        """One label an input, or any number of them."""
        is_single = isinstance(self.validation.features["label"], ClassLabel)
        return "single_label_classification" if is_single else "multi_label_classification"


@dataclass
class LabelledProcess:
    """Columns of a data set -> what the model takes; for `datasets.Dataset.set_transform`.

    Attributes:
        column: of the inputs.
        process: a list of inputs -> tensors.
        num_labels: for many labels an input, which become rows of `num_labels` zeros and ones; `None` for one.
    """

    column: str
    process: Callable[[list], Mapping[str, Any]]
    num_labels: int | None = None

    def __call__(self, examples: dict[str, list]) -> dict[str, Any]:
        labels = examples["label"] if self.num_labels is None else multi_hot(examples["label"], self.num_labels)
        return {**self.process(examples[self.column]), "labels": labels}


def undivided(value: Any) -> list:
    """The parts of an input that the model sees all of."""
    return [value]


def multi_hot(labels: list[list[int]], num_labels: int) -> np.ndarray:
    """Lists of classes -> (inputs, num_labels) zeros and ones, float32 as the loss takes them."""
    rows = np.zeros((len(labels), num_labels), np.float32)
    for row, classes in zip(rows, labels, strict=True):
        row[classes] = 1.0
    return rows


def class_weights(labels: list[int] | list[list[int]], num_labels: int) -> np.ndarray:
    """The weight of each example with which every class is drawn as often: one over the number of examples of its
    class. With many labels an input, the mean over its classes; 0 for an input that has none.

    Returns: (examples,)
    """
    rows = multi_hot([label if isinstance(label, list) else [label] for label in labels], num_labels)
    return (rows / rows.sum(axis=0).clip(min=1)).sum(axis=1) / rows.sum(axis=1).clip(min=1)


def stratified_split(dataset: Dataset, fraction: float, seed: int) -> tuple[Dataset, Dataset]:
    """Splits off `fraction` of every class: (rest, split off). With many labels an input, `fraction` of all.

    Raises:
        ValueError: if a class has a single input, or the split would have fewer inputs than there are classes.
    """
    strata = np.array(dataset["label"]) if isinstance(dataset.features["label"], ClassLabel) else None
    try:
        rest, held_out = train_test_split(
            np.arange(len(dataset)), test_size=fraction, stratify=strata, random_state=seed
        )
    except ValueError as error:
        raise ValueError(
            f"Cannot hold out {fraction:.0%} of {len(dataset)} examples for evaluation: {error}"
        ) from error
    return dataset.select(rest), dataset.select(held_out)


def load_examples(
    kind: InputKind,
    arguments: DataArguments,
    seed: int,
    is_training: bool = True,
    process: Callable[[Any], Any] | None = None,
) -> LabelledExamples:
    """Loads what the arguments ask for.

    Args:
        kind: of the inputs.
        seed: of the choice that `max_train_samples` and `max_eval_samples` make.
        is_training: whether inputs to train on are needed too.
        process: what will be done to an input; a folder's files with which it fails are left out.

    Raises:
        OSError: for a folder or data set that does not exist.
        ValueError: for columns, labels or folders that cannot be trained on.
    """
    unreadable: list[str] = []
    if arguments.train_dir or arguments.validation_dir:
        if is_training and not arguments.train_dir:
            raise ValueError("`--validation_dir` needs a `--train_dir` beside it.")
        check = process if arguments.check_files else None
        splits = _load_folders(kind, arguments, check, unreadable)
        source = f"folder {arguments.train_dir or arguments.validation_dir}"
    elif (name := str(arguments.dataset_name)) in kind.built_in:
        makers, source = kind.built_in[name], f"the built-in data set {name}"
        wanted = makers if is_training or "validation" not in makers else ["validation"]
        splits = _label(_rename(kind, DatasetDict({split: makers[split]() for split in wanted}), arguments))
    else:
        splits, source = _label(_rename(kind, _load_named(arguments, is_training), arguments)), name
    label_names = _class_label(splits["validation" if "validation" in splits else "train"]).names
    if is_training and len(label_names) < 2:
        raise ValueError(f"A classifier needs at least two classes; {source} has {len(label_names)}: {label_names}.")
    if "validation" not in splits:
        splits["train"], splits["validation"] = stratified_split(
            splits["train"], arguments.validation_fraction, arguments.split_seed
        )
    return LabelledExamples(
        train=_at_most(splits["train"], arguments.max_train_samples, seed) if is_training else None,
        validation=_at_most(splits["validation"], arguments.max_eval_samples, seed),
        label_names=label_names,
        source=source,
        unreadable=unreadable,
    )


def _class_label(dataset: Dataset) -> ClassLabel:
    feature = dataset.features["label"]
    return feature if isinstance(feature, ClassLabel) else feature.feature


def _load_named(arguments: DataArguments, is_training: bool) -> DatasetDict:
    loaded = datasets.load_dataset(arguments.dataset_name, arguments.dataset_config_name)
    if "train" not in loaded and is_training:
        raise ValueError(f"{arguments.dataset_name} has no split `train`; its splits are {', '.join(loaded)}.")
    validation = next((name for name in VALIDATION_NAMES if name in loaded), None)
    splits = {"train": loaded["train"]} if "train" in loaded else {}
    if validation:
        splits["validation"] = loaded[validation]
    if not splits:
        raise ValueError(f"{arguments.dataset_name} has no split to evaluate on; its splits are {', '.join(loaded)}.")
    return DatasetDict(splits)


def _load_folders(
    kind: InputKind, arguments: DataArguments, check: Callable[[Any], Any] | None, unreadable: list[str]
) -> DatasetDict:
    """Folders of class folders; those that are divided into `train` and `test`, or the like, are two splits."""
    given = {"train": arguments.train_dir, "validation": arguments.validation_dir}
    files = {split: _class_files(kind, folder) for split, folder in given.items() if folder}
    if list(files) == ["train"] and (parts := _parts(arguments.train_dir, files["train"])):
        files = parts
    names = sorted({name for paths in files.values() for name in paths})
    features = Features({kind.column: Value("string"), "label": ClassLabel(names=names)})
    splits = {}
    for split, paths in files.items():
        rows = [(str(path), name) for name in names for path in paths.get(name, [])]
        if not rows:
            suffixes = ", ".join(sorted(kind.suffixes))
            raise ValueError(f"Found no {kind.noun} in {given[split]}: no file ends in {suffixes}.")
        kept = rows if check is None else [row for row in rows if _is_readable(kind, row[0], check, unreadable)]
        if not kept:
            raise ValueError(f"None of {len(rows)} {kind.noun} can be read; the first: {unreadable[0]}")
        paths_of, labels = zip(*kept, strict=True)
        dataset = Dataset.from_dict({kind.column: list(paths_of), "label": list(labels)}, features=features)
        # Cast and not encoded, for which `datasets` wants decoders installed that reading may do without.
        splits[split] = dataset.cast_column(kind.column, kind.feature)
    return DatasetDict(splits)


def _class_files(kind: InputKind, folder: str) -> dict[str, list[Path]]:
    """The files of each class folder and the folders below it, sorted; hidden ones are left out."""
    if not os.path.isdir(folder):
        raise FileNotFoundError(f"There is no folder {folder}.")
    class_folders = sorted(
        entry for entry in Path(folder).absolute().iterdir() if entry.is_dir() and not entry.name.startswith(".")
    )
    if not class_folders:
        raise ValueError(f"{folder} has no class folders: it needs one folder of {kind.noun} for each class.")
    return {
        class_folder.name: sorted(
            path
            for path in class_folder.rglob("*")
            if path.suffix.lower() in kind.suffixes and not path.name.startswith(".") and path.is_file()
        )
        for class_folder in class_folders
    }


def _parts(folder: str | None, files: dict[str, list[Path]]) -> dict[str, dict[str, list[Path]]] | None:
    """The files by split, where every file lies in a folder `train`, or in one to evaluate on, of its class folder."""
    split_of = dict.fromkeys(VALIDATION_NAMES, "validation") | {"train": "train"}
    parts: dict[str, dict[str, list[Path]]] = {"train": {}, "validation": {}}
    for name, paths in files.items():
        for path in paths:
            part = path.relative_to(Path(str(folder)).absolute() / name).parts[0]
            if part not in split_of:
                return None
            parts[split_of[part]].setdefault(name, []).append(path)
    return parts if all(parts.values()) else None


def _is_readable(kind: InputKind, path: str, check: Callable[[Any], Any], unreadable: list[str]) -> bool:
    try:
        check(kind.read(path))
    except Exception as error:  # a broken file raises whatever its decoder stumbles over
        reason = " ".join(str(error).split()) or type(error).__name__
        unreadable.append(reason if path in reason else f"{path}: {reason}")
        return False
    return True


def _rename(kind: InputKind, splits: DatasetDict, arguments: DataArguments) -> DatasetDict:
    """Renames the columns to those of the kind and `label`."""
    features = next(iter(splits.values())).features
    input_column = arguments.input_column_name or _find_column(
        kind.column, [name for name, feature in features.items() if kind.holds(feature)], features
    )
    label_column = arguments.label_column_name or _find_column(
        "label",
        [name for name, feature in features.items() if _is_class_label(feature)]
        or [name for name in ("label", "labels") if name in features],
        features,
    )
    for flag, column in ((kind.column, input_column), ("label", label_column)):
        if column not in features:
            raise ValueError(f"There is no {flag} column {column!r}; the columns are {', '.join(features)}.")
    if not kind.holds(features[input_column]):
        raise ValueError(f"Column {input_column!r} does not hold {kind.noun}, but {features[input_column]}.")
    splits = splits.select_columns([input_column, label_column])
    # Renaming a column to its own name is an error.
    if input_column != kind.column:
        splits = splits.rename_column(input_column, kind.column)
    if label_column != "label":
        splits = splits.rename_column(label_column, "label")
    return kind.prepare(splits)


def _is_class_label(feature: Any) -> bool:
    return isinstance(feature, ClassLabel) or isinstance(getattr(feature, "feature", None), ClassLabel)


def _find_column(kind: str, candidates: list[str], features: Features) -> str:
    if len(candidates) != 1:
        found = f"found {', '.join(candidates)}" if candidates else "found none"
        raise ValueError(
            f"Cannot tell which column holds the {kind}s ({found}); say `--{kind}_column_name` with one of "
            f"{', '.join(features)}."
        )
    return candidates[0]


def _label(splits: DatasetDict) -> DatasetDict:
    """Makes labels that are numbers or words class labels, the same in all splits; so it does with lists of them."""
    feature = next(iter(splits.values())).features["label"]
    if _is_class_label(feature):
        return splits
    is_list = isinstance(feature, datasets.List)
    single = feature.feature if is_list else feature
    if not isinstance(single, Value) or not (single.dtype == "string" or "int" in single.dtype):
        raise ValueError(f"Labels must be class labels, words or whole numbers, or lists of these, not {feature}.")
    values = sorted(
        {value for split in splits.values() for entry in split["label"] for value in (entry if is_list else [entry])}
    )
    names = ClassLabel(names=[str(value) for value in values])
    if not is_list:
        return splits.cast_column("label", Value("string")).cast_column("label", names)
    index = {value: number for number, value in enumerate(values)}
    features = Features({**next(iter(splits.values())).features, "label": datasets.List(names)})
    return splits.map(lambda row: {"label": [index[value] for value in row["label"]]}, features=features)


def _at_most(dataset: Dataset, limit: int | None, seed: int) -> Dataset:
    if limit is None or limit >= len(dataset):
        return dataset
    return dataset.shuffle(seed=seed).select(range(limit))
