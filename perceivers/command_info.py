"""`perceivers info`: what a model is made of and what it costs, from its configuration alone."""

import argparse
import json
import math
import os
from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import nn
from transformers import AutoModel, PreTrainedConfig

from perceivers.command_errors import one_line
from perceivers.modeling.configuration_iterative_perceiver import IterativePerceiverConfig
from perceivers.modeling.flops import cross_attend_flops, head_flops, self_attend_flops
from perceivers.tasks import TASKS, task_named

# By model type, as only a configuration is at hand.
TASK_OF_TYPE = {task.config_class.model_type: task for task in TASKS.values()}

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
        "--image_size", type=parse_image_size, metavar="N or HxW", help="in pixels; the configured size if not given"
    )
    parser.add_argument("--task", choices=TASKS, help="of a variant, where tasks have variants of the same name")
    parser.add_argument("--batch_size", type=int, default=1, help="examples a forward pass, 1 if not given")
    parser.add_argument("--json", action="store_true", help="print JSON, for programs")


def run(arguments: argparse.Namespace) -> int:
    """Prints what `describe` says, as text or JSON, and returns the exit code 0.

    Raises:
        ValueError: if the model is not found or is none of ours, or a size is below 1.
    """
    config = load_config(arguments.model, arguments.task)
    description = describe(config, image_size=arguments.image_size, batch_size=arguments.batch_size)
    description = {"name": arguments.model, **description}
    print(json.dumps(description, indent=2) if arguments.json else format_description(description))
    return 0


def parse_image_size(text: str) -> tuple[int, int]:
    """`"224"` -> (224, 224), `"224x320"` -> (224, 320): height and width in pixels.

    Raises:
        argparse.ArgumentTypeError: for anything else.
    """
    sides = text.lower().split("x")
    if len(sides) > 2 or not all(side.isdecimal() and int(side) > 0 for side in sides):
        raise argparse.ArgumentTypeError(f"expected N or HxW in pixels, such as 224 or 224x320, got `{text}`")
    return int(sides[0]), int(sides[-1])


def load_config(name: str, task_name: str | None = None) -> IterativePerceiverConfig:
    """The configuration in a folder, of a variant, or on the Hub, whichever is first to know `name`.

    Args:
        task_name: of the variant, where tasks have variants of the same name; else the first task that has it.

    Raises:
        ValueError: if nobody knows `name`, or if it is the model of another type.
    """
    is_saved_model = os.path.isfile(os.path.join(name, "config.json"))
    tasks = [task_named(task_name)] if task_name else list(TASKS.values())
    for task in tasks:
        if name in task.config_class.variants and not is_saved_model:
            return task.config_class.from_variant(name)
    if os.path.isdir(name) and not is_saved_model:
        raise ValueError(f"The folder `{name}` has no config.json, so there is no model in it.")
    # Names without an owner are those of the Hub's first models. None is ours, and a misspelt variant need not wait
    # for the network.
    if not is_saved_model and "/" not in name:
        raise ValueError(unknown_model(name))
    try:
        values, _ = PreTrainedConfig.get_config_dict(name)
    except OSError as error:
        if is_saved_model:
            raise
        raise ValueError(f"{unknown_model(name)} The Hub: {one_line(error)}") from error

    model_type = values.get("model_type")
    if model_type not in TASK_OF_TYPE:
        raise ValueError(
            f"`{name}` is of model type `{model_type}`, which is no Perceiver of this package; its types are "
            f"{', '.join(TASK_OF_TYPE)}."
        )
    return cast(IterativePerceiverConfig, TASK_OF_TYPE[model_type].config_class.from_dict(values))


def variant_names() -> str:
    """The variants of every task."""
    return "; ".join(f"for {task.name} {', '.join(task.config_class.variants)}" for task in TASKS.values())


def unknown_model(name: str) -> str:
    return (
        f"`{name}` is neither a folder with a model nor reachable on the Hub, where names are `owner/model`; nor is "
        f"it a variant: these are {variant_names()}."
    )


def describe(
    config: IterativePerceiverConfig, image_size: tuple[int, int] | None = None, batch_size: int = 1
) -> dict[str, Any]:
    """What a model is made of and what it costs; the keys are stable.

    Args:
        image_size: height and width in pixels; the configured ones if `None`.
        batch_size: B, which `flops["batch"]` and the memory of the activations are for.

    Returns: numbers of parameters, FLOPs (see `modeling/flops.py` for what is counted), bytes.

    Raises:
        ValueError: if `batch_size` is below 1, or an image size is given for a model that takes no images.
    """
    if batch_size < 1:
        raise ValueError(f"`--batch_size` must be at least 1, got {batch_size}.")
    (shape,) = (config if image_size is None else resized(config, image_size)).stream_shapes
    num_inputs = shape.num_inputs
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
        "inputs": {
            "grid": list(shape.grid),
            "number": num_inputs,
            "channels": config.input_channels,
            "content_channels": shape.content_channels,
            "position_channels": shape.position_channels,
        },
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


def resized(config: IterativePerceiverConfig, image_size: tuple[int, int]) -> IterativePerceiverConfig:
    """The configuration of the same model for images of `image_size`."""
    if not hasattr(config, "image_size"):
        raise ValueError(f"`--image_size` is for images, and a `{config.model_type}` takes none.")
    return type(config).from_dict({**config.to_dict(), "image_size": image_size})


def count_parameters(config: IterativePerceiverConfig) -> dict[str, int]:
    """Parameters by part, counted on the model itself, which is built without memory for its weights."""
    # A checkpoint of the body alone, which the configuration names, has no head.
    is_body = (config.architectures or [""])[0].endswith("Model")
    auto_class = AutoModel if is_body else TASK_OF_TYPE[config.model_type].auto_model
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
    """Parameters of a module, shared ones once."""
    return sum(parameter.numel() for parameter in module.parameters())


def in_bytes(num_elements: int) -> dict[str, int]:
    return {dtype: size * num_elements for dtype, size in BYTES.items()}


def inference_activations(config: IterativePerceiverConfig, num_inputs: int) -> int:
    """Estimate of how many elements are alive at once, at most, while one example is inferred.

    It takes the dense cross-attention, with an attention kernel that keeps no scores. The peak is either where the
    inputs are projected, with the inputs, their norm, keys and values alive, or in a layer of the latent transformer,
    with inputs, keys and values waiting for the next cross-attend. What a kernel needs for itself comes on top.
    """
    keys_and_values = config.cross_qk_channels + config.cross_v_channels
    latents = config.num_latents * config.d_latents
    widening_factor = max(config.self_attention_widening_factor, config.cross_attention_widening_factor)
    # Residual and norm; then queries, keys, values and sums, or the MLP's width before and after its activation.
    thinking = latents * (2 + max(4, 2 * widening_factor))
    reading = num_inputs * config.input_channels + 2 * latents
    return num_inputs * (config.input_channels + keys_and_values) + max(reading, thinking)


def training_activations(config: IterativePerceiverConfig, num_inputs: int) -> int:
    """Estimate of how many elements a forward pass keeps for the backward pass of one example, without gradient
    checkpointing, and under the assumptions of `inference_activations`.

    Gradients, the optimiser's state and the backward pass's own intermediate results come on top.
    """
    keys_and_values = config.cross_qk_channels + config.cross_v_channels
    latents = config.num_latents * config.d_latents
    distinct = {"none": config.num_cross_attends, "after_first": 2, "all": 1}[config.share_cross_attends]
    # The inputs once; their norm, keys and values for each set of weights.
    inputs = config.input_channels + min(distinct, config.num_cross_attends) * (
        config.input_channels + keys_and_values
    )
    # Both norms and what they norm; queries and sums; the MLP before and after its activation.
    cross_attend = latents * (4 + 2 * config.cross_attention_widening_factor) + config.num_latents * keys_and_values
    self_attend = latents * (8 + 2 * config.self_attention_widening_factor)
    num_self_attends = config.num_blocks * config.num_self_attends_per_block
    return num_inputs * inputs + config.num_cross_attends * cross_attend + num_self_attends * self_attend


def format_description(description: dict[str, Any]) -> str:
    """`describe`'s result as aligned text."""
    inputs, latents, memory = description["inputs"], description["latents"], description["memory"]
    batch_size = description["batch_size"]
    examples = "one example" if batch_size == 1 else f"a batch of {batch_size}"
    flops = dict(description["flops"])
    flops_of_batch = flops.pop("batch")
    rows = [
        (
            "inputs",
            f"{inputs['number']:,} x {inputs['channels']:,}",
            f"{layout(inputs['grid'])}{inputs['content_channels']} channels of content and "
            f"{inputs['position_channels']} of position",
        ),
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
    """Such as `a grid of 224 x 224; `, and nothing for inputs that have one axis, or none."""
    return f"a grid of {' x '.join(map(str, grid))}; " if len(grid) > 1 else ""


def layer_rows(layers: dict[str, Any]) -> list[Row]:
    """The schedule, such as `8 x (1 cross-attend, 1 block of 6 self-attends)`, and which layers share weights."""
    cross_attends = {
        "none": "every cross-attend has weights of its own",
        "after_first": "the first cross-attend has weights of its own, the others share one set",
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
        ("", "", "all blocks share one set of weights" if share_blocks else "every block has weights of its own"),
    ]


def number_rows(title: str, numbers: dict[str, int]) -> list[Row]:
    """A row for the total, and one for each part that is not 0."""
    parts = [(f"  {name.replace('_', '-')}", f"{n:,}", "") for name, n in numbers.items() if n and name != "total"]
    return [(title, f"{numbers['total']:,}", format_short(numbers["total"])), *parts]


def format_short(number: int) -> str:
    """Such as `44.91 million` and `707.20 billion`."""
    for power, unit in ((1e9, " billion"), (1e6, " million")):
        if number >= power:
            return f"{number / power:.2f}{unit}"
    return ""


def format_bytes(sizes: dict[str, int]) -> str:
    """Such as `171.3 / 85.7 MiB`, in the unit that suits the largest."""
    power = min(int(math.log2(max(*sizes.values(), 1)) // 10), len(BINARY_UNITS) - 1)
    return " / ".join(f"{size / 1024**power:,.1f}" for size in sizes.values()) + f" {BINARY_UNITS[power]}"


def format_rows(rows: Sequence[Row | None]) -> str:
    """Columns, two spaces apart, the second aligned to the right; `None` is an empty line."""
    widths = [max(len(row[column]) for row in rows if row) for column in range(2)]
    return "\n".join(f"{row[0]:<{widths[0]}}  {row[1]:>{widths[1]}}  {row[2]}".rstrip() if row else "" for row in rows)
