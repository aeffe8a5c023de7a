"""Names of models and data sets that are paths on this machine: a mistyped one is not asked of the Hub."""

import difflib
import os


def is_path(name: str) -> bool:
    """Whether a name is a path, there or not, and no name on the Hub, which is `owner/name` or `name`.

    It exists, begins with a dot, a tilde or a slash, ends in a slash, has several slashes, or is in a folder that
    exists.
    """
    path = os.path.expanduser(name)
    is_marked = name.startswith((".", "~", os.sep)) or name.endswith(("/", os.sep)) or name.count("/") > 1
    return is_marked or os.path.exists(path) or os.path.isdir(os.path.dirname(path))


def check_exists(name: str, what: str) -> None:
    """Refuses a path that leads nowhere; other names may be on the Hub.

    Args:
        name: The name.
        what: What it should be, such as `data set`.

    Raises:
        FileNotFoundError: If it is such a path.
    """
    if is_path(name) and not os.path.exists(os.path.expanduser(name)):
        raise FileNotFoundError(f"There is no {what} {name}: the path does not exist{closest(name)}.")


def closest(path: str) -> str:
    """Returns " (did you mean `...`?)" for a path that does not exist, or an empty string if none is close."""
    folder, name = os.path.split(path.rstrip("/" + os.sep))
    try:
        names = os.listdir(os.path.expanduser(folder) or ".")
    except OSError:
        return ""
    matches = difflib.get_close_matches(name, names, n=1)
    return f" (did you mean `{os.path.join(folder, matches[0])}`?)" if matches else ""
