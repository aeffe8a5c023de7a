"""Data sets: columns and labels that are found, splits that are made, and metrics that are right."""

from pathlib import Path

import datasets
import numpy as np
import PIL.Image
import pytest
import torch
from sklearn.datasets import load_sample_images
from sklearn.metrics import top_k_accuracy_score

from perceivers import ImagePerceiverConfig, ImagePerceiverImageProcessorPil
from perceivers.training.class_metrics import accuracy, most_probable
from perceivers.training.classification import CLASSIFICATION, label_ids, multi_hot
from perceivers.training.datasets import load_examples, stratified_split
from perceivers.training.images import (
    IMAGES,
    ImageAugmentationArguments,
    ImageDataArguments,
    RandomAffine,
    digits,
    enough_pixels,
    read_value,
)


def saved(tmp_path, labels, label_type, image_column="picture", label_column="kind", splits=("train",)):
    """A data set that `load_dataset` finds by its path."""
    features = datasets.Features({image_column: datasets.Image(), label_column: label_type})
    pixels = [np.full((4, 4), index, np.uint8) for index in range(len(labels))]
    dataset = datasets.Dataset.from_dict({image_column: pixels, label_column: labels}, features)
    for split in splits:
        dataset.to_parquet(tmp_path / f"{split}.parquet")
    return str(tmp_path)


def test_digits():
    dataset = digits()
    assert len(dataset) == 1797
    assert np.array(dataset[0]["image"]).max() == 255 * 15 // 16  # 15 of 16 in scikit-learn's
    assert dataset[0]["image"].size == (8, 8)


def test_split_is_stratified_and_depends_on_its_seed():
    rest, held_out = stratified_split(digits(), 0.2, seed=0)
    assert (len(rest), len(held_out)) == (1437, 360)
    counts = np.bincount(held_out["label"])
    assert (counts.min(), counts.max()) == (35, 37)
    again, other = (stratified_split(digits(), 0.2, seed)[1] for seed in (0, 1))
    assert again["label"] == held_out["label"]
    assert other["label"] != held_out["label"]


def test_columns_are_found_and_words_become_classes(tmp_path):
    path = saved(tmp_path, ["b", "a"] * 10, datasets.Value("string"), label_column="label")
    images = load_examples(IMAGES, CLASSIFICATION, ImageDataArguments(dataset_name=path), seed=0)
    assert images.targets.label_names == ["a", "b"]
    assert (len(images.train), len(images.validation)) == (16, 4)
    example = images.train[0]  # image i has the value i, and the label 1 where i is even
    assert example["label"] == 1 - np.array(read_value(example["image"]))[0, 0] % 2


def test_numbers_become_classes_in_their_order(tmp_path):
    path = saved(tmp_path, [10, 9] * 10, datasets.Value("int64"))
    images = load_examples(
        IMAGES, CLASSIFICATION, ImageDataArguments(dataset_name=path, label_column_name="kind"), seed=0
    )
    assert images.targets.label_names == ["9", "10"]


def test_a_given_split_is_used(tmp_path):
    path = saved(tmp_path, [0, 1] * 5, datasets.ClassLabel(names=["a", "b"]), splits=("train", "test"))
    images = load_examples(IMAGES, CLASSIFICATION, ImageDataArguments(dataset_name=path, max_train_samples=4), seed=0)
    assert (len(images.train), len(images.validation)) == (4, 10)


@pytest.mark.parametrize(
    ("label_type", "arguments", "message"),
    [
        (datasets.Value("float32"), {"label_column_name": "kind"}, "not Value"),
        (datasets.Value("int64"), {}, "which column holds the labels"),
        (datasets.Value("int64"), {"image_column_name": "kind"}, "which column holds the labels"),
        (datasets.Value("int64"), {"image_column_name": "kind", "label_column_name": "kind"}, "does not hold images"),
        (datasets.ClassLabel(names=["a", "b"]), {"image_column_name": "photo"}, "no image column 'photo'"),
    ],
)
def test_wrong_columns(tmp_path, label_type, arguments, message):
    path = saved(tmp_path, [0, 1] * 5, label_type)
    with pytest.raises(ValueError, match=message):
        load_examples(IMAGES, CLASSIFICATION, ImageDataArguments(dataset_name=path, **arguments), seed=0)


def test_metrics():
    logits, labels = torch.randn(50, 30), torch.randint(0, 30, (50,))
    scores = accuracy(most_probable(logits).numpy(), labels.numpy())
    every = np.arange(30)
    expected = top_k_accuracy_score(labels, logits.numpy(), k=5, labels=every)
    assert scores["top5_accuracy"] == pytest.approx(expected)
    assert scores["accuracy"] == pytest.approx(top_k_accuracy_score(labels, logits.numpy(), k=1, labels=every))
    assert set(accuracy(most_probable(logits[:, :10]).numpy(), labels.numpy() % 10)) == {"accuracy"}


def test_labels_are_matched_by_name():
    assert label_ids(["cat", "dog"], {0: "dog", 1: "cat"}).tolist() == [1, 0]
    assert label_ids(["cat", "dog"], {0: "LABEL_0", 1: "LABEL_1"}).tolist() == [0, 1]
    with pytest.raises(ValueError, match="no class 'cow'"):
        label_ids(["cow", "dog"], {0: "dog", 1: "cat"})


@pytest.mark.parametrize(
    ("labels", "label_type"),
    [
        ([["b", "a"], ["b"]] * 5, datasets.List(datasets.Value("string"))),
        ([[1, 0], [1]] * 5, datasets.List(datasets.ClassLabel(names=["a", "b"]))),
    ],
)
def test_many_labels_an_image(tmp_path, labels, label_type):
    path = saved(tmp_path, labels, label_type, label_column="label")
    images = load_examples(IMAGES, CLASSIFICATION, ImageDataArguments(dataset_name=path), seed=0)
    assert images.targets.problem_type == "multi_label_classification"
    assert images.targets.label_names == ["a", "b"]
    assert len(images.validation) == 2
    for example in (*images.train, *images.validation):  # image i has the value i
        is_even = np.array(read_value(example["image"]))[0, 0] % 2 == 0
        assert multi_hot([example["label"]], 2).tolist() == [[float(is_even), 1.0]]


def test_class_folders_divided_into_splits(tmp_path):
    for name, split, shade in (("a", "train", 1), ("a", "test", 2), ("b", "train", 3), ("b", "test", 4)):
        folder = tmp_path / name / split
        folder.mkdir(parents=True)
        PIL.Image.new("L", (4, 4), shade).save(folder / "image.png")
    images = load_examples(IMAGES, CLASSIFICATION, ImageDataArguments(train_dir=str(tmp_path)), seed=0)
    shades = [
        [(read_value(example["image"]).getpixel((0, 0)), example["label"]) for example in split]
        for split in (images.train, images.validation)
    ]
    assert shades == [[(1, 0), (3, 1)], [(2, 0), (4, 1)]]


def corners(monkeypatch, **limits):
    """What becomes of an image of 4 x 8 pixels whose values are their columns and rows, at the limits themselves."""
    rows, columns = torch.meshgrid(torch.arange(4.0), torch.arange(8.0), indexing="ij")
    monkeypatch.setattr(torch, "rand", lambda *size: torch.ones(size))
    affine = RandomAffine(**{"rotation": 0.0, "translation": 0.0, "scaling": 0.0, "shear": 0.0, **limits})
    return affine(torch.stack([columns, rows])[None])[0, :, 1:3, 3:5]  # the middle, far from the border


@pytest.mark.parametrize(
    ("limits", "origin"),
    [
        ({}, lambda x, y: (x, y)),
        ({"translation": 0.125}, lambda x, y: (x + 1, y + 0.5)),
        ({"scaling": 0.25}, lambda x, y: (x / 1.25, y / 1.25)),
        ({"rotation": 90}, lambda x, y: (y, -x)),
        ({"shear": 45}, lambda x, y: (x - y, y)),
    ],
)
def test_affine_maps_keep_the_shape_of_a_pixel(monkeypatch, limits, origin):
    x, y = np.meshgrid([-0.5, 0.5], [-0.5, 0.5])  # from the centre, at column 3.5 and row 1.5
    expected = np.stack(origin(x, y)) + np.array([3.5, 1.5])[:, None, None]
    np.testing.assert_allclose(corners(monkeypatch, **limits), expected, atol=1e-5)


def test_affine_maps_differ_within_a_batch():
    images = torch.rand(1, 3, 8, 8).expand(2, -1, -1, -1)
    first, second = RandomAffine(rotation=10, translation=0.1, scaling=0.1, shear=5)(images)
    assert first.shape == (3, 8, 8)
    assert not torch.equal(first, second)


class TestReducedDecoding:
    """JPEGs are decoded no larger than their processor needs."""

    @pytest.fixture
    def photograph(self, tmp_path):
        path = tmp_path / "flower.jpg"
        PIL.Image.fromarray(load_sample_images().images[1]).save(path, quality=90)  # 427 x 640
        return str(path)

    @pytest.fixture
    def processor(self):
        return ImagePerceiverImageProcessorPil(size=28, crop_size=32)

    def test_they_keep_four_times_what_the_processor_needs(self, processor, photograph):
        assert enough_pixels(processor) == 128
        assert read_value({"bytes": None, "path": photograph}, 128).size == (320, 214)  # a quarter would have 107
        assert read_value({"bytes": Path(photograph).read_bytes(), "path": None}, 128).size == (320, 214)
        assert read_value({"bytes": None, "path": photograph}).size == (640, 427)

    @pytest.mark.parametrize(
        ("fields", "enough"),
        [
            ({"do_resize": False, "do_center_crop": False}, None),
            ({"size": {"shortest_edge": 300}}, 1200),
            ({"size": 224, "crop_size": 256}, 1024),
        ],
    )
    def test_what_is_enough(self, fields, enough):
        assert enough_pixels(ImagePerceiverImageProcessorPil(**fields)) == enough

    def test_the_model_sees_nearly_the_same(self, processor, photograph):
        with PIL.Image.open(photograph) as image:
            whole = IMAGES.eval_transform(processor)([image])["pixel_values"]
        reduced = IMAGES.eval_transform(processor)([IMAGES.example_from_file(photograph)])["pixel_values"]
        scale = 255 * torch.tensor(processor.image_std)[:, None, None]
        assert 0 < ((whole - reduced).abs() * scale).mean() < 2

    def test_training_evaluation_and_predict_see_the_same(self, processor, photograph):
        value = IMAGES.example_from_file(photograph)
        trained = IMAGES.train_transform(processor, ImageAugmentationArguments(), ImagePerceiverConfig())([value])
        evaluated = IMAGES.eval_transform(processor)([value])
        predicted = processor(IMAGES.read(photograph, processor), return_tensors="pt")
        assert torch.equal(trained["pixel_values"], evaluated["pixel_values"])
        assert torch.equal(predicted["pixel_values"], evaluated["pixel_values"])

    def test_random_crops_are_cut_from_all_pixels(self, processor, photograph):
        augmentation = ImageAugmentationArguments(random_resized_crop=0.5)
        transform = IMAGES.train_transform(processor, augmentation, ImagePerceiverConfig())
        assert transform.enough is None


def test_a_column_that_asks_for_a_mode_is_decoded_to_it(tmp_path):
    feature = datasets.Image(mode="L")
    rows = datasets.Dataset.from_dict({"image": [np.zeros((4, 4, 3), np.uint8)]}).cast_column("image", feature)
    (image,) = IMAGES.inputs(IMAGES.cast_columns(datasets.DatasetDict(train=rows))["train"][:])
    assert image.mode == "L"
