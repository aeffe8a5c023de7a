"""The table of tasks: which task a model is for, and what modalities and objectives may do beyond today's rows."""

import json

import datasets
import numpy as np
import PIL.Image
import pytest
import torch
import yaml
from transformers import BertConfig, PerceiverConfig, PreTrainedConfig, ViTConfig

from perceivers import (
    AudioPerceiverConfig,
    ImagePerceiverConfig,
    ImagePerceiverImageProcessorPil,
    PointCloudPerceiverConfig,
    PointCloudPerceiverFeatureExtractor,
)
from perceivers.cli.main import main
from perceivers.cli.results import Results
from perceivers.tasks import TASK_NAMES, TASKS, task_for_model, task_named
from perceivers.training.audio import AUDIO, AudioAugmentationArguments
from perceivers.training.classification import CLASSIFICATION, Classification, ClassTargets
from perceivers.training.datasets import load_examples
from perceivers.training.evaluation import Evaluator, report_table
from perceivers.training.examples import ExampleDataset, LeftOut
from perceivers.training.images import IMAGES, ImageAugmentationArguments, ImageModality, ImageTransform
from perceivers.training.point_clouds import POINT_CLOUDS, PointCloudAugmentationArguments
from perceivers_cli import built_in_recipes
from tests.models import tiny_extractor, tiny_image_model


class TestTable:
    def test_names_are_unique_and_found(self):
        assert len(set(TASK_NAMES)) == len(TASKS)
        assert [task_named(name) for name in TASK_NAMES] == list(TASKS)
        with pytest.raises(ValueError, match="no task 'image-generation'; the tasks are image-classification"):
            task_named("image-generation")

    @pytest.mark.parametrize("task", TASKS, ids=lambda task: task.name)
    def test_every_built_in_data_set_has_a_recipe_of_its_task(self, task):
        of_modality = [other.recipes for other in TASKS if other.modality is task.modality]
        assert (
            set(task.recipes) <= set(task.modality.built_in) == {name for recipes in of_modality for name in recipes}
        )
        for recipe in task.recipes.values():
            assert yaml.safe_load(built_in_recipes()[recipe].read_text())["task"] == task.name


def saved(architecture, config_class=ImagePerceiverConfig, **fields):
    return config_class(architectures=architecture and [architecture], **fields)


class TestTaskForModel:
    @pytest.mark.parametrize(
        ("config", "name"),
        [
            (saved("ImagePerceiverForImageClassification"), "image-classification"),
            (saved("AudioPerceiverForAudioClassification", AudioPerceiverConfig), "audio-classification"),
            (
                saved("PointCloudPerceiverForPointCloudClassification", PointCloudPerceiverConfig),
                "point-cloud-classification",
            ),
            (saved("ViTForImageClassification", ViTConfig), "image-classification"),
            (saved("PerceiverForImageClassificationLearned", PerceiverConfig), "image-classification"),
            # A body, a model without a name, and a user's subclass are known by their type.
            (saved("ImagePerceiverModel"), "image-classification"),
            (saved(None, PointCloudPerceiverConfig), "point-cloud-classification"),
            (saved("MyPerceiver"), "image-classification"),
            (saved("MyPerceiverForImageClassification"), "image-classification"),
        ],
    )
    def test_by_architecture_and_then_by_type(self, config, name):
        assert task_for_model("model", config).name == name

    def test_a_models_own_code(self):
        class OwnConfig(PreTrainedConfig):
            model_type = "own"

        config = OwnConfig(architectures=["Owner"], auto_map={"AutoModelForAudioClassification": "modeling.Owner"})
        assert task_for_model("model", config).name == "audio-classification"

    @pytest.mark.parametrize(
        ("config", "message"),
        [
            (
                saved("ImagePerceiverForSemanticSegmentation"),
                "`model` is a `ImagePerceiverForSemanticSegmentation`, which is for none of the tasks image-class",
            ),
            (saved("ViTForMaskedImageModeling", ViTConfig), "is a `ViTForMaskedImageModeling`"),
            (saved("BertForSequenceClassification", BertConfig), "of model type `bert`, which has no model for"),
        ],
    )
    def test_other_heads(self, config, message):
        with pytest.raises(ValueError, match=message):
            task_for_model("model", config)

    @pytest.mark.parametrize("words", [["info"], ["evaluate"], ["predict", "image.png"]])
    def test_commands_refuse_another_head_in_one_line(self, tmp_path, capsys, words):
        model = tmp_path / "model"
        tiny_image_model().save_pretrained(model)
        config = json.loads((model / "config.json").read_text())
        config["architectures"] = ["ImagePerceiverForSemanticSegmentation"]
        (model / "config.json").write_text(json.dumps(config))
        assert main([words[0], str(model), *words[1:]]) == 1
        lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("perceivers: error:")]
        assert len(lines) == 1 and "is a `ImagePerceiverForSemanticSegmentation`" in lines[0]


class TwoImages(ImageModality):
    """A made-up modality of two columns, whose model sees the mean of both images."""

    columns = {"left": datasets.Image(), "right": datasets.Image()}  # noqa: RUF012

    def views(self, batch):
        return {"both": batch, "nothing": {"pixel_values": torch.zeros_like(batch["pixel_values"])}}


class TwoImagesTransform(ImageTransform):
    def process(self, inputs):
        left, right = (super(TwoImagesTransform, self).process([x[side] for x in inputs]) for side in inputs[0])
        return {"pixel_values": (left["pixel_values"] + right["pixel_values"]) / 2}


class TwoImagesArguments(ImageModality.data_arguments):
    left_column_name = None
    right_column_name = "two"


class TestSeveralColumns:
    @pytest.fixture
    def examples(self, tmp_path):
        random = np.random.default_rng(0)
        images = [[random.integers(0, 256, (16, 16, 3), dtype=np.uint8) for _ in range(20)] for _ in range(2)]
        features = {"left": datasets.Image(), "two": datasets.Image(), "label": datasets.ClassLabel(names=["a", "b"])}
        columns = {"left": images[0], "two": images[1], "label": [0, 1] * 10}
        rows = datasets.Dataset.from_dict(columns, features=datasets.Features(features))
        rows.to_parquet(tmp_path / "train.parquet")
        arguments = TwoImagesArguments(dataset_name=str(tmp_path))
        arguments.left_column_name = "left"
        return load_examples(TwoImages(), CLASSIFICATION, arguments, seed=0)

    def test_an_input_is_a_dictionary(self, examples):
        assert set(examples.train.column_names) == {"left", "right", "label"}
        (first,) = TwoImages().inputs(examples.train[:1])
        assert list(first) == ["left", "right"] and first["left"].size == (16, 16)
        transform = TwoImagesTransform(ImagePerceiverImageProcessorPil(size=16, crop_size=16))
        left_out = LeftOut(examples.origins["train"], 0.0)
        dataset = ExampleDataset(examples.train, left_out, TwoImages(), CLASSIFICATION, examples.targets, transform)
        batch = dataset.__getitems__([0, 1, 2])
        assert [example["pixel_values"].shape for example in batch] == [(3, 16, 16)] * 3
        assert [example["labels"] for example in batch] == examples.train["label"][:3]

    def test_evaluation_under_named_views(self, examples):
        transform = TwoImagesTransform(ImagePerceiverImageProcessorPil(size=16, crop_size=16))
        model = tiny_image_model(num_labels=2)
        dataset = examples.train
        results = Evaluator(model, TwoImages(), CLASSIFICATION, examples.targets, dataset, transform, 5).evaluate()
        assert list(results["views"]) == ["both", "nothing"]
        assert results["accuracy"] == results["views"]["both"]["accuracy"]
        with torch.no_grad():
            logits = model(pixel_values=torch.zeros(1, 3, 16, 16)).logits[0]
        answer = logits.argmax().item()
        expected = np.mean([label == answer for label in dataset["label"]])
        assert results["views"]["nothing"]["accuracy"] == pytest.approx(expected)
        text = report_table(CLASSIFICATION, results, examples.targets)
        assert "accuracy on 16 examples (both): " in text and "(nothing): " in text

    def test_one_view_is_not_named(self):
        images = [PIL.Image.new("RGB", (16, 16), color) for color in ("red", "blue")]
        features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["a", "b"])})
        dataset = datasets.Dataset.from_dict({"image": images, "label": [0, 1]}, features=features)
        transform = IMAGES.eval_transform(ImagePerceiverImageProcessorPil(size=16, crop_size=16))
        targets = ClassTargets(["a", "b"])
        results = Evaluator(
            tiny_image_model(num_labels=2), IMAGES, CLASSIFICATION, targets, dataset, transform
        ).evaluate()
        assert "views" not in results
        assert report_table(CLASSIFICATION, results, targets).splitlines()[-1].startswith("accuracy on 2 examples: ")


class TestSpatialTargets:
    @pytest.mark.parametrize(
        ("flags", "name"),
        [({"horizontal_flip": 0.5}, "horizontal_flip"), ({"rotation": 5.0}, "rotation"), ({"mixup": 0.1}, "mixup")],
    )
    def test_images_are_not_moved_without_their_targets(self, flags, name):
        augmentation, processor = ImageAugmentationArguments(**flags), ImagePerceiverImageProcessorPil()
        with pytest.raises(ValueError, match=f"`--{name}` would change the images without their targets"):
            IMAGES.train_transform(processor, augmentation, ImagePerceiverConfig(), is_spatial=True)
        with pytest.raises(ValueError, match=f"`--{name}` would change the images without their targets"):
            IMAGES.batch_transform(processor, augmentation, 2, 10, is_spatial=True)

    def test_what_does_not_move_is_allowed(self):
        processor = ImagePerceiverImageProcessorPil()
        transform = IMAGES.train_transform(
            processor, ImageAugmentationArguments(), ImagePerceiverConfig(), is_spatial=True
        )
        assert not transform.is_random
        extractor = tiny_extractor("waveform")
        transform = AUDIO.train_transform(
            extractor, AudioAugmentationArguments(level=3.0), AudioPerceiverConfig(), is_spatial=True
        )
        assert transform.is_random

    def test_recordings_and_clouds(self):
        extractor = tiny_extractor("waveform")
        crop = AudioAugmentationArguments(time_crop=True)
        with pytest.raises(ValueError, match="`--time_crop` would move the recordings"):
            AUDIO.train_transform(extractor, crop, AudioPerceiverConfig(), is_spatial=True)
        subset = PointCloudAugmentationArguments(subset=5)
        with pytest.raises(ValueError, match="`--subset` would choose the points"):
            POINT_CLOUDS.batch_transform(PointCloudPerceiverFeatureExtractor(), subset, 2, 10, is_spatial=True)


class TestObjective:
    def test_a_metric_says_which_direction_is_better(self, tmp_path, monkeypatch, one_thread):
        monkeypatch.setattr(Classification, "greater_is_better", lambda self, key: key != "accuracy")
        seen = []
        monkeypatch.setattr(
            "perceivers.cli.train.train", lambda trainer, *others: seen.append(trainer.args) or {"train_loss": 1.0}
        )
        monkeypatch.setattr("perceivers.cli.train.finish", lambda *arguments: Results({"eval_accuracy": 0.5}, (0, 0)))
        quick = ["digits", "--max_train_samples", "32", "--max_eval_samples", "16", "--disable_tqdm", "true"]
        words = [*quick, "--metric_for_best_model", "accuracy"]
        for index, extra in enumerate(([], ["--greater_is_better", "true"])):
            assert main(["train", *words, *extra, "--output_dir", str(tmp_path / str(index))]) == 0
        assert [args.greater_is_better for args in seen] == [False, True]

    def test_predictions_are_written_to_files(self, tmp_path, capsys):
        tiny_image_model().save_pretrained(tmp_path / "model")
        ImagePerceiverImageProcessorPil(size=16, crop_size=16).save_pretrained(tmp_path / "model")
        for folder in ("a", "b"):
            (tmp_path / folder).mkdir()
            PIL.Image.new("RGB", (16, 16), "red").save(tmp_path / folder / "red.png")
        (tmp_path / "b" / "broken.png").write_text("no image")
        words = [str(tmp_path / "a"), str(tmp_path / "b"), "--top_k", "2", "--json"]
        assert main(["predict", str(tmp_path / "model"), *words, "--output_dir", str(tmp_path / "out")]) == 1
        answers = [answer for answer in json.loads(capsys.readouterr().out) if "error" not in answer]
        files = sorted((tmp_path / "out").iterdir())
        assert [file.name for file in files] == ["red-2.json", "red.json"]
        assert [json.loads(file.read_text()) for file in files] == [answer["predictions"] for answer in answers]

    def test_sampling_by_class_is_for_classes(self):
        class Other(Classification):
            sample_weights = Classification.__base__.sample_weights

        with pytest.raises(ValueError, match="`--class_balanced_sampling` is for classification"):
            Other().sample_weights(None, None)
