"""Feature extractor of the Perceiver for audio: one rate, one channel, one length; raw or as a mel spectrogram.

Letters: B batch, C channels, T samples, F frames.
"""

import inspect
import math
from collections.abc import Callable, Sequence
from functools import lru_cache
from numbers import Number
from typing import Any

import numpy as np
import torch
from transformers import BatchFeature, SequenceFeatureExtractor
from transformers.utils import PaddingStrategy, TensorType

from .audio_reading import MAX_CHANNELS, checked_rate, read_mono
from .audio_resampling import import_torchaudio
from .processor_fields import check_fields
from .reading import check_memory, naming

REPRESENTATIONS = ("waveform", "mel")
# Fields of every `SequenceFeatureExtractor`.
SEQUENCE_FIELDS = ("feature_size", "padding_side", "return_attention_mask")
VARIANCE_FLOOR = 1e-7  # keeps silence at 0


@lru_cache(maxsize=16)
def mel_spectrogram(sampling_rate: int, n_fft: int, hop_length: int, num_mel_bins: int) -> Callable:
    """Builds torchaudio's mel spectrogram: power, Hann window, zeros beyond the ends of a clip."""
    torchaudio = import_torchaudio("A mel spectrogram")
    return torchaudio.transforms.MelSpectrogram(
        sampling_rate, n_fft=n_fft, hop_length=hop_length, n_mels=num_mel_bins, pad_mode="constant"
    )


def is_batch(audio: Any) -> bool:
    """Whether this is several clips, as transformers decides it.

    A list is a batch unless it holds numbers; an array is one if it has two or more dimensions.
    """
    if isinstance(audio, np.ndarray | torch.Tensor):
        return audio.ndim > 1
    is_list = isinstance(audio, Sequence) and not isinstance(audio, str | bytes)
    return is_list and len(audio) > 0 and not isinstance(audio[0], Number)


def check_axes(audio: Any) -> None:
    """Refuses a batch that is rather one clip with its axes swapped: (samples, channels), as soundfile returns it.

    Raises:
        ValueError: It has more rows than columns, and no more columns than a recording can have channels.
    """
    if isinstance(audio, np.ndarray | torch.Tensor):
        shape = tuple(audio.shape)
    else:  # lists of numbers
        rows = {len(clip) if isinstance(clip, list | tuple) else 0 for clip in audio}
        shape = (len(audio), rows.pop()) if len(rows) == 1 else ()
    if len(shape) == 2 and shape[0] > shape[1] and 0 < shape[1] <= MAX_CHANNELS:
        raise ValueError(
            f"expected clips of shape (clips, samples), got {shape}, which may be one clip of {shape[0]:,} samples "
            f"with {shape[1]} channels; pass that transposed in a list, and short clips as a list of arrays"
        )


class AudioPerceiverFeatureExtractor(SequenceFeatureExtractor):
    """Turns audio into the inputs of an [`AudioPerceiverModel`].

    Audio is mixed down to one channel, resampled by torchaudio, cut or padded to one length, and normalised. The
    defaults are the paper's clips (arXiv 2103.03206, section 4.2).

    A waveform is returned as samples, which the model cuts into patches. A mel spectrogram has one frame every
    `hop_length` samples, centred there; frames centred inside the clip are kept, so 61,440 samples give 120 frames. It
    is torchaudio's `MelSpectrogram` followed by the logarithm. The paper only says that it has 4,800 values.

    Args:
        representation (`"waveform"` or `"mel"`, defaults to `"waveform"`):
            Whether to return `input_values` or `input_features`.
        sampling_rate (`int`, defaults to 48000):
            Rate of the returned clip in hertz.
        num_samples (`int`, defaults to 61440):
            Length of a clip in samples: 1.28 s.
        n_fft (`int`, defaults to 1024):
            Window of the mel spectrogram in samples.
        hop_length (`int`, defaults to 512):
            Step of the mel spectrogram in samples.
        num_mel_bins (`int`, defaults to 40):
            Number of frequencies of the mel spectrogram.
        mel_floor (`float`, defaults to 1e-6):
            Smallest power to take the logarithm of; smaller powers are raised to it.
        do_normalize (`bool`, defaults to `True`):
            Whether to bring the samples of a clip, or the values of its spectrogram, to mean 0 and variance 1.
        padding_value (`float`, defaults to 0.0):
            Value that short clips are padded with, after normalisation.
        **kwargs:
            `return_attention_mask` (`bool`, defaults to `True`) decides whether `attention_mask` is returned;
            `padding_side` is that of `SequenceFeatureExtractor`.

    Raises:
        ValueError: An argument does not exist, or has a value that it cannot have.

    Example:
        >>> extractor = AudioPerceiverFeatureExtractor(representation="mel")
        >>> inputs = extractor(np.zeros((2, 30000)), sampling_rate=48000, return_tensors="pt")
        >>> inputs["input_features"].shape
        torch.Size([2, 120, 40])
    """

    def __init__(
        self,
        representation: str = "waveform",
        sampling_rate: int = 48000,
        num_samples: int = 61440,
        n_fft: int = 1024,
        hop_length: int = 512,
        num_mel_bins: int = 40,
        mel_floor: float = 1e-6,
        do_normalize: bool = True,
        padding_value: float = 0.0,
        **kwargs,
    ):
        if representation not in REPRESENTATIONS:
            raise ValueError(f"`representation` must be one of {', '.join(REPRESENTATIONS)}, got {representation!r}.")
        for name, value, least in (
            ("num_samples", num_samples, 1),
            ("n_fft", n_fft, 2),
            ("hop_length", hop_length, 1),
            ("num_mel_bins", num_mel_bins, 2),
        ):
            if value < least:
                raise ValueError(f"`{name}` must be at least {least}, got {value}.")
        if mel_floor <= 0:
            raise ValueError(f"`mel_floor` must be above 0, got {mel_floor}.")
        fields = [*inspect.signature(AudioPerceiverFeatureExtractor.__init__).parameters, *SEQUENCE_FIELDS]
        check_fields(type(self), kwargs, fields)
        kwargs["feature_size"] = 1 if representation == "waveform" else num_mel_bins  # overrides a saved one
        super().__init__(sampling_rate=checked_rate(sampling_rate), padding_value=padding_value, **kwargs)
        self.representation = representation
        self.num_samples = num_samples
        self.n_fft = n_fft
        self.hop_length = hop_length
        self.num_mel_bins = num_mel_bins
        self.mel_floor = mel_floor
        self.do_normalize = do_normalize

    @property
    def model_input_names(self) -> list[str]:
        """Names of the tensors that a call returns."""
        return ["input_values" if self.representation == "waveform" else "input_features", "attention_mask"]

    def __call__(
        self,
        audio: Any,
        sampling_rate: int | None = None,
        padding: bool | str | PaddingStrategy = "max_length",
        max_length: int | None = None,
        truncation: bool = True,
        return_attention_mask: bool | None = None,
        return_tensors: str | TensorType | None = None,
    ) -> BatchFeature:
        """Prepares one clip or a batch of clips.

        Args:
            audio: A clip or a batch of clips. A clip is samples (T,), a path, an open file or its content, a
                dictionary as in `datasets`, or a torchcodec decoder; in a list or a dictionary, its samples may also
                be (C, T). A list is a batch, and so is an array (B, T) or (B, C, T).
            sampling_rate: In hertz, for samples that come without a rate.
            padding: `"max_length"`, `True` (to the longest clip of the batch) or `False`.
            max_length: In samples at the rate of the result; `num_samples` if `None`.
            truncation: Whether to cut longer clips off at the end.
            return_attention_mask: Overrides the field of that name.
            return_tensors: `"pt"` or `"np"`.

        Returns:
            `input_values` (B, T), or `input_features` (B, F, `num_mel_bins`) with F = T / `hop_length`, rounded up;
            both `float32`. And `attention_mask` (B, T) or (B, F): 1 for the clip, 0 for padding.

        Raises:
            ValueError: A clip cannot be read, see [`audio_to_samples`], or has values too large for finite features.
                The message gives its index. Or an array may be one clip (T, C) as well as a batch.
            TypeError: A clip is not audio. The message gives its index.
            ImportError: A mel spectrogram or resampling needs torchaudio.
        """
        max_length = self.num_samples if max_length is None else max_length
        if max_length < 1:
            raise ValueError(f"`max_length` must be at least 1, got {max_length}.")
        check_memory(4 * max_length * (padding == "max_length"), f"a clip of {max_length:,} samples")
        if is_batch(audio):
            check_axes(audio)
        features = []
        for index, clip in enumerate(audio if is_batch(audio) else [audio]):
            with naming(f"clip {index}"):
                kept = max_length if truncation else None
                features.append(self.features(read_mono(clip, self.sampling_rate, sampling_rate, kept)))
        samples_per_step = 1 if self.representation == "waveform" else self.hop_length
        return self.pad(
            BatchFeature({self.model_input_names[0]: features}),
            padding=padding,
            max_length=math.ceil(max_length / samples_per_step),
            return_attention_mask=return_attention_mask,
            return_tensors=return_tensors,
        )

    def waveform(self, audio: Any, sampling_rate: int | None = None) -> torch.Tensor:
        """Reads one clip of any form and length as `float32` samples (T,): one channel, resampled, not normalised."""
        return read_mono(audio, self.sampling_rate, sampling_rate)

    def overlapping_clips(
        self, audio: Any, sampling_rate: int | None = None, num_clips: int | None = None
    ) -> list[np.ndarray]:
        """Cuts a long recording into clips (`num_samples`,), spread evenly so that together they cover all of it.

        A recording that is no longer than a clip is returned whole, as the only clip. The paper evaluates AudioSet's
        recordings of 10 s by the mean score of 16 such clips.

        Args:
            audio: The recording.
            sampling_rate: In hertz, for samples that come without a rate.
            num_clips: Number of clips, or as many as cover the recording, if those are more; `None` takes as few as
                overlap by half a clip or more.

        Returns:
            The clips in their order, `float32`, not normalised.

        Raises:
            ValueError: `num_clips` is below 1, or the recording cannot be read.
        """
        waveform = self.waveform(audio, sampling_rate).numpy()
        starts = self.clip_starts(len(waveform), num_clips)
        return [waveform[start : start + self.num_samples] for start in starts]

    def clip_starts(self, length: int, num_clips: int | None = None) -> list[int]:
        """Where the clips begin into which [`overlapping_clips`] cuts a recording.

        Args:
            length: Of the recording, in samples at the rate of the result.
            num_clips: As in [`overlapping_clips`].

        Returns:
            The first sample of each clip. A clip ends after `num_samples`, or with the recording.

        Raises:
            ValueError: `num_clips` is below 1.
        """
        if num_clips is not None and num_clips < 1:
            raise ValueError(f"`num_clips` must be at least 1, got {num_clips}.")
        excess = length - self.num_samples
        if excess <= 0:
            return [0]
        if num_clips is None:
            num_clips = 1 + math.ceil(2 * excess / self.num_samples)
        num_clips = max(num_clips, math.ceil(length / self.num_samples))
        return [round(index * excess / (num_clips - 1)) for index in range(num_clips)]

    def features(self, waveform: torch.Tensor) -> np.ndarray:
        """Turns samples (T,) into the model's input for one clip: (T,) or (F, `num_mel_bins`).

        Raises:
            ValueError: The result is not finite, because the samples are too large.
        """
        values = waveform
        if self.representation == "mel":
            self.check_spectrogram(len(waveform))
            spectrogram = mel_spectrogram(self.sampling_rate, self.n_fft, self.hop_length, self.num_mel_bins)
            num_frames = math.ceil(len(waveform) / self.hop_length)
            values = spectrogram(waveform)[:, :num_frames].clamp(min=self.mel_floor).log().T  # (F, mel bins)
        if self.do_normalize:
            values = (values - values.mean()) / (values.var(unbiased=False) + VARIANCE_FLOOR).sqrt()
        features = values.numpy()
        if not np.isfinite(features).all():
            raise ValueError(f"the samples are too large, up to {waveform.abs().max():.3g}")
        return features

    def check_spectrogram(self, num_samples: int) -> None:
        """Refuses a mel spectrogram that would take more memory than one input may.

        Args:
            num_samples: Length of the clip.

        Raises:
            ValueError: It would. The message names the settings.
        """
        frequencies = self.n_fft // 2 + 1
        frames = num_samples // self.hop_length + 1
        check_memory(
            frames * (4 * self.n_fft + 12 * frequencies + 4 * self.num_mel_bins) + 4 * frequencies * self.num_mel_bins,
            f"a spectrogram of {frames:,} frames of {self.n_fft:,} samples",
            "; a larger hop_length, or a smaller n_fft, num_mel_bins or num_samples, needs less",
        )


__all__ = ["AudioPerceiverFeatureExtractor"]
