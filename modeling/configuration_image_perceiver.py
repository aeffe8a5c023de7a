"""Configuration of the Perceiver for images, and the table of its published variants."""

from typing import Any, Literal

from huggingface_hub.dataclasses import strict

from .checkpoint_conversion import config_from_transformers, is_transformers_perceiver
from .configuration_iterative_perceiver import MINIMA, IterativePerceiverConfig, StreamShape

IMAGENET = {"num_labels": 1000}
PERCEIVER_IO = {**IMAGENET, "num_cross_attends": 1, "head": "query"}
TABLE_5 = {**IMAGENET, "num_self_attends_per_block": 0, "share_cross_attends": "none"}

# Each row lists what differs from the defaults, which are the paper's best ImageNet model.
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
    "deepmind-fourier": PERCEIVER_IO,  # [IO] table 7, `vision-perceiver-fourier`: 79.0 %, 48.4 M parameters
    "deepmind-learned": {  # [IO] table 7, `vision-perceiver-learned`: 72.7 %, 62.3 M parameters
        **PERCEIVER_IO,
        "stem": "conv1x1",
        "stem_channels": 256,
        "position_encoding": "learned",
        "learned_position_channels": 256,
        "position_projection_channels": 256,
    },
    "deepmind-conv": {  # [IO] table 7, `vision-perceiver-conv`: 82.1 %, 48.6 M parameters
        **PERCEIVER_IO,
        "stem": "conv",
        "stem_channels": 64,
        "max_resolution": 56,
    },
    "small": {  # ours, for a few hundred to a few thousand pictures and minutes on a CPU
        "stem": "conv",
        "stem_channels": 64,
        "image_size": 64,
        "num_latents": 32,
        "d_latents": 64,
        "num_blocks": 2,
        "num_self_attends_per_block": 2,
        "num_cross_attends": 2,
        "num_self_attention_heads": 4,
        "num_frequency_bands": 8,
        "initializer_range": 1.0,
        "num_labels": 10,
    },
    "base": {
        "stem": "conv",
        "stem_channels": 64,
        "image_size": 128,
        "num_latents": 128,
        "d_latents": 256,
        "num_blocks": 4,
        "num_self_attends_per_block": 3,
        "num_cross_attends": 2,
        "num_frequency_bands": 16,
        "num_labels": 10,
    },
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
    r"""Configuration of an [`ImagePerceiverModel`].

    The defaults are the paper's ImageNet model (arXiv 2103.03206, section 4.1): 224 x 224 pixels, 512 latents of 1024
    channels, 8 cross-attends, 8 blocks of 6 self-attention layers. The other fields are described in
    [`IterativePerceiverConfig`].

    Args:
        image_size (`int` or `(height, width)`, defaults to 224):
            The size that the model is made for, in pixels. With Fourier positions it accepts any other size; the
            frequencies stay those of this one, so that a position keeps its meaning.
        num_channels (`int`, defaults to 3):
            Channels of a pixel.
        stem (`"pixels"`, `"conv1x1"` or `"conv"`, defaults to `"pixels"`):
            How pixels become inputs. `"pixels"`: unchanged. `"conv1x1"`: each is mapped to `stem_channels`. `"conv"`:
            a 7 x 7 convolution to `stem_channels`, batch norm and max pooling leave one input for 4 x 4 pixels
            (Perceiver IO, arXiv 2107.14795, appendix A).
        stem_channels (`int`, defaults to 64):
            Output channels of a convolutional stem.
        position_encoding (`"fourier"` or `"learned"`, defaults to `"fourier"`):
            How the position of an input is encoded. `"learned"`: a table with one row per input of the configured
            size.
        learned_position_channels (`int`, defaults to 256):
            Channels of a row of that table.
        position_projection_channels (`int`, *optional*):
            Channels that a linear layer maps the rows to; `None` leaves it out.

    Example:
        >>> config = ImagePerceiverConfig.from_variant("imagenet-fourier", num_labels=10)
    """

    model_type = "image_perceiver"
    variants = IMAGE_VARIANTS
    minima = MINIMA | {"num_channels": 1, "stem_channels": 1, "learned_position_channels": 1}

    image_size: int | list[int] | tuple[int, int] = 224
    num_channels: int = 3
    stem: Literal["pixels", "conv1x1", "conv"] = "pixels"
    stem_channels: int = 64
    # Wider than the base's: other modalities only have Fourier positions.
    position_encoding: Literal["fourier", "learned"] = "fourier"  # type: ignore[assignment]
    learned_position_channels: int = 256
    position_projection_channels: int | None = None

    @classmethod
    def get_config_dict(cls, pretrained_model_name_or_path, **kwargs) -> tuple[dict[str, Any], dict[str, Any]]:
        """Reads a saved configuration; one of transformers' own Perceivers is converted.

        Raises:
            ValueError: If it describes a Perceiver that this class cannot express, see [`config_from_transformers`].
        """
        config_dict, kwargs = super().get_config_dict(pretrained_model_name_or_path, **kwargs)
        if is_transformers_perceiver(config_dict):
            config_dict = config_from_transformers(config_dict)
        return config_dict, kwargs

    def validate_architecture(self):
        if len(self.image_sizes) != 2 or min(self.image_sizes) < 1:
            raise ValueError(f"`image_size` must be one or two positive integers, got {self.image_size}.")
        (shape,) = self.stream_shapes
        if min(shape.grid) < 1:
            raise ValueError(f'`stem="conv"` needs images of 5 x 5 pixels or more, got image_size={self.image_size}.')
        if self.position_projection_channels is not None:
            if self.position_projection_channels < 1:
                raise ValueError(
                    f"`position_projection_channels` must be at least 1, got {self.position_projection_channels}."
                )
            if self.position_encoding != "learned":
                raise ValueError(
                    "`position_projection_channels` is for learned positions, got position_projection_channels="
                    f"{self.position_projection_channels} and position_encoding={self.position_encoding!r}."
                )
        if self.position_encoding == "learned" and self.cross_attention_implementation == "factored":
            raise ValueError(
                '`cross_attention_implementation="factored"` needs positions that are separable, got '
                'position_encoding="learned"; use "auto" or "absorbed".'
            )
        super().validate_architecture()

    @property
    def image_sizes(self) -> tuple[int, ...]:
        """Height and width of the configured image in pixels."""
        return (self.image_size,) * 2 if isinstance(self.image_size, int) else tuple(self.image_size)

    @property
    def stream_shapes(self) -> tuple[StreamShape, ...]:
        """The inputs that the stem makes of the configured image, by height and width."""
        grid = self.image_sizes
        if self.stem == "conv":
            # The convolution keeps every second pixel; then windows of 3 follow each other, 2 apart.
            grid = tuple(((size + 1) // 2 - 1) // 2 for size in grid)
        learned = self.position_projection_channels or self.learned_position_channels
        return (
            StreamShape(
                grid=grid,
                content_channels=self.num_channels if self.stem == "pixels" else self.stem_channels,
                max_resolutions=self.max_resolutions(default=grid),
                num_bands=self.num_frequency_bands,
                learned_position_channels=learned if self.position_encoding == "learned" else None,
            ),
        )


__all__ = ["IMAGE_VARIANTS", "ImagePerceiverConfig"]
