"""The paper's ModelNet40 model on clouds of many sizes, in float32: `python -m benchmarks.point_clouds`.

Time and peak memory of one forward pass of one cloud, for `auto`, for our dense path with scaled-dot-product
attention, and for the dense path with eager attention, which builds the matrix of all scores. All have the same
weights. The calls are timed in turn; each peak is measured in a separate process.
"""

import argparse
import json
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from tqdm import tqdm

from benchmarks.measuring import in_own_process, interleaved, machine, peak_memory, save
from perceivers import PointCloudPerceiverConfig, PointCloudPerceiverForPointCloudClassification

MODULE = "benchmarks.point_clouds"
SUBJECTS: dict[str, dict[str, str]] = {
    "auto": {},
    "dense sdpa": {"cross_attention_implementation": "dense"},
    "dense eager": {"cross_attention_implementation": "dense", "attn_implementation": "eager"},
}
SIZES = (2048, 10_000, 100_000)


def call(subject: str, num_points: int, device: torch.device) -> Callable[[], torch.Tensor]:
    """A forward pass without gradients, from one random cloud to its logits."""
    torch.manual_seed(0)
    config = PointCloudPerceiverConfig.from_variant("modelnet40", **SUBJECTS[subject])
    model = PointCloudPerceiverForPointCloudClassification(config).to(device).eval()
    nn.init.normal_(model.classifier.weight, std=0.02)
    points = 2 * torch.rand(1, num_points, 3, device=device) - 1

    def forward() -> torch.Tensor:
        with torch.no_grad():
            return model(point_values=points).logits

    return forward


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=list(SIZES))
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--budget", type=float, default=60, help="seconds after which no further round begins")
    parser.add_argument("--device", type=torch.device, default=torch.device("cpu"))
    parser.add_argument("--memory-of", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    device = arguments.device
    if arguments.memory_of:
        print(json.dumps(peak_memory(call(arguments.memory_of, arguments.sizes[0], device), device)))
        return

    results: list[dict[str, Any]] = []
    for size in tqdm(arguments.sizes, unit="size"):
        calls = {subject: call(subject, size, device) for subject in SUBJECTS}
        seconds = interleaved(calls, device, arguments.repeats, arguments.budget)
        words = ("--sizes", str(size), "--device", str(device), "--memory-of")
        memory = {subject: in_own_process(MODULE, *words, subject) for subject in SUBJECTS}
        results.append({"points": size, "seconds": seconds, "bytes": memory})
        for subject, used in memory.items():
            megabytes = "out of memory" if used is None else f"{used / 2**20:,.0f} MiB"
            tqdm.write(f"{size:7,d} {subject:12s} {seconds[subject]['median']:.2f} s, {megabytes}")
    suffix = "" if device.type == "cpu" else f"_{device.type}"
    print(f"Wrote {save(f'point_clouds{suffix}', {'machine': machine(), 'results': results})}")


if __name__ == "__main__":
    main()
