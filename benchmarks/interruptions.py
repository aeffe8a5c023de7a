"""Trainings that are killed, ended by the system, or find a full disk; each goes on, and must end as an unbroken one.

`python -m benchmarks.interruptions` writes `benchmarks/results/interruptions.json`. Full disks are small file systems
in memory, which only root can mount; without that right they are left out.
"""

import argparse
import hashlib
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.measuring import machine, save
from perceivers.training.checkpoints import CHECKPOINT, UNFINISHED, checkpoint_damage, last_whole_checkpoint

STEPS = 40
# Everything random: the augmentation of an image and of a batch, and the choice of images.
FLAGS = (
    *("--variant", "tiny", "--use_cpu", "true", "--report_to", "none", "--disable_tqdm", "true"),
    *("--max_steps", str(STEPS), "--save_strategy", "steps", "--save_steps", "1", "--learning_rate", "1e-3"),
    *("--random_resized_crop", "0.3", "--horizontal_flip", "0.5", "--mixup", "0.2", "--class_balanced_sampling"),
)
COMMAND = (sys.executable, "-m", "perceivers", "train")
# Of the file systems that become full, in checkpoints.
FULL_AFTER = (1.5, 6.2, 11.7)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--terminations", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    draw = random.Random(arguments.seed)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        images = make_images(folder / "images")
        unbroken = folder / "unbroken"
        process = begin(images, unbroken)
        wait_for_checkpoint(process, unbroken, 1)
        start = time.perf_counter()
        wait_for_checkpoint(process, unbroken, STEPS)
        step = (time.perf_counter() - start) / STEPS
        assert process.wait() == 0, process.stderr
        expected = digest(unbroken)
        trials = []
        for kind, number in ((signal.SIGKILL, arguments.kills), (signal.SIGTERM, arguments.terminations)):
            for index in range(number):
                out = folder / f"{kind.name}-{index}"
                trials.append(interrupt(kind, images, out, draw.uniform(1, STEPS - 1), step, expected))
                print(trials[-1], flush=True)
                shutil.rmtree(out)
        size = sum(path.stat().st_size for path in (unbroken / f"checkpoint-{STEPS}").iterdir())
        for checkpoints in FULL_AFTER:
            trials.append(fill(images, folder / f"full-{checkpoints}", int(checkpoints * size), expected))
            print(trials[-1], flush=True)
    results = {"machine": machine(), "seed": arguments.seed, "steps": STEPS, "trials": trials}
    save("interruptions", results)


def make_images(folder: Path) -> Path:
    """Makes 40 images of two classes, of which one has a third."""
    pixels = np.random.default_rng(0)
    for name, number in (("dark", 30), ("light", 10)):
        (folder / name).mkdir(parents=True)
        for index in range(number):
            Image.fromarray(pixels.integers(0, 256, (24, 20, 3), dtype=np.uint8)).save(folder / name / f"{index}.png")
    return folder


def begin(images: Path, out: Path) -> subprocess.Popen:
    words = [*COMMAND, "--train_dir", str(images), "--output_dir", str(out), *FLAGS]
    return subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


def resume(out: Path) -> subprocess.CompletedProcess:
    words = [*COMMAND, str(out / "recipe.yaml"), "--resume_from_checkpoint", "last"]
    return subprocess.run(words, capture_output=True, text=True, check=False)


def wait_for_checkpoint(process: subprocess.Popen, out: Path, step: int) -> None:
    while process.poll() is None and not (out / f"checkpoint-{step}").exists():
        time.sleep(0.001)


def steps_in(out: Path) -> list[int]:
    """The steps of the checkpoints in a folder, whole or not."""
    return [int(match[1]) for path in out.iterdir() if (match := CHECKPOINT.fullmatch(path.name))]


def digest(out: Path) -> str:
    return hashlib.sha256((out / "model.safetensors").read_bytes()).hexdigest()


def interrupt(
    kind: signal.Signals, images: Path, out: Path, moment: float, step: float, expected: str
) -> dict[str, Any]:
    """Starts a run, sends it a signal, and resumes it.

    Args:
        kind: The signal.
        images: The images to train on.
        out: Folder of the run.
        moment: When to send it, in steps.
        step: Duration of a step in seconds.
        expected: Digest of the final weights.
    """
    process = begin(images, out)
    wait_for_checkpoint(process, out, int(moment))
    time.sleep(moment % 1 * step)
    process.send_signal(kind)
    _, errors = process.communicate()
    return {
        "kind": kind.name,
        "exit_code": process.returncode,
        "was_writing": (out / UNFINISHED).exists(),
        **outcome(out, expected, errors),
    }


def outcome(out: Path, expected: str, errors: str) -> dict[str, Any]:
    """Looks at the checkpoints that a run left, resumes it, and compares the final weights."""
    whole, passed_over = last_whole_checkpoint(out)
    assert whole is not None, errors
    newest = max(steps_in(out))
    resumed = resume(out)
    return {
        "traceback": "Traceback" in errors,
        "newest_checkpoint": newest,
        "newest_whole_checkpoint": int(whole.name.split("-")[1]),
        "damaged_checkpoints": len(passed_over),
        "resumed": resumed.returncode == 0,
        "same_weights": resumed.returncode == 0 and digest(out) == expected,
        "left_behind": (out / UNFINISHED).exists(),
    }


def fill(images: Path, out: Path, size: int, expected: str) -> dict[str, Any]:
    """Runs on a file system of `size` bytes until it is full, makes it large, and resumes."""
    out.mkdir()
    if os.geteuid() or subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", out]).returncode:
        return {"kind": "full disk", "left_out": "no right to mount a file system"}
    try:
        process = begin(images, out)
        _, errors = process.communicate()
        damaged = [path.name for path in out.glob("checkpoint-*") if checkpoint_damage(path)]
        leftover = (out / UNFINISHED).exists()
        subprocess.run(["mount", "-o", "remount,size=1g", out], check=True)
        ours = [line for line in errors.splitlines() if line.startswith("perceivers: error:")]
        return {
            "kind": "full disk",
            "bytes": size,
            "exit_code": process.returncode,
            "error_lines": len(ours),
            "damaged": damaged,
            "half_folder": leftover,
            **outcome(out, expected, errors),
        }
    finally:
        subprocess.run(["umount", out], check=True)


if __name__ == "__main__":
    main()
