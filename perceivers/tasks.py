"""The table of tasks. A task is a modality times an objective: what the input is, and what is predicted.

A new modality or a new head is a new row. The commands read all that differs between tasks from here.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from transformers import (
    AutoModelForAudioClassification,
    AutoModelForImageClassification,
    AutoModelForSequenceClassification,
    Pipeline,
    PreTrainedConfig,
    PreTrainedModel,
)

from perceivers.pipelines.long_audio_classification import LongAudioClassificationPipeline
from perceivers.pipelines.point_cloud_classification import PointCloudClassificationPipeline
from perceivers.training.audio import AUDIO, MIXTURES, SOUNDS
from perceivers.training.classification import CLASSIFICATION
from perceivers.training.images import DIGITS, IMAGES
from perceivers.training.modality import Modality
from perceivers.training.objective import Objective
from perceivers.training.point_clouds import POINT_CLOUDS
from perceivers.training.shapes import SHAPES


@dataclass(frozen=True)
class Task:
    """A row of the table.

    Attributes:
        name: The task of transformers' pipeline.
        modality: What an input is.
        objective: What is predicted.
        auto_models: The Auto classes that load a model for it; the first makes new models.
        recipes: The recipe for each built-in data set. The first data set is the default one.
        pipeline: Our pipeline, for our processor; `None` if transformers' own does.
        weights: Published weights to propose where there are few examples; `None` if there are none.
        pipeline_travels: Whether a saved model needs the pipeline's code, as transformers has none for the task.
    """

    name: str
    modality: Modality
    objective: Objective
    auto_models: tuple[Any, ...]
    recipes: Mapping[str, str] = field(default_factory=dict)
    pipeline: type[Pipeline] | None = None
    weights: str | None = None
    pipeline_travels: bool = False

    def auto_model(self, config: PreTrainedConfig) -> Any:
        """The Auto class that has a model for this configuration; the first if none has."""
        return next((auto for auto in self.auto_models if model_names(auto, config)), self.auto_models[0])

    def supports(self, config: PreTrainedConfig) -> bool:
        """Whether there is a model of this task for the configuration, by its type."""
        return self.modality.supports(config) and any(model_names(auto, config) for auto in self.auto_models)

    def has_head(self, architecture: str, config: PreTrainedConfig) -> bool:
        """Whether the model class of this name, saved with the configuration, has the task's head."""
        names = [name for auto in self.auto_models for name in model_names(auto, config)]
        # Subclasses of a user are known by the ending of their names alone.
        endings = tuple(auto.__name__.removeprefix("AutoModel") for auto in self.auto_models)
        return architecture in names or architecture.endswith(endings)

    def pipeline_class(self, processor: Any) -> type[Pipeline] | None:
        """The pipeline to predict with; `None` is transformers' own for the task."""
        return self.pipeline if isinstance(processor, self.modality.processor_class) else None

    def save_pipeline(self, model: PreTrainedModel, processor: Any, folder: Path) -> None:
        """Adds the pipeline's code to the folder of a model, if `pipeline` cannot load it elsewhere without."""
        if self.pipeline is not None and self.pipeline_travels:
            self.pipeline(model=model, **{self.modality.processor_argument: processor}).save_pretrained(folder)


TASKS = (
    Task(
        "image-classification",
        IMAGES,
        CLASSIFICATION,
        (AutoModelForImageClassification,),
        recipes={DIGITS: "digits"},
        weights="deepmind/vision-perceiver-fourier",
    ),
    Task(
        "audio-classification",
        AUDIO,
        CLASSIFICATION,
        (AutoModelForAudioClassification,),
        recipes={SOUNDS: "sounds", MIXTURES: "sounds"},
        pipeline=LongAudioClassificationPipeline,
    ),
    Task(
        "point-cloud-classification",
        POINT_CLOUDS,
        CLASSIFICATION,
        (AutoModelForSequenceClassification,),
        recipes={SHAPES: "shapes"},
        pipeline=PointCloudClassificationPipeline,
        pipeline_travels=True,
    ),
)
TASK_NAMES = tuple(task.name for task in TASKS)


def model_names(auto_model: Any, config: PreTrainedConfig) -> list[str]:
    """Names of the model classes that an Auto class has for a configuration, or that the model's own code offers."""
    known = auto_model._model_mapping.get(type(config), ())
    names = [model.__name__ for model in (known if isinstance(known, tuple) else (known,))]
    reference = (getattr(config, "auto_map", None) or {}).get(auto_model.__name__)
    return names if reference is None else [*names, reference.rpartition(".")[2]]


def task_named(name: str) -> Task:
    """The task of that name.

    Raises:
        ValueError: If there is none.
    """
    for task in TASKS:
        if task.name == name:
            return task
    raise ValueError(f"There is no task {name!r}; the tasks are {', '.join(TASK_NAMES)}.")


def task_for_dataset(dataset_name: str | None) -> Task:
    """The task with a recipe for the built-in data set; the first if none has one."""
    return next((task for task in TASKS if dataset_name in task.recipes), TASKS[0])


def task_for_model(name: str, config: PreTrainedConfig) -> Task:
    """The task of a saved model: by the class that it was saved as, else by the type of its configuration.

    Args:
        name: What to call the model in an error.
        config: Its configuration.

    Raises:
        ValueError: If the model is for none of the tasks.
    """
    tasks = [task for task in TASKS if task.supports(config)]
    for architecture in config.architectures or ():
        for task in tasks:
            if task.has_head(architecture, config):
                return task
        if tasks and "For" in architecture:  # a head; the names of bodies end in `Model`
            raise ValueError(
                f"`{name}` is a `{architecture}`, which is for none of the tasks {', '.join(TASK_NAMES)}."
            )
    if tasks:
        return tasks[0]
    raise ValueError(
        f"`{name}` is of model type `{config.model_type}`, which has no model for {' or '.join(TASK_NAMES)}."
    )
