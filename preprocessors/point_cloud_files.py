"""Reads point clouds: all points of a scan, or points drawn from the surface of a mesh.

The field's own libraries do the parsing: plyfile, pypcd4, laspy and trimesh, the extra `points`. Text and NumPy files
need only NumPy. Nothing is ever unpickled.

Letters: P points, F features per point in addition to its coordinates.
"""

import io
import os
import re
import tempfile
from collections.abc import Callable, Mapping, Sequence
from itertools import chain
from textwrap import shorten
from typing import Any, TypeVar
from urllib.parse import urlsplit

import numpy as np

from .point_cloud_claims import CHECKS
from .reading import import_optional, is_url, read_bytes

Result = TypeVar("Result")
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
# Columns that are brought to 0..1.
FRACTIONS = ("red", "green", "blue", "alpha", "intensity")


LONGEST_LINE = 100_000  # of names or numbers of one point, in characters


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
    if suffix == ".obj":  # trimesh makes a geometry of each use of a material, which takes long for thousands
        data = re.sub(rb"(?m)^[ \t]*(?:usemtl|mtllib|[gos])\b[^\n]*", b"", data)
    scene = import_reader("trimesh").load_scene(io.BytesIO(data), file_type=suffix.removeprefix("."), process=False)
    mesh = scene.to_mesh()
    if not len(mesh.faces):
        clouds = [geometry.vertices for geometry in scene.dump()]
        return named(np.concatenate(clouds) if clouds else np.empty((0, 3)), COORDINATES)
    points, normals = sample_surface(mesh, num_points, generator)
    return named(np.hstack([points, normals]), (*COORDINATES, "nx", "ny", "nz"))


def read_ply(data: bytes, suffix: str, num_points: int, generator: np.random.Generator) -> Columns:
    """Reads the vertices of a PLY file with all their numbers, or draws points from the surface if it has faces."""
    is_binary = b"format binary" in data.partition(b"end_header")[0]
    # Of a file, plyfile reads all points at once; of data in memory, one by one.
    with tempfile.TemporaryFile() if is_binary else io.BytesIO() as file:
        file.write(data)
        file.seek(0)
        ply = import_reader("plyfile").PlyData.read(file)
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
    text = io.TextIOWrapper(io.BytesIO(data), "utf-8-sig")
    lines = (line for line in text if line.split("#", 1)[0].strip())
    first = next(lines, None)
    if first is None:
        return np.empty((0, 3))
    if len(first) > LONGEST_LINE:
        raise ValueError(f"its first line has {len(first):,} characters, more than {LONGEST_LINE:,}")
    first = first.removeprefix("//")  # CloudCompare starts the line of names with it
    delimiter = next((sign for sign in ",;" if sign in first), None)
    names = [word.strip().strip('"').lower() for word in first.split(delimiter)]
    if all(map(is_number, names)):
        # NumPy leaves out empty lines and comments itself, unless blanks do not separate.
        rest = text if delimiter is None else lines
        return np.loadtxt(chain([first], rest), delimiter=delimiter, ndmin=2)
    second = next(lines, None)
    if second is None:
        return named(np.empty((0, len(names))), names)
    rows = np.loadtxt(chain([second], lines), delimiter=delimiter, ndmin=2)
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
    if isinstance(columns, np.ndarray):
        # Text files often carry more columns than the coordinates; arrays are expected to hold only what is wanted.
        is_text = READERS[suffix] is read_text
        if is_text and columns.ndim == 2 and columns.shape[1] > 3 and not feature_names:
            return columns[:, :3]
        return array_to_points(columns, feature_names)
    columns = {known_name(name): column for name, column in columns.items()}
    wanted = [*COORDINATES, *map(known_name, feature_names)]
    if missing := [name for name in wanted if name not in columns]:
        raise ValueError(f"it has no column {', '.join(missing)}; its columns are {', '.join(columns)}")
    fractions = to_fractions({name: columns[name] for name in wanted if name in FRACTIONS})
    return np.stack([np.asarray(fractions.get(name, columns[name]), np.float64) for name in wanted], axis=1)


def known_name(name: str) -> str:
    """The usual name of a column."""
    return SYNONYMS.get(name.lower(), name.lower())


def array_to_points(array: np.ndarray, feature_names: Sequence[str]) -> np.ndarray:
    """Converts numbers (P, 3 + F) to float64, with colours and intensities in 0..1; other shapes are kept.

    Raises:
        TypeError: They are not numbers.
        ValueError: The scale of colours or intensities cannot be told.
    """
    if array.dtype.kind not in "iuf":
        raise TypeError(f"expected points that are integers or floats, got dtype {array.dtype}")
    points = array.astype(np.float64)
    places = {known_name(name): index for index, name in enumerate(feature_names, start=3)}
    if array.ndim == 2 and array.shape[1] == 3 + len(feature_names):
        columns = {name: array[:, index] for name, index in places.items() if name in FRACTIONS}
        for name, column in to_fractions(columns).items():
            points[:, places[name]] = column
    return points


def to_fractions(columns: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Brings colours and intensities to 0..1, by what their types and values say.

    Unsigned integers are fractions of their type's range. Other colours are in 0..1 already if they are floats; whole
    numbers up to 255 are colours of 8 bits, and up to 65,535 of 16 bits. All colours of a cloud have one scale.

    Raises:
        ValueError: Their scale cannot be told.
    """
    scaled = {
        name: column / np.iinfo(column.dtype).max for name, column in columns.items() if column.dtype.kind == "u"
    }
    others = {name: column for name, column in columns.items() if name not in scaled and len(column)}
    intensity = others.pop("intensity", None)
    if intensity is not None:
        least, most = np.nanmin(intensity), np.nanmax(intensity)
        if not 0 <= least <= most <= 1:
            raise ValueError(
                f"its intensities, {least:g} to {most:g}, have no known scale; bring them to 0..1, or store them as "
                "unsigned integers"
            )
    if not others:
        return scaled
    found = np.concatenate(list(others.values()))
    least, most = np.nanmin(found), np.nanmax(found)
    if found.dtype.kind == "f" and 0 <= least <= most <= 1:
        return scaled
    if least < 0 or most > 65535 or not (found == np.round(found)).all():
        raise ValueError(f"its colours, {least:g} to {most:g}, have no known scale; bring them to 0..1 or 0..255")
    return scaled | {name: column / (255 if most <= 255 else 65535) for name, column in others.items()}


# How a file begins, for content that has no name; other content is taken for text.
BEGINNINGS = (
    (rb"ply\s", ".ply"),
    (rb"LASF", ".las"),
    (rb"\x93NUMPY", ".npy"),
    (rb"PK", ".npz"),
    (rb"glTF", ".glb"),
    (rb"solid", ".stl"),
    (rb"(?:\s*#.*\n)*\s*(?:ST|C|N|4|n)*OFF\s", ".off"),
    (rb"(?:\s*#.*\n)*\s*VERSION\s", ".pcd"),
    (rb"(?:\s*(?:[#gosu]|mtllib|vn|vt).*\n)*\s*v\s", ".obj"),
)


def suffix_of(data: bytes) -> str:
    """The format of a file's content, as the suffix that its name would have."""
    if len(data) >= 84 and len(data) == 84 + 50 * int.from_bytes(data[80:84], "little"):
        return ".stl"
    return next((suffix for beginning, suffix in BEGINNINGS if re.match(beginning, data[:65536])), ".xyz")


def read_source(source: Any) -> tuple[str, str, bytes]:
    """Reads a path, a URL, a file's content, an open file, or a dictionary with `bytes` or `path`.

    Returns:
        What errors call it, the suffix that gives its format, and its content.

    Raises:
        ValueError: There is no such file, or its format is none of those that are read.
    """
    name, path = name_of(source), path_of(source)
    if isinstance(source, Mapping):
        keys = map(str, source)
        source = path if source.get("bytes") is None else source["bytes"]
        if source is None:
            raise ValueError(f"expected a dictionary with `points`, `bytes` or `path`, got the keys {sorted(keys)}")
    elif hasattr(source, "read"):
        source = source.read()
    if path is not None:
        suffix = os.path.splitext(urlsplit(path).path if is_url(path) else path)[1].lower()
        if suffix not in READERS:
            raise ValueError(f"{name} is not a point cloud: expected a file that ends in {', '.join(READERS)}")
    data = read_bytes(os.fspath(source)) if isinstance(source, str | os.PathLike) else bytes(source)
    return name, suffix_of(data) if path is None else suffix, data


def path_of(source: Any) -> str | None:
    """The path or URL of a file in one of the forms that are read, if it has one."""
    path = source.get("path") if isinstance(source, Mapping) else getattr(source, "name", source)
    return os.fspath(path) if isinstance(path, str | os.PathLike) else None


def name_of(source: Any) -> str:
    """What errors call a file in one of the forms that are read."""
    path = path_of(source)
    return "the content" if path is None else repr(path[:200])


def read_point_cloud(
    source: Any,
    num_points: int,
    generator: np.random.Generator,
    feature_names: Sequence[str] = (),
) -> np.ndarray:
    """Reads a file; the suffix of its name gives the format, or else its content does.

    Scans are PLY, PCD, LAS, LAZ, XYZ, TXT, CSV, NPY or NPZ files. Meshes, in PLY, OFF, OBJ, STL and GLB files, are
    sampled. The axes stay those of the file.

    Args:
        source: Path or URL; the content of a file, or an open one; or a dictionary with `bytes` or `path`.
        num_points: Number of points to draw from the surface of a mesh.
        generator: Draws them.
        feature_names: Columns in addition to x, y and z, such as `("nx", "ny", "nz")`, `("red", "green", "blue")` or
            `("intensity",)`; a mesh has normals. Colours and intensities come to 0..1, see [`to_fractions`]. If a file
            does not name its columns, they are taken in their order.

    Returns:
        (P, 3 + F) float64, so that the large coordinates of a survey keep their last digits.

    Raises:
        ValueError: The file does not exist, is in none of the formats, is broken, or lacks a column.
        ImportError: The library that reads the format is not installed.
    """

    def points_of(columns: Columns, suffix: str) -> np.ndarray:
        points = select(columns, feature_names, suffix)
        if not points.size:
            raise ValueError("it has no points")
        return points

    return _read(source, num_points, generator, points_of)


def further_columns(source: Any) -> tuple[list[str], int]:
    """Looks for what a scan has beyond its coordinates, whether it is wanted or not.

    Args:
        source: A file in one of the forms that [`read_point_cloud`] reads.

    Returns:
        The usual names of its columns of colours and intensities, without those that are the same for all points; and
        the number of columns after x, y and z, if the columns have no names.

    Raises:
        ValueError: As in [`read_point_cloud`].
        ImportError: As in [`read_point_cloud`].
    """

    def names_of(columns: Columns, suffix: str) -> tuple[list[str], int]:
        if isinstance(columns, np.ndarray):
            return [], max(0, columns.shape[1] - len(COORDINATES)) if columns.ndim == 2 else 0
        columns = {known_name(name): column for name, column in columns.items()}
        return [name for name in FRACTIONS if name in columns and (columns[name] != columns[name][:1]).any()], 0

    return _read(source, 2, np.random.default_rng(0), names_of)


def _read(
    source: Any, num_points: int, generator: np.random.Generator, take: Callable[[Columns, str], Result]
) -> Result:
    """Reads a file and takes of its columns what is wanted; errors name the file."""
    name, suffix, data = read_source(source)
    if not data.strip():
        raise ValueError(f"{name} is empty")
    try:
        if suffix in CHECKS:
            CHECKS[suffix](data)
        return take(READERS[suffix](data, suffix, num_points, generator), suffix)
    except (ImportError, KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # a broken file raises whatever its parser stumbles over; lazrs no Exception
        reason = shorten(str(error), width=200, placeholder=" ...") or type(error).__name__
        raise ValueError(f"{name} is not a point cloud, or is broken: {reason}") from error


__all__ = ["POINT_CLOUD_SUFFIXES", "further_columns", "read_point_cloud"]
