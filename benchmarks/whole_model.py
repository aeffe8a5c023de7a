"""The paper's whole ImageNet model at 224 x 224, in float32: `python -m benchmarks.whole_model`.

Two pairs, each with the same weights: the paper's model (8 cross-attends), `auto` against our own dense path with
eager attention; and DeepMind's published Fourier model (1 cross-attend, query head), ours against transformers'.
Each pair is joined by the same model with a free cross-attention, which costs nothing and returns zeros. What remains
is common to both sides, so no way of computing the cross-attention can be faster or smaller.

Times are at batch 1, in turn. Peak memory is that of a training step at `--memory-batch`, each in a separate process.
A pair that is not requested keeps its earlier figures.
"""

import argparse
import json
import tempfile
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from tqdm import tqdm
from transformers import PerceiverConfig, PerceiverForImageClassificationFourier

from benchmarks.measuring import GIVE_BACK, RESULTS, in_own_process, interleaved, machine, peak_memory, save
from perceivers import ImagePerceiverConfig, ImagePerceiverForImageClassification

MODULE = "benchmarks.whole_model"
PAIRS = {"paper": ("paper, auto", "paper, dense eager"), "deepmind": ("deepmind, auto", "deepmind, transformers")}
FREE = "free cross-attention"
MEMORY = ("paper, auto", "paper, auto, checkpointing", f"paper, auto, {FREE}", "paper, dense eager",
          "deepmind, auto, checkpointing", "deepmind, transformers")  # fmt: skip


class FreeAttention:
    """Takes the place of a cross-attention implementation, and returns zeros at once: what is left costs no less."""

    def __call__(self, module: Any, query: torch.Tensor, projected: tuple = (), **kwargs: Any):
        """(B, H, N, d) -> (B, N, H, d_v), with a gradient for the query, so that its projection is still trained."""
        width = module.v_proj.out_features // module.num_heads
        return query.transpose(1, 2)[..., :1].mul(0).expand(-1, -1, -1, width), None, ()


def build(subject: str) -> nn.Module:
    """Builds a model; the two members of a pair have the same weights."""
    torch.manual_seed(0)
    family, kind, *options = subject.split(", ")
    if family == "paper":
        dense = {"cross_attention_implementation": "dense", "attn_implementation": "eager"}
        config = ImagePerceiverConfig(num_labels=1000, **(dense if kind == "dense eager" else {}))
        model: Any = ImagePerceiverForImageClassification(config)
        nn.init.normal_(model.classifier.weight, std=0.02)
    else:
        model = PerceiverForImageClassificationFourier(
            PerceiverConfig(
                num_labels=1000,
                num_latents=512,
                d_latents=1024,
                num_blocks=8,
                num_self_attends_per_block=6,
                num_self_attention_heads=8,
                num_cross_attention_heads=1,
                attention_probs_dropout_prob=0.0,
            )
        )
        if kind == "auto":
            with tempfile.TemporaryDirectory() as folder:
                model.save_pretrained(folder)
                model = ImagePerceiverForImageClassification.from_pretrained(folder)
    if options == [FREE]:
        model.perceiver.encoder.prepare = lambda *_: FreeAttention()
    if options == ["checkpointing"]:
        enable = getattr(model, "activation_checkpointing_enable", model.gradient_checkpointing_enable)
        enable()
    return model


def call(subject: str, mode: str, batch: int, device: torch.device) -> Callable[[], Any]:
    """A forward pass without gradients, or the forward and backward pass of a training step."""
    model = build(subject).to(device).train(mode == "training")
    torch.manual_seed(1)
    pixels = torch.randn(batch, 3, 224, 224, device=device)
    labels = torch.arange(batch, device=device)

    def forward():
        with torch.no_grad():
            return model(pixel_values=pixels).logits

    def training():
        model.zero_grad()
        model(pixel_values=pixels, labels=labels).loss.backward()

    return forward if mode == "forward" else training


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", nargs="+", default=list(PAIRS), choices=PAIRS)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--budget", type=float, default=120, help="seconds after which no further round begins")
    parser.add_argument("--memory-batch", type=int, default=4)
    parser.add_argument("--device", type=torch.device, default=torch.device("cpu"))
    parser.add_argument("--memory-of", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    device = arguments.device
    if arguments.memory_of:
        step = call(arguments.memory_of, "training", arguments.memory_batch, device)
        print(json.dumps(peak_memory(step, device)))
        return

    times: dict[str, Any] = {}
    agreement: dict[str, float] = {}
    for pair in tqdm(arguments.pairs, unit="pair"):
        for mode in ("forward", "training"):
            subjects = (*PAIRS[pair], f"{PAIRS[pair][0]}, {FREE}")
            calls = {subject: call(subject, mode, 1, device) for subject in subjects}
            if mode == "forward":
                agreement[pair] = (calls[PAIRS[pair][0]]() - calls[PAIRS[pair][1]]()).abs().max().item()
            times[f"{pair}, {mode}"] = interleaved(calls, device, arguments.repeats, arguments.budget)
            ours, theirs, free = (times[f"{pair}, {mode}"][subject]["median"] for subject in subjects)
            tqdm.write(
                f"{pair:9s} {mode:9s} {ours:.3f} s against {theirs:.3f} s: x{theirs / ours:.2f}, "
                f"of x{theirs / free:.2f} with a {FREE}"
            )
    memory = {}
    for subject in MEMORY:
        if subject.split(", ")[0] in arguments.pairs:
            batch = str(arguments.memory_batch)
            memory[subject] = in_own_process(
                MODULE,
                "--memory-of",
                subject,
                "--memory-batch",
                batch,
                "--device",
                str(device),
                environment=GIVE_BACK,
            )
            used = memory[subject]
            tqdm.write(f"{subject:32s} {'out of memory' if used is None else f'{used / 2**20:.0f} MiB'}")
    suffix = "" if device.type == "cpu" else f"_{device.type}"
    name = f"whole_model{suffix}"
    parts = {"seconds": times, "bytes": memory, "agreement": agreement}
    known = json.loads((RESULTS / f"{name}.json").read_text()) if (RESULTS / f"{name}.json").exists() else {}
    merged = {key: {**known.get(key, {}), **part} for key, part in parts.items()}
    print(f"Wrote {save(name, {'machine': machine(), 'memory_batch': arguments.memory_batch, **merged})}")


if __name__ == "__main__":
    main()
