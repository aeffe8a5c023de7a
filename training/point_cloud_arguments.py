"""What a training run on point clouds can be told besides."""

from dataclasses import dataclass, field
from typing import Literal

from .arguments import DataArguments


@dataclass
class PointCloudDataArguments(DataArguments):
    """Which point clouds and labels. With nothing said, twelve solids that are made on the spot."""

    points_column_name: str | None = field(
        default=None, metadata={"help": "Column of the points, lists of lists of numbers. None finds the only one."}
    )

    @property
    def input_column_name(self) -> str | None:
        return self.points_column_name


@dataclass
class PointCloudAugmentationArguments:
    """How training clouds are varied; all off by default. Lengths are parts of the cube or sphere of radius 1."""

    rotation: float = field(
        default=0.0, metadata={"help": "Largest turn about the vertical axis to either side, in degrees."}
    )
    vertical_axis: Literal["x", "y", "z"] = field(default="z", metadata={"help": "The axis of that turn."})
    scaling: float = field(
        default=0.0, metadata={"help": "Each point is scaled by a factor within so much of 1; 0.01 in the paper."}
    )
    jitter: float = field(default=0.0, metadata={"help": "Standard deviation of noise on every coordinate."})
    subset: int | None = field(
        default=None, metadata={"help": "Train on so many points of a cloud, others in every step."}
    )
    dropout: float = field(default=0.0, metadata={"help": "Largest part of its points that a cloud loses."})
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
