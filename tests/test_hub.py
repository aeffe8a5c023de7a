"""To the Hub and back, over HTTP: push with this package, load by name where it is not installed, to the bit."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from tests.hub_server import TOKEN, running_hub

# Another environment may read what this one has written: the path of its Python.
READER = os.environ.get("PERCEIVERS_READER", sys.executable)

pytestmark = pytest.mark.integration

PUSH = """
import json, sys
import torch
from huggingface_hub import HfApi, ModelCard
from huggingface_hub.errors import HfHubHTTPError
from PIL import Image
from transformers import AutoImageProcessor
from perceivers import ImagePerceiverImageProcessor, ImagePerceiverImageProcessorPil, register_for_remote_code
from tests.models import tiny_image_model

register_for_remote_code()
image = Image.open(sys.argv[1])
try:
    import torchvision
    processor = ImagePerceiverImageProcessor(size={"height": 16, "width": 16})
except ImportError:
    processor = ImagePerceiverImageProcessorPil(size={"height": 16, "width": 16})
model = tiny_image_model(id2label={i: f"digit {i}" for i in range(10)})
answer = {}

try:  # the server fails the first commit
    model.push_to_hub("user/digits")
except HfHubHTTPError as error:
    answer["interrupted"] = error.response.status_code
model.push_to_hub("user/digits")
processor.push_to_hub("user/digits")
card = "---\\nlicense: apache-2.0\\npipeline_tag: image-classification\\n---\\n# Digits"
first = ModelCard(card).push_to_hub("user/digits")
answer["first"] = HfApi().model_info("user/digits").sha

def logits():
    with torch.no_grad():
        return model(**processor(image, return_tensors="pt")).logits.tolist()

answer["first_logits"] = logits()
torch.nn.init.constant_(model.classifier.bias, 0.25)
model.push_to_hub("user/digits")
answer["last_logits"] = logits()
model.push_to_hub("user/secret", private=True)
print(json.dumps(answer))
"""

LOAD = """
import json, sys
sys.modules["perceivers"] = None  # any attempt to import it fails
import torch
from PIL import Image
from transformers import AutoImageProcessor, AutoModelForImageClassification, pipeline

image, first, token = Image.open(sys.argv[1]), *sys.argv[2:]
trust = {"trust_remote_code": True}

def logits(**where):
    processor = AutoImageProcessor.from_pretrained("user/digits", **trust, **where)
    model = AutoModelForImageClassification.from_pretrained("user/digits", **trust, **where)
    with torch.no_grad():
        return model(**processor(image, return_tensors="pt")).logits.tolist()

def error_of(name, **where):
    try:
        AutoModelForImageClassification.from_pretrained(name, **trust, **where)
    except Exception as error:
        return [type(error).__name__, str(error)]

classify = pipeline("image-classification", model="user/digits", **trust)
answer = {
    "first_logits": logits(revision=first),
    "last_logits": logits(),
    "pipeline": {entry["label"]: entry["score"] for entry in classify(image, top_k=10, function_to_apply="none")},
    "module": type(classify.model).__module__,
    "missing": error_of("user/absent"),
    "missing revision": error_of("user/digits", revision="f" * 40),
    "private": error_of("user/secret"),
    "wrong token": error_of("user/secret", token="hf_wrong"),
    "with the token": error_of("user/secret", token=token),
}
print(json.dumps(answer))
"""


def run(
    script: str,
    *arguments: str,
    hub_url: str,
    home,
    python_path: str,
    python: str = sys.executable,
    **environment: str,
) -> dict:
    """Runs a script in its own process: the client reads where the Hub is when it is imported."""
    settings = {"HF_ENDPOINT": hub_url, "HF_HOME": str(home), "HF_MODULES_CACHE": str(home / "modules")}
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "HUGGING", "TRANSFORMERS_"))}
    result = subprocess.run(
        [python, "-c", script, *arguments],
        env={**kept, **settings, "HF_HUB_DISABLE_XET": "1", "PYTHONPATH": python_path, **environment},
        cwd=home,
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def round_trip(tmp_path_factory):
    """What the two processes saw, and the state of the Hub behind them."""
    folder = tmp_path_factory.mktemp("hub")
    image = folder / "image.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (37, 51, 3), dtype=np.uint8)).save(image)
    homes = [folder / "writer", folder / "reader"]
    for home in homes:
        home.mkdir()
    repository = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    with running_hub() as hub:
        hub.commits_to_fail = 1
        pushed = run(PUSH, str(image), hub_url=hub.url, home=homes[0], python_path=repository, HF_TOKEN=TOKEN)
        reader = {"hub_url": hub.url, "home": homes[1], "python_path": "", "python": READER}
        loaded = run(LOAD, str(image), pushed["first"], TOKEN, **reader)
        yield pushed, loaded, hub


def test_the_pushed_repository_is_complete(round_trip):
    _, _, hub = round_trip
    _, files = hub.repos["user/digits"].at("main")
    assert {"config.json", "model.safetensors", "preprocessor_config.json", "README.md"} <= files.keys()
    assert b"pipeline_tag: image-classification" in files["README.md"]
    assert {"modeling_image_perceiver.py", "attention.py", "image_processing_image_perceiver.py"} <= files.keys()


def test_an_interrupted_upload_goes_on_where_it_stopped(round_trip):
    pushed, _, hub = round_trip
    assert pushed["interrupted"] == 503
    # The weights of both versions; neither the second attempt nor the second repository sent them again.
    assert hub.uploads == len(hub.large_files) == 2


def test_loads_by_name_and_revision_without_the_package(round_trip):
    pushed, loaded, _ = round_trip
    assert loaded["first_logits"] == pushed["first_logits"] != pushed["last_logits"]
    assert loaded["last_logits"] == pushed["last_logits"]
    assert loaded["module"].startswith("transformers_modules.user.digits.")


def test_pipeline_by_name(round_trip):
    pushed, loaded, _ = round_trip
    assert loaded["pipeline"] == {f"digit {i}": score for i, score in enumerate(pushed["last_logits"][0])}


def test_errors_are_those_of_transformers(round_trip):
    _, loaded, _ = round_trip
    assert loaded["with the token"] is None
    for case in ("missing", "private"):
        kind, message = loaded[case]
        assert kind == "OSError" and "is not a valid model identifier" in message and "token" in message
    kind, message = loaded["wrong token"]
    assert kind == "OSError" and "Invalid credentials" in message
    kind, message = loaded["missing revision"]
    assert kind == "OSError" and "is not a valid git identifier" in message


@pytest.mark.hub
@pytest.mark.parametrize("name", ["fourier", "learned", "conv"])
def test_published_checkpoints(name):
    """DeepMind's weights on the real Hub: the logits that transformers' own tests expect of them."""
    from perceivers import ImagePerceiverForImageClassification, ImagePerceiverImageProcessor

    expected = {
        "learned": [-1.1652, -0.1992, -0.7520],
        "fourier": [-1.1295, -0.2832, 0.3226],
        "conv": [-1.1186, 0.0554, 0.0897],
    }
    source = f"deepmind/vision-perceiver-{name}"
    model, info = ImagePerceiverForImageClassification.from_pretrained(source, output_loading_info=True)
    assert not any(info.values()), info
    cats = "http://images.cocodataset.org/val2017/000000039769.jpg"
    pixels = ImagePerceiverImageProcessor.from_pretrained(source)(cats, return_tensors="pt")
    with torch.no_grad():
        logits = model(**pixels).logits[0, :3]
    torch.testing.assert_close(logits, torch.tensor(expected[name]), atol=1e-3, rtol=0)


def test_training_pushes_what_it_has_made(tmp_path):
    words = ["train", "digits", "--output_dir", "out", "--max_steps", "2", "--max_train_samples", "64"]
    words += ["--max_eval_samples", "16", "--push_to_hub", "--hub_model_id", "user/trained", "--hub_token", TOKEN]
    script = "import json, sys; from perceivers.cli.main import main; print(json.dumps(main(sys.argv[1:])))"
    repository = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    with running_hub() as hub:
        assert run(script, *words, hub_url=hub.url, home=tmp_path, python_path=repository) == 0
        _, files = hub.repos["user/trained"].at("main")
        reader = tmp_path / "reader"
        reader.mkdir()
        words = ["evaluate", "user/trained", "--output_file", "results.json"]
        assert run(script, *words, hub_url=hub.url, home=reader, python_path=repository) == 0
    # What was held out is known from the files on the Hub.
    assert json.loads((reader / "results.json").read_text())["examples"] == 16
    wanted = {"config.json", "model.safetensors", "preprocessor_config.json", "modeling_image_perceiver.py"}
    assert wanted | {"recipe.yaml", "training_curves.png"} <= files.keys()
    assert b'model="user/trained"' in files["README.md"]
    assert [name for name, content in files.items() if TOKEN.encode() in content] == []
