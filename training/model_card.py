"""The README.md of a trained model: what the Hub reads on top, what a person reads below."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import EvalResult, ModelCard, ModelCardData

from .problem_types import ProblemType

TEXT = """\
---
{front_matter}
---

# {name}

A [Perceiver](https://arxiv.org/abs/2103.03206) that puts {noun} into {num_labels} classes, {origin}
on {dataset}. It has {num_parameters:,} parameters.

## Results

Measured on {num_eval_examples:,} {noun} that it was not trained on:

| metric | value |
|---|---|
{results}

{curves}

## How to use

```python
from transformers import pipeline

classify = pipeline("{task}", model="{location}", trust_remote_code=True)
classify("{example}")
```

`trust_remote_code=True` runs the model's code, which lies beside the weights. With the `perceivers` package installed,
`import perceivers` takes its place.

## Training

{num_train_examples:,} {noun}. `perceivers train recipe.yaml`, with the file beside this one, repeats the run.

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
        task: of transformers' pipeline.
        noun: what the inputs are called, in the plural.
        example: file name of an input.
        problem: what the labels are; knows the metrics.
        location: where a reader loads it from, a folder or a name on the Hub.
        dataset: what to call the data set in a sentence.
        dataset_id: its name on the Hub, if it has one there.
        base_model: the checkpoint that was fine-tuned, if one was.
        label_names: names of the classes.
        num_parameters, num_train_examples, num_eval_examples: counts.
        metrics: what the Trainer's evaluation returned.
        recipe: flags of the run and their values.
        versions: version of each package.
        curves: file name of the picture of the training.
    """

    name: str
    task: str
    noun: str
    example: str
    problem: ProblemType
    location: str
    dataset: str
    dataset_id: str | None
    base_model: str | None
    label_names: list[str]
    num_parameters: int
    num_train_examples: int
    num_eval_examples: int
    metrics: dict[str, float]
    recipe: dict[str, Any]
    versions: dict[str, str]
    curves: str | None = None


def make_card(facts: CardFacts) -> ModelCard:
    """Puts the card together; `model-index` in it is what the Hub's leaderboards read."""
    problem = facts.problem
    measured = problem.measured(facts.metrics, prefix="eval_")
    results = [
        EvalResult(
            task_type=facts.task,
            task_name=facts.task.replace("-", " ").capitalize(),
            dataset_type=facts.dataset_id or "custom",
            dataset_name=facts.dataset,
            dataset_split="validation",
            metric_type=key,
            metric_name=problem.titles[key],
            metric_value=round(value, 6),
        )
        for key, value in measured.items()
    ]
    data = ModelCardData(
        library_name="transformers",
        pipeline_tag=facts.task,
        tags=["perceiver", facts.task],
        datasets=facts.dataset_id,
        base_model=facts.base_model,
        model_name=facts.name,
        eval_results=results,
    )
    text = TEXT.format(
        front_matter=data.to_yaml(),
        name=facts.name,
        task=facts.task,
        noun=facts.noun,
        example=facts.example,
        num_labels=len(facts.label_names),
        origin=f"fine-tuned from {facts.base_model}" if facts.base_model else "trained from scratch",
        dataset=facts.dataset,
        num_parameters=facts.num_parameters,
        num_eval_examples=facts.num_eval_examples,
        num_train_examples=facts.num_train_examples,
        results="\n".join(
            f"| {problem.titles[key]} | {problem.format(key, value)} |" for key, value in measured.items()
        ),
        curves=f"![The curves of the training]({facts.curves})" if facts.curves else "",
        location=facts.location,
        recipe=yaml.safe_dump(facts.recipe, sort_keys=False, allow_unicode=True).strip(),
        versions=", ".join(f"{package} {version}" for package, version in facts.versions.items()),
    )
    return ModelCard(text)


def write_card(facts: CardFacts, folder: Path) -> None:
    """Writes the card as the README.md of the folder."""
    make_card(facts).save(folder / "README.md")
