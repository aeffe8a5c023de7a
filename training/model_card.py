"""The README.md of a trained model: metadata for the Hub, and text for people."""

import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import EvalResult, ModelCard, ModelCardData

from .folders import printable
from .objective import Findings, Objective

TEXT = """\
---
{front_matter}
---

# {name}

A [Perceiver](https://arxiv.org/abs/2103.03206) that {sentence}, {origin}
on {dataset}. It has {num_parameters:,} parameters.

## Results

{warning}Measured on {num_eval_examples:,} held-out {noun}:

| metric | value |
|---|---|
{results}

{classes}{curves}

## How to use

```python
from transformers import pipeline

classify = pipeline("{task}", model={location}, trust_remote_code=True)
classify({example})
```

`trust_remote_code=True` runs the model's code, which is saved beside the weights. With the `perceivers` package
installed, `import perceivers` replaces it.

## Training

{num_train_examples:,} {noun}. `perceivers train recipe.yaml`, with the file beside this one, repeats the run.

{fence}yaml
{recipe}
{fence}

Versions: {versions}.
"""


# What would make markup of text: emphasis, code, links, tables, HTML, headings, formulas.
MARKUP = re.compile(r"([\\`*_\[\]<>|~&#$])")


@dataclass
class CardFacts:
    """What a card says.

    Attributes:
        name: Name of the model.
        task: Task of transformers' pipeline.
        noun: What the inputs are called, in the plural.
        example: File name of an input.
        objective: What the model predicts.
        targets: What `objective.load_targets` returned.
        location: Where a reader loads the model from, a folder or a name on the Hub.
        dataset: What to call the data set in a sentence.
        dataset_id: Its name on the Hub, if it is there.
        base_model: The checkpoint that was fine-tuned, if there was one.
        num_parameters: Number of parameters.
        num_train_examples: Number of training examples.
        num_eval_examples: Number of examples of the evaluation.
        metrics: What the Trainer's evaluation returned.
        recipe: Flags of the run and their values.
        versions: Version of each package.
        curves: File name of the picture of the run.
        findings: What the metrics mean.
    """

    name: str
    task: str
    noun: str
    example: str
    objective: Objective
    targets: Any
    location: str
    dataset: str
    dataset_id: str | None
    base_model: str | None
    num_parameters: int
    num_train_examples: int
    num_eval_examples: int
    metrics: dict[str, float]
    recipe: dict[str, Any]
    versions: dict[str, str]
    curves: str | None = None
    findings: Findings = field(default_factory=Findings)


def make_card(facts: CardFacts) -> ModelCard:
    """Makes the card. The Hub's leaderboards read its `model-index`."""
    objective, titles = facts.objective, facts.objective.titles(facts.targets)
    measured = objective.measured(facts.metrics, facts.targets, prefix="eval_")
    name, dataset = plain(facts.name), plain(facts.dataset)
    dataset_id, base_model = (value and plain(value) for value in (facts.dataset_id, facts.base_model))
    results = [
        EvalResult(
            task_type=facts.task,
            task_name=facts.task.replace("-", " ").capitalize(),
            dataset_type=dataset_id or "custom",
            dataset_name=dataset,
            dataset_split="validation",
            metric_type=key,
            metric_name=titles[key],
            metric_value=round(value, 6),
        )
        for key, value in measured.items()
    ]
    data = ModelCardData(
        library_name="transformers",
        pipeline_tag=facts.task,
        tags=["perceiver", facts.task],
        datasets=dataset_id,
        base_model=base_model,
        model_name=name,
        eval_results=results,
    )
    recipe = yaml_block(facts.recipe)
    main, warning = objective.main_metric(facts.targets), facts.findings.warning
    lines = [(titles[key], objective.format_metric(key, value)) for key, value in measured.items()]
    for guess, value in facts.findings.baselines.items():
        lines.append((f"{titles[main]} of {guess}", objective.format_metric(main, value)))
    text = TEXT.format(
        front_matter=data.to_yaml(),
        name=as_text(name),
        task=facts.task,
        noun=facts.noun,
        example=as_code(facts.example),
        sentence=as_text(objective.card_sentence(facts.noun, facts.targets)),
        origin=f"fine-tuned from {as_text(base_model)}" if base_model else "trained from scratch",
        dataset=as_text(dataset),
        num_parameters=facts.num_parameters,
        num_eval_examples=facts.num_eval_examples,
        num_train_examples=facts.num_train_examples,
        results="\n".join(f"| {as_text(title)} | {value} |" for title, value in lines),
        warning=f"**{as_text(warning)}**\n\n" if warning else "",
        classes=markdown_table(facts.findings.table),
        curves=f"![Loss and metric over the epochs]({facts.curves})" if facts.curves else "",
        location=as_code(facts.location),
        recipe=recipe,
        fence="`" * max(3, 1 + max(map(len, re.findall("`+", recipe)), default=0)),
        versions=", ".join(f"{package} {version}" for package, version in facts.versions.items()),
    )
    return ModelCard(text)


def markdown_table(rows: list[dict[str, str]]) -> str:
    """A table in Markdown with an empty line after it; nothing without rows."""
    if not rows:
        return ""
    lines = [list(rows[0]), ["---"] * len(rows[0]), *(list(row.values()) for row in rows)]
    lines[0], lines[2:] = [*map(as_text, lines[0])], [[*map(as_text, line)] for line in lines[2:]]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines) + "\n"


def plain(text: str) -> str:
    """Text in one line, with escapes for letters that cannot be seen, turn the direction, or are not UTF-8."""
    return printable(" ".join(text.split()))


def as_text(text: str) -> str:
    """Text that Markdown shows as it is."""
    return MARKUP.sub(r"\\\1", plain(text))


def as_code(text: str) -> str:
    """A string of Python in double quotes."""
    return printable(json.dumps(text, ensure_ascii=False))


def yaml_block(values: Any) -> str:
    """YAML that shows every letter, or its escape."""
    text = yaml.safe_dump(values, sort_keys=False, allow_unicode=True).strip()
    if all(map(str.isprintable, text.splitlines())):
        return text
    return yaml.safe_dump(values, sort_keys=False).strip()


def write_card(facts: CardFacts, folder: Path) -> None:
    """Writes the card as the README.md of the folder."""
    make_card(facts).save(folder / "README.md")
