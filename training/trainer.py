"""transformers' Trainer, with what training a classifier needs besides."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils.data import Dataset, Sampler, WeightedRandomSampler
from transformers import PreTrainedModel, Trainer

from .arguments import ClassificationTrainingArguments
from .problem_types import ProblemType


class ClassificationTrainer(Trainer):
    """A Trainer that augments batches, uses timm's optimisers, and leaves the model card to the caller.

    Args:
        problem: what the labels are; gives loss and metrics.
        augment_batch: the inputs of a training step -> the same, varied; labels may become probabilities.
        weights: of each training example, how often it is drawn, with replacement; `None` draws each once an epoch.

    The other arguments are the Trainer's.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        args: ClassificationTrainingArguments,
        processing_class: Any,
        train_dataset: Dataset | list,
        eval_dataset: Dataset | list,
        problem: ProblemType,
        augment_batch: Callable[[dict[str, Any]], dict[str, Any]] | None = None,
        weights: np.ndarray | None = None,
        **kwargs: Any,
    ):
        self.augment_batch, self.weights = augment_batch, weights
        if args.timm_optimizer:
            kwargs["optimizer_cls_and_kwargs"] = timm_optimizer(args)
        super().__init__(
            model=model,
            args=args,
            processing_class=processing_class,
            train_dataset=train_dataset,
            eval_dataset=eval_dataset,
            compute_loss_func=problem.loss(args.label_smoothing_factor, augment_batch is not None),
            compute_metrics=lambda outputs: problem.scores(
                np.asarray(outputs.predictions), np.asarray(outputs.label_ids)
            ),
            preprocess_logits_for_metrics=problem.reduce,
            **kwargs,
        )

    def _get_train_sampler(self, train_dataset: Dataset | None = None) -> Sampler | None:
        if self.weights is None:
            return super()._get_train_sampler(train_dataset)
        generator = torch.Generator().manual_seed(self.args.seed)  # the same in every process
        return WeightedRandomSampler(self.weights.tolist(), len(self.weights), generator=generator)

    def training_step(self, model: nn.Module, inputs: dict[str, Any], num_items_in_batch=None) -> torch.Tensor:
        """As the Trainer's, on the augmented batch."""
        if self.augment_batch is not None:
            inputs = self.augment_batch(inputs)
        return super().training_step(model, inputs, num_items_in_batch)

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        """Leaves the caller's card as it is; the Trainer would write its own before it pushes."""


def timm_optimizer(args: ClassificationTrainingArguments) -> tuple[Any, dict[str, Any]]:
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
