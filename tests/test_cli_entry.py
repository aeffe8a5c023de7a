"""The entry module answers what needs no model without importing one; and what `import perceivers` imports."""

import importlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

import perceivers
import perceivers_cli
from perceivers.cli.main import main
from perceivers.cli.train import parse

ROOT = Path(__file__).parent.parent
REPORT = "print(json.dumps(sorted(name for name in sys.modules if '.' not in name)), file=sys.stderr)"
ENTRY = f"""
import json, sys, perceivers_cli
try:
    code = perceivers_cli.main(sys.argv[1:])
except SystemExit as exit_:
    code = exit_.code
{REPORT}
sys.exit(code)
"""
# Seconds to import, each.
SLOW = {"torch", "transformers", "datasets", "perceivers", "numpy", "huggingface_hub"}


def run(script, *words):
    """What a fresh interpreter prints, its exit code, its errors, and the names of the packages that it imported."""
    result = subprocess.run(
        [sys.executable, "-c", script, *words],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    errors, _, modules = result.stderr.rstrip().rpartition("\n")
    return result.stdout, result.returncode, errors, set(json.loads(modules))


def modules_after(statement):
    return run(f"import json, sys\n{statement}\n{REPORT}")[3]


@pytest.mark.parametrize(
    ("words", "code", "output", "error"),
    [
        (["--help"], 0, "commands:", ""),
        (["--version"], 0, f"perceivers {perceivers.__version__}", ""),
        (["train", "--list"], 0, "audioset-mel", ""),
        (["trian"], 2, "", "invalid choice: 'trian' (did you mean `train`?); see `perceivers --help`"),
        (["fly"], 2, "", "invalid choice: 'fly' (choose from train, evaluate, predict, info, convert)"),
        ([], 2, "", "the following arguments are required: COMMAND"),
        (["--wrong", "train"], 2, "", "see `perceivers --help`"),
    ],
)
def test_answers_without_slow_imports(words, code, output, error):
    printed, returned, errors, modules = run(ENTRY, *words)
    assert returned == code
    assert output in printed and error in errors and bool(errors) == bool(error)
    assert "\n" not in errors and (not errors or errors.startswith("perceivers: error: "))
    assert modules & SLOW == set()


def test_the_rest_goes_on_to_the_package(capsys):
    assert perceivers_cli.main(["info", "tiny"]) == 0
    assert "tiny (image_perceiver)" in capsys.readouterr().out
    assert perceivers_cli.main(["train", "mnist"]) == 2
    assert "There is no recipe 'mnist'" in capsys.readouterr().err


def test_tracebacks_of_the_entry(monkeypatch):
    with pytest.raises(perceivers_cli.UsageError, match="invalid choice"):
        perceivers_cli.main(["trian", "--traceback"])
    monkeypatch.setenv("PERCEIVERS_TRACEBACK", "1")
    with pytest.raises(perceivers_cli.UsageError, match="invalid choice"):
        main(["trian"])


def test_no_address_in_memory_is_shown(capsys):
    error = OSError("cannot identify image file <_io.BytesIO object at 0x7f3a5c1d2e30>")
    assert perceivers_cli.report(error) == 1
    assert capsys.readouterr().err == "perceivers: error: cannot identify image file\n"


@pytest.mark.parametrize("name", perceivers_cli.COMMANDS)
def test_every_command_is_a_module(name):
    module = importlib.import_module(f"perceivers.cli.{name}")
    assert callable(module.run) and (hasattr(module, "parse") or hasattr(module, "add_arguments"))


def test_the_list_of_recipes(capsys):
    assert main(["train", "--list"]) == 0
    header, *lines = capsys.readouterr().out.splitlines()
    columns = [header.index(title) for title in ("recipe", "task", "description")]
    rows = {line.split()[0]: line for line in lines}
    assert set(rows) == {path.stem for path in (ROOT / "recipes").glob("*.yaml")}
    for name, line in rows.items():
        text = (ROOT / "recipes" / f"{name}.yaml").read_text()
        assert line[columns[1] :].split()[0] == yaml.safe_load(text)["task"]
        description = line[columns[2] :]
        assert f"# {description}\n" in text and description.endswith(".") and len(description) < 100


def test_the_help_of_train_is_in_groups(capsys):
    with pytest.raises(SystemExit):
        main(["train", "--help"])
    text = capsys.readouterr().out
    titles = ["options", "Model", "Data", "Augmentation", "Training", "Training, by transformers"]
    assert [title for title in re.findall(r"^(\w.*):$", text, flags=re.MULTILINE) if title in titles] == titles
    parts = dict(zip(titles, re.split(r"^(?:" + "|".join(titles) + "):$", text, flags=re.MULTILINE)[1:], strict=True))
    for title, flag in (
        ("Model", "variant"),
        ("Data", "image_column_name"),
        ("Data", "validation_fraction"),
        ("Augmentation", "cutmix"),
        ("Training", "output_dir"),
        ("Training", "timm_optimizer"),
        ("Training, by transformers", "learning_rate"),
    ):
        assert [name for name, part in parts.items() if re.search(rf"^  --{flag}\b", part, re.MULTILINE)] == [title]


@pytest.mark.parametrize("command", ["train", "evaluate"])
def test_the_help_shows_each_flag_once_and_says_no_default_of_nothing(command, capsys):
    with pytest.raises(SystemExit):
        main([command, "--help"])
    text = capsys.readouterr().out
    shown = re.findall(r"^  (--\S+)", text, flags=re.MULTILINE)
    assert len(shown) == len(set(shown)) > 15
    assert [flag for flag in shown if "-" in flag[2:]] == []
    assert "--max_train_samples MAX_TRAIN_SAMPLES\n" in text
    assert "(default: None)" not in text and "(default: False)" not in text and "(default: [])" not in text
    assert "--check_files [true|false]" in text and "The same as `--check_files false`." in text


def test_the_other_spelling_of_a_flag_is_understood():
    assert parse("perceivers train", ["--max-train-samples", "3"]).data.max_train_samples == 3


def test_the_help_of_predict_speaks_of_files_and_labels(capsys):
    with pytest.raises(SystemExit):
        main(["predict", "--help"])
    text = " ".join(capsys.readouterr().out.split())
    assert "the folder that `perceivers train` wrote" in text and "a row is printed" in text


@pytest.mark.integration
def test_importing_the_package_imports_no_training():
    modules = modules_after("import perceivers\nassert 'perceivers.training' not in sys.modules")
    assert modules & {"matplotlib", "sklearn", "timm", "datasets", "evaluate"} == set()
    # transformers itself imports SciPy.
    classes = "AutoModelForImageClassification, AutoImageProcessor"
    assert "scipy" not in modules - modules_after(f"from transformers import {classes}")


def test_predicting_loads_neither_metrics_nor_pictures():
    modules = modules_after("import perceivers.cli.predict")
    assert modules & {"matplotlib", "sklearn", "timm", "evaluate"} == set()


@pytest.mark.integration
@pytest.mark.parametrize("error", ["OSError('undefined symbol')", "ModuleNotFoundError('torchaudio')"])
def test_a_broken_torchaudio_is_hidden_and_warned_of_once(tmp_path, error):
    (tmp_path / "torchaudio").mkdir()
    (tmp_path / "torchaudio" / "__init__.py").write_text(f"raise {error}\n")
    script = f"""
import json, sys, warnings
sys.path.insert(0, {str(tmp_path)!r})
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    import perceivers
    import perceivers.registration
print(sys.modules["torchaudio"], [str(w.message) for w in caught if "torchaudio" in str(w.message)])
{REPORT}
"""
    printed, code, _, _ = run(script)
    assert code == 0
    warned = "['torchaudio is installed but cannot be imported, so it is not used: undefined symbol']"
    assert printed.strip() == f"None {warned if 'symbol' in error else []}"
