"""What comes from elsewhere is not trusted: names and texts are escaped, references open nothing, code is not run."""

import ast
import contextlib
import io
import json
import os
import re
import sys
from types import SimpleNamespace

import pytest
import yaml
from huggingface_hub import ModelCard

import perceivers_cli
from perceivers.cli import info
from perceivers.tasks import TASKS
from perceivers.training.model_card import CardFacts, as_code, as_text, make_card
from tests.runs import run, save_images, save_model, train

pytestmark = pytest.mark.integration

NAMES = [
    "a|b",
    "two\nlines",
    "\n---\n",
    "---",
    "](http://x.org)",
    "![](http://x.org/a.png)",
    "<img src=x onerror=alert(1)>",
    "<!--",
    "\x1b[31mred\x1b[0m\x07",
    "\x9b31m",
    "\u202egnp.exe",
    "`",
    "```",
    "\n```\n# Title\n```python\n",
    "{name}",
    "{0.__class__}",
    "%s%n",
    "$x$",
    "'\"\\",
    '"); import os; os.abort()  #',
    "# Title",
    "@user &amp;",
    "é😀 👨‍👩‍👧 猫",
    "a" * 5000,
    "\udcff not UTF-8",
    "null",
    "*x: &y !!python/object:os.system",
]


def card(**changes):
    facts = {
        "name": "model",
        "task": "image-classification",
        "noun": "images",
        "example": "image.png",
        "objective": TASKS[0].objective,
        "targets": SimpleNamespace(label_names=["a", "b"], is_multi_label=False),
        "location": "model",
        "dataset": "digits",
        "dataset_id": None,
        "base_model": None,
        "num_parameters": 1,
        "num_train_examples": 1,
        "num_eval_examples": 1,
        "metrics": {"eval_accuracy": 0.5, "eval_top5_accuracy": 1.0},
        "recipe": {"seed": 1},
        "versions": {"torch": "2"},
    }
    return make_card(CardFacts(**{**facts, **changes}))


class TestCards:
    @pytest.mark.parametrize("name", NAMES, ids=ascii)
    def test_every_field_shows_a_name_as_it_is(self, name):
        parts = dict.fromkeys(("name", "example", "location", "dataset", "dataset_id", "base_model"), name)
        made = card(**parts, recipe={"train_dir": name, name: [name]})
        text = made.content
        assert all(map(str.isprintable, text.split("\n")))
        text.encode()
        # What a card of harmless names has, and nothing else.
        plain = card(**dict.fromkeys(parts, "plain"), recipe={"train_dir": "plain", "x": ["plain"]}).content
        headings = [line for line in text.split("\n") if re.match("#+ ", line)]
        assert len(headings) == len([line for line in plain.split("\n") if re.match("#+ ", line)])
        assert text.count("\n---\n") == plain.count("\n---\n")

        (code,) = re.findall(r"```python\n(.*?)\n```\n", text, flags=re.DOTALL)[:1]
        tree = ast.parse(code)
        strings = [node.value for node in ast.walk(tree) if isinstance(node, ast.Constant)]
        assert strings.count(name) == 2 and len(tree.body) == 3

        fence, recipe = re.search(r"\n(`{3,})yaml\n(.*?)\n\1\n", text, flags=re.DOTALL).groups()
        assert yaml.safe_load(recipe) == {"train_dir": name, name: [name]}
        assert fence not in recipe

        data = ModelCard(text).data
        assert data.model_name == data.base_model == data.eval_results[0].dataset_name
        assert " ".join(name.split()).isprintable() <= (data.model_name == " ".join(name.split()))

    @pytest.mark.parametrize("name", NAMES, ids=ascii)
    def test_markdown_shows_the_text(self, name):
        markdown = pytest.importorskip("markdown_it")
        shown = markdown.MarkdownIt("commonmark").enable("table").render(f"| {as_text(name)} |\n|---|\n| x |\n")
        assert shown.count("<th>") == 1
        for tag in re.findall(r"<(\w+)", shown):
            assert tag in ("table", "thead", "tbody", "tr", "th", "td")

    def test_code_is_a_string(self):
        assert as_code("a.png") == '"a.png"'
        assert as_code('it\'s "a"\n') == '"it\'s \\"a\\"\\n"'


class TestTerminals:
    def test_labels_and_files(self, tmp_path, capsys):
        model = save_model(tmp_path / "model", NAMES)
        folder = save_images(tmp_path / "images", number=len(NAMES))
        for index, name in enumerate(NAMES):
            with contextlib.suppress(OSError):  # a name that is too long for a file
                os.rename(folder / f"{index}.png", folder / f"{name.replace('/', '')}.png")
        (folder / "broken \x1b[2J.png").write_bytes(b"\x1b[2J")
        number = len(NAMES)
        assert run("predict", model, folder, "--top_k", number) == 1
        out, err = capsys.readouterr()
        assert len(out.splitlines()) == 1 + number**2 and all(map(str.isprintable, out.splitlines()))
        assert "\x1b[2J" not in err and "broken \\x1b[2J.png: " in err
        for flag in ("--json", "--json_lines"):
            assert run("predict", model, folder, "--top_k", number, flag) == 1
            out = capsys.readouterr().out
            assert all(map(str.isprintable, out.splitlines()))
            results = json.loads(out) if flag == "--json" else list(map(json.loads, out.splitlines()))
            labels = [{row["label"] for row in result["predictions"]} for result in results]
            assert labels.count(set(NAMES)) == number and labels.count(set()) == 1

    def test_whatever_a_command_prints_is_escaped(self, monkeypatch, capsys):
        def show(arguments):
            print("\x1b]0;title\x07a\tb\u202e", "\x9b31m")
            print("\x1b[1mbold\x1b[0m \x1b[A\x1b[2J\x1b]8;;http://x\x07\r", file=sys.stderr)
            return 0

        monkeypatch.setattr(info, "run", show)
        assert perceivers_cli.main(["info", "tiny"]) == 0
        out, err = capsys.readouterr()
        assert out == "\\u001b]0;title\\u0007a\tb\\u202e \\u009b31m\n"
        assert err == "\x1b[1mbold\x1b[0m \x1b[A\\u001b[2J\\u001b]8;;http://x\\u0007\r\n"

    def test_the_streams_are_given_back(self):
        before = sys.stdout, sys.stderr
        with contextlib.redirect_stdout(io.StringIO()):
            perceivers_cli.main(["train", "--list"])
        assert (sys.stdout, sys.stderr) == before

    @pytest.mark.parametrize("name", ["\x1b[2Jmodel", "a\nb", "{name}%s"], ids=ascii)
    @pytest.mark.parametrize("command", ["info", "convert"])
    def test_info_and_convert(self, name, command, tmp_path, capsys):
        model = save_model(tmp_path / name)
        assert run(command, model, *([tmp_path / f"{name} target"] if command == "convert" else [])) == 0
        assert run(command, tmp_path / f"{name} not there", *(["x"] if command == "convert" else [])) == 1
        out, err = capsys.readouterr()
        lines = [*out.splitlines(), *(line for line in err.splitlines() if line.startswith("perceivers:"))]
        assert lines and all(map(str.isprintable, lines))


@pytest.mark.parametrize("name", ['a "b" |`{x}` %s\n---\n\x1b[31m', "]()<b>\udcff"], ids=ascii)
def test_a_run_in_a_folder_of_any_name(name, tmp_path, capsys):
    assert train(tmp_path, "--output_dir", tmp_path / name) == 0
    out, err = capsys.readouterr()
    assert "\x1b[31m" not in out + err
    text = (tmp_path / name / "README.md").read_text()
    (code,) = re.findall(r"```python\n(.*?)\n```\n", text, flags=re.DOTALL)
    strings = [node.value for node in ast.walk(ast.parse(code)) if isinstance(node, ast.Constant)]
    assert str(tmp_path / name) in strings
    recipe = yaml.safe_load((tmp_path / name / "recipe.yaml").read_text())
    assert recipe["output_dir"] == str(tmp_path / name)
