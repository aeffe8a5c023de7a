"""Fine-tuning with a frozen body and with LoRA: what is trained, what is saved, and what is refused."""

import json
import os
import shutil
import signal
import sys
import wave

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoModelForImageClassification,
    PerceiverImageProcessorPil,
    ResNetConfig,
    ResNetForImageClassification,
    ViTConfig,
    ViTForImageClassification,
    ViTImageProcessorPil,
    pipeline,
)

from perceivers import ImagePerceiverForImageClassification
from perceivers.cli.flags import load_task
from perceivers.training.adaptation import AdaptationArguments, freeze_body, head_modules, linear_layers
from perceivers.training.trainer import PerceiverTrainer
from tests.models import MODELS, randomize
from tests.runs import run, save_images, save_model, the_line, train
from tests.test_checkpoint_conversion import CLASSES, random_reference

pytestmark = pytest.mark.usefixtures("one_thread")
# The best of so few steps may be the first, which changes nothing.
QUICK = ["--max_steps", 4, "--learning_rate", "1e-2", "--disable_tqdm", "true", "--load_best_model_at_end", "false"]
WAYS = {"frozen": ["--freeze_body"], "lora": ["--lora", "--lora_rank", 2, "--lora_alpha", 4]}


def fine_tune(folder, model, *words):
    """Fine-tunes on 12 images of two classes, which fill an epoch with 3 steps."""
    for name in ("dark", "light"):
        save_images(folder / "images" / name)
    defaults = ["--train_dir", folder / "images", "--output_dir", folder / "out", "--report_to", "none", "--use_cpu"]
    return run("train", *defaults, "--model_name_or_path", model, "--per_device_train_batch_size", 4, *QUICK, *words)


def weights(folder):
    return load_file(folder / "model.safetensors")


def changed(before, after):
    assert before.keys() == after.keys()
    return {key for key in before if not torch.equal(before[key], after[key])}


def save_deepmind(folder, name):
    """Random weights in the layout of DeepMind's published models, with their processor."""
    random_reference(name, attention_probs_dropout_prob=0.1).save_pretrained(folder)
    size = {"height": 14, "width": 14}
    PerceiverImageProcessorPil(
        size=size, crop_size={"height": 16, "width": 16}, image_mean=[0.1, 0.2, 0.3]
    ).save_pretrained(folder)
    return folder


def save_recordings(folder):
    folder.mkdir(parents=True)
    random = np.random.default_rng(len(folder.name))
    for index in range(5):
        with wave.open(str(folder / f"{index}.wav"), "wb") as file:
            file.setparams((1, 2, 8000, 0, "NONE", "not compressed"))
            file.writeframes(random.integers(-9000, 9000, 512, dtype=np.int16).tobytes())


def save_scans(folder):
    folder.mkdir(parents=True)
    random = np.random.default_rng(len(folder.name))
    for index in range(5):
        np.save(folder / f"{index}.npy", random.normal(size=(64, 3)))


class TestWhatIsTrained:
    @pytest.mark.parametrize("name", MODELS)
    def test_a_frozen_body_leaves_the_head(self, name):
        model = freeze_body(MODELS[name].make())
        trained = {key for key, parameter in model.named_parameters() if parameter.requires_grad}
        assert trained == {key for key, _ in model.named_parameters() if not key.startswith("perceiver.")}

    @pytest.mark.parametrize("name", MODELS)
    def test_a_frozen_body_computes_in_training_what_it_computes_in_evaluation(self, name):
        case = MODELS[name]
        model, inputs = freeze_body(case.make(attention_dropout=0.5)), case.inputs[1]
        with torch.no_grad():
            expected = model.eval()(**inputs).logits
        buffers = {key: buffer.clone() for key, buffer in model.named_buffers()}
        logits = model.train()(**inputs).logits
        if case.pools_by_mean:  # the query's decoder is a part of the head, and drops
            torch.testing.assert_close(logits, expected)
        logits.sum().backward()
        torch.testing.assert_close(dict(model.named_buffers()), buffers)
        assert all((parameter.grad is not None) == parameter.requires_grad for parameter in model.parameters())

    @pytest.mark.parametrize("name", MODELS)
    def test_lora_adapts_every_linear_layer_of_the_body(self, name):
        pytest.importorskip("peft")
        case = MODELS[name]
        model = case.make()
        layers = linear_layers(model, head_modules(model))
        assert {layer.rpartition(".")[2] for layer in layers} >= {"q_proj", "k_proj", "v_proj", "o_proj", "fc1", "fc2"}
        before = {key: buffer.clone() for key, buffer in model.named_buffers()}
        adapted = AdaptationArguments(lora=True, lora_rank=2).adapt(model)
        adapted.train()(**case.inputs[1]).logits.square().sum().backward()
        gradients = {key: p.grad for key, p in adapted.named_parameters() if p.requires_grad}
        assert sum("lora_A" in key for key in gradients) == len(layers)
        assert all(gradient is not None for gradient in gradients.values())
        merged = adapted.merge_and_unload()
        torch.testing.assert_close(dict(merged.named_buffers()), before)

    def test_lora_of_some_layers(self):
        pytest.importorskip("peft")
        adapted = AdaptationArguments(lora=True, lora_target_modules=["q_proj", "attention.v_proj"]).adapt(
            MODELS["image-query"].make()
        )
        layers = {key.split(".lora_A")[0] for key, _ in adapted.named_parameters() if ".lora_A" in key}
        assert {layer.rpartition(".")[2] for layer in layers} == {"q_proj", "v_proj"}
        assert not [layer for layer in layers if "pooler" in layer]

    def test_the_head_of_a_model_without_a_body_of_its_own(self):
        model = ResNetForImageClassification(ResNetConfig(embedding_size=8, hidden_sizes=[8], depths=[1]))
        model.base_model_prefix = "none"
        assert head_modules(model) == ["classifier.1"]
        freeze_body(model)
        trained = {key for key, parameter in model.named_parameters() if parameter.requires_grad}
        assert trained == {"classifier.1.weight", "classifier.1.bias"}


@pytest.mark.integration
class TestRuns:
    @pytest.mark.parametrize("way", WAYS)
    def test_what_is_saved_loads_like_any_other_model(self, way, tmp_path, capsys):
        if way == "lora":
            pytest.importorskip("peft")
        before = weights(save_model(tmp_path / "model"))
        assert fine_tune(tmp_path, tmp_path / "model", *WAYS[way]) == 0
        text = capsys.readouterr()
        assert f"parameters: the {'adapters and head' if way == 'lora' else 'head'}." in text.err
        difference = changed(before, weights(tmp_path / "out"))
        assert {key for key in difference if key.startswith("classifier.")}
        body = {key for key in difference if key.startswith("perceiver.")}
        assert (len(body) > 10 and all(key.endswith("weight") for key in body)) if way == "lora" else not body
        assert type(AutoModelForImageClassification.from_pretrained(tmp_path / "out")).__name__ == (
            "ImagePerceiverForImageClassification"
        )
        assert not list((tmp_path / "out").glob("adapter*"))
        assert run("predict", tmp_path / "out", tmp_path / "images" / "dark" / "0.png") == 0
        assert "dark" in capsys.readouterr().out
        assert run("evaluate", tmp_path / "out") == 0
        measured = json.loads((tmp_path / "out" / "eval_results.json").read_text())["eval_accuracy"]
        assert f"{100 * measured:.2f}" in capsys.readouterr().out

    @pytest.mark.parametrize("way", WAYS)
    def test_a_resumed_run_ends_with_the_same_weights(self, way, tmp_path, monkeypatch):
        if way == "lora":
            pytest.importorskip("peft")
        save_model(tmp_path / "model")
        words = [*WAYS[way], "--save_steps", 2, "--save_strategy", "steps"]
        assert fine_tune(tmp_path, tmp_path / "model", *words) == 0
        whole = weights(tmp_path / "out")
        (tmp_path / "out").rename(tmp_path / "whole")
        training_step = PerceiverTrainer.training_step

        def press_ctrl_c(self, *args, **kwargs):
            os.kill(os.getpid(), signal.SIGINT)
            return training_step(self, *args, **kwargs)

        with monkeypatch.context() as patch:
            patch.setattr(PerceiverTrainer, "training_step", press_ctrl_c)
            assert fine_tune(tmp_path, tmp_path / "model", *words) == 130
        assert run("train", tmp_path / "out" / "recipe.yaml", "--resume_from_checkpoint", "last") == 0
        assert not changed(whole, weights(tmp_path / "out"))

    def test_the_best_checkpoint_is_merged(self, tmp_path):
        pytest.importorskip("peft")
        save_model(tmp_path / "model")
        words = ["--eval_strategy", "steps", "--eval_steps", 1, "--save_strategy", "steps", "--save_steps", 1]
        best = ["--load_best_model_at_end", "--metric_for_best_model", "loss", "--learning_rate", "3"]
        assert fine_tune(tmp_path, tmp_path / "model", *WAYS["lora"], *words, *best) == 0
        history = json.loads((tmp_path / "out" / "trainer_state.json").read_text())["log_history"]
        losses = [entry["eval_loss"] for entry in history if "eval_loss" in entry]
        assert losses[-1] == pytest.approx(min(losses[:-1]), rel=1e-4)
        assert losses[-1] < losses[-2]

    @pytest.mark.parametrize("way", WAYS)
    @pytest.mark.parametrize("name", ["audio-waveform", "point-cloud"])
    def test_other_modalities(self, way, name, tmp_path):
        if way == "lora":
            pytest.importorskip("peft")
        case = MODELS[name]
        model = case.make(num_labels=2)
        model.save_pretrained(tmp_path / "model")
        case.processor().save_pretrained(tmp_path / "model")
        for label in ("high", "low"):
            save = save_recordings if case.task.startswith("audio") else save_scans
            save(tmp_path / "files" / label)
        words = ["--task", case.task, "--train_dir", tmp_path / "files", "--output_dir", tmp_path / "out", "--use_cpu"]
        words += ["--model_name_or_path", tmp_path / "model", "--report_to", "none", *QUICK, *WAYS[way]]
        assert run("train", *words) == 0
        loaded, config = load_task(str(tmp_path / "out"), False)
        assert loaded.name == case.task
        assert type(loaded.auto_model(config).from_pretrained(tmp_path / "out")) is case.model_class
        difference = changed(weights(tmp_path / "model"), weights(tmp_path / "out"))
        assert any(key.startswith("perceiver.") for key in difference) == (way == "lora")

    @pytest.mark.parametrize("way", WAYS)
    def test_a_model_of_transformers(self, way, tmp_path):
        if way == "lora":
            pytest.importorskip("peft")
        config = ViTConfig(
            image_size=16,
            patch_size=4,
            hidden_size=16,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=32,
        )
        randomize(ViTForImageClassification(config)).save_pretrained(tmp_path / "model")
        ViTImageProcessorPil(size={"height": 16, "width": 16}).save_pretrained(tmp_path / "model")
        assert fine_tune(tmp_path, tmp_path / "model", *WAYS[way]) == 0
        difference = changed(weights(tmp_path / "model"), weights(tmp_path / "out"))
        assert any("attention" in key for key in difference) == (way == "lora")


@pytest.mark.integration
class TestDeepMindsLayout:
    @pytest.mark.parametrize("way", WAYS)
    @pytest.mark.parametrize("name", CLASSES, ids=["fourier", "learned", "conv"])
    def test_becomes_ours_and_keeps_its_processor(self, name, way, tmp_path):
        if way == "lora":
            pytest.importorskip("peft")
        save_deepmind(tmp_path / "theirs", name)
        words = ["--config", "attention_dropout=0.0", *WAYS[way]]
        assert fine_tune(tmp_path, tmp_path / "theirs", *words) == 0
        config = AutoConfig.from_pretrained(tmp_path / "out")
        assert (config.model_type, config.attention_dropout) == ("image_perceiver", 0.0)
        assert config.id2label == {0: "dark", 1: "light"}
        processor = AutoImageProcessor.from_pretrained(tmp_path / "out")
        kept = AutoImageProcessor.from_pretrained(tmp_path / "theirs").to_dict()
        assert processor.to_dict() == kept
        assert list(kept["image_mean"]) == [0.1, 0.2, 0.3]
        ours = ImagePerceiverForImageClassification.from_pretrained(tmp_path / "theirs").state_dict()
        tuned = weights(tmp_path / "out")
        moved = {key for key in changed_shapes_aside(ours, tuned) if key.startswith("perceiver.")}
        assert bool(moved) == (way == "lora")
        assert not [key for key in moved if "running" in key]
        answer = pipeline("image-classification", model=str(tmp_path / "out"))(str(tmp_path / "images/dark/0.png"))
        assert {row["label"] for row in answer} == {"dark", "light"}


def changed_shapes_aside(before, after):
    return {
        key for key in before if before[key].shape == after[key].shape and not torch.equal(before[key], after[key])
    }


class TestRefusals:
    @pytest.mark.parametrize(
        ("words", "reason"),
        [
            (["--freeze_body"], "`--freeze_body` needs weights to start from: add `--model_name_or_path`."),
            (["--lora"], "`--lora` needs weights to start from: add `--model_name_or_path`."),
            (["--lora", "--freeze_body"], "`--freeze_body` and `--lora` exclude each other."),
            (["--lora_rank", 4], "`--lora_rank` needs `--lora`."),
            (["--lora_target_modules", "q_proj"], "`--lora_target_modules` needs `--lora`."),
            (["--lora", "--lora_rank", 0], "`--lora_rank` must be at least 1, got 0."),
        ],
    )
    def test_flags(self, words, reason, tmp_path, capsys):
        assert train(tmp_path, *words) == 2
        assert reason in the_line(capsys)

    def test_peft_is_missing(self, tmp_path, capsys, monkeypatch):
        monkeypatch.setitem(sys.modules, "peft", None)
        assert fine_tune(tmp_path, save_model(tmp_path / "model"), "--lora") == 2
        line = the_line(capsys)
        assert line.endswith("`--lora` needs `peft`, which is not installed: pip install 'perceivers[lora]'")

    @pytest.mark.integration
    def test_a_checkpoint_of_other_flags(self, tmp_path, capsys):
        pytest.importorskip("peft")
        save_model(tmp_path / "model")
        words = ["--save_steps", 2, "--save_strategy", "steps"]
        assert fine_tune(tmp_path, tmp_path / "model", *WAYS["lora"], *words) == 0
        capsys.readouterr()
        resume = ["--resume_from_checkpoint", "last"]
        assert fine_tune(tmp_path, tmp_path / "model", *words, *resume) == 1
        assert the_line(capsys).endswith("was trained with `--lora`, this run is without it.")
        assert fine_tune(tmp_path, tmp_path / "model", *words, *resume, "--lora") == 1
        assert the_line(capsys).endswith("was trained with `--lora_rank 2`, this run has 8.")

    @pytest.mark.integration
    def test_adapters_are_no_model(self, tmp_path, capsys):
        pytest.importorskip("peft")
        save_model(tmp_path / "model")
        assert fine_tune(tmp_path, tmp_path / "model", *WAYS["lora"], "--save_strategy", "epoch") == 0
        checkpoint = next((tmp_path / "out").glob("checkpoint-*"))
        capsys.readouterr()
        for command in (["predict", checkpoint, tmp_path / "images/dark/0.png"], ["evaluate", checkpoint]):
            assert run(*command) == 1
            line = the_line(capsys)
            assert "holds LoRA adapters alone (adapter_config.json), not a model: they are merged when" in line
            assert line.endswith(f"recipe.yaml --resume_from_checkpoint {checkpoint}.")
        shutil.copytree(checkpoint, tmp_path / "adapters")
        assert fine_tune(tmp_path, tmp_path / "adapters", "--overwrite_output_dir") == 1
        assert "by `merge_and_unload` of PEFT" in the_line(capsys)

    @pytest.mark.integration
    def test_a_checkpoint_of_a_whole_model(self, tmp_path, capsys):
        save_model(tmp_path / "model")
        words = ["--save_steps", 2, "--save_strategy", "steps"]
        assert fine_tune(tmp_path, tmp_path / "model", *words) == 0
        before = (tmp_path / "out" / "recipe.yaml").read_text()
        capsys.readouterr()
        assert fine_tune(tmp_path, tmp_path / "model", "--freeze_body", "--resume_from_checkpoint", "last") == 1
        assert the_line(capsys).endswith("was trained without `--freeze_body`, this run is with it.")
        assert (tmp_path / "out" / "recipe.yaml").read_text() == before

    def test_layers_that_are_not_there(self):
        pytest.importorskip("peft")
        arguments = AdaptationArguments(lora=True, lora_target_modules=["q_proj", "classifier"])
        reason = (
            "`--lora_target_modules classifier` is no linear layer below the head; they are called fc1, fc2, k_proj"
        )
        with pytest.raises(ValueError, match=reason):
            arguments.adapt(MODELS["image"].make())

    def test_a_model_without_linear_layers(self):
        pytest.importorskip("peft")
        model = ResNetForImageClassification(ResNetConfig(embedding_size=8, hidden_sizes=[8], depths=[1]))
        with pytest.raises(ValueError, match=r"ResNetForImageClassification has none below its head; use `--freeze_"):
            AdaptationArguments(lora=True).adapt(model)


class TestProposal:
    @pytest.mark.integration
    def test_few_photos_from_scratch(self, tmp_path, capsys):
        assert train(tmp_path) == 0
        (line,) = [line for line in capsys.readouterr().err.splitlines() if "are few" in line]
        start = "--model_name_or_path deepmind/vision-perceiver-fourier --config attention_dropout=0.0 --freeze_body"
        assert line.startswith("perceivers: 4 images per class to train on are few for a model from scratch.")
        how = "--minutes 60"
        assert line.endswith(f"perceivers train --train_dir {tmp_path / 'images'} {start} {how}")

    @pytest.mark.integration
    def test_nothing_is_said_of_a_start_from_weights(self, tmp_path, capsys):
        assert fine_tune(tmp_path, save_model(tmp_path / "model")) == 0
        assert "are few" not in capsys.readouterr().err
