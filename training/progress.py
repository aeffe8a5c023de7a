"""What one sees of a training while it runs: what it runs on, one progress bar, and how long it takes."""

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import torch
from huggingface_hub.utils import tqdm
from transformers import PreTrainedModel, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.utils import logging

from .objective import Objective

FORMAT = "{percentage:3.0f} %|{bar:20}| step {n_fmt} of {total_fmt}, {remaining} left{postfix}"
EVALUATION_FORMAT = "evaluating {percentage:3.0f} %|{bar:20}| {remaining} left"
# The expected time is said once it was measured over at least this many steps and seconds.
MEASURED_STEPS = 3
MEASURED_SECONDS = 5.0


class Progress(TrainerCallback):
    """Shows a training: a progress bar in a terminal, else a line per evaluation.

    The bar has the loss, the learning rate, the main metric of the last evaluation, and the time left. There is none
    if stderr is no terminal, with `--disable_tqdm`, or where the Hub's library is told to show none. Everything is on
    stderr, and of several processes the first shows it.

    Args:
        objective: What is predicted; names and formats the metric.
        targets: What `objective.load_targets` returned.
        noun: What several inputs are called.

    Attributes:
        seconds: What the training takes, if it is known before; else it is measured on the way and said then.
    """

    def __init__(self, objective: Objective, targets: Any, noun: str):
        self.seconds: float | None = None
        self.objective, self.noun = objective, noun
        self.metric = objective.main_metric(targets)
        self.title = objective.titles(targets)[self.metric]
        self._bar: tqdm | None = None
        self._evaluation: tqdm | None = None
        self._is_training = False
        self._shown: dict[str, str] = {}
        self._clock = Clock()

    def on_train_begin(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        model: PreTrainedModel | None = None,
        **kwargs,
    ):
        """Says what is trained, where and for how long, and opens the bar."""
        if not state.is_world_process_zero:
            return
        self.close()  # of a training that the Trainer began anew with smaller batches
        self._is_training, self._shown, self._clock = True, {}, Clock()
        assert model is not None
        write(describe(args, state, model, self.noun, self.seconds))
        self._bar = make_bar(args, total=state.max_steps, initial=state.global_step, bar_format=FORMAT, smoothing=0.05)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs):
        """Moves the bar on, and says once how long the training takes."""
        if not self._is_training:
            return
        if self._bar is not None:
            self._bar.update(state.global_step - self._bar.n)
        steps_left = state.max_steps - state.global_step
        if (seconds := self._clock.step()) is not None and steps_left and self.seconds is None:
            write(
                f"A step takes {seconds:.2g} s, so that {steps_left:,} more take about "
                f"{duration(seconds * steps_left)}, and evaluations beside them."
            )

    def on_prediction_step(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        eval_dataloader: Any = None,
        **kwargs,
    ):
        """Moves the bar of an evaluation on, which vanishes at its end."""
        if not state.is_world_process_zero or eval_dataloader is None:
            return
        if self._evaluation is None:
            self._evaluation = make_bar(args, total=len(eval_dataloader), bar_format=EVALUATION_FORMAT, leave=False)
        if self._evaluation is not None:
            self._evaluation.update()

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **kwargs,
    ):
        """Shows the figures behind the bar; without a bar and without evaluations, in a line."""
        logs = logs or {}
        for key, title in (("loss", "loss"), ("learning_rate", "learning rate"), ("eval_loss", "evaluation loss")):
            if key in logs:
                self._shown[title] = f"{logs[key]:.2g}" if key == "learning_rate" else f"{logs[key]:.3f}"
        if (value := logs.get(f"eval_{self.metric}")) is not None:
            self._shown[self.title] = self.objective.format_metric(self.metric, value)
        if self._bar is not None:
            self._bar.set_postfix_str(self._figures())
        elif self._is_training and "loss" in logs and args.eval_strategy == "no":
            self._write_line(state)

    def on_evaluate(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs):
        """Closes the bar of the evaluation; without a bar of the training, shows the figures in a line."""
        self.close_evaluation()
        self._clock.pause()
        if self._is_training and self._bar is None:
            self._write_line(state)

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs):
        """Keeps the time that a checkpoint takes out of that of a step."""
        self._clock.pause()

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs):
        """Closes the bar, which stays on the screen."""
        self.close()

    def close(self) -> None:
        """Leaves the bars as they are, so that what is written next begins a line of its own."""
        self.close_evaluation()
        if self._bar is not None:
            self._bar.close()
        self._bar, self._is_training = None, False

    def close_evaluation(self) -> None:
        """Takes the bar of an evaluation away."""
        if self._evaluation is not None:
            self._evaluation.close()
            self._evaluation = None

    def _figures(self) -> str:
        titles = ("loss", "evaluation loss", self.title, "learning rate")
        return ", ".join(f"{title} {self._shown[title]}" for title in titles if title in self._shown)

    def _write_line(self, state: TrainerState) -> None:
        left = self._clock.left(state.max_steps - state.global_step)
        time_left = f", about {duration(left)} left" if left else ""
        write(f"Step {state.global_step:,} of {state.max_steps:,}: {self._figures()}{time_left}.")


class Clock:
    """Measures steps of the training, without the first, which is slow, and without what comes between steps."""

    def __init__(self):
        self._last: float | None = None
        self._seconds, self._steps, self._is_said = 0.0, 0, False

    def step(self) -> float | None:
        """Counts a step that has ended.

        Returns:
            The seconds of a step, once there are enough to say so; `None` before and after.
        """
        now = time.perf_counter()
        if self._last is not None:
            self._seconds, self._steps = self._seconds + now - self._last, self._steps + 1
        self._last = now
        is_enough = self._steps >= MEASURED_STEPS and self._seconds >= MEASURED_SECONDS
        if self._is_said or not is_enough:
            return None
        self._is_said = True
        return self._seconds / self._steps

    def pause(self) -> None:
        """Leaves out the time until the next step has ended."""
        self._last = None

    def left(self, steps: int) -> float | None:
        """The seconds that more steps take; `None` if none was measured."""
        return steps * self._seconds / self._steps if self._steps else None


def describe(
    args: TrainingArguments, state: TrainerState, model: PreTrainedModel, noun: str, seconds: float | None = None
) -> str:
    """Says which model is trained, on what, in how many steps, and how long it takes if that is known.

    Args:
        args: The Trainer's arguments.
        state: Its state before the first step.
        model: The model.
        noun: What several inputs are called.
        seconds: What the training takes from its first step to its last.
    """
    total = sum(parameter.numel() for parameter in model.parameters())
    trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    size = f"{total:,} parameters" if trained == total else f"{total:,} parameters, of which {trained:,} are trained,"
    device = torch.device(args.device)
    if device.type == "cuda":
        place = f"{torch.cuda.get_device_name(device)} ({device})"
    else:
        place = f"{device.type} with {torch.get_num_threads()} of {os.cpu_count()} threads"
    if args.world_size > 1:
        place = f"{args.world_size} processes, the first on {place}"
    examples = args.train_batch_size * args.gradient_accumulation_steps * args.world_size
    steps = f"{state.max_steps:,} steps"
    if state.global_step:
        steps = f"steps {state.global_step + 1:,} to {state.max_steps:,}"
    epochs = f"{state.num_train_epochs:,} epoch{'s' * (state.num_train_epochs != 1)}"
    time_left = f" in about {duration(seconds)}" if seconds is not None else ""
    return f"The model has {size} and trains on {place}: {steps} of up to {examples:,} {noun}, {epochs}{time_left}."


def make_bar(args: TrainingArguments, **options: Any) -> tqdm | None:
    """Opens a progress bar on stderr; `None` where none is to be shown.

    Args:
        args: The Trainer's arguments.
        options: Those of the bar.
    """
    if args.disable_tqdm or not sys.stderr.isatty():
        return None
    with suppress(OSError, ValueError):  # of a stream that is no file
        if os.get_terminal_size(sys.stderr.fileno()).lines == 0:  # of unknown size, where tqdm draws nothing
            return None
    bar = tqdm(file=sys.stderr, dynamic_ncols=True, **options)
    return None if bar.disable else bar


def write(sentence: str) -> None:
    """Shows a sentence on stderr, above a bar if there is one."""
    tqdm.write(f"perceivers: {sentence}", file=sys.stderr)


def duration(seconds: float) -> str:
    """A time in round words, such as `40 s`, `5 min` or `2.5 h`."""
    if seconds < 90:
        return f"{max(seconds, 1):.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 90 * 60 else f"{seconds / 3600:.1f} h"


@contextmanager
def silent_libraries() -> Iterator[None]:
    """Keeps transformers from showing progress bars of its own, such as "Writing model shards"."""
    if not logging.is_progress_bar_enabled():
        yield
        return
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.enable_progress_bar()
