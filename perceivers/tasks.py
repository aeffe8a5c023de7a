"""All tasks, and which of them a model, a recipe or a variant belongs to."""

import argparse
from typing import Any

from transformers import AutoConfig, PreTrainedConfig

from perceivers.command_errors import UsageError, one_line
from perceivers.task import Task
from perceivers.task_audio import AudioClassification
from perceivers.task_images import ImageClassification
from perceivers.task_point_clouds import PointCloudClassification

TASKS: dict[str, Task] = {
    task.name: task for task in (ImageClassification(), AudioClassification(), PointCloudClassification())
}


def task_named(name: str) -> Task:
    """The task of that name.

    Raises:
        UsageError: if there is none.
    """
    if name not in TASKS:
        raise UsageError(f"there is no task {name!r}; the tasks are {', '.join(TASKS)}")
    return TASKS[name]


def task_of_words(words: list[str], recipe: dict[str, Any]) -> Task:
    """The task that a command line is about, before its flags are known, as the task decides on them: the one that
    `--task` names, or the recipe; or the one that has the built-in data set; else image classification.

    Raises:
        UsageError: for a task that does not exist.
    """
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    for flag in ("task", "dataset_name"):
        parser.add_argument(f"--{flag}", default=recipe.get(flag))
    known = parser.parse_known_args(words)[0]
    if known.task is not None:
        return task_named(known.task)
    by_dataset = (task for task in TASKS.values() if known.dataset_name in task.kind.built_in)
    return next(by_dataset, next(iter(TASKS.values())))


def task_of_model(model: str, trust_remote_code: bool) -> tuple[Task, PreTrainedConfig]:
    """The task of a saved model, and the model's configuration.

    Raises:
        ValueError: if there is no such model, or it is for none of the tasks.
    """
    try:
        config = AutoConfig.from_pretrained(model, trust_remote_code=trust_remote_code)
    except OSError as error:
        raise ValueError(
            f"`{model}` is neither a folder with a model nor reachable on the Hub: {one_line(error)}"
        ) from error
    for task in TASKS.values():
        if task.serves(config):
            return task, config
    raise ValueError(f"`{model}` is of model type `{config.model_type}`, which has no model for {' or '.join(TASKS)}.")
