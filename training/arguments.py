"""What a training run can be told: four dataclasses, whose fields are the flags of `perceivers train`."""

from dataclasses import dataclass, field

import yaml
from transformers import TrainingArguments

# Flags that take FIELD=VALUE, and are mappings in a recipe.
ASSIGNMENTS = ("config", "processor")


@dataclass
class ModelArguments:
    """Which model, from scratch or from a checkpoint."""

    model_name_or_path: str | None = field(
        default=None,
        metadata={"help": "Checkpoint to fine-tune: a folder or a name on the Hub."},
    )
    variant: str | None = field(
        default=None,
        metadata={"help": "Named configuration of a model from scratch; see `perceivers info`."},
    )
    config: list[str] = field(
        default_factory=list,
        metadata={
            "nargs": "+",
            "action": "extend",
            "metavar": "FIELD=VALUE",
            "help": "Fields of the model's configuration, as `num_latents=32 d_latents=64`.",
        },
    )
    processor: list[str] = field(
        default_factory=list,
        metadata={
            "nargs": "+",
            "action": "extend",
            "metavar": "FIELD=VALUE",
            "help": "Fields of the image processor, as `image_mean=[0.3] image_std=[0.4]`.",
        },
    )
    model_revision: str = field(default="main", metadata={"help": "Branch, tag or commit of the checkpoint."})
    trust_remote_code: bool = field(
        default=False, metadata={"help": "Run the code that the checkpoint's repository brings along."}
    )


@dataclass
class DataArguments:
    """Which images and labels. With nothing said, scikit-learn's handwritten digits, which come installed."""

    dataset_name: str | None = field(
        default=None,
        metadata={"help": "Data set on the Hub or a path, for `datasets.load_dataset`; `digits` is built in."},
    )
    dataset_config_name: str | None = field(default=None, metadata={"help": "Configuration of that data set."})
    train_dir: str | None = field(default=None, metadata={"help": "Folder with one folder of images for each class."})
    validation_dir: str | None = field(default=None, metadata={"help": "The same, for the images to evaluate on."})
    image_column_name: str | None = field(
        default=None, metadata={"help": "Column of the images. None finds the only one of that type."}
    )
    label_column_name: str | None = field(
        default=None, metadata={"help": "Column of the labels. None finds the only class label, or `label`."}
    )
    validation_fraction: float = field(
        default=0.2,
        metadata={"help": "Part of the images to hold out, where none to evaluate on are given."},
    )
    split_seed: int = field(
        default=0, metadata={"help": "Which images are held out; independent of `--seed`, so that seeds compare."}
    )
    check_images: bool = field(
        default=True,
        metadata={"help": "Read every image of a folder once beforehand, and leave out those that cannot be read."},
    )
    cache_images: bool = field(
        default=False,
        metadata={
            "help": "Process every image once and keep it in memory, where no crop, flip or RandAugment comes before."
        },
    )
    max_train_samples: int | None = field(default=None, metadata={"help": "Train on so many images only."})
    max_eval_samples: int | None = field(default=None, metadata={"help": "Evaluate on so many images only."})

    def __post_init__(self):
        if self.dataset_name and (self.train_dir or self.validation_dir):
            raise ValueError("`--dataset_name` and `--train_dir`/`--validation_dir` exclude each other.")
        if not 0 < self.validation_fraction < 1:
            raise ValueError(f"`--validation_fraction` must be between 0 and 1, got {self.validation_fraction}.")
        for name in ("max_train_samples", "max_eval_samples"):
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise ValueError(f"`--{name}` must be at least 1, got {getattr(self, name)}.")


@dataclass
class AugmentationArguments:
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


@dataclass
class ImageTrainingArguments(TrainingArguments):
    """transformers' `TrainingArguments`, and what they lack."""

    output_dir: str = field(default="perceiver", metadata={"help": "Folder for the model and what comes with it."})
    overwrite_output_dir: bool = field(
        default=False, metadata={"help": "Write into a folder that is not empty; checkpoints in it are removed."}
    )
    cpu_threads: int | None = field(
        default=None,
        metadata={"help": "Threads of an operation on the CPU; tiny models are fastest with one."},
    )
    timm_optimizer: str | None = field(
        default=None, metadata={"help": "Optimiser by timm's name, such as `lamb`, in place of `--optim`."}
    )
    remove_unused_columns: bool = field(
        default=False, metadata={"help": "Stays false: images are read from columns that the model does not know."}
    )

    def __post_init__(self):
        if self.remove_unused_columns:
            raise ValueError("`--remove_unused_columns` must stay false: images are read as they are needed.")
        if self.cpu_threads is not None and self.cpu_threads < 1:
            raise ValueError(f"`--cpu_threads` must be at least 1, got {self.cpu_threads}.")
        super().__post_init__()


def fields_of(assignments: list[str], flag: str) -> dict:
    """Reads `["num_latents=32", "image_mean=[0.5]"]`; values are YAML, so that numbers and lists are what they seem.

    Raises:
        ValueError: for an assignment without a name or "=", or with a value that is not YAML.
    """
    fields = {}
    for assignment in assignments:
        name, equals, value = assignment.partition("=")
        if not name or not equals:
            raise ValueError(f"`--{flag}` takes FIELD=VALUE, got {assignment!r}.")
        try:
            fields[name.strip()] = yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise ValueError(f"`--{flag} {assignment}` has a value that is not YAML.") from error
    return fields
