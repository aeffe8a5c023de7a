"""The code of the README runs, as it stands there."""

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from perceivers import PointCloudPerceiverFeatureExtractor
from perceivers.cli.main import main
from tests.hub_server import TOKEN, running_hub
from tests.models import tiny_point_cloud_model

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()

DATASET = """
import datasets
from PIL import Image
images = [Image.new("L", (8, 8), 40 * index) for index in range(6)]
dataset = datasets.Dataset.from_dict({"image": images, "label": [0, 1, 2, 3, 4, 5]})
dataset = dataset.cast_column("image", datasets.Image())
"""


@pytest.mark.integration
def test_the_python_of_the_readme_runs(tmp_path):
    blocks = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    assert len(blocks) == 5  # pipeline, from_pretrained, Trainer, Hub; point clouds
    quick = ["--max_train_samples", "32", "--max_eval_samples", "20", "--num_train_epochs", "1"]
    assert main(["train", "digits", "--output_dir", str(tmp_path / "perceiver-digits"), *quick]) == 0
    pixels = np.random.default_rng(0).integers(0, 256, (8, 8), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "picture.png")
    trimesh = pytest.importorskip("trimesh")
    tiny_point_cloud_model().save_pretrained(tmp_path / "perceiver-shapes")
    PointCloudPerceiverFeatureExtractor(num_points=64).save_pretrained(tmp_path / "perceiver-shapes")
    trimesh.PointCloud(np.random.default_rng(0).normal(size=(100, 3))).export(tmp_path / "scan.ply")
    trimesh.creation.torus(1.0, 0.3).export(tmp_path / "mesh.off")
    with running_hub() as hub:
        result = subprocess.run(
            [sys.executable, "-c", "\n".join([blocks[0], DATASET, *blocks[1:]])],
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


def test_the_commands_of_the_readme_are_ours():
    commands = re.findall(r"^(?:.*&& )?perceivers (\w+)(.*)$", README, flags=re.MULTILINE)
    assert {name for name, _ in commands} == {"train", "predict", "evaluate", "info", "convert"}
    assert "pip install -e . && perceivers train" in README
    assert 'pip install -e ".[test]" && pytest' in README
    for name in re.findall(r"recipes/\w+\.yaml", README):
        assert yaml.safe_load((ROOT / name).read_text())
