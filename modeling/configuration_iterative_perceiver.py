"""What every Perceiver configuration shares: the latent array, the cross-attends, the latent transformer."""

import difflib
import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig
from transformers.utils import logging

logger = logging.get_logger(__name__)

# Keys that transformers, peft and the Trainer write into a configuration themselves.
TRANSFORMERS_KEYS = frozenset(
    {
        "attn_implementation",
        "auto_map",
        "base_model_tp_plan",
        "custom_pipelines",
        "experts_implementation",
        "model_type",
        "name_or_path",
        "num_labels",
        "output_attentions",
        "quantization_config",
        "tie_word_embeddings",
        "torch_dtype",
        "use_cache",
    }
)
MINIMA = {
    "num_latents": 1,
    "d_latents": 1,
    "num_blocks": 1,
    "num_self_attends_per_block": 0,
    "num_cross_attends": 1,
    "num_self_attention_heads": 1,
    "num_cross_attention_heads": 1,
    "self_attention_widening_factor": 1,
    "cross_attention_widening_factor": 1,
    "num_frequency_bands": 0,
}


@dataclass(frozen=True)
class StreamShape:
    """Shape of one stream of inputs, such as the pixels of an image or the patches of a waveform.

    Attributes:
        grid: Sizes of the axes that the inputs are arranged along; a single number for points in any order.
        content_channels: Channels of an input without its position.
        max_resolutions: One per axis of a position; the top frequency of an axis is half of it.
        num_bands: K, Fourier feature bands per axis.
        learned_position_channels: Channels of learned positions; `None` for Fourier features.
    """

    grid: tuple[int, ...]
    content_channels: int
    max_resolutions: tuple[int, ...]
    num_bands: int
    learned_position_channels: int | None = None

    @property
    def num_inputs(self) -> int:
        """M, the number of inputs."""
        return math.prod(self.grid)

    @property
    def num_axes(self) -> int:
        """Number of axes of a position: 2 for images."""
        return len(self.max_resolutions)

    @property
    def position_channels(self) -> int:
        """Channels of a position: d (1 + 2K) Fourier features for d axes (paper, section 3.2), or the learned ones."""
        if self.learned_position_channels is not None:
            return self.learned_position_channels
        return self.num_axes * (1 + 2 * self.num_bands)

    @property
    def input_channels(self) -> int:
        """Channels of an input: its content, then its position."""
        return self.content_channels + self.position_channels


@strict
class IterativePerceiverConfig(PreTrainedConfig):
    r"""Configuration fields that all modalities share.

    Use the class of a modality, such as [`ImagePerceiverConfig`]; a modality of your own subclasses this one and
    defines `stream_shapes`. The defaults are the paper's ImageNet model (arXiv 2103.03206, section 4.1, appendix C).

    Letters: N latents of D channels, M inputs of C channels.

    Args:
        num_latents (`int`, defaults to 512):
            N, the number of latents.
        d_latents (`int`, defaults to 1024):
            D, the width of a latent.
        num_blocks (`int`, defaults to 8):
            Number of latent transformer blocks.
        num_self_attends_per_block (`int`, defaults to 6):
            Self-attention layers in a block; 0 leaves out the latent transformer (paper, table 5).
        num_cross_attends (`int`, defaults to 8):
            Cross-attends to the inputs. Divides `num_blocks`; cross-attend i comes before block
            `i * num_blocks / num_cross_attends`.
        share_cross_attends (`"none"`, `"after_first"` or `"all"`, defaults to `"after_first"`):
            Which cross-attends share one set of weights. `"after_first"`: the first has its own, the others one set
            (paper, section 3.2: sharing the first as well was unstable).
        share_blocks (`bool`, defaults to `True`):
            Whether all latent blocks are one set of weights (paper, table 7).
        num_self_attention_heads (`int`, defaults to 8):
            Heads of the latent self-attention.
        num_cross_attention_heads (`int`, defaults to 1):
            Heads of the cross-attends.
        qk_channels (`int`, *optional*):
            Width of the queries and keys of the cross-attends. `None` is the inputs' width C.
        v_channels (`int`, *optional*):
            Width of the values of the cross-attends. `None` is the inputs' width C.
        self_attention_widening_factor (`int`, defaults to 1):
            Width of the MLP after a self-attention, as a multiple of D.
        cross_attention_widening_factor (`int`, defaults to 1):
            Width of the MLP after a cross-attention, as a multiple of D.
        num_frequency_bands (`int`, defaults to 64):
            K, Fourier feature bands per axis; each axis adds 1 + 2K channels.
        max_resolution (`int` or one `int` per axis, *optional*):
            Frequencies are spaced evenly from 1 to `max_resolution / 2`. `None` is the configured grid.
        position_encoding (`"fourier"`, defaults to `"fourier"`):
            How the position of an input is encoded.
        head (`"mean"` or `"query"`, defaults to `"mean"`):
            What the classifier, one linear layer, reads. `"mean"`: the mean over the latents, as in the paper.
            `"query"`: the output of a learned query of D channels that attends to the latents, as in Perceiver IO
            (arXiv 2107.14795, appendix A).
        hidden_act (`str`, defaults to `"gelu"`):
            Activation of the MLPs.
        layer_norm_eps (`float`, defaults to 1e-5):
            Epsilon of the layer norms.
        attention_dropout (`float`, defaults to 0.0):
            Dropout on all attention weights. The paper found that dropout degraded performance.
        initializer_range (`float`, defaults to 0.02):
            Scale of the latents' truncated normal initialisation, cut at two standard deviations.
        cross_attention_implementation (`"auto"`, `"factored"`, `"absorbed"` or `"dense"`, defaults to `"auto"`):
            How the cross-attends are computed; all give the same answer. `"dense"` computes keys and values of all
            inputs and goes through the attention interface; `"absorbed"` computes neither; `"factored"` relies on
            positions on a grid being separable. `"auto"` takes the cheapest that can return what was asked for.

    Raises:
        ValueError: for a field that does not exist, and for fields that contradict each other.
    """

    attribute_map: ClassVar[dict[str, str]] = {
        "hidden_size": "d_latents",
        "num_attention_heads": "num_self_attention_heads",
    }
    # Fields by the name of a published model; each modality has its own.
    variants: ClassVar[dict[str, dict[str, Any]]] = {}
    # The least value of each number; a modality adds its own.
    minima: ClassVar[dict[str, int]] = MINIMA
    # A list, as the Trainer adds one to it.
    keys_to_ignore_at_inference = ["hidden_states", "attentions", "cross_attentions"]  # noqa: RUF012

    num_latents: int = 512
    d_latents: int = 1024
    num_blocks: int = 8
    num_self_attends_per_block: int = 6
    num_cross_attends: int = 8
    share_cross_attends: Literal["none", "after_first", "all"] = "after_first"
    share_blocks: bool = True
    num_self_attention_heads: int = 8
    num_cross_attention_heads: int = 1
    qk_channels: int | None = None
    v_channels: int | None = None
    self_attention_widening_factor: int = 1
    cross_attention_widening_factor: int = 1
    num_frequency_bands: int = 64
    max_resolution: int | list[int] | tuple[int, ...] | None = None
    position_encoding: Literal["fourier"] = "fourier"
    head: Literal["mean", "query"] = "mean"
    hidden_act: str = "gelu"
    layer_norm_eps: float = 1e-5
    attention_dropout: float | int = 0.0
    initializer_range: float = 0.02
    cross_attention_implementation: Literal["auto", "factored", "absorbed", "dense"] = "auto"

    def __post_init__(self, **kwargs):
        if unknown := self._unknown_fields(kwargs):
            hints = [f"`{name}`{did_you_mean(name, self.__dataclass_fields__)}" for name in unknown]
            raise ValueError(f"{type(self).__name__} has no field {', '.join(hints)}.")
        super().__post_init__(**kwargs)
        # The decorator validates as well, but wraps the error; raised here it is the ValueError that callers expect.
        self.validate_architecture()

    @classmethod
    def from_variant(cls, name: str, **changes: Any) -> "IterativePerceiverConfig":
        """The configuration of a published model, see `variants`, with `changes` to its fields.

        Raises:
            ValueError: if there is no variant of that name.
        """
        if name not in cls.variants:
            raise ValueError(f"There is no variant `{name}`; the variants are {', '.join(cls.variants)}.")
        return cls(**{**cls.variants[name], **changes})

    @classmethod
    def _unknown_fields(cls, values: dict[str, Any]) -> list[str]:
        known = TRANSFORMERS_KEYS.union(cls.__dataclass_fields__, cls.attribute_map)
        return [name for name in values if name not in known and not name.startswith("_")]

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs):
        """Builds a configuration from a saved dictionary, as transformers does.

        Fields that this version does not know are named in a warning and kept as attributes, as somebody may have
        added them.
        """
        extra = {name: config_dict[name] for name in cls._unknown_fields(config_dict)}
        if extra:
            logger.warning(
                f"The saved configuration has fields that {cls.__name__} does not know and the model does not use: "
                f"{', '.join(extra)}."
            )
        config = super().from_dict({k: v for k, v in config_dict.items() if k not in extra}, **kwargs)
        for name, value in extra.items():
            setattr(config[0] if isinstance(config, tuple) else config, name, value)
        return config

    def validate_architecture(self):
        """Checks that fields are in range and do not contradict each other.

        Raises:
            ValueError: Otherwise; the message names the fields.
        """
        for name, least in self.minima.items():
            if getattr(self, name) < least:
                raise ValueError(f"`{name}` must be at least {least}, got {getattr(self, name)}.")
        if not 0 <= self.attention_dropout < 1:
            raise ValueError(f"`attention_dropout` must be in [0, 1), got {self.attention_dropout}.")
        if self.num_blocks % self.num_cross_attends:
            raise ValueError(
                "`num_cross_attends` must divide `num_blocks`, so that the cross-attends are spread evenly over the "
                f"blocks: got num_cross_attends={self.num_cross_attends} and num_blocks={self.num_blocks}."
            )
        if self.d_latents % self.num_self_attention_heads:
            raise ValueError(
                "`num_self_attention_heads` must divide `d_latents`: got "
                f"num_self_attention_heads={self.num_self_attention_heads} and d_latents={self.d_latents}."
            )
        for name, width in (("qk_channels", self.cross_qk_channels), ("v_channels", self.cross_v_channels)):
            if width < 1 or width % self.num_cross_attention_heads:
                raise ValueError(
                    f"`num_cross_attention_heads` must divide `{name}` (where `None` is the inputs' width, "
                    f"{self.input_channels}): got num_cross_attention_heads={self.num_cross_attention_heads} "
                    f"and {name}={width}."
                )

    @property
    def stream_shapes(self) -> tuple[StreamShape, ...]:
        """Shape of each stream of inputs, at the configured size. A modality defines it."""
        raise NotImplementedError(f"{type(self).__name__} belongs to no modality; define `stream_shapes`.")

    @property
    def num_inputs(self) -> int:
        """M, the number of inputs of all streams, at the configured size."""
        return sum(shape.num_inputs for shape in self.stream_shapes)

    @property
    def input_channels(self) -> int:
        """C, the channels of an input: 261 for the paper's ImageNet model."""
        return max(shape.input_channels for shape in self.stream_shapes)

    @property
    def cross_qk_channels(self) -> int:
        """Width of the queries and keys of the cross-attends."""
        return self.input_channels if self.qk_channels is None else self.qk_channels

    @property
    def cross_v_channels(self) -> int:
        """Width of the values of the cross-attends."""
        return self.input_channels if self.v_channels is None else self.v_channels

    def max_resolutions(self, default: tuple[int, ...]) -> tuple[int, ...]:
        """`max_resolution` for each axis of a stream; the top frequency of an axis is half of it.

        Args:
            default: Used where `max_resolution` is `None`; its length is the number of axes.

        Raises:
            ValueError: If there is another number of them.
        """
        if self.max_resolution is None:
            return default
        if isinstance(self.max_resolution, int):
            return (self.max_resolution,) * len(default)
        if len(self.max_resolution) != len(default):
            raise ValueError(
                f"`max_resolution` must be one number or one for each of {len(default)} axes, got "
                f"{self.max_resolution}."
            )
        return tuple(self.max_resolution)

    @property
    def num_distinct_cross_attends(self) -> int:
        """Number of cross-attends with weights of their own, as `share_cross_attends` says."""
        distinct = {"none": self.num_cross_attends, "after_first": 2, "all": 1}[self.share_cross_attends]
        return min(distinct, self.num_cross_attends)

    @property
    def num_hidden_layers(self) -> int:
        """Number of layers that a forward pass applies: cross-attends and self-attends, shared or not."""
        return self.num_cross_attends + self.num_blocks * self.num_self_attends_per_block


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """` (did you mean `...`?)`, or an empty string if nothing known is close."""
    matches = difflib.get_close_matches(name, known, n=1)
    return f" (did you mean `{matches[0]}`?)" if matches else ""


__all__ = ["MINIMA", "IterativePerceiverConfig", "StreamShape"]
