"""The loss where the model's own does not serve: with label smoothing, or labels that mixup has made probabilities."""

from dataclasses import dataclass

import torch
from torch.nn import functional as F


@dataclass
class SmoothedCrossEntropy:
    """Cross-entropy with label smoothing, for the Trainer's `compute_loss_func`.

    It divides by the images of a whole optimiser step, so that accumulated gradients are those of one large batch; the
    Trainer's own label smoothing does so only from transformers 5.2x on.

    Attributes:
        label_smoothing: the part of a label that is spread evenly over all classes.
    """

    label_smoothing: float = 0.0

    def __call__(self, outputs, labels: torch.Tensor, num_items_in_batch: torch.Tensor | int | None = None):
        """
        Args:
            outputs: of the model, with `logits` (B, num_labels).
            labels: (B,) classes, or (B, num_labels) probabilities.
            num_items_in_batch: images of the optimiser step; `None` averages over this batch.
        """
        reduction = "mean" if num_items_in_batch is None else "sum"
        loss = F.cross_entropy(
            outputs["logits"].float(), labels, label_smoothing=self.label_smoothing, reduction=reduction
        )
        return loss if num_items_in_batch is None else loss / num_items_in_batch
