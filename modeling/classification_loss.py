"""The loss of every classification head: transformers' own, with three differences that matter to users."""

from typing import Literal

import torch
from torch.nn import functional as F

from .configuration_iterative_perceiver import IterativePerceiverConfig
from .positions import at_least_float32

IGNORED_LABEL = -100

ProblemType = Literal["regression", "single_label_classification", "multi_label_classification"]


def classification_loss(
    labels: torch.Tensor,
    logits: torch.Tensor,
    config: IterativePerceiverConfig,
    num_items_in_batch: torch.Tensor | int | None = None,
    **kwargs,
) -> torch.Tensor:
    """Cross-entropy, binary cross-entropy or mean squared error, by `config.problem_type`.

    If that is `None`, it is inferred from the labels and set, as transformers does. Unlike transformers' own loss, all
    three honour `num_items_in_batch`, so that accumulated gradients equal those of one large batch; integer labels
    are accepted for several labels per example; and the error for a label without a logit names it.

    Args:
        labels: (B,) integers for one label per example, -100 is ignored; (B, num_labels) zeros and ones for several;
            floats for a regression.
        logits: (B, num_labels).
        config: Of the model; its `problem_type` chooses the loss.
        num_items_in_batch: The Trainer's count of labels in all batches of an optimiser step.
        kwargs: Ignored; transformers passes more than a classification needs.

    Raises:
        ValueError: If a label lies outside [0, num_labels), which is only checked on a CPU, or the shapes of labels
            and logits do not match.
    """
    if config.problem_type is None:
        config.problem_type = _infer_problem_type(labels, logits.shape[-1])
    labels = labels.to(logits.device)
    logits = at_least_float32(logits)
    reduction = "mean" if num_items_in_batch is None else "sum"
    if config.problem_type == "single_label_classification":
        try:
            loss = F.cross_entropy(logits, labels.view(-1), ignore_index=IGNORED_LABEL, reduction=reduction)
        except IndexError as error:
            num_labels = logits.shape[-1]
            raise ValueError(
                f"Labels must be in [0, {num_labels - 1}], as the model has num_labels={num_labels}: {error}"
            ) from error
    else:
        if labels.numel() != logits.numel():
            raise ValueError(
                f"With problem_type={config.problem_type!r} labels must have the logits' shape {tuple(logits.shape)}, "
                f"got {tuple(labels.shape)}."
            )
        labels = labels.view(logits.shape).to(logits.dtype)
        difference = F.mse_loss if config.problem_type == "regression" else F.binary_cross_entropy_with_logits
        loss = difference(logits, labels, reduction=reduction)
    if num_items_in_batch is None:
        return loss
    return loss / (num_items_in_batch.to(loss.device) if torch.is_tensor(num_items_in_batch) else num_items_in_batch)


def _infer_problem_type(labels: torch.Tensor, num_labels: int) -> ProblemType:
    if num_labels == 1:
        return "regression"
    return "multi_label_classification" if labels.is_floating_point() else "single_label_classification"
