"""Settings chosen from the data and the machine, for runs that only say where their data is."""

import copy
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any

import torch
from transformers import PreTrainedModel, TrainingArguments

from .modality import Batch, Choice

MINUTES = 10.0
# More than this often, no example teaches a model from scratch anything new.
MOST_EPOCHS = 200
FEWEST_STEPS = 50
# Evaluations of a run, and entries of its log between two of them.
NUM_EVALUATIONS, ENTRIES = 10, 5
# Part of the time for everything that is not measured: imports, optimiser, checkpoints.
RESERVE = 0.15
# Threads that make a step less than this much faster are left to others.
WORTHWHILE = 0.9
MEASURED_STEPS = 3

TRAINING: dict[str, Any] = {
    "per_device_train_batch_size": 64,
    "per_device_eval_batch_size": 128,
    "learning_rate": 2e-3,
    "optim": "adamw_torch_fused",
    "lr_scheduler_type": "cosine",
    "warmup_steps": 0.1,
    "weight_decay": 0.05,
    "label_smoothing_factor": 0.1,
    "cache_inputs": True,
    "eval_strategy": "steps",
    "eval_steps": 1 / NUM_EVALUATIONS,
    "logging_strategy": "steps",
    "logging_steps": 1 / (NUM_EVALUATIONS * ENTRIES),
    "save_strategy": "steps",
    "save_steps": 1 / NUM_EVALUATIONS,
    "save_total_limit": 1,
    "load_best_model_at_end": True,
    "report_to": "none",
    "minutes": MINUTES,
}


@dataclass
class Pace:
    """How fast a machine trains a model.

    Attributes:
        seconds: Of one step.
        threads: Threads that an operation on the CPU should take.
    """

    seconds: float
    threads: int


def training_flags(choice: Choice, metric: str, num_examples: int, given: Collection[str]) -> dict[str, Any]:
    """All flags of a run: those that the modality chose, and those of every training.

    Args:
        choice: What the modality chose.
        metric: The metric that the best checkpoint is chosen by.
        num_examples: Number of training examples.
        given: Names of the flags that were given, which win.
    """
    flags = {**TRAINING, "metric_for_best_model": metric, **choice.flags}
    # A batch larger than half of the data would leave one step per epoch.
    while flags["per_device_train_batch_size"] > max(8, num_examples // 2):
        flags["per_device_train_batch_size"] //= 2
    if any(name.startswith(("eval_", "save_", "metric_for", "load_best")) for name in given):
        # The best checkpoint can only be found if all are kept and evaluated.
        del flags["load_best_model_at_end"], flags["metric_for_best_model"]
    if "num_train_epochs" in given or "max_steps" in given:
        del flags["minutes"]
    return flags


def measure(model: PreTrainedModel, batch: Batch, device: torch.device, threads: int | None) -> Pace:
    """Times forward and backward passes, on the CPU with one thread and with all.

    Args:
        model: The model, which stays as it is.
        batch: A batch as in training.
        device: The device to train on.
        threads: The number of threads, if it is given.
    """
    batch = {name: value.to(device) for name, value in batch.items()}
    model = copy.deepcopy(model).to(device).train()  # type: ignore[arg-type]
    before = torch.get_num_threads()
    candidates = [threads or before]
    if threads is None and device.type == "cpu" and before > 1:
        candidates = [1, before]
    paces = []
    with torch.random.fork_rng():
        for number in candidates:
            torch.set_num_threads(number)
            paces.append(Pace(_seconds(lambda: model(**batch).loss.backward(), device), number))
    torch.set_num_threads(before)
    fewest, most = paces[0], paces[-1]
    return most if most.seconds < WORTHWHILE * fewest.seconds else fewest


def _seconds(step: Callable[[], Any], device: torch.device) -> float:
    step()
    times = []
    for _ in range(MEASURED_STEPS):
        start = time.perf_counter()
        step()
        if device.type != "cpu":
            torch.accelerator.synchronize()
        times.append(time.perf_counter() - start)
    return min(times)


def num_steps(
    minutes: float, pace: Pace, reading_seconds: float, num_train: int, num_eval: int, arguments: TrainingArguments
) -> int:
    """The number of steps for a time.

    Args:
        minutes: Time for reading, training and evaluation.
        pace: What [`measure`] returned.
        reading_seconds: Time to read and process one example, which is done once.
        num_train: Number of training examples.
        num_eval: Number of examples to evaluate on.
        arguments: The Trainer's arguments.
    """
    batch_size = arguments.train_batch_size * arguments.gradient_accumulation_steps
    # A forward pass is a third of a step.
    evaluation = (NUM_EVALUATIONS + 1) * num_eval * pace.seconds / arguments.train_batch_size / 3
    left = 60 * minutes * (1 - RESERVE) - reading_seconds * (num_train + num_eval) - evaluation
    epoch = max(1, num_train // (batch_size * arguments.world_size))
    return int(
        max(FEWEST_STEPS, min(left / (pace.seconds * arguments.gradient_accumulation_steps), MOST_EPOCHS * epoch))
    )
