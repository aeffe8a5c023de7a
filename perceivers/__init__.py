"""The Perceiver for images, audio and point clouds, in the Hugging Face ecosystem.

Importing this package registers its classes with transformers' Auto classes and pipelines.
"""

import sys
import warnings
from importlib.metadata import PackageNotFoundError, version


def _hide_broken_torchaudio() -> None:
    """Makes a torchaudio that does not fit torch look as if it were not installed, in the whole process.

    transformers imports torchaudio wherever it is installed, and fails as a whole if that fails. Everything but audio
    works without it.
    """
    try:
        import torchaudio  # noqa: F401
    except Exception as error:  # a build that does not fit torch raises OSError or RuntimeError
        sys.modules["torchaudio"] = None  # type: ignore[assignment]
        if not isinstance(error, ModuleNotFoundError):
            warnings.warn(f"torchaudio is installed but cannot be imported, so it is not used: {error}", stacklevel=3)


_hide_broken_torchaudio()

from perceivers.modeling.configuration_audio_perceiver import AUDIO_VARIANTS, AudioPerceiverConfig
from perceivers.modeling.configuration_image_perceiver import IMAGE_VARIANTS, ImagePerceiverConfig
from perceivers.modeling.configuration_iterative_perceiver import IterativePerceiverConfig, StreamShape
from perceivers.modeling.configuration_point_cloud_perceiver import POINT_CLOUD_VARIANTS, PointCloudPerceiverConfig
from perceivers.modeling.modeling_audio_perceiver import AudioPerceiverForAudioClassification, AudioPerceiverModel
from perceivers.modeling.modeling_image_perceiver import ImagePerceiverForImageClassification, ImagePerceiverModel
from perceivers.modeling.modeling_iterative_perceiver import (
    InputStream,
    IterativePerceiverForClassification,
    IterativePerceiverModel,
    PerceiverEncoder,
    PerceiverInputs,
)
from perceivers.modeling.modeling_point_cloud_perceiver import (
    PointCloudPerceiverForPointCloudClassification,
    PointCloudPerceiverModel,
)
from perceivers.modeling.positions import DensePositions, GridPositions, fourier_grid, fourier_points
from perceivers.pipelines.long_audio_classification import LongAudioClassificationPipeline
from perceivers.pipelines.point_cloud_classification import PointCloudClassificationPipeline
from perceivers.preprocessors.feature_extraction_audio_perceiver import AudioPerceiverFeatureExtractor
from perceivers.preprocessors.feature_extraction_point_cloud_perceiver import PointCloudPerceiverFeatureExtractor
from perceivers.preprocessors.image_processing_image_perceiver import ImagePerceiverImageProcessor
from perceivers.preprocessors.image_processing_pil_image_perceiver import ImagePerceiverImageProcessorPil
from perceivers.registration import register_for_remote_code, register_with_transformers

try:
    __version__ = version("perceivers")
except PackageNotFoundError:  # a clone that is not installed
    __version__ = "0.0.0"

register_with_transformers()
RecordingClassificationPipeline = LongAudioClassificationPipeline  # its name in 0.1.0, kept for one version

__all__ = [
    "AUDIO_VARIANTS",
    "IMAGE_VARIANTS",
    "POINT_CLOUD_VARIANTS",
    "AudioPerceiverConfig",
    "AudioPerceiverFeatureExtractor",
    "AudioPerceiverForAudioClassification",
    "AudioPerceiverModel",
    "DensePositions",
    "GridPositions",
    "ImagePerceiverConfig",
    "ImagePerceiverForImageClassification",
    "ImagePerceiverImageProcessor",
    "ImagePerceiverImageProcessorPil",
    "ImagePerceiverModel",
    "InputStream",
    "IterativePerceiverConfig",
    "IterativePerceiverForClassification",
    "IterativePerceiverModel",
    "LongAudioClassificationPipeline",
    "PerceiverEncoder",
    "PerceiverInputs",
    "PointCloudClassificationPipeline",
    "PointCloudPerceiverConfig",
    "PointCloudPerceiverFeatureExtractor",
    "PointCloudPerceiverForPointCloudClassification",
    "PointCloudPerceiverModel",
    "RecordingClassificationPipeline",
    "StreamShape",
    "__version__",
    "fourier_grid",
    "fourier_points",
    "register_for_remote_code",
]
