"""The README.md of a trained model: what the Hub reads on top, what a person reads below."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import EvalResult, ModelCard, ModelCardData

METRIC_NAMES = {"eval_accuracy": "accuracy", "eval_top5_accuracy": "top-5 accuracy"}

TEXT = """\
---
{front_matter}
---

# {name}

A [Perceiver](https://arxiv.org/abs/2103.03206) that puts images into {num_labels} classes, {origin}
on {dataset}. It has {num_parameters:,} parameters.

## Results

Measured on {num_eval_images:,} images that it was not trained on:

| metric | value |
|---|---|
{results}

{curves}

## How to use

```python
from transformers import pipeline

classify = pipeline("image-classification", model="{location}", trust_remote_code=True)
classify("image.png")
```

`trust_remote_code=True` runs the model's code, which lies beside the weights. With the `perceivers` package installed,
`import perceivers` takes its place.

## Training

{num_train_images:,} images. `perceivers train recipe.yaml`, with the file beside this one, repeats the run.

```yaml
{recipe}
```

Versions: {versions}.
"""


@dataclass
class CardFacts:
    """What a card says.

    Attributes:
        name: of the model.
        location: where a reader loads it from, a folder or a name on the Hub.
        dataset: what to call the data set in a sentence.
        dataset_id: its name on the Hub, if it has one there.
        base_model: the checkpoint that was fine-tuned, if one was.
        label_names: names of the classes.
        num_parameters, num_train_images, num_eval_images: counts.
        metrics: what evaluation returned, `eval_accuracy` in 0..1 among it.
        recipe: flags of the run and their values.
        versions: version of each package.
        curves: file name of the picture of the training.
    """

    name: str
    location: str
    dataset: str
    dataset_id: str | None
    base_model: str | None
    label_names: list[str]
    num_parameters: int
    num_train_images: int
    num_eval_images: int
    metrics: dict[str, float]
    recipe: dict[str, Any]
    versions: dict[str, str]
    curves: str | None = None
    tags: list[str] = field(default_factory=lambda: ["perceiver", "image-classification"])


def make_card(facts: CardFacts) -> ModelCard:
    """Puts the card together; `model-index` in it is what the Hub's leaderboards read."""
    measured = {METRIC_NAMES[key]: value for key, value in facts.metrics.items() if key in METRIC_NAMES}
    results = [
        EvalResult(
            task_type="image-classification",
            task_name="Image classification",
            dataset_type=facts.dataset_id or "custom",
            dataset_name=facts.dataset,
            dataset_split="validation",
            metric_type="accuracy",
            metric_name=name,
            metric_value=round(value, 6),
        )
        for name, value in measured.items()
    ]
    data = ModelCardData(
        library_name="transformers",
        pipeline_tag="image-classification",
        tags=facts.tags,
        datasets=facts.dataset_id,
        base_model=facts.base_model,
        model_name=facts.name,
        eval_results=results,
    )
    text = TEXT.format(
        front_matter=data.to_yaml(),
        name=facts.name,
        num_labels=len(facts.label_names),
        origin=f"fine-tuned from {facts.base_model}" if facts.base_model else "trained from scratch",
        dataset=facts.dataset,
        num_parameters=facts.num_parameters,
        num_eval_images=facts.num_eval_images,
        num_train_images=facts.num_train_images,
        results="\n".join(f"| {name} | {100 * value:.2f} % |" for name, value in measured.items()),
        curves=f"![Loss and accuracy over the epochs]({facts.curves})" if facts.curves else "",
        location=facts.location,
        recipe=yaml.safe_dump(facts.recipe, sort_keys=False, allow_unicode=True).strip(),
        versions=", ".join(f"{package} {version}" for package, version in facts.versions.items()),
    )
    return ModelCard(text)


def write_card(facts: CardFacts, folder: Path) -> None:
    """Writes the card as the README.md of the folder."""
    make_card(facts).save(folder / "README.md")
