"""Flags from dataclasses, recipes, and the task that they are about, for `train` and `evaluate`."""

import argparse
import copy
import os
import shlex
from pathlib import Path
from typing import Any

from transformers import AutoConfig, HfArgumentParser, PreTrainedConfig, TrainingArguments
from transformers.utils import CONFIG_NAME

from perceivers.cli.errors import UsageError, UserError, one_line
from perceivers.cli.recipes import beside
from perceivers.tasks import Task, task_for_dataset, task_for_model, task_named
from perceivers.training.adaptation import ADAPTER_CONFIG
from perceivers.training.arguments import ASSIGNMENTS, parse_assignments
from perceivers.training.checkpoints import CHECKPOINT, damage
from perceivers.training.local_paths import check_exists, closest
from perceivers.training.recipe import RECIPE, read_recipe, recipe_to_argv
from perceivers_cli import CommandParser, ParagraphFormatter, built_in_recipes, did_you_mean

# Given on the command line alone: a recipe comes from anywhere.
TRUST = "trust_remote_code"
# Never recorded: secrets, trust, and what belongs to one run only.
UNRECORDED = ("hub_token", "overwrite_output_dir", "resume_from_checkpoint", TRUST)


class FlagFormatter(ParagraphFormatter, argparse.ArgumentDefaultsHelpFormatter):
    """Shows each flag once, and only defaults that say something."""

    def _format_action_invocation(self, action: argparse.Action) -> str:
        """Leaves out `--top-k` beside `--top_k`; both are understood."""
        shown = copy.copy(action)
        shown.option_strings = [name for name in action.option_strings if "-" not in name[2:]]
        return super()._format_action_invocation(shown)

    def _get_help_string(self, action: argparse.Action) -> str | None:
        says_nothing = action.default is None or action.default is False or action.default == []
        return action.help if says_nothing else super()._get_help_string(action)


class FlagParser(CommandParser, HfArgumentParser):
    """A parser with a flag for every field of the dataclasses; errors are one line."""

    def __init__(self, *dataclasses: Any, **kwargs: Any):
        super().__init__(dataclasses, allow_abbrev=False, formatter_class=FlagFormatter, **kwargs)

    def _parse_dataclass_field(self, parser: Any, field: Any) -> None:  # type: ignore[override]
        """Adds a flag. Those that transformers defines are in their own group, the last."""
        if TrainingArguments.__dataclass_fields__.get(field.name) is field:
            title = "Training, by transformers"
            known = (group for group in self._action_groups if group.title == title)
            parser = next(known, None) or self.add_argument_group(title)
        super()._parse_dataclass_field(parser, field)
        for action in self._actions:
            if action.dest != field.name:
                continue
            if action.nargs == "?" and action.const is True:
                action.metavar = "true|false"
            if f"--no_{field.name}" in action.option_strings:
                action.help = f"The same as `--{field.name} false`."

    def flags(self) -> list[str]:
        """Names of the flags, without dashes."""
        return [action.dest for action in self._actions if action.option_strings and action.dest != "help"]

    def parse_argv(self, argv: list[str]) -> argparse.Namespace:
        """Parses the arguments.

        Raises:
            UsageError: For a flag that does not exist; the message has the closest one.
        """
        namespace, unknown = self.parse_known_args(argv)
        if unknown:
            name = unknown[0].lstrip("-").split("=")[0]
            hint = did_you_mean(name, self.flags()) if unknown[0].startswith("-") else " (a recipe comes first)"
            self.error(f"unknown argument {unknown[0].split('=')[0]}{hint}")
        return namespace

    def given(self, argv: list[str]) -> set[str]:
        """Names of the flags that the arguments have, with whatever value."""
        without_defaults = argparse.Namespace(**dict.fromkeys(self.flags()))
        parsed, _ = self.parse_known_args(argv, without_defaults)
        return {name for name, value in vars(parsed).items() if value is not None}

    def recorded(self, namespace: argparse.Namespace) -> dict[str, Any]:
        """The values that differ from the defaults: a recipe that repeats the run."""
        defaults = vars(self.parse_args([]))
        recipe = {
            name: value
            for name, value in vars(namespace).items()
            if value != defaults[name] and value is not None and name not in UNRECORDED
        }
        return {
            name: parse_assignments(value, name) if name in ASSIGNMENTS else value for name, value in recipe.items()
        }


def find_recipe(name: str) -> Path:
    """Finds the file of a recipe, given by its path or by the name of a built-in one.

    Raises:
        UsageError: If there is no such recipe.
    """
    path = Path(name)
    if path.suffix in (".yaml", ".yml") or path.is_file():
        if not path.is_file():
            raise UsageError(f"There is no recipe {name}.")
        return path
    recipes = built_in_recipes()
    if name not in recipes:
        raise UsageError(f"There is no recipe {name!r}; built in are {', '.join(recipes)}.")
    return recipes[name]


def load_recipe(path: Path | None) -> dict[str, Any]:
    """Reads a recipe; it is empty if there is no path.

    Raises:
        UsageError: If it is not YAML.
    """
    try:
        return {} if path is None else read_recipe(path)
    except ValueError as error:
        raise UsageError(str(error)) from error


def recipe_argv(path: Path, flags: list[str], argv: list[str]) -> list[str]:
    """Reads a recipe as command-line arguments.

    Args:
        path: The recipe.
        flags: Names of all flags, without dashes.
        argv: What was typed after the recipe; data that it chooses replace those of the recipe.

    Raises:
        UsageError: If it is not YAML, has an unknown key, whose message has the closest one, asks for trust, or for
            what is not there.
    """
    recipe = load_recipe(path)
    if recipe.pop(TRUST, False):
        raise UsageError(
            f"The recipe {path} sets `{TRUST}`, which would run code of others: it is taken from the command line "
            f"only. If you trust that code, remove the line and add `--{TRUST}`."
        )
    if unknown := [name for name in recipe if name not in flags]:
        raise UsageError(f"The recipe has an unknown key `{unknown[0]}`{did_you_mean(str(unknown[0]), flags)}.")
    return recipe_to_argv(beside(recipe, path, argv))


def task_from_argv(argv: list[str], recipe: dict[str, Any]) -> Task:
    """Finds the task before the flags are known, which depend on it.

    It is the one that `--task` or the recipe names, else the one that has the built-in data set, else the first.

    Raises:
        UsageError: For a task that does not exist.
    """
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    for flag in ("task", "dataset_name"):
        parser.add_argument(f"--{flag}", default=recipe.get(flag))
    known = parser.parse_known_args(argv)[0]
    if known.task is None:
        return task_for_dataset(known.dataset_name)
    try:
        return task_named(known.task)
    except ValueError as error:
        raise UsageError(str(error)) from error


def load_task(model: str, trust_remote_code: bool) -> tuple[Task, PreTrainedConfig]:
    """Finds the task of a saved model.

    Returns:
        The task, and the model's configuration.

    Raises:
        ValueError: If there is no such model, one of its files is damaged, or it is for none of the tasks.
    """
    check_files(model)
    try:
        config = AutoConfig.from_pretrained(model, trust_remote_code=trust_remote_code)
    except OSError as error:
        raise ValueError(
            f"`{model}` is neither a folder with a model nor reachable on the Hub: {one_line(error)}"
        ) from error
    return task_for_model(model, config), config


def check_name(model: str) -> None:
    """Refuses the name of a model that is neither on this machine nor can be on the Hub, without asking there.

    Raises:
        FileNotFoundError: Which has the closest name.
    """
    check_exists(model, "model")
    if "/" not in model and not os.path.exists(model):
        raise FileNotFoundError(
            f"There is no model {model}: it is no folder here{closest(model)}, and names on the Hub are `owner/name`."
        )


def how_to_merge(folder: Path) -> str:
    """What to do with adapters: those of our checkpoints are merged when their training ends, others by PEFT."""
    recipe = folder.parent / RECIPE
    if CHECKPOINT.fullmatch(folder.name) and recipe.is_file():
        command = ["perceivers", "train", str(recipe), "--resume_from_checkpoint", str(folder)]
        return f"they are merged when their training ends, {shlex.join(command)}"
    return "merge them into the weights that they were trained for, by `merge_and_unload` of PEFT, and save the result"


def check_files(model: str) -> None:
    """Refuses a model that is not there or not whole; libraries would not say why.

    Raises:
        FileNotFoundError: As in [`check_name`].
        UserError: If a file is damaged, which it names, or if there are adapters alone.
    """
    check_name(model)
    folder = Path(model)
    if (folder / ADAPTER_CONFIG).is_file() and not (folder / CONFIG_NAME).is_file():
        raise UserError(f"{model} holds LoRA adapters alone ({ADAPTER_CONFIG}), not a model: {how_to_merge(folder)}.")
    if os.path.isdir(model) and (reason := damage(Path(model))):
        raise UserError(f"The model in {model} is damaged: {reason}.")
