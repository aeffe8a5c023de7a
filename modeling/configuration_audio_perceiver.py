"""Configuration of the Perceiver for audio, and the table of its variants."""

import math
from typing import Any, Literal

from huggingface_hub.dataclasses import strict

from .configuration_iterative_perceiver import MINIMA, IterativePerceiverConfig, StreamShape

# The labels are AudioSet's unless others are given: 527, and a clip has any number of them.
AUDIOSET: dict[str, Any] = {"num_labels": 527, "problem_type": "multi_label_classification"}

TINY: dict[str, Any] = {  # ours, for tests and first steps
    "num_samples": 512,
    "samples_per_patch": 16,
    "num_frames": 16,
    "num_mel_bins": 8,
    "num_latents": 8,
    "d_latents": 32,
    "num_self_attends_per_block": 2,
    "num_self_attention_heads": 4,
    "num_frequency_bands": 4,
    "num_labels": 10,
}

# Each row lists what differs from the defaults, which are the paper's AudioSet model on raw audio.
# [P] is arXiv 2103.03206, Perceiver.
AUDIO_VARIANTS: dict[str, dict[str, Any]] = {
    "audioset-waveform": AUDIOSET,  # [P] section 4.2, table 3: 38.3 mAP, 480 inputs
    "audioset-mel": {**AUDIOSET, "representation": "mel"},  # [P] section 4.2, table 3: 38.4 mAP, 4,800 inputs
    "small": {  # ours, for a few hundred to a few thousand clips and minutes on a CPU
        "representation": "mel",
        "num_frames": 96,
        "num_mel_bins": 24,
        "num_latents": 32,
        "d_latents": 64,
        "num_self_attends_per_block": 2,
        "num_cross_attends": 1,
        "share_blocks": True,
        "num_self_attention_heads": 4,
        "num_cross_attention_heads": 4,
        "qk_channels": 64,
        "v_channels": 64,
        "num_frequency_bands": 32,
        "initializer_range": 1.0,
        "num_labels": 10,
    },
    "tiny": TINY,
    "tiny-mel": {**TINY, "representation": "mel"},
}


@strict
class AudioPerceiverConfig(IterativePerceiverConfig):
    r"""Configuration of an [`AudioPerceiverModel`].

    The defaults are the paper's AudioSet model (arXiv 2103.03206, section 4.2): 61,440 samples in patches of 128, 2
    cross-attends, each before a block of 8 self-attention layers, no shared weights, 527 labels of which a clip has
    any number. The other fields are described in [`IterativePerceiverConfig`].

    Where the paper is silent: 512 latents of 512 channels are those of the Perceiver in table 10 of Perceiver IO
    (arXiv 2107.14795), on AudioSet as well; 64 frequency bands are those of its ImageNet model; and of the mel
    spectrogram it only says that it has 4,800 values.

    Args:
        representation (`"waveform"` or `"mel"`, defaults to `"waveform"`):
            What an input is. `"waveform"`: `samples_per_patch` samples of raw audio, at a place in time. `"mel"`: one
            value of a mel spectrogram, at a place in time and frequency.
        num_samples (`int`, defaults to 61440):
            `"waveform"`: the length that the model is made for, 1.28 s at 48 kHz. It accepts any other length; the
            frequencies of the positions stay those of this one, as they do for `num_frames`.
        samples_per_patch (`int`, defaults to 128):
            `"waveform"`: the channels of an input's content.
        num_frames (`int`, defaults to 120):
            `"mel"`: frames of the spectrogram that the model is made for; it accepts any other number.
        num_mel_bins (`int`, defaults to 40):
            `"mel"`: values of a frame.

    Example:
        >>> config = AudioPerceiverConfig.from_variant("audioset-mel", num_labels=50)
    """

    model_type = "audio_perceiver"
    variants = AUDIO_VARIANTS
    minima = MINIMA | dict.fromkeys(("num_samples", "samples_per_patch", "num_frames", "num_mel_bins"), 1)

    representation: Literal["waveform", "mel"] = "waveform"
    num_samples: int = 61440
    samples_per_patch: int = 128
    num_frames: int = 120
    num_mel_bins: int = 40
    num_latents: int = 512
    d_latents: int = 512
    num_blocks: int = 2
    num_self_attends_per_block: int = 8
    num_cross_attends: int = 2
    share_cross_attends: Literal["none", "after_first", "all"] = "none"
    share_blocks: bool = False

    def __post_init__(self, **kwargs):
        if self.id2label is None and kwargs.get("num_labels") is None:
            kwargs["num_labels"] = AUDIOSET["num_labels"]
            self.problem_type = self.problem_type or AUDIOSET["problem_type"]
        super().__post_init__(**kwargs)

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs):
        """Builds a configuration from a saved dictionary, as transformers does.

        transformers does not save its default of two labels, so a saved configuration without labels has those two
        and not AudioSet's.
        """
        if config_dict.get("id2label") is None:
            config_dict = {"num_labels": 2, **config_dict}
        return super().from_dict(config_dict, **kwargs)

    @property
    def stream_shapes(self) -> tuple[StreamShape, ...]:
        """Patches in time, or values in time and frequency: (480,) and (120, 40) for the paper's models."""
        grid: tuple[int, ...] = (self.num_frames, self.num_mel_bins)
        content_channels = 1
        if self.representation == "waveform":
            grid = (math.ceil(self.num_samples / self.samples_per_patch),)
            content_channels = self.samples_per_patch
        return (StreamShape(grid, content_channels, self.max_resolutions(default=grid), self.num_frequency_bands),)


__all__ = ["AUDIO_VARIANTS", "AudioPerceiverConfig"]
