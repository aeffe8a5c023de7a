"""Train a Perceiver on images.

Without arguments: on scikit-learn's handwritten digits, by the built-in recipe `digits`.

A recipe, a YAML file or the name of a built-in one, comes first; flags beside it win over it.
"""

import argparse
import os
import shutil
import sys
from pathlib import Path
from typing import Any

import datasets
import torch
import transformers
from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoModelForImageClassification,
    PreTrainedConfig,
    PreTrainedModel,
    set_seed,
)
from transformers.image_processing_utils import BaseImageProcessor
from transformers.trainer_utils import get_last_checkpoint

import perceivers
from perceivers.command_arguments import FlagParser, find_recipe, recipe_arguments
from perceivers.command_errors import UsageError, UserError
from perceivers.modeling.configuration_image_perceiver import IMAGE_VARIANTS, ImagePerceiverConfig
from perceivers.preprocessors.image_processing_image_perceiver import ImagePerceiverImageProcessor
from perceivers.preprocessors.image_processing_pil_image_perceiver import ImagePerceiverImageProcessorPil
from perceivers.training.arguments import (
    AugmentationArguments,
    DataArguments,
    ImageTrainingArguments,
    ModelArguments,
    fields_of,
)
from perceivers.training.augmentation import ImageTransform, make_affine, make_augmentation, make_mixup
from perceivers.training.curves import draw_curves
from perceivers.training.image_datasets import DIGITS, LabelledImages, load_images
from perceivers.training.interruption import StopOnInterrupt
from perceivers.training.model_card import CardFacts, write_card
from perceivers.training.recipe import write_recipe
from perceivers.training.trainer import ImageClassificationTrainer

CURVES = "training_curves.png"
EXAMPLE = "example.png"
RECIPE = "recipe.yaml"
# The paper's evaluation crop: 224 of 256 pixels of the short side.
CROP = 256 / 224


def parse(program: str, words: list[str]) -> argparse.Namespace:
    """Reads the recipe and the flags.

    Returns: `model`, `data`, `augmentation` and `training`, the dataclasses, and `recipe`, which repeats the run.

    Raises:
        UsageError: for what is no recipe, no flag or no value of one.
    """
    parser = FlagParser(
        ModelArguments,
        DataArguments,
        AugmentationArguments,
        ImageTrainingArguments,
        prog=program,
        usage=f"{program} [RECIPE] [--FLAG VALUE ...]",
        description=__doc__,
    )
    has_recipe = bool(words) and not words[0].startswith("-")
    recipe, words = (words[0], words[1:]) if has_recipe else (None, words)
    namespace = parser.parse_words(words)
    what = (namespace.dataset_name, namespace.train_dir, namespace.model_name_or_path, namespace.variant)
    if recipe is None and not any(what):
        recipe = DIGITS
    if recipe is not None:
        namespace = parser.parse_words(recipe_arguments(find_recipe(recipe), parser.flags()) + words)
    recorded = parser.recorded(namespace)
    try:
        model, data, augmentation, training = parser.to_dataclasses(namespace)
    except (ValueError, ImportError) as error:
        raise UsageError(str(error)) from error
    return argparse.Namespace(model=model, data=data, augmentation=augmentation, training=training, recipe=recorded)


def make_processor(config: PreTrainedConfig, fields: dict[str, Any]) -> BaseImageProcessor:
    """An image processor for a model from scratch; on torchvision where that is installed and works."""
    height, width = config.grid
    defaults: dict[str, Any] = {
        "size": {"height": height, "width": width},
        "crop_size": {"height": round(CROP * height), "width": round(CROP * width)},
    }
    if config.num_channels != 3:
        half = [0.5] * config.num_channels
        is_gray = config.num_channels == 1
        defaults |= {"do_convert_rgb": is_gray, "do_grayscale": is_gray, "image_mean": half, "image_std": half}
    try:
        import torchvision  # noqa: F401
    except Exception:  # a build that does not fit torch raises OSError or RuntimeError
        return ImagePerceiverImageProcessorPil(**{**defaults, **fields})
    return ImagePerceiverImageProcessor(**{**defaults, **fields})


def make_config_and_processor(arguments: ModelArguments) -> tuple[PreTrainedConfig, BaseImageProcessor]:
    """From the checkpoint, or from scratch.

    Raises:
        ValueError: for unknown or contradicting fields, or if nothing says which model.
        OSError: for a checkpoint that does not exist.
    """
    config_fields = fields_of(arguments.config, "config")
    processor_fields = fields_of(arguments.processor, "processor")
    if arguments.model_name_or_path:
        if arguments.variant:
            raise UsageError("`--variant` and `--model_name_or_path` exclude each other")
        origin: dict[str, Any] = {
            "revision": arguments.model_revision,
            "trust_remote_code": arguments.trust_remote_code,
        }
        config = AutoConfig.from_pretrained(arguments.model_name_or_path, **origin, **config_fields)
        processor = AutoImageProcessor.from_pretrained(arguments.model_name_or_path, **origin, **processor_fields)
        return config, processor
    if arguments.variant:
        config = ImagePerceiverConfig.from_variant(arguments.variant, **config_fields)
    elif config_fields:
        config = ImagePerceiverConfig(**config_fields)
    else:
        raise UsageError(
            "say which model to train: `--model_name_or_path`, `--config`, or `--variant`, one of "
            f"{', '.join(IMAGE_VARIANTS)}"
        )
    return config, make_processor(config, processor_fields)


def make_model(arguments: ModelArguments, config: PreTrainedConfig, label_names: list[str]) -> PreTrainedModel:
    """The model, with as many outputs as there are labels: fine-tuned for other labels, it gets a new head."""
    config.id2label = dict(enumerate(label_names))
    config.label2id = {name: index for index, name in enumerate(label_names)}
    config.problem_type = "single_label_classification"
    if not arguments.model_name_or_path:
        return AutoModelForImageClassification.from_config(config)
    return AutoModelForImageClassification.from_pretrained(
        arguments.model_name_or_path,
        config=config,
        revision=arguments.model_revision,
        trust_remote_code=arguments.trust_remote_code,
        ignore_mismatched_sizes=True,
    )


def find_checkpoint(training: ImageTrainingArguments) -> str | None:
    """The checkpoint to resume from, or `None`; `last` and `true` are the last one in the output folder.

    Raises:
        UserError: if there is none, or if a new run would write into a folder that is in use.
    """
    folder, wanted = training.output_dir, training.resume_from_checkpoint
    if wanted:
        is_last = str(wanted).lower() in ("last", "true")
        checkpoint = (get_last_checkpoint(folder) if os.path.isdir(folder) else None) if is_last else str(wanted)
        if checkpoint is None or not os.path.isdir(checkpoint):
            raise UserError(f"there is no checkpoint to resume from in {folder if is_last else wanted}")
        return checkpoint
    if os.path.exists(folder) and not os.path.isdir(folder):
        raise UserError(f"{folder} is a file; `--output_dir` needs a folder")
    if os.path.isdir(folder) and os.listdir(folder) and not training.overwrite_output_dir:
        raise UserError(
            f"the folder {folder} is not empty: choose another `--output_dir`, or add `--overwrite_output_dir`, or "
            "`--resume_from_checkpoint last`"
        )
    return None


def make_trainer(
    arguments: argparse.Namespace, model: PreTrainedModel, processor: BaseImageProcessor, images: LabelledImages
) -> ImageClassificationTrainer:
    """Puts augmentation, processor and data sets into a Trainer."""
    augmentation: AugmentationArguments = arguments.augmentation
    size = processor.to_dict()["size"]
    edge = size.get("shortest_edge")
    augment = make_augmentation(
        augmentation,
        height=size.get("height") or edge,
        width=size.get("width") or edge,
        is_gray=getattr(model.config, "num_channels", 3) == 1,
    )
    cropped = {"do_resize": False, "do_center_crop": False} if augmentation.random_resized_crop else None
    images.train.set_transform(ImageTransform(processor, augment, cropped))
    images.validation.set_transform(ImageTransform(processor))
    is_cached = arguments.data.cache_images
    return ImageClassificationTrainer(
        model=model,
        args=arguments.training,
        processing_class=processor,
        train_dataset=list(images.train) if is_cached and augment is None else images.train,
        eval_dataset=list(images.validation) if is_cached else images.validation,
        affine=make_affine(augmentation),
        mixup=make_mixup(augmentation, arguments.training.per_device_train_batch_size, len(images.label_names)),
    )


def train(trainer: ImageClassificationTrainer, checkpoint: str | None) -> dict[str, float]:
    """Trains and returns the Trainer's metrics of it.

    Raises:
        KeyboardInterrupt: after Ctrl-C, with a checkpoint written, and how to go on.
    """
    interruption = StopOnInterrupt()
    trainer.add_callback(interruption)
    try:
        metrics = trainer.train(resume_from_checkpoint=checkpoint).metrics
    finally:
        interruption.restore()
    state, folder = trainer.state, trainer.args.output_dir
    if interruption.was_interrupted and state.global_step < state.max_steps:
        raise KeyboardInterrupt(
            f"stopped at step {state.global_step} of {state.max_steps}; to go on: "
            f"perceivers train {folder}/{RECIPE} --resume_from_checkpoint last"
        )
    return metrics


def finish(
    trainer: ImageClassificationTrainer,
    arguments: argparse.Namespace,
    model: PreTrainedModel,
    images: LabelledImages,
) -> dict[str, float]:
    """Evaluates, and writes model, processor, results, curves and card into the output folder.

    Returns: the metrics of the evaluation.
    """
    training: ImageTrainingArguments = arguments.training
    folder = Path(training.output_dir)
    metrics = trainer.evaluate()
    trainer.log_metrics("eval", metrics)
    trainer.save_metrics("eval", metrics)
    trainer.save_model()
    trainer.save_state()
    if not trainer.is_world_process_zero():
        return metrics
    draw_curves(trainer.state.log_history, folder / CURVES)
    facts = CardFacts(
        name=folder.resolve().name,
        location=training.hub_model_id or str(folder),
        dataset=images.source,
        dataset_id=arguments.data.dataset_name if is_on_hub(arguments.data) else None,
        base_model=arguments.model.model_name_or_path,
        label_names=images.label_names,
        num_parameters=model.num_parameters(),
        num_train_images=len(images.train),
        num_eval_images=len(images.validation),
        metrics=metrics,
        recipe=arguments.recipe,
        versions={module.__name__: module.__version__ for module in (perceivers, transformers, torch, datasets)},
        curves=CURVES,
    )
    write_card(facts, folder)
    if uses_digits(arguments.data):  # so that the next command has something to classify
        images.validation.with_format(None)[0]["image"].save(folder / EXAMPLE)
    return metrics


def is_on_hub(data: DataArguments) -> bool:
    name = data.dataset_name
    return name is not None and name != DIGITS and not os.path.exists(name)


def uses_digits(data: DataArguments) -> bool:
    return data.train_dir is None and data.dataset_name in (None, DIGITS)


def run(arguments: argparse.Namespace) -> int:
    """Trains, evaluates, writes everything into the output folder, and says what to do next."""
    training: ImageTrainingArguments = arguments.training
    checkpoint = find_checkpoint(training)
    if training.cpu_threads is not None:
        torch.set_num_threads(training.cpu_threads)
    set_seed(training.seed)
    config, processor = make_config_and_processor(arguments.model)
    images = load_images(arguments.data, training.seed, process=lambda image: processor(image, return_tensors="pt"))
    for line in images.unreadable:
        print(f"perceivers: warning: left out {line}", file=sys.stderr)
    set_seed(training.seed)  # so that the weights do not depend on what loading the data has drawn
    model = make_model(arguments.model, config, images.label_names)
    perceivers.register_for_remote_code()

    folder = Path(training.output_dir)
    existed = folder.exists()
    try:
        trainer = make_trainer(arguments, model, processor, images)
        if training.overwrite_output_dir and checkpoint is None:
            for stale in folder.glob("checkpoint-*"):
                shutil.rmtree(stale)
        if trainer.is_world_process_zero():
            write_recipe(folder / RECIPE, arguments.recipe, "Repeat this run: perceivers train recipe.yaml")
        metrics = train(trainer, checkpoint)
    except BaseException:
        if not existed and folder.is_dir() and {entry.name for entry in folder.iterdir()} <= {RECIPE}:
            shutil.rmtree(folder)
        raise
    trainer.log_metrics("train", metrics)
    trainer.save_metrics("train", metrics)
    results = finish(trainer, arguments, model, images)
    if training.push_to_hub:
        trainer.push_to_hub()
    if trainer.is_world_process_zero():
        if images.unreadable:
            print(f"Left out {len(images.unreadable)} images that could not be read; they are named above.")
        print(f"Accuracy on {len(images.validation):,} held-out images: {100 * results['eval_accuracy']:.2f} %")
        example = folder / EXAMPLE if uses_digits(arguments.data) else "IMAGE.png"
        print(f"The model is in {folder}. Try it: perceivers predict {folder} {example}")
    return 0
