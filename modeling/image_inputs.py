"""From an image to the inputs of the Perceiver: a stem makes their content, and each is told where it stands.

The stems and learned positions are those of Perceiver IO (arXiv 2107.14795, appendix A). Letters: B batch, M inputs,
C_c channels of their content, C_p channels of their positions.
"""

import torch
from torch import nn
from torch.nn import functional as F

from .configuration_image_perceiver import ImagePerceiverConfig
from .modeling_iterative_perceiver import PerceiverInputs
from .positions import DensePositions, GridPositions, fourier_grid


class PixelStem(nn.Module):
    """Every pixel is an input as it is."""

    def __init__(self, config: ImagePerceiverConfig):
        super().__init__()

    def forward(
        self, pixel_values: torch.Tensor, pixel_mask: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        return pixel_values, pixel_mask


class PointwiseStem(nn.Module):
    """Every pixel is an input, mapped linearly: (B, channels, height, width) -> (B, C_c, height, width)."""

    def __init__(self, config: ImagePerceiverConfig):
        super().__init__()
        self.projection = nn.Conv2d(config.num_channels, config.stem_channels, kernel_size=1)

    def forward(
        self, pixel_values: torch.Tensor, pixel_mask: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        return self.projection(pixel_values), pixel_mask


class ConvStem(nn.Module):
    """A convolution, batch norm and max pooling: (B, channels, height, width) -> (B, C_c, height / 4, width / 4).

    As transformers has it, which DeepMind's weights are published for; 224 pixels give 55 inputs. DeepMind's own code
    pads as TensorFlow does, where the convolution's windows begin a pixel later and the pooling gives 56 inputs.

    Where a mask tells that an image ends, the convolution sees zeros, as beyond the edge; and an input is there if all
    that it was pooled from is. So padding at the bottom and at the right changes nothing. In training, the batch norm
    counts it in.
    """

    def __init__(self, config: ImagePerceiverConfig):
        super().__init__()
        self.conv = nn.Conv2d(
            config.num_channels, config.stem_channels, kernel_size=7, stride=2, padding=3, bias=False
        )
        self.norm = nn.BatchNorm2d(config.stem_channels)
        self.pool = nn.MaxPool2d(kernel_size=3, stride=2)

    def forward(
        self, pixel_values: torch.Tensor, pixel_mask: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        height, width = pixel_values.shape[2:]
        if min(height, width) < 5:
            raise ValueError(f'`stem="conv"` needs images of 5 x 5 pixels or more, got {height} x {width}.')
        if pixel_mask is not None:
            pixel_values = pixel_values.masked_fill(~pixel_mask.unsqueeze(1), 0.0)
            is_padding = (~pixel_mask[:, ::2, ::2]).to(pixel_values.dtype)  # at the middle of each window
            pixel_mask = self.pool(is_padding) == 0
        return self.pool(F.relu(self.norm(self.conv(pixel_values)))), pixel_mask


class FourierPositions(nn.Module):
    """Fourier features of a grid of any size."""

    def __init__(self, config: ImagePerceiverConfig):
        super().__init__()
        self.config = config

    def forward(
        self, content: torch.Tensor, mask: torch.Tensor | None, interpolate_pos_encoding: bool
    ) -> GridPositions:
        return fourier_grid(
            sizes=tuple(content.shape[2:]),
            num_bands=self.config.num_frequency_bands,
            max_resolutions=self.config.max_resolutions,
            dtype=torch.promote_types(content.dtype, torch.float32),
            device=content.device,
            mask=mask,
        )


class LearnedPositions(nn.Module):
    """A row of a learned table for every input of the configured grid, and a linear layer, where configured.

    Rows belong to places in the array, so a mask does not move them, and another size needs an interpolated table.
    """

    def __init__(self, config: ImagePerceiverConfig):
        super().__init__()
        self.grid = config.grid
        channels = config.learned_position_channels
        self.table = nn.Parameter(torch.empty(self.grid[0] * self.grid[1], channels))
        projected = config.position_projection_channels
        self.projection = nn.Identity() if projected is None else nn.Linear(channels, projected)

    def forward(
        self, content: torch.Tensor, mask: torch.Tensor | None, interpolate_pos_encoding: bool
    ) -> DensePositions:
        sizes = tuple(content.shape[2:])
        table: torch.Tensor = self.table
        if sizes != self.grid:
            if not interpolate_pos_encoding:
                raise ValueError(
                    f"The learned positions are those of {self.grid[0]} x {self.grid[1]} inputs, got {sizes[0]} x "
                    f"{sizes[1]}; pass `interpolate_pos_encoding=True` to interpolate them."
                )
            table = self.interpolated(sizes)
        return DensePositions(self.projection(table).unsqueeze(0))

    def interpolated(self, sizes: tuple[int, ...]) -> torch.Tensor:
        """The table for another grid, (height * width, C): bicubic, as everywhere in transformers."""
        image = self.table.to(torch.promote_types(self.table.dtype, torch.float32)).T.unflatten(1, self.grid)
        image = F.interpolate(image.unsqueeze(0), size=sizes, mode="bicubic", align_corners=False).squeeze(0)
        return image.flatten(1).T.to(self.table.dtype)


STEMS: dict[str, type[nn.Module]] = {"pixels": PixelStem, "conv1x1": PointwiseStem, "conv": ConvStem}
POSITIONS: dict[str, type[nn.Module]] = {"fourier": FourierPositions, "learned": LearnedPositions}


class ImageInputs(nn.Module):
    """(B, channels, height, width) -> M inputs, row by row of the grid that the stem makes."""

    def __init__(self, config: ImagePerceiverConfig):
        super().__init__()
        self.stem = STEMS[config.stem](config)
        self.positions = POSITIONS[config.position_encoding](config)

    def forward(
        self,
        pixel_values: torch.Tensor,
        pixel_mask: torch.Tensor | None = None,
        interpolate_pos_encoding: bool = False,
    ) -> PerceiverInputs:
        content, mask = self.stem(pixel_values, pixel_mask)
        return PerceiverInputs(
            content=content.flatten(2).transpose(1, 2),
            positions=self.positions(content, mask, interpolate_pos_encoding),
            mask=None if mask is None else mask.flatten(1),
        )


__all__ = ["ImageInputs", "LearnedPositions"]
