"""Fine-tuning from few examples: the head alone, or small LoRA adapters, in the place of all weights.

In LoRA (Hu et al., arXiv 2106.09685), a linear layer's weight W stays as it is, and two narrow matrices are trained
that are added to it, W + alpha / rank * B A. Afterwards they are added once and for all, so that what is saved is a
model like any other.
"""

import json
import shlex
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from transformers import AutoConfig, PerceiverConfig, PreTrainedConfig, PreTrainedModel

from perceivers.modeling.configuration_image_perceiver import ImagePerceiverConfig

from .arguments import DataArguments
from .folders import say
from .heads import label_axes
from .modality import Modality, import_optional
from .recipe import RECIPE, read_recipe

# Below this number of training examples per class, a start from published weights is proposed. From scratch, 80 photos
# of each of three easy classes end near chance, and 1,000 small pictures of each of ten are enough.
FEW_PER_CLASS = 200
# How the proposal trains a head.
PROPOSED = ("--freeze_body", "--minutes", "60")
# What PEFT writes beside the weights of an adapter.
ADAPTER_CONFIG = "adapter_config.json"


@dataclass
class AdaptationArguments:
    """How much of a saved model to train; all of it by default."""

    _argument_group_name = "Fine-tuning"

    freeze_body: bool = field(
        default=False,
        metadata={
            "help": "Train the head of the model alone, on what its body makes of the inputs. The cheapest way, for "
            "the fewest examples."
        },
    )
    lora: bool = field(
        default=False,
        metadata={
            "help": "Train LoRA adapters of the linear layers, and the head. They are merged into the weights in the "
            "end. Needs `peft`."
        },
    )
    lora_rank: int = field(default=8, metadata={"help": "Rank of the adapters: more learns more and costs more."})
    lora_alpha: int = field(
        default=16, metadata={"help": "Scale of the adapters; what they add is multiplied by alpha / rank."}
    )
    lora_target_modules: list[str] = field(
        default_factory=list,
        metadata={
            "nargs": "+",
            "help": "Ends of the names of the layers to adapt, such as `q_proj v_proj`. The default is every linear "
            "layer below the head.",
        },
    )

    def __post_init__(self):
        if self.freeze_body and self.lora:
            raise ValueError("`--freeze_body` and `--lora` exclude each other.")
        for name in ("lora_rank", "lora_alpha"):
            if getattr(self, name) < 1:
                raise ValueError(f"`--{name}` must be at least 1, got {getattr(self, name)}.")
        for name, flag in type(self).__dataclass_fields__.items():
            default = [] if name == "lora_target_modules" else flag.default
            if name.startswith("lora_") and not self.lora and getattr(self, name) != default:
                raise ValueError(f"`--{name}` needs `--lora`.")

    def check(self, model_name_or_path: str | None) -> None:
        """Checks before any work that there are weights to adapt, and the library that does it.

        Args:
            model_name_or_path: The model to start from; `None` for one from scratch.

        Raises:
            ValueError: If there are no weights: what is frozen would be random.
            ImportError: If `--lora` is given and PEFT is not installed.
        """
        if (self.freeze_body or self.lora) and not model_name_or_path:
            flag = "--lora" if self.lora else "--freeze_body"
            raise ValueError(f"`{flag}` needs weights to start from: add `--model_name_or_path`.")
        if self.lora:
            import_optional("peft", "`--lora`", "lora")

    def adapt(self, model: PreTrainedModel, checkpoint: str | None = None) -> Any:
        """Makes a model train only what the flags say, and says on stderr how much that is.

        Args:
            model: The model with its head.
            checkpoint: The checkpoint that the training resumes from.

        Returns:
            The model itself or, with `lora`, PEFT's wrapper of it.

        Raises:
            ValueError: If the model has nothing to adapt, or if the checkpoint was trained in another way.
        """
        self._check_checkpoint(checkpoint)
        if not (self.freeze_body or self.lora):
            return model
        total = model.num_parameters()
        adapted = self._add_adapters(model) if self.lora else freeze_body(model)
        trained = sum(parameter.numel() for parameter in adapted.parameters() if parameter.requires_grad)
        what = "adapters and head" if self.lora else "head"
        say(f"Trains {trained:,} of {total:,} parameters: the {what}.")
        return adapted

    def _add_adapters(self, model: PreTrainedModel) -> Any:
        peft = import_optional("peft", "`--lora`", "lora")
        head = head_modules(model)
        targets = self._target_modules(model, linear_layers(model, head))
        for module in model.base_model.modules():
            if isinstance(module, _BatchNorm):
                stay_in_evaluation_mode(module)
        return peft.get_peft_model(
            model,
            peft.LoraConfig(
                r=self.lora_rank, lora_alpha=self.lora_alpha, target_modules=targets, modules_to_save=head
            ),
        )

    def _target_modules(self, model: PreTrainedModel, layers: list[str]) -> list[str]:
        """The layers to adapt, among the linear ones.

        Raises:
            ValueError: If there are none, or none that a flag asks for.
        """
        if not layers:
            raise ValueError(
                f"`--lora` adapts linear layers, and {type(model).__name__} has none below its head; use "
                "`--freeze_body`."
            )
        for target in self.lora_target_modules:
            if not any(f".{layer}".endswith(f".{target}") for layer in layers):
                names = sorted({layer.rpartition(".")[2] for layer in layers})
                raise ValueError(
                    f"`--lora_target_modules {target}` is no linear layer below the head; they are called "
                    f"{', '.join(names)}."
                )
        endings = tuple(f".{target}" for target in self.lora_target_modules) or ("",)
        return [layer for layer in layers if f".{layer}".endswith(endings)]

    def _check_checkpoint(self, checkpoint: str | None) -> None:
        """Refuses to resume from a checkpoint whose weights are those of other flags.

        Raises:
            ValueError: Which names the flag.
        """
        if checkpoint is None:
            return
        path, recipe = Path(checkpoint) / ADAPTER_CONFIG, Path(checkpoint).parent / RECIPE
        trained = {"lora": path.is_file()}
        if recipe.is_file():
            trained["freeze_body"] = bool(read_recipe(recipe).get("freeze_body"))
        for name, was_given in trained.items():
            if was_given != getattr(self, name):
                did, does = ("with", "without") if was_given else ("without", "with")
                raise ValueError(f"The checkpoint {checkpoint} was trained {did} `--{name}`, this run is {does} it.")
        if self.lora:
            saved = json.loads(path.read_text(encoding="utf-8"))
            for name, key in (("lora_rank", "r"), ("lora_alpha", "lora_alpha")):
                if saved[key] != getattr(self, name):
                    raise ValueError(
                        f"The checkpoint {checkpoint} was trained with `--{name} {saved[key]}`, this run has "
                        f"{getattr(self, name)}."
                    )

    def merge(self, trainer: Any) -> PreTrainedModel:
        """Puts a trained model without adapters in the Trainer's place of the one with adapters.

        Args:
            trainer: The Trainer after the training.

        Returns:
            The Trainer's model, of the class that it had before [`adapt`].

        Raises:
            ValueError: If the adapters have values that are not finite.
        """
        if self.lora:
            adapted: Any = trainer.model
            trainer.model = trainer.model_wrapped = adapted.merge_and_unload(safe_merge=True)
        model: Any = trainer.model
        return model


def freeze_body(model: PreTrainedModel) -> PreTrainedModel:
    """Freezes all parameters below the head, and keeps what they compute the same in training as in evaluation.

    Raises:
        ValueError: If no parameter is left to train.
    """
    of_classes = label_axes(model)
    body = model.base_model
    body.requires_grad_(False)
    for name, parameter in model.named_parameters():
        if name in of_classes:  # of models whose body contains the head
            parameter.requires_grad_(True)
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise ValueError(f"`--freeze_body` leaves nothing to train: {type(model).__name__} has no head.")
    stay_in_evaluation_mode(body)
    return model


def head_modules(model: PreTrainedModel) -> list[str]:
    """Names of the modules with parameters that are the head.

    They are those beside the body; of models whose body contains the head, those with a row for each class.
    """
    body = model.base_model
    children = {} if body is model else dict(model.named_children())
    beside = [name for name, child in children.items() if child is not body and list(child.parameters())]
    return beside or sorted({key.rpartition(".")[0] for key in label_axes(model)})


def linear_layers(model: PreTrainedModel, head: list[str]) -> list[str]:
    """Names of the linear layers below the head."""
    inside = tuple(f"{name}." for name in head)
    return [
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and not f"{name}.".startswith(inside)
    ]


def stay_in_evaluation_mode(module: nn.Module) -> None:
    """Makes a module compute in training what it computes in evaluation, from now on.

    Its batch norms keep their statistics, and nothing is dropped. A hook sets the mode, as the Trainer changes it
    before every step.
    """
    module.register_forward_pre_hook(_set_evaluation_mode)


def _set_evaluation_mode(module: nn.Module, inputs: Any) -> None:
    module.eval()


def load_config(config_class: type[PreTrainedConfig], name: str, **options: Any) -> PreTrainedConfig:
    """Loads the configuration of a model to start from.

    That of transformers' own Perceivers for images, such as DeepMind's published ones, becomes ours, and with it the
    model: it computes the same, with less memory and time.

    Args:
        config_class: Our configuration for the modality.
        name: A folder or a name on the Hub.
        options: Further arguments of `from_pretrained`.

    Raises:
        ValueError: For a Perceiver that is not for images.
        OSError: If there is no such model.
    """
    config = AutoConfig.from_pretrained(name, **options)
    if isinstance(config, PerceiverConfig) and issubclass(config_class, ImagePerceiverConfig):
        return config_class.from_pretrained(name, **options)
    return config


def propose_weights(
    weights: str | None, num_examples: int, config: Any, modality: Modality, data: DataArguments
) -> None:
    """Says on stderr if there are few examples for a model from scratch, and the command that starts from weights.

    Args:
        weights: Name of published weights on the Hub; `None` if there are none for the task.
        num_examples: Number of training examples.
        config: The model's configuration, with its labels.
        modality: What an example is.
        data: The flags that chose the examples. For built-in ones, nothing is said.
    """
    per_class = num_examples // max(config.num_labels, 1)
    if weights is None or per_class >= FEW_PER_CLASS or data.dataset_name in modality.built_in:
        return
    flags = ("dataset_name", "dataset_config_name", "train_dir", "validation_dir", "label_column_name")
    chosen = [word for flag in flags if (value := getattr(data, flag)) for word in (f"--{flag}", value)]
    start = ["--model_name_or_path", weights, "--config", "attention_dropout=0.0", *PROPOSED]
    command = shlex.join(["perceivers", "train", *chosen, *start])
    say(
        f"{per_class:,} {modality.noun} per class to train on are few for a model from scratch. To start from "
        f"published weights, at a cost that docs/training.md has: {command}"
    )
