"""transformers' Trainer with an objective, batch augmentation, timm's optimisers, and an end that loses nothing.

It shows its progress by a bar of our own, see [`Progress`].
"""

import math
import signal
import threading
from collections import Counter
from collections.abc import Callable
from contextlib import nullcontext
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate.utils import gather_object  # type: ignore[import-untyped]
from torch import nn
from torch.utils.data import Dataset, Sampler, WeightedRandomSampler
from transformers import (
    EarlyStoppingCallback,
    EvalPrediction,
    PreTrainedModel,
    PrinterCallback,
    ProgressCallback,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, rotate_checkpoints

from perceivers.modeling.safetensors_only import share_weights

from .arguments import PerceiverTrainingArguments
from .checkpoints import STATE, UNFINISHED, written_beside
from .examples import LEFT_OUT, ExampleCollator, ExampleDataset
from .modality import Batch
from .objective import Objective, Outcome
from .progress import Progress, silent_libraries, write


class DivergedError(ValueError):
    """The loss or the weights are no longer finite, so that more training is lost."""


class PerceiverTrainer(Trainer):
    """A Trainer that augments batches, uses timm's optimisers, and leaves the model card to the caller.

    It stops at the first loss that is not finite. Examples that cannot be read are left out, see [`ExampleDataset`].
    Models and checkpoints are written beside their place and renamed, so that there is never half of one.

    Args:
        objective: What is predicted; gives loss, metrics and collator.
        targets: What `objective.load_targets` returned.
        batch_transform: Augments the batch of a training step; it may turn labels into probabilities.
        sample_weights: How often each training example is drawn, with replacement; `None` draws each once per epoch.

    The other arguments are the Trainer's.

    Attributes:
        outcome: What the model predicted in the last evaluation; `None` before the first.
    """

    train_dataset: ExampleDataset
    eval_dataset: ExampleDataset
    objective: Objective
    targets: Any

    def __init__(
        self,
        model: PreTrainedModel,
        args: PerceiverTrainingArguments,
        processing_class: Any,
        train_dataset: ExampleDataset,
        eval_dataset: ExampleDataset,
        objective: Objective,
        targets: Any,
        batch_transform: Callable[[Batch], Batch] | None = None,
        sample_weights: np.ndarray | None = None,
        **kwargs: Any,
    ):
        self.batch_transform, self.sample_weights = batch_transform, sample_weights
        self._last_checkpoint: Path | None = None
        self._is_saving = False
        self.objective, self.targets = objective, targets
        if args.device.type == "cpu":
            args.dataloader_pin_memory = False  # else PyTorch warns that it does nothing, before every evaluation
        self.outcome: Outcome | None = None
        self._unread: set[int] = set()
        if args.timm_optimizer:
            kwargs["optimizer_cls_and_kwargs"] = timm_optimizer(args)
        kwargs["callbacks"] = [*kwargs.get("callbacks", ()), EpochOfDraws(train_dataset), LossesToDraw()]
        super().__init__(
            model=model,
            args=args,
            processing_class=processing_class,
            train_dataset=train_dataset,
            eval_dataset=eval_dataset,
            data_collator=ExampleCollator(objective.collator(targets)),
            compute_loss_func=objective.loss(targets, args.label_smoothing_factor, batch_transform is not None),
            compute_metrics=self._measure,
            preprocess_logits_for_metrics=self._reduce,  # type: ignore[arg-type]
            **kwargs,
        )
        # In a notebook, transformers shows a table of its own.
        shown = (self.pop_callback(PrinterCallback), self.pop_callback(ProgressCallback))
        self.progress = Progress(objective, targets, train_dataset.modality.noun)
        if any(shown):
            self.add_callback(self.progress)
        if args.early_stopping_patience is not None:
            self.add_callback(StopWithoutProgress(args.early_stopping_patience))

    def _reduce(self, logits: torch.Tensor, labels: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor]:
        """Keeps of a batch of logits the predictions and their confidences."""
        return self.objective.reduce(logits, labels, self.targets), self.objective.confidences(logits, self.targets)

    def _measure(self, outputs: EvalPrediction) -> dict[str, float]:
        """Keeps the outcome of an evaluation and computes its metrics."""
        predictions, confidences = map(np.asarray, outputs.predictions)
        references = np.asarray(outputs.label_ids)
        # Each of several processes knows only the examples that it could not read itself.
        rows = np.array([row for row in range(len(self.eval_dataset)) if row not in self._unread])
        is_known = self.args.world_size == 1 and len(rows) == len(references)
        self.outcome = Outcome(predictions, references, confidences, rows if is_known else None)
        return self.objective.metrics(predictions, references, self.targets)

    def train(self, *args: Any, **kwargs: Any) -> Any:
        """Runs the Trainer's training, and leaves the terminal in order however it ends."""
        try:
            return super().train(*args, **kwargs)
        finally:
            self.progress.close()

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """Runs the Trainer's evaluation, and leaves the terminal in order however it ends."""
        self._unread = set()
        try:
            return super().evaluate(*args, **kwargs)
        finally:
            self.progress.close_evaluation()

    def _get_train_sampler(self, train_dataset: Dataset | None = None) -> Sampler | None:
        if self.sample_weights is None:
            return super()._get_train_sampler(train_dataset)
        return WeightedSampler(self.sample_weights.tolist(), self.args.seed)

    def training_step(self, model: nn.Module, inputs: Batch, num_items_in_batch=None) -> torch.Tensor:
        """Runs the Trainer's step on the augmented batch.

        Raises:
            DivergedError: If the loss is not finite.
            UnreadableError: If too many examples cannot be read.
        """
        self._leave_out(inputs, self.train_dataset)
        if self.batch_transform is not None:
            inputs = self.batch_transform(inputs)
        loss = super().training_step(model, inputs, num_items_in_batch)
        if not torch.isfinite(loss):
            raise self._diverged(f"the loss of step {self.state.global_step + 1} is {loss.item()}")
        return loss

    def prediction_step(
        self, model: nn.Module, inputs: Batch, prediction_loss_only: bool, ignore_keys: list[str] | None = None
    ) -> tuple[torch.Tensor | None, torch.Tensor | None, torch.Tensor | None]:
        """Runs the Trainer's step, if an example of the batch can be read.

        Raises:
            UnreadableError: If too many examples cannot be read.
        """
        self._unread |= self._leave_out(inputs, self.eval_dataset)
        return super().prediction_step(model, inputs, prediction_loss_only, ignore_keys) if inputs else (None,) * 3

    def _leave_out(self, batch: Batch, dataset: ExampleDataset) -> set[int]:
        """Takes the examples off a batch that could not be read, and returns their rows."""
        if unreadable := batch.pop(LEFT_OUT, None):
            dataset.left_out.add(unreadable)
        return {example.number for example in unreadable or ()}

    def num_left_out(self) -> tuple[int, int]:
        """The numbers of examples to train and to evaluate on that could not be read, in all processes together.

        All processes must call this.
        """
        found = [[*dataset.left_out] for dataset in (self.train_dataset, self.eval_dataset)]
        if self.args.world_size > 1:
            every = gather_object([found])
            found = [[line for lines in each for line in lines] for each in zip(*every, strict=True)]
        train, evaluation = (len(set(lines)) for lines in found)
        return train, evaluation

    def _diverged(self, what: str) -> DivergedError:
        kept = f"{self._last_checkpoint} is the last checkpoint before" if self._last_checkpoint else "none was saved"
        return DivergedError(
            f"Training stopped because it diverged (NaN or infinity): {what}. Lower `--learning_rate`, add "
            f"`--warmup_steps`, or keep `--max_grad_norm` at 1. Checkpoints: {kept}."
        )

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        """Saves a model whose weights are finite, as a whole.

        Raises:
            DivergedError: If the weights are not finite.
        """
        assert self.model is not None
        weights = self.model.state_dict() if state_dict is None else state_dict
        for name, tensor in weights.items():
            if tensor.is_floating_point() and not tensor.isfinite().all():
                raise self._diverged(f"after step {self.state.global_step}, {name} has such values")
        folder = Path(output_dir or str(self.args.output_dir))
        is_alone = self.args.should_save and not self._is_saving  # else it is within a checkpoint, or writes nothing
        with written_beside(folder) if is_alone else nullcontext(folder) as target, silent_libraries():
            super()._save(str(target), state_dict)
            share_weights(target)

    def _get_output_dir(self, trial: Any) -> str:
        folder = super()._get_output_dir(trial)
        return str(Path(folder) / UNFINISHED) if self._is_saving else folder

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        """Saves a checkpoint as a whole, and deletes older ones only then."""
        state, run_folder = self.state, Path(self._get_output_dir(trial))
        name = f"{PREFIX_CHECKPOINT_DIR}-{state.global_step}"
        writes, wait = self.args.should_save, self.accelerator.wait_for_everyone
        with written_beside(run_folder) if writes else nullcontext(run_folder / UNFINISHED) as unfinished:
            wait()  # for the folder
            self._is_saving = True
            try:
                super()._save_checkpoint(model, trial)
            finally:
                self._is_saving = False
            wait()  # for the files of all processes
            if state.best_global_step == state.global_step:
                state.best_model_checkpoint = str(run_folder / name)  # the Trainer saw it where it was written
                if writes:
                    state.save_to_json(str(unfinished / name / STATE))
        wait()
        if self.args.push_to_hub:
            self._push_from_checkpoint(str(run_folder / name))
        if writes:
            rotate_checkpoints(
                output_dir=str(run_folder),
                save_total_limit=self.args.save_total_limit,
                best_model_checkpoint=state.best_model_checkpoint,
                use_mtime=True,
            )
        self._last_checkpoint = run_folder / name

    def save_checkpoint(self) -> None:
        """Saves a checkpoint of the last step."""
        assert self.model is not None
        self._save_checkpoint(self.model, trial=None)

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        if not self._is_saving:
            super()._push_from_checkpoint(checkpoint_folder)

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        """Keeps the caller's card, which the Trainer would overwrite before it pushes."""


class EpochOfDraws(TrainerCallback):
    """Tells the training examples the epoch, on which their draws depend; accelerate does so in one process only.

    Args:
        examples: The training examples.
    """

    def __init__(self, examples: ExampleDataset):
        self.examples = examples

    def on_epoch_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs):
        """Chooses the epoch."""
        self.examples.set_epoch(int(state.epoch or 0))


class LossesToDraw(TrainerCallback):
    """Logs the loss after the first step, the last, and before every evaluation, beside what the flags ask for.

    However short a training is, its loss is then a line, and stands beside that of every evaluation.
    """

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs):
        """Asks for a log entry."""
        if args.logging_strategy != "no":
            is_end = state.global_step in (1, state.max_steps)
            control.should_log = control.should_log or control.should_evaluate or is_end

    def on_epoch_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs):
        """Asks for a log entry if there is an evaluation."""
        if args.logging_strategy != "no":
            control.should_log = control.should_log or control.should_evaluate


class StopWithoutProgress(EarlyStoppingCallback):
    """Ends a training whose evaluations get no better, neither in the metric nor in the loss, and says so.

    A model that is still at chance has a constant accuracy, but a loss that falls already.

    A resumed training goes on counting where it was interrupted.
    """

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs):
        """Counts the evaluations since the best one."""
        super().on_train_begin(args, state, control, **kwargs)
        best = state.global_step if state.best_global_step is None else state.best_global_step
        evaluations = [entry for entry in state.log_history if "eval_loss" in entry]
        if evaluations:
            best = max(best, int(min(evaluations, key=itemgetter("eval_loss"))["step"]))
        self.early_stopping_patience_counter = sum(int(entry["step"]) > best for entry in evaluations)

    def check_metric_value(self, args: Any, state: Any, control: Any, metric_value: Any) -> None:
        """Counts an evaluation without progress."""
        super().check_metric_value(args, state, control, metric_value)
        *earlier, last = [entry["eval_loss"] for entry in state.log_history if "eval_loss" in entry]
        if last < min(earlier, default=math.inf):
            self.early_stopping_patience_counter = 0

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs):
        """Says if the training ended for this reason."""
        evaluations = self.early_stopping_patience_counter
        if state.is_world_process_zero and evaluations >= self.early_stopping_patience:
            write(
                f"Stopped at step {state.global_step:,} of {state.max_steps:,}, as {evaluations} evaluations in a row "
                f"were no better than that of step {state.best_global_step:,}, whose weights are kept."
            )


class WeightedSampler(WeightedRandomSampler):
    """Draws as many examples as there are, by their weights and with replacement.

    The draws of an epoch depend on the seed and the epoch only, so that a resumed run draws what it would have drawn.
    Each time that a row is drawn again in an epoch, its number grows by the number of rows, for [`ExampleDataset`].

    Args:
        weights: How often each example is drawn.
        seed: Seed of all epochs, the same in every process.
    """

    def __init__(self, weights: list[float], seed: int):
        super().__init__(weights, len(weights), generator=torch.Generator())
        self.seed, self.epoch, self._num_drawn = seed, 0, 0

    def set_epoch(self, epoch: int) -> None:
        """Chooses the epoch; the Trainer calls this before each."""
        self.epoch = epoch

    def __iter__(self):
        """Yields the examples of the epoch. Epochs share a stream of random numbers, which begins with the first."""
        if self._num_drawn == 0 or self._num_drawn > self.epoch:
            self.generator.manual_seed(self.seed)
            self._num_drawn = 0
        while self._num_drawn < self.epoch:
            list(super().__iter__())
            self._num_drawn += 1
        self._num_drawn += 1
        self.epoch += 1  # for a caller that sets no epochs
        seen: Counter[int] = Counter()
        for row in list(super().__iter__()):
            yield row + seen[row] * len(self.weights)
            seen[row] += 1


class StopOnInterrupt(TrainerCallback):
    """Ends training with a checkpoint after the step in which Ctrl-C was pressed; pressed again, it ends at once.

    SIGTERM, which containers and batch systems send before they end a process, does the same.

    Attributes:
        received: The signal; `None` as long as there was none.
    """

    def __init__(self):
        self.received: int | None = None
        self._previous_handlers: dict[int, Any] = {}

    @property
    def was_interrupted(self) -> bool:
        """Whether there was a signal."""
        return self.received is not None

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs):
        """Takes over the signals."""
        # Python lets only the main thread handle signals; elsewhere Ctrl-C ends the run as usual.
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._previous_handlers[number] = signal.signal(number, self._handle)

    def _handle(self, signum, frame):
        if self.was_interrupted:
            raise KeyboardInterrupt
        self.received = signum

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs):
        """Saves and stops if there was a signal."""
        if self.was_interrupted:
            control.should_save = True
            control.should_training_stop = True

    def restore(self):
        """Gives the signals their former meaning back."""
        for number, handler in self._previous_handlers.items():
            signal.signal(number, handler)
        self._previous_handlers = {}


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
