"""Audio classification, as the commands see it."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from transformers import (
    MODEL_FOR_AUDIO_CLASSIFICATION_MAPPING,
    AutoFeatureExtractor,
    AutoModelForAudioClassification,
    Pipeline,
    PreTrainedConfig,
)

from perceivers.modeling.configuration_audio_perceiver import AudioPerceiverConfig
from perceivers.pipelines.long_audio_classification import LongAudioClassificationPipeline
from perceivers.preprocessors.audio_reading import read_mono
from perceivers.preprocessors.feature_extraction_audio_perceiver import AudioPerceiverFeatureExtractor
from perceivers.task import Task
from perceivers.training.audio_arguments import AudioAugmentationArguments, AudioDataArguments
from perceivers.training.audio_augmentation import AudioProcess, SpecAugment, make_augmentation, make_spec_augment
from perceivers.training.audio_datasets import AUDIO, MIXTURES, SOUNDS


class AudioClassification(Task):
    """Waveforms or mel spectrograms, and their feature extractor; long recordings clip by clip."""

    name = "audio-classification"
    modality = "recording"
    kind = AUDIO
    config_class = AudioPerceiverConfig
    auto_model = AutoModelForAudioClassification
    auto_processor = AutoFeatureExtractor
    model_mapping = MODEL_FOR_AUDIO_CLASSIFICATION_MAPPING
    processor_argument = "feature_extractor"
    data_arguments = AudioDataArguments
    augmentation_arguments = AudioAugmentationArguments
    recipes = {SOUNDS: "sounds", MIXTURES: "sounds"}  # noqa: RUF012
    example = "recording.wav"

    def pipeline_class(self, processor: Any) -> type[Pipeline] | None:
        """Ours, where the processor can cut long recordings; the stock one otherwise."""
        return LongAudioClassificationPipeline if isinstance(processor, AudioPerceiverFeatureExtractor) else None

    def read(self, source: str, processor: Any) -> dict[str, Any]:
        """One channel at the processor's rate. It is read here, as the stock pipeline's reading needs FFmpeg."""
        return {
            "array": read_mono(source, processor.sampling_rate).numpy(),
            "sampling_rate": processor.sampling_rate,
        }

    def make_processor(self, config: PreTrainedConfig, fields: dict[str, Any]) -> AudioPerceiverFeatureExtractor:
        """Clips of the configured length; with frames as many as configured, whose windows overlap by half."""
        defaults: dict[str, Any] = {"representation": config.representation, "num_samples": config.num_samples}
        if config.representation == "mel":
            num_samples = fields.get("num_samples", config.num_samples)
            hop_length = fields.get("hop_length", math.ceil(num_samples / config.num_frames))
            defaults |= {"num_mel_bins": config.num_mel_bins, "hop_length": hop_length, "n_fft": 2 * hop_length}
        return AudioPerceiverFeatureExtractor(**{**defaults, **fields})

    def training_process(self, processor: Any, augmentation: Any, config: PreTrainedConfig) -> AudioProcess:
        """Crop, level and noise of each recording.

        Raises:
            ValueError: if these are asked for and the processor is none of ours.
        """
        augment = make_augmentation(augmentation, getattr(processor, "num_samples", None))
        if augment is not None and not hasattr(processor, "waveform"):
            raise ValueError(f"Crop, level and noise are for our feature extractor, not a {type(processor).__name__}.")
        return AudioProcess(processor, augment)

    def evaluation_process(self, processor: Any) -> AudioProcess:
        return AudioProcess(processor)

    def parts(self, processor: Any) -> Callable[[Any], list]:
        """The overlapping clips of a recording, as the pipeline takes them."""
        if self.pipeline_class(processor) is None:
            return super().parts(processor)
        rate = processor.sampling_rate
        return lambda value: [{"array": clip, "sampling_rate": rate} for clip in processor.overlapping_clips(value)]

    def batch_augmentation(
        self, processor: Any, augmentation: Any, batch_size: int, num_labels: int
    ) -> SpecAugment | None:
        """SpecAugment.

        Raises:
            ValueError: if it is asked for and the processor makes no spectrograms.
        """
        spec_augment = make_spec_augment(augmentation)
        if spec_augment is not None and processor.model_input_names[0] != "input_features":
            raise ValueError("`--time_mask` and `--frequency_mask` are for mel spectrograms, not for waveforms.")
        return spec_augment

    def save_example(self, value: Any, folder: Path) -> Path:
        path = folder / "example.wav"
        path.write_bytes(value["bytes"])
        return path
