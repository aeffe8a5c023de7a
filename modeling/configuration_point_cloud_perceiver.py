"""Configuration of the Perceiver for point clouds, and the table of its variants."""

from typing import Any

from huggingface_hub.dataclasses import strict
from transformers.pipelines import PIPELINE_REGISTRY

from .configuration_iterative_perceiver import MINIMA, IterativePerceiverConfig, StreamShape

# Each row lists what differs from the defaults, which are the paper's ModelNet40 model.
POINT_CLOUD_VARIANTS: dict[str, dict[str, Any]] = {
    "modelnet40": {"num_labels": 40},  # arXiv 2103.03206, section 4.3: 85.7 %
    "small": {  # ours, for a few hundred to a few thousand clouds and minutes on a CPU
        "num_points": 1024,
        "num_latents": 16,
        "d_latents": 64,
        "num_self_attends_per_block": 2,
        "num_self_attention_heads": 4,
        "num_cross_attention_heads": 4,
        "qk_channels": 64,
        "v_channels": 64,
        "num_frequency_bands": 6,
        "max_resolution": 12,
        "initializer_range": 1.0,
        "cross_attention_implementation": "dense",
        "num_labels": 10,
    },
    "tiny": {  # ours, for tests and first steps
        "num_points": 64,
        "num_latents": 8,
        "d_latents": 32,
        "num_self_attends_per_block": 2,
        "num_self_attention_heads": 4,
        "num_frequency_bands": 4,
        "max_resolution": 16,
        "num_labels": 10,
    },
}


@strict
class PointCloudPerceiverConfig(IterativePerceiverConfig):
    r"""Configuration of a [`PointCloudPerceiverModel`].

    The defaults are the paper's ModelNet40 model (arXiv 2103.03206, section 4.3): 512 latents of 1024 channels, 2
    cross-attends, 2 blocks of 6 self-attention layers, 64 frequency bands up to 1120, ten times the top frequency of
    its images. The other fields are described in [`IterativePerceiverConfig`].

    Args:
        num_points (`int`, defaults to 2048):
            The number of points that the model is made for. It accepts any other; a processor samples to this number,
            and costs are given for it.
        num_features (`int`, defaults to 0):
            F, the channels of a point after its coordinates, such as 3 for normals or colours.
        max_resolution (`int` or one `int` per axis, defaults to 2240):
            Frequencies are spaced evenly from 1 to `max_resolution / 2`. Points lie on no grid that could be the
            default.

    Example:
        >>> config = PointCloudPerceiverConfig.from_variant("modelnet40", num_labels=10)
    """

    model_type = "point_cloud_perceiver"
    variants = POINT_CLOUD_VARIANTS
    minima = MINIMA | {"num_points": 1, "num_features": 0}

    num_points: int = 2048
    num_features: int = 0
    num_blocks: int = 2
    num_cross_attends: int = 2
    max_resolution: int | list[int] | tuple[int, ...] | None = 2240

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs):
        """Builds a configuration from a saved dictionary, as transformers does.

        A pipeline that was saved with the weights, for machines without this package, is dropped where its task is
        registered: transformers would otherwise ask for `trust_remote_code` all the same.
        """
        tasks = PIPELINE_REGISTRY.get_supported_tasks()
        saved = config_dict.get("custom_pipelines") or {}
        saved = {task: where for task, where in saved.items() if task not in tasks}
        others = {name: value for name, value in config_dict.items() if name != "custom_pipelines"}
        return super().from_dict({**others, **({"custom_pipelines": saved} if saved else {})}, **kwargs)

    def validate_architecture(self):
        if self.max_resolution is None:
            raise ValueError("`max_resolution` must be given, as points lie on no grid; got None.")
        if self.cross_attention_implementation == "factored":
            raise ValueError(
                '`cross_attention_implementation="factored"` needs inputs on a grid, and points lie on none; use '
                '"auto" or "absorbed".'
            )
        super().validate_architecture()

    @property
    def stream_shapes(self) -> tuple[StreamShape, ...]:
        """Points in any order, with the axes x, y and z."""
        max_resolutions = self.max_resolutions(default=(self.num_points,) * 3)
        return (StreamShape((self.num_points,), self.num_features, max_resolutions, self.num_frequency_bands),)


__all__ = ["POINT_CLOUD_VARIANTS", "PointCloudPerceiverConfig"]
