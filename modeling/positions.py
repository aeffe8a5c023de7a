"""Where an input stands: Fourier features (paper, section 3.2 and appendix D), of a grid one table an axis.

On a grid the features are separable: an input's position is its coordinate on each axis, encoded on its own. So a
table an axis says all, and the M x C_p array of the paper is put together only where somebody needs it dense. Points
that stand anywhere have that array from the start.
"""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch

# Hub code may be imported next to the installed package: every copy of this module registers an operator of its own.
NAMESPACE = re.sub(r"\W", "_", __name__)


def join_axes(parts: Sequence[torch.Tensor]) -> torch.Tensor:
    """(..., 1 + 2K) an axis -> (..., C_p) in the order of DeepMind's code: every axis's coordinate, every axis's
    sines, every axis's cosines."""
    bands = parts[0].shape[-1] // 2
    kinds = zip(*(part.split([1, bands, bands], dim=-1) for part in parts), strict=True)
    return torch.cat([part for kind in kinds for part in kind], dim=-1)


@dataclass
class GridPositions:
    """Positions of the inputs on a grid of A axes of sizes S_1 x ... x S_A; input m = (i_1, ..., i_A), row-major.

    Attributes:
        tables: one an axis, (B or 1, S_a, 1 + 2K): the coordinate in [-1, 1], then K sines, then K cosines.
        sums: of a table's channels, one an axis, (B or 1, S_a).
        square_sums: of their squares.
    """

    tables: tuple[torch.Tensor, ...]
    sums: tuple[torch.Tensor, ...]
    square_sums: tuple[torch.Tensor, ...]

    @classmethod
    def of(cls, tables: Sequence[torch.Tensor]) -> "GridPositions":
        """With the sums, which are made once wherever the tables are."""
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
        """(..., C_p) -> (..., 1 + 2K) an axis, in the order of its table's columns. All of them together stand in the
        order of DeepMind's code: every axis's coordinate, every axis's sines, every axis's cosines."""
        num_axes, bands = len(self.tables), self.tables[0].shape[-1] // 2
        kinds = channels.split([num_axes, num_axes * bands, num_axes * bands], dim=-1)
        by_axis = zip(*(kind.unflatten(-1, (num_axes, -1)).unbind(-2) for kind in kinds), strict=True)
        return [torch.cat(parts, dim=-1) for parts in by_axis]

    def join(self, parts: list[torch.Tensor]) -> torch.Tensor:
        """(..., 1 + 2K) an axis -> (..., C_p), the inverse of `split`."""
        return join_axes(parts)

    def over_grid(self, axis: int, values: torch.Tensor) -> torch.Tensor:
        """(B or 1, S_a, ...) along an axis -> (B or 1, 1, .., S_a, .., 1, ...), to be broadcast over the grid."""
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
    """[x, sin(pi f_k x), cos(pi f_k x)], with K frequencies f_k evenly from 1 to `max_resolution / 2` (paper, eq. in
    section 3.2).

    Args:
        coordinates: (..., S), in [-1, 1].

    Returns: (..., S, 1 + 2K).
    """
    frequencies = torch.linspace(
        1.0, max_resolution / 2, num_bands, dtype=coordinates.dtype, device=coordinates.device
    )
    angles = coordinates.unsqueeze(-1) * frequencies * math.pi  # in this order, as DeepMind: the last bits matter
    return torch.cat([coordinates.unsqueeze(-1), angles.sin(), angles.cos()], dim=-1)


def box_coordinates(size: int, first: torch.Tensor, last: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Evenly from -1 at index `first` to 1 at index `last`, both included, counted from the nearer end as
    `torch.linspace` does. An axis of one element stands at -1, as in `linspace`.

    Args:
        first, last: (B, 1) integers.

    Returns: (B, size); what lies outside the box is beyond [-1, 1].
    """
    index = torch.arange(size, device=first.device)
    intervals = (last - first).clamp(min=1)
    step = 2.0 / intervals.to(dtype)
    nearer_first = index - first < (last - first + 2) // 2
    return torch.where(nearer_first, (index - first) * step - 1.0, 1.0 - (last - index) * step)


@torch.library.custom_op(f"{NAMESPACE}::even_coordinates", mutates_args=())
def even_coordinates(size: int, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """(1, size): evenly from -1 to 1, both included. An operator, because in a traced graph `torch.linspace` itself is
    bound to one size."""
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
    # Tables made under inference mode could never take part in training, and these outlive the call.
    with torch.inference_mode(False), torch.no_grad():
        axes = [even_coordinates(size, dtype, device) for size in sizes]
        return GridPositions.of(
            [fourier_features(axis, num_bands, top) for axis, top in zip(axes, max_resolutions, strict=True)]
        )


def fourier_grid(
    sizes: tuple[int, ...],
    num_bands: int,
    max_resolutions: tuple[int, ...],
    dtype: torch.dtype,
    device: torch.device,
    mask: torch.Tensor | None = None,
) -> GridPositions:
    """Fourier positions of a grid.

    Args:
        sizes: of the axes.
        num_bands: K.
        max_resolutions: one an axis; its top frequency is half of it.
        dtype: at least float32: half precision cannot hold the angles of high frequencies.
        mask: (B, *sizes) bool, True where there is an input. The positions are then those of the smallest box that
            holds an example's inputs, as if the example had come without padding.
    """
    if mask is None:
        # A cache would hand out, or keep, tensors that belong to another trace or, in a dry run, have no data.
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
    """Fourier positions of points that stand anywhere.

    Args:
        coordinates: (B, M, A), at least float32, in [-1, 1] where the frequencies are to mean what they do on a grid.
        num_bands: K.
        max_resolutions: one an axis; its top frequency is half of it.
    """
    axes = zip(coordinates.unbind(-1), max_resolutions, strict=True)
    return DensePositions(join_axes([fourier_features(axis, num_bands, top) for axis, top in axes]))
