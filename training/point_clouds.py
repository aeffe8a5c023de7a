"""Point clouds: their flags, files, columns and transforms, and the built-in solids.

Letters: B batch, P points, F features of a point in addition to its coordinates.
"""

import json
import math
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from datasets import Array2D, Dataset, Value
from transformers import AutoFeatureExtractor, PreTrainedConfig
from transformers.feature_extraction_utils import BatchFeature, FeatureExtractionMixin

from perceivers.modeling.configuration_point_cloud_perceiver import PointCloudPerceiverConfig
from perceivers.preprocessors.feature_extraction_point_cloud_perceiver import PointCloudPerceiverFeatureExtractor
from perceivers.preprocessors.point_cloud_files import POINT_CLOUD_SUFFIXES, further_columns

from .arguments import AUGMENTATION_GROUP, DataArguments, ModelArguments
from .folders import folders_below, has_suffix, is_hidden, listed, say
from .modality import Batch, Choice, Modality, Transform, sampled
from .shapes import SHAPES, shapes

NORMALS = ("nx", "ny", "nz")
# Clouds that choose the defaults, points that a cloud has at most by default and of which a step sees a part, and
# features to look for.
NUM_SAMPLED = 20
MOST_POINTS, SUBSET = 1024, 256
FEATURES = (("red", "green", "blue"), ("intensity",))
# The twelve solids: 3,000 clouds to train on, 720 others to evaluate on.
SHAPES_SPLITS = {
    "train": partial(shapes, clouds_per_class=250, seed=0),
    "validation": partial(shapes, clouds_per_class=60, seed=1),
}


@dataclass
class PointCloudDataArguments(DataArguments):
    """Which point clouds and labels to use. The default is twelve solids that are made on the spot."""

    points_column_name: str | None = field(
        default=None,
        metadata={"help": "Column of the points, lists of lists of numbers. The default finds the only one."},
    )
    features: list[str] = field(
        default_factory=list,
        metadata={
            "metavar": "NAME",
            "help": "Columns to train on in addition to x, y and z, such as `red green blue`, `intensity` or `nx ny "
            "nz`; by their names in the files or, if these have none, in their order.",
        },
    )

    def complete(self, model: ModelArguments) -> None:
        """Gives a new model and its processor the features. Without any, it says which the files have.

        Raises:
            ValueError: If the features are given in another way too, or the model is a saved one, which has its own.
        """
        given = {assignment.partition("=")[0].strip() for assignment in (*model.config, *model.processor)}
        others = sorted(given & {"num_features", "feature_names"})
        if not self.features:
            is_new = model.variant or model.config  # otherwise `choose` looks at more than one file
            if self.train_dir and not others and is_new and not model.model_name_or_path:
                say_what_is_not_used(os.path.expanduser(self.train_dir))
            return
        if model.model_name_or_path:
            raise ValueError(
                "`--features` is for new models; that of `--model_name_or_path` takes the columns that it was trained "
                "on."
            )
        if others:
            raise ValueError(f"`--features` sets {others[0]} already: leave one of them out.")
        model.config = [*model.config, f"num_features={len(self.features)}"]
        model.processor = [*model.processor, f"feature_names={json.dumps(self.features)}"]


def say_what_is_not_used(folder: str) -> None:
    """Says which colours and intensities the first scan in a folder has, as only its coordinates are used."""
    files = (
        os.path.join(path, name)
        for path in folders_below(folder)
        for name in sorted(os.listdir(path))
        if has_suffix(name, POINT_CLOUD_SUFFIXES) and not is_hidden(name)
    )
    try:
        file = next(files, None)
        names, number = further_columns(file) if file else ([], 0)
    except (OSError, ValueError, ImportError):
        return  # which the check of the files reports
    if names:
        say(
            f"{file} has {listed(names)}, of which nothing is used; `--features {' '.join(names)}` trains on them in "
            "addition to the coordinates."
        )
    elif number:
        say(
            f"{file} has {number} columns without names after x, y and z, of which nothing is used; `--features` "
            "names them all to train on them, such as `--features red green blue`."
        )


@dataclass
class PointCloudAugmentationArguments:
    """How to vary training clouds; everything is off by default. The unit of length is the radius of a cloud."""

    _argument_group_name = AUGMENTATION_GROUP

    rotation: float = field(
        default=0.0, metadata={"help": "Largest rotation about the vertical axis to either side, in degrees."}
    )
    vertical_axis: Literal["x", "y", "z"] = field(default="z", metadata={"help": "The axis of that rotation."})
    scaling: float = field(
        default=0.0, metadata={"help": "Largest deviation from 1 of each point's scaling factor; 0.01 in the paper."}
    )
    jitter: float = field(default=0.0, metadata={"help": "Standard deviation of noise on every coordinate."})
    subset: int | None = field(
        default=None, metadata={"help": "Train on this many points of a cloud, chosen anew in every step."}
    )
    dropout: float = field(default=0.0, metadata={"help": "Largest fraction of its points that a cloud loses."})
    translation: float = field(default=0.0, metadata={"help": "Largest shift along each axis."})

    def __post_init__(self):
        for name in ("rotation", "scaling", "jitter", "dropout", "translation"):
            if getattr(self, name) < 0:
                raise ValueError(f"`--{name}` must not be negative, got {getattr(self, name)}.")
        for name in ("scaling", "dropout"):
            if getattr(self, name) >= 1:
                raise ValueError(f"`--{name}` must be below 1, got {getattr(self, name)}.")
        if self.subset is not None and self.subset < 2:
            raise ValueError(f"`--subset` must be at least 2, got {self.subset}.")


@dataclass
class PointAugmentation:
    """Varies every cloud of a batch: chooses the subset, goes on in the order of the fields, normalises it, shifts it.

    The paper's is `scaling=0.01`, then zero mean and unit cube again (arXiv 2103.03206, section 4.3). It tried
    rotation, and a translation of 0.02, without gain. All random numbers are PyTorch's, so its seed repeats them.

    Attributes:
        normalize: `(points, mask) -> points`, the normalisation of the feature extractor.
        rotation: Largest angle to either side about the vertical axis, in degrees.
        scaling: Largest deviation from 1 of the factor of each point, which is uniform.
        jitter: Standard deviation of the noise on each coordinate.
        subset: Number of points that a random choice keeps of a cloud; `None` keeps all.
        dropout: Largest fraction of its points that a cloud loses, uniform from 0.
        translation: Largest shift along each axis, after the normalisation, which would undo it.
        vertical_axis: 0, 1 or 2 for x, y or z.
        normals: Indices of the features that hold a normal, which rotates with its point; `None` if there are none.
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
        if self.subset is not None and self.subset < mask.shape[1]:
            # Padding is chosen only if there are too few points.
            order = torch.rand(mask.shape) + mask.cpu()
            chosen = order.topk(self.subset, dim=1, sorted=False).indices.to(mask.device)
            points = points.take_along_dim(chosen.unsqueeze(-1), dim=1)
            mask = mask.take_along_dim(chosen, dim=1)
        coordinates, features = points[..., :3], points[..., 3:]
        if self.rotation:
            rotations = self.rotations(len(points)).to(points)
            coordinates = coordinates @ rotations
            if self.normals is not None:
                features = features.clone()
                features[..., self.normals] = features[..., self.normals] @ rotations
        if self.scaling:
            factors = 1 + self.scaling * (2 * torch.rand(coordinates[..., :1].shape) - 1)
            coordinates = coordinates * factors.to(points)
        if self.jitter:
            coordinates = coordinates + self.jitter * torch.randn(coordinates.shape).to(points)
        if self.dropout:
            fractions = self.dropout * torch.rand(len(points), 1)
            kept = mask * (torch.rand(mask.shape) >= fractions).to(mask)
            # A cloud needs two points to have a shape.
            mask = torch.where(kept.sum(dim=1, keepdim=True) >= 2, kept, mask)
        points = self.normalize(torch.cat([coordinates, features], dim=-1), mask)
        if self.translation:
            shifts = self.translation * (2 * torch.rand(len(points), 1, 3) - 1)
            points = torch.cat([points[..., :3] + shifts.to(points), points[..., 3:]], dim=-1)
        return points, mask

    def rotations(self, number: int) -> torch.Tensor:
        """Random rotations about the vertical axis, (number, 3, 3)."""
        angles = math.radians(self.rotation) * (2 * torch.rand(number) - 1)
        first, second = (axis for axis in range(3) if axis != self.vertical_axis)
        rotations = torch.eye(3).repeat(number, 1, 1)
        rotations[:, first, first] = rotations[:, second, second] = angles.cos()
        rotations[:, first, second] = angles.sin()
        rotations[:, second, first] = -angles.sin()
        return rotations


@dataclass
class PointCloudTransform(Transform):
    """Turns a list of point clouds, arrays or paths, into tensors of one size for the model.

    Attributes:
        extractor: The feature extractor.
    """

    extractor: FeatureExtractionMixin

    def process(self, inputs: list) -> BatchFeature:
        """Processes the clouds."""
        extract: Any = self.extractor
        return extract(inputs, return_tensors="pt", padding="max_length")


@dataclass
class PointCloudBatchTransform:
    """Augments a whole batch of a training step.

    Attributes:
        augment: `(points, mask) -> (points, mask)`.
    """

    augment: PointAugmentation

    def __call__(self, batch: Batch) -> Batch:
        """Augments the batch."""
        points, mask = self.augment(batch["point_values"], batch["attention_mask"])
        return {**batch, "point_values": points, "attention_mask": mask}


def make_point_augmentation(
    arguments: PointCloudAugmentationArguments, extractor: Any
) -> PointCloudBatchTransform | None:
    """Makes the augmentation of batches, or returns `None` if no flag asks for one.

    Args:
        arguments: The flags.
        extractor: The feature extractor, which has the normalisation and says whether points have normals.
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
    return PointCloudBatchTransform(
        PointAugmentation(extractor.normalize, **steps, vertical_axis=axis, normals=normals)
    )


def _sizes(clouds: list, features: tuple[str, ...]) -> list[int | None]:
    """The number of points of each cloud, `None` if it cannot be read with these features."""
    extractor = PointCloudPerceiverFeatureExtractor(feature_names=features)
    sizes: list[int | None] = []
    for cloud in clouds:
        try:
            sizes.append(len(extractor.read(cloud)))
        except Exception:  # a broken file can raise anything in its decoder
            sizes.append(None)
    return sizes


class PointCloudModality(Modality):
    """Scans and meshes. All augmentation is of whole batches."""

    name = "point cloud"
    noun = "point clouds"
    columns = {"points": Value("string")}  # noqa: RUF012 # the path; the feature extractor reads the file
    suffixes = POINT_CLOUD_SUFFIXES
    built_in = {SHAPES: SHAPES_SPLITS}  # noqa: RUF012
    config_class = PointCloudPerceiverConfig
    processor_class = PointCloudPerceiverFeatureExtractor
    auto_processor = AutoFeatureExtractor
    processor_argument = "feature_extractor"
    data_arguments = PointCloudDataArguments
    augmentation_arguments = PointCloudAugmentationArguments
    example = "cloud.ply"
    projection = "3d"

    def supports(self, config: PreTrainedConfig) -> bool:
        """Only our own: transformers' models for sequences read text."""
        return config.model_type == PointCloudPerceiverConfig.model_type

    def accepts(self, column: str, feature: Any) -> bool:
        """Whether it is a column of arrays, or lists of lists, of numbers, or of files with their names."""
        if isinstance(feature, Array2D) or (isinstance(feature, dict) and {"bytes", "path"} <= feature.keys()):
            return True
        number = getattr(getattr(feature, "feature", None), "feature", None)
        return isinstance(number, Value) and number.dtype.startswith(("float", "double", "int", "uint"))

    def example_from_file(self, path: str) -> str:
        """Returns the path, which the feature extractor reads."""
        return path

    def check_file(self, path: str, processor: Any = None) -> None:
        """Reads the file, with the features that are asked for."""
        (processor or PointCloudPerceiverFeatureExtractor()).read(path)

    def read(self, source: str, processor: Any) -> np.ndarray:
        """Reads the points (P, 3 + F)."""
        return processor.read(source)

    def choose(self, rows: Dataset, is_accelerated: bool) -> Choice:
        """Chooses by the points of some of the clouds and by the columns that all of these have."""
        clouds = list(sampled(rows, NUM_SAMPLED, self))
        found = _sizes(clouds, ())
        sizes = [size for size in found if size is not None]
        if not sizes:
            raise ValueError(f"None of {min(NUM_SAMPLED, len(rows))} point clouds can be read.")
        readable = [cloud for cloud, size in zip(clouds, found, strict=True) if size is not None]
        features = next((names for names in FEATURES if None not in _sizes(readable, names)), ())
        num_points = min(int(np.median(sizes)), MOST_POINTS)
        flags: dict[str, Any] = {
            "variant": "small",
            "config": {"num_points": num_points},
            "features": list(features),
            "learning_rate": 8e-3,
            "scaling": 0.01,
            "rotation": 10.0,
            "translation": 0.02,
        }
        if num_points > SUBSET:
            flags["subset"] = SUBSET
        columns = f"and {', '.join(features)}" if features else "alone, as there are neither colours nor intensities"
        return Choice(
            flags,
            model=f"`small` on {num_points:,} points, by their coordinates {columns} (the clouds have "
            f"{min(sizes):,} to {max(sizes):,} points)",
            augmentation="turned and shifted a little" + (f", with {SUBSET} points" if num_points > SUBSET else ""),
        )

    def make_processor(self, config: PreTrainedConfig, fields: dict[str, Any]) -> PointCloudPerceiverFeatureExtractor:
        """Makes a processor for clouds of the configured size.

        Raises:
            ValueError: If it does not have as many features as the model takes.
        """
        extractor = PointCloudPerceiverFeatureExtractor(**{"num_points": config.num_points, **fields})
        if len(extractor.feature_names) != config.num_features:
            raise ValueError(
                f"The model takes num_features={config.num_features}, the processor has "
                f"feature_names={extractor.feature_names}; set both with `--config` and `--processor`."
            )
        return extractor

    def train_transform(
        self,
        processor: Any,
        augmentation: PointCloudAugmentationArguments,
        config: PreTrainedConfig,
        is_spatial: bool = False,
    ) -> PointCloudTransform:
        """Makes the processor's own transform."""
        return PointCloudTransform(processor)

    def eval_transform(self, processor: Any) -> PointCloudTransform:
        """Makes the processor's own transform."""
        return PointCloudTransform(processor)

    def batch_transform(
        self,
        processor: Any,
        augmentation: PointCloudAugmentationArguments,
        batch_size: int,
        num_labels: int,
        is_spatial: bool = False,
    ) -> PointCloudBatchTransform | None:
        """Makes the augmentation of the points.

        Raises:
            ValueError: If a flag would choose points without their targets.
        """
        if is_spatial and augmentation.subset is not None:
            raise ValueError("`--subset` would choose the points without their targets, which have positions.")
        return make_point_augmentation(augmentation, processor)

    def save_example(self, value: Any, folder: Path) -> Path:
        """Writes an XYZ file."""
        path = folder / "example.xyz"
        np.savetxt(path, value, fmt="%.5f")
        return path

    def draw(self, value: Any, transform: Transform, axes: Any) -> None:
        """Draws the points that the model sees, after the normalisation."""
        tensors = transform.process([value])
        points = tensors["point_values"][0][tensors["attention_mask"][0].bool()].numpy()
        axes.scatter(*points[:, :3].T, s=2)
        axes.set(zticks=[], box_aspect=(1, 1, 1))
        axes.set_aspect("equal")


POINT_CLOUDS = PointCloudModality()
