"""Trainings that diverge, are interrupted, or find a full disk or a damaged checkpoint: nothing is lost or half."""

import json
import os
import shlex
import shutil
import signal
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch.utils.data import WeightedRandomSampler

from perceivers.cli.main import main
from perceivers.training.checkpoints import UNFINISHED, last_whole_checkpoint
from perceivers.training.trainer import PerceiverTrainer, WeightedSampler
from tests.runs import run, the_line, train

pytestmark = pytest.mark.integration

STEPS = ("--save_strategy", "steps", "--save_steps", "2", "--num_train_epochs", "2")  # 2, 4 and 6


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    assert train(folder, *STEPS) == 0
    return folder


class TestTraining:
    """Training stops when it diverges, and saves the model before it evaluates."""

    @pytest.mark.parametrize(
        "words",
        [
            ["--learning_rate", "1e38", "--max_grad_norm", "0"],
            ["--learning_rate", "1e30", "--max_grad_norm", "0", "--save_strategy", "steps", "--save_steps", "1"],
            ["--learning_rate", "1e38", "--max_grad_norm", "0", "--max_steps", "1", "--warmup_steps", "0"],
            ["--learning_rate", "1e38", "--max_grad_norm", "0", "--logging_nan_inf_filter", "false"],
        ],
        ids=str,
    )
    def test_divergence_is_an_error(self, tmp_path, capsys, words):
        assert train(tmp_path, *words) == 1
        error = the_line(capsys)
        assert "NaN" in error and "--learning_rate" in error
        out = tmp_path / "out"
        assert not (out / "model.safetensors").exists() and not (out / UNFINISHED).exists()
        for checkpoint in out.glob("checkpoint-*"):
            assert all(tensor.isfinite().all() for tensor in load_file(checkpoint / "model.safetensors").values())
            assert str(checkpoint) in error or len(list(out.glob("checkpoint-*"))) > 1

    def test_an_evaluation_that_fails_does_not_cost_the_model(self, tmp_path, capsys, monkeypatch):
        def fail(*arguments, **options):
            raise RuntimeError("broken.png\nis cut off")

        monkeypatch.setattr(PerceiverTrainer, "evaluate", fail)
        assert train(tmp_path, "--save_strategy", "no", "--eval_strategy", "no") == 1
        assert f"The model is saved in {tmp_path}/out, but its evaluation failed: broken.png is" in the_line(capsys)
        assert run("predict", tmp_path / "out", tmp_path / "images", "--device", "cpu") == 0

    def test_an_evaluation_between_epochs_that_fails_leaves_a_checkpoint(self, tmp_path, capsys, monkeypatch):
        with monkeypatch.context() as patch:
            patch.setattr(PerceiverTrainer, "evaluate", lambda *arguments, **options: 1 / 0)
            assert train(tmp_path, "--save_strategy", "no", "--eval_strategy", "epoch") == 1
        line = the_line(capsys)
        assert "ZeroDivisionError: division by zero" in line and "Step 3 is saved; to go on: perceivers" in line
        assert main(shlex.split(line.partition("go on: perceivers ")[2])) == 0

    @pytest.mark.parametrize("words", [["--save_strategy", "steps", "--save_steps", "1"], ["--save_strategy", "no"]])
    def test_a_full_disk_is_one_line_and_leaves_no_half(self, tmp_path, capsys, monkeypatch, words):
        def full(tensors, path, **options):
            Path(path).write_bytes(b"half")
            raise SafetensorError("I/O error: No space left on device (os error 28)")

        monkeypatch.setattr("transformers.modeling_utils.safe_save_file", full)
        assert train(tmp_path, *words) == 1
        assert "No space left" in the_line(capsys)
        assert not list((tmp_path / "out").rglob("*.safetensors"))

    def test_a_metric_that_is_not_measured_is_refused_before_training(self, tmp_path, capsys):
        assert train(tmp_path, "--metric_for_best_model", "acuracy") == 2
        assert "`--metric_for_best_model acuracy` is not measured (did you mean `accuracy`?)" in the_line(capsys)
        assert not (tmp_path / "out").exists()

    @pytest.mark.parametrize(
        ("words", "code", "message"),
        [
            (["--config", "hidden_act=foo"], 1, "foo"),
            (["--processor", "sise=3"], 2, "unknown field `sise` (did you mean `size`?)"),
            (["--gradient_accumulation_steps", "0"], 2, "at least 1"),
            (["--optim", "adamx"], 2, "adamx"),
            (["--lr_scheduler_type", "zigzag"], 2, "zigzag"),
            (["--save_strategy", "sometimes"], 2, "sometimes"),
            (["--load_best_model_at_end", "true", "--eval_strategy", "epoch", "--save_strategy", "no"], 2, "strategy"),
        ],
    )
    def test_wrong_values_are_one_line(self, tmp_path, capsys, words, code, message):
        assert train(tmp_path, *words) == code
        assert message in the_line(capsys)
        assert not (tmp_path / "out").exists()

    def test_the_printed_command_can_be_pasted(self, tmp_path, capsys):
        assert train(tmp_path, "--output_dir", tmp_path / "my model; é") == 0
        words = shlex.split(capsys.readouterr().out.splitlines()[-1].partition("Try it: ")[2])
        assert words[:3] == ["perceivers", "predict", str(tmp_path / "my model; é")]


class TestCheckpoints:
    """`last` is the newest whole checkpoint; signals leave one."""

    @pytest.mark.parametrize(
        "name",
        ["model.safetensors", "optimizer.pt", "scheduler.pt", "rng_state.pth", "trainer_state.json", "config.json"],
    )
    @pytest.mark.parametrize("change", ["cut", "empty", "missing"])
    def test_half_a_checkpoint_is_passed_over(self, trained, tmp_path, name, change):
        out = shutil.copytree(trained / "out", tmp_path / "out")
        broken = out / "checkpoint-6" / name
        content = broken.read_bytes()
        broken.unlink()
        if change != "missing":
            broken.write_bytes(content[: len(content) // 2] if change == "cut" else b"")
        found, passed_over = last_whole_checkpoint(out)
        assert found == out / ("checkpoint-6" if (name, change) == ("config.json", "missing") else "checkpoint-4")
        assert all(name in line for line in passed_over)

    def test_resuming_passes_over_the_broken(self, trained, tmp_path, capsys):
        out = shutil.copytree(trained / "out", tmp_path / "out")
        for path in (out / "checkpoint-6").iterdir():
            path.unlink()
        (out / UNFINISHED / "checkpoint-8").mkdir(parents=True)  # of a run that was killed while it wrote
        (out / "checkpoint-4" / "model.safetensors").write_bytes(b"half")
        words = [*STEPS, "--train_dir", trained / "images", "--resume_from_checkpoint", "last"]
        assert train(tmp_path, *words) == 0
        error = capsys.readouterr().err
        assert f"perceivers: warning: passed over {out}/checkpoint-6: there is no model.safetensors, nor" in error
        assert f"perceivers: warning: passed over {out}/checkpoint-4: model.safetensors is cut off" in error
        whole, again = (load_file(folder / "out/model.safetensors") for folder in (trained, tmp_path))
        assert all(torch.equal(whole[name], again[name]) for name in whole)
        assert last_whole_checkpoint(out) == (out / "checkpoint-6", []) and not (out / UNFINISHED).exists()

    def test_a_damaged_checkpoint_is_named(self, trained, tmp_path, capsys):
        checkpoint = shutil.copytree(trained / "out/checkpoint-4", tmp_path / "checkpoint-4")
        (checkpoint / "optimizer.pt").write_bytes((checkpoint / "optimizer.pt").read_bytes()[:999])
        assert train(tmp_path, *STEPS, "--resume_from_checkpoint", checkpoint) == 1
        assert f"The checkpoint {checkpoint} is damaged: optimizer.pt is cut off" in the_line(capsys)

    def test_the_best_checkpoint_is_named_where_it_is(self, tmp_path):
        best = ["--eval_strategy", "steps", "--eval_steps", "2", "--load_best_model_at_end", "true"]
        assert train(tmp_path, *STEPS, *best, "--save_total_limit", "1") == 0
        for path in (tmp_path / "out").rglob("trainer_state.json"):
            named = Path(json.loads(path.read_text())["best_model_checkpoint"])
            assert named.parent == tmp_path / "out"
        assert named.is_dir() and 1 <= len(list((tmp_path / "out").glob("checkpoint-*"))) <= 2

    @pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
    def test_a_signal_leaves_a_checkpoint(self, tmp_path, capsys, monkeypatch, number, code):
        step = PerceiverTrainer.training_step
        handlers = [signal.getsignal(name) for name in (signal.SIGTERM, signal.SIGINT)]

        def send(*arguments, **options):
            os.kill(os.getpid(), number)
            return step(*arguments, **options)

        with monkeypatch.context() as patch:
            patch.setattr(PerceiverTrainer, "training_step", send)
            assert train(tmp_path) == code
        assert "perceivers: stopped at step 1 of 3; to go on: perceivers train" in capsys.readouterr().err
        assert [signal.getsignal(name) for name in (signal.SIGTERM, signal.SIGINT)] == handlers
        assert last_whole_checkpoint(tmp_path / "out") == (tmp_path / "out/checkpoint-1", [])
        assert train(tmp_path, "--resume_from_checkpoint", "last") == 0

    @pytest.mark.parametrize(
        ("words", "message"),
        [
            (["--config", "num_latents=5"], "its num_latents are 8, those of this run 5"),
            (["--config", "image_size=20"], "its image_size are"),
        ],
    )
    def test_another_configuration_is_refused(self, trained, tmp_path, capsys, words, message):
        checkpoint = trained / "out/checkpoint-4"
        assert train(tmp_path, *STEPS, *words, "--resume_from_checkpoint", checkpoint) == 1
        assert f"The checkpoint {checkpoint} cannot be resumed: {message}" in the_line(capsys)

    @pytest.mark.parametrize("names", [["dark", "zebra"], ["dark", "light", "zebra"]])
    def test_other_classes_are_refused(self, trained, tmp_path, capsys, names):
        for name in names:
            shutil.copytree(trained / "images/dark", tmp_path / "images" / name)
        words = ["--train_dir", tmp_path / "images", "--resume_from_checkpoint", trained / "out/checkpoint-4"]
        assert train(tmp_path, *STEPS, *words) == 1
        assert f"its classes are ['dark', 'light'], those of this run {names}" in the_line(capsys)

    @pytest.mark.parametrize(
        ("words", "step"),  # 3 steps per epoch
        [
            *((["--class_balanced_sampling"], step) for step in (2, 3, 4)),
            *((["--random_resized_crop", 0.3, "--horizontal_flip", 0.5], step) for step in (1, 3, 5)),
            (["--rand_augment", "rand-m9-n2", "--rotation", 20, "--mixup", 0.4], 4),
            (["--class_balanced_sampling", "--random_resized_crop", 0.3, "--dataloader_num_workers", 1], 4),
        ],
    )
    def test_a_resumed_run_ends_as_it_would_have(self, tmp_path, words, step):
        words = [*words, "--save_strategy", "steps", "--save_steps", 1, "--num_train_epochs", 2]
        words += ["--learning_rate", 1e-3]
        assert train(tmp_path, *words) == 0
        checkpoint = tmp_path / "out" / f"checkpoint-{step}"
        assert train(tmp_path, *words, "--output_dir", tmp_path / "b", "--resume_from_checkpoint", checkpoint) == 0
        whole, resumed = (load_file(tmp_path / name / "model.safetensors") for name in ("out", "b"))
        assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_the_draws_of_an_epoch():
    weights = [1.0, 0.0, 2.0, 5.0] * 5
    stream = WeightedRandomSampler(weights, 20, generator=torch.Generator().manual_seed(3))
    epochs = [list(stream) for _ in range(4)]
    sampler = WeightedSampler(weights, 3)
    assert [[draw % 20 for draw in sampler] for _ in range(4)] == epochs
    for epoch in (2, 0, 3, 3, 1):
        sampler.set_epoch(epoch)
        draws = list(sampler)
        assert [draw % 20 for draw in draws] == epochs[epoch]
        # A row that is drawn again is varied in another way.
        assert len(set(draws)) == 20 > len(set(epochs[epoch])) and min(draws) < 20
