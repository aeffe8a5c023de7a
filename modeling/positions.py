"""Positions of inputs: Fourier features (paper, section 3.2 and appendix D), on a grid one table per axis.

On a grid the features are separable: a position is the input's coordinate along each axis, each encoded separately. So
one table per axis holds everything, and the M x C_p array of the paper is built only where it is needed dense. Points
at arbitrary positions have that array from the start.
"""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch

# Hub code may be imported next to the installed package, so every copy of this module registers a separate operator.
NAMESPACE = re.sub(r"\W", "_", __name__)


def at_least_float32(tensor: torch.Tensor) -> torch.Tensor:
    """Half precision becomes float32; float32 and float64 stay."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def join_axes(parts: Sequence[torch.Tensor]) -> torch.Tensor:
    """(..., 1 + 2K) per axis -> (..., C_p).

    In the order of DeepMind's code: the coordinates of all axes, then all sines, then all cosines.
    """
    bands = parts[0].shape[-1] // 2
    kinds = zip(*(part.split([1, bands, bands], dim=-1) for part in parts), strict=True)
    return torch.cat([part for kind in kinds for part in kind], dim=-1)


@dataclass
class GridPositions:
    """Positions of inputs on a grid of A axes of sizes S_1 x ... x S_A; input m = (i_1, ..., i_A), row-major.

    Attributes:
        tables: One per axis, (B or 1, S_a, 1 + 2K): the coordinate in [-1, 1], then K sines, then K cosines.
        sums: One per axis, (B or 1, S_a): sums of the table over its channels.
        square_sums: The same of the squares.
    """

    tables: tuple[torch.Tensor, ...]
    sums: tuple[torch.Tensor, ...]
    square_sums: tuple[torch.Tensor, ...]

    @classmethod
    def of(cls, tables: Sequence[torch.Tensor]) -> "GridPositions":
        """Positions from their tables; the sums are computed here, once."""
        sums = tuple(table.sum(-1) for table in tables)
        return cls(tuple(tables), sums, tuple(table.square().sum(-1) for table in tables))

    @property
    def sizes(self) -> tuple[int, ...]:
        """Sizes of the axes."""
        return tuple(table.shape[1] for table in self.tables)

    @property
    def num_channels(self) -> int:
        """C_p, the channels of a position."""
        return sum(table.shape[-1] for table in self.tables)

    def split(self, channels: torch.Tensor) -> list[torch.Tensor]:
        """(..., C_p), in the order of [`join_axes`] -> (..., 1 + 2K) per axis, in the order of its table's columns."""
        num_axes, bands = len(self.tables), self.tables[0].shape[-1] // 2
        kinds = channels.split([num_axes, num_axes * bands, num_axes * bands], dim=-1)
        by_axis = zip(*(kind.unflatten(-1, (num_axes, -1)).unbind(-2) for kind in kinds), strict=True)
        return [torch.cat(parts, dim=-1) for parts in by_axis]

    def join(self, parts: list[torch.Tensor]) -> torch.Tensor:
        """(..., 1 + 2K) per axis -> (..., C_p), the inverse of `split`."""
        return join_axes(parts)

    def over_grid(self, axis: int, values: torch.Tensor) -> torch.Tensor:
        """(B or 1, S_a, ...) along an axis -> (B or 1, 1, .., S_a, .., 1, ...), which broadcasts over the grid."""
        return values.unflatten(1, [-1 if other == axis else 1 for other in range(len(self.tables))])

    def dense(self) -> torch.Tensor:
        """The positions of all inputs, (B or 1, M, C_p)."""
        tables = [self.over_grid(axis, table) for axis, table in enumerate(self.tables)]
        return self.join([table.expand(-1, *self.sizes, -1) for table in tables]).flatten(1, len(self.tables))


@dataclass
class DensePositions:
    """Positions of inputs that form no grid.

    Attributes:
        channels: (B or 1, M, C_p).
    """

    channels: torch.Tensor

    @property
    def num_channels(self) -> int:
        """C_p, the channels of a position."""
        return self.channels.shape[-1]

    def dense(self) -> torch.Tensor:
        """The positions of all inputs, (B or 1, M, C_p)."""
        return self.channels


def fourier_features(coordinates: torch.Tensor, num_bands: int, max_resolution: float) -> torch.Tensor:
    """Fourier features [x, sin(pi f_k x), cos(pi f_k x)] (paper, section 3.2).

    Args:
        coordinates: (..., S), x in [-1, 1].
        num_bands: K, the number of frequencies f_k, evenly from 1 to `max_resolution / 2`.
        max_resolution: Twice the top frequency.

    Returns:
        (..., S, 1 + 2K).
    """
    frequencies = torch.linspace(
        1.0, max_resolution / 2, num_bands, dtype=coordinates.dtype, device=coordinates.device
    )
    angles = coordinates.unsqueeze(-1) * frequencies * math.pi  # in this order, as DeepMind: the last bits matter
    return torch.cat([coordinates.unsqueeze(-1), angles.sin(), angles.cos()], dim=-1)


def box_coordinates(size: int, first: torch.Tensor, last: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Evenly from -1 at index `first` to 1 at index `last`, both included.

    Counted from the nearer end, as `torch.linspace` does. An axis of one element is at -1, as in `linspace`.

    Args:
        size: Number of coordinates.
        first: (B, 1), integers.
        last: (B, 1), integers.
        dtype: Of the coordinates.

    Returns:
        (B, size); coordinates outside the box are beyond [-1, 1].
    """
    index = torch.arange(size, device=first.device)
    intervals = (last - first).clamp(min=1)
    step = 2.0 / intervals.to(dtype)
    nearer_first = index - first < (last - first + 2) // 2
    return torch.where(nearer_first, (index - first) * step - 1.0, 1.0 - (last - index) * step)


@torch.library.custom_op(f"{NAMESPACE}::even_coordinates", mutates_args=())
def even_coordinates(size: int, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """(1, size): evenly from -1 to 1, both included.

    An operator, because a traced graph binds `torch.linspace` itself to one size.
    """
    return torch.linspace(-1.0, 1.0, size, dtype=dtype, device=device).unsqueeze(0)


@even_coordinates.register_fake
def _(size, dtype, device):
    return torch.empty(1, size, dtype=dtype, device=device)


@lru_cache(maxsize=64)
def _cached_grid(
    sizes: tuple[int, ...],
    num_bands: int,
    max_resolutions: tuple[int, ...],
    dtype: torch.dtype,
    device: torch.device,
) -> GridPositions:
    # Tables made under inference mode can never be used in training, and these outlive the call.
    with torch.inference_mode(False), torch.no_grad():
        axes = [even_coordinates(size, dtype, device) for size in sizes]
        return GridPositions.of(
            [fourier_features(axis, num_bands, top) for axis, top in zip(axes, max_resolutions, strict=True)]
        )


def fourier_grid(
    sizes: tuple[int, ...],
    num_bands: int,
    max_resolutions: tuple[int, ...],
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
    mask: torch.Tensor | None = None,
) -> GridPositions:
    """Fourier positions of a grid.

    Args:
        sizes: Of the axes.
        num_bands: K.
        max_resolutions: One per axis; its top frequency is half of it.
        dtype: Of the content. Positions are at least float32, as half precision cannot hold the angles of high
            frequencies.
        device: Of the content.
        mask: (B, *sizes) bool, True where there is an input. The positions are then those of the smallest box that
            holds an example's inputs, as if the example had come without padding.

    Example:
        >>> fourier_grid((4, 6), num_bands=3, max_resolutions=(4, 6)).dense().shape
        torch.Size([1, 24, 14])
    """
    dtype = torch.promote_types(dtype, torch.float32)
    if mask is None:
        # A cache would return, or keep, tensors that belong to another trace or have no data in a dry run.
        device = torch.device(device)
        is_real = not torch.compiler.is_compiling() and type(torch.empty(0, device=device)) is torch.Tensor
        build = _cached_grid if is_real else _cached_grid.__wrapped__
        return build(sizes, num_bands, max_resolutions, dtype, device)
    tables = []
    for axis, top in enumerate(max_resolutions):
        others = [dim for dim in range(1, mask.dim()) if dim != axis + 1]
        valid = mask.sum(dim=others) > 0 if others else mask
        index = torch.arange(sizes[axis], device=mask.device)
        first = torch.where(valid, index, sizes[axis] - 1).amin(dim=1, keepdim=True)
        last = torch.where(valid, index, 0).amax(dim=1, keepdim=True)
        tables.append(fourier_features(box_coordinates(sizes[axis], first, last, dtype), num_bands, top))
    return GridPositions.of(tables)


def fourier_points(coordinates: torch.Tensor, num_bands: int, max_resolutions: tuple[int, ...]) -> DensePositions:
    """Fourier positions of points at arbitrary coordinates.

    Args:
        coordinates: (B, M, A), at least float32; in [-1, 1], where frequencies have the same meaning as on a grid.
        num_bands: K.
        max_resolutions: One per axis; its top frequency is half of it.
    """
    axes = zip(coordinates.unbind(-1), max_resolutions, strict=True)
    return DensePositions(join_axes([fourier_features(axis, num_bands, top) for axis, top in axes]))
