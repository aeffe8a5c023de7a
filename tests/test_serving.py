"""The servers of docs/serving.md answer."""

import io
import re
import sys
import types
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from perceivers import ImagePerceiverImageProcessorPil
from tests.models import tiny_image_model

PAGE = (Path(__file__).parent.parent / "docs" / "serving.md").read_text()
LABELS = {index: f"class {index}" for index in range(10)}


def run_block(heading: str) -> dict:
    """Runs the Python of a section, from a folder with the model, and returns its names."""
    section = PAGE.split(f"\n## {heading}\n")[1].split("\n## ")[0]
    (block,) = re.findall(r"```python\n(.*?)```", section, flags=re.DOTALL)
    # A module of its own, in which FastAPI looks up the types of the arguments.
    module = types.ModuleType("serve")
    exec(compile(block, "serve.py", "exec"), module.__dict__)
    return module.__dict__


@pytest.fixture
def _model(tmp_path, monkeypatch, one_thread):
    tiny_image_model(id2label=LABELS, label2id={name: index for index, name in LABELS.items()}).save_pretrained(
        tmp_path / "perceiver-digits"
    )
    ImagePerceiverImageProcessorPil(size=16, crop_size=18).save_pretrained(tmp_path / "perceiver-digits")
    monkeypatch.chdir(tmp_path)


def picture() -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (20, 24, 3), dtype=np.uint8))


@pytest.mark.usefixtures("_model")
class TestFastApi:
    @pytest.fixture
    def client(self):
        testclient = pytest.importorskip("fastapi.testclient")
        pytest.importorskip("python_multipart")
        return testclient.TestClient(run_block("FastAPI")["app"])

    def test_a_picture_is_classified(self, client):
        file = io.BytesIO()
        picture().save(file, "png")
        answer = client.post("/classify", files={"picture": ("picture.png", file.getvalue())})
        assert answer.status_code == 200
        scores = [row["score"] for row in answer.json()]
        assert scores == sorted(scores, reverse=True) and len(scores) == 3
        assert {row["label"] for row in answer.json()} <= set(LABELS.values())
        one = client.post("/classify?top_k=1", files={"picture": ("picture.png", file.getvalue())})
        assert one.json() == answer.json()[:1]

    @pytest.mark.parametrize("content", [b"", b"no picture", b"\x89PNG\r\n\x1a\n" + bytes(50)])
    def test_what_is_no_picture_is_refused_by_name(self, client, content):
        answer = client.post("/classify", files={"picture": ("notes.png", content)})
        assert (answer.status_code, answer.json()["detail"]) == (422, "notes.png is not a picture that can be read.")

    def test_a_large_file_is_refused(self, client):
        answer = client.post("/classify", files={"picture": ("large.png", bytes(20 * 2**20 + 1))})
        assert (answer.status_code, answer.json()["detail"]) == (413, "A picture may have 20,971,520 bytes.")

    def test_nothing_is_refused(self, client):
        assert client.post("/classify").status_code == 422


@pytest.mark.usefixtures("_model")
class TestGradio:
    def check(self, names):
        scores = names["answer"](picture())
        assert scores.keys() == set(LABELS.values())
        assert sum(scores.values()) == pytest.approx(1, abs=1e-5)

    def test_the_demo_answers(self, monkeypatch):
        parts = {name: lambda *args, **kwargs: None for name in ("Image", "Label", "Interface")}
        monkeypatch.setitem(sys.modules, "gradio", types.SimpleNamespace(**parts))
        self.check(run_block("Gradio"))

    def test_gradio_takes_the_interface(self):
        gradio = pytest.importorskip("gradio")
        names = run_block("Gradio")
        assert isinstance(names["demo"], gradio.Interface)
        self.check(names)
