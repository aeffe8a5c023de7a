"""Labels as data sets have them: missing, withheld, of every type, with gaps, as rows of zeros and ones."""

import datasets
import numpy as np
import pytest
from datasets import ClassLabel, LargeList, List, Value

from perceivers.cli.main import main
from perceivers.training.classification import CLASSIFICATION, multi_hot
from perceivers.training.datasets import load_examples
from perceivers.training.images import IMAGES, ImageDataArguments
from perceivers.training.labels import read_labels
from perceivers.training.point_clouds import POINT_CLOUDS, PointCloudDataArguments

pytestmark = pytest.mark.integration

CLASSES = ClassLabel(names=["dark", "light"])
RUN = ["--variant", "tiny", "--use_cpu", "--disable_tqdm", "true", "--report_to", "none", "--num_train_epochs", "1"]


def split_of(labels, feature):
    features = datasets.Features({"image": Value("int64"), "label": feature})
    return datasets.Dataset.from_dict({"image": list(range(len(labels))), "label": labels}, features)


def read(feature, **splits):
    made, labels = read_labels(datasets.DatasetDict({name: split_of(rows, feature) for name, rows in splits.items()}))
    return {name: made[name]["label"][:] for name in made}, labels


def save(root, labels, feature, split="train"):
    root.mkdir(exist_ok=True)
    images = [np.full((12, 10, 3), 20 + 10 * index % 230, np.uint8) for index in range(len(labels))]
    features = datasets.Features({"image": datasets.Image(), "label": feature})
    datasets.Dataset.from_dict({"image": images, "label": labels}, features).to_parquet(root / f"{split}.parquet")
    return root


def load(root, is_training=True):
    arguments = ImageDataArguments(dataset_name=str(root))
    return load_examples(IMAGES, CLASSIFICATION, arguments, seed=0, is_training=is_training)


def run(*words):
    return main([str(word) for word in words])


@pytest.mark.parametrize(
    ("feature", "labels", "names", "expected"),
    [
        (Value("string"), ["b", "a", "b"], ["a", "b"], [1, 0, 1]),
        (Value("large_string"), ["b", "a", "b"], ["a", "b"], [1, 0, 1]),
        (Value("string_view"), ["b", "a", "b"], ["a", "b"], [1, 0, 1]),
        (Value("bool"), [True, False, True], ["False", "True"], [1, 0, 1]),
        (Value("int8"), [10, 9, 10], ["9", "10"], [1, 0, 1]),
        (Value("uint64"), [7, 0, 2**40], ["0", "7", str(2**40)], [1, 0, 2]),
        (Value("int64"), [-1, 1, -1], ["-1", "1"], [0, 1, 0]),  # numbers like others
        (CLASSES, [1, 0, 1], ["dark", "light"], [1, 0, 1]),
        (List(Value("string")), [["b", "c"], ["a"], []], ["a", "b", "c"], [[1, 2], [0], []]),
        (LargeList(Value("large_string")), [["b", "c"], ["a"], []], ["a", "b", "c"], [[1, 2], [0], []]),
        (List(Value("int32")), [[10, 9], [9], [0]], ["0", "9", "10"], [[2, 1], [1], [0]]),
        (List(Value("int64"), length=2), [[0, 3], [3, 1]], ["0", "1", "3"], [[0, 2], [2, 1]]),
        (LargeList(CLASSES), [[1, 0], [1]], ["dark", "light"], [[1, 0], [1]]),
        # Rows with an entry for each class
        (List(Value("int64")), [[0, 1, 1], [1, 0, 0], [0, 0, 0]], ["0", "1", "2"], [[1, 2], [0], []]),
        (List(Value("float32")), [[0.0, 1.0], [1.0, 0.0]], ["0", "1"], [[1], [0]]),
        (List(Value("bool")), [[False, True], [True, True]], ["0", "1"], [[1], [0, 1]]),
        (List(Value("int64")), [[0, 1], [1, 0]], ["0", "1"], [[1], [0]]),
    ],
)
def test_types(feature, labels, names, expected):
    made, found = read(feature, train=labels)
    assert found.names == names and made["train"] == expected
    assert found.is_multi_label == isinstance(expected[0], list)
    counts = multi_hot([row if isinstance(row, list) else [row] for row in expected], len(names)).sum(axis=0)
    assert found.counts["train"] == counts.tolist()


@pytest.mark.parametrize(
    ("feature", "labels"),
    [
        (Value("string"), ["a", None, "b"]),
        (Value("large_string"), ["a", None, "b"]),
        (Value("string"), ["a", " ", "b"]),
        (Value("int64"), [0, None, 1]),
        (Value("uint8"), [0, None, 1]),
        (Value("bool"), [True, None, False]),
        (CLASSES, [0, None, 1]),
        (CLASSES, [0, -1, 1]),
        (List(Value("string")), [["a"], ["b", None], ["b"]]),
        (List(Value("string")), [["a"], None, ["b"]]),
        (List(Value("bool")), [[True, False], [None, True], [True, True]]),
        (List(Value("float32")), [[1.0, 0.0], [float("nan"), 1.0], [0.0, 1.0]]),
        (List(CLASSES), [[0], [-1], [1]]),
    ],
)
def test_a_missing_label_is_named(feature, labels):
    with pytest.raises(ValueError, match=r"1 of 3 examples to train on have no label \(the first: number 1\)"):
        read(feature, train=labels)


@pytest.mark.parametrize(
    ("feature", "labels", "message"),
    [
        (Value("null"), [None, None], "All 2 examples to train on have no label"),
        (Value("int64"), [-1, -1], "All 2 examples to train on have no label"),
        (Value("string"), [], "All 0 examples"),
        (List(Value("string")), [[], []], "No example has a label: all lists of labels are empty"),
        (List(Value("int64")), [[0, 0], [0, 0]], "No example has a label"),
        (Value("float64"), [0.0, 1.0], r"not Value\('float64'\)"),
        (Value("binary"), [b"a", b"b"], "not Value"),
        (Value("timestamp[s]"), [0, 1], "not Value"),
        ({"name": Value("string")}, [{"name": "a"}, {"name": "b"}], "not {'name'"),
        (List(List(Value("int64"))), [[[0]], [[1]]], "not List"),
        (datasets.Image(), [None, None], "not Image"),
        (List(Value("float32")), [[0.2, 0.8], [1.0, 0.0]], "must be zeros and ones.* and other values"),
        (List(Value("bool")), [[True], [True, False]], "lists of 1, 2 entries"),
    ],
)
def test_what_cannot_be_labels(feature, labels, message):
    with pytest.raises(ValueError, match=message):
        read(feature, train=labels)


def test_a_label_above_the_declared_classes():
    table = split_of([0, 1, 7], Value("int64")).data.table
    features = datasets.Features({"image": Value("int64"), "label": CLASSES})
    damaged = datasets.Dataset(table.replace_schema_metadata(None), datasets.DatasetInfo(features=features))
    with pytest.raises(ValueError, match="the label 7, but the data set declares 2 classes"):
        read_labels(datasets.DatasetDict(train=damaged))


def test_splits_that_declare_other_orders_are_joined_by_name():
    splits = {
        "train": split_of([0, 1], ClassLabel(names=["a", "b"])),
        "validation": split_of([0, 1], ClassLabel(names=["b", "a"])),
    }
    made, labels = read_labels(datasets.DatasetDict(splits))
    assert labels.names == ["a", "b"]
    assert (made["train"]["label"][:], made["validation"]["label"][:]) == ([0, 1], [1, 0])


def test_splits_of_other_types_are_refused():
    splits = {"train": split_of([0, 1], CLASSES), "validation": split_of(["a", "b"], Value("string"))}
    with pytest.raises(ValueError, match="The labels have other types in other splits"):
        read_labels(datasets.DatasetDict(splits))


def test_the_inputs_are_not_read(monkeypatch):
    monkeypatch.setattr(datasets.Image, "decode_example", None)
    features = datasets.Features({"image": datasets.Image(), "label": Value("string")})
    rows = {"image": [{"bytes": b"broken", "path": None}] * 4, "label": ["a", "b"] * 2}
    splits = datasets.DatasetDict(train=datasets.Dataset.from_dict(rows, features))
    assert read_labels(splits)[1].names == ["a", "b"]


def test_what_was_found_is_said(tmp_path, capsys):
    load(save(tmp_path / "a", ["cat"] * 9 + ["dog"] * 4 + ["owl"] * 7, Value("string")))
    line = "perceivers: Found 20 images to train on; 3 classes: cat (9), dog (4), owl (7)."
    assert line in capsys.readouterr().err.splitlines()
    load(save(tmp_path / "many", list("aabbbccddeeffgg") * 4, Value("string")))
    assert "7 classes; the smallest a (8), the largest b (12)." in capsys.readouterr().err
    load(save(tmp_path / "b", [0, 2, 0, 2, 2] * 4, ClassLabel(names=["a", "b", "c"])))
    assert "2 classes: a (8), c (12); without an example b." in capsys.readouterr().err
    load(save(tmp_path / "c", [["a"], [], ["a", "b"]] * 4, List(Value("string"))))
    assert "2 classes: a (8), b (4); 4 images without a label." in capsys.readouterr().err


@pytest.mark.parametrize(
    ("labels", "feature", "message"),
    [
        (["a"] * 8, Value("string"), r"at least two classes; .* has 1: \['a'\]"),
        ([0] * 8, CLASSES, r"at least two classes; .* has 1: \['dark'\]"),
        ([True] * 8, Value("bool"), r"has 1: \['True'\]"),
        ([["a"]] * 8, List(Value("string")), r"has 1: \['a'\]"),
    ],
)
def test_one_class_only(tmp_path, labels, feature, message):
    with pytest.raises(ValueError, match=message):
        load(save(tmp_path / "d", labels, feature))


def test_a_class_that_only_the_validation_has(tmp_path):
    root = save(tmp_path / "d", ["a", "b"] * 4, Value("string"))
    save(root, ["a", "c"], Value("string"), "validation")
    with pytest.raises(ValueError, match=r"examples of c to evaluate on, but none to train on.* a, b"):
        load(root)


@pytest.mark.parametrize(
    ("labels", "feature", "withheld"),
    [
        ([0, 1] * 8, CLASSES, -1),
        ([0, 1] * 8, Value("int64"), -1),
        (["a", "b"] * 8, Value("string"), None),
        (["a", "b"] * 8, Value("string"), ""),
    ],
)
def test_withheld_labels(tmp_path, capsys, labels, feature, withheld):
    root = save(tmp_path / "d", labels, feature)
    save(root, [withheld] * 4, feature, "test")
    examples = load(root)
    assert (len(examples.train), len(examples.validation)) == (12, 4)
    assert all(label in (0, 1) for label in examples.validation["label"])
    assert (
        "None of the 4 examples to evaluate on has a label; some to train on are held out." in capsys.readouterr().err
    )
    with pytest.raises(ValueError, match="All 4 examples to evaluate on have no label"):
        load(save(tmp_path / "only", [withheld] * 4, feature, "test"), is_training=False)


@pytest.mark.parametrize("lacking", ["image", "label"])
def test_a_split_without_a_column(tmp_path, capsys, lacking):
    features = datasets.Features({"image": datasets.Image(), "label": CLASSES})
    images = [np.full((4, 4, 3), index, np.uint8) for index in range(16)]
    whole = datasets.Dataset.from_dict({"image": images, "label": [0, 1] * 8}, features)
    splits = datasets.DatasetDict(train=whole, test=whole.remove_columns(lacking))
    splits.save_to_disk(tmp_path / "d")
    examples = load(tmp_path / "d")
    assert (len(examples.train), len(examples.validation)) == (12, 4)
    assert f"The split validation is left out, as it has no column {lacking}." in capsys.readouterr().err


def test_partly_labelled_validation(tmp_path):
    root = save(tmp_path / "d", [0, 1] * 8, CLASSES)
    save(root, [0, -1, 1], CLASSES, "test")
    with pytest.raises(ValueError, match="1 of 3 examples to evaluate on have no label"):
        load(root)


def test_point_clouds(tmp_path):
    clouds = [[[float(i), 0.0, 1.0], [1.0, 2.0, 3.0]] for i in range(20)]
    labels = [None if index == 3 else "ab"[index % 2] for index in range(20)]
    rows = datasets.Dataset.from_dict({"points": clouds, "label": labels})
    (tmp_path / "d").mkdir()
    rows.to_json(tmp_path / "d/train.jsonl")
    with pytest.raises(ValueError, match=r"1 of 20 examples to train on have no label \(the first: number 3\)"):
        load_examples(POINT_CLOUDS, CLASSIFICATION, PointCloudDataArguments(dataset_name=str(tmp_path / "d")), seed=0)


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize(
    ("labels", "feature"),
    [
        (["a", "b", None] * 6, Value("string")),
        ([0, 1, None] * 6, CLASSES),
        ([["a"], ["b", None]] * 9, List(Value("string"))),
    ],
)
def test_the_error_is_one_line_and_leaves_nothing_behind(tmp_path, capsys, labels, feature):
    root = save(tmp_path / "d", labels, feature)
    assert run("train", "--output_dir", tmp_path / "out", *RUN, "--dataset_name", root) == 1
    assert "label" in capsys.readouterr().err.splitlines()[-1]
    assert not (tmp_path / "out").exists()


@pytest.mark.usefixtures("one_thread")
def test_training_with_withheld_labels_and_truth_values(tmp_path, capsys):
    root = save(tmp_path / "d", [True, False] * 8, Value("bool"))
    save(root, [None] * 4, Value("bool"), "test")
    assert run("train", "--output_dir", tmp_path / "out", *RUN, "--dataset_name", root) == 0
    assert run("evaluate", tmp_path / "out", "--dataset_name", root, "--json") == 0
    only = save(tmp_path / "only", [None] * 4, Value("bool"), "test")
    capsys.readouterr()
    assert run("evaluate", tmp_path / "out", "--dataset_name", only, "--json") == 1
    assert "have no label" in capsys.readouterr().err


def test_a_labelled_split_is_evaluated_on_instead_of_one_without_labels(tmp_path, capsys):
    root = save(tmp_path / "d", [0, 1] * 4, CLASSES)
    save(root, [-1] * 4, CLASSES, "validation"), save(root, [0, 1, 1], CLASSES, "test")
    for is_training in (True, False):
        assert len(load(root, is_training).validation) == 3
        assert "The split validation has no labels; test is evaluated on instead." in capsys.readouterr().err
    save(root, [0, 1], CLASSES, "validation")
    assert len(load(root).validation) == 2
    save(root, [None] * 4, CLASSES, "validation"), save(root, [-1] * 3, CLASSES, "test")
    assert len(load(root).validation) == 2  # a fifth of the training examples
