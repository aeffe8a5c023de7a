"""Point-cloud classification, as the commands see it."""

from pathlib import Path
from typing import Any

import numpy as np
from transformers import (
    MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING,
    AutoFeatureExtractor,
    AutoModelForSequenceClassification,
    PreTrainedConfig,
    PreTrainedModel,
)

from perceivers.modeling.configuration_point_cloud_perceiver import PointCloudPerceiverConfig
from perceivers.pipelines.point_cloud_classification import PointCloudClassificationPipeline
from perceivers.preprocessors.feature_extraction_point_cloud_perceiver import PointCloudPerceiverFeatureExtractor
from perceivers.task import Task
from perceivers.training.point_cloud_arguments import PointCloudAugmentationArguments, PointCloudDataArguments
from perceivers.training.point_cloud_augmentation import (
    PointCloudBatchAugmentation,
    PointCloudProcess,
    make_point_augmentation,
)
from perceivers.training.point_cloud_datasets import POINT_CLOUDS


class PointCloudClassification(Task):
    """Scans and meshes; every variation is that of a whole batch."""

    name = "point-cloud-classification"
    modality = "point cloud"
    kind = POINT_CLOUDS
    config_class = PointCloudPerceiverConfig
    auto_model = AutoModelForSequenceClassification
    auto_processor = AutoFeatureExtractor
    model_mapping = MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING
    processor_argument = "feature_extractor"
    data_arguments = PointCloudDataArguments
    augmentation_arguments = PointCloudAugmentationArguments
    recipes = {"shapes": "shapes"}  # noqa: RUF012
    example = "cloud.ply"

    def serves(self, config: PreTrainedConfig) -> bool:
        """Only our own: models for sequences are those for text, where they are transformers'."""
        return config.model_type == PointCloudPerceiverConfig.model_type

    def read(self, source: str, processor: Any) -> np.ndarray:
        return processor.read(source)

    def make_processor(self, config: PreTrainedConfig, fields: dict[str, Any]) -> PointCloudPerceiverFeatureExtractor:
        """
        Raises:
            ValueError: if it has not as many features as the model takes.
        """
        extractor = PointCloudPerceiverFeatureExtractor(**{"num_points": config.num_points, **fields})
        if len(extractor.feature_names) != config.num_features:
            raise ValueError(
                f"the model takes num_features={config.num_features}, the processor has "
                f"feature_names={extractor.feature_names}; say both by `--config` and `--processor`"
            )
        return extractor

    def training_process(self, processor: Any, augmentation: Any, config: PreTrainedConfig) -> PointCloudProcess:
        return PointCloudProcess(processor)

    def evaluation_process(self, processor: Any) -> PointCloudProcess:
        return PointCloudProcess(processor)

    def batch_augmentation(
        self, processor: Any, augmentation: Any, batch_size: int, num_labels: int
    ) -> PointCloudBatchAugmentation | None:
        return make_point_augmentation(augmentation, processor)

    def save_pipeline(self, model: PreTrainedModel, processor: Any, folder: Path) -> None:
        PointCloudClassificationPipeline(model=model, feature_extractor=processor).save_pretrained(folder)

    def save_example(self, value: Any, folder: Path) -> Path:
        path = folder / "example.xyz"
        np.savetxt(path, value, fmt="%.5f")
        return path
