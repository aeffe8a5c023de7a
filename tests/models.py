"""Small models for the tests, and the table of all that tests/test_common.py holds to the same habits."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import PIL.Image
import torch
from torch import nn
from transformers import (
    AutoModelForAudioClassification,
    AutoModelForImageClassification,
    AutoModelForSequenceClassification,
    PreTrainedModel,
)

from perceivers import (
    AUDIO_VARIANTS,
    IMAGE_VARIANTS,
    POINT_CLOUD_VARIANTS,
    AudioPerceiverConfig,
    AudioPerceiverFeatureExtractor,
    AudioPerceiverForAudioClassification,
    ImagePerceiverConfig,
    ImagePerceiverForImageClassification,
    ImagePerceiverImageProcessorPil,
    PointCloudPerceiverConfig,
    PointCloudPerceiverFeatureExtractor,
    PointCloudPerceiverForPointCloudClassification,
)


def randomize(model: nn.Module, seed: int = 0) -> nn.Module:
    """Moves every parameter off its initial value, so that no zero bias or unit scale hides a mistake."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            scale = 0.1 if parameter.dim() == 1 else parameter.shape[-1] ** -0.5
            parameter.add_((noise * scale).to(parameter.dtype))
    return model


def tiny_image_model(seed: int = 0, **changes) -> ImagePerceiverForImageClassification:
    """The `tiny` variant with random parameters, in evaluation mode."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = ImagePerceiverForImageClassification(ImagePerceiverConfig.from_variant("tiny", **changes))
    return randomize(model, seed).eval()


def tiny_audio_model(representation: str, seed: int = 0, **changes) -> AudioPerceiverForAudioClassification:
    """The `tiny` or `tiny-mel` variant with random parameters, in evaluation mode."""
    variant = "tiny" if representation == "waveform" else "tiny-mel"
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = AudioPerceiverForAudioClassification(AudioPerceiverConfig.from_variant(variant, **changes))
    return randomize(model, seed).eval()


def tiny_extractor(representation: str, **changes) -> AudioPerceiverFeatureExtractor:
    """What `tiny_audio_model` reads: clips of 512 samples at 8 kHz, or 16 frames of 8 mel bins."""
    settings = {"sampling_rate": 8000, "num_samples": 512, "n_fft": 64, "hop_length": 32, "num_mel_bins": 8}
    return AudioPerceiverFeatureExtractor(**{"representation": representation, **settings, **changes})


def tiny_point_cloud_model(seed: int = 0, **changes) -> PointCloudPerceiverForPointCloudClassification:
    """The `tiny` variant with random parameters, in evaluation mode."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        config = PointCloudPerceiverConfig.from_variant("tiny", **changes)
        model = PointCloudPerceiverForPointCloudClassification(config)
    return randomize(model, seed).eval()


def assert_checkpointing_keeps_the_gradients(model: PreTrainedModel, inputs: dict[str, torch.Tensor]) -> None:
    """The gradients of a training step with and without gradient checkpointing are the same."""
    gradients = []
    for checkpointing in (False, True):
        if checkpointing:
            # Under the name that the installed transformers has for it.
            getattr(model, "activation_checkpointing_enable", model.gradient_checkpointing_enable)()
            assert any(getattr(module, "gradient_checkpointing", False) for module in model.modules())
        model.train().zero_grad()
        model(**inputs).loss.backward()
        gradients.append({name: p.grad.clone() for name, p in model.named_parameters()})
    torch.testing.assert_close(*gradients)


Tensors = dict[str, torch.Tensor]


def random_tensor(*shape: int) -> torch.Tensor:
    """The same normally distributed numbers for the same shape."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(1))


def image_inputs(height: int, width: int) -> tuple[Tensors, Tensors]:
    pixels = {"pixel_values": random_tensor(2, 3, height, width)}
    mask = torch.ones(2, height, width, dtype=torch.bool)
    mask[1, 12:] = False
    return pixels, {**pixels, "pixel_mask": mask}


def sequence_inputs(name: str, shape: tuple[int, ...], shorter: int) -> tuple[Tensors, Tensors]:
    values = {name: random_tensor(2, *shape)}
    mask = torch.arange(shape[0]) < torch.tensor([[shape[0]], [shorter]])
    return values, {**values, "attention_mask": mask}


@dataclass(frozen=True)
class ModelCase:
    """A row of `MODELS`: one head on one kind of input, as the tests of all models take it.

    Attributes:
        make: Makes a tiny model in evaluation mode; its keywords are fields of the configuration.
        inputs: A batch of two, and the same batch with a mask that shortens the second input.
        num_inputs: How many inputs the cross-attention reads of each.
        model_class: Class of the model.
        config_class: Class of its configuration.
        auto_class: transformers' class that loads it.
        variants: Names of the variants of the configuration.
        task: Name of the pipeline.
        processor: Makes what turns the samples into the model's inputs.
        samples: What the pipeline gets and what the processor gets, in pairs.
        processor_arguments: Further arguments of the processor's call.
        implementations: Ways to compute the cross-attention.
        pools_by_mean: Whether the head takes the mean of the latents.
    """

    make: Callable[..., PreTrainedModel]
    inputs: tuple[Tensors, Tensors]
    num_inputs: int
    model_class: type
    config_class: type
    auto_class: type
    variants: Mapping[str, Any]
    task: str
    processor: Callable[[], Any]
    samples: list[tuple[Any, Any]]
    processor_arguments: dict[str, Any] = field(default_factory=dict)
    implementations: tuple[str, ...] = ("dense", "absorbed", "factored", "auto")
    pools_by_mean: bool = True


def random_images() -> list[tuple[Any, Any]]:
    numbers, sizes = np.random.default_rng(0), [(20, 26), (16, 16), (31, 12)]
    images = [PIL.Image.fromarray(numbers.integers(0, 256, (*size, 3), dtype=np.uint8)) for size in sizes]
    return [(image, image) for image in images]


def random_clips() -> list[tuple[Any, Any]]:
    clips = [np.sin(np.arange(n)).astype(np.float32) for n in (512, 200, 900)]
    return [*zip(clips, clips, strict=True), ({"array": clips[0], "sampling_rate": 8000}, clips[0])]


def random_clouds() -> list[tuple[Any, Any]]:
    clouds = [np.random.default_rng(n).normal(size=(n, 3)) for n in (40, 9, 64)]
    return [*zip(clouds, clouds, strict=True), ({"points": clouds[0]}, clouds[0])]


def image_case(height: int, width: int, num_inputs: int, **changes: Any) -> ModelCase:
    is_grid = changes.get("position_encoding") != "learned"
    return ModelCase(
        make=partial(tiny_image_model, **changes),
        inputs=image_inputs(height, width),
        num_inputs=num_inputs,
        model_class=ImagePerceiverForImageClassification,
        config_class=ImagePerceiverConfig,
        auto_class=AutoModelForImageClassification,
        variants=IMAGE_VARIANTS,
        task="image-classification",
        processor=partial(ImagePerceiverImageProcessorPil, size={"height": 16, "width": 16}),
        samples=random_images(),
        implementations=("dense", "absorbed", "factored", "auto") if is_grid else ("dense", "absorbed", "auto"),
        pools_by_mean=changes.get("head") != "query",
    )


def audio_case(representation: str, inputs: tuple[Tensors, Tensors], num_inputs: int) -> ModelCase:
    return ModelCase(
        make=partial(tiny_audio_model, representation),
        inputs=inputs,
        num_inputs=num_inputs,
        model_class=AudioPerceiverForAudioClassification,
        config_class=AudioPerceiverConfig,
        auto_class=AutoModelForAudioClassification,
        variants=AUDIO_VARIANTS,
        task="audio-classification",
        processor=partial(tiny_extractor, representation),
        samples=random_clips(),
        processor_arguments={"sampling_rate": 8000},
    )


def point_cloud_case(num_features: int) -> ModelCase:
    names = ["intensity"] * num_features
    clouds = random_clouds()
    if num_features:
        clouds = [(np.pad(cloud, ((0, 0), (0, num_features)), constant_values=0.5),) * 2 for _, cloud in clouds]
    return ModelCase(
        make=partial(tiny_point_cloud_model, num_features=num_features),
        inputs=sequence_inputs("point_values", (100, 3 + num_features), 40),
        num_inputs=100,
        model_class=PointCloudPerceiverForPointCloudClassification,
        config_class=PointCloudPerceiverConfig,
        auto_class=AutoModelForSequenceClassification,
        variants=POINT_CLOUD_VARIANTS,
        task="point-cloud-classification",
        processor=partial(PointCloudPerceiverFeatureExtractor, num_points=64, feature_names=names),
        samples=clouds,
        implementations=("dense", "absorbed", "auto"),
    )


LEARNED = {"position_encoding": "learned", "learned_position_channels": 7}
MODELS = {
    "image": image_case(16, 20, 320),
    "image-query": image_case(16, 16, 256, head="query"),
    "image-conv1x1": image_case(16, 16, 256, stem="conv1x1", stem_channels=6),
    "image-conv": image_case(16, 16, 9, stem="conv", stem_channels=12),
    "image-learned": image_case(16, 16, 256, **LEARNED),
    "image-projected": image_case(16, 16, 9, **LEARNED, position_projection_channels=9, stem="conv", head="query"),
    "audio-waveform": audio_case("waveform", sequence_inputs("input_values", (512,), 300), 32),
    "audio-mel": audio_case("mel", sequence_inputs("input_features", (16, 8), 11), 128),
    "point-cloud": point_cloud_case(num_features=0),
    "point-cloud-features": point_cloud_case(num_features=1),
}
