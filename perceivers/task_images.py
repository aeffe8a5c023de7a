"""Image classification, as the commands see it."""

from pathlib import Path
from typing import Any

import numpy as np
from transformers import (
    MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING,
    AutoImageProcessor,
    AutoModelForImageClassification,
    PreTrainedConfig,
)
from transformers.image_processing_utils import BaseImageProcessor

from perceivers.modeling.configuration_image_perceiver import ImagePerceiverConfig
from perceivers.preprocessors.image_processing_base_image_perceiver import pil_to_array, read_image
from perceivers.preprocessors.image_processing_image_perceiver import ImagePerceiverImageProcessor
from perceivers.preprocessors.image_processing_pil_image_perceiver import ImagePerceiverImageProcessorPil
from perceivers.task import Task
from perceivers.training.image_arguments import ImageAugmentationArguments, ImageDataArguments
from perceivers.training.image_augmentation import (
    ImageBatchAugmentation,
    ImageProcess,
    make_affine,
    make_augmentation,
    make_mixup,
)
from perceivers.training.image_datasets import IMAGES

# The paper's evaluation crop: 224 of 256 pixels of the short side.
CROP = 256 / 224


class ImageClassification(Task):
    """Pixels and their processors; augmentation by timm."""

    name = "image-classification"
    modality = "image"
    kind = IMAGES
    config_class = ImagePerceiverConfig
    auto_model = AutoModelForImageClassification
    auto_processor = AutoImageProcessor
    model_mapping = MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING
    processor_argument = "image_processor"
    data_arguments = ImageDataArguments
    augmentation_arguments = ImageAugmentationArguments
    recipes = {"digits": "digits"}  # noqa: RUF012
    example = "image.png"

    def read(self, source: str, processor: Any) -> np.ndarray:
        """An upright image, (height, width, 3) or, where the processor leaves channels as they are, what the file has.

        It is read here, and not by the pipeline, which clips 16-bit images, drops transparency and makes all images
        RGB.
        """
        return pil_to_array(read_image(source), do_convert_rgb=getattr(processor, "do_convert_rgb", None) is not False)

    def make_processor(self, config: PreTrainedConfig, fields: dict[str, Any]) -> BaseImageProcessor:
        """On torchvision where that is installed and works."""
        height, width = config.stream_shapes[0].grid
        defaults: dict[str, Any] = {
            "size": {"height": height, "width": width},
            "crop_size": {"height": round(CROP * height), "width": round(CROP * width)},
        }
        if config.num_channels != 3:
            half = [0.5] * config.num_channels
            is_gray = config.num_channels == 1
            defaults |= {"do_convert_rgb": is_gray, "do_grayscale": is_gray, "image_mean": half, "image_std": half}
        try:
            import torchvision  # noqa: F401
        except Exception:  # a build that does not fit torch raises OSError or RuntimeError
            return ImagePerceiverImageProcessorPil(**{**defaults, **fields})
        return ImagePerceiverImageProcessor(**{**defaults, **fields})

    def training_process(self, processor: Any, augmentation: Any, config: PreTrainedConfig) -> ImageProcess:
        """Crop, flip and RandAugment of each image; the processor's own crop where no random one takes its place."""
        size = processor.to_dict()["size"]
        edge = size.get("shortest_edge")
        augment = make_augmentation(
            augmentation,
            height=size.get("height") or edge,
            width=size.get("width") or edge,
            is_gray=getattr(config, "num_channels", 3) == 1,
        )
        cropped = {"do_resize": False, "do_center_crop": False} if augmentation.random_resized_crop else None
        return ImageProcess(processor, augment, cropped)

    def evaluation_process(self, processor: Any) -> ImageProcess:
        return ImageProcess(processor)

    def batch_augmentation(
        self, processor: Any, augmentation: Any, batch_size: int, num_labels: int
    ) -> ImageBatchAugmentation | None:
        """Affine maps, mixup and CutMix."""
        affine, mixup = make_affine(augmentation), make_mixup(augmentation, batch_size, num_labels)
        return None if affine is mixup is None else ImageBatchAugmentation(affine, mixup)

    def save_example(self, value: Any, folder: Path) -> Path:
        path = folder / "example.png"
        value.save(path)
        return path
