"""The Perceiver for images, audio and point clouds, living in the Hugging Face ecosystem.

Importing this package registers its classes with transformers' Auto classes, and so with its pipelines.
"""

import sys
from importlib.metadata import PackageNotFoundError, version

try:
    import torchaudio  # noqa: F401
except Exception:
    # transformers imports it wherever it is installed, and fails as a whole with one that does not fit torch.
    sys.modules["torchaudio"] = None  # type: ignore[assignment]

from transformers import (
    AutoConfig,
    AutoFeatureExtractor,
    AutoImageProcessor,
    AutoModel,
    AutoModelForAudioClassification,
    AutoModelForImageClassification,
    AutoModelForSequenceClassification,
)
from transformers.pipelines import PIPELINE_REGISTRY

from perceivers.modeling.configuration_audio_perceiver import AUDIO_VARIANTS, AudioPerceiverConfig
from perceivers.modeling.configuration_image_perceiver import IMAGE_VARIANTS, ImagePerceiverConfig
from perceivers.modeling.configuration_iterative_perceiver import IterativePerceiverConfig
from perceivers.modeling.configuration_point_cloud_perceiver import POINT_CLOUD_VARIANTS, PointCloudPerceiverConfig
from perceivers.modeling.modeling_audio_perceiver import AudioPerceiverForAudioClassification, AudioPerceiverModel
from perceivers.modeling.modeling_image_perceiver import ImagePerceiverForImageClassification, ImagePerceiverModel
from perceivers.modeling.modeling_iterative_perceiver import InputStream, PerceiverEncoder, PerceiverInputs
from perceivers.modeling.modeling_point_cloud_perceiver import (
    PointCloudPerceiverForPointCloudClassification,
    PointCloudPerceiverModel,
)
from perceivers.pipelines.point_cloud_classification import PointCloudClassificationPipeline
from perceivers.pipelines.recording_classification import RecordingClassificationPipeline
from perceivers.preprocessors.feature_extraction_audio_perceiver import AudioPerceiverFeatureExtractor
from perceivers.preprocessors.feature_extraction_point_cloud_perceiver import PointCloudPerceiverFeatureExtractor
from perceivers.preprocessors.image_processing_image_perceiver import ImagePerceiverImageProcessor
from perceivers.preprocessors.image_processing_pil_image_perceiver import ImagePerceiverImageProcessorPil

try:
    __version__ = version("perceivers")
except PackageNotFoundError:  # run from a clone that is not installed
    __version__ = "0.0.0"

AutoConfig.register("image_perceiver", ImagePerceiverConfig, exist_ok=True)
AutoModel.register(ImagePerceiverConfig, ImagePerceiverModel, exist_ok=True)
AutoModelForImageClassification.register(ImagePerceiverConfig, ImagePerceiverForImageClassification, exist_ok=True)
AutoImageProcessor.register(
    ImagePerceiverConfig,
    image_processor_classes={"pil": ImagePerceiverImageProcessorPil, "torchvision": ImagePerceiverImageProcessor},
    exist_ok=True,
)
AutoConfig.register("audio_perceiver", AudioPerceiverConfig, exist_ok=True)
AutoModel.register(AudioPerceiverConfig, AudioPerceiverModel, exist_ok=True)
AutoModelForAudioClassification.register(AudioPerceiverConfig, AudioPerceiverForAudioClassification, exist_ok=True)
AutoFeatureExtractor.register(AudioPerceiverConfig, AudioPerceiverFeatureExtractor, exist_ok=True)

AutoConfig.register("point_cloud_perceiver", PointCloudPerceiverConfig, exist_ok=True)
AutoModel.register(PointCloudPerceiverConfig, PointCloudPerceiverModel, exist_ok=True)
# transformers has no Auto class for point clouds; this one is for whatever is a sequence of inputs.
AutoModelForSequenceClassification.register(
    PointCloudPerceiverConfig, PointCloudPerceiverForPointCloudClassification, exist_ok=True
)
AutoFeatureExtractor.register(PointCloudPerceiverConfig, PointCloudPerceiverFeatureExtractor, exist_ok=True)
PIPELINE_REGISTRY.register_pipeline(
    "point-cloud-classification",
    PointCloudClassificationPipeline,
    pt_model=(AutoModelForSequenceClassification,),
    type="multimodal",
)


def register_for_remote_code() -> None:
    """From now on `save_pretrained` and `push_to_hub` write the code beside the weights, so that the folder loads
    where this package is not installed, with `trust_remote_code=True`."""
    ImagePerceiverConfig.register_for_auto_class()
    ImagePerceiverModel.register_for_auto_class("AutoModel")
    ImagePerceiverForImageClassification.register_for_auto_class("AutoModelForImageClassification")
    ImagePerceiverImageProcessor.register_for_auto_class("AutoImageProcessor")
    ImagePerceiverImageProcessorPil.register_for_auto_class("AutoImageProcessor")
    AudioPerceiverConfig.register_for_auto_class()
    AudioPerceiverModel.register_for_auto_class("AutoModel")
    AudioPerceiverForAudioClassification.register_for_auto_class("AutoModelForAudioClassification")
    AudioPerceiverFeatureExtractor.register_for_auto_class("AutoFeatureExtractor")
    PointCloudPerceiverConfig.register_for_auto_class()
    PointCloudPerceiverModel.register_for_auto_class("AutoModel")
    PointCloudPerceiverForPointCloudClassification.register_for_auto_class("AutoModelForSequenceClassification")
    PointCloudPerceiverFeatureExtractor.register_for_auto_class("AutoFeatureExtractor")


__all__ = [
    "AUDIO_VARIANTS",
    "IMAGE_VARIANTS",
    "POINT_CLOUD_VARIANTS",
    "AudioPerceiverConfig",
    "AudioPerceiverFeatureExtractor",
    "AudioPerceiverForAudioClassification",
    "AudioPerceiverModel",
    "ImagePerceiverConfig",
    "ImagePerceiverForImageClassification",
    "ImagePerceiverImageProcessor",
    "ImagePerceiverImageProcessorPil",
    "ImagePerceiverModel",
    "InputStream",
    "IterativePerceiverConfig",
    "PerceiverEncoder",
    "PerceiverInputs",
    "PointCloudClassificationPipeline",
    "PointCloudPerceiverConfig",
    "PointCloudPerceiverFeatureExtractor",
    "PointCloudPerceiverForPointCloudClassification",
    "PointCloudPerceiverModel",
    "RecordingClassificationPipeline",
    "__version__",
    "register_for_remote_code",
]
