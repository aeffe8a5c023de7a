"""Accumulated gradients are those of one large batch, also where batches differ in size."""

import numpy as np
import pytest
import torch
from datasets import Dataset, Features, Image, Value
from torch.nn import functional as F

from perceivers import ImagePerceiverImageProcessorPil
from perceivers.training.arguments import PerceiverTrainingArguments
from perceivers.training.classification import CLASSIFICATION, ClassTargets, SmoothedCrossEntropy
from perceivers.training.examples import ExampleDataset, LeftOut, Origin
from perceivers.training.images import IMAGES, ImageAugmentationArguments, ImageTransform, make_mixup
from perceivers.training.trainer import PerceiverTrainer
from tests.models import tiny_image_model


def images(count):
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (count, 16, 16, 3), generator=generator, dtype=torch.uint8)
    features = Features({"image": Image(), "label": Value("int64")})
    return Dataset.from_dict({"image": list(pixels.numpy()), "label": [i % 10 for i in range(count)]}, features)


def step(tmp_path, batch_size, accumulation, **changes):
    """The model after one optimiser step of plain SGD on 7 images, the same in every call."""
    dataset = images(7)
    processor = ImagePerceiverImageProcessorPil(do_resize=False, do_center_crop=False)
    targets = ClassTargets([str(label) for label in range(10)])
    left_out = LeftOut(Origin("train", np.arange(len(dataset))), largest_share=0.0)
    dataset = ExampleDataset(dataset, left_out, IMAGES, CLASSIFICATION, targets, ImageTransform(processor))
    arguments = PerceiverTrainingArguments(
        output_dir=str(tmp_path),
        per_device_train_batch_size=batch_size,
        gradient_accumulation_steps=accumulation,
        max_steps=1,
        optim="sgd",
        learning_rate=1.0,
        lr_scheduler_type="constant",
        max_grad_norm=0.0,
        use_cpu=True,
        report_to="none",
        disable_tqdm=True,
        save_strategy="no",
        **changes,
    )
    model = tiny_image_model()
    trainer = PerceiverTrainer(
        model,
        arguments,
        processor,
        train_dataset=dataset,
        eval_dataset=dataset,
        objective=CLASSIFICATION,
        targets=targets,
    )
    trainer.train()
    return dict(model.named_parameters())


@pytest.mark.integration
@pytest.mark.parametrize("label_smoothing", [0.0, 0.1])
def test_gradient_accumulation(tmp_path, label_smoothing):
    whole = step(tmp_path, 7, 1, label_smoothing_factor=label_smoothing)
    parts = step(tmp_path, 3, 3, label_smoothing_factor=label_smoothing)  # batches of 3, 3 and 1
    start = dict(tiny_image_model().named_parameters())
    moved = max((whole[name] - start[name]).abs().max().item() for name in whole)
    assert moved > 1e-2
    for name in whole:
        torch.testing.assert_close(parts[name], whole[name], atol=1e-5, rtol=1e-4)


def test_loss_of_labels_and_of_probabilities():
    logits, labels = torch.randn(6, 10), torch.arange(6)
    loss = SmoothedCrossEntropy(0.1)
    expected = F.cross_entropy(logits, labels, label_smoothing=0.1)
    one_hot = F.one_hot(labels, 10).float()
    torch.testing.assert_close(loss({"logits": logits}, labels), expected)
    torch.testing.assert_close(loss({"logits": logits}, one_hot), expected)
    torch.testing.assert_close(loss({"logits": logits}, one_hot, num_items_in_batch=12), expected / 2)


@pytest.mark.integration
def test_mixup_mixes_images_as_it_mixes_labels():
    torch.manual_seed(0)
    mixup = make_mixup(ImageAugmentationArguments(mixup=1.0), batch_size=4, num_labels=3)
    pixels = torch.arange(3.0).repeat_interleave(2)[:4].reshape(4, 1, 1, 1).expand(4, 1, 2, 2)
    labels = torch.tensor([0, 0, 1, 1])  # an image's pixels are its label
    mixed, probabilities = mixup(pixels.clone(), labels)
    torch.testing.assert_close(mixed.mean(dim=(1, 2, 3)), probabilities[:, 1])
    assert 0 < probabilities[0, 1] < 1
