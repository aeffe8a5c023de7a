"""What is heard when in a recording: the labels of its clips, as rows and as a picture."""

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from perceivers.training.classification import Classification
from perceivers.training.folders import printable

COLOURS = "viridis_r"  # high scores are dark
# Of a label in the picture, in letters, and of labels: those with the highest scores.
WIDEST_LABEL, MOST_LABELS = 30, 20


class Timeline(Classification):
    """Classification of each clip of a recording, for the pipeline that cuts recordings into clips."""

    prediction_columns = ("start", "end", "label", "score")

    def pipeline_options(self, top_k: int) -> dict[str, Any]:
        """How many labels to return of each clip."""
        return {"timeline": True, "top_k": top_k}

    def format_prediction(self, output: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """A row per label of each clip, the best first; `start` and `end` are in seconds."""
        return [{column: row[column] for column in self.prediction_columns} for row in output]

    def write_prediction(self, output: Any, folder: Path, name: str) -> Path:
        """Writes the rows as JSON, and the picture beside them."""
        draw_timeline(output, name, folder / f"{name}.png")
        return super().write_prediction(output, folder, name)


TIMELINE = Timeline()


def draw_timeline(rows: list[dict[str, Any]], title: str, path: Path) -> None:
    """Draws a lane for each label, in the order in which they are first heard, coloured by the score.

    Clips overlap; each moment has the scores of the clip whose middle is the nearest.

    Args:
        rows: What the pipeline returned.
        title: Title of the picture.
        path: Path of the picture, whose suffix is its format.
    """
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize
    from matplotlib.figure import Figure

    highest: dict[str, float] = {}
    for row in rows:
        highest[row["label"]] = max(row["score"], highest.get(row["label"], row["score"]))
    drawn = set(sorted(highest, key=lambda label: -highest[label])[:MOST_LABELS])
    labels = [label for label in highest if label in drawn]
    parts = _parts([(row["start"], row["end"]) for row in rows])
    scale = Normalize(min(0.0, *highest.values()), max(1.0, *highest.values()))
    colours = ScalarMappable(scale, COLOURS)
    figure = Figure(figsize=(10, 1.6 + 0.3 * len(labels)), layout="constrained")
    axes = figure.subplots()
    for place, label in enumerate(labels):
        scores = {(row["start"], row["end"]): row["score"] for row in rows if row["label"] == label}
        bars = [(start, end - start) for start, end in (parts[span] for span in scores)]
        axes.broken_barh(bars, (place - 0.4, 0.8), facecolors=colours.to_rgba(np.array(list(scores.values()))))
    axes.set(xlabel="time, s", xlim=(0, max(row["end"] for row in rows)), title=_shown(title))
    axes.set_yticks(range(len(labels)), [_shown(str(label)) for label in labels])
    axes.invert_yaxis()
    figure.colorbar(colours, ax=axes, label="score")
    figure.savefig(path, dpi=120)


def _parts(spans: list[tuple[float, float]]) -> dict[tuple[float, float], tuple[float, float]]:
    """The part of the time that each clip stands for: to the middle of what it shares with its neighbours."""
    spans = sorted(set(spans))
    borders = [(first[1] + second[0]) / 2 for first, second in pairwise(spans)]
    edges = [spans[0][0], *borders, spans[-1][1]]
    return dict(zip(spans, pairwise(edges), strict=True))


def _shown(text: str) -> str:
    """A text as it is drawn: short, and no formula."""
    text = printable(text).replace("$", r"\$")
    return text if len(text) <= WIDEST_LABEL else f"{text[: WIDEST_LABEL - 1]}…"
