"""Measure a model on labelled inputs that it was not trained on.

Without a data set: on those held out from its training, as `held_out.json` and `recipe.yaml` beside it say; without
these files, on the held-out part of its task's first built-in data set. In other data, what the model was trained on
is found by its content and left out; in a folder that `--validation_dir` names, it is kept and counted in a warning.
"""

import argparse
import json
import os
from pathlib import Path
from typing import Any

from perceivers.cli.checks import load_whole_model, move_to_device
from perceivers.cli.errors import UserError
from perceivers.cli.flags import FlagParser, load_task
from perceivers.tasks import TASKS, Task
from perceivers.training.datasets import Selection, load_examples
from perceivers.training.evaluation import Evaluator, report_table
from perceivers.training.examples import LeftOut
from perceivers.training.held_out import FOLDER_FLAGS, HeldOut, run_file
from perceivers.training.recipe import RECIPE, read_recipe
from perceivers_cli import printable


def parse(prog: str, argv: list[str]) -> argparse.Namespace:
    """Reads the flags.

    Returns:
        The flags, with the `task` and `config` of the model, the dataclass `data`, and `seed` and `select` of
        [`load_examples`].
    """
    task, config = TASKS[0], None
    if argv and not argv[0].startswith("-"):
        task, config = load_task(argv[0], "--trust_remote_code" in argv)
    data_arguments = task.modality.data_arguments
    usage = f"{prog} MODEL [--FLAG VALUE ...]"
    parser = FlagParser(data_arguments, prog=prog, usage=usage, description=__doc__)
    parser.add_argument("model", metavar="MODEL", help="a folder or a name on the Hub; before all flags")
    parser.add_argument("--batch_size", type=int, default=64, help="inputs per batch")
    parser.add_argument("--device", default=None, help="such as cpu or cuda:0; the first accelerator by default")
    parser.add_argument("--trust_remote_code", action="store_true", help="run the model's own code on this machine")
    parser.add_argument("--output_file", default=None, help="write the results to this file, as JSON")
    parser.add_argument("--json", action="store_true", help="print the results as JSON")
    arguments = parser.parse_argv(argv)
    if arguments.batch_size < 1:
        parser.error(f"`--batch_size` must be at least 1, got {arguments.batch_size}")
    names = data_arguments.__dataclass_fields__
    held_out = HeldOut.read_beside(arguments.model)
    recipe = run_file(arguments.model, RECIPE)
    recorded = read_recipe(recipe) if recipe else {}
    trained_on = {flag: recorded.get(flag) for flag in FOLDER_FLAGS}
    if held_out is not None:
        trained_on |= {flag: paths[0] for flag, paths in held_out.folders.items()}
    recorded = {name: value for name, value in recorded.items() if name in names}
    given = {flag: getattr(arguments, flag) for flag in FOLDER_FLAGS}
    has_other_data = any(given.values()) and absolute(given) != absolute(trained_on)
    if not has_other_data:
        parser.set_defaults(**recorded)
        arguments = parser.parse_argv(argv)
    if config is None:  # flags came before the model
        _, config = load_task(arguments.model, arguments.trust_remote_code)
    values: dict[str, Any] = {name: getattr(arguments, name) for name in names}
    if held_out is not None and not has_other_data:
        values |= held_out.find_folders(values, task.modality.noun)
    if not any(values[flag] for flag in FOLDER_FLAGS):
        values["dataset_name"] = next(iter(task.recipes))
    return argparse.Namespace(
        **{
            **vars(arguments),
            "task": task,
            "config": config,
            "data": data_arguments(**values),
            "seed": held_out.seed if held_out else 0,
            "select": selection(held_out, values, recorded, has_other_data, task),
        }
    )


def selection(
    held_out: HeldOut | None, data: dict[str, Any], recorded: dict[str, Any], has_other_data: bool, task: Task
) -> Selection | None:
    """What chooses the examples to evaluate on; `None` leaves it to the flags of the data.

    Args:
        held_out: What was held out from training; `None` if that is not known.
        data: The flags of the data.
        recorded: Those of the training.
        has_other_data: Whether other data were asked for than those of the training.
        task: The task.
    """
    if held_out is None:
        return None
    if has_other_data:
        return held_out.warn_of_trained_on if data["validation_dir"] else held_out.untrained_rows
    if data["dataset_name"] in task.modality.built_in:
        # It is always the same, but libraries may store its inputs in other bytes.
        is_split_alike = all(data[name] == value for name, value in recorded.items())
        return None if is_split_alike else held_out.untrained_rows
    return held_out.held_out_rows if held_out.held_out else None


def absolute(flags: dict[str, str | None]) -> dict[str, str | None]:
    """Makes absolute paths of the values that are paths."""
    full = {flag: os.path.abspath(os.path.expanduser(value)) for flag, value in flags.items() if value}
    return flags | {flag: path for flag, path in full.items() if os.path.exists(path)}


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
    examples = load_examples(
        modality,
        objective,
        arguments.data,
        seed=arguments.seed,
        is_training=False,
        processor=processor,
        select=arguments.select,
    )
    left_out = LeftOut(examples.origins["validation"], arguments.data.max_unreadable)
    evaluator = Evaluator(
        model,
        modality,
        objective,
        examples.targets,
        examples.validation,
        transform,
        arguments.batch_size,
        modality.chunks(processor),
        left_out,
    )
    scores = evaluator.evaluate()
    unreadable = [*examples.unreadable, *left_out]
    results = {"model": arguments.model, "data": examples.source, "unreadable": unreadable, **scores}
    text = json.dumps(results, indent=2, allow_nan=False)
    # Print first: the results are there even if they cannot be written.
    if arguments.json:
        print(text, flush=True)
    else:
        print(f"{arguments.model} on {examples.source}\n\n{report_table(objective, results, examples.targets)}")
        for line in unreadable:
            print(f"skipped {printable(line)}", flush=True)
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
