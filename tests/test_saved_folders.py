"""Folders that version 0.1.0 saved load, and answer to the bit what the code saved in them answers."""

import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import (
    AutoFeatureExtractor,
    AutoImageProcessor,
    AutoModelForAudioClassification,
    AutoModelForImageClassification,
    AutoModelForSequenceClassification,
)

from perceivers.cli.train import parse
from tests.test_remote_code import answer_elsewhere

SAVED = Path(__file__).parent / "saved"
WITH_ITS_OWN_CODE = """
import json, sys
sys.modules["perceivers"] = None  # any attempt to import it fails
import numpy as np
import torch
import transformers
torch.set_grad_enabled(False)  # with it, attention takes another way, whose last bits differ
folder, auto_processor, auto_model, *arguments = sys.argv[1:]
trust = {"trust_remote_code": True}
options = {"backend": "pil"} if auto_processor == "AutoImageProcessor" else {}
processor = getattr(transformers, auto_processor).from_pretrained(folder, **trust, **options)
model = getattr(transformers, auto_model).from_pretrained(folder, **trust)
inputs = processor(np.load("input.npy"), return_tensors="pt", **json.loads(arguments[0]))
print(json.dumps({"logits": model(**inputs).logits.tolist(), "module": type(model).__module__}))
"""


@pytest.fixture
def random_numbers():
    return np.random.default_rng(0)


@pytest.mark.parametrize(
    ("name", "auto_processor", "auto_model", "shape", "options"),
    [
        ("image", AutoImageProcessor, AutoModelForImageClassification, (40, 37, 3), {}),
        ("audio", AutoFeatureExtractor, AutoModelForAudioClassification, (400,), {"sampling_rate": 8000}),
        ("point_cloud", AutoFeatureExtractor, AutoModelForSequenceClassification, (50, 3), {}),
    ],
)
@pytest.mark.integration
def test_answers_to_the_bit(tmp_path, random_numbers, name, auto_processor, auto_model, shape, options):
    if name == "audio":
        pytest.importorskip("torchaudio")
    folder = tmp_path / "model"
    zipfile.ZipFile(SAVED / f"{name}-0.1.0.zip").extractall(folder)
    values = random_numbers.uniform(0, 1, shape).astype(np.float32)
    if name == "image":
        values = (255 * values).astype(np.uint8)
    np.save(tmp_path / "input.npy", values)
    backend = {"backend": "pil"} if name == "image" else {}
    processor = auto_processor.from_pretrained(folder, **backend)
    model = auto_model.from_pretrained(folder)
    assert type(model).__module__.startswith("perceivers.")
    with torch.no_grad():
        expected = model(**processor(values, return_tensors="pt", **options)).logits

    answer = answer_elsewhere(
        tmp_path, WITH_ITS_OWN_CODE, str(folder), auto_processor.__name__, auto_model.__name__, json.dumps(options)
    )
    assert answer["module"].startswith("transformers_modules.")
    assert torch.equal(torch.tensor(answer["logits"]), expected)


def test_its_recipe_is_read(tmp_path):
    zipfile.ZipFile(SAVED / "image-0.1.0.zip").extract("recipe.yaml", tmp_path)
    arguments = parse("perceivers train", [str(tmp_path / "recipe.yaml")])
    assert arguments.task.name == "image-classification"
    assert (arguments.training.max_steps, arguments.augmentation.mixup) == (2, 0.2)
    assert (arguments.recipe["config"]["num_latents"], arguments.recipe["cache_inputs"]) == (16, True)
