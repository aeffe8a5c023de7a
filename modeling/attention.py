"""The attentions of the Perceiver: latents to latents, and latents to inputs in three ways that give the same answer.

Input m is x_m = [content c_m ; position p_m], C channels wide. Its layer norm is (x_m - mu_m) / sigma_m * gamma + beta
and its key is W_k times that. For a query q let u = gamma * (W_k^T q) / sqrt(d), and u' = u - mean(u). What is equal
for all m cancels in the softmax, and subtracting the mean from u or from x_m is the same, so

    score(q, m) = u . (x_m - mu_m) / sigma_m = u' . x_m / sigma_m.

Dense: the paper's text, with a key and a value for every input.
Absorbed: W_k is applied to the N queries instead of the M inputs, so no input needs a key or a value.
Factored: u' . x_m is a content part plus a position part, and on a grid the position part is a sum of one number per
axis, so the inputs are never put together to C channels either.

The attended value is W_v (gamma * v + beta) + b_v with v = sum_m softmax_m (x_m - mu_m) / sigma_m: the value
projection is applied to the N results instead of the M inputs.

Letters: B batch, H heads, N latents, M inputs, C channels of an input, D channels of a latent, d channels of a head.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers.masking_utils import create_bidirectional_mask
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.processing_utils import Unpack
from transformers.utils import TransformersKwargs

from .configuration_iterative_perceiver import IterativePerceiverConfig
from .factored_attention import factored_attention
from .positions import DensePositions, GridPositions, at_least_float32


@dataclass
class InputStream:
    """Inputs of one kind, such as the pixels of an image: content and positions, not yet concatenated.

    Attributes:
        content: (B, M, C_c), what the inputs are.
        positions: Where they are, C_p channels; C = C_c + C_p.
        mask: (B, M) bool, True where there is an input; `None` is everywhere.
    """

    content: torch.Tensor
    positions: GridPositions | DensePositions
    mask: torch.Tensor | None = None

    @property
    def num_channels(self) -> int:
        """C, the channels of an input."""
        return self.content.shape[-1] + self.positions.num_channels

    def dense(self, dtype: torch.dtype) -> torch.Tensor:
        """(B, M, C): content, then position."""
        content, positions = self.content.to(dtype), self.positions.dense().to(dtype)
        return torch.cat([content, positions.expand(content.shape[0], -1, -1)], dim=-1)

    def mask_or_ones(self) -> torch.Tensor:
        """(B, M) bool, also where `mask` is `None`."""
        everywhere = torch.ones(self.content.shape[:2], dtype=torch.bool, device=self.content.device)
        return everywhere if self.mask is None else self.mask


class PerceiverInputs:
    """The input array of the paper: one stream of inputs, or several that follow each other.

    Args:
        streams: One [`InputStream`] or more, all with the same batch size and the same number of channels C.

    Raises:
        TypeError: If there is no stream, or something else.
        ValueError: If the numbers of channels differ.
    """

    def __init__(self, *streams: InputStream):
        if not streams or not all(isinstance(stream, InputStream) for stream in streams):
            got = ", ".join(type(stream).__name__ for stream in streams) or "none"
            raise TypeError(f"`PerceiverInputs` takes one `InputStream` or more, got {got}.")
        channels = [stream.num_channels for stream in streams]
        if len(set(channels)) > 1:
            raise ValueError(f"All streams must have the same number of channels, got {channels}.")
        self.streams = streams

    @property
    def batch_size(self) -> int:
        """B."""
        return self.streams[0].content.shape[0]

    @property
    def num_inputs(self) -> int:
        """M, the inputs of all streams."""
        return sum(stream.content.shape[1] for stream in self.streams)

    @property
    def mask(self) -> torch.Tensor | None:
        """(B, M) bool, True where there is an input; `None` is everywhere."""
        if all(stream.mask is None for stream in self.streams):
            return None
        return concatenate_streams([stream.mask_or_ones() for stream in self.streams])

    @property
    def grid(self) -> GridPositions | None:
        """The positions of a single stream on a grid, which the factored form needs; `None` otherwise."""
        positions = self.streams[0].positions
        return positions if len(self.streams) == 1 and isinstance(positions, GridPositions) else None

    def dense(self, dtype: torch.dtype | None = None) -> torch.Tensor:
        """(B, M, C): content, then position; in the content's type unless another is given."""
        dtype = dtype or self.streams[0].content.dtype
        return concatenate_streams([stream.dense(dtype) for stream in self.streams])


def concatenate_streams(tensors: list[torch.Tensor]) -> torch.Tensor:
    """(B, M_s, ...) of each stream -> (B, M, ...)."""
    return tensors[0] if len(tensors) == 1 else torch.cat(tensors, dim=1)  # `cat` copies even a single tensor


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
        # Weights may be requested under another implementation, whose mask is boolean.
        is_boolean = attention_mask.dtype == torch.bool
        scores = scores.masked_fill(~attention_mask, float("-inf")) if is_boolean else scores + attention_mask
    weights = nn.functional.softmax(at_least_float32(scores), dim=-1).to(query.dtype)
    weights = nn.functional.dropout(weights, p=dropout, training=module.training)
    return torch.matmul(weights, value).transpose(1, 2).contiguous(), weights


def wants_attentions(config: IterativePerceiverConfig, kwargs: Mapping[str, Any]) -> bool:
    """Whether the attention weights are requested."""
    return bool(kwargs.get("output_attentions", config.output_attentions))


def attention_implementation(config: IterativePerceiverConfig, kwargs: Mapping[str, Any]) -> str:
    """The configured implementation or, if the weights are requested, the one that returns them."""
    return "eager" if wants_attentions(config, kwargs) else config._attn_implementation


def split_heads(channels: torch.Tensor, num_heads: int) -> torch.Tensor:
    """(B, L, H d) -> (B, H, L, d)."""
    return channels.unflatten(-1, (num_heads, -1)).transpose(1, 2)


class PerceiverSelfAttention(nn.Module):
    """Latents attend to latents: (B, N, D) -> (B, N, D)."""

    def __init__(self, config: IterativePerceiverConfig):
        super().__init__()
        self.config = config
        self.num_heads = config.num_self_attention_heads
        self.scaling = (config.d_latents // self.num_heads) ** -0.5
        self.is_causal = False
        self.q_proj = nn.Linear(config.d_latents, config.d_latents)
        self.k_proj = nn.Linear(config.d_latents, config.d_latents)
        self.v_proj = nn.Linear(config.d_latents, config.d_latents)
        self.o_proj = nn.Linear(config.d_latents, config.d_latents)

    def forward(
        self, latents: torch.Tensor, **kwargs: Unpack[TransformersKwargs]
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        query = split_heads(self.q_proj(latents), self.num_heads)
        key = split_heads(self.k_proj(latents), self.num_heads)
        value = split_heads(self.v_proj(latents), self.num_heads)
        implementation = attention_implementation(self.config, kwargs)
        attend: Callable = ALL_ATTENTION_FUNCTIONS.get_interface(implementation, eager_attention_forward)
        dropout = self.config.attention_dropout if self.training else 0.0
        attended, weights = attend(self, query, key, value, None, scaling=self.scaling, dropout=dropout, **kwargs)
        return self.o_proj(attended.reshape(latents.shape)), weights


class InputsNorm(nn.LayerNorm):
    """The layer norm of the inputs, (B, M, C) -> (B, M, C); without an argument it returns its scale and offset (C).

    Called rather than read from `.weight`, so that offload hooks and FSDP can materialise the parameters. They are
    copied, as they may be released again after the call.
    """

    def forward(self, input: torch.Tensor | None = None) -> Any:
        if input is None:
            return self.weight.clone(), self.bias.clone()
        return super().forward(input)


class PerceiverCrossAttention(nn.Module):
    """Queries attend to inputs: (B, N, D), M inputs of C channels -> (B, N, D).

    Holds the projections; the implementation decides how the attention is computed.
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

    def forward(
        self,
        latents: torch.Tensor,
        attend: "DenseAttention | StructuredAttention",
        projected: tuple[torch.Tensor, ...] | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> tuple[torch.Tensor, torch.Tensor | None, tuple[torch.Tensor, ...]]:
        """Attends to the inputs.

        Args:
            latents: (B, N, D).
            attend: One of `CROSS_ATTENTION_IMPLEMENTATIONS`, prepared for the inputs.
            projected: What an earlier layer that shares these weights returned as the third item.
            kwargs: Of the attention interface.

        Returns:
            The attended latents (B, N, D), the weights (B, H, N, M) if requested, and what the implementation keeps
            for later layers that share these weights.
        """
        query = split_heads(self.q_proj(latents), self.num_heads)
        attended, weights, projected = attend(self, query, projected, **kwargs)  # (B, N, H, d_v)
        return self.o_proj(attended.flatten(2)), weights, projected


class DenseAttention:
    """The paper's text: a key and a value for every input, through transformers' attention interface.

    Args:
        inputs: The inputs.
        latents: (B, N, D), for their number.
        config: Names the attention implementation.
    """

    def __init__(self, inputs: PerceiverInputs, latents: torch.Tensor, config: IterativePerceiverConfig):
        self.array, mask = inputs.dense(), inputs.mask
        self.attention_mask, self.empty = None, None
        if mask is not None:
            # An example without any input attends to nothing and gets zeros, as in DeepMind's code. The softmax still
            # needs something to sum, or its gradient is NaN.
            self.empty = ~mask.any(dim=1, keepdim=True)
            self.attention_mask = create_bidirectional_mask(
                config=config,
                inputs_embeds=latents,
                attention_mask=mask | self.empty,
                encoder_hidden_states=self.array,
            )

    def __call__(
        self,
        module: PerceiverCrossAttention,
        query: torch.Tensor,
        projected: tuple[torch.Tensor, ...] | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> tuple[torch.Tensor, torch.Tensor | None, tuple[torch.Tensor, ...]]:
        """Attends with a query (B, H, N, d).

        Returns:
            The attended values (B, N, H, d_v), the weights (B, H, N, M) if the attention interface returns them, and
            the keys (B, H, M, d) and values (B, H, M, d_v).
        """
        if projected is None:
            inputs = module.inputs_norm(self.array)
            projected = tuple(split_heads(p(inputs), module.num_heads) for p in (module.k_proj, module.v_proj))
        key, value = projected
        config, mask = module.config, self.attention_mask
        implementation = attention_implementation(config, kwargs)
        if "flash" in implementation and not fits_flash_attention(query, value):
            implementation = "sdpa"
            mask = mask[:, None, None, :].bool() if torch.is_tensor(mask) else None
        attend: Callable = ALL_ATTENTION_FUNCTIONS.get_interface(implementation, eager_attention_forward)
        dropout = config.attention_dropout if module.training else 0.0
        attended, weights = attend(module, query, key, value, mask, scaling=module.scaling, dropout=dropout, **kwargs)
        if self.empty is not None:
            attended = attended.masked_fill(self.empty[..., None, None], 0.0)
        return attended, weights, projected


def fits_flash_attention(query: torch.Tensor, value: torch.Tensor) -> bool:
    """Flash attention takes heads of up to 256 channels, and crops values that are wider than the queries."""
    return query.shape[-1] == value.shape[-1] <= 256 and query.shape[-1] % 8 == 0


class StructuredAttention(ABC):
    """What the absorbed and the factored form share: the projections of queries and results, instead of the inputs."""

    def __init__(self, inputs: PerceiverInputs):
        # An example without any input attends to nothing and gets zeros, as in the dense form.
        mask = inputs.mask
        self.empty = None if mask is None else ~mask.any(dim=1)

    @abstractmethod
    def attended_inputs(self, query: torch.Tensor) -> torch.Tensor:
        """(B, H, N, C) -> (B, H, N, C), at least float32: u of the queries -> v."""

    def __call__(
        self,
        module: PerceiverCrossAttention,
        query: torch.Tensor,
        projected: tuple[torch.Tensor, ...] | None = None,
        **kwargs: Any,
    ) -> tuple[torch.Tensor, None, tuple[torch.Tensor, ...]]:
        """Attends with a query (B, H, N, d).

        Returns:
            The attended values (B, N, H, d_v), no weights, and the projections of [`absorbed_projections`].
        """
        if projected is None:
            projected = absorbed_projections(module)
        key_weight, value_weight, value_bias = projected
        with torch.autocast(query.device.type, enabled=False):
            attended = self.attended_inputs(at_least_float32(query) @ key_weight)
            values = (attended @ value_weight + value_bias).to(query.dtype)
        if self.empty is not None:
            values = values.masked_fill(self.empty[:, None, None, None], 0.0)
        return values.transpose(1, 2), None, projected


def absorbed_projections(module: PerceiverCrossAttention) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """What turns a query into u (H, d, C), and v into a value: weight (H, C, d_v) and bias (H, 1, d_v)."""
    heads, (norm_weight, norm_bias) = module.num_heads, module.inputs_norm()
    with torch.autocast(norm_weight.device.type, enabled=False):
        # Weights as they are applied.
        gamma, beta = at_least_float32(norm_weight), at_least_float32(norm_bias)
        key_weight, _ = affine_map(module.k_proj, norm_weight)
        value_weight, value_bias = affine_map(module.v_proj, norm_weight)
        # gamma and beta move into them.
        key_weight = (key_weight * gamma[:, None] * module.scaling).unflatten(1, (heads, -1))
        value_bias = (beta @ value_weight + value_bias).unflatten(0, (heads, 1, -1))
        value_weight = (value_weight * gamma[:, None]).unflatten(1, (heads, -1))
    return key_weight.permute(1, 2, 0), value_weight.transpose(0, 1), value_bias


def affine_map(projection: nn.Module, norm_weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Weight (C, out) and bias (out) of a projection of the C channels of a norm, at least float32.

    Recovers W and b by calling the projection on the identity and on zero, so that LoRA adapters and quantised layers
    are respected.
    """
    weight = getattr(projection, "weight", norm_weight)
    dtype = weight.dtype if weight.is_floating_point() else norm_weight.dtype
    channels = norm_weight.shape[0]
    basis = torch.eye(channels + 1, channels, dtype=dtype, device=norm_weight.device)
    # Next to a large power of two, the bias takes no bit away from a half-precision weight.
    large = 2.0 ** int(math.log2(torch.finfo(dtype).max) / 2)
    images = at_least_float32(projection(basis * large))
    return (images[:-1] - images[-1:]) / large, images[-1]


class AbsorbedAttention(StructuredAttention):
    """Inputs at any positions: the normalised inputs (B, M, C) are both key and value, for all cross-attends."""

    def __init__(self, inputs: PerceiverInputs, latents: torch.Tensor, config: IterativePerceiverConfig):
        super().__init__(inputs)
        dtype = inputs.streams[0].content.dtype
        array = inputs.dense(torch.promote_types(dtype, torch.float32))
        normalized = nn.functional.layer_norm(array, array.shape[-1:], eps=config.layer_norm_eps)
        self.normalized = normalized.to(dtype).unsqueeze(1)
        mask = inputs.mask
        self.mask = None if mask is None else (mask | ~mask.any(dim=1, keepdim=True))[:, None, None, :]

    def attended_inputs(self, query: torch.Tensor) -> torch.Tensor:
        inputs = self.normalized.expand(-1, query.shape[1], -1, -1)
        attended = nn.functional.scaled_dot_product_attention(
            query.to(inputs.dtype), inputs, inputs, attn_mask=self.mask, scale=1.0
        )
        return at_least_float32(attended)


class FactoredAttention(StructuredAttention):
    """Inputs on a grid: all it keeps is the content (B, M, C_c), one table per axis and 1 / sigma (B, M)."""

    def __init__(self, inputs: PerceiverInputs, latents: torch.Tensor, config: IterativePerceiverConfig):
        super().__init__(inputs)
        if inputs.grid is None:
            raise ValueError(
                'cross_attention_implementation="factored" needs inputs on a grid, got several streams or positions '
                'that form none; use "auto" or "absorbed".'
            )
        (stream,) = inputs.streams
        self.positions, self.mask = inputs.grid, stream.mask
        self.content = at_least_float32(stream.content)
        # 1 / sigma from the sums of the content and of each axis.
        mean = self.sum_over_channels(self.content, self.positions.sums) / stream.num_channels
        mean_square = self.sum_over_channels(self.content.square(), self.positions.square_sums) / stream.num_channels
        self.inverse_sigma = (mean_square - mean.square() + config.layer_norm_eps).rsqrt()

    def sum_over_channels(self, content: torch.Tensor, axis_sums: tuple[torch.Tensor, ...]) -> torch.Tensor:
        """(B, M): the sum over the channels of every input; a position's is the sum of one number per axis."""
        total = content.sum(-1).unflatten(1, self.positions.sizes)
        for axis, sums in enumerate(axis_sums):
            total = total + self.positions.over_grid(axis, sums)
        return total.flatten(1)

    def attended_inputs(self, query: torch.Tensor) -> torch.Tensor:
        heads, latents = query.shape[1:3]
        # u', as content and position.
        centred = (query - query.mean(dim=-1, keepdim=True)).flatten(1, 2)
        content_query, position_query = centred.split([self.content.shape[-1], self.positions.num_channels], dim=-1)
        content_query = content_query.contiguous()  # a view would keep all of `centred` for the backward pass
        # Scores of the position along each axis.
        tables = self.positions.tables
        axis_queries = self.positions.split(position_query)
        axis_scores = [axis_query @ table.mT for axis_query, table in zip(axis_queries, tables, strict=True)]
        # Softmax over all inputs.
        content, marginals = factored_attention(
            content_query, axis_scores, self.content, self.inverse_sigma, self.mask
        )
        # Positions from the marginals.
        positions = self.positions.join([marginal @ table for marginal, table in zip(marginals, tables, strict=True)])
        attended = torch.cat([content, positions], dim=-1)
        # The mean over channels is linear, so the mean of the sum is the sum of the inputs' means.
        return (attended - attended.mean(dim=-1, keepdim=True)).unflatten(1, (heads, latents))


CROSS_ATTENTION_IMPLEMENTATIONS: dict[str, Callable[..., DenseAttention | StructuredAttention]] = {
    "dense": DenseAttention,
    "absorbed": AbsorbedAttention,
    "factored": FactoredAttention,
}
