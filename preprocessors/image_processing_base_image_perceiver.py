"""The part that the Perceiver's two image processors share: colours, the crop, padding, checks.

The backends differ only in the type of an image (`torch.Tensor` or `np.ndarray`) and in how they resize it.

Letters: B batch, C channels, H height, W width.
"""

import os
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, ClassVar

import numpy as np
import PIL.ExifTags
import PIL.Image
import PIL.ImageOps
import torch
from transformers.image_processing_utils import BaseImageProcessor, BatchFeature
from transformers.image_utils import (
    IMAGENET_DEFAULT_MEAN,
    IMAGENET_DEFAULT_STD,
    ChannelDimension,
    PILImageResampling,
    SizeDict,
    infer_channel_dimension_format,
    is_valid_image,
)
from transformers.processing_utils import ImagesKwargs
from transformers.utils import logging

from .image_reading import read_mapping, read_pil_image
from .reading import check_memory, naming

logger = logging.get_logger(__name__)

Pixels = np.ndarray | torch.Tensor

# Gray, RGB and RGBA. For other numbers of channels, `input_data_format` has to give the layout.
INFERABLE_CHANNELS = (1, 3, 4)
# Numbers of an image below which the calls of an operation take longer than its work.
SMALL = 2**18
# What a pixel that reaches the model takes there: its positions, keys and values, in float32.
BYTES_PER_INPUT = 256


class ChannelsLast(np.ndarray):
    """An image (H, W, C) whose layout is known, so that nothing is inferred from its shape."""


def scale_16_bits(image: np.ndarray) -> np.ndarray:
    """Scales 0..65535 to `uint8` in 0..255, rounding to nearest; Pillow's own conversion to RGB clips at 255.

    Raises:
        ValueError: A pixel is out of range.
    """
    if image.min() < 0 or image.max() > 65535:
        raise ValueError(f"expected 16-bit pixels in 0..65535, got {image.min()}..{image.max()}")
    return np.round(image / 257).astype(np.uint8)  # 65535 = 255 * 257


def composite_on_white(image: PIL.Image.Image) -> PIL.Image.Image:
    """Converts to RGB; transparent pixels become white.

    Follows `transformers.image_transforms.convert_to_rgb` of transformers 5.23. It is repeated here because that
    function dropped the alpha channel in 5.17, and pixels must not depend on the installed version.
    """
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = PIL.Image.alpha_composite(PIL.Image.new("RGBA", image.size, "white"), image)
    return image if image.mode == "RGB" else image.convert("RGB")


def pil_to_array(image: PIL.Image.Image, do_convert_rgb: bool | None) -> np.ndarray:
    """Converts a PIL image, turned upright, to (H, W) or (H, W, C), read-only: `uint8`, or `float32` for mode "F".

    Raises:
        ValueError: The image is empty, not an image, or truncated.
    """
    if 0 in image.size:
        raise ValueError(f"the image is empty: height {image.height}, width {image.width}")
    try:
        image.load()
        if image.getexif().get(PIL.ExifTags.Base.Orientation, 1) != 1:  # otherwise Pillow would copy the image
            image = PIL.ImageOps.exif_transpose(image)
    except Exception as error:  # PIL decodes only now; a broken file raises whatever its decoder stumbles over
        name = getattr(image, "filename", "") or "it"
        raise ValueError(f"{name} is not an image, or is truncated: {error}") from error

    if image.mode == "F":
        return np.asarray(image)
    if image.mode.startswith("I"):  # "I", "I;16", "I;16B", ...: Pillow's modes for 16-bit gray
        image = PIL.Image.fromarray(scale_16_bits(np.asarray(image)))
    if do_convert_rgb or image.mode in ("P", "PA"):  # an index into a palette is not a brightness
        image = composite_on_white(image)
    elif image.mode == "1":
        image = image.convert("L")
    return np.asarray(image)


def pixels_to_uint8_or_float32(image: np.ndarray) -> np.ndarray:
    """Converts integers and booleans to `uint8` in 0..255, and floats to finite `float32` of the same range.

    Raises:
        ValueError: Pixels are out of range, NaN or infinite.
        TypeError: They are not numbers.
    """
    if image.dtype == np.uint8:
        return image
    if image.dtype == bool:
        return image.astype(np.uint8) * 255
    if image.dtype.kind == "u" and image.dtype.itemsize == 2:  # either byte order
        return scale_16_bits(image)
    if image.dtype.kind in "iu":
        if image.min() < 0 or image.max() > 255:
            raise ValueError(
                f"expected {image.dtype} pixels in 0..255, got {image.min()}..{image.max()}; "
                "16-bit images are taken as uint16, other ranges as floats"
            )
        return image.astype(np.uint8)
    if image.dtype.kind == "f":
        with np.errstate(over="ignore"):
            image = image.astype(np.float32, copy=False)
        if not np.isfinite(image).all():
            raise ValueError("the pixels contain NaN or infinite values")
        return image
    raise TypeError(f"expected pixels that are integers, floats or booleans, got dtype {image.dtype}")


def to_channels_first(image: np.ndarray, input_data_format: str | ChannelDimension | None) -> np.ndarray:
    """Converts (H, W), (H, W, C) or (C, H, W) to (C, H, W).

    Raises:
        ValueError: The shape is not that of an image, or its layout cannot be inferred.
    """
    if image.ndim == 2:
        return image[None]
    if image.ndim != 3:
        raise ValueError(f"expected an image of 2 or 3 dimensions, or a batch of 4, got shape {image.shape}")
    if input_data_format is None and isinstance(image, ChannelsLast):
        input_data_format = ChannelDimension.LAST
    if input_data_format is None:
        if image.shape[0] in INFERABLE_CHANNELS and image.shape[-1] in INFERABLE_CHANNELS:
            raise ValueError(
                f"the channels of shape {image.shape} may be its first or its last dimension; set input_data_format"
            )
        if image.shape[0] not in INFERABLE_CHANNELS and image.shape[-1] not in INFERABLE_CHANNELS:
            raise ValueError(
                f"expected {INFERABLE_CHANNELS} channels in the first or the last dimension, got shape {image.shape}; "
                "for other numbers of channels set input_data_format"
            )
        input_data_format = infer_channel_dimension_format(image, num_channels=INFERABLE_CHANNELS)
    return np.moveaxis(image, -1, 0) if ChannelDimension(input_data_format) == ChannelDimension.LAST else image


def to_rgb(image: np.ndarray) -> np.ndarray:
    """Converts (C, H, W), `uint8` or `float32`, to three channels: gray is repeated, RGBA composited onto white.

    Other numbers of channels are kept.

    Raises:
        ValueError: Floats of an RGBA image are not in 0..1.
    """
    channels = image.shape[0]
    if channels == 1:
        return np.repeat(image, 3, axis=0)
    if channels != 4:
        return image
    if image.dtype == np.uint8:
        alpha = image[3:] / 255
        return np.round(alpha * image[:3] + (1 - alpha) * 255).astype(np.uint8)
    if image.min() < 0 or image.max() > 1:
        raise ValueError(f"expected an RGBA image of floats in 0..1, got {image.min()}..{image.max()}")
    return image[3:] * image[:3] + (1 - image[3:])


def image_to_array(
    image: Any,
    do_convert_rgb: bool | None = None,
    input_data_format: str | ChannelDimension | None = None,
) -> np.ndarray:
    """Converts a PIL image, array or tensor to an array (C, H, W), `uint8` in 0..255 or finite `float32`.

    Both backends start from this array, so the pixels are the same on both and with every supported transformers.

    Args:
        image: A PIL image of any mode, or an array or tensor (H, W), (H, W, C) or (C, H, W).
        do_convert_rgb: Whether to convert to three channels.
        input_data_format: Layout of an array or tensor; inferred if `None`.

    Raises:
        ValueError: The image is empty or truncated, or has an unexpected shape or range.
        TypeError: Its pixels are not numbers.
    """
    if isinstance(image, PIL.Image.Image):
        image = pil_to_array(image, do_convert_rgb)
        input_data_format = ChannelDimension.LAST
    elif isinstance(image, torch.Tensor):
        image = image.detach().cpu()
        image = (image.float() if image.is_floating_point() else image).numpy()  # NumPy has no bfloat16
    if 0 in image.shape:
        raise ValueError(f"the image is empty: shape {image.shape}")
    image = to_channels_first(pixels_to_uint8_or_float32(image), input_data_format)
    return to_rgb(image) if do_convert_rgb else image


def flatten_images(images: Any) -> Iterator[Any]:
    """Yields the single images of nested lists and of batches (B, C, H, W) or (B, H, W, C)."""
    if isinstance(images, list | tuple) or (not isinstance(images, PIL.Image.Image) and images.ndim == 4):
        for image in images:
            yield from flatten_images(image)
    else:
        yield images


def per_channel(name: str, value: float | Iterable[float], channels: int) -> tuple[float, ...]:
    """Returns one value per channel; the backends would broadcast a wrong number of values silently, each its own way.

    Raises:
        ValueError: There are several values, but not one per channel.
    """
    values = tuple(value) if isinstance(value, Iterable) else (value,) * channels
    if len(values) != channels:
        raise ValueError(
            f"{name} has {len(values)} values, {list(values)}, but the images have {channels} channels; "
            f"give {channels} values or one number, or set do_convert_rgb=True for RGB"
        )
    return values


def stack_if_small(images: list[Pixels]) -> torch.Tensor | None:
    """Images as one tensor (B, C, H, W), which takes less time, if they have 8 bits and the same few pixels.

    `None` for all others, and for arrays.
    """
    tensors = [image for image in images if isinstance(image, torch.Tensor) and image.dtype == torch.uint8]
    is_alike = len(tensors) == len(images) and len({image.shape for image in tensors}) == 1
    return torch.stack(tensors) if is_alike and tensors[0].numel() <= SMALL else None


def is_rescaled(image: Pixels) -> bool:
    """Whether the pixels are floats in 0..1, which have probably been rescaled already."""
    return image.dtype in (np.float32, torch.float32) and bool(image.min() >= 0 and image.max() <= 1)


def check_size(image: Pixels, size: SizeDict | None) -> None:
    """Refuses images of more pixels than a model can take, before they are resized.

    Args:
        image: (C, H, W).
        size: What it will be resized to; `None` if it keeps its size.

    Raises:
        ValueError: There are too many.
    """
    height, width = image.shape[-2:]
    edge = size and (size.shortest_edge or size.longest_edge)
    scale = 1.0
    if size and size.height and size.width:
        height, width = size.height, size.width
    elif size and edge:
        scale = edge / (min(height, width) if size.shortest_edge else max(height, width))
        if size.shortest_edge and size.longest_edge:
            scale = min(scale, size.longest_edge / max(height, width))
    name = f"an image of {height:,} x {width:,} pixels" + (f", resized by {scale:.3g}," if scale != 1 else "")
    check_memory(
        int(BYTES_PER_INPUT * height * width * scale**2),
        name,
        "; so does do_resize=True with a size of height and width",
    )


def to_gray(image: Pixels) -> Pixels:
    """Converts RGB (..., 3, H, W) to one channel by the luma of ITU-R 601, as Pillow's mode "L" does.

    Other numbers of channels are kept.
    """
    if image.shape[-3] != 3:
        return image
    red, green, blue = (image[..., channel : channel + 1, :, :] for channel in range(3))
    luma: Any = 0.299 * red + 0.587 * green + 0.114 * blue
    dtype: Any = image.dtype
    if dtype in (np.uint8, torch.uint8):
        luma = luma.round()
    return luma.to(dtype) if isinstance(luma, torch.Tensor) else luma.astype(dtype)


class ImagePerceiverImageProcessorKwargs(ImagesKwargs, total=False):
    """Arguments of a call in addition to those of every image processor.

    Attributes:
        do_grayscale (`bool`, *optional*, defaults to the processor's):
            Whether to convert RGB to one channel, by the luma of ITU-R 601.
    """

    do_grayscale: bool


# Any to type-checkers: the methods below call those of the backend, which follows this class in the MRO.
Backend: Any = BaseImageProcessor


class ImagePerceiverImageProcessorBase(Backend):
    """The part of `ImagePerceiverImageProcessor` that does not depend on the backend; see there."""

    resample = PILImageResampling.BICUBIC
    image_mean = IMAGENET_DEFAULT_MEAN
    image_std = IMAGENET_DEFAULT_STD
    size: ClassVar = {"height": 224, "width": 224}
    crop_size: ClassVar = {"height": 256, "width": 256}
    do_convert_rgb = True
    do_grayscale = False
    do_center_crop = True
    do_resize = True
    do_rescale = True
    do_normalize = True
    do_pad = False
    model_input_names: ClassVar = ["pixel_values", "pixel_mask"]
    valid_kwargs = ImagePerceiverImageProcessorKwargs

    def fetch_images(self, image_url_or_urls: Any) -> Any:
        """Opens paths, URLs and base64 strings; images pass through, lists keep their nesting.

        Raises:
            ValueError: A file cannot be read.
            TypeError: An input is not an image.
        """
        if isinstance(image_url_or_urls, list | tuple):
            return [self.fetch_images(image) for image in image_url_or_urls]
        if isinstance(image_url_or_urls, Mapping):
            return read_mapping(image_url_or_urls)
        source = image_url_or_urls.read() if hasattr(image_url_or_urls, "read") else image_url_or_urls
        if isinstance(source, str | os.PathLike | bytes):
            return read_pil_image(source if isinstance(source, bytes) else os.fspath(source))
        if is_valid_image(image_url_or_urls):
            return image_url_or_urls
        raise TypeError(
            "expected a PIL image, a NumPy array, a torch tensor, a path, a URL, or a list of these, "
            f"got {type(image_url_or_urls).__name__}"
        )

    def _prepare_images_structure(self, images: Any, expected_ndims: int = 3) -> list[Any]:
        images = list(flatten_images(self.fetch_images(images)))
        if not images:
            raise ValueError("expected at least one image, got an empty list or batch")
        return images

    def _prepare_image_like_inputs(self, images: Any, *args, expected_ndims: int = 3, **kwargs) -> list[Pixels]:
        processed_images = []
        for index, image in enumerate(self._prepare_images_structure(images, expected_ndims)):
            with naming(f"image {index}"):
                processed_images.append(self.process_image(image, *args, **kwargs))
        return processed_images

    def center_crop(self, image: Pixels, size: SizeDict, crop_size: SizeDict, **kwargs) -> Pixels:
        """Crops the centre `size / crop_size * min(H, W)` of each axis, at least one pixel.

        Args:
            image: (C, H, W).
            size: Height and width that the crop will be resized to (224).
            crop_size: Height and width, on the same scale, of the whole short side (256).
            **kwargs: For the backend.

        Returns:
            The crop (C, h, w).

        Raises:
            ValueError: `size` or `crop_size` lacks a height or a width, so the fraction is undefined.
        """
        if not (size.height and size.width and crop_size.height and crop_size.width):
            raise ValueError(
                "the centre crop is the fraction size / crop_size of the short side, so both need height and width, "
                f"got size={dict(size)} and crop_size={dict(crop_size)}; set do_center_crop=False for other sizes"
            )
        short_side = min(image.shape[-2:])
        height = max(1, int((size.height / crop_size.height) * short_side))
        width = max(1, int((size.width / crop_size.width) * short_side))
        return super().center_crop(image, SizeDict(height=height, width=width), **kwargs)

    def resize(self, image: Any, size: SizeDict, *args, **kwargs) -> Any:
        """Resizes (..., H, W) like the backend, and also by `longest_edge` alone, which the backends lack."""
        if size.longest_edge and not size.shortest_edge:
            height, width = image.shape[-2:]
            scale = size.longest_edge / max(height, width)
            size = SizeDict(height=max(1, round(height * scale)), width=max(1, round(width * scale)))
        return super().resize(image, size, *args, **kwargs)

    def _preprocess(
        self,
        images: list[Pixels],
        size: SizeDict,
        do_center_crop: bool,
        crop_size: SizeDict,
        do_rescale: bool,
        do_normalize: bool,
        image_mean: float | tuple[float, ...],
        image_std: float | tuple[float, ...],
        do_pad: bool | None,
        pad_size: SizeDict | None,
        data_format: str | ChannelDimension | None,
        return_tensors: str | None,
        do_grayscale: bool = False,
        **kwargs,
    ) -> BatchFeature:
        """Converts to gray, crops, resizes, rescales, normalises and pads images (C, H, W), in this order.

        All but the last are done with one tensor (B, C, H, W) for small images of one size.
        """
        stacked = None if kwargs.get("disable_grouping") else stack_if_small(images)
        if stacked is not None:
            images = [stacked]
        if do_grayscale:
            images = [to_gray(image) for image in images]
        channels = {image.shape[-3] for image in images}
        if len(channels) > 1:
            raise ValueError(
                f"expected images with equal numbers of channels, got {sorted(channels)}; set do_convert_rgb=True"
            )
        if do_normalize:
            image_mean = per_channel("image_mean", image_mean, *channels)
            image_std = per_channel("image_std", image_std, *channels)
            if min(image_std) <= 0:
                raise ValueError(f"expected image_std above 0, got {list(image_std)}")
        if do_rescale and any(map(is_rescaled, images)):
            logger.warning_once(
                "It looks like you are trying to rescale already rescaled images. If the input images have pixel "
                "values between 0 and 1, set `do_rescale=False` to avoid rescaling them again."
            )

        do_resize = bool(kwargs.get("do_resize", True))
        # The backends crop last. Here the crop comes first; they do the rest.
        if do_center_crop:
            images = [self.center_crop(image, size=size, crop_size=crop_size) for image in images]
        for image in images:
            check_size(image, size if do_resize else None)
        batch = super()._preprocess(
            images,
            size=size,
            do_center_crop=False,
            crop_size=crop_size,
            do_rescale=do_rescale,
            do_normalize=do_normalize,
            image_mean=image_mean,
            image_std=image_std,
            do_pad=False,
            pad_size=None,
            return_tensors=None,
            **kwargs,
        )
        images = batch["pixel_values"]
        images = [image.float() if isinstance(image, torch.Tensor) else image.astype(np.float32) for image in images]

        for index, image in enumerate(images):
            if not np.isfinite(image.numpy(force=True) if isinstance(image, torch.Tensor) else image).all():
                raise ValueError(f"image {index} has pixels that are too large to be normalised")

        if stacked is not None:
            images = list(images[0])
        data: dict[str, list[Pixels]] = {}
        if do_pad:
            images, data["pixel_mask"] = self.pad(images, pad_size=pad_size, return_mask=True)
        sizes = sorted({tuple(image.shape[-2:]) for image in images})
        if return_tensors is not None and len(sizes) > 1:
            raise ValueError(
                f"images of different (height, width) cannot be one tensor: {sizes}; set do_resize=True with a size "
                "of fixed height and width, or do_pad=True"
            )
        if data_format is not None and ChannelDimension(data_format) == ChannelDimension.LAST:
            images = [
                image.permute(1, 2, 0) if isinstance(image, torch.Tensor) else image.transpose(1, 2, 0)
                for image in images
            ]
        return BatchFeature(data={"pixel_values": images, **data}, tensor_type=return_tensors)
