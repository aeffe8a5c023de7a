"""Exports a model for images of any size with `torch.export`, loads it again and compares the answers.

    python examples/export.py perceiver-digits digits.pt2

Whoever loads the program has to `import perceivers` first: it calls an operator of ours for the positions.
"""

import argparse

import torch
from torch.export import Dim

from perceivers import ImagePerceiverForImageClassification


class Logits(torch.nn.Module):
    """pixel_values (B, C, H, W) -> logits (B, labels), so that the program returns a tensor."""

    def __init__(self, model: ImagePerceiverForImageClassification):
        super().__init__()
        self.model = model

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        return self.model(pixel_values).logits


def main(argv: list[str] | None = None) -> float:
    """Exports and returns the largest difference between the logits of the model and of the program."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="a folder or a name on the Hub")
    parser.add_argument("target", help="the file to write, *.pt2")
    arguments = parser.parse_args(argv)

    # `auto` would choose an implementation for the size of the example, and keep it for all sizes.
    model = Logits(
        ImagePerceiverForImageClassification.from_pretrained(
            arguments.model, cross_attention_implementation="factored"
        ).eval()
    )
    channels = model.model.config.num_channels
    sizes = {0: Dim("batch", max=64), 2: Dim("height", min=4, max=1024), 3: Dim("width", min=4, max=1024)}
    program = torch.export.export(model, (torch.randn(2, channels, 40, 36),), dynamic_shapes=(sizes,), strict=False)
    torch.export.save(program, arguments.target)

    exported = torch.export.load(arguments.target).module()
    difference = 0.0
    with torch.no_grad():
        for batch, height, width in ((1, 8, 8), (3, 50, 64), (2, 224, 160)):
            pixels = torch.randn(batch, channels, height, width)
            difference = max(difference, (exported(pixels) - model(pixels)).abs().max().item())
    print(f"Wrote {arguments.target}; its logits differ from the model's by at most {difference:.1e}.")
    return difference


if __name__ == "__main__":
    main()
