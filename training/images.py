"""Images: their flags, files, columns and transforms, and scikit-learn's handwritten digits.

timm and torchvision do most of the augmentation. They are imported on use, so that a run without augmentation does not
need them.

Letters: B batch, C channels, H height, W width.
"""

import contextlib
import io
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import ClassLabel, Dataset, DatasetDict, Features, Image
from PIL.Image import Image as PilImage
from PIL.Image import fromarray
from PIL.Image import open as open_image
from torch.nn import functional as F
from transformers import AutoImageProcessor, PreTrainedConfig
from transformers.image_processing_utils import BaseImageProcessor, BatchFeature

from perceivers.modeling.configuration_image_perceiver import ImagePerceiverConfig
from perceivers.preprocessors.image_processing_base_image_perceiver import (
    ChannelsLast,
    pil_to_array,
)
from perceivers.preprocessors.image_processing_image_perceiver import ImagePerceiverImageProcessor
from perceivers.preprocessors.image_processing_pil_image_perceiver import ImagePerceiverImageProcessorPil
from perceivers.preprocessors.image_reading import read_mapping, read_pil_image

from .arguments import AUGMENTATION_GROUP, DataArguments
from .modality import Batch, Choice, Modality, Transform, sampled

DIGITS = "digits"
IMAGE_SUFFIXES = frozenset(
    {".avif", ".bmp", ".gif", ".jp2", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tga", ".tif", ".tiff", ".webp"}
)
# The marker that ends a file, by Pillow's name of the format. Cameras write a little behind it.
ENDINGS = {"JPEG": b"\xff\xd9", "MPO": b"\xff\xd9", "PNG": b"IEND\xaeB`\x82", "GIF": b"\x00\x3b"}
LAST_BYTES = 64
# Images whose headers choose the defaults.
NUM_SAMPLED = 200
GRAY_MODES = ("1", "L", "I", "I;16", "F")
# Height and width of the inputs on a CPU and on an accelerator.
SMALL, LARGE = (64, 64), (128, 128)
# The paper's evaluation crop: 224 of 256 pixels of the short side.
CROP = 256 / 224
# Pixels of a JPEG's side for each that the processor resizes it to. More hardly make a difference: on photographs 1 to
# 2 of 255 on average, which is that of a shift by one or two pixels.
REDUCTION = 4
# Pixels of the longer side of a drawn picture, at least, unless it has fewer.
DRAWN_SIZE = 256


@dataclass
class ImageDataArguments(DataArguments):
    """Which images and labels to use. The default is scikit-learn's handwritten digits, which need no download."""

    image_column_name: str | None = field(
        default=None, metadata={"help": "Column of the images. The default finds the only one of that type."}
    )


@dataclass
class ImageAugmentationArguments:
    """How to vary training images; everything is off by default."""

    _argument_group_name = AUGMENTATION_GROUP

    random_resized_crop: float | None = field(
        default=None,
        metadata={"help": "Smallest fraction of the area that a random crop keeps; 0.08 for ImageNet."},
    )
    horizontal_flip: float = field(default=0.0, metadata={"help": "Probability of mirroring."})
    rotation: float = field(default=0.0, metadata={"help": "Largest rotation to either side, in degrees."})
    translation: float = field(
        default=0.0, metadata={"help": "Largest shift along each axis, as a fraction of the size."}
    )
    scaling: float = field(default=0.0, metadata={"help": "Largest growth or shrinkage, as a fraction of the size."})
    shear: float = field(default=0.0, metadata={"help": "Largest shear to either side, in degrees."})
    rand_augment: str | None = field(
        default=None, metadata={"help": "RandAugment in timm's notation: `rand-m5-n4` is magnitude 5, 4 operations."}
    )
    mixup: float = field(default=0.0, metadata={"help": "Alpha of mixup."})
    cutmix: float = field(
        default=0.0, metadata={"help": "Alpha of CutMix; together with mixup, each gets half of the batches."}
    )

    def __post_init__(self):
        if self.random_resized_crop is not None and not 0 < self.random_resized_crop <= 1:
            raise ValueError(f"`--random_resized_crop` must be above 0 and at most 1, got {self.random_resized_crop}.")
        if self.rand_augment is not None and not self.rand_augment.startswith("rand-"):
            raise ValueError(f"`--rand_augment` is written as in rand-m5-n4, got {self.rand_augment!r}.")
        for name, limit in (("horizontal_flip", 1.0), ("translation", 1.0), ("scaling", 0.99)):
            if not 0 <= getattr(self, name) <= limit:
                raise ValueError(f"`--{name}` must be in [0, {limit}], got {getattr(self, name)}.")
        for name in ("rotation", "shear", "mixup", "cutmix"):
            if getattr(self, name) < 0:
                raise ValueError(f"`--{name}` must not be negative, got {getattr(self, name)}.")

    def check_targets_stay(self) -> None:
        """Refuses what would move or mix images without their spatial targets.

        Raises:
            ValueError: If a flag asks for it.
        """
        if asked := [name for name, default in vars(type(self)()).items() if getattr(self, name) != default]:
            raise ValueError(f"`--{asked[0]}` would change the images without their targets, which have positions.")


@dataclass
class RandomAffine:
    """Rotates, shifts, scales and shears every image of a batch, each uniformly up to a limit to either side.

    Interpolation is bilinear, as shifts by whole pixels are too coarse for small images. Beyond the border, the image
    repeats its border pixels.

    Attributes:
        rotation: In degrees.
        translation: As a fraction of the width and of the height.
        scaling: As a fraction of the size.
        shear: In degrees.
    """

    rotation: float
    translation: float
    scaling: float
    shear: float

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        """(B, C, H, W) -> (B, C, H, W)."""
        height, width = images.shape[2:]
        limits = torch.tensor([self.rotation, self.shear, self.scaling, 2 * self.translation, 2 * self.translation])
        angle, shear, scale, right, down = (2 * torch.rand(5, len(images)) - 1) * limits[:, None]
        angle, shear, scale = angle.deg2rad(), shear.deg2rad().tan(), 1 + scale
        cosine, sine = angle.cos() / scale, angle.sin() / scale
        # Where a pixel of the result comes from. Coordinates are in [-1, 1] on both axes, so the sides' ratio enters.
        rows = [
            [cosine + sine * shear, (sine - cosine * shear) * height / width, right],
            [-sine * width / height, cosine, down],
        ]
        maps = torch.stack([torch.stack(row, dim=-1) for row in rows], dim=1).to(images)
        grid = F.affine_grid(maps, list(images.shape), align_corners=False)
        return F.grid_sample(images, grid, mode="bilinear", padding_mode="border", align_corners=False)


def make_affine(arguments: ImageAugmentationArguments) -> RandomAffine | None:
    """Makes the affine map of batches, or returns `None` if no flag asks for one."""
    limits = (arguments.rotation, arguments.translation, arguments.scaling, arguments.shear)
    return RandomAffine(*limits) if any(limits) else None


def make_image_augmentation(
    arguments: ImageAugmentationArguments, height: int, width: int, is_gray: bool = False
) -> Callable[[PilImage], PilImage] | None:
    """Makes random crop and RandAugment of an image, in this order; `None` if no flag asks for one.

    Args:
        arguments: The flags.
        height: Height of the images that a random crop returns.
        width: Their width.
        is_gray: Whether images have one channel.
    """
    if not (arguments.random_resized_crop or arguments.rand_augment):
        return None
    from timm.data.auto_augment import rand_augment_transform
    from timm.data.transforms import RandomResizedCropAndInterpolation
    from torchvision import transforms

    steps: list[Callable[[PilImage], PilImage]] = []
    if arguments.random_resized_crop:
        steps.append(
            RandomResizedCropAndInterpolation(
                (height, width), scale=(arguments.random_resized_crop, 1.0), interpolation="bicubic"
            )
        )
    if arguments.rand_augment:
        # Uncovered pixels get the middle of the range, in as many channels as the image has.
        steps.append(rand_augment_transform(arguments.rand_augment, {"img_mean": 128 if is_gray else (128,) * 3}))
    return transforms.Compose(steps)


def make_mixup(arguments: ImageAugmentationArguments, batch_size: int, num_labels: int) -> Callable | None:
    """Makes timm's mixup and CutMix, `(images, labels) -> (images, probabilities)`; `None` if no flag asks for them.

    Raises:
        ValueError: If the batch size is odd, as images are mixed in pairs.
    """
    if not (arguments.mixup or arguments.cutmix):
        return None
    if batch_size % 2:
        raise ValueError(
            f"Mixup and CutMix mix pairs, so `--per_device_train_batch_size` must be even, got {batch_size}."
        )
    from timm.data import Mixup

    # The loss smooths the labels.
    return Mixup(
        mixup_alpha=arguments.mixup, cutmix_alpha=arguments.cutmix, label_smoothing=0.0, num_classes=num_labels
    )


def read_value(value: Any, enough: int | None = None) -> Any:
    """Reads an image of a data set that is not decoded; others are returned.

    Args:
        value: A dictionary with `bytes` or a `path`, or an image.
        enough: Pixels that each side of a JPEG must keep if it is reduced while it is decoded.
    """
    return read_mapping(value, enough) if isinstance(value, Mapping) else value


def enough_pixels(processor: Any) -> int | None:
    """Pixels of each side of an image that are enough for its processor; `None` if it needs all."""
    fields = processor.to_dict()
    sizes = [fields.get(name) or {} for name in ("size", "crop_size")]
    largest = max((number for size in sizes for number in size.values() if number), default=None)
    return REDUCTION * largest if fields.get("do_resize") and largest else None


@dataclass
class ImageTransform(Transform):
    """Turns a list of images into tensors for the model.

    Attributes:
        processor: The image processor.
        augmentation: Applied to each PIL image before the processor; `None` for evaluation.
        options: Arguments of the processor for these images.
        enough: What [`enough_pixels`] returns, without an augmentation; it may crop.
    """

    processor: BaseImageProcessor
    augmentation: Callable[[PilImage], PilImage] | None = None
    options: dict[str, Any] | None = None
    enough: int | None = field(init=False)

    def __post_init__(self):
        self.enough = None if self.is_random else enough_pixels(self.processor)

    @property
    def is_random(self) -> bool:
        """Whether there is an augmentation."""
        return self.augmentation is not None

    def augment(self, value: Any) -> Any:
        """Varies an image."""
        if self.augmentation is None:
            return value
        # The conversion that the processor would do; Pillow's own clips 16 bits and drops transparency.
        do_convert_rgb = bool(getattr(self.processor, "do_convert_rgb", False))
        return self.augmentation(fromarray(pil_to_array(read_value(value), do_convert_rgb)))

    def process(self, inputs: list) -> BatchFeature:
        """Processes the images."""
        images = [read_value(value, self.enough) for value in inputs]
        return self.processor(images, return_tensors="pt", **(self.options or {}))


@dataclass
class ImageBatchTransform:
    """Augments a whole batch of a training step.

    Attributes:
        flip: Probability of mirroring an image.
        affine: The affine map, applied next; `None` if no flag asks for it.
        mixup: `(images, labels) -> (images, probabilities)`, applied next; `None` if no flag asks for it.
    """

    flip: float
    affine: RandomAffine | None
    mixup: Callable[[torch.Tensor, torch.Tensor], tuple[torch.Tensor, torch.Tensor]] | None

    def __call__(self, batch: Batch) -> Batch:
        """Augments the batch; the last one of an epoch is not mixed if its size is odd."""
        images, labels = batch["pixel_values"], batch["labels"]
        if self.flip:
            is_mirrored = (torch.rand(len(images)) < self.flip).to(images.device)
            images = torch.where(is_mirrored[:, None, None, None], images.flip(3), images)
        if self.affine is not None:
            images = self.affine(images)
        if self.mixup is not None and len(labels) % 2 == 0:
            images, labels = self.mixup(images.clone(), labels)
        return {**batch, "pixel_values": images, "labels": labels}


def sample_headers(rows: Dataset) -> list[tuple[tuple[int, int], str]]:
    """Width and height, and Pillow's mode, of some images; their pixels are not decoded.

    Raises:
        ValueError: If none of them is an image.
    """
    found = []
    for value in sampled(rows.cast_column("image", Image(decode=False)), NUM_SAMPLED, IMAGES):
        source = value["path"] if value["bytes"] is None else io.BytesIO(value["bytes"])
        with contextlib.suppress(Exception), open_image(source) as image:
            found.append((image.size, image.mode))
    if not found:
        raise ValueError(f"None of {min(NUM_SAMPLED, len(rows))} images has a header that can be read.")
    return found


def has_its_end(path: str) -> bool:
    """Whether an image has a good header, and the last bytes that its format asks for; `False` if it is unclear."""
    with open(path, "rb") as file:
        try:
            ending = ENDINGS.get(str(open_image(file).format))
        except Exception:  # whoever decodes it says more
            return False
        file.seek(-min(LAST_BYTES, os.fstat(file.fileno()).st_size), os.SEEK_END)
        return ending is not None and ending in file.read()


def digits() -> Dataset:
    """scikit-learn's handwritten digits: 1,797 grey images of 8 x 8 pixels, its 17 levels as 0..255."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    images = np.rint(bunch.images * (255 / 16)).astype(np.uint8)
    features = Features({"image": Image(), "label": ClassLabel(names=[str(n) for n in bunch.target_names])})
    return Dataset.from_dict({"image": list(images), "label": bunch.target}, features=features)


class ImageModality(Modality):
    """Images, read by Pillow."""

    name = "image"
    noun = "images"
    columns = {"image": Image(decode=False)}  # noqa: RUF012 # the transform decodes them, no larger than it needs
    suffixes = IMAGE_SUFFIXES
    built_in = {DIGITS: {"train": digits}}  # noqa: RUF012
    config_class = ImagePerceiverConfig
    processor_class = (ImagePerceiverImageProcessor, ImagePerceiverImageProcessorPil)
    auto_processor = AutoImageProcessor
    processor_argument = "image_processor"
    data_arguments = ImageDataArguments
    augmentation_arguments = ImageAugmentationArguments
    example = "image.png"
    pretrained = "deepmind/vision-perceiver-fourier"

    def accepts(self, column: str, feature: Any) -> bool:
        """Whether it is a column of images."""
        return isinstance(feature, Image)

    def cast_columns(self, splits: DatasetDict) -> DatasetDict:
        """Keeps files undecoded, unless their column asks for a mode of Pillow."""
        features = next(iter(splits.values())).features
        for column, feature in self.columns.items():
            if features[column].mode is None:
                splits = splits.cast_column(column, feature)
        return splits

    def example_from_file(self, path: str) -> dict[str, Any]:
        """Names the file, which the transform reads."""
        return {"bytes": None, "path": path}

    def check_file(self, path: str, processor: Any = None) -> None:
        """Checks the header, and that the file has its end; decodes it only if that cannot be told."""
        if not has_its_end(path):
            read_pil_image(path)

    def read(self, source: str, processor: Any) -> np.ndarray:
        """Reads an upright image, (H, W, C), with three channels unless the processor keeps those of the file.

        The stock pipeline's own reading clips 16-bit images, drops transparency and makes all images RGB.
        """
        do_convert_rgb = getattr(processor, "do_convert_rgb", None) is not False
        array = pil_to_array(read_pil_image(source, enough=enough_pixels(processor)), do_convert_rgb)
        array = np.require(array, requirements="W")  # torch warns of others, which stock processors hand to it
        return array.view(ChannelsLast) if array.ndim == 3 else array  # a picture of 3 rows is no channels-first one

    def choose(self, rows: Dataset, is_accelerated: bool) -> Choice:
        """Chooses by the headers of some of the images."""
        headers = sample_headers(rows)
        sides = sorted(side for size, _ in headers for side in size)
        shortest = int(np.median([min(size) for size, _ in headers]))
        is_gray = all(mode in GRAY_MODES for _, mode in headers)
        flags: dict[str, Any] = {"variant": "base" if is_accelerated else "small"}
        height, width = LARGE if is_accelerated else SMALL
        what = f"{sides[0]:,} to {sides[-1]:,} pixels"
        if len({size for size, _ in headers}) == 1 and sides[-1] <= max(SMALL):
            ((width, height), _) = headers[0]
            flags["processor"] = {"do_resize": False, "do_center_crop": False}
        elif shortest < height:
            height = width = shortest
        flags["config"] = {"image_size": [height, width], **({"num_channels": 1} if is_gray else {})}
        flags |= {"rotation": 10.0, "translation": 0.06, "scaling": 0.1, "shear": 5.0}
        if not is_gray:
            flags["horizontal_flip"] = 0.5
        colours = "gray" if is_gray else "colour"
        return Choice(
            flags,
            model=f"`{flags['variant']}` on {width} x {height} {colours} pixels (the images have {what})",
            augmentation=f"{'' if is_gray else 'mirrored, '}turned, shifted and scaled a little",
        )

    def make_processor(self, config: PreTrainedConfig, fields: dict[str, Any]) -> BaseImageProcessor:
        """Makes a processor on torchvision if that is installed and works, else on Pillow."""
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

    def train_transform(
        self,
        processor: Any,
        augmentation: ImageAugmentationArguments,
        config: PreTrainedConfig,
        is_spatial: bool = False,
    ) -> ImageTransform:
        """Makes crop and RandAugment of each image. A random crop replaces the processor's own.

        Raises:
            ValueError: If a flag would change images without their spatial targets.
        """
        if is_spatial:
            augmentation.check_targets_stay()
        size = processor.to_dict()["size"]
        edge = size.get("shortest_edge")
        augment = make_image_augmentation(
            augmentation,
            height=size.get("height") or edge,
            width=size.get("width") or edge,
            is_gray=getattr(config, "num_channels", 3) == 1,
        )
        cropped = {"do_resize": False, "do_center_crop": False} if augmentation.random_resized_crop else None
        return ImageTransform(processor, augment, cropped)

    def eval_transform(self, processor: Any) -> ImageTransform:
        """Makes the processor's own transform."""
        return ImageTransform(processor)

    def batch_transform(
        self,
        processor: Any,
        augmentation: ImageAugmentationArguments,
        batch_size: int,
        num_labels: int,
        is_spatial: bool = False,
    ) -> ImageBatchTransform | None:
        """Makes flips, affine maps, mixup and CutMix.

        Raises:
            ValueError: If the batch size is odd and images are to be mixed, or a flag would change images without
                their spatial targets.
        """
        if is_spatial:
            augmentation.check_targets_stay()
        flip = augmentation.horizontal_flip
        affine, mixup = make_affine(augmentation), make_mixup(augmentation, batch_size, num_labels)
        return ImageBatchTransform(flip, affine, mixup) if flip or affine or mixup else None

    def save_example(self, value: Any, folder: Path) -> Path:
        """Writes a PNG file."""
        path = folder / "example.png"
        read_value(value).save(path)
        return path

    def draw(self, value: Any, transform: Transform, axes: Any) -> None:
        """Draws the whole picture, upright and as bright as the processor reads it."""
        array = pil_to_array(read_value(value, DRAWN_SIZE), do_convert_rgb=True)
        step = max(1, max(array.shape[:2]) // DRAWN_SIZE)
        axes.imshow(array[::step, ::step], cmap="gray")


IMAGES = ImageModality()
