"""The Perceiver for images: pixels and their positions in, latents or class logits out.

The stems and learned positions are those of Perceiver IO (arXiv 2107.14795, appendix A). Letters: B batch, M inputs,
C_c channels of their content, C_p channels of their positions.
"""

import torch
from torch import nn
from torch.nn import functional as F
from transformers.modeling_outputs import BaseModelOutputWithCrossAttentions
from transformers.processing_utils import Unpack
from transformers.utils import TransformersKwargs, can_return_tuple
from transformers.utils.generic import merge_with_config_defaults
from transformers.utils.output_capturing import capture_outputs

from .checkpoint_conversion import KEY_MAPPING
from .configuration_image_perceiver import ImagePerceiverConfig
from .modeling_iterative_perceiver import (
    InputStream,
    IterativePerceiverClassifierOutput,
    IterativePerceiverForClassification,
    IterativePerceiverModel,
    IterativePerceiverPreTrainedModel,
    PerceiverInputs,
    init_truncated_normal,
)
from .positions import DensePositions, GridPositions, at_least_float32, fourier_grid


class PixelStem(nn.Module):
    """Every pixel is an input, unchanged."""

    def __init__(self, config: ImagePerceiverConfig):
        super().__init__()

    def forward(
        self, pixel_values: torch.Tensor, pixel_mask: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        return pixel_values, pixel_mask


class PointwiseStem(nn.Module):
    """Every pixel is an input, mapped linearly: (B, channels, height, width) -> (B, C_c, height, width)."""

    def __init__(self, config: ImagePerceiverConfig):
        super().__init__()
        self.projection = nn.Conv2d(config.num_channels, config.stem_channels, kernel_size=1)

    def forward(
        self, pixel_values: torch.Tensor, pixel_mask: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        return self.projection(pixel_values), pixel_mask


class ConvStem(nn.Module):
    """A convolution, batch norm and max pooling: (B, channels, height, width) -> (B, C_c, height / 4, width / 4).

    The same as in transformers, for which DeepMind's weights are published; 224 pixels give 55 inputs. DeepMind's own
    code pads as TensorFlow does: there the convolution's windows begin a pixel later and the pooling gives 56 inputs.

    Beyond the end of an image, as given by a mask, the convolution sees zeros, as beyond the edge of the array; an
    input is valid if everything that it was pooled from is. So padding at the bottom and right changes nothing, except
    in training, where the batch norm includes it.
    """

    def __init__(self, config: ImagePerceiverConfig):
        super().__init__()
        self.conv = nn.Conv2d(
            config.num_channels, config.stem_channels, kernel_size=7, stride=2, padding=3, bias=False
        )
        self.norm = nn.BatchNorm2d(config.stem_channels)
        self.pool = nn.MaxPool2d(kernel_size=3, stride=2)

    def forward(
        self, pixel_values: torch.Tensor, pixel_mask: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        height, width = pixel_values.shape[2:]
        if min(height, width) < 5:
            raise ValueError(f'`stem="conv"` needs images of 5 x 5 pixels or more, got {height} x {width}.')
        if pixel_mask is not None:
            pixel_values = pixel_values.masked_fill(~pixel_mask.unsqueeze(1), 0.0)
            is_padding = (~pixel_mask[:, ::2, ::2]).to(pixel_values.dtype)  # at the middle of each window
            pixel_mask = self.pool(is_padding) == 0
        return self.pool(F.relu(self.norm(self.conv(pixel_values)))), pixel_mask


class FourierPositions(nn.Module):
    """Fourier features of a grid of any size."""

    def __init__(self, config: ImagePerceiverConfig):
        super().__init__()
        self.shape = config.stream_shapes[0]

    def forward(
        self, content: torch.Tensor, mask: torch.Tensor | None, interpolate_pos_encoding: bool
    ) -> GridPositions:
        return fourier_grid(
            sizes=tuple(content.shape[2:]),
            num_bands=self.shape.num_bands,
            max_resolutions=self.shape.max_resolutions,
            dtype=content.dtype,
            device=content.device,
            mask=mask,
        )


class LearnedPositions(nn.Module):
    """A learned table with one row per input of the configured grid, and a linear layer if configured.

    Rows belong to places in the array, so a mask does not move them, and another size needs an interpolated table.
    """

    def __init__(self, config: ImagePerceiverConfig):
        super().__init__()
        self.grid = config.stream_shapes[0].grid
        channels = config.learned_position_channels
        self.table = nn.Parameter(torch.empty(self.grid[0] * self.grid[1], channels))
        projected = config.position_projection_channels
        self.projection = nn.Identity() if projected is None else nn.Linear(channels, projected)

    def forward(
        self, content: torch.Tensor, mask: torch.Tensor | None, interpolate_pos_encoding: bool
    ) -> DensePositions:
        sizes = tuple(content.shape[2:])
        table: torch.Tensor = self.table
        if sizes != self.grid:
            if not interpolate_pos_encoding:
                raise ValueError(
                    f"The learned positions are those of {self.grid[0]} x {self.grid[1]} inputs, got {sizes[0]} x "
                    f"{sizes[1]}; pass `interpolate_pos_encoding=True` to interpolate them."
                )
            table = self.interpolated(sizes)
        return DensePositions(self.projection(table).unsqueeze(0))

    def interpolated(self, sizes: tuple[int, ...]) -> torch.Tensor:
        """The table for another grid, (height * width, C): bicubic, as everywhere in transformers."""
        image = at_least_float32(self.table).T.unflatten(1, self.grid)
        image = F.interpolate(image.unsqueeze(0), size=sizes, mode="bicubic", align_corners=False).squeeze(0)
        return image.flatten(1).T.to(self.table.dtype)


STEMS: dict[str, type[nn.Module]] = {"pixels": PixelStem, "conv1x1": PointwiseStem, "conv": ConvStem}
STEM_EMBEDDINGS = {"conv1x1": "projection", "conv": "conv"}  # the module of a stem that embeds the pixels
POSITIONS: dict[str, type[nn.Module]] = {"fourier": FourierPositions, "learned": LearnedPositions}


class ImageInputs(nn.Module):
    """(B, channels, height, width) -> M inputs, row by row of the grid that the stem returns."""

    def __init__(self, config: ImagePerceiverConfig):
        super().__init__()
        self.stem = STEMS[config.stem](config)
        self.positions = POSITIONS[config.position_encoding](config)

    def forward(
        self,
        pixel_values: torch.Tensor,
        pixel_mask: torch.Tensor | None = None,
        interpolate_pos_encoding: bool = False,
    ) -> PerceiverInputs:
        content, mask = self.stem(pixel_values, pixel_mask)
        stream = InputStream(
            content=content.flatten(2).transpose(1, 2),
            positions=self.positions(content, mask, interpolate_pos_encoding),
            mask=None if mask is None else mask.flatten(1),
        )
        return PerceiverInputs(stream)


class ImagePerceiverPreTrainedModel(IterativePerceiverPreTrainedModel):
    """What both models for images share: their input, and loading transformers' own Perceivers for images."""

    config: ImagePerceiverConfig
    main_input_name = "pixel_values"
    input_modalities = "image"

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, LearnedPositions):
            init_truncated_normal(module.table, self.config.initializer_range)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path, *model_args, **kwargs):
        """Loads a model from the Hub or a folder, as transformers does.

        Both this package's layout and that of transformers' own Perceivers for images, such as
        `deepmind/vision-perceiver-fourier`, are accepted; the latter are converted while they load.

        The converted configuration keeps the attention dropout, which transformers sets to 0.1 if the saved one does
        not specify it, although DeepMind trained without. `attention_dropout=0.0` turns it off and speeds up training.

        Raises:
            ValueError: For a Perceiver that is not for images, or that this class cannot express.
            OSError: As in transformers, and see [`SafetensorsPreTrainedModel.from_pretrained`].
        """
        kwargs.setdefault("key_mapping", KEY_MAPPING)
        loaded = super().from_pretrained(pretrained_model_name_or_path, *model_args, **kwargs)
        model = loaded[0] if isinstance(loaded, tuple) else loaded
        if kwargs["key_mapping"] is KEY_MAPPING:
            model._weight_conversions = None  # otherwise `save_pretrained` writes the layout that was read
        return loaded


class ImagePerceiverModel(ImagePerceiverPreTrainedModel, IterativePerceiverModel):
    r"""The Perceiver for images without a head: an image -> its latents.

    Example:
        >>> model = ImagePerceiverModel(ImagePerceiverConfig.from_variant("tiny"))
        >>> model(torch.randn(1, 3, 16, 24)).last_hidden_state.shape
        torch.Size([1, 8, 32])
    """

    def __init__(self, config: ImagePerceiverConfig):
        super().__init__(config)
        self.inputs = ImageInputs(config)
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        """The convolution that embeds the pixels or, without one, the module that returns the first hidden state."""
        if self.config.stem not in STEM_EMBEDDINGS:
            return super().get_input_embeddings()
        return self.inputs.stem.get_submodule(STEM_EMBEDDINGS[self.config.stem])

    def set_input_embeddings(self, value: nn.Module) -> None:
        if self.config.stem not in STEM_EMBEDDINGS:
            super().set_input_embeddings(value)
        else:
            self.inputs.stem.set_submodule(STEM_EMBEDDINGS[self.config.stem], value)

    @merge_with_config_defaults
    @capture_outputs(tie_last_hidden_states=False)
    def forward(
        self,
        pixel_values: torch.Tensor,
        pixel_mask: torch.Tensor | None = None,
        interpolate_pos_encoding: bool = False,
        **kwargs: Unpack[TransformersKwargs],
    ) -> BaseModelOutputWithCrossAttentions:
        r"""Encodes images as latents.

        Args:
            pixel_values: (B, `num_channels`, height, width), normalised; with Fourier positions, any height and width.
            pixel_mask: (B, height, width), 1 or True for pixels of the image, 0 or False for padding. Fourier
                positions are those of the smallest box that holds an image's pixels, so padding changes nothing.
                Learned positions are those of the array, padding included.
            interpolate_pos_encoding: Interpolate learned positions if the image is not of the configured size.
            kwargs: `output_attentions`, `output_hidden_states`, `return_dict`, as everywhere in transformers.

        Returns:
            `last_hidden_state` (B, `num_latents`, `d_latents`), `hidden_states` (the latents at first and after every
            layer), `attentions` and `cross_attentions`, the last (B, heads, `num_latents`, M) for the M inputs that
            the stem returns, row by row; pixels, unless configured otherwise.

        Raises:
            ValueError: If a shape is not as above.
        """
        if pixel_values.dim() != 4 or pixel_values.shape[1] != self.config.num_channels:
            raise ValueError(
                f"pixel_values must be (batch, num_channels={self.config.num_channels}, height, width), got "
                f"{tuple(pixel_values.shape)}."
            )
        if pixel_mask is not None:
            if pixel_mask.shape != (pixel_values.shape[0], *pixel_values.shape[2:]):
                raise ValueError(
                    f"pixel_mask must be (batch, height, width) = "
                    f"{(pixel_values.shape[0], *pixel_values.shape[2:])}, got {tuple(pixel_mask.shape)}."
                )
            pixel_mask = pixel_mask.bool()
        inputs = self.inputs(pixel_values.to(self.dtype), pixel_mask, interpolate_pos_encoding)
        return self.encode(inputs, **kwargs)


class ImagePerceiverForImageClassification(ImagePerceiverPreTrainedModel, IterativePerceiverForClassification):
    r"""The Perceiver for images with a classification head.

    One linear layer on the mean over the latents (paper, section 3.2), or on the output of a learned query that
    attends to them (Perceiver IO).

    Example:
        >>> model = ImagePerceiverForImageClassification(ImagePerceiverConfig.from_variant("tiny"))
        >>> model(torch.randn(2, 3, 16, 16), labels=torch.tensor([3, 7])).logits.shape
        torch.Size([2, 10])
    """

    def __init__(self, config: ImagePerceiverConfig):
        super().__init__(config, ImagePerceiverModel)

    @can_return_tuple
    def forward(
        self,
        pixel_values: torch.Tensor,
        pixel_mask: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        interpolate_pos_encoding: bool = False,
        **kwargs: Unpack[TransformersKwargs],
    ) -> IterativePerceiverClassifierOutput:
        r"""Classifies images.

        Args:
            pixel_values: As in [`ImagePerceiverModel.forward`].
            pixel_mask: As there.
            labels: (B,) class indices, or (B, `num_labels`) zeros and ones for several labels per image.
            interpolate_pos_encoding: As there.
            kwargs: As there.

        Returns:
            `logits` (B, `num_labels`) and, with labels, `loss`; see [`IterativePerceiverClassifierOutput`].

        Raises:
            ValueError: If a shape is wrong or a label is not below `num_labels`.
        """
        outputs = self.perceiver(pixel_values, pixel_mask, interpolate_pos_encoding, **kwargs)
        return self.classify(outputs, labels, **kwargs)


__all__ = ["ImagePerceiverForImageClassification", "ImagePerceiverModel"]
