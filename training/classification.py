"""Classification, with one label per example or several: labels, loss and reports."""

import os
import unicodedata
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from datasets import Dataset, DatasetDict, Features, Value
from torch.nn import functional as F
from transformers import PreTrainedConfig

from .arguments import VALIDATION_NAMES
from .class_findings import class_findings, class_mistakes, ranking_findings, ranking_mistakes
from .class_folders import ClassFolder, read_class_folder
from .folders import listed, say
from .heads import is_unnamed, matching_rows, names_of
from .labels import Labels, describe_labels, has_labels, is_class_label, read_labels
from .modality import Modality
from .objective import Findings, FolderFiles, Mistake, Objective, Outcome


@dataclass(frozen=True)
class ClassTargets:
    """The classes of a data set.

    Attributes:
        label_names: Names of the classes; a label is an index into them.
        is_multi_label: Whether an example has a list of labels.
        labels: What was found in the label column; `None` if it was not read.
    """

    label_names: list[str]
    is_multi_label: bool = False
    labels: Labels | None = None

    @property
    def problem_type(self) -> Literal["single_label_classification", "multi_label_classification"]:
        """The name that transformers' configurations have for it."""
        return "multi_label_classification" if self.is_multi_label else "single_label_classification"


class Classification(Objective):
    """One label per example, or several.

    Predictions are the most probable classes (B, 1) or (B, 5), best first; for several labels, logits (B, num_labels).
    """

    prediction_columns: tuple[str, ...] = ("label", "score")

    def candidates(self, features: Features) -> dict[str, list[str]]:
        """The columns of class labels or, if there are none, those called `label` or `labels`."""
        class_labels = [name for name, feature in features.items() if is_class_label(feature)]
        return {"label": class_labels or [name for name in ("label", "labels") if name in features]}

    def has_targets(self, examples: Dataset, column_names: Mapping[str, str | None]) -> bool:
        """Whether any example has a label in the given column or in one of the candidates."""
        chosen = column_names.get("label")
        columns = [chosen] if chosen else self.candidates(examples.features)["label"]
        return any(has_labels(examples, column) for column in columns)

    def list_files(self, modality: Modality, folders: Mapping[str, str]) -> FolderFiles:
        """Finds the files of class folders, and of splits above or below them, see [`read_class_folder`]."""
        real = {os.path.realpath(folder) for folder in folders.values()}
        if len(real) < len(folders):
            raise ValueError(f"`--train_dir` and `--validation_dir` are the same folder: {folders['train']}.")
        found = FolderFiles({}, {"label": Value("string")})
        has_validation = "validation" in folders
        for split, folder in folders.items():
            others = [other for other in folders.values() if other != folder]
            read = read_class_folder(folder, modality.suffixes, modality.noun, others)
            if split == "train" and read.inner is not None:
                (name,) = {name for classes in read.splits.values() for name in classes}
                raise ValueError(
                    f"{folder} has a single class folder, {listed([name])}. If the classes are the folders in "
                    f"{read.inner}, give that one."
                )
            taken = _taken(read, folder, split, has_validation, found.notes)
            for name in read.splits.keys() - taken.values():
                read.left_out[f"{modality.noun} in {name} folders"] += sum(map(len, read.splits[name].values()))
            for part, name in taken.items():
                classes = read.splits[name]
                found.rows[part] = [(path, {"label": label}) for label in sorted(classes) for path in classes[label]]
            found.left_out += read.left_out
            if read.empty:
                found.notes.append(f"There are no {modality.noun} in {listed(read.empty)}, which {_are(read.empty)}.")
        return found

    def load_targets(self, splits: DatasetDict) -> tuple[DatasetDict, ClassTargets]:
        """Makes class labels of labels that are numbers or words, or lists of these; the same in all splits."""
        splits, labels = read_labels(splits)
        return splits, ClassTargets(labels.names, labels.is_multi_label, labels)

    def describe(self, splits: DatasetDict, targets: ClassTargets, noun: str) -> str:
        """The numbers of examples and of classes, with the smallest and the largest class."""
        sizes = super().describe(splits, targets, noun)
        return f"{sizes}; {describe_labels(targets.labels, noun)}" if targets.labels else sizes

    def check_targets(self, targets: ClassTargets, source: str) -> None:
        """Refuses a single class, and classes without an example to train on."""
        names, labels = targets.label_names, targets.labels
        for alike in _alike(names):
            say(f"warning: the names of the classes {listed(alike)} differ in little; they are different classes.")
        if labels is not None and "train" in labels.counts:
            trained = [name for name, number in zip(names, labels.counts["train"], strict=True) if number]
            unseen = zip(names, labels.counts.get("validation", [0] * len(names)), strict=True)
            untrained = [name for name, number in unseen if number and name not in trained]
            if untrained and not labels.is_declared:
                raise ValueError(
                    f"The {source.removeprefix('the ')} has examples of {listed(untrained)} to evaluate on, but none "
                    f"to train on; to train on, there are examples of {listed(trained)}."
                )
            if not labels.is_multi_label:
                names = trained
        if len(names) < 2:
            raise ValueError(f"A classifier needs at least two classes; {source} has {len(names)}: {names}.")

    def configure(self, config: PreTrainedConfig, targets: ClassTargets) -> None:
        """Sets the names of the labels and the problem type."""
        config.id2label = dict(enumerate(targets.label_names))
        config.label2id = {name: index for index, name in enumerate(targets.label_names)}
        config.problem_type = targets.problem_type

    def labels(self, rows: Mapping[str, list], targets: ClassTargets) -> dict[str, Any]:
        """Classes, or for several labels (B, num_labels) zeros and ones."""
        labels = rows["label"]
        return {"labels": multi_hot(labels, len(targets.label_names)) if targets.is_multi_label else labels}

    def sample_weights(self, dataset: Dataset, targets: ClassTargets) -> np.ndarray:
        """The weights that draw every class equally often, see [`class_weights`]."""
        return class_weights(dataset.with_format(None)["label"][:], len(targets.label_names))

    def loss(self, targets: ClassTargets, label_smoothing: float, has_mixed_labels: bool) -> Callable | None:
        """Cross-entropy where the model's own does not do.

        Raises:
            ValueError: If several labels per example are to be smoothed.
        """
        if targets.is_multi_label:
            if label_smoothing:
                raise ValueError(f"`--label_smoothing_factor` is for one label per example, got {label_smoothing}.")
            return None
        return SmoothedCrossEntropy(label_smoothing) if label_smoothing or has_mixed_labels else None

    def merge_chunks(self, logits: torch.Tensor, targets: ClassTargets) -> torch.Tensor:
        """(chunks, num_labels) -> (num_labels,), the logits of the mean of the chunks' scores."""
        if targets.is_multi_label:
            present, absent = (F.logsigmoid(sign * logits).logsumexp(dim=0) for sign in (1, -1))
            return present - absent
        return logits.log_softmax(dim=1).logsumexp(dim=0)

    def reduce(self, logits: torch.Tensor, labels: torch.Tensor | None, targets: ClassTargets) -> torch.Tensor:
        """(B, num_labels) -> predictions."""
        # It loads scikit-learn, which takes 80 MB, only where something is scored.
        from .class_metrics import most_probable

        return logits.float() if targets.is_multi_label else most_probable(logits)

    def confidences(self, logits: torch.Tensor, targets: ClassTargets) -> torch.Tensor:
        """The probability of the most probable class; for several labels, the predictions say it themselves."""
        if targets.is_multi_label:
            return super().confidences(logits, targets)
        return logits.float().softmax(dim=-1).amax(dim=-1)

    def references(self, dataset: Dataset, config: PreTrainedConfig, targets: ClassTargets) -> np.ndarray:
        """(examples,) classes or, for several labels, (examples, num_labels) zeros and ones."""
        id2label: dict[int, str] = config.id2label  # type: ignore[assignment]
        ids = label_ids(targets.label_names, id2label)
        labels = list(dataset["label"])
        if targets.is_multi_label:
            return multi_hot([ids[classes].tolist() for classes in labels], len(id2label))
        return ids[np.array(labels)]

    def metrics(self, predictions: np.ndarray, references: np.ndarray, targets: ClassTargets) -> dict[str, float]:
        """Accuracy, or for several labels the scores of the ranking."""
        from .class_metrics import accuracy, ranking_scores

        return (ranking_scores if targets.is_multi_label else accuracy)(predictions, references)

    def report(
        self, predictions: np.ndarray, references: np.ndarray, config: PreTrainedConfig, targets: ClassTargets
    ) -> dict[str, Any]:
        """The figures of every class under `classes`; for one label also the confusion matrix."""
        from .class_metrics import class_report, ranking_report

        names = _names(config)
        if targets.is_multi_label:
            return ranking_report(predictions, references, names)
        return class_report(predictions[:, 0], references, names)

    def findings(self, outcome: Outcome, config: PreTrainedConfig, targets: ClassTargets, noun: str) -> Findings:
        """Compares with chance and with the most frequent class, and names the weakest classes."""
        if not targets.is_multi_label:
            return class_findings(outcome, _names(config), noun)
        rows = self.report(outcome.predictions, outcome.references, config, targets)["classes"]
        return ranking_findings(rows, len(outcome.references), noun)

    def mistakes(self, outcome: Outcome, config: PreTrainedConfig, targets: ClassTargets) -> list[Mistake]:
        """The examples with a wrong class or, for several labels, with one on the wrong side of a half."""
        return (ranking_mistakes if targets.is_multi_label else class_mistakes)(outcome, _names(config))

    def table(self, results: dict[str, Any], targets: ClassTargets) -> str:
        """A row per class."""
        rows = results["classes"]
        width = max(len("class"), *(len(row["label"]) for row in rows))
        if not targets.is_multi_label:
            lines = [f"{'class':<{width}}  precision   recall       F1   number"]
            lines += [
                f"{row['label']:<{width}}  {row['precision']:>9.2%} {row['recall']:>8.2%} {row['f1']:>8.2%} "
                f"{row['number']:>8}"
                for row in rows
            ]
            return "\n".join(lines)
        lines = [f"{'class':<{width}}  average precision  ROC-AUC   number"]
        for row in rows:
            precision, area = (
                "-" if row[key] is None else f"{row[key]:.2%}" for key in ("average_precision", "roc_auc")
            )
            lines.append(f"{row['label']:<{width}}  {precision:>17} {area:>8} {row['number']:>8}")
        return "\n".join(lines)

    def titles(self, targets: ClassTargets) -> dict[str, str]:
        """Accuracies, or for several labels the scores of the ranking."""
        if targets.is_multi_label:
            return {
                "mean_average_precision": "mean average precision",
                "roc_auc": "area under the ROC curve",
                "d_prime": "d-prime",
            }
        return {"accuracy": "accuracy", "top5_accuracy": "top-5 accuracy"}

    def format_metric(self, key: str, value: float) -> str:
        """A percentage; d-prime is a plain number."""
        return f"{value:.3f}" if key == "d_prime" else super().format_metric(key, value)

    def pipeline_options(self, top_k: int) -> dict[str, Any]:
        """How many labels to return."""
        return {"top_k": top_k}

    def format_prediction(self, output: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """A row per label, best first."""
        return [{"label": row["label"], "score": row["score"]} for row in output]

    def card_sentence(self, noun: str, targets: ClassTargets) -> str:
        """Such as "classifies images into 10 classes"."""
        return f"classifies {noun} into {len(targets.label_names)} classes"


CLASSIFICATION = Classification()


def label_ids(label_names: list[str], id2label: dict[int, str]) -> np.ndarray:
    """The model's number for each class of a data set, matched by name.

    If the model's labels have no names, numbers are matched with numbers, and as many names by their order.

    Raises:
        ValueError: If the model lacks a class of the data set, or has several of its name.
    """
    classes, known = names_of(dict(enumerate(label_names))), names_of(id2label)
    if is_unnamed(known) and all(name in map(str, range(len(known))) for name in classes):
        return np.array([int(name) for name in classes])
    rows = matching_rows(classes, known, "the model")
    if unknown := [name for name, row in zip(classes, rows, strict=True) if row is None]:
        raise ValueError(f"The model has no class {unknown[0]!r}; its classes are {listed(known)}.")
    return np.array(rows)


def multi_hot(labels: list[list[int]], num_labels: int) -> np.ndarray:
    """Lists of classes -> (inputs, num_labels) zeros and ones, float32 as the loss takes them."""
    rows = np.zeros((len(labels), num_labels), np.float32)
    for row, classes in zip(rows, labels, strict=True):
        row[classes] = 1.0
    return rows


def class_weights(labels: list[int] | list[list[int]], num_labels: int) -> np.ndarray:
    """The weight of each example that draws every class equally often: one over the number of examples of its class.

    With several labels, it is the mean over the example's classes, and 0 for an example that has none.

    Returns:
        (examples,)
    """
    rows = multi_hot([label if isinstance(label, list) else [label] for label in labels], num_labels)
    return (rows / rows.sum(axis=0).clip(min=1)).sum(axis=1) / rows.sum(axis=1).clip(min=1)


def _names(config: PreTrainedConfig) -> list[str]:
    """The names of the model's classes, by their number."""
    return [config.id2label[index] for index in range(len(config.id2label))]  # type: ignore[index,arg-type]


def _alike(names: list[str]) -> list[list[str]]:
    """The names that differ only in upper and lower case, in spaces, or in signs that look the same."""
    groups: dict[str, list[str]] = {}
    for name in names:
        groups.setdefault(" ".join(unicodedata.normalize("NFKC", name).casefold().split()), []).append(name)
    return [group for group in groups.values() if len(group) > 1]


def _are(classes: list[str]) -> str:
    return "is no class" if len(classes) == 1 else "are no classes"


def _taken(read: ClassFolder, folder: str, split: str, has_validation: bool, notes: list[str]) -> dict[str, str]:
    """The splits of a folder to use as `train` and `validation`, with their names in the folder.

    Args:
        read: What the folder holds.
        folder: The folder.
        split: What it was given for, `train` or `validation`.
        has_validation: Whether a folder was given for `validation`.
        notes: Gets a sentence if there is a choice.

    Raises:
        ValueError: If it has no split to train on.
    """
    if "" in read.splits:
        return {split: ""}
    validation = next((name for name in VALIDATION_NAMES if name in read.splits), None)
    if split == "validation":
        taken = {"validation": validation or "train"}
    elif "train" not in read.splits:
        raise ValueError(f"{folder} has no split to train on; its splits are {listed(read.splits)}.")
    else:
        taken = {"train": "train"}
        if validation and not has_validation:
            taken["validation"] = validation
    purpose = {"train": "to train on", "validation": "to evaluate on"}
    chosen = ", ".join(f"{name} {purpose[part]}" for part, name in taken.items())
    notes.append(f"{folder} is divided into {listed(read.splits)}; took {chosen}.")
    return taken


@dataclass
class SmoothedCrossEntropy:
    """Cross-entropy of labels that are smoothed, or that mixup has turned into probabilities.

    It divides by the examples of a whole optimiser step, so that accumulated gradients are those of one large batch.
    The Trainer's own label smoothing does so only from transformers 5.2x on.

    Attributes:
        label_smoothing: The part of a label that is spread evenly over all classes.
    """

    label_smoothing: float = 0.0

    def __call__(
        self, outputs: Any, labels: torch.Tensor, num_items_in_batch: torch.Tensor | int | None = None
    ) -> torch.Tensor:
        """Computes the loss, for the Trainer's `compute_loss_func`.

        Args:
            outputs: Of the model, with `logits` (B, num_labels).
            labels: (B,) classes, or (B, num_labels) probabilities.
            num_items_in_batch: Examples of the optimiser step; `None` averages over this batch.
        """
        reduction = "mean" if num_items_in_batch is None else "sum"
        loss = F.cross_entropy(
            outputs["logits"].float(), labels, label_smoothing=self.label_smoothing, reduction=reduction
        )
        return loss if num_items_in_batch is None else loss / num_items_in_batch
