"""transformers' Trainer, with what training a classifier of images needs besides."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils.data import Dataset
from transformers import PreTrainedModel, Trainer
from transformers.image_processing_utils import BaseImageProcessor

from .arguments import ImageTrainingArguments
from .loss import SmoothedCrossEntropy
from .metrics import accuracy, most_probable


class ImageClassificationTrainer(Trainer):
    """A Trainer that augments batches, uses timm's optimisers, and leaves the model card to the caller.

    Args:
        affine: of a batch of images, applied in training.
        mixup: `(images, labels) -> (images, probabilities)`, applied after it.

    The other arguments are the Trainer's.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        args: ImageTrainingArguments,
        processing_class: BaseImageProcessor,
        train_dataset: Dataset | list,
        eval_dataset: Dataset | list,
        affine: Callable[[torch.Tensor], torch.Tensor] | None = None,
        mixup: Callable[[torch.Tensor, torch.Tensor], tuple[torch.Tensor, torch.Tensor]] | None = None,
        **kwargs: Any,
    ):
        self.affine, self.mixup = affine, mixup
        if args.timm_optimizer:
            kwargs["optimizer_cls_and_kwargs"] = timm_optimizer(args)
        if args.label_smoothing_factor or mixup:
            kwargs["compute_loss_func"] = SmoothedCrossEntropy(args.label_smoothing_factor)
        super().__init__(
            model=model,
            args=args,
            processing_class=processing_class,
            train_dataset=train_dataset,
            eval_dataset=eval_dataset,
            compute_metrics=lambda outputs: accuracy(np.asarray(outputs.predictions), np.asarray(outputs.label_ids)),
            preprocess_logits_for_metrics=most_probable,
            **kwargs,
        )

    def training_step(self, model: nn.Module, inputs: dict[str, Any], num_items_in_batch=None) -> torch.Tensor:
        """As the Trainer's, on the augmented batch. The last of an epoch may be odd, and is then not mixed."""
        if self.affine is not None:
            inputs = {**inputs, "pixel_values": self.affine(inputs["pixel_values"])}
        if self.mixup is not None and len(inputs["labels"]) % 2 == 0:
            pixel_values, labels = self.mixup(inputs["pixel_values"].clone(), inputs["labels"])
            inputs = {**inputs, "pixel_values": pixel_values, "labels": labels}
        return super().training_step(model, inputs, num_items_in_batch)

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        """Leaves the caller's card as it is; the Trainer would write its own before it pushes."""


def timm_optimizer(args: ImageTrainingArguments) -> tuple[Any, dict[str, Any]]:
    """timm's optimiser by name, with the Trainer's learning rate and, where it is an Adam, its betas and epsilon.

    Raises:
        ValueError: if timm has none of that name.
    """
    from timm.optim import get_optimizer_class, get_optimizer_info

    name = str(args.timm_optimizer).lower()
    options: dict[str, Any] = {"lr": args.learning_rate}
    if get_optimizer_info(name).has_betas:
        options["betas"] = (args.adam_beta1, args.adam_beta2)
    if get_optimizer_info(name).has_eps:
        options["eps"] = args.adam_epsilon
    return get_optimizer_class(name, bind_defaults=False), options
