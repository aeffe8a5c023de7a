"""Convert a checkpoint between the layout of this package and that of transformers' own Perceivers for images.

`--to transformers` works for models that one of those classes can express. The image processor is converted too.
Loading does not need this command: `ImagePerceiverForImageClassification.from_pretrained` takes both layouts.
"""

import argparse
import shutil
import uuid
from pathlib import Path
from typing import Any

import transformers
from transformers import PerceiverImageProcessorPil, PreTrainedModel
from transformers.image_processing_utils import BaseImageProcessor
from transformers.utils import IMAGE_PROCESSOR_NAME
from transformers.utils.hub import has_file

from perceivers.cli.flags import check_name
from perceivers.modeling.checkpoint_conversion import config_to_transformers, key_to_transformers
from perceivers.modeling.modeling_image_perceiver import ImagePerceiverForImageClassification
from perceivers.modeling.safetensors_only import share_weights
from perceivers.preprocessors.image_processing_pil_image_perceiver import ImagePerceiverImageProcessorPil

# Saved without the suffix of their backend, which the reader's machine chooses.
PROCESSORS: dict[str, type[BaseImageProcessor]] = {
    "perceivers": ImagePerceiverImageProcessorPil,
    "transformers": PerceiverImageProcessorPil,
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the arguments of `perceivers convert`."""
    parser.add_argument("source", metavar="SOURCE", help="a folder or a name on the Hub, in either layout")
    parser.add_argument("target", metavar="TARGET", type=Path, help="the folder to write, which must not exist yet")
    parser.add_argument("--to", choices=PROCESSORS, default="perceivers", help="the layout to write")
    parser.add_argument("--revision", default="main", help="branch, tag or commit of a name on the Hub")
    parser.add_argument(
        "--allow_pickle",
        action="store_true",
        help="read weights that are not safetensors; never do this with a pickle that you do not trust",
    )


def run(arguments: argparse.Namespace) -> int:
    """Converts. The target appears complete or not at all.

    Raises:
        FileExistsError: If the target exists.
        ValueError: If the other layout cannot express the model; the message names the field.
        OSError: If something cannot be read or written.
    """
    target: Path = arguments.target
    check_name(arguments.source)
    if target.exists():
        raise FileExistsError(f"{target} exists; it is not overwritten.")
    target.parent.mkdir(parents=True, exist_ok=True)
    unfinished = target.parent / f".perceivers-{uuid.uuid4().hex}"
    unfinished.mkdir()
    try:
        model = ImagePerceiverForImageClassification.from_pretrained(
            arguments.source, revision=arguments.revision, use_safetensors=not arguments.allow_pickle
        )
        if arguments.to == "transformers":
            model = to_transformers(model)
        model.save_pretrained(unfinished)
        share_weights(unfinished)
        convert_processor(arguments.source, unfinished, PROCESSORS[arguments.to], revision=arguments.revision)
        unfinished.rename(target)
    except BaseException:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise
    print(f"Wrote {type(model).__name__} with {model.num_parameters():,} parameters to {target}")
    return 0


def to_transformers(model: ImagePerceiverForImageClassification) -> PreTrainedModel:
    """Converts a model to one of transformers' own classes.

    Raises:
        ValueError: If none computes the same.
    """
    config = config_to_transformers(model.config)
    assert config.architectures is not None  # the conversion sets it
    converted = getattr(transformers, config.architectures[0])(config).to(model.dtype)
    converted.load_state_dict({key_to_transformers(key): value for key, value in model.state_dict().items()})
    return converted


def convert_processor(source: str, target: Path, processor_class: type[BaseImageProcessor], **where: Any) -> None:
    """Writes the source's image processor, if it has one, as one of another class with the same fields."""
    if has_file(source, IMAGE_PROCESSOR_NAME, **where):
        processor_class.from_pretrained(source, **where).save_pretrained(target)
