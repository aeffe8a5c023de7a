"""Train a Perceiver to classify images, audio or point clouds.

Without arguments: on scikit-learn's handwritten digits, by the built-in recipe `digits`.

A recipe, which is a YAML file or the name of a built-in one, comes first; `--list` shows those. Flags override it.
`--task` decides which flags there are for the data and its augmentation.
"""

import argparse
import os
import shlex
import shutil
import signal
import sys
from collections.abc import Collection
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedConfig, PreTrainedModel, set_seed

import perceivers
from perceivers.cli.checks import (
    check_config_fields,
    check_metric,
    check_processor_fields,
    check_resumed_config,
    check_training_flags,
)
from perceivers.cli.defaults import choose_for_model, choose_steps, complete, say_settings
from perceivers.cli.errors import UsageError, UserError
from perceivers.cli.flags import TRUST, FlagParser, check_files, find_recipe, load_recipe, recipe_argv, task_from_argv
from perceivers.cli.results import VERSIONS, finish, print_what_next
from perceivers.tasks import Task
from perceivers.training.adaptation import AdaptationArguments, load_config, propose_weights
from perceivers.training.arguments import (
    ModelArguments,
    PerceiverTrainingArguments,
    parse_assignments,
)
from perceivers.training.checkpoints import checkpoint_damage, last_whole_checkpoint
from perceivers.training.datasets import Examples, load_examples
from perceivers.training.examples import ExampleDataset, LeftOut, ReplacingExampleDataset
from perceivers.training.heads import load_for_classes
from perceivers.training.held_out import FILE_NAME as HELD_OUT
from perceivers.training.held_out import HeldOut, hold_out, run_folder
from perceivers.training.modality import Transform
from perceivers.training.recipe import RECIPE, recipe_to_argv, write_recipe
from perceivers.training.results import forget_mistakes
from perceivers.training.trainer import DivergedError, PerceiverTrainer, StopOnInterrupt
from perceivers_cli import Terminated, describe_error

# Values of `--resume_from_checkpoint` that mean the newest whole checkpoint in the output folder.
LAST = ("last", "true")


def parse(prog: str, argv: list[str]) -> argparse.Namespace:
    """Reads the recipe and the flags.

    Returns:
        `task`; the dataclasses `model`, `data`, `augmentation`, `adaptation` and `training`; `recipe`, which repeats
        the run; and, without a recipe, `complete`, which makes the same from flags that were chosen to put before
        those `given`, and `earlier`, the recipe of a training that is resumed.

    Raises:
        UsageError: For an unknown recipe or flag, or a wrong value.
    """
    # Take the recipe off
    has_recipe = bool(argv) and not argv[0].startswith("-")
    path, argv = (find_recipe(argv[0]), argv[1:]) if has_recipe else (None, argv)
    # Find the task's flags
    task = task_from_argv(argv, load_recipe(path))
    parser = FlagParser(
        ModelArguments,
        task.modality.data_arguments,
        task.modality.augmentation_arguments,
        AdaptationArguments,
        PerceiverTrainingArguments,
        prog=prog,
        usage=f"{prog} [RECIPE] [--FLAG VALUE ...]\n       {prog} --list",
        description=__doc__,
    )
    parser.set_defaults(task=task.name)
    # Parse what was typed
    namespace = parser.parse_argv(argv)
    # Go on with the settings that were chosen, or fall back on a built-in recipe
    chooses_model = bool(namespace.model_name_or_path or namespace.variant or namespace.config)
    dataset = namespace.dataset_name or (None if namespace.train_dir else next(iter(task.recipes)))
    earlier = earlier_recipe(namespace)
    if path is None and not chooses_model:
        path = earlier
    if path is None and not chooses_model and (recipe := task.recipes.get(dataset or "")):
        path = find_recipe(recipe)
    # Parse again after the recipe
    argv = (recipe_argv(path, parser.flags(), argv) if path is not None else []) + argv
    arguments = to_arguments(task, parser, parser.parse_argv(argv))
    if path is None:

        def complete(flags: dict[str, Any], chosen: Collection[str] = ()) -> argparse.Namespace:
            # What the data say of a model that is named, they have said.
            model = arguments.model if arguments.model.names_model else None
            completed = to_arguments(task, parser, parser.parse_argv(recipe_to_argv(flags) + argv), model)
            completed.chosen = set(chosen)
            return completed

        arguments.complete, arguments.given = complete, parser.given(argv)
        arguments.earlier = load_recipe(earlier)
    return arguments


def earlier_recipe(namespace: argparse.Namespace) -> Path | None:
    """The recipe of the training that the flags resume; `None` if they resume none, or it has none."""
    wanted = namespace.resume_from_checkpoint
    if not wanted:
        return None
    is_last = str(wanted).lower() in LAST
    path = (Path(str(namespace.output_dir)) if is_last else run_folder(wanted)) / RECIPE
    return path if path.is_file() else None


def to_arguments(
    task: Task, parser: FlagParser, namespace: argparse.Namespace, model: ModelArguments | None = None
) -> argparse.Namespace:
    """Converts and checks the values of the flags, see [`parse`].

    Args:
        task: The task.
        parser: The parser of its flags.
        namespace: The values.
        model: The flags of the model, if they are complete already.

    Raises:
        UsageError: For a wrong value.
    """
    try:
        asked, data, augmentation, adaptation, training = parser.parse_dict(vars(namespace))
        if model is None:
            model = asked
            data.complete(model)
        adaptation.check(model.model_name_or_path)
    except (ValueError, ImportError) as error:
        raise UsageError(str(error)) from error
    check_training_flags(training)
    recorded = {"task": task.name, **parser.recorded(namespace)}
    return argparse.Namespace(
        task=task,
        model=model,
        data=data,
        augmentation=augmentation,
        adaptation=adaptation,
        training=training,
        recipe=recorded,
        complete=None,
        chosen=set(),
    )


def make_config_and_processor(task: Task, arguments: ModelArguments) -> tuple[PreTrainedConfig, Any]:
    """Loads both from the checkpoint, or makes new ones.

    Raises:
        ValueError: For unknown or contradicting fields, or if no flag chooses the model.
        OSError: For a checkpoint that does not exist.
    """
    config_fields = parse_assignments(arguments.config, "config")
    processor_fields = parse_assignments(arguments.processor, "processor")
    check_config_fields(config_fields)
    config_class, auto_processor = task.modality.config_class, task.modality.auto_processor
    if arguments.model_name_or_path:
        if arguments.variant:
            raise UsageError("`--variant` and `--model_name_or_path` exclude each other.")
        check_files(arguments.model_name_or_path)
        origin: dict[str, Any] = {
            "revision": arguments.model_revision,
            "trust_remote_code": arguments.trust_remote_code,
        }
        config = load_config(config_class, arguments.model_name_or_path, **origin, **config_fields)
        if not task.supports(config):
            raise UserError(
                f"{arguments.model_name_or_path} is of type {config.model_type}, which has no model for {task.name}; "
                "choose its task with `--task`."
            )
        processor = auto_processor.from_pretrained(arguments.model_name_or_path, **origin, **processor_fields)
        check_processor_fields(processor, processor_fields)
        return config, processor
    if arguments.variant:
        config = config_class.from_variant(arguments.variant, **config_fields)
    elif config_fields:
        config = config_class(**config_fields)
    else:
        raise UsageError(
            "Say which model to train: `--model_name_or_path`, `--config`, or `--variant`, one of "
            f"{', '.join(config_class.variants)}."
        )
    processor = task.modality.make_processor(config, processor_fields)
    check_processor_fields(processor, processor_fields)
    return config, processor


def make_model(task: Task, arguments: ModelArguments, config: PreTrainedConfig, targets: Any) -> PreTrainedModel:
    """Makes the model, or loads it with a head for the targets."""
    task.objective.configure(config, targets)
    auto_model = task.auto_model(config)
    if not arguments.model_name_or_path:
        return auto_model.from_config(config)
    return load_for_classes(
        auto_model,
        arguments.model_name_or_path,
        config,
        revision=arguments.model_revision,
        trust_remote_code=arguments.trust_remote_code,
    )


def find_checkpoint(training: PerceiverTrainingArguments) -> str | None:
    """Finds the checkpoint to resume from, or `None`.

    `last` and `true` are the last whole one in the output folder; those passed over are named on stderr.

    Raises:
        UserError: If there is none, if it is damaged, or if a new run would write into a folder that is in use.
    """
    folder, wanted = str(training.output_dir), training.resume_from_checkpoint
    if wanted and str(wanted).lower() in LAST:
        checkpoint, passed_over = last_whole_checkpoint(Path(folder))
        for line in passed_over:
            print(f"perceivers: warning: passed over {line}", file=sys.stderr)
        if checkpoint is None:
            whole = " whole" if passed_over else ""
            raise UserError(f"There is no{whole} checkpoint to resume from in {folder}.")
        return str(checkpoint)
    if wanted:
        if not os.path.isdir(wanted):
            raise UserError(f"There is no checkpoint to resume from in {wanted}.")
        if reason := checkpoint_damage(Path(wanted)):
            raise UserError(f"The checkpoint {wanted} is damaged: {reason}. `last` is the newest whole one.")
        return str(wanted)
    if os.path.exists(folder) and not os.path.isdir(folder):
        raise UserError(f"{folder} is a file; `--output_dir` needs a folder.")
    if os.path.isdir(folder) and os.listdir(folder) and not training.overwrite_output_dir:
        raise UserError(
            f"The folder {folder} is not empty: choose another `--output_dir`, or add `--overwrite_output_dir`, or "
            "`--resume_from_checkpoint last`."
        )
    return None


def make_trainer(
    arguments: argparse.Namespace, model: PreTrainedModel, processor: Any, examples: Examples
) -> PerceiverTrainer:
    """Puts augmentation, processor and data sets into a Trainer.

    Raises:
        UserError: If the Trainer refuses its arguments.
    """
    task: Task = arguments.task
    training: PerceiverTrainingArguments = arguments.training
    modality, objective, targets = task.modality, task.objective, examples.targets
    config: Any = model.config
    transform = modality.train_transform(processor, arguments.augmentation, config, objective.is_spatial)
    # The batches of several processes must have the same size.
    eval_class = ExampleDataset if training.world_size == 1 else ReplacingExampleDataset
    eval_transform = modality.eval_transform(processor)
    check_metric(training.metric_for_best_model, objective.titles(targets))
    metric = str(training.metric_for_best_model).removeprefix("eval_")
    if metric in objective.titles(targets) and "greater_is_better" not in arguments.recipe:
        training.greater_is_better = objective.greater_is_better(metric)
    try:
        return PerceiverTrainer(
            model=model,
            args=training,
            processing_class=processor,
            train_dataset=prepare(ReplacingExampleDataset, "train", examples, transform, arguments),
            eval_dataset=prepare(eval_class, "validation", examples, eval_transform, arguments),
            objective=objective,
            targets=targets,
            batch_transform=modality.batch_transform(
                processor,
                arguments.augmentation,
                training.per_device_train_batch_size,
                config.num_labels,
                objective.is_spatial,
            ),
            sample_weights=(
                objective.sample_weights(examples.train, targets) if training.class_balanced_sampling else None
            ),
        )
    except RuntimeError as error:  # raised for a program of `--report_to` that is not installed
        raise UserError(str(error)) from error


def prepare(
    kind: type[ExampleDataset], split: str, examples: Examples, transform: Transform, arguments: argparse.Namespace
) -> ExampleDataset:
    """Makes the Trainer's data set of a split, `train` or `validation`."""
    task: Task = arguments.task
    prepared = kind(
        rows=getattr(examples, split),
        left_out=LeftOut(examples.origins[split], arguments.data.max_unreadable),
        modality=task.modality,
        objective=task.objective,
        targets=examples.targets,
        transform=transform,
        seed=arguments.training.seed,
    )
    if arguments.data.cache_inputs:
        prepared.keep_in_memory()
    return prepared


def train(trainer: PerceiverTrainer, checkpoint: str | None, go_on: str) -> dict[str, float]:
    """Trains and returns the Trainer's metrics of the training.

    Args:
        trainer: The Trainer.
        checkpoint: The checkpoint to resume from.
        go_on: What [`how_to_go_on`] says.

    Raises:
        KeyboardInterrupt: After Ctrl-C or SIGTERM, with a checkpoint written, and the command that continues the run.
        DivergedError: If the loss or the weights became NaN or infinite.
    """
    interruption = StopOnInterrupt()
    trainer.add_callback(interruption)
    try:
        metrics = trainer.train(resume_from_checkpoint=checkpoint).metrics
    except DivergedError:
        raise
    except Exception as error:
        rescued = rescue(trainer, go_on)
        if rescued is None:
            raise
        raise UserError(f"{describe_error(error)} {rescued}") from error
    finally:
        interruption.restore()
    state = trainer.state
    if interruption.was_interrupted and state.global_step < state.max_steps:
        raise (Terminated if interruption.received == signal.SIGTERM else KeyboardInterrupt)(
            f"stopped at step {state.global_step} of {state.max_steps}; {go_on}"
        )
    return metrics


def how_to_go_on(arguments: argparse.Namespace) -> str:
    """The command that continues a run."""
    words = ["perceivers", "train", f"{arguments.training.output_dir}/{RECIPE}", "--resume_from_checkpoint", "last"]
    if arguments.model.trust_remote_code:
        words.append(f"--{TRUST}")  # which no recipe records
    return f"to go on: {shlex.join(words)}"


def rescue(trainer: PerceiverTrainer, go_on: str) -> str | None:
    """Saves what was trained before an error, such as that of an evaluation between epochs.

    Returns:
        What to do next; `None` if there is nothing to save, or it cannot be saved.
    """
    if trainer.state.global_step == 0 or trainer.args.world_size > 1:
        return None
    try:
        trainer.save_checkpoint()
    except Exception:  # of a full disk, or weights that are not finite: the first error says more
        return None
    return f"Step {trainer.state.global_step} is saved; {go_on}"


def run(arguments: argparse.Namespace) -> int:
    """Trains, evaluates, writes everything into the output folder, and prints what to do next."""
    task: Task = arguments.task
    training: PerceiverTrainingArguments = arguments.training
    checkpoint = find_checkpoint(training)
    if training.cpu_threads is not None:
        torch.set_num_threads(training.cpu_threads)
    set_seed(training.seed)
    config = processor = None
    if arguments.complete is None or arguments.model.names_model:
        config, processor = make_config_and_processor(task, arguments.model)
    examples = load_examples(task.modality, task.objective, arguments.data, training.seed, processor=processor)
    if arguments.complete is not None:
        arguments = complete(arguments, examples, processor)
        training = arguments.training
    if config is None:
        config, processor = make_config_and_processor(task, arguments.model)
    for line in examples.unreadable:
        print(f"perceivers: warning: skipped {line}", file=sys.stderr)
    set_seed(training.seed)  # loading the data may have drawn numbers; the weights must not depend on it
    model = make_model(task, arguments.model, config, examples.targets)
    if checkpoint is not None:
        check_resumed_config(checkpoint, model.config)
    held_out = hold_out(
        examples,
        task.modality,
        arguments.data,
        {"seed": training.seed, "classes": list((model.config.id2label or {}).values()), "versions": VERSIONS},
        earlier=HeldOut.read_beside(checkpoint or arguments.model.model_name_or_path, arguments.model.model_revision),
    )
    if not arguments.model.model_name_or_path:
        propose_weights(task.weights, len(examples.train), model.config, task.modality, arguments.data)
    model = arguments.adaptation.adapt(model, checkpoint)
    if arguments.chosen:
        choose_for_model(arguments, model, processor, examples)
    perceivers.register_for_remote_code()

    folder = Path(training.output_dir)
    existed = folder.exists()
    try:
        trainer = make_trainer(arguments, model, processor, examples)
        if training.minutes is not None and training.max_steps <= 0 and "num_train_epochs" not in arguments.recipe:
            choose_steps(arguments, model, trainer)
        if arguments.chosen:
            say_settings(arguments)
        if training.overwrite_output_dir and checkpoint is None:
            for stale in folder.glob("checkpoint-*"):
                shutil.rmtree(stale)
        if trainer.is_world_process_zero():
            write_recipe(folder / RECIPE, arguments.recipe, "Repeat this run: perceivers train recipe.yaml")
            held_out.write(folder)
            forget_mistakes(folder)
        metrics = train(trainer, checkpoint, how_to_go_on(arguments))
    except BaseException:
        if not existed and folder.is_dir() and {entry.name for entry in folder.iterdir()} <= {RECIPE, HELD_OUT}:
            shutil.rmtree(folder)
        raise
    model = arguments.adaptation.merge(trainer)
    trainer.save_metrics("train", metrics)
    results = finish(trainer, arguments, model, examples)
    if training.push_to_hub:
        trainer.push_to_hub()
    if trainer.is_world_process_zero():
        print_what_next(trainer, arguments, examples, results)
    return 0
