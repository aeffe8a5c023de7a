"""Reads point clouds: all points of a scan, or points drawn from the surface of a mesh.

The field's own libraries do the parsing: plyfile, pypcd4, laspy and trimesh, the extra `points`. Text and NumPy files
need only NumPy. Nothing is ever unpickled.

Letters: P points, F features per point in addition to its coordinates.
"""

import io
import os
from collections.abc import Callable, Sequence
from textwrap import shorten
from typing import Any
from urllib.parse import urlsplit

import numpy as np

from .point_cloud_claims import CHECKS
from .reading import import_optional, is_url, read_bytes

# The points of a file: columns by name or, if the columns have no names, an array (P, columns).
Columns = dict[str, np.ndarray] | np.ndarray

COORDINATES = ("x", "y", "z")
# Other names of the same columns, as PCL, Blender, CloudCompare and others write them.
SYNONYMS = {
    "normal_x": "nx",
    "normal_y": "ny",
    "normal_z": "nz",
    "r": "red",
    "g": "green",
    "b": "blue",
    "diffuse_red": "red",
    "diffuse_green": "green",
    "diffuse_blue": "blue",
    "scalar_intensity": "intensity",
}
# Files that store these as unsigned integers mean a fraction of the type's range.
FRACTIONS = frozenset({"red", "green", "blue", "alpha", "intensity"})


def import_reader(package: str) -> Any:
    """Imports the library that reads a format.

    Raises:
        ImportError: It is not installed.
    """
    return import_optional(
        package,
        f"reading this point cloud needs `{package}`, which is not installed: pip install 'perceivers[points]'",
    )


def sample_surface(mesh: Any, num_points: int, generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Draws points evenly from the surface of a `trimesh.Trimesh`.

    Returns:
        The points (P, 3) and the normals (P, 3) of their faces.

    Raises:
        ValueError: The surface has no area.
    """
    if not 0 < mesh.area < np.inf:
        raise ValueError(f"its surface has an area of {mesh.area}, from which no points can be drawn")
    points, faces = import_reader("trimesh").sample.sample_surface(mesh, num_points, seed=generator)
    return np.asarray(points), mesh.face_normals[faces]


def read_mesh(data: bytes, suffix: str, num_points: int, generator: np.random.Generator) -> Columns:
    """Draws points from the surface of a mesh; reads the vertices if it has no faces, like a scan saved as OBJ."""
    scene = import_reader("trimesh").load_scene(io.BytesIO(data), file_type=suffix.removeprefix("."), process=False)
    mesh = scene.to_mesh()
    if not len(mesh.faces):
        clouds = [geometry.vertices for geometry in scene.dump()]
        return named(np.concatenate(clouds) if clouds else np.empty((0, 3)), COORDINATES)
    points, normals = sample_surface(mesh, num_points, generator)
    return named(np.hstack([points, normals]), (*COORDINATES, "nx", "ny", "nz"))


def read_ply(data: bytes, suffix: str, num_points: int, generator: np.random.Generator) -> Columns:
    """Reads the vertices of a PLY file with all their numbers, or draws points from the surface if it has faces."""
    ply = import_reader("plyfile").PlyData.read(io.BytesIO(data))
    if "face" in ply and len(ply["face"]):
        return read_mesh(data, suffix, num_points, generator)
    if "vertex" not in ply:
        raise ValueError("it has no element `vertex`")
    vertices = ply["vertex"].data
    return {name: vertices[name] for name in vertices.dtype.names if vertices.dtype[name].kind in "iuf"}


def read_pcd(data: bytes, suffix: str, num_points: int, generator: np.random.Generator) -> Columns:
    """Reads a cloud of the Point Cloud Library."""
    cloud = import_reader("pypcd4").PointCloud.from_fileobj(io.BytesIO(data))
    if len(cloud.pc_data) != cloud.metadata.points:
        raise ValueError(f"it promises {cloud.metadata.points} points and has {len(cloud.pc_data)}")
    columns = {name: cloud.pc_data[name] for name in cloud.pc_data.dtype.names}
    if "rgb" in columns:  # three bytes packed into one number
        colours = cloud.decode_rgb(columns.pop("rgb"))
        columns |= named(colours, ("red", "green", "blue"))
    return columns


def read_las(data: bytes, suffix: str, num_points: int, generator: np.random.Generator) -> Columns:
    """Reads a laser scan, LAS or LAZ, in its own units."""
    scan = import_reader("laspy").read(io.BytesIO(data))
    columns = {name.lower(): np.asarray(scan[name]) for name in scan.point_format.dimension_names}
    return columns | {"x": np.asarray(scan.x), "y": np.asarray(scan.y), "z": np.asarray(scan.z)}


def read_text(data: bytes, suffix: str, num_points: int, generator: np.random.Generator) -> Columns:
    """Reads one point per line, its numbers separated by blanks, commas or semicolons.

    The first line may name the columns. Text after a `#` is ignored.
    """
    lines = data.decode("utf-8-sig").splitlines()
    lines = [line for line in lines if line.split("#")[0].strip()]
    if not lines:
        return np.empty((0, 3))
    first = lines[0].removeprefix("//")  # CloudCompare starts the line of names with it
    delimiter = next((sign for sign in ",;" if sign in first), None)
    names = [word.strip().strip('"').lower() for word in first.split(delimiter)]
    if all(map(is_number, names)):
        return np.loadtxt(lines, delimiter=delimiter, ndmin=2)
    rows = np.loadtxt(lines[1:], delimiter=delimiter, ndmin=2) if lines[1:] else np.empty((0, len(names)))
    if rows.shape[1] != len(names):
        raise ValueError(f"its first line names {len(names)} columns and the second has {rows.shape[1]} numbers")
    return named(rows, names)


def read_numpy(data: bytes, suffix: str, num_points: int, generator: np.random.Generator) -> Columns:
    """Reads the array of an NPY file; from an NPZ file the only array, or the one called `points`.

    Object arrays are refused, because they would have to be unpickled.
    """
    content = np.load(io.BytesIO(data), allow_pickle=False)
    if isinstance(content, np.ndarray):
        return content
    name = content.files[0] if len(content.files) == 1 else "points"
    if name not in content.files:
        raise ValueError(f"it has the arrays {', '.join(content.files) or '(none)'}, of which none is called `points`")
    return content[name]


READERS: dict[str, Callable[[bytes, str, int, np.random.Generator], Columns]] = {
    ".ply": read_ply,
    ".pcd": read_pcd,
    ".las": read_las,
    ".laz": read_las,
    **dict.fromkeys((".xyz", ".txt", ".csv"), read_text),
    **dict.fromkeys((".npy", ".npz"), read_numpy),
    **dict.fromkeys((".off", ".obj", ".stl", ".glb"), read_mesh),
}
POINT_CLOUD_SUFFIXES = frozenset(READERS)


def named(array: np.ndarray, names: Sequence[str]) -> dict[str, np.ndarray]:
    """Returns the columns of an array by name."""
    return dict(zip(names, array.T, strict=True))


def is_number(word: str) -> bool:
    """Whether a word reads as a float."""
    try:
        float(word)
    except ValueError:
        return False
    return True


def select(columns: Columns, feature_names: Sequence[str], suffix: str) -> np.ndarray:
    """Selects x, y, z and the features by name: (P, 3 + F).

    Raises:
        ValueError: One of them is missing.
    """
    is_text = READERS[suffix] is read_text
    if isinstance(columns, np.ndarray):
        # Text files often carry more columns than the coordinates; arrays are expected to hold only what is wanted.
        if is_text and columns.ndim == 2 and columns.shape[1] > 3 and not feature_names:
            return columns[:, :3]
        if not is_text or columns.ndim != 2 or columns.shape[1] != 3 + len(feature_names):
            return columns
        columns = named(columns, (*COORDINATES, *feature_names))
    columns = {SYNONYMS.get(name.lower(), name.lower()): column for name, column in columns.items()}
    wanted = [*COORDINATES, *(SYNONYMS.get(name.lower(), name.lower()) for name in feature_names)]
    if missing := [name for name in wanted if name not in columns]:
        raise ValueError(f"it has no column {', '.join(missing)}; its columns are {', '.join(columns)}")
    values = {name: as_float(name, columns[name]) for name in wanted}
    values |= fractions(values)
    return np.stack([values[name] for name in wanted], axis=1)


def as_float(name: str, column: np.ndarray) -> np.ndarray:
    """Converts a column to float64; unsigned colours and intensities become fractions of their type's range."""
    is_fraction = name in FRACTIONS and column.dtype.kind == "u"
    return column / np.iinfo(column.dtype).max if is_fraction else column.astype(np.float64)


def fractions(values: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Returns colours and intensities in 0..1 also where the file does not give them a type of unsigned integers.

    Whole numbers up to 255 are colours of 8 bits, and up to 65,535 of 16 bits; all colours of a file have one scale.

    Raises:
        ValueError: Their scale cannot be told.
    """
    if not len(values["x"]):
        return {}
    colours = {name: column for name, column in values.items() if name in FRACTIONS and name != "intensity"}
    found = np.concatenate(list(colours.values())) if colours else np.zeros(1)
    if (name := "intensity") in values:
        least, most = np.nanmin(values[name]), np.nanmax(values[name])
        if not (0 <= least <= most <= 1):
            raise ValueError(
                f"its intensities, {least:g} to {most:g}, have no known scale; bring them to 0..1, or store them as "
                "unsigned integers, in PLY, PCD or LAS"
            )
    least, most = np.nanmin(found), np.nanmax(found)
    if 0 <= least <= most <= 1:
        return {}
    if least < 0 or most > 65535 or not (found == np.round(found)).all():
        raise ValueError(f"its colours, {least:g} to {most:g}, have no known scale; bring them to 0..1 or 0..255")
    return {name: column / (255 if most <= 255 else 65535) for name, column in colours.items()}


def read_point_cloud(
    source: str | os.PathLike,
    num_points: int,
    generator: np.random.Generator,
    feature_names: Sequence[str] = (),
) -> np.ndarray:
    """Reads a file or an http(s) URL; its suffix gives the format.

    Scans are PLY, PCD, LAS, LAZ, XYZ, TXT, CSV, NPY or NPZ files. Meshes, in PLY, OFF, OBJ, STL and GLB files, are
    sampled. The axes stay those of the file.

    Args:
        source: Path or URL.
        num_points: Number of points to draw from the surface of a mesh.
        generator: Draws them.
        feature_names: Columns in addition to x, y and z, such as `("nx", "ny", "nz")`, `("red", "green", "blue")` or
            `("intensity",)`; a mesh has normals. Colours and intensities stored as integers become fractions of their
            type's range, in 0..1. If a file does not name its columns, they are taken in their order.

    Returns:
        (P, 3 + F) float64, so that the large coordinates of a survey keep their last digits.

    Raises:
        ValueError: The file does not exist, is in none of the formats, is broken, or lacks a column.
        ImportError: The library that reads the format is not installed.
    """
    name = os.fspath(source)
    suffix = os.path.splitext(urlsplit(name).path if is_url(name) else name)[1].lower()
    if suffix not in READERS:
        raise ValueError(f"{name[:200]!r} is not a point cloud: expected a file that ends in {', '.join(READERS)}")
    data = read_bytes(name)
    if not data.strip():
        raise ValueError(f"{name[:200]!r} is empty")
    try:
        if suffix in CHECKS:
            CHECKS[suffix](data)
        points = select(READERS[suffix](data, suffix, num_points, generator), feature_names, suffix)
        if not points.size:
            raise ValueError("it has no points")
        return points
    except (ImportError, KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # a broken file raises whatever its parser stumbles over; lazrs no Exception
        reason = shorten(str(error), width=200, placeholder=" ...") or type(error).__name__
        raise ValueError(f"{name[:200]!r} is not a point cloud, or is broken: {reason}") from error


__all__ = ["POINT_CLOUD_SUFFIXES", "read_point_cloud"]
