"""Training on point clouds: the made shapes, the augmentation, and the commands from end to end."""

import json
import math
import sys
from functools import partial

import datasets
import numpy as np
import pytest
import torch
import yaml
from huggingface_hub import ModelCard
from matplotlib.figure import Figure
from transformers import pipeline

from perceivers import PointCloudPerceiverFeatureExtractor
from perceivers.cli.errors import UsageError
from perceivers.cli.main import main
from perceivers.cli.train import parse
from perceivers.preprocessors import point_cloud_files
from perceivers.training.classification import CLASSIFICATION, ClassTargets
from perceivers.training.evaluation import Evaluator
from perceivers.training.point_clouds import (
    POINT_CLOUDS,
    PointAugmentation,
    PointCloudAugmentationArguments,
    PointCloudDataArguments,
    PointCloudTransform,
    make_point_augmentation,
    say_what_is_not_used,
)
from perceivers.training.shapes import MAKERS, make_mesh, shapes
from tests.models import tiny_point_cloud_model

trimesh = pytest.importorskip("trimesh")

SMALL = {"train": 3, "validation": 2}  # clouds of each shape
QUICK = ["--num_train_epochs", "1", "--disable_tqdm", "true", "--report_to", "none", "--use_cpu"]


pytestmark = pytest.mark.usefixtures("one_thread")


def as_they_are(points, mask):
    return points


def batch(size=64, points=100, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(size, points, 3, generator=generator) * 2 - 1, torch.ones(size, points, dtype=torch.long)


class TestShapes:
    def test_seeds_make_the_clouds(self):
        first, again, other = (shapes(2, seed=seed, num_points=64) for seed in (5, 5, 6))
        assert first["points"][:] == again["points"][:] != other["points"][:]
        assert len(MAKERS) >= 10 and first.features["label"].names == list(MAKERS)
        assert sorted(first["label"]) == sorted([*range(len(MAKERS))] * 2)
        points = np.array(first["points"])
        assert points.shape == (24, 64, 3)
        assert len({cloud.tobytes() for cloud in points}) == 24
        radii = np.linalg.norm(points, axis=-1).max(axis=1)
        assert (radii > 0.9).all() and (radii < 1.2).all()

    @pytest.mark.parametrize("name", MAKERS)
    def test_solids_are_closed_and_upright(self, name):
        mesh = make_mesh(name, np.random.default_rng(0).uniform)
        assert mesh.is_watertight and mesh.volume > 0
        # The axis of rotation is z, about which they are symmetric up to the corners of their sections.
        assert np.abs(mesh.center_mass[:2]).max() < 1e-6

    def test_a_missing_library_is_named(self, monkeypatch):
        monkeypatch.setitem(sys.modules, "trimesh", None)
        with pytest.raises(ImportError, match=r"needs `trimesh`.*pip install 'perceivers\[points\]'"):
            shapes(1, seed=0)


class TestAugmentation:
    def test_the_papers_scaling(self):
        points, mask = batch()
        scaled, _ = PointAugmentation(as_they_are, scaling=0.01)(points, mask)
        factors = scaled / points
        torch.testing.assert_close(factors, factors[..., :1].expand_as(factors), atol=1e-4, rtol=0)
        assert 0.9899 < factors.min() < 0.9905 and 1.0095 < factors.max() < 1.0101
        assert abs(factors.mean() - 1) < 1e-3

    def test_the_normalisation_is_that_of_the_extractor(self):
        points, mask = batch()
        mask[:, 60:] = 0
        extractor = PointCloudPerceiverFeatureExtractor()
        normalized, kept = PointAugmentation(extractor.normalize, scaling=0.01)(points, mask)
        torch.testing.assert_close(kept, mask)
        torch.testing.assert_close(normalized[:, :60].abs().amax(dim=(1, 2)), torch.ones(64))
        assert normalized[:, :60].mean(dim=1).abs().max() < 1e-5

    @pytest.mark.parametrize("axis", [0, 1, 2])
    def test_rotation_about_an_axis(self, axis):
        points, mask = batch()
        turned, _ = PointAugmentation(as_they_are, rotation=30, vertical_axis=axis)(points, mask)
        torch.testing.assert_close(turned[..., axis], points[..., axis])
        torch.testing.assert_close(torch.cdist(turned, turned), torch.cdist(points, points), atol=1e-3, rtol=0)
        others = [other for other in range(3) if other != axis]
        angles = [torch.atan2(p[:, 0, others[1]], p[:, 0, others[0]]) for p in (points, turned)]
        angles = torch.remainder(angles[1] - angles[0] + math.pi, 2 * math.pi) - math.pi
        assert 25 < angles.abs().max().rad2deg() < 30.01
        assert angles.min() < 0 < angles.max()

    def test_normals_turn_with_their_points(self):
        points, mask = batch()
        arguments = PointCloudAugmentationArguments(rotation=180.0)
        names = ["intensity", "nx", "ny", "nz"]
        extractor = PointCloudPerceiverFeatureExtractor(feature_names=names, do_center=False, scale_to="none")
        intensity = torch.rand(64, 100, 1)
        inputs = {"point_values": torch.cat([points, intensity, points], -1), "attention_mask": mask, "labels": 7}
        output = make_point_augmentation(arguments, extractor)(inputs)
        values = output["point_values"]
        torch.testing.assert_close(values[..., 4:], values[..., :3])
        torch.testing.assert_close(values[..., 3:4], intensity)
        assert (values[..., :3] - points).abs().max() > 0.5 and output["labels"] == 7

    def test_jitter_and_translation(self):
        points, mask = batch()
        jittered, _ = PointAugmentation(as_they_are, jitter=0.05)(points, mask)
        assert (jittered - points).std().item() == pytest.approx(0.05, rel=0.03)
        extractor = PointCloudPerceiverFeatureExtractor()
        centred = extractor.normalize(points, mask)
        shifted, _ = PointAugmentation(extractor.normalize, translation=0.02)(points, mask)
        shifts = (shifted - centred).mean(dim=1)
        torch.testing.assert_close(shifted - centred, shifts[:, None].expand_as(shifted), atol=1e-5, rtol=0)
        assert 0.018 < shifts.abs().max() < 0.0201

    def test_dropout_leaves_two_points(self):
        points, mask = batch(points=20_000)  # the share that is kept varies by 0.004
        _, kept = PointAugmentation(as_they_are, dropout=0.5)(points, mask)
        parts = kept.float().mean(dim=1)
        assert 0.48 < parts.min() < 0.6 and parts.max() > 0.9
        points, mask = batch(size=200, points=3)
        _, kept = PointAugmentation(as_they_are, dropout=0.99)(points, mask)
        assert kept.sum(dim=1).min() >= 2

    def test_a_subset_prefers_points_to_padding(self):
        points, mask = batch(points=50)
        mask[:, 20:] = 0
        chosen, kept = PointAugmentation(as_they_are, subset=10)(points, mask)
        assert chosen.shape == (64, 10, 3) and kept.all()
        assert ((chosen[:, :, None] == points[:, None, :20]).all(-1).sum(-1) == 1).all()
        assert len({tuple(cloud[0].tolist()) for cloud in chosen}) > 1
        _, kept = PointAugmentation(as_they_are, subset=30)(points, mask)
        assert (kept.sum(dim=1) == 20).all()

    def test_pytorchs_seed_repeats_it(self):
        augment = PointAugmentation(as_they_are, 180.0, 0.01, 0.01, 50, 0.2, 0.02)
        results = []
        for seed in (0, 0, 1):
            torch.manual_seed(seed)
            results.append(augment(*batch()))
        torch.testing.assert_close(results[0], results[1], atol=0, rtol=0)
        assert not torch.equal(results[0][0], results[2][0])

    def test_nothing_asked_for(self):
        extractor = PointCloudPerceiverFeatureExtractor()
        assert make_point_augmentation(PointCloudAugmentationArguments(), extractor) is None

    @pytest.mark.parametrize(
        ("fields", "message"),
        [
            ({"rotation": -1.0}, "`--rotation` must not be negative, got -1.0"),
            ({"dropout": 1.0}, "`--dropout` must be below 1, got 1.0"),
            ({"subset": 1}, "`--subset` must be at least 2, got 1"),
        ],
    )
    def test_arguments(self, fields, message):
        with pytest.raises(ValueError, match=message):
            PointCloudAugmentationArguments(**fields)


class TestDrawing:
    """What the picture of mistakes shows of a cloud."""

    def test_the_points_that_the_model_sees_are_drawn(self):
        extractor = PointCloudPerceiverFeatureExtractor(num_points=50)
        transform, axes = (
            POINT_CLOUDS.eval_transform(extractor),
            Figure().add_subplot(projection=POINT_CLOUDS.projection),
        )
        cloud = np.random.default_rng(0).normal(3.0, 2.0, (30, 3))
        POINT_CLOUDS.draw(cloud, transform, axes)
        (points,) = transform([cloud])["point_values"]
        (drawn,) = axes.collections
        np.testing.assert_allclose(np.stack(drawn._offsets3d, -1), points[:30].numpy())  # without padding
        assert np.abs(np.stack(drawn._offsets3d)).max() == pytest.approx(1)  # after the normalisation

    def test_a_file_is_read(self, tmp_path):
        path = tmp_path / "x.npy"
        np.save(path, np.random.default_rng(0).normal(size=(30, 3)))
        axes = Figure().add_subplot(projection="3d")
        transform = POINT_CLOUDS.eval_transform(PointCloudPerceiverFeatureExtractor(num_points=20))
        POINT_CLOUDS.draw(POINT_CLOUDS.example_from_file(str(path)), transform, axes)
        assert len(axes.collections[0]._offsets3d[0]) == 20


def make_modelnet(root, clouds=3):
    """The layout of ModelNet40: `class/train/*.off` and `class/test/*.off`, with headers that run into the counts."""
    for index, name in enumerate(("bench", "lamp")):
        for part in ("train", "test"):
            folder = root / name / part
            folder.mkdir(parents=True)
            for number in range(clouds):
                mesh = trimesh.creation.box([1, 1 + number, 1 + 3 * index])
                (folder / f"{name}_{number}.off").write_text(mesh.export(file_type="off").replace("OFF\n", "OFF", 1))
    return root


def train(folder, *words):
    words = ["--output_dir", str(folder), *QUICK, *words]
    return main(["train", "--task", "point-cloud-classification", *words])


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A model that `perceivers train` made of the shapes, a few of them."""
    few = {name: partial(shapes, number, seed=index) for index, (name, number) in enumerate(SMALL.items())}
    folder = tmp_path_factory.mktemp("trained") / "model"
    built_in = POINT_CLOUDS.built_in
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(built_in, "shapes", few)
        assert main(["train", "--dataset_name", "shapes", "--output_dir", str(folder), *QUICK]) == 0
        # What is trained on is not made where it is not asked for.
        patch.setitem(built_in, "shapes", {**few, "train": None})
        assert main(["evaluate", str(folder), "--output_file", str(folder / "evaluated.json")]) == 0
    return folder


@pytest.fixture(scope="module")
def coloured(tmp_path_factory):
    """Scans of two classes that differ in their colours alone."""
    root = tmp_path_factory.mktemp("coloured")
    random = np.random.default_rng(0)
    for index, name in enumerate(("dark", "light")):
        (root / name).mkdir()
        for number in range(5):
            colours = random.integers(100 * index, 100 * index + 100, (40, 3), dtype=np.uint8)
            scan = trimesh.PointCloud(random.normal(size=(40, 3)), colors=colours)
            scan.export(root / name / f"{number}.ply")
    return root


@pytest.mark.integration
class TestCommands:
    def test_what_training_writes(self, trained):
        names = {path.name for path in trained.iterdir()}
        assert {"model.safetensors", "preprocessor_config.json", "recipe.yaml", "README.md", "example.xyz"} <= names
        assert {"point_cloud_classification.py", "modeling_point_cloud_perceiver.py"} <= names
        card = ModelCard.load(trained / "README.md")
        assert card.data.pipeline_tag == "point-cloud-classification"
        assert 'pipeline("point-cloud-classification"' in card.text
        assert np.loadtxt(trained / "example.xyz").shape == (1024, 3)

    def test_evaluation_repeats_the_training_runs(self, trained):
        evaluated = json.loads((trained / "evaluated.json").read_text())
        results = json.loads((trained / "eval_results.json").read_text())
        assert evaluated["accuracy"] == pytest.approx(results["eval_accuracy"])
        assert evaluated["examples"] == SMALL["validation"] * len(MAKERS)

    def test_prediction_of_scans_meshes_and_broken_files(self, trained, tmp_path, capsys):
        trimesh.creation.box().export(tmp_path / "mesh.off")
        (tmp_path / "broken.ply").write_text("1 2 3\n4 5 6\n")
        (tmp_path / "one.xyz").write_text("1 2 3\n")
        (tmp_path / "nan.csv").write_text("1,2,3\n4,nan,6\n")
        np.save(tmp_path / "flat.npy", np.ones((5, 2)))
        capsys.readouterr()
        words = [str(trained / "example.xyz"), str(tmp_path / "*"), "--top_k", "2", "--json"]
        assert main(["predict", str(trained), *words]) == 1
        output = capsys.readouterr()
        answers = {answer["file"].rsplit("/")[-1]: answer for answer in json.loads(output.out)}
        assert len(answers["example.xyz"]["predictions"]) == len(answers["mesh.off"]["predictions"]) == 2
        expected = pipeline("point-cloud-classification", model=str(trained))(str(tmp_path / "mesh.off"), top_k=2)
        assert [p["label"] for p in answers["mesh.off"]["predictions"]] == [p["label"] for p in expected]
        assert "line 1: expected 'ply'" in answers["broken.ply"]["error"]
        assert "expected at least two points" in answers["one.xyz"]["error"]
        assert "point 1 has values that are NaN or infinite" in answers["nan.csv"]["error"]
        assert "got (5, 2)" in answers["flat.npy"]["error"]
        lines = [line for line in output.err.splitlines() if str(tmp_path) in line]
        assert len(lines) == 4 and "Traceback" not in output.err

    def test_info(self, trained, capsys):
        assert main(["info", str(trained), "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["inputs"]["channels"] == 39
        assert main(["info", "modelnet40", "--json"]) == 0
        description = json.loads(capsys.readouterr().out)
        assert description["parameters"]["total"] == 44_772_202
        assert description["inputs"]["number"] == 2048

    def test_the_layout_of_modelnet40_with_a_broken_file(self, tmp_path, capsys):
        root = make_modelnet(tmp_path / "ModelNet")
        (root / "lamp" / "train" / "broken.off").write_text("OFF\n4 2 0\n0 0 0\n")
        assert train(tmp_path / "out", "--train_dir", str(root), "--variant", "tiny") == 0
        output = capsys.readouterr()
        assert "skipped '" in output.err and "broken.off' is not a point cloud, or is broken" in output.err
        assert "Skipped 1 unreadable point cloud, listed above." in output.out
        assert "on 6 held-out point clouds" in output.out
        results = json.loads((tmp_path / "out" / "config.json").read_text())
        assert results["id2label"] == {"0": "bench", "1": "lamp"}

    def test_a_data_set_with_a_column_of_points(self, tmp_path):
        rng = np.random.default_rng(0)
        clouds = [rng.normal(size=(20 + n, 3)).tolist() for n in range(12)]
        rows = datasets.Dataset.from_dict({"scan": clouds, "kind": ["a", "b"] * 6})
        (tmp_path / "data").mkdir()
        rows.to_parquet(tmp_path / "data" / "train.parquet")
        words = ["--dataset_name", str(tmp_path / "data"), "--label_column_name", "kind", "--variant", "tiny"]
        assert train(tmp_path / "out", *words, "--rotation", "180", "--dropout", "0.2") == 0
        assert train(tmp_path / "out", *words, "--points_column_name", "kind", "--overwrite_output_dir") == 1

    def test_evaluation_in_half_precision_keeps_the_coordinates(self):
        model, seen = tiny_point_cloud_model().to(torch.bfloat16), []
        model.perceiver.inputs.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].dtype))
        transform = PointCloudTransform(PointCloudPerceiverFeatureExtractor(num_points=16))
        names = [f"LABEL_{label}" for label in range(10)]
        dataset = shapes(1, seed=0, num_points=16).select(range(4))
        results = Evaluator(model, POINT_CLOUDS, CLASSIFICATION, ClassTargets(names), dataset, transform).evaluate()
        assert results["examples"] == 4
        assert seen == [torch.float32]

    def test_features_of_model_and_processor_must_agree(self, tmp_path, capsys):
        words = ["--dataset_name", "shapes", "--config", "num_features=3"]
        assert train(tmp_path / "out", *words) == 1
        assert "num_features=3, the processor has feature_names=[]" in capsys.readouterr().err

    def test_features(self, coloured, tmp_path, capsys):
        words = ["--train_dir", str(coloured), "--variant", "tiny", "--features", "red", "green", "blue"]
        assert train(tmp_path / "out", *words) == 0
        assert "of which nothing is used" not in capsys.readouterr().err
        assert json.loads((tmp_path / "out" / "config.json").read_text())["num_features"] == 3
        processor = json.loads((tmp_path / "out" / "preprocessor_config.json").read_text())
        assert processor["feature_names"] == ["red", "green", "blue"]
        recipe = yaml.safe_load((tmp_path / "out" / "recipe.yaml").read_text())
        assert recipe["features"] == ["red", "green", "blue"] and "processor" not in recipe
        assert main(["evaluate", str(tmp_path / "out")]) == 0
        scan = next((coloured / "dark").iterdir())
        assert main(["predict", str(tmp_path / "out"), str(scan)]) == 0

    def test_colours_that_are_not_used_are_told(self, coloured, tmp_path, capsys):
        assert train(tmp_path / "out", "--train_dir", str(coloured), "--variant", "tiny") == 0
        said = capsys.readouterr().err
        assert said.count(f"{coloured}/dark/0.ply has red, green, blue, of which nothing is used; `--features") == 1

    @pytest.mark.parametrize(
        ("words", "message"),
        [
            (["--config", "num_features=3"], "`--features` sets num_features already"),
            (["--processor", "feature_names=[red]"], "`--features` sets feature_names already"),
            (["--model_name_or_path", "owner/name"], "`--features` is for new models"),
        ],
    )
    def test_features_are_given_once(self, words, message):
        given = ["--task", "point-cloud-classification", "--features", "red", *words]
        with pytest.raises(UsageError, match=message):
            parse("perceivers train", given)

    def test_columns_without_names_are_told(self, tmp_path, capsys):
        (tmp_path / "a").mkdir()
        np.savetxt(tmp_path / "a" / "1.xyz", np.random.default_rng(0).random((5, 6)))
        say_what_is_not_used(str(tmp_path))
        assert "1.xyz has 3 columns without names after x, y and z, of which nothing is" in capsys.readouterr().err
        say_what_is_not_used(str(tmp_path / "missing"))
        assert capsys.readouterr().err == ""

    def test_what_is_not_installed_is_told_in_a_line(self, tmp_path, capsys, monkeypatch):
        monkeypatch.setitem(sys.modules, "trimesh", None)
        assert train(tmp_path / "out", "--dataset_name", "shapes") == 1
        assert "`trimesh`, which is not installed: pip install" in capsys.readouterr().err.splitlines()[-1]
        assert not (tmp_path / "out").exists()

    def test_suffixes_are_those_of_the_reader(self):
        assert POINT_CLOUDS.suffixes == point_cloud_files.POINT_CLOUD_SUFFIXES

    def test_column_types(self):
        accepts = partial(POINT_CLOUDS.accepts, "points")
        assert accepts(datasets.Array2D((5, 3), "float32"))
        assert accepts(datasets.List(datasets.List(datasets.Value("float64"))))
        assert not accepts(datasets.List(datasets.Value("float32"))) and not accepts(datasets.Value("string"))
        assert PointCloudDataArguments(points_column_name="scan").column_name("points") == "scan"
