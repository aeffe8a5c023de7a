"""A picture gives the same tensor however it comes: path, content, array, PIL, dictionary, data set row, `predict`.

The expected pixels come from NumPy and from the arrays that were written.
"""

import io
from pathlib import Path

import datasets
import numpy as np
import PIL.Image
import pytest
import torch
from transformers import pipeline

import tests.images
from perceivers import ImagePerceiverConfig, ImagePerceiverForImageClassification, ImagePerceiverImageProcessor
from perceivers.training.images import IMAGES, ImageTransform
from tests.images import pixels, random_image

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("one_thread")]
processor_class = tests.images.processor_class

DEEP = np.tile(np.linspace(0, 65535, 32).astype(np.uint16), (24, 1))
SIZES = [(1, 9), (9, 1), (3, 7), (7, 3), (4, 4), (3, 3), (1, 1), (24, 31)]


def picture(mode: str, height: int = 24, width: int = 31) -> PIL.Image.Image:
    colours = random_image(height, width, 4)
    if mode == "I;16":
        return PIL.Image.fromarray(colours[..., 0].astype(np.uint16) * 257)
    if mode == "F":
        return PIL.Image.fromarray(colours[..., 0].astype(np.float32))
    if mode == "1":
        return PIL.Image.fromarray(colours[..., 0] > 127)
    if mode == "RGBA":
        return PIL.Image.fromarray(colours)
    return PIL.Image.fromarray(colours[..., :3]).convert(mode)


def saved(image: PIL.Image.Image, folder: Path) -> Path:
    path = folder / f"picture.{'tif' if image.mode in ('F', 'CMYK') else 'png'}"
    image.save(path)
    return path


@pytest.mark.parametrize("mode", ["L", "LA", "RGB", "RGBA", "P", "1", "I;16", "F", "CMYK"])
@pytest.mark.parametrize("do_convert_rgb", [True, False])
def test_every_way_to_a_processor_gives_the_same(processor_class, tmp_path, mode, do_convert_rgb):
    path = saved(picture(mode), tmp_path)
    processor = processor_class(size=16, crop_size=18, do_convert_rgb=do_convert_rgb, image_mean=0.5, image_std=0.25)
    with PIL.Image.open(path) as opened:
        expected = processor(opened, return_tensors="pt")["pixel_values"]
    row = datasets.Dataset.from_dict({"image": [str(path)]}).cast_column("image", datasets.Image())
    undecoded = row.cast_column("image", datasets.Image(decode=False))
    ways = {
        "path": str(path),
        "Path": path,
        "content": path.read_bytes(),
        "open file": path.open("rb"),
        "dictionary": {"bytes": path.read_bytes(), "path": None},
        "dictionary of a path": {"bytes": None, "path": str(path)},
        "row": row[0]["image"],
        "undecoded row": undecoded[0]["image"],
        "training": IMAGES.example_from_file(str(path)),
        "predict": IMAGES.read(str(path), processor),
    }
    for name, given in ways.items():
        actual = processor(given, return_tensors="pt")["pixel_values"]
        torch.testing.assert_close(actual, expected, atol=0, rtol=0, msg=name)


@pytest.mark.parametrize("size", SIZES)
def test_predict_sees_what_training_sees_at_any_size(processor_class, tmp_path, size):
    path = saved(picture("RGB", *size), tmp_path)
    processor = processor_class(size=16, do_center_crop=False)
    trained = IMAGES.eval_transform(processor)([IMAGES.example_from_file(str(path))])["pixel_values"]
    predicted = processor(IMAGES.read(str(path), processor), return_tensors="pt")["pixel_values"]
    assert torch.equal(predicted, trained)
    raw = pixels(processor_class, IMAGES.read(str(path), processor))
    np.testing.assert_array_equal(raw, random_image(*size, 4)[..., :3].transpose(2, 0, 1))


def test_the_pipeline_keeps_the_layout(tmp_path):
    config = ImagePerceiverConfig.from_variant("tiny")
    processor = IMAGES.make_processor(config, {})
    model = ImagePerceiverForImageClassification(config).eval()
    path = saved(picture("RGB", 3, 7), tmp_path)
    with torch.no_grad():
        inputs = IMAGES.eval_transform(processor)([IMAGES.example_from_file(str(path))])
        expected = model(**inputs).logits.softmax(-1).sort(descending=True).values[0]
    classify = pipeline("image-classification", model=model, image_processor=processor, top_k=config.num_labels)
    actual = [row["score"] for row in classify(IMAGES.read(str(path), processor))]
    np.testing.assert_allclose(actual, expected, atol=1e-6)


@pytest.mark.parametrize("mode", ["L", "LA", "RGB", "RGBA", "P", "I;16", "CMYK"])
def test_augmentation_starts_from_what_the_processor_sees(processor_class, mode):
    """An augmentation that changes nothing changes nothing; 16 bits were white, transparency was black."""
    processor = processor_class(size=16, crop_size=18)
    plain, varied = (ImageTransform(processor, step)([picture(mode)])["pixel_values"] for step in (None, lambda x: x))
    assert torch.equal(plain, varied)


def test_deep_pictures_are_augmented_upright_and_in_full_range(processor_class):
    exif = PIL.Image.Exif()
    exif[0x0112] = 6
    file = io.BytesIO()
    PIL.Image.fromarray(DEEP).save(file, "PNG", exif=exif)
    processor = processor_class(**tests.images.OFF)
    given = PIL.Image.open(io.BytesIO(file.getvalue()))
    actual = ImageTransform(processor, lambda image: image)([given])["pixel_values"][0]
    expected = np.rot90(np.round(DEEP / 257), -1)  # shown turned clockwise
    np.testing.assert_array_equal(actual, np.broadcast_to(expected, (3, 32, 24)))


@pytest.mark.parametrize("shape", [(3, 5, 3), (1, 9, 3), (4, 4, 4), (3, 8, 1), (1, 1, 1)])
def test_layouts_that_may_be_two_are_refused(processor_class, shape):
    image = np.arange(np.prod(shape), dtype=np.uint8).reshape(shape)
    for given in (image, torch.from_numpy(image), [image]):
        with pytest.raises(ValueError, match="may be its first or its last dimension; set input_data_format"):
            processor_class()(given)
    for layout in ("channels_first", "channels_last"):
        raw = pixels(processor_class, image, do_convert_rgb=False, input_data_format=layout)
        np.testing.assert_array_equal(raw, image if layout == "channels_first" else image.transpose(2, 0, 1))


@pytest.mark.parametrize(
    "fields",
    [
        {"do_resize": False},
        {"size": {"longest_edge": 12_000}},
        {"size": {"shortest_edge": 12_000}},
        {"size": {"height": 12_000, "width": 12_000}},
    ],
)
def test_pictures_that_a_model_cannot_take(processor_class, fields, monkeypatch):
    blank = PIL.Image.new("L", (2000, 1000))
    if "size" not in fields:
        monkeypatch.setenv("PERCEIVERS_MAX_INPUT_BYTES", str(256 * 2_000_000 - 1))
    with pytest.raises(ValueError, match=r"an image of .* is too large: .*MAX_INPUT_BYTES changes this; so does"):
        processor_class(do_center_crop=False, **fields)(blank)
    if "size" not in fields:
        monkeypatch.setenv("PERCEIVERS_MAX_INPUT_BYTES", str(256 * 2_000_000))
        assert processor_class(do_center_crop=False, **fields)(blank)["pixel_values"][0].shape == (3, 1000, 2000)


def test_a_long_thin_picture_is_not_made_huge(processor_class):
    with pytest.raises(ValueError, match=r"an image of 1 x 10,000 pixels, resized by 224, is too large"):
        processor_class(do_center_crop=False, size={"shortest_edge": 224})(PIL.Image.new("L", (10_000, 1)))


def test_pixels_stay_finite(processor_class):
    image = np.full((3, 6, 6), 3e38)
    with pytest.raises(ValueError, match="image 1 has pixels that are too large to be normalised"):
        processor_class(do_center_crop=False, do_rescale=False)([np.zeros((3, 6, 6)), image])


@pytest.mark.parametrize(
    "kwargs",
    [
        {},
        {"size": {"height": 20, "width": 31}, "crop_size": {"height": 24, "width": 31}},
        {"size": {"shortest_edge": 40}, "do_center_crop": False},
        {"size": {"longest_edge": 40}, "do_center_crop": False, "resample": PIL.Image.Resampling.NEAREST},
        {"do_grayscale": True, "image_mean": 0.5, "image_std": 0.25},
        {"do_resize": False, "do_center_crop": False, "do_pad": True, "pad_size": {"height": 70, "width": 99}},
        {"do_rescale": False, "do_normalize": False},
    ],
    ids=str,
)
@pytest.mark.parametrize("number", [1, 5])
def test_small_images_of_one_size_come_out_as_if_alone(number, kwargs):
    images = [random_image(57, 91, seed=seed) for seed in range(number)]
    processor = ImagePerceiverImageProcessor(**kwargs)
    together, alone = (processor(images, return_tensors="pt", disable_grouping=flag) for flag in (None, True))
    assert together.keys() == alone.keys()
    assert all(torch.equal(together[name], alone[name]) for name in alone)
