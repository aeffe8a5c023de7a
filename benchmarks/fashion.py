"""Fashion-MNIST in equal minutes of one core: the Perceiver against a small CNN and a small ViT.

    python -m benchmarks.fashion --minutes 5 --seeds 0 1 2

Minutes are turned into numbers of steps: a training step of every model is timed once, in turn and on one thread, and
each is trained for the steps that fit, however busy the machine is later. All have the same augmentation (shifts of up
to two pixels, and mirror images), optimiser and schedule, and the best learning rate of the same few trials, measured
on pictures held out of the training set. In the order `permuted`, the pixels of every picture are permuted in the same
way, after it is augmented.

All is kept in `results/fashion.json`, and what it has is not done again. Without `--minutes` only the trials are run.
The data are those of Debian's package `dataset-fashion-mnist`, or the same four files in another folder.
"""

import argparse
import gzip
import itertools
import json
import math
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import timm
import torch
from torch import nn
from torch.nn import functional as F

from benchmarks.fashion_models import IGNORE_ORDER, MODELS, SIZE
from benchmarks.measuring import RESULTS as RESULTS_FOLDER
from benchmarks.measuring import machine, summary

RESULTS = RESULTS_FOLDER / "fashion.json"
DATA = "/usr/share/datasets/fashion-mnist"
MEAN, STD = 0.286, 0.353
HELD_OUT = 5_000  # of the 60,000 training pictures, for the trials
SETTINGS = {"batch": 64, "weight_decay": 0.05, "beta2": 0.99, "warmup": 0.1, "clip": 1.0, "shift": 2}
TRIALS = {"learning_rates": [7e-4, 2e-3, 6e-3, 2e-2], "minutes": 0.3}
ORDERS = ("natural", "permuted")
Build = Callable[..., nn.Module]


class Pictures(NamedTuple):
    """Pictures (n, 28, 28) uint8 and their classes (n)."""

    pixels: torch.Tensor
    labels: torch.Tensor

    def __getitem__(self, index):  # type: ignore[override]
        return Pictures(self.pixels[index], self.labels[index])


def read(folder: Path, name: str) -> Pictures:
    """The pictures `train` or `t10k`: IDX files have a header of 16 bytes for images and 8 for labels."""
    pixels, labels = (
        np.frombuffer(bytearray(gzip.decompress((folder / f"{name}-{kind}-ubyte.gz").read_bytes())[header:]), np.uint8)
        for kind, header in (("images-idx3", 16), ("labels-idx1", 8))
    )
    return Pictures(torch.from_numpy(pixels).view(-1, SIZE, SIZE), torch.from_numpy(labels).long())


def augmented(pixels: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Pictures (B, 28, 28), shifted by up to two pixels, every second one mirrored."""
    shift = SETTINGS["shift"]
    count, size = len(pixels), torch.arange(SIZE)
    rows, columns = torch.randint(0, 2 * shift + 1, (2, count, 1), generator=generator) + size
    mirror = torch.rand(count, 1, generator=generator) < 0.5
    columns = torch.where(mirror, columns.flip(1), columns)
    return F.pad(pixels, (shift,) * 4)[torch.arange(count)[:, None, None], rows[:, :, None], columns[:, None, :]]


def tensors(pixels: torch.Tensor, permutation: torch.Tensor | None) -> torch.Tensor:
    """What the models read, (B, 1, 28, 28)."""
    values = (pixels.float() / 255 - MEAN) / STD
    if permutation is not None:
        values = values.flatten(1)[:, permutation].view_as(pixels)
    return values.unsqueeze(1)


def permutation_of(order: str) -> torch.Tensor | None:
    """The pixel at each place of the array; `None` in the natural order."""
    return torch.randperm(SIZE**2, generator=torch.Generator().manual_seed(0)) if order == "permuted" else None


def optimizer_of(model: nn.Module, learning_rate: float) -> torch.optim.Optimizer:
    """AdamW, without weight decay on biases and norms."""
    parameters = list(model.parameters())
    groups = [
        {"params": [p for p in parameters if p.dim() > 1], "weight_decay": SETTINGS["weight_decay"]},
        {"params": [p for p in parameters if p.dim() <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=learning_rate, betas=(0.9, SETTINGS["beta2"]), fused=True)


def step(model: nn.Module, optimizer: torch.optim.Optimizer, pixels: torch.Tensor, labels: torch.Tensor) -> None:
    F.cross_entropy(model(pixels), labels).backward()
    nn.utils.clip_grad_norm_(model.parameters(), SETTINGS["clip"])
    optimizer.step()
    optimizer.zero_grad()


def batches(pictures: Pictures, generator: torch.Generator) -> Iterator[Pictures]:
    """Batches without end, in a new order each time through the pictures."""
    while True:
        order = torch.randperm(len(pictures.labels), generator=generator)
        for index in order[: len(order) // SETTINGS["batch"] * SETTINGS["batch"]].split(SETTINGS["batch"]):
            yield pictures[index]


def accuracy(model: nn.Module, pictures: Pictures, permutation: torch.Tensor | None) -> float:
    model.eval()
    with torch.inference_mode():
        hits = [
            (model(tensors(pixels, permutation)).argmax(-1) == labels).sum()
            for pixels, labels in zip(pictures.pixels.split(250), pictures.labels.split(250), strict=True)
        ]
    return sum(hits).item() / len(pictures.labels)


def train(
    build: Callable[..., nn.Module],
    learning_rate: float,
    steps: int,
    seed: int,
    order: str,
    training: Pictures,
    testing: Pictures,
) -> float:
    """Trains a new model with warm-up and a cosine, and returns its accuracy on `testing`."""
    torch.manual_seed(seed)
    generator, permutation = torch.Generator().manual_seed(seed), permutation_of(order)
    model = build(permutation=permutation).train()
    optimizer = optimizer_of(model, learning_rate)
    warmup = max(1, round(SETTINGS["warmup"] * steps))
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer,
        lambda i: min((i + 1) / warmup, (1 + math.cos(math.pi * max(0, i - warmup) / max(1, steps - warmup))) / 2),
    )
    for _, (pixels, labels) in zip(range(steps), batches(training, generator), strict=False):
        step(model, optimizer, tensors(augmented(pixels, generator), permutation), labels)
        schedule.step()
    return accuracy(model, testing, permutation)


def core_seconds(training: Pictures, models: dict[str, Build], rounds: int = 15) -> dict[str, dict[str, float]]:
    """Seconds that a core is busy with a training step of each model, in turn; the first round is not counted."""
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(0)
    built = {name: build().train() for name, build in models.items()}
    optimizers = {name: optimizer_of(model, 1e-4) for name, model in built.items()}
    times: dict[str, list[float]] = {name: [] for name in models}
    for _, (pixels, labels) in zip(range(rounds + 1), batches(training, generator), strict=False):
        for name, model in built.items():
            start = time.thread_time()
            step(model, optimizers[name], tensors(augmented(pixels, generator), None), labels)
            times[name].append(time.thread_time() - start)
    return {name: summary(values[1:]) for name, values in times.items()}


class Results:
    """`results/fashion.json`, written after every entry."""

    def __init__(self) -> None:
        empty = {"settings": SETTINGS, "step_seconds": {}, "trials": [], "cells": []}
        self.data: dict[str, Any] = json.loads(RESULTS.read_text()) if RESULTS.exists() else empty
        if self.data["settings"] != SETTINGS:
            raise SystemExit(f"{RESULTS} was measured with other settings; move it away to measure again.")

    def save(self) -> None:
        self.data["ignore_order"] = list(IGNORE_ORDER)
        self.data["machine"] = {**machine(), "timm": timm.__version__}
        RESULTS.write_text(json.dumps(self.data, indent=1) + "\n")

    def steps(self, name: str, minutes: float) -> int:
        """The training steps that fit; the lower quartile is the time of a step that nothing disturbed."""
        return int(60 * minutes / self.data["step_seconds"][name]["low"])

    def add(self, kind: str, key: dict[str, Any], details: dict[str, Any], measure: Callable[[], float]) -> None:
        """Measures an accuracy and keeps it, unless there is an entry with this key."""
        if any(key.items() <= entry.items() for entry in self.data[kind]):
            return
        start = time.thread_time()
        entry = {**key, **details, "accuracy": measure(), "core_seconds": round(time.thread_time() - start)}
        self.data[kind].append(entry)
        self.save()
        print(" ".join(f"{key}={value}" for key, value in entry.items()), flush=True)

    def learning_rate(self, name: str) -> float:
        """The best of a model's trials."""
        trials = [trial for trial in self.data["trials"] if trial["model"] == name]
        return max(trials, key=lambda trial: trial["accuracy"])["learning_rate"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, nargs="*", default=[], help="of one core, for each training")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--models", choices=MODELS, nargs="+", default=list(MODELS))
    parser.add_argument("--orders", choices=ORDERS, nargs="+", default=list(ORDERS))
    parser.add_argument("--data", type=Path, default=Path(DATA), help="the folder with the four IDX files")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    results, training = Results(), read(arguments.data, "train")
    # All models are timed again if one is new, so that all are timed together.
    if not results.data["step_seconds"].keys() >= MODELS.keys():
        results.data["step_seconds"] = core_seconds(training, MODELS)
    results.save()
    shown, held_out = training[:-HELD_OUT], training[-HELD_OUT:]
    for name, rate in itertools.product(arguments.models, TRIALS["learning_rates"]):
        steps = results.steps(name, TRIALS["minutes"])
        key = {"model": name, "learning_rate": rate, "minutes": TRIALS["minutes"]}
        call = partial(train, MODELS[name], rate, steps, 0, "natural", shown, held_out)
        results.add("trials", key, {"steps": steps}, call)
    testing = read(arguments.data, "t10k")
    cells = itertools.product(arguments.seeds, arguments.minutes, arguments.orders, arguments.models)
    for seed, minutes, order, name in cells:
        rate, steps = results.learning_rate(name), results.steps(name, minutes)
        key = {"model": name, "order": order, "minutes": minutes, "seed": seed, "learning_rate": rate}
        call = partial(train, MODELS[name], rate, steps, seed, order, training, testing)
        results.add("cells", key, {"steps": steps}, call)


if __name__ == "__main__":
    main()
