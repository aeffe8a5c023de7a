"""Examples that are read when they are needed: those that cannot be read, and draws that depend on nothing else."""

import io
from types import SimpleNamespace

import datasets
import numpy as np
import psutil
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from perceivers import ImagePerceiverImageProcessorPil
from perceivers.training.classification import CLASSIFICATION, ClassTargets
from perceivers.training.evaluation import Evaluator
from perceivers.training.examples import (
    LEFT_OUT,
    ExampleCollator,
    ExampleDataset,
    LeftOut,
    Origin,
    ReplacingExampleDataset,
    UnreadableError,
    seeded,
)
from perceivers.training.images import IMAGES, ImageAugmentationArguments, ImageTransform, make_image_augmentation
from tests.models import tiny_image_model

BROKEN = (2, 3, 9)
TARGETS = ClassTargets(["a", "b"])
PROCESSOR = ImagePerceiverImageProcessorPil(size=16, crop_size=18)


def encode(pixels):
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "png")
    return file.getvalue()


def rows(broken=BROKEN, number=10):
    random = np.random.default_rng(0)
    images = [encode(random.integers(0, 256, (16, 16, 3), dtype=np.uint8)) for _ in range(number)]
    values = [
        {"bytes": image[:50] if index in broken else image, "path": f"{index}.png"}
        for index, image in enumerate(images)
    ]
    features = {"image": datasets.Image(), "label": datasets.ClassLabel(names=["a", "b"])}
    return datasets.Dataset.from_dict(
        {"image": values, "label": [0, 1] * (number // 2)}, features=datasets.Features(features)
    )


def make(kind=ExampleDataset, share=0.3, augmentation=None, broken=BROKEN):
    origin = Origin("train", np.arange(100, 110))
    transform = ImageTransform(PROCESSOR, augmentation)
    return kind(rows(broken), LeftOut(origin, share), IMAGES, CLASSIFICATION, TARGETS, transform, seed=5)


def random_crop():
    return make_image_augmentation(ImageAugmentationArguments(random_resized_crop=0.2, horizontal_flip=0.5), 16, 16)


def pixels(examples):
    return torch.stack([example["pixel_values"] for example in examples])


class TestUnreadable:
    def test_they_are_taken_off_the_batch(self):
        examples = make()
        batch = ExampleCollator(None)(examples.__getitems__([0, 2, 4, 9]))
        assert batch["labels"].tolist() == [0, 0]
        assert torch.equal(batch["pixel_values"], pixels([examples[0], examples[4]]))
        assert [(example.number, example.name) for example in batch[LEFT_OUT]] == [(2, "2.png"), (9, "9.png")]
        assert ExampleCollator(None)(examples.__getitems__([2, 3])).keys() == {LEFT_OUT}

    @pytest.mark.parametrize("num_workers", [0, 1])
    def test_they_are_replaced_by_the_next(self, num_workers):
        examples = make(ReplacingExampleDataset)
        loader = DataLoader(examples, 5, collate_fn=ExampleCollator(None), num_workers=num_workers)
        batches = list(loader)
        assert [batch["labels"].tolist() for batch in batches] == [[0, 1, 0, 0, 0], [1, 0, 1, 0, 0]]
        assert torch.equal(batches[0]["pixel_values"], pixels([examples[row] for row in (0, 1, 4, 4, 4)]))
        assert [{example.number for example in batch[LEFT_OUT]} for batch in batches] == [{2, 3}, {9}]

    def test_they_are_named_once(self, capsys):
        left_out = make().left_out
        found = [make()[number] for number in (9, 2, 9)]
        left_out.add(found)
        left_out.add(found)
        lines = capsys.readouterr().err.splitlines()
        assert len(left_out) == len(lines) == 2
        assert lines[0].startswith("perceivers: warning: left out train[109] (9.png): ")
        assert all("BytesIO" not in line for line in lines)

    @pytest.mark.parametrize(
        ("share", "number", "limit"), [(0.0, 10, 0), (0.01, 10, 1), (0.1, 10, 1), (0.11, 10, 2), (1.0, 10, 9)]
    )
    def test_there_is_a_limit(self, share, number, limit):
        assert LeftOut(Origin("train", np.arange(number)), share).limit == limit

    def test_too_many(self):
        left_out = make(share=0.2).left_out
        left_out.add([make()[2], make()[3]])
        message = (
            r"The split train has 10 examples, of which 3 cannot be read; `--max_unreadable 0.2` allows 2. .*\[102\]"
        )
        with pytest.raises(UnreadableError, match=message):
            left_out.add([make()[9]])

    def test_replacing_ends_where_all_are_broken(self):
        examples = make(ReplacingExampleDataset, broken=range(10))
        batch = ExampleCollator(None)(examples.__getitems__([0, 1]))
        with pytest.raises(UnreadableError):
            examples.left_out.add(batch[LEFT_OUT])

    @pytest.mark.parametrize("num_workers", [0, 1])
    def test_in_memory(self, num_workers, monkeypatch):
        examples, kept = make(broken=(0, 9)), make(broken=(0, 9))
        kept.keep_in_memory()
        loader = DataLoader(kept, 4, collate_fn=ExampleCollator(None), num_workers=num_workers)
        for _ in range(2):
            batches = list(loader)
            assert [batch["labels"].tolist() for batch in batches] == [[1, 0, 1], [0, 1, 0, 1], [0]]
            together = torch.cat([batch["pixel_values"] for batch in batches])
            assert torch.equal(together, pixels([examples[row] for row in range(1, 9)]))
            assert [[example.number for example in batch.get(LEFT_OUT, [])] for batch in batches] == [[0], [], [9]]
        monkeypatch.setattr(ImageTransform, "process", None)  # nothing is processed again
        assert torch.equal(kept[3]["pixel_values"], batches[0]["pixel_values"][2])

    @pytest.mark.parametrize("num_workers", [0, 1])
    def test_the_first_are_kept_if_not_all_fit(self, num_workers, monkeypatch, capsys):
        examples, kept = make(broken=(0, 9)), make(broken=(0, 9))
        size = sum(torch.as_tensor(value).nbytes for value in examples[1].values())
        monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=2 * 4 * size))
        kept.keep_in_memory()
        assert "has room for 4 of 10 images" in capsys.readouterr().err
        loader = DataLoader(kept, 4, collate_fn=ExampleCollator(None), num_workers=num_workers)
        for _ in range(2):
            together = torch.cat([batch["pixel_values"] for batch in loader])
            assert torch.equal(together, pixels([examples[row] for row in range(1, 9)]))
        numbers = []
        monkeypatch.setattr(ImageTransform, "process", lambda self, inputs: numbers.append(len(inputs)) or {})
        kept.__getitems__([1, 2, 3])
        assert numbers == []

    def test_what_is_kept_in_memory_is_read_once(self, monkeypatch):
        numbers, process = [], ImageTransform.process
        monkeypatch.setattr(
            ImageTransform, "process", lambda self, inputs: numbers.append(len(inputs)) or process(self, inputs)
        )
        examples = make(broken=())
        examples.keep_in_memory()
        examples.__getitems__([3, 4])
        examples.__getitems__(range(10))
        assert numbers == [1, 2, 7]

    def test_evaluation_leaves_them_out(self):
        model, transform = tiny_image_model(num_labels=2), ImageTransform(PROCESSOR)
        arguments = (model, IMAGES, CLASSIFICATION, TARGETS)
        readable = rows().select([row for row in range(10) if row not in BROKEN])
        expected = Evaluator(*arguments, readable, transform, batch_size=4).evaluate()
        left_out = make().left_out
        assert Evaluator(*arguments, rows(), transform, batch_size=4, left_out=left_out).evaluate() == expected
        assert expected["examples"] == 7 and len(left_out) == 3
        with pytest.raises(UnreadableError, match=r"validation\[2\] \(2.png\)"):
            Evaluator(*arguments, rows(), transform).evaluate()


class TestDraws:
    def test_they_depend_on_seed_epoch_and_example(self):
        examples = make(augmentation=random_crop(), broken=())
        first = pixels(examples.__getitems__(range(10)))
        torch.manual_seed(1)
        alone = pixels([examples[row] for row in reversed(range(10))]).flip(0)
        assert torch.equal(first, alone)
        assert not torch.equal(first[4], examples[14]["pixel_values"])  # drawn again
        assert examples[14]["labels"] == examples[4]["labels"]
        examples.set_epoch(1)
        second = pixels(examples.__getitems__(range(10)))
        assert not torch.equal(first, second)
        examples.set_epoch(0)
        assert torch.equal(first, pixels(examples.__getitems__(range(10))))
        examples.seed = 6
        assert not torch.equal(first, pixels(examples.__getitems__(range(10))))

    def test_workers_that_stay_see_the_epoch(self):
        examples = make(augmentation=random_crop(), broken=())
        loader = DataLoader(examples, 10, collate_fn=ExampleCollator(None), num_workers=1, persistent_workers=True)
        for epoch in range(2):
            examples.set_epoch(epoch)
            (batch,) = loader
            assert torch.equal(batch["pixel_values"], pixels(examples.__getitems__(range(10))))

    def test_other_draws_are_not_touched(self):
        torch.manual_seed(3)
        expected = torch.rand(4)
        torch.manual_seed(3)
        first = torch.rand(2)
        with seeded(1, 2, 3):
            torch.rand(7)
        assert torch.equal(torch.cat([first, torch.rand(2)]), expected)

    def test_what_is_random_is_not_kept(self):
        examples = make(augmentation=random_crop(), broken=())
        examples.keep_in_memory()
        first = examples[0]["pixel_values"]
        examples.set_epoch(3)
        assert not torch.equal(first, examples[0]["pixel_values"])
