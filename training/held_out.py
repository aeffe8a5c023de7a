"""Which examples a model was not trained on: written down by training, and kept to by evaluation.

Examples are known by the content of their inputs, not by their place: a file may move, and a data set may be sorted
otherwise. A copy of what a model was trained on is no new example.
"""

import base64
import json
import os
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset, DatasetDict
from huggingface_hub import hf_hub_download
from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, HFValidationError

from .arguments import DataArguments
from .checkpoints import CHECKPOINT, written_beside
from .contents import Content, Fingerprint, contents_of, fingerprints
from .datasets import Examples
from .folders import is_utf8, printable, say
from .modality import Modality

FILE_NAME = "held_out.json"
FORMAT = 1
# Bytes that are kept of the digest of each training example.
SHORT = 8
FOLDER_FLAGS = ("train_dir", "validation_dir", "dataset_name")


@dataclass
class HeldOut:
    """What a training run held out.

    Attributes:
        held_out: The examples to evaluate on, each with its file, if it is one: relative to the folder of the data if
            it is below that.
        trained_on: The beginnings of the digests of the examples that were trained on.
        facts: What else is written: seed, classes, sizes of the splits, versions.
        folders: Absolute paths of the folders of the data, by the flag that gave them, and paths from the model's
            folder, for both that move together.
    """

    held_out: list[tuple[str | None, Fingerprint]]
    trained_on: frozenset[bytes]
    facts: dict[str, Any] = field(default_factory=dict)
    folders: dict[str, list[str]] = field(default_factory=dict)

    @property
    def seed(self) -> int:
        """Seed of the run, which chose the examples if there was a limit on their number."""
        seed = self.facts.get("seed", 0)
        return seed if isinstance(seed, int) else 0

    def find_folders(self, flags: Mapping[str, Any], noun: str) -> dict[str, Any]:
        """The flags of the data by which the held-out examples are found again, from wherever.

        Args:
            flags: The flags of the data as they were given to the run.
            noun: What several inputs are called.

        Raises:
            FileNotFoundError: If a folder is gone.
        """
        changed: dict[str, Any] = {}
        for flag, paths in self.folders.items():
            if flag not in FOLDER_FLAGS or not flags.get(flag):
                continue
            changed[flag] = next(filter(os.path.exists, [*paths, os.path.expanduser(str(flags[flag]))]), None)
            if changed[flag] is None:
                raise FileNotFoundError(
                    f"The {len(self.held_out):,} {noun} that were held out from training are gone with {paths[0]}; "
                    f"say where it is with `--{flag}`."
                )
        # They could be read when they were trained on, and are the same to the byte.
        return changed | {"check_files": False} if self.held_out else changed

    def has_trained_on(self, fingerprint: Fingerprint | None) -> bool:
        """Whether the model was trained on this content, and it is not among what was held out."""
        if fingerprint is None or fingerprint.digest[:SHORT] not in self.trained_on:
            return False
        # What was held out although it is in the data to train on too was warned of by then.
        return fingerprint not in self._kept

    @cached_property
    def _kept(self) -> frozenset[Fingerprint]:
        return frozenset(fingerprint for _, fingerprint in self.held_out)

    def write(self, folder: Path) -> None:
        """Writes it into the folder of a model, as a whole."""
        entries = [{"file": file, "size": found.size, "sha256": found.digest.hex()} for file, found in self.held_out]
        trained_on = base64.b64encode(b"".join(sorted(self.trained_on))).decode()
        here = os.path.abspath(folder)
        folders = {flag: [paths[0], os.path.relpath(paths[0], here)] for flag, paths in self.folders.items()}
        values = {"format": FORMAT, **self.facts, "folders": folders}
        values |= {"held_out": entries, "trained_on": trained_on}
        with written_beside(folder) as unfinished:
            text = json.dumps(values, indent=1, allow_nan=False)
            (unfinished / FILE_NAME).write_text(text + "\n", encoding="ascii")

    @classmethod
    def read_beside(cls, model: str | None, revision: str | None = None) -> "HeldOut | None":
        """Reads it from where a model is, see [`run_file`]; `None` if it is not there.

        Args:
            model: A folder or a name on the Hub; `None` has nothing beside it.
            revision: Branch, tag or commit on the Hub.

        Raises:
            ValueError: If the file is not what [`write`] wrote.
        """
        path = run_file(model, FILE_NAME, revision) if model else None
        if path is None:
            return None
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
            if values["format"] != FORMAT:
                raise ValueError(f"its format is {values['format']}, not {FORMAT}")
            joined = base64.b64decode(values["trained_on"], validate=True)
            return cls(
                [
                    (entry["file"], Fingerprint(int(entry["size"]), bytes.fromhex(entry["sha256"])))
                    for entry in values["held_out"]
                ],
                frozenset(joined[start : start + SHORT] for start in range(0, len(joined), SHORT)),
                {name: value for name, value in values.items() if name not in ("held_out", "trained_on", "folders")},
                {
                    flag: [str(absolute), os.path.normpath(os.path.join(path.parent, relative))]
                    for flag, (absolute, relative) in values["folders"].items()
                },
            )
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
            raise ValueError(
                f"{path} does not say what was held out from training ({type(error).__name__}: {error}); without "
                "that file, `--validation_dir` or `--dataset_name` choose what to evaluate on."
            ) from error

    def held_out_rows(self, splits: DatasetDict, modality: Modality) -> tuple[str, np.ndarray]:
        """Chooses the held-out examples from all splits; those that are gone are counted on stderr.

        Args:
            splits: The data that was trained on, before anything is held out.
            modality: Modality of the inputs.

        Returns:
            The split that they are in, and their rows.

        Raises:
            ValueError: If all are gone.
        """
        best, rows = "", list[int]()
        missing = Counter(fingerprint for _, fingerprint in self.held_out)
        for split in sorted(splits, key=lambda name: name != "validation"):
            if missing:
                found, without = self._find(contents_of(splits[split], modality.columns))
                if len(found) > len(rows):
                    best, rows, missing = split, found, without
        if not rows:
            raise ValueError(
                f"None of the {len(self.held_out):,} {modality.noun} that were held out from training is there any "
                "more; choose others to evaluate on with `--validation_dir` or `--dataset_name`."
            )
        if number := missing.total():
            first = next((file for file, fingerprint in self.held_out if missing[fingerprint] and file), None)
            example = f" (such as {printable(first)})" if first else ""
            say(
                f"{number:,} of the {len(self.held_out):,} {modality.noun} that were held out from training "
                f"{'is gone or has' if number == 1 else 'are gone or have'} changed{example}."
            )
        return best, np.array(rows)

    def _find(self, contents: Sequence[Content]) -> tuple[list[int], Counter[Fingerprint]]:
        """The rows of the held-out contents, and those that are missing."""
        wanted = Counter(fingerprint for _, fingerprint in self.held_out)
        sizes = {fingerprint.size for fingerprint in wanted}
        candidates = [row for row, content in enumerate(contents) if content.size in sizes]
        rows = []
        for row, fingerprint in zip(candidates, fingerprints([contents[row] for row in candidates]), strict=True):
            if fingerprint is not None and wanted[fingerprint] > 0:
                wanted[fingerprint] -= 1
                rows.append(row)
        return rows, +wanted

    def untrained_rows(self, splits: DatasetDict, modality: Modality) -> tuple[str, np.ndarray] | None:
        """Leaves out examples that the model was trained on, and counts them on stderr.

        Where there is no split to evaluate on, and some examples were trained on, all others are evaluated on.

        Args:
            splits: Any data, before anything is held out.
            modality: Modality of the inputs.

        Returns:
            The split to evaluate on, and its rows; `None` if none was trained on, or if nothing would be left of a
            split to evaluate on, which gets a warning.

        Raises:
            ValueError: If there is no such split, and nothing is left of the other.
        """
        split = "validation" if "validation" in splits else "train"
        examples: Dataset = splits[split]
        rows = self._untrained(examples, modality)
        if len(rows) == len(examples):
            return None
        if not rows and split == "validation":
            self.warn_of_trained_on(splits, modality)
            return None
        if not rows:
            raise ValueError(
                f"The model was trained on all {len(examples):,} {modality.noun}: choose others to evaluate on. A "
                "folder that `--validation_dir` names is used anyway."
            )
        number = f"{len(examples) - len(rows):,} of {len(examples):,}"
        say(f"Left out {number} {modality.noun}, as the model was trained on them.")
        return split, np.array(rows)

    def warn_of_trained_on(self, splits: DatasetDict, modality: Modality) -> None:
        """Counts the examples to evaluate on that the model was trained on, on stderr; they are kept."""
        examples = splits["validation"]
        if number := len(examples) - len(self._untrained(examples, modality)):
            say(
                f"warning: the model was trained on {number:,} of the {len(examples):,} {modality.noun}, so that the "
                f"scores are better than they would be on new {modality.noun}."
            )

    def _untrained(self, examples: Dataset, modality: Modality) -> list[int]:
        found = fingerprints(contents_of(examples, modality.columns))
        return [row for row, each in enumerate(found) if not self.has_trained_on(each)]


def run_folder(model: str) -> Path:
    """The folder that a training run wrote into: that of the model or, for a checkpoint in it, the one above."""
    folder = Path(os.path.abspath(os.path.expanduser(model)))
    return folder.parent if CHECKPOINT.fullmatch(folder.name) else folder


def run_file(model: str, name: str, revision: str | None = None) -> Path | None:
    """Finds a file that a training run wrote beside a model; `None` if there is none.

    Args:
        model: A folder, see [`run_folder`], or a name on the Hub, from where the file is downloaded.
        name: Name of the file.
        revision: Branch, tag or commit on the Hub.
    """
    if os.path.exists(os.path.expanduser(model)):
        path = run_folder(model) / name
        return path if path.is_file() else None
    try:
        return Path(hf_hub_download(model, name, revision=revision))
    except (EntryNotFoundError, HfHubHTTPError, HFValidationError):
        return None  # the model was not trained by us, the Hub is out of reach, or it is no name on it


def hold_out(
    examples: Examples, modality: Modality, arguments: DataArguments, facts: dict[str, Any], earlier: HeldOut | None
) -> HeldOut:
    """Sees to it that no example is both trained and evaluated on, and says what is left out for that.

    Of equal inputs with the same targets, those on the side that has fewer of them are left out. Nothing is left out
    of data sets that have a split to evaluate on, whose results are to be compared with those of others, and where
    little would remain; then there is a warning.

    Args:
        examples: The loaded examples, which lose some.
        modality: Modality of the inputs.
        arguments: Flags of the data.
        facts: What else to write down.
        earlier: What the model to go on with was trained on.

    Returns:
        What to write beside the model.
    """
    train, validation = (_inputs(rows, modality) for rows in (examples.train, examples.validation))
    copies = _find_copies(train, validation)
    if earlier is not None:
        trained_before = (row for row, each in enumerate(validation.found) if earlier.has_trained_on(each))
        copies.validation.update(trained_before)
    noun = modality.noun
    if copies.num_contradictory:
        say(f"warning: {copies.num_contradictory:,} {noun} are both trained and evaluated on, with other labels.")
    is_ours = arguments.dataset_name not in modality.built_in and _holds_out_rows(examples, arguments)
    if is_ours and len(copies.validation) < len(validation.found) and len(copies.train) <= len(train.found) / 2:
        for split, inputs, dropped in (
            ("train", train, copies.train),
            ("validation", validation, copies.validation),
        ):
            if dropped:
                rows = [row for row in range(len(inputs.found)) if row not in dropped]
                examples.keep(split, np.array(rows))
                inputs.keep(rows)
        if number := len(copies.train) + len(copies.validation):
            say(
                f"{number:,} {noun} are there more than once, to train on and to evaluate on; left out "
                f"{len(copies.train):,} of the former and {len(copies.validation):,} of the latter."
            )
    elif copies.num_evaluated:
        say(
            f"warning: {copies.num_evaluated:,} of {len(validation.found):,} {noun} to evaluate on are trained on "
            f"too, so that the scores are better than they would be on new {noun}."
        )
    given = {flag: getattr(arguments, flag) for flag in FOLDER_FLAGS}
    folders = {flag: os.path.abspath(os.path.expanduser(path)) for flag, path in given.items() if path}
    folders = {flag: path for flag, path in folders.items() if os.path.exists(path) and is_utf8(path)}
    trained_on = {each.digest[:SHORT] for each in train.found if each is not None}
    return HeldOut(
        [
            (_relative(content.path, folders.values()), each)
            for content, each in zip(validation.contents, validation.found, strict=True)
            if each is not None
        ],
        frozenset(trained_on | (earlier.trained_on if earlier else frozenset())),
        facts | {"sizes": {"train": len(train.found), "validation": len(validation.found)}},
        {flag: [path] for flag, path in folders.items()},
    )


@dataclass
class _Inputs:
    """The inputs of a split, with their fingerprints and targets."""

    contents: list[Content]
    found: list[Fingerprint | None]
    targets: list[Any]

    def keep(self, rows: Iterable[int]) -> None:
        rows = list(rows)
        self.contents, self.found = [self.contents[row] for row in rows], [self.found[row] for row in rows]


def _inputs(rows: Dataset, modality: Modality) -> _Inputs:
    contents = contents_of(rows, modality.columns)
    others = [name for name in rows.column_names if name not in modality.columns]
    targets = rows.with_format(None).select_columns(others)[:] if others else {}
    return _Inputs(contents, fingerprints(contents), list(zip(*targets.values(), strict=True)) or [None] * len(rows))


@dataclass
class _Copies:
    """Rows to leave out as they are on the other side too.

    Attributes:
        train: Rows of the training examples.
        validation: Rows of the examples to evaluate on.
        num_contradictory: Number of examples to evaluate on that are trained on with other targets.
        num_copied: Number of examples to evaluate on that are trained on with their targets.
    """

    train: set[int] = field(default_factory=set)
    validation: set[int] = field(default_factory=set)
    num_contradictory: int = 0
    num_copied: int = 0

    @property
    def num_evaluated(self) -> int:
        """Number of the examples to evaluate on that are, or were, trained on."""
        return max(self.num_copied, len(self.validation))


def _find_copies(train: _Inputs, validation: _Inputs) -> _Copies:
    evaluated: dict[Fingerprint, list[int]] = defaultdict(list)
    trained: dict[Fingerprint, list[int]] = defaultdict(list)
    for row, each in enumerate(validation.found):
        if each is not None:
            evaluated[each].append(row)
    for row, each in enumerate(train.found):
        if each is not None and each in evaluated:
            trained[each].append(row)
    copies = _Copies()
    for each, ours in trained.items():
        theirs = evaluated[each]
        first = validation.contents[theirs[0]]
        ours = [row for row in ours if first.equals(train.contents[row])]
        targets = [train.targets[row] for row in ours] + [validation.targets[row] for row in theirs]
        if any(target != targets[0] for target in targets):
            copies.num_contradictory += len(theirs)
        elif ours:
            copies.num_copied += len(theirs)
            if len(ours) > len(theirs):
                copies.validation.update(theirs)
            else:
                copies.train.update(ours)
    return copies


def _holds_out_rows(examples: Examples, arguments: DataArguments) -> bool:
    """Whether the examples to evaluate on are files, or were split off from those to train on."""
    return bool(arguments.train_dir) or examples.train.data is examples.validation.data


def _relative(path: str | None, folders: Iterable[str]) -> str | None:
    """The path relative to the folder that it is in, with slashes; `None` if it has none that can be written."""
    if path is None or not is_utf8(path):
        return None
    inside = [folder for folder in folders if path.startswith(os.path.join(folder, ""))]
    return os.path.relpath(path, max(inside, key=len)).replace(os.sep, "/") if inside else path
