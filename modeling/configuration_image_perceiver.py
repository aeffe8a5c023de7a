"""Configuration of the Perceiver for images, and the table of its published variants."""

from typing import Any

from huggingface_hub.dataclasses import strict

from .configuration_iterative_perceiver import IterativePerceiverConfig

IMAGENET = {"num_labels": 1000}
TABLE_5 = {**IMAGENET, "num_self_attends_per_block": 0, "share_cross_attends": "none"}

# Each row is what differs from the defaults, which are the paper's best ImageNet model.
# [P] is arXiv 2103.03206, Perceiver; [IO] is arXiv 2107.14795, Perceiver IO.
IMAGE_VARIANTS: dict[str, dict[str, Any]] = {
    "imagenet-fourier": IMAGENET,  # [P] table 1: 78.0 % top-1, 44.9 M parameters, 707.2 B FLOPs
    "imagenet-fourier-1-cross-attend": {**IMAGENET, "num_cross_attends": 1},  # [P] table 6, [IO] table 7: 78.6 %
    "imagenet-fourier-2-cross-attends": {**IMAGENET, "num_cross_attends": 2},  # [P] table 6
    "imagenet-fourier-4-cross-attends": {**IMAGENET, "num_cross_attends": 4},  # [P] table 6
    "imagenet-fourier-unshared": {  # [P] table 7: 326.2 M parameters
        **IMAGENET,
        "share_cross_attends": "none",
        "share_blocks": False,
    },
    "imagenet-4-cross-attends-only": {**TABLE_5, "num_blocks": 4, "num_cross_attends": 4},  # [P] table 5
    "imagenet-8-cross-attends-only": {**TABLE_5, "num_blocks": 8, "num_cross_attends": 8},  # [P] table 5
    "imagenet-12-cross-attends-only": {**TABLE_5, "num_blocks": 12, "num_cross_attends": 12},  # [P] table 5
    "tiny": {  # ours, for tests and first steps
        "image_size": 16,
        "num_latents": 8,
        "d_latents": 32,
        "num_blocks": 2,
        "num_self_attends_per_block": 2,
        "num_cross_attends": 2,
        "num_self_attention_heads": 4,
        "num_frequency_bands": 4,
        "num_labels": 10,
    },
}


@strict
class ImagePerceiverConfig(IterativePerceiverConfig):
    r"""
    Configuration of an [`ImagePerceiverModel`]. The defaults are the paper's ImageNet model (arXiv 2103.03206, section
    4.1): 224 x 224 pixels, 512 latents of 1024 channels, 8 cross-attends, 8 blocks of 6 self-attention layers.
    The other fields are described in [`IterativePerceiverConfig`].

    Args:
        image_size (`int` or `(height, width)`, defaults to 224):
            The size that the model was made for, in pixels. It accepts any other; the Fourier frequencies stay those
            of this size, so that a position keeps its meaning.
        num_channels (`int`, defaults to 3):
            Channels of a pixel.

    Example:
        >>> config = ImagePerceiverConfig.from_variant("imagenet-fourier", num_labels=10)
    """

    model_type = "image_perceiver"

    image_size: int | list[int] | tuple[int, int] = 224
    num_channels: int = 3

    @classmethod
    def from_variant(cls, name: str, **changes: Any) -> "ImagePerceiverConfig":
        """The configuration of a published model, see `IMAGE_VARIANTS`, with `changes` to its fields.

        Raises:
            ValueError: if there is no variant of that name.
        """
        if name not in IMAGE_VARIANTS:
            raise ValueError(f"There is no variant `{name}`; the variants are {', '.join(IMAGE_VARIANTS)}.")
        return cls(**{**IMAGE_VARIANTS[name], **changes})

    def validate_architecture(self):
        if len(self.grid) != 2 or min(self.grid) < 1:
            raise ValueError(f"`image_size` must be one or two positive integers, got {self.image_size}.")
        if self.num_channels < 1:
            raise ValueError(f"`num_channels` must be at least 1, got {self.num_channels}.")
        super().validate_architecture()

    @property
    def num_axes(self) -> int:
        """2: height and width."""
        return 2

    @property
    def grid(self) -> tuple[int, ...]:
        """Height and width of the configured image in pixels."""
        return (self.image_size,) * 2 if isinstance(self.image_size, int) else tuple(self.image_size)

    @property
    def content_channels(self) -> int:
        """Channels of a pixel."""
        return self.num_channels


__all__ = ["IMAGE_VARIANTS", "ImagePerceiverConfig"]
