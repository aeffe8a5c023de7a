"""The examples in the docstrings run and print what they say."""

import doctest
import importlib
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import torch
from transformers import pipeline

import perceivers
from perceivers import PointCloudPerceiverFeatureExtractor
from tests.models import tiny_audio_model, tiny_extractor, tiny_point_cloud_model

ROOT = Path(__file__).parent.parent
FOLDERS = {"perceivers": "perceivers", "perceivers/cli": "perceivers.cli"} | {
    room: f"perceivers.{room}" for room in ("modeling", "preprocessors", "pipelines", "training")
}
# What a reader of an example has imported.
NAMES = {name: getattr(perceivers, name) for name in perceivers.__all__} | {
    "np": np,
    "pipeline": pipeline,
    "torch": torch,
}


def find_examples() -> list[doctest.DocTest]:
    finder, examples = doctest.DocTestFinder(exclude_empty=True), []
    for folder, package in FOLDERS.items():
        for path in sorted((ROOT / folder).glob("*.py")):
            if ">>>" in path.read_text():
                module = importlib.import_module(f"{package}.{path.stem}")
                examples += finder.find(module, extraglobs=NAMES)
    return [example for example in examples if example.examples]


EXAMPLES = find_examples()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with the files and the models that the examples name."""
    soundfile = pytest.importorskip("soundfile")
    trimesh = pytest.importorskip("trimesh")
    folder, random = tmp_path_factory.mktemp("examples"), np.random.default_rng(0)
    PIL.Image.fromarray(random.integers(0, 256, (40, 50, 3), dtype=np.uint8)).save(folder / "cat.jpg")
    soundfile.write(folder / "recording.flac", random.uniform(-1, 1, 3000), 8000)
    trimesh.PointCloud(random.normal(size=(1500, 3))).export(folder / "scan.ply")
    trimesh.creation.torus(1.0, 0.3).export(folder / "mesh.off")
    tiny_point_cloud_model().save_pretrained(folder / "perceiver-shapes")
    PointCloudPerceiverFeatureExtractor(num_points=64).save_pretrained(folder / "perceiver-shapes")
    tiny_audio_model("waveform").save_pretrained(folder / "perceiver-sounds")
    tiny_extractor("waveform").save_pretrained(folder / "perceiver-sounds")
    return folder


def test_every_example_is_found():
    text = "".join(path.read_text() for folder in FOLDERS for path in (ROOT / folder).glob("*.py"))
    assert sum(len(example.examples) for example in EXAMPLES) == text.count(">>> ") > 0


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example.name.removeprefix("perceivers."))
def test_examples(example, folder, monkeypatch):
    monkeypatch.chdir(folder)
    report = []
    runner = doctest.DocTestRunner(verbose=False)
    assert runner.run(example, out=report.append).failed == 0, "".join(report)
