"""What one sees at the end of a training: curves, the examples that the model is most wrong about, and what to try."""

import csv
import textwrap
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .examples import ExampleDataset, file_of, reason_of
from .folders import printable
from .objective import Mistake, Outcome

CURVES = "training_curves.png"
MISTAKES_PICTURE = "errors.png"
MISTAKES_TABLE = "errors.csv"
# Examples on the picture, in rows of four, and in the table.
MOST_DRAWN = 16
DRAWN_PER_ROW = 4
MOST_LISTED = 1000
# The model knows its training examples by heart if their loss is below this share of that of the evaluation.
BY_HEART = 0.5
# A spreadsheet takes a cell that begins with one of these for a formula.
FORMULA = ("=", "+", "-", "@")
TITLE_WIDTH = 26
# Space above the largest value of a curve.
HEADROOM = 1.05


def draw_curves(
    log_history: Sequence[Mapping[str, Any]], metric: str, title: str, baselines: Mapping[str, float], path: Path
) -> None:
    """Draws the losses of training and evaluation, and a metric of the evaluation in percent, over the epochs.

    A loss of the training that was never logged is drawn as its mean over the run, at the end.

    Args:
        log_history: The Trainer's `state.log_history`, after an evaluation.
        metric: Key of the metric in it, whose values are in 0..1.
        title: What to call the metric.
        baselines: What the metric would be without a model, by the name of the guess; drawn as dotted lines.
        path: Path of the picture, whose suffix is its format.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4), layout="constrained")
    loss_axes, metric_axes = figure.subplots(1, 2)
    training, evaluation = _series(log_history, "loss"), _series(log_history, "eval_loss")
    label = "training"
    if not training[0]:
        training, label = _series(log_history, "train_loss"), "training, mean of the run"
    _draw_line(loss_axes, training, label)
    _draw_line(loss_axes, evaluation, "evaluation")
    largest = max([*training[1], *evaluation[1]])
    loss_axes.set(xlabel="epoch", ylabel="loss", ylim=(0, HEADROOM * largest if largest > 0 else None))
    epochs, values = _series(log_history, metric)
    _draw_line(metric_axes, (epochs, [100 * value for value in values]), "model")
    for number, (name, value) in enumerate(baselines.items()):
        metric_axes.axhline(100 * value, color=f"C{number + 1}", linestyle=":", label=name)
    metric_axes.set(xlabel="epoch", ylabel=f"{title} in evaluation, %", ylim=(0, 100 * HEADROOM))
    for axes in (loss_axes, metric_axes):
        axes.grid(alpha=0.3)
        axes.legend()
    figure.savefig(path, dpi=120)


def _draw_line(axes: Any, series: tuple[list[float], list[float]], label: str) -> None:
    # A line through a single point, or a few, does not show where they are.
    axes.plot(*series, marker="o" if len(series[0]) <= 20 else None, markersize=4, label=label)


def _series(log_history: Sequence[Mapping[str, Any]], key: str) -> tuple[list[float], list[float]]:
    points = [(entry["epoch"], entry[key]) for entry in log_history if key in entry and "epoch" in entry]
    return [epoch for epoch, _ in points], [value for _, value in points]


@dataclass(frozen=True)
class LocatedMistake:
    """A mistake with the place of its example.

    Attributes:
        mistake: The mistake.
        row: Row of the example in the data set that was evaluated on.
        name: Name of the split and the example's row in it.
        file: The example's file; `None` if it has none.
    """

    mistake: Mistake
    row: int
    name: str
    file: str | None


def locate(mistakes: Sequence[Mistake], outcome: Outcome, dataset: ExampleDataset) -> list[LocatedMistake]:
    """Finds the examples of the first mistakes; none if the rows of the outcome are not known."""
    if outcome.rows is None:
        return []
    origin, located = dataset.left_out.origin, []
    for mistake in mistakes[:MOST_LISTED]:
        row = int(outcome.rows[mistake.number])
        name = f"{origin.split}[{origin.rows[row]}]"
        located.append(LocatedMistake(mistake, row, name, file_of(dataset.rows, row, dataset.modality)))
    return located


def write_mistakes(mistakes: Sequence[LocatedMistake], path: Path) -> None:
    """Writes a table of mistakes, as CSV: example, file, label, prediction and score.

    Names are escaped where they would control a terminal, and begin with an apostrophe where a spreadsheet would take
    them for a formula.
    """
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["example", "file", "label", "prediction", "score"])
        for located in mistakes:
            mistake = located.mistake
            cells = [located.name, located.file or "", mistake.target, mistake.prediction]
            writer.writerow([*map(_as_cell, cells), f"{mistake.score:.4f}"])


def _as_cell(text: str) -> str:
    text = printable(text)
    return f"'{text}" if text.startswith(FORMULA) else text


def draw_mistakes(mistakes: Sequence[LocatedMistake], dataset: ExampleDataset, path: Path) -> None:
    """Draws the inputs of the first mistakes with what is right, what the model says, and how sure it is.

    Args:
        mistakes: The mistakes, of which there is at least one.
        dataset: The data set that was evaluated on; its modality draws the inputs.
        path: Path of the picture, whose suffix is its format.
    """
    from matplotlib.figure import Figure

    modality, drawn = dataset.modality, mistakes[:MOST_DRAWN]
    num_columns = min(DRAWN_PER_ROW, len(drawn))
    num_rows = -(-len(drawn) // num_columns)
    figure = Figure(figsize=(2.6 * num_columns, 3.2 * num_rows), layout="constrained")
    for place, located in enumerate(drawn, start=1):
        axes: Any = figure.add_subplot(num_rows, num_columns, place, projection=modality.projection)
        axes.set(xticks=[], yticks=[], anchor="NW")
        try:
            (value,) = modality.inputs(dataset.rows[[located.row]])
            modality.draw(value, dataset.transform, axes)
        except Exception as error:  # the file is gone, or its decoder raises anything; the others can be drawn
            reason = textwrap.fill(printable(reason_of(error)), TITLE_WIDTH)
            axes.annotate(reason, (0, 0.5), xycoords="axes fraction", fontsize=8, parse_math=False)
        mistake = located.mistake
        lines = [f"right: {mistake.target}", f"said: {mistake.prediction} ({mistake.score:.0%})"]
        if located.file:
            lines.append(Path(located.file).name)
        title = "\n".join(textwrap.shorten(printable(line), TITLE_WIDTH, placeholder="...") for line in lines)
        axes.set_title(title, fontsize=9, loc="left", parse_math=False)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph")  # letters that the font lacks are boxes
        figure.savefig(path, dpi=100)


def show_mistakes(mistakes: Sequence[LocatedMistake], dataset: ExampleDataset, folder: Path) -> list[str]:
    """Writes the table and the picture of mistakes into a folder.

    Returns:
        Names of the files; none if there are no mistakes.
    """
    if not mistakes:
        return []
    draw_mistakes(mistakes, dataset, folder / MISTAKES_PICTURE)
    write_mistakes(mistakes, folder / MISTAKES_TABLE)
    return [MISTAKES_PICTURE, MISTAKES_TABLE]


def forget_mistakes(folder: Path) -> None:
    """Removes table and picture of an earlier run."""
    for name in (MISTAKES_PICTURE, MISTAKES_TABLE):
        (folder / name).unlink(missing_ok=True)


def is_by_heart(log_history: Sequence[Mapping[str, Any]]) -> bool:
    """Whether the last loss of the training is far below that of the evaluation."""
    training, evaluation = _series(log_history, "loss")[1], _series(log_history, "eval_loss")[1]
    return bool(training and evaluation) and training[-1] < BY_HEART * evaluation[-1]


def things_to_try(
    log_history: Sequence[Mapping[str, Any]],
    epochs: float,
    learning_rate: float,
    noun: str,
    pretrained: str | None,
    files: Sequence[str],
) -> list[str]:
    """Three things to try after a result near chance.

    Args:
        log_history: The Trainer's `state.log_history`, after an evaluation.
        epochs: Number of epochs of the training.
        learning_rate: Its largest learning rate.
        noun: What several inputs are called.
        pretrained: Name of a model that could be fine-tuned instead; `None` if there is none, or if one was.
        files: Names of the files that show the mistakes.
    """
    if is_by_heart(log_history):
        first = (
            "The model knows its training examples by heart: give it more of them, or vary them by augmentation (see "
            "`perceivers train --help`)."
        )
    else:
        first = f"Train longer: `--num_train_epochs {max(3 * epochs, 1):.0f}` instead of {epochs:g}."
    if pretrained:
        second = f"Start from weights: `--model_name_or_path {pretrained}` instead of from scratch."
    else:
        second = f"Change the learning rate: `--learning_rate {3 * learning_rate:.2g}`, or {learning_rate / 3:.2g}."
    where = f" ({' and '.join(files)})" if files else ""
    third = (
        f"Look at the {noun} that it is most wrong about{where}: are their labels right, and can you tell the classes "
        "apart by what the model gets to see?"
    )
    return [first, second, third]
