"""LoRA adapters through PEFT, and what the Trainer does with them."""

import pytest
import torch
from transformers import AutoModelForImageClassification, Trainer, TrainingArguments

from tests.models import tiny_image_model

peft = pytest.importorskip("peft")


class Pictures(torch.utils.data.Dataset):
    def __len__(self):
        return 12

    def __getitem__(self, index):
        generator = torch.Generator().manual_seed(index)
        return {"pixel_values": torch.randn(3, 12, 12, generator=generator), "labels": index % 3}


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
