"""What comes from elsewhere is not trusted: names and texts are escaped, references open nothing, code is not run."""

import ast
import contextlib
import io
import json
import os
import re
import struct
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch
import yaml
from huggingface_hub import ModelCard
from safetensors.torch import load_file

import perceivers_cli
from perceivers.cli import info
from perceivers.tasks import TASKS
from perceivers.training.model_card import CardFacts, as_code, as_text, make_card
from tests.runs import run, run_apart, save_images, save_model, the_line, train

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

    def test_an_interruption_is_escaped(self, capsys):
        assert perceivers_cli.report(KeyboardInterrupt("to go on: perceivers train '\x1b[2J'")) == 130
        assert perceivers_cli.report(perceivers_cli.Terminated()) == 143
        assert capsys.readouterr().err == (
            "perceivers: to go on: perceivers train '\\x1b[2J'\nperceivers: interrupted\n"
        )

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
    # The best checkpoint cannot be loaded again by such a name: safetensors takes paths in UTF-8 only.
    assert train(tmp_path, "--output_dir", tmp_path / name, "--load_best_model_at_end", "false") == 0
    out, err = capsys.readouterr()
    assert "\x1b[31m" not in out + err
    text = (tmp_path / name / "README.md").read_text()
    (code,) = re.findall(r"```python\n(.*?)\n```\n", text, flags=re.DOTALL)
    strings = [node.value for node in ast.walk(ast.parse(code)) if isinstance(node, ast.Constant)]
    assert str(tmp_path / name) in strings
    recipe = yaml.safe_load((tmp_path / name / "recipe.yaml").read_text())
    assert recipe["output_dir"] == str(tmp_path / name)


# Reads files, and prints what is opened, connected to or started meanwhile.
WATCH = """
import json, sys
import numpy as np
from perceivers.preprocessors.point_cloud_files import read_point_cloud
whole, *paths = sys.argv[1:]
events, watching = [], False
def note(event, arguments):
    if watching and (event == "open" or event.split(".")[0] in ("socket", "subprocess", "urllib", "ftplib")
                     or event in ("os.system", "os.exec", "os.posix_spawn")):
        events.append([event, str(arguments[0])])
sys.addaudithook(note)
answers = []
for path in [whole, whole.replace(".obj", ".glb"), whole.replace(".obj", ".ply"), *paths]:
    watching = path in paths
    try:
        answers.append(len(read_point_cloud(path, 10, np.random.default_rng(0))))
    except ValueError as error:
        answers.append(str(error))
watching = False
print(json.dumps([answers[3:], events]))
"""
REFERENCES = ["secret.png", "../secret.png", "/etc/hostname", "file:///etc/hostname", "http://127.0.0.1:9/a.png"]
TRIANGLE = "v 0 0 0\nv 1 0 0\nv 0 1 0\nvt 0 0\nvt 1 0\nvt 0 1\n"


def glb_file(reference, place):
    """A triangle whose buffer or texture is somewhere else."""
    numbers = struct.pack("<9f3H2x", 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 1, 2)
    accessors = [
        {"bufferView": 0, "componentType": 5126, "count": 3, "type": "VEC3", "min": [0, 0, 0], "max": [1, 1, 0]},
        {"bufferView": 1, "componentType": 5123, "count": 3, "type": "SCALAR"},
    ]
    views = [{"buffer": 0, "byteOffset": 0, "byteLength": 36}, {"buffer": 0, "byteOffset": 36, "byteLength": 6}]
    tree = {
        "asset": {"version": "2.0"},
        "scenes": [{"nodes": [0]}],
        "scene": 0,
        "nodes": [{"mesh": 0}],
        "meshes": [{"primitives": [{"attributes": {"POSITION": 0}, "indices": 1, "material": 0}]}],
        "materials": [{"pbrMetallicRoughness": {"baseColorTexture": {"index": 0}}}],
        "textures": [{"source": 0}],
        "images": [{"uri": reference if place == "image" else "data:,"}],
        "accessors": accessors,
        "bufferViews": views,
        "buffers": [{"byteLength": len(numbers), **({"uri": reference} if place == "buffer" else {})}],
    }
    text = json.dumps(tree).encode()
    text += b" " * (-len(text) % 4)
    chunks = struct.pack("<II", len(text), 0x4E4F534A) + text + struct.pack("<II", len(numbers), 0x004E4942) + numbers
    return struct.pack("<4sII", b"glTF", 2, 12 + len(chunks)) + chunks


def test_files_that_refer_to_others_open_nothing(tmp_path):
    for suffix, content in {
        ".obj": f"{TRIANGLE}f 1/1 2/2 3/3\n".encode(),
        ".glb": glb_file("data:,", "image"),
        ".ply": b"ply\nformat ascii 1.0\nelement vertex 1\nproperty float x\nproperty float y\nproperty float z\n"
        b"end_header\n0 0 0\n",
    }.items():
        (tmp_path / f"whole{suffix}").write_bytes(content)
    (tmp_path / "secret.png").write_bytes(b"not to be opened")
    (tmp_path / "in").mkdir()
    paths = []
    for index, reference in enumerate(REFERENCES):
        comment = f"comment TextureFile {reference}\nelement vertex".encode()
        obj = f"mtllib {reference}\nusemtl a\nmap_Kd {reference}\n{TRIANGLE}f 1/1 2/2 3/3\n"
        contents = {
            "a.obj": obj.encode(),
            "b.ply": (tmp_path / "whole.ply").read_bytes().replace(b"element vertex", comment),
            "c.glb": glb_file(reference, "image"),
            "d.glb": glb_file(reference, "buffer"),
        }
        for name, content in contents.items():
            paths.append(tmp_path / "in" / f"{index}{name}")
            paths[-1].write_bytes(content)
    result = run_apart(tmp_path / "whole.obj", *paths, script=WATCH, stdout=subprocess.PIPE, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    answers, events = json.loads(result.stdout.splitlines()[-1])
    assert events == [["open", str(path)] for path in paths]
    by_name = dict(zip([path.name for path in paths], answers, strict=True))
    assert all(by_name[f"{index}{name}"] == 10 for index in range(len(REFERENCES)) for name in ("a.obj", "c.glb"))


# Code that would leave a file behind, in a model's folder.
EVIL = """
import os, pathlib
pathlib.Path(os.environ["WITNESS"]).write_text("ran")
from transformers import PretrainedConfig
class EvilConfig(PretrainedConfig):
    model_type = "evil"
class EvilModel: pass
class EvilProcessor: pass
"""
MAPS = {
    "AutoConfig": "evil.EvilConfig",
    "AutoModel": "evil.EvilModel",
    "AutoModelForImageClassification": "evil.EvilModel",
    "AutoImageProcessor": "evil.EvilProcessor",
    "AutoFeatureExtractor": "evil.EvilProcessor",
    "AutoProcessor": "evil.EvilProcessor",
    "AutoTokenizer": ["evil.EvilProcessor", "evil.EvilProcessor"],
}
CHANGES = {
    "a configuration's code": ("config.json", {"auto_map": MAPS, "model_type": "evil"}),
    "a model's code": ("config.json", {"auto_map": MAPS}),
    "a model of an unknown class": ("config.json", {"architectures": ["EvilModel"], "auto_map": MAPS}),
    "a processor's code": ("preprocessor_config.json", {"auto_map": MAPS, "image_processor_type": "EvilProcessor"}),
    "a processor of ours with code": ("preprocessor_config.json", {"auto_map": MAPS}),
    "a processor's class": ("preprocessor_config.json", {"processor_class": "evil.EvilProcessor"}),
    "a tokenizer": ("config.json", {"tokenizer_class": "evil.EvilProcessor"}),
    "a pipeline": (
        "config.json",
        {
            "custom_pipelines": {
                "image-classification": {
                    "impl": "evil.EvilModel",
                    "pt": ["AutoModelForImageClassification"],
                    "type": "image",
                }
            }
        },
    ),
    "a kernel": ("config.json", {"_attn_implementation": "owner/kernel", "attn_implementation": "owner/kernel"}),
    "a kernel within": ("config.json", {"_attn_implementation_internal": "owner/kernel:evil"}),
    "a quantiser": ("config.json", {"quantization_config": {"quant_method": "evil", "modules": "evil.EvilModel"}}),
}


@pytest.fixture
def evil(tmp_path, monkeypatch):
    """A function that changes a file of a model with code in its folder, and one that says whether the code ran."""
    model, witness = save_model(tmp_path / "model"), tmp_path / "witness"
    monkeypatch.setenv("WITNESS", str(witness))
    monkeypatch.setenv("HF_MODULES_CACHE", str(tmp_path / "modules"))
    (model / "evil.py").write_text(EVIL)

    def change(name, values):
        path = model / name
        path.write_text(json.dumps(json.loads(path.read_text()) | values))
        return model

    return change, witness.exists


@pytest.mark.parametrize(
    ("command", "what"),
    [
        *(("predict", what) for what in CHANGES),
        *((command, what) for command in ("evaluate", "info", "convert") for what in list(CHANGES)[:3]),
        *(("train", what) for what in list(CHANGES) if "tokenizer" not in what),
    ],
)
def test_no_file_of_a_model_makes_code_run(command, what, evil, tmp_path, capsys, monkeypatch):
    fetched = []
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda *a, **k: fetched.append(a) or 1 / 0)
    monkeypatch.setattr("sys.stdin", io.StringIO("y\n" * 9))  # transformers asks; whoever presses return means no
    change, has_run = evil
    model = change(*CHANGES[what])
    images = tmp_path / "images"
    for name in ("dark", "light"):
        save_images(images / name)
    words = {
        "predict": (images,),
        "evaluate": ("--validation_dir", images),
        "train": ("--model_name_or_path", model, "--train_dir", images, "--output_dir", tmp_path / "out"),
        "info": (),
        "convert": (tmp_path / "converted",),
    }[command]
    if command == "train":
        words = (*words, "--max_steps", 1, "--use_cpu", "--report_to", "none")
    code = run(command, *([] if command == "train" else [model]), *words)
    err = capsys.readouterr().err
    assert not has_run() and fetched == []
    lines = [line for line in err.splitlines() if line.startswith("perceivers: error:")]
    assert code == 0 or (code == 1 and len(lines) == 1)
    assert "Traceback" not in err


def test_the_flag_runs_the_code(evil, tmp_path):
    change, has_run = evil
    run("predict", change(*CHANGES["a configuration's code"]), save_images(tmp_path / "images"), "--trust_remote_code")
    assert has_run()


# Runs every command on local data, and prints what was connected to.
LOCAL = """
import json, pathlib, sys
events = []
def note(event, arguments):
    if event in ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname"):
        events.append([event, str(arguments)])
sys.addaudithook(note)
import perceivers
from tests.runs import run, save_model, train
perceivers.register_for_remote_code()
folder = pathlib.Path(sys.argv[1])
codes = [
    train(folder, "--hub_token", "hf_secretsecret", "--trust_remote_code"),
    run("predict", folder / "out", folder / "images"),
    run("evaluate", folder / "out", "--validation_dir", folder / "images"),
    run("info", folder / "out"),
    run("convert", folder / "out", folder / "converted"),
]
print(json.dumps([codes, events]))
"""


def test_what_is_local_needs_no_network_keeps_no_secret_and_the_umask(tmp_path):
    environment = {"HF_HUB_OFFLINE": "0", "TRANSFORMERS_OFFLINE": "0"}
    before = os.umask(0o027)
    try:
        result = run_apart(tmp_path, script=LOCAL, stdout=subprocess.PIPE, env=environment)
    finally:
        os.umask(before)
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout.splitlines()[-1]) == [[0] * 5, []]
    assert "hf_secretsecret" not in result.stdout + result.stderr
    paths = [path for name in ("out", "converted") for path in (tmp_path / name).rglob("*")]
    assert len(paths) > 40
    for path in [*paths, tmp_path / "out", tmp_path / "converted"]:
        assert path.stat().st_mode & 0o777 == (0o750 if path.is_dir() else 0o640), path
        assert path.is_dir() or b"hf_secretsecret" not in path.read_bytes()
    recipe = (tmp_path / "out" / "recipe.yaml").read_text()
    assert "trust" not in recipe and "token" not in recipe
    assert recipe.partition("\n")[2].strip() in (tmp_path / "out" / "README.md").read_text()


@pytest.mark.parametrize("command", ["predict", "evaluate", "train", "convert"])
def test_pickled_weights_are_refused_in_one_line(command, tmp_path, capsys):
    model = save_model(tmp_path / "model")
    torch.save(load_file(model / "model.safetensors"), model / "pytorch_model.bin")
    (model / "model.safetensors").unlink()
    images = tmp_path / "images"
    for name in ("dark", "light"):
        save_images(images / name)
    if command == "train":
        words = ["--model_name_or_path", model, "--train_dir", images, "--output_dir", tmp_path / "out", "--use_cpu"]
    else:
        others = {"predict": [images], "evaluate": ["--validation_dir", images], "convert": [tmp_path / "converted"]}
        words = [model, *others[command]]
    assert run(command, *words) == 1
    assert "has its weights as a pickle only" in the_line(capsys)
