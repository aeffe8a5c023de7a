"""The Perceiver from inputs to logits, for any modality; read it from top to bottom as the paper's figure 1.

A small latent array (N, D) attends to a large input array (M, C), then to itself, block after block; the answer is
read from the latents. *Perceiver: General Perception with Iterative Attention*, arXiv 2103.03206.

Letters: B batch, M inputs, N latents, C channels of an input, D channels of a latent, H heads.

As DeepMind's released code, with two differences: the cross-attends are repeated as in the paper (the released encoder
has one), and GELU is exact instead of its tanh approximation. The attentions are in `attention.py`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import initialization as init
from transformers.activations import ACT2FN
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import BaseModelOutputWithCrossAttentions, ModelOutput
from transformers.processing_utils import Unpack
from transformers.utils import TransformersKwargs

from .attention import (
    CROSS_ATTENTION_IMPLEMENTATIONS,
    DenseAttention,
    InputsNorm,
    InputStream,
    PerceiverCrossAttention,
    PerceiverInputs,
    PerceiverSelfAttention,
    StructuredAttention,
    wants_attentions,
)
from .classification_loss import classification_loss
from .configuration_iterative_perceiver import IterativePerceiverConfig
from .positions import DensePositions
from .safetensors_only import SafetensorsPreTrainedModel

# The standard deviation of a standard normal distribution that is cut at two standard deviations.
TRUNCATED_STD = 0.87962566103423978


def init_truncated_normal(parameter: torch.Tensor, std: float) -> None:
    """Fills a parameter from a normal distribution that is cut at two standard deviations."""
    init.trunc_normal_(parameter, std=std, a=-2 * std, b=2 * std)


class PerceiverMLP(nn.Module):
    """The dense block after an attention: (..., D) -> (..., D)."""

    def __init__(self, config: IterativePerceiverConfig, widening_factor: int):
        super().__init__()
        self.fc1 = nn.Linear(config.d_latents, widening_factor * config.d_latents)
        self.activation = ACT2FN[config.hidden_act]
        self.fc2 = nn.Linear(widening_factor * config.d_latents, config.d_latents)

    def forward(self, latents: torch.Tensor) -> torch.Tensor:
        return self.fc2(self.activation(self.fc1(latents)))


class PerceiverLayer(GradientCheckpointingLayer):
    """A cross-attention or self-attention layer; a hidden state is recorded after each."""


class PerceiverSelfAttentionLayer(PerceiverLayer):
    """One layer of the latent transformer: (B, N, D) -> (B, N, D)."""

    def __init__(self, config: IterativePerceiverConfig):
        super().__init__()
        self.attention_norm = nn.LayerNorm(config.d_latents, eps=config.layer_norm_eps)
        self.attention = PerceiverSelfAttention(config)
        self.mlp_norm = nn.LayerNorm(config.d_latents, eps=config.layer_norm_eps)
        self.mlp = PerceiverMLP(config, config.self_attention_widening_factor)

    def forward(self, latents: torch.Tensor, **kwargs: Unpack[TransformersKwargs]) -> torch.Tensor:
        latents = latents + self.attention(self.attention_norm(latents), **kwargs)[0]
        return latents + self.mlp(self.mlp_norm(latents))


class PerceiverCrossAttentionLayer(PerceiverLayer):
    """The latents attend to the inputs: (B, N, D), inputs -> (B, N, D)."""

    def __init__(self, config: IterativePerceiverConfig, attention: PerceiverCrossAttention, widening_factor: int):
        super().__init__()
        self.attention_norm = nn.LayerNorm(config.d_latents, eps=config.layer_norm_eps)
        self.attention = attention
        self.mlp_norm = nn.LayerNorm(config.d_latents, eps=config.layer_norm_eps)
        self.mlp = PerceiverMLP(config, widening_factor)

    @classmethod
    def to_inputs(cls, config: IterativePerceiverConfig) -> "PerceiverCrossAttentionLayer":
        """The encoder's layer: widths and heads are configured."""
        attention = PerceiverCrossAttention(
            config,
            config.input_channels,
            config.cross_qk_channels,
            config.cross_v_channels,
            config.num_cross_attention_heads,
        )
        return cls(config, attention, config.cross_attention_widening_factor)

    @classmethod
    def to_latents(cls, config: IterativePerceiverConfig) -> "PerceiverCrossAttentionLayer":
        """The layer of Perceiver IO's classification decoder: one head, and all widths are D."""
        width = config.d_latents
        return cls(config, PerceiverCrossAttention(config, width, width, width, num_heads=1), widening_factor=1)

    def forward(
        self,
        latents: torch.Tensor,
        attend: DenseAttention | StructuredAttention,
        projected: tuple[torch.Tensor, ...] | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> tuple[torch.Tensor, tuple[torch.Tensor, ...]]:
        """The latents, and the projections for the next layer with the same weights."""
        attended, _, projected = self.attention(self.attention_norm(latents), attend, projected, **kwargs)
        latents = latents + attended
        return latents + self.mlp(self.mlp_norm(latents)), projected


class RepeatLatents(nn.Module):
    """The latent array for every example, (N, D) -> (B, N, D): the first hidden state.

    A module, so that `get_input_embeddings` has an answer for models that embed no inputs: hooks that PEFT or NEFTune
    register there see the first hidden state.
    """

    def forward(self, latents: torch.Tensor, batch_size: int) -> torch.Tensor:
        return latents.expand(batch_size, -1, -1)


class PerceiverEncoder(nn.Module):
    """Inputs -> latents (B, N, D): cross-attends interleaved with the blocks of the latent transformer."""

    def __init__(self, config: IterativePerceiverConfig):
        super().__init__()
        self.config = config
        self.latents = nn.Parameter(torch.empty(config.num_latents, config.d_latents))
        self.repeat_latents = RepeatLatents()
        # Every set of weights is registered once and applied as often as the schedule says.
        self.cross_attends = nn.ModuleList(
            PerceiverCrossAttentionLayer.to_inputs(config) for _ in range(config.num_distinct_cross_attends)
        )
        self.blocks = nn.ModuleList(
            nn.ModuleList(PerceiverSelfAttentionLayer(config) for _ in range(config.num_self_attends_per_block))
            for _ in range(1 if config.share_blocks else config.num_blocks)
        )

    def prepare(
        self, inputs: PerceiverInputs, latents: torch.Tensor, kwargs: Mapping[str, Any]
    ) -> DenseAttention | StructuredAttention:
        """The attention to these inputs, as configured or in the cheapest way that returns what was asked for.

        Raises:
            ValueError: If the configured implementation cannot return it.
        """
        implementation: str = self.config.cross_attention_implementation
        needs_weights = wants_attentions(self.config, kwargs) or (self.training and self.config.attention_dropout > 0)
        if implementation == "auto":
            implementation = "dense" if needs_weights else self.cheapest_implementation(inputs)
        elif implementation != "dense" and needs_weights:
            raise ValueError(
                f"cross_attention_implementation={implementation!r} never has the attention weights that "
                'output_attentions and attention_dropout need; use "auto" or "dense".'
            )
        return CROSS_ATTENTION_IMPLEMENTATIONS[implementation](inputs, latents, self.config)

    def cheapest_implementation(self, inputs: PerceiverInputs) -> str:
        """By the measured times, see docs/cross_attention.md."""
        norms = [layer.attention.inputs_norm for layer in self.cross_attends]  # type: ignore[union-attr]
        if not all(type(norm) is InputsNorm for norm in norms):
            return "dense"  # somebody replaced a norm, and only dense calls it on the inputs
        inputs_per_channel = inputs.num_inputs / self.config.input_channels
        if inputs.grid is not None:
            return "factored" if inputs_per_channel >= 3.5 else "dense"
        # The absorbed query of a head is as wide as the inputs, so many heads are better off with keys and values.
        return "absorbed" if inputs_per_channel >= 16 and self.config.num_cross_attention_heads == 1 else "dense"

    def forward(self, inputs: PerceiverInputs, **kwargs: Unpack[TransformersKwargs]) -> torch.Tensor:
        # One set of latents per example.
        latents = self.repeat_latents(self.latents, inputs.batch_size)
        attend = self.prepare(inputs, latents, kwargs)
        blocks_per_cross_attend = self.config.num_blocks // self.config.num_cross_attends
        last_cross_attend, projected = None, None
        for index in range(self.config.num_blocks):
            # Read the inputs.
            if index % blocks_per_cross_attend == 0:
                cross_attend = self.cross_attends[min(index // blocks_per_cross_attend, len(self.cross_attends) - 1)]
                if cross_attend is not last_cross_attend:
                    last_cross_attend, projected = cross_attend, None
                latents, projected = cross_attend(latents, attend, projected, **kwargs)
            # Process the latents.
            for self_attend in self.blocks[min(index, len(self.blocks) - 1)]:  # type: ignore[attr-defined]
                latents = self_attend(latents, **kwargs)
        return latents


class MeanPooler(nn.Module):
    """The paper's readout: the mean over the latents, (B, N, D) -> (B, D)."""

    def forward(self, latents: torch.Tensor) -> torch.Tensor:
        return latents.mean(dim=1)


class QueryDecoder(nn.Module):
    """The readout of Perceiver IO: learned queries attend to the latents, (B, N, D) -> (B, D).

    Several queries give (B, `num_queries`, D).
    """

    def __init__(self, config: IterativePerceiverConfig, num_queries: int = 1):
        super().__init__()
        self.config = config
        self.query = nn.Parameter(torch.empty(num_queries, config.d_latents))
        self.cross_attend = PerceiverCrossAttentionLayer.to_latents(config)

    def forward(self, latents: torch.Tensor) -> torch.Tensor:
        query = self.query.expand(latents.shape[0], -1, -1)
        no_positions = DensePositions(latents.new_empty(1, latents.shape[1], 0))
        attend = DenseAttention(PerceiverInputs(InputStream(latents, no_positions)), query, self.config)
        return self.cross_attend(query, attend)[0].squeeze(1)


class IterativePerceiverPreTrainedModel(SafetensorsPreTrainedModel):
    """Initialisation, and what the models of all modalities support.

    Initialised as in DeepMind's code:

    | parameter | distribution |
    |---|---|
    | latents, the query of `head="query"` | normal, std `initializer_range`, cut at 2 std |
    | linear layers, convolutions | normal, cut at 2 std, so that the std is 1 / sqrt(fan in) |
    | biases, and the weights of the classifier of `head="mean"` | 0 |
    | layer norms, batch norms | 1 and 0 |
    """

    config: IterativePerceiverConfig
    base_model_prefix = "perceiver"
    supports_gradient_checkpointing = True
    _no_split_modules = ["QueryDecoder", "PerceiverCrossAttentionLayer", "PerceiverSelfAttentionLayer"]  # noqa: RUF012
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True
    _can_compile_fullgraph = True
    _can_record_outputs = {  # noqa: RUF012
        "hidden_states": PerceiverLayer,
        "attentions": PerceiverSelfAttention,
        "cross_attentions": PerceiverCrossAttention,
    }

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, (nn.Linear, nn.Conv2d)):
            if module is getattr(self, "classifier", None) and self.config.head == "mean":
                init.zeros_(module.weight)
            else:
                init_truncated_normal(module.weight, module.weight[0].numel() ** -0.5 / TRUNCATED_STD)
            if module.bias is not None:
                init.zeros_(module.bias)
        else:
            super()._init_weights(module)
        if isinstance(module, PerceiverEncoder):
            init_truncated_normal(module.latents, self.config.initializer_range)
        elif isinstance(module, QueryDecoder):
            init_truncated_normal(module.query, self.config.initializer_range)


class IterativePerceiverModel(IterativePerceiverPreTrainedModel):
    """Inputs -> latents. A modality defines `forward`, which turns its tensors into [`PerceiverInputs`]."""

    def __init__(self, config: IterativePerceiverConfig):
        super().__init__(config)
        self.encoder = PerceiverEncoder(config)

    def get_input_embeddings(self) -> nn.Module:
        """The module whose output is the first hidden state, as nothing embeds the inputs themselves."""
        return self.encoder.repeat_latents

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.encoder.repeat_latents = value  # type: ignore[assignment]

    def encode(
        self, inputs: PerceiverInputs, **kwargs: Unpack[TransformersKwargs]
    ) -> BaseModelOutputWithCrossAttentions:
        """Applies the encoder: `last_hidden_state` is the latents (B, N, D)."""
        return BaseModelOutputWithCrossAttentions(last_hidden_state=self.encoder(inputs, **kwargs))


@dataclass
class IterativePerceiverClassifierOutput(ModelOutput):
    """Output of every classification head.

    Args:
        loss: Scalar, if labels are given.
        logits: (B, num_labels), before the softmax or sigmoid.
        hidden_states: With `output_hidden_states=True`, the latents (B, N, D) at first and after every layer.
        attentions: With `output_attentions=True`, (B, H, N, N) per self-attention layer.
        cross_attentions: With `output_attentions=True`, (B, H, N, M) per cross-attend.
    """

    loss: torch.Tensor | None = None
    logits: torch.Tensor | None = None
    hidden_states: tuple[torch.Tensor, ...] | None = None
    attentions: tuple[torch.Tensor, ...] | None = None
    cross_attentions: tuple[torch.Tensor, ...] | None = None


class IterativePerceiverForClassification(IterativePerceiverPreTrainedModel):
    """Latents -> logits. A modality gives the body, `self.perceiver`."""

    def __init__(self, config: IterativePerceiverConfig, body: type[IterativePerceiverModel]):
        super().__init__(config)
        self.perceiver = body(config)
        self.pooler = QueryDecoder(config) if config.head == "query" else MeanPooler()
        self.classifier = nn.Linear(config.d_latents, config.num_labels)  # type: ignore[arg-type]
        self.loss_function = classification_loss
        self.post_init()

    def classify(
        self,
        outputs: BaseModelOutputWithCrossAttentions,
        labels: torch.Tensor | None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> IterativePerceiverClassifierOutput:
        """Applies the head to the body's outputs, and the loss if there are labels."""
        logits = self.classifier(self.pooler(outputs.last_hidden_state))
        loss = None if labels is None else self.loss_function(labels, logits, self.config, **kwargs)
        return IterativePerceiverClassifierOutput(
            loss=loss,
            logits=logits,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
            cross_attentions=outputs.cross_attentions,
        )


__all__ = [
    "InputStream",
    "IterativePerceiverClassifierOutput",
    "IterativePerceiverForClassification",
    "IterativePerceiverModel",
    "IterativePerceiverPreTrainedModel",
    "PerceiverEncoder",
    "PerceiverInputs",
]
