"""Image processor of the Perceiver on Pillow and NumPy, for machines without torchvision."""

import numpy as np
from transformers.image_processing_backends import PilBackend
from transformers.image_utils import ChannelDimension, ImageInput

from .image_processing_base_image_perceiver import ImagePerceiverImageProcessorBase, to_array


class ImagePerceiverImageProcessorPil(ImagePerceiverImageProcessorBase, PilBackend):  # type: ignore[misc]
    """`ImagePerceiverImageProcessor` on Pillow: the same arguments, inputs, outputs and errors; see there.

    It resizes with Pillow, through 8 bits a channel: floats have to lie in 0..1, or be whole numbers in 0..255, where
    `do_resize` is set. Against the torchvision backend, one resized pixel in 200 or fewer differs, on photographs by 1
    of 255 before normalisation, on noise by up to 2. `device` and `disable_grouping` are accepted and have no effect.
    """

    def process_image(
        self,
        image: ImageInput,
        do_convert_rgb: bool | None = None,
        input_data_format: str | ChannelDimension | None = None,
        **kwargs,
    ) -> np.ndarray:
        """Brings one image to (C, H, W), `uint8` in 0..255 or finite `float32`."""
        return to_array(image, do_convert_rgb, input_data_format)


__all__ = ["ImagePerceiverImageProcessorPil"]
