"""`perceivers info`: its numbers against the model's own and the paper's, and what it refuses."""

import argparse
import json

import pytest
import torch
from transformers import ViTConfig

from perceivers import IMAGE_VARIANTS, ImagePerceiverConfig
from perceivers.cli.info import (
    add_arguments,
    count_parameters,
    describe,
    format_bytes,
    format_description,
    load_config,
    parse_image_size,
    run,
)
from tests.models import tiny_image_model


def info(*arguments) -> int:
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    return run(parser.parse_args([str(argument) for argument in arguments]))


def info_json(capsys, *arguments) -> dict:
    assert info(*arguments, "--json") == 0
    return json.loads(capsys.readouterr().out)


@pytest.mark.parametrize(
    ("variant", "parameters"),
    [
        # arXiv 2103.03206, tables 5 to 7: 44.9, 42.1, 326.2, 12.7, 23.8 and 34.9 million.
        ("imagenet-fourier", 44_912_254),
        ("imagenet-fourier-1-cross-attend", 42_135_859),
        ("imagenet-fourier-unshared", 326_241_856),
        ("imagenet-4-cross-attends-only", 12_654_868),
        ("imagenet-8-cross-attends-only", 23_760_448),
        ("imagenet-12-cross-attends-only", 34_866_028),
    ],
)
def test_papers_parameters(variant, parameters):
    counts = count_parameters(ImagePerceiverConfig.from_variant(variant))
    assert counts.pop("total") == parameters == sum(counts.values())
    assert counts["latents"] == 512 * 1024 and counts["head"] == 1024 * 1000 + 1000


def test_json_of_the_papers_model(capsys):
    description = info_json(capsys, "imagenet-fourier")
    assert description["name"] == "imagenet-fourier" and description["model_type"] == "image_perceiver"
    assert description["inputs"] == {
        "grid": [224, 224],
        "number": 50176,
        "channels": 261,
        "content_channels": 3,
        "position_channels": 258,
    }
    assert description["latents"] == {"number": 512, "channels": 1024}
    assert description["layers"]["total"] == 56
    assert f"{description['flops']['total'] / 1e9:.1f}" == "707.2"
    assert description["memory"]["weights"] == {"float32": 4 * 44_912_254, "bfloat16": 2 * 44_912_254}


def test_text_of_the_papers_model(capsys):
    assert info("imagenet-fourier", "--batch_size", "8") == 0
    text = capsys.readouterr().out
    for part in (
        "imagenet-fourier (image_perceiver)",
        "50,176 x 261",
        "512 x 1,024",
        "8 x (1 cross-attend, 1 block of 6 self-attends)",
        "the first cross-attend has its own weights, the others share one set",
        "44,912,254  44.91 million",
        "707,197,648,896  707.20 billion",
        "5,657,581,191,168  5657.58 billion",
        "171.3 / 85.7 MiB",
        "estimate",
    ):
        assert part in text
    rows = [line for line in text.splitlines()[2:] if line]
    column = rows[0].index("50,176 x 261") + len("50,176 x 261")
    assert all(row[column - 1] != " " and row[column : column + 2].strip() == "" for row in rows if row[0] != " ")


def test_several_streams_have_a_line_each():
    description = {"name": "two", **describe(ImagePerceiverConfig.from_variant("tiny"))}
    streams = [
        {"grid": [4, 6], "number": 24, "content_channels": 3, "position_channels": 8},
        {"grid": [9], "number": 9, "content_channels": 5, "position_channels": 2},
    ]
    description["inputs"] = {"number": 33, "channels": 11, "streams": streams}
    lines = [" ".join(line.split()) for line in format_description(description).splitlines()]
    assert "inputs 33 x 11 a grid of 4 x 6; 3 channels of content and 8 of position" in lines
    assert "5 channels of content and 2 of position" in lines


@pytest.mark.parametrize("variant", IMAGE_VARIANTS)
def test_every_variant_has_a_text(variant):
    text = format_description({"name": variant, **describe(ImagePerceiverConfig.from_variant(variant))})
    assert "\n\n\n" not in text and all(line == line.rstrip() for line in text.splitlines())


def test_image_size_and_batch_size_change_costs_and_no_parameters(capsys):
    one = info_json(capsys, "tiny", "--image_size", "16x24")
    assert one["inputs"]["grid"] == [16, 24] and one["inputs"]["number"] == 384
    small = info_json(capsys, "tiny")
    assert one["parameters"] == small["parameters"]
    assert one["flops"]["cross_attends"] > small["flops"]["cross_attends"]
    assert one["flops"]["blocks"] == small["flops"]["blocks"]

    batch = info_json(capsys, "tiny", "--image_size", "16x24", "--batch_size", 3)
    assert batch["flops"]["total"] == one["flops"]["total"] and batch["flops"]["batch"] == 3 * one["flops"]["total"]
    assert batch["memory"]["weights"] == one["memory"]["weights"]
    for name in ("estimated_activations_inference", "estimated_activations_training"):
        assert batch["memory"][name]["float32"] == 3 * one["memory"][name]["float32"]


def test_saved_model_is_read_without_its_weights(capsys, tmp_path):
    model = tiny_image_model(num_labels=7)
    model.save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    description = info_json(capsys, tmp_path)
    assert description["name"] == str(tmp_path)
    assert description["parameters"]["total"] == model.num_parameters()
    assert description["parameters"]["head"] == 7 * 33


def test_saved_body_has_no_head(capsys, tmp_path):
    body = tiny_image_model().perceiver
    body.save_pretrained(tmp_path)
    description = info_json(capsys, tmp_path)
    assert description["parameters"]["total"] == body.num_parameters()
    assert description["parameters"]["head"] == description["flops"]["head"] == 0


def test_a_saved_model_goes_before_a_variant_of_its_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert load_config("tiny").num_latents == 8
    (tmp_path / "tiny").mkdir()
    assert load_config("tiny").num_latents == 8
    ImagePerceiverConfig.from_variant("tiny", num_latents=5).save_pretrained("tiny")
    assert load_config("tiny").num_latents == 5


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"num_latents": 256, "image_size": 24},
        {"num_blocks": 4, "num_cross_attends": 4, "share_cross_attends": "none"},
        {"self_attention_widening_factor": 4, "cross_attention_widening_factor": 2, "share_cross_attends": "all"},
    ],
)
def test_estimate_for_training_is_near_what_autograd_keeps(changes):
    changes = {"image_size": 48, "num_latents": 64, "d_latents": 128, **changes}
    model = tiny_image_model(cross_attention_implementation="dense", **changes)
    parameters = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    kept = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in parameters:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    size = model.config.image_size
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        logits = model(torch.randn(1, 3, size, size)).logits
    estimate = describe(model.config)["memory"]["estimated_activations_training"]["float32"]
    assert logits.requires_grad
    assert estimate == pytest.approx(sum(kept.values()), rel=0.05)


def test_estimate_for_inference_at_the_papers_size():
    """Inputs, their norm, keys and values, each 50,176 x 261, and the latents with their norm."""
    estimate = describe(ImagePerceiverConfig())["memory"]["estimated_activations_inference"]
    assert estimate["float32"] == 4 * (4 * 50176 * 261 + 2 * 512 * 1024) == 2 * estimate["bfloat16"]


@pytest.mark.parametrize(("text", "size"), [("224", (224, 224)), ("224x320", (224, 320)), ("1X2", (1, 2))])
def test_image_size(text, size):
    assert parse_image_size(text) == size


@pytest.mark.parametrize("text", ["", "0", "-1", "224x", "1x2x3", "2.5", "a", "²"])
def test_image_size_that_is_none(text):
    with pytest.raises(argparse.ArgumentTypeError, match="expected N or HxW"):
        parse_image_size(text)


@pytest.mark.parametrize(
    ("sizes", "text"),
    [((0, 0), "0.0 / 0.0 B"), ((1023, 512), "1,023.0 / 512.0 B"), ((2**21, 2**20), "2.0 / 1.0 MiB")],
)
def test_bytes(sizes, text):
    assert format_bytes(dict(zip(("float32", "bfloat16"), sizes, strict=True))) == text


class TestRefusals:
    @pytest.mark.parametrize("name", ["imagenet-fouier", "./missing", "a/b/c"])
    def test_unknown_name(self, name):
        with pytest.raises(ValueError, match="is neither a folder with a model nor reachable on the Hub") as error:
            info(name)
        message = str(error.value)
        assert f"`{name}`" in message and "\n" not in message
        assert all(variant in message for variant in IMAGE_VARIANTS)

    def test_hub_out_of_reach(self, monkeypatch):
        def fail(name):
            raise OSError("We couldn't connect.\nCheck your connection.")

        monkeypatch.setattr("transformers.PreTrainedConfig.get_config_dict", fail)
        with pytest.raises(ValueError, match=r"The Hub: We couldn't connect\. Check your connection\.$"):
            info("owner/model")

    def test_folder_without_a_model(self, tmp_path):
        with pytest.raises(ValueError, match=r"has no config\.json, so there is no model in it"):
            info(tmp_path)

    def test_model_of_another_type(self, tmp_path):
        ViTConfig().save_pretrained(tmp_path)
        with pytest.raises(ValueError, match="is of model type `vit`, which is no Perceiver of this package"):
            info(tmp_path)

    def test_batch_size(self):
        with pytest.raises(ValueError, match="`--batch_size` must be at least 1, got 0"):
            info("tiny", "--batch_size", 0)
