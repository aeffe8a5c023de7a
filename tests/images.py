"""What the tests of the image processors share: both backends, random images, and pixels with every step off."""

import numpy as np
import pytest
from transformers.models.perceiver.image_processing_perceiver import PerceiverImageProcessor
from transformers.models.perceiver.image_processing_pil_perceiver import PerceiverImageProcessorPil

from perceivers.preprocessors.image_processing_image_perceiver import ImagePerceiverImageProcessor
from perceivers.preprocessors.image_processing_pil_image_perceiver import ImagePerceiverImageProcessorPil

LIBRARY = {
    ImagePerceiverImageProcessor: PerceiverImageProcessor,
    ImagePerceiverImageProcessorPil: PerceiverImageProcessorPil,
}
# Every step off: what goes in comes out, as float32 (C, H, W).
OFF = {"do_center_crop": False, "do_resize": False, "do_rescale": False, "do_normalize": False}


@pytest.fixture(params=LIBRARY, ids=["torchvision", "pil"])
def processor_class(request):
    return request.param


def random_image(height: int, width: int, channels: int = 3, seed: int = 0) -> np.ndarray:
    shape = (height, width, channels) if channels > 1 else (height, width)
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def pixels(processor_class, images, **kwargs) -> np.ndarray:
    """The raw pixels of the first image, (C, H, W), with every step off."""
    return np.asarray(processor_class(**{**OFF, **kwargs})(images, return_tensors="np")["pixel_values"][0])
