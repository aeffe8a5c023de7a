"""Folders of class folders: which of their names are classes, and which are splits."""

import os
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from .arguments import VALIDATION_NAMES
from .folders import counted, is_hidden, is_utf8, listed, search_folder
from .local_paths import closest

OTHER_NAMES = {"training": "train", "testing": "test", "eval": "validation", "evaluation": "validation"}
# As in `train_set` and `test-images`.
AFTER_A_SPLIT = re.compile(r"[ _-]?(set|data|split|images|files)$")


@dataclass
class ClassFolder:
    """What a folder of class folders holds.

    Attributes:
        splits: The paths of the files by split and class. The splits are `train` and those of `VALIDATION_NAMES`, or
            only `""` if no folder is called like one.
        left_out: How many files and folders were left out, by reason.
        empty: Names of the class folders without a file.
        inner: The folder below it that several folders of files are in, if there is a single class.
    """

    splits: dict[str, dict[str, list[str]]]
    left_out: Counter[str] = field(default_factory=Counter)
    empty: list[str] = field(default_factory=list)
    inner: str | None = None


def read_class_folder(folder: str, suffixes: frozenset[str], noun: str, excluded: Iterable[str] = ()) -> ClassFolder:
    """Finds the files of each class, and the splits, whose folders may be above or below those of the classes.

    Args:
        folder: The folder.
        suffixes: Suffixes of the files, in lower case.
        noun: What several inputs are called.
        excluded: Folders below it to leave out.

    Raises:
        OSError: If the folder does not exist.
        ValueError: If it has no class folders with such files, or if it cannot be told which folders are classes.
    """
    if not os.path.isdir(folder):
        raise FileNotFoundError(f"There is no folder {folder}{closest(folder)}.")
    found = search_folder(os.path.abspath(folder), suffixes, excluded)
    left_out = found.left_out
    files: list[tuple[str, ...]] = []
    for path in found.paths:
        parts = tuple(os.path.relpath(path, os.path.abspath(folder)).split(os.sep))
        if not is_utf8(path):
            left_out["files whose names are not UTF-8"] += 1
        elif len(parts) == 1:
            left_out[f"{noun} outside the class folders"] += 1
        else:
            files.append(parts)
    excluded = {os.path.realpath(path) for path in excluded}
    folders = [path for path in _folders_in(folder) if os.path.realpath(path) not in excluded]
    if not folders:
        raise ValueError(f"{folder} has no class folders: it needs one folder of {noun} for each class.")
    if not files:
        given = f"it has {counted(left_out)}; " if left_out.total() else ""
        raise ValueError(f"Found no {noun} in {folder}: {given}no file ends in {', '.join(sorted(suffixes))}.")
    # Where the splits are: None for a file that has none
    above = _split_folders(folder, files, noun)
    divided: list[tuple[str | None, tuple[str, ...]]]
    if above:
        divided = [(split_of(parts[0]) if parts[0] in above else above.get(""), parts) for parts in files]
        folders = [path for name in above if name for path in _folders_in(os.path.join(folder, name))]
        folders += [path for path in _folders_in(folder) if "" in above and os.path.basename(path) not in above]
    else:
        divided = _splits_below(folder, files)
    splits: dict[str, dict[str, list[str]]] = {}
    for split, parts in divided:
        of_class = parts[1:] if above and parts[0] in above else parts
        if split is None:
            left_out[f"{noun} beside the folders of the splits"] += 1
        elif len(of_class) == 1:
            left_out[f"{noun} outside the class folders"] += 1
        else:
            path = os.path.join(os.path.abspath(folder), *parts)
            # macOS writes letters and their accents apart.
            name = unicodedata.normalize("NFC", of_class[0])
            splits.setdefault(split, {}).setdefault(name, []).append(path)
    filled = {name for classes in splits.values() for name in classes}
    inner = _wrapped(folder, [parts for _, parts in divided]) if len(filled) == 1 else None
    empty = sorted({unicodedata.normalize("NFC", os.path.basename(path)) for path in folders} - filled)
    return ClassFolder(splits, left_out, empty, inner)


def _wrapped(folder: str, files: list[tuple[str, ...]]) -> str | None:
    """The folder around several folders of files, if it is not the given one but is below it."""
    shared = os.path.commonpath([os.path.join(*parts[:-1]) for parts in files])
    depth = len(shared.split(os.sep))
    is_wrapper = shared and all(len(parts) > depth + 1 for parts in files)
    return os.path.join(folder, shared) if is_wrapper else None


def split_of(name: str) -> str | None:
    """The split that a folder is called like, in upper or lower case; `None` if it is not called like one."""
    name = AFTER_A_SPLIT.sub("", name.lower())
    name = OTHER_NAMES.get(name, name)
    return name if name in ("train", *VALIDATION_NAMES) else None


def _folders_in(folder: str) -> list[str]:
    with os.scandir(folder) as entries:
        return sorted(entry.path for entry in entries if entry.is_dir() and not is_hidden(entry.name))


def _split_folders(folder: str, files: list[tuple[str, ...]], noun: str) -> dict[str, str | None]:
    """The folders that are splits above the classes, each with its split; none if all are classes.

    The name `""` is for all other folders, if they are the classes of the split to train on.

    Raises:
        ValueError: If a folder is called like a split, but cannot be one beside the others, or has no classes.
    """
    depths: dict[str, set[int]] = {}
    for parts in files:
        depths.setdefault(parts[0], set()).add(len(parts))
    splits = {name: split for name in depths if (split := split_of(name))}
    others = [name for name in depths if name not in splits]
    if not splits:
        return {}
    has_classes = any(max(depths[name]) > 2 for name in splits)
    if not others:
        if not has_classes:
            raise ValueError(
                f"{folder} is divided into {listed(sorted(splits))}, but without class folders: each split needs "
                f"one folder of {noun} for each class."
            )
        return dict(splits)
    if "train" in splits.values() and len(set(splits.values())) > 1 and has_classes:
        return dict(splits)
    if list(splits) == ["train"] and 2 in depths["train"]:
        return {}  # the vehicle: a class among others
    if "train" not in splits.values():
        nested = {parts[1] for parts in files if parts[0] in splits and len(parts) > 2}
        if nested and nested <= set(others):
            return {**splits, "": "train"}
    raise ValueError(
        f"Cannot tell splits from classes in {folder}, which has {listed(splits)} beside {listed(others)}: give the "
        "folders to train and to evaluate on with `--train_dir` and `--validation_dir`."
    )


def _splits_below(folder: str, files: list[tuple[str, ...]]) -> list[tuple[str | None, tuple[str, ...]]]:
    """The split of each file whose class folder is divided into splits; `""` for all if the class folders are not.

    Raises:
        ValueError: If only some class folders are divided.
    """
    divided = [(split_of(parts[1]) if len(parts) > 2 else None, parts) for parts in files]
    found = {split for split, _ in divided}
    by_class: dict[str, set[str | None]] = {}
    for split, parts in divided:
        by_class.setdefault(parts[0], set()).add(split)
    if not found - {None, "train"}:
        return [("", parts) for _, parts in divided]
    if "train" in found:
        if undivided := [name for name, splits in by_class.items() if splits == {None}]:
            others = [name for name in by_class if name not in undivided]
            raise ValueError(
                f"In {folder}, {listed(others)} is divided into {listed(sorted(filter(None, found)))}, but "
                f"{listed(undivided)} is not: divide all class folders or none."
            )
        return divided
    if all(None in splits and len(splits) > 1 for splits in by_class.values()):
        return [(split or "train", parts) for split, parts in divided]
    return [("", parts) for _, parts in divided]
