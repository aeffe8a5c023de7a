"""What a training run can be told whatever the modality, as dataclasses whose fields are flags of `perceivers train`.

What a modality adds is in `image_arguments.py` and its like.
"""

from dataclasses import dataclass, field
from typing import Any

import yaml
from transformers import TrainingArguments

# Flags that take FIELD=VALUE, and are mappings in a recipe.
ASSIGNMENTS = ("config", "processor")


@dataclass
class ModelArguments:
    """Which model, from scratch or from a checkpoint."""

    task: str = field(
        default="image-classification",
        metadata={"help": "What the model does; found from a recipe or a built-in data set. It decides on the flags."},
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
            "help": "Fields of the model's configuration, as `num_latents=32 d_latents=64`.",
        },
    )
    processor: list[str] = field(
        default_factory=list,
        metadata={
            "nargs": "+",
            "action": "extend",
            "metavar": "FIELD=VALUE",
            "help": "Fields of the processor, as `image_mean=[0.3] image_std=[0.4]`.",
        },
    )
    model_revision: str = field(default="main", metadata={"help": "Branch, tag or commit of the checkpoint."})
    trust_remote_code: bool = field(
        default=False, metadata={"help": "Run the code that the checkpoint's repository brings along."}
    )


@dataclass
class DataArguments:
    """Which inputs and labels."""

    dataset_name: str | None = field(
        default=None,
        metadata={
            "help": "A built-in data set, such as `digits`, or for `datasets.load_dataset` a Hub name or a path."
        },
    )
    dataset_config_name: str | None = field(default=None, metadata={"help": "Configuration of that data set."})
    train_dir: str | None = field(default=None, metadata={"help": "Folder with one folder of files for each class."})
    validation_dir: str | None = field(default=None, metadata={"help": "The same, for the files to evaluate on."})
    label_column_name: str | None = field(
        default=None, metadata={"help": "Column of the labels. None finds the only class label, or `label`."}
    )
    validation_fraction: float = field(
        default=0.2,
        metadata={"help": "Part of the images to hold out, where none to evaluate on are given."},
    )
    split_seed: int = field(
        default=0, metadata={"help": "Which inputs are held out; independent of `--seed`, so that seeds compare."}
    )
    check_files: bool = field(
        default=True,
        metadata={"help": "Read every file of a folder once beforehand, and leave out those that cannot be read."},
    )
    cache_inputs: bool = field(
        default=False,
        metadata={"help": "Process every input once and keep it in memory, where nothing random comes before."},
    )
    max_train_samples: int | None = field(default=None, metadata={"help": "Train on so many inputs only."})
    max_eval_samples: int | None = field(default=None, metadata={"help": "Evaluate on so many inputs only."})

    @property
    def input_column_name(self) -> str | None:
        """Column of the inputs; `None` finds the only one of their type."""
        return None

    def __post_init__(self):
        if self.dataset_name and (self.train_dir or self.validation_dir):
            raise ValueError("`--dataset_name` and `--train_dir`/`--validation_dir` exclude each other.")
        if not 0 < self.validation_fraction < 1:
            raise ValueError(f"`--validation_fraction` must be between 0 and 1, got {self.validation_fraction}.")
        for name in ("max_train_samples", "max_eval_samples"):
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise ValueError(f"`--{name}` must be at least 1, got {getattr(self, name)}.")


@dataclass
class ClassificationTrainingArguments(TrainingArguments):
    """transformers' `TrainingArguments`, and what they lack."""

    output_dir: str = field(default="perceiver", metadata={"help": "Folder for the model and what comes with it."})
    overwrite_output_dir: bool = field(
        default=False, metadata={"help": "Write into a folder that is not empty; checkpoints in it are removed."}
    )
    class_balanced_sampling: bool = field(
        default=False, metadata={"help": "Draw every class as often in training, with replacement."}
    )
    cpu_threads: int | None = field(
        default=None,
        metadata={"help": "Threads of an operation on the CPU; tiny models are fastest with one."},
    )
    timm_optimizer: str | None = field(
        default=None, metadata={"help": "Optimiser by timm's name, such as `lamb`, in place of `--optim`."}
    )
    remove_unused_columns: bool = field(
        default=False, metadata={"help": "Stays false: inputs are read from columns that the model does not know."}
    )

    def __post_init__(self):
        if self.remove_unused_columns:
            raise ValueError("`--remove_unused_columns` must stay false: inputs are read as they are needed.")
        if self.cpu_threads is not None and self.cpu_threads < 1:
            raise ValueError(f"`--cpu_threads` must be at least 1, got {self.cpu_threads}.")
        super().__post_init__()

    def __getstate__(self) -> dict[str, Any]:
        """Without the token: the Trainer keeps its arguments in a file beside the model, and pushes that."""
        return {**self.__dict__, "hub_token": None}


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
