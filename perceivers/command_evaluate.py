"""Measure a model on labelled inputs.

Without a data set named: on what was held out from its own training, as the `recipe.yaml` beside it says;
without that file, on the held-out part of the built-in data set of its task.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import torch

from perceivers.command_arguments import FlagParser
from perceivers.task import Task
from perceivers.tasks import TASKS, task_of_model
from perceivers.training.evaluation import evaluate_model, report_table
from perceivers.training.labelled_datasets import load_examples
from perceivers.training.problem_types import PROBLEM_TYPES
from perceivers.training.recipe import read_recipe

RECIPE = "recipe.yaml"


def parse(program: str, words: list[str]) -> argparse.Namespace:
    """Reads the flags: `task` and `data`, the dataclass, and what is said of the model and the output."""
    task = next(iter(TASKS.values()))
    if words and not words[0].startswith("-"):
        task, _ = task_of_model(words[0], "--trust_remote_code" in words)
    parser = FlagParser(task.data_arguments, prog=program, description=__doc__)
    parser.add_argument("model", metavar="MODEL", help="a folder or a name on the Hub, before all flags")
    parser.add_argument("--batch_size", type=int, default=64, help="inputs at a time")
    parser.add_argument("--device", default=None, help="such as cpu or cuda:0; the first accelerator if not given")
    parser.add_argument("--trust_remote_code", action="store_true", help="run the code that the model brings along")
    parser.add_argument("--output_file", default=None, help="write the results to this file, as JSON")
    parser.add_argument("--json", action="store_true", help="print the results as JSON")
    arguments = parser.parse_words(words)
    if arguments.batch_size < 1:
        parser.error(f"`--batch_size` must be at least 1, got {arguments.batch_size}")
    recipe = Path(arguments.model) / RECIPE
    names = task.data_arguments.__dataclass_fields__
    if arguments.dataset_name is None and arguments.validation_dir is None and recipe.is_file():
        recorded = {name: value for name, value in read_recipe(recipe).items() if name in names}
        parser.set_defaults(**recorded)
        arguments = parser.parse_words(words)
    values: dict[str, Any] = {name: getattr(arguments, name) for name in names}
    if values["dataset_name"] is None and values["train_dir"] is None and values["validation_dir"] is None:
        values["dataset_name"] = next(iter(task.recipes))
    return argparse.Namespace(**{**vars(arguments), "task": task, "data": task.data_arguments(**values)})


def run(arguments: argparse.Namespace) -> int:
    """Loads model and processor through the Auto classes, evaluates, and prints or writes the results."""
    task: Task = arguments.task
    trust: dict[str, Any] = {"trust_remote_code": arguments.trust_remote_code}
    processor = task.auto_processor.from_pretrained(arguments.model, **trust)
    model = task.auto_model.from_pretrained(arguments.model, **trust)
    fallback = "cuda" if torch.cuda.is_available() else "cpu"
    process = task.evaluation_process(processor)
    examples = load_examples(
        task.kind, arguments.data, seed=0, is_training=False, process=lambda value: process([value])
    )
    problem = PROBLEM_TYPES[examples.problem_type]
    results = evaluate_model(
        model.to(arguments.device or fallback),
        process,
        problem,
        examples.validation,
        task.kind.column,
        examples.label_names,
        arguments.batch_size,
        task.parts(processor),
    )
    results = {"model": arguments.model, "data": examples.source, "unreadable": examples.unreadable, **results}
    if arguments.output_file:
        Path(arguments.output_file).write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    if arguments.json:
        print(json.dumps(results, indent=2))
        return 0
    print(f"{arguments.model} on {examples.source}\n\n{report_table(problem, results)}")
    for line in examples.unreadable:
        print(f"left out {line}")
    return 0
