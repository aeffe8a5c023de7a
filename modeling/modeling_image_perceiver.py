"""The Perceiver for images: pixels and their positions in, latents or class logits out."""

import torch
from torch import nn
from transformers.modeling_outputs import BaseModelOutputWithCrossAttentions
from transformers.processing_utils import Unpack
from transformers.utils import TransformersKwargs, can_return_tuple
from transformers.utils.generic import merge_with_config_defaults
from transformers.utils.output_capturing import capture_outputs

from .configuration_image_perceiver import ImagePerceiverConfig
from .modeling_iterative_perceiver import (
    IterativePerceiverClassifierOutput,
    IterativePerceiverForClassification,
    IterativePerceiverModel,
    PerceiverInputs,
)
from .positions import fourier_grid


class PixelInputs(nn.Module):
    """Every pixel is an input: (B, channels, height, width) -> M = height * width inputs in row-major order."""

    def __init__(self, config: ImagePerceiverConfig):
        super().__init__()
        self.config = config

    def forward(self, pixel_values: torch.Tensor, pixel_mask: torch.Tensor | None) -> PerceiverInputs:
        positions = fourier_grid(
            sizes=tuple(pixel_values.shape[2:]),
            num_bands=self.config.num_frequency_bands,
            max_resolutions=self.config.max_resolutions,
            dtype=torch.promote_types(pixel_values.dtype, torch.float32),
            device=pixel_values.device,
            mask=pixel_mask,
        )
        return PerceiverInputs(
            content=pixel_values.flatten(2).transpose(1, 2),
            positions=positions,
            mask=None if pixel_mask is None else pixel_mask.flatten(1),
        )


class ImagePerceiverModel(IterativePerceiverModel):
    r"""
    The Perceiver for images without a head: an image -> its latents.

    Example:
        >>> model = ImagePerceiverModel(ImagePerceiverConfig.from_variant("tiny"))
        >>> model(torch.randn(1, 3, 16, 24)).last_hidden_state.shape
        torch.Size([1, 8, 32])
    """

    config: ImagePerceiverConfig
    main_input_name = "pixel_values"
    input_modalities = "image"

    def __init__(self, config: ImagePerceiverConfig):
        super().__init__(config)
        self.inputs = PixelInputs(config)
        self.post_init()

    @merge_with_config_defaults
    @capture_outputs(tie_last_hidden_states=False)
    def forward(
        self,
        pixel_values: torch.Tensor,
        pixel_mask: torch.Tensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> BaseModelOutputWithCrossAttentions:
        r"""
        Args:
            pixel_values: (B, `num_channels`, height, width), normalised; any height and width.
            pixel_mask: (B, height, width), 1 or True for pixels of the image, 0 or False for padding. Positions are
                those of the smallest box that holds an image's pixels, so padding changes nothing.
            output_attentions, output_hidden_states, return_dict: as everywhere in transformers.

        Returns: `last_hidden_state` (B, `num_latents`, `d_latents`), `hidden_states` (the latents at first and after
            every layer), `attentions` and `cross_attentions`, the last (B, heads, `num_latents`, height * width).

        Raises:
            ValueError: if a shape is not as above.
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
        return self.encode(self.inputs(pixel_values.to(self.dtype), pixel_mask), **kwargs)


class ImagePerceiverForImageClassification(IterativePerceiverForClassification):
    r"""
    The Perceiver for images with a classification head: the mean over the latents and one linear layer (paper, section
    3.2).

    Example:
        >>> model = ImagePerceiverForImageClassification(ImagePerceiverConfig.from_variant("tiny"))
        >>> model(torch.randn(2, 3, 16, 16), labels=torch.tensor([3, 7])).logits.shape
        torch.Size([2, 10])
    """

    config: ImagePerceiverConfig
    main_input_name = "pixel_values"
    input_modalities = "image"

    def __init__(self, config: ImagePerceiverConfig):
        super().__init__(config, ImagePerceiverModel)

    @can_return_tuple
    def forward(
        self,
        pixel_values: torch.Tensor,
        pixel_mask: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> IterativePerceiverClassifierOutput:
        r"""
        Args:
            pixel_values, pixel_mask: as [`ImagePerceiverModel.forward`].
            labels: (B,) class indices, or (B, `num_labels`) zeros and ones for many labels an image.

        Returns: `logits` (B, `num_labels`) and, with labels, `loss`; see [`IterativePerceiverClassifierOutput`].

        Raises:
            ValueError: if a shape is wrong or a label is not below `num_labels`.
        """
        outputs = self.perceiver(pixel_values, pixel_mask, **kwargs)
        return self.classify(outputs, labels, **kwargs)


__all__ = ["ImagePerceiverForImageClassification", "ImagePerceiverModel"]
