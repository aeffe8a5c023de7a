"""From images to batches: augmentation of PIL images, then the image processor; affine maps, mixup and CutMix of whole
batches.

timm and torchvision, which it needs, do most of the work. They are imported when asked for, so that a run without them
needs neither.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from PIL.Image import Image
from torch.nn import functional as F
from transformers.image_processing_utils import BaseImageProcessor, BatchFeature
from transformers.image_transforms import convert_to_rgb

from .image_arguments import ImageAugmentationArguments


@dataclass
class RandomAffine:
    """Rotation, shift, scaling and shear of every image of a batch, each uniform up to its limit to either side.

    Interpolation is bilinear, as shifts by whole pixels are too coarse for small images. Beyond its border an image
    goes on as it is at the border.

    Attributes:
        rotation, shear: in degrees.
        translation: as a part of the width and of the height.
        scaling: as a part of the size.
    """

    rotation: float
    translation: float
    scaling: float
    shear: float

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        """(B, C, height, width) -> the same."""
        height, width = images.shape[2:]
        limits = torch.tensor([self.rotation, self.shear, self.scaling, 2 * self.translation, 2 * self.translation])
        angle, shear, scale, right, down = (2 * torch.rand(5, len(images)) - 1) * limits[:, None]
        angle, shear, scale = angle.deg2rad(), shear.deg2rad().tan(), 1 + scale
        cosine, sine = angle.cos() / scale, angle.sin() / scale
        # Where a pixel of the result comes from; coordinates are in [-1, 1] on both axes, whatever the sizes.
        rows = [
            [cosine + sine * shear, (sine - cosine * shear) * height / width, right],
            [-sine * width / height, cosine, down],
        ]
        maps = torch.stack([torch.stack(row, dim=-1) for row in rows], dim=1).to(images)
        grid = F.affine_grid(maps, list(images.shape), align_corners=False)
        return F.grid_sample(images, grid, mode="bilinear", padding_mode="border", align_corners=False)


def make_affine(arguments: ImageAugmentationArguments) -> RandomAffine | None:
    """The affine map of batches; `None` if not asked for."""
    limits = (arguments.rotation, arguments.translation, arguments.scaling, arguments.shear)
    return RandomAffine(*limits) if any(limits) else None


def make_augmentation(
    arguments: ImageAugmentationArguments, height: int, width: int, is_gray: bool = False
) -> Callable[[Image], Image] | None:
    """Random crop, flip and RandAugment of an image, in this order, each if asked for; `None` if none is.

    Args:
        height, width: of the images that a random crop returns.
        is_gray: whether images have one channel.
    """
    if not (arguments.random_resized_crop or arguments.horizontal_flip or arguments.rand_augment):
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
    if arguments.rand_augment:
        # What is moved out of the image leaves the middle of the range behind, in as many channels as there are.
        steps.append(rand_augment_transform(arguments.rand_augment, {"img_mean": 128 if is_gray else (128,) * 3}))
    return transforms.Compose(steps)


def make_mixup(arguments: ImageAugmentationArguments, batch_size: int, num_labels: int) -> Callable | None:
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
class ImageProcess:
    """A list of images -> what the model takes.

    Attributes:
        processor: the image processor.
        augmentation: applied to each PIL image before it; `None` for evaluation.
        options: arguments of the processor for these images.
    """

    processor: BaseImageProcessor
    augmentation: Callable[[Image], Image] | None = None
    options: dict[str, Any] | None = None

    @property
    def is_random(self) -> bool:
        """Whether an image becomes something else each time."""
        return self.augmentation is not None

    def __call__(self, images: list) -> BatchFeature:
        if self.augmentation is not None:
            if getattr(self.processor, "do_convert_rgb", False):
                images = [convert_to_rgb(image) for image in images]
            images = [self.augmentation(image) for image in images]
        return self.processor(images, return_tensors="pt", **(self.options or {}))


@dataclass
class ImageBatchAugmentation:
    """What varies a whole batch on its way into a training step.

    Attributes:
        affine: of the images; `None` if not asked for.
        mixup: `(images, labels) -> (images, probabilities)`, applied after it; `None` if not asked for.
    """

    affine: RandomAffine | None
    mixup: Callable[[torch.Tensor, torch.Tensor], tuple[torch.Tensor, torch.Tensor]] | None

    def __call__(self, inputs: dict[str, Any]) -> dict[str, Any]:
        """The last batch of an epoch may be odd, and is then not mixed."""
        images, labels = inputs["pixel_values"], inputs["labels"]
        if self.affine is not None:
            images = self.affine(images)
        if self.mixup is not None and len(labels) % 2 == 0:
            images, labels = self.mixup(images.clone(), labels)
        return {**inputs, "pixel_values": images, "labels": labels}
