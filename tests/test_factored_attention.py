"""The factored attention against the dense formula in float64."""

import importlib.util
import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.checkpoint import checkpoint

from perceivers.modeling import factored_attention as module
from perceivers.modeling.factored_attention import factored_attention


def dense(content_query, axis_scores, content, scale, mask=None):
    sizes = [scores.shape[-1] for scores in axis_scores]
    letters = "yxz"[: len(sizes)]
    total = (content_query @ content.mT).unflatten(2, sizes)
    for axis, scores in enumerate(axis_scores):
        total = total + scores.reshape(*scores.shape[:2], *(-1 if a == axis else 1 for a in range(len(sizes))))
    scores = total.flatten(2) * scale[:, None]
    if mask is not None:
        scores = scores.masked_fill(~mask[:, None], -math.inf).masked_fill(~mask.any(-1)[:, None, None], 0)
    weights = scores.softmax(-1) * scale[:, None]
    if mask is not None:
        weights = weights * mask[:, None]
    grid = weights.unflatten(2, sizes)
    return weights @ content, tuple(torch.einsum(f"br{letters}->br{letter}", grid) for letter in letters)


def random_inputs(batch, queries, channels, sizes, *, dtype=torch.float64, size=1.0, seed=0):
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)

    cells = math.prod(sizes)
    return (
        size * normal(batch, queries, channels),
        tuple(size * normal(batch, queries, n) for n in sizes),
        normal(batch, cells, channels),
        normal(batch, cells).abs() / 2 + 0.5,
    )


def flat(nested):
    return [nested[0], *nested[1], *nested[2:]]


def results_and_gradients(function, inputs, mask=None):
    content_query, axis_scores, content, scale = inputs
    content_query, content, scale = (t.detach().requires_grad_() for t in (content_query, content, scale))
    axis_scores = tuple(t.detach().requires_grad_() for t in axis_scores)
    results = flat(function(content_query, axis_scores, content, scale, mask))
    generator = torch.Generator().manual_seed(1)
    seeds = [torch.randn(t.shape, generator=generator, dtype=torch.float64).to(t.dtype) for t in results]
    loss = sum((t * seed).sum() for t, seed in zip(results, seeds, strict=True))
    return results, torch.autograd.grad(loss, (content_query, *axis_scores, content, scale))


def assert_equal_to_dense(inputs, mask=None, *, results_tolerance=1e-10, gradients_tolerance=1e-9):
    actual = results_and_gradients(factored_attention, inputs, mask)
    inputs = [t.double() if isinstance(t, torch.Tensor) else tuple(u.double() for u in t) for t in inputs]
    expected = results_and_gradients(dense, inputs, mask)
    for tolerance, ours, theirs in zip((results_tolerance, gradients_tolerance), actual, expected, strict=True):
        for a, b in zip(ours, theirs, strict=True):
            assert a.shape == b.shape
            torch.testing.assert_close(a.double(), b, rtol=0, atol=tolerance * max(1, b.abs().max().item()))


@pytest.fixture
def small_tiles(monkeypatch):
    """Tiles of at most 3 query rows, and so few cells that small grids take several."""
    monkeypatch.setattr(module, "CPU_TILE", (24, 3, 4))


shapes = st.tuples(
    st.integers(1, 3), st.integers(1, 8), st.integers(1, 6), st.lists(st.integers(1, 7), min_size=1, max_size=3)
)


@settings(max_examples=60, deadline=None)
@given(
    shapes, st.sampled_from(["none", "random", "rectangle", "one element empty"]), st.booleans(), st.integers(0, 99)
)
def test_equals_the_dense_formula(shape, kind, several_tiles, seed):
    inputs = random_inputs(*shape, seed=seed)
    batch, _, _, sizes = shape
    generator = torch.Generator().manual_seed(seed)
    mask = torch.rand(batch, math.prod(sizes), generator=generator) < 0.6
    if kind == "rectangle":
        ends = torch.tensor([[1 + (seed + i) % n for n in sizes] for i in range(batch)])
        index = torch.cartesian_prod(*(torch.arange(n) for n in sizes)).reshape(-1, len(sizes))
        mask = (index < ends[:, None]).all(-1)
    elif kind == "one element empty":
        mask[0] = False
    with pytest.MonkeyPatch.context() as patch:
        if several_tiles:
            patch.setattr(module, "CPU_TILE", (24, 3, 4))
        assert_equal_to_dense(inputs, None if kind == "none" else mask)


@pytest.mark.integration
@pytest.mark.parametrize("tile", [(1, 1, 1), (64, 2, 3), (64, 16, 2), (2**19, 128, 256)])
@pytest.mark.parametrize("sizes", [(33,), (5, 7), (2, 3, 5)])
def test_tiles_do_not_matter(monkeypatch, tile, sizes):
    monkeypatch.setattr(module, "CPU_TILE", tile)
    assert_equal_to_dense(random_inputs(3, 5, 4, sizes))


@pytest.mark.parametrize("tile", [(1, 1, 1), (100, 4, 8), (1000, 16, 4), (2**19, 128, 256)])
def test_tiles_cover_everything_once_and_keep_their_size(monkeypatch, tile):
    monkeypatch.setattr(module, "CPU_TILE", tile)
    for shape in itertools.product((1, 3), (1, 9), (1, 7), (1, 11)):
        batch, queries, rows, columns = shape
        blocks, size = module.tiles(queries, (batch, rows, columns), torch.device("cpu"))
        count = torch.zeros(batch, rows, columns, queries, dtype=int)
        for block in blocks:
            count[block.batch, block.rows, block.columns, block.queries] += 1
            assert math.prod(block.shape()) <= size <= max(tile[0], tile[1] * tile[2])
        assert (count == 1).all()


@pytest.mark.integration
@pytest.mark.parametrize("size", [30.0, 1e4])
@pytest.mark.parametrize("masked", [False, True])
def test_large_scores(small_tiles, size, masked):
    inputs = random_inputs(2, 5, 3, (40, 30), size=size)
    mask = torch.rand(2, 1200, generator=torch.Generator().manual_seed(0)) < 0.5 if masked else None
    assert_equal_to_dense(inputs, mask, results_tolerance=1e-8, gradients_tolerance=1e-7)


def test_maximum_far_above_all_samples():
    content_query, (rows, columns), content, scale = random_inputs(1, 4, 3, (40, 30), dtype=torch.float32)
    rows[:, 0, 17] = 1e4
    rows[:, 1, 17] = -1e4
    columns[:, 2, 23] = 1e4
    inputs = content_query, (rows, columns), content, scale
    assert_equal_to_dense(inputs, results_tolerance=2e-3, gradients_tolerance=2e-3)


def test_only_unsampled_cells_are_attended_to():
    inputs = random_inputs(2, 4, 3, (40, 30))
    mask = torch.zeros(2, 1200, dtype=torch.bool)
    mask[0, 501] = mask[1, 777:780] = True
    assert_equal_to_dense(inputs, mask)


def test_masked_cells_may_hold_anything():
    inputs = random_inputs(1, 4, 3, (4, 5))
    mask = torch.arange(20)[None] < 13
    expected = results_and_gradients(factored_attention, inputs, mask)
    inputs[2][~mask] = math.nan
    inputs[3][~mask] = math.inf
    actual = results_and_gradients(factored_attention, inputs, mask)
    torch.testing.assert_close(actual, expected)


def test_nothing_to_attend_to():
    results, gradients = results_and_gradients(
        factored_attention, random_inputs(1, 4, 3, (4, 5)), torch.zeros(1, 20, dtype=torch.bool)
    )
    assert all((t == 0).all() for t in (*results, *gradients))


def test_not_a_number_is_not_hidden():
    inputs = random_inputs(1, 4, 3, (4, 5))
    inputs[2][0, 3, 1] = math.nan
    assert all(t.isnan().all() for t in flat(factored_attention(*inputs)))


@pytest.mark.parametrize("queries, channels, sizes", [(64, 4, (48, 40)), (16, 70, (30, 30)), (32, 3, (900,))])
def test_single_precision(queries, channels, sizes):
    content_query, axis_scores, content, scale = random_inputs(2, queries, channels, sizes, dtype=torch.float32)
    inputs = (content_query / channels**0.5, axis_scores, content, scale)
    actual = results_and_gradients(factored_attention, inputs)
    expected = results_and_gradients(
        dense, [inputs[0].double(), [t.double() for t in axis_scores], content.double(), scale.double()]
    )
    for tolerance, ours, theirs in zip((1e-5, 1e-4), actual, expected, strict=True):
        for a, b in zip(ours, theirs, strict=True):
            assert a.dtype == torch.float32
            assert (a - b).norm() <= tolerance * b.norm()


def test_inputs_need_not_be_contiguous():
    inputs = random_inputs(2, 5, 3, (6, 4))
    strided = [t.mT.contiguous().mT for t in (inputs[0], *inputs[1], inputs[2], inputs[3])]
    strided[1] = strided[1][:, :1].expand(-1, 5, -1)
    assert_equal_to_dense((strided[0], tuple(strided[1:3]), strided[3], strided[4]))


@pytest.mark.integration
def test_gradients_against_finite_differences(small_tiles):
    content_query, axis_scores, content, scale = random_inputs(2, 4, 2, (3, 5))
    mask = torch.rand(2, 15, generator=torch.Generator().manual_seed(0)) < 0.8
    leaves = [t.requires_grad_() for t in (content_query, *axis_scores, content, scale)]
    assert torch.autograd.gradcheck(
        lambda q, y, x, c, s: tuple(flat(factored_attention(q, (y, x), c, s, mask))), leaves
    )


@pytest.mark.parametrize("of_cells", [False, True])
@pytest.mark.integration
def test_operators_are_well_registered(small_tiles, of_cells):
    content_query, (row, column), content, scale = random_inputs(2, 4, 2, (3, 5))
    inputs = [t.requires_grad_() for t in (content_query, row, column)]
    inputs += [t.requires_grad_(of_cells) for t in (content, scale)]
    torch.library.opcheck(module._forward, inputs)
    *results, log_denominator = (t.detach() for t in module._forward(*inputs))
    gradients = [torch.randn_like(t) for t in results]
    inputs = [t.detach() for t in inputs]
    torch.library.opcheck(module._backward, (gradients, results, log_denominator, *inputs, of_cells))


def test_second_derivatives_are_refused():
    content_query, axis_scores, content, scale = random_inputs(1, 4, 2, (3, 5))
    content_query.requires_grad_()
    result, _ = factored_attention(content_query, axis_scores, content, scale)
    (gradient,) = torch.autograd.grad(result.square().sum(), content_query, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()


@pytest.mark.parametrize("sizes", [(15,), (3, 5), (2, 3, 5)])
@pytest.mark.integration
def test_compiles_without_graph_breaks(sizes):
    inputs = random_inputs(2, 4, 3, sizes)
    mask = torch.arange(math.prod(sizes)).expand(2, -1) < 13
    compiled = torch.compile(factored_attention, fullgraph=True, backend="aot_eager")
    actual, expected = (results_and_gradients(f, inputs, mask) for f in (compiled, factored_attention))
    torch.testing.assert_close(actual, expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_autocast_does_not_lower_the_precision(dtype):
    inputs = random_inputs(2, 4, 3, (3, 5), dtype=dtype)
    expected = results_and_gradients(factored_attention, inputs)
    with torch.autocast("cpu", torch.bfloat16):
        actual = results_and_gradients(factored_attention, inputs)
    torch.testing.assert_close(actual, expected, rtol=0, atol=0)


def test_gradient_checkpointing():
    inputs = random_inputs(2, 4, 3, (3, 5))
    actual = results_and_gradients(lambda *args: checkpoint(factored_attention, *args, use_reentrant=False), inputs)
    torch.testing.assert_close(actual, results_and_gradients(factored_attention, inputs))


def test_function_transforms():
    content_query, axis_scores, content, scale = random_inputs(3, 4, 2, (3, 5))

    def loss(content_query, axis_scores, content, scale):
        results = factored_attention(content_query, axis_scores, content, scale)
        return sum(t.square().sum() for t in flat(results))

    inputs = content_query, axis_scores, content, scale
    actual = torch.func.grad(loss, argnums=(0, 1, 2, 3))(*inputs)
    leaves = [t.clone().requires_grad_() for t in flat(inputs)]
    expected = torch.autograd.grad(loss(leaves[0], tuple(leaves[1:3]), *leaves[3:]), leaves)
    torch.testing.assert_close(flat(actual), list(expected))

    def one_element(content_query, axis_scores, content, scale):
        return loss(content_query[None], tuple(t[None] for t in axis_scores), content[None], scale[None])

    actual = torch.func.vmap(torch.func.grad(one_element, argnums=(0, 1, 2, 3)))(*inputs)
    torch.testing.assert_close(flat(actual), list(expected))
    _, pull_back = torch.func.vjp(lambda t: factored_attention(t, axis_scores, content, scale)[0], content_query)
    assert pull_back(torch.ones_like(content_query))[0].shape == content_query.shape


def test_can_be_imported_a_second_time_under_another_name():
    spec = importlib.util.spec_from_file_location("remote-code.of.someone", module.__file__)
    inputs = random_inputs(2, 4, 3, (3, 5))
    expected = factored_attention(*inputs)
    for _ in range(2):
        copy = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(copy)
        torch.testing.assert_close(copy.factored_attention(*inputs), expected)
    torch.testing.assert_close(factored_attention(*inputs), expected)


def test_wrong_arguments_are_named():
    content_query, axis_scores, content, scale = random_inputs(1, 4, 3, (3, 5))
    with pytest.raises(ValueError, match="Expected 1 to 3 axes but got 0"):
        factored_attention(content_query, (), content, scale)
    with pytest.raises(ValueError, match="Expected 3 cells"):
        factored_attention(content_query, axis_scores[:1], content, scale)
