"""A cloud is whole or refused by what its file says, has colours of one scale, and does not depend on its order.

Right values come from the points that were written, from other formats of the same cloud, and from SciPy.
"""

import io
import struct
import zipfile
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
from scipy.stats import chisquare

from perceivers import PointCloudClassificationPipeline, PointCloudPerceiverFeatureExtractor
from perceivers.preprocessors import feature_extraction_point_cloud_perceiver
from perceivers.preprocessors.point_cloud_files import read_point_cloud
from perceivers.training.point_clouds import POINT_CLOUDS
from tests.models import tiny_point_cloud_model

pytestmark = pytest.mark.integration

COLOURS = ["red", "green", "blue"]
TETRAHEDRON = "0 0 0\n1 0 0\n0 1 0\n0 0 1\n"
FACES = "3 0 2 1\n3 0 1 3\n3 0 3 2\n3 1 2 3\n"
PLY = "ply\nformat {} 1.0\nelement vertex {}\nproperty float x\nproperty float y\nproperty float z\nend_header\n"


@pytest.fixture
def points():
    return np.random.default_rng(0).standard_normal((500, 3))


def put(path: Path, content: bytes | str) -> Path:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def read(path, *feature_names, num_points=1000):
    return read_point_cloud(path, num_points, np.random.default_rng(0), feature_names)


def las(points: np.ndarray, compressed: bool = False, version: str = "1.2", **columns) -> bytes:
    laspy = pytest.importorskip("laspy")
    scan = laspy.create(point_format=7 if version == "1.4" else 3, file_version=version)
    scan.header.scales = [1e-4] * 3
    scan.x, scan.y, scan.z = points.T
    for name, column in columns.items():
        scan[name] = column
    file = io.BytesIO()
    scan.write(file, do_compress=compressed)
    return file.getvalue()


def patched(content: bytes, offset: int, layout: str, value: int) -> bytes:
    return content[:offset] + struct.pack(layout, value) + content[offset + struct.calcsize(layout) :]


class TestCounts:
    @pytest.mark.parametrize(
        ("name", "content", "message"),
        [
            ("a.off", f"OFF\n4 4 6\n{TETRAHEDRON}3 0 2 1\n", "it promises 4 faces and has room for 1"),
            ("a.off", f"OFF\n4 400000000 6\n{TETRAHEDRON}{FACES}", "it promises 400,000,000 faces and has room for 4"),
            ("a.off", f"OFF\n9 0 0\n{TETRAHEDRON}", "it promises 9 vertices and has room for 4"),
            ("a.off", f"OFF\n4 -1 0\n{TETRAHEDRON}{FACES}", "it promises -1 faces"),
            ("a.off", f"OFF\n4 2 0\n{TETRAHEDRON}3 0 1 2\n3 0 1\n", "its face 1 promises 3 corners and has 2"),
            ("a.ply", PLY.format("ascii", 10**9) + TETRAHEDRON, "it promises 6,000,000,000 bytes and has room for"),
            ("a.ply", PLY.format("binary_little_endian", 10**9) + TETRAHEDRON, "it promises 12,000,000,000 bytes"),
            (
                "a.pcd",
                "VERSION .7\nFIELDS x y z\nSIZE 4 4 4\nTYPE F F F\nCOUNT 1 1 1\nWIDTH 9\nHEIGHT 1\nPOINTS 7\n"
                f"DATA ascii\n{TETRAHEDRON}",
                "it promises 7 points and has a grid of 9 x 1",
            ),
            (
                "a.pcd",
                "VERSION .7\nFIELDS x y z\nSIZE 4 4 4\nTYPE F F F\nCOUNT 1 1 1\nWIDTH 2\nHEIGHT 1\nPOINTS 2\n"
                "DATA binary_compressed\n\x10\x00\x00\x00\x00\x00\x00\x7f1234567890123456",
                "it promises 2,130,706,432 bytes and has room for 1,408",
            ),
            ("a.stl", bytes(80) + struct.pack("<I", 10**9) + bytes(500), "it promises 50,000,000,000 bytes"),
            ("a.stl", "solid a\nfacet normal 0 0 1\nouter loop\nvertex 0 0 0\n", "it has no `endsolid`"),
            ("a.glb", b"glTF" + struct.pack("<IIII", 2, 10**6, 10**6, 0) + b"{}", "it promises 1,000,000 bytes"),
            ("a.npy", b"", "a.npy' is empty"),
        ],
    )
    def test_a_file_that_promises_more_than_it_has(self, tmp_path, name, content, message):
        with pytest.raises(ValueError, match=message) as raised:
            read(put(tmp_path / name, content))
        assert name in str(raised.value) and "\n" not in str(raised.value)

    @pytest.mark.parametrize("corners", ["3 0 1 2", "4 0 1 2 3", "3  0 1 2 255 0 0 # red"])
    def test_off_that_keeps_its_promise(self, tmp_path, corners):
        text = f"# made by hand\nOFF 4 1 0\n\n{TETRAHEDRON}\n{corners}\n"
        assert read(put(tmp_path / "a.off", text), num_points=7).shape == (7, 3)

    @pytest.mark.parametrize("number", [10**7, 2**31 - 1])
    def test_numpy_arrays_shorter_than_their_shape(self, tmp_path, number):
        file = io.BytesIO()
        np.lib.format.write_array_header_1_0(file, {"descr": "<f8", "fortran_order": False, "shape": (number, 3)})
        content = file.getvalue() + bytes(480)
        with pytest.raises(ValueError, match=f"it promises {number * 24:,} bytes of numbers and has room for 480"):
            read(put(tmp_path / "a.npy", content))
        with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
            archive.writestr("points.npy", content)
        with pytest.raises(ValueError, match=r"a.npz'.*bytes of numbers and has room for 480"):
            read(tmp_path / "a.npz")

    def test_archives_that_unpack_to_gigabytes(self, tmp_path, monkeypatch):
        np.savez_compressed(tmp_path / "a.npz", points=np.zeros((100_000, 3)))
        assert (tmp_path / "a.npz").stat().st_size < 10_000
        monkeypatch.setenv("PERCEIVERS_MAX_INPUT_BYTES", "1000000")
        with pytest.raises(ValueError, match=r"it is too large: it needs 2,400,128 bytes or more"):
            read(tmp_path / "a.npz")

    @pytest.mark.parametrize(
        ("name", "content", "message"),
        [
            ("a.xyz", "1 " * 60_000, "its first line has 120,000 characters, more than 100,000"),
            (
                "a.ply",
                "ply\nformat ascii 1.0\n" + "element e 0\nproperty float x\n" * 10_000 + "end_header\n",
                r"its header has 290,\d+ bytes, more than 262,144",
            ),
            (
                "a.pcd",
                "VERSION .7\nFIELDS x y z\nSIZE 4 4 4\nTYPE F F F\nCOUNT 1 1 300000000\nWIDTH 1\nHEIGHT 1\nPOINTS 1\n"
                "DATA ascii\n1 2 3\n",
                "it promises 300,000,002 numbers and has room for 6",
            ),
        ],
    )
    def test_files_that_would_take_minutes(self, tmp_path, name, content, message):
        with pytest.raises(ValueError, match=message):
            read(put(tmp_path / name, content))

    def test_archives_that_unpack_a_thousandfold(self, tmp_path):
        np.savez_compressed(tmp_path / "a.npz", points=np.zeros((3_000_000, 3)))
        with pytest.raises(ValueError, match="it promises 72,000,128 bytes of arrays and has room for 67,108,864"):
            read(tmp_path / "a.npz")

    def test_thousands_of_materials_are_one_mesh(self, tmp_path):
        solid = "v 0 0 0\nv 1 0 0\nv 0 1 0\nv 0 0 1\n"
        faces = "".join(f"o part{i}\nusemtl paint{i}\nf {1 + i % 2} 3 4\n" for i in range(20_000))
        assert read(put(tmp_path / "a.obj", solid + faces), "nx").shape == (1000, 4)

    def test_more_points_than_anybody_can_hold(self, tmp_path, points):
        extractor = PointCloudPerceiverFeatureExtractor(num_points=10**10)
        with pytest.raises(ValueError, match=r"a cloud of 10,000,000,000 points is too large"):
            extractor(put(tmp_path / "a.off", f"OFF\n4 4 6\n{TETRAHEDRON}{FACES}"))
        with pytest.raises(ValueError, match=r"a batch of 1 x 10,000,000,000 points is too large"):
            extractor(points, padding="max_length")


class TestLaserScans:
    @pytest.mark.parametrize("version", ["1.2", "1.4"])
    @pytest.mark.parametrize("compressed", [False, True])
    def test_whole_ones_are_read(self, tmp_path, points, compressed, version):
        path = put(tmp_path / "a.las", las(points, compressed, version))
        np.testing.assert_allclose(read(path), points, atol=1e-4)

    def test_many_equal_points(self, tmp_path):
        cloud = np.zeros((120_000, 3))
        cloud[0] = 1
        assert read(put(tmp_path / "a.laz", las(cloud, compressed=True))).shape == (120_000, 3)

    @pytest.mark.parametrize(
        ("offset", "layout", "value", "message"),
        [
            (100, "<I", 4_000_000, "it promises 216,000,000 bytes of records"),
            (96, "<I", 10**9, "it promises 1,000,000,000 bytes before the points"),
            (107, "<I", 501, "it promises 17,034 bytes of points and has room for 17,000"),
            (107, "<I", 2**32 - 1, "it is too large: it needs 146,028,888,030 bytes"),
        ],
    )
    def test_claims_of_las(self, tmp_path, points, offset, layout, value, message):
        path = put(tmp_path / "a.las", patched(las(points), offset, layout, value))
        with pytest.raises(ValueError, match=message):
            read(path)

    @pytest.mark.parametrize("extended", [4_000_000, 2**32 - 1])
    def test_extended_records(self, tmp_path, points, extended):
        content = las(points, version="1.4")
        with pytest.raises(ValueError, match=f"it promises {60 * extended:,} bytes of extended records"):
            read(put(tmp_path / "a.las", patched(content, 243, "<I", extended)))

    @pytest.mark.parametrize("chunks", [1000, 2**31, 2**32 - 1])
    def test_tables_of_chunks_of_laz(self, tmp_path, points, chunks):
        content = las(points, compressed=True)
        offset = struct.unpack_from("<I", content, 96)[0]
        table = struct.unpack_from("<q", content, offset)[0]
        with pytest.raises(ValueError, match=f"it promises {chunks * 34:,} bytes of chunks"):
            read(put(tmp_path / "a.laz", patched(content, table + 4, "<I", chunks)))
        for place in (2**62, -5, 3):
            with pytest.raises(ValueError, match=r"a.laz' is not a point cloud, or is broken: it"):
                read(put(tmp_path / "a.laz", patched(content, offset, "<q", place)))

    def test_points_of_laz(self, tmp_path, points):
        content = las(points, compressed=True)
        with pytest.raises(ValueError, match="it promises 100,000,000 points and has room for"):
            read(put(tmp_path / "a.laz", patched(content, 107, "<I", 10**8)))


class TestColours:
    def test_one_scale_in_every_format(self, tmp_path, points):
        plyfile = pytest.importorskip("plyfile")
        colours = np.random.default_rng(1).integers(0, 256, (500, 3))
        types = [("x", "f8"), ("y", "f8"), ("z", "f8")]
        rows = [tuple(row) for row in np.hstack([points, colours])]
        for kind, name in (("u1", "bytes"), ("i4", "int"), ("f4", "float")):
            vertices = np.array(rows, [*types, *((colour, kind) for colour in COLOURS)])
            plyfile.PlyData([plyfile.PlyElement.describe(vertices, "vertex")]).write(tmp_path / f"{name}.ply")
        header = "x,y,z,red,green,blue"
        table = np.hstack([points, colours])
        np.savetxt(tmp_path / "floats.csv", table, header=header, comments="", delimiter=",")
        np.savetxt(tmp_path / "plain.txt", table)
        np.savetxt(
            tmp_path / "unit.csv", np.hstack([points, colours / 255]), header=header, comments="", delimiter=","
        )
        np.savetxt(
            tmp_path / "deep.csv", np.hstack([points, colours * 257]), header=header, comments="", delimiter=","
        )
        scan = las(points, **dict(zip(COLOURS, (257 * colours).T, strict=True)))
        put(tmp_path / "deep.las", scan)
        files = sorted(tmp_path.iterdir())
        assert len(files) == 8
        for path in files:
            np.testing.assert_allclose(read(path, *COLOURS)[:, 3:], colours / 255, err_msg=path.name)

    @pytest.mark.parametrize("value", [-1, 0.5 + 7, 70_000, 1e9])
    def test_of_no_known_scale(self, tmp_path, value):
        path = put(tmp_path / "a.csv", f"x,y,z,red,green,blue\n0 ,0,0,0,0,0\n1,1,1,1,1,{value}\n")
        with pytest.raises(ValueError, match=r"its colours, .* have no known scale; bring them to 0..1 or 0..255"):
            read(path, *COLOURS)
        assert read(path).shape == (2, 3)  # where colours are not asked for, they do not matter

    @pytest.mark.parametrize("most", [1.5, 255, 4095])
    def test_intensities_of_no_known_scale(self, tmp_path, most):
        path = put(tmp_path / "a.csv", f"x,y,z,intensity\n0,0,0,0\n1,1,1,{most}\n")
        with pytest.raises(ValueError, match=rf"its intensities, 0 to {most:g}, have no known scale"):
            read(path, "intensity")

    @pytest.mark.parametrize(
        ("kind", "most"),
        [("u1", 255), ("u2", 65535), ("i4", 255), ("i8", 65535), ("f4", 1), ("f8", 255), ("f8", 65535)],
    )
    def test_of_arrays_are_those_of_the_file(self, tmp_path, points, kind, most):
        """By their type if that has a range, else by their values; the right ones are those that were multiplied."""
        fractions = np.random.default_rng(0).integers(0, 256, (500, 3)) / 255
        cloud = np.hstack([(50 + 10 * points).astype(kind), (most * fractions).astype(kind)]).astype(kind)
        extractor = PointCloudPerceiverFeatureExtractor(feature_names=["R", "green", "diffuse_blue"])
        np.save(tmp_path / "a.npy", cloud)
        np.savez_compressed(tmp_path / "a.npz", points=cloud)
        expected = extractor(cloud)["point_values"][0]
        np.testing.assert_allclose(expected[:, 3:], fractions, atol=1e-6)
        for given in (tmp_path / "a.npy", tmp_path / "a.npz", extractor.read(cloud), cloud.astype(">" + kind)):
            np.testing.assert_array_equal(extractor(given)["point_values"][0], expected)

    def test_whole_numbers_are_no_fractions(self, points):
        dark = np.hstack([np.arange(1500).reshape(500, 3), np.ones((500, 3), int)])
        values = PointCloudPerceiverFeatureExtractor(feature_names=COLOURS)(dark)["point_values"][0]
        assert (values[:, 3:] == np.float32(1 / 255)).all()

    @pytest.mark.parametrize(("name", "value"), [("red", 1.5), ("red", -1.0), ("intensity", 7.0)])
    def test_of_arrays_of_no_known_scale(self, points, name, value):
        cloud = np.hstack([points, np.full((500, 1), value)])
        with pytest.raises(ValueError, match=r"^point cloud 1: its (colours|intensities), .* have no known scale"):
            PointCloudPerceiverFeatureExtractor(feature_names=[name])([np.hstack([points, points[:, :1] > 0]), cloud])


class TestOneWay:
    """The same content gives the same tensor to the bit, however it comes."""

    @pytest.fixture(
        params=["ply", "pcd", "las", "laz", "xyz", "csv", "npy", "npz", "off", "obj", "stl", "text.stl", "glb"]
    )
    def path(self, request, tmp_path, points):
        kind, path = request.param, tmp_path / f"a.{request.param}"
        if kind == "ply":
            put(path, PLY.format("binary_little_endian", 500).encode() + points.astype("<f4").tobytes())
        elif kind == "pcd":
            path.write_bytes((Path(__file__).parent / "point_clouds" / "binary.pcd").read_bytes())
        elif kind in ("las", "laz"):
            put(path, las(points, kind == "laz"))
        elif kind == "xyz":
            np.savetxt(path, points)
        elif kind == "csv":
            np.savetxt(path, points, delimiter=",", header="x,y,z", comments="")
        elif kind == "npy":
            np.save(path, points)
        elif kind == "npz":
            np.savez(path, points=points)
        else:
            solid = pytest.importorskip("trimesh").creation.icosphere()
            solid.export(path, file_type="stl_ascii" if kind == "text.stl" else kind)
        return path

    @pytest.mark.parametrize("sampling", ["random", "farthest"])
    def test_of_every_format(self, path, sampling):
        extractor = PointCloudPerceiverFeatureExtractor(num_points=64, sampling=sampling)
        expected = extractor(path, return_tensors="pt")["point_values"]
        content = path.read_bytes()
        row = {"bytes": content, "path": path.name}
        column = datasets.Dataset.from_dict({"cloud": [row]})["cloud"]
        ways = {
            "name": str(path),
            "content": content,
            "bytearray": bytearray(content),
            "open file": path.open("rb"),
            "file in memory": io.BytesIO(content),
            "dictionary": row,
            "dictionary of a path": {"bytes": None, "path": str(path)},
            "dictionary of content": {"bytes": content, "path": None},
            "row": column[0],
            "column": list(column),
            "training": POINT_CLOUDS.example_from_file(str(path)),
            "predict": POINT_CLOUDS.read(str(path), extractor),
            "read in a dictionary": {"points": extractor.read(content)},
        }
        for name, given in ways.items():
            assert torch.equal(extractor(given, return_tensors="pt")["point_values"], expected), name

    def test_of_the_pipeline(self, points):
        classify = PointCloudClassificationPipeline(
            model=tiny_point_cloud_model(), feature_extractor=PointCloudPerceiverFeatureExtractor(num_points=64)
        )
        file = io.BytesIO()
        np.save(file, points)
        row = {"bytes": file.getvalue(), "path": "a.npy"}
        expected = classify(points)
        assert classify(file.getvalue()) == classify(row) == classify({"points": points}) == expected
        assert classify([row, file.getvalue()]) == [expected, expected]
        data = datasets.Dataset.from_dict({"points": [row]})
        assert POINT_CLOUDS.accepts("points", data.features["points"])
        assert list(classify(data)) == [expected]

    def test_content_of_no_format(self):
        with pytest.raises(ValueError, match=r"^the content is not a point cloud, or is broken: "):
            PointCloudPerceiverFeatureExtractor()(b"no cloud")
        with pytest.raises(ValueError, match=r"^the content is empty"):
            PointCloudPerceiverFeatureExtractor()(io.BytesIO())


class TestSampling:
    def test_farthest_points_of_a_huge_cloud(self, monkeypatch):
        """It chooses from a part that does not depend on the order; before, ten million points took minutes."""
        points = np.random.default_rng(0).standard_normal((40_000, 3))
        extractor = PointCloudPerceiverFeatureExtractor(num_points=100, sampling="farthest", scale_to="none")
        whole = extractor(points)["point_values"][0]
        monkeypatch.setattr(feature_extraction_point_cloud_perceiver, "MAX_DISTANCES", 200_000)
        part = extractor(points)["point_values"][0]
        np.testing.assert_array_equal(extractor(points[::-1])["point_values"][0], part)
        assert not np.array_equal(part, whole)
        gaps = [
            np.sort(np.linalg.norm(values[:, None] - values, axis=-1), axis=1)[:, 1].min() for values in (whole, part)
        ]
        assert gaps[1] > 0.7 * gaps[0]
        extractor.num_points = 2000
        with pytest.raises(ValueError, match=r"num_points=2,000 of 40,000 points .* set sampling='random'"):
            extractor(points)

    @pytest.mark.parametrize("sampling", ["random", "farthest"])
    @pytest.mark.parametrize("kind", ["scan", "grid", "doubled"])
    def test_does_not_depend_on_the_order(self, points, sampling, kind):
        if kind == "grid":  # where many points are equally far
            points = np.stack(np.meshgrid(*[np.arange(8.0)] * 3), axis=-1).reshape(-1, 3)
        elif kind == "doubled":
            points = np.concatenate([points, points[:100], points[:50], -0.0 * points[:9], 0 * points[:9]])
        extractor = PointCloudPerceiverFeatureExtractor(num_points=64, sampling=sampling)
        expected = extractor(points, return_tensors="np")["point_values"]
        for seed in range(5):
            shuffled = np.random.default_rng(seed).permutation(points)
            np.testing.assert_array_equal(extractor(shuffled, return_tensors="np")["point_values"], expected)

    def test_every_point_is_as_likely(self):
        """Equal points count as often as they are there."""
        points = np.concatenate([np.eye(3).repeat(20, axis=0), np.arange(120.0).reshape(40, 3)])
        extractor = PointCloudPerceiverFeatureExtractor(num_points=10, do_center=False, scale_to="none")
        drawn = np.zeros(43)
        for seed in range(2000):
            extractor.seed = seed
            chosen = extractor(points)["point_values"][0]
            values, counts = np.unique(chosen, axis=0, return_counts=True)
            for value, count in zip(values, counts, strict=True):
                drawn[value.argmax() if value.sum() == 1 else 3 + int(value[0]) // 3] += count
        weights = np.array([20, 20, 20, *[1] * 40]) / 100
        assert chisquare(drawn, weights * drawn.sum()).pvalue > 0.001

    def test_a_sample_has_a_shape(self, tmp_path):
        cloud = np.zeros((100_000, 3))
        cloud[:5] = np.random.default_rng(0).standard_normal((5, 3))
        np.save(tmp_path / "zeros.npy", cloud)
        with pytest.raises(ValueError, match="all 1,024 points that were drawn from 100,000 are the same"):
            PointCloudPerceiverFeatureExtractor(num_points=1024)(tmp_path / "zeros.npy")
        farthest = PointCloudPerceiverFeatureExtractor(num_points=16, sampling="farthest")(tmp_path / "zeros.npy")
        assert np.abs(farthest["point_values"][0]).max() == 1
