"""A recipe beside what was typed: whose data, which folders, and whether this machine has what it asks for."""

import argparse
import os
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from transformers.utils import is_torch_bf16_gpu_available, is_torch_tf32_available

from perceivers.cli.errors import UsageError
from perceivers.training.checkpoints import CHECKPOINT
from perceivers.training.held_out import FOLDER_FLAGS
from perceivers.training.local_paths import is_path
from perceivers.training.recipe import PATH_KEYS

# Keys that ask for an accelerator: what it must offer, and whether this machine's does.
NEEDS: dict[str, tuple[str, Callable[[], bool]]] = {
    "bf16": ("a GPU that computes in bfloat16", is_torch_bf16_gpu_available),
    "bf16_full_eval": ("a GPU that computes in bfloat16", is_torch_bf16_gpu_available),
    "fp16": ("a GPU", torch.accelerator.is_available),
    "fp16_full_eval": ("a GPU", torch.accelerator.is_available),
    "tf32": ("a GPU that computes in TF32", is_torch_tf32_available),
}
FALSE = ("false", "f", "no", "n", "0")


def beside(recipe: dict[str, Any], path: Path, argv: list[str]) -> dict[str, Any]:
    """The part of a recipe that counts beside the command line, with paths that hold here.

    Args:
        recipe: What the file says.
        path: The file.
        argv: What was typed after it.

    Raises:
        UsageError: If it asks for a folder or an accelerator that is not there.
    """
    given = typed(argv, [*PATH_KEYS, *NEEDS, "resume_from_checkpoint", "use_cpu"])
    recipe = without_data(recipe, given)
    if "resume_from_checkpoint" in given and any(CHECKPOINT.fullmatch(name) for name in os.listdir(path.parent)):
        recipe["output_dir"] = str(path.parent)  # the run that the recipe lies in, whatever folder it was started from
    for key in PATH_KEYS:
        if recipe.get(key) and key not in given:
            recipe[key] = found(recipe[key], key, path)
    check_needs({**recipe, **given}, recipe, path)
    return recipe


def typed(argv: list[str], names: Iterable[str]) -> dict[str, str]:
    """The values of the flags of these names on a command line; `true` for one without a value."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, argument_default=argparse.SUPPRESS)
    for name in names:
        spellings = dict.fromkeys((f"--{name}", f"--{name.replace('_', '-')}"))
        parser.add_argument(*spellings, dest=name, nargs="?", const="true")
    return vars(parser.parse_known_args(argv)[0])


def without_data(recipe: dict[str, Any], given: dict[str, str]) -> dict[str, Any]:
    """Leaves out what a recipe says of its data, if others were typed; columns and splits belong to the data."""
    changed = [flag for flag in FOLDER_FLAGS if flag in given and given[flag] != recipe.get(flag)]
    if not changed:
        return dict(recipe)
    dropped = {"dataset_name", "dataset_config_name", "validation_dir"}
    if changed != ["validation_dir"]:
        dropped |= {"train_dir"}
    return {
        key: value for key, value in recipe.items() if key not in dropped and not str(key).endswith("_column_name")
    }


def found(value: Any, key: str, path: Path) -> Any:
    """A value of a recipe that may be a path, relative to the folder that we are in or to that of the recipe.

    Raises:
        UsageError: If it is a path that leads nowhere.
    """
    if not isinstance(value, str) or os.path.exists(os.path.expanduser(value)):
        return value
    is_folder = key in ("train_dir", "validation_dir")
    beside_recipe = os.path.join(path.parent, value)
    # One word may be a built-in data set.
    if (is_folder or os.path.dirname(value)) and os.path.exists(beside_recipe):
        return beside_recipe
    if is_folder or is_path(value):
        raise UsageError(
            f"The recipe {path} asks for `{key}: {value}`{line_of(key, path)}, which is not there; say where it is "
            f"with `--{key}`."
        )
    return value


def check_needs(values: dict[str, Any], recipe: dict[str, Any], path: Path) -> None:
    """Refuses a recipe that asks for what this machine's accelerator, if there is one, does not offer.

    Args:
        values: What the recipe and the command line say.
        recipe: What the recipe says.
        path: The recipe.

    Raises:
        UsageError: Which names the line, and the flag that does without.
    """
    if is_true(values.get("use_cpu")):
        return  # PyTorch computes in these types there too, slowly
    for key, (need, is_there) in NEEDS.items():
        if is_true(recipe.get(key)) and is_true(values[key]) and not is_there():
            raise UsageError(
                f"The recipe {path} sets `{key}: true`{line_of(key, path)}, which needs {need}, and there is none "
                f"here; add `--{key} false`."
            )


def is_true(value: Any) -> bool:
    """Whether the value of a flag, typed or of a recipe, is true."""
    return value is not None and str(value).lower() not in FALSE


def line_of(key: str, path: Path) -> str:
    """Returns " in line ..." for a key of a recipe, or an empty string if it does not begin a line."""
    lines = path.read_text(encoding="utf-8").splitlines()
    pattern = re.compile(rf"\s*[\"']?{re.escape(key)}[\"']?\s*:")
    return next((f" in line {number}" for number, line in enumerate(lines, start=1) if pattern.match(line)), "")
