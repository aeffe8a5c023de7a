"""Remakes the golden values: `python -m tests.make_golden`.

They hold the model to what it computed when they were made. Remake them only for a change that is meant to change the
answers, and say so in CHANGELOG.md.
"""

from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import nn

from tests.models import tiny_audio_model, tiny_image_model, tiny_point_cloud_model

GOLDEN = Path(__file__).parent / "golden"


def waves(shape: torch.Size | tuple[int, ...], frequency: float) -> torch.Tensor:
    """Numbers in [-1, 1] that are the same on every machine and under every version of PyTorch, unlike random ones."""
    size = torch.Size(shape).numel()
    return torch.arange(size, dtype=torch.float64).mul(frequency).sin().view(shape)


def filled_with_waves(model: nn.Module) -> nn.Module:
    """The model in float64, with parameters that are the same everywhere."""
    model = model.double()
    with torch.no_grad():
        for index, (name, parameter) in enumerate(model.named_parameters()):
            is_scale = name.endswith("norm.weight")
            parameter.copy_(is_scale + waves(parameter.shape, 1.7 + 0.1 * index) / parameter.shape[-1] ** 0.5)
    return model


def golden_image_values() -> dict[str, torch.Tensor]:
    """Input, loss, logits, hidden states and some gradients of a tiny image model, in float64."""
    model = filled_with_waves(tiny_image_model(num_blocks=4, num_cross_attends=2))
    pixels = 3 * waves((2, 3, 12, 10), 0.9)
    output = model(pixels, labels=torch.tensor([3, 7]), output_hidden_states=True)
    output.loss.backward()
    encoder = model.perceiver.encoder
    return {
        "pixel_values": pixels,
        "loss": output.loss.detach(),
        "logits": output.logits.detach(),
        "hidden_states": torch.stack(output.hidden_states).detach(),
        "gradient.latents": encoder.latents.grad,
        "gradient.first_cross_attend.k_proj": encoder.cross_attends[0].attention.k_proj.weight.grad,
        "gradient.later_cross_attends.inputs_norm": encoder.cross_attends[1].attention.inputs_norm.weight.grad,
        "gradient.block.fc1": encoder.blocks[0][0].mlp.fc1.weight.grad,
    }


def golden_audio_values() -> dict[str, torch.Tensor]:
    """Input, loss, logits and some gradients of tiny audio models, with padding and many labels, in float64."""
    values = {}
    labels = torch.eye(10)[2:4] + torch.eye(10)[5:7]
    for representation, shape in (("waveform", (2, 500)), ("mel", (2, 16, 8))):
        model = filled_with_waves(tiny_audio_model(representation, problem_type="multi_label_classification"))
        inputs, mask = 3 * waves(shape, 0.9), torch.ones(shape[:2])
        mask[1, shape[1] // 2 :] = 0
        output = model(**{model.main_input_name: inputs}, attention_mask=mask, labels=labels)
        output.loss.backward()
        attention = model.perceiver.encoder.cross_attends[1].attention
        values |= {
            f"{representation}.input": inputs,
            f"{representation}.loss": output.loss.detach(),
            f"{representation}.logits": output.logits.detach(),
            f"{representation}.gradient.latents": model.perceiver.encoder.latents.grad,
            f"{representation}.gradient.v_proj": attention.v_proj.weight.grad,
        }
    return values


def golden_point_cloud_values() -> dict[str, torch.Tensor]:
    """Input, mask, loss, logits and some gradients of a tiny model for coloured point clouds, in float64."""
    model = filled_with_waves(tiny_point_cloud_model(num_features=3))
    points = waves((2, 50, 6), 0.9)
    mask = torch.arange(50) < torch.tensor([[50], [31]])
    output = model(points, mask, labels=torch.tensor([3, 7]))
    output.loss.backward()
    encoder = model.perceiver.encoder
    return {
        "point_values": points,
        "attention_mask": mask.long(),
        "loss": output.loss.detach(),
        "logits": output.logits.detach(),
        "gradient.latents": encoder.latents.grad,
        "gradient.later_cross_attends.v_proj": encoder.cross_attends[1].attention.v_proj.weight.grad,
    }


GOLDEN_VALUES = {"image": golden_image_values, "audio": golden_audio_values, "point_cloud": golden_point_cloud_values}


if __name__ == "__main__":
    GOLDEN.mkdir(exist_ok=True)
    for name, make in GOLDEN_VALUES.items():
        values = {key: value.contiguous() for key, value in make().items()}
        save_file(values, GOLDEN / f"{name}.safetensors")
