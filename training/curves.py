"""Loss and a metric over the epochs as a picture, from what the Trainer has logged."""

from pathlib import Path
from typing import Any

from matplotlib.figure import Figure


def draw_curves(log_history: list[dict[str, Any]], metric: str, title: str, path: Path) -> None:
    """Draws training and evaluation loss, and a metric of the evaluation in percent, over the epochs.

    Args:
        log_history: the Trainer's `state.log_history`.
        metric: the key of the metric in it, in 0..1.
        title: what to call the metric.
        path: of the picture; its suffix is its format.
    """
    figure = Figure(figsize=(10, 4), layout="constrained")
    loss_axes, metric_axes = figure.subplots(1, 2)
    for key, label in (("loss", "training"), ("eval_loss", "evaluation")):
        loss_axes.plot(*_series(log_history, key), label=label)
    loss_axes.set(xlabel="epoch", ylabel="loss", ylim=(0, None))
    loss_axes.legend()
    epochs, values = _series(log_history, metric)
    metric_axes.plot(epochs, [100 * value for value in values])
    metric_axes.set(xlabel="epoch", ylabel=f"{title} in evaluation, %")
    for axes in (loss_axes, metric_axes):
        axes.grid(alpha=0.3)
    figure.savefig(path, dpi=120)


def _series(log_history: list[dict[str, Any]], key: str) -> tuple[list[float], list[float]]:
    points = [(entry["epoch"], entry[key]) for entry in log_history if key in entry and "epoch" in entry]
    return [epoch for epoch, _ in points], [value for _, value in points]
