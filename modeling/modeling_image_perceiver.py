"""The Perceiver for images: pixels and their positions in, latents or class logits out."""

import torch
from torch import nn
from transformers.modeling_outputs import BaseModelOutputWithCrossAttentions
from transformers.processing_utils import Unpack
from transformers.utils import TransformersKwargs, can_return_tuple
from transformers.utils.generic import merge_with_config_defaults
from transformers.utils.output_capturing import capture_outputs

from .checkpoint_conversion import KEY_MAPPING
from .configuration_image_perceiver import ImagePerceiverConfig
from .image_inputs import ImageInputs, LearnedPositions
from .modeling_iterative_perceiver import (
    IterativePerceiverClassifierOutput,
    IterativePerceiverForClassification,
    IterativePerceiverModel,
    IterativePerceiverPreTrainedModel,
    init_truncated_normal,
)


class ImagePerceiverPreTrainedModel(IterativePerceiverPreTrainedModel):
    """What both models for images share: their input, and that they load transformers' own Perceivers for images."""

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
        """As transformers' own, of a name on the Hub or a folder, in this package's layout or in that of transformers'
        own Perceivers for images, such as `deepmind/vision-perceiver-fourier`; those are converted while they load.

        The converted configuration keeps the attention dropout, which transformers sets to 0.1 where a configuration
        says nothing, though DeepMind trained without. `attention_dropout=0.0` turns it off, and training gets faster.

        Raises:
            ValueError: for a Perceiver that is not for images, or has what this class cannot express.
            OSError: as transformers', and see [`SafetensorsPreTrainedModel.from_pretrained`].
        """
        kwargs.setdefault("key_mapping", KEY_MAPPING)
        loaded = super().from_pretrained(pretrained_model_name_or_path, *model_args, **kwargs)
        model = loaded[0] if isinstance(loaded, tuple) else loaded
        if kwargs["key_mapping"] is KEY_MAPPING:
            model._weight_conversions = None  # or `save_pretrained` would write the layout that was read
        return loaded


class ImagePerceiverModel(ImagePerceiverPreTrainedModel, IterativePerceiverModel):
    r"""
    The Perceiver for images without a head: an image -> its latents.

    Example:
        >>> model = ImagePerceiverModel(ImagePerceiverConfig.from_variant("tiny"))
        >>> model(torch.randn(1, 3, 16, 24)).last_hidden_state.shape
        torch.Size([1, 8, 32])
    """

    def __init__(self, config: ImagePerceiverConfig):
        super().__init__(config)
        self.inputs = ImageInputs(config)
        self.post_init()

    @merge_with_config_defaults
    @capture_outputs(tie_last_hidden_states=False)
    def forward(
        self,
        pixel_values: torch.Tensor,
        pixel_mask: torch.Tensor | None = None,
        interpolate_pos_encoding: bool = False,
        **kwargs: Unpack[TransformersKwargs],
    ) -> BaseModelOutputWithCrossAttentions:
        r"""
        Args:
            pixel_values: (B, `num_channels`, height, width), normalised; with Fourier positions, any height and width.
            pixel_mask: (B, height, width), 1 or True for pixels of the image, 0 or False for padding. Fourier
                positions are those of the smallest box that holds an image's pixels, so padding changes nothing.
                Learned positions are those of the array, padding included.
            interpolate_pos_encoding: interpolate learned positions if the image is not of the configured size.
            output_attentions, output_hidden_states, return_dict: as everywhere in transformers.

        Returns: `last_hidden_state` (B, `num_latents`, `d_latents`), `hidden_states` (the latents at first and after
            every layer), `attentions` and `cross_attentions`, the last (B, heads, `num_latents`, M) with the M inputs
            that the stem makes of the image, row by row; pixels, if not configured otherwise.

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
        inputs = self.inputs(pixel_values.to(self.dtype), pixel_mask, interpolate_pos_encoding)
        return self.encode(inputs, **kwargs)


class ImagePerceiverForImageClassification(ImagePerceiverPreTrainedModel, IterativePerceiverForClassification):
    r"""
    The Perceiver for images with a classification head: one linear layer on the mean over the latents (paper, section
    3.2), or on what a learned query takes from them (Perceiver IO).

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
        r"""
        Args:
            pixel_values, pixel_mask, interpolate_pos_encoding: as [`ImagePerceiverModel.forward`].
            labels: (B,) class indices, or (B, `num_labels`) zeros and ones for many labels an image.

        Returns: `logits` (B, `num_labels`) and, with labels, `loss`; see [`IterativePerceiverClassifierOutput`].

        Raises:
            ValueError: if a shape is wrong or a label is not below `num_labels`.
        """
        outputs = self.perceiver(pixel_values, pixel_mask, interpolate_pos_encoding, **kwargs)
        return self.classify(outputs, labels, **kwargs)


__all__ = ["ImagePerceiverForImageClassification", "ImagePerceiverModel"]
