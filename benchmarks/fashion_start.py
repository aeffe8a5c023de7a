"""What the latents of an untrained pixel Perceiver read of Fashion-MNIST, and what a linear classifier makes of it.

    python -m benchmarks.fashion_start

Each latent reads one weighted mean of the pixels for each head. The result, `results/fashion_start.json`, has for the
first cross-attend of each start:

* the effective number of pixels in such a mean, 1 / sum(weight²);
* the share of its variance over pictures that the picture's mean brightness explains;
* the accuracy of ridge regression on all of the means, and on the pooled latents that the model's own head reads;
* how much of the final latents' variance over pictures is the same for all latents.
"""

import argparse
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional as F

from benchmarks.fashion import DATA, Pictures, read, tensors
from benchmarks.fashion_models import CLASSES, PIXELS, Perceiver
from benchmarks.measuring import machine, save

TRAINING, TESTING = 5_000, 1_000
FOUR_HEADS = {"num_cross_attention_heads": 4, "qk_channels": 64, "v_channels": 64}
EIGHT_HEADS = {**FOUR_HEADS, "num_cross_attention_heads": 8}
# Fields that differ from the model before, and a factor for the weights of the queries.
STARTS: dict[str, tuple[dict[str, Any], float]] = {
    "the paper's": ({}, 1),
    "4 heads": (FOUR_HEADS, 1),
    "8 heads": (EIGHT_HEADS, 1),
    "queries x 3": ({}, 3),
    "latents of scale 1": ({"initializer_range": 1.0}, 1),
    "latents of scale 1, queries x 3": ({"initializer_range": 1.0}, 3),
    "8 heads, latents of scale 1, queries x 3": ({**EIGHT_HEADS, "initializer_range": 1.0}, 3),
}


def ridge_accuracy(features: torch.Tensor, labels: torch.Tensor) -> float:
    """Of ridge regression on standardised features (n, f), fitted on the first `TRAINING`; the best of 5 penalties."""
    fitted = features[:TRAINING]
    features = F.pad((features - fitted.mean(0)) / (fitted.std(0) + 1e-6), (0, 1), value=1.0).double()
    targets = F.one_hot(labels, CLASSES).double()
    gram, moment = features[:TRAINING].T @ features[:TRAINING], features[:TRAINING].T @ targets[:TRAINING]
    accuracies = []
    for penalty in (0.1, 1.0, 10.0, 100.0, 1000.0):
        weight = torch.linalg.solve(gram + penalty * torch.eye(len(gram), dtype=gram.dtype), moment)
        hits = (features[TRAINING:] @ weight).argmax(-1) == labels[TRAINING:]
        accuracies.append(hits.double().mean().item())
    return max(accuracies)


def explained(values: torch.Tensor, cause: torch.Tensor) -> float:
    """The share of the variance of `values` (n, f) over n that a multiple of `cause` (n, 1) explains."""
    values, cause = values - values.mean(0), cause - cause.mean(0)
    slope = (values * cause).sum(0) / cause.square().sum()
    return (slope * cause).square().sum().item() / values.square().sum().item()


def measure(pictures: Pictures, fields: dict[str, Any], factor: float) -> dict[str, float]:
    """The figures of one start."""
    torch.manual_seed(0)
    model = Perceiver(**{**PIXELS, **fields}).model.eval()
    means, latents, effective = [], [], []
    with torch.inference_mode():
        for layer in model.perceiver.encoder.cross_attends:
            layer.attention.q_proj.weight.mul_(factor)
        for pixels in tensors(pictures.pixels, None).split(50):
            output = model.perceiver(pixels, output_attentions=True)
            weights = output.cross_attentions[0].flatten(1, 2)
            means.append((weights @ pixels.flatten(1)[..., None]).squeeze(-1))
            effective.append(1 / weights.square().sum(-1))
            latents.append(output.last_hidden_state)
    first, final = torch.cat(means), torch.cat(latents)
    centred = final - final.mean(0)
    return {
        "means": first.shape[1],
        "pixels": torch.cat(effective).mean().item(),
        "brightness": explained(first, tensors(pictures.pixels, None).flatten(1).mean(1, keepdim=True)),
        "accuracy_of_means": ridge_accuracy(first, pictures.labels),
        "accuracy_of_pooled": ridge_accuracy(final.mean(1), pictures.labels),
        "same_for_all_latents": (centred.mean(1).square().mean() / centred.square().mean()).item(),
        "varies_with_picture": (centred.square().mean() / final.square().mean()).item(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path(DATA), help="the folder with the four IDX files")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    pictures = read(arguments.data, "train")[: TRAINING + TESTING]
    starts: dict[str, dict[str, float]] = {}
    for name, (fields, factor) in STARTS.items():
        starts[name] = measure(pictures, fields, factor)
        print(name, {key: round(value, 3) for key, value in starts[name].items()}, flush=True)
    every_pixel = ridge_accuracy(tensors(pictures.pixels, None).flatten(1), pictures.labels)
    save("fashion_start", {"machine": machine(), "every_pixel": every_pixel, "starts": starts})


if __name__ == "__main__":
    main()
