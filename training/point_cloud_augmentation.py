"""From point clouds to batches: the feature extractor, then the augmentation of whole batches.

Letters: B batch, P points, F features of a point besides its coordinates.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from transformers.feature_extraction_utils import BatchFeature, FeatureExtractionMixin

from .point_cloud_arguments import PointCloudAugmentationArguments

NORMALS = ("nx", "ny", "nz")


@dataclass
class PointAugmentation:
    """Varies every cloud of a batch, in the order of the fields; then it is normalised again, and shifted.

    The paper's is `scaling=0.01`, then zero mean and unit cube again (arXiv 2103.03206, section 4.3). It tried
    rotation, and a translation of 0.02, without gain. Random numbers are PyTorch's, so its seed makes them repeat.

    Attributes:
        normalize: `(points, mask) -> points`, the normalisation that the clouds have had.
        rotation: largest angle to either side about the vertical axis, in degrees.
        scaling: a factor for each point, uniform within so much of 1.
        jitter: standard deviation of what is added to each coordinate.
        subset: the number of points that a random choice leaves of a cloud; `None` leaves all.
        dropout: largest part of its points that a cloud loses, uniform from none.
        translation: largest shift along each axis, after the normalisation, which would undo it.
        vertical_axis: 0, 1 or 2 for x, y or z.
        normals: indices of the features that hold a normal, which turns with its point; `None` if there are none.
    """

    normalize: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
    rotation: float = 0.0
    scaling: float = 0.0
    jitter: float = 0.0
    subset: int | None = None
    dropout: float = 0.0
    translation: float = 0.0
    vertical_axis: int = 2
    normals: tuple[int, ...] | None = None

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
        if self.subset is not None and self.subset < mask.shape[1]:
            # Padding is chosen where there are too few points.
            chosen = (torch.rand(mask.shape) + mask.cpu()).topk(self.subset, dim=1).indices.to(mask.device)
            coordinates = coordinates.take_along_dim(chosen.unsqueeze(-1), dim=1)
            features = features.take_along_dim(chosen.unsqueeze(-1), dim=1)
            mask = mask.take_along_dim(chosen, dim=1)
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


@dataclass
class PointCloudProcess:
    """A list of point clouds, arrays or paths -> what the model takes, all of one size.

    Attributes:
        extractor: the feature extractor.
    """

    extractor: FeatureExtractionMixin
    is_random = False

    def __call__(self, clouds: list) -> BatchFeature:
        extract: Any = self.extractor
        return extract(clouds, return_tensors="pt", padding="max_length")


@dataclass
class PointCloudBatchAugmentation:
    """What varies a whole batch on its way into a training step.

    Attributes:
        augment: `(points, mask) -> (points, mask)`.
    """

    augment: PointAugmentation

    def __call__(self, inputs: dict[str, Any]) -> dict[str, Any]:
        points, mask = self.augment(inputs["point_values"], inputs["attention_mask"])
        return {**inputs, "point_values": points, "attention_mask": mask}


def make_point_augmentation(
    arguments: PointCloudAugmentationArguments, extractor: Any
) -> PointCloudBatchAugmentation | None:
    """The augmentation of batches; `None` if not asked for.

    Args:
        extractor: the feature extractor, which knows the normalisation and whether points have normals.
    """
    steps = {
        name: getattr(arguments, name)
        for name in ("rotation", "scaling", "jitter", "subset", "dropout", "translation")
    }
    if not any(steps.values()):
        return None
    names = list(extractor.feature_names)
    normals = tuple(names.index(name) for name in NORMALS) if set(NORMALS) <= set(names) else None
    axis = "xyz".index(arguments.vertical_axis)
    return PointCloudBatchAugmentation(
        PointAugmentation(extractor.normalize, **steps, vertical_axis=axis, normals=normals)
    )
