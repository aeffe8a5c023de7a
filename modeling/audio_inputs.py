"""From audio to the inputs of the Perceiver: patches of the raw waveform, or the values of a mel spectrogram.

Neither has parameters (paper, section 4.2). Letters: B batch, T samples, F frames, M inputs.
"""

import torch
from torch import nn
from torch.nn import functional as F

from .configuration_audio_perceiver import AudioPerceiverConfig
from .modeling_iterative_perceiver import PerceiverInputs
from .positions import fourier_grid


class WaveformInputs(nn.Module):
    """(B, T) samples -> M = T / `samples_per_patch` inputs, one after another in time.

    The last patch is filled up with zeros. Where a mask tells that a clip ends, there are zeros as well; a patch is an
    input if any of its samples is there.
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
        return make_inputs(content, mask, self.config)


class MelInputs(nn.Module):
    """(B, F, mel bins) log-mel spectrogram -> M = F * mel bins inputs, frame by frame; the mask is one of frames."""

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
        return make_inputs(input_features.unsqueeze(-1), mask, self.config)


def make_inputs(content: torch.Tensor, mask: torch.Tensor | None, config: AudioPerceiverConfig) -> PerceiverInputs:
    """Content (B, *grid, C_c) and a mask (B, *grid) -> inputs with Fourier positions, row-major."""
    sizes = tuple(content.shape[1:-1])
    positions = fourier_grid(
        sizes=sizes,
        num_bands=config.num_frequency_bands,
        max_resolutions=config.max_resolutions,
        dtype=torch.promote_types(content.dtype, torch.float32),
        device=content.device,
        mask=mask,
    )
    return PerceiverInputs(content.flatten(1, len(sizes)), positions, None if mask is None else mask.flatten(1))


AUDIO_INPUTS: dict[str, type[WaveformInputs] | type[MelInputs]] = {"waveform": WaveformInputs, "mel": MelInputs}

__all__ = ["AUDIO_INPUTS", "MelInputs", "WaveformInputs"]
