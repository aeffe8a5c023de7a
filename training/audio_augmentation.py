"""From recordings to batches: a crop in time, level and noise of each, then the feature extractor; and SpecAugment of
whole batches, by torchaudio, which is imported when asked for.

Letters: B batch, T samples, F frames.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from transformers import BatchFeature

from .audio_arguments import AudioAugmentationArguments


@dataclass
class RandomWaveform:
    """A clip cut anywhere from a recording, at another level, with white noise added.

    Attributes:
        num_samples: of a clip; shorter recordings stay as they are. `None` cuts nothing.
        level: largest change to either side, in decibels.
        noise: largest standard deviation of the noise, as a part of the clip's.
    """

    num_samples: int | None
    level: float
    noise: float

    def __call__(self, waveform: torch.Tensor) -> torch.Tensor:
        """(T,) -> (T,) or (`num_samples`,)."""
        if self.num_samples is not None and len(waveform) > self.num_samples:
            start = int(torch.randint(len(waveform) - self.num_samples + 1, ()))
            waveform = waveform[start : start + self.num_samples]
        if self.noise:
            strength = self.noise * torch.rand(()) * waveform.square().mean().sqrt()
            waveform = waveform + strength * torch.randn_like(waveform)
        return waveform * 10 ** (self.level * (2 * torch.rand(()) - 1) / 20)


def make_augmentation(arguments: AudioAugmentationArguments, num_samples: int | None) -> RandomWaveform | None:
    """What varies a recording; `None` if not asked for.

    Args:
        num_samples: of a clip.
    """
    if not (arguments.time_crop or arguments.level or arguments.noise):
        return None
    return RandomWaveform(num_samples if arguments.time_crop else None, arguments.level, arguments.noise)


@dataclass
class AudioProcess:
    """A list of recordings -> what the model takes.

    Attributes:
        processor: the feature extractor.
        augmentation: of each recording before it, which needs a processor that has `waveform`, as ours; `None` for
            evaluation.
    """

    processor: Any
    augmentation: Callable[[torch.Tensor], torch.Tensor] | None = None

    @property
    def is_random(self) -> bool:
        """Whether a recording becomes something else each time."""
        return self.augmentation is not None

    def __call__(self, recordings: list) -> BatchFeature:
        if self.augmentation is None:
            return self.processor(recordings, return_tensors="pt")
        clips = [self.augmentation(self.processor.waveform(recording)) for recording in recordings]
        return self.processor(clips, sampling_rate=self.processor.sampling_rate, return_tensors="pt")


@dataclass
class SpecAugment:
    """Wipes out a band of frames and a band of mel bins of every spectrogram of a batch, each of a random width up to
    its limit (arXiv 1904.08779). What is wiped out becomes 0, the mean of a normalised spectrogram.

    Attributes:
        time_mask: in frames.
        frequency_mask: in mel bins.
    """

    time_mask: int
    frequency_mask: int

    def __call__(self, inputs: dict[str, Any]) -> dict[str, Any]:
        from torchaudio.functional import mask_along_axis_iid

        spectrograms = inputs["input_features"].unsqueeze(1)  # (B, 1, F, mel bins)
        for width, axis in ((self.time_mask, 2), (self.frequency_mask, 3)):
            if width:
                spectrograms = mask_along_axis_iid(spectrograms, width, mask_value=0.0, axis=axis)
        return {**inputs, "input_features": spectrograms.squeeze(1)}


def make_spec_augment(arguments: AudioAugmentationArguments) -> SpecAugment | None:
    """SpecAugment of batches; `None` if not asked for."""
    is_wanted = arguments.time_mask or arguments.frequency_mask
    return SpecAugment(arguments.time_mask, arguments.frequency_mask) if is_wanted else None
