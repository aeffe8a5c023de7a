"""Small folders and models for the tests of the command, and calls of it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
from PIL import Image
from safetensors.torch import load_file, save_file

from perceivers import ImagePerceiverImageProcessorPil
from perceivers.cli.main import main
from tests.models import tiny_image_model

ROOT = Path(__file__).parent.parent


def save_images(folder, number=6, size=(12, 10)):
    folder.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(0)
    for index in range(number):
        Image.fromarray(random.integers(0, 256, (*size, 3), dtype=np.uint8)).save(folder / f"{index}.png")
    return folder


def save_model(folder, names=("dark", "light")):
    labels = dict(enumerate(names))
    label2id = {name: index for index, name in labels.items()}
    tiny_image_model(num_labels=len(names), id2label=labels, label2id=label2id).save_pretrained(folder)
    ImagePerceiverImageProcessorPil(size=16, crop_size=18).save_pretrained(folder)
    return folder


def edit_config(folder, **changes):
    values = json.loads((folder / "config.json").read_text()) | changes
    (folder / "config.json").write_text(json.dumps(values))


def edit_weights(folder, change):
    path = folder / "model.safetensors"
    save_file(change(load_file(path)), path, metadata={"format": "pt"})


def run(*words):
    return main([str(word) for word in words])


def train(folder, *words):
    """Trains on 12 images of two classes, 3 steps per epoch."""
    for name in ("dark", "light"):
        if not (folder / "images" / name).exists() and "--train_dir" not in words:
            save_images(folder / "images" / name)
    defaults = ["--output_dir", folder / "out", "--train_dir", folder / "images", "--variant", "tiny", "--use_cpu"]
    defaults += ["--per_device_train_batch_size", 4, "--num_train_epochs", 1, "--disable_tqdm", "true"]
    return run("train", *defaults, "--report_to", "none", *words)


def the_line(capsys):
    """The only line on stderr that is ours."""
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("perceivers: error:")]
    return line


def run_apart(*words, script="import sys, perceivers_cli; sys.exit(perceivers_cli.main(sys.argv[1:]))", **options):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **options.pop("env", {})}
    command = [sys.executable, "-c", script, *map(str, words)]
    return subprocess.run(command, env=environment, stderr=subprocess.PIPE, text=True, **options)
