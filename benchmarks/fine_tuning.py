"""A step of fine-tuning DeepMind's Fourier model at 224 x 224, in float32: `python -m benchmarks.fine_tuning`.

All weights, LoRA adapters or a frozen body, the first two also with gradient checkpointing, on random weights of that
shape. A step is a forward and a backward pass and AdamW, which has its state already.

Times are those that one core is busy, in turn and at batch 1; on a CPU, they grow with the batch. Peak memory is that
of a step at `--memory-batch`, in a process of its own, beyond the weights and the optimiser's state.
"""

import argparse
import json
import time
from collections.abc import Callable
from typing import Any

import torch
from tqdm import tqdm

from benchmarks.measuring import GIVE_BACK, in_own_process, machine, peak_memory, save, summary
from perceivers import ImagePerceiverConfig, ImagePerceiverForImageClassification
from perceivers.training.adaptation import AdaptationArguments

MODULE = "benchmarks.fine_tuning"
VARIANT = "deepmind-fourier"
NUM_LABELS = 10
WAYS = {
    "full": AdaptationArguments(),
    "lora": AdaptationArguments(lora=True),
    "frozen": AdaptationArguments(freeze_body=True),
}
CHECKPOINTING = "checkpointing"
SUBJECTS = ("full", f"full, {CHECKPOINTING}", "lora", f"lora, {CHECKPOINTING}", "frozen")


def build(subject: str) -> Any:
    """Builds a model that trains in one of the ways."""
    torch.manual_seed(0)
    way, *options = subject.split(", ")
    config = ImagePerceiverConfig.from_variant(VARIANT, num_labels=NUM_LABELS)
    model = WAYS[way].adapt(ImagePerceiverForImageClassification(config))
    if options == [CHECKPOINTING]:
        getattr(model, "activation_checkpointing_enable", model.gradient_checkpointing_enable)()
    return model.train()


def num_trained(model: Any) -> int:
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)


def make_step(model: Any, batch: int) -> Callable[[], None]:
    """A training step on the same random images each time."""
    torch.manual_seed(1)
    pixels, labels = torch.randn(batch, 3, 224, 224), torch.arange(batch) % NUM_LABELS
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-4)
    # Makes the optimiser's state, as the first of many steps does.
    for parameter in trained:
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    optimizer.zero_grad()

    def step() -> None:
        model(pixel_values=pixels, labels=labels).loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def core_seconds(call: Callable[[], None]) -> float:
    """Time that a call keeps the core busy, which other programs on the machine hardly change."""
    start = time.process_time()
    call()
    return time.process_time() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--memory-batch", type=int, default=4)
    parser.add_argument("--memory-of", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.memory_of:
        step = make_step(build(arguments.memory_of), arguments.memory_batch)
        print(json.dumps(peak_memory(step, torch.device("cpu"))))
        return

    models = {subject: build(subject) for subject in SUBJECTS}
    steps = {subject: make_step(model, batch=1) for subject, model in models.items()}
    times: dict[str, list[float]] = {subject: [] for subject in SUBJECTS}
    for _ in tqdm(range(arguments.repeats), unit="round"):
        for subject, step in steps.items():
            times[subject].append(core_seconds(step))
            tqdm.write(f"{subject:22s} {times[subject][-1]:.1f} s")
    trained = {subject: num_trained(model) for subject, model in models.items()}
    del models, steps
    memory = {}
    for subject in SUBJECTS:
        words = ("--memory-of", subject, "--memory-batch", str(arguments.memory_batch))
        memory[subject] = in_own_process(MODULE, *words, environment=GIVE_BACK)
        print(f"{subject:22s} {memory[subject] / 2**20:,.0f} MiB")
    result = {
        "machine": machine(),
        "memory_batch": arguments.memory_batch,
        "trained": trained,
        "core_seconds": {subject: summary(values) for subject, values in times.items()},
        "bytes": memory,
    }
    print(f"Wrote {save('fine_tuning', result)}")


if __name__ == "__main__":
    main()
