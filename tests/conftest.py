"""One thread per process, one seed per test, and the order in which pytest-xdist hands out the files."""

import os

# The tests' models are small, and pytest-xdist runs processes side by side.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import random
from collections import Counter

import pytest


def seed_everything() -> None:
    # Imported here, as the process that only hands out the tests needs neither.
    import numpy as np
    import torch

    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)


@pytest.fixture(autouse=True, scope="module")
def _seed_of_the_module():
    """Seeds the module's own fixtures, whichever test asks for them first."""
    seed_everything()


@pytest.fixture(autouse=True)
def _seed_of_the_test(_seed_of_the_module):
    """Makes a test draw the same numbers whatever ran before it in the same process."""
    seed_everything()


@pytest.fixture
def one_thread():
    """Runs a test on one thread: on a busy machine, two threads wait for each other over work this small."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Puts the files with the most integration tests first.

    `--dist=loadfile` hands out whole files in this order, and a worker that started a long one last would keep the
    others waiting.
    """
    integration_tests = Counter(item.path for item in items if item.get_closest_marker("integration"))
    items.sort(key=lambda item: -integration_tests[item.path])
