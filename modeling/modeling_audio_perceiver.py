"""The Perceiver for audio: a waveform or a mel spectrogram in, latents or class logits out."""

import torch
from transformers.modeling_outputs import BaseModelOutputWithCrossAttentions
from transformers.processing_utils import Unpack
from transformers.utils import TransformersKwargs, can_return_tuple
from transformers.utils.generic import merge_with_config_defaults
from transformers.utils.output_capturing import capture_outputs

from .audio_inputs import AUDIO_INPUTS
from .configuration_audio_perceiver import AudioPerceiverConfig
from .modeling_iterative_perceiver import (
    IterativePerceiverClassifierOutput,
    IterativePerceiverForClassification,
    IterativePerceiverModel,
    IterativePerceiverPreTrainedModel,
)


class AudioPerceiverPreTrainedModel(IterativePerceiverPreTrainedModel):
    """What both models for audio share: their input, which the configured representation names."""

    config: AudioPerceiverConfig
    main_input_name = "input_values"
    input_modalities = "audio"

    def __init__(self, config: AudioPerceiverConfig, *args, **kwargs):
        super().__init__(config, *args, **kwargs)
        self.main_input_name = AUDIO_INPUTS[config.representation].name


class AudioPerceiverModel(AudioPerceiverPreTrainedModel, IterativePerceiverModel):
    r"""
    The Perceiver for audio without a head: a clip -> its latents.

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
        r"""
        Args:
            input_values: (B, samples), for `representation="waveform"`: mono, of any length.
            input_features: (B, frames, `num_mel_bins`), for `representation="mel"`: log-mel, any number of frames.
            attention_mask: (B, samples) or (B, frames), 1 or True for what belongs to the clip, 0 or False for
                padding. Positions are those of the span that a clip takes, so padding changes nothing.
            output_attentions, output_hidden_states, return_dict: as everywhere in transformers.

        Returns: `last_hidden_state` (B, `num_latents`, `d_latents`), `hidden_states` (the latents at first and after
            every layer), `attentions` and `cross_attentions`, the last (B, heads, `num_latents`, M) with the M patches
            of the waveform, or the frames of the spectrogram one after the other, lowest frequency first.

        Raises:
            ValueError: if the input is that of the other representation, or a shape is not as above.
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
    r"""
    The Perceiver for audio with a classification head: one linear layer on the mean over the latents (paper, section
    3.2). A clip has one label, or with `problem_type="multi_label_classification"`, as in AudioSet, any number.

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
        r"""
        Args:
            input_values, attention_mask, input_features: as [`AudioPerceiverModel.forward`].
            labels: (B,) class indices, or (B, `num_labels`) zeros and ones for many labels a clip.

        Returns: `logits` (B, `num_labels`) and, with labels, `loss`; see [`IterativePerceiverClassifierOutput`].

        Raises:
            ValueError: if a shape is wrong or a label is not below `num_labels`.
        """
        outputs = self.perceiver(input_values, attention_mask, input_features, **kwargs)
        return self.classify(outputs, labels, **kwargs)


__all__ = ["AudioPerceiverForAudioClassification", "AudioPerceiverModel"]
