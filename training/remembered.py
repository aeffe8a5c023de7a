"""What was found out about files, kept in the user's cache until they change, so that no later run need ask again.

Nothing depends on it: where the cache cannot be read or written, every run finds everything out.
"""

import contextlib
import os
import sqlite3
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from huggingface_hub.constants import HF_HOME
from huggingface_hub.utils import tqdm

FILE = Path(HF_HOME) / "perceivers" / "files.sqlite"
TABLE = "CREATE TABLE IF NOT EXISTS files (question, path, stamp, answer, PRIMARY KEY (question, path)) WITHOUT ROWID"
# Files are opened side by side, as disks and networks answer late; in groups, as small ones cost less than threads.
NUM_THREADS, GROUP = 8, 32
# Answers in the file, above which it begins anew; each takes some 200 bytes.
MOST_ANSWERS = 1_000_000
# A file that changed more recently could change again without a new time, as file systems count in up to 2 seconds.
SETTLED_SECONDS = 2.0
# Seconds to wait for another process that reads or writes.
PATIENCE = 1.0

T = TypeVar("T")


def remembered(
    question: str, paths: Sequence[str], find: Callable[[str], bytes | None], progress: str | None = None
) -> list[bytes | None]:
    """Answers a question about files; those that did not change since they were asked about are not opened.

    Args:
        question: Names what is asked, the same in every run.
        paths: Paths of the files.
        find: Finds the answer for one of them, in any thread; `None` is not remembered.
        progress: What to call it beside a progress bar; `None` shows none.

    Returns:
        The answers.
    """
    keys = [os.fsencode(os.path.abspath(path)) for path in paths]
    stamps = [_stamp(path) for path in paths]

    def look_up(database: sqlite3.Connection) -> list[bytes | None]:
        select = "SELECT answer FROM files WHERE question = ? AND path = ? AND stamp = ?"
        rows = zip(keys, stamps, strict=True)
        found = (database.execute(select, (question, key, stamp)).fetchone() for key, stamp in rows)
        return [None if row is None else row[0] for row in found]

    answers = _in_database(look_up) or [None] * len(paths)
    missing = [place for place, answer in enumerate(answers) if answer is None]
    if not missing:
        return answers
    groups = [missing[start : start + GROUP] for start in range(0, len(missing), GROUP)]
    bar = tqdm(total=len(missing), desc=progress, unit="file", leave=False, disable=None if progress else True)
    with bar, ThreadPoolExecutor(NUM_THREADS) as pool:
        found = pool.map(lambda group: [find(paths[place]) for place in group], groups)
        for group, of_group in zip(groups, found, strict=True):
            for place, answer in zip(group, of_group, strict=True):
                answers[place] = answer
            bar.update(len(group))
    new = [(question, keys[place], stamps[place], answers[place]) for place in missing]

    def write(database: sqlite3.Connection) -> None:
        ((number,),) = database.execute("SELECT COUNT(*) FROM files")
        if number > MOST_ANSWERS:
            database.execute("DELETE FROM files")
        known = [row for row in new if None not in row]
        database.executemany("INSERT OR REPLACE INTO files VALUES (?, ?, ?, ?)", known)

    _in_database(write)
    return answers


def _stamp(path: str) -> str | None:
    """What changes when the file does; `None` if it is not there, or changed just now."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    if time.time() - max(found.st_mtime, found.st_ctime) < SETTLED_SECONDS:
        return None
    return f"{found.st_ino} {found.st_size} {found.st_mtime_ns} {found.st_ctime_ns}"


def _in_database(use: Callable[[sqlite3.Connection], T]) -> T | None:
    """What `use` makes of the answers; `None` if they cannot be read or written."""
    try:
        FILE.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.closing(sqlite3.connect(FILE, timeout=PATIENCE)) as database, database:
            database.execute(TABLE)
            return use(database)
    except (OSError, sqlite3.OperationalError):  # no right to write, a full disk, another process at work
        return None
    except sqlite3.DatabaseError:  # not a database, or damaged
        with contextlib.suppress(OSError):
            FILE.unlink()
        return None
