"""From images to batches: augmentation of PIL images, then the image processor; mixup and CutMix of whole batches.

timm and torchvision, which it needs, do the work. They are imported when asked for, so that a run without augmentation
needs neither.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from PIL.Image import Image
from transformers.image_processing_utils import BaseImageProcessor
from transformers.image_transforms import convert_to_rgb

from .arguments import AugmentationArguments


@dataclass
class RandomAffine:
    """Rotation, shift, scaling and shear, each uniform up to its limit to either side.

    torchvision's class of this name rounds shifts to whole pixels, which are too coarse for small images.

    Attributes:
        rotation, shear: in degrees.
        translation: as a part of the width and of the height.
        scaling: as a part of the size.
    """

    rotation: float
    translation: float
    scaling: float
    shear: float

    def __call__(self, image: Image) -> Image:
        from torchvision.transforms import InterpolationMode, functional

        angle, right, down, scale, shear = (2 * torch.rand(5) - 1).tolist()
        return functional.affine(
            image,
            angle=angle * self.rotation,
            translate=[right * self.translation * image.width, down * self.translation * image.height],
            scale=1 + scale * self.scaling,
            shear=[shear * self.shear, 0.0],
            interpolation=InterpolationMode.BILINEAR,
        )


def make_augmentation(
    arguments: AugmentationArguments, height: int, width: int, is_gray: bool = False
) -> Callable[[Image], Image] | None:
    """Random crop, flip, affine map and RandAugment, in this order, each if asked for; `None` if none is.

    Args:
        height, width: of the images that a random crop returns.
        is_gray: whether images have one channel.
    """
    affine = (arguments.rotation, arguments.translation, arguments.scaling, arguments.shear)
    if not (arguments.random_resized_crop or arguments.horizontal_flip or any(affine) or arguments.rand_augment):
        return None
    from timm.data.auto_augment import rand_augment_transform
    from timm.data.transforms import RandomResizedCropAndInterpolation
    from torchvision import transforms

    steps: list[Callable[[Image], Image]] = []
    if arguments.random_resized_crop:
        steps.append(
            RandomResizedCropAndInterpolation(
                (height, width), scale=(arguments.random_resized_crop, 1.0), interpolation="bicubic"
            )
        )
    if arguments.horizontal_flip:
        steps.append(transforms.RandomHorizontalFlip(arguments.horizontal_flip))
    if any(affine):
        steps.append(RandomAffine(*affine))
    if arguments.rand_augment:
        # What is moved out of the image leaves the middle of the range behind, in as many channels as there are.
        steps.append(rand_augment_transform(arguments.rand_augment, {"img_mean": 128 if is_gray else (128,) * 3}))
    return transforms.Compose(steps)


def make_mixup(arguments: AugmentationArguments, batch_size: int, num_labels: int) -> Callable | None:
    """timm's mixup and CutMix of a batch, `(images, labels) -> (images, probabilities)`; `None` if not asked for.

    Raises:
        ValueError: if the batch size is odd, as images are mixed in pairs.
    """
    if not (arguments.mixup or arguments.cutmix):
        return None
    if batch_size % 2:
        raise ValueError(
            f"Mixup and CutMix mix pairs, so `--per_device_train_batch_size` must be even, got {batch_size}."
        )
    from timm.data import Mixup

    # Label smoothing is the loss's.
    return Mixup(
        mixup_alpha=arguments.mixup, cutmix_alpha=arguments.cutmix, label_smoothing=0.0, num_classes=num_labels
    )


@dataclass
class ImageTransform:
    """Columns `image` and `label` -> what the model takes; for `datasets.Dataset.set_transform`.

    Attributes:
        processor: the image processor.
        augmentation: applied to each PIL image before it; `None` for evaluation.
        options: arguments of the processor for these images.
    """

    processor: BaseImageProcessor
    augmentation: Callable[[Image], Image] | None = None
    options: dict[str, Any] | None = None

    def __call__(self, examples: dict[str, list]) -> dict[str, Any]:
        images = examples["image"]
        if self.augmentation is not None:
            if getattr(self.processor, "do_convert_rgb", False):
                images = [convert_to_rgb(image) for image in images]
            images = [self.augmentation(image) for image in images]
        inputs = self.processor(images, return_tensors="pt", **(self.options or {}))
        return {**inputs, "labels": examples["label"]}
