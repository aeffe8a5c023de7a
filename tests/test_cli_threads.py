"""Small models predict with one thread, others with all."""

import pytest
import torch
from torch import nn

from perceivers.cli.threads import few_threads


@pytest.fixture(autouse=True)
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize(
    ("width", "batch", "expected"), [(10, 100, 1), (1100, 1, 2), (10, 2**17, 2)], ids=["small", "model", "batch"]
)
def test_threads_by_size(width, batch, expected):
    model = nn.Linear(width, width, bias=False)
    with few_threads(model):
        model(input=torch.ones(batch, width))
        assert torch.get_num_threads() == expected
        model(torch.ones(1, width))
        assert torch.get_num_threads() == expected
    assert torch.get_num_threads() == 2
    assert not model._forward_pre_hooks


def test_a_forward_pass_that_fails():
    model = nn.Linear(10, 10)
    with few_threads(model):
        with pytest.raises(RuntimeError, match="shapes"):
            model(torch.ones(1, 9))
        assert model(torch.ones(1, 10)).shape == (1, 10)
    assert torch.get_num_threads() == 2


def test_a_model_that_is_never_called():
    model = nn.Linear(10, 10)
    with few_threads(model):
        pass
    assert not model._forward_pre_hooks
