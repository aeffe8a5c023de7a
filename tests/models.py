"""Small models for the tests."""

import torch
from torch import nn
from transformers import PreTrainedModel

from perceivers import (
    AudioPerceiverConfig,
    AudioPerceiverFeatureExtractor,
    AudioPerceiverForAudioClassification,
    ImagePerceiverConfig,
    ImagePerceiverForImageClassification,
    PointCloudPerceiverConfig,
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
