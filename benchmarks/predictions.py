"""Draws the README's picture: held-out inputs of three built-in data sets, with predicted labels and scores.

    python -m benchmarks.predictions

The models are those of `perceivers train digits`, `sounds-mel` and `shapes`. A model that is not in `--models` yet is
trained there first. Nothing is chosen by hand: of each data set the picture shows the first held-out input of six
classes, spread evenly over the list of labels. A wrong prediction is red, with the true label below it.
"""

import argparse
import subprocess
import sys
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import torch
from datasets import Dataset
from transformers import pipeline

from benchmarks.measuring import RESULTS
from perceivers import AudioPerceiverFeatureExtractor
from perceivers.training.datasets import stratified_split
from perceivers.training.images import digits
from perceivers.training.shapes import shapes
from perceivers.training.sounds import NUM_SAMPLES, SAMPLING_RATE, sounds

matplotlib.use("Agg")
from matplotlib import pyplot
from matplotlib.figure import Figure

PICTURE = RESULTS / "predictions.png"
HELD_OUT = 0.2  # `--validation_fraction`, by default
# The task of each recipe.
RECIPES = {
    "digits": "image-classification",
    "sounds-mel": "audio-classification",
    "shapes": "point-cloud-classification",
}
COLUMNS = 6


def samples(file: dict[str, Any]) -> dict[str, Any]:
    """A 16-bit WAV file of the built-in sounds -> what the audio pipeline takes."""
    array = np.frombuffer(file["bytes"][44:], "<i2").astype(np.float32) / 32768  # after the header
    return {"array": array, "sampling_rate": SAMPLING_RATE}


def held_out(recipe: str) -> tuple[list, list[str]]:
    """The first held-out input of six classes, and their labels."""
    if recipe == "digits":
        dataset: Dataset = stratified_split(digits(), HELD_OUT, seed=0)[1]
        column, read = "image", lambda image: image
    elif recipe == "sounds-mel":
        dataset, column, read = sounds(1200, seed=0), "audio", samples
    else:
        dataset, column, read = shapes(clouds_per_class=60, seed=1), "points", np.float32
    names, labels = dataset.features["label"].names, dataset["label"][:]
    classes = np.linspace(0, len(names) - 1, COLUMNS).round().astype(int).tolist()
    shown = [labels.index(label) for label in classes]
    return [read(dataset[index][column]) for index in shown], [names[labels[index]] for index in shown]


def trained(recipe: str, models: Path) -> Path:
    """The folder of the model, which is trained if it is not there."""
    folder = models / recipe
    if not (folder / "model.safetensors").exists():
        command = [sys.executable, "-m", "perceivers", "train", recipe, "--output_dir", str(folder)]
        subprocess.run(command, check=True)
    return folder


def draw_input(figure: Figure, place: Any, recipe: str, value: Any) -> Any:
    """Draws an image, a spectrogram or a cloud, and returns its axes."""
    if recipe == "shapes":
        axes: Any = figure.add_subplot(place, projection="3d")
        axes.scatter(*value.T, c=value[:, 2], s=2, cmap="plasma", linewidths=0)
        axes.set_box_aspect(np.ptp(value, axis=0), zoom=1.3)
        axes.view_init(elev=22, azim=-60)
    else:
        axes = figure.add_subplot(place)
        if recipe == "sounds-mel":
            extractor = AudioPerceiverFeatureExtractor(
                "mel", SAMPLING_RATE, NUM_SAMPLES, n_fft=512, hop_length=128, num_mel_bins=16
            )
            value = extractor(value["array"], sampling_rate=SAMPLING_RATE)["input_features"][0].T[::-1]
        axes.imshow(value, cmap="gray" if recipe == "digits" else "viridis", aspect="auto")
        axes.set_box_aspect(1)
    axes.set_axis_off()
    return axes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=Path, default=Path("build/models"), help="folder of the three models")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    figure = pyplot.figure(figsize=(9, 5.1))
    grid = figure.add_gridspec(
        len(RECIPES), COLUMNS, left=0.14, right=0.99, top=0.95, bottom=0.01, wspace=0.12, hspace=0.26
    )
    for row, (recipe, task) in enumerate(RECIPES.items()):
        classify = pipeline(task, model=str(trained(recipe, arguments.models)))
        figure.text(0.005, 0.8 - 0.325 * row, f"perceivers train\n{recipe}", family="monospace", fontsize=8.5)
        for column, (value, label) in enumerate(zip(*held_out(recipe), strict=False)):
            best = classify(value, top_k=1)
            best = best[0] if isinstance(best, list) else best
            axes = draw_input(figure, grid[row, column], recipe, value)
            is_right = best["label"] == label
            title = f"{best['label']}  {100 * best['score']:.1f} %" + ("" if is_right else f"\n(is {label})")
            axes.set_title(title, fontsize=9, color="black" if is_right else "firebrick", pad=4)
    figure.savefig(PICTURE, dpi=110, pil_kwargs={"optimize": True})
    print(f"Wrote {PICTURE}")


if __name__ == "__main__":
    main()
