"""What is refused before work begins: flags and fields that cannot work, and models that are not whole."""

import inspect
import math
import os
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.utils import CONFIG_NAME

from perceivers.cli.errors import UsageError, UserError, one_line
from perceivers.training.arguments import PerceiverTrainingArguments
from perceivers.training.folders import listed, say
from perceivers.training.heads import check_fit, check_labels, label_axes, names_of
from perceivers_cli import did_you_mean

# The smallest values of flags that transformers does not check.
SMALLEST = {
    "per_device_train_batch_size": 1,
    "per_device_eval_batch_size": 1,
    "gradient_accumulation_steps": 1,
    "dataloader_num_workers": 0,
    "learning_rate": 0,
    "weight_decay": 0,
    "max_grad_norm": 0,
    "save_total_limit": 1,
    "eval_accumulation_steps": 1,
}
# Flags of transformers' Trainer that must keep their value here, with the reason.
FIXED: dict[str, tuple[Any, str]] = {
    "label_names": (None, "the labels of every task have their name already"),
    "prediction_loss_only": (False, "the metrics need the predictions"),
    "eval_do_concat_batches": (True, "the metrics need the predictions of all batches together"),
    "batch_eval_metrics": (False, "the metrics need the predictions of all batches together"),
    "neftune_noise_alpha": (None, "it adds noise to embeddings of words, which these models do not have"),
    "train_sampling_strategy": ("random", "it orders texts by their length"),
    "include_for_metrics": ([], "the metrics take predictions and labels only"),
}

# Fields of a configuration that say nothing of the model's answers.
UNCOMPARED = ("architectures", "auto_map", "dtype", "label2id", "transformers_version", "_name_or_path")
LONGEST_VALUE = 60
# Fields of feature extractors that are in no signature.
SEQUENCE_FIELDS = ("padding_side", "return_attention_mask")


def check_training_flags(training: PerceiverTrainingArguments) -> None:
    """Refuses what transformers' Trainer offers and what would fail here hours later.

    Raises:
        UsageError: Which names the flag, and what it takes.
    """
    for name, smallest in SMALLEST.items():
        value = getattr(training, name, None)
        if value is not None and not smallest <= value < math.inf:
            raise UsageError(f"`--{name}` must be a finite number of at least {smallest}, got {value}.")
    for name, (value, reason) in FIXED.items():
        if (given := getattr(training, name, value)) != value:
            raise UsageError(f"`--{name} {given}` cannot work here: {reason}.")
    if not 0 <= training.label_smoothing_factor < 1:
        raise UsageError(
            f"`--label_smoothing_factor` must be at least 0 and below 1, got {training.label_smoothing_factor}."
        )
    if training.max_steps <= 0 and not 0 < training.num_train_epochs < math.inf:
        raise UsageError(f"`--num_train_epochs` must be above 0, got {training.num_train_epochs}.")


def check_config_fields(fields: Mapping[str, Any]) -> None:
    """Refuses an attention that would be downloaded as code and run: a recipe must not be able to ask for that.

    Raises:
        UsageError: Which names the field.
    """
    for name, value in fields.items():
        if name.endswith("_implementation") and "/" in str(value):
            raise UsageError(f"`{name}={value}` would run code from the Hub, which no configuration can ask for.")


def check_metric(name: str | None, metrics: Collection[str]) -> None:
    """Refuses a `--metric_for_best_model` that no evaluation measures.

    Raises:
        UsageError: Which lists those that there are.
    """
    known = ["loss", *metrics]
    if name is not None and name.removeprefix("eval_") not in known:
        raise UsageError(
            f"`--metric_for_best_model {name}` is not measured{did_you_mean(name, known)}; there are "
            f"{', '.join(known)}."
        )


def check_processor_fields(processor: Any, fields: Collection[str]) -> None:
    """Refuses fields that the processor would store and never read.

    Raises:
        UsageError: Which names the closest field.
    """
    known = sorted({*_processor_fields(type(processor)), *SEQUENCE_FIELDS})
    for name in fields:
        if name not in known:
            raise UsageError(
                f"`--processor` has an unknown field `{name}`{did_you_mean(name, known)}; {type(processor).__name__} "
                f"has {', '.join(known)}."
            )


def _processor_fields(processor_class: type) -> Iterator[str]:
    """Names of the fields of a processor: keywords of its calls, or arguments of its constructors."""
    for kind in processor_class.__mro__:
        for keywords in getattr(vars(kind).get("valid_kwargs"), "__mro__", ()):
            yield from getattr(keywords, "__annotations__", {})
        yield from getattr(vars(kind).get("valid_kwargs"), "__annotations__", {})
        if "__init__" in vars(kind):
            parameters = inspect.signature(vars(kind)["__init__"]).parameters.values()
            yield from (
                parameter.name
                for parameter in parameters
                if parameter.name != "self" and parameter.kind is parameter.POSITIONAL_OR_KEYWORD
            )


def check_resumed_config(checkpoint: str, config: PreTrainedConfig) -> None:
    """Refuses to resume from a checkpoint of another model, or of a model with other classes.

    Raises:
        UserError: Which names the field, and both values.
    """
    if not os.path.isfile(os.path.join(checkpoint, CONFIG_NAME)):
        return
    saved, asked = type(config).from_pretrained(checkpoint).to_dict(), config.to_dict()
    for name in sorted(saved.keys() & asked.keys()):
        if name not in UNCOMPARED and saved[name] != asked[name]:
            old, new = (
                str(value if name != "id2label" else list(value.values())) for value in (saved[name], asked[name])
            )
            what = "classes" if name == "id2label" else name
            raise UserError(
                f"The checkpoint {checkpoint} cannot be resumed: its {what} are {shorten(old)}, those of this run "
                f"{shorten(new)}."
            )


def shorten(text: str) -> str:
    """The text, or its beginning."""
    return text if len(text) <= LONGEST_VALUE else f"{text[:LONGEST_VALUE]}..."


def check_weights(model: nn.Module, name: str) -> None:
    """Refuses a model whose weights are not finite: each of its answers would be NaN.

    Raises:
        UserError: Which names a weight.
    """
    for key, tensor in model.state_dict().items():
        if tensor.is_floating_point() and not tensor.isfinite().all():
            raise UserError(f"`{name}` is broken: its weight {key} has values that are NaN or infinite.")


def load_whole_model(
    auto_model: Any, name: str, config: PreTrainedConfig, task: str, trust_remote_code: bool
) -> PreTrainedModel:
    """Loads a saved model to use it as it is.

    Args:
        auto_model: Auto class of the model.
        name: A folder or a name on the Hub.
        config: Its configuration.
        task: What it is for.
        trust_remote_code: Whether the model's own code may run.

    Raises:
        ValueError: If weights are missing or not finite, or if the labels do not fit the head.
    """
    labels: dict[int, Any] = config.id2label or {}  # type: ignore[assignment]
    check_labels(labels, name)
    model, loading = auto_model.from_pretrained(
        name,
        config=config,
        trust_remote_code=trust_remote_code,
        ignore_mismatched_sizes=True,
        output_loading_info=True,
    )
    if loading["mismatched_keys"]:
        check_fit(loading, labels, name, label_axes(model))
    check_whole(loading, name, task)
    check_weights(model, name)
    if repeated := [label for label, number in Counter(names_of(labels)).items() if number > 1]:
        say(f"warning: {name} has several classes of the same name: {listed(repeated)}.")
    return model


def check_whole(loading: Mapping[str, Any], name: str, task: str) -> None:
    """Refuses a model of whose weights some were made at random, and so would be its answers.

    Args:
        loading: What `from_pretrained` reports with `output_loading_info`.
        name: What to call the model.
        task: What it is for.

    Raises:
        UserError: Which lists the weights.
    """
    for key, saved, wanted in sorted(loading["mismatched_keys"]):
        raise UserError(
            f"`{name}` does not fit its configuration: {key} has the shape {tuple(saved)}, but the configuration "
            f"asks for {tuple(wanted)}."
        )
    if loading["missing_keys"]:
        raise UserError(
            f"`{name}` is not a complete model for {task}: it has no weights for "
            f"{', '.join(sorted(loading['missing_keys']))}."
        )


def move_to_device(model: PreTrainedModel, device: str | None) -> PreTrainedModel:
    """Moves a model to a device, by default the first accelerator.

    Raises:
        UserError: If PyTorch lacks the device or does not know it.
    """
    if device is None:
        found = torch.accelerator.current_accelerator(check_available=True)
        device = "cpu" if found is None else found.type
    try:
        return model.to(device)  # type: ignore[arg-type]
    except (AssertionError, RuntimeError) as error:
        raise UserError(f"The device `{device}` cannot be used: {one_line(error)}") from error
