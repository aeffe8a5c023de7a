"""What one sees while a training runs: on a terminal, without one, and with warnings in between."""

import contextlib
import io
import os
import re
import sys
from types import SimpleNamespace

import pytest
import torch
from huggingface_hub.utils import tqdm
from transformers import TrainerControl, TrainerState
from transformers.utils import logging
from transformers.utils.notebook import NotebookProgressCallback

from perceivers.training import progress as module
from perceivers.training.classification import CLASSIFICATION, ClassTargets
from perceivers.training.progress import Clock, Progress, describe, duration, silent_libraries
from tests.runs import train


class Terminal(io.StringIO):
    def isatty(self):
        return True


def screen(text):
    """The lines that a terminal shows after it got this text."""
    lines, row, column = [""], 0, 0
    for part in re.findall(r"\x1b\[A|\r|\n|[^\x1b\r\n]+", text):
        if part == "\r":
            column = 0
        elif part == "\x1b[A":
            row -= 1
        elif part == "\n":
            row, column = row + 1, 0
            lines += [""] * (row + 1 - len(lines))
        else:
            lines[row] = lines[row][:column].ljust(column) + part + lines[row][column + len(part) :]
            column += len(part)
    return [line.rstrip() for line in lines]


@pytest.fixture
def terminal(monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    return Terminal()


def arguments(**changes):
    values = {"disable_tqdm": False, "eval_strategy": "steps", "device": "cpu", "world_size": 1}
    values |= {"train_batch_size": 4, "gradient_accumulation_steps": 2}
    return SimpleNamespace(**{**values, **changes})


def run(terminal, args=None, steps=4, evaluate=True, warn=False):
    """A training of a few steps, with an evaluation after every second, as the Trainer tells its callbacks."""
    with contextlib.redirect_stderr(terminal):  # here, as pytest has its own in each phase of a test
        args, state, control = args or arguments(), TrainerState(max_steps=steps), TrainerControl()
        progress = Progress(CLASSIFICATION, ClassTargets(["a", "b"]), "images")
        progress.on_train_begin(args, state, control, model=torch.nn.Linear(2, 3))
        for step in range(1, steps + 1):
            state.global_step = step
            progress.on_step_end(args, state, control)
            progress.on_log(args, state, control, logs={"loss": 1 / step, "learning_rate": 1e-3})
            if step % 2 == 0 and evaluate:
                for _ in range(3):
                    progress.on_prediction_step(args, state, control, eval_dataloader=range(3))
                if warn:
                    tqdm.write("perceivers: warning: left out a.png", file=sys.stderr)
                progress.on_log(args, state, control, logs={"eval_loss": 0.5, "eval_accuracy": step / 8})
                progress.on_evaluate(args, state, control, metrics={})
        progress.on_train_end(args, state, control)


@pytest.mark.parametrize("warn", [False, True])
def test_a_terminal_has_one_bar_that_warnings_do_not_break(terminal, warn):
    run(terminal, warn=warn)
    shown = screen(terminal.getvalue())
    first = "perceivers: The model has 9 parameters and trains on cpu with"
    assert shown[0].startswith(first) and shown[0].endswith("4 steps of up to 8 images, 0 epochs.")
    warnings = ["perceivers: warning: left out a.png"] * 2 if warn else []
    assert shown[1 : 1 + len(warnings)] == warnings
    bar, *rest = shown[1 + len(warnings) :]
    assert bar.startswith("100 %|") and "step 4 of 4" in bar
    assert bar.endswith("loss 0.250, evaluation loss 0.500, accuracy 50.00 %, learning rate 0.001")
    assert not any(rest)


@pytest.mark.parametrize("is_terminal", [False, True])
def test_without_a_bar_every_evaluation_is_a_line(monkeypatch, terminal, is_terminal):
    if not is_terminal:
        monkeypatch.setattr(Terminal, "isatty", lambda self: False)
    run(terminal, arguments(disable_tqdm=is_terminal))
    _, *lines = terminal.getvalue().splitlines()
    assert [line.split(", learning")[0] for line in lines] == [
        "perceivers: Step 2 of 4: loss 0.500, evaluation loss 0.500, accuracy 25.00 %",
        "perceivers: Step 4 of 4: loss 0.250, evaluation loss 0.500, accuracy 50.00 %",
    ]


def test_a_terminal_of_unknown_size_gets_lines(monkeypatch, terminal):
    monkeypatch.setattr(Terminal, "fileno", lambda self: 2)
    monkeypatch.setattr(module.os, "get_terminal_size", lambda descriptor: os.terminal_size((0, 0)))
    run(terminal)
    assert len([line for line in terminal.getvalue().splitlines() if "accuracy" in line]) == 2


def test_without_bar_and_evaluations_every_log_entry_is_a_line(terminal):
    run(terminal, arguments(disable_tqdm=True, eval_strategy="no"), evaluate=False, steps=2)
    _, *lines = terminal.getvalue().splitlines()
    assert [line.split(",")[0] for line in lines] == [
        "perceivers: Step 1 of 2: loss 1.000",
        "perceivers: Step 2 of 2: loss 0.500",
    ]


def test_the_expected_time_is_said_once(monkeypatch, terminal):
    seconds = iter(range(0, 1000, 10))
    monkeypatch.setattr(module.time, "perf_counter", lambda: next(seconds))
    run(terminal, arguments(disable_tqdm=True), steps=20, evaluate=False)
    (line,) = [line for line in terminal.getvalue().splitlines() if "A step takes" in line]
    assert line == "perceivers: A step takes 10 s, so that 16 more take about 3 min, and evaluations beside them."


def test_the_clock_leaves_out_what_comes_between_steps(monkeypatch):
    times = iter([0, 2, 4, 104, 106])
    monkeypatch.setattr(module.time, "perf_counter", lambda: next(times))
    clock = Clock()
    assert [clock.step() for _ in range(3)] == [None] * 3
    clock.pause()
    assert clock.step() is None
    assert clock.left(5) == 10
    assert clock.step() == 2


def test_a_resumed_run_and_frozen_parameters():
    model = torch.nn.Linear(2, 3)
    model.weight.requires_grad_(False)
    state = TrainerState(max_steps=9, global_step=4, num_train_epochs=3)
    sentence = describe(arguments(world_size=2), state, model, "images")
    assert sentence.startswith("The model has 9 parameters, of which 3 are trained, and trains on 2 processes")
    assert sentence.endswith("steps 5 to 9 of up to 16 images, 3 epochs.")
    assert describe(arguments(), state, model, "images", 200.0).endswith("of up to 8 images, 3 epochs in about 3 min.")


def test_other_processes_show_nothing(terminal):
    state = TrainerState(max_steps=2, is_world_process_zero=False)
    progress = Progress(CLASSIFICATION, ClassTargets(["a", "b"]), "images")
    with contextlib.redirect_stderr(terminal):
        progress.on_train_begin(arguments(), state, TrainerControl(), model=torch.nn.Linear(1, 1))
        progress.on_step_end(arguments(), state, TrainerControl())
        progress.on_prediction_step(arguments(), state, TrainerControl(), eval_dataloader=[1])
        progress.on_evaluate(arguments(), state, TrainerControl())
    assert terminal.getvalue() == ""


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.2, "1 s"), (45, "45 s"), (200, "3 min"), (5000, "83 min"), (9000, "2.5 h")]
)
def test_duration(seconds, text):
    assert duration(seconds) == text


def test_libraries_are_silent_and_then_not():
    was_enabled = logging.is_progress_bar_enabled()
    with silent_libraries():
        assert not logging.is_progress_bar_enabled()
        with silent_libraries():
            assert not logging.is_progress_bar_enabled()
    assert logging.is_progress_bar_enabled() == was_enabled


@pytest.mark.integration
class TestTraining:
    def test_a_terminal_shows_no_dictionaries_and_results_beside_chance(self, tmp_path, terminal, capsys, one_thread):
        words = ["--disable_tqdm", "false", "--eval_strategy", "epoch", "--save_strategy", "epoch"]
        with contextlib.redirect_stderr(terminal):
            assert train(tmp_path, *words) == 0
        seen = terminal.getvalue()
        assert "{'" not in seen and "Writing model shards" not in seen and "pin_memory" not in seen
        bar = [line for line in screen(seen) if line][-1]
        assert re.search(r"step 3 of 3.* loss \d.*, evaluation loss \d.*, accuracy .* %, learning rate", bar), bar
        said = capsys.readouterr().out
        assert "*****" not in said and "{'" not in said
        assert "Chance is 50.00 %" in said and "Three things to try:\n  1. Train longer" in said
        assert (tmp_path / "out" / "errors.png").is_file() == ("most wrong about: " in said)
        card = (tmp_path / "out" / "README.md").read_text()
        assert "**This is near chance" in card and "| accuracy of chance | 50.00 % |" in card

    def test_a_notebook_keeps_its_table(self, tmp_path, monkeypatch, one_thread):
        made = []

        class Table(NotebookProgressCallback):
            def __init__(self):
                super().__init__()
                made.append(self)

            def on_train_begin(self, *args, **kwargs):
                raise ValueError("the table is asked")

        monkeypatch.setattr("transformers.trainer.DEFAULT_PROGRESS_CALLBACK", Table)
        assert train(tmp_path, "--disable_tqdm", "false") == 1
        assert len(made) == 1
