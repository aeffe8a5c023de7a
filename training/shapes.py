"""A built-in data set of point clouds: twelve solids of random proportions, scanned with noise and missing parts.

The solids are trimesh's primitives, so that a first training run needs no download. They are upright, at a random
angle about the vertical axis, z.

Letters: P points.
"""

from collections.abc import Callable
from typing import Any

import datasets
import numpy as np
from datasets import Array2D, ClassLabel, Dataset

from .modality import import_optional

SHAPES = "shapes"
NUM_POINTS = 1024
# Standard deviation, as a fraction of the largest distance from the centre.
NOISE = 0.015
# Largest fraction of the points that is missing around one spot.
LARGEST_HOLE = 0.15


def import_trimesh() -> Any:
    """Imports trimesh.

    Raises:
        ImportError: If it is not installed.
    """
    return import_optional("trimesh", "The data set `shapes`", extra="points")


def revolved(profile: list[list[float]], sections: int = 48) -> Any:
    """The solid of revolution of a profile of (radius, height) about the vertical axis."""
    return import_trimesh().creation.revolve(np.array(profile, dtype=np.float64), sections=sections)


def dome() -> list[list[float]]:
    """The profile of the upper half of a ball, from the centre of its floor to its top."""
    angles = np.linspace(0, np.pi / 2, 17)
    return [[0.0, 0.0], *np.stack([np.cos(angles), np.sin(angles)], axis=1).tolist()]


def make_mesh(name: str, uniform: Callable[[float, float], float]) -> Any:
    """Makes a `trimesh.Trimesh` of a solid.

    Args:
        name: One of `MAKERS`.
        uniform: Draws a number between two others.
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
    """Points of the surface, (P, 3) float32, of a solid scaled to radius 1.

    The solid is stretched a little and rotated about the vertical axis. Points have noise, and those around one spot
    are missing, as if hidden from the scanner.
    """
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
    """Makes the data set, with the columns `points`, (`num_points`, 3) float32, and `label`.

    Args:
        clouds_per_class: Number of clouds of each of the twelve solids.
        seed: Seed of all random choices.
        num_points: Number of points of a cloud.

    Raises:
        ImportError: If trimesh is not installed.
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
