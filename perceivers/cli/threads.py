"""How many threads a model takes to predict: one if it is small."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

# Parameters of a model, and numbers in a batch. Below, threads wait for each other longer than they compute: on two
# busy cores, two threads took ten times as long as one.
SMALL = 2**20


@contextmanager
def few_threads(model: nn.Module) -> Iterator[None]:
    """Lets a model on a CPU compute with one thread if it and its first batch are small.

    Afterwards, the number of threads is what it was before.
    """
    before = torch.get_num_threads()

    def choose(model: nn.Module, arguments: tuple, keywords: dict[str, Any]) -> None:
        hook.remove()
        tensors = [value for value in (*arguments, *keywords.values()) if isinstance(value, torch.Tensor)]
        parameters = sum(parameter.numel() for parameter in model.parameters())
        is_on_cpu = all(tensor.device.type == "cpu" for tensor in tensors)
        if is_on_cpu and max(parameters, sum(tensor.numel() for tensor in tensors)) < SMALL:
            torch.set_num_threads(1)

    hook = model.register_forward_pre_hook(choose, with_kwargs=True)
    try:
        yield
    finally:
        hook.remove()
        torch.set_num_threads(before)
