"""Names decide, positions never: heads to fine-tune, labels that do not fit them, equal names, splits to join."""

import json

import datasets
import numpy as np
import pytest
import torch
from datasets import ClassLabel
from safetensors.torch import load_file
from scipy.io import wavfile
from transformers import (
    AutoConfig,
    AutoModelForImageClassification,
    PerceiverConfig,
    PerceiverForImageClassificationConvProcessing,
    PerceiverImageProcessor,
)

from perceivers import ImagePerceiverForImageClassification, PointCloudPerceiverFeatureExtractor
from perceivers.training.heads import label_axes, load_for_classes, matching_rows, names_of
from tests.models import MODELS, randomize, tiny_audio_model, tiny_extractor, tiny_point_cloud_model
from tests.runs import edit_config, edit_weights, run, save_images, save_model, the_line, train

pytestmark = pytest.mark.integration


def labelled(names):
    labels = dict(enumerate(names))
    return {"id2label": labels, "label2id": {name: index for index, name in labels.items()}}


def fine_tune(folder, model, *words):
    """One step with a learning rate of 0, and the weights before and after it."""
    words = [*words, "--model_name_or_path", model, "--max_steps", 1, "--learning_rate", 0, "--use_cpu"]
    code = run("train", "--output_dir", folder / "out", *words, "--report_to", "none", "--disable_tqdm", "true")
    return code, load_file(model / "model.safetensors"), load_file(folder / "out/model.safetensors")


def save_clips(folder, number=4):
    folder.mkdir(parents=True)
    for index in range(number):
        wavfile.write(folder / f"{index}.wav", 8000, np.sin(np.arange(512) * (index + 1) / 9).astype(np.float32))


def save_clouds(folder, number=4):
    folder.mkdir(parents=True)
    for index in range(number):
        np.save(folder / f"{index}.npy", np.random.default_rng(index).normal(size=(20, 3)))


def save_image_model(folder, names):
    save_model(folder, names)


def save_audio_model(folder, names):
    tiny_audio_model("waveform", num_labels=len(names), **labelled(names)).save_pretrained(folder)
    tiny_extractor("waveform").save_pretrained(folder)


def save_point_cloud_model(folder, names):
    tiny_point_cloud_model(num_labels=len(names), **labelled(names)).save_pretrained(folder)
    PointCloudPerceiverFeatureExtractor(num_points=16).save_pretrained(folder)


def save_their_model(folder, names):
    config = PerceiverConfig(
        num_latents=4,
        d_latents=16,
        num_blocks=1,
        num_self_attends_per_block=1,
        num_self_attention_heads=2,
        num_cross_attention_heads=1,
        **labelled(names),
    )
    randomize(PerceiverForImageClassificationConvProcessing(config)).save_pretrained(folder)
    PerceiverImageProcessor(size={"height": 32, "width": 32}, do_center_crop=False).save_pretrained(folder)


@pytest.mark.parametrize(
    ("task", "save", "make"),
    [
        ("image", save_image_model, save_images),
        ("image", save_their_model, save_images),
        ("audio", save_audio_model, save_clips),
        ("point-cloud", save_point_cloud_model, save_clouds),
    ],
)
def test_rows_of_a_head_go_with_their_names(tmp_path, capsys, task, save, make):
    save(tmp_path / "model", ["owl", "light", "cat"])
    for name in ("dark", "light", "owl"):
        make(tmp_path / "data" / name)
    words = ["--task", f"{task}-classification", "--train_dir", tmp_path / "data"]
    code, before, after = fine_tune(tmp_path, tmp_path / "model", *words)
    assert code == 0
    if save is save_their_model:  # which is trained in our layout
        before = dict(ImagePerceiverForImageClassification.from_pretrained(tmp_path / "model").state_dict())
    for part in ("weight", "bias"):
        old, new = before.pop(f"classifier.{part}"), after.pop(f"classifier.{part}")
        assert torch.equal(new[1:], old[[1, 0]])  # light and owl
        assert not any(torch.equal(new[0], row) for row in old)
    assert before.keys() == after.keys()
    changed = [key for key in before if not torch.equal(before[key], after[key])]
    assert all("stem.norm" in key for key in changed)  # which counts what it sees
    assert (
        f"The head of {tmp_path / 'model'} keeps 2 rows of 3 by the names of the classes, in another order; gets 1 "
        "row that is new, for dark; loses 1 row, of cat." in capsys.readouterr().err
    )


@pytest.mark.parametrize(
    ("saved", "rows", "said"),
    [
        (["dark", "light"], [0, 1], "keeps 2 rows of 2 by the names of the classes."),
        (["light", "dark"], [1, 0], "keeps 2 rows of 2 by the names of the classes, in another order."),
        (
            ["cat", "light"],
            [None, 1],
            "keeps 1 row of 2 by the names of the classes; gets 1 row that is new",
        ),
        (["cat", "dog"], [None, None], "keeps 0 rows of 2 by the names"),
        (["x", "dark", "y", "light"], [1, 3], "keeps 2 rows of 4 by the names of the classes; loses 2 rows, of x, y."),
        (["light"], [None, 0], "keeps 1 row of 1"),
        (["LABEL_0", "LABEL_1"], [0, 1], "have no names; the head keeps its rows in their order, for dark, light."),
        (["LABEL_0", "LABEL_1", "LABEL_2"], [None, None], "have no names; the head keeps its rows of none of them."),
        (["Dark", "light "], [None, None], "keeps 0 rows of 2"),
    ],
)
def test_which_rows_are_kept(tmp_path, capsys, saved, rows, said):
    save_model(tmp_path, saved)
    config = AutoConfig.from_pretrained(tmp_path)
    config.id2label = {0: "dark", 1: "light"}
    made = load_for_classes(AutoModelForImageClassification, str(tmp_path), config).state_dict()
    assert said in capsys.readouterr().err
    before = load_file(tmp_path / "model.safetensors")
    for row, new in zip(rows, made["classifier.weight"], strict=True):
        kept = [index for index, old in enumerate(before["classifier.weight"]) if torch.equal(new, old)]
        assert kept == ([] if row is None else [row])
    assert all(torch.equal(before[key], made[key]) for key in before if not key.startswith("classifier"))


@pytest.mark.parametrize("case", MODELS.values(), ids=MODELS)
def test_every_head_is_found(case, tmp_path):
    names = [f"class {index}" for index in range(5)]
    model = case.make(num_labels=5, **labelled(names))
    assert label_axes(model) == {"classifier.weight": 0, "classifier.bias": 0}
    model.save_pretrained(tmp_path)
    config = case.config_class.from_pretrained(tmp_path)
    config.id2label = dict(enumerate(reversed(names)))
    loaded = load_for_classes(case.auto_class, str(tmp_path), config)
    arguments = case.inputs[0]
    with torch.no_grad():
        torch.testing.assert_close(loaded.eval()(**arguments).logits, model(**arguments).logits.flip(1))
    assert type(loaded) is case.model_class and loaded.config.id2label[0] == "class 4"


def test_a_body_without_a_head_gets_one(tmp_path, capsys):
    save_model(tmp_path / "model", ["light", "dark"])
    edit_weights(tmp_path / "model", lambda weights: {k: v for k, v in weights.items() if "classifier" not in k})
    words = ["--variant", "", "--model_name_or_path", tmp_path / "model", "--config", "num_labels=7"]
    assert train(tmp_path, *words) == 0
    assert "has no head; that of the 2 classes is new." in capsys.readouterr().err


def test_accents_that_are_written_apart_are_the_same_name():
    decomposed, composed = "cafe\u0301", "caf\u00e9"
    assert names_of({1: "tea", 0: decomposed}) == [composed, "tea"]
    assert matching_rows(["tea", composed], names_of({0: decomposed, 1: "tea"}), "m") == [1, 0]


class TestRefused:
    """Labels and heads that contradict each other, in every command."""

    def commands(self, tmp_path):
        save_images(tmp_path / "images/dark"), save_images(tmp_path / "images/light")
        yield "evaluate", tmp_path / "model", "--train_dir", tmp_path / "images"
        yield "predict", tmp_path / "model", tmp_path / "images/dark/0.png"
        words = ["--model_name_or_path", tmp_path / "model", "--train_dir", tmp_path / "images", "--use_cpu"]
        yield "train", "--output_dir", tmp_path / "out", *words

    @pytest.mark.parametrize("names", [["dark", "light", "mid"], ["dark"]])
    def test_labels_that_do_not_fit_the_head(self, tmp_path, capsys, names):
        save_model(tmp_path / "model")
        edit_config(tmp_path / "model", **labelled(names))
        for command in self.commands(tmp_path):
            assert run(*command) == 1, command
            line = the_line(capsys)
            assert f"has {len(names)} labels ({', '.join(names)}), but its head has 2 rows" in line, command

    def test_numbers_with_gaps(self, tmp_path, capsys):
        save_model(tmp_path / "model")
        edit_config(tmp_path / "model", id2label={"0": "dark", "2": "light"}, label2id={"dark": 0, "light": 2})
        for command in self.commands(tmp_path):
            assert run(*command) == 1, command
            assert "numbers its 2 labels 0, 2: number 1 is missing" in the_line(capsys), command

    def test_two_rows_of_the_name_of_a_class(self, tmp_path, capsys):
        save_model(tmp_path / "model", ["dark", "light", "light"])
        for command in self.commands(tmp_path):
            if command[0] == "predict":  # which needs no names to be matched
                assert run(*command) == 0 and "has several classes of the same name: light." in capsys.readouterr().err
                continue
            assert run(*command) == 1, command
            line = the_line(capsys)
            assert "one class 'light'" in line and "2 of that name, numbers 1, 2" in line, command

    def test_equal_names_that_nothing_asks_for(self, tmp_path, capsys):  # as `crane` of ImageNet
        save_model(tmp_path / "model", ["crane", "dark", "light", "crane"])
        save_images(tmp_path / "images/dark"), save_images(tmp_path / "images/light")
        assert run("evaluate", tmp_path / "model", "--train_dir", tmp_path / "images") == 0
        assert "has several classes of the same name: crane." in capsys.readouterr().err
        code, before, after = fine_tune(tmp_path, tmp_path / "model", "--train_dir", tmp_path / "images")
        assert code == 0 and torch.equal(before["classifier.weight"][1:3], after["classifier.weight"])

    def test_a_body_that_does_not_fit_its_configuration(self, tmp_path, capsys):
        save_model(tmp_path / "model")
        edit_config(tmp_path / "model", num_latents=5)
        save_images(tmp_path / "images/dark"), save_images(tmp_path / "images/light")
        assert run("evaluate", tmp_path / "model", "--train_dir", tmp_path / "images") == 1
        assert "does not fit its configuration" in the_line(capsys)


def save_split(root, split, classes, names):
    root.mkdir(exist_ok=True)
    images = [np.full((12, 10, 3), 20 + 9 * index, np.uint8) for index in range(len(names))]
    features = datasets.Features({"image": datasets.Image(), "label": ClassLabel(names=classes)})
    labels = [classes.index(name) for name in names]
    datasets.Dataset.from_dict({"image": images, "label": labels}, features).to_parquet(root / f"{split}.parquet")


def test_splits_that_declare_their_classes_in_another_order(tmp_path):
    """They are joined, and evaluated with a model that has a third order, by the names."""
    save_model(tmp_path / "model", ["mid", "light", "dark"])
    names = ["dark", "light", "mid", "dark", "light", "light"]
    matrices = []
    for number, classes in enumerate((["dark", "light", "mid"], ["light", "mid", "dark"])):
        root, results = tmp_path / str(number), tmp_path / f"{number}.json"
        save_split(root, "train", ["dark", "light", "mid"], names), save_split(root, "test", classes, names)
        assert run("evaluate", tmp_path / "model", "--dataset_name", root, "--output_file", results) == 0
        matrices.append(json.loads(results.read_text())["confusion_matrix"])
    assert matrices[0] == matrices[1] and [sum(row) for row in matrices[0]] == [1, 3, 2]
