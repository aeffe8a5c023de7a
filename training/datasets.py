"""Examples of any modality and objective: from built-in data sets, from folders, or by `datasets.load_dataset`."""

import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from datasets import ClassLabel, Dataset, DatasetDict, Features, Value

from .arguments import VALIDATION_NAMES, DataArguments
from .examples import Origin, reason_of
from .folders import counted, listed, say
from .loading import as_files, check_no_gaps, load_named, may_hold_files
from .modality import Modality
from .objective import Objective
from .remembered import remembered

# Gets the splits `train` and `validation`, and returns one of them with the rows to evaluate on, or `None`.
Selection = Callable[[DatasetDict, Modality], tuple[str, np.ndarray] | None]


@dataclass
class Examples:
    """Examples to train and to evaluate on.

    Their inputs are in the columns of the modality, their targets in those of the objective.

    Attributes:
        train: Training examples; `None` if only an evaluation was asked for.
        validation: Examples to evaluate on.
        targets: What the objective needs to know of the targets.
        source: What to call the data set in a sentence.
        unreadable: The files that were skipped, each with the reason.
        origins: Where the examples of `train` and `validation` come from.
    """

    train: Dataset
    validation: Dataset
    targets: Any
    source: str
    unreadable: list[str]
    origins: dict[str, Origin]

    def keep(self, split: str, rows: np.ndarray) -> None:
        """Keeps only some of the examples of `train` or `validation`."""
        setattr(self, split, getattr(self, split).select(rows))
        self.origins[split] = self.origins[split][rows]


def load_examples(
    modality: Modality,
    objective: Objective,
    arguments: DataArguments,
    seed: int,
    is_training: bool = True,
    processor: Any = None,
    select: Selection | None = None,
) -> Examples:
    """Loads the examples that the arguments choose.

    Args:
        modality: Modality of the inputs.
        objective: What is predicted.
        arguments: Flags of the data.
        seed: Seed of the choice that `max_train_samples` and `max_eval_samples` make.
        is_training: Whether training examples are needed too.
        processor: What will read the inputs, if that is known.
        select: Chooses what to evaluate on before anything is held out; `None` leaves it to the splits.

    Raises:
        OSError: For a folder or data set that does not exist.
        ValueError: For columns, labels or folders that cannot be trained on.
    """
    unreadable: list[str] = []
    names = {"train": "train", "validation": "validation"}
    if arguments.train_dir or arguments.validation_dir:
        if is_training and not arguments.train_dir:
            raise ValueError("`--validation_dir` needs a `--train_dir` beside it.")
        splits = _load_folders(modality, objective, arguments, processor, unreadable)
        source = f"folder {arguments.train_dir or arguments.validation_dir}"
    elif (name := str(arguments.dataset_name)) in modality.built_in:
        makers, source = modality.built_in[name], f"the built-in data set {name}"
        wanted = makers if is_training or "validation" not in makers else ["validation"]
        made = DatasetDict({split: makers[split]() for split in wanted})
        splits = _rename_columns(modality, objective, made, arguments)
    else:
        named, names = _load_named(modality, objective, arguments, is_training)
        splits, source = _rename_columns(modality, objective, named, arguments), name
    origins = {split: Origin(names[split], np.arange(len(rows))) for split, rows in splits.items()}
    if select is not None and (selected := select(splits, modality)):
        split, numbers = selected
        splits = DatasetDict(validation=splits[split].select(numbers))
        origins = {"validation": origins[split][numbers]}
    splits, targets = objective.load_targets(splits)
    if arguments.dataset_name not in modality.built_in:
        say(f"Found {objective.describe(splits, targets, modality.noun)}.")
    if is_training:
        objective.check_targets(targets, source)
    if "validation" not in splits:
        train = origins["train"]
        rest, held_out = _stratified_rows(splits["train"], arguments.validation_fraction, arguments.split_seed)
        splits["validation"], origins["validation"] = splits["train"].select(held_out), train[held_out]
        splits["train"], origins["train"] = splits["train"].select(rest), train[rest]
    limits = {"train": arguments.max_train_samples, "validation": arguments.max_eval_samples}
    for split, limit in limits.items():
        if split in splits and limit is not None and limit < len(splits[split]):
            chosen = np.random.default_rng(seed).permutation(len(splits[split]))[:limit]
            splits[split], origins[split] = splits[split].select(chosen), origins[split][chosen]
    return Examples(
        train=splits["train"] if is_training else None,
        validation=splits["validation"],
        targets=targets,
        source=source,
        unreadable=unreadable,
        origins=origins,
    )


def stratified_split(dataset: Dataset, fraction: float, seed: int) -> tuple[Dataset, Dataset]:
    """Splits off `fraction` of every class or, where examples have no single class, of the whole data set.

    Returns:
        The rest, and what was split off.

    Raises:
        ValueError: If a class has a single example, or the split would have fewer examples than there are classes.
    """
    rest, held_out = _stratified_rows(dataset, fraction, seed)
    return dataset.select(rest), dataset.select(held_out)


def _stratified_rows(dataset: Dataset, fraction: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    from sklearn.model_selection import train_test_split

    strata = np.array(dataset["label"]) if isinstance(dataset.features.get("label"), ClassLabel) else None
    try:
        rest, held_out = train_test_split(
            np.arange(len(dataset)), test_size=fraction, stratify=strata, random_state=seed
        )
    except ValueError as error:
        raise ValueError(
            f"Cannot hold out {fraction:.0%} of {len(dataset)} examples for evaluation: {error}"
        ) from error
    return rest, held_out


def _load_named(
    modality: Modality, objective: Objective, arguments: DataArguments, is_training: bool
) -> tuple[DatasetDict, dict[str, str]]:
    """Loads `train` and `validation`, and returns the data set's names for them beside them."""
    loaded = load_named(str(arguments.dataset_name), arguments.dataset_config_name, modality)
    if "train" not in loaded and is_training:
        raise ValueError(f"{arguments.dataset_name} has no split `train`; its splits are {', '.join(loaded)}.")
    names = {"train": "train"} if "train" in loaded else {}
    if held_out := [name for name in VALIDATION_NAMES if name in loaded]:
        columns = {"label": arguments.label_column_name}
        labelled = (name for name in held_out if objective.has_targets(loaded[name], columns))
        names["validation"] = next(labelled, held_out[0]) if len(held_out) > 1 else held_out[0]
        if names["validation"] != held_out[0]:
            say(f"The split {held_out[0]} has no labels; {names['validation']} is evaluated on instead.")
    if not names:
        raise ValueError(f"{arguments.dataset_name} has no split to evaluate on; its splits are {', '.join(loaded)}.")
    return DatasetDict({split: loaded[name] for split, name in names.items()}), names


def _load_folders(
    modality: Modality,
    objective: Objective,
    arguments: DataArguments,
    processor: Any,
    unreadable: list[str],
) -> DatasetDict:
    given = {"train": arguments.train_dir, "validation": arguments.validation_dir}
    folders = {split: os.path.expanduser(folder) for split, folder in given.items() if folder}
    files = objective.list_files(modality, folders)
    for note in files.notes:
        say(note)
    features = Features({**dict.fromkeys(modality.columns, Value("string")), **files.features})
    splits = {}
    for split, rows in files.rows.items():
        paths = [path for path, _ in rows]
        reasons = _check_files(modality, paths, processor) if arguments.check_files else {}
        unreadable += [reason if path in reason else f"{path}: {reason}" for path, reason in reasons.items()]
        kept = [row for row in rows if row[0] not in reasons]
        if not kept:
            raise ValueError(f"None of {len(rows)} {modality.noun} can be read; the first: {unreadable[0]}")
        for column in files.features:
            if lost := {targets[column] for _, targets in rows} - {targets[column] for _, targets in kept}:
                say(f"There are no readable {modality.noun} of the {column} {listed(sorted(lost))} in {given[split]}.")
        table: dict[str, list] = {column: [path for path, _ in kept] for column in modality.columns}
        table |= {column: [targets[column] for _, targets in kept] for column in files.features}
        splits[split] = Dataset.from_dict(table, features=features)
        for column, feature in modality.columns.items():
            # Cast, not encoded: `datasets` encodes with decoders that reading may do without.
            splits[split] = splits[split].cast_column(column, feature)
    files.left_out[f"unreadable {modality.noun}"] = len(unreadable)
    if left_out := counted(files.left_out):
        say(f"Left out: {left_out}.")
    return DatasetDict(splits)


def _check_files(modality: Modality, paths: list[str], processor: Any) -> dict[str, str]:
    """Checks files, but for those of earlier runs; returns the reason for each that cannot be read."""
    reasons: dict[str, str] = {}

    def check(path: str) -> bytes | None:
        try:
            modality.check_file(path, processor)
        except Exception as error:  # a broken file can raise anything in its decoder
            reasons[path] = reason_of(error)
            return None
        return b""

    settings = "" if processor is None else processor.to_json_string()
    question = f"readable {modality.name} {hashlib.sha256(settings.encode()).hexdigest()}"
    remembered(question, paths, check, progress="Checking")
    return {path: reasons[path] for path in paths if path in reasons}


def _rename_columns(
    modality: Modality, objective: Objective, splits: DatasetDict, arguments: DataArguments
) -> DatasetDict:
    """Selects the columns of inputs and targets, and renames them to our names."""
    features = next(iter(splits.values())).features
    candidates = {
        column: [name for name, feature in features.items() if modality.accepts(column, feature)]
        for column in modality.columns
    }
    splits, files_of = _find_files(modality, splits, candidates, arguments)
    candidates |= files_of
    features = next(iter(splits.values())).features
    candidates |= objective.candidates(features)
    found = {
        column: arguments.column_name(column) or _only_candidate(column, names, features)
        for column, names in candidates.items()
    }
    for column, name in found.items():
        if name not in features:
            raise ValueError(f"There is no {column} column {name!r}; the columns are {', '.join(features)}.")
    for column in modality.columns:
        if found[column] not in files_of.get(column, ()) and not modality.accepts(column, features[found[column]]):
            raise ValueError(f"Column {found[column]!r} does not hold {modality.noun}, but {features[found[column]]}.")
    for split in [name for name, examples in splits.items() if not {*found.values()} <= set(examples.column_names)]:
        lacking = listed(name for name in found.values() if name not in splits[split].column_names)
        say(f"The split {split} is left out, as it has no column {lacking}.")
        del splits[split]
    splits = splits.select_columns(list(found.values()))
    for split, examples in splits.items():
        for column in modality.columns:
            check_no_gaps(examples, found[column], split, modality.name)
    return modality.cast_columns(splits.rename_columns({name: column for column, name in found.items()}))


def _find_files(
    modality: Modality, splits: DatasetDict, candidates: dict[str, list[str]], arguments: DataArguments
) -> tuple[DatasetDict, dict[str, list[str]]]:
    """Finds columns of paths or bytes where no column has the type of the inputs.

    Returns:
        The splits, with these columns turned into files, and the name of the column for each that was found.
    """
    path = os.path.expanduser(str(arguments.dataset_name))
    folder = path if os.path.isdir(path) else os.path.dirname(path)
    examples = next(iter(splits.values()))
    files_of: dict[str, list[str]] = {}
    for column, names in candidates.items():
        chosen = arguments.column_name(column)
        if chosen in names or (names and not chosen):
            continue
        likely = [name for name in examples.features if chosen in (None, name)]
        files = [name for name in likely if may_hold_files(examples, name, modality, folder)]
        if len(files) == 1:
            splits = as_files(splits, files[0], modality.columns[column], folder)
            files_of[column] = files
    return splits, files_of


def _only_candidate(column: str, candidates: list[str], features: Features) -> str:
    if len(candidates) != 1:
        found = f"found {', '.join(candidates)}" if candidates else "found none"
        raise ValueError(
            f"Cannot tell which column holds the {column}s ({found}); choose one with `--{column}_column_name`: "
            f"{', '.join(features)}."
        )
    return candidates[0]
