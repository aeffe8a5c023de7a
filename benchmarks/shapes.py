"""Accuracy on the built-in shapes, as made and rotated about the vertical axis, and a picture of some.

    python -m benchmarks.shapes

A seed decides the initial weights and the order of training; the clouds are those of the recipe. A seed that
`results/shapes.json` already has is not run again, unless the recipe has changed since.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

import matplotlib
import numpy as np
import torch
from transformers import AutoFeatureExtractor, AutoModelForSequenceClassification, Pipeline, pipeline

from benchmarks.measuring import RESULTS, machine, save
from perceivers.cli.flags import find_recipe
from perceivers.training.point_clouds import SHAPES_SPLITS, PointAugmentation
from perceivers.training.recipe import read_recipe

matplotlib.use("Agg")
from matplotlib import pyplot

NAME = "shapes"
ANGLES_SEED = 2
SHOWN = ("torus", "cone", "tube", "octahedron", "capsule", "hemisphere")


def turned(clouds: np.ndarray) -> np.ndarray:
    """Clouds (B, P, 3), each rotated about the vertical axis by a random angle."""
    torch.manual_seed(ANGLES_SEED)
    turn = PointAugmentation(lambda points, mask: points, rotation=180.0)
    return turn(torch.from_numpy(clouds), torch.ones(clouds.shape[:2]))[0].numpy()


@torch.inference_mode()
def accuracy(folder: str, clouds: np.ndarray, labels: np.ndarray) -> float:
    """Accuracy of a saved model on clouds (B, P, 3) with labels (B,)."""
    model = AutoModelForSequenceClassification.from_pretrained(folder)
    extractor = AutoFeatureExtractor.from_pretrained(folder)
    batches = [extractor(clouds[start : start + 60], return_tensors="pt") for start in range(0, len(clouds), 60)]
    predictions = torch.cat([model(**batch).logits.argmax(-1) for batch in batches])
    return float((predictions.numpy() == labels).mean())


def draw(classify: Pipeline, clouds: np.ndarray, path: Path) -> None:
    """Draws clouds side by side, each with its predicted label."""
    figure, axes = pyplot.subplots(1, len(clouds), figsize=(2.4 * len(clouds), 2.9), subplot_kw={"projection": "3d"})
    for axis, cloud in zip(axes, clouds, strict=True):
        best = classify(cloud, top_k=1)[0]
        axis.scatter(*cloud.T, c=cloud[:, 2], s=3.5, cmap="plasma", linewidths=0)
        axis.set_box_aspect(np.ptp(cloud, axis=0), zoom=1.25)
        axis.view_init(elev=22, azim=-60)
        axis.set_axis_off()
        axis.set_title(f"{best['label']}\n{100 * best['score']:.1f} %", fontsize=11)
    figure.savefig(path, dpi=110, bbox_inches="tight")


def main() -> None:
    """Runs the missing seeds, and writes the results after each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    recipe = read_recipe(find_recipe("shapes"))
    path = RESULTS / f"{NAME}.json"
    results = json.loads(path.read_text()) if path.exists() else {}
    if results.get("recipe") != recipe:
        results = {"runs": {}}
    held_out = SHAPES_SPLITS["validation"]()
    clouds, labels = np.array(held_out["points"], dtype=np.float32), np.array(held_out["label"])
    names = held_out.features["label"].names
    for seed in arguments.seeds:
        if str(seed) in results["runs"]:
            continue
        with tempfile.TemporaryDirectory() as folder:
            before = resource.getrusage(resource.RUSAGE_CHILDREN)
            words = ["train", "shapes", "--seed", seed, "--output_dir", folder, "--disable_tqdm", "true"]
            subprocess.run([sys.executable, "-m", "perceivers", *map(str, words)], check=True)
            after = resource.getrusage(resource.RUSAGE_CHILDREN)
            trained = json.loads((Path(folder) / "all_results.json").read_text())
            run = {
                "accuracy": accuracy(folder, clouds, labels),
                "accuracy_turned": accuracy(folder, turned(clouds), labels),
                "training_seconds": round(trained["train_runtime"], 1),
                "cpu_seconds": round(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, 1),
            }
            if seed == arguments.seeds[0]:
                classify = pipeline("point-cloud-classification", model=folder)
                shown = [names.index(name) for name in SHOWN]
                draw(classify, np.stack([clouds[labels == label][1] for label in shown]), RESULTS / f"{NAME}.png")
        results["runs"][str(seed)] = run
        results |= {"recipe": recipe, "machine": machine(), "held_out": len(labels)}
        save(NAME, results)
        print(f"seed {seed}: {run}", flush=True)


if __name__ == "__main__":
    main()
