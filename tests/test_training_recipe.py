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


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["sounds-mel", "--train_dir", "recordings"], {"train_dir": "recordings", "dataset_name": None}),
        (["sounds-mel", "--train-dir=recordings"], {"train_dir": "recordings", "dataset_name": None}),
        (["shapes", "--dataset_name", "owner/name"], {"dataset_name": "owner/name"}),
        (["sounds", "--max_train_samples", "9"], {"dataset_name": "sounds", "max_train_samples": 9}),
        (["digits", "--dataset_name", "digits"], {"dataset_name": "digits"}),
    ],
)
def test_data_of_ones_own_replaces_that_of_a_recipe(words, expected):
    arguments = parse("perceivers train", words)
    assert {name: getattr(arguments.data, name) for name in expected} == expected
    assert arguments.model.config  # the rest of the recipe stays


def test_columns_and_splits_belong_to_the_data_of_a_recipe(tmp_path):
    for name in ("ours", "theirs", "held"):
        (tmp_path / name).mkdir()
    text = TINY + f"train_dir: {tmp_path}/ours\nvalidation_dir: {tmp_path}/held\nlabel_column_name: kind\n"
    data = parse_recipe(tmp_path, text, "--train_dir", f"{tmp_path}/theirs").data
    assert (data.train_dir, data.validation_dir, data.label_column_name) == (f"{tmp_path}/theirs", None, None)
    data = parse_recipe(tmp_path, text, "--validation_dir", f"{tmp_path}/theirs").data
    assert (data.train_dir, data.validation_dir) == (f"{tmp_path}/ours", f"{tmp_path}/theirs")
    data = parse_recipe(tmp_path, text, "--label_column_name", "other").data
    assert (data.train_dir, data.label_column_name) == (f"{tmp_path}/ours", "other")


def test_paths_of_a_recipe_may_be_relative_to_it(tmp_path, monkeypatch):
    (tmp_path / "run" / "photos").mkdir(parents=True)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "run" / "recipe.yaml").write_text(TINY + "train_dir: photos\n")
    monkeypatch.chdir(tmp_path / "elsewhere")
    folder = parse("perceivers train", ["../run/recipe.yaml"]).data.train_dir
    assert folder == "../run/photos"


def test_a_written_recipe_holds_from_any_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("photos", "digits", "tables"):
        (tmp_path / name).mkdir()
    given = {"train_dir": "photos", "dataset_name": "digits", "model_name_or_path": "owner/name", "seed": 3}
    write_recipe(tmp_path / "a.yaml", given, "a comment")
    assert read_recipe(tmp_path / "a.yaml") == given | {"train_dir": f"{tmp_path}/photos"}
    write_recipe(tmp_path / "b.yaml", {"dataset_name": "./tables"}, "a comment")
    assert read_recipe(tmp_path / "b.yaml") == {"dataset_name": f"{tmp_path}/tables"}


def test_a_run_is_resumed_where_its_recipe_is(tmp_path, monkeypatch):
    (tmp_path / "checkpoint-3").mkdir()
    monkeypatch.chdir(tmp_path.parent)
    text = TINY + "output_dir: model\n"
    resumed = parse_recipe(tmp_path, text, "--resume_from_checkpoint", "last")
    assert resumed.training.output_dir == str(tmp_path)
    assert parse_recipe(tmp_path, text).training.output_dir == "model"
    assert (
        parse_recipe(tmp_path, text, "--resume_from_checkpoint", "last", "--output_dir", "b").training.output_dir
        == "b"
    )


@pytest.mark.parametrize(
    ("line", "words", "message"),
    [
        (
            "train_dir: photos",
            [],
            r"recipe\.yaml asks for `train_dir: photos` in line 4, which .* `--train_dir`",
        ),
        (
            "dataset_name: ./tables",
            [],
            "asks for `dataset_name: ./tables` in line 4, which is not there; say",
        ),
        ("model_name_or_path: ~/none/model", [], "asks for `model_name_or_path: ~/none/model` in line 4"),
        ("bf16: true", [], r"sets `bf16: true` in line 4, which needs a GPU that .* none here; add `--bf16 false`"),
        ("fp16: true", ["--seed", "3"], "sets `fp16: true` in line 4, which needs a GPU, .* add `--fp16 false`"),
    ],
)
def test_a_recipe_that_needs_what_is_not_there(tmp_path, monkeypatch, line, words, message):
    monkeypatch.setattr("perceivers.cli.recipes.is_torch_bf16_gpu_available", lambda: False)
    monkeypatch.setattr("torch.accelerator.is_available", lambda: False)
    with pytest.raises(UsageError, match=message):
        parse_recipe(tmp_path, f"{TINY}{line}\n", *words)


@pytest.mark.parametrize("words", [["--bf16", "false"], ["--bf16=0"], ["--use_cpu"]])
def test_what_a_recipe_needs_can_be_done_without(tmp_path, words):
    assert parse_recipe(tmp_path, TINY + "bf16: true\n", *words).training.output_dir


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
