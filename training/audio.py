"""Audio: its flags, files, columns and transforms, and the built-in sounds.

A data set's recordings are kept as files until the feature extractor reads them, as `datasets` decodes even WAV with
torchcodec and FFmpeg.

Letters: B batch, T samples, F frames.
"""

import contextlib
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Audio, Dataset, DatasetDict
from transformers import AutoFeatureExtractor, BatchFeature, PreTrainedConfig

from perceivers.modeling.configuration_audio_perceiver import AudioPerceiverConfig
from perceivers.preprocessors.audio_reading import audio_to_samples, read_mono
from perceivers.preprocessors.feature_extraction_audio_perceiver import AudioPerceiverFeatureExtractor

from .arguments import AUGMENTATION_GROUP, DataArguments
from .modality import Batch, Choice, Modality, Transform, import_optional, sampled
from .sounds import sounds

SOUNDS = "sounds"
MIXTURES = "sound_mixtures"
# Recordings that choose the defaults; hertz and seconds that a clip has at most.
NUM_SAMPLED = 50
HIGHEST_RATE, LONGEST_CLIP = 16000, 4.0
NUM_TRAIN, NUM_VALIDATION = 9600, 1200
AUDIO_SUFFIXES = frozenset(
    {".aac", ".aif", ".aiff", ".au", ".caf", ".flac", ".m4a", ".mp3", ".oga", ".ogg", ".opus", ".wav", ".wma"}
)


@dataclass
class AudioDataArguments(DataArguments):
    """Which recordings and labels to use. The default is sounds that are synthesised on the spot."""

    audio_column_name: str | None = field(
        default=None, metadata={"help": "Column of the recordings. The default finds the only one of that type."}
    )


@dataclass
class AudioAugmentationArguments:
    """How to vary training clips; everything is off by default."""

    _argument_group_name = AUGMENTATION_GROUP

    time_crop: bool = field(
        default=False, metadata={"help": "Cut a clip anywhere from a longer recording, not from its beginning."}
    )
    level: float = field(default=0.0, metadata={"help": "Largest change of the level to either side, in decibels."})
    noise: float = field(
        default=0.0,
        metadata={"help": "Largest level of added white noise, as a fraction of the clip's; 0.1 is -20 dB."},
    )
    time_mask: int = field(
        default=0, metadata={"help": "SpecAugment: the most frames of a mel spectrogram to wipe out."}
    )
    frequency_mask: int = field(
        default=0, metadata={"help": "SpecAugment: the most mel bins of a spectrogram to wipe out."}
    )

    def __post_init__(self):
        for name in ("level", "noise", "time_mask", "frequency_mask"):
            if getattr(self, name) < 0:
                raise ValueError(f"`--{name}` must not be negative, got {getattr(self, name)}.")


@dataclass
class RandomWaveform:
    """Cuts a clip anywhere from a recording, changes its level and adds white noise.

    Attributes:
        num_samples: Length of a clip; shorter recordings are left alone. `None` cuts nothing.
        level: Largest change to either side, in decibels.
        noise: Largest standard deviation of the noise, as a fraction of the clip's.
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


def make_waveform_augmentation(
    arguments: AudioAugmentationArguments, num_samples: int | None
) -> RandomWaveform | None:
    """Makes the augmentation of a recording, or returns `None` if no flag asks for one.

    Args:
        arguments: The flags.
        num_samples: Length of a clip.
    """
    if not (arguments.time_crop or arguments.level or arguments.noise):
        return None
    return RandomWaveform(num_samples if arguments.time_crop else None, arguments.level, arguments.noise)


@dataclass
class AudioTransform(Transform):
    """Turns a list of recordings into tensors for the model.

    Attributes:
        processor: The feature extractor.
        augmentation: Applied to each recording first; it needs a processor with `waveform`, such as ours. `None` for
            evaluation.
    """

    processor: Any
    augmentation: Callable[[torch.Tensor], torch.Tensor] | None = None

    @property
    def is_random(self) -> bool:
        """Whether there is an augmentation."""
        return self.augmentation is not None

    def augment(self, value: Any) -> Any:
        """Varies a recording, at the processor's rate."""
        if self.augmentation is None:
            return value
        samples = self.augmentation(self.processor.waveform(value))
        return {"array": samples, "sampling_rate": self.processor.sampling_rate}

    def process(self, inputs: list) -> BatchFeature:
        """Processes the recordings."""
        return self.processor(inputs, return_tensors="pt")


@dataclass
class SpecAugment:
    """Wipes out a band of frames and a band of mel bins of every spectrogram of a batch (arXiv 1904.08779).

    The width of each band is random up to its limit. What is wiped out becomes 0, the mean of a normalised
    spectrogram.

    Attributes:
        time_mask: Largest number of frames.
        frequency_mask: Largest number of mel bins.
    """

    time_mask: int
    frequency_mask: int

    def __call__(self, batch: Batch) -> Batch:
        """Augments `input_features` (B, F, mel bins)."""
        mask_along_axis_iid = import_optional(
            "torchaudio.functional", "SpecAugment", extra="audio"
        ).mask_along_axis_iid
        spectrograms = batch["input_features"].unsqueeze(1)  # (B, 1, F, mel bins)
        for width, axis in ((self.time_mask, 2), (self.frequency_mask, 3)):
            if width:
                spectrograms = mask_along_axis_iid(spectrograms, width, mask_value=0.0, axis=axis)
        return {**batch, "input_features": spectrograms.squeeze(1)}


def make_spec_augment(arguments: AudioAugmentationArguments) -> SpecAugment | None:
    """Makes the SpecAugment of batches, or returns `None` if no flag asks for it."""
    is_wanted = arguments.time_mask or arguments.frequency_mask
    return SpecAugment(arguments.time_mask, arguments.frequency_mask) if is_wanted else None


def sounds_splits(is_multi_label: bool) -> dict[str, Callable[[], Dataset]]:
    """The built-in data set, with one sound per clip or with mixtures. The two splits have different seeds."""
    make = partial(sounds, is_multi_label=is_multi_label)
    return {"train": partial(make, NUM_TRAIN, seed=1), "validation": partial(make, NUM_VALIDATION, seed=0)}


class AudioModality(Modality):
    """Recordings, as waveforms or mel spectrograms."""

    name = "recording"
    noun = "recordings"
    columns = {"audio": Audio(decode=False)}  # noqa: RUF012
    suffixes = AUDIO_SUFFIXES
    built_in = {  # noqa: RUF012
        SOUNDS: sounds_splits(is_multi_label=False),
        MIXTURES: sounds_splits(is_multi_label=True),
    }
    config_class = AudioPerceiverConfig
    processor_class = AudioPerceiverFeatureExtractor
    auto_processor = AutoFeatureExtractor
    processor_argument = "feature_extractor"
    data_arguments = AudioDataArguments
    augmentation_arguments = AudioAugmentationArguments
    example = "recording.wav"

    def accepts(self, column: str, feature: Any) -> bool:
        """Whether it is a column of audio files, or of samples with their rate."""
        is_samples = isinstance(feature, dict) and {"array", "sampling_rate"} <= feature.keys()
        return isinstance(feature, Audio) or is_samples

    def cast_columns(self, splits: DatasetDict) -> DatasetDict:
        """Keeps files undecoded."""
        features = next(iter(splits.values())).features
        for column, feature in self.columns.items():
            if isinstance(features[column], Audio):
                splits = splits.cast_column(column, feature)
        return splits

    def example_from_file(self, path: str) -> dict[str, Any]:
        """Names the file, which the feature extractor reads."""
        return {"bytes": None, "path": path}

    def check_file(self, path: str, processor: Any = None) -> None:
        """Reads the file to its end."""
        audio_to_samples(path)

    def read(self, source: str, processor: Any) -> dict[str, Any]:
        """Reads one channel at the processor's rate. The stock pipeline's own reading needs FFmpeg."""
        return {
            "array": read_mono(source, processor.sampling_rate).numpy(),
            "sampling_rate": processor.sampling_rate,
        }

    def choose(self, rows: Dataset, is_accelerated: bool) -> Choice:
        """Chooses by the length and the rate of some of the recordings."""
        seconds, rates = [], []
        for value in sampled(rows, NUM_SAMPLED, self):
            with contextlib.suppress(Exception):
                samples, rate = audio_to_samples(value)
                seconds.append(samples.shape[-1] / rate)
                rates.append(rate)
        if not seconds:
            raise ValueError(f"None of {min(NUM_SAMPLED, len(rows))} recordings can be read.")
        rate = int(min(np.median(rates), HIGHEST_RATE))
        clip = min(float(np.median(seconds)), LONGEST_CLIP)
        flags = {
            "variant": "small",
            "processor": {"sampling_rate": rate, "num_samples": round(clip * rate)},
            "per_device_train_batch_size": 32,
            "learning_rate": 4e-3,
            "time_mask": 12,
            "frequency_mask": 3,
        }
        return Choice(
            flags,
            model=f"`small` on mel spectrograms of {clip:.3g} s at {rate:,} Hz (the recordings take "
            f"{min(seconds):.3g} to {max(seconds):.3g} s)",
            augmentation="deprived of some frames and mel bins",
        )

    def make_processor(self, config: PreTrainedConfig, fields: dict[str, Any]) -> AudioPerceiverFeatureExtractor:
        """Makes a processor for clips and frames of the configured number, with windows that overlap by half."""
        defaults: dict[str, Any] = {"representation": config.representation, "num_samples": config.num_samples}
        if config.representation == "mel":
            num_samples = fields.get("num_samples", config.num_samples)
            hop_length = fields.get("hop_length", math.ceil(num_samples / config.num_frames))
            defaults |= {"num_mel_bins": config.num_mel_bins, "hop_length": hop_length, "n_fft": 2 * hop_length}
        return AudioPerceiverFeatureExtractor(**{**defaults, **fields})

    def train_transform(
        self,
        processor: Any,
        augmentation: AudioAugmentationArguments,
        config: PreTrainedConfig,
        is_spatial: bool = False,
    ) -> AudioTransform:
        """Makes crop, level and noise of each recording.

        Raises:
            ValueError: If a flag asks for one of them and the processor is not ours, or if a crop would move
                recordings without their spatial targets.
        """
        if is_spatial and augmentation.time_crop:
            raise ValueError("`--time_crop` would move the recordings without their targets, which have positions.")
        augment = make_waveform_augmentation(augmentation, getattr(processor, "num_samples", None))
        if augment is not None and not hasattr(processor, "waveform"):
            raise ValueError(f"Crop, level and noise are for our feature extractor, not a {type(processor).__name__}.")
        return AudioTransform(processor, augment)

    def eval_transform(self, processor: Any) -> AudioTransform:
        """Makes the processor's own transform."""
        return AudioTransform(processor)

    def chunks(self, processor: Any) -> Callable[[Any], Iterable]:
        """Cuts a recording into overlapping clips, as the pipeline does; only our processor can."""
        if not isinstance(processor, self.processor_class):
            return super().chunks(processor)
        rate = processor.sampling_rate
        return lambda value: [{"array": clip, "sampling_rate": rate} for clip in processor.overlapping_clips(value)]

    def batch_transform(
        self,
        processor: Any,
        augmentation: AudioAugmentationArguments,
        batch_size: int,
        num_labels: int,
        is_spatial: bool = False,
    ) -> SpecAugment | None:
        """Makes SpecAugment, which wipes out but does not move.

        Raises:
            ValueError: If a flag asks for it and the processor makes no spectrograms.
        """
        spec_augment = make_spec_augment(augmentation)
        if spec_augment is not None and processor.model_input_names[0] != "input_features":
            raise ValueError("`--time_mask` and `--frequency_mask` are for mel spectrograms, not for waveforms.")
        return spec_augment

    def save_example(self, value: dict[str, Any], folder: Path) -> Path:
        """Writes a WAV file."""
        path = folder / "example.wav"
        path.write_bytes(value["bytes"])
        return path

    def draw(self, value: dict[str, Any], transform: Transform, axes: Any) -> None:
        """Draws what the model hears of a recording: its samples, or its spectrogram with low pitches below."""
        tensors = transform.process([value])
        signal = next(values[0] for name, values in tensors.items() if name.startswith("input_"))
        mask = tensors.get("attention_mask")
        if mask is not None and len(mask[0]) == len(signal):
            signal = signal[mask[0].bool()]
        if signal.ndim == 1:
            axes.plot(signal.numpy(), linewidth=0.5)
        else:
            axes.imshow(signal.numpy().T, origin="lower", aspect="auto")


AUDIO = AudioModality()
