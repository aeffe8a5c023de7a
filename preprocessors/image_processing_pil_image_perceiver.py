"""Image processor of the Perceiver on Pillow and NumPy, for machines without torchvision."""

from typing import Any

import numpy as np
import PIL.Image
from transformers.image_processing_backends import PilBackend
from transformers.image_utils import ChannelDimension, ImageInput, PILImageResampling, SizeDict

from .image_processing_base_image_perceiver import (
    ImagePerceiverImageProcessorBase,
    ImagePerceiverImageProcessorKwargs,
    image_to_array,
)


class ImagePerceiverImageProcessorPil(ImagePerceiverImageProcessorBase, PilBackend):  # type: ignore[misc]
    """`ImagePerceiverImageProcessor` on Pillow, with the same arguments, inputs, outputs and errors.

    It resizes with Pillow. At most one resized pixel in 200 differs from the torchvision backend: on photographs by 1
    of 255 before normalisation, on noise by up to 2. Floats agree to rounding. `device` and `disable_grouping` are
    accepted and have no effect.
    """

    def process_image(
        self,
        image: ImageInput,
        do_convert_rgb: bool | None = None,
        input_data_format: str | ChannelDimension | None = None,
        **kwargs,
    ) -> np.ndarray:
        """Converts one image to (C, H, W), `uint8` in 0..255 or finite `float32`."""
        return image_to_array(image, do_convert_rgb, input_data_format)

    def resize(
        self,
        image: np.ndarray,
        size: SizeDict,
        resample: PILImageResampling | int | None = None,
        reducing_gap: int | None = None,
        **kwargs,
    ) -> Any:
        """Resizes (C, H, W). Floats of any range stay floats; transformers would convert them to 8 bits and back."""
        if image.dtype == np.uint8:
            return super().resize(image, size=size, resample=resample, reducing_gap=reducing_gap, **kwargs)
        # Pillow resizes floats too, but one channel at a time. transformers computes the size.
        blank = np.zeros_like(image[:1], dtype=np.uint8)
        height, width = super().resize(blank, size=size, resample=PILImageResampling.NEAREST).shape[1:]
        resample = PILImageResampling.BILINEAR if resample is None else resample
        channels = [PIL.Image.fromarray(channel) for channel in image]
        return np.stack([np.asarray(c.resize((width, height), resample, reducing_gap=reducing_gap)) for c in channels])


__all__ = ["ImagePerceiverImageProcessorKwargs", "ImagePerceiverImageProcessorPil"]
