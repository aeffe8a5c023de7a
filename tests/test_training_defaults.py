"""Runs that only say where their data is: what is chosen for them, and that what is given wins."""

import datasets
import numpy as np
import pytest
import soundfile
import torch
import yaml
from PIL import Image
from safetensors.torch import load_file

from perceivers.training.arguments import PerceiverTrainingArguments
from perceivers.training.audio import AUDIO
from perceivers.training.defaults import MOST_EPOCHS, Pace, measure, num_steps, training_flags
from perceivers.training.images import IMAGES, ImageAugmentationArguments, has_its_end
from perceivers.training.modality import Choice
from perceivers.training.point_clouds import POINT_CLOUDS
from tests.models import tiny_image_model
from tests.runs import run, save_images


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
        # 60 s without 15 %, 300 readings, and 11 evaluations of 100 images, each a third of its time in a step
        left = 60 * 0.85 - 300 * 0.05 - 11 * 100 * 0.3 / 10 / 3
        arguments = self.arguments(tmp_path)
        assert num_steps(1.0, Pace(0.3, 1), 0.05, 200, 100, arguments) == int(left / 0.3)
        assert num_steps(1e6, Pace(0.3, 1), 0.05, 200, 100, arguments) == MOST_EPOCHS * 20
        assert num_steps(1e-6, Pace(0.3, 1), 0.05, 200, 100, arguments) == 50

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

    def test_what_is_given_wins(self):
        choice = Choice({"variant": "small", "learning_rate": 1.0}, "", "")
        flags = training_flags(choice, "accuracy", 1000, given=())
        assert flags["learning_rate"] == 1.0 and flags["load_best_model_at_end"] and flags["minutes"] == 10
        assert flags["per_device_train_batch_size"] == 64
        assert training_flags(choice, "accuracy", 40, given=())["per_device_train_batch_size"] == 16
        assert "load_best_model_at_end" not in training_flags(choice, "accuracy", 1000, given=["save_strategy"])
        assert "minutes" not in training_flags(choice, "accuracy", 1000, given=["max_steps"])


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
        assert "Chose the model `small` on 10 x 12 colour pixels" in said and "Takes 50 steps of 8 images" in said
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
