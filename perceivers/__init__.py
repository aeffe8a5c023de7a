"""The Perceiver for images, audio and point clouds, living in the Hugging Face ecosystem.

Importing this package registers its classes with transformers' Auto classes and pipelines.
"""

from importlib.metadata import PackageNotFoundError, version

from transformers import AutoConfig, AutoModel, AutoModelForImageClassification

from perceivers.modeling.configuration_image_perceiver import IMAGE_VARIANTS, ImagePerceiverConfig
from perceivers.modeling.configuration_iterative_perceiver import IterativePerceiverConfig
from perceivers.modeling.modeling_image_perceiver import ImagePerceiverForImageClassification, ImagePerceiverModel
from perceivers.modeling.modeling_iterative_perceiver import PerceiverEncoder, PerceiverInputs

try:
    __version__ = version("perceivers")
except PackageNotFoundError:  # run from a clone that is not installed
    __version__ = "0.0.0"

AutoConfig.register("image_perceiver", ImagePerceiverConfig, exist_ok=True)
AutoModel.register(ImagePerceiverConfig, ImagePerceiverModel, exist_ok=True)
AutoModelForImageClassification.register(ImagePerceiverConfig, ImagePerceiverForImageClassification, exist_ok=True)

__all__ = [
    "IMAGE_VARIANTS",
    "ImagePerceiverConfig",
    "ImagePerceiverForImageClassification",
    "ImagePerceiverModel",
    "IterativePerceiverConfig",
    "PerceiverEncoder",
    "PerceiverInputs",
    "__version__",
]
