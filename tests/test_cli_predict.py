"""`perceivers predict`: what it finds, what it says of broken files, and that it predicts what the model does."""

import argparse
import errno
import functools
import http.server
import json
import os
import pathlib
import signal
import subprocess
import sys
import threading

import numpy as np
import PIL.Image
import pytest
import torch
from transformers import BertConfig, ViTConfig, ViTForImageClassification, ViTImageProcessorPil

import perceivers.cli.predict as predict_module
from perceivers import (
    ImagePerceiverForImageClassification,
    ImagePerceiverImageProcessor,
    ImagePerceiverImageProcessorPil,
)
from perceivers.cli.predict import add_arguments, find_files, run
from perceivers.training.images import IMAGE_SUFFIXES
from tests.models import tiny_image_model

ROOT = pathlib.Path(__file__).parents[1]
NAMES = {index: f"name {index}" for index in range(10)}
LABELS = {"id2label": NAMES, "label2id": {name: index for index, name in NAMES.items()}}


def predict(*arguments) -> int:
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    return run(parser.parse_args([str(argument) for argument in arguments]))


def predict_json(capsys, *arguments) -> tuple[int, list[dict]]:
    code = predict(*arguments, "--json", "--device", "cpu")
    return code, json.loads(capsys.readouterr().out)


def save_image(path, seed: int = 0, size: tuple[int, int] = (20, 26)):
    """Random pixels, (height, width)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)
    PIL.Image.fromarray(pixels).save(path)
    return path


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    tiny_image_model(**LABELS).save_pretrained(folder)
    ImagePerceiverImageProcessor(size=16, crop_size=18).save_pretrained(folder)
    return folder


def expected(image: PIL.Image.Image) -> tuple[str, float]:
    """Label and score, computed without a pipeline."""
    inputs = ImagePerceiverImageProcessor(size=16, crop_size=18)(image, return_tensors="pt")
    with torch.no_grad():
        score, index = tiny_image_model()(**inputs).logits.softmax(-1)[0].max(0)
    return NAMES[index.item()], score.item()


def assert_predicts(result: dict, image: PIL.Image.Image):
    label, score = expected(image)
    assert result["predictions"] == [{"label": label, "score": pytest.approx(score, abs=1e-5)}]


@pytest.mark.integration
def test_predicts_what_the_model_does_for_every_batch_size(model, tmp_path, capsys):
    files = [save_image(tmp_path / f"{seed}.png", seed) for seed in range(5)]
    for batch_size in (1, 2, 8):
        code, results = predict_json(capsys, model, *files, "--batch_size", batch_size)
        assert code == 0
        assert [result["file"] for result in results] == [str(file) for file in files]
        for result, file in zip(results, files, strict=True):
            assert set(result) == {"file", "predictions"}
            assert_predicts(result, PIL.Image.open(file))


def test_table(model, tmp_path, capsys):
    files = [save_image(tmp_path / name, seed) for seed, name in enumerate(["a.png", "long name.png"])]
    assert predict(model, *files, "--top_k", 3) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 7 and len({len(line) for line in lines}) == 1
    assert lines[0].split() == ["file", "label", "score"]
    assert lines[1].startswith(f"{files[0]} ") and lines[4].startswith(f"{files[1]} ")
    assert lines[2].startswith(" ") and lines[2].split()[0] == "name"
    scores = [float(line.split()[-1]) for line in lines[1:4]]
    assert scores == sorted(scores, reverse=True)
    label, score = expected(PIL.Image.open(files[0]))
    assert lines[1].endswith(f"{label}  {score:.4f}")


def test_top_k_above_the_number_of_labels_gives_all(model, tmp_path, capsys):
    _, [result] = predict_json(capsys, model, save_image(tmp_path / "a.png"), "--top_k", 99)
    assert {prediction["label"] for prediction in result["predictions"]} == set(NAMES.values())
    assert sum(prediction["score"] for prediction in result["predictions"]) == pytest.approx(1)


def test_broken_files_are_named_and_the_others_predicted(model, tmp_path, capsys):
    good = save_image(tmp_path / "good.png", size=(60, 60))
    (tmp_path / "cut.png").write_bytes(good.read_bytes()[:2000])
    (tmp_path / "empty.jpg").write_bytes(b"")
    (tmp_path / "text.png").write_text("no image")

    assert predict(model, tmp_path, "--json") == 1
    captured = capsys.readouterr()
    results = {result["file"]: result for result in json.loads(captured.out)}
    assert_predicts(results[str(good)], PIL.Image.open(good))
    errors = [line for line in captured.err.splitlines() if line.startswith(str(tmp_path))]
    assert len(errors) == 3
    for name, reason in {"cut.png": "truncated", "empty.jpg": "format", "text.png": "format"}.items():
        path = str(tmp_path / name)
        assert results[path]["predictions"] == [] and reason in results[path]["error"]
        assert f"{path}: {results[path]['error']}" in errors

    assert predict(model, tmp_path) == 1
    assert capsys.readouterr().out.count("\n") == 2


@pytest.mark.integration
@pytest.mark.parametrize(
    ("flags", "how", "code"),
    [
        (["--json_lines"], signal.SIGINT, 130),
        (["--json", "--output_dir", "out"], signal.SIGTERM, 143),
        ([], "closed pipe", 141),
    ],
)
def test_what_is_done_survives(model, tmp_path, flags, how, code):
    """Broken files and names that are no text among them, interrupted in the middle, to a reader of ASCII.

    The results are more than a pipe holds, so that the command waits for the reader when it is interrupted.
    """
    files = [save_image(tmp_path / "files" / f"{seed:03}.png", seed) for seed in range(200)]
    for file in files[::9]:
        file.write_bytes(file.read_bytes()[: files.index(file)])
    files[1].rename(os.fsdecode(os.fsencode(tmp_path) + b"/files/001 gr\xfcn\n.png"))
    process = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "perceivers",
            "predict",
            model,
            "files",
            "--top_k",
            "10",
            "--device",
            "cpu",
            *flags,
        ],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONIOENCODING": "ascii", "LC_ALL": "C"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        bufsize=0,  # what is read ahead would be lost to communicate()
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # it may be ignored here
    )
    begin = b"".join(process.stdout.readline() for _ in range(3))
    if how == "closed pipe":
        process.stdout.close()
        process.wait()
        errors = process.stderr.read()
        rest = b""
    else:
        process.send_signal(how)
        rest, errors = process.communicate()
    lines = (begin + rest).decode("ascii").splitlines()
    assert process.returncode == code, errors
    assert b"Traceback" not in errors
    if how == "closed pipe":
        assert len(lines) == 3 and len({len(line) for line in lines}) == 1
        return
    results = json.loads("\n".join(lines)) if "--json" in flags else list(map(json.loads, lines))
    assert 0 < len(results) < 200
    found = find_files([str(tmp_path / "files")], IMAGE_SUFFIXES)
    assert [str(tmp_path / result["file"]) for result in results] == found[: len(results)]
    for number, result in enumerate(results):
        assert ("error" in result) == (number % 9 == 0) and len(result["predictions"]) == 10 * (number % 9 != 0)
    # The last may have been printed and not yet counted.
    said = [f"interrupted after {number} of 200 images" in errors.decode() for number in range(201)]
    assert said.count(True) == 1 and len(results) - said.index(True) in (0, 1)
    if "out" in flags:
        done = [result for result in results if "error" not in result]
        assert len(list((tmp_path / "out").iterdir())) in (len(done) - 1, len(done))
        for file in (tmp_path / "out").iterdir():
            assert json.loads(file.read_text("utf-8"))


def test_a_disk_that_is_full_leaves_no_half_file(model, tmp_path, capsys, monkeypatch):
    def write(self, text, *arguments):
        self.write_bytes(text[:9].encode())
        raise OSError(errno.ENOSPC, "No space left on device", str(self))

    monkeypatch.setattr(pathlib.Path, "write_text", write)
    assert predict(model, save_image(tmp_path / "a.png"), "--output_dir", tmp_path / "out") == 1
    assert not list((tmp_path / "out").iterdir())
    captured = capsys.readouterr()
    assert "a.png" in captured.out and "could not be written: [Errno 28]" in captured.err


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("problem_type", ["single_label_classification", "multi_label_classification"])
def test_logits_that_are_not_finite_are_no_label(tmp_path, capsys, monkeypatch, value, problem_type):
    """The softmax of minus infinity is 0 and the sigmoid of infinity 1, which would be labels."""
    tiny_image_model(problem_type=problem_type).save_pretrained(tmp_path / "model")
    ImagePerceiverImageProcessor(size=16, crop_size=18).save_pretrained(tmp_path / "model")
    files = [save_image(tmp_path / f"{seed}.png", seed) for seed in range(3)]
    forward = ImagePerceiverForImageClassification.forward

    def overflow(self, pixel_values, **kwargs):
        output = forward(self, pixel_values, **kwargs)
        output.logits[pixel_values.mean(dim=(1, 2, 3)) == odd, 0] = value
        return output

    odd = ImagePerceiverImageProcessor(size=16, crop_size=18)(files[1], return_tensors="pt")["pixel_values"].mean()
    monkeypatch.setattr(ImagePerceiverForImageClassification, "forward", overflow)
    code, results = predict_json(capsys, tmp_path / "model", *files)
    assert code == 1
    assert [result.get("error") for result in results] == [
        None,
        "The model's scores are NaN or infinite, so there is no label.",
        None,
    ]


def test_inputs_that_fill_the_memory_are_not_collected(model, tmp_path, capsys, monkeypatch):
    files = [save_image(tmp_path / f"{seed}.png", seed) for seed in range(5)]
    sizes = []
    predict_batch = predict_module.predict_batch
    monkeypatch.setattr(
        predict_module, "predict_batch", lambda *given: sizes.append(len(given[2])) or predict_batch(*given)
    )
    monkeypatch.setattr(predict_module, "MOST_WAITING", 2 * 3 * 20 * 26 - 1)
    assert predict_json(capsys, model, *files)[0] == 0
    assert sizes == [2, 2, 1]


def test_an_image_that_the_processor_refuses_does_not_take_its_batch_along(tmp_path, capsys):
    tiny_image_model(num_channels=1).save_pretrained(tmp_path / "gray")
    processor = ImagePerceiverImageProcessorPil(
        size=16, crop_size=18, do_convert_rgb=False, image_mean=[0.5], image_std=[0.5]
    )
    processor.save_pretrained(tmp_path / "gray")
    color = save_image(tmp_path / "color.png")
    gray = tmp_path / "gray.png"
    PIL.Image.open(color).convert("L").save(gray)

    code, results = predict_json(capsys, tmp_path / "gray", gray, color, gray)
    assert code == 1
    assert "channels" in results[1]["error"]
    assert results[0]["file"] == str(gray) and len(results) == 2  # each file once
    inputs = processor(PIL.Image.open(gray), return_tensors="pt")
    with torch.no_grad():
        score = tiny_image_model(num_channels=1)(**inputs).logits.softmax(-1).max()
    assert results[0]["predictions"][0]["score"] == pytest.approx(score.item(), abs=1e-5)


def test_rotated_deep_and_palette_images(model, tmp_path, capsys):
    image = PIL.Image.open(save_image(tmp_path / "upright.png"))
    exif = PIL.Image.Exif()
    exif[0x0112] = 6  # the orientation: stored turned by 90 degrees to the left
    image.transpose(PIL.Image.Transpose.ROTATE_90).save(tmp_path / "rotated.png", exif=exif)
    gray = np.asarray(image.convert("L"))
    PIL.Image.fromarray(gray.astype(np.uint16) * 257).save(tmp_path / "deep.png")
    palette = image.quantize(16)
    palette.save(tmp_path / "palette.png")

    same = {
        "rotated.png": image,
        "deep.png": PIL.Image.fromarray(gray).convert("RGB"),
        "palette.png": palette.convert("RGB"),
    }
    code, results = predict_json(capsys, model, *(tmp_path / name for name in same))
    assert code == 0
    for result, reference in zip(results, same.values(), strict=True):
        assert_predicts(result, reference)


def test_url(model, tmp_path, capsys):
    image = PIL.Image.open(save_image(tmp_path / "a.png"))
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=tmp_path)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}"
        code, results = predict_json(capsys, model, f"{address}/a.png", f"{address}/missing.png")
        server.shutdown()
    assert code == 1
    assert_predicts(results[0], image)
    assert "404" in results[1]["error"]


def test_a_model_of_transformers(tmp_path, capsys):
    config = ViTConfig(
        image_size=16, patch_size=8, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16
    )
    ViTForImageClassification(config).save_pretrained(tmp_path / "vit")
    ViTImageProcessorPil(size={"height": 16, "width": 16}).save_pretrained(tmp_path / "vit")
    code, [result] = predict_json(capsys, tmp_path / "vit", save_image(tmp_path / "a.png"))
    assert code == 0 and result["predictions"][0]["label"] in ("LABEL_0", "LABEL_1")


class TestFindFiles:
    @pytest.fixture
    def tree(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        for name in ("b/2.png", "b/1.JPG", "a.png", "b/c/3.webp", "b/notes.txt", "b/.hidden.png", "[x]/4.png"):
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()

    @pytest.mark.parametrize(
        ("patterns", "found"),
        [
            (["a.png"], ["a.png"]),
            (["b/notes.txt"], ["b/notes.txt"]),
            (["b/.hidden.png"], ["b/.hidden.png"]),
            (["b"], ["b/1.JPG", "b/2.png", "b/c/3.webp"]),
            (["[x]"], ["[x]/4.png"]),
            (["b/*.png"], ["b/2.png"]),
            (["b/?.*"], ["b/1.JPG", "b/2.png"]),
            (["**/*.png"], ["[x]/4.png", "a.png", "b/2.png"]),
            (["b/**"], ["b/1.JPG", "b/2.png", "b/c/3.webp"]),
            (["b/c*"], ["b/c/3.webp"]),
            (["b/2.png", "b", "a.png"], ["b/2.png", "b/1.JPG", "b/c/3.webp", "a.png"]),
            (["https://x.org/a", "a.png"], ["https://x.org/a", "a.png"]),
        ],
    )
    def test_found(self, tree, patterns, found):
        assert find_files(patterns, IMAGE_SUFFIXES) == found

    @pytest.mark.parametrize("pattern", ["missing.png", "missing/*.png", "b/*.txt", "empty"])
    def test_no_match(self, tree, tmp_path, pattern):
        (tmp_path / "empty").mkdir()
        with pytest.raises(ValueError, match="No image matched") as error:
            find_files(["a.png", pattern], IMAGE_SUFFIXES, "image")
        assert f"`{pattern}`" in str(error.value)


class TestRefusals:
    @pytest.fixture
    def image(self, tmp_path):
        return save_image(tmp_path / "image.png")

    @pytest.mark.parametrize("option", ["--top_k", "--batch_size"])
    def test_numbers_below_one(self, model, image, option):
        with pytest.raises(ValueError, match=f"`{option}` must be at least 1, got 0"):
            predict(model, image, option, 0)

    def test_device(self, model, image):
        with pytest.raises(ValueError, match="The device `abacus` cannot be used"):
            predict(model, image, "--device", "abacus")

    def test_no_processor(self, image, tmp_path):
        tiny_image_model().save_pretrained(tmp_path / "bare")
        with pytest.raises(ValueError, match=r"bare` has no processor .* preprocessor_config.json"):
            predict(tmp_path / "bare", image)

    def test_no_model(self, image):
        with pytest.raises(FileNotFoundError, match=r"There is no model \./missing: the path does not exist"):
            predict("./missing", image)

    def test_model_for_another_task(self, image, tmp_path):
        BertConfig().save_pretrained(tmp_path / "bert")
        with pytest.raises(ValueError, match="of model type `bert`, which has no model for image-classification"):
            predict(tmp_path / "bert", image)

    def test_weights_without_a_head(self, image, tmp_path):
        tiny_image_model().perceiver.save_pretrained(tmp_path / "body")
        ImagePerceiverImageProcessor(size=16, crop_size=18).save_pretrained(tmp_path / "body")
        with pytest.raises(ValueError, match=r"no weights for classifier\.bias, classifier\.weight"):
            predict(tmp_path / "body", image)
