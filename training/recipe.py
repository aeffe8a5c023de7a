"""A recipe is a command line in a YAML file: its keys are flags, and flags given beside it win."""

import difflib
import json
from collections.abc import Collection
from pathlib import Path
from typing import Any

import yaml

from .arguments import ASSIGNMENTS


def read_recipe(path: Path) -> dict[str, Any]:
    """Reads a recipe.

    Raises:
        OSError: if there is no such file.
        ValueError: if it is not a YAML mapping.
    """
    try:
        recipe = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}" if mark else ""
        raise ValueError(
            f"The recipe {path} is not YAML{where}: {getattr(error, 'problem', None) or error}."
        ) from error
    if not isinstance(recipe, dict):
        raise ValueError(f"The recipe {path} must map names of flags to values, got {type(recipe).__name__}.")
    return recipe


def closest(name: str, names: Collection[str]) -> str:
    """ " (did you mean `...`?)", or nothing where no name is close."""
    matches = difflib.get_close_matches(name, names, n=1)
    return f" (did you mean `{matches[0]}`?)" if matches else ""


def to_arguments(recipe: dict[str, Any], flags: Collection[str]) -> list[str]:
    """The recipe as command-line arguments, so that both are checked and converted alike.

    Args:
        flags: the names that there are, without dashes.

    Raises:
        ValueError: for a key that is no flag; it and the closest one are named.
    """
    arguments = []
    for name, value in recipe.items():
        if name not in flags:
            raise ValueError(f"The recipe has an unknown key `{name}`{closest(str(name), flags)}.")
        if value is None or value in ([], {}):
            continue
        if name in ASSIGNMENTS and isinstance(value, dict):
            arguments += [f"--{name}", *(f"{field}={json.dumps(content)}" for field, content in value.items())]
        elif isinstance(value, list):
            arguments += [f"--{name}", *map(str, value)]
        else:
            # One word, as a value that starts with a dash would be taken for a flag.
            arguments.append(f"--{name}={json.dumps(value) if isinstance(value, dict) else value}")
    return arguments


def write_recipe(path: Path, recipe: dict[str, Any], comment: str) -> None:
    """Writes what `read_recipe` reads, with a comment on top."""
    path.write_text(f"# {comment}\n" + yaml.safe_dump(recipe, sort_keys=False, allow_unicode=True), encoding="utf-8")
