"""Searching folders: which files are used, and which are left out for what reason.

Training, evaluation and prediction all search folders with [`search_folder`].
"""

import os
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

# What operating systems, archives, network drives and editors leave in folders; in lower case.
SYSTEM_NAMES = frozenset(
    {
        "$recycle.bin",
        "#recycle",
        "@eadir",
        "@tmp",
        "__macosx",
        "__pycache__",
        "desktop.ini",
        "ehthumbs.db",
        "icon\r",
        "lost+found",
        "system volume information",
        "thumbs.db",
    }
)
# Names that a sentence lists before it says how many more there are.
MOST_NAMES = 5


@dataclass
class FoundFiles:
    """The files of a folder.

    Attributes:
        paths: Paths of the files, sorted; they begin with the folder as it was given.
        left_out: How many files and folders were left out, by reason.
    """

    paths: list[str] = field(default_factory=list)
    left_out: Counter[str] = field(default_factory=Counter)


def search_folder(folder: str, suffixes: frozenset[str], excluded: Iterable[str] = ()) -> FoundFiles:
    """Finds the files with one of the suffixes in a folder and in all folders below it.

    Hidden and system files and folders are left out. Every file is found once: links to what is found anyway are left
    out, and so are links that lead out of the folder. In a snapshot of the Hub's cache, whose files are links, the
    files that they lead to count as inside.

    Args:
        folder: The folder.
        suffixes: Suffixes in lower case.
        excluded: Folders below `folder` to leave out.
    """
    found = FoundFiles()
    root = os.path.realpath(folder)
    inside = [root, *_blobs(root)]
    outside = [os.path.realpath(path) for path in excluded]
    searched = set(outside)
    files: dict[str, str] = {}  # by the real path
    links: list[str] = []

    def search(start: str) -> None:
        for real, path, entries in _walk(start, searched, found.left_out):
            for entry in entries:
                name = os.path.join(path, entry.name)
                if entry.is_symlink():
                    links.append(name)
                elif not has_suffix(name, suffixes):
                    found.left_out[by_suffix(name)] += 1
                elif not entry.is_file():
                    found.left_out["pipes, sockets and devices"] += 1
                else:
                    files.setdefault(os.path.join(real, entry.name), name)

    search(folder)
    # Files win over the links to them, whatever their order.
    for path in links:  # which grows where a link leads to a hidden folder with links in it
        target = os.path.realpath(path)
        is_inside = any(_is_within(target, parent) for parent in inside)
        if not os.path.exists(target):
            found.left_out["broken links"] += 1
        elif not is_inside or any(_is_within(target, parent) for parent in outside):
            found.left_out["links that lead out of the folder"] += 1
        elif target in files or target in searched:
            found.left_out["links to what is used anyway"] += 1
        elif os.path.isdir(target):
            search(path)
        elif not has_suffix(path, suffixes):
            found.left_out[by_suffix(path)] += 1
        elif not os.path.isfile(target):
            found.left_out["pipes, sockets and devices"] += 1
        else:
            files[target] = path
    found.paths = sorted(files.values())
    return found


def folders_below(folder: str) -> list[str]:
    """A folder and all folders below it, without links and without hidden and system folders, sorted."""
    return [path for _, path, _ in _walk(folder, set(), Counter())]


def _walk(
    folder: str, searched: set[str], left_out: Counter[str]
) -> Iterator[tuple[str, str, list[os.DirEntry[str]]]]:
    """Walks through a folder and those below it without following links.

    Yields:
        The real path, the path, and the files and links in it, sorted and without hidden ones.
    """
    waiting = [(os.path.realpath(folder), folder)]
    while waiting:
        real, path = waiting.pop()
        if real in searched:
            continue
        searched.add(real)
        try:
            with os.scandir(path or ".") as scan:
                entries = sorted(scan, key=lambda entry: entry.name)
        except OSError:
            left_out["folders that cannot be opened"] += 1
            continue
        visible = [entry for entry in entries if not is_hidden(entry.name)]
        left_out["hidden or system files and folders"] += len(entries) - len(visible)
        folders = [entry.name for entry in visible if entry.is_dir(follow_symlinks=False)]
        waiting += [(os.path.join(real, name), os.path.join(path, name)) for name in reversed(folders)]
        yield real, path, [entry for entry in visible if not entry.is_dir(follow_symlinks=False)]


def is_hidden(name: str) -> bool:
    """Whether a file or folder is hidden, or belongs to the operating system or the like."""
    return name.startswith(".") or name.lower() in SYSTEM_NAMES


def has_suffix(path: str, suffixes: frozenset[str]) -> bool:
    """Whether a path ends in one of the suffixes, in upper or lower case."""
    return os.path.splitext(path)[1].lower() in suffixes


def by_suffix(path: str) -> str:
    """The reason to leave a file out whose suffix is not read."""
    suffix = printable(os.path.splitext(path)[1].lower())
    return f"{suffix} files" if suffix else "files without a suffix"


def _blobs(folder: str) -> list[str]:
    """Where the Hub's cache keeps the files of a snapshot: in `blobs` beside `snapshots`."""
    parts = folder.split(os.sep)
    return [
        os.sep.join([*parts[:index], "blobs"])
        for index, part in enumerate(parts[:-1])
        if index and part == "snapshots"
    ]


def _is_within(path: str, folder: str) -> bool:
    return path == folder or path.startswith(folder.rstrip(os.sep) + os.sep)


def is_utf8(text: str) -> bool:
    """Whether a file name can be written as UTF-8; Python holds other bytes of a name as lone surrogates."""
    return not any("\ud800" <= letter <= "\udfff" for letter in text)


def printable(text: str) -> str:
    """Escapes what is not UTF-8 in a file name and what would control a terminal.

    The entry module has the same function, as it must not import this package.
    """
    return "".join(
        letter if letter.isprintable() else letter.encode("unicode_escape", "surrogatepass").decode()
        for letter in text
    )


def listed(names: Iterable[str]) -> str:
    """Lists names in a sentence, the first few of them."""
    names = [printable(name) for name in names]
    more = f" and {len(names) - MOST_NAMES:,} more" if len(names) > MOST_NAMES else ""
    return ", ".join(names[:MOST_NAMES]) + more


def counted(left_out: Mapping[str, int]) -> str:
    """Lists what was left out with its counts, the most frequent first."""
    left_out = {reason: number for reason, number in left_out.items() if number}
    return ", ".join(
        f"{reason} ({left_out[reason]:,})" for reason in sorted(left_out, key=lambda r: (-left_out[r], r))
    )


def say(sentence: str) -> None:
    """Shows a sentence on stderr, which leaves stdout to results."""
    print(f"perceivers: {sentence}", file=sys.stderr)
