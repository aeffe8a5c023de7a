"""The Perceiver from inputs to logits, for any modality; read it from top to bottom as the paper's figure 1.

A small latent array (N, D) attends to a large input array (M, C), then to itself, block after block; the answer is
read from the latents. *Perceiver: General Perception with Iterative Attention*, arXiv 2103.03206.

Letters: B batch, M inputs, N latents, C channels of an input, D channels of a latent, H heads.

As DeepMind's released code, with two differences: the cross-attends are repeated as in the paper (the released encoder
has one), and GELU is exact instead of its tanh approximation.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import initialization as init
from transformers.activations import ACT2FN
from transformers.masking_utils import create_bidirectional_mask
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import BaseModelOutputWithCrossAttentions, ModelOutput
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.processing_utils import Unpack
from transformers.utils import TransformersKwargs

from .classification_loss import classification_loss
from .configuration_iterative_perceiver import IterativePerceiverConfig
from .positions import DensePositions, GridPositions
from .safetensors_only import SafetensorsPreTrainedModel
from .structured_inputs import AbsorbedInputs, FactoredInputs, InputsNorm, StructuredInputs

# The standard deviation of a standard normal distribution that is cut at two standard deviations.
TRUNCATED_STD = 0.87962566103423978


def init_truncated_normal(parameter: torch.Tensor, std: float) -> None:
    """Fills a parameter from a normal distribution that is cut at two standard deviations."""
    init.trunc_normal_(parameter, std=std, a=-2 * std, b=2 * std)


@dataclass
class PerceiverInputs:
    """The input array of the paper, content and positions not yet concatenated.

    Attributes:
        content: (B, M, C_c), what the inputs are.
        positions: where they are; C = C_c + C_p.
        mask: (B, M) bool, True where there is an input; `None` is everywhere.
    """

    content: torch.Tensor
    positions: GridPositions | DensePositions
    mask: torch.Tensor | None = None

    def dense(self, dtype: torch.dtype | None = None) -> torch.Tensor:
        """(B, M, C): content, then position; in the content's type unless another is named."""
        content = self.content if dtype is None else self.content.to(dtype)
        positions = self.positions.dense().to(content.dtype)
        return torch.cat([content, positions.expand(content.shape[0], -1, -1)], dim=-1)


def eager_attention_forward(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float,
    dropout: float = 0.0,
    **kwargs: Unpack[TransformersKwargs],
) -> tuple[torch.Tensor, torch.Tensor]:
    """(B, H, N, d), (B, H, M, d), (B, H, M, d_v) -> (B, N, H, d_v) and the attention weights (B, H, N, M)."""
    scores = torch.matmul(query, key.transpose(2, 3)) * scaling
    if attention_mask is not None:
        # Weights may be asked for under another implementation, whose mask is boolean.
        is_boolean = attention_mask.dtype == torch.bool
        scores = scores.masked_fill(~attention_mask, float("-inf")) if is_boolean else scores + attention_mask
    dtype = torch.promote_types(scores.dtype, torch.float32)
    weights = nn.functional.softmax(scores, dim=-1, dtype=dtype).to(query.dtype)
    weights = nn.functional.dropout(weights, p=dropout, training=module.training)
    return torch.matmul(weights, value).transpose(1, 2).contiguous(), weights


def wants_attentions(config: IterativePerceiverConfig, kwargs: Mapping[str, Any]) -> bool:
    """Whether the attention weights are asked for."""
    return bool(kwargs.get("output_attentions", config.output_attentions))


def attention_implementation(config: IterativePerceiverConfig, kwargs: Mapping[str, Any]) -> str:
    """The configured implementation, or, where the weights are asked for, the one that has them."""
    return "eager" if wants_attentions(config, kwargs) else config._attn_implementation


class PerceiverSelfAttention(nn.Module):
    """Latents attend to latents: (B, N, D) -> (B, N, D)."""

    def __init__(self, config: IterativePerceiverConfig):
        super().__init__()
        self.config = config
        self.head_dim = config.d_latents // config.num_self_attention_heads
        self.scaling = self.head_dim**-0.5
        self.is_causal = False
        self.q_proj = nn.Linear(config.d_latents, config.d_latents)
        self.k_proj = nn.Linear(config.d_latents, config.d_latents)
        self.v_proj = nn.Linear(config.d_latents, config.d_latents)
        self.o_proj = nn.Linear(config.d_latents, config.d_latents)

    def forward(
        self, latents: torch.Tensor, **kwargs: Unpack[TransformersKwargs]
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        heads = (*latents.shape[:-1], -1, self.head_dim)
        query = self.q_proj(latents).view(heads).transpose(1, 2)
        key = self.k_proj(latents).view(heads).transpose(1, 2)
        value = self.v_proj(latents).view(heads).transpose(1, 2)
        implementation = attention_implementation(self.config, kwargs)
        attend: Callable = ALL_ATTENTION_FUNCTIONS.get_interface(implementation, eager_attention_forward)
        dropout = self.config.attention_dropout if self.training else 0.0
        attended, weights = attend(self, query, key, value, None, scaling=self.scaling, dropout=dropout, **kwargs)
        return self.o_proj(attended.reshape(latents.shape)), weights


class PerceiverCrossAttention(nn.Module):
    """Queries attend to inputs: (B, N, D), M inputs of C channels -> (B, N, D).

    How the inputs are read is theirs to know, see [`DenseInputs`]; the weights are here.
    """

    def __init__(
        self, config: IterativePerceiverConfig, input_channels: int, qk_channels: int, v_channels: int, num_heads: int
    ):
        super().__init__()
        self.config = config
        self.num_heads = num_heads
        self.scaling = (qk_channels // num_heads) ** -0.5
        self.is_causal = False
        self.inputs_norm = InputsNorm(input_channels, eps=config.layer_norm_eps)
        self.q_proj = nn.Linear(config.d_latents, qk_channels)
        self.k_proj = nn.Linear(input_channels, qk_channels)
        self.v_proj = nn.Linear(input_channels, v_channels)
        self.o_proj = nn.Linear(v_channels, config.d_latents)

    def split_heads(self, channels: torch.Tensor) -> torch.Tensor:
        """(B, L, H d) -> (B, H, L, d)."""
        return channels.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)

    def forward(
        self,
        latents: torch.Tensor,
        inputs: "DenseInputs | StructuredInputs",
        projected=None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> tuple[torch.Tensor, torch.Tensor | None, tuple[torch.Tensor, ...]]:
        """`projected` is what an attend with the same weights made of the inputs; it is the last of the results."""
        if projected is None:
            projected = inputs.project(self)
        query = self.split_heads(self.q_proj(latents))
        attended, weights = inputs.attend(self, query, projected, **kwargs)  # (B, N, H, d_v)
        return self.o_proj(attended.flatten(2)), weights, projected


class DenseInputs:
    """Reads the inputs as the paper writes it: a key and a value each, through transformers' attention interface.

    Args:
        inputs: the inputs.
        latents: (B, N, D), for their number.
        config: names the attention implementation.
    """

    def __init__(self, inputs: PerceiverInputs, latents: torch.Tensor, config: IterativePerceiverConfig):
        self.array = inputs.dense()
        self.attention_mask, self.empty = None, None
        if inputs.mask is not None:
            # An example without any input attends to nothing and gets zeros, as in DeepMind's code. The softmax still
            # needs something to add up, or its gradient is NaN.
            self.empty = ~inputs.mask.any(dim=1, keepdim=True)
            self.attention_mask = create_bidirectional_mask(
                config=config,
                inputs_embeds=latents,
                attention_mask=inputs.mask | self.empty,
                encoder_hidden_states=self.array,
            )

    def project(self, attention: PerceiverCrossAttention) -> tuple[torch.Tensor, torch.Tensor]:
        """Keys (B, H, M, d) and values (B, H, M, d_v)."""
        inputs = attention.inputs_norm(self.array)
        return attention.split_heads(attention.k_proj(inputs)), attention.split_heads(attention.v_proj(inputs))

    def attend(
        self,
        attention: PerceiverCrossAttention,
        query: torch.Tensor,
        projected: tuple[torch.Tensor, torch.Tensor],
        **kwargs: Unpack[TransformersKwargs],
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """(B, H, N, d) -> (B, N, H, d_v) and, where the implementation has them, the weights (B, H, N, M)."""
        key, value = projected
        config, mask = attention.config, self.attention_mask
        implementation = attention_implementation(config, kwargs)
        if "flash" in implementation and not fits_flash_attention(query, value):
            implementation = "sdpa"
            mask = mask[:, None, None, :].bool() if torch.is_tensor(mask) else None
        attend: Callable = ALL_ATTENTION_FUNCTIONS.get_interface(implementation, eager_attention_forward)
        dropout = config.attention_dropout if attention.training else 0.0
        attended, weights = attend(
            attention, query, key, value, mask, scaling=attention.scaling, dropout=dropout, **kwargs
        )
        if self.empty is not None:
            attended = attended.masked_fill(self.empty[..., None, None], 0.0)
        return attended, weights


def fits_flash_attention(query: torch.Tensor, value: torch.Tensor) -> bool:
    """Flash attention takes heads of up to 256 channels, and crops values that are wider than the queries."""
    return query.shape[-1] == value.shape[-1] <= 256 and query.shape[-1] % 8 == 0


INPUT_READERS: dict[str, type[DenseInputs] | type[AbsorbedInputs] | type[FactoredInputs]] = {
    "dense": DenseInputs,
    "absorbed": AbsorbedInputs,
    "factored": FactoredInputs,
}


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
    """What a hidden state is recorded after: a cross-attend or a self-attend."""


class PerceiverSelfAttend(PerceiverLayer):
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


class PerceiverCrossAttend(PerceiverLayer):
    """The latents take in the inputs: (B, N, D), inputs -> (B, N, D), and the projected inputs for the next attend
    with the same weights."""

    def __init__(self, config: IterativePerceiverConfig, attention: PerceiverCrossAttention, widening_factor: int):
        super().__init__()
        self.attention_norm = nn.LayerNorm(config.d_latents, eps=config.layer_norm_eps)
        self.attention = attention
        self.mlp_norm = nn.LayerNorm(config.d_latents, eps=config.layer_norm_eps)
        self.mlp = PerceiverMLP(config, widening_factor)

    @classmethod
    def to_inputs(cls, config: IterativePerceiverConfig) -> "PerceiverCrossAttend":
        """As the encoder has it: widths and heads are configured."""
        attention = PerceiverCrossAttention(
            config,
            config.input_channels,
            config.cross_qk_channels,
            config.cross_v_channels,
            config.num_cross_attention_heads,
        )
        return cls(config, attention, config.cross_attention_widening_factor)

    @classmethod
    def to_latents(cls, config: IterativePerceiverConfig) -> "PerceiverCrossAttend":
        """As Perceiver IO's classification decoder has it: one head, and all widths are a latent's."""
        width = config.d_latents
        return cls(config, PerceiverCrossAttention(config, width, width, width, num_heads=1), widening_factor=1)

    def forward(
        self,
        latents: torch.Tensor,
        inputs: DenseInputs | StructuredInputs,
        projected=None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> tuple[torch.Tensor, tuple[torch.Tensor, ...]]:
        attended, _, projected = self.attention(self.attention_norm(latents), inputs, projected, **kwargs)
        latents = latents + attended
        return latents + self.mlp(self.mlp_norm(latents)), projected


class PerceiverEncoder(nn.Module):
    """Inputs -> latents (B, N, D): cross-attends interleaved with the blocks of the latent transformer."""

    def __init__(self, config: IterativePerceiverConfig):
        super().__init__()
        self.config = config
        distinct = {"none": config.num_cross_attends, "after_first": 2, "all": 1}[config.share_cross_attends]
        self.latents = nn.Parameter(torch.empty(config.num_latents, config.d_latents))
        # Every set of weights is registered once, and applied as often as the schedule says.
        self.cross_attends = nn.ModuleList(
            PerceiverCrossAttend.to_inputs(config) for _ in range(min(distinct, config.num_cross_attends))
        )
        self.blocks = nn.ModuleList(
            nn.ModuleList(PerceiverSelfAttend(config) for _ in range(config.num_self_attends_per_block))
            for _ in range(1 if config.share_blocks else config.num_blocks)
        )

    def read(
        self, inputs: PerceiverInputs, latents: torch.Tensor, kwargs: Mapping[str, Any]
    ) -> "DenseInputs | StructuredInputs":
        """The inputs, ready to be attended to as configured, or in the cheapest way that gives what was asked.

        Raises:
            ValueError: if the configured way cannot give what was asked.
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
        return INPUT_READERS[implementation](inputs, latents, self.config)

    def cheapest_implementation(self, inputs: PerceiverInputs) -> str:
        """By the measured times, see docs/cross_attention.md."""
        norms = [attend.attention.inputs_norm for attend in self.cross_attends]  # type: ignore[union-attr]
        if not all(type(norm) is InputsNorm for norm in norms):
            return "dense"  # somebody replaced a norm, and only dense calls it
        inputs_a_channel = inputs.content.shape[1] / self.config.input_channels
        if isinstance(inputs.positions, GridPositions):
            return "factored" if inputs_a_channel >= 3.5 else "dense"
        # A head's absorbed query is as wide as the inputs, so many heads are better off with keys and values.
        return "absorbed" if inputs_a_channel >= 16 and self.config.num_cross_attention_heads == 1 else "dense"

    def forward(self, inputs: PerceiverInputs, **kwargs: Unpack[TransformersKwargs]) -> torch.Tensor:
        latents = self.latents.expand(inputs.content.shape[0], -1, -1)
        readable = self.read(inputs, latents, kwargs)
        blocks_per_cross_attend = self.config.num_blocks // self.config.num_cross_attends
        last_cross_attend, projected = None, None
        for index in range(self.config.num_blocks):
            if index % blocks_per_cross_attend == 0:
                cross_attend = self.cross_attends[min(index // blocks_per_cross_attend, len(self.cross_attends) - 1)]
                if cross_attend is not last_cross_attend:
                    last_cross_attend, projected = cross_attend, None
                latents, projected = cross_attend(latents, readable, projected, **kwargs)
            for self_attend in self.blocks[min(index, len(self.blocks) - 1)]:  # type: ignore[attr-defined]
                latents = self_attend(latents, **kwargs)
        return latents


class LatentMean(nn.Module):
    """The paper's answer: the mean over the latents, (B, N, D) -> (B, D)."""

    def forward(self, latents: torch.Tensor) -> torch.Tensor:
        return latents.mean(dim=1)


class LatentQuery(nn.Module):
    """The answer of Perceiver IO: a learned query attends to the latents, (B, N, D) -> (B, D)."""

    def __init__(self, config: IterativePerceiverConfig):
        super().__init__()
        self.config = config
        self.query = nn.Parameter(torch.empty(1, config.d_latents))
        self.cross_attend = PerceiverCrossAttend.to_latents(config)

    def forward(self, latents: torch.Tensor) -> torch.Tensor:
        query = self.query.expand(latents.shape[0], -1, -1)
        nowhere = DensePositions(latents.new_empty(1, latents.shape[1], 0))
        readable = DenseInputs(PerceiverInputs(latents, nowhere), query, self.config)
        return self.cross_attend(query, readable)[0].squeeze(1)


class IterativePerceiverPreTrainedModel(SafetensorsPreTrainedModel):
    """Initialisation, and what the models of all modalities can do.

    Initialised as DeepMind's code:

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
    _no_split_modules = ["LatentQuery", "PerceiverCrossAttend", "PerceiverSelfAttend"]  # noqa: RUF012
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
        elif isinstance(module, LatentQuery):
            init_truncated_normal(module.query, self.config.initializer_range)


class IterativePerceiverModel(IterativePerceiverPreTrainedModel):
    """Inputs -> latents. A modality gives `forward`, which makes [`PerceiverInputs`] of its tensors."""

    def __init__(self, config: IterativePerceiverConfig):
        super().__init__(config)
        self.encoder = PerceiverEncoder(config)

    def encode(
        self, inputs: PerceiverInputs, **kwargs: Unpack[TransformersKwargs]
    ) -> BaseModelOutputWithCrossAttentions:
        return BaseModelOutputWithCrossAttentions(last_hidden_state=self.encoder(inputs, **kwargs))


@dataclass
class IterativePerceiverClassifierOutput(ModelOutput):
    """
    Args:
        loss: scalar, when labels are given.
        logits: (B, num_labels), before the softmax or sigmoid.
        hidden_states: with `output_hidden_states=True`, the latents (B, N, D) at first and after every layer.
        attentions: with `output_attentions=True`, (B, H, N, N) a self-attention layer.
        cross_attentions: with `output_attentions=True`, (B, H, N, M) a cross-attend.
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
        self.pooler = LatentQuery(config) if config.head == "query" else LatentMean()
        self.classifier = nn.Linear(config.d_latents, config.num_labels)  # type: ignore[arg-type]
        self.loss_function = classification_loss
        self.post_init()

    def classify(
        self,
        outputs: BaseModelOutputWithCrossAttentions,
        labels: torch.Tensor | None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> IterativePerceiverClassifierOutput:
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
    "IterativePerceiverClassifierOutput",
    "IterativePerceiverForClassification",
    "IterativePerceiverModel",
    "IterativePerceiverPreTrainedModel",
    "PerceiverEncoder",
    "PerceiverInputs",
]
