"""What the commands need to know of a task, which is the classification of one modality's inputs."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

from transformers import Pipeline, PreTrainedConfig, PreTrainedModel

from perceivers.modeling.configuration_iterative_perceiver import IterativePerceiverConfig
from perceivers.training.arguments import DataArguments
from perceivers.training.labelled_datasets import InputKind, undivided


class Process(Protocol):
    """A list of inputs -> what the model takes; `is_random` where an input becomes something else each time."""

    @property
    def is_random(self) -> bool: ...

    def __call__(self, inputs: list, /) -> Mapping[str, Any]: ...


class Task(ABC):
    """A task; there is one instance of each, in `TASKS`.

    Attributes:
        name: of transformers' pipeline.
        modality: what an input is called, such as `image`.
        kind: what the inputs are in data sets and folders.
        config_class: of the models that are trained from scratch.
        auto_model, auto_processor: the Auto classes that load a model and its processor.
        model_mapping: the configuration classes that `auto_model` knows.
        processor_argument: the pipeline's name for the processor.
        data_arguments, augmentation_arguments: dataclasses whose fields are flags of the training.
        recipes: the recipe that each built-in data set is trained by where nothing else says how; the first is what
            is trained where no data set is named either.
        example: name of the file that the model card shows the use with.
    """

    name: str
    modality: str
    kind: InputKind
    config_class: type[IterativePerceiverConfig]
    auto_model: Any
    auto_processor: Any
    model_mapping: Any
    processor_argument: str
    data_arguments: type[DataArguments]
    augmentation_arguments: type
    recipes: Mapping[str, str]
    example: str

    def serves(self, config: PreTrainedConfig) -> bool:
        """Whether there is a model of this task for `config`, in transformers, registered, or in its own code."""
        return type(config) in self.model_mapping or self.auto_model.__name__ in getattr(config, "auto_map", {})

    def classify(self, classifier: Pipeline, inputs: list, top_k: int) -> list[list[dict[str, Any]]]:
        """The predictions of a pipeline for what `read` gave, in one batch."""
        classifier.call_count = 0  # or transformers warns of calls one by one, which these are not
        return classifier(inputs, batch_size=len(inputs), top_k=top_k)

    def pipeline_class(self, processor: Any) -> type[Pipeline] | None:
        """The pipeline to classify with; `None` is transformers' own for the task."""
        return None

    @abstractmethod
    def read(self, source: str, processor: Any) -> Any:
        """A file or URL -> what the pipeline takes."""

    @abstractmethod
    def make_processor(self, config: PreTrainedConfig, fields: dict[str, Any]) -> Any:
        """A processor for a model from scratch, with `fields` in place of what fits the configuration."""

    @abstractmethod
    def training_process(self, processor: Any, augmentation: Any, config: PreTrainedConfig) -> Process:
        """Makes what the model takes of inputs to train on."""

    @abstractmethod
    def evaluation_process(self, processor: Any) -> Process:
        """Makes what the model takes of inputs to evaluate on."""

    def parts(self, processor: Any) -> Callable[[Any], list]:
        """Makes, of an input to evaluate on, the parts that the model sees one by one: the input itself, where the
        model sees all of it."""
        return undivided

    @abstractmethod
    def batch_augmentation(
        self, processor: Any, augmentation: Any, batch_size: int, num_labels: int
    ) -> Callable[[dict[str, Any]], dict[str, Any]] | None:
        """What varies the tensors of a whole batch before a training step; `None` if nothing was asked for."""

    def save_pipeline(self, model: PreTrainedModel, processor: Any, folder: Path) -> None:  # noqa: B027
        """Adds what the folder of a saved model needs so that transformers' `pipeline` loads it where this package is
        not installed: nothing, where the pipeline is transformers' own."""

    @abstractmethod
    def save_example(self, value: Any, folder: Path) -> Path:
        """Writes an input of a built-in data set as a file, so that the next command has something to classify."""
