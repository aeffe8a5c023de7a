"""Accuracy on scikit-learn's digits: the built-in recipe against an RBF SVM and a small CNN, over five seeds.

    python -m benchmarks.digits

A seed decides both the split and the initial weights. A seed that `results/digits.json` already has is not run again,
unless it is the Perceiver's and the recipe has changed since.
"""

import argparse
import itertools
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import sklearn
import torch
from sklearn.svm import SVC
from torch import nn
from torch.nn import functional as F

from benchmarks.measuring import RESULTS as RESULTS_FOLDER
from benchmarks.measuring import machine
from perceivers.cli.flags import find_recipe
from perceivers.training.datasets import stratified_split
from perceivers.training.images import digits
from perceivers.training.recipe import read_recipe

RESULTS = RESULTS_FOLDER / "digits.json"
SEEDS = range(5)
HELD_OUT = 0.2


def arrays(seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """The recipe's split: images (n, 8, 8) in 0..1 and labels to train on, then images and labels to test on."""
    pairs = [
        (np.stack([np.array(image) for image in split["image"]]) / 255.0, np.array(split["label"]))
        for split in stratified_split(digits(), HELD_OUT, seed)
    ]
    return (*pairs[0], *pairs[1])


def perceiver(seed: int) -> dict[str, float]:
    """Accuracy of `perceivers train digits`, run in a separate process, and the seconds its training took."""
    with tempfile.TemporaryDirectory() as folder:
        words = ["train", "digits", "--seed", seed, "--split_seed", seed, "--output_dir", folder]
        subprocess.run([sys.executable, "-m", "perceivers", *map(str, words)], check=True)
        results = json.loads((Path(folder) / "all_results.json").read_text())
    return {"accuracy": results["eval_accuracy"], "training_seconds": round(results["train_runtime"], 1)}


def svm(seed: int) -> dict[str, float]:
    """A support vector machine with an RBF kernel on the pixels. C and gamma are the best on these splits."""
    images, labels, test_images, test_labels = arrays(seed)
    model = SVC(C=10, gamma=0.2).fit(images.reshape(-1, 64), labels)
    return {"accuracy": float(model.score(test_images.reshape(-1, 64), test_labels))}


def cnn(seed: int, epochs: int = 60) -> dict[str, float]:
    """A convolutional network of 90 thousand parameters, trained on images shifted by up to one pixel."""
    torch.manual_seed(seed)
    images, labels, test_images, test_labels = (torch.tensor(array) for array in arrays(seed))
    images, test_images = (array.float().unsqueeze(1) for array in (images, test_images))
    widths = [1, 32, 64, 64]
    stages = [
        nn.Sequential(nn.Conv2d(narrow, wide, 3, padding=1), nn.BatchNorm2d(wide), nn.ReLU())
        for narrow, wide in itertools.pairwise(widths)
    ]
    head = [nn.Flatten(), nn.Linear(256, 128), nn.ReLU(), nn.Dropout(0.3), nn.Linear(128, 10)]
    model = nn.Sequential(stages[0], stages[1], nn.MaxPool2d(2), stages[2], nn.MaxPool2d(2), *head)
    batches = -(-len(images) // 64)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=2e-3, total_steps=epochs * batches)
    for _ in range(epochs):
        for batch in torch.randperm(len(images)).split(64):
            row, column = (int(shift) for shift in torch.randint(0, 3, (2,)))
            shifted = F.pad(images[batch], (1, 1, 1, 1))[:, :, row : row + 8, column : column + 8]
            optimizer.zero_grad()
            F.cross_entropy(model(shifted), labels[batch]).backward()
            optimizer.step()
            schedule.step()
    with torch.inference_mode():
        predictions = model.eval()(test_images).argmax(-1)
    return {"accuracy": (predictions == test_labels).float().mean().item()}


CONTENDERS: dict[str, Callable[[int], dict[str, float]]] = {"svm": svm, "cnn": cnn, "perceiver": perceiver}


def measure(name: str, seed: int) -> dict[str, float]:
    """What a contender returns, with the seconds it took."""
    start = time.perf_counter()
    measured = CONTENDERS[name](seed)
    return {**measured, "seconds": round(time.perf_counter() - start, 1)}


def summarize(runs: dict[str, dict[str, float]]) -> dict[str, float]:
    """Mean, standard deviation and minimum of the accuracies, in percent."""
    accuracies = [100 * run["accuracy"] for run in runs.values()]
    return {
        "mean": round(statistics.mean(accuracies), 3),
        "standard_deviation": round(statistics.stdev(accuracies), 3) if len(accuracies) > 1 else 0.0,
        "lowest": round(min(accuracies), 3),
    }


def main() -> None:
    """Runs the missing seeds and writes the results after each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=list(SEEDS))
    parser.add_argument("--only", choices=CONTENDERS, nargs="+", default=list(CONTENDERS))
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time; more than one makes each slower")
    arguments = parser.parse_args()
    recipe = read_recipe(find_recipe("digits"))
    results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {"runs": {}}
    if results.get("recipe") != recipe:
        results["runs"].pop("perceiver", None)
    results |= {"recipe": recipe, "machine": {**machine(), "scikit-learn": sklearn.__version__}}
    # Small networks run fastest on one thread, above all on a busy machine.
    with ProcessPoolExecutor(arguments.jobs, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        for name in arguments.only:
            runs = results["runs"].setdefault(name, {})
            missing = [seed for seed in arguments.seeds if str(seed) not in runs]
            print(f"{name}: {len(missing)} of {len(arguments.seeds)} seeds to run", flush=True)
            for seed, run in zip(missing, pool.map(measure, itertools.repeat(name), missing), strict=True):
                runs[str(seed)] = run
                results["summary"] = {key: summarize(value) for key, value in results["runs"].items() if value}
                RESULTS.parent.mkdir(exist_ok=True)
                RESULTS.write_text(json.dumps(results, indent=2) + "\n")
                print(f"{name} seed {seed}: {100 * run['accuracy']:.2f} % in {run['seconds']:.0f} s", flush=True)
    for name, summary in results["summary"].items():
        print(
            f"{name}: {summary['mean']:.2f} % ± {summary['standard_deviation']:.2f}, lowest {summary['lowest']:.2f} %"
        )


if __name__ == "__main__":
    main()
