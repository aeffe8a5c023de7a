"""Feature extractor of the Perceiver for point clouds: reading, sampling, normalisation, padding, checks.

Letters: B batch, P points, F features of a point besides its coordinates.
"""

import difflib
import os
from collections.abc import Sequence
from typing import Any, ClassVar, Literal, get_args

import numpy as np
import torch
from transformers.feature_extraction_utils import BatchFeature, FeatureExtractionMixin
from transformers.utils import TensorType

from .point_cloud_files import COORDINATES, read_point_cloud

Sampling = Literal["random", "farthest", "none"]
Extent = Literal["cube", "sphere", "none"]

# Keys that transformers writes into a saved feature extractor itself.
TRANSFORMERS_KEYS = frozenset({"auto_map", "feature_extractor_type", "processor_class"})
# Farthest-point sampling chooses from so many points of a mesh for each that it keeps.
CANDIDATES = 8


def depth(points: Any) -> int:
    """How deep numbers lie in lists and arrays: 1 for a point, 2 for a cloud or its file, 3 for a batch."""
    if isinstance(points, str | os.PathLike):
        return 2
    if isinstance(points, list | tuple):
        return 1 + (depth(points[0]) if points else 0)
    return getattr(points, "ndim", 0)


def to_array(points: Any) -> np.ndarray:
    """A list, array or tensor as float64.

    Raises:
        TypeError: it does not hold numbers.
        ValueError: its rows differ in length.
    """
    if isinstance(points, torch.Tensor):
        points = points.detach().cpu().double().numpy()
    array = np.asarray(points)
    if array.dtype.kind not in "iuf":
        raise TypeError(f"expected points that are integers or floats, got dtype {array.dtype}")
    return array.astype(np.float64)


def check_cloud(points: np.ndarray, feature_names: Sequence[str]) -> None:
    """Raises ValueError, which says what is wrong, unless (P, 3 + F) are two or more finite points, not all equal."""
    names = (*COORDINATES, *feature_names)
    if points.ndim != 2 or (points.shape[1] != len(names) and points.shape[0]):
        raise ValueError(
            f"expected points of shape (number, {len(names)}), with columns {', '.join(names)}, got {points.shape}"
        )
    if len(points) < 2:
        raise ValueError(f"expected at least two points, as fewer have no shape; got {len(points)}")
    is_finite = np.isfinite(points).all(axis=1)
    if not is_finite.all():
        index = int(is_finite.argmin())
        raise ValueError(f"point {index} has values that are NaN or infinite: {points[index].tolist()}")
    if (points[:, :3] == points[0, :3]).all():
        raise ValueError(f"all {len(points)} points are the same, {points[0, :3].tolist()}, which has no shape")


def farthest_points(coordinates: np.ndarray, num_points: int) -> np.ndarray:
    """Farthest-point sampling: each point is the one that is farthest from those chosen before it. The first is the
    one farthest from the mean, so that the choice does not depend on the order of the points.

    Args:
        coordinates: (P, 3), P at least `num_points`.

    Returns: (num_points,) indices.
    """
    axes = np.ascontiguousarray(coordinates.T)
    chosen = np.empty(num_points, dtype=np.int64)
    distances = np.full(len(coordinates), np.inf)
    farthest = np.square(axes - axes.mean(axis=1, keepdims=True)).sum(axis=0).argmax()
    for index in range(num_points):
        chosen[index] = farthest
        np.minimum(distances, np.square(axes - axes[:, farthest, None]).sum(axis=0), out=distances)
        farthest = distances.argmax()
    return chosen


class PointCloudPerceiverFeatureExtractor(FeatureExtractionMixin):
    r"""
    Point clouds -> the tensors that a [`PointCloudPerceiverModel`] takes: sampled, then centred, then scaled, as the
    paper does with ModelNet40 (arXiv 2103.03206, section 4.3), and padded to one size.

    Args:
        num_points (`int`, defaults to 2048):
            Points that sampling leaves of a cloud, where it has more, and that are drawn from the surface of a mesh.
        sampling (`"random"`, `"farthest"` or `"none"`, defaults to `"random"`):
            Which points: a random choice; those that are farthest from each other; or all that there are.
        feature_names (`list[str]`, defaults to `[]`):
            What a point has besides x, y and z, such as `["nx", "ny", "nz"]`, `["red", "green", "blue"]` or
            `["intensity"]`. These columns are read from files; arrays have them in this order after the coordinates.
        do_center (`bool`, defaults to `True`):
            Whether the mean of the points is moved to the origin.
        scale_to (`"cube"`, `"sphere"` or `"none"`, defaults to `"cube"`):
            What a cloud is scaled to fill, by one factor for all axes: the cube [-1, 1]^3, as the paper; the unit
            sphere; or nothing.
        seed (`int`, defaults to 0):
            Of the random choice, made for each cloud anew, so that a cloud always gives the same answer.
        padding_value (`float`, defaults to 0.0):
            What points that are none consist of.

    Raises:
        ValueError: for a field that does not exist or a value that it cannot have.

    Example:
        >>> extractor = PointCloudPerceiverFeatureExtractor(num_points=1024)
        >>> extractor(["scan.ply", "mesh.off"], return_tensors="pt")["point_values"].shape
        torch.Size([2, 1024, 3])
    """

    model_input_names: ClassVar = ["point_values", "attention_mask"]

    def __init__(
        self,
        num_points: int = 2048,
        sampling: Sampling = "random",
        feature_names: Sequence[str] = (),
        do_center: bool = True,
        scale_to: Extent = "cube",
        seed: int = 0,
        padding_value: float = 0.0,
        **kwargs: Any,
    ):
        self.num_points = num_points
        self.sampling = sampling
        self.feature_names = list(feature_names)
        self.do_center = do_center
        self.scale_to = scale_to
        self.seed = seed
        self.padding_value = padding_value
        if unknown := [name for name in kwargs if name not in TRANSFORMERS_KEYS and not name.startswith("_")]:
            matches = difflib.get_close_matches(unknown[0], self.__dict__, n=1)
            hint = f" (did you mean `{matches[0]}`?)" if matches else ""
            raise ValueError(f"{type(self).__name__} has no field `{unknown[0]}`{hint}.")
        if num_points < 2:
            raise ValueError(f"`num_points` must be at least 2, got {num_points}.")
        for name, values in (("sampling", get_args(Sampling)), ("scale_to", get_args(Extent))):
            if getattr(self, name) not in values:
                raise ValueError(f"`{name}` must be one of {', '.join(values)}, got {getattr(self, name)!r}.")
        super().__init__(**kwargs)

    def __call__(
        self,
        points: Any,
        return_tensors: str | TensorType | None = None,
        padding: Literal["longest", "max_length"] = "longest",
        max_length: int | None = None,
        generator: np.random.Generator | None = None,
    ) -> BatchFeature:
        """
        Args:
            points: one cloud or a list of clouds, each an array, tensor or nested list (P, 3 + F), or the path or URL
                of a file, see [`read_point_cloud`]; or an array or tensor (B, P, 3 + F).
            return_tensors: `"pt"` or `"np"`; `None` gives lists of arrays.
            padding: to the `"longest"` cloud of the call, or to `"max_length"`.
            max_length: `num_points` if `None`.
            generator: of the random choices, in place of one for each cloud made from `seed`.

        Returns: `point_values` (B, P, 3 + F) float32 and `attention_mask` (B, P), 1 for points and 0 for padding.

        Raises:
            ValueError: a cloud has no shape, values that are not finite, or columns that were not expected; a file
                cannot be read. The message names the cloud by its index.
            TypeError: it is no cloud at all.
        """
        batch = list(points) if depth(points) == 3 else [points]
        clouds = []
        for index, cloud in enumerate(batch):
            try:
                clouds.append(self.prepare(cloud, generator or np.random.default_rng(self.seed)))
            except (TypeError, ValueError) as error:
                kind = TypeError if isinstance(error, TypeError) else ValueError
                raise kind(f"point cloud {index}: {error}" if len(batch) > 1 else str(error)) from error
        if not clouds:
            raise ValueError("expected at least one point cloud, got an empty list or batch")
        return self.pad(clouds, padding, max_length, return_tensors)

    def read(self, cloud: Any, generator: np.random.Generator | None = None) -> np.ndarray:
        """Reads and checks one cloud: (P, 3 + F) float64, all points of a scan; of a mesh those that are drawn.

        Raises:
            ValueError, TypeError: as a call of the extractor.
        """
        if isinstance(cloud, str | os.PathLike):
            candidates = self.num_points * (CANDIDATES if self.sampling == "farthest" else 1)
            drawing = generator or np.random.default_rng(self.seed)
            points = read_point_cloud(cloud, candidates, drawing, self.feature_names)
            name = f"{os.fspath(cloud)[:200]!r}: "
        else:
            points, name = to_array(cloud), ""
        try:
            check_cloud(points, self.feature_names)
        except ValueError as error:
            raise ValueError(f"{name}{error}") from error
        return points

    def prepare(self, cloud: Any, generator: np.random.Generator) -> np.ndarray:
        """Reads, checks, samples and normalises one cloud: (P, 3 + F) float32."""
        points = self.sample(self.read(cloud, generator), generator)
        values = self.normalize(torch.from_numpy(points)).float().numpy()
        if not np.isfinite(values).all():
            raise ValueError(f"the coordinates are too large, up to {np.abs(points).max():.3g}")
        return values

    def sample(self, points: np.ndarray, generator: np.random.Generator) -> np.ndarray:
        """(P, 3 + F) -> (`num_points`, 3 + F), or what there is, if that is less or all are wanted."""
        if self.sampling == "none" or len(points) <= self.num_points:
            return points
        if self.sampling == "farthest":
            return points[farthest_points(points[:, :3], self.num_points)]
        return points[generator.choice(len(points), self.num_points, replace=False)]

    def normalize(self, point_values: torch.Tensor, attention_mask: torch.Tensor | None = None) -> torch.Tensor:
        """Centres and scales clouds, as configured. Features stay as they are, and so does what is masked.

        Args:
            point_values: (..., P, 3 + F).
            attention_mask: (..., P), 1 or True for points.
        """
        if attention_mask is None:
            attention_mask = point_values.new_ones(point_values.shape[:-1])
        is_point = attention_mask.bool().unsqueeze(-1)
        coordinates = point_values[..., :3].masked_fill(~is_point, 0.0)
        if self.do_center:
            mean = coordinates.sum(dim=-2, keepdim=True) / is_point.sum(dim=-2, keepdim=True).clamp(min=1)
            coordinates = (coordinates - mean).masked_fill(~is_point, 0.0)
        if self.scale_to != "none":
            order = 2.0 if self.scale_to == "sphere" else float("inf")
            extent = torch.linalg.vector_norm(coordinates, order, dim=-1, keepdim=True).amax(dim=-2, keepdim=True)
            coordinates = coordinates / torch.where(extent > 0, extent, 1.0)
        coordinates = torch.where(is_point, coordinates, point_values[..., :3])
        return torch.cat([coordinates, point_values[..., 3:]], dim=-1)

    def pad(
        self,
        clouds: Sequence[np.ndarray],
        padding: Literal["longest", "max_length"] = "longest",
        max_length: int | None = None,
        return_tensors: str | TensorType | None = None,
    ) -> BatchFeature:
        """Clouds (P, 3 + F) of different sizes -> one batch, see [`__call__`].

        Raises:
            ValueError: a cloud has more points than `max_length`.
        """
        longest = max(map(len, clouds))
        if padding == "longest":
            length = longest
        elif padding == "max_length":
            length = self.num_points if max_length is None else max_length
        else:
            raise ValueError(f"`padding` must be `longest` or `max_length`, got {padding!r}.")
        if longest > length:
            raise ValueError(f"a cloud has {longest} points, more than max_length={length}")
        missing = [length - len(cloud) for cloud in clouds]
        data = {
            "point_values": [
                np.pad(cloud, ((0, count), (0, 0)), constant_values=self.padding_value)
                for cloud, count in zip(clouds, missing, strict=True)
            ],
            "attention_mask": [(np.arange(length) < length - count).astype(np.int64) for count in missing],
        }
        return BatchFeature(data, tensor_type=return_tensors)


__all__ = ["PointCloudPerceiverFeatureExtractor"]
