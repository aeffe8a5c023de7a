"""One cross-attention of the paper's size, ours and the peers': `python -m benchmarks.cross_attention`.

512 latents of 1024 channels attend to an RGB image with 64 Fourier bands (261 channels): one head, batch 1, float32.
Ours starts from the pixels. Transformers' Perceiver (with the same weights) and perceiver-pytorch (`pip install
perceiver-pytorch`) are given the input array ready made, which favours them.
"""

import argparse
import json
from collections.abc import Callable
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import torch
from torch import nn
from tqdm import tqdm
from transformers import PerceiverConfig
from transformers.models.perceiver.modeling_perceiver import PerceiverAttention

from benchmarks.measuring import RESULTS, in_own_process, interleaved, machine, peak_memory, save
from perceivers import ImagePerceiverConfig, PerceiverInputs
from perceivers.modeling.attention import CROSS_ATTENTION_IMPLEMENTATIONS
from perceivers.modeling.modeling_image_perceiver import ImageInputs
from perceivers.modeling.modeling_iterative_perceiver import PerceiverCrossAttentionLayer

MODULE = "benchmarks.cross_attention"
OURS = ("dense", "absorbed", "factored")
TRANSFORMERS, PERCEIVER_PYTORCH = "transformers", "perceiver-pytorch"
SUBJECTS = (TRANSFORMERS, PERCEIVER_PYTORCH, *OURS)
MODES = ("forward", "training")
# Above this image side the others take minutes per round. Memory is compared with transformers only.
LARGEST_FOR_ALL = 512
COMPARED = (TRANSFORMERS, "factored")
SMALLEST_FOR_MEMORY = 64


class Ours(nn.Module):
    """One implementation of our cross-attention, from pixels; `dense` uses eager attention, as transformers does."""

    def __init__(self, config: ImagePerceiverConfig, cross_attend: PerceiverCrossAttentionLayer, implementation: str):
        super().__init__()
        self.config, self.prepare = config, CROSS_ATTENTION_IMPLEMENTATIONS[implementation]
        self.inputs = ImageInputs(config)
        self.norm, self.attention = cross_attend.attention_norm, cross_attend.attention

    def forward(self, latents: torch.Tensor, pixels: torch.Tensor) -> torch.Tensor:
        attend = self.prepare(self.inputs(pixels, None), latents, self.config)
        return latents + self.attention(self.norm(latents), attend)[0]


class Transformers(nn.Module):
    """The cross-attention of transformers' Perceiver with our weights, on a ready-made input array."""

    def __init__(
        self, config: ImagePerceiverConfig, cross_attend: PerceiverCrossAttentionLayer, inputs: PerceiverInputs
    ):
        super().__init__()
        self.array = inputs.dense()
        self.layer = PerceiverAttention(
            PerceiverConfig(attention_probs_dropout_prob=0.0, layer_norm_eps=config.layer_norm_eps),
            is_cross_attention=True,
            num_heads=1,
            q_dim=config.d_latents,
            kv_dim=config.input_channels,
        )
        attention, theirs = cross_attend.attention, self.layer.self
        for source, target in (
            (cross_attend.attention_norm, theirs.layernorm1),
            (attention.inputs_norm, theirs.layernorm2),
            (attention.q_proj, theirs.query),
            (attention.k_proj, theirs.key),
            (attention.v_proj, theirs.value),
            (attention.o_proj, self.layer.output.dense),
        ):
            target.load_state_dict(source.state_dict())

    def forward(self, latents: torch.Tensor, pixels: torch.Tensor) -> torch.Tensor:
        return self.layer(latents, inputs=self.array)[0]


class PerceiverPytorch(nn.Module):
    """The cross-attention of perceiver-pytorch with one head of the same width and its own random weights."""

    def __init__(self, config: ImagePerceiverConfig, inputs: PerceiverInputs):
        super().__init__()
        from perceiver_pytorch.perceiver_pytorch import Attention, PreNorm

        self.array = inputs.dense()
        width = config.input_channels
        attention = Attention(config.d_latents, width, heads=1, dim_head=width)
        self.layer = PreNorm(config.d_latents, attention, context_dim=width)

    def forward(self, latents: torch.Tensor, pixels: torch.Tensor) -> torch.Tensor:
        return latents + self.layer(latents, context=self.array)


def build(subject: str, size: int, device: torch.device) -> tuple[nn.Module, torch.Tensor, torch.Tensor]:
    """The module, the latents (1, 512, 1024) and the pixels (1, 3, size, size); the same for every subject."""
    torch.manual_seed(0)
    config = ImagePerceiverConfig(image_size=size, attn_implementation="eager")
    cross_attend = PerceiverCrossAttentionLayer.to_inputs(config)
    with torch.no_grad():
        for parameter in cross_attend.parameters():
            parameter.add_(torch.randn_like(parameter) * (0.1 if parameter.dim() == 1 else 0.05))
    cross_attend = cross_attend.to(device)
    latents = torch.randn(1, config.num_latents, config.d_latents, device=device)
    pixels = torch.randn(1, 3, size, size, device=device)
    if subject in OURS:
        return Ours(config, cross_attend, subject), latents, pixels
    inputs = ImageInputs(config)(pixels, None)
    peer = Transformers(config, cross_attend, inputs) if subject == TRANSFORMERS else PerceiverPytorch(config, inputs)
    return peer.to(device), latents, pixels


def call(subject: str, size: int, mode: str, device: torch.device) -> Callable[[], Any]:
    """A forward pass without gradients, or a forward and backward pass to all parameters and latents."""
    module, latents, pixels = build(subject, size, device)

    def forward():
        with torch.no_grad():
            return module(latents, pixels)

    def training():
        module.zero_grad()
        module(latents.requires_grad_(), pixels).square().mean().backward()

    return forward if mode == "forward" else training


def agreement(size: int, device: torch.device) -> dict[str, float]:
    """The largest difference from transformers' output, relative to its largest value."""
    outputs = {name: call(name, size, "forward", device)() for name in (TRANSFORMERS, *OURS)}
    reference = outputs.pop(TRANSFORMERS)
    return {name: ((out - reference).abs().max() / reference.abs().max()).item() for name, out in outputs.items()}


def draw(results: list[dict[str, Any]]) -> None:
    """Draws time against image size on logarithmic axes."""
    figure, panels = plt.subplots(1, 2, figsize=(10, 4.2), sharey=True)
    for panel, mode in zip(panels, MODES, strict=True):
        for subject in SUBJECTS:
            rows = [row for row in results if row["mode"] == mode and subject in row["seconds"]]
            sizes = [row["size"] ** 2 for row in rows]
            middle = [row["seconds"][subject]["median"] for row in rows]
            panel.plot(sizes, middle, marker="o", linewidth=2.5 if subject == "factored" else 1.2, label=subject)
        panel.set(
            xscale="log", yscale="log", xlabel="pixels", title=mode if mode == "forward" else "forward + backward"
        )
        panel.set_xticks([64**2, 224**2, 448**2, 1024**2], ["64²", "224²", "448²", "1024²"], minor=False)
        panel.minorticks_off()
        panel.grid(alpha=0.3)
    panels[0].set_ylabel("seconds")
    panels[0].legend()
    figure.suptitle("One cross-attention, 512 latents x 1024, 64 bands, float32")
    figure.tight_layout()
    figure.savefig(RESULTS / "cross_attention.png", dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[8, 16, 32, 64, 224, 448, 1024], help="image sides")
    parser.add_argument("--subjects", nargs="+", default=list(SUBJECTS), choices=SUBJECTS)
    parser.add_argument("--repeats", type=int, default=11, help="rounds for each size")
    parser.add_argument(
        "--budget", type=float, default=60, help="seconds after which no further round of a size begins"
    )
    parser.add_argument("--device", type=torch.device, default=torch.device("cpu"))
    parser.add_argument("--memory-of", nargs=3, metavar=("SUBJECT", "SIZE", "MODE"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.memory_of:
        subject, size, mode = arguments.memory_of
        print(json.dumps(peak_memory(call(subject, int(size), mode, arguments.device), arguments.device)))
        return

    results: list[dict[str, Any]] = []
    for size in tqdm(arguments.sizes, unit="size"):
        for mode in MODES:
            subjects = [name for name in arguments.subjects if size <= LARGEST_FOR_ALL or name in COMPARED]
            calls = {name: call(name, size, mode, arguments.device) for name in subjects}
            times = interleaved(calls, arguments.device, arguments.repeats, arguments.budget)
            del calls
            memory = {
                name: in_own_process(MODULE, "--memory-of", name, str(size), mode, "--device", str(arguments.device))
                for name in subjects
                if size >= SMALLEST_FOR_MEMORY and name in COMPARED
            }
            results.append({"size": size, "mode": mode, "seconds": times, "bytes": memory})
            base = times.get(TRANSFORMERS, times[subjects[0]])["median"]
            for name, time in times.items():
                tqdm.write(
                    f"{size:5d}² {mode:8s} {name:18s} {time['median'] * 1e3:10.2f} ms "
                    f"[{time['low'] * 1e3:.2f}, {time['high'] * 1e3:.2f}]  x{base / time['median']:6.2f}  "
                    f"{(memory.get(name) or 0) / 2**20:8.0f} MiB"
                )
    suffix = "" if arguments.device.type == "cpu" else f"_{arguments.device.type}"
    path = RESULTS / f"cross_attention{suffix}.json"
    if path.exists():  # keep the sizes that were not measured this time
        earlier = json.loads(path.read_text())["results"]
        results += [row for row in earlier if row["size"] not in arguments.sizes]
    results.sort(key=lambda row: (row["size"], MODES.index(row["mode"])))
    agree = agreement(64, arguments.device)
    path = save(f"cross_attention{suffix}", {"machine": machine(), "agreement": agree, "results": results})
    if not suffix:
        draw(results)
    print(f"Wrote {path}")


if __name__ == "__main__":
    main()
