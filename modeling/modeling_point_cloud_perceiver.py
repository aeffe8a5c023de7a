"""The Perceiver for point clouds: points in any order in, latents or class logits out."""

import torch
from torch import nn
from transformers.modeling_outputs import BaseModelOutputWithCrossAttentions
from transformers.processing_utils import Unpack
from transformers.utils import TransformersKwargs, can_return_tuple
from transformers.utils.generic import merge_with_config_defaults
from transformers.utils.output_capturing import capture_outputs

from .configuration_point_cloud_perceiver import PointCloudPerceiverConfig
from .modeling_iterative_perceiver import (
    InputStream,
    IterativePerceiverClassifierOutput,
    IterativePerceiverForClassification,
    IterativePerceiverModel,
    IterativePerceiverPreTrainedModel,
    PerceiverInputs,
)
from .positions import at_least_float32, fourier_points


class PointCloudInputs(nn.Module):
    """(B, P, 3 + F) -> P inputs: the coordinates of a point are its position, its features are its content."""

    def __init__(self, config: PointCloudPerceiverConfig):
        super().__init__()
        self.shape = config.stream_shapes[0]

    def forward(
        self, point_values: torch.Tensor, mask: torch.Tensor | None, dtype: torch.dtype | None = None
    ) -> PerceiverInputs:
        """Content has the given type; positions are at least float32, whatever the type of the weights."""
        if mask is not None:
            point_values = point_values.masked_fill(~mask.unsqueeze(-1), 0.0)  # padding may be NaN
        coordinates, features = point_values.split([3, self.shape.content_channels], dim=-1)
        positions = fourier_points(at_least_float32(coordinates), self.shape.num_bands, self.shape.max_resolutions)
        return PerceiverInputs(InputStream(features.to(dtype), positions, mask))


class PointCloudPerceiverPreTrainedModel(IterativePerceiverPreTrainedModel):
    """What both models for point clouds share: their input.

    Attributes:
        input_dtype: Of the points, even if the weights are in half precision, which cannot hold the angles of high
            frequencies.
    """

    config: PointCloudPerceiverConfig
    main_input_name = "point_values"
    input_modalities = "point_cloud"
    input_dtype = torch.float32


class PointCloudPerceiverModel(PointCloudPerceiverPreTrainedModel, IterativePerceiverModel):
    r"""The Perceiver for point clouds without a head: a cloud -> its latents.

    Example:
        >>> model = PointCloudPerceiverModel(PointCloudPerceiverConfig.from_variant("tiny"))
        >>> model(torch.rand(1, 500, 3)).last_hidden_state.shape
        torch.Size([1, 8, 32])
    """

    def __init__(self, config: PointCloudPerceiverConfig):
        super().__init__(config)
        self.inputs = PointCloudInputs(config)
        self.post_init()

    @merge_with_config_defaults
    @capture_outputs(tie_last_hidden_states=False)
    def forward(
        self,
        point_values: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> BaseModelOutputWithCrossAttentions:
        r"""Encodes point clouds as latents.

        Args:
            point_values: (B, P, 3 + `num_features`): x, y and z of P points in [-1, 1], then their features. Any
                number of points in any order. Keep them in float32, even if the weights are in half precision.
            attention_mask: (B, P), 1 or True for points, 0 or False for padding, which changes nothing.
            kwargs: `output_attentions`, `output_hidden_states`, `return_dict`, as everywhere in transformers.

        Returns:
            `last_hidden_state` (B, `num_latents`, `d_latents`), `hidden_states` (the latents at first and after every
            layer), `attentions` and `cross_attentions`, the last (B, heads, `num_latents`, P).

        Raises:
            ValueError: If a shape is not as above.
        """
        width = 3 + self.config.num_features
        if point_values.dim() != 3 or point_values.shape[1] < 1 or point_values.shape[2] != width:
            raise ValueError(
                f"point_values must be (batch, points, 3 + num_features={width}) with at least one point, got "
                f"{tuple(point_values.shape)}."
            )
        if attention_mask is not None:
            if attention_mask.shape != point_values.shape[:2]:
                raise ValueError(
                    f"attention_mask must be (batch, points) = {tuple(point_values.shape[:2])}, got "
                    f"{tuple(attention_mask.shape)}."
                )
            attention_mask = attention_mask.bool()
        return self.encode(self.inputs(point_values, attention_mask, self.dtype), **kwargs)


class PointCloudPerceiverForPointCloudClassification(
    PointCloudPerceiverPreTrainedModel, IterativePerceiverForClassification
):
    r"""The Perceiver for point clouds with a classification head.

    One linear layer on the mean over the latents (paper, section 3.2), or on the output of a learned query that
    attends to them (Perceiver IO).

    Example:
        >>> model = PointCloudPerceiverForPointCloudClassification(PointCloudPerceiverConfig.from_variant("tiny"))
        >>> model(torch.rand(2, 500, 3), labels=torch.tensor([3, 7])).logits.shape
        torch.Size([2, 10])
    """

    def __init__(self, config: PointCloudPerceiverConfig):
        super().__init__(config, PointCloudPerceiverModel)

    @can_return_tuple
    def forward(
        self,
        point_values: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> IterativePerceiverClassifierOutput:
        r"""Classifies point clouds.

        Args:
            point_values: As in [`PointCloudPerceiverModel.forward`].
            attention_mask: As there.
            labels: (B,) class indices, or (B, `num_labels`) zeros and ones for several labels per cloud.
            kwargs: As there.

        Returns:
            `logits` (B, `num_labels`) and, with labels, `loss`; see [`IterativePerceiverClassifierOutput`].

        Raises:
            ValueError: If a shape is wrong or a label is not below `num_labels`.
        """
        outputs = self.perceiver(point_values, attention_mask, **kwargs)
        return self.classify(outputs, labels, **kwargs)


__all__ = ["PointCloudPerceiverForPointCloudClassification", "PointCloudPerceiverModel"]
