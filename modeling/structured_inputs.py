"""Two ways to read the inputs that use their structure, with exactly the answer of the paper's text.

Input m is x_m = [content c_m ; position p_m], C channels wide. Its layer norm is (x_m - mu_m) / sigma_m * gamma + beta
and its key is W_k times that. For a query q let u = gamma * (W_k^T q) / sqrt(d), and u' = u - mean(u). What is the
same for every m cancels in the softmax, and subtracting the mean from u or from x_m is the same, so

    score(q, m) = u . (x_m - mu_m) / sigma_m = u' . x_m / sigma_m.

Absorbed: the query goes to the inputs instead of the inputs to the query, and no key or value is made of any input.
Factored: u' . x_m is a content part plus a position part, and on a grid the position part is a sum of one number an
axis; so no input of C channels is made either.

The attended value is W_v (gamma * v + beta) + b_v with v = sum_m softmax_m (x_m - mu_m) / sigma_m: the values'
projection is applied to what was attended, N times instead of M times.

Letters: B batch, H heads, N latents, M inputs, C channels of an input, d channels of a head.
"""

import math
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from .factored_attention import factored_attention
from .positions import GridPositions

if TYPE_CHECKING:
    from .configuration_iterative_perceiver import IterativePerceiverConfig
    from .modeling_iterative_perceiver import PerceiverCrossAttention, PerceiverInputs


def at_least_float32(tensor: torch.Tensor) -> torch.Tensor:
    """Half precision becomes float32; float32 and float64 stay."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


class InputsNorm(nn.LayerNorm):
    """The layer norm of the inputs, (B, M, C) -> (B, M, C); without inputs, its scale and offset (C).

    These are had by a call, and not read, so that weights that come only for a call take part: offloaded ones, and
    shards. They are copies, as such weights leave again after the call.
    """

    def forward(self, input: torch.Tensor | None = None) -> Any:
        if input is None:
            return self.weight.clone(), self.bias.clone()
        return super().forward(input)


def affine_map(projection: nn.Module, norm_weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Weight (C, out) and bias (out) of a projection of the C channels of a norm, at least float32.

    The projection is called, on a basis and on zero, and not read, so that adapters and quantised weights take part.
    """
    weight = getattr(projection, "weight", norm_weight)
    dtype = weight.dtype if weight.is_floating_point() else norm_weight.dtype
    channels = norm_weight.shape[0]
    basis = torch.eye(channels + 1, channels, dtype=dtype, device=norm_weight.device)
    # Beside a large power of two, the bias takes no bit of a half-precision weight away.
    large = 2.0 ** int(math.log2(torch.finfo(dtype).max) / 2)
    images = at_least_float32(projection(basis * large))
    return (images[:-1] - images[-1:]) / large, images[-1]


class StructuredInputs(ABC):
    """What both ways share: the queries' way to the inputs, and the values' way back."""

    def __init__(self, inputs: "PerceiverInputs"):
        # An example without any input attends to nothing and gets zeros, as with keys and values.
        self.empty = None if inputs.mask is None else ~inputs.mask.any(dim=1)

    @abstractmethod
    def attended(self, query: torch.Tensor) -> torch.Tensor:
        """u (B, H, N, C) -> v (B, H, N, C), at least float32."""

    def project(self, attention: "PerceiverCrossAttention") -> tuple[torch.Tensor, ...]:
        """What makes u of a query (H, d, C), and a value of v: weight (H, C, d_v) and bias (H, 1, d_v)."""
        heads, (norm_weight, norm_bias) = attention.num_heads, attention.inputs_norm()
        with torch.autocast(norm_weight.device.type, enabled=False):
            gamma, beta = at_least_float32(norm_weight), at_least_float32(norm_bias)
            key_weight, _ = affine_map(attention.k_proj, norm_weight)
            value_weight, value_bias = affine_map(attention.v_proj, norm_weight)
            key_weight = (key_weight * gamma[:, None] * attention.scaling).unflatten(1, (heads, -1))
            value_bias = (beta @ value_weight + value_bias).unflatten(0, (heads, 1, -1))
            value_weight = (value_weight * gamma[:, None]).unflatten(1, (heads, -1))
        return key_weight.permute(1, 2, 0), value_weight.transpose(0, 1), value_bias

    def attend(
        self,
        attention: "PerceiverCrossAttention",
        query: torch.Tensor,
        projected: tuple[torch.Tensor, ...],
        **kwargs: Any,
    ) -> tuple[torch.Tensor, None]:
        """(B, H, N, d) -> (B, N, H, d_v); there are no weights to be had."""
        key_weight, value_weight, value_bias = projected
        with torch.autocast(query.device.type, enabled=False):
            attended = self.attended(at_least_float32(query) @ key_weight)
            values = (attended @ value_weight + value_bias).to(query.dtype)
        if self.empty is not None:
            values = values.masked_fill(self.empty[:, None, None, None], 0.0)
        return values.transpose(1, 2), None


class AbsorbedInputs(StructuredInputs):
    """Reads inputs at any positions: the normalised inputs (B, M, C) are key and value both, for all cross-attends."""

    def __init__(self, inputs: "PerceiverInputs", latents: torch.Tensor, config: "IterativePerceiverConfig"):
        super().__init__(inputs)
        dtype = inputs.content.dtype
        array = inputs.dense(torch.promote_types(dtype, torch.float32))
        normalized = nn.functional.layer_norm(array, array.shape[-1:], eps=config.layer_norm_eps)
        self.normalized = normalized.to(dtype).unsqueeze(1)
        self.mask = inputs.mask
        if inputs.mask is not None:
            self.mask = (inputs.mask | ~inputs.mask.any(dim=1, keepdim=True))[:, None, None, :]

    def attended(self, query: torch.Tensor) -> torch.Tensor:
        inputs = self.normalized.expand(-1, query.shape[1], -1, -1)
        attended = nn.functional.scaled_dot_product_attention(
            query.to(inputs.dtype), inputs, inputs, attn_mask=self.mask, scale=1.0
        )
        return at_least_float32(attended)


class FactoredInputs(StructuredInputs):
    """Reads inputs on a grid: content (B, M, C_c), a table an axis and 1 / sigma (B, M) are all there is."""

    def __init__(self, inputs: "PerceiverInputs", latents: torch.Tensor, config: "IterativePerceiverConfig"):
        super().__init__(inputs)
        if not isinstance(inputs.positions, GridPositions):
            raise ValueError(
                'cross_attention_implementation="factored" needs inputs on a grid, got positions that form none; '
                'use "auto" or "absorbed".'
            )
        self.positions, self.mask = inputs.positions, inputs.mask
        self.content = at_least_float32(inputs.content)
        channels = self.content.shape[-1] + self.positions.num_channels
        mean = self.over_channels(self.content, self.positions.sums) / channels
        mean_square = self.over_channels(self.content.square(), self.positions.square_sums) / channels
        self.scale = (mean_square - mean.square() + config.layer_norm_eps).rsqrt()

    def over_channels(self, content: torch.Tensor, sums: tuple[torch.Tensor, ...]) -> torch.Tensor:
        """(B, M): the sum over the channels of every input, of the position's from one sum an axis."""
        total = content.sum(-1).unflatten(1, self.positions.sizes)
        for axis, of_axis in enumerate(sums):
            total = total + self.positions.over_grid(axis, of_axis)
        return total.flatten(1)

    def attended(self, query: torch.Tensor) -> torch.Tensor:
        heads, latents = query.shape[1:3]
        centred = (query - query.mean(dim=-1, keepdim=True)).flatten(1, 2)
        content_query, position_query = centred.split([self.content.shape[-1], self.positions.num_channels], dim=-1)
        # A view would keep all of `centred` for the backward pass.
        content_query = content_query.contiguous()
        tables = self.positions.tables
        axis_scores = [
            part @ table.mT for part, table in zip(self.positions.split(position_query), tables, strict=True)
        ]
        content, marginals = factored_attention(content_query, axis_scores, self.content, self.scale, self.mask)
        positions = self.positions.join([marginal @ table for marginal, table in zip(marginals, tables, strict=True)])
        attended = torch.cat([content, positions], dim=-1)
        # The mean over the channels is linear, so that of the sum is the sum of those of the inputs.
        return (attended - attended.mean(dim=-1, keepdim=True)).unflatten(1, (heads, latents))
