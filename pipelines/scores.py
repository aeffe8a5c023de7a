"""From logits to scores, as transformers' own classification pipelines do it."""

from collections.abc import Callable
from typing import Literal, get_args

import torch

Function = Literal["softmax", "sigmoid", "none"]

FUNCTIONS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "softmax": lambda logits: logits.softmax(dim=-1),
    "sigmoid": torch.sigmoid,
    "none": lambda logits: logits,
}


def default_function(problem_type: str | None) -> Function:
    """Returns the function for a model's `config.problem_type`; softmax if that is not set."""
    if problem_type == "regression":
        return "none"
    return "sigmoid" if problem_type == "multi_label_classification" else "softmax"


def check_logits(logits: torch.Tensor) -> None:
    """Checks the logits of a model, of which scores need not show it: the sigmoid of infinity is 1.

    Raises:
        ValueError: Some are NaN or infinite.
    """
    if not logits.isfinite().all():
        raise ValueError("The model's scores are NaN or infinite, so there is no label.")


def logits_to_scores(logits: torch.Tensor, function_to_apply: str) -> torch.Tensor:
    """Turns logits (..., labels) into scores of the same shape.

    Raises:
        ValueError: There is no such function, or logits are NaN or infinite.
    """
    check_logits(logits)
    if function_to_apply not in FUNCTIONS:
        *others, last = get_args(Function)
        raise ValueError(f"`function_to_apply` must be {', '.join(others)} or {last}, got {function_to_apply!r}.")
    return FUNCTIONS[function_to_apply](logits)
