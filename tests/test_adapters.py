"""LoRA adapters through PEFT, and what the Trainer does with them."""

import pytest
import torch
from transformers import AutoModelForImageClassification, Trainer, TrainingArguments

from tests.models import tiny_audio_model, tiny_image_model, tiny_point_cloud_model

peft = pytest.importorskip("peft")


class Pictures(torch.utils.data.Dataset):
    def __len__(self):
        return 12

    def __getitem__(self, index):
        generator = torch.Generator().manual_seed(index)
        return {"pixel_values": torch.randn(3, 12, 12, generator=generator), "labels": index % 3}


@pytest.mark.integration
@pytest.mark.parametrize("checkpointing", [False, True])
def test_lora_trains_only_the_adapter_and_the_classifier(tmp_path, checkpointing):
    model = tiny_image_model(num_labels=3)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    lora = peft.LoraConfig(r=4, target_modules=["q_proj", "v_proj"], modules_to_save=["classifier"])
    adapted = peft.get_peft_model(model, lora)
    arguments = TrainingArguments(
        str(tmp_path / "run"),
        max_steps=4,
        per_device_train_batch_size=6,
        learning_rate=1e-2,
        report_to="none",
        use_cpu=True,
        disable_tqdm=True,
        save_strategy="no",
        **({"gradient_checkpointing": True} if checkpointing else {}),
    )
    Trainer(adapted, arguments, train_dataset=Pictures()).train()
    adapted.save_pretrained(tmp_path / "adapter")

    for name, parameter in adapted.named_parameters():
        original = name.removeprefix("base_model.model.").replace(".base_layer", "").replace(".original_module", "")
        if original in before:
            assert torch.equal(parameter, before[original]), name
    model = tiny_image_model(num_labels=3)
    restored = peft.PeftModel.from_pretrained(model, tmp_path / "adapter").eval()
    pixels = torch.randn(2, 3, 12, 12)
    with torch.no_grad():
        expected = adapted.eval()(pixel_values=pixels).logits
        assert torch.equal(restored(pixel_values=pixels).logits, expected)
        assert not torch.allclose(expected, tiny_image_model(num_labels=3)(pixels).logits)
        merged = restored.merge_and_unload()
        torch.testing.assert_close(merged(pixel_values=pixels).logits, expected, atol=1e-4, rtol=1e-4)
    merged.save_pretrained(tmp_path / "merged")
    loaded = AutoModelForImageClassification.from_pretrained(tmp_path / "merged")
    torch.testing.assert_close(loaded(pixels).logits, expected, atol=1e-4, rtol=1e-4)


def learned(**changes):
    return tiny_image_model(position_encoding="learned", learned_position_channels=6, **changes)


MODELS = {
    "pixels": (tiny_image_model, {"pixel_values": torch.randn(2, 3, 16, 16)}),
    "conv1x1": (lambda: learned(stem="conv1x1", stem_channels=5), {"pixel_values": torch.randn(2, 3, 16, 16)}),
    "conv": (lambda: tiny_image_model(stem="conv", stem_channels=5), {"pixel_values": torch.randn(2, 3, 16, 16)}),
    "waveform": (lambda: tiny_audio_model("waveform"), {"input_values": torch.randn(2, 512)}),
    "mel": (lambda: tiny_audio_model("mel"), {"input_features": torch.randn(2, 16, 8)}),
    "points": (tiny_point_cloud_model, {"point_values": torch.rand(2, 100, 3)}),
}


@pytest.mark.parametrize("name", MODELS)
def test_lora_with_checkpointing_of_a_model_whose_inputs_require_grads(name):
    """What PEFT does for quantised and checkpointed models: the same gradients as without checkpointing."""
    make, inputs = MODELS[name]
    gradients = []
    for checkpointing in (False, True):
        torch.manual_seed(0)
        adapted = peft.get_peft_model(make(), peft.LoraConfig(r=2, target_modules=["q_proj", "v_proj"]))
        if checkpointing:
            adapted.enable_input_require_grads()
            adapted.gradient_checkpointing_enable()
        adapted.train()(**inputs).logits.square().sum().backward()
        gradients.append({n: p.grad.clone() for n, p in adapted.named_parameters() if p.requires_grad})
    assert gradients[0] and all(gradient is not None for gradient in gradients[0].values())
    torch.testing.assert_close(*gradients)


@pytest.mark.parametrize("name", MODELS)
def test_input_embeddings(name):
    """The convolution that embeds the pixels, or else the module whose output is the first hidden state."""
    make, inputs = MODELS[name]
    model, seen = make(), []
    embeddings = model.get_input_embeddings()
    assert embeddings is model.base_model.get_input_embeddings()
    assert isinstance(embeddings, torch.nn.Conv2d) == (name in ("conv1x1", "conv"))
    embeddings.register_forward_hook(lambda module, arguments, output: seen.append(output))
    with torch.no_grad():
        hidden_states = model(**inputs, output_hidden_states=True).hidden_states
    assert len(seen) == 1
    if not isinstance(embeddings, torch.nn.Conv2d):
        assert torch.equal(seen[0], hidden_states[0])
    other = type(embeddings)(3, 5, 1) if isinstance(embeddings, torch.nn.Conv2d) else type(embeddings)()
    model.set_input_embeddings(other)
    assert model.get_input_embeddings() is model.base_model.get_input_embeddings() is other
