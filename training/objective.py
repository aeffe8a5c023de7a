"""What a model predicts: the interface that every objective implements, such as classification.

The rest of `training` and the command line know an objective through this interface only.
"""

import json
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset, DatasetDict, Features
from transformers import PreTrainedConfig

from .modality import Modality


@dataclass
class FolderFiles:
    """The examples of folders.

    Attributes:
        rows: For each split, the path of each file with its target columns.
        features: Types of the target columns.
        left_out: How many files and folders were left out, by reason.
        notes: Other sentences to show before training.
    """

    rows: dict[str, list[tuple[str, dict[str, Any]]]]
    features: dict[str, Any]
    left_out: Counter[str] = field(default_factory=Counter)
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Outcome:
    """What a model predicted in an evaluation.

    Attributes:
        predictions: What `Objective.reduce` kept, an example per row.
        references: What they are compared with.
        confidences: (examples,) how sure the model is of each prediction, in 0..1; see `Objective.confidences`.
        rows: (examples,) the row of each example in the data set; `None` if it is not known.
    """

    predictions: np.ndarray
    references: np.ndarray
    confidences: np.ndarray
    rows: np.ndarray | None = None


@dataclass(frozen=True)
class Mistake:
    """An example that the model is wrong about.

    Attributes:
        number: Its place among the examples of the outcome.
        target: What is right.
        prediction: What the model says.
        score: How sure the model is of what is wrong, in 0..1.
    """

    number: int
    target: str
    prediction: str
    score: float


@dataclass(frozen=True)
class Findings:
    """What the figures of an evaluation mean, in words for a terminal and for the model card.

    Attributes:
        baselines: What the main metric would be without a model, by the name of the guess.
        remarks: Sentences on the baselines and on what is predicted worst.
        warning: Says so if the result is near a baseline; `None` if it is not.
        table: Rows for the model card, by the name of the column; all have the same columns.
    """

    baselines: dict[str, float] = field(default_factory=dict)
    remarks: list[str] = field(default_factory=list)
    warning: str | None = None
    table: list[dict[str, str]] = field(default_factory=list)


class Objective(ABC):
    """A kind of prediction, with its targets, loss and metrics. There is one instance of each.

    `targets` in the methods below is what `load_targets` returns: all that the objective needs to know about a data
    set. Predictions are what `reduce` keeps of the model's logits, and references what they are compared with.

    Attributes:
        is_spatial: Whether the targets have positions, such as the pixels of a mask. Augmentation that moves an input
            must then move its target too.
        prediction_columns: Keys of the rows that `format_prediction` returns, which are columns of a table.
    """

    is_spatial: bool = False
    prediction_columns: tuple[str, ...]

    def candidates(self, features: Features) -> dict[str, list[str]]:
        """The columns of a data set that may hold the targets, for each target column.

        The default has no target column, for targets that the collator makes.
        """
        return {}

    def has_targets(self, examples: Dataset, column_names: Mapping[str, str | None]) -> bool:
        """Whether any example of a split that was loaded has a target; where they are withheld, none has.

        Args:
            examples: The split.
            column_names: The data set's name for each target column; `None` if the user gave none.
        """
        return True

    @abstractmethod
    def list_files(self, modality: Modality, folders: Mapping[str, str]) -> FolderFiles:
        """Finds the files and targets in folders given by split.

        Raises:
            OSError: If a folder does not exist.
            ValueError: If a folder is not laid out as this objective needs it.
        """

    @abstractmethod
    def load_targets(self, splits: DatasetDict) -> tuple[DatasetDict, Any]:
        """Brings the target columns to one form and describes the targets.

        Raises:
            ValueError: If the columns cannot hold targets of this objective.
        """

    def describe(self, splits: DatasetDict, targets: Any, noun: str) -> str:
        """Says how many examples there are and how the targets are spread, to be shown before training.

        Args:
            splits: The examples, `train`, `validation` or both.
            targets: What `load_targets` returned.
            noun: What several inputs are called.
        """
        purposes = {"train": "to train on", "validation": "to evaluate on"}
        return ", ".join(f"{len(splits[split]):,} {noun} {purposes[split]}" for split in splits)

    def check_targets(self, targets: Any, source: str) -> None:  # noqa: B027
        """Checks that a model can be trained on these targets.

        Args:
            targets: What `load_targets` returned.
            source: What to call the data set.

        Raises:
            ValueError: If not.
        """

    @abstractmethod
    def configure(self, config: PreTrainedConfig, targets: Any) -> None:
        """Sets the fields of a model's configuration that depend on the targets."""

    @abstractmethod
    def labels(self, rows: Mapping[str, list], targets: Any) -> dict[str, Any]:
        """The model's target arguments for some rows of a data set, batched."""

    def collator(self, targets: Any) -> Callable[[list], dict[str, Any]] | None:
        """Makes the Trainer's `data_collator`; `None` keeps the Trainer's own."""
        return None

    def sample_weights(self, dataset: Dataset, targets: Any) -> np.ndarray:
        """The weight of each example that balances the classes, (examples,).

        Raises:
            ValueError: If the objective has no classes.
        """
        raise ValueError("`--class_balanced_sampling` is for classification.")

    def loss(self, targets: Any, label_smoothing: float, has_mixed_labels: bool) -> Callable | None:
        """Makes the Trainer's `compute_loss_func`; `None` keeps the model's own loss.

        Args:
            targets: What `load_targets` returned.
            label_smoothing: The part of a label that is spread evenly over all classes.
            has_mixed_labels: Whether an augmentation may turn labels into probabilities.
        """
        return None

    @abstractmethod
    def merge_chunks(self, logits: torch.Tensor, targets: Any) -> torch.Tensor:
        """Merges the logits of the chunks of one input, (chunks, ...) -> (...)."""

    def reduce(self, logits: torch.Tensor, labels: torch.Tensor | None, targets: Any) -> torch.Tensor:
        """Keeps of a batch of logits only what the metrics need, before anything is gathered in memory."""
        return logits

    def confidences(self, logits: torch.Tensor, targets: Any) -> torch.Tensor:
        """How sure the model is of each prediction of a batch of logits, (B,) in 0..1.

        The default is 0, for objectives whose predictions say it themselves, or that have no such score.
        """
        return logits.new_zeros(len(logits), dtype=torch.float32)

    @abstractmethod
    def references(self, dataset: Dataset, config: PreTrainedConfig, targets: Any) -> np.ndarray:
        """The targets of a data set, numbered as the model with this configuration numbers them.

        Raises:
            ValueError: If the model cannot predict one of them.
        """

    @abstractmethod
    def metrics(self, predictions: np.ndarray, references: np.ndarray, targets: Any) -> dict[str, float]:
        """Computes the metrics."""

    @abstractmethod
    def report(
        self, predictions: np.ndarray, references: np.ndarray, config: PreTrainedConfig, targets: Any
    ) -> dict[str, Any]:
        """Computes the figures that `perceivers evaluate` shows beyond the metrics, as JSON can hold them."""

    @abstractmethod
    def table(self, results: dict[str, Any], targets: Any) -> str:
        """Formats what `report` returned as text for a terminal."""

    def findings(self, outcome: Outcome, config: PreTrainedConfig, targets: Any, noun: str) -> Findings:
        """Says what the figures of an evaluation mean. The default says nothing.

        Args:
            outcome: What the model predicted.
            config: The model's configuration.
            targets: What `load_targets` returned.
            noun: What several inputs are called.
        """
        return Findings()

    def mistakes(self, outcome: Outcome, config: PreTrainedConfig, targets: Any) -> list[Mistake]:
        """Finds the examples that the model is wrong about, the most wrong first. The default finds none."""
        return []

    @abstractmethod
    def titles(self, targets: Any) -> dict[str, str]:
        """The title of each metric by its key; the first is the main metric."""

    def greater_is_better(self, key: str) -> bool:
        """Whether a larger value of the metric is better."""
        return True

    def format_metric(self, key: str, value: float) -> str:
        """Formats the value of a metric in 0..1 as a percentage."""
        return f"{100 * value:.2f} %"

    def main_metric(self, targets: Any) -> str:
        """Key of the main metric."""
        return next(iter(self.titles(targets)))

    def measured(self, metrics: Mapping[str, float], targets: Any, prefix: str = "") -> dict[str, float]:
        """The titled metrics among `metrics`, whose keys start with `prefix`; by their key without it."""
        return {key: metrics[prefix + key] for key in self.titles(targets) if prefix + key in metrics}

    def pipeline_options(self, top_k: int) -> dict[str, Any]:
        """The pipeline's arguments for a call."""
        return {}

    @abstractmethod
    def format_prediction(self, output: Any) -> list[dict[str, Any]]:
        """Turns the pipeline's output for one input into rows, as JSON can hold them."""

    def write_prediction(self, output: Any, folder: Path, name: str) -> Path:
        """Writes the pipeline's output for one input to a file in `folder` and returns its path.

        Args:
            output: What the pipeline returned.
            folder: The folder, which exists.
            name: Name of the file without a suffix.
        """
        path = folder / f"{name}.json"
        path.write_text(json.dumps(self.format_prediction(output), indent=2, ensure_ascii=False) + "\n", "utf-8")
        return path

    @abstractmethod
    def card_sentence(self, noun: str, targets: Any) -> str:
        """Completes "A Perceiver that ..." on the model card.

        Args:
            noun: What the inputs are called.
            targets: What `load_targets` returned.
        """
