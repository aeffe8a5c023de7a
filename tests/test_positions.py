"""Fourier positions of a grid: made once for a size, and never another size's, type's or device's."""

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

from perceivers.modeling.positions import fourier_grid
from tests.models import tiny_image_model

GRID = {
    "sizes": (6, 9),
    "num_bands": 4,
    "max_resolutions": (6, 9),
    "dtype": torch.float32,
    "device": torch.device("cpu"),
}


def test_made_once():
    assert fourier_grid(**GRID) is fourier_grid(**GRID)


@pytest.mark.parametrize(
    "change",
    [
        {"sizes": (9, 6)},
        {"num_bands": 5},
        {"max_resolutions": (12, 9)},
        {"dtype": torch.float64},
        {"device": torch.device("meta")},
    ],
)
def test_never_those_of_another_grid(change):
    fourier_grid(**GRID)
    wanted = {**GRID, **change}
    positions = fourier_grid(**wanted)
    fourier_grid(**GRID)
    assert positions.sizes == wanted["sizes"]
    for table, sums, squares, top in zip(
        positions.tables, positions.sums, positions.square_sums, wanted["max_resolutions"], strict=True
    ):
        assert (table.dtype, table.device) == (wanted["dtype"], wanted["device"])
        assert table.shape[-1] == 1 + 2 * wanted["num_bands"]
        if table.device.type == "cpu":
            coordinates = torch.linspace(-1, 1, table.shape[1], dtype=table.dtype)
            torch.testing.assert_close(table[0, :, 0], coordinates)
            torch.testing.assert_close(table[0, :, wanted["num_bands"]], torch.sin(torch.pi * top / 2 * coordinates))
            torch.testing.assert_close(sums, table.sum(-1))
            torch.testing.assert_close(squares, table.square().sum(-1))


def test_inference_mode_leaves_nothing_behind():
    with torch.inference_mode():
        positions = fourier_grid(**{**GRID, "sizes": (3, 4)})
    assert not any(part.is_inference() for parts in vars(positions).values() for part in parts)


@pytest.mark.integration
@pytest.mark.parametrize("implementation", ["factored", "dense"])
def test_a_dry_run_leaves_nothing_behind(implementation):
    """Fake tensors tell shapes without computing, and meet a real run neither before nor after it."""
    pixels = torch.randn(2, 3, 13, 11)
    real = tiny_image_model(cross_attention_implementation=implementation)
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        logits = real(mode.from_tensor(pixels)).logits
        assert isinstance(logits, FakeTensor) and logits.shape == (2, real.config.num_labels)
    assert real(pixels).logits.isfinite().all()
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        assert isinstance(real(mode.from_tensor(pixels)).logits, FakeTensor)
