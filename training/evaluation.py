"""A trained model on labelled images, without the Trainer."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from transformers import PreTrainedModel
from transformers.image_processing_utils import BaseImageProcessor

from .metrics import accuracy, class_report, most_probable


def match_labels(references: np.ndarray, label_names: list[str], id2label: dict[int, str]) -> np.ndarray:
    """The data set's labels as the model numbers them: by name, or by number where the model's labels have no names.

    Raises:
        ValueError: if a class of the data set is none of the model's.
    """
    label2id = {name: index for index, name in id2label.items()}
    is_unnamed = all(name == f"LABEL_{index}" for index, name in id2label.items())
    if is_unnamed and len(label_names) <= len(id2label):
        return references
    if unknown := [name for name in label_names if name not in label2id]:
        raise ValueError(f"The model has no class {unknown[0]!r}; its classes are {', '.join(label2id)}.")
    return np.array([label2id[name] for name in label_names])[references]


@torch.inference_mode()
def _most_probable_classes(
    model: PreTrainedModel, processor: BaseImageProcessor, images: Dataset, batch_size: int
) -> Iterator[torch.Tensor]:
    for start in range(0, len(images), batch_size):
        batch = images[start : start + batch_size]["image"]
        inputs = processor(batch, return_tensors="pt").to(model.device, model.dtype)
        yield most_probable(model(**inputs).logits).cpu()


def evaluate_model(
    model: PreTrainedModel,
    processor: BaseImageProcessor,
    images: Dataset,
    label_names: list[str],
    batch_size: int = 64,
) -> dict[str, Any]:
    """Accuracy, top-5 accuracy for many classes, precision and recall of every class, and the confusion matrix.

    Args:
        images: with columns `image` and `label`.
        label_names: of the data set, by label.

    Raises:
        ValueError: if a class of the data set is none of the model's.
    """
    config: Any = model.config
    id2label: dict[int, str] = config.id2label
    references = match_labels(np.array(images["label"]), label_names, id2label)
    predictions = torch.cat(list(_most_probable_classes(model.eval(), processor, images, batch_size))).numpy()
    names = [id2label[index] for index in range(len(id2label))]
    return {
        "images": len(images),
        **accuracy(predictions, references),
        **class_report(predictions[:, 0], references, names),
    }


def report_table(results: dict[str, Any]) -> str:
    """What `evaluate_model` returns, as text for a terminal."""
    width = max(len("class"), *(len(row["label"]) for row in results["classes"]))
    lines = [f"{'class':<{width}}  precision   recall       F1   images"]
    lines += [
        f"{row['label']:<{width}}  {row['precision']:>9.2%} {row['recall']:>8.2%} {row['f1']:>8.2%} {row['images']:>8}"
        for row in results["classes"]
    ]
    lines += ["", f"accuracy on {results['images']:,} images: {results['accuracy']:.2%}"]
    if "top5_accuracy" in results:
        lines.append(f"top-5 accuracy: {results['top5_accuracy']:.2%}")
    return "\n".join(lines)
