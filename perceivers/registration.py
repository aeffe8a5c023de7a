"""The table of our model classes, and their registration with transformers.

A new modality is a new row; a new head is a new entry in `heads`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from transformers import (
    AutoConfig,
    AutoFeatureExtractor,
    AutoImageProcessor,
    AutoModel,
    AutoModelForAudioClassification,
    AutoModelForImageClassification,
    AutoModelForSequenceClassification,
    PreTrainedModel,
)
from transformers.pipelines import PIPELINE_REGISTRY

from perceivers.modeling.configuration_audio_perceiver import AudioPerceiverConfig
from perceivers.modeling.configuration_image_perceiver import ImagePerceiverConfig
from perceivers.modeling.configuration_iterative_perceiver import IterativePerceiverConfig
from perceivers.modeling.configuration_point_cloud_perceiver import PointCloudPerceiverConfig
from perceivers.modeling.modeling_audio_perceiver import AudioPerceiverForAudioClassification, AudioPerceiverModel
from perceivers.modeling.modeling_image_perceiver import ImagePerceiverForImageClassification, ImagePerceiverModel
from perceivers.modeling.modeling_point_cloud_perceiver import (
    PointCloudPerceiverForPointCloudClassification,
    PointCloudPerceiverModel,
)
from perceivers.pipelines.point_cloud_classification import PointCloudClassificationPipeline
from perceivers.preprocessors.feature_extraction_audio_perceiver import AudioPerceiverFeatureExtractor
from perceivers.preprocessors.feature_extraction_point_cloud_perceiver import PointCloudPerceiverFeatureExtractor
from perceivers.preprocessors.image_processing_image_perceiver import ImagePerceiverImageProcessor
from perceivers.preprocessors.image_processing_pil_image_perceiver import ImagePerceiverImageProcessorPil


@dataclass(frozen=True)
class ModelClasses:
    """A row: the classes of one modality's models.

    Attributes:
        config: The configuration.
        body: The model without a head.
        heads: The models with a head, by their Auto class.
        auto_processor: The Auto class of the processors.
        processors: The processors by backend; only image processors have several.
    """

    config: type[IterativePerceiverConfig]
    body: type[PreTrainedModel]
    heads: Mapping[Any, type[PreTrainedModel]]
    auto_processor: Any
    processors: Mapping[str, Any]


MODELS = (
    ModelClasses(
        ImagePerceiverConfig,
        ImagePerceiverModel,
        {AutoModelForImageClassification: ImagePerceiverForImageClassification},
        AutoImageProcessor,
        {"pil": ImagePerceiverImageProcessorPil, "torchvision": ImagePerceiverImageProcessor},
    ),
    ModelClasses(
        AudioPerceiverConfig,
        AudioPerceiverModel,
        {AutoModelForAudioClassification: AudioPerceiverForAudioClassification},
        AutoFeatureExtractor,
        {"default": AudioPerceiverFeatureExtractor},
    ),
    ModelClasses(
        PointCloudPerceiverConfig,
        PointCloudPerceiverModel,
        # transformers has no Auto class for point clouds; this one takes any sequence of inputs.
        {AutoModelForSequenceClassification: PointCloudPerceiverForPointCloudClassification},
        AutoFeatureExtractor,
        {"default": PointCloudPerceiverFeatureExtractor},
    ),
)
# Tasks that transformers has no pipeline for: the pipeline, its Auto class and its kind of input.
PIPELINES = {
    "point-cloud-classification": (PointCloudClassificationPipeline, AutoModelForSequenceClassification, "multimodal"),
}


def register_with_transformers() -> None:
    """Makes the Auto classes and `pipeline` know our classes."""
    for row in MODELS:
        AutoConfig.register(row.config.model_type, row.config, exist_ok=True)
        AutoModel.register(row.config, row.body, exist_ok=True)
        for auto_model, head in row.heads.items():
            auto_model.register(row.config, head, exist_ok=True)
        if row.auto_processor is AutoImageProcessor:
            AutoImageProcessor.register(row.config, image_processor_classes=dict(row.processors), exist_ok=True)
        else:
            (processor,) = row.processors.values()
            row.auto_processor.register(row.config, processor, exist_ok=True)
    for task, (pipeline, auto_model, kind) in PIPELINES.items():
        PIPELINE_REGISTRY.register_pipeline(task, pipeline, pt_model=(auto_model,), type=kind)


def register_for_remote_code() -> None:
    """Makes `save_pretrained` and `push_to_hub` write the code beside the weights from now on.

    The folder then loads where this package is not installed, with `trust_remote_code=True`.
    """
    for row in MODELS:
        row.config.register_for_auto_class()
        row.body.register_for_auto_class("AutoModel")
        for auto_model, head in row.heads.items():
            head.register_for_auto_class(auto_model.__name__)
        for processor in row.processors.values():
            processor.register_for_auto_class(row.auto_processor.__name__)
