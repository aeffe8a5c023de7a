"""Fine-tunes a model on a folder of class folders, or on a data set of the Hub, with transformers' own Trainer.

    python examples/fine_tune.py perceiver-digits photos fine-tuned

`perceivers train --model_name_or_path perceiver-digits --train_dir photos` does the same, and more. This script is
the part to copy.
"""

import argparse
import os

import datasets
import numpy as np
from transformers import AutoImageProcessor, AutoModelForImageClassification, Trainer, TrainingArguments

import perceivers  # noqa: F401  # registers the models


def main(argv: list[str] | None = None) -> float:
    """Fine-tunes and returns the accuracy on the held-out fifth."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="a folder or a name on the Hub")
    parser.add_argument("data", help="a folder with a folder of images per class, or a name on the Hub")
    parser.add_argument("output", help="the folder for the fine-tuned model")
    parser.add_argument("--epochs", type=float, default=3)
    arguments = parser.parse_args(argv)

    source = ("imagefolder", None, arguments.data) if os.path.isdir(arguments.data) else (arguments.data,)
    dataset = datasets.load_dataset(*source, split="train")
    splits = dataset.train_test_split(0.2, stratify_by_column="label", seed=0)
    labels = dataset.features["label"].names

    processor = AutoImageProcessor.from_pretrained(arguments.model)
    model = AutoModelForImageClassification.from_pretrained(
        arguments.model,
        id2label=dict(enumerate(labels)),
        label2id={label: index for index, label in enumerate(labels)},
        ignore_mismatched_sizes=True,  # a new head for the new labels
    )

    def to_tensors(examples: dict) -> dict:
        return {**processor(examples["image"], return_tensors="pt"), "labels": examples["label"]}

    training = TrainingArguments(
        arguments.output,
        num_train_epochs=arguments.epochs,
        per_device_train_batch_size=16,
        learning_rate=1e-3,
        eval_strategy="epoch",
        remove_unused_columns=False,  # `to_tensors` reads the column of images
        report_to="none",
    )
    trainer = Trainer(
        model,
        training,
        train_dataset=splits["train"].with_transform(to_tensors),
        eval_dataset=splits["test"].with_transform(to_tensors),
        processing_class=processor,
        compute_metrics=lambda output: {"accuracy": np.mean(output.predictions.argmax(-1) == output.label_ids)},
    )
    trainer.train()
    trainer.save_model()
    accuracy = float(trainer.evaluate()["eval_accuracy"])
    print(f"Accuracy on {len(splits['test'])} held-out images: {accuracy:.1%}. The model is in {arguments.output}.")
    return accuracy


if __name__ == "__main__":
    main()
