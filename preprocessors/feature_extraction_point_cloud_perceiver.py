"""Feature extractor of the Perceiver for point clouds: reading, sampling, normalisation, padding, checks.

Letters: B batch, P points, F features per point in addition to its coordinates.
"""

import os
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal, get_args

import numpy as np
import torch
from transformers.feature_extraction_utils import BatchFeature, FeatureExtractionMixin
from transformers.utils import TensorType

from .point_cloud_files import COORDINATES, array_to_points, name_of, read_point_cloud
from .processor_fields import check_fields
from .reading import check_memory, naming

Sampling = Literal["random", "farthest", "none"]
Extent = Literal["cube", "sphere", "none"]

# For each point of a mesh that it keeps, farthest-point sampling chooses from this many.
CANDIDATES = 8
# Distances that farthest-point sampling computes, a second or two of work; the candidates are fewer above it.
MAX_DISTANCES = 2**28


def is_file(cloud: Any) -> bool:
    """Whether this is a file in one of the forms that are read, as opposed to numbers."""
    return isinstance(cloud, str | os.PathLike | bytes | bytearray | memoryview | Mapping) or hasattr(cloud, "read")


def depth(points: Any) -> int:
    """Returns how deep numbers are nested in lists and arrays: 1 for a point, 2 for a cloud or file, 3 for a batch."""
    if is_file(points):
        return 2
    if isinstance(points, list | tuple):
        return 1 + (depth(points[0]) if points else 0)
    return getattr(points, "ndim", 0)


def to_array(points: Any) -> np.ndarray:
    """Converts a list, array or tensor to an array of the same shape and, where NumPy has it, the same type."""
    if isinstance(points, torch.Tensor):
        points = points.detach().cpu()
        points = (points.float() if points.dtype == torch.bfloat16 else points).numpy()
    return np.asarray(points)


def check_cloud(points: np.ndarray, feature_names: Sequence[str]) -> None:
    """Checks that (P, 3 + F) are two or more finite points that are not all equal.

    Raises:
        ValueError: They are not; the message says why.
    """
    names = (*COORDINATES, *feature_names)
    if points.ndim != 2 or (points.shape[1] != len(names) and points.shape[0]):
        raise ValueError(
            f"expected points of shape (number, {len(names)}), with columns {', '.join(names)}, got {points.shape}"
        )
    if len(points) < 2:
        raise ValueError(f"expected at least two points, as fewer have no shape; got {len(points)}")
    is_finite = np.isfinite(points)
    if not is_finite.all():
        index = int(is_finite.all(axis=1).argmin())
        raise ValueError(f"point {index} has values that are NaN or infinite: {points[index].tolist()}")
    if (points[:, :3] == points[0, :3]).all():
        raise ValueError(f"all {len(points)} points are the same, {points[0, :3].tolist()}, which has no shape")


def point_keys(points: np.ndarray, seed: int) -> np.ndarray:
    """Gives each of (P, 3 + F) points a random number (P,) uint64 that depends on its values and the seed only.

    The mixing is that of SplitMix64.
    """
    keys = np.full(len(points), seed, np.uint64)
    for column in points.T:
        keys ^= (column + 0.0).view(np.uint64)  # -0.0 is 0.0
        keys = mixed(keys)
    return keys


def mixed(keys: np.ndarray) -> np.ndarray:
    """The next numbers of SplitMix64."""
    keys = keys + np.uint64(0x9E3779B97F4A7C15)
    keys = (keys ^ (keys >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    keys = (keys ^ (keys >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return keys ^ (keys >> np.uint64(31))


def random_points(points: np.ndarray, num_points: int, seed: int) -> np.ndarray:
    """Chooses points at random without replacement, in a way that does not depend on their order.

    Returns:
        Indices (num_points,).
    """
    keys = point_keys(points, seed)
    ordered = np.sort(keys)
    is_new = np.concatenate([[True], ordered[1:] != ordered[:-1]])
    if not is_new.all():  # equal points: the second gets a number of its own, and so on
        position = np.arange(len(points))
        rank = position - np.maximum.accumulate(np.where(is_new, position, 0))
        order = np.argsort(keys)
        keys[order] = mixed(ordered + rank.astype(np.uint64) * np.uint64(0xD1342543DE82EF95))
        ordered = np.sort(keys)
    chosen = np.flatnonzero(keys <= ordered[num_points - 1])  # sorting all indices takes longer than all numbers
    return chosen[np.argsort(keys[chosen])][:num_points]


def farthest_points(coordinates: np.ndarray, num_points: int) -> np.ndarray:
    """Chooses points by farthest-point sampling: each is the farthest from those chosen before it.

    The first is the farthest from the mean, so that the choice does not depend on the order of the points.

    Args:
        coordinates: (P, 3), with P at least `num_points`.
        num_points: Number of points to choose.

    Returns:
        Indices (num_points,).
    """
    axes = np.ascontiguousarray(coordinates.T)
    chosen = np.empty(num_points, dtype=np.int64)
    distances = np.full(len(coordinates), np.inf)
    farthest = np.square(axes - axes.mean(axis=1, keepdims=True)).sum(axis=0).argmax()
    squares = np.empty_like(axes)  # allocated once: pages of memory cost more than the arithmetic
    for index in range(num_points):
        chosen[index] = farthest
        np.square(np.subtract(axes, axes[:, farthest, None], out=squares), out=squares)
        x, y, z = squares
        np.add(np.add(x, y, out=x), z, out=x)
        farthest = np.minimum(distances, x, out=distances).argmax()
    return chosen


class PointCloudPerceiverFeatureExtractor(FeatureExtractionMixin):
    """Turns point clouds into the inputs of a [`PointCloudPerceiverModel`].

    Clouds are sampled, then centred, then scaled, as the paper does with ModelNet40 (arXiv 2103.03206, section 4.3),
    and padded to one size.

    Args:
        num_points (`int`, defaults to 2048):
            Number of points to sample from a larger cloud and to draw from the surface of a mesh.
        sampling (`"random"`, `"farthest"` or `"none"`, defaults to `"random"`):
            Which points to keep: a random choice, those farthest from each other, or all of them.
        feature_names (`list[str]`, defaults to `[]`):
            Columns in addition to x, y and z, such as `["nx", "ny", "nz"]`, `["red", "green", "blue"]` or
            `["intensity"]`. They are read from files by name; in arrays they follow the coordinates in this order.
            Columns of these names of colours, and intensities, come to 0..1, see [`to_fractions`].
        do_center (`bool`, defaults to `True`):
            Whether to move the mean of the points to the origin.
        scale_to (`"cube"`, `"sphere"` or `"none"`, defaults to `"cube"`):
            What a cloud is scaled to fill, by one factor for all axes: the cube [-1, 1]^3, as in the paper; the unit
            sphere; or nothing.
        seed (`int`, defaults to 0):
            Seed of the random choice. It starts anew with each cloud, so that a cloud always gives the same result.
        padding_value (`float`, defaults to 0.0):
            Value of the padding.
        **kwargs:
            Only what transformers writes into a saved feature extractor.

    Raises:
        ValueError: A field does not exist or has a value that it cannot have.

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
        check_fields(type(self), kwargs, self.__dict__)
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
        """Prepares one cloud or several.

        Args:
            points: One cloud or a list of clouds, or an array or tensor (B, P, 3 + F). A cloud is an array, tensor or
                nested list (P, 3 + F), alone or under `points` in a dictionary; or a file as a path, a URL, its
                content, an open file, or a dictionary with `bytes` or `path`, see [`read_point_cloud`].
            return_tensors: `"pt"` or `"np"`; `None` gives lists of arrays.
            padding: Pad to the `"longest"` cloud of the call or to `"max_length"`.
            max_length: `num_points` if `None`.
            generator: Source of all random choices, instead of one per cloud made from `seed`.

        Returns:
            `point_values` (B, P, 3 + F) float32 and `attention_mask` (B, P): 1 for points, 0 for padding.

        Raises:
            ValueError: A cloud has no extent, values that are not finite, or unexpected columns; or a file cannot be
                read. The message gives the index of the cloud.
            TypeError: An input is not a point cloud.
        """
        batch = list(points) if depth(points) == 3 else [points]
        clouds = []
        for index, cloud in enumerate(batch):
            with naming(f"point cloud {index}" if len(batch) > 1 else None):
                clouds.append(self.prepare(cloud, generator or np.random.default_rng(self.seed)))
        if not clouds:
            raise ValueError("expected at least one point cloud, got an empty list or batch")
        return self.pad(clouds, padding, max_length, return_tensors)

    def read(self, cloud: Any, generator: np.random.Generator | None = None) -> np.ndarray:
        """Reads and checks one cloud.

        Args:
            cloud: Numbers or a file, as in a call of the extractor.
            generator: Draws the points of a mesh; if `None`, one made from `seed`.

        Returns:
            (P, 3 + F) float64: all points of a scan, or points drawn from the surface of a mesh.

        Raises:
            ValueError: As in a call of the extractor.
            TypeError: As in a call of the extractor.
        """
        if isinstance(cloud, Mapping) and "points" in cloud:
            cloud = cloud["points"]
        if not is_file(cloud):
            points = array_to_points(to_array(cloud), self.feature_names)
            check_cloud(points, self.feature_names)
            return points
        candidates = self.num_points * (CANDIDATES if self.sampling == "farthest" else 1)
        check_memory(8 * candidates * (3 + len(self.feature_names)), f"a cloud of {candidates:,} points")
        drawing = generator or np.random.default_rng(self.seed)
        points = read_point_cloud(cloud, candidates, drawing, self.feature_names)
        with naming(name_of(cloud)):
            check_cloud(points, self.feature_names)
        return points

    def prepare(self, cloud: Any, generator: np.random.Generator) -> np.ndarray:
        """Reads, checks, samples and normalises one cloud into (P, 3 + F) float32."""
        points = self.sample(self.read(cloud, generator), generator)
        values = self.normalize(torch.from_numpy(points)).float().numpy()
        if not np.isfinite(values).all():
            raise ValueError(f"the coordinates are too large, up to {np.abs(points).max():.3g}")
        return values

    def sample(self, points: np.ndarray, generator: np.random.Generator) -> np.ndarray:
        """Reduces (P, 3 + F) to (`num_points`, 3 + F), unless the cloud is smaller or `sampling` is `"none"`.

        Of a cloud so large that farthest-point sampling would take long, it chooses from a random part.

        Raises:
            ValueError: All points that were drawn are the same, or even a part of the cloud would take minutes.
        """
        if self.sampling == "none" or len(points) <= self.num_points:
            return points
        if self.sampling == "farthest":
            candidates = max(2 * self.num_points, MAX_DISTANCES // self.num_points)
            if candidates * self.num_points > 8 * MAX_DISTANCES and len(points) >= candidates:
                raise ValueError(
                    f"choosing num_points={self.num_points:,} of {len(points):,} points by their distance would take "
                    "minutes; set sampling='random', or fewer points"
                )
            if len(points) > candidates:
                points = points[random_points(points, candidates, self.seed)]
            points = points[np.argsort(point_keys(points, 0))]  # of equally far points, always the same
            chosen = points[farthest_points(points[:, :3], self.num_points)]
        else:
            chosen = points[random_points(points, self.num_points, int(generator.integers(2**63)))]
        if (chosen[:, :3] == chosen[0, :3]).all():
            hint = ", or set sampling='farthest'" if self.sampling == "random" else ""
            raise ValueError(
                f"all {len(chosen):,} points that were drawn from {len(points):,} are the same, "
                f"{chosen[0, :3].tolist()}, which has no shape; remove such points{hint}"
            )
        return chosen

    def normalize(self, point_values: torch.Tensor, attention_mask: torch.Tensor | None = None) -> torch.Tensor:
        """Centres and scales clouds as configured; features and masked points keep their values.

        Args:
            point_values: (..., P, 3 + F).
            attention_mask: (..., P), 1 or True for points; `None` if all are points.

        Returns:
            (..., P, 3 + F).
        """
        if attention_mask is None:
            attention_mask = point_values.new_ones(point_values.shape[:-1])
        is_point = attention_mask.bool().unsqueeze(-1)
        coordinates = point_values[..., :3].masked_fill(~is_point, 0.0)
        if self.do_center:
            mean = coordinates.sum(dim=-2, keepdim=True) / is_point.sum(dim=-2, keepdim=True).clamp(min=1)
            coordinates = (coordinates - mean).masked_fill(~is_point, 0.0)
        if self.scale_to != "none":
            is_sphere = self.scale_to == "sphere"
            extents = torch.linalg.vector_norm(coordinates, dim=-1, keepdim=True) if is_sphere else coordinates.abs()
            extent = extents.amax(dim=(-2, -1), keepdim=True)
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
        """Pads clouds (P, 3 + F) of different sizes to one batch; the arguments are those of a call.

        Raises:
            ValueError: A cloud has more points than `max_length`, or there is no such `padding`.
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
        check_memory(4 * length * len(clouds) * clouds[0].shape[1], f"a batch of {len(clouds)} x {length:,} points")
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
