"""The image processors: geometry, parity with transformers' own, inputs of every kind, padding, errors, saving."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import torch
from sklearn.datasets import load_sample_images
from transformers import AutoImageProcessor, PreTrainedConfig
from transformers.dynamic_module_utils import get_class_from_dynamic_module
from transformers.image_utils import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from transformers.models.auto.image_processing_auto import IMAGE_PROCESSOR_MAPPING
from transformers.processing_utils import ImagesKwargs

import tests.images
from perceivers.preprocessors import image_processing_base_image_perceiver as base
from perceivers.preprocessors.image_processing_image_perceiver import ImagePerceiverImageProcessor
from perceivers.preprocessors.image_processing_pil_image_perceiver import ImagePerceiverImageProcessorPil
from tests.images import LIBRARY, OFF, pixels, random_image

pytestmark = pytest.mark.usefixtures("one_thread")
processor_class = tests.images.processor_class

ROOT = Path(__file__).parents[1]
# Landscape, portrait, square, smaller and larger than the output, and a strip.
SIZES = [(301, 407), (511, 273), (224, 224), (50, 51), (7, 300)]


def photographs() -> list[PIL.Image.Image]:
    """Two photographs, cut to odd sizes: a landscape and a portrait."""
    china, flower = load_sample_images().images  # 427 x 640 both
    return [PIL.Image.fromarray(china[:389, :601]), PIL.Image.fromarray(flower[:, 100:401])]


# Geometry


@pytest.mark.parametrize(
    ("size", "box"),  # (height, width); (left, top, right, bottom), by hand: int(0.875 * 301) = 263, 38 // 2 = 19, ...
    [
        ((301, 407), (72, 19, 335, 282)),
        ((407, 301), (19, 72, 282, 335)),
        ((256, 256), (16, 16, 240, 240)),
        ((50, 51), (4, 3, 47, 46)),
        ((1, 9), (4, 0, 5, 1)),
        ((1, 1), (0, 0, 1, 1)),
    ],
)
def test_default_is_the_centre_crop_resized_and_normalised(processor_class, size, box):
    image = PIL.Image.fromarray(random_image(*size))
    output = processor_class()(image, return_tensors="pt")
    assert list(output) == ["pixel_values"]
    assert output["pixel_values"].dtype == torch.float32

    resized = np.asarray(image.crop(box).resize((224, 224), PIL.Image.Resampling.BICUBIC), dtype=np.float64)
    expected = (resized / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    actual = output["pixel_values"][0].permute(1, 2, 0).numpy()
    # Pillow's own pixels exactly; torchvision's differ by one or two of 255 (see the test of the two backends below).
    tolerance = 1e-5 if processor_class is ImagePerceiverImageProcessorPil else 2 / 255 / 0.224 + 1e-5
    np.testing.assert_allclose(actual, expected, rtol=0, atol=tolerance)
    cropped = pixels(processor_class, image, do_center_crop=True)
    np.testing.assert_array_equal(cropped, np.asarray(image.crop(box)).transpose(2, 0, 1))


def test_crop_is_the_fraction_size_by_crop_size_of_the_short_side(processor_class):
    image = random_image(100, 60)
    cropped = pixels(processor_class, image, do_center_crop=True, size=(10, 20), crop_size=40)
    np.testing.assert_array_equal(cropped, image[42:57, 15:45].transpose(2, 0, 1))  # 10/40 and 20/40 of 60: 15 x 30


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ({"height": 20, "width": 30}, (20, 30)),
        (25, (25, 25)),
        ({"shortest_edge": 30}, (50, 30)),
        ({"longest_edge": 30}, (30, 18)),
        ({"shortest_edge": 30, "longest_edge": 40}, (40, 24)),
        ({"max_height": 50, "max_width": 15}, (25, 15)),
    ],
)
def test_sizes(processor_class, size, expected):
    output = processor_class(do_center_crop=False, size=size)(random_image(100, 60), return_tensors="pt")
    assert output["pixel_values"].shape == (1, 3, *expected)


@pytest.mark.parametrize("size", [(333, 100), (1000, 1), (1, 1000), (7, 7)])
def test_longest_edge_is_met_exactly_and_no_edge_vanishes(processor_class, size):
    image = PIL.Image.fromarray(random_image(*size))
    resized = pixels(processor_class, image, do_resize=True, size={"longest_edge": 100})
    assert max(resized.shape[1:]) == 100 and min(resized.shape[1:]) >= 1


# Parity


@pytest.mark.parametrize(
    "kwargs",
    [
        {},
        {"disable_grouping": False},
        {"size": 64, "crop_size": 70, "resample": PIL.Image.Resampling.BILINEAR},
        {"size": {"height": 150, "width": 250}},
        {"do_normalize": False},
        {"do_rescale": False, "do_normalize": False},
        {"rescale_factor": 1 / 127.5, "image_mean": [1.0, 1.0, 1.0], "image_std": [1.0, 1.0, 1.0]},
        {"image_mean": 0.5, "image_std": 0.25},
    ],
    ids=str,
)
def test_pixels_equal_those_of_the_library(processor_class, kwargs):
    images = photographs() + [PIL.Image.fromarray(random_image(*size)) for size in SIZES]
    ours = processor_class(**kwargs)(images, return_tensors="pt")["pixel_values"]
    library = LIBRARY[processor_class](**kwargs)(images, return_tensors="pt")["pixel_values"]
    assert torch.equal(ours, library.to(torch.float32))
    per_call = processor_class()(images, return_tensors="pt", **kwargs)["pixel_values"]
    assert torch.equal(ours, per_call)


def test_the_backends_agree():
    """Without resizing exactly, up to float32; with it, few pixels differ, by 1 of 255 (photographs) or 2 (noise).

    Measured with torchvision 0.29 and Pillow 13 at the sizes of this test: photographs 0.36 % of the pixels, by 1;
    noise 0.3 %, of which 4 in a million by 2. The two round their filters' weights to integers differently.
    """
    noise = [random_image(*size) for size in SIZES]
    for images, largest in (photographs(), 1), (noise, 2):
        kwargs = {"do_rescale": False, "do_normalize": False, "return_tensors": "pt"}
        torchvision = ImagePerceiverImageProcessor()(images, **kwargs)["pixel_values"]
        pil = ImagePerceiverImageProcessorPil()(images, **kwargs)["pixel_values"]
        difference = (torchvision - pil).abs()
        assert difference.max() <= largest
        assert (difference > 0).float().mean() < 0.006

    image = noise[0]
    torchvision = ImagePerceiverImageProcessor(do_resize=False)(image, return_tensors="pt")["pixel_values"]
    pil = ImagePerceiverImageProcessorPil(do_resize=False)(image, return_tensors="pt")["pixel_values"]
    torch.testing.assert_close(torchvision, pil, rtol=1e-6, atol=1e-6)


def test_loads_the_library_s_configuration(processor_class, tmp_path):
    library = LIBRARY[processor_class](size=96, crop_size=120, image_mean=[0.4, 0.5, 0.6], resample=2)
    library.save_pretrained(tmp_path)
    ours = processor_class.from_pretrained(tmp_path)
    images = photographs()
    assert torch.equal(
        ours(images, return_tensors="pt")["pixel_values"], library(images, return_tensors="pt")["pixel_values"]
    )


def test_loads_a_configuration_of_the_published_checkpoints(processor_class, tmp_path):
    published = {  # deepmind/vision-perceiver-fourier: sizes are numbers, the class has its name of old
        "crop_size": 256,
        "do_center_crop": True,
        "do_normalize": True,
        "do_resize": True,
        "feature_extractor_type": "PerceiverFeatureExtractor",
        "image_mean": [0.485, 0.456, 0.406],
        "image_std": [0.229, 0.224, 0.225],
        "resample": 3,
        "size": 224,
    }
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(published))
    loaded = processor_class.from_pretrained(tmp_path)
    assert loaded.to_dict() == processor_class().to_dict()


# Outputs


def test_steps_are_switchable(processor_class):
    image = random_image(40, 60)
    raw = image.transpose(2, 0, 1).astype(np.float32)
    mean = np.array(IMAGENET_DEFAULT_MEAN, np.float32)[:, None, None]
    std = np.array(IMAGENET_DEFAULT_STD, np.float32)[:, None, None]
    np.testing.assert_array_equal(pixels(processor_class, image), raw)
    np.testing.assert_allclose(pixels(processor_class, image, do_rescale=True), raw / 255, rtol=1e-6)
    normalized = pixels(processor_class, image, do_rescale=True, do_normalize=True)
    np.testing.assert_allclose(normalized, (raw / 255 - mean) / std, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(pixels(processor_class, image, do_normalize=True), (raw - mean) / std, rtol=1e-5)
    assert pixels(processor_class, image, do_resize=True, size=8).shape == (3, 8, 8)
    assert pixels(processor_class, image, do_center_crop=True).shape == (3, 35, 35)


def test_output_types_and_layouts(processor_class):
    processor, images = processor_class(size=16), [random_image(40, 60), random_image(30, 30)]
    pt = processor(images, return_tensors="pt")["pixel_values"]
    np_last = processor(images, return_tensors="np", data_format="channels_last")["pixel_values"]
    listed = processor(images)["pixel_values"]
    assert pt.shape == (2, 3, 16, 16)
    assert isinstance(np_last, np.ndarray)
    assert np_last.dtype == np.float32
    np.testing.assert_array_equal(np_last, pt.permute(0, 2, 3, 1).numpy())
    assert isinstance(listed, list)
    assert isinstance(listed[0], np.ndarray if processor_class is ImagePerceiverImageProcessorPil else torch.Tensor)
    np.testing.assert_array_equal(np.stack([np.asarray(image) for image in listed]), pt.numpy())


def test_is_deterministic_and_leaves_the_input_alone(processor_class):
    for image in (random_image(60, 40), random_image(60, 40).astype(np.float32), torch.rand(3, 40, 60)):
        before = image.copy() if isinstance(image, np.ndarray) else image.clone()
        for kwargs in (OFF, {**OFF, "do_normalize": True, "do_rescale": True}):
            first = processor_class(**kwargs)(image, return_tensors="pt")["pixel_values"]
            second = processor_class(**kwargs)(image, return_tensors="pt")["pixel_values"]
            assert torch.equal(first, second)
            first.add_(1)  # must not reach the input through shared memory
            assert (image == before).all()


def test_padding(processor_class):
    images = [random_image(20, 30), random_image(25, 10)]
    processor = processor_class(do_center_crop=False, do_resize=False)
    alone = [processor(image, return_tensors="pt")["pixel_values"][0] for image in images]
    output = processor(images, do_pad=True, return_tensors="pt")
    assert list(output) == ["pixel_values", "pixel_mask"]
    assert output["pixel_values"].shape == (2, 3, 25, 30)
    assert output["pixel_values"].dtype == torch.float32
    assert output["pixel_mask"].shape == (2, 25, 30)
    assert output["pixel_mask"].dtype == torch.int64
    for values, mask, expected in zip(output["pixel_values"], output["pixel_mask"], alone, strict=True):
        height, width = expected.shape[1:]
        assert torch.equal(values[:, :height, :width], expected)
        assert mask[:height, :width].all()
        assert mask.sum() == height * width
        assert (values[:, mask == 0] == 0).all()  # zeros after normalisation

    sized = processor(images, do_pad=True, pad_size={"height": 40, "width": 50}, return_tensors="pt")
    assert sized["pixel_values"].shape == (2, 3, 40, 50)
    assert sized["pixel_mask"].sum((1, 2)).tolist() == [600, 250]
    resized = processor(images, do_pad=True, do_resize=True, size={"shortest_edge": 40}, return_tensors="np")
    assert resized["pixel_values"].shape == (2, 3, 100, 60)
    with pytest.raises(ValueError, match=r"20.*30"):
        processor(images, do_pad=True, pad_size=15)


def test_different_sizes_without_padding(processor_class):
    processor = processor_class(do_center_crop=False, do_resize=False)
    images = [random_image(20, 30), random_image(25, 10)]
    for return_tensors in "pt", "np":
        with pytest.raises(ValueError, match=r"\[\(20, 30\), \(25, 10\)\]; set do_resize=True .* or do_pad=True"):
            processor(images, return_tensors=return_tensors)
    assert [image.shape for image in processor(images)["pixel_values"]] == [(3, 20, 30), (3, 25, 10)]


# Inputs


def test_containers_and_layouts(processor_class):
    images = [random_image(60, 40, seed=seed) for seed in range(2)]
    processor = processor_class()
    expected = processor([PIL.Image.fromarray(image) for image in images], return_tensors="pt")["pixel_values"]
    first = [image.transpose(2, 0, 1) for image in images]
    tensors = [torch.from_numpy(image.copy()) for image in first]
    for given in (
        images,
        first,
        tuple(images),
        [images[:1], images[1:]],
        np.stack(images),
        np.stack(first),
        [np.stack(first)[:1], np.stack(images)[1:]],
        tensors,
        torch.stack(tensors),
        [image.astype(np.int64) for image in images],
        [image[:, ::-1][:, ::-1] for image in images],  # negative strides
        [PIL.Image.fromarray(images[0]), tensors[1]],
    ):
        assert torch.equal(processor(given, return_tensors="pt")["pixel_values"], expected)
    assert torch.equal(processor(images[0], return_tensors="pt")["pixel_values"], expected[:1])
    read_only = images[0].copy()
    read_only.flags.writeable = False
    assert torch.equal(processor(read_only, return_tensors="pt")["pixel_values"], expected[:1])


def test_input_data_format_settles_what_is_ambiguous(processor_class):
    image = random_image(3, 4)  # (3, 4, 3)
    first = pixels(processor_class, image, input_data_format="channels_first")
    last = pixels(processor_class, image, input_data_format="channels_last")
    np.testing.assert_array_equal(first, image)
    np.testing.assert_array_equal(last, image.transpose(2, 0, 1))
    five = pixels(processor_class, random_image(8, 9, 5), do_convert_rgb=False, input_data_format="channels_last")
    assert five.shape == (5, 8, 9)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_floats(processor_class, dtype):
    image = torch.rand(3, 30, 20, dtype=torch.float64).to(dtype).requires_grad_()
    expected = image.detach().float()
    values = processor_class(**OFF)(image, return_tensors="pt")["pixel_values"]
    assert values.dtype == torch.float32
    assert torch.equal(values[0], expected)


@pytest.mark.parametrize("resample", [0, 2, 3])
def test_floats_are_resized_as_floats(processor_class, resample):
    """Any range, at full precision, and alike on both backends (float32 sums in different orders: 1e-5 of the range).

    0..1 and 0..255 are what the 8 bits of `transformers` would take; black and white in floats would lose its grays.
    """
    kwargs = {"do_resize": True, "size": {"shortest_edge": 20}, "resample": resample, "do_convert_rgb": False}
    integers = np.random.default_rng(0).integers(100, 150, (3, 50, 31), dtype=np.uint8)  # so that nothing overshoots
    from_integers = pixels(processor_class, integers, **kwargs)
    for low, high in (0, 1), (0, 255), (-1, 1):
        scale = (high - low) / 255
        floats = pixels(processor_class, integers.astype(np.float32) * scale + low, **kwargs)
        assert floats.shape == (3, 32, 20)
        # 8 bits round once an axis
        np.testing.assert_allclose((floats - low) / scale, from_integers, rtol=0, atol=1.01)
    black_and_white = np.random.default_rng(0).integers(0, 2, (50, 31)).astype(np.float32)
    torchvision, pil = (pixels(cls, black_and_white, **kwargs) for cls in LIBRARY)
    np.testing.assert_allclose(torchvision, pil, rtol=0, atol=1e-5)
    if resample != PIL.Image.Resampling.NEAREST:
        assert len(np.unique(pil)) > 100


def test_floats_that_are_rescaled_already(processor_class, monkeypatch):
    warnings = []
    monkeypatch.setattr(base.logger, "warning_once", warnings.append)
    image = random_image(30, 20)
    expected = processor_class(do_resize=False)(image, return_tensors="pt")["pixel_values"]
    scaled = image.astype(np.float32) / 255
    actual = processor_class(do_resize=False, do_rescale=False)(scaled, return_tensors="pt")["pixel_values"]
    torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-5)
    in_255 = processor_class(do_resize=False)(image.astype(np.float32), return_tensors="pt")["pixel_values"]
    torch.testing.assert_close(in_255, expected, rtol=1e-5, atol=1e-5)
    assert not warnings
    processor_class(do_resize=False)(scaled)
    assert len(warnings) == 1
    assert "already rescaled" in warnings[0]


def test_keywords_are_a_class_beside_the_processor(processor_class):
    """As in transformers: named after the processor and importable from its module."""
    keywords = sys.modules[processor_class.__module__].ImagePerceiverImageProcessorKwargs
    assert processor_class.valid_kwargs is keywords
    assert keywords.__annotations__.keys() - ImagesKwargs.__annotations__.keys() == {"do_grayscale"}
    assert ImagesKwargs.__annotations__.keys() <= keywords.__annotations__.keys()
    call = {"do_grayscale": True, "do_convert_rgb": False, "image_mean": 0.5, "image_std": 0.5, "return_tensors": "pt"}
    assert processor_class()(random_image(9, 7), **call)["pixel_values"].shape == (1, 1, 224, 224)


# Errors


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"image_mean": [0.5]}, r"image_mean has 1 values, \[0.5\], but the images have 3 channels"),
        ({"image_std": [0.5] * 4}, "image_std has 4 values, .* have 3 channels"),
        ({"image_std": [0.5, 0.0, 0.5]}, "image_std above 0"),
        ({"size": {"shortest_edge": 5}}, "set do_center_crop=False"),
        ({"data_format": "channels_middle"}, "channels_middle"),
        ({"return_tensors": "tf"}, "tf is not a valid TensorType"),
    ],
    ids=str,
)
def test_bad_arguments(processor_class, kwargs, message):
    with pytest.raises(ValueError, match=message):
        processor_class()(random_image(9, 9), **kwargs)


# Saving and loading


def test_save_and_load(processor_class, tmp_path):
    processor = processor_class(
        do_convert_rgb=False,
        do_center_crop=False,
        size={"longest_edge": 48},
        resample=2,
        rescale_factor=1 / 100,
        image_mean=[0.1],
        image_std=[0.3],
        do_pad=True,
        pad_size=50,
    )
    processor.save_pretrained(tmp_path)
    loaded = processor_class.from_pretrained(tmp_path)
    assert loaded.to_dict() == processor.to_dict()
    image = random_image(60, 80, 1)
    expected = processor(image, return_tensors="pt")
    for name, value in loaded(image, return_tensors="pt").items():
        assert torch.equal(value, expected[name])
    loaded.save_pretrained(tmp_path / "again")
    name = "preprocessor_config.json"
    assert (tmp_path / "again" / name).read_text() == (tmp_path / name).read_text()
    overridden = processor_class.from_pretrained(tmp_path, do_pad=False)
    assert overridden.do_pad is False


@pytest.mark.parametrize("processor_class", [ImagePerceiverImageProcessor, ImagePerceiverImageProcessorPil])
def test_grayscale(processor_class, tmp_path):
    """One channel whatever the file: what was gray stays the same to the bit, colours get Pillow's luma."""
    processor = processor_class(do_grayscale=True, do_resize=False, do_center_crop=False, do_normalize=False)
    gray = PIL.Image.fromarray(random_image(9, 7, 1))
    for image in (gray, gray.convert("RGB"), gray.convert("RGBA"), np.array(gray)):
        pixels = processor(image, return_tensors="pt")["pixel_values"]
        assert pixels.shape == (1, 1, 9, 7)
        np.testing.assert_array_equal((pixels[0, 0].numpy() * 255).round(), np.asarray(gray))
    colours = PIL.Image.fromarray(random_image(9, 7))
    pixels = processor(colours, return_tensors="pt")["pixel_values"][0, 0].numpy() * 255
    assert np.abs(pixels.round() - np.asarray(colours.convert("L"))).max() <= 1
    assert processor(colours, do_grayscale=False, return_tensors="pt")["pixel_values"].shape == (1, 3, 9, 7)
    processor.save_pretrained(tmp_path)
    assert processor_class.from_pretrained(tmp_path).do_grayscale is True
    floats = random_image(9, 7).astype(np.float32) / 255
    luma = (floats * [0.299, 0.587, 0.114]).sum(-1)
    pixels = processor(floats, do_rescale=False, return_tensors="pt")["pixel_values"][0, 0]
    np.testing.assert_allclose(pixels.numpy(), luma, atol=1e-6)


def test_auto_class(tmp_path):
    class ThrowAwayConfig(PreTrainedConfig):
        model_type = "image_perceiver_throw_away"

    classes = {"torchvision": ImagePerceiverImageProcessor, "pil": ImagePerceiverImageProcessorPil}
    AutoImageProcessor.register(ThrowAwayConfig, image_processor_classes=classes)
    try:
        for saver in classes.values():
            saver(size=32).save_pretrained(tmp_path)
            for backend, loaded_class in classes.items():
                loaded = AutoImageProcessor.from_pretrained(tmp_path, backend=backend)
                assert type(loaded) is loaded_class
                assert loaded.size == {"height": 32, "width": 32}
            assert type(AutoImageProcessor.from_pretrained(tmp_path)) is ImagePerceiverImageProcessor
    finally:
        del IMAGE_PROCESSOR_MAPPING._extra_content[ThrowAwayConfig]


@pytest.fixture
def saved_with_code(tmp_path, monkeypatch):
    monkeypatch.setattr(ImagePerceiverImageProcessor, "_auto_class", None)
    ImagePerceiverImageProcessor.register_for_auto_class("AutoImageProcessor")
    ImagePerceiverImageProcessor(size=32).save_pretrained(tmp_path / "saved")
    return tmp_path / "saved"


def test_loads_as_remote_code(saved_with_code, tmp_path, monkeypatch):
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.syspath_prepend(tmp_path / "modules")
    image = random_image(40, 30)
    for backend, original in ("torchvision", ImagePerceiverImageProcessor), ("pil", ImagePerceiverImageProcessorPil):
        # The Auto class would take the class of this package, once that is registered.
        reference = f"{original.__module__.rsplit('.', 1)[1]}.{original.__name__}"
        processor = get_class_from_dynamic_module(reference, str(saved_with_code)).from_pretrained(saved_with_code)
        assert type(processor).__module__.startswith("transformers_modules")
        expected = original(size=32)(image, return_tensors="pt")["pixel_values"]
        assert torch.equal(processor(image, return_tensors="pt")["pixel_values"], expected)
        if backend == "torchvision":  # what was loaded from a copy saves a second one, as good as the first
            type(processor).register_for_auto_class("AutoImageProcessor")
            processor.save_pretrained(tmp_path / "again")
            contents = {path.name: path.read_text() for path in saved_with_code.iterdir()}
            assert {path.name: path.read_text() for path in (tmp_path / "again").iterdir()} == contents


LOAD_WITHOUT_TORCHVISION = """
import sys
saved, image, output, root = sys.argv[1:]
sys.modules["torchvision"] = None  # what find_spec and import see of a package that is not installed
import numpy as np
from transformers import AutoImageProcessor
from transformers.dynamic_module_utils import get_class_from_dynamic_module
if getattr(AutoImageProcessor, "is_dummy", False):  # transformers 5.17 does not offer it without torchvision
    reference = "image_processing_pil_image_perceiver.ImagePerceiverImageProcessorPil"
    processor = get_class_from_dynamic_module(reference, saved).from_pretrained(saved)
else:
    processor = AutoImageProcessor.from_pretrained(saved, trust_remote_code=True)
assert "perceivers" not in sys.modules
assert type(processor).__name__ == "ImagePerceiverImageProcessorPil", type(processor)
np.save(output, processor(np.load(image), return_tensors="np")["pixel_values"])
sys.path.insert(0, root)
import perceivers.preprocessors.image_processing_pil_image_perceiver
import perceivers.preprocessors.image_processing_image_perceiver
"""


@pytest.mark.integration
def test_loads_as_remote_code_without_the_package_and_torchvision(saved_with_code, tmp_path):
    image, output = tmp_path / "image.npy", tmp_path / "output.npy"
    np.save(image, random_image(40, 30))
    environment = os.environ | {"HF_MODULES_CACHE": str(tmp_path / "modules"), "HF_HUB_OFFLINE": "1"}
    arguments = map(str, (saved_with_code, image, output, ROOT))
    command = [sys.executable, "-c", LOAD_WITHOUT_TORCHVISION, *arguments]
    subprocess.run(command, check=True, cwd=tmp_path, env=environment)
    expected = ImagePerceiverImageProcessorPil(size=32)(np.load(image), return_tensors="np")["pixel_values"]
    np.testing.assert_array_equal(np.load(output), expected)


def test_pil_class_saves_its_own_code(tmp_path, monkeypatch):
    monkeypatch.setattr(ImagePerceiverImageProcessorPil, "_auto_class", "AutoImageProcessor")
    ImagePerceiverImageProcessorPil().save_pretrained(tmp_path)
    config = json.loads((tmp_path / "preprocessor_config.json").read_text())
    reference = "image_processing_pil_image_perceiver.ImagePerceiverImageProcessorPil"
    assert config["auto_map"] == {"AutoImageProcessor": reference}
    assert not (tmp_path / "image_processing_image_perceiver.py").exists()
