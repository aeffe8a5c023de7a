"""Flags from dataclasses, with recipes: what `perceivers train` and `perceivers evaluate` read their arguments by."""

import argparse
from importlib.resources import files
from pathlib import Path
from typing import Any

from transformers import HfArgumentParser

from perceivers.command_errors import UsageError
from perceivers.command_line import CommandParser
from perceivers.training.arguments import ASSIGNMENTS, fields_of
from perceivers.training.recipe import closest, read_recipe, to_arguments

# Never written down: secrets, and what belongs to one run only.
UNRECORDED = ("hub_token", "overwrite_output_dir", "resume_from_checkpoint")


class FlagParser(CommandParser, HfArgumentParser):
    """A flag for every field of the dataclasses; errors are one line."""

    def __init__(self, *dataclasses: Any, **kwargs: Any):
        super().__init__(dataclasses, allow_abbrev=False, **kwargs)

    def flags(self) -> list[str]:
        """Names of the flags, without dashes."""
        return [action.dest for action in self._actions if action.option_strings and action.dest != "help"]

    def parse_words(self, words: list[str]) -> argparse.Namespace:
        """Parses all words.

        Raises:
            UsageError: for a flag that does not exist; it and the closest one are named.
        """
        namespace, unknown = self.parse_known_args(words)
        if unknown:
            name = unknown[0].lstrip("-").split("=")[0]
            hint = closest(name, self.flags()) if unknown[0].startswith("-") else " (a recipe comes first)"
            self.error(f"unknown argument {unknown[0].split('=')[0]}{hint}")
        return namespace

    def recorded(self, namespace: argparse.Namespace) -> dict[str, Any]:
        """What differs from the defaults: a recipe that repeats the run."""
        defaults = vars(self.parse_args([]))
        recipe = {
            name: value
            for name, value in vars(namespace).items()
            if value != defaults[name] and value is not None and name not in UNRECORDED
        }
        return {name: fields_of(value, name) if name in ASSIGNMENTS else value for name, value in recipe.items()}

    def to_dataclasses(self, namespace: argparse.Namespace) -> tuple[Any, ...]:
        """The values as instances of the dataclasses."""
        return self.parse_dict(vars(namespace))


def built_in_recipes() -> list[str]:
    """Names of the recipes that come with the package."""
    return sorted(
        Path(entry.name).stem for entry in files("perceivers.recipes").iterdir() if entry.name.endswith(".yaml")
    )


def find_recipe(name: str) -> Path:
    """The file of a recipe: a path, or the name of a built-in one.

    Raises:
        UsageError: if there is neither.
    """
    path = Path(name)
    if path.suffix in (".yaml", ".yml") or path.is_file():
        if not path.is_file():
            raise UsageError(f"there is no recipe {name}")
        return path
    if name not in built_in_recipes():
        raise UsageError(f"there is no recipe {name!r}; built in are {', '.join(built_in_recipes())}")
    return Path(str(files("perceivers.recipes") / f"{name}.yaml"))


def recipe_arguments(path: Path, flags: list[str]) -> list[str]:
    """The recipe as command-line arguments.

    Raises:
        UsageError: if it is not YAML, or has an unknown key.
    """
    try:
        return to_arguments(read_recipe(path), flags)
    except ValueError as error:
        raise UsageError(str(error)) from error
