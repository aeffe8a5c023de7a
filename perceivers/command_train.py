"""Train a Perceiver to classify images, audio or point clouds.

Without arguments: on scikit-learn's handwritten digits, by the built-in recipe `digits`.

A recipe, a YAML file or the name of a built-in one, comes first; flags beside it win over it. `--task` decides which
flags there are for the data and its augmentation.
"""

import argparse
import os
import shutil
import sys
from pathlib import Path
from typing import Any

import datasets
import torch
import transformers
from transformers import AutoConfig, PreTrainedConfig, PreTrainedModel, set_seed
from transformers.trainer_utils import get_last_checkpoint

import perceivers
from perceivers.command_arguments import FlagParser, find_recipe, recipe_arguments
from perceivers.command_errors import UsageError, UserError
from perceivers.task import Task
from perceivers.tasks import task_of_words
from perceivers.training.arguments import (
    ClassificationTrainingArguments,
    DataArguments,
    ModelArguments,
    fields_of,
)
from perceivers.training.curves import draw_curves
from perceivers.training.interruption import StopOnInterrupt
from perceivers.training.labelled_datasets import LabelledExamples, LabelledProcess, class_weights, load_examples
from perceivers.training.model_card import CardFacts, write_card
from perceivers.training.problem_types import PROBLEM_TYPES, ProblemType
from perceivers.training.recipe import read_recipe, write_recipe
from perceivers.training.trainer import ClassificationTrainer

CURVES = "training_curves.png"
RECIPE = "recipe.yaml"


def parse(program: str, words: list[str]) -> argparse.Namespace:
    """Reads the recipe and the flags.

    Returns: `task`, then `model`, `data`, `augmentation` and `training`, the dataclasses, and `recipe`, which repeats
        the run.

    Raises:
        UsageError: for what is no recipe, no flag or no value of one.
    """
    has_recipe = bool(words) and not words[0].startswith("-")
    path, words = (find_recipe(words[0]), words[1:]) if has_recipe else (None, words)
    task = task_of_words(words, recipe_values(path))
    parser = FlagParser(
        ModelArguments,
        task.data_arguments,
        task.augmentation_arguments,
        ClassificationTrainingArguments,
        prog=program,
        usage=f"{program} [RECIPE] [--FLAG VALUE ...]",
        description=__doc__,
    )
    parser.set_defaults(task=task.name)
    namespace = parser.parse_words(words)
    is_model_said = namespace.model_name_or_path or namespace.variant or namespace.config
    dataset = namespace.dataset_name or (None if namespace.train_dir else next(iter(task.recipes)))
    if path is None and not is_model_said and (recipe := task.recipes.get(dataset or "")):
        path = find_recipe(recipe)
    if path is not None:
        namespace = parser.parse_words(recipe_arguments(path, parser.flags()) + words)
    recorded = {"task": task.name, **parser.recorded(namespace)}
    try:
        model, data, augmentation, training = parser.to_dataclasses(namespace)
    except (ValueError, ImportError) as error:
        raise UsageError(str(error)) from error
    return argparse.Namespace(
        task=task, model=model, data=data, augmentation=augmentation, training=training, recipe=recorded
    )


def recipe_values(path: Path | None) -> dict[str, Any]:
    """What a recipe says; nothing, if there is none.

    Raises:
        UsageError: if it is not YAML.
    """
    try:
        return {} if path is None else read_recipe(path)
    except ValueError as error:
        raise UsageError(str(error)) from error


def make_config_and_processor(task: Task, arguments: ModelArguments) -> tuple[PreTrainedConfig, Any]:
    """From the checkpoint, or from scratch.

    Raises:
        ValueError: for unknown or contradicting fields, or if nothing says which model.
        OSError: for a checkpoint that does not exist.
    """
    config_fields = fields_of(arguments.config, "config")
    processor_fields = fields_of(arguments.processor, "processor")
    if arguments.model_name_or_path:
        if arguments.variant:
            raise UsageError("`--variant` and `--model_name_or_path` exclude each other")
        origin: dict[str, Any] = {
            "revision": arguments.model_revision,
            "trust_remote_code": arguments.trust_remote_code,
        }
        config = AutoConfig.from_pretrained(arguments.model_name_or_path, **origin, **config_fields)
        if not task.serves(config):
            raise UserError(
                f"{arguments.model_name_or_path} is of type {config.model_type}, not for {task.name}; name its "
                "task by `--task`"
            )
        processor = task.auto_processor.from_pretrained(arguments.model_name_or_path, **origin, **processor_fields)
        return config, processor
    if arguments.variant:
        config = task.config_class.from_variant(arguments.variant, **config_fields)
    elif config_fields:
        config = task.config_class(**config_fields)
    else:
        raise UsageError(
            "say which model to train: `--model_name_or_path`, `--config`, or `--variant`, one of "
            f"{', '.join(task.config_class.variants)}"
        )
    return config, task.make_processor(config, processor_fields)


def make_model(
    task: Task, arguments: ModelArguments, config: PreTrainedConfig, label_names: list[str], problem_type: Any
) -> PreTrainedModel:
    """The model, with as many outputs as there are labels: fine-tuned for other labels, it gets a new head."""
    config.id2label = dict(enumerate(label_names))
    config.label2id = {name: index for index, name in enumerate(label_names)}
    config.problem_type = problem_type
    if not arguments.model_name_or_path:
        return task.auto_model.from_config(config)
    return task.auto_model.from_pretrained(
        arguments.model_name_or_path,
        config=config,
        revision=arguments.model_revision,
        trust_remote_code=arguments.trust_remote_code,
        ignore_mismatched_sizes=True,
    )


def find_checkpoint(training: ClassificationTrainingArguments) -> str | None:
    """The checkpoint to resume from, or `None`; `last` and `true` are the last one in the output folder.

    Raises:
        UserError: if there is none, or if a new run would write into a folder that is in use.
    """
    folder, wanted = training.output_dir, training.resume_from_checkpoint
    if wanted:
        is_last = str(wanted).lower() in ("last", "true")
        checkpoint = (get_last_checkpoint(folder) if os.path.isdir(folder) else None) if is_last else str(wanted)
        if checkpoint is None or not os.path.isdir(checkpoint):
            raise UserError(f"there is no checkpoint to resume from in {folder if is_last else wanted}")
        return checkpoint
    if os.path.exists(folder) and not os.path.isdir(folder):
        raise UserError(f"{folder} is a file; `--output_dir` needs a folder")
    if os.path.isdir(folder) and os.listdir(folder) and not training.overwrite_output_dir:
        raise UserError(
            f"the folder {folder} is not empty: choose another `--output_dir`, or add `--overwrite_output_dir`, or "
            "`--resume_from_checkpoint last`"
        )
    return None


def make_trainer(
    arguments: argparse.Namespace, model: PreTrainedModel, processor: Any, examples: LabelledExamples
) -> ClassificationTrainer:
    """Puts augmentation, processor and data sets into a Trainer.

    Raises:
        UserError: if the Trainer refuses what it was told.
    """
    task: Task = arguments.task
    data: DataArguments = arguments.data
    problem = PROBLEM_TYPES[examples.problem_type]
    num_labels, is_balanced = len(examples.label_names), arguments.training.class_balanced_sampling
    num_hot = num_labels if examples.problem_type == "multi_label_classification" else None
    process = task.training_process(processor, arguments.augmentation, model.config)
    examples.train.set_transform(LabelledProcess(task.kind.column, process, num_hot))
    examples.validation.set_transform(LabelledProcess(task.kind.column, task.evaluation_process(processor), num_hot))
    try:
        return ClassificationTrainer(
            model=model,
            args=arguments.training,
            processing_class=processor,
            train_dataset=list(examples.train) if data.cache_inputs and not process.is_random else examples.train,
            eval_dataset=list(examples.validation) if data.cache_inputs else examples.validation,
            problem=problem,
            augment_batch=task.batch_augmentation(
                processor, arguments.augmentation, arguments.training.per_device_train_batch_size, num_labels
            ),
            weights=class_weights(examples.train.with_format(None)["label"][:], num_labels) if is_balanced else None,
        )
    except RuntimeError as error:  # the Trainer's word for a program of `--report_to` that is not installed
        raise UserError(str(error)) from error


def train(trainer: ClassificationTrainer, checkpoint: str | None) -> dict[str, float]:
    """Trains and returns the Trainer's metrics of it.

    Raises:
        KeyboardInterrupt: after Ctrl-C, with a checkpoint written, and how to go on.
    """
    interruption = StopOnInterrupt()
    trainer.add_callback(interruption)
    try:
        metrics = trainer.train(resume_from_checkpoint=checkpoint).metrics
    finally:
        interruption.restore()
    state, folder = trainer.state, trainer.args.output_dir
    if interruption.was_interrupted and state.global_step < state.max_steps:
        raise KeyboardInterrupt(
            f"stopped at step {state.global_step} of {state.max_steps}; to go on: "
            f"perceivers train {folder}/{RECIPE} --resume_from_checkpoint last"
        )
    return metrics


def finish(
    trainer: ClassificationTrainer,
    arguments: argparse.Namespace,
    model: PreTrainedModel,
    examples: LabelledExamples,
) -> dict[str, float]:
    """Evaluates, and writes model, processor, results, curves and card into the output folder.

    Returns: the metrics of the evaluation.
    """
    task: Task = arguments.task
    training: ClassificationTrainingArguments = arguments.training
    problem: ProblemType = PROBLEM_TYPES[examples.problem_type]
    folder = Path(training.output_dir)
    metrics = trainer.evaluate()
    trainer.log_metrics("eval", metrics)
    trainer.save_metrics("eval", metrics)
    trainer.save_model()
    trainer.save_state()
    if not trainer.is_world_process_zero():
        return metrics
    task.save_pipeline(model, trainer.processing_class, folder)
    title = problem.titles[problem.main_metric]
    draw_curves(trainer.state.log_history, f"eval_{problem.main_metric}", title, folder / CURVES)
    facts = CardFacts(
        name=folder.resolve().name,
        task=task.name,
        noun=task.kind.noun,
        example=task.example,
        problem=problem,
        location=training.hub_model_id or str(folder),
        dataset=examples.source,
        dataset_id=arguments.data.dataset_name if is_on_hub(task, arguments.data) else None,
        base_model=arguments.model.model_name_or_path,
        label_names=examples.label_names,
        num_parameters=model.num_parameters(),
        num_train_examples=len(examples.train),
        num_eval_examples=len(examples.validation),
        metrics=metrics,
        recipe=arguments.recipe,
        versions={module.__name__: module.__version__ for module in (perceivers, transformers, torch, datasets)},
        curves=CURVES,
    )
    write_card(facts, folder)
    return metrics


def is_on_hub(task: Task, data: DataArguments) -> bool:
    name = data.dataset_name
    return name is not None and name not in task.kind.built_in and not os.path.exists(name)


def print_what_next(arguments: argparse.Namespace, examples: LabelledExamples, results: dict[str, float]) -> None:
    """The result, and a command to try the model with."""
    task: Task = arguments.task
    folder, problem = Path(arguments.training.output_dir), PROBLEM_TYPES[examples.problem_type]
    if examples.unreadable:
        print(f"Left out {len(examples.unreadable)} {task.kind.noun} that could not be read; they are named above.")
    metric = problem.main_metric
    value = problem.format(metric, results[f"eval_{metric}"])
    print(f"{problem.titles[metric].capitalize()} on {len(examples.validation):,} held-out {task.kind.noun}: {value}")
    example: Path | str = task.example.upper()
    if arguments.data.dataset_name in task.kind.built_in:
        example = task.save_example(examples.validation.with_format(None)[0][task.kind.column], folder)
    print(f"The model is in {folder}. Try it: perceivers predict {folder} {example}")


def run(arguments: argparse.Namespace) -> int:
    """Trains, evaluates, writes everything into the output folder, and says what to do next."""
    task: Task = arguments.task
    training: ClassificationTrainingArguments = arguments.training
    checkpoint = find_checkpoint(training)
    if training.cpu_threads is not None:
        torch.set_num_threads(training.cpu_threads)
    set_seed(training.seed)
    config, processor = make_config_and_processor(task, arguments.model)
    process = task.evaluation_process(processor)
    examples = load_examples(task.kind, arguments.data, training.seed, process=lambda value: process([value]))
    for line in examples.unreadable:
        print(f"perceivers: warning: left out {line}", file=sys.stderr)
    set_seed(training.seed)  # so that the weights do not depend on what loading the data has drawn
    model = make_model(task, arguments.model, config, examples.label_names, examples.problem_type)
    perceivers.register_for_remote_code()

    folder = Path(training.output_dir)
    existed = folder.exists()
    try:
        trainer = make_trainer(arguments, model, processor, examples)
        if training.overwrite_output_dir and checkpoint is None:
            for stale in folder.glob("checkpoint-*"):
                shutil.rmtree(stale)
        if trainer.is_world_process_zero():
            write_recipe(folder / RECIPE, arguments.recipe, "Repeat this run: perceivers train recipe.yaml")
        metrics = train(trainer, checkpoint)
    except BaseException:
        if not existed and folder.is_dir() and {entry.name for entry in folder.iterdir()} <= {RECIPE}:
            shutil.rmtree(folder)
        raise
    trainer.log_metrics("train", metrics)
    trainer.save_metrics("train", metrics)
    results = finish(trainer, arguments, model, examples)
    if training.push_to_hub:
        trainer.push_to_hub()
    if trainer.is_world_process_zero():
        print_what_next(arguments, examples, results)
    return 0
