"""Folders as people have them: splits, hidden and system files, empty classes, links, other formats, odd names."""

import json
import os
import shutil

import numpy as np
import PIL.Image
import pytest

from perceivers.cli.main import main
from perceivers.cli.predict import find_files
from perceivers.training.audio import AUDIO, AudioDataArguments
from perceivers.training.classification import CLASSIFICATION, label_ids
from perceivers.training.datasets import load_examples
from perceivers.training.folders import search_folder
from perceivers.training.images import IMAGE_SUFFIXES, IMAGES, ImageDataArguments
from perceivers.training.point_clouds import POINT_CLOUDS, PointCloudDataArguments

pytestmark = pytest.mark.integration

PETS = ("cat", "dog", "owl")


def fill(root, classes=("dark", "light"), number=6):
    """Class folders of small images."""
    for index, name in enumerate(classes):
        (root / name).mkdir(parents=True, exist_ok=True)
        for image in range(number):
            PIL.Image.new("RGB", (12, 10), (120 * index + image,) * 3).save(root / name / f"{image}.png")
    return root


def load(root, is_training=True, **flags):
    arguments = ImageDataArguments(train_dir=str(root), **flags)
    return load_examples(IMAGES, CLASSIFICATION, arguments, seed=0, is_training=is_training)


def names_and_sizes(examples):
    return examples.targets.label_names, len(examples.train), len(examples.validation)


def the_line(capsys, start):
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith(f"perceivers: {start}")]
    return line


def train(out, *words):
    words = ["--variant", "tiny", "--use_cpu", "--disable_tqdm", "true", "--report_to", "none", *map(str, words)]
    return main(["train", "--output_dir", str(out), "--num_train_epochs", "1", *words])


class TestSplits:
    @pytest.mark.parametrize("training", ["train", "training", "Train"])
    @pytest.mark.parametrize("held_out", ["val", "valid", "validation", "dev", "test", "TEST"])
    def test_above_the_classes(self, tmp_path, training, held_out):
        fill(tmp_path / training, PETS), fill(tmp_path / held_out, PETS, 3)
        examples = load(tmp_path)
        assert names_and_sizes(examples) == (list(PETS), 18, 9)
        assert [example["label"] for example in examples.validation] == [0, 0, 0, 1, 1, 1, 2, 2, 2]

    @pytest.mark.parametrize("training", ["train", "training", "Train"])
    @pytest.mark.parametrize("held_out", ["val", "valid", "validation", "dev", "test", "TEST"])
    def test_below_the_classes(self, tmp_path, training, held_out):
        for name in PETS:
            fill(tmp_path / name, [training]), fill(tmp_path / name, [held_out], 3)
        assert names_and_sizes(load(tmp_path)) == (list(PETS), 18, 9)

    @pytest.mark.parametrize(
        ("training", "held_out"), [("train_set", "test_set"), ("trainset", "Val"), ("train", "eval")]
    )
    def test_other_names(self, tmp_path, training, held_out):
        fill(tmp_path / training, PETS), fill(tmp_path / held_out, PETS, 3)
        assert names_and_sizes(load(tmp_path)) == (list(PETS), 18, 9)

    def test_accents_apart_are_the_same_class(self, tmp_path):
        fill(tmp_path / "train", ["caf\u00e9", "tea"]), fill(tmp_path / "val", ["cafe\u0301", "tea"], 3)
        assert names_and_sizes(load(tmp_path)) == (["caf\u00e9", "tea"], 12, 6)
        assert label_ids(["caf\u00e9"], {0: "tea", 1: "cafe\u0301"}).tolist() == [1]

    def test_only_the_first_of_several_to_evaluate_on_is_used(self, tmp_path, capsys):
        for name, number in (("train", 6), ("test", 2), ("val", 3)):
            fill(tmp_path / "above" / name, PETS, number)
            for pet in PETS:
                fill(tmp_path / "below" / pet, [name], number)
        for layout in ("above", "below"):
            assert names_and_sizes(load(tmp_path / layout)) == (list(PETS), 18, 9)
            lines = capsys.readouterr().err.splitlines()
            assert any("is divided into" in line and "train to train on, val to evaluate on" in line for line in lines)
            assert "perceivers: Left out: images in test folders (6)." in lines

    def test_without_one_to_evaluate_on_a_part_is_held_out(self, tmp_path):
        fill(tmp_path / "train", PETS, 10)
        assert names_and_sizes(load(tmp_path)) == (list(PETS), 24, 6)

    def test_a_folder_to_evaluate_on_wins_over_a_split(self, tmp_path, capsys):
        fill(tmp_path / "x/train", PETS), fill(tmp_path / "x/val", PETS, 3), fill(tmp_path / "other", PETS, 2)
        assert names_and_sizes(load(tmp_path / "x", validation_dir=str(tmp_path / "other"))) == (list(PETS), 18, 6)
        assert "images in val folders (9)" in the_line(capsys, "Left out")

    def test_the_folder_to_evaluate_on_may_be_inside_the_other(self, tmp_path):
        fill(tmp_path, PETS), fill(tmp_path / "held_out", PETS, 2)
        assert names_and_sizes(load(tmp_path, validation_dir=str(tmp_path / "held_out"))) == (list(PETS), 18, 6)

    def test_evaluation_uses_the_split_to_evaluate_on(self, tmp_path):
        fill(tmp_path / "train", PETS), fill(tmp_path / "val", PETS, 3)
        arguments = ImageDataArguments(validation_dir=str(tmp_path))
        examples = load_examples(IMAGES, CLASSIFICATION, arguments, seed=0, is_training=False)
        assert examples.train is None and len(examples.validation) == 9

    def test_a_test_folder_of_classes_beside_the_same_classes(self, tmp_path):
        fill(tmp_path, PETS), fill(tmp_path / "test", PETS, 2)
        assert names_and_sizes(load(tmp_path)) == (list(PETS), 18, 6)

    def test_a_test_folder_in_every_class_beside_its_images(self, tmp_path):
        fill(tmp_path, PETS)
        for name in PETS:
            fill(tmp_path / name, ["test"], 2)
        assert names_and_sizes(load(tmp_path)) == (list(PETS), 18, 6)

    def test_a_class_that_is_called_train(self, tmp_path):
        fill(tmp_path, ("bus", "car", "train"))
        assert load(tmp_path).targets.label_names == ["bus", "car", "train"]

    def test_files_without_a_split_are_left_out(self, tmp_path, capsys):
        fill(tmp_path / "train", PETS), fill(tmp_path / "val", PETS, 3), fill(tmp_path, ["extra"], 4)
        fill(tmp_path, ["val"], 2)
        assert names_and_sizes(load(tmp_path)) == (list(PETS), 18, 9)
        line = the_line(capsys, "Left out")
        assert "images beside the folders of the splits (4)" in line and "images outside the class folders (2)" in line

    @pytest.mark.parametrize(
        ("folders", "message"),
        [
            (["train", "test"], "divided into test, train, but without class folders"),
            (["cat", "dog", "test"], "Cannot tell splits from classes in .* test beside cat, dog"),
            (["cat", "training"], "Cannot tell splits from classes"),
            (["cat", "test/lion", "dog"], "Cannot tell splits from classes"),
            (["test/cat", "test/dog"], "no split to train on; its splits are test"),
            (["cat/train", "cat/test", "dog"], "cat is divided into test, train, but dog is not"),
            (["cat", "dog", "train/cat", "train/dog"], "Cannot tell splits from classes"),
        ],
    )
    def test_what_cannot_be_meant(self, tmp_path, folders, message):
        fill(tmp_path, folders)
        with pytest.raises(ValueError, match=message):
            load(tmp_path)

    def test_the_same_folder_twice(self, tmp_path):
        fill(tmp_path)
        with pytest.raises(ValueError, match="are the same folder"):
            load(tmp_path, validation_dir=f"{tmp_path}/")


class TestLeftOut:
    @pytest.mark.parametrize(
        "name", [".ipynb_checkpoints", "__MACOSX", "@eaDir", ".git", "$RECYCLE.BIN", "System Volume Information"]
    )
    def test_hidden_and_system_folders_at_any_depth(self, tmp_path, capsys, name):
        root = fill(tmp_path / "x")
        for place in (root, root / "dark", root / "dark" / "deep"):
            place.mkdir(exist_ok=True)
            shutil.copytree(root / "light", place / name)
        shutil.copy(root / "light/0.png", root / "dark/deep/0.png")
        examples = load(root)
        assert examples.targets.label_names == ["dark", "light"]
        assert len(examples.train) + len(examples.validation) == len(find_files([str(root)], IMAGE_SUFFIXES)) == 13
        lines = capsys.readouterr().err.splitlines()
        assert lines.count("perceivers: Left out: hidden or system files and folders (3).") == 2

    def test_system_files_and_other_formats_are_counted(self, tmp_path, capsys):
        root = fill(tmp_path / "x")
        for name in (".DS_Store", "Thumbs.db", "._0.png", "desktop.ini", "notes", "a.HEIC", "b.heic", "c.jfif"):
            (root / "dark" / name).write_bytes(b"x")
        (root / "loose.png").write_bytes(b"x")
        load(root)
        line = the_line(capsys, "Left out")
        assert line == (
            "perceivers: Left out: hidden or system files and folders (4), .heic files (2), .jfif files (1), "
            "files without a suffix (1), images outside the class folders (1)."
        )

    def test_a_folder_of_other_formats_alone_is_refused_by_their_names(self, tmp_path):
        (tmp_path / "dark").mkdir()
        (tmp_path / "dark" / "0.HEIC").write_bytes(b"x")
        with pytest.raises(ValueError, match=r"Found no images in .*: it has \.heic files \(1\); no file ends in"):
            load(tmp_path)
        with pytest.raises(ValueError, match=r"No image matched .* Left out: \.heic files \(1\)\."):
            find_files([str(tmp_path)], IMAGE_SUFFIXES, "image")

    @pytest.mark.parametrize(
        ("make", "note"),
        [
            (lambda owl: owl.mkdir(), "There are no images in owl, which is no class."),
            (lambda owl: (owl / "deep" / "deeper").mkdir(parents=True), "There are no images in owl"),
            (lambda owl: (owl.mkdir(), (owl / "0.heic").write_bytes(b"x")), "There are no images in owl"),
            (lambda owl: (owl.mkdir(), (owl / "0.png").symlink_to("../dark/0.png")), "There are no images in owl"),
        ],
    )
    def test_a_class_without_a_file_is_none(self, tmp_path, capsys, make, note):
        make(fill(tmp_path) / "owl")
        examples = load(tmp_path)
        assert examples.targets.label_names == ["dark", "light"]
        assert note in capsys.readouterr().err

    def test_a_class_without_a_readable_file_is_none(self, tmp_path, capsys):
        root = fill(tmp_path / "x", ("dark", "light", "owl"))
        for path in (root / "owl").iterdir():
            path.write_bytes(b"x")
        assert train(tmp_path / "out", "--train_dir", root) == 0
        assert json.loads((tmp_path / "out/config.json").read_text())["label2id"] == {"dark": 0, "light": 1}
        error = capsys.readouterr().err
        assert "no readable images of the label owl in" in error and "Left out: unreadable images (6)." in error

    def test_a_class_that_only_the_validation_has_is_refused(self, tmp_path):
        fill(tmp_path / "t"), fill(tmp_path / "v", ("dark", "lights"))
        with pytest.raises(ValueError, match=r"examples of lights to evaluate on, but none to train on.* dark, light"):
            load(tmp_path / "t", validation_dir=str(tmp_path / "v"))
        fill(tmp_path / "x/train"), fill(tmp_path / "x/val", ("dark", "owl"))
        with pytest.raises(ValueError, match="examples of owl to evaluate on"):
            load(tmp_path / "x")

    def test_a_name_that_is_not_utf8(self, tmp_path, capsys):
        root = fill(tmp_path / "x")
        odd = os.path.join(os.fsencode(root / "dark"), b"gr\xfcn.png")
        shutil.copy(root / "dark/0.png", odd)
        shutil.copytree(root / "light", os.path.join(root, os.fsdecode(b"wei\xdf")))
        examples = load(root)
        assert examples.targets.label_names == ["dark", "light"]
        assert "files whose names are not UTF-8 (7)" in the_line(capsys, "Left out")
        assert os.fsdecode(odd) in find_files([str(root)], IMAGE_SUFFIXES)

    def test_other_modalities(self, tmp_path, capsys):
        for name in ("a", "b"):
            for split, number in (("train", 4), ("test", 2)):
                (tmp_path / split / name / ".cache").mkdir(parents=True)
                for index in range(number):
                    (tmp_path / split / name / f"{index}.xyz").write_text("0 0 0\n1 0 0\n")
                    (tmp_path / split / name / f"{index}.wav").write_bytes(b"x")
                    (tmp_path / split / name / f"{index}.webm").write_bytes(b"x")
        for modality, data_arguments, others in (
            (AUDIO, AudioDataArguments, ".webm files (12), .xyz files (12)"),
            (POINT_CLOUDS, PointCloudDataArguments, ".wav files (12), .webm files (12)"),
        ):
            arguments = data_arguments(train_dir=str(tmp_path), check_files=False)
            assert names_and_sizes(load_examples(modality, CLASSIFICATION, arguments, seed=0)) == (["a", "b"], 8, 4)
            assert f"Left out: {others}, hidden or system files and folders (4)." in the_line(capsys, "Left out")


class TestLinks:
    def test_a_circle_is_searched_once(self, tmp_path, capsys):
        root = fill(tmp_path / "x")
        (root / "light/loop").symlink_to(root)
        (root / "dark/up").symlink_to("..")
        for patterns in ([str(root)], [f"{root}/**"], [f"{root}/**/*.png"], [f"{root}/*"]):
            assert len(find_files(patterns, IMAGE_SUFFIXES)) == 12
        capsys.readouterr()
        assert len(load(root, validation_fraction=0.5).train) == 6
        assert the_line(capsys, "Left out") == "perceivers: Left out: links to what is used anyway (2)."

    def test_every_file_once_and_none_from_outside(self, tmp_path, capsys):
        root, other = fill(tmp_path / "x"), fill(tmp_path / "other", ["secret"])
        (root / "dark" / "a.png").symlink_to("../light/0.png")
        (root / "dark" / "b.png").symlink_to("nothing.png")
        (root / "dark" / "c.png").symlink_to(other / "secret" / "0.png")
        (root / "owl").symlink_to(other / "secret")
        expected = sorted(str(path) for path in root.rglob("*.png") if not path.is_symlink())
        assert find_files([str(root)], IMAGE_SUFFIXES) == expected and len(expected) == 12
        line = the_line(capsys, "Left out")
        assert "links that lead out of the folder (2)" in line and "broken links (1)" in line
        assert load(root).targets.label_names == ["dark", "light"]

    def test_a_link_to_a_hidden_folder_inside_is_followed(self, tmp_path):
        root = fill(tmp_path / "x")
        fill(root / ".store", ["owl"])
        (root / "owl").symlink_to(".store/owl")
        (root / "owl2").symlink_to(".store/owl")
        examples = load(root)
        assert len(examples.targets.label_names) == 3
        assert len(examples.train) + len(examples.validation) == 18

    def test_a_snapshot_of_the_hub(self, tmp_path):
        fill(tmp_path / "blobs", [""], 4)
        for index in range(4):
            folder = tmp_path / "snapshots/abc/train" / "ab"[index % 2]
            folder.mkdir(parents=True, exist_ok=True)
            (folder / f"{index}.png").symlink_to(f"../../../../blobs/{index}.png")
        assert load(tmp_path / "snapshots/abc", validation_fraction=0.5).targets.label_names == ["a", "b"]

    def test_a_folder_that_is_itself_a_link(self, tmp_path):
        fill(tmp_path / "x")
        (tmp_path / "link").symlink_to("x")
        assert len(find_files([str(tmp_path / "link")], IMAGE_SUFFIXES)) == 12
        assert names_and_sizes(load(tmp_path / "link"))[0] == ["dark", "light"]

    def test_pipes_are_not_opened(self, tmp_path):
        root = fill(tmp_path / "x")
        os.mkfifo(root / "dark" / "pipe.png")
        found = search_folder(str(root), IMAGE_SUFFIXES)
        assert len(found.paths) == 12 and found.left_out["pipes, sockets and devices"] == 1


@pytest.mark.parametrize(
    ("folders", "inner"),
    [
        (["flowers/rose", "flowers/tulip"], "flowers"),
        (["flowers/all/rose", "flowers/all/tulip", "docs"], "flowers/all"),
        (["flowers/train/rose", "flowers/train/tulip", "flowers/val/rose", "flowers/val/tulip"], "flowers"),
        (["flowers/rose/red", "flowers/tulip", "__MACOSX/flowers/rose"], "flowers"),
    ],
)
def test_a_folder_around_the_data_is_refused(tmp_path, folders, inner):
    fill(tmp_path, [name for name in folders if name != "docs"])
    (tmp_path / "docs").mkdir()
    with pytest.raises(ValueError, match=f"a single class folder, flowers. If .* in {tmp_path}/{inner}, give that"):
        load(tmp_path)
    assert load(tmp_path / inner).targets.label_names == ["rose", "tulip"]


def test_a_class_in_several_folders_to_evaluate_on(tmp_path):
    fill(tmp_path / "v", ["dark/left", "dark/right"])
    arguments = ImageDataArguments(validation_dir=str(tmp_path / "v"))
    examples = load_examples(IMAGES, CLASSIFICATION, arguments, seed=0, is_training=False)
    assert examples.targets.label_names == ["dark"] and len(examples.validation) == 12


def test_names_that_differ_in_little_are_two_classes(tmp_path, capsys):
    fill(tmp_path, ["Cat", "cat", "dog", "sea  lion", "Sea lion"])
    assert load(tmp_path).targets.label_names == ["Cat", "Sea lion", "cat", "dog", "sea  lion"]
    said = capsys.readouterr().err
    assert "warning: the names of the classes Cat, cat differ in little" in said and "Sea lion, sea  lion" in said


@pytest.mark.parametrize("words", [["--train_dir", ""], ["--dataset_name", " "], ["--validation_dir", ""]])
def test_an_empty_flag_is_refused(tmp_path, capsys, words):
    assert train(tmp_path / "out", *words) == 2
    assert f"`{words[0]}` is empty" in capsys.readouterr().err


def test_globs_leave_out_what_folders_do(tmp_path, capsys):
    root = fill(tmp_path / "x")
    shutil.copytree(root / "dark", root / "__MACOSX/dark")
    shutil.copy(root / "dark/0.png", root / "dark/Thumbs.db")
    for pattern in ("*", "**", "*/*", "**/*", "**/*.png"):
        assert len(find_files([f"{root}/{pattern}"], IMAGE_SUFFIXES)) == 12, pattern
    assert find_files([f"{root}/__MACOSX/dark/*"], IMAGE_SUFFIXES)[0].endswith("__MACOSX/dark/0.png")


def test_training_and_prediction_find_the_same_files(tmp_path):
    root = fill(tmp_path / "x")
    rng = np.random.default_rng(0)
    names = [".hidden", "sub", "a.PNG", "b.txt", "__MACOSX", "c.jpeg", ".d.png"]
    for _ in range(40):
        path = root / ["dark", "light"][rng.integers(2)] / "/".join(rng.choice(names, rng.integers(1, 4)))
        if not path.exists() and not any(parent.is_file() for parent in path.parents):
            path.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(root / "dark/0.png", path)
    examples = load(root, check_files=False)
    assert len(find_files([str(root)], IMAGE_SUFFIXES)) == len(examples.train) + len(examples.validation) > 12
