"""Image processors: files, URLs, modes and arrays of every kind, and what is no image."""

import base64
import io
import threading
from functools import partial
from http.server import HTTPServer, SimpleHTTPRequestHandler

import numpy as np
import PIL.Image
import pytest
import torch

import tests.images
from tests.images import pixels, random_image

pytestmark = pytest.mark.usefixtures("one_thread")
processor_class = tests.images.processor_class


def test_files_urls_and_base64(processor_class, tmp_path):
    image = PIL.Image.fromarray(random_image(31, 22))
    path = tmp_path / "image.png"
    image.save(path)
    processor = processor_class()
    expected = processor(image, return_tensors="pt")["pixel_values"]
    text = base64.b64encode(path.read_bytes()).decode()

    class Handler(SimpleHTTPRequestHandler):
        def log_message(self, *args):
            pass

    server = HTTPServer(("127.0.0.1", 0), partial(Handler, directory=tmp_path))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        for source in (
            str(path),
            path,
            text,
            "data:image/png;base64," + text,
            f"http://127.0.0.1:{server.server_port}/image.png",
        ):
            assert torch.equal(processor(source, return_tensors="pt")["pixel_values"], expected)
    finally:
        server.shutdown()
        server.server_close()
    both = processor([str(path), image], return_tensors="pt")["pixel_values"]
    assert torch.equal(both, torch.cat([expected, expected]))


def test_files_keep_their_mode(processor_class, tmp_path):
    """A path gives what the opened image gives, where transformers' `load_image` clips or drops alpha."""
    deep = PIL.Image.fromarray(np.arange(0, 65536, 64, dtype=np.uint16).reshape(32, 32))
    transparent = PIL.Image.fromarray(random_image(9, 8, 4))
    for index, image in enumerate((deep, transparent)):
        path = tmp_path / f"{index}.png"
        image.save(path)
        np.testing.assert_array_equal(pixels(processor_class, str(path)), pixels(processor_class, image))
    assert pixels(processor_class, str(tmp_path / "0.png"), do_convert_rgb=False).shape == (1, 32, 32)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation(processor_class, tmp_path, orientation):
    """Stores an image as a camera held that way would, and expects it upright (the transforms are EXIF's table)."""
    upright = random_image(6, 10)
    stored = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.swapaxes(0, 1),
        6: np.rot90(upright, 1),  # to be turned clockwise when shown, hence stored turned counter-clockwise
        7: upright[::-1, ::-1].swapaxes(0, 1),
        8: np.rot90(upright, -1),
    }[orientation]
    exif = PIL.Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / "image.png"
    PIL.Image.fromarray(np.ascontiguousarray(stored)).save(path, exif=exif)
    for given in str(path), PIL.Image.open(path):
        np.testing.assert_array_equal(pixels(processor_class, given), upright.transpose(2, 0, 1))


GRAY = np.array([[0, 100, 200, 255]], dtype=np.uint8)


@pytest.mark.parametrize(
    ("mode", "color", "rgb"),
    [
        ("L", 100, (100, 100, 100)),
        ("1", 1, (255, 255, 255)),
        ("RGB", (10, 20, 30), (10, 20, 30)),
        ("CMYK", (0, 255, 0, 0), (255, 0, 255)),
        ("HSV", (0, 255, 255), (255, 0, 0)),
        ("YCbCr", (90, 128, 128), (90, 90, 90)),
        ("LA", (100, 255), (100, 100, 100)),
        ("LA", (100, 0), (255, 255, 255)),
        ("RGBA", (255, 0, 0, 255), (255, 0, 0)),
        ("RGBA", (255, 0, 0, 0), (255, 255, 255)),
        ("RGBA", (255, 0, 0, 128), (255, 127, 127)),  # 255 * (1 - 128 / 255) = 127
        ("I;16", 0, (0, 0, 0)),
        ("I;16", 65535, (255, 255, 255)),
        ("I;16", 25700, (100, 100, 100)),
        ("I;16", 128, (0, 0, 0)),
        ("I;16", 129, (1, 1, 1)),
        ("I;16B", 25700, (100, 100, 100)),
        ("I", 25700, (100, 100, 100)),
        ("I", 65535, (255, 255, 255)),
        ("F", 0.25, (0.25, 0.25, 0.25)),
    ],
)
def test_pil_modes(processor_class, mode, color, rgb):
    image = PIL.Image.new(mode, (5, 4), color)
    expected = np.broadcast_to(np.array(rgb, np.float32)[:, None, None], (3, 4, 5))
    np.testing.assert_array_equal(pixels(processor_class, image), expected)


def test_palettes(processor_class):
    image = PIL.Image.new("P", (2, 1))
    image.putpalette([10, 20, 30, 40, 50, 60])
    image.putdata([0, 1])
    for do_convert_rgb in True, False:  # an index is no brightness: palettes become RGB in any case
        converted = pixels(processor_class, image, do_convert_rgb=do_convert_rgb)
        np.testing.assert_array_equal(converted, [[[10, 40]], [[20, 50]], [[30, 60]]])
    image.info["transparency"] = 0
    np.testing.assert_array_equal(pixels(processor_class, image), [[[255, 40]], [[255, 50]], [[255, 60]]])


def test_arrays_become_rgb(processor_class):
    gray = random_image(6, 5, 1)
    for given in gray, gray[None], gray[..., None], torch.from_numpy(gray):
        np.testing.assert_array_equal(pixels(processor_class, given), np.stack([gray] * 3))

    rgba = np.zeros((2, 3, 4), np.uint8)
    rgba[..., 0], rgba[0, :, 3], rgba[1, :, 3] = 255, 255, 51  # alpha 1 and 1/5
    expected = np.zeros((3, 2, 3))
    expected[0], expected[1:, 1] = 255, 204  # (1 - 1/5) * 255
    np.testing.assert_array_equal(pixels(processor_class, rgba), expected)
    np.testing.assert_array_equal(pixels(processor_class, torch.from_numpy(rgba)), expected)
    np.testing.assert_allclose(pixels(processor_class, rgba / 255), expected / 255, rtol=1e-6)


def test_16_bit_and_boolean_arrays(processor_class):
    deep = np.array([[[0, 128, 129, 0, 0], [25700, 65406, 65535, 0, 0]]] * 3, np.uint16)
    expected = np.array([[[0, 0, 1, 0, 0], [100, 254, 255, 0, 0]]] * 3)
    for given in deep, deep.astype(">u2"), torch.from_numpy(deep):
        np.testing.assert_array_equal(pixels(processor_class, given), expected)
    np.testing.assert_array_equal(pixels(processor_class, GRAY > 150)[0], [[0, 0, 255, 255]])


@pytest.mark.parametrize("statistics", [0.5, [0.5], (0.5,)], ids=str)
def test_gray_images(processor_class, statistics):
    processor = processor_class(
        do_convert_rgb=False, do_center_crop=False, size=8, image_mean=statistics, image_std=statistics
    )
    digit = random_image(8, 8, 1)
    deep = PIL.Image.fromarray(digit.astype(np.uint16) * 257)
    for given in PIL.Image.fromarray(digit), digit, digit[None], digit[..., None], torch.from_numpy(digit), deep:
        values = processor(given, return_tensors="pt")["pixel_values"]
        assert values.shape == (1, 1, 8, 8)
        np.testing.assert_allclose(values[0, 0], digit / 127.5 - 1, rtol=1e-5, atol=1e-6)
    assert processor([digit] * 3, size=16, return_tensors="pt")["pixel_values"].shape == (3, 1, 16, 16)
    bilevel = PIL.Image.fromarray(digit > 100)
    assert set(pixels(processor_class, bilevel, do_convert_rgb=False).flat) == {0, 255}


@pytest.mark.parametrize(
    ("images", "error", "message"),
    [
        ([], ValueError, "at least one image, got an empty list"),
        (np.zeros((0, 3, 4, 4)), ValueError, "at least one image"),
        (None, TypeError, "got NoneType"),
        ([[0, 1], [1, 0]], TypeError, "got int"),
        (b"bytes", ValueError, "the content is not an image, or is truncated: unknown format"),
        (np.zeros((1, 1, 3, 4, 4)), ValueError, r"2 or 3 dimensions, or a batch of 4, got shape \(1, 1, 3, 4, 4\)"),
        (np.zeros(4), ValueError, r"got shape \(4,\)"),
        (np.zeros((3, 0, 4)), ValueError, r"image 0: the image is empty: shape \(3, 0, 4\)"),
        (PIL.Image.new("RGB", (0, 4)), ValueError, "image 0: the image is empty: height 4, width 0"),
        (np.zeros((7, 9, 8)), ValueError, r"channels .* got shape \(7, 9, 8\)"),
        ([GRAY, np.full((3, 4, 4), np.nan)], ValueError, "image 1: the pixels contain NaN or infinite"),
        (torch.full((3, 4, 4), float("inf"), dtype=torch.bfloat16), ValueError, "image 0: .* NaN or infinite"),
        (PIL.Image.new("F", (4, 4), float("nan")), ValueError, "image 0: .* NaN or infinite"),
        (np.full((3, 4, 4), 1e300), ValueError, "NaN or infinite"),
        (np.full((3, 4, 4), 300), ValueError, r"int64 pixels in 0..255, got 300..300"),
        (torch.full((3, 4, 4), -1, dtype=torch.int16), ValueError, r"int16 pixels in 0..255, got -1..-1"),
        (PIL.Image.new("I", (4, 4), 70000), ValueError, r"0..65535, got 70000..70000"),
        (np.zeros((3, 4, 4), complex), TypeError, "complex128"),
        (np.full((4, 5, 6), 7.0), ValueError, r"RGBA image of floats in 0..1, got 7.0..7.0"),
        ("missing.jpg", ValueError, "got 'missing.jpg'"),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_bad_images(processor_class, images, error, message):
    with pytest.raises(error, match=message):
        processor_class()(images, return_tensors="pt")


def test_broken_files(processor_class, tmp_path):
    whole, truncated, text = tmp_path / "whole.jpg", tmp_path / "truncated.jpg", tmp_path / "text.jpg"
    PIL.Image.fromarray(random_image(64, 64)).save(whole)
    truncated.write_bytes(whole.read_bytes()[:-500])
    text.write_text("no image")
    for given in str(truncated), PIL.Image.open(truncated), str(text):
        name = "text.jpg" if given == str(text) else "truncated.jpg"
        with pytest.raises(ValueError, match=rf"{name}.* is not an image, or is truncated"):
            processor_class()(given)


def test_a_broken_file_in_memory_has_no_address(processor_class):
    file = io.BytesIO()
    PIL.Image.fromarray(random_image(64, 64)).save(file, "JPEG")
    broken = PIL.Image.open(io.BytesIO(file.getvalue()[:-500]))
    with pytest.raises(ValueError, match=r"^image 0: it is not an image, or is truncated: image file is truncated"):
        processor_class()(broken)


def test_wrong_channels(processor_class):
    processor = processor_class(do_convert_rgb=False)
    with pytest.raises(ValueError, match=r"image_mean has 3 values, .* have 1 channels; .* set do_convert_rgb=True"):
        processor(GRAY, return_tensors="pt")
    with pytest.raises(ValueError, match=r"equal numbers of channels, got \[1, 3\]; set do_convert_rgb=True"):
        processor([GRAY, random_image(9, 9)], return_tensors="pt")
