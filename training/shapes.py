"""An embedded data set of point clouds: twelve solids of random proportions, scanned with noise and missing parts.

Made of trimesh's primitives, so that a first training run needs no download. A solid stands upright, at any angle
about the vertical axis, z.
"""

from collections.abc import Callable
from typing import Any

import datasets
import numpy as np
from datasets import Array2D, ClassLabel, Dataset

SHAPES = "shapes"
NUM_POINTS = 1024
# Of the largest distance from the centre.
NOISE = 0.015
# Largest part of the points that one missing spot takes along.
LARGEST_HOLE = 0.15


def import_trimesh() -> Any:
    """
    Raises:
        ImportError: it is not installed.
    """
    try:
        import trimesh
    except ImportError as error:
        raise ImportError(
            "the data set `shapes` needs `trimesh`, which is not installed: pip install 'perceivers[points]'"
        ) from error
    return trimesh


def revolved(profile: list[list[float]], sections: int = 48) -> Any:
    """The solid that a profile of (radius, height) makes when it turns about the vertical axis."""
    return import_trimesh().creation.revolve(np.array(profile, dtype=np.float64), sections=sections)


def dome() -> list[list[float]]:
    """The profile of the upper half of a ball, from the middle of its floor to its top."""
    angles = np.linspace(0, np.pi / 2, 17)
    return [[0.0, 0.0], *np.stack([np.cos(angles), np.sin(angles)], axis=1).tolist()]


def make_mesh(name: str, uniform: Callable[[float, float], float]) -> Any:
    """A `trimesh.Trimesh` of the shape.

    Args:
        name: one of `MAKERS`.
        uniform: draws a number between two others.
    """
    return MAKERS[name](import_trimesh().creation, uniform)


# In the order of the labels; `make` is trimesh's module of primitives.
MAKERS: dict[str, Callable[[Any, Callable[[float, float], float]], Any]] = {
    "box": lambda make, uniform: make.box([uniform(0.5, 1), uniform(0.5, 1), uniform(0.5, 1)]),
    "capsule": lambda make, uniform: make.capsule(height=uniform(1.0, 3.0), radius=1.0),
    "cone": lambda make, uniform: make.cone(radius=1.0, height=uniform(1.0, 2.5), sections=48),
    "cylinder": lambda make, uniform: make.cylinder(radius=1.0, height=uniform(1.0, 3.0), sections=48),
    "ellipsoid": lambda make, uniform: make.icosphere(subdivisions=3).apply_scale([1.0, 1.0, uniform(0.6, 1.6)]),
    "frustum": lambda make, uniform: revolved(
        [[0, 0], [1, 0], [uniform(0.4, 0.7), height := uniform(0.8, 2.0)], [0, height]]
    ),
    "hemisphere": lambda make, uniform: revolved(dome()).apply_scale([1.0, 1.0, uniform(0.8, 1.3)]),
    "octahedron": lambda make, uniform: revolved([[0, 0], [1, half := uniform(0.8, 1.5)], [0, 2 * half]], sections=4),
    "prism": lambda make, uniform: make.cylinder(radius=1.0, height=uniform(1.0, 2.5), sections=3),
    "pyramid": lambda make, uniform: make.cone(radius=1.0, height=uniform(1.0, 2.5), sections=4),
    "torus": lambda make, uniform: make.torus(major_radius=1.0, minor_radius=uniform(0.2, 0.45)),
    "tube": lambda make, uniform: make.annulus(r_min=uniform(0.5, 0.8), r_max=1.0, height=uniform(0.6, 2.0)),
}


def scan(mesh: Any, num_points: int, generator: np.random.Generator) -> np.ndarray:
    """Points of the surface, (P, 3) float32, of a solid of radius 1: stretched a little, turned about the vertical
    axis, with noise, and without those around a spot that the scanner did not see."""
    num_missing = int(num_points * generator.uniform(0, LARGEST_HOLE))
    stretched = mesh.apply_scale(generator.uniform(0.85, 1.15, size=3))
    points, _ = import_trimesh().sample.sample_surface(stretched, num_points + num_missing, seed=generator)
    spot = points[generator.integers(len(points))]
    points = points[np.square(points - spot).sum(axis=1).argsort()[num_missing:]]
    angle = generator.uniform(0, 2 * np.pi)
    cosine, sine = np.cos(angle), np.sin(angle)
    points = points @ np.array([[cosine, sine, 0], [-sine, cosine, 0], [0, 0, 1]])
    points = points - points.mean(axis=0)
    points = points / np.linalg.norm(points, axis=1).max()
    points = points + generator.normal(scale=NOISE, size=points.shape)
    return generator.permutation(points).astype(np.float32)


def shapes(clouds_per_class: int, seed: int, num_points: int = NUM_POINTS) -> Dataset:
    """Makes the data set: columns `points`, (`num_points`, 3) float32, and `label`.

    Args:
        clouds_per_class: of each of the twelve.
        seed: the same makes the same clouds, another makes others.

    Raises:
        ImportError: trimesh is not installed.
    """
    clouds, labels = [], []
    for label, name in enumerate(MAKERS):
        for index in range(clouds_per_class):
            generator = np.random.default_rng([seed, label, index])
            clouds.append(scan(make_mesh(name, generator.uniform), num_points, generator))
            labels.append(label)
    features = datasets.Features(
        {"points": Array2D((num_points, 3), dtype="float32"), "label": ClassLabel(names=list(MAKERS))}
    )
    return Dataset.from_dict({"points": clouds, "label": labels}, features=features)
