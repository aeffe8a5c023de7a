"""Runs without a recipe: what is chosen for them, and what they are told of it."""

import argparse
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import fields
from itertools import islice
from typing import Any

import torch
from accelerate.utils import broadcast_object_list  # type: ignore[import-untyped]
from transformers import PreTrainedModel

from perceivers.tasks import Task
from perceivers.training.arguments import PerceiverTrainingArguments
from perceivers.training.datasets import Examples
from perceivers.training.defaults import (
    FEW,
    MINUTES,
    MOST_EPOCHS,
    MOST_EPOCHS_FROM_WEIGHTS,
    TRAINING,
    batch_size,
    can_cache,
    cost_of,
    free_memory,
    learning_rate,
    measure,
    plan,
    training_flags,
)
from perceivers.training.examples import LEFT_OUT
from perceivers.training.folders import say
from perceivers.training.modality import Batch, sampled
from perceivers.training.progress import duration
from perceivers.training.trainer import PerceiverTrainer

SMOOTHING = "label_smoothing_factor"


def complete(arguments: argparse.Namespace, examples: Examples, processor: Any = None) -> argparse.Namespace:
    """Chooses the settings that no flag gives, and says which and why.

    Args:
        arguments: What `perceivers.cli.train.parse` returned.
        examples: The data.
        processor: That of the model that the flags name; `None` if they name none, and the data choose one.

    Returns:
        The arguments with all settings; `chosen` has the names of the flags that were chosen.
    """
    task: Task = arguments.task
    modality, objective, targets = task.modality, task.objective, examples.targets
    variation = {field.name for field in fields(arguments.augmentation)}
    if arguments.earlier:
        return arguments.complete(chosen_before(arguments.earlier, variation, arguments.given))
    choice = modality.choose(examples.train, is_accelerated=arguments.training.device.type != "cpu")
    flags = choice.flags if choice is not None else {}
    if processor is None:
        if choice is None:
            return arguments
        say(f"Chose the model {choice.model}.")
    else:
        say(f"{origin(arguments)}, which says how the {modality.noun} are prepared.")
        flags = {name: value for name, value in flags.items() if name in TRAINING or name in variation}
        varied = type(arguments.augmentation)(**{name: flags[name] for name in variation & flags.keys()})
        # What our models take as spectrograms, those of others may take as waveforms, which cannot be varied alike.
        if is_refused(lambda: modality.batch_transform(processor, varied, 2, 2, objective.is_spatial)):
            flags = {name: value for name, value in flags.items() if name not in variation}
    if choice is not None and variation & flags.keys():
        say(f"To make more of the {modality.noun}, they are {choice.augmentation} in training.")
    metric = objective.main_metric(targets)
    flags = training_flags(flags, metric, len(examples.train), arguments.given)
    if is_refused(lambda: objective.loss(targets, flags[SMOOTHING], has_mixed_labels=False)):
        del flags[SMOOTHING]
    return arguments.complete(flags, flags.keys() - arguments.given)


def chosen_before(earlier: dict[str, Any], variation: set[str], given: set[str]) -> dict[str, Any]:
    """What a resumed training keeps of what was chosen for it.

    Args:
        earlier: Its recipe.
        variation: Names of the flags of the augmentation.
        given: Names of the flags that are given now.
    """
    names = TRAINING.keys() | variation | {"metric_for_best_model"}
    if "minutes" in earlier and not given & {"max_steps", "num_train_epochs"}:
        names |= {"max_steps", "cpu_threads"}
    return {name: value for name, value in earlier.items() if name in names}


def origin(arguments: argparse.Namespace) -> str:
    """Says which model the flags name."""
    model = arguments.model
    if not model.model_name_or_path:
        return f"Trains {f'`{model.variant}`' if model.variant else 'a model of your own'} from scratch"
    part = {"lora": "adapters and a head for", "freeze_body": "a head for"}
    asked = [what for flag, what in part.items() if getattr(arguments.adaptation, flag)]
    return f"Trains {(asked or ['all weights of'])[0]} {model.model_name_or_path}"


def is_refused(make: Callable[[], Any]) -> bool:
    """Whether settings do not suit a model or its data, which says so by a `ValueError`."""
    try:
        make()
    except ValueError:
        return True
    return False


def choose_for_model(
    arguments: argparse.Namespace, model: PreTrainedModel, processor: Any, examples: Examples
) -> None:
    """Sets the learning rate, the batch and the cache by the size of the model and of its inputs."""
    training: PerceiverTrainingArguments = arguments.training
    chosen, recipe, adaptation = arguments.chosen, arguments.recipe, arguments.adaptation
    if "learning_rate" in chosen:
        training.learning_rate = learning_rate(
            training.learning_rate,
            sum(parameter.numel() for parameter in model.parameters()),
            has_weights=bool(arguments.model.model_name_or_path),
            is_partial=adaptation.freeze_body or adaptation.lora,
        )
        recipe["learning_rate"] = training.learning_rate
    batch = first_inputs(arguments.task, examples, processor)
    if batch is None:
        return  # the training says what cannot be read
    if "cache_inputs" in chosen:
        example_bytes = sum(values.nbytes for values in batch.values()) // len(next(iter(batch.values())))
        arguments.data.cache_inputs = can_cache(example_bytes, len(examples.train) + len(examples.validation))
        recipe["cache_inputs"] = arguments.data.cache_inputs
    if "per_device_train_batch_size" in chosen:
        cost, memory = cost_of(model, batch, training.device), free_memory(training.device)
        # Of several processes, all must take what the first has measured.
        (size,) = broadcast_object_list(
            [batch_size(training.per_device_train_batch_size, cost, training.minutes or MINUTES, memory)]
        )
        training.per_device_train_batch_size = recipe["per_device_train_batch_size"] = size
    if "per_device_eval_batch_size" in chosen:
        # Nothing is kept for a backward pass.
        training.per_device_eval_batch_size = 2 * training.per_device_train_batch_size
        recipe["per_device_eval_batch_size"] = training.per_device_eval_batch_size


def first_inputs(task: Task, examples: Examples, processor: Any, number: int = FEW) -> Batch | None:
    """A small batch of inputs that can be read, without targets; `None` if there are not enough."""
    transform, processed = task.modality.eval_transform(processor), []
    for value in islice(sampled(examples.train, 10 * number, task.modality), 10 * number):
        with suppress(Exception):  # a broken file can raise anything in its decoder
            processed.append(transform([value]))
        if len(processed) == number:
            return {name: torch.cat([each[name] for each in processed]) for name in processed[0]}
    return None


def choose_steps(arguments: argparse.Namespace, model: PreTrainedModel, trainer: PerceiverTrainer) -> None:
    """Sets the number of steps, of evaluations and of threads by the time that the run may take."""
    training: PerceiverTrainingArguments = arguments.training
    start = time.perf_counter()
    examples = trainer.train_dataset.__getitems__(range(min(len(trainer.train_dataset), training.train_batch_size)))
    reading = (time.perf_counter() - start) / len(examples)
    batch = trainer.data_collator(examples)  # type: ignore[arg-type]
    batch.pop(LEFT_OUT, None)
    pace, reading = broadcast_object_list([measure(model, batch, training.device, training.cpu_threads), reading])
    most_epochs = MOST_EPOCHS_FROM_WEIGHTS if arguments.model.model_name_or_path else MOST_EPOCHS
    sizes, minutes = (len(trainer.train_dataset), len(trainer.eval_dataset)), training.minutes or MINUTES
    planned = plan(minutes, pace, reading, *sizes, training, most_epochs)
    training.max_steps, training.cpu_threads = planned.steps, pace.threads
    torch.set_num_threads(pace.threads)
    arguments.recipe |= {"max_steps": training.max_steps, "cpu_threads": pace.threads}
    for name in {"eval_steps", "save_steps"} & arguments.chosen:
        setattr(training, name, 1 / planned.evaluations)
        arguments.recipe[name] = 1 / planned.evaluations
    trainer.progress.seconds = planned.seconds
    if planned.seconds > 60 * minutes:
        say(
            f"Fewer than {planned.steps} steps teach a model nothing; they take about {duration(planned.seconds)}, "
            f"more than `--minutes {minutes:g}`."
        )


def say_settings(arguments: argparse.Namespace) -> None:
    """Says how the model is trained."""
    training: PerceiverTrainingArguments = arguments.training
    if "learning_rate" not in arguments.chosen:
        reason = "as given"
    elif arguments.adaptation.freeze_body or arguments.adaptation.lora:
        reason = "as for a new head"
    elif arguments.model.model_name_or_path:
        reason = "low, to keep what the weights know"
    else:
        reason = "as for a model of its size from scratch"
    size = training.train_batch_size * training.gradient_accumulation_steps * training.world_size
    parts = [f"Takes batches of {size:,} and a learning rate of {training.learning_rate:g} ({reason})"]
    if training.load_best_model_at_end:
        kept = "keeps the weights of the best evaluation"
        if training.early_stopping_patience:
            kept += f", and stops if {training.early_stopping_patience} in a row are no better"
        parts.append(kept)
    say(f"{'; '.join(parts)}.")
