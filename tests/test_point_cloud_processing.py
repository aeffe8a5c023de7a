"""The feature extractor for point clouds: reading, sampling, normalisation, padding, and what it refuses.

The files in tests/point_clouds were written by Open3D 0.20 from the columns of `expected.npy`: x, y, z, colours in
0..1, normals.
"""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import chisquare
from transformers import AutoFeatureExtractor

from perceivers import PointCloudPerceiverFeatureExtractor
from perceivers.preprocessors.feature_extraction_point_cloud_perceiver import farthest_points
from perceivers.preprocessors.point_cloud_files import POINT_CLOUD_SUFFIXES, further_columns, read_point_cloud

FILES = Path(__file__).parent / "point_clouds"
COLOURS = ("red", "green", "blue")
NORMALS = ("nx", "ny", "nz")
HEADER = b"ply\nformat %s 1.0\nelement vertex %d\nproperty float x\nproperty float y\nproperty float z\nend_header\n"
SQUARE = "4 2 0\n0 0 0\n1 0 0\n1 1 0\n0 1 0\n3 0 1 2\n3 0 2 3\n"


@pytest.fixture
def generator():
    return np.random.default_rng(0)


@pytest.fixture
def points(generator):
    return generator.normal(size=(50, 3)).round(3)


def read(path, *feature_names, num_points=1000):
    return read_point_cloud(path, num_points, np.random.default_rng(0), feature_names)


class TestFiles:
    @pytest.mark.parametrize("name", ["ascii.pcd", "binary.pcd", "compressed.pcd", "binary.ply"])
    def test_what_open3d_wrote(self, name):
        actual = read(FILES / name, *COLOURS, *NORMALS)
        assert actual.dtype == np.float64
        # PCD holds coordinates in float32.
        np.testing.assert_allclose(actual, np.load(FILES / "expected.npy"), atol=1e-6)
        np.testing.assert_array_equal(read(FILES / name), actual[:, :3])

    def test_text_that_open3d_wrote(self):
        np.testing.assert_array_equal(read(FILES / "plain.xyz"), np.load(FILES / "expected.npy")[:, :3])

    @pytest.mark.parametrize("text", [True, False])
    def test_ply_of_plyfile(self, tmp_path, generator, text):
        plyfile = pytest.importorskip("plyfile")
        types = [("x", "f8"), ("y", "f8"), ("z", "f8"), ("intensity", "u2"), ("curvature", "f4")]
        vertices = np.array([(0.1, 2, 3, 65535, 0.5), (4, 5, 6, 0, -0.25)], dtype=types)
        ply = plyfile.PlyData([plyfile.PlyElement.describe(vertices, "vertex")], text=text, byte_order=">")
        ply.write(tmp_path / "cloud.ply")
        expected = [[0.1, 2, 3, 0.5, 1], [4, 5, 6, -0.25, 0]]
        np.testing.assert_allclose(read(tmp_path / "cloud.ply", "curvature", "intensity"), expected)

    def test_ply_of_trimesh(self, tmp_path, points):
        trimesh = pytest.importorskip("trimesh")
        colors = np.arange(150).reshape(50, 3).astype(np.uint8)
        trimesh.PointCloud(points, colors=colors).export(tmp_path / "cloud.ply")
        actual = read(tmp_path / "cloud.ply", *COLOURS)
        np.testing.assert_allclose(actual[:, :3], points, atol=1e-6)
        np.testing.assert_allclose(actual[:, 3:], colors / 255)

    @pytest.mark.parametrize("suffix", ["las", "laz"])
    def test_las_keeps_the_digits_of_a_survey(self, tmp_path, points, suffix):
        laspy = pytest.importorskip("laspy")
        scan = laspy.create(point_format=3, file_version="1.2")
        scan.header.offsets, scan.header.scales = [500_000, 5_000_000, 0], [0.001] * 3
        surveyed = points + np.array([500_000, 5_000_000, 100])
        scan.x, scan.y, scan.z = surveyed.T
        scan.intensity = np.full(50, 13_107)
        scan.red = scan.green = scan.blue = np.full(50, 65_535)
        scan.write(tmp_path / f"scan.{suffix}")
        actual = read(tmp_path / f"scan.{suffix}", "intensity", "red")
        np.testing.assert_allclose(actual[:, :3], surveyed, atol=1e-6, rtol=0)
        np.testing.assert_allclose(actual[:, 3:], np.tile([0.2, 1.0], (50, 1)))

    @pytest.mark.parametrize(
        ("name", "text"),
        [
            ("a.xyz", "1 2 3\n4 5 6\n"),
            ("a.txt", "# a comment\n1,2,3,9,9,9\n\n4,5,6,9,9,9\n"),  # as ModelNet40 with normals is handed around
            ("a.csv", "intensity;Z;Y;X\n0;3;2;1\n0;6;5;4\n"),
            ("a.csv", '"x","y","z"\n1,2,3\n4,5,6'),
            ("a.txt", "//X Y Z R G B\n1.0 2.0 3.0 9 9 9\n4.0 5.0 6.0 9 9 9"),  # CloudCompare
            ("a.xyz", "\ufeff1\t2\t3\r\n4\t5\t6\r\n"),
        ],
    )
    def test_text(self, tmp_path, name, text):
        (tmp_path / name).write_bytes(text.encode())
        np.testing.assert_array_equal(read(tmp_path / name), [[1, 2, 3], [4, 5, 6]])

    def test_features_of_text_in_order(self, tmp_path):
        (tmp_path / "a.txt").write_text("1 2 3 0.5\n4 5 6 0.25\n")
        np.testing.assert_array_equal(read(tmp_path / "a.txt", "intensity"), [[1, 2, 3, 0.5], [4, 5, 6, 0.25]])

    def test_numpy(self, tmp_path, points):
        np.save(tmp_path / "a.npy", points.astype(np.float32))
        np.savez(tmp_path / "one.npz", anything=points)
        np.savez_compressed(tmp_path / "more.npz", label=3, points=points)
        np.testing.assert_array_equal(read(tmp_path / "a.npy"), points.astype(np.float32))
        np.testing.assert_array_equal(read(tmp_path / "one.npz"), points)
        np.testing.assert_array_equal(read(tmp_path / "more.npz"), points)

    @pytest.mark.parametrize("suffix", ["off", "obj", "stl", "glb", "ply"])
    def test_the_surface_of_a_mesh_is_sampled(self, tmp_path, suffix):
        trimesh = pytest.importorskip("trimesh")
        trimesh.creation.box([1, 2, 3]).export(tmp_path / f"box.{suffix}")
        actual = read(tmp_path / f"box.{suffix}", *NORMALS)
        assert actual.shape == (1000, 6)
        on_face = np.isclose(np.abs(actual[:, :3]), [0.5, 1, 1.5], atol=1e-5)
        assert on_face.any(axis=1).all()
        outwards = (actual[:, :3] / [0.5, 1, 1.5] * actual[:, 3:]).sum(axis=1)
        np.testing.assert_allclose(outwards, 1, atol=1e-5)

    def test_a_mesh_is_sampled_by_area(self, tmp_path):
        """Points on the six faces of a box, against their areas."""
        trimesh = pytest.importorskip("trimesh")
        trimesh.creation.box([1, 2, 4]).subdivide_loop(0).export(tmp_path / "box.off")
        normals = read(tmp_path / "box.off", *NORMALS, num_points=20_000)[:, 3:]
        sides = 2 * np.abs(normals).argmax(axis=1) + (normals.sum(axis=1) > 0)
        areas = np.array([8, 8, 4, 4, 2, 2])
        assert chisquare(np.bincount(sides), areas / areas.sum() * 20_000).pvalue > 0.01

    @pytest.mark.parametrize("header", ["OFF\n", "OFF", "OFF ", "# made by hand\nOFF\n"])
    def test_off_whose_header_runs_into_the_counts(self, tmp_path, header):
        (tmp_path / "square.off").write_text(header + SQUARE)
        actual = read(tmp_path / "square.off")
        assert actual.shape == (1000, 3) and (actual[:, 2] == 0).all()
        np.testing.assert_allclose(actual.mean(axis=0), [0.5, 0.5, 0], atol=0.05)

    @pytest.mark.parametrize(
        ("name", "text"),
        [("a.obj", "v 0 0 0\nv 1 0 0\nv 0 1 0\n"), ("a.off", "OFF\n3 0 0\n0 0 0\n1 0 0\n0 1 0\n")],
    )
    def test_a_mesh_without_faces_is_its_vertices(self, tmp_path, name, text):
        (tmp_path / name).write_text(text)
        np.testing.assert_array_equal(read(tmp_path / name), [[0, 0, 0], [1, 0, 0], [0, 1, 0]])

    @pytest.mark.parametrize(
        ("name", "content", "message"),
        [
            ("a.ply", b"", r"a.ply' is empty"),
            ("a.ply", b"1 2 3\n4 5 6\n", r"a.ply' is not a point cloud, or is broken: line 1: expected 'ply'"),
            ("a.ply", HEADER % (b"ascii", 5) + b"0 0 0\n1 1 1\n", r"row 2: early end-of-file"),
            ("a.ply", HEADER % (b"binary_little_endian", 5) + bytes(24), r"row 2: .*early end-of-file"),
            ("a.ply", b"ply\nformat ascii 1.0\nend_header\n", r"no element `vertex`"),
            ("a.pcd", b"1 2 3\n", r"a.pcd' is not a point cloud, or is broken: "),
            ("a.pcd", (FILES / "ascii.pcd").read_bytes()[:-100], r"a.pcd' is not a point cloud, or is broken: "),
            ("a.pcd", (FILES / "binary.pcd").read_bytes()[:-56], r"it promises 20 points and has 18"),
            ("a.pcd", (FILES / "compressed.pcd").read_bytes()[:-9], r"broken: error in compressed data"),
            ("a.las", b"1 2 3\n", r"a.las' is not a point cloud, or is broken: Invalid file signature"),
            ("a.off", b"4 2 0\n0 0 0\n", r"a.off' is not a point cloud, or is broken"),
            ("a.off", b"OFF\n4 2 0\n0 0 0\n1 0 0\n", r"a.off' is not a point cloud, or is broken"),
            ("a.off", b"OFF\n3 1 0\n0 0 0\n1 0 0\n2 0 0\n3 0 1 2\n", r"its surface has an area of 0.0"),
            ("a.obj", b"hello", r"a.obj' is not a point cloud, or is broken: it has no points"),
            ("a.glb", b"hello", r"a.glb' is not a point cloud, or is broken"),
            ("a.txt", b"\xff\xfe\x00", r"a.txt' is not a point cloud, or is broken: 'utf-8' codec"),
            ("a.txt", b"1 2 3\n4 5\n", r"number of columns changed from 3 to 2 at row 2"),
            ("a.csv", b"x,y\n1,2\n", r"no column z; its columns are x, y"),
            ("a.csv", b"x,y,z\n1,2,3,4\n", r"names 3 columns and the second has 4 numbers"),
            ("a.csv", b"x,y,z\n", r"it has no points"),
            ("a.npy", b"1 2 3\n", r"it does not begin as NumPy's files do"),
            ("a.npy", b"\x93NUMPY\x01\x00", r"a.npy' is not a point cloud, or is broken"),
            ("a.json", b"[[1, 2, 3]]", r"a.json' is not a point cloud: expected a file that ends in .ply, .pcd"),
        ],
    )  # fmt: skip
    def test_broken_files_are_named(self, tmp_path, name, content, message):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ValueError, match=message) as caught:
            read(tmp_path / name)
        assert "\n" not in str(caught.value)

    def test_objects_are_not_unpickled(self, tmp_path):
        np.save(tmp_path / "a.npy", np.array([{}], dtype=object), allow_pickle=True)
        with pytest.raises(ValueError, match="Object arrays cannot be loaded"):
            read(tmp_path / "a.npy")

    def test_arrays_without_the_expected_name(self, tmp_path, points):
        np.savez(tmp_path / "a.npz", scan=points, label=3)
        with pytest.raises(ValueError, match="it has the arrays scan, label, of which none is called `points`"):
            read(tmp_path / "a.npz")

    def test_missing_file_and_missing_column(self):
        with pytest.raises(ValueError, match=r"there is no file 'nowhere\.ply'"):
            read("nowhere.ply")
        with pytest.raises(ValueError, match=r"no column intensity; its columns are x, y, z, nx"):
            read(FILES / "binary.ply", "intensity")

    def test_a_missing_library_is_named(self, monkeypatch):
        monkeypatch.setitem(sys.modules, "plyfile", None)
        with pytest.raises(ImportError, match=r"needs `plyfile`.*pip install 'perceivers\[points\]'"):
            PointCloudPerceiverFeatureExtractor()(FILES / "binary.ply")

    def test_suffixes(self):
        assert {".ply", ".pcd", ".xyz", ".txt", ".csv", ".npy", ".npz", ".las", ".laz"} < POINT_CLOUD_SUFFIXES
        assert {".off", ".obj", ".stl", ".glb"} < POINT_CLOUD_SUFFIXES


class TestSampling:
    def test_farthest_points_equal_brute_force(self, points):
        first = np.linalg.norm(points - points.mean(axis=0), axis=1).argmax()
        expected = [first]
        while len(expected) < 12:
            distances = np.linalg.norm(points[:, None] - points[None, expected], axis=-1).min(axis=1)
            expected.append(distances.argmax())
        np.testing.assert_array_equal(farthest_points(points, 12), expected)

    def test_farthest_points_do_not_depend_on_the_order(self, points, generator):
        order = generator.permutation(50)
        np.testing.assert_array_equal(
            points[order][farthest_points(points[order], 20)], points[farthest_points(points, 20)]
        )

    def test_random_points_are_points_of_the_cloud_and_repeat(self, points):
        extractor = PointCloudPerceiverFeatureExtractor(num_points=20, do_center=False, scale_to="none")
        first, second = (extractor([points, points])["point_values"] for _ in range(2))
        np.testing.assert_array_equal(first, second)
        np.testing.assert_array_equal(first[0], first[1])
        rows = {tuple(row) for row in points.astype(np.float32)}
        assert len({tuple(row) for row in first[0]} & rows) == 20
        other = extractor([points], generator=np.random.default_rng(1))["point_values"]
        assert not np.array_equal(first[0], other[0])

    def test_a_small_cloud_keeps_its_points(self, points):
        for sampling in ("random", "farthest", "none"):
            extractor = PointCloudPerceiverFeatureExtractor(num_points=64, sampling=sampling)
            assert extractor(points)["point_values"][0].shape == (50, 3)
        assert (
            PointCloudPerceiverFeatureExtractor(num_points=8, sampling="none")(points)["point_values"][0].shape[0]
            == 50
        )

    def test_farthest_points_of_a_mesh_are_even(self, tmp_path):
        trimesh = pytest.importorskip("trimesh")
        trimesh.creation.icosphere().export(tmp_path / "ball.stl")
        gaps = {}
        for sampling in ("random", "farthest"):
            cloud = PointCloudPerceiverFeatureExtractor(num_points=64, sampling=sampling)(tmp_path / "ball.stl")
            values = cloud["point_values"][0]
            assert values.shape == (64, 3)
            distances = np.linalg.norm(values[:, None] - values, axis=-1) + 9 * np.eye(64)
            gaps[sampling] = distances.min()
        assert gaps["farthest"] > 0.2 > gaps["random"]


class TestNormalisation:
    def test_cube(self, points):
        values = PointCloudPerceiverFeatureExtractor()(points)["point_values"][0]
        assert values.dtype == np.float32
        np.testing.assert_allclose(values.mean(axis=0), 0, atol=1e-6)
        assert np.abs(values).max() == 1
        centred = points - points.mean(axis=0)
        np.testing.assert_allclose(values, centred / np.abs(centred).max(), atol=1e-6)

    def test_sphere(self, points):
        values = PointCloudPerceiverFeatureExtractor(scale_to="sphere")(points)["point_values"][0]
        assert np.linalg.norm(values, axis=1).max() == pytest.approx(1)

    def test_off(self, points):
        extractor = PointCloudPerceiverFeatureExtractor(do_center=False, scale_to="none")
        np.testing.assert_array_equal(extractor(points)["point_values"][0], points.astype(np.float32))

    def test_where_and_how_large_a_cloud_is_does_not_matter(self, points):
        extractor = PointCloudPerceiverFeatureExtractor()
        moved = 1e-3 * points + [500_000, 5_000_000, 100]  # a millimetre, far from the origin: not in float32
        np.testing.assert_allclose(
            extractor(moved)["point_values"][0], extractor(points)["point_values"][0], atol=1e-5
        )

    def test_a_flat_cloud_is_a_cloud(self, points):
        points[:, 2] = 5
        values = PointCloudPerceiverFeatureExtractor()(points)["point_values"][0]
        assert np.abs(values).max() == 1 and (values[:, 2] == 0).all()

    def test_features_stay_as_they_are(self, points):
        measured = np.hstack([points, np.full((50, 3), 7.0)])
        values = PointCloudPerceiverFeatureExtractor(feature_names=["nx", "curvature", "time"])(measured)
        values = values["point_values"][0]
        assert (values[:, 3:] == 7).all() and np.abs(values[:, :3]).max() == 1

    def test_batches_with_masks(self, points):
        extractor = PointCloudPerceiverFeatureExtractor()
        batch = torch.full((2, 60, 3), 99.0)
        batch[:, :50] = torch.from_numpy(points)
        mask = (torch.arange(60) < 50).expand(2, -1)
        normalized = extractor.normalize(batch, mask)
        np.testing.assert_allclose(normalized[1, :50], extractor(points)["point_values"][0], atol=1e-6)
        assert (normalized[:, 50:] == 99).all()

    def test_no_extent_divides_nothing_by_zero(self):
        values = PointCloudPerceiverFeatureExtractor().normalize(torch.full((1, 5, 3), 2.0))
        assert (values == 0).all()


class TestBatches:
    @pytest.mark.parametrize("make", [np.asarray, torch.tensor, list, lambda p: torch.tensor(p, dtype=torch.float16)])
    def test_kinds_of_clouds(self, points, make):
        extractor = PointCloudPerceiverFeatureExtractor()
        one = extractor(make(points.tolist()), return_tensors="pt")
        assert one["point_values"].shape == (1, 50, 3) and one["point_values"].dtype == torch.float32
        np.testing.assert_allclose(one["point_values"][0], extractor(points)["point_values"][0], atol=1e-3)
        two = extractor([make(points.tolist())] * 2, return_tensors="pt")
        assert two["point_values"].shape == (2, 50, 3)

    def test_a_batch_as_one_array(self, points):
        batch = np.stack([points, 2 * points])
        for form in (batch, torch.tensor(batch), batch.tolist()):
            assert PointCloudPerceiverFeatureExtractor()(form, return_tensors="np")["point_values"].shape == (2, 50, 3)

    def test_sizes_are_padded_and_masked(self, points):
        batch = PointCloudPerceiverFeatureExtractor(padding_value=-9.0)([points, points[:20]], return_tensors="pt")
        assert batch["point_values"].shape == (2, 50, 3)
        assert batch["attention_mask"].sum(dim=1).tolist() == [50, 20]
        assert batch["attention_mask"].dtype == torch.int64
        assert (batch["point_values"][1, 20:] == -9).all()

    def test_padding_to_a_length(self, points):
        extractor = PointCloudPerceiverFeatureExtractor(num_points=64)
        assert extractor(points, "pt", padding="max_length")["point_values"].shape == (1, 64, 3)
        assert extractor(points, "pt", padding="max_length", max_length=70)["point_values"].shape == (1, 70, 3)
        with pytest.raises(ValueError, match="a cloud has 50 points, more than max_length=40"):
            extractor(points, padding="max_length", max_length=40)
        with pytest.raises(ValueError, match="`padding` must be `longest` or `max_length`, got 'most'"):
            extractor(points, padding="most")

    def test_files_and_arrays_together(self, points):
        batch = PointCloudPerceiverFeatureExtractor()([str(FILES / "binary.pcd"), FILES / "binary.ply", points])
        np.testing.assert_allclose(batch["point_values"][0], batch["point_values"][1], atol=1e-6)

    def test_save_and_load(self, tmp_path, points):
        extractor = PointCloudPerceiverFeatureExtractor(
            num_points=30, sampling="farthest", feature_names=["intensity"], scale_to="sphere", seed=3
        )
        extractor.save_pretrained(tmp_path)
        loaded = AutoFeatureExtractor.from_pretrained(tmp_path)
        assert isinstance(loaded, PointCloudPerceiverFeatureExtractor)
        assert loaded.to_dict() == extractor.to_dict()
        assert AutoFeatureExtractor.from_pretrained(tmp_path, num_points=12).num_points == 12


class TestErrors:
    @pytest.mark.parametrize(
        ("points", "message"),
        [
            (np.zeros((0, 3)), "expected at least two points, as fewer have no shape; got 0"),
            ([[0, 0, 0]], "expected at least two points, as fewer have no shape; got 1"),
            (np.full((5, 3), 2.0), r"all 5 points are the same, \[2.0, 2.0, 2.0\], which has no shape"),
            (np.eye(3)[:, :2], r"shape \(number, 3\), with columns x, y, z, got \(3, 2\)"),
            (np.eye(6), r"shape \(number, 3\), with columns x, y, z, got \(6, 6\)"),
            ([0.0, 1.0, 2.0], r"got \(3,\)"),
            (
                [[0, 0, 0], [1, 1, 1], [2, np.nan, 2]],
                r"point 2 has values that are NaN or infinite: \[2.0, nan, 2.0\]",
            ),
            ([[0, 0, 0], [1, 1, np.inf]], r"point 1 has values that are NaN or infinite"),
            ([[0, 0, 0], [1, 1, 1e300]], "the coordinates are too large, up to 1e\\+300"),
            ([], r"got \(0,\)"),
            (3, r"got \(\)"),
            (np.zeros((0, 5, 3)), "expected at least one point cloud"),
        ],
    )
    def test_clouds(self, points, message):
        extractor = PointCloudPerceiverFeatureExtractor(scale_to="cube" if "large" not in message else "none")
        with pytest.raises(ValueError, match=message):
            extractor(points)

    def test_the_cloud_and_the_file_are_named(self, tmp_path, points):
        (tmp_path / "one.xyz").write_text("1 2 3\n")
        with pytest.raises(ValueError, match=r"^point cloud 1: '.*one.xyz': expected at least two points"):
            PointCloudPerceiverFeatureExtractor()([points, tmp_path / "one.xyz"])

    @pytest.mark.parametrize("points", [None, [["a", "b", "c"]], np.array([[True, False, True]] * 2)])
    def test_no_numbers(self, points):
        with pytest.raises(TypeError, match="expected points that are integers or floats, got dtype"):
            PointCloudPerceiverFeatureExtractor()(points)

    @pytest.mark.parametrize("given", [{"x": 1}, {"bytes": None, "path": None}, {}])
    def test_dictionaries_without_a_cloud(self, given):
        with pytest.raises(ValueError, match=r"expected a dictionary with `points`, `bytes` or `path`, got the keys"):
            PointCloudPerceiverFeatureExtractor()(given)

    def test_features(self, points):
        with pytest.raises(ValueError, match=r"shape \(number, 4\), with columns x, y, z, intensity, got \(50, 3\)"):
            PointCloudPerceiverFeatureExtractor(feature_names=["intensity"])(points)

    @pytest.mark.parametrize(
        ("fields", "message"),
        [
            ({"num_points": 1}, "`num_points` must be at least 2, got 1"),
            ({"sampling": "even"}, "`sampling` must be one of random, farthest, none, got 'even'"),
            ({"scale_to": "box"}, "`scale_to` must be one of cube, sphere, none, got 'box'"),
            ({"num_point": 12}, r"has no field `num_point` \(did you mean `num_points`\?\)"),
        ],
    )
    def test_fields(self, fields, message):
        with pytest.raises(ValueError, match=message):
            PointCloudPerceiverFeatureExtractor(**fields)


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("a.xyz", "x y z r g b scalar_intensity\n1 2 3 4 5 6 .5\n3 2 1 4 9 9 .5\n", (["green", "blue"], 0)),
        ("a.xyz", "1 2 3 4 5 6\n3 2 1 4 9 9\n", ([], 3)),
        ("a.csv", "x,y,z,intensity\n1,2,3,0\n3,2,1,.5\n", (["intensity"], 0)),
        ("a.csv", "1,2,3\n3,2,1\n", ([], 0)),
        ("a.obj", "v 1 2 3\nv 4 2 3\nv 4 7 3\nf 1 2 3\n", ([], 0)),
    ],
)
def test_what_a_scan_has_beyond_its_coordinates(tmp_path, name, text, expected):
    (tmp_path / name).write_text(text)
    assert further_columns(tmp_path / name) == expected


def test_the_further_columns_of_a_broken_scan(tmp_path):
    (tmp_path / "a.ply").write_text("ply")
    with pytest.raises(ValueError, match="is not a point cloud, or is broken"):
        further_columns(tmp_path / "a.ply")
