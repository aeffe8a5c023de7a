"""For all tests."""

import pytest
import torch


@pytest.fixture(autouse=True, scope="session")
def one_thread():
    """Threads cost more than they give on models this small, much more where cores are shared."""
    torch.set_num_threads(1)
