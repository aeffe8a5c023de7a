"""Settings of a training, chosen from the data, the model and the machine."""

import copy
import math
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

import psutil  # type: ignore[import-untyped]
import torch
from transformers import PreTrainedModel, TrainingArguments

from .modality import Batch

MINUTES = 10.0
# More than this often, no example teaches a model anything new: one from scratch, and one that starts from weights.
MOST_EPOCHS, MOST_EPOCHS_FROM_WEIGHTS = 200, 50
FEWEST_STEPS = 50
# Evaluations of a run, and entries of its log between two of them.
NUM_EVALUATIONS, ENTRIES = 10, 5
# The part of the time that evaluations may take.
EVALUATION_SHARE = 0.25
# Evaluations in a row that are no better than the best before them, which end a training.
PATIENCE = 5
# Part of the time for everything that is not measured: imports, optimiser, checkpoints.
RESERVE = 0.15
# Threads that make a step less than this much faster are left to others.
WORTHWHILE = 0.9
MEASURED_STEPS = 3
# Where a step of a few examples takes longer than this, in seconds, one is enough to know it, and all threads pay.
FEW, SLOW_STEP = 2, 2.0
# The batch leaves time for this many steps, unless it would be smaller than this.
ENOUGH_STEPS, SMALLEST_BATCH = 100, 8
# The part of the free memory that a batch may take, and that processed inputs may.
BATCH_SHARE, CACHE_SHARE = 0.5, 0.25
# Wider models take smaller steps of Adam (Yang et al., arXiv 2203.03466): its rate falls with the width, and so with
# the square root of the number of parameters. The modalities choose theirs for models from scratch of about this size.
SCRATCH_PARAMETERS = 150_000
# What is common for a ViT-B that is fine-tuned, of about this size.
FINE_TUNING_RATE, FINE_TUNING_PARAMETERS = 5e-5, 100_000_000
# Of a new head, or adapters, on a body that stays as it is.
HEAD_RATE = 1e-3

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
    "early_stopping_patience": PATIENCE,
    "report_to": "none",
    "minutes": MINUTES,
}


@dataclass
class Pace:
    """How fast a machine trains a model.

    Attributes:
        seconds: Of one step.
        evaluation: Seconds of a batch in evaluation.
        threads: Threads that an operation on the CPU should take.
    """

    seconds: float
    evaluation: float
    threads: int


@dataclass
class Cost:
    """What an example costs in training.

    Attributes:
        seconds: Of a forward and a backward pass.
        memory: Bytes that are kept for the backward pass.
    """

    seconds: float
    memory: float


def training_flags(
    chosen: Mapping[str, Any], metric: str, num_examples: int, given: Collection[str]
) -> dict[str, Any]:
    """All flags of a run: those that suit its data, and those of every training.

    Args:
        chosen: Flags that suit the data, which win over those of every training.
        metric: The metric that the best checkpoint is chosen by.
        num_examples: Number of training examples.
        given: Names of the flags that were given, which win over all.
    """
    flags = {**TRAINING, "metric_for_best_model": metric, **chosen}
    # A batch larger than half of the data would leave one step per epoch.
    while flags["per_device_train_batch_size"] > max(SMALLEST_BATCH, num_examples // 2):
        flags["per_device_train_batch_size"] //= 2
    if any(name.startswith(("eval_", "save_", "metric_for", "load_best")) for name in given):
        # The best checkpoint can only be found if all are saved and evaluated, and the others are kept as asked.
        for name in ("load_best_model_at_end", "metric_for_best_model", "early_stopping_patience", "save_total_limit"):
            del flags[name]
    if "num_train_epochs" in given or "max_steps" in given:
        del flags["minutes"]
    return flags


def learning_rate(from_scratch: float, num_parameters: int, has_weights: bool, is_partial: bool) -> float:
    """A learning rate for a model, in two digits.

    Args:
        from_scratch: What suits small models from scratch.
        num_parameters: Number of the model's parameters.
        has_weights: Whether the model is trained already.
        is_partial: Whether only its head, or adapters, are trained.
    """
    if is_partial:
        rate = HEAD_RATE
    elif has_weights:
        rate = min(from_scratch, FINE_TUNING_RATE * math.sqrt(FINE_TUNING_PARAMETERS / num_parameters))
    else:
        rate = from_scratch * min(1.0, math.sqrt(SCRATCH_PARAMETERS / num_parameters))
    return float(f"{rate:.2g}")


def cost_of(model: PreTrainedModel, batch: Batch, device: torch.device) -> Cost:
    """Measures what an example costs, by training steps on a few.

    Args:
        model: The model, which stays as it is.
        batch: The inputs of at least two examples, as statistics of a batch need.
        device: The device to train on.
    """
    model = copy.deepcopy(model).to(device).train()  # type: ignore[arg-type]
    weights = {parameter.data_ptr() for parameter in model.parameters()}
    kept: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    batch = {name: value.to(device) for name, value in batch.items()}
    number = len(next(iter(batch.values())))

    def step() -> None:
        model(**batch).logits.float().sum().backward()

    before = torch.get_num_threads()
    fewest = 1 if device.type == "cpu" else before
    with torch.random.fork_rng():
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            is_slow = _seconds(step, device, fewest) > SLOW_STEP
        if is_slow:
            seconds = _seconds(step, device, before)
        else:
            seconds = min(_seconds(step, device, fewest) for _ in range(MEASURED_STEPS))
    torch.set_num_threads(before)
    return Cost(seconds / number, sum(kept.values()) / number)


def batch_size(largest: int, cost: Cost, minutes: float, memory: float) -> int:
    """The largest batch that memory and time allow.

    Args:
        largest: The size to begin with.
        cost: What [`cost_of`] returned.
        minutes: Time for the training.
        memory: Bytes that are free.
    """
    size = largest
    while size > SMALLEST_BATCH and ENOUGH_STEPS * size * cost.seconds > 60 * minutes * (1 - RESERVE):
        size //= 2
    while size > 1 and size * cost.memory > BATCH_SHARE * memory:
        size //= 2
    return size


def free_memory(device: torch.device) -> int:
    """Bytes of memory that are free on a device."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return psutil.virtual_memory().available


def can_cache(example_bytes: int, number: int) -> bool:
    """Whether this many processed inputs fit in the free memory, and leave most of it to others."""
    return example_bytes * number <= CACHE_SHARE * free_memory(torch.device("cpu"))


def measure(model: PreTrainedModel, batch: Batch, device: torch.device, threads: int | None) -> Pace:
    """Times steps and an evaluation of a batch, on the CPU with one thread and with all.

    Args:
        model: The model, which stays as it is.
        batch: A batch as in training.
        device: The device to train on.
        threads: The number of threads, if it is given.
    """
    batch = {name: value.to(device) for name, value in batch.items()}
    model = copy.deepcopy(model).to(device).train()  # type: ignore[arg-type]
    before = torch.get_num_threads()
    most = threads or before
    fewest = 1 if threads is None and device.type == "cpu" else most
    few, scale = {name: value[:FEW] for name, value in batch.items()}, 1.0

    def step() -> None:
        model(**batch).loss.backward()

    with torch.random.fork_rng():
        # Threads that wait for each other on a busy machine can take longest, so the fewest go first.
        is_slow = _seconds(lambda: model(**few).loss.backward(), device, fewest) > SLOW_STEP
        if is_slow:
            scale = max(1.0, len(next(iter(batch.values()))) / FEW)
            fewest, batch = most, few
        found = {
            number: min(_seconds(step, device, number) for _ in range(1 if is_slow else MEASURED_STEPS))
            for number in {fewest, most}
        }
        chosen = most if found[most] < WORTHWHILE * found[fewest] else fewest
        with torch.inference_mode():
            model.eval()
            evaluation = _seconds(lambda: model(**batch), device, chosen)
    torch.set_num_threads(before)
    return Pace(scale * found[chosen], scale * evaluation, chosen)


def _seconds(work: Callable[[], Any], device: torch.device, threads: int) -> float:
    torch.set_num_threads(threads)
    start = time.perf_counter()
    work()
    if device.type != "cpu":
        torch.accelerator.synchronize()
    return time.perf_counter() - start


@dataclass
class Plan:
    """How a training spends its time.

    Attributes:
        steps: Number of steps.
        evaluations: Number of evaluations on the way.
        seconds: What it takes in all.
    """

    steps: int
    evaluations: int
    seconds: float


def plan(
    minutes: float,
    pace: Pace,
    reading_seconds: float,
    num_train: int,
    num_eval: int,
    arguments: TrainingArguments,
    most_epochs: int = MOST_EPOCHS,
) -> Plan:
    """Chooses the number of steps and of evaluations for a time.

    Args:
        minutes: Time for reading, training and evaluation.
        pace: What [`measure`] returned.
        reading_seconds: Time to read and process one example, which is done once.
        num_train: Number of training examples.
        num_eval: Number of examples to evaluate on.
        arguments: The Trainer's arguments.
        most_epochs: How often an example may be seen.
    """
    step = pace.seconds * arguments.gradient_accumulation_steps
    evaluation = num_eval * pace.evaluation / arguments.train_batch_size
    left = 60 * minutes * (1 - RESERVE) - reading_seconds * num_eval
    # One more is at the end.
    evaluations = int(max(1, min(EVALUATION_SHARE * left / evaluation - 1, NUM_EVALUATIONS)))
    batch_size = arguments.train_batch_size * arguments.gradient_accumulation_steps
    epoch = max(1, num_train // (batch_size * arguments.world_size))
    left -= (evaluations + 1) * evaluation
    # Steps within the first epoch, which read their examples, or beyond it, when all have been read.
    affordable = max(left / (step + batch_size * reading_seconds), (left - num_train * reading_seconds) / step)
    steps = int(max(FEWEST_STEPS, min(affordable, most_epochs * epoch)))
    reading = reading_seconds * (min(num_train, steps * batch_size) + num_eval)
    return Plan(steps, evaluations, reading + steps * step + (evaluations + 1) * evaluation)
