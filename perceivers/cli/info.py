"""Describe a model or a variant: its parts, parameters, FLOPs and memory, from its configuration alone."""

import argparse
import json
import math
import os
from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import nn
from transformers import AutoModel, PreTrainedConfig

from perceivers.cli.errors import one_line
from perceivers.modeling.configuration_iterative_perceiver import IterativePerceiverConfig
from perceivers.modeling.flops import cross_attend_flops, head_flops, self_attend_flops
from perceivers.tasks import TASK_NAMES, TASKS, task_for_model, task_named
from perceivers.training.local_paths import closest, is_path

# The configuration classes of our models, by model type.
CONFIG_CLASSES = {task.modality.config_class.model_type: task.modality.config_class for task in TASKS}

BYTES = {"float32": 4, "bfloat16": 2}
BINARY_UNITS = ("B", "KiB", "MiB", "GiB", "TiB")

Row = tuple[str, str, str]  # label, value, note


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the arguments of `perceivers info`."""
    parser.add_argument(
        "model",
        metavar="MODEL_OR_VARIANT",
        help="a folder or Hub name (only its configuration is read), or a variant: " + variant_names(),
    )
    parser.add_argument(
        "--image_size", type=parse_image_size, metavar="N or HxW", help="in pixels; the configured size by default"
    )
    parser.add_argument("--task", choices=TASK_NAMES, help="task of the variant, if several have one of that name")
    parser.add_argument("--batch_size", type=int, default=1, help="examples per forward pass; 1 by default")
    parser.add_argument("--json", action="store_true", help="print JSON, for programs")


def run(arguments: argparse.Namespace) -> int:
    """Prints the description as text or JSON, and returns the exit code 0.

    Raises:
        ValueError: If the model is not found or is not ours, or a size is below 1.
    """
    config = load_config(arguments.model, arguments.task)
    description = describe(config, image_size=arguments.image_size, batch_size=arguments.batch_size)
    description = {"name": arguments.model, **description}
    print(json.dumps(description, indent=2) if arguments.json else format_description(description))
    return 0


def parse_image_size(text: str) -> tuple[int, int]:
    """Parses height and width in pixels: `"224"` -> (224, 224), `"224x320"` -> (224, 320).

    Raises:
        argparse.ArgumentTypeError: For anything else.
    """
    sides = text.lower().split("x")
    if len(sides) > 2 or not all(side.isdecimal() and int(side) > 0 for side in sides):
        raise argparse.ArgumentTypeError(f"expected N or HxW in pixels, such as 224 or 224x320, got `{text}`")
    return int(sides[0]), int(sides[-1])


def load_config(name: str, task_name: str | None = None) -> IterativePerceiverConfig:
    """Loads the configuration in a folder, of a variant, or on the Hub, whichever is the first to exist.

    Args:
        name: Name of the model or variant.
        task_name: Task of the variant; by default the first that has it.

    Raises:
        ValueError: If nothing has that name, or it is a model of another type or for none of our tasks.
    """
    is_saved_model = os.path.isfile(os.path.join(name, "config.json"))
    for task in [task_named(task_name)] if task_name else TASKS:
        if name in task.modality.config_class.variants and not is_saved_model:
            return task.modality.config_class.from_variant(name)
    if os.path.isdir(name) and not is_saved_model:
        raise ValueError(f"The folder `{name}` has no config.json, so there is no model in it.")
    # On the Hub, only the first models have names without an owner, and none is ours. A misspelt variant or path need
    # not wait for the network.
    if not is_saved_model and ("/" not in name or is_path(name)):
        raise ValueError(unknown_model(name))
    try:
        values, _ = PreTrainedConfig.get_config_dict(name)
    except OSError as error:
        if is_saved_model:
            raise
        raise ValueError(f"{unknown_model(name)} The Hub: {one_line(error)}") from error

    model_type = values.get("model_type")
    if model_type not in CONFIG_CLASSES:
        raise ValueError(
            f"`{name}` is of model type `{model_type}`, which is no Perceiver of this package; its types are "
            f"{', '.join(CONFIG_CLASSES)}."
        )
    config = cast(IterativePerceiverConfig, CONFIG_CLASSES[model_type].from_dict(values))
    task_for_model(name, config)  # raises for a head that belongs to none of the tasks
    return config


def variant_names() -> str:
    """Lists the variants of every task."""
    return "; ".join(f"for {task.name} {', '.join(task.modality.config_class.variants)}" for task in TASKS)


def unknown_model(name: str) -> str:
    """The message for a name that nothing has."""
    return (
        f"`{name}` is neither a folder with a model nor reachable on the Hub, where names are `owner/model`; nor is "
        f"it a variant, which are {variant_names()}{closest(name)}."
    )


def describe(
    config: IterativePerceiverConfig, image_size: tuple[int, int] | None = None, batch_size: int = 1
) -> dict[str, Any]:
    """Describes a model's parts and costs. The keys are stable.

    Args:
        config: The model's configuration.
        image_size: Height and width in pixels; the configured ones by default.
        batch_size: Examples per forward pass, for `flops["batch"]` and the memory of the activations.

    Returns:
        Sizes, numbers of parameters, FLOPs (`modeling/flops.py` says what is counted), and memory in bytes.

    Raises:
        ValueError: If `batch_size` is below 1, or an image size is given for a model that takes no images.
    """
    if batch_size < 1:
        raise ValueError(f"`--batch_size` must be at least 1, got {batch_size}.")
    sized = config if image_size is None else resized(config, image_size)
    num_inputs = sized.num_inputs
    parameters = count_parameters(config)
    flops = {
        "cross_attends": config.num_cross_attends * cross_attend_flops(config, num_inputs),
        "blocks": config.num_blocks * config.num_self_attends_per_block * self_attend_flops(config),
        "head": head_flops(config) if parameters["head"] else 0,
    }
    total_flops = sum(flops.values())
    return {
        "model_type": config.model_type,
        "batch_size": batch_size,
        "inputs": describe_inputs(sized),
        "latents": {"number": config.num_latents, "channels": config.d_latents},
        "layers": {
            "total": config.num_hidden_layers,
            "cross_attends": config.num_cross_attends,
            "blocks": config.num_blocks,
            "self_attends_per_block": config.num_self_attends_per_block,
            "share_cross_attends": config.share_cross_attends,
            "share_blocks": config.share_blocks,
        },
        "parameters": parameters,
        "flops": {**flops, "total": total_flops, "batch": batch_size * total_flops},
        "memory": {
            "weights": in_bytes(parameters["total"]),
            "estimated_activations_inference": in_bytes(batch_size * inference_activations(config, num_inputs)),
            "estimated_activations_training": in_bytes(batch_size * training_activations(config, num_inputs)),
        },
    }


def describe_inputs(config: IterativePerceiverConfig) -> dict[str, Any]:
    """Describes the input array: its size, and the shape of its stream, or of each under `streams`."""
    shapes = [
        {
            "grid": list(shape.grid),
            "number": shape.num_inputs,
            "content_channels": shape.content_channels,
            "position_channels": shape.position_channels,
        }
        for shape in config.stream_shapes
    ]
    total = {"number": config.num_inputs, "channels": config.input_channels}
    return {**shapes[0], **total} if len(shapes) == 1 else {**total, "streams": shapes}


def resized(config: IterativePerceiverConfig, image_size: tuple[int, int]) -> IterativePerceiverConfig:
    """The configuration of the same model for images of another size."""
    if not hasattr(config, "image_size"):
        raise ValueError(f"`--image_size` is for images, and a `{config.model_type}` takes none.")
    return type(config).from_dict({**config.to_dict(), "image_size": image_size})


def count_parameters(config: IterativePerceiverConfig) -> dict[str, int]:
    """Counts the parameters by part, on the model itself, which is built without memory for its weights."""
    # A checkpoint of the body alone has no head, and its configuration names the body's class.
    is_body = (config.architectures or [""])[0].endswith("Model")
    auto_class = AutoModel if is_body else task_for_model(config.model_type, config).auto_model(config)
    with torch.device("meta"):
        model = auto_class.from_config(config)
    encoder = model.base_model.encoder
    counts = {
        "latents": encoder.latents.numel(),
        "cross_attends": count(encoder.cross_attends),
        "blocks": count(encoder.blocks),
        "inputs": count(model.base_model) - count(encoder),
        "head": count(model) - count(model.base_model),
    }
    return {**counts, "total": count(model)}


def count(module: nn.Module) -> int:
    """Counts the parameters of a module, shared ones once."""
    return sum(parameter.numel() for parameter in module.parameters())


def in_bytes(num_elements: int) -> dict[str, int]:
    """The size of this many numbers in bytes, by data type."""
    return {dtype: size * num_elements for dtype, size in BYTES.items()}


def inference_activations(config: IterativePerceiverConfig, num_inputs: int) -> int:
    """Estimates the largest number of elements alive at once during inference of one example.

    It assumes dense cross-attention, with an attention kernel that keeps no scores. The peak is either the projection
    of the inputs, with the inputs, their norm, keys and values alive, or a layer of the latent transformer, with
    inputs, keys and values kept for the next cross-attend. The kernel's own workspace comes on top.
    """
    keys_and_values = config.cross_qk_channels + config.cross_v_channels
    latents = config.num_latents * config.d_latents
    widening_factor = max(config.self_attention_widening_factor, config.cross_attention_widening_factor)
    # Residual and norm; then queries, keys, values and sums, or the MLP's width before and after its activation.
    thinking = latents * (2 + max(4, 2 * widening_factor))
    reading = num_inputs * config.input_channels + 2 * latents
    return num_inputs * (config.input_channels + keys_and_values) + max(reading, thinking)


def training_activations(config: IterativePerceiverConfig, num_inputs: int) -> int:
    """Estimates the number of elements that a forward pass keeps for the backward pass of one example.

    It assumes no gradient checkpointing, and the same as `inference_activations`. Gradients, the optimiser's state and
    the backward pass's own intermediate results come on top.
    """
    keys_and_values = config.cross_qk_channels + config.cross_v_channels
    latents = config.num_latents * config.d_latents
    # The inputs once; their norm, keys and values for each set of weights.
    inputs = config.input_channels + config.num_distinct_cross_attends * (config.input_channels + keys_and_values)
    # Both norms and what they norm; queries and sums; the MLP before and after its activation.
    cross_attend = latents * (4 + 2 * config.cross_attention_widening_factor) + config.num_latents * keys_and_values
    self_attend = latents * (8 + 2 * config.self_attention_widening_factor)
    num_self_attends = config.num_blocks * config.num_self_attends_per_block
    return num_inputs * inputs + config.num_cross_attends * cross_attend + num_self_attends * self_attend


def format_description(description: dict[str, Any]) -> str:
    """Formats what `describe` returned as aligned text."""
    inputs, latents, memory = description["inputs"], description["latents"], description["memory"]
    batch_size = description["batch_size"]
    examples = "one example" if batch_size == 1 else f"a batch of {batch_size}"
    flops = dict(description["flops"])
    flops_of_batch = flops.pop("batch")
    layouts = [
        f"{layout(stream['grid'])}{stream['content_channels']} channels of content and "
        f"{stream['position_channels']} of position"
        for stream in inputs.get("streams", [inputs])
    ]
    rows = [
        ("inputs", f"{inputs['number']:,} x {inputs['channels']:,}", layouts[0]),
        *(("", "", text) for text in layouts[1:]),
        ("latents", f"{latents['number']:,} x {latents['channels']:,}", ""),
        *layer_rows(description["layers"]),
        None,
        *number_rows("parameters", description["parameters"]),
        None,
        *number_rows("FLOPs of one example", flops),
    ]
    if batch_size > 1:
        rows.append((f"  {examples}", f"{flops_of_batch:,}", format_short(flops_of_batch)))
    rows += [
        None,
        ("memory", "float32 / bfloat16", ""),
        ("  weights", format_bytes(memory["weights"]), ""),
        (
            "  inference",
            format_bytes(memory["estimated_activations_inference"]),
            f"estimate: activations of {examples}, with dense cross-attention",
        ),
        (
            "  training",
            format_bytes(memory["estimated_activations_training"]),
            "estimate: the same, kept for the backward pass",
        ),
    ]
    return f"{description['name']} ({description['model_type']})\n\n{format_rows(rows)}"


def layout(grid: Sequence[int]) -> str:
    """Such as `a grid of 224 x 224; `; empty for inputs with fewer than two axes."""
    return f"a grid of {' x '.join(map(str, grid))}; " if len(grid) > 1 else ""


def layer_rows(layers: dict[str, Any]) -> list[Row]:
    """Rows for the schedule, such as `8 x (1 cross-attend, 1 block of 6 self-attends)`, and for shared weights."""
    cross_attends = {
        "none": "every cross-attend has its own weights",
        "after_first": "the first cross-attend has its own weights, the others share one set",
        "all": "all cross-attends share one set of weights",
    }[layers["share_cross_attends"] if layers["cross_attends"] > 1 else "none"]
    if not layers["self_attends_per_block"]:
        return [
            ("layers", f"{layers['total']:,}", f"{layers['cross_attends']} x (1 cross-attend)"),
            ("", "", cross_attends),
        ]
    blocks_per_cross_attend = layers["blocks"] // layers["cross_attends"]
    blocks = f"{blocks_per_cross_attend} block{'s' if blocks_per_cross_attend > 1 else ''}"
    schedule = (
        f"{layers['cross_attends']} x (1 cross-attend, {blocks} of {layers['self_attends_per_block']} self-attends)"
    )
    share_blocks = layers["share_blocks"] and layers["blocks"] > 1
    return [
        ("layers", f"{layers['total']:,}", schedule),
        ("", "", cross_attends),
        ("", "", "all blocks share one set of weights" if share_blocks else "every block has its own weights"),
    ]


def number_rows(title: str, numbers: dict[str, int]) -> list[Row]:
    """Makes a row for the total, and one for each part that is not 0."""
    parts = [(f"  {name.replace('_', '-')}", f"{n:,}", "") for name, n in numbers.items() if n and name != "total"]
    return [(title, f"{numbers['total']:,}", format_short(numbers["total"])), *parts]


def format_short(number: int) -> str:
    """Formats a large number, such as `44.91 million` or `707.20 billion`; empty below a million."""
    for power, unit in ((1e9, " billion"), (1e6, " million")):
        if number >= power:
            return f"{number / power:.2f}{unit}"
    return ""


def format_bytes(sizes: dict[str, int]) -> str:
    """Formats sizes, such as `171.3 / 85.7 MiB`, in the unit that suits the largest."""
    power = min(int(math.log2(max(*sizes.values(), 1)) // 10), len(BINARY_UNITS) - 1)
    return " / ".join(f"{size / 1024**power:,.1f}" for size in sizes.values()) + f" {BINARY_UNITS[power]}"


def format_rows(rows: Sequence[Row | None]) -> str:
    """Formats rows as columns, two spaces apart and the second aligned to the right; `None` is an empty line."""
    widths = [max(len(row[column]) for row in rows if row) for column in range(2)]
    return "\n".join(f"{row[0]:<{widths[0]}}  {row[1]:>{widths[1]}}  {row[2]}".rstrip() if row else "" for row in rows)
