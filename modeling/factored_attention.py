"""Exact softmax attention whose scores are a content part plus one part per axis of a grid.

    score(r, m) = scale[m] * (content_query[r] . content[m] + sum over axes a of axis_scores[a][r, i_a(m)])

for R query rows and the M = S_1 * ... * S_A cells of a grid, where cell m has the index i_a(m) along axis a. The
weights w = softmax(score) * scale are needed only through `w @ content` and through their marginals along each axis,
so nothing of size R x M is ever kept: the scores are computed tile by tile, as in FlashAttention (arXiv 2205.14135),
and again in the backward pass, from the logarithm of the softmax's denominator.

A tile is an outer product with the last axis, plus one batched matrix product for the content and all other axes; one
exponential; and one more matrix product and one sum for the results. The exponentials have base 2, which
PyTorch computes in half the time of base e on a CPU, and the weights' factor `scale` is log2(scale) in their exponent.

Letters: B batch, R query rows, C content channels, X cells of the last axis, Y cells of all others, M = Y * X.
Inside the tiles the query rows come last, so that memory is read in long runs even if an axis is short.
"""

import itertools
import math
import re
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

# The largest tile, by type of device: scores, query rows, cells of the last axis. On a CPU the two tiles of the
# backward pass must stay in this program's part of the last-level cache between the passes over them, yet be large
# enough for the cost of starting PyTorch's threads not to matter; elsewhere the number of kernel launches matters.
CPU_TILE = (2**19, 512, 512)
DEVICE_TILE = (2**25, 1024, 4096)

# Cells whose maxima stand for those of all, unless they prove too far from them. Grids of up to `ALL_SAMPLED` cells
# are sampled whole, as in version 0.1.0, so that its saved models keep their answers to the bit.
NUM_SAMPLED_CELLS = 32
ALL_SAMPLED = 256
LOG2_OF_ZERO = -1e30  # finite, because 0 * inf is not a number

# Hub code may be imported next to the installed package, so every copy of this module registers separate operators.
NAMESPACE = re.sub(r"\W", "_", __name__)


def factored_attention(
    content_query: Tensor, axis_scores: Sequence[Tensor], content: Tensor, scale: Tensor, mask: Tensor | None = None
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Attends from R query rows to the M cells of a grid; the formula is at the top of this file.

    Args:
        content_query: (B, R, C).
        axis_scores: One to three tensors (B, R, S_a); M is the product of all S_a, in row-major order.
        content: (B, M, C).
        scale: (B, M), positive.
        mask: (B, M), boolean, True = attend.

    Returns:
        `w @ content` (B, R, C), and for each axis the sums of w over all other axes (B, R, S_a), where
        w = softmax(score) * scale. Zeros where there is nothing to attend to.

    Raises:
        ValueError: If there are other than 1 to 3 axes, or their sizes do not multiply to M.
    """
    if not 1 <= len(axis_scores) <= 3:
        raise ValueError(f"Expected 1 to 3 axes but got {len(axis_scores)}.")
    sizes = [scores.shape[-1] for scores in axis_scores]
    if math.prod(sizes) != content.shape[1]:
        raise ValueError(f"Expected {math.prod(sizes)} cells for axes of sizes {sizes} but got {content.shape[1]}.")
    if mask is not None:
        content = content.masked_fill(~mask[..., None], 0)
        scale = scale.masked_fill(~mask, 0)
    *leading, column = axis_scores
    if not leading:
        row = torch.zeros_like(column[..., :1])
    elif len(leading) == 1:
        row = leading[0]
    else:
        row = (leading[0][..., :, None] + leading[1][..., None, :]).flatten(2)
    attend = _forward if torch.compiler.is_compiling() else FactoredAttentionFunction.apply
    by_content, by_row, by_column, _ = attend(content_query, row, column, content, scale)
    if not leading:
        return by_content, (by_column,)
    if len(leading) == 1:
        return by_content, (by_row, by_column)
    by_row = by_row.unflatten(2, sizes[:2])
    return by_content, (by_row.sum(3), by_row.sum(2), by_column)


class GridFactors(NamedTuple):
    """The factors of the scores that belong to the cells of the grid."""

    features: Tensor  # (B, Y, X, C + 3): log2(scale), 1, content * scale, scale
    values: Tensor  # (B, Y, X, C + 2): content, 1, 1 / scale
    scale: Tensor  # (B, Y, X, 1)

    @classmethod
    def of(cls, content: Tensor, scale: Tensor, num_rows: int) -> "GridFactors":
        scale = scale[..., None]
        ones = torch.ones_like(scale)
        inverse = scale.reciprocal().masked_fill(scale == 0, 0)
        features = torch.cat([scale.log2().clamp_min(LOG2_OF_ZERO), ones, content * scale, scale], -1)
        values = torch.cat([content, ones, inverse], -1)
        return cls(*(t.unflatten(1, (num_rows, -1)).contiguous() for t in (features, values, scale)))


class RowFactors(NamedTuple):
    """The factors of the scores that belong to the query rows; the gradient of the weights has the same form."""

    shared: Tensor  # (B, C + 2, R): the factors of all `GridFactors.features` but the last, which all rows share
    row: Tensor  # (B, Y, R)
    column: Tensor  # (B, X, R)

    @classmethod
    def of(cls, content: Tensor, row: Tensor, column: Tensor, log_weight: float, offset: Tensor) -> "RowFactors":
        content, row, column, offset = (t.mT.contiguous() for t in (content, row, column, offset[..., None]))
        return cls(torch.cat([torch.full_like(offset, log_weight), offset, content], 1), row, column)

    def minus(self, offset: Tensor) -> "RowFactors":
        shared = self.shared.clone()
        shared[:, 1] -= offset
        return self._replace(shared=shared)


def in_base_2(content: Tensor, row: Tensor, column: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Parts of scores whose power of 2 is the exponential of the score."""
    return content / math.log(2), row / math.log(2), column / math.log(2)


class Tile(NamedTuple):
    batch: slice
    queries: slice
    rows: slice
    columns: slice

    def shape(self) -> list[int]:
        return [s.stop - s.start for s in (self.batch, self.rows, self.columns, self.queries)]

    def query_matrix(self, query: RowFactors) -> Tensor:
        """(b, y, C + 3, r), multiplied with `GridFactors.features`."""
        row = query.row[self.batch, self.rows, None, self.queries]
        shared = query.shared[self.batch, None, :, self.queries]
        return torch.cat([shared.expand(-1, row.shape[1], -1, -1), row], 2)

    def scores(self, query: RowFactors, matrix: Tensor, cells: GridFactors, buffer: Tensor) -> Tensor:
        """(b, y, x, r), in `buffer`."""
        shape = self.shape()
        out = buffer[: math.prod(shape)].view(shape)
        column = query.column[self.batch, None, self.columns, self.queries]
        torch.mul(column, cells.scale[self.batch, self.rows, self.columns], out=out)
        features = cells.features[self.batch, self.rows, self.columns]
        out.flatten(0, 1).baddbmm_(features.flatten(0, 1), matrix.flatten(0, 1))
        return out

    def sums(self, weights: Tensor, values: Tensor) -> Tensor:
        """(b, y, x, r), (B, Y, X, V) -> (b, y, V, r)."""
        values = values[self.batch, self.rows, self.columns]
        return torch.bmm(values.flatten(0, 1).mT, weights.flatten(0, 1)).unflatten(0, weights.shape[:2])


def tiles(num_queries: int, grid: Sequence[int], device: torch.device) -> tuple[list[Tile], int]:
    """The tiles that cover all scores, and the size of the largest; a tile of several examples has all rows."""
    num_batch, num_rows, num_columns = grid
    size, r, x = CPU_TILE if device.type == "cpu" else DEVICE_TILE
    r = min(r, num_queries)
    x = min(num_columns, max(x, size // (r * num_rows)))
    y = min(num_rows, max(1, size // (r * x)))
    b = min(num_batch, max(1, size // (r * x * y))) if y == num_rows else 1

    def slices(total: int, step: int) -> list[slice]:
        return [slice(i, min(i + step, total)) for i in range(0, total, step)]

    blocks = itertools.product(
        slices(num_batch, b), slices(num_queries, r), slices(num_rows, y), slices(num_columns, x)
    )
    return [Tile(*block) for block in blocks], b * r * x * y


def sampled_maxima(query: RowFactors, cells: GridFactors) -> Tensor:
    """(B, R): the maxima of the scores over a few cells."""
    num_rows, num_columns = cells.scale.shape[1:3]
    num_cells = num_rows * num_columns
    number = num_cells if num_cells <= ALL_SAMPLED else NUM_SAMPLED_CELLS
    sample = torch.linspace(0, num_cells - 1, number, device=cells.scale.device).long()
    y, x = sample // num_columns, sample % num_columns
    features = cells.features[:, y, x]
    scores = (query.row[:, y] + query.column[:, x]) * cells.scale[:, y, x]
    scores += features[..., :-1] @ query.shared
    return scores.amax(1).clamp_min(LOG2_OF_ZERO / 2)


def exact_maxima(query: RowFactors, cells: GridFactors) -> Tensor:
    """(B, R): the maxima of the scores."""
    maxima = torch.full_like(query.shared[:, 0], LOG2_OF_ZERO / 2)
    blocks, size = tiles(maxima.shape[1], cells.scale.shape[:3], maxima.device)
    buffer = maxima.new_empty(size)
    for tile in blocks:
        scores = tile.scores(query, tile.query_matrix(query), cells, buffer)
        part = maxima[tile.batch, tile.queries]
        part.copy_(torch.maximum(part, scores.amax((1, 2))))
    return maxima


def sums_of_weights(query: RowFactors, cells: GridFactors) -> tuple[Tensor, Tensor, Tensor]:
    """Sums of w = exp2(scores): w * `GridFactors.values` (B, C + 2, R), w by row (B, Y, R), by column (B, X, R)."""
    num_batch, num_rows, num_columns, num_values = cells.values.shape
    num_queries = query.row.shape[2]
    by_value = cells.values.new_zeros(num_batch, num_values, num_queries)
    by_row = torch.zeros_like(query.row)
    by_column = torch.zeros_like(query.column)
    blocks, size = tiles(num_queries, (num_batch, num_rows, num_columns), cells.values.device)
    buffer = by_value.new_empty(size)
    for tile in blocks:
        weights = tile.scores(query, tile.query_matrix(query), cells, buffer).exp2_()
        sums = tile.sums(weights, cells.values)
        by_value[tile.batch, :, tile.queries] += sums.sum(1)
        by_row[tile.batch, tile.rows, tile.queries] += sums[:, :, -2]
        by_column[tile.batch, tile.columns, tile.queries] += weights.sum(1)
    return by_value, by_row, by_column


@torch.library.custom_op(f"{NAMESPACE}::forward", mutates_args=())
def _forward(
    content_query: Tensor, row: Tensor, column: Tensor, content: Tensor, scale: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The results for two axes (B, R, C), (B, R, Y), (B, R, X), and log2 of the softmax's denominators (B, R).

    Where `scale` is 0 a cell is masked.
    """
    with torch.autocast(content.device.type, enabled=False):
        # Factors of the scores, to base 2.
        cells = GridFactors.of(content, scale, row.shape[2])
        query = RowFactors.of(
            *in_base_2(content_query, row, column), log_weight=1, offset=row.new_zeros(row.shape[:2])
        )
        # Subtracting any number close to the maximum is as good as subtracting the maximum. If it was not close, the
        # denominators show it. Off the CPU, waiting for them could cost more than the exact maxima.
        maxima = sampled_maxima(query, cells) if content.is_cpu else exact_maxima(query, cells)
        by_value, by_row, by_column = sums_of_weights(query.minus(maxima), cells)
        if content.is_cpu:
            least, greatest = by_value[:, -1].aminmax()
            limits = torch.finfo(scale.dtype)
            if not (least > limits.tiny**0.5 and greatest < limits.max**0.5):
                maxima = exact_maxima(query, cells)
                by_value, by_row, by_column = sums_of_weights(query.minus(maxima), cells)
        # Divide by the denominators.
        denominator = by_value[:, -1:]
        empty = denominator == 0
        inverse = denominator.reciprocal().masked_fill(empty, 0)
        log_denominator = (denominator.log2() + maxima[:, None]).masked_fill(empty, 0)[:, 0]
        by_content = (by_value[:, :-2] * inverse).mT.contiguous()
        return by_content, (by_row * inverse).mT.contiguous(), (by_column * inverse).mT.contiguous(), log_denominator


@_forward.register_fake
def _(content_query, row, column, content, scale):
    return (
        torch.empty_like(content_query, memory_format=torch.contiguous_format),
        torch.empty_like(row, memory_format=torch.contiguous_format),
        torch.empty_like(column, memory_format=torch.contiguous_format),
        row.new_empty(row.shape[:2]),
    )


@torch.library.custom_op(f"{NAMESPACE}::backward", mutates_args=())
def _backward(
    gradients: Sequence[Tensor],
    results: Sequence[Tensor],
    log_denominator: Tensor,
    content_query: Tensor,
    row: Tensor,
    column: Tensor,
    content: Tensor,
    scale: Tensor,
    of_cells: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients of `_forward`'s arguments, the last two empty unless `of_cells`.

    With t = the gradient of w (content part plus one part per axis, like the scores) and p = softmax(score):
    d score = p * (scale * t - sum over m of w * t); all that follows needs only e = d score * scale and w = p * scale.
    """
    with torch.autocast(content.device.type, enabled=False):
        # Factors of the scores and of t.
        cells = GridFactors.of(content, scale, row.shape[2])
        products = [(gradient * result).sum(-1) for gradient, result in zip(gradients, results, strict=True)]
        mean = torch.stack(products).sum(0)
        query = RowFactors.of(*in_base_2(content_query, row, column), log_weight=1, offset=-log_denominator)
        gradient = RowFactors.of(gradients[0], gradients[1], gradients[2], log_weight=0, offset=-mean)
        values = cells.values[..., :-1]
        # Sums of e, tile by tile.
        d_content_query = torch.zeros_like(query.shared[:, 2:])
        d_row, d_column = torch.zeros_like(query.row), torch.zeros_like(query.column)
        d_values, d_scale = (part.new_zeros(part.shape if of_cells else 0) for part in (values, cells.scale))
        blocks, size = tiles(row.shape[1], cells.scale.shape[:3], content.device)
        buffers = content.new_empty(2, size)
        for tile in blocks:
            query_matrix, gradient_matrix = tile.query_matrix(query), tile.query_matrix(gradient)
            weights = tile.scores(query, query_matrix, cells, buffers[0]).exp2_()
            d_scores = tile.scores(gradient, gradient_matrix, cells, buffers[1]).mul_(weights)
            sums = tile.sums(d_scores, values)
            d_content_query[tile.batch, :, tile.queries] += sums[:, :, :-1].sum(1)
            d_row[tile.batch, tile.rows, tile.queries] += sums[:, :, -1]
            d_column[tile.batch, tile.columns, tile.queries] += d_scores.sum(1)
            if of_cells:
                # Gradients of the cells; overwrites the tiles.
                for left, side, matrix, factor in (
                    (weights, gradient, gradient_matrix, 1),
                    (d_scores, query, query_matrix, math.log(2)),
                ):
                    part = d_values[tile.batch, tile.rows, tile.columns].flatten(0, 1)
                    part.baddbmm_(left.flatten(0, 1), matrix[:, :, 2:].flatten(0, 1).mT, alpha=factor)
                    right = side.column[tile.batch, None, tile.columns, tile.queries]
                    part = d_scale[tile.batch, tile.rows, tile.columns]
                    part.add_(left.mul_(right).sum(-1, keepdim=True), alpha=factor)
        # From log2(scale) and content * scale to scale and content.
        if of_cells:
            d_content = d_values[..., :-1].flatten(1, 2)
            d_scale = (content * d_content).sum(-1) + d_values[..., -1].flatten(1) + d_scale.flatten(1)
            d_values, d_scale = d_content.contiguous(), d_scale * cells.values[..., -1].flatten(1)
        d_content_query, d_row, d_column = (part.mT.contiguous() for part in (d_content_query, d_row, d_column))
        return d_content_query, d_row, d_column, d_values, d_scale


@_backward.register_fake
def _(gradients, results, log_denominator, content_query, row, column, content, scale, of_cells):
    shapes = [
        t.shape if i < 3 or of_cells else (0,) for i, t in enumerate((content_query, row, column, content, scale))
    ]
    return tuple(content.new_empty(shape) for shape in shapes)


class FactoredAttentionFunction(torch.autograd.Function):
    """`_forward` with its gradients, for transforms that do not take them from the operator, as `torch.func`'s."""

    generate_vmap_rule = True

    @staticmethod
    def forward(*inputs):
        return _forward(*inputs)

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(*output, *inputs)

    @staticmethod
    @once_differentiable
    def backward(ctx, *gradients):
        *results, log_denominator, content_query, row, column, content, scale = ctx.saved_tensors
        of_cells = any(ctx.needs_input_grad[3:])
        d = _backward(gradients[:3], results, log_denominator, content_query, row, column, content, scale, of_cells)
        return d if of_cells else (*d[:3], None, None)


_forward.register_autograd(FactoredAttentionFunction.backward, setup_context=FactoredAttentionFunction.setup_context)


def _vmap_forward(info, in_dims, *args):
    results = _forward(*_into_batch(info.batch_size, in_dims, args))
    return tuple(t.unflatten(0, (info.batch_size, -1)) for t in results), (0,) * len(results)


def _vmap_backward(info, in_dims, gradients, results, *args):
    *inputs, of_cells = args
    num = info.batch_size
    d = _backward(
        _into_batch(num, in_dims[0], gradients),
        _into_batch(num, in_dims[1], results),
        *_into_batch(num, in_dims[2:-1], inputs),
        of_cells,
    )
    return tuple(t.unflatten(0, (num, -1)) if t.numel() else t for t in d), tuple(0 if t.numel() else None for t in d)


def _into_batch(num: int, dims: Sequence[int | None], tensors: Sequence[Tensor]) -> list[Tensor]:
    """Merges the mapped dimension with the batch."""
    pairs = zip(dims, tensors, strict=True)
    return [(t.expand(num, *t.shape) if d is None else t.movedim(d, 0)).flatten(0, 1) for d, t in pairs]


_forward.register_vmap(_vmap_forward)
_backward.register_vmap(_vmap_backward)
