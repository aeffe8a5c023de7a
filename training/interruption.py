"""Ctrl-C in the middle of training: the step is finished and a checkpoint written, so that the run can go on later."""

import signal
import threading

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments


class StopOnInterrupt(TrainerCallback):
    """Ends training with a checkpoint after the step during which Ctrl-C was pressed; pressed again, it ends at once.

    Attributes:
        was_interrupted: whether it was pressed.
    """

    def __init__(self):
        self.was_interrupted = False
        self._previous_handler = None

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs):
        # Python lets only the main thread handle signals; elsewhere Ctrl-C ends the run as it always does.
        if threading.current_thread() is threading.main_thread():
            self._previous_handler = signal.signal(signal.SIGINT, self._handle)

    def _handle(self, signum, frame):
        if self.was_interrupted:
            raise KeyboardInterrupt
        self.was_interrupted = True

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs):
        if self.was_interrupted:
            control.should_save = True
            control.should_training_stop = True

    def restore(self):
        """Gives Ctrl-C its former meaning back."""
        if self._previous_handler is not None:
            signal.signal(signal.SIGINT, self._previous_handler)
            self._previous_handler = None
