"""A recipe is a command line in a YAML file: its keys are flags. Flags on the command line override it."""

import json
from pathlib import Path
from typing import Any

import yaml

from .arguments import ASSIGNMENTS

# Of a recipe: far more than any needs, and little enough for the reader, which recurses.
DEEPEST, LARGEST = 10, 1 << 20


def read_recipe(path: Path) -> dict[str, Any]:
    """Reads a recipe.

    Raises:
        OSError: If there is no such file.
        ValueError: If it is not a YAML mapping, is too large or too deep, or uses aliases.
    """
    if (size := path.stat().st_size) > LARGEST:
        raise ValueError(f"The recipe {path} has {size:,} bytes; a recipe has at most {LARGEST:,}.")
    try:
        text = path.read_text(encoding="utf-8")
        _check_structure(path, text)
        recipe = yaml.safe_load(text)
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}" if mark else ""
        raise ValueError(
            f"The recipe {path} is not YAML{where}: {getattr(error, 'problem', None) or error}."
        ) from error
    if not isinstance(recipe, dict):
        raise ValueError(f"The recipe {path} must map names of flags to values, got {type(recipe).__name__}.")
    return recipe


def _check_structure(path: Path, text: str) -> None:
    """Refuses what makes a small file large in memory, or overflows the stack, before anything is built from it."""
    depth = 0
    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        line = event.start_mark.line + 1 if event.start_mark else 0
        if isinstance(event, yaml.AliasEvent):
            raise ValueError(
                f"The recipe {path} uses a YAML alias, *{event.anchor} in line {line}; write the value out."
            )
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > DEEPEST:
            raise ValueError(f"The recipe {path} is nested more than {DEEPEST} levels deep in line {line}.")


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
