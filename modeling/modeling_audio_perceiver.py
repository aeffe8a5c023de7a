"""The Perceiver for audio: a waveform or a mel spectrogram in, latents or class logits out.

Neither representation has parameters (paper, section 4.2). Letters: B batch, T samples, F frames, M inputs.
"""

import torch
from torch import nn
from torch.nn import functional as F
from transformers.modeling_outputs import BaseModelOutputWithCrossAttentions
from transformers.processing_utils import Unpack
from transformers.utils import TransformersKwargs, can_return_tuple
from transformers.utils.generic import merge_with_config_defaults
from transformers.utils.output_capturing import capture_outputs

from .configuration_audio_perceiver import AudioPerceiverConfig
from .configuration_iterative_perceiver import StreamShape
from .modeling_iterative_perceiver import (
    InputStream,
    IterativePerceiverClassifierOutput,
    IterativePerceiverForClassification,
    IterativePerceiverModel,
    IterativePerceiverPreTrainedModel,
    PerceiverInputs,
)
from .positions import fourier_grid


class WaveformInputs(nn.Module):
    """(B, T) samples -> M = T / `samples_per_patch` inputs, in order of time.

    The last patch is filled up with zeros, and so is everything beyond the end of a clip, as given by a mask; a patch
    is an input if any of its samples is valid.
    """

    name = "input_values"

    def __init__(self, config: AudioPerceiverConfig):
        super().__init__()
        self.config = config

    def check(self, input_values: torch.Tensor) -> None:
        if input_values.dim() != 2:
            raise ValueError(f"input_values must be (batch, samples), got {tuple(input_values.shape)}.")

    def forward(self, input_values: torch.Tensor, attention_mask: torch.Tensor | None) -> PerceiverInputs:
        size = self.config.samples_per_patch
        missing = -input_values.shape[1] % size
        mask = None
        if attention_mask is not None:
            input_values = input_values.masked_fill(~attention_mask, 0.0)
            mask = F.pad(attention_mask, (0, missing)).unflatten(1, (-1, size)).any(dim=-1)
        content = F.pad(input_values, (0, missing)).unflatten(1, (-1, size))
        return grid_inputs(content, mask, self.config.stream_shapes[0])


class MelInputs(nn.Module):
    """(B, F, mel bins) log-mel spectrogram -> M = F * mel bins inputs, frame by frame; the mask is over frames."""

    name = "input_features"

    def __init__(self, config: AudioPerceiverConfig):
        super().__init__()
        self.config = config

    def check(self, input_features: torch.Tensor) -> None:
        if input_features.dim() != 3 or input_features.shape[2] != self.config.num_mel_bins:
            raise ValueError(
                f"input_features must be (batch, frames, num_mel_bins={self.config.num_mel_bins}), got "
                f"{tuple(input_features.shape)}."
            )

    def forward(self, input_features: torch.Tensor, attention_mask: torch.Tensor | None) -> PerceiverInputs:
        mask = None if attention_mask is None else attention_mask.unsqueeze(2).expand(input_features.shape)
        return grid_inputs(input_features.unsqueeze(-1), mask, self.config.stream_shapes[0])


def grid_inputs(content: torch.Tensor, mask: torch.Tensor | None, shape: StreamShape) -> PerceiverInputs:
    """Content (B, *grid, C_c) and a mask (B, *grid) -> inputs with Fourier positions, row-major."""
    sizes = tuple(content.shape[1:-1])
    positions = fourier_grid(
        sizes=sizes,
        num_bands=shape.num_bands,
        max_resolutions=shape.max_resolutions,
        dtype=content.dtype,
        device=content.device,
        mask=mask,
    )
    stream = InputStream(content.flatten(1, len(sizes)), positions, None if mask is None else mask.flatten(1))
    return PerceiverInputs(stream)


AUDIO_INPUTS: dict[str, type[WaveformInputs] | type[MelInputs]] = {"waveform": WaveformInputs, "mel": MelInputs}


class AudioPerceiverPreTrainedModel(IterativePerceiverPreTrainedModel):
    """What both models for audio share: their input, which depends on the configured representation."""

    config: AudioPerceiverConfig
    main_input_name = "input_values"
    input_modalities = "audio"

    def __init__(self, config: AudioPerceiverConfig, *args, **kwargs):
        super().__init__(config, *args, **kwargs)
        self.main_input_name = AUDIO_INPUTS[config.representation].name


class AudioPerceiverModel(AudioPerceiverPreTrainedModel, IterativePerceiverModel):
    r"""The Perceiver for audio without a head: a clip -> its latents.

    Example:
        >>> model = AudioPerceiverModel(AudioPerceiverConfig.from_variant("tiny"))
        >>> model(torch.randn(1, 700)).last_hidden_state.shape
        torch.Size([1, 8, 32])
    """

    def __init__(self, config: AudioPerceiverConfig):
        super().__init__(config)
        self.inputs = AUDIO_INPUTS[config.representation](config)
        self.post_init()

    @merge_with_config_defaults
    @capture_outputs(tie_last_hidden_states=False)
    def forward(
        self,
        input_values: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        input_features: torch.Tensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> BaseModelOutputWithCrossAttentions:
        r"""Encodes audio clips as latents.

        Args:
            input_values: (B, samples), for `representation="waveform"`: mono, of any length.
            attention_mask: (B, samples) or (B, frames), 1 or True for the clip, 0 or False for padding. Positions are
                relative to the clip without its padding, so padding changes nothing.
            input_features: (B, frames, `num_mel_bins`), for `representation="mel"`: log-mel, any number of frames.
            kwargs: `output_attentions`, `output_hidden_states`, `return_dict`, as everywhere in transformers.

        Returns:
            `last_hidden_state` (B, `num_latents`, `d_latents`), `hidden_states` (the latents at first and after every
            layer), `attentions` and `cross_attentions`, the last (B, heads, `num_latents`, M) for the M patches of the
            waveform, or for the values of the spectrogram, frame by frame, lowest frequency first.

        Raises:
            ValueError: If the input is that of the other representation, or a shape is not as above.
        """
        given = {"input_values": input_values, "input_features": input_features}
        values = given.pop(self.main_input_name)
        (other,) = given
        if values is None or given[other] is not None:
            raise ValueError(
                f"With representation={self.config.representation!r} the model takes `{self.main_input_name}` and no "
                f"`{other}`."
            )
        self.inputs.check(values)
        if attention_mask is not None:
            if attention_mask.shape != values.shape[:2]:
                raise ValueError(
                    f"attention_mask must have the first two sizes of {self.main_input_name}, "
                    f"{tuple(values.shape[:2])}, got {tuple(attention_mask.shape)}."
                )
            attention_mask = attention_mask.bool()
        return self.encode(self.inputs(values.to(self.dtype), attention_mask), **kwargs)


class AudioPerceiverForAudioClassification(AudioPerceiverPreTrainedModel, IterativePerceiverForClassification):
    r"""The Perceiver for audio with a classification head.

    One linear layer on the mean over the latents (paper, section 3.2). A clip has one label or, with
    `problem_type="multi_label_classification"` as in AudioSet, any number.

    Example:
        >>> model = AudioPerceiverForAudioClassification(AudioPerceiverConfig.from_variant("tiny"))
        >>> model(torch.randn(2, 512), labels=torch.tensor([3, 7])).logits.shape
        torch.Size([2, 10])
    """

    def __init__(self, config: AudioPerceiverConfig):
        super().__init__(config, AudioPerceiverModel)

    @can_return_tuple
    def forward(
        self,
        input_values: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        input_features: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> IterativePerceiverClassifierOutput:
        r"""Classifies audio clips.

        Args:
            input_values: As in [`AudioPerceiverModel.forward`].
            attention_mask: As there.
            input_features: As there.
            labels: (B,) class indices, or (B, `num_labels`) zeros and ones for several labels per clip.
            kwargs: As there.

        Returns:
            `logits` (B, `num_labels`) and, with labels, `loss`; see [`IterativePerceiverClassifierOutput`].

        Raises:
            ValueError: If a shape is wrong or a label is not below `num_labels`.
        """
        outputs = self.perceiver(input_values, attention_mask, input_features, **kwargs)
        return self.classify(outputs, labels, **kwargs)


__all__ = ["AudioPerceiverForAudioClassification", "AudioPerceiverModel"]
