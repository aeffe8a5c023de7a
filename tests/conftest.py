"""One thread a process: the tests' models are small, and pytest-xdist runs processes side by side."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
import torch


@pytest.fixture
def one_thread():
    """Two threads wait for each other on a busy machine, for work that one does at once."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
