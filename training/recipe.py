"""A recipe is a command line in a YAML file: its keys are flags. Flags on the command line override it."""

import json
import os
from pathlib import Path
from typing import Any

import yaml
from yaml.constructor import ConstructorError

from .arguments import ASSIGNMENTS

# What a run writes beside its model and its checkpoints.
RECIPE = "recipe.yaml"
# Keys whose values may be folders or files, but may be names on the Hub too.
PATH_KEYS = ("train_dir", "validation_dir", "dataset_name", "model_name_or_path")
# Of a recipe: far more than any needs, and little enough for the reader, which recurses.
DEEPEST, LARGEST = 10, 1 << 20


class RecipeLoader(yaml.SafeLoader):
    """Builds plain values only, and refuses a key that is there twice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        """Builds a mapping."""
        names = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if key.value in names:
                    raise ConstructorError(None, None, f"the key {key.value!r} is there twice", key.start_mark)
                names.add(key.value)
        return super().construct_mapping(node, deep)


def read_recipe(path: Path) -> dict[str, Any]:
    """Reads a recipe.

    Raises:
        OSError: If there is no such file.
        ValueError: If it is not a YAML mapping, is too large or too deep, uses aliases, or has a key twice.
    """
    if (size := path.stat().st_size) > LARGEST:
        raise ValueError(f"The recipe {path} has {size:,} bytes; a recipe has at most {LARGEST:,}.")
    try:
        text = path.read_text(encoding="utf-8")
        if reason := _excess(text):
            raise ValueError(f"The recipe {path} {reason}.")
        recipe = _load(text)
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}" if mark else ""
        raise ValueError(
            f"The recipe {path} is not YAML{where}: {getattr(error, 'problem', None) or error}."
        ) from error
    if not isinstance(recipe, dict):
        raise ValueError(f"The recipe {path} must map names of flags to values, got {type(recipe).__name__}.")
    return recipe


def _excess(text: str) -> str | None:
    """Looks for what makes a small file large in memory, or overflows the stack, before anything is built from it."""
    depth = 0
    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        line = event.start_mark.line + 1 if event.start_mark else 0
        if isinstance(event, yaml.AliasEvent):
            return f"uses a YAML alias, *{event.anchor} in line {line}; write the value out"
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > DEEPEST:
            return f"is nested more than {DEEPEST} levels deep in line {line}"
    return None


def _load(text: str) -> Any:
    try:
        return yaml.load(text, Loader=RecipeLoader)
    except (ValueError, OverflowError) as error:  # of dates that there are not, and numbers of thousands of digits
        raise ConstructorError(None, None, str(error), None) from error


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
    """Writes a recipe with a comment at the top.

    Paths of data and of the model become absolute, so that the recipe can be used from any folder.
    """
    for name in PATH_KEYS:
        value = os.path.expanduser(str(recipe.get(name) or ""))
        # One word may be a built-in data set.
        is_word = name == "dataset_name" and not os.path.dirname(value)
        if os.path.exists(value) and not is_word:
            recipe = recipe | {name: os.path.abspath(value)}
    path.write_text(f"# {comment}\n" + yaml.safe_dump(recipe, sort_keys=False, allow_unicode=True), encoding="utf-8")
