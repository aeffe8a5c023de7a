"""Images and their labels from the digits that scikit-learn brings, from folders, or from `datasets.load_dataset`."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import numpy as np
from datasets import ClassLabel, Dataset, DatasetDict, Image, Value
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from .arguments import DataArguments

DIGITS = "digits"
VALIDATION_NAMES = ("validation", "valid", "val", "dev", "test")


@dataclass
class LabelledImages:
    """Images to train and to evaluate on, in columns `image` and `label`.

    Attributes:
        train: the images to train on; `None` where only an evaluation was asked for.
        validation: the images to evaluate on.
        label_names: names of the classes; a label is an index into them.
        source: what to call the data set in a sentence.
        unreadable: images that were left out, each with the reason.
    """

    train: Dataset
    validation: Dataset
    label_names: list[str]
    source: str
    unreadable: list[str]


def digits() -> Dataset:
    """scikit-learn's handwritten digits: 1,797 gray images of 8 x 8 pixels, its 17 levels as 0..255."""
    bunch = load_digits()
    images = np.rint(bunch.images * (255 / 16)).astype(np.uint8)
    features = datasets.Features({"image": Image(), "label": ClassLabel(names=[str(n) for n in bunch.target_names])})
    return Dataset.from_dict({"image": list(images), "label": bunch.target}, features=features)


def stratified_split(dataset: Dataset, fraction: float, seed: int) -> tuple[Dataset, Dataset]:
    """Splits off `fraction` of every class: (rest, split off).

    Raises:
        ValueError: if a class has a single image, or the split would have fewer images than there are classes.
    """
    labels = np.array(dataset["label"])
    try:
        rest, held_out = train_test_split(
            np.arange(len(labels)), test_size=fraction, stratify=labels, random_state=seed
        )
    except ValueError as error:
        raise ValueError(f"Cannot hold out {fraction:.0%} of {len(labels)} images for evaluation: {error}") from error
    return dataset.select(rest), dataset.select(held_out)


def load_images(
    arguments: DataArguments, seed: int, is_training: bool = True, process: Callable[[Any], Any] | None = None
) -> LabelledImages:
    """Loads what the arguments ask for.

    Args:
        seed: of the choice that `max_train_samples` and `max_eval_samples` make.
        is_training: whether training images are needed too.
        process: what will be done to an image; a folder's images with which it fails are left out.

    Raises:
        OSError: for a folder or data set that does not exist.
        ValueError: for columns, labels or folders that cannot be trained on.
    """
    splits, source = _load_splits(arguments, is_training)
    splits = _label(_rename(splits, arguments))
    label_names = splits["validation" if "validation" in splits else "train"].features["label"].names
    unreadable: list[str] = []
    if process is not None and (arguments.train_dir or arguments.validation_dir) and arguments.check_images:
        splits = DatasetDict({name: _leave_out_broken(split, process, unreadable) for name, split in splits.items()})
    if is_training and len(label_names) < 2:
        raise ValueError(f"A classifier needs at least two classes; {source} has {len(label_names)}: {label_names}.")
    if "validation" not in splits:
        splits["train"], splits["validation"] = stratified_split(
            splits["train"], arguments.validation_fraction, arguments.split_seed
        )
    return LabelledImages(
        train=_at_most(splits["train"], arguments.max_train_samples, seed) if is_training else None,
        validation=_at_most(splits["validation"], arguments.max_eval_samples, seed),
        label_names=label_names,
        source=source,
        unreadable=unreadable,
    )


def _load_splits(arguments: DataArguments, is_training: bool) -> tuple[DatasetDict, str]:
    if arguments.train_dir or arguments.validation_dir:
        if is_training and not arguments.train_dir:
            raise ValueError("`--validation_dir` needs a `--train_dir` beside it.")
        return _load_folders(arguments), f"folder {arguments.train_dir or arguments.validation_dir}"
    if arguments.dataset_name in (None, DIGITS):
        return DatasetDict(train=digits()), "scikit-learn's handwritten digits"
    loaded = datasets.load_dataset(arguments.dataset_name, arguments.dataset_config_name)
    if "train" not in loaded and is_training:
        raise ValueError(f"{arguments.dataset_name} has no split `train`; its splits are {', '.join(loaded)}.")
    validation = next((name for name in VALIDATION_NAMES if name in loaded), None)
    splits = {"train": loaded["train"]} if "train" in loaded else {}
    if validation:
        splits["validation"] = loaded[validation]
    if not splits:
        raise ValueError(f"{arguments.dataset_name} has no split to evaluate on; its splits are {', '.join(loaded)}.")
    return DatasetDict(splits), arguments.dataset_name


def _load_folders(arguments: DataArguments) -> DatasetDict:
    given = (("train", arguments.train_dir), ("validation", arguments.validation_dir))
    folders = {split: folder for split, folder in given if folder}
    for folder in folders.values():
        if not os.path.isdir(folder):
            raise FileNotFoundError(f"There is no folder {folder}.")
        if not any(entry.is_dir() for entry in Path(folder).iterdir()):
            raise ValueError(f"{folder} has no class folders: it needs one folder of images for each class.")
    data_files = {split: os.path.join(os.path.abspath(folder), "**") for split, folder in folders.items()}
    try:
        return datasets.load_dataset("imagefolder", data_files=data_files, drop_labels=False, drop_metadata=True)
    except (FileNotFoundError, datasets.exceptions.DatasetBuildError, ValueError) as error:
        raise ValueError(f"Found no images in {' or '.join(folders.values())}.") from error


def _rename(splits: DatasetDict, arguments: DataArguments) -> DatasetDict:
    """Renames the columns to `image` and `label`."""
    features = next(iter(splits.values())).features
    image_column = arguments.image_column_name or _find_column(
        "image", [name for name, feature in features.items() if isinstance(feature, Image)], features
    )
    label_column = arguments.label_column_name or _find_column(
        "label",
        [name for name, feature in features.items() if isinstance(feature, ClassLabel)]
        or [name for name in ("label", "labels") if name in features],
        features,
    )
    for flag, column in (("image", image_column), ("label", label_column)):
        if column not in features:
            raise ValueError(f"There is no {flag} column {column!r}; the columns are {', '.join(features)}.")
    if not isinstance(features[image_column], Image):
        raise ValueError(f"Column {image_column!r} does not hold images, but {features[image_column]}.")
    splits = splits.select_columns([image_column, label_column])
    # Renaming a column to its own name is an error.
    if image_column != "image":
        splits = splits.rename_column(image_column, "image")
    return splits if label_column == "label" else splits.rename_column(label_column, "label")


def _find_column(kind: str, candidates: list[str], features: datasets.Features) -> str:
    if len(candidates) != 1:
        found = f"found {', '.join(candidates)}" if candidates else "found none"
        raise ValueError(
            f"Cannot tell which column holds the {kind}s ({found}); say `--{kind}_column_name` with one of "
            f"{', '.join(features)}."
        )
    return candidates[0]


def _label(splits: DatasetDict) -> DatasetDict:
    """Makes labels that are numbers or words class labels, the same in all splits."""
    feature = next(iter(splits.values())).features["label"]
    if isinstance(feature, ClassLabel):
        return splits
    kind = getattr(feature, "dtype", "")
    if not isinstance(feature, Value) or not (kind == "string" or "int" in kind):
        raise ValueError(f"Labels must be class labels, words or whole numbers, not {feature}.")
    values = sorted({value for split in splits.values() for value in split.unique("label")})
    words = splits.cast_column("label", Value("string"))
    return words.cast_column("label", ClassLabel(names=[str(value) for value in values]))


def _leave_out_broken(split: Dataset, process: Callable[[Any], Any], unreadable: list[str]) -> Dataset:
    paths = [image["path"] for image in split.cast_column("image", Image(decode=False))["image"]]
    kept = []
    for index, path in enumerate(paths):
        try:
            # From memory, as Pillow leaves a file open that it cannot read.
            process(Image().decode_example({"path": None, "bytes": Path(path).read_bytes()}))
            kept.append(index)
        except Exception as error:  # a broken file raises whatever its decoder stumbles over
            unreadable.append(f"{path}: {error}")
    if not kept:
        raise ValueError(f"None of {len(split)} images can be read; the first: {unreadable[0]}")
    return split.select(kept)


def _at_most(dataset: Dataset, limit: int | None, seed: int) -> Dataset:
    if limit is None or limit >= len(dataset):
        return dataset
    return dataset.shuffle(seed=seed).select(range(limit))
