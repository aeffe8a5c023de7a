"""What a training step costs at small sizes, and what of it is the input path: `python -m benchmarks.small_step`.

The factored attention with the sizes that it had in version 0.1.0 and with ours, in turn: a step of a small model on
784 pixels at batch 64, and of one cross-attention of the paper's size. Then the input path of small models beside
their step, as the Trainer runs it: reading and processing in the first epoch, the same from memory in later ones, and
the augmentation of batches.

Times are those that one core is busy, which other programs on the machine hardly change.
"""

import argparse
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from tqdm import tqdm

from benchmarks.measuring import machine, save, summary
from perceivers import ImagePerceiverConfig, ImagePerceiverForImageClassification
from perceivers.cli.defaults import complete
from perceivers.cli.train import make_config_and_processor, make_model, make_trainer, parse
from perceivers.modeling import factored_attention
from perceivers.training.datasets import load_examples
from perceivers.training.shapes import shapes
from perceivers.training.sounds import sounds

SIDE, BATCH = 28, 64
SMALL: dict[str, Any] = {"image_size": SIDE, "num_channels": 1, "stem": "pixels", "qk_channels": 64, "v_channels": 64}
MODELS: dict[str, ImagePerceiverConfig] = {
    **{
        f"784 inputs, 32 latents, {heads} head{'s'[: heads - 1]}": ImagePerceiverConfig.from_variant(
            "small", **SMALL, num_cross_attention_heads=heads
        )
        for heads in (1, 4)
    },
    "50,176 inputs, 512 latents, 1 head": ImagePerceiverConfig(
        num_blocks=1, num_cross_attends=1, num_self_attends_per_block=1, num_labels=10
    ),
}
# The largest tile, and the number of sampled cells.
KERNELS = {
    "0.1.0": (2**21, 256),
    "ours": (factored_attention.CPU_TILE[0], factored_attention.NUM_SAMPLED_CELLS),
}
NUM_CLASSES, FILES_PER_CLASS = 10, 80
# 784 pixels as above; what a run without flags chooses is the rest.
PIXELS = ["--variant", "small", "--config", "stem=pixels", f"image_size={SIDE}", "num_channels=1"]
PIXELS += ["--processor", "do_resize=false", "do_center_crop=false", "--cache_inputs", "true"]
PIXELS += ["--per_device_train_batch_size", str(BATCH), "--optim", "adamw_torch_fused"]
PIXELS += ["--rotation", "10", "--translation", "0.06", "--scaling", "0.1", "--shear", "5"]


def core_seconds(call: Callable[[], Any]) -> tuple[float, Any]:
    """Time that a call keeps the core busy, and its result."""
    start = time.process_time()
    result = call()
    return time.process_time() - start, result


def make_step(model: Any, batch: dict[str, Any]) -> Callable[[], None]:
    """A forward and a backward pass, and AdamW."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)

    def step() -> None:
        model(**batch).loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def kernels(repeats: int) -> dict[str, dict[str, Any]]:
    """Times the steps with each size of the kernel, in turn."""
    results: dict[str, dict[str, Any]] = {}
    for name, config in MODELS.items():
        torch.manual_seed(0)
        number = BATCH if config.num_channels == 1 else 1
        pixels = torch.randn(number, config.num_channels, *config.image_sizes)
        model = ImagePerceiverForImageClassification(config).train()
        step = make_step(model, {"pixel_values": pixels, "labels": torch.arange(number) % NUM_CLASSES})
        times: dict[str, list[float]] = {kernel: [] for kernel in KERNELS}
        for _ in range(repeats + 1):
            for kernel, (tile, cells) in KERNELS.items():
                factored_attention.CPU_TILE = (tile, *factored_attention.CPU_TILE[1:])
                factored_attention.NUM_SAMPLED_CELLS = cells
                times[kernel].append(core_seconds(step)[0])
        results[name] = {kernel: described(values[1:]) for kernel, values in times.items()}
        tqdm.write(f"{name:36s} " + ", ".join(f"{key} {each['median']:.3f} s" for key, each in results[name].items()))
    return results


def described(values: list[float]) -> dict[str, float]:
    """Median, quartiles, count and the least."""
    return {**summary(values), "least": min(values)}


def write_images(folder: Path) -> None:
    random = np.random.default_rng(0)
    for number in range(NUM_CLASSES * FILES_PER_CLASS):
        pixels = random.integers(0, 256, (SIDE, SIDE), dtype=np.uint8)
        Image.fromarray(pixels).save(class_folder(folder, number % NUM_CLASSES) / f"{number}.png")


def write_sounds(folder: Path) -> None:
    for number, row in enumerate(sounds(NUM_CLASSES * FILES_PER_CLASS, seed=0)):
        (class_folder(folder, row["label"]) / f"{number}.wav").write_bytes(row["audio"]["bytes"])


def write_clouds(folder: Path) -> None:
    for number, row in enumerate(shapes(FILES_PER_CLASS, seed=0).with_format("numpy")):
        np.save(class_folder(folder, int(row["label"])) / f"{number}.npy", row["points"])


def class_folder(folder: Path, label: int) -> Path:
    path = folder / str(label)
    path.mkdir(parents=True, exist_ok=True)
    return path


INPUTS: dict[str, tuple[Callable[[Path], None], list[str]]] = {
    "784 pixels": (write_images, PIXELS),
    "images of 28 x 28 pixels": (write_images, []),
    "recordings of a second": (write_sounds, ["--task", "audio-classification"]),
    "clouds of 1,024 points": (write_clouds, ["--task", "point-cloud-classification"]),
}


def trainer_of(folder: Path, words: list[str]) -> Any:
    """The Trainer that `perceivers train` makes for a folder."""
    words = ["--train_dir", str(folder), "--output_dir", str(folder / "out"), "--report_to", "none", *words]
    arguments = parse("perceivers train", words)
    task = arguments.task
    examples = load_examples(task.modality, task.objective, arguments.data, seed=0)
    if arguments.complete is not None:
        arguments = complete(arguments, examples)
    config, processor = make_config_and_processor(task, arguments.model)
    model = make_model(task, arguments.model, config, examples.targets)
    return make_trainer(arguments, model, processor, examples)


def input_path(trainer: Any, epochs: int) -> dict[str, dict[str, float]]:
    """Times the parts of a step: the batch in the first epoch and in later ones, its augmentation, and the model."""
    parts: dict[str, list[float]] = {"first epoch": [], "later epochs": [], "augmentation": [], "model": []}
    model, step = trainer.model.train(), None
    for epoch in range(epochs):
        batches: Iterator = iter(trainer.get_train_dataloader())
        while True:
            seconds, batch = core_seconds(lambda batches=batches: next(batches, None))
            if batch is None:
                break
            parts["later epochs" if epoch else "first epoch"].append(seconds)
            seconds, batch = core_seconds(lambda batch=batch: trainer.batch_transform(batch))
            parts["augmentation"].append(seconds)
            step = make_step(model, batch)
            step()
            parts["model"].append(core_seconds(step)[0])
    return {name: described(values) for name, values in parts.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=15, help="rounds of each step")
    parser.add_argument("--epochs", type=int, default=3, help="epochs of which the first reads the files")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    inputs = {}
    for name, (write, words) in INPUTS.items():
        with tempfile.TemporaryDirectory() as folder:
            write(Path(folder))
            inputs[name] = input_path(trainer_of(Path(folder), words), arguments.epochs)
        tqdm.write(f"{name:36s} " + ", ".join(f"{part} {each['median']:.4f} s" for part, each in inputs[name].items()))
    result = {"machine": machine(), "kernels": kernels(arguments.repeats), "input_path": inputs}
    print(f"Wrote {save('small_step', result)}")


if __name__ == "__main__":
    main()
