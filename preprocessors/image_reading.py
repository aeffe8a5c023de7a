"""Image files, URLs and base64 strings to decoded PIL images."""

import base64
import os
from collections.abc import Mapping
from io import BytesIO

import PIL.Image

from .reading import check_memory, is_url, read_bytes


def read_pil_image(source: str | bytes, name: str | None = None, enough: int | None = None) -> PIL.Image.Image:
    """Reads a path, an http(s) URL, a base64 string or a file's content into a decoded PIL image in its own mode.

    transformers' `load_image` is not used because it converts to RGB at once, which clips 16-bit images and drops
    transparency before it can be composited, and `load_image_as_tensor` decodes differently from Pillow.

    Args:
        source: A base64 string may start with `data:image/...;base64,`.
        name: How errors refer to a file's content.
        enough: Pixels that each side of a JPEG must keep if it is reduced to a half, a quarter or an eighth while it
            is decoded, which saves most of the time; `None` does not reduce it.

    Raises:
        ValueError: The file does not exist, is not an image, or is truncated.
    """
    if isinstance(source, bytes):
        data, name = source, name or "the content"
    elif is_url(source) or os.path.isfile(source):
        data = read_bytes(source)
    else:
        try:
            data = base64.b64decode("".join(source.split(",")[-1].split()), validate=True)
        except ValueError as error:
            raise ValueError(
                f"expected the path of an image file, an http(s) URL or a base64 string, got {source[:200]!r}"
            ) from error
    try:
        image = PIL.Image.open(BytesIO(data))
        check_memory(image.width * image.height * len(image.getbands()), "it")
        if enough is not None:
            image.draft(None, (enough, enough))
        image.load()
    except Exception as error:  # a broken file raises whatever its decoder stumbles over
        reason = "unknown format" if isinstance(error, PIL.UnidentifiedImageError) else error
        if isinstance(error, PIL.Image.DecompressionBombError):
            reason = f"{error}; PIL.Image.MAX_IMAGE_PIXELS changes this"
        name = name or f"{source[:200]!r}"
        raise ValueError(f"{name} is not an image, or is truncated: {reason}") from error
    return image


def read_mapping(image: Mapping, enough: int | None = None) -> PIL.Image.Image:
    """Reads a dictionary as `datasets` stores an image, with `bytes` or a `path`.

    Args:
        image: The dictionary.
        enough: As in [`read_pil_image`].

    Raises:
        ValueError: It has neither, or as in [`read_pil_image`].
    """
    content, path = image.get("bytes"), image.get("path")
    if content is not None:
        return read_pil_image(content, None if path is None else repr(path), enough)
    if path is not None:
        return read_pil_image(os.fspath(path), enough=enough)
    raise ValueError(f"expected a dictionary with `bytes` or `path`, got the keys {sorted(map(str, image))}")
