"""Data sets as people have them: metadata files, tables of paths, columns of bytes, saved data sets, broken ones."""

import re

import datasets
import numpy as np
import PIL.Image
import pytest
import soundfile

from perceivers.cli.main import main
from perceivers.training.audio import AUDIO, AudioDataArguments
from perceivers.training.classification import CLASSIFICATION
from perceivers.training.datasets import load_examples
from perceivers.training.images import IMAGES, ImageDataArguments, read_value
from perceivers.training.loading import load_named
from perceivers.training.point_clouds import POINT_CLOUDS, PointCloudDataArguments

pytestmark = pytest.mark.integration

LABELS = ["a", "b"] * 8
CLASSES = datasets.ClassLabel(names=["a", "b"])


def load(root, modality=IMAGES, arguments=ImageDataArguments, **flags):
    return load_examples(modality, CLASSIFICATION, arguments(dataset_name=str(root), **flags), seed=0)


def assert_read(examples, column="image"):
    """All 16 examples are there, each with its own input: image number i has the value 9 i."""
    rows = [*examples.train, *examples.validation]
    assert len(rows) == 16 and examples.targets.label_names == ["a", "b"]
    if column == "image":
        assert sorted((read_value(row["image"]).getpixel((0, 0)) // 9, row["label"]) for row in rows) == [
            (index, index % 2) for index in range(16)
        ]


@pytest.fixture
def root(tmp_path):
    """A folder with 16 images, whose labels alternate."""
    folder = tmp_path / "my data"
    (folder / "deep").mkdir(parents=True)
    for index in range(16):
        PIL.Image.new("L", (8, 8), 9 * index).save(folder / "deep" / f"{index}.png")
    return folder


def table(root, path, column="file_name", prefix="deep/", suffix=".png"):
    rows = [f"{prefix}{index}{suffix},{label}" for index, label in enumerate(LABELS)]
    path.parent.mkdir(exist_ok=True)
    path.write_text("\n".join([f"{column},label", *rows]) + "\n")
    return path


def save(folder, images, feature, split="train"):
    folder.mkdir(exist_ok=True)
    features = datasets.Features({"image": feature, "label": CLASSES})
    rows = {"image": images, "label": [index % 2 for index in range(len(images))]}
    datasets.Dataset.from_dict(rows, features).to_parquet(folder / f"{split}.parquet")
    return folder


class TestFiles:
    def test_metadata_of_images(self, root):
        table(root, root / "metadata.csv")
        assert_read(load(root))

    @pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
    def test_metadata_of_recordings_and_clouds_needs_no_ffmpeg(self, tmp_path, kind):
        rows = {"label": LABELS}
        for modality, arguments, suffix in (
            (AUDIO, AudioDataArguments, "wav"),
            (POINT_CLOUDS, PointCloudDataArguments, "xyz"),
        ):
            folder = tmp_path / suffix / "train"
            folder.mkdir(parents=True)
            for index in range(16):
                (folder / f"{index}.{suffix}").write_text(f"0 0 {index}\n1 0 0\n")
            made = datasets.Dataset.from_dict({"file_name": [f"{i}.{suffix}" for i in range(16)], **rows})
            {"csv": made.to_csv, "jsonl": made.to_json, "parquet": made.to_parquet}[kind](folder / f"metadata.{kind}")
            for place in (folder, folder.parent):
                examples = load(place, modality, arguments)
                (column,) = modality.columns
                assert_read(examples, column)
                value = examples.train.with_format(None)[0][column]
                path = value["path"] if isinstance(value, dict) else value
                assert path.startswith(str(folder)) and path.endswith(suffix)

    def test_metadata_without_file_names(self, tmp_path):
        (tmp_path / "metadata.csv").write_text("name,label\nx.wav,a\n")
        with pytest.raises(ValueError, match=r"metadata\.csv has no column file_name; its columns are name, label"):
            load(tmp_path, AUDIO, AudioDataArguments)

    def test_paths_in_a_table(self, root, tmp_path, monkeypatch):
        assert_read(load(table(root, root / "list.csv", "picture")))  # relative to the table, with a space in the path
        assert_read(load(table(root, tmp_path / "t/train.csv", "picture", f"{root}/deep/").parent))
        path = table(root, tmp_path / "u/list.csv", "picture", "../my data/deep/")
        assert_read(load(path, image_column_name="picture"))
        monkeypatch.setenv("HOME", str(tmp_path))
        assert_read(load("~/u/list.csv"))

    @pytest.mark.parametrize("name", ["train.csv", "Training.CSV", "train_data.csv"])
    def test_tables_beside_their_files(self, root, name):
        rows = [f"deep/{index}.png,{label}" for index, label in enumerate(LABELS)]
        (root / name).write_text("\n".join(["picture,label", *rows[:12]]) + "\n")
        (root / "val.csv").write_text("\n".join(["picture,label", *rows[12:]]) + "\n")
        examples = load(root)
        assert_read(examples)
        assert len(examples.validation) == 4

    def test_words_are_no_paths(self, tmp_path):
        (tmp_path / "list.csv").write_text("text,label\n" + "hello,a\nworld,b\n" * 8)
        with pytest.raises(ValueError, match="Cannot tell which column holds the images"):
            load(tmp_path / "list.csv")
        with pytest.raises(ValueError, match="Column 'text' does not hold images"):
            load(tmp_path / "list.csv", image_column_name="text")

    def test_columns_of_bytes(self, root, tmp_path):
        data = [(root / f"deep/{index}.png").read_bytes() for index in range(16)]
        assert_read(load(save(tmp_path / "raw", data, datasets.Value("binary"))))
        struct = {"bytes": datasets.Value("binary"), "path": datasets.Value("string")}
        rows = [{"bytes": value, "path": None} for value in data]
        assert_read(load(save(tmp_path / "struct", rows, struct)))
        assert_read(load(save(tmp_path / "struct", rows, struct), image_column_name="image"))
        assert_read(load(tmp_path / "struct", AUDIO, AudioDataArguments), "audio")  # read when they are needed

    @pytest.mark.parametrize("has_splits", [True, False])
    def test_saved_to_disk(self, root, tmp_path, has_splits):
        features = datasets.Features({"image": datasets.Image(), "label": CLASSES})
        paths = [str(root / f"deep/{index}.png") for index in range(16)]
        made = datasets.Dataset.from_dict({"image": paths, "label": [0, 1] * 8}, features)
        (datasets.DatasetDict(train=made) if has_splits else made).save_to_disk(tmp_path / "saved")
        assert_read(load(tmp_path / "saved"))

    def test_home_of_folders(self, tmp_path, monkeypatch):
        for name in "ab":
            (tmp_path / "x" / name).mkdir(parents=True)
            for index in range(5):
                PIL.Image.new("L", (4, 4)).save(tmp_path / "x" / name / f"{index}.png")
        monkeypatch.setenv("HOME", str(tmp_path))
        examples = load_examples(IMAGES, CLASSIFICATION, ImageDataArguments(train_dir="~/x"), seed=0)
        assert len(examples.train) == 8


class TestRefusals:
    def test_missing_inputs(self, tmp_path):
        images = [np.zeros((8, 8, 3), np.uint8)] * 19 + [None]
        with pytest.raises(ValueError, match=r"1 of 20 examples to train on have no image \(the first: number 19\)"):
            load(save(tmp_path / "d", images, datasets.Image()))
        rows = [{"bytes": b"x", "path": None}] * 3 + [{"bytes": None, "path": None}] * 2
        struct = {"bytes": datasets.Value("binary"), "path": datasets.Value("string")}
        with pytest.raises(ValueError, match=r"2 of 5 examples to train on have no recording \(the first: number 3\)"):
            load(save(tmp_path / "e", rows, struct), AUDIO, AudioDataArguments)

    def test_missing_inputs_to_evaluate_on(self, tmp_path):
        image = np.zeros((8, 8, 3), np.uint8)
        root = save(tmp_path / "d", [image] * 8, datasets.Image())
        save(root, [image, None], datasets.Image(), "test")
        with pytest.raises(ValueError, match="1 of 2 examples to evaluate on have no image"):
            load(root)

    @pytest.mark.parametrize(
        ("files", "message"),
        [
            ({"a.csv": "image,label\nx,1\n", "b.csv": "image,other\nx,1\n"}, "cannot be loaded: .*other"),
            ({"train.parquet": "garbage"}, "cannot be loaded: .*Parquet"),
            ({"train.jsonl": '{"image": 1, "label"\n'}, "cannot be loaded: .*JSON"),
            ({"train.csv": ""}, "cannot be loaded"),
            ({"dataset_dict.json": '{"splits": ["train"]}'}, "train"),
        ],
    )
    def test_the_errors_of_datasets_are_one_line(self, tmp_path, capsys, files, message):
        root = tmp_path / "d"
        root.mkdir()
        for name, text in files.items():
            (root / name).write_text(text)
        words = ["--variant", "tiny", "--use_cpu", "--dataset_name", str(root), "--output_dir", str(tmp_path / "out")]
        assert main(["train", *words]) == 1
        line = [line for line in capsys.readouterr().err.splitlines() if line.startswith("perceivers: error:")]
        assert len(line) == 1 and re.search(message, line[0])

    @pytest.mark.parametrize("name", ["./missing", "~/missing", "/missing/data", "../missing.csv"])
    def test_paths_that_do_not_exist_are_not_looked_for_on_the_hub(self, name, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        with pytest.raises(FileNotFoundError, match=f"There is no data set {name}: the path does not exist"):
            load(name)

    def test_a_name_in_a_folder_that_exists_is_a_path(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        (tmp_path / "data" / "photos").mkdir(parents=True)
        with pytest.raises(FileNotFoundError, match=r"There is no data set data/photo: .* mean `data/photos`\?\)\.$"):
            load("data/photo")

    @pytest.mark.parametrize(("name", "hint"), [("owner/name", ""), ("digit", " (did you mean `digits`?)")])
    def test_other_names_are_looked_for_on_the_hub_which_is_said(self, name, hint, tmp_path, monkeypatch, capsys):
        asked = []
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(datasets, "load_dataset", lambda *given: asked.append(given))
        load_named(name, None, IMAGES)
        assert asked == [(name, None)]
        assert f"Looking for the data set {name} on the Hub, as there is none here{hint}.\n" in capsys.readouterr().err


class TestMistypedNames:
    """Of models: they are answered at once, by every command."""

    @pytest.fixture(autouse=True)
    def without_the_hub(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        (tmp_path / "models" / "perceiver-shapes").mkdir(parents=True)
        (tmp_path / "perceiver-digits").mkdir()
        monkeypatch.setattr("transformers.PreTrainedConfig.get_config_dict", lambda *_, **__: pytest.fail("asked"))
        monkeypatch.setattr("transformers.AutoConfig.from_pretrained", lambda *_, **__: pytest.fail("asked"))

    @pytest.mark.parametrize(
        "words",
        [
            ["predict", "{}", "x.png"],
            ["evaluate", "{}"],
            ["info", "{}"],
            ["convert", "{}", "target"],
            ["train", "--train_dir", "x", "--model_name_or_path", "{}"],
        ],
        ids=lambda words: words[0],
    )
    @pytest.mark.parametrize(
        ("name", "hint"),
        [
            ("perceiver-digit", "perceiver-digits"),
            ("models/perceiver-shape", "models/perceiver-shapes"),
            ("./perceiver-digit/", "./perceiver-digits"),
            ("a/b/c", None),
            ("~/perceiver-none", None),
            ("perceiver-digitss/", "perceiver-digits"),
        ],
    )
    def test_they_are_not_looked_for_on_the_hub(self, words, name, hint, capsys):
        assert main([word.format(name) for word in words]) == 1
        (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("perceivers: error:")]
        assert name in line and (hint is None or f"(did you mean `{hint}`?)" in line)


class TestBrokenRows:
    """A broken row is left out and named by split and index, up to a share of the data set."""

    @pytest.fixture(params=["png", "wav", "xyz"])
    def words(self, request, tmp_path):
        """The flags of a run on 20 examples to train on and 10 to evaluate on, of each split one broken."""
        suffix = request.param
        task = {"png": "image-classification", "wav": "audio-classification", "xyz": "point-cloud-classification"}
        folder, tables = tmp_path / "files", tmp_path / "tables"
        tables.mkdir()
        for split, number in (("train", 20), ("validation", 10)):
            (folder / split).mkdir(parents=True)
            for index in range(number):
                path = folder / split / f"{index}.{suffix}"
                if index == 7:
                    path.write_bytes(b"nothing of that kind")
                elif suffix == "png":
                    PIL.Image.new("L", (8, 8), 9 * index).save(path)
                elif suffix == "wav":
                    soundfile.write(path, np.linspace(-1, 1, 400 + index), 8000)
                else:
                    np.savetxt(path, np.random.default_rng(index).normal(size=(30, 3)))
            lines = [f"../files/{split}/{index}.{suffix},{'ab'[index % 2]}" for index in range(number)]
            (tables / f"{split}.csv").write_text("\n".join(["file,label", *lines]) + "\n")
        words = ["--task", task[suffix], "--dataset_name", str(tables), "--variant", "tiny", "--use_cpu"]
        words += ["--output_dir", str(tmp_path / "out"), "--max_steps", "3", "--report_to", "none"]
        if suffix == "wav":
            words += ["--processor", "sampling_rate=8000", "--audio_column_name", "file"]
        return words

    def test_it_is_left_out_and_named(self, words, tmp_path, capsys):
        assert main(["train", *words, "--per_device_eval_batch_size", "1"]) == 0
        output = capsys.readouterr()
        for split in ("train", "validation"):
            (line,) = [line for line in output.err.splitlines() if f"left out {split}[7]" in line]
            assert f"{split}/7." in line and "BytesIO" not in line
        assert "Skipped 2 unreadable" in output.out and "on 9 held-out" in output.out
        card = (tmp_path / "out/README.md").read_text()
        assert "Measured on 9 held-out" in card and "\n19 " in card

    def test_there_is_a_limit(self, words, tmp_path, capsys):
        assert main(["train", *words, "--max_unreadable", "0"]) == 1
        (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("perceivers: error:")]
        # Which one is met first is up to when the run evaluates.
        assert re.search(
            r"1 cannot be read; `--max_unreadable 0` allows 0. The first is (train|validation)\[7\] \(", line
        )

    def test_a_share_that_is_none(self, words, capsys):
        assert main(["train", *words, "--max_unreadable", "1.5"]) == 2
        assert "`--max_unreadable` must be from 0 to 1, got 1.5" in capsys.readouterr().err
