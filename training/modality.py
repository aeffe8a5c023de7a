"""What an input is: the interface that every modality implements, such as images.

The rest of `training` and the command line know a modality through this interface only.
"""

import contextlib
import importlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset, DatasetDict
from transformers import PreTrainedConfig

from perceivers.modeling.configuration_iterative_perceiver import IterativePerceiverConfig

from .arguments import DataArguments

Batch = dict[str, Any]


class Transform(ABC):
    """Turns a list of inputs into tensors for the model."""

    @property
    def is_random(self) -> bool:
        """Whether `augment` does anything."""
        return False

    def augment(self, value: Any) -> Any:
        """Varies an input at random, with the global generators of Python, NumPy and PyTorch only."""
        return value

    @abstractmethod
    def process(self, inputs: list) -> Mapping[str, Any]:
        """Returns the model's arguments, batched."""

    def __call__(self, inputs: list) -> Mapping[str, Any]:
        """Augments and processes the inputs."""
        return self.process([self.augment(value) for value in inputs])


@dataclass
class Choice:
    """Flags that suit some data, for a model from scratch.

    Attributes:
        flags: Values by the name of the flag: of the model, its processor and the augmentation.
        model: Says which model and inputs were chosen and why.
        augmentation: Says how inputs are varied.
    """

    flags: dict[str, Any]
    model: str
    augmentation: str


class Modality(ABC):
    """A kind of input, read from one or several columns of a data set. There is one instance of each.

    An input is the value of its column or, with several columns, a dictionary of their values.

    Attributes:
        name: What one input is called, such as `image`.
        noun: What several are called.
        columns: Names of the columns, with the type that each has when the inputs are files.
        suffixes: Suffixes of the files to look for in a folder, in lower case.
        built_in: The data sets that come with the package: by name, what makes the split `train` and, if it is fixed,
            `validation`.
        config_class: Configuration of the models trained from scratch.
        processor_class: Our processor, or a tuple of them.
        auto_processor: The Auto class that loads a processor.
        processor_argument: The pipeline's name for the processor.
        data_arguments: Dataclass of the flags that choose the data.
        augmentation_arguments: Dataclass of the flags that vary it.
        example: File name for the usage example on the model card.
        projection: matplotlib's projection of the axes that `draw` draws into; `None` for flat ones.
        pretrained: A published model that examples of one's own can fine-tune; `None` if there is none.
    """

    name: str
    noun: str
    columns: Mapping[str, Any]
    suffixes: frozenset[str]
    built_in: dict[str, Mapping[str, Callable[[], Dataset]]]
    config_class: type[IterativePerceiverConfig]
    processor_class: Any
    auto_processor: Any
    processor_argument: str
    data_arguments: type[DataArguments]
    augmentation_arguments: type
    example: str
    projection: str | None = None
    pretrained: str | None = None

    def supports(self, config: PreTrainedConfig) -> bool:
        """Whether models with this configuration read this modality, as far as their Auto class leaves it open."""
        return True

    @abstractmethod
    def accepts(self, column: str, feature: Any) -> bool:
        """Whether a data set's column of type `feature` can serve as `column`."""

    def cast_columns(self, splits: DatasetDict) -> DatasetDict:
        """Casts the columns of a loaded data set so that their values look like those of `example_from_file`."""
        return splits

    def inputs(self, rows: Mapping[str, list]) -> list:
        """The inputs of some rows of a data set."""
        values = [rows[column] for column in self.columns]
        if len(values) == 1:
            return values[0]
        return [dict(zip(self.columns, row, strict=True)) for row in zip(*values, strict=True)]

    @abstractmethod
    def example_from_file(self, path: str) -> Any:
        """Reads a file to an input as a data set holds it."""

    @abstractmethod
    def check_file(self, path: str, processor: Any = None) -> None:
        """Checks that a file can be read, as cheaply as its format allows.

        Args:
            path: Path of the file.
            processor: What will read it, if that is known.

        Raises:
            Exception: Whatever its decoder stumbles over.
        """

    @abstractmethod
    def read(self, source: str, processor: Any) -> Any:
        """Reads a file or URL to what the pipeline takes."""

    def choose(self, rows: Dataset, is_accelerated: bool) -> Choice | None:
        """Chooses model, processor and augmentation for some training examples; `None` if it has no defaults.

        Args:
            rows: The examples.
            is_accelerated: Whether there is an accelerator, which can train a larger model.
        """
        return None

    @abstractmethod
    def make_processor(self, config: PreTrainedConfig, fields: dict[str, Any]) -> Any:
        """Makes a processor for a new model.

        Args:
            config: The model's configuration, which gives the defaults.
            fields: Fields of the processor that override them.
        """

    @abstractmethod
    def train_transform(
        self, processor: Any, augmentation: Any, config: PreTrainedConfig, is_spatial: bool = False
    ) -> Transform:
        """Makes the transform of the training inputs.

        Args:
            processor: The processor.
            augmentation: An instance of `augmentation_arguments`.
            config: The model's configuration.
            is_spatial: Whether the targets have positions that move with those of the input.
        """

    @abstractmethod
    def eval_transform(self, processor: Any) -> Transform:
        """Makes the transform of the inputs to evaluate on."""

    def chunks(self, processor: Any) -> Callable[[Any], Iterable]:
        """Makes the function that cuts an input into the chunks that the model sees one by one."""
        return single_chunk

    def views(self, batch: Batch) -> dict[str, Batch]:
        """The named versions of a batch to evaluate the model on; the first gives the reported figures.

        A modality with several streams can mask one of them at a time here.
        """
        return {"all": batch}

    @abstractmethod
    def batch_transform(
        self, processor: Any, augmentation: Any, batch_size: int, num_labels: int, is_spatial: bool = False
    ) -> Callable[[Batch], Batch] | None:
        """Makes the augmentation of a whole training batch, or returns `None` if no flag asks for one.

        Args:
            processor: The processor.
            augmentation: An instance of `augmentation_arguments`.
            batch_size: Examples per device.
            num_labels: Number of the model's outputs.
            is_spatial: Whether the targets have positions that move with those of the input.
        """

    @abstractmethod
    def save_example(self, value: Any, folder: Path) -> Path:
        """Writes an input of a built-in data set to a file that the user can try `perceivers predict` on."""

    def draw(self, value: Any, transform: Transform, axes: Any) -> None:  # noqa: B027
        """Draws an input for the picture of mistakes. The default leaves the axes empty.

        Args:
            value: The input.
            transform: Makes tensors of it, as `eval_transform` returned it.
            axes: matplotlib's axes, of `projection`.
        """


def sampled(rows: Dataset, number: int, modality: Modality) -> Iterator[Any]:
    """Yields the inputs of some rows, spread evenly, without those that cannot be decoded."""
    for row in np.linspace(0, len(rows) - 1, min(number, len(rows)), dtype=int).tolist():
        with contextlib.suppress(Exception):
            yield modality.inputs(rows[row : row + 1])[0]


def single_chunk(value: Any) -> list:
    """The only chunk of an input that the model sees as a whole."""
    return [value]


def import_optional(package: str, purpose: str, extra: str) -> Any:
    """Imports a package that only some runs need.

    Args:
        package: Name of the package.
        purpose: What needs it, for the error message.
        extra: The extra of this package that installs it.

    Raises:
        ImportError: If it is not installed.
    """
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise ImportError(
            f"{purpose} needs `{package.split('.')[0]}`, which is not installed: pip install 'perceivers[{extra}]'"
        ) from error
