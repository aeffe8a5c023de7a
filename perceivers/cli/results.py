"""The end of `perceivers train`: the model is written and measured, and the user is told what came out."""

import argparse
import math
import os
import shlex
from dataclasses import dataclass, field
from pathlib import Path

import datasets
import torch
import transformers
from transformers import PreTrainedModel

import perceivers
from perceivers.cli.errors import UserError, one_line
from perceivers.tasks import Task
from perceivers.training.arguments import DataArguments, PerceiverTrainingArguments
from perceivers.training.datasets import Examples
from perceivers.training.model_card import CardFacts, write_card
from perceivers.training.objective import Findings, Mistake
from perceivers.training.progress import silent_libraries
from perceivers.training.results import CURVES, draw_curves, locate, show_mistakes, things_to_try
from perceivers.training.trainer import PerceiverTrainer

VERSIONS = {module.__name__: module.__version__ for module in (perceivers, transformers, torch, datasets)}


@dataclass(frozen=True)
class Results:
    """What an evaluation at the end of a training found.

    Attributes:
        metrics: The Trainer's metrics.
        findings: What they mean.
        mistakes: What the model is wrong about, the most wrong first.
        num_left_out: Numbers of examples to train and to evaluate on that could not be read.
    """

    metrics: dict[str, float]
    num_left_out: tuple[int, int]
    findings: Findings = field(default_factory=Findings)
    mistakes: list[Mistake] = field(default_factory=list)


def evaluate(trainer: PerceiverTrainer) -> dict[str, float]:
    """Evaluates the trained model, which is saved already.

    Raises:
        UserError: If that fails.
    """
    folder = trainer.args.output_dir
    try:
        metrics = trainer.evaluate()
    except Exception as error:
        raise UserError(f"The model is saved in {folder}, but its evaluation failed: {one_line(error)}") from error
    if wrong := [name for name, value in metrics.items() if not math.isfinite(value)]:
        raise UserError(f"The model is saved in {folder}, but its evaluation gave {wrong[0]}={metrics[wrong[0]]}.")
    return metrics


def finish(
    trainer: PerceiverTrainer, arguments: argparse.Namespace, model: PreTrainedModel, examples: Examples
) -> Results:
    """Writes model and processor into the output folder, evaluates, and adds results, curves and card."""
    task: Task = arguments.task
    training: PerceiverTrainingArguments = arguments.training
    modality, objective, targets = task.modality, task.objective, examples.targets
    folder = Path(training.output_dir)
    trainer.save_model()
    trainer.save_state()
    if trainer.is_world_process_zero():
        with silent_libraries():
            task.save_pipeline(model, trainer.processing_class, folder)
    metrics = evaluate(trainer)
    trainer.save_metrics("eval", metrics)
    trainer.save_state()
    num_left_out = trainer.num_left_out()
    if not trainer.is_world_process_zero() or trainer.outcome is None:
        return Results(metrics, num_left_out)
    results = Results(
        metrics,
        num_left_out,
        objective.findings(trainer.outcome, model.config, targets, modality.noun),
        objective.mistakes(trainer.outcome, model.config, targets),
    )
    metric = objective.main_metric(targets)
    draw_curves(
        trainer.state.log_history,
        f"eval_{metric}",
        objective.titles(targets)[metric],
        results.findings.baselines,
        folder / CURVES,
    )
    facts = CardFacts(
        name=folder.resolve().name,
        task=task.name,
        noun=modality.noun,
        example=modality.example,
        objective=objective,
        targets=targets,
        location=training.hub_model_id or str(folder),
        dataset=examples.source,
        dataset_id=arguments.data.dataset_name if is_on_hub(task, arguments.data) else None,
        base_model=arguments.model.model_name_or_path,
        num_parameters=model.num_parameters(),
        num_train_examples=len(trainer.train_dataset) - num_left_out[0],
        num_eval_examples=len(trainer.eval_dataset) - num_left_out[1],
        metrics=metrics,
        recipe=arguments.recipe,
        versions=VERSIONS,
        curves=CURVES,
        findings=results.findings,
    )
    write_card(facts, folder)
    return results


def is_on_hub(task: Task, data: DataArguments) -> bool:
    """Whether the name of the data set is one on the Hub."""
    name = data.dataset_name
    return name is not None and name not in task.modality.built_in and not os.path.exists(os.path.expanduser(name))


def print_what_next(
    trainer: PerceiverTrainer, arguments: argparse.Namespace, examples: Examples, results: Results
) -> None:
    """Prints what came out, draws what the model is most wrong about, and prints what to do next.

    The examples that are drawn and listed stay on this machine: this comes after the folder went to the Hub.
    """
    task: Task = arguments.task
    modality, objective = task.modality, task.objective
    folder = Path(arguments.training.output_dir)
    if number := len(examples.unreadable) + sum(results.num_left_out):
        print(f"Skipped {number} unreadable {modality.name if number == 1 else modality.noun}, listed above.")
    metric = objective.main_metric(examples.targets)
    title = objective.titles(examples.targets)[metric].capitalize()
    num_evaluated = len(trainer.eval_dataset) - results.num_left_out[1]
    value = objective.format_metric(metric, results.metrics[f"eval_{metric}"])
    print(f"{title} on {num_evaluated:,} held-out {modality.noun}: {value}")
    for sentence in results.findings.remarks:
        print(sentence)
    files: list[str] = []
    if trainer.outcome is not None:
        located = locate(results.mistakes, trainer.outcome, trainer.eval_dataset)
        files = show_mistakes(located, trainer.eval_dataset, folder)
    if files:
        print(f"The examples that the model is most wrong about: {', '.join(str(folder / name) for name in files)}")
    if results.findings.warning:
        print(f"\n{results.findings.warning} Three things to try:")
        for number, thing in enumerate(
            things_to_try(
                trainer.state.log_history,
                trainer.state.epoch or 0,
                arguments.training.learning_rate,
                modality.noun,
                None if arguments.model.model_name_or_path else modality.pretrained,
                files,
            ),
            start=1,
        ):
            print(f"  {number}. {thing}")
        print()
    example: Path | str = modality.example.upper()
    if arguments.data.dataset_name in modality.built_in:
        (value,) = modality.inputs(examples.validation.with_format(None)[:1])
        example = modality.save_example(value, folder)
    command = shlex.join(["perceivers", "predict", str(folder), str(example)])
    print(f"The model is in {folder}. Try it: {command}")
