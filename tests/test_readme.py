"""The pages are true: their code runs, their commands, links and files exist, their figures are those measured."""

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from benchmarks import tables
from perceivers import PointCloudPerceiverFeatureExtractor
from perceivers.cli.main import main
from tests.hub_server import TOKEN, running_hub
from tests.models import tiny_audio_model, tiny_extractor, tiny_point_cloud_model
from tests.runs import save_images

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]
# Pages with Python, and the number of its blocks.
WITH_PYTHON = {
    "README.md": 1,
    "docs/usage.md": 5,
    "docs/training.md": 1,
    "docs/audio.md": 1,
    "docs/point_clouds.md": 1,
}

# Runs pages one after another, each in a namespace with the data set that docs/usage.md speaks of.
RUNNER = """
import sys
import datasets
from PIL import Image
images = [Image.new("L", (8, 8), 40 * index) for index in range(6)]
dataset = datasets.Dataset.from_dict({"image": images, "label": [0, 1, 2, 3, 4, 5]})
dataset = dataset.cast_column("image", datasets.Image())
for page in sys.argv[1:]:
    exec(compile(open(page).read(), page, "exec"), {"__name__": "__main__", "dataset": dataset})
"""


def python_blocks(page: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(), flags=re.DOTALL)


@pytest.mark.integration
def test_the_python_of_the_pages_runs(tmp_path):
    assert {page: len(python_blocks(page)) for page in WITH_PYTHON} == WITH_PYTHON
    for page in WITH_PYTHON:
        (tmp_path / page).parent.mkdir(exist_ok=True)
        (tmp_path / page).write_text("\n".join(python_blocks(page)))
    quick = ["--max_train_samples", "32", "--max_eval_samples", "20", "--num_train_epochs", "1"]
    assert main(["train", "digits", "--output_dir", str(tmp_path / "perceiver-digits"), *quick]) == 0
    random = np.random.default_rng(0)
    Image.fromarray(random.integers(0, 256, (8, 8), dtype=np.uint8)).save(tmp_path / "picture.png")
    for label in ("cat", "dog"):
        save_images(tmp_path / "photos" / label, number=3)
    trimesh = pytest.importorskip("trimesh")
    tiny_point_cloud_model().save_pretrained(tmp_path / "perceiver-shapes")
    PointCloudPerceiverFeatureExtractor(num_points=64).save_pretrained(tmp_path / "perceiver-shapes")
    trimesh.PointCloud(random.normal(size=(100, 3))).export(tmp_path / "scan.ply")
    trimesh.creation.torus(1.0, 0.3).export(tmp_path / "mesh.off")
    soundfile = pytest.importorskip("soundfile")
    tiny_audio_model("waveform").save_pretrained(tmp_path / "perceiver-sounds")
    tiny_extractor("waveform").save_pretrained(tmp_path / "perceiver-sounds")
    soundfile.write(tmp_path / "recording.flac", random.uniform(-0.5, 0.5, 2000), 8000)
    with running_hub() as hub:
        result = subprocess.run(
            [sys.executable, "-c", RUNNER, *WITH_PYTHON],
            cwd=tmp_path,
            env={
                **os.environ,
                "HF_ENDPOINT": hub.url,
                "HF_TOKEN": TOKEN,
                "HF_HOME": str(tmp_path / "home"),
                "HF_HUB_DISABLE_XET": "1",
                "PYTHONPATH": str(ROOT),
            },
            capture_output=True,
            text=True,
        )
        assert result.returncode == 0, result.stderr
        assert "your-name/perceiver-digits" in hub.repos


def test_the_commands_of_the_pages_are_ours():
    for page in PAGES:
        commands = set(re.findall(r"(?:^|&& |`)perceivers ([a-z]+)\b", page.read_text(), flags=re.MULTILINE))
        assert commands <= {"train", "predict", "evaluate", "info", "convert"}, page
        for name in re.findall(r"recipes/[a-z0-9-]+\.yaml", page.read_text()):
            assert yaml.safe_load((ROOT / name).read_text())
    commands = set(re.findall(r"`perceivers (\w+)", README))
    assert commands == {"train", "predict", "evaluate", "info", "convert"}
    assert "pip install -e . && perceivers train" in README
    assert 'pip install -e ".[test]" && pytest' in README


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_links_of_a_page_lead_somewhere(page):
    for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if link.startswith("http"):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), link
        if anchor:
            headings = re.findall(r"^#+ (.*)$", target.read_text(), flags=re.MULTILINE)
            anchors = {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
            assert anchor in anchors, link


def test_the_results_are_those_of_the_benchmarks():
    assert tables.PAGE.read_text() == tables.page(), "run `make results`"


def test_the_headlines_are_among_the_results():
    headlines = README.split("## Measured")[1].split("\n## ")[0]
    figures = re.findall(r"[\d,.]*\d (?:x|MiB|ms|%)(?= |\*|,|;|\.)", headlines)
    figures = [figure for figure in figures if not figure.endswith(" x") or f"**{figure}**" in headlines]
    assert len(figures) >= 8
    results = tables.markdown()
    assert [figure for figure in figures if f" {figure} |" not in results and f"**{figure}**" not in results] == []


def tree() -> dict[str, str]:
    """Paths of docs/architecture.md's tree, and what it says of each."""
    text = (ROOT / "docs" / "architecture.md").read_text()
    lines = text.split("<!-- tree -->")[1].split("<!-- end of tree -->")[0].strip().strip("`").strip("\n").splitlines()
    paths, folders = {}, []
    for line in lines:
        indent, name, words = re.fullmatch(r"( *)(\S+) {2,}(\S.*)", line).groups()
        del folders[len(indent) // 2 :]
        paths["".join([*folders, name])] = words
        if name.endswith("/"):
            folders.append(name)
    return paths


def test_every_path_of_the_tree_exists():
    paths = tree()
    assert len(paths) > 80
    assert [path for path in paths if not (ROOT / path).exists()] == []
    assert [path for path in paths if path.endswith("/") != (ROOT / path).is_dir()] == []
    assert {path: words for path, words in paths.items() if len(words.split()) > 10} == {}


def test_the_tree_has_every_file():
    folders = ("perceivers", "perceivers/cli", "modeling", "preprocessors", "pipelines", "training", "examples")
    patterns = [*(f"{folder}/*.py" for folder in (*folders, "benchmarks", "docs")), "*.py"]
    patterns += ["recipes/*.yaml", "notebooks/*.ipynb", "docs/*.md"]
    files = [path for pattern in patterns for path in ROOT.glob(pattern) if path.read_text().strip()]
    assert len(files) > 80
    named = tree()
    trivial = ("benchmarks/__init__.py", "perceivers/cli/__init__.py")
    missing = [name for path in files if (name := path.relative_to(ROOT).as_posix()) not in (*named, *trivial)]
    assert missing == []
