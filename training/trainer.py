"""transformers' Trainer with an objective, batch augmentation, timm's optimisers and a Ctrl-C that loses nothing."""

import signal
import threading
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils.data import Dataset, Sampler, WeightedRandomSampler
from transformers import PreTrainedModel, Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from .arguments import PerceiverTrainingArguments
from .modality import Batch
from .objective import Objective


class PerceiverTrainer(Trainer):
    """A Trainer that augments batches, uses timm's optimisers, and leaves the model card to the caller.

    Args:
        objective: What is predicted; gives loss, metrics and collator.
        targets: What `objective.load_targets` returned.
        batch_transform: Augments the batch of a training step; it may turn labels into probabilities.
        sample_weights: How often each training example is drawn, with replacement; `None` draws each once per epoch.

    The other arguments are the Trainer's.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        args: PerceiverTrainingArguments,
        processing_class: Any,
        train_dataset: Dataset | list,
        eval_dataset: Dataset | list,
        objective: Objective,
        targets: Any,
        batch_transform: Callable[[Batch], Batch] | None = None,
        sample_weights: np.ndarray | None = None,
        **kwargs: Any,
    ):
        self.batch_transform, self.sample_weights = batch_transform, sample_weights
        if args.timm_optimizer:
            kwargs["optimizer_cls_and_kwargs"] = timm_optimizer(args)
        super().__init__(
            model=model,
            args=args,
            processing_class=processing_class,
            train_dataset=train_dataset,
            eval_dataset=eval_dataset,
            data_collator=objective.collator(targets),
            compute_loss_func=objective.loss(targets, args.label_smoothing_factor, batch_transform is not None),
            compute_metrics=lambda outputs: objective.metrics(
                np.asarray(outputs.predictions), np.asarray(outputs.label_ids), targets
            ),
            preprocess_logits_for_metrics=partial(objective.reduce, targets=targets),
            **kwargs,
        )

    def _get_train_sampler(self, train_dataset: Dataset | None = None) -> Sampler | None:
        if self.sample_weights is None:
            return super()._get_train_sampler(train_dataset)
        generator = torch.Generator().manual_seed(self.args.seed)  # the same in every process
        return WeightedRandomSampler(self.sample_weights.tolist(), len(self.sample_weights), generator=generator)

    def training_step(self, model: nn.Module, inputs: Batch, num_items_in_batch=None) -> torch.Tensor:
        """Runs the Trainer's step on the augmented batch."""
        if self.batch_transform is not None:
            inputs = self.batch_transform(inputs)
        return super().training_step(model, inputs, num_items_in_batch)

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        """Keeps the caller's card, which the Trainer would overwrite before it pushes."""


class StopOnInterrupt(TrainerCallback):
    """Ends training with a checkpoint after the step in which Ctrl-C was pressed; pressed again, it ends at once.

    Attributes:
        was_interrupted: Whether it was pressed.
    """

    def __init__(self):
        self.was_interrupted = False
        self._previous_handler = None

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs):
        """Takes over Ctrl-C."""
        # Python lets only the main thread handle signals; elsewhere Ctrl-C ends the run as usual.
        if threading.current_thread() is threading.main_thread():
            self._previous_handler = signal.signal(signal.SIGINT, self._handle)

    def _handle(self, signum, frame):
        if self.was_interrupted:
            raise KeyboardInterrupt
        self.was_interrupted = True

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs):
        """Saves and stops if Ctrl-C was pressed."""
        if self.was_interrupted:
            control.should_save = True
            control.should_training_stop = True

    def restore(self):
        """Gives Ctrl-C its former meaning back."""
        if self._previous_handler is not None:
            signal.signal(signal.SIGINT, self._previous_handler)
            self._previous_handler = None


def timm_optimizer(args: PerceiverTrainingArguments) -> tuple[Any, dict[str, Any]]:
    """Finds timm's optimiser by name.

    Returns:
        Its class, and its options: the Trainer's learning rate and, for a kind of Adam, its betas and epsilon.

    Raises:
        ValueError: If timm has none of that name.
    """
    from timm.optim import get_optimizer_class, get_optimizer_info

    name = str(args.timm_optimizer).lower()
    options: dict[str, Any] = {"lr": args.learning_rate}
    if get_optimizer_info(name).has_betas:
        options["betas"] = (args.adam_beta1, args.adam_beta2)
    if get_optimizer_info(name).has_eps:
        options["eps"] = args.adam_epsilon
    return get_optimizer_class(name, bind_defaults=False), options
