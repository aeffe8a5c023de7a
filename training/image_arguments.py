"""What a training run on images can be told besides."""

from dataclasses import dataclass, field

from .arguments import DataArguments


@dataclass
class ImageDataArguments(DataArguments):
    """Which images and labels. With nothing said, scikit-learn's handwritten digits, which come installed."""

    image_column_name: str | None = field(
        default=None, metadata={"help": "Column of the images. None finds the only one of that type."}
    )

    @property
    def input_column_name(self) -> str | None:
        return self.image_column_name


@dataclass
class ImageAugmentationArguments:
    """How training images are varied; all off by default."""

    random_resized_crop: float | None = field(
        default=None,
        metadata={"help": "Smallest part of the area that a random crop keeps; 0.08 for ImageNet."},
    )
    horizontal_flip: float = field(default=0.0, metadata={"help": "Probability of mirroring."})
    rotation: float = field(default=0.0, metadata={"help": "Largest rotation to either side, in degrees."})
    translation: float = field(default=0.0, metadata={"help": "Largest shift on each axis, as a part of its size."})
    scaling: float = field(default=0.0, metadata={"help": "Largest growth or shrinkage, as a part of the size."})
    shear: float = field(default=0.0, metadata={"help": "Largest shear to either side, in degrees."})
    rand_augment: str | None = field(
        default=None, metadata={"help": "RandAugment in timm's notation: `rand-m5-n4` is magnitude 5, 4 operations."}
    )
    mixup: float = field(default=0.0, metadata={"help": "Alpha of mixup."})
    cutmix: float = field(
        default=0.0, metadata={"help": "Alpha of CutMix; beside mixup, each takes half the batches."}
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
