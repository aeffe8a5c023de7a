"""What was held out from training is written down, and evaluation never uses what was trained on."""

import json
import os
import shutil

import datasets
import numpy as np
import pytest
from PIL import Image
from scipy.io import wavfile

from perceivers.training import contents
from perceivers.training.contents import Content, contents_of, fingerprints
from perceivers.training.held_out import HeldOut
from tests.runs import run, the_line

pytestmark = pytest.mark.integration

TRAIN = ["--variant", "tiny", "--use_cpu", "--disable_tqdm", "true", "--report_to", "none", "--max_steps", 1]


def save_image(path, number):
    pixels = np.random.default_rng(number).integers(0, 256, (12, 10, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)


def save_clip(path, number):
    wavfile.write(path, 8000, np.random.default_rng(number).normal(size=512).astype(np.float32))


def save_cloud(path, number):
    np.save(path, np.random.default_rng(number).normal(size=(20, 3)).astype(np.float32))


KINDS = {"image": (save_image, "png"), "audio": (save_clip, "wav"), "point-cloud": (save_cloud, "npy")}


def fill(root, kind="image", number=10, first=0):
    save, suffix = KINDS[kind]
    for index, name in enumerate(("dark", "light")):
        (root / name).mkdir(parents=True, exist_ok=True)
        for count in range(number):
            save(root / name / f"{first + count}.{suffix}", 1000 * index + first + count)
    return root


def train(out, *words, task="image"):
    return run("train", "--task", f"{task}-classification", "--output_dir", out, *TRAIN, *words)


def evaluate(capsys, *words):
    """The results, and what was said on stderr."""
    capsys.readouterr()
    assert run("evaluate", *words, "--json") == 0
    said = capsys.readouterr()
    return json.loads(said.out), said.err


def record(out):
    return json.loads((out / "held_out.json").read_text(), parse_constant=pytest.fail)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    root = tmp_path_factory.mktemp("trained")
    assert train(root / "out", "--train_dir", fill(root / "images"), "--seed", 7, "--split_seed", 3) == 0
    return root


@pytest.fixture
def copy(trained, tmp_path):
    """A copy of the model and its images, which no longer are where they were."""
    for name in ("out", "images"):
        shutil.copytree(trained / name, tmp_path / name)
    values = record(tmp_path / "out")
    values["folders"]["train_dir"][0] = str(trained / "gone")
    (tmp_path / "out/held_out.json").write_text(json.dumps(values))
    text = (tmp_path / "out/recipe.yaml").read_text()
    (tmp_path / "out/recipe.yaml").write_text(text.replace(str(trained / "images"), "gone"))
    return tmp_path


@pytest.mark.parametrize("task", KINDS)
def test_what_is_written_down(tmp_path, capsys, task):
    assert train(tmp_path / "out", "--train_dir", fill(tmp_path / "data", task), task=task) == 0
    values = record(tmp_path / "out")
    assert values["classes"] == ["dark", "light"] and values["sizes"] == {"train": 16, "validation": 4}
    assert values["seed"] == 42 and set(values["versions"]) == {"perceivers", "transformers", "torch", "datasets"}
    assert values["folders"] == {"train_dir": [str(tmp_path / "data"), "../data"]}
    for entry in values["held_out"]:
        assert (tmp_path / "data" / entry["file"]).stat().st_size == entry["size"]
    before = json.loads((tmp_path / "out/eval_results.json").read_text())
    # More and other files, which would be held out otherwise
    fill(tmp_path / "data", task, 20, first=10)
    for name in os.listdir(tmp_path / "data/dark"):
        (tmp_path / "data/dark" / name).rename(tmp_path / "data/dark" / f"x{name}")
    results, said = evaluate(capsys, tmp_path / "out")
    assert results["examples"] == 4 and results["accuracy"] == before["eval_accuracy"] and "gone" not in said
    # Naming the same data says the same
    assert evaluate(capsys, tmp_path / "out", "--train_dir", tmp_path / "out/../data")[0]["examples"] == 4
    # Never a file that was trained on
    (tmp_path / "data").rename(tmp_path / "elsewhere")
    results, said = evaluate(capsys, tmp_path / "out", "--train_dir", tmp_path / "elsewhere")
    assert results["examples"] == 44 and "Left out 16 of 60" in said


def test_both_have_moved(copy, capsys, monkeypatch):
    monkeypatch.chdir("/")
    results, _ = evaluate(capsys, copy / "out")
    assert results["examples"] == 4
    (copy / "images").rename(copy / "elsewhere")
    assert run("evaluate", copy / "out") == 1
    line = the_line(capsys)
    assert "The 4 images that were held out from training are gone with" in line and "`--train_dir`" in line
    assert evaluate(capsys, copy / "out", "--train_dir", copy / "elsewhere")[0]["examples"] == 4


def test_files_are_gone_or_have_changed(copy, capsys):
    files = [copy / "images" / entry["file"] for entry in record(copy / "out")["held_out"]]
    files[0].unlink()
    save_image(files[1], 99)
    results, said = evaluate(capsys, copy / "out")
    assert results["examples"] == 2 and "2 of the 4 images that were held out from training are gone" in said
    for path in files[2:]:
        path.unlink()
    assert run("evaluate", copy / "out") == 1
    assert "None of the 4 images that were held out from training is there any more" in the_line(capsys)


def test_a_checkpoint_has_the_held_out_files_of_its_run(copy, capsys):
    (checkpoint,) = (copy / "out").glob("checkpoint-*")
    results, _ = evaluate(capsys, checkpoint)
    assert results["examples"] == 4


def test_folders_that_are_named(copy, capsys):
    results, said = evaluate(capsys, copy / "out", "--validation_dir", copy / "images")
    assert results["examples"] == 20 and "warning: the model was trained on 16 of the 20 images" in said
    new = fill(copy / "new", first=50)
    results, said = evaluate(capsys, copy / "out", "--validation_dir", new)
    assert results["examples"] == 20 and "trained on" not in said
    results, said = evaluate(capsys, copy / "out", "--train_dir", new)  # a fifth, as without a record
    assert results["examples"] == 4 and "trained on" not in said
    for entry in record(copy / "out")["held_out"]:
        (copy / "images" / entry["file"]).unlink()
    (copy / "images").rename(copy / "elsewhere")
    assert run("evaluate", copy / "out", "--train_dir", copy / "elsewhere") == 1
    assert "The model was trained on all 16 images" in the_line(capsys)


@pytest.mark.parametrize("change", [b"", b"{}", b"[]", b'{"format": 2}', b"\xff", b"[" * 100_000])
def test_a_damaged_file_is_one_line(copy, capsys, change):
    (copy / "out/held_out.json").write_bytes(change)
    assert run("evaluate", copy / "out") == 1
    line = the_line(capsys)
    assert "held_out.json does not say what was held out from training" in line or "held_out.json is" in line


class TestCopies:
    def test_a_copy_is_on_one_side(self, tmp_path, capsys):
        root = fill(tmp_path / "images")
        for path in [*root.rglob("*.png")]:
            shutil.copy(path, path.with_name(f"copy of {path.name}"))
        assert train(tmp_path / "out", "--train_dir", root) == 0
        number = 32 - record(tmp_path / "out")["sizes"]["train"]
        said = f"{number} images are there more than once, to train on and to evaluate on; left out {number} of the"
        assert number > 0 and said in capsys.readouterr().err
        assert record(tmp_path / "out")["sizes"]["validation"] == 8
        assert evaluate(capsys, tmp_path / "out")[0]["examples"] == 8
        held_out = HeldOut.read_beside(str(tmp_path / "out"))
        assert not {found.digest[:8] for _, found in held_out.held_out} & held_out.trained_on

    def test_most_of_a_class_are_copies(self, tmp_path, capsys):
        root = fill(tmp_path / "images")
        for number in range(1, 10):
            shutil.copy(root / "dark/0.png", root / f"dark/{number}.png")
        assert train(tmp_path / "out", "--train_dir", root) == 0
        assert "2 images are there more than once" in capsys.readouterr().err
        assert record(tmp_path / "out")["sizes"] == {"train": 16, "validation": 2}

    def test_copies_in_a_folder_to_evaluate_on(self, tmp_path, capsys):
        fill(tmp_path / "t"), fill(tmp_path / "v", number=4, first=8)
        assert train(tmp_path / "out", "--train_dir", tmp_path / "t", "--validation_dir", tmp_path / "v") == 0
        said = "4 images are there more than once, to train on and to evaluate on; left out 4 of the former and 0 of"
        assert said in capsys.readouterr().err
        assert record(tmp_path / "out")["sizes"] == {"train": 16, "validation": 8}

    def test_nothing_else_is_left(self, tmp_path, capsys):
        fill(tmp_path / "t")
        shutil.copytree(tmp_path / "t", tmp_path / "v")
        assert train(tmp_path / "out", "--train_dir", tmp_path / "t", "--validation_dir", tmp_path / "v") == 0
        assert "warning: 20 of 20 images to evaluate on are trained on too" in capsys.readouterr().err
        assert evaluate(capsys, tmp_path / "out")[0]["examples"] == 20

    def test_copies_in_two_classes(self, tmp_path, capsys):
        root = fill(tmp_path / "images")
        shutil.rmtree(root / "light")
        shutil.copytree(root / "dark", root / "light")
        assert train(tmp_path / "out", "--train_dir", root) == 0
        assert "images are both trained and evaluated on, with other labels." in capsys.readouterr().err
        assert record(tmp_path / "out")["sizes"] == {"train": 16, "validation": 4}

    def test_models_to_go_on_with(self, copy, capsys):
        """What the model was trained on before is not held out of its fine-tuning or resumption."""
        words = ["--train_dir", copy / "images", "--model_name_or_path", copy / "out", "--split_seed", 1]
        assert run("train", "--output_dir", copy / "next", *TRAIN[2:], *words) == 0
        said, values = capsys.readouterr().err, record(copy / "next")
        first = HeldOut.read_beside(str(copy / "out"))
        held_out = {entry["sha256"] for entry in values["held_out"]}
        assert held_out <= {found.digest.hex() for _, found in first.held_out} or "warning: 4 of 4" in said
        assert first.trained_on <= HeldOut.read_beside(str(copy / "next")).trained_on


class TestDataSets:
    def save(self, root, rows, split="train", order=1, images=None):
        root.mkdir(exist_ok=True)
        images = [np.asarray(Image.new("RGB", (12, 10), (number,) * 3)) for number in rows][::order]
        labels = ["dark" if number < 100 else "light" for number in rows][::order]
        features = datasets.Features({"image": datasets.Image(), "label": datasets.Value("string")})
        datasets.Dataset.from_dict({"image": images, "label": labels}, features).to_parquet(root / f"{split}.parquet")
        return root

    def test_rows_are_found_in_another_order(self, tmp_path, capsys):
        rows = [*range(10), *range(100, 110)]
        root = self.save(tmp_path / "d", rows)
        assert train(tmp_path / "out", "--dataset_name", root) == 0
        before = json.loads((tmp_path / "out/eval_results.json").read_text())
        self.save(root, [*rows, 90, 190, 191], order=-1)
        results, said = evaluate(capsys, tmp_path / "out")
        assert results["examples"] == 4 and results["accuracy"] == before["eval_accuracy"]
        assert evaluate(capsys, tmp_path / "out", "--dataset_name", root)[0]["examples"] == 4
        root.rename(tmp_path / "e")
        results, said = evaluate(capsys, tmp_path / "out", "--dataset_name", tmp_path / "e")
        assert results["examples"] == 7 and "Left out 16 of 23 images" in said

    def test_a_split_to_evaluate_on_stays_whole(self, tmp_path, capsys):
        root = self.save(tmp_path / "d", [*range(5), *range(100, 105)])
        self.save(root, [1, 50, 101, 150], "test")
        assert train(tmp_path / "out", "--dataset_name", root) == 0
        assert "warning: 2 of 4 images to evaluate on are trained on too" in capsys.readouterr().err
        assert evaluate(capsys, tmp_path / "out")[0]["examples"] == 4

    def test_a_split_of_another_data_set(self, trained, tmp_path, capsys):
        paths = sorted((trained / "images/dark").iterdir())
        rows = {"image": [str(path) for path in paths], "label": ["dark"] * 10}
        features = datasets.Features({"image": datasets.Image(), "label": datasets.Value("string")})
        (tmp_path / "d").mkdir()
        made = datasets.Dataset.from_dict(rows, features)
        made.to_parquet(tmp_path / "d/test.parquet")
        results, said = evaluate(capsys, trained / "out", "--dataset_name", tmp_path / "d")
        assert results["examples"] == 2 and "Left out 8 of 10 images" in said
        held_out = {entry["file"] for entry in record(trained / "out")["held_out"]}
        kept = [row for row, path in enumerate(paths) if f"dark/{path.name}" not in held_out]
        made.select(kept).to_parquet(tmp_path / "d/test.parquet")
        results, said = evaluate(capsys, trained / "out", "--dataset_name", tmp_path / "d")
        assert results["examples"] == 8 and "warning: the model was trained on 8 of the 8 images" in said

    def test_built_in(self, tmp_path, capsys):
        words = ["--max_train_samples", 40, "--max_eval_samples", 30, "--seed", 5, "--split_seed", 2]
        assert train(tmp_path / "out", "--dataset_name", "digits", *words) == 0
        before = json.loads((tmp_path / "out/eval_results.json").read_text())
        for words in ([], ["--dataset_name", "digits"]):
            results, _ = evaluate(capsys, tmp_path / "out", *words)
            assert results["examples"] == 30 and results["accuracy"] == before["eval_accuracy"]
        results, said = evaluate(capsys, tmp_path / "out", "--split_seed", 9, "--max_eval_samples", 2000)
        assert results["examples"] == 1797 - 40 and "Left out 40 of 1,797 images" in said


class TestContents:
    def test_every_way_to_store_an_input(self, tmp_path):
        save_image(tmp_path / "0.png", 0)
        data = (tmp_path / "0.png").read_bytes()
        expected = Content(path=str(tmp_path / "0.png")).fingerprint()
        stored = [{"bytes": None, "path": str(tmp_path / "0.png")}, {"bytes": data, "path": None}]
        for features in (
            datasets.Image(),
            {"bytes": datasets.Value("large_binary"), "path": datasets.Value("string")},
        ):
            made = datasets.Dataset.from_dict({"x": stored}, datasets.Features({"x": features}))
            assert fingerprints(contents_of(made, ["x"])) == [expected] * 2
            assert fingerprints(contents_of(made.select([1]), ["x"])) == [expected]
        paths = datasets.Dataset.from_dict({"x": [str(tmp_path / "0.png"), str(tmp_path / "none.png"), None]})
        assert fingerprints(contents_of(paths, ["x"])) == [expected, None, None]

    @pytest.mark.parametrize(
        "feature",
        [
            datasets.List(datasets.List(datasets.Value("float32"))),
            datasets.List(datasets.List(datasets.Value("float32"), length=3)),
            datasets.Array2D((None, 3), "float32"),
        ],
    )
    def test_numbers(self, feature):
        clouds = [np.random.default_rng(seed).normal(size=(5 + seed, 3)).astype(np.float32) for seed in (0, 1, 2, 1)]
        made = datasets.Dataset.from_dict(
            {"points": [cloud.tolist() for cloud in clouds]}, datasets.Features({"points": feature})
        )
        found = fingerprints(contents_of(made, ["points"]))
        assert found[1] == found[3] and len(set(found)) == 3 and found[0].size == 5 * 3 * 4
        assert fingerprints(contents_of(made.select([3, 0]), ["points"])) == [found[1], found[0]]
        both = fingerprints(contents_of(made, ["points", "points"]))
        assert both[1] == both[3] and len(set(both)) == 3

    def test_long_contents(self, tmp_path):
        data = np.random.default_rng(0).bytes(300_000)
        for place in (0, 150_000, 299_999):
            changed = bytearray(data)
            changed[place] ^= 1
            same = Content(data=memoryview(data)).fingerprint() == Content(data=memoryview(changed)).fingerprint()
            assert same == (place == 150_000)  # which no block has
            assert not Content(data=memoryview(data)).equals(Content(data=memoryview(changed)))
        (tmp_path / "x").write_bytes(data)
        assert Content(path=str(tmp_path / "x")).fingerprint() == Content(data=memoryview(data)).fingerprint()
        starts = [start for start, _ in contents._blocks(300_000)]
        assert starts[0] == 0 and starts[-1] == 300_000 - 8192 and len(starts) == 8
