"""Measure a model on labelled inputs.

Without a data set: on the data held out from the model's training, as the `recipe.yaml` beside it says; without that
file, on the held-out data of its task's first built-in data set.
"""

import argparse
import json
from pathlib import Path
from typing import Any

from perceivers.cli.checks import load_whole_model, move_to_device
from perceivers.cli.errors import UserError
from perceivers.cli.flags import FlagParser, load_task
from perceivers.tasks import TASKS, Task
from perceivers.training.datasets import load_examples
from perceivers.training.evaluation import evaluate_model, report_table
from perceivers.training.recipe import read_recipe

RECIPE = "recipe.yaml"


def parse(prog: str, argv: list[str]) -> argparse.Namespace:
    """Reads the flags, with the `task` and `config` of the model and the dataclass `data`."""
    task, config = TASKS[0], None
    if argv and not argv[0].startswith("-"):
        task, config = load_task(argv[0], "--trust_remote_code" in argv)
    data_arguments = task.modality.data_arguments
    parser = FlagParser(data_arguments, prog=prog, description=__doc__)
    parser.add_argument("model", metavar="MODEL", help="a folder or a name on the Hub; before all flags")
    parser.add_argument("--batch_size", type=int, default=64, help="inputs per batch")
    parser.add_argument("--device", default=None, help="such as cpu or cuda:0; the first accelerator by default")
    parser.add_argument("--trust_remote_code", action="store_true", help="run the model's own code on this machine")
    parser.add_argument("--output_file", default=None, help="write the results to this file, as JSON")
    parser.add_argument("--json", action="store_true", help="print the results as JSON")
    arguments = parser.parse_argv(argv)
    if arguments.batch_size < 1:
        parser.error(f"`--batch_size` must be at least 1, got {arguments.batch_size}")
    recipe = Path(arguments.model) / RECIPE
    names = data_arguments.__dataclass_fields__
    if arguments.dataset_name is None and arguments.validation_dir is None and recipe.is_file():
        recorded = {name: value for name, value in read_recipe(recipe).items() if name in names}
        parser.set_defaults(**recorded)
        arguments = parser.parse_argv(argv)
    if config is None:  # flags came before the model
        _, config = load_task(arguments.model, arguments.trust_remote_code)
    values: dict[str, Any] = {name: getattr(arguments, name) for name in names}
    if values["dataset_name"] is None and values["train_dir"] is None and values["validation_dir"] is None:
        values["dataset_name"] = next(iter(task.recipes))
    return argparse.Namespace(**{**vars(arguments), "task": task, "config": config, "data": data_arguments(**values)})


def run(arguments: argparse.Namespace) -> int:
    """Loads model and processor through the Auto classes, evaluates, and prints or writes the results."""
    task: Task = arguments.task
    modality, objective = task.modality, task.objective
    trust: dict[str, Any] = {"trust_remote_code": arguments.trust_remote_code}
    processor = modality.auto_processor.from_pretrained(arguments.model, **trust)
    auto_model = task.auto_model(arguments.config)
    model = load_whole_model(auto_model, arguments.model, arguments.config, task.name, **trust)
    model = move_to_device(model, arguments.device)
    transform = modality.eval_transform(processor)
    examples = load_examples(modality, objective, arguments.data, seed=0, is_training=False, transform=transform)
    results = evaluate_model(
        model,
        modality,
        objective,
        examples.targets,
        examples.validation,
        transform,
        arguments.batch_size,
        modality.chunks(processor),
    )
    results = {"model": arguments.model, "data": examples.source, "unreadable": examples.unreadable, **results}
    text = json.dumps(results, indent=2, allow_nan=False)
    # Print first: the results are there even if they cannot be written.
    if arguments.json:
        print(text, flush=True)
    else:
        print(f"{arguments.model} on {examples.source}\n\n{report_table(objective, results, examples.targets)}")
        for line in examples.unreadable:
            print(f"skipped {line}", flush=True)
    if arguments.output_file:
        write_text(Path(arguments.output_file), text + "\n")
    return 0


def write_text(path: Path, text: str) -> None:
    """Writes a file and the folders above it.

    Raises:
        UserError: If that fails.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise UserError(f"The results are above, but could not be written: {error}") from error
