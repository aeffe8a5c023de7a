"""What a run is given that cannot work, and what is left of one that ends too early: one line, and all results."""

import errno
import io
import json
import os
import signal
import sys
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError

import perceivers_cli
from perceivers import (
    AudioPerceiverFeatureExtractor,
    ImagePerceiverImageProcessor,
    ImagePerceiverImageProcessorPil,
    PointCloudPerceiverFeatureExtractor,
)
from perceivers.cli import info, predict
from perceivers.cli.checks import check_metric, check_processor_fields, check_training_flags
from perceivers.cli.errors import UsageError
from perceivers.tasks import TASKS
from perceivers.training.arguments import PerceiverTrainingArguments
from tests.runs import edit_config, edit_weights, run, run_apart, save_images, save_model

pytestmark = pytest.mark.integration


@pytest.fixture
def model(tmp_path):
    return save_model(tmp_path / "model")


@pytest.fixture
def images(tmp_path):
    return save_images(tmp_path / "images")


class Foreign(Exception):
    """No error of Python's own."""


class TestOneLine:
    """Whatever is raised is one line with exit code 1, 2 for wrong arguments; `--traceback` shows the rest."""

    @pytest.mark.parametrize(
        ("error", "code", "line"),
        [
            (ValueError("bad\n  value"), 1, "error: bad value"),
            (UsageError("bad flag"), 2, "error: bad flag"),
            (OSError(errno.ENOSPC, "No space left on device", "x/y"), 1, "No space left on device: 'x/y'"),
            (BrokenPipeError(errno.EPIPE, "Broken pipe"), 1, "Broken pipe"),  # not of stdout
            (ImportError("needs `timm`"), 1, "error: needs `timm`"),
            (AssertionError(), 1, "error: AssertionError (`--traceback` shows"),
            (KeyError("latents"), 1, "error: KeyError: Missing key 'latents'."),
            (IndexError("list index"), 1, "error: IndexError: list index (`--traceback`"),
            (AttributeError("no x"), 1, "error: AttributeError: no x (`--traceback`"),
            (RuntimeError("sizes\ndiffer"), 1, "error: RuntimeError: sizes differ (`--traceback`"),
            (RecursionError("depth"), 1, "error: RecursionError: depth"),
            (ZeroDivisionError("by 0"), 1, "error: ZeroDivisionError: by 0"),
            (NotImplementedError(), 1, "error: NotImplementedError (`--traceback`"),
            (StopIteration(), 1, "error: StopIteration"),
            (UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte"), 1, "invalid start byte"),
            (MemoryError(), 1, "error: Not enough memory: smaller batches or inputs need less."),
            (
                torch.OutOfMemoryError("tried 9 GiB"),
                1,
                "error: Not enough memory: smaller batches or inputs need less",
            ),
            (SafetensorError("I/O error: No space left on device (os error 28)"), 1, "No space left on device"),
            (Foreign("no"), 1, "error: Foreign: no (`--traceback`"),
            (Foreign("a \x1b[31mred\x07 name"), 1, r"a \x1b[31mred\x07 name"),
            (Foreign("name \udcff"), 1, r"name \udcff"),
            (
                RuntimeError(
                    "Caught OSError in worker.\nOriginal Traceback (most recent call last):\n  x\nOSError: bad"
                ),
                1,
                "error: RuntimeError: OSError: bad (",
            ),
            (KeyboardInterrupt(), 130, "perceivers: interrupted"),
            (KeyboardInterrupt("stopped at step 3"), 130, "perceivers: stopped at step 3"),
        ],
        ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else None,
    )
    def test_every_error(self, monkeypatch, capsys, error, code, line):
        def fail(arguments):
            raise error

        monkeypatch.setattr(info, "run", fail)
        assert run("info", "tiny") == code
        captured = capsys.readouterr()
        assert captured.out == "" and captured.err.count("\n") == 1
        assert captured.err.startswith("perceivers: ") and line in captured.err
        with pytest.raises(type(error)) if not isinstance(error, BrokenPipeError) else pytest.MonkeyPatch.context():
            run("info", "tiny", "--traceback")

    def test_sigterm(self, monkeypatch, capsys):
        monkeypatch.setattr(info, "run", lambda arguments: signal.raise_signal(signal.SIGTERM))
        assert run("info", "tiny") == perceivers_cli.TERMINATED
        assert capsys.readouterr().err == "perceivers: interrupted\n"
        assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL

    @pytest.mark.parametrize("words", [["train", "--list"], ["--help"]])
    def test_a_reader_that_went_away_is_no_error(self, words):
        read, write = os.pipe()
        os.close(read)
        result = run_apart(*words, stdout=write)
        os.close(write)
        assert result.returncode in (0, perceivers_cli.PIPE_CLOSED)  # argparse forgives it while it prints the help
        assert result.stderr == ""

    @pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
    def test_a_full_disk_behind_stdout(self):
        with open("/dev/full", "w") as full:
            result = run_apart("train", "--list", stdout=full)
        assert result.returncode == 1
        assert result.stderr == "perceivers: error: [Errno 28] No space left on device\n"


class TestFlags:
    """Flags of the Trainer that cannot work here are refused at once, as are fields that nothing reads."""

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            (
                {"per_device_train_batch_size": 0},
                "`--per_device_train_batch_size` must be a finite number of at least 1",
            ),
            ({"per_device_eval_batch_size": 0}, "`--per_device_eval_batch_size` must be"),
            ({"per_device_eval_batch_size": -8}, "got -8"),
            ({"gradient_accumulation_steps": 0}, "at least 1, got 0"),
            ({"learning_rate": float("nan")}, "`--learning_rate` .* got nan"),
            ({"learning_rate": float("inf")}, "`--learning_rate` .* got inf"),
            ({"learning_rate": -1e-3}, "`--learning_rate`"),
            ({"max_grad_norm": -1.0}, "`--max_grad_norm`"),
            ({"weight_decay": float("nan")}, "`--weight_decay`"),
            ({"dataloader_num_workers": -1}, "`--dataloader_num_workers`"),
            ({"save_total_limit": 0}, "`--save_total_limit`"),
            ({"label_smoothing_factor": 2.0}, "`--label_smoothing_factor` must be at least 0 and below 1, got 2.0"),
            ({"label_smoothing_factor": 1.0}, "below 1"),
            ({"label_smoothing_factor": float("nan")}, "below 1"),
            ({"num_train_epochs": 0.0}, "`--num_train_epochs` must be above 0, got 0.0"),
            ({"num_train_epochs": float("nan")}, "`--num_train_epochs`"),
            ({"label_names": ["foo"]}, "`--label_names .*` cannot work here: the labels"),
            ({"prediction_loss_only": True}, "`--prediction_loss_only True` cannot work here"),
            ({"eval_do_concat_batches": False}, "cannot work here"),
            ({"batch_eval_metrics": True}, "cannot work here"),
            ({"neftune_noise_alpha": 5.0}, "embeddings of words"),
            ({"train_sampling_strategy": "group_by_length"}, "orders texts"),
            ({"include_for_metrics": ["inputs"]}, "cannot work here"),
        ],
        ids=str,
    )
    def test_refused(self, tmp_path, changes, message):
        arguments = PerceiverTrainingArguments(output_dir=str(tmp_path / "out"), use_cpu=True)
        check_training_flags(arguments)
        for name, value in changes.items():
            setattr(arguments, name, value)
        with pytest.raises(UsageError, match=message):
            check_training_flags(arguments)

    @pytest.mark.parametrize("name", [None, "loss", "eval_loss", "accuracy", "eval_top5_accuracy"])
    def test_metrics(self, name):
        check_metric(name, ["accuracy", "top5_accuracy"])

    @pytest.mark.parametrize("name", ["acc", "f1", "eval_", "", "train_loss"])
    def test_metrics_that_are_not_measured(self, name):
        with pytest.raises(UsageError, match=r"is not measured.* there are loss, accuracy"):
            check_metric(name, ["accuracy"])

    @pytest.mark.parametrize(
        ("processor_class", "field", "meant"),
        [
            (ImagePerceiverImageProcessor, "sise", "size"),
            (ImagePerceiverImageProcessorPil, "image_men", "image_mean"),
            (ImagePerceiverImageProcessorPil, "croop_size", "crop_size"),
            (AudioPerceiverFeatureExtractor, "num_sample", "num_samples"),
            (AudioPerceiverFeatureExtractor, "sample_rate", "sampling_rate"),
            (PointCloudPerceiverFeatureExtractor, "num_point", "num_points"),
            (PointCloudPerceiverFeatureExtractor, "feature_name", "feature_names"),
        ],
    )
    def test_unknown_fields_of_a_processor(self, processor_class, field, meant):
        processor = processor_class()
        check_processor_fields(processor, [meant])
        with pytest.raises(UsageError, match=f"unknown field `{field}` .did you mean `{meant}`"):
            check_processor_fields(processor, [field])

    @pytest.mark.parametrize("task", TASKS, ids=lambda task: task.name)
    def test_the_fields_that_a_processor_saves_are_known(self, task):
        classes = task.modality.processor_class
        for processor_class in classes if isinstance(classes, tuple) else (classes,):
            saved = set(processor_class().to_dict())
            made = {"image_processor_type", "feature_extractor_type", "auto_map", "processor_class"}
            check_processor_fields(processor_class(), saved - made)


class TestPredictions:
    """`predict` prints each result when it has it, and keeps what it has."""

    @pytest.fixture
    def interrupt(self, monkeypatch):
        """Makes Ctrl-C come in the second batch."""
        predict_batch, calls = predict.predict_batch, []

        def press(*arguments):
            if calls:
                raise KeyboardInterrupt
            calls.append(predict_batch(*arguments))

        monkeypatch.setattr(predict, "predict_batch", press)

    def test_interrupted_table(self, model, images, capsys, interrupt):
        assert run("predict", model, images, "--batch_size", 4, "--device", "cpu") == 130
        captured = capsys.readouterr()
        assert captured.out.count(".png") == 4
        assert "perceivers: interrupted after 4 of 6 images\n" in captured.err

    def test_interrupted_json_is_valid(self, model, images, capsys, interrupt):
        assert run("predict", model, images, "--batch_size", 4, "--device", "cpu", "--json") == 130
        assert [Path(result["file"]).name for result in json.loads(capsys.readouterr().out)] == [
            f"{index}.png" for index in range(4)
        ]

    def test_interrupted_before_the_first(self, model, images, capsys, monkeypatch):
        def press(*arguments):
            raise KeyboardInterrupt

        monkeypatch.setattr(predict, "predict_batch", press)
        assert run("predict", model, images, "--device", "cpu", "--json") == 130
        assert capsys.readouterr().out == "[]\n"

    def test_the_array_is_what_json_writes(self, model, images, capsys):
        (images / "broken.png").write_bytes(b"x")
        assert run("predict", model, images, "--device", "cpu", "--json") == 1
        text = capsys.readouterr().out
        assert text == json.dumps(json.loads(text), indent=2) + "\n"
        assert run("predict", model, images, "--device", "cpu", "--json_lines", "--batch_size", 2) == 1
        lines = capsys.readouterr().out.splitlines()
        assert [json.loads(line)["file"] for line in lines] == [row["file"] for row in json.loads(text)]

    def test_results_come_before_the_last_is_read(self, model, images, capsys, monkeypatch):
        predict_batch, printed = predict.predict_batch, []

        def look(*arguments):
            printed.append(capsys.readouterr().out.count(".png"))
            return predict_batch(*arguments)

        monkeypatch.setattr(predict, "predict_batch", look)
        assert run("predict", model, images, "--device", "cpu", "--batch_size", 2) == 0
        assert printed == [0, 2, 2]

    @pytest.mark.parametrize("flag", [None, "--json", "--json_lines"])
    @pytest.mark.parametrize("encoding", ["cp1252", "ascii", "latin-1", "utf-8"])
    def test_a_terminal_that_lacks_a_letter(self, tmp_path, monkeypatch, encoding, flag):
        folder = save_model(tmp_path / "model", ("猫", "é😀\x1b[31m"))
        images = save_images(tmp_path / "bildé")
        raw = io.BytesIO()
        monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding=encoding))
        assert run("predict", folder, images, "--top_k", 2, "--device", "cpu", *([flag] if flag else [])) == 0
        text = raw.getvalue().decode(encoding)
        assert text.count(".png") == 6 and "\x1b" not in text
        if flag:
            rows = json.loads(text) if flag == "--json" else [json.loads(line) for line in text.splitlines()]
            assert {row["label"] for result in rows for row in result["predictions"]} == {"猫", "é😀\x1b[31m"}
            assert Path(rows[0]["file"]) == images / "0.png"

    def test_a_name_that_is_no_utf8(self, model, images, monkeypatch):
        try:
            os.rename(os.fsencode(images / "0.png"), os.fsencode(images) + b"/\xff.png")
        except OSError:
            pytest.skip("this file system takes UTF-8 only")
        for flag in ([], ["--json"]):
            raw = io.BytesIO()
            monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding="utf-8"))
            assert run("predict", model, images, "--device", "cpu", *flag) == 0
            assert r"\udcff.png" in raw.getvalue().decode()

    def test_a_folder_that_fills_up_loses_no_result(self, model, images, tmp_path, capsys, monkeypatch):
        def full(self, *arguments, **options):
            raise OSError(errno.ENOSPC, "No space left on device", str(self))

        monkeypatch.setattr(Path, "write_text", full)
        assert run("predict", model, images, "--device", "cpu", "--output_dir", tmp_path / "out") == 1
        captured = capsys.readouterr()
        assert captured.out.count(".png") == 6
        assert captured.err.count("could not be written: [Errno 28] No space left on device") == 6

    def test_an_output_folder_that_cannot_be_made_is_refused_first(self, model, images, tmp_path, capsys):
        (tmp_path / "out").write_text("a file")
        assert run("predict", model, images, "--output_dir", tmp_path / "out") == 1
        captured = capsys.readouterr()
        assert captured.out == "" and "File exists" in captured.err

    @pytest.mark.parametrize("value", [float("nan"), float("inf")])
    @pytest.mark.parametrize("command", ["predict", "evaluate"])
    def test_weights_that_are_not_finite(self, model, images, capsys, command, value):
        edit_weights(model, lambda weights: {**weights, "classifier.bias": weights["classifier.bias"] + value})
        assert run(command, model, *([images] if command == "predict" else []), "--json") == 1
        captured = capsys.readouterr()
        assert captured.out == "" and "its weight classifier.bias has values that are NaN or infinite" in captured.err

    def test_scores_that_are_not_finite(self, model, images, capsys):
        edit_weights(model, lambda weights: {**weights, "classifier.weight": weights["classifier.weight"] * 1e38 * 3})
        assert run("predict", model, images, "--json", "--device", "cpu") == 1
        results = json.loads(capsys.readouterr().out)
        assert {result["error"] for result in results} == {
            "The model's scores are NaN or infinite, so there is no label."
        }


class TestEvaluations:
    """`evaluate` has the checks of `predict`, and prints before it writes."""

    def test_a_model_without_a_head(self, model, capsys):
        edit_weights(model, lambda weights: {k: v for k, v in weights.items() if "classifier" not in k})
        assert run("evaluate", model) == 1
        assert "it has no weights for classifier.bias, classifier.weight" in capsys.readouterr().err

    @pytest.mark.parametrize("command", ["predict", "evaluate"])
    def test_labels_that_do_not_fit_the_head(self, model, images, capsys, command):
        edit_config(model, id2label={"0": "a", "1": "b", "2": "c"}, label2id={"a": 0, "b": 1, "c": 2})
        assert run(command, model, *([images] if command == "predict" else [])) == 1
        assert [line for line in capsys.readouterr().err.splitlines() if line.startswith("perceivers: error: ")]

    @pytest.mark.parametrize("device", ["cuda:77", "abacus", "cpu:x", ""])
    @pytest.mark.parametrize("command", ["predict", "evaluate"])
    def test_a_device_that_is_not_there(self, model, images, capsys, command, device):
        assert run(command, model, *([images] if command == "predict" else []), "--device", device) == 1
        assert f"The device `{device}` cannot be used" in capsys.readouterr().err

    def test_results_are_printed_before_they_are_written(self, tmp_path, capsys, monkeypatch):
        model = save_model(tmp_path / "digits", [str(digit) for digit in range(10)])
        words = ["--max_eval_samples", 4, "--device", "cpu", "--json"]
        assert run("evaluate", model, *words, "--output_file", tmp_path / "new/folder/r.json") == 0
        assert json.loads(capsys.readouterr().out) == json.loads((tmp_path / "new/folder/r.json").read_text())
        (tmp_path / "file").write_text("")
        assert run("evaluate", model, *words, "--output_file", tmp_path / "file/r.json") == 1
        captured = capsys.readouterr()
        assert "accuracy" in json.loads(captured.out)
        assert "The results are above, but could not be written" in captured.err
