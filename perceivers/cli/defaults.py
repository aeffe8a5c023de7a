"""Runs that only say where their data is: what is chosen for them, and what they are told of it."""

import argparse
import os
import time

import torch
from transformers import PreTrainedModel

from perceivers.tasks import Task
from perceivers.training.arguments import PerceiverTrainingArguments
from perceivers.training.datasets import Examples
from perceivers.training.defaults import MINUTES, measure, num_steps, training_flags
from perceivers.training.examples import LEFT_OUT
from perceivers.training.folders import say
from perceivers.training.trainer import PerceiverTrainer


def complete(arguments: argparse.Namespace, examples: Examples) -> argparse.Namespace:
    """Chooses the settings that no flag and no recipe gives, and says which and why."""
    task: Task = arguments.task
    is_accelerated = arguments.training.device.type != "cpu"
    choice = task.modality.choose(examples.train, is_accelerated)
    if choice is None:
        return arguments
    metric = task.objective.main_metric(examples.targets)
    flags = training_flags(choice, metric, len(examples.train), arguments.recipe.keys())
    say(f"Chose the model {choice.model}.")
    say(f"To make more of the {task.modality.noun}, they are {choice.augmentation} in training.")
    return arguments.complete(flags)


def choose_steps(arguments: argparse.Namespace, model: PreTrainedModel, trainer: PerceiverTrainer) -> None:
    """Sets the number of steps and of threads by the time that the run may take, and says so."""
    training: PerceiverTrainingArguments = arguments.training
    start = time.perf_counter()
    examples = trainer.train_dataset.__getitems__(range(min(len(trainer.train_dataset), training.train_batch_size)))
    reading = (time.perf_counter() - start) / len(examples)
    batch = trainer.data_collator(examples)  # type: ignore[arg-type]
    batch.pop(LEFT_OUT, None)
    pace = measure(model, batch, training.device, training.cpu_threads)
    sizes = (len(trainer.train_dataset), len(trainer.eval_dataset))
    training.max_steps = num_steps(training.minutes or MINUTES, pace, reading, *sizes, training)
    training.cpu_threads = pace.threads
    torch.set_num_threads(pace.threads)
    arguments.recipe |= {"max_steps": training.max_steps, "cpu_threads": pace.threads}
    size = training.train_batch_size * training.gradient_accumulation_steps * training.world_size
    say(
        f"Takes {training.max_steps:,} steps of {size:,} {arguments.task.modality.noun}, each "
        f"{training.max_steps * size / sizes[0]:,.0f} times, in about {pace.seconds * training.max_steps / 60:.1f} "
        f"minutes with {pace.threads} of {os.cpu_count()} threads ({pace.seconds * 1000:.0f} ms per step)."
    )
