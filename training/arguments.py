"""The flags of a training run that every modality has, as dataclasses whose fields are flags of `perceivers train`.

The file of a modality adds its own.
"""

import math
from dataclasses import dataclass, field
from typing import Any

import yaml
from transformers import TrainingArguments

# Flags that take FIELD=VALUE, and are mappings in a recipe.
ASSIGNMENTS = ("config", "processor")
# Splits, or folders within class folders, to evaluate on; the first that exists is used.
VALIDATION_NAMES = ("validation", "valid", "val", "dev", "test")
# Title of the flags of a modality's augmentation in `--help`.
AUGMENTATION_GROUP = "Augmentation"


@dataclass
class ModelArguments:
    """Which model to train, from scratch or from a checkpoint."""

    _argument_group_name = "Model"

    task: str = field(
        default="image-classification",
        metadata={
            "help": "What the model does; a recipe or a built-in data set implies it. It decides which flags there "
            "are for the data and its augmentation."
        },
    )
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
            "help": "Fields of the model's configuration, such as `num_latents=32 d_latents=64`.",
        },
    )
    processor: list[str] = field(
        default_factory=list,
        metadata={
            "nargs": "+",
            "action": "extend",
            "metavar": "FIELD=VALUE",
            "help": "Fields of the processor, such as `image_mean=[0.3] image_std=[0.4]`.",
        },
    )
    model_revision: str = field(default="main", metadata={"help": "Branch, tag or commit of the checkpoint."})
    trust_remote_code: bool = field(
        default=False, metadata={"help": "Run the code in the checkpoint's repository on this machine."}
    )

    @property
    def names_model(self) -> bool:
        """Whether a flag says which model to train."""
        return bool(self.model_name_or_path or self.variant or self.config)


@dataclass
class DataArguments:
    """Which inputs and labels to use."""

    _argument_group_name = "Data"

    dataset_name: str | None = field(
        default=None,
        metadata={
            "help": "A built-in data set, such as `digits`, or what `datasets.load_dataset` loads: a Hub name or a "
            "path."
        },
    )
    dataset_config_name: str | None = field(default=None, metadata={"help": "Configuration of that data set."})
    train_dir: str | None = field(default=None, metadata={"help": "Folder with one folder of files for each class."})
    validation_dir: str | None = field(default=None, metadata={"help": "The same, for the files to evaluate on."})
    label_column_name: str | None = field(
        default=None, metadata={"help": "Column of the labels. The default finds the only class label, or `label`."}
    )
    validation_fraction: float = field(
        default=0.2,
        metadata={"help": "Fraction of the training data to hold out if there is no validation split."},
    )
    split_seed: int = field(
        default=0,
        metadata={"help": "Seed of the held-out split; independent of `--seed`, so that runs can be compared."},
    )
    check_files: bool = field(
        default=True,
        metadata={
            "help": "Look at every file of a folder before training, and skip those that are not whole. What is "
            "found out is remembered until a file changes."
        },
    )
    max_unreadable: float = field(
        default=0.1,
        metadata={
            "help": "Largest share of the examples of a split that may prove unreadable when they are needed; those "
            "are left out and named. Files that `--check_files` skips do not count."
        },
    )
    cache_inputs: bool = field(
        default=False,
        metadata={"help": "Process every input once and keep it in memory, unless its augmentation is random."},
    )
    max_train_samples: int | None = field(default=None, metadata={"help": "Use at most this many training examples."})
    max_eval_samples: int | None = field(default=None, metadata={"help": "Use at most this many evaluation examples."})

    def column_name(self, column: str) -> str | None:
        """The data set's name for one of our columns; `None` if no flag gives it."""
        return getattr(self, f"{column}_column_name")

    def complete(self, model: ModelArguments) -> None:
        """Sets what the flags of the data say of the model. The default sets nothing.

        Args:
            model: The flags of the model, which may be changed.

        Raises:
            ValueError: If both say something else.
        """

    def __post_init__(self):
        for name in ("dataset_name", "train_dir", "validation_dir"):
            if getattr(self, name) is not None and not getattr(self, name).strip():
                raise ValueError(f"`--{name}` is empty: give it a value or leave it out.")
        if self.dataset_name and (self.train_dir or self.validation_dir):
            raise ValueError("`--dataset_name` and `--train_dir`/`--validation_dir` exclude each other.")
        if not 0 < self.validation_fraction < 1:
            raise ValueError(f"`--validation_fraction` must be between 0 and 1, got {self.validation_fraction}.")
        if not 0 <= self.max_unreadable <= 1:
            raise ValueError(f"`--max_unreadable` must be from 0 to 1, got {self.max_unreadable}.")
        for name in ("max_train_samples", "max_eval_samples"):
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise ValueError(f"`--{name}` must be at least 1, got {getattr(self, name)}.")


@dataclass
class PerceiverTrainingArguments(TrainingArguments):
    """transformers' `TrainingArguments` with a few more."""

    _argument_group_name = "Training"

    output_dir: str = field(default="perceiver", metadata={"help": "Folder for the model and all other output."})
    overwrite_output_dir: bool = field(
        default=False, metadata={"help": "Write into a folder that is not empty; its checkpoints are removed."}
    )
    class_balanced_sampling: bool = field(
        default=False, metadata={"help": "Draw every class equally often in training, with replacement."}
    )
    cpu_threads: int | None = field(
        default=None,
        metadata={"help": "Threads of an operation on the CPU; tiny models are fastest with one."},
    )
    minutes: float | None = field(
        default=None,
        metadata={
            "help": "Choose the number of steps such that the run takes about this long; 10 in a run that chooses its "
            "own settings."
        },
    )
    early_stopping_patience: int | None = field(
        default=None,
        metadata={
            "help": "End the training after this many evaluations in a row that are no better than the best before "
            "them, neither in the metric nor in the loss. Needs `--load_best_model_at_end`."
        },
    )
    timm_optimizer: str | None = field(
        default=None, metadata={"help": "Optimiser by timm's name, such as `lamb`, instead of `--optim`."}
    )
    remove_unused_columns: bool = field(
        default=False, metadata={"help": "Must stay false: inputs are read from columns that the model does not know."}
    )

    def __post_init__(self):
        if self.remove_unused_columns:
            raise ValueError("`--remove_unused_columns` must stay false: inputs are read only when they are needed.")
        if self.cpu_threads is not None and self.cpu_threads < 1:
            raise ValueError(f"`--cpu_threads` must be at least 1, got {self.cpu_threads}.")
        if self.minutes is not None and not 0 < self.minutes < math.inf:
            raise ValueError(f"`--minutes` must be above 0, got {self.minutes}.")
        if self.early_stopping_patience is not None:
            if self.early_stopping_patience < 1:
                raise ValueError(
                    f"`--early_stopping_patience` must be at least 1, got {self.early_stopping_patience}."
                )
            if not self.load_best_model_at_end:
                raise ValueError("`--early_stopping_patience` needs `--load_best_model_at_end`.")
        super().__post_init__()

    def __getstate__(self) -> dict[str, Any]:
        """Leaves out the token: the Trainer saves its arguments beside the model, and pushes them."""
        return {**self.__dict__, "hub_token": None}


def parse_assignments(assignments: list[str], flag: str) -> dict[str, Any]:
    """Parses `["num_latents=32", "image_mean=[0.5]"]`. Values are YAML, so that numbers and lists keep their types.

    Raises:
        ValueError: For an assignment without a name or "=", or with a value that is not YAML.
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
