"""Runs that only say where their data is: what is chosen for them, and that what is given wins."""

import copy

import datasets
import numpy as np
import pytest
import soundfile
import torch
import yaml
from PIL import Image
from safetensors.torch import load_file
from transformers import AutoConfig, AutoImageProcessor, TrainerControl, TrainerState

from perceivers.training import defaults
from perceivers.training.arguments import PerceiverTrainingArguments
from perceivers.training.audio import AUDIO
from perceivers.training.defaults import (
    MOST_EPOCHS,
    Cost,
    Pace,
    batch_size,
    can_cache,
    cost_of,
    learning_rate,
    measure,
    plan,
    training_flags,
)
from perceivers.training.images import IMAGES, ImageAugmentationArguments, has_its_end
from perceivers.training.point_clouds import POINT_CLOUDS
from perceivers.training.trainer import StopWithoutProgress
from tests.models import tiny_image_model
from tests.runs import run, save_images, save_model


def rows_of(column, feature, paths):
    return datasets.Dataset.from_dict({column: [str(path) for path in paths]}).cast_column(column, feature)


class TestImages:
    def choose(self, folder, images, is_accelerated=False):
        for index, image in enumerate(images):
            image.save(folder / f"{index}.png")
        paths = [folder / f"{index}.png" for index in range(len(images))]
        return IMAGES.choose(rows_of("image", datasets.Image(), paths), is_accelerated)

    def test_small_gray_images_of_one_size(self, tmp_path):
        choice = self.choose(tmp_path, [Image.new("L", (28, 20))] * 3)
        assert choice.flags["config"] == {"image_size": [20, 28], "num_channels": 1}
        assert choice.flags["processor"] == {"do_resize": False, "do_center_crop": False}
        assert "horizontal_flip" not in choice.flags  # of digits and letters, it would make others
        assert choice.model.startswith("`small` on 28 x 20 gray pixels")

    @pytest.mark.parametrize(("is_accelerated", "variant", "side"), [(False, "small", 64), (True, "base", 128)])
    def test_photos(self, tmp_path, is_accelerated, variant, side):
        images = [Image.new("RGB", (400, 300)), Image.new("RGB", (200, 500)), Image.new("L", (640, 480))]
        choice = self.choose(tmp_path, images, is_accelerated)
        assert choice.flags["variant"] == variant
        assert choice.flags["config"] == {"image_size": [side, side]}
        assert "processor" not in choice.flags and choice.flags["horizontal_flip"] == 0.5
        assert "the images have 200 to 640 pixels" in choice.model

    def test_small_images_of_several_sizes(self, tmp_path):
        choice = self.choose(tmp_path, [Image.new("RGB", (40, side)) for side in (30, 32, 50)])
        assert choice.flags["config"]["image_size"] == [32, 32]

    def test_broken_ones_are_passed_over(self, tmp_path):
        for name in ("0.png", "1.png"):
            (tmp_path / name).write_bytes(b"nothing")
        rows = rows_of("image", datasets.Image(), [tmp_path / "0.png", tmp_path / "1.png"])
        with pytest.raises(ValueError, match="None of 2 images has a header"):
            IMAGES.choose(rows, False)

    @pytest.mark.parametrize("name", ["jpg", "png", "gif", "webp", "bmp", "tif"])
    def test_the_end_of_a_file(self, tmp_path, name):
        path = tmp_path / f"x.{name}"
        save_images(tmp_path, number=1)
        Image.open(tmp_path / "0.png").save(path)
        assert has_its_end(path) == (name in ("jpg", "png", "gif"))
        IMAGES.check_file(str(path))
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        assert not has_its_end(path)
        with pytest.raises(ValueError, match="truncated"):
            IMAGES.check_file(str(path))

    def test_flips_are_of_batches(self):
        torch.manual_seed(0)
        images = torch.rand(200, 3, 4, 5)
        transform = IMAGES.batch_transform(None, ImageAugmentationArguments(horizontal_flip=0.5), 200, 2)
        flipped = transform({"pixel_values": images, "labels": torch.zeros(200)})["pixel_values"]
        is_mirrored = [torch.equal(after, before.flip(2)) for after, before in zip(flipped, images, strict=True)]
        is_same = [torch.equal(after, before) for after, before in zip(flipped, images, strict=True)]
        assert 70 < sum(is_mirrored) < 130 and sum(is_mirrored) + sum(is_same) == 200


def test_recordings(tmp_path):
    for index, seconds in enumerate((0.5, 1.0, 9.0)):
        soundfile.write(tmp_path / f"{index}.wav", np.zeros(int(seconds * 22050)), 22050)
    paths = [tmp_path / f"{index}.wav" for index in range(3)]
    choice = AUDIO.choose(rows_of("audio", datasets.Audio(decode=False), paths), False)
    assert choice.flags["processor"] == {"sampling_rate": 16000, "num_samples": 16000}
    assert "1 s at 16,000 Hz (the recordings take 0.5 to 9 s)" in choice.model


@pytest.mark.parametrize("has_colours", [True, False])
def test_clouds(tmp_path, has_colours):
    random = np.random.default_rng(0)
    names = ["x", "y", "z", *(["red", "green", "blue"] if has_colours else [])]
    for index in range(3):
        header = ["ply", "format ascii 1.0", "element vertex 400"]
        header += [f"property {'float' if name in 'xyz' else 'uchar'} {name}" for name in names]
        numbers = np.column_stack([random.normal(size=(400, 3)), random.integers(0, 256, (400, len(names) - 3))])
        rows = [
            " ".join(f"{value:g}" if axis < 3 else f"{value:.0f}" for axis, value in enumerate(row)) for row in numbers
        ]
        (tmp_path / f"{index}.ply").write_text("\n".join([*header, "end_header", *rows]) + "\n")
    paths = [tmp_path / f"{index}.ply" for index in range(3)]
    choice = POINT_CLOUDS.choose(rows_of("points", datasets.Value("string"), paths), False)
    assert choice.flags["config"] == {"num_points": 400}
    assert choice.flags["features"] == (["red", "green", "blue"] if has_colours else [])
    assert ("red, green, blue" in choice.model) == has_colours


class TestSteps:
    def arguments(self, tmp_path, **changes):
        return PerceiverTrainingArguments(output_dir=str(tmp_path), per_device_train_batch_size=10, **changes)

    def test_by_hand(self, tmp_path):
        # 60 s without 15 %, 300 readings, and 11 evaluations of 100 images
        left = 60 * 0.85 - 300 * 0.05 - 11 * 100 * 0.05 / 10
        arguments, pace = self.arguments(tmp_path), Pace(0.3, 0.05, 1)
        planned = plan(1.0, pace, 0.05, 200, 100, arguments)
        assert (planned.steps, planned.evaluations) == (int(left / 0.3), 10)
        assert planned.seconds == pytest.approx(60 * 0.85, abs=0.3)
        assert plan(1e6, pace, 0.05, 200, 100, arguments).steps == MOST_EPOCHS * 20
        assert plan(1e6, pace, 0.05, 200, 100, arguments, most_epochs=3).steps == 60

    def test_only_what_is_read_takes_time(self, tmp_path):
        arguments, pace = self.arguments(tmp_path), Pace(0.3, 0.05, 1)
        planned = plan(2.0, pace, 0.05, 20_000, 100, arguments)  # an epoch alone would take longer
        left = 120 * 0.85 - 100 * 0.05 - (planned.evaluations + 1) * 100 * 0.05 / 10
        assert planned.steps == int(left / (0.3 + 10 * 0.05)) > 50
        assert planned.seconds == pytest.approx(120 * 0.85, abs=0.8)

    def test_evaluations_leave_time_to_train(self, tmp_path):
        arguments, pace = self.arguments(tmp_path), Pace(30.0, 30.0, 1)  # as with a frozen body
        planned = plan(100, pace, 0.0, 200, 50, arguments)
        assert planned.evaluations == 7 and planned.steps == int((100 * 51 - 8 * 150) / 30)
        too_short = plan(1e-6, pace, 0.0, 200, 50, arguments)
        assert (too_short.steps, too_short.evaluations, too_short.seconds) == (50, 1, 50 * 30 + 2 * 150)

    @pytest.mark.parametrize("stem", ["pixels", "conv"])  # which has running statistics
    def test_measuring_leaves_no_trace(self, stem):
        model, threads = tiny_image_model(stem=stem), torch.get_num_threads()
        before = {name: value.clone() for name, value in model.state_dict().items()}
        torch.manual_seed(0)
        expected = torch.rand(3)
        torch.manual_seed(0)
        batch = {"pixel_values": torch.zeros(2, 3, 16, 16), "labels": torch.tensor([0, 1])}
        pace = measure(model, batch, torch.device("cpu"), threads=None)
        assert pace.seconds > 0 and 1 <= pace.threads <= threads == torch.get_num_threads()
        assert torch.equal(torch.rand(3), expected)
        assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
        assert all(parameter.grad is None for parameter in model.parameters())

    def test_the_cost_of_an_example(self):
        model, batch = tiny_image_model(num_blocks=2), {"pixel_values": torch.zeros(2, 3, 16, 16)}
        once = cost_of(model, batch, torch.device("cpu"))
        assert 0 < once.seconds < 5 and all(parameter.grad is None for parameter in model.parameters())
        deeper = cost_of(tiny_image_model(num_blocks=4), batch, torch.device("cpu"))
        assert 0 < once.memory < deeper.memory
        weights = sum(parameter.nbytes for parameter in model.parameters())
        frozen = copy.deepcopy(model)
        frozen.base_model.requires_grad_(False)
        assert cost_of(frozen, batch, torch.device("cpu")).memory < min(once.memory, weights)

    @pytest.mark.parametrize(
        ("seconds", "memory", "expected"), [(0.01, 1, 64), (0.2, 1, 16), (20, 1, 8), (0.01, 10, 32), (20, 100, 4)]
    )
    def test_a_batch_fits_time_and_memory(self, seconds, memory, expected):
        assert batch_size(64, Cost(seconds, memory), minutes=10, memory=1000) == expected

    def test_inputs_are_kept_where_there_is_memory(self, monkeypatch):
        monkeypatch.setattr(defaults, "free_memory", lambda device: 1000)
        assert can_cache(10, 25) and not can_cache(10, 26)

    @pytest.mark.parametrize(
        ("parameters", "has_weights", "is_partial", "expected"),
        [
            (100_000, False, False, 2e-3),
            (45_000_000, False, False, 1.2e-4),
            (86_000_000, True, False, 5.4e-5),
            (144_000, True, False, 1.3e-3),
            (45_000_000, True, True, 1e-3),
        ],
    )
    def test_the_learning_rate(self, parameters, has_weights, is_partial, expected):
        assert learning_rate(2e-3, parameters, has_weights, is_partial) == expected

    def test_what_is_given_wins(self):
        chosen = {"variant": "small", "learning_rate": 1.0}
        flags = training_flags(chosen, "accuracy", 1000, given=())
        assert flags["learning_rate"] == 1.0 and flags["load_best_model_at_end"] and flags["minutes"] == 10
        assert flags["per_device_train_batch_size"] == 64
        assert training_flags(chosen, "accuracy", 40, given=())["per_device_train_batch_size"] == 16
        flags = training_flags(chosen, "accuracy", 1000, given=["save_strategy"])
        assert not flags.keys() & {"load_best_model_at_end", "early_stopping_patience"}
        assert "minutes" not in training_flags(chosen, "accuracy", 1000, given=["max_steps"])


class TestStopping:
    def evaluate(self, callback, args, state, accuracy, loss=1.0):
        """An evaluation as the Trainer does it; returns whether it ends the training."""
        state.global_step += 10
        control, metrics = TrainerControl(), {"eval_loss": loss, "eval_accuracy": accuracy}
        state.log_history.append({**metrics, "step": state.global_step})
        callback.on_evaluate(args, state, control, metrics)
        if state.best_metric is None or accuracy > state.best_metric:
            state.best_metric, state.best_global_step = accuracy, state.global_step
        return control.should_training_stop

    @pytest.mark.parametrize("is_resumed", [False, True])
    def test_after_evaluations_that_are_no_better(self, is_resumed, tmp_path, capsys):
        args = PerceiverTrainingArguments(
            str(tmp_path), eval_strategy="steps", load_best_model_at_end=True, save_steps=500, eval_steps=500
        )
        args.metric_for_best_model, args.greater_is_better = "accuracy", True
        state, callback = TrainerState(max_steps=100), StopWithoutProgress(3)
        callback.on_train_begin(args, state, TrainerControl())
        assert not any(self.evaluate(callback, args, state, accuracy) for accuracy in (0.5, 0.7, 0.7, 0.6))
        if is_resumed:
            callback = StopWithoutProgress(3)
            callback.on_train_begin(args, state, TrainerControl())
        callback.on_train_end(args, state, TrainerControl())
        assert capsys.readouterr().err == ""
        assert not self.evaluate(copy.deepcopy(callback), args, copy.deepcopy(state), 0.7, loss=0.9)
        assert self.evaluate(callback, args, state, 0.7)
        callback.on_train_end(args, state, TrainerControl())
        said = "Stopped at step 50 of 100, as 3 evaluations in a row were no better than that of step 20"
        assert said in capsys.readouterr().err

    def test_needs_the_best_checkpoint(self, tmp_path):
        with pytest.raises(ValueError, match="`--early_stopping_patience` needs `--load_best_model_at_end`"):
            PerceiverTrainingArguments(str(tmp_path), early_stopping_patience=2)
        with pytest.raises(ValueError, match="must be at least 1, got 0"):
            PerceiverTrainingArguments(str(tmp_path), early_stopping_patience=0)


@pytest.mark.integration
class TestRuns:
    @pytest.fixture
    def words(self, tmp_path):
        for name in ("dark", "light"):
            save_images(tmp_path / "images" / name, number=12)
        return ["train", "--train_dir", tmp_path / "images", "--output_dir", tmp_path / "out", "--use_cpu"]

    def test_a_folder_is_enough(self, words, tmp_path, capsys):
        assert run(*words, "--minutes", "0.01") == 0
        said = capsys.readouterr().err
        assert "Chose the model `small` on 10 x 12 colour pixels" in said and "50 steps of up to 8 images" in said
        recipe = yaml.safe_load((tmp_path / "out/recipe.yaml").read_text())
        assert recipe["max_steps"] == 50 and recipe["variant"] == "small" and recipe["horizontal_flip"] == 0.5
        assert recipe["learning_rate"] == 0.002 and recipe["cpu_threads"] >= 1
        # The recipe repeats the run.
        again = ["train", tmp_path / "out/recipe.yaml", "--output_dir", tmp_path / "again"]
        assert run(*again) == 0
        first, second = (load_file(tmp_path / name / "model.safetensors") for name in ("out", "again"))
        assert all(torch.equal(first[name], second[name]) for name in first)

    def test_flags_win_and_the_same_command_resumes(self, words, tmp_path):
        steps = ["--max_steps", "6", "--save_strategy", "steps", "--save_steps", "2", "--learning_rate", "0.001"]
        assert run(*words, *steps) == 0
        recipe = yaml.safe_load((tmp_path / "out/recipe.yaml").read_text())
        assert recipe["learning_rate"] == 0.001 and recipe["max_steps"] == 6
        assert recipe["config"] == {"image_size": [12, 10]} and "minutes" not in recipe
        assert run(*words, "--resume_from_checkpoint", "last") == 0

    def test_a_saved_model_keeps_its_inputs(self, words, tmp_path, capsys):
        model = save_model(tmp_path / "model", names=("cat", "dog"))
        assert run(*words, "--model_name_or_path", model, "--minutes", "0.01", "--warmup_steps", "3") == 0
        said = capsys.readouterr().err
        assert f"Trains all weights of {model}, which says how the images are prepared." in said
        assert "mirrored" in said and "low, to keep what the weights know" in said
        recipe = yaml.safe_load((tmp_path / "out/recipe.yaml").read_text())
        assert recipe["max_steps"] == 50 and recipe["load_best_model_at_end"] and recipe["warmup_steps"] == 3
        assert not recipe.keys() & {"config", "processor", "variant"}
        before, after = (AutoImageProcessor.from_pretrained(folder) for folder in (model, tmp_path / "out"))
        assert (before.size, before.crop_size) == (after.size, after.crop_size)

    def test_a_head_takes_larger_steps(self, words, tmp_path, capsys):
        model = save_model(tmp_path / "model")
        assert run(*words, "--model_name_or_path", model, "--freeze_body", "--max_steps", "2") == 0
        assert "Trains a head for" in capsys.readouterr().err
        assert yaml.safe_load((tmp_path / "out/recipe.yaml").read_text())["learning_rate"] == 0.001

    def test_a_variant_keeps_its_inputs_and_the_same_command_resumes(self, words, tmp_path, capsys):
        words += ["--variant", "tiny", "--learning_rate", "5e-5", "--per_device_train_batch_size", "4"]
        assert run(*words, "--minutes", "0.01") == 0
        assert "Trains `tiny` from scratch" in capsys.readouterr().err
        assert AutoConfig.from_pretrained(tmp_path / "out").image_size == 16
        first = yaml.safe_load((tmp_path / "out/recipe.yaml").read_text())
        assert "learning_rate" not in first and first["per_device_train_batch_size"] == 4  # 5e-5 is transformers' own
        assert run(*words, "--minutes", "0.01", "--resume_from_checkpoint", "last") == 0
        second = yaml.safe_load((tmp_path / "out/recipe.yaml").read_text())
        assert second == {name: first[name] for name in second} and second["max_steps"] == 50
        assert "in about" not in capsys.readouterr().err

    def test_several_labels_are_not_smoothed(self, tmp_path, capsys):
        images = [Image.new("RGB", (12, 12), (5 * index, 0, 0)) for index in range(40)]
        rows = {"image": images, "label": [["a"], ["b"]] * 20}
        features = datasets.Features(image=datasets.Image(), label=datasets.List(datasets.Value("string")))
        (tmp_path / "data").mkdir()
        datasets.Dataset.from_dict(rows, features).to_parquet(tmp_path / "data/train.parquet")
        words = ["--dataset_name", tmp_path / "data", "--output_dir", tmp_path / "out", "--use_cpu"]
        assert run("train", *words, "--max_steps", "2") == 0
        assert "label_smoothing_factor" not in yaml.safe_load((tmp_path / "out/recipe.yaml").read_text())
