"""Augmentation of whole batches of point clouds.

Letters: B batch, P points, F features of a point besides its coordinates.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch


@dataclass
class PointAugmentation:
    """Varies every cloud of a batch, in the order of the fields; all but the normalisation are off at 0.

    The paper's is `scaling=0.01`, then zero mean and unit cube again (arXiv 2103.03206, section 4.3). It tried
    rotation, and a translation of 0.02, without gain. Random numbers are PyTorch's, so its seed makes them repeat.

    Attributes:
        normalize: `(points, mask) -> points`, the normalisation that the clouds have had.
        rotation: largest angle to either side about the vertical axis, in degrees.
        scaling: a factor for each point, uniform within so much of 1.
        jitter: standard deviation of what is added to each coordinate.
        dropout: largest part of its points that a cloud loses, uniform from none.
        translation: largest shift along each axis, after the normalisation, which would undo it.
        vertical_axis: 0, 1 or 2 for x, y or z.
        normals: indices of the features that hold a normal, which turns with its point; `None` if there are none.
    """

    normalize: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
    rotation: float = 0.0
    scaling: float = 0.0
    jitter: float = 0.0
    dropout: float = 0.0
    translation: float = 0.0
    vertical_axis: int = 2
    normals: tuple[int, int, int] | None = None

    def __call__(self, points: torch.Tensor, mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(B, P, 3 + F) and (B, P), 1 for points -> the same."""
        coordinates, features = points[..., :3], points[..., 3:]
        if self.rotation:
            turns = self.turns(len(points)).to(points)
            coordinates = coordinates @ turns
            if self.normals is not None:
                features = features.clone()
                features[..., self.normals] = features[..., self.normals] @ turns
        if self.scaling:
            factors = 1 + self.scaling * (2 * torch.rand(coordinates[..., :1].shape) - 1)
            coordinates = coordinates * factors.to(points)
        if self.jitter:
            coordinates = coordinates + self.jitter * torch.randn(coordinates.shape).to(points)
        if self.dropout:
            parts = self.dropout * torch.rand(len(points), 1)
            kept = mask * (torch.rand(mask.shape) >= parts).to(mask)
            # Two points are the least that have a shape.
            mask = torch.where(kept.sum(dim=1, keepdim=True) >= 2, kept, mask)
        points = self.normalize(torch.cat([coordinates, features], dim=-1), mask)
        if self.translation:
            shifts = self.translation * (2 * torch.rand(len(points), 1, 3) - 1)
            points = torch.cat([points[..., :3] + shifts.to(points), points[..., 3:]], dim=-1)
        return points, mask

    def turns(self, number: int) -> torch.Tensor:
        """Random rotations about the vertical axis, (number, 3, 3)."""
        angles = math.radians(self.rotation) * (2 * torch.rand(number) - 1)
        first, second = (axis for axis in range(3) if axis != self.vertical_axis)
        turns = torch.eye(3).repeat(number, 1, 1)
        turns[:, first, first] = turns[:, second, second] = angles.cos()
        turns[:, first, second] = angles.sin()
        turns[:, second, first] = -angles.sin()
        return turns
