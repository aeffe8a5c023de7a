"""The models of `benchmarks.fashion`: Perceivers, a small CNN and a small ViT, for gray pictures of 28 x 28 pixels."""

import itertools
from collections.abc import Callable
from functools import partial
from typing import Any

import timm
import torch
from torch import nn

from perceivers import ImagePerceiverConfig, ImagePerceiverForImageClassification
from perceivers.modeling.modeling_iterative_perceiver import PerceiverSelfAttentionLayer, init_truncated_normal
from perceivers.modeling.positions import DensePositions, fourier_grid

SIZE, CLASSES = 28, 10
LATENTS = {"num_latents": 32, "d_latents": 64, "num_self_attention_heads": 4}
BLOCKS = {"num_blocks": 2, "num_self_attends_per_block": 2, "num_cross_attends": 2}
PIXELS = {**LATENTS, **BLOCKS, "num_frequency_bands": 8}
# As many latents, half as deep: twice the steps in the same time.
SHALLOW = {**PIXELS, "num_blocks": 1, "num_cross_attends": 1}


def permuted_positions(config: ImagePerceiverConfig, permutation: torch.Tensor | None) -> torch.Tensor:
    """Fourier positions (1, M, C_p) of pixels that a permutation has moved: each keeps that of where it came from.

    Args:
        config: Of a model that reads pixels.
        permutation: (M), the pixel at each place of the array, row by row; `None` leaves them where they are.
    """
    (shape,) = config.stream_shapes
    positions = fourier_grid(shape.grid, shape.num_bands, shape.max_resolutions).dense()
    return positions if permutation is None else positions[:, permutation]


class PermutedPositions(nn.Module):
    """Stands in for the positions of a model whose pixels are permuted."""

    def __init__(self, config: ImagePerceiverConfig, permutation: torch.Tensor):
        super().__init__()
        self.register_buffer("positions", permuted_positions(config, permutation))

    def forward(self, content: torch.Tensor, mask: torch.Tensor | None, interpolate: bool) -> DensePositions:
        return DensePositions(self.positions)


class Perceiver(nn.Module):
    """Pixels (B, 1, 28, 28) -> logits (B, 10).

    Args:
        permutation: Of the pixels, if they are permuted; a model that reads pixels is told where each comes from.
        **fields: Of the configuration.
    """

    def __init__(self, permutation: torch.Tensor | None = None, **fields: Any):
        super().__init__()
        config = ImagePerceiverConfig(**{"image_size": SIZE, "num_channels": 1, "num_labels": CLASSES, **fields})
        self.model = ImagePerceiverForImageClassification(config)
        if permutation is not None and config.stem == "pixels":
            self.model.perceiver.inputs.positions = PermutedPositions(config, permutation)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        return self.model(pixels).logits


class PerceiverByPlace(nn.Module):
    """An experiment: the keys of the only cross-attend are positions without content.

    Its weights are then the same for all pictures, and one matrix product reads a batch with as many heads as one
    likes. The values are the pixels. The rest is the latent transformer of [`PIXELS`], half as deep.

    Args:
        permutation: Of the pixels, if they are permuted.
        num_heads: Means that each latent reads.
        head_channels: Of the queries and keys.
        sharpness: Factor for the initial weights of the queries.
    """

    def __init__(
        self,
        permutation: torch.Tensor | None = None,
        num_heads: int = 8,
        head_channels: int = 32,
        sharpness: float = 2.0,
    ):
        super().__init__()
        config = ImagePerceiverConfig(image_size=SIZE, num_channels=1, **SHALLOW)
        width = config.d_latents
        self.head_shape = (num_heads, head_channels)
        self.register_buffer("positions", permuted_positions(config, permutation)[0])
        self.latents = nn.Parameter(torch.randn(config.num_latents, width))
        self.latents_norm, self.mlp_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.positions_norm = nn.LayerNorm(self.positions.shape[1])
        self.q_proj = nn.Linear(width, num_heads * head_channels)
        self.k_proj = nn.Linear(self.positions.shape[1], num_heads * head_channels)
        self.o_proj = nn.Linear(num_heads, width)
        self.mlp = nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.Linear(width, width))
        config._attn_implementation = "sdpa"
        self.layers = nn.ModuleList(
            PerceiverSelfAttentionLayer(config) for _ in range(config.num_self_attends_per_block)
        )
        self.classifier = nn.Linear(width, CLASSES)
        with torch.no_grad():
            for module in self.modules():
                if isinstance(module, nn.Linear):
                    init_truncated_normal(module.weight, module.in_features**-0.5)
                    nn.init.zeros_(module.bias)
            self.q_proj.weight.mul_(sharpness)
            nn.init.zeros_(self.classifier.weight)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        query = self.q_proj(self.latents_norm(self.latents)).unflatten(-1, self.head_shape)
        key = self.k_proj(self.positions_norm(self.positions)).unflatten(-1, self.head_shape)
        scores = torch.einsum("nhd,mhd->nhm", query, key) * self.head_shape[1] ** -0.5
        means = torch.einsum("bm,nhm->bnh", pixels.flatten(1), scores.softmax(-1))
        latents = self.latents + self.o_proj(means)
        latents = latents + self.mlp(self.mlp_norm(latents))
        for layer in self.layers:
            latents = layer(latents)
        return self.classifier(latents.mean(1))


def cnn(permutation: torch.Tensor | None = None) -> nn.Module:
    """Three convolutions of 3 x 3 pixels with batch norm, each followed by pooling; 24 thousand parameters."""
    stages = [
        nn.Sequential(nn.Conv2d(narrow, wide, 3, padding=1), nn.BatchNorm2d(wide), nn.ReLU(), nn.MaxPool2d(2))
        for narrow, wide in itertools.pairwise([1, 16, 32, 64])
    ]
    return nn.Sequential(*stages, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, CLASSES))


def vit(permutation: torch.Tensor | None = None, *, patch_size: int) -> nn.Module:
    """Four layers of 64 channels, as many as the Perceiver's latents have; 0.2 million parameters."""
    return timm.models.VisionTransformer(
        img_size=SIZE, patch_size=patch_size, in_chans=1, num_classes=CLASSES, embed_dim=64, depth=4, num_heads=4
    )


MODELS: dict[str, Callable[..., nn.Module]] = {
    "perceiver before": partial(Perceiver, **PIXELS),
    "perceiver shallow": partial(Perceiver, **SHALLOW),
    "perceiver by place": PerceiverByPlace,
    "perceiver conv": partial(Perceiver, **{**ImagePerceiverConfig.variants["small"], "image_size": SIZE}),
    "cnn": cnn,
    "vit 7": partial(vit, patch_size=7),
    "vit 4": partial(vit, patch_size=4),
}
# These know where a pixel comes from.
IGNORE_ORDER = ("perceiver before", "perceiver shallow", "perceiver by place")
