"""`perceivers train` and `perceivers evaluate` from end to end, with a tiny model on made images."""

import json
import os
import signal

import numpy as np
import pytest
import torch
from huggingface_hub import ModelCard
from PIL import Image
from safetensors.torch import load_file

from perceivers.cli.main import main
from perceivers.training.trainer import PerceiverTrainer

DIGITS = ["digits", "--config", "d_latents=16", "num_latents=4", "qk_channels=16", "v_channels=16"]
QUICK = ["--max_train_samples", "48", "--max_eval_samples", "24", "--num_train_epochs", "2", "--disable_tqdm", "true"]
QUICK += ["--per_device_train_batch_size", "32"]


pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("one_thread")]


def make_folder(root, classes=("dark", "light"), images=6, size=(12, 10)):
    rng = np.random.default_rng(0)
    for index, name in enumerate(classes):
        (root / name).mkdir(parents=True)
        for number in range(images):
            pixels = rng.integers(0, 100, (*size, 3)) + 120 * index
            Image.fromarray(pixels.astype(np.uint8)).save(root / name / f"{number}.png")
    return root


def make_gray_folder(root, classes):
    for index, name in enumerate(classes):
        (root / name).mkdir(parents=True)
        for number in range(5):
            Image.new("L", (8, 8), 80 * index + number).save(root / name / f"{number}.png")
    return root


def train_digits(folder, *words):
    assert main(["train", *DIGITS, "--output_dir", str(folder), *QUICK, *words]) == 0
    return load_file(folder / "model.safetensors")


def train_folder(tmp_path, images, *words):
    words = ["--train_dir", str(images), "--variant", "tiny", "--num_train_epochs", "1", "--use_cpu", *words]
    return main(
        ["train", "--output_dir", str(tmp_path / "out"), "--disable_tqdm", "true", "--report_to", "none", *words]
    )


def the_line(capsys):
    """The only line on stderr that is ours."""
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("perceivers: error:")]
    assert len(lines) == 1
    return lines[0]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("digits") / "model"
    torch.set_num_threads(1)
    train_digits(folder)
    return folder


def test_everything_is_written(trained):
    results = json.loads((trained / "all_results.json").read_text())
    assert 0 <= results["eval_accuracy"] <= 1
    assert results["epoch"] == 2
    assert Image.open(trained / "training_curves.png").size > (400, 200)
    assert Image.open(trained / "example.png").size == (8, 8)
    for name in ("preprocessor_config.json", "modeling_image_perceiver.py", "recipe.yaml"):
        assert (trained / name).is_file()


def test_model_card(trained):
    card = ModelCard.load(trained / "README.md")
    results = json.loads((trained / "all_results.json").read_text())
    assert card.data.library_name == "transformers"
    assert card.data.pipeline_tag == "image-classification"
    (result,) = card.data.eval_results
    assert result.metric_value == pytest.approx(results["eval_accuracy"], abs=1e-5)
    assert f"{100 * results['eval_accuracy']:.2f} %" in card.text
    assert "trust_remote_code=True" in card.text
    assert "num_latents: 4" in card.text
    assert "| accuracy of chance | 10.00 % |" in card.text
    assert sum(int(line.split(" | ")[2].strip(" |")) for line in card.text.splitlines() if " % | " in line[5:]) == 24


def test_evaluate_measures_the_images_held_out_in_training(trained, tmp_path, capsys):
    results = json.loads((trained / "all_results.json").read_text())
    assert main(["evaluate", str(trained), "--max_eval_samples", "360", "--output_file", str(tmp_path / "r")]) == 0
    measured = json.loads((tmp_path / "r").read_text())
    assert measured["examples"] == 360
    assert np.sum(measured["confusion_matrix"]) == 360
    assert sum(row["number"] for row in measured["classes"]) == 360
    assert "precision" in capsys.readouterr().out

    assert main(["evaluate", str(trained), "--json"]) == 0
    measured = json.loads(capsys.readouterr().out)
    assert measured["examples"] == 24  # as the recipe beside the model says
    assert measured["accuracy"] == pytest.approx(results["eval_accuracy"], abs=1e-6)


def test_evaluate_refuses_classes_that_the_model_lacks(trained, tmp_path, capsys):
    images = make_gray_folder(tmp_path / "images", ["0", "dark"])
    assert main(["evaluate", str(trained), "--validation_dir", str(images)]) == 1
    assert "no class 'dark'" in the_line(capsys)


def test_seed_decides(tmp_path):
    first, again = (train_digits(tmp_path / name) for name in "ab")
    other = train_digits(tmp_path / "c", "--seed", "1")
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["classifier.weight"], other["classifier.weight"])


def test_resumed_training_ends_with_the_same_weights(tmp_path):
    whole = train_digits(tmp_path / "whole", "--save_strategy", "epoch", "--save_total_limit", "2")
    checkpoint = tmp_path / "whole" / "checkpoint-2"  # 48 images in batches of 32 are 2 steps an epoch
    resumed = train_digits(tmp_path / "resumed", "--resume_from_checkpoint", str(checkpoint))
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_interrupted_training_says_how_to_go_on(tmp_path, capsys, monkeypatch):
    folder = tmp_path / "out"
    training_step = PerceiverTrainer.training_step
    handler = signal.getsignal(signal.SIGINT)  # ignored where the tests were started in the background

    def press_ctrl_c(self, *args, **kwargs):
        os.kill(os.getpid(), signal.SIGINT)
        return training_step(self, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(PerceiverTrainer, "training_step", press_ctrl_c)
        assert main(["train", *DIGITS, *QUICK, "--output_dir", str(folder)]) == 130
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("perceivers: stopped")]
    command = f"perceivers train {folder}/recipe.yaml --resume_from_checkpoint last"
    assert line == f"perceivers: stopped at step 1 of 4; to go on: {command}"
    assert signal.getsignal(signal.SIGINT) is handler

    assert main(command.split()[1:]) == 0
    assert json.loads((folder / "all_results.json").read_text())["epoch"] == 2


def test_folder_of_classes(tmp_path, capsys):
    images = make_folder(tmp_path / "images")
    (images / "light" / "broken.png").write_bytes((images / "light" / "0.png").read_bytes()[:60])
    assert train_folder(tmp_path, images) == 0
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["label2id"] == {"dark": 0, "light": 1}
    captured = capsys.readouterr()
    assert "broken.png" in captured.err
    assert "Skipped 1 unreadable image, listed above." in captured.out


def test_mixup_cutmix_and_lamb(tmp_path):
    words = ["--mixup", "0.2", "--cutmix", "1.0", "--timm_optimizer", "lamb", "--label_smoothing_factor", "0.1"]
    train_digits(tmp_path / "out", *words, "--rand_augment", "rand-m3-n1", "--horizontal_flip", "0.5")
    results = json.loads((tmp_path / "out" / "all_results.json").read_text())
    assert 0 < results["train_loss"] < 10


def test_kept_images_give_the_same_weights(tmp_path):
    kept, read = (train_digits(tmp_path / flag, "--cache_inputs", flag) for flag in ("true", "false"))
    assert all(torch.equal(kept[name], read[name]) for name in kept)


def test_fine_tuning_gives_a_new_head(trained, tmp_path):
    images = make_gray_folder(tmp_path / "images", ["a", "b", "c"])
    words = ["--model_name_or_path", str(trained), "--train_dir", str(images), "--output_dir", str(tmp_path / "out")]
    assert main(["train", *words, "--max_steps", "1", "--learning_rate", "0", "--use_cpu", "--report_to", "none"]) == 0
    before, after = (load_file(folder / "model.safetensors") for folder in (trained, tmp_path / "out"))
    assert after["classifier.weight"].shape == (3, 16)
    assert torch.equal(before["perceiver.encoder.latents"], after["perceiver.encoder.latents"])
    assert f"fine-tuned from {trained}" in (tmp_path / "out" / "README.md").read_text()


def test_a_folder_in_use_is_not_overwritten_unasked(trained, tmp_path, capsys):
    before = (trained / "model.safetensors").read_bytes()
    words = ["train", *DIGITS, *QUICK, "--output_dir", str(trained)]
    assert main(words) == 1
    assert "--overwrite_output_dir" in the_line(capsys)
    assert (trained / "model.safetensors").read_bytes() == before

    (tmp_path / "out" / "checkpoint-9").mkdir(parents=True)
    train_digits(tmp_path / "out", "--overwrite_output_dir")
    assert not (tmp_path / "out" / "checkpoint-9").exists()


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["--variant", "huge", "--dataset_name", "digits"], 1, "no variant `huge`"),
        (["--task", "image-generation"], 2, "no task 'image-generation'"),
        (["--variant", "tiny", "--config", "num_blocks=3", "--dataset_name", "digits"], 1, "num_cross_attends"),
        (["--variant", "tiny", "--config", "num_latents=many", "--dataset_name", "digits"], 1, "num_latents"),
        (
            ["--variant", "tiny", "--config", "num_latent=3", "--dataset_name", "digits"],
            1,
            "did you mean `num_latents`",
        ),
        (["--variant", "tiny", "--config", "num_latents", "--dataset_name", "digits"], 1, "FIELD=VALUE"),
        (["--variant", "tiny", "--train_dir", "/nowhere"], 1, "no folder /nowhere"),
        (["--variant", "tiny", "--train_dir", "x", "--dataset_name", "y"], 2, "exclude each other"),
        (["--model_name_or_path", "/nowhere/model"], 1, "/nowhere/model"),
        (["digits", "--mixup", "0.2", "--per_device_train_batch_size", "3"], 1, "must be even"),
        (["digits", "--timm_optimizer", "lambda"], 1, "lambda"),
        (["digits", "--rand_augment", "nonsense"], 2, "rand_augment"),
        (["digits", "--label_column_name", "digit"], 1, "no label column 'digit'"),
        (["digits", "--resume_from_checkpoint", "last"], 1, "no checkpoint"),
        (["digits", "--num_train_epochs", "many"], 2, "invalid float value"),
        (["digits", "--report_to", "comet_ml"], 1, "requires comet-ml"),
        (["mnist"], 2, "no recipe 'mnist'"),
    ],
)
def test_wrong_input_is_one_line_and_leaves_nothing_behind(tmp_path, capsys, words, code, message):
    folder = tmp_path / "out"
    assert main(["train", *words, "--output_dir", str(folder)]) == code
    assert message in the_line(capsys)
    assert not folder.exists()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda root: root.mkdir(), "no class folders"),
        (lambda root: (root / "a").mkdir(parents=True), "no images"),
        (lambda root: make_folder(root, classes=["only"]), "at least two classes"),
        (lambda root: make_folder(root, images=1), "hold out"),
        (lambda root: [path.write_bytes(b"x") for path in make_folder(root).glob("*/*")], "None of 12 images"),
    ],
)
def test_wrong_folders(tmp_path, capsys, make, message):
    make(tmp_path / "images")
    assert train_folder(tmp_path, tmp_path / "images") == 1
    assert message in the_line(capsys)
    assert not (tmp_path / "out").exists()


def test_nan_pixels_are_left_out(tmp_path, capsys):
    images = make_folder(tmp_path / "images")
    Image.fromarray(np.full((8, 8), np.nan, np.float32)).save(images / "dark" / "nan.tiff")
    assert train_folder(tmp_path, images) == 0
    error = capsys.readouterr().err
    assert "nan.tiff" in error
    assert "NaN" in error


def test_traceback_on_request(capsys):
    with pytest.raises(ValueError, match="no recipe"):
        main(["train", "mnist", "--traceback"])


def test_help_and_unknown_command(capsys):
    with pytest.raises(SystemExit) as exit_:
        main(["--help"])
    assert exit_.value.code == 0
    assert "evaluate" in capsys.readouterr().out
    assert main(["trian"]) == 2
    assert "invalid choice" in the_line(capsys)
