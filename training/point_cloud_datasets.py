"""Point clouds: how files and columns of them are told and read."""

from functools import partial
from typing import Any

from datasets import Array2D, Value

from .labelled_datasets import InputKind
from .shapes import SHAPES, shapes

POINT_CLOUD_SUFFIXES = frozenset(
    {".csv", ".glb", ".las", ".laz", ".npy", ".npz", ".obj", ".off", ".pcd", ".ply", ".stl", ".txt", ".xyz"}
)


def holds_points(feature: Any) -> bool:
    """Whether a column's type is that of arrays, or lists of lists, of numbers."""
    if isinstance(feature, Array2D):
        return True
    number = getattr(getattr(feature, "feature", None), "feature", None)
    return isinstance(number, Value) and number.dtype.startswith(("float", "double", "int", "uint"))


# The twelve solids: 3,000 clouds to train on, 720 others to evaluate on.
SHAPES_SPLITS = {
    "train": partial(shapes, clouds_per_class=250, seed=0),
    "validation": partial(shapes, clouds_per_class=60, seed=1),
}


POINT_CLOUDS = InputKind(
    column="points",
    noun="point clouds",
    feature=Value("string"),  # the path, as the feature extractor reads the file
    suffixes=POINT_CLOUD_SUFFIXES,
    holds=holds_points,
    read=str,
    built_in={SHAPES: SHAPES_SPLITS},
)
