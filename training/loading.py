"""Data sets by name or path: what `datasets` loads, saved data sets, tables of paths, and errors in one line."""

import difflib
import os
from typing import Any

import datasets
import numpy as np
import pyarrow.parquet as pq  # type: ignore[import-untyped]
from datasets import ClassLabel, Dataset, DatasetDict, Features, Image, Value
from datasets.exceptions import DatasetsError

from .class_folders import split_of
from .folders import is_hidden, listed, say
from .labels import PURPOSES, single_feature
from .local_paths import check_exists, closest
from .modality import Modality

METADATA = {"metadata.csv": "csv", "metadata.jsonl": "json", "metadata.parquet": "parquet"}
TABLES = {".csv": "csv", ".json": "json", ".jsonl": "json", ".parquet": "parquet"}
TEXTS = (".csv", ".json", ".jsonl")
# The column of a metadata file that names the files.
FILE_NAME = "file_name"
# Rows whose validity is looked at together.
BATCH = 1000


def load_named(name: str, config_name: str | None, modality: Modality) -> DatasetDict:
    """Loads a data set.

    Args:
        name: A name on the Hub, or the path of a folder or table. In addition to what `datasets.load_dataset` takes,
            this may be a folder that `save_to_disk` wrote, or one with metadata files for any modality.
        config_name: The configuration of the data set.
        modality: Modality of the inputs.

    Raises:
        OSError: If there is no such data set, or it cannot be reached.
        ValueError: If it cannot be loaded, with the innermost cause.
    """
    check_exists(name, "data set")
    path = os.path.expanduser(name)
    if not os.path.exists(path):
        say(f"Looking for the data set {name} on the Hub, as there is none here{closest_built_in(name, modality)}.")
    try:
        if os.path.isdir(path):
            return _load_folder(path, config_name, modality)
        if os.path.exists(path) and (builder := TABLES.get(os.path.splitext(path)[1].lower())):
            return datasets.load_dataset(builder, data_files=path)
        return datasets.load_dataset(name, config_name)
    except OSError:
        raise
    except (DatasetsError, NotImplementedError, RuntimeError, ValueError, KeyError, TypeError) as error:
        cause: BaseException = error
        while cause.__cause__ is not None:
            cause = cause.__cause__
        reason = " ".join(str(cause).split()) or type(cause).__name__
        raise ValueError(f"The data set {name} cannot be loaded: {reason}") from error


def closest_built_in(name: str, modality: Modality) -> str:
    """What may have been meant by a name that is neither built in nor a path."""
    matches = difflib.get_close_matches(name, modality.built_in, n=1)
    return f" (did you mean `{matches[0]}`?)" if matches else closest(name)


def _load_folder(path: str, config_name: str | None, modality: Modality) -> DatasetDict:
    if any(os.path.isfile(os.path.join(path, name)) for name in ("dataset_dict.json", "state.json")):
        loaded = datasets.load_from_disk(path)
        return DatasetDict(train=loaded) if isinstance(loaded, Dataset) else loaded
    # `datasets` reads these itself, but audio only with FFmpeg, and point clouds not at all.
    is_image = any(isinstance(feature, Image) for feature in modality.columns.values())
    if not is_image and (metadata := _metadata_files(path)):
        return DatasetDict({split: _read_metadata(file) for split, file in metadata.items()})
    # Beside files, `datasets` would take these for files that it does not know.
    if not _metadata_files(path) and (tables := _tables_of_splits(path)):
        (builder,) = {TABLES[os.path.splitext(file)[1].lower()] for file in tables.values()}
        return datasets.load_dataset(builder, data_files=tables)
    loaded = datasets.load_dataset(path, config_name)
    files = datasets.load_dataset_builder(path, config_name).config.data_files or {}
    declared = {split: _declared_classes(list(files.get(split, ()))) for split in loaded}
    if all(declared.values()) and len(set(declared.values())) > 1:
        # `datasets` takes the classes of one split for all, whatever the numbers of the others mean.
        parts = {split: datasets.load_dataset("parquet", data_files=list(files[split])) for split in loaded}
        return DatasetDict({split: part["train"] for split, part in parts.items()})
    return loaded


def _declared_classes(files: list[str]) -> tuple[tuple[str, tuple[str, ...]], ...]:
    """The columns of class labels of Parquet files, with the names of the classes; none for other files.

    Raises:
        ValueError: If the files differ in them.
    """
    if not files or not all(file.endswith(".parquet") for file in files):
        return ()
    declared: dict[tuple[tuple[str, tuple[str, ...]], ...], str] = {}
    for file in files:
        features = Features.from_arrow_schema(pq.read_schema(file))
        single = {name: single_feature(feature) for name, feature in features.items()}
        classes = {name: tuple(each.names) for name, each in single.items() if isinstance(each, ClassLabel)}
        declared.setdefault(tuple(classes.items()), file)
    if len(declared) > 1:
        sides = (
            f"{file} declares {', '.join(listed(names) for _, names in classes) or 'none'}"
            for classes, file in declared.items()
        )
        raise ValueError(f"The files of one split have different classes: {'; '.join(sides)}.")
    return next(iter(declared))


def _metadata_files(path: str) -> dict[str, str]:
    """The metadata file of each split: in the folder itself, or in its folders that are called like splits."""
    folders = {"train": path}
    for name in sorted(os.listdir(path)):
        if (split := split_of(name)) and not is_hidden(name) and os.path.isdir(os.path.join(path, name)):
            folders[split] = os.path.join(path, name)
    paths = {split: [os.path.join(folder, name) for name in METADATA] for split, folder in folders.items()}
    found = {split: next(filter(os.path.isfile, candidates), None) for split, candidates in paths.items()}
    return {split: file for split, file in found.items() if file}


def _tables_of_splits(path: str) -> dict[str, str]:
    """Tables of paths that are called like splits, such as `train.csv`, in the folder itself."""
    found: dict[str, str] = {}
    for name in sorted(os.listdir(path)):
        stem, suffix = os.path.splitext(name)
        split = split_of(stem)
        if suffix.lower() in TEXTS and split and split not in found and os.path.isfile(os.path.join(path, name)):
            found[split] = os.path.join(path, name)
    is_one_kind = len({TABLES[os.path.splitext(file)[1].lower()] for file in found.values()}) == 1
    return found if is_one_kind else {}


def _read_metadata(file: str) -> Dataset:
    table = datasets.load_dataset(METADATA[os.path.basename(file)], data_files=file, split="train")
    if FILE_NAME not in table.column_names:
        raise ValueError(f"{file} has no column {FILE_NAME}; its columns are {', '.join(table.column_names)}.")
    return _with_paths(table, FILE_NAME, os.path.dirname(file))


def _with_paths(table: Dataset, column: str, folder: str) -> Dataset:
    """Makes absolute paths of a column of paths relative to a folder."""
    paths = [None if path is None else os.path.join(os.path.abspath(folder), path) for path in table[column][:]]
    return table.remove_columns(column).add_column(column, paths, feature=Value("string"))


def may_hold_files(examples: Dataset, name: str, modality: Modality, folder: str) -> bool:
    """Whether a column that is no column of inputs has the paths of files, or their bytes.

    Args:
        examples: The data set.
        name: Name of the column.
        modality: Modality of the inputs.
        folder: Folder that the paths may be relative to.
    """
    feature = examples.features[name]
    if isinstance(feature, dict):
        return feature.keys() == {"bytes", "path"} and not _takes_only_paths(modality)
    if not isinstance(feature, Value) or not len(examples):
        return False
    if feature.dtype in ("binary", "large_binary"):
        return not _takes_only_paths(modality)
    if feature.dtype not in ("string", "large_string"):
        return False
    path = next((value for value in examples[name][:100] if value is not None), "")
    is_file = os.path.isfile(os.path.join(folder, path))
    return is_file and os.path.splitext(path)[1].lower() in modality.suffixes


def _takes_only_paths(modality: Modality) -> bool:
    return any(isinstance(feature, Value) for feature in modality.columns.values())


def as_files(splits: DatasetDict, name: str, feature: Any, folder: str) -> DatasetDict:
    """Turns a column of paths or bytes into one of files, of the type `feature`."""
    made = DatasetDict()
    for split, examples in splits.items():
        found = examples.features.get(name)
        if isinstance(found, Value) and found.dtype in ("string", "large_string"):
            examples = _with_paths(examples, name, folder)
        made[split] = examples.cast_column(name, feature) if found is not None else examples
    return made


def check_no_gaps(examples: Dataset, column: str, split: str, noun: str) -> None:
    """Refuses missing inputs, which the validity of the column's values shows; the inputs are not read.

    Args:
        examples: The data set.
        column: Name of the column.
        split: The split, `train` or `validation`.
        noun: What one input is called.

    Raises:
        ValueError: If an input is missing.
    """
    missing: list[int] = []
    start = 0
    for batch in examples.select_columns([column]).with_format("arrow").iter(BATCH):
        for values in batch[column].chunks:
            is_missing = values.is_null().to_numpy(zero_copy_only=False)
            if str(values.type).startswith("struct<bytes: "):
                empty = [values.field(name).is_null().to_numpy(zero_copy_only=False) for name in ("bytes", "path")]
                is_missing = is_missing | (empty[0] & empty[1])
            missing += (start + np.flatnonzero(is_missing)).tolist()
            start += len(values)
    if missing:
        raise ValueError(
            f"{len(missing):,} of {len(examples):,} examples {PURPOSES[split]} have no {noun} (the first: number "
            f"{missing[0]:,}): remove them."
        )
