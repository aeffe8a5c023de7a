"""Measure a model on labelled images.

Without a data set named: on the images that were held out from its own training, as the `recipe.yaml` beside it says;
without that file, on the held-out fifth of scikit-learn's digits.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import torch
from transformers import AutoImageProcessor, AutoModelForImageClassification

from perceivers.command_arguments import FlagParser
from perceivers.training.arguments import DataArguments
from perceivers.training.evaluation import evaluate_model, report_table
from perceivers.training.image_datasets import load_images
from perceivers.training.recipe import read_recipe

RECIPE = "recipe.yaml"


def parse(program: str, words: list[str]) -> argparse.Namespace:
    """Reads the flags: `data`, the dataclass, and what is said of the model and the output."""
    parser = FlagParser(DataArguments, prog=program, description=__doc__)
    parser.add_argument("model", metavar="MODEL", help="a folder or a name on the Hub")
    parser.add_argument("--batch_size", type=int, default=64, help="images at a time")
    parser.add_argument("--device", default=None, help="such as cpu or cuda:0; the first accelerator if not given")
    parser.add_argument("--trust_remote_code", action="store_true", help="run the code that the model brings along")
    parser.add_argument("--output_file", default=None, help="write the results to this file, as JSON")
    parser.add_argument("--json", action="store_true", help="print the results as JSON")
    arguments = parser.parse_words(words)
    if arguments.batch_size < 1:
        parser.error(f"`--batch_size` must be at least 1, got {arguments.batch_size}")
    recipe = Path(arguments.model) / RECIPE
    names = DataArguments.__dataclass_fields__
    if arguments.dataset_name is None and arguments.validation_dir is None and recipe.is_file():
        recorded = {name: value for name, value in read_recipe(recipe).items() if name in names}
        parser.set_defaults(**recorded)
        arguments = parser.parse_words(words)
    values: dict[str, Any] = {name: getattr(arguments, name) for name in names}
    return argparse.Namespace(**{**vars(arguments), "data": DataArguments(**values)})


def run(arguments: argparse.Namespace) -> int:
    """Loads model and processor through the Auto classes, evaluates, and prints or writes the results."""
    trust: dict[str, Any] = {"trust_remote_code": arguments.trust_remote_code}
    processor = AutoImageProcessor.from_pretrained(arguments.model, **trust)
    model = AutoModelForImageClassification.from_pretrained(arguments.model, **trust)
    fallback = "cuda" if torch.cuda.is_available() else "cpu"
    images = load_images(
        arguments.data, seed=0, is_training=False, process=lambda image: processor(image, return_tensors="pt")
    )
    results = evaluate_model(
        model.to(arguments.device or fallback),
        processor,
        images.validation,
        images.label_names,
        arguments.batch_size,
    )
    results = {"model": arguments.model, "data": images.source, "unreadable": images.unreadable, **results}
    if arguments.output_file:
        Path(arguments.output_file).write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    if arguments.json:
        print(json.dumps(results, indent=2))
        return 0
    print(f"{arguments.model} on {images.source}\n\n{report_table(results)}")
    for line in images.unreadable:
        print(f"left out {line}")
    return 0
