"""A recipe is a command line in a YAML file: its keys are flags. Flags on the command line override it."""

import json
from pathlib import Path
from typing import Any

import yaml

from .arguments import ASSIGNMENTS


def read_recipe(path: Path) -> dict[str, Any]:
    """Reads a recipe.

    Raises:
        OSError: If there is no such file.
        ValueError: If it is not a YAML mapping.
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


def recipe_to_argv(recipe: dict[str, Any]) -> list[str]:
    """Turns a recipe into command-line arguments, so that both are checked and converted alike."""
    argv = []
    for name, value in recipe.items():
        if value is None or value in ([], {}):
            continue
        if name in ASSIGNMENTS and isinstance(value, dict):
            argv += [f"--{name}", *(f"{field}={json.dumps(content)}" for field, content in value.items())]
        elif isinstance(value, list):
            argv += [f"--{name}", *map(str, value)]
        else:
            # One word: a value that starts with a dash would be taken for a flag.
            argv.append(f"--{name}={json.dumps(value) if isinstance(value, dict) else value}")
    return argv


def write_recipe(path: Path, recipe: dict[str, Any], comment: str) -> None:
    """Writes a recipe with a comment at the top."""
    path.write_text(f"# {comment}\n" + yaml.safe_dump(recipe, sort_keys=False, allow_unicode=True), encoding="utf-8")
