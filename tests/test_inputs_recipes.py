"""Recipes and model folders from elsewhere are not trusted, and damaged ones are named."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from perceivers.cli.checks import check_config_fields
from perceivers.cli.errors import UsageError
from perceivers.cli.train import parse
from perceivers.training.recipe import read_recipe, write_recipe
from tests.runs import ROOT, run, save_images, save_model, the_line, train

pytestmark = pytest.mark.integration

TINY = "variant: tiny\n"


def write(tmp_path, text):
    path = tmp_path / "recipe.yaml"
    path.write_text(text)
    return path


@pytest.mark.parametrize("value", ["true", "True", "yes", "on", "1", "'true'", "[x]"])
def test_a_recipe_cannot_trust(tmp_path, value):
    path = write(tmp_path, f"{TINY}trust_remote_code: {value}\n")
    with pytest.raises(UsageError, match=r"sets `trust_remote_code`, .* command line only"):
        parse("perceivers train", [str(path)])
    with pytest.raises(UsageError, match="command line only"):
        parse("perceivers train", [str(path), "--trust_remote_code"])


def test_trust_is_given_on_the_command_line_and_not_recorded(tmp_path):
    arguments = parse("perceivers train", [str(write(tmp_path, TINY)), "--trust_remote_code", "--use_cpu"])
    assert arguments.model.trust_remote_code
    assert "trust_remote_code" not in arguments.recipe  # which recipe.yaml and the card show
    write_recipe(tmp_path / "again.yaml", arguments.recipe, "again")
    assert not parse("perceivers train", [str(tmp_path / "again.yaml")]).model.trust_remote_code


def test_a_recipe_that_says_that_it_does_not_trust_is_read(tmp_path):
    path = write(tmp_path, f"{TINY}trust_remote_code: false\nuse_cpu: true\n")
    assert not parse("perceivers train", [str(path)]).model.trust_remote_code


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("seed: &x 1\ndata_seed: *x\n", r"uses a YAML alias, \*x in line 2"),
        ("a: &a [1, 1]\nb: &b [*a, *a]\nc: &c [*b, *b]\n", r"alias, \*a in line 2"),
        ("config: &c {a: *c}\n", r"alias, \*c in line 1"),
        ("a: &a {x: 1}\nb:\n  <<: *a\n", r"alias, \*a in line 3"),
        ("a: " + "[" * 100_000, "nested more than 10 levels deep in line 1"),
        ("a: " + "{x: " * 5_000, "nested more than 10 levels"),
        ("".join(f"{' ' * depth}a:\n" for depth in range(50)), "nested more than 10 levels deep in line 11"),
        ("- " * 2_000 + "x", "nested more than 10 levels"),
        ("a: " + "x" * (1 << 20), "has 1,048,579 bytes"),
        ("a: !!python/object/apply:os.system [ls]\n", "is not YAML, line 1"),
        ("a: !!python/name:os.system\n", "is not YAML, line 1"),
        ("a: !!python/tuple [1]\n", "is not YAML, line 1"),
        ("a: !own [1]\n", "is not YAML, line 1"),
        ("seed: 1\nlearning_rate: 1\nseed: 2\n", "is not YAML, line 3: the key 'seed' is there twice"),
        ("config:\n  a: 1\n  a: 1\n", "is not YAML, line 3: the key 'a' is there twice"),
        ("config: {<<: {a: 1}, <<: {a: 2}}\n", "is not YAML, line 1: the key '<<' is there twice"),
        ("a: 2020-13-45\n", "is not YAML: month must be in 1..12"),
        ("a: " + "9" * 5000, "is not YAML: Exceeds the limit"),
        ("[a]: 1\n", "is not YAML, line 1"),
        ("? {a: b}\n: 1\n", "is not YAML, line 1"),
        ("a: 1\n---\nb: 2\n", "is not YAML, line 2"),
        ("a: [1, 2\n", "is not YAML, line 2"),
        ("\x00", "is not YAML"),
        ("", "must map names of flags"),
    ],
    ids=lambda text: text[:20],
)
def test_recipes_that_no_one_needs(tmp_path, text, message):
    start = time.monotonic()
    with pytest.raises(ValueError, match=message):
        read_recipe(write(tmp_path, text))
    assert time.monotonic() - start < 5


def test_a_run_is_evaluated_and_resumed_from_another_folder(tmp_path, monkeypatch, capsys):
    (tmp_path / "here").mkdir()
    (tmp_path / "there").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    assert train(Path(), "--save_strategy", "steps", "--save_steps", 2) == 0
    recipe = tmp_path / "here" / "out" / "recipe.yaml"
    assert f"train_dir: {tmp_path}/here/images\n" in recipe.read_text()
    assert str(tmp_path) not in (tmp_path / "here" / "out" / "README.md").read_text()
    monkeypatch.chdir(tmp_path / "there")
    assert run("evaluate", "../here/out") == 0
    capsys.readouterr()
    assert run("train", "../here/out/recipe.yaml", "--resume_from_checkpoint", "last", "--num_train_epochs", 2) == 0
    assert "The model is in ../here/out." in capsys.readouterr().out
    assert list((tmp_path / "there").iterdir()) == []


def test_accelerate_launches_the_module(tmp_path):
    words = ["train", "digits", "--max_steps", "1", "--max_train_samples", "20", "--max_eval_samples", "20"]
    launch = ["-m", "accelerate.commands.launch", "--cpu", "--num_processes", "1", "-m", "perceivers"]
    result = subprocess.run(
        [sys.executable, *launch, *words, "--output_dir", "model"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr
    assert "The model is in model." in result.stdout


def test_ten_levels_are_read(tmp_path):
    text = yaml.safe_dump({"config": [[[[[[[[1]]]]]]]]})
    assert read_recipe(write(tmp_path, text)) == yaml.safe_load(text)


@pytest.mark.parametrize("name", ["attn_implementation", "_attn_implementation", "experts_implementation"])
def test_code_from_the_hub(name):
    check_config_fields({name: "sdpa", "num_latents": 4})
    with pytest.raises(UsageError, match=f"`{name}=owner/kernel` would run code from the Hub"):
        check_config_fields({name: "owner/kernel"})


@pytest.mark.parametrize("command", ["predict", "evaluate"])
@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("model.safetensors", lambda content: content[: len(content) // 2], "bytes instead of"),
        ("model.safetensors", lambda content: content[:100], "model.safetensors is cut off"),
        ("model.safetensors", lambda content: b"", "model.safetensors is cut off"),
        ("model.safetensors", lambda content: content + b"more", "bytes instead of"),
        (
            "model.safetensors",
            lambda content: b"\x02" + b"\0" * 7 + b"[]",
            "model.safetensors is not a safetensors file",
        ),
        ("config.json", lambda content: content[:-20], "config.json is not JSON"),
        ("config.json", lambda content: b"", "config.json is empty"),
        ("config.json", lambda content: b"[" * 100_000, "config.json is not JSON"),
        ("preprocessor_config.json", lambda content: b"\xff\xfe", "preprocessor_config.json is not JSON"),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_a_damaged_file_of_a_model_is_named(tmp_path, capsys, command, name, content, message):
    model = save_model(tmp_path / "model")
    (model / name).write_bytes(content((model / name).read_bytes()))
    words = [save_images(tmp_path / "images")] if command == "predict" else []
    assert run(command, model, *words) == 1
    line = the_line(capsys)
    assert f"The model in {model} is damaged: {name} " in line and message in line
