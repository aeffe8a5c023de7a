"""Audio to the Hub and back, over HTTP: push with this package, load by name where it is not installed, to the bit."""

import os

import numpy as np
import pytest

from tests.hub_server import TOKEN, running_hub
from tests.test_hub import READER, run

pytestmark = pytest.mark.integration

PUSH = """
import json, sys
import numpy as np, torch
from perceivers import register_for_remote_code
from tests.models import tiny_audio_model, tiny_extractor

register_for_remote_code()
model, extractor = tiny_audio_model("mel", problem_type="multi_label_classification"), tiny_extractor("mel")
model.push_to_hub("user/sounds")
extractor.push_to_hub("user/sounds")
with torch.no_grad():
    logits = model(**extractor(np.load(sys.argv[1]), sampling_rate=16000, return_tensors="pt")).logits[0]
print(json.dumps({"scores": logits.sigmoid().tolist()}))
"""

LOAD = """
import json, sys
sys.modules["perceivers"] = None  # any attempt to import it fails
import numpy as np
from transformers import pipeline
classify = pipeline("audio-classification", model="user/sounds", trust_remote_code=True)
answer = classify({"array": np.load(sys.argv[1]), "sampling_rate": 16000}, top_k=10)
print(json.dumps({"module": type(classify.model).__module__, "scores": {e["label"]: e["score"] for e in answer}}))
"""


def test_round_trip(tmp_path):
    pytest.importorskip("torchaudio")
    clip = tmp_path / "clip.npy"
    np.save(clip, np.random.default_rng(0).uniform(-1, 1, 900).astype(np.float32))
    homes = [tmp_path / "writer", tmp_path / "reader"]
    for home in homes:
        home.mkdir()
    repository = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    with running_hub() as hub:
        pushed = run(PUSH, str(clip), hub_url=hub.url, home=homes[0], python_path=repository, HF_TOKEN=TOKEN)
        loaded = run(LOAD, str(clip), hub_url=hub.url, home=homes[1], python_path="", python=READER)
        _, files = hub.repos["user/sounds"].at("main")
    assert {
        "modeling_audio_perceiver.py",
        "attention.py",
        "audio_reading.py",
        "audio_resampling.py",
        "feature_extraction_audio_perceiver.py",
    } <= files.keys()
    assert loaded["module"].startswith("transformers_modules.user.sounds.")
    assert loaded["scores"] == {f"LABEL_{i}": pytest.approx(s, abs=1e-6) for i, s in enumerate(pushed["scores"])}
