"""Recipes: what is read, what is refused, and that what is written can be read again."""

import pytest

from perceivers.cli.errors import UsageError
from perceivers.cli.flags import FlagParser, find_recipe
from perceivers.cli.train import parse
from perceivers.training.recipe import read_recipe, recipe_to_argv, write_recipe
from perceivers_cli import built_in_recipes

TINY = "variant: tiny\nconfig: {num_latents: 4, image_size: 8}\nlearning_rate: 1e-3\n"


def parse_recipe(tmp_path, text, *words):
    path = tmp_path / "recipe.yaml"
    path.write_text(text)
    return parse("perceivers train", [str(path), *words])


def test_recipe_and_overrides(tmp_path):
    arguments = parse_recipe(
        tmp_path, TINY + "num_train_epochs: 7\nseed: 5\n", "--num_train_epochs", "3", "--config", "num_latents=6"
    )
    assert arguments.training.num_train_epochs == 3
    assert arguments.training.seed == 5
    assert arguments.training.learning_rate == 1e-3  # YAML 1.1 reads 1e-3 as a string
    assert arguments.recipe["config"] == {"num_latents": 6, "image_size": 8}


def test_what_was_chosen_is_a_recipe_that_repeats_the_run(tmp_path):
    arguments = parse_recipe(tmp_path, TINY, "--rotation", "-0", "--warmup_steps", "0.1", "--hub_token", "hf_secret")
    write_recipe(tmp_path / "again.yaml", arguments.recipe, "again")
    again = parse("perceivers train", [str(tmp_path / "again.yaml")])
    assert (again.model, again.data, again.augmentation) == (arguments.model, arguments.data, arguments.augmentation)
    assert again.training.warmup_steps == 0.1
    assert again.recipe == arguments.recipe
    assert "hf_secret" not in (tmp_path / "again.yaml").read_text()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("learning_rat: 1\n", "unknown key `learning_rat` .did you mean `learning_rate`"),
        ("a: [\n", "not YAML"),
        ("- a\n", "must map names"),
        ("num_train_epochs: many\n", "invalid float value: 'many'"),
        ("config: {num_latents: 4}\nconfig: [", "not YAML"),
        ("remove_unused_columns: true\n", "remove_unused_columns"),
        ("mixup: -1\n", "mixup"),
    ],
)
def test_wrong_recipes(tmp_path, text, message):
    with pytest.raises(UsageError, match=message):
        parse_recipe(tmp_path, text)


def test_unknown_flag_names_the_closest():
    with pytest.raises(UsageError, match=r"--num_train_epoch .did you mean `num_train_epochs`"):
        parse("perceivers train", ["--num_train_epoch", "3"])


def test_unknown_recipe():
    with pytest.raises(UsageError, match=r"built in are .*digits, imagenet"):
        find_recipe("mnist")


@pytest.mark.parametrize("name", built_in_recipes())
def test_built_in_recipes(name):
    # The recipe for accelerators refuses to train in bfloat16 elsewhere.
    assert parse("perceivers train", [name, "--use_cpu"]).training.output_dir


def test_without_arguments_it_is_the_digits():
    arguments = parse("perceivers train", ["--num_train_epochs", "2"])
    assert arguments.data.dataset_name == "digits"
    assert arguments.training.num_train_epochs == 2


def test_values_that_start_with_a_dash_and_lists():
    words = recipe_to_argv({"label_names": ["a", "b"], "run_name": "-x", "seed": None})
    assert words == ["--label_names", "a", "b", "--run_name=-x"]


def test_read_recipe_of_a_missing_file(tmp_path):
    with pytest.raises(OSError, match=r"none\.yaml"):
        read_recipe(tmp_path / "none.yaml")


def test_every_flag_of_the_training_arguments_is_there():
    from transformers import TrainingArguments

    from perceivers.training.arguments import PerceiverTrainingArguments

    flags = FlagParser(PerceiverTrainingArguments).flags()
    assert set(TrainingArguments.__dataclass_fields__) - {"local_rank"} <= set(flags)
