"""What travels to the Hub loads where this package is not installed, under `trust_remote_code=True`, to the bit."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from perceivers import (
    AudioPerceiverConfig,
    AudioPerceiverForAudioClassification,
    ImagePerceiverConfig,
    ImagePerceiverForImageClassification,
    ImagePerceiverImageProcessor,
    ImagePerceiverImageProcessorPil,
    register_for_remote_code,
)
from tests.models import randomize, tiny_extractor

WITHOUT_THE_PACKAGE = """
import json, sys
sys.modules["perceivers"] = None  # any attempt to import it fails
import torch
from PIL import Image
from transformers import AutoImageProcessor, AutoModelForImageClassification, pipeline
torch.set_grad_enabled(False)  # with it, attention takes another way, whose last bits differ
folder, backend = sys.argv[1:]
processor = AutoImageProcessor.from_pretrained(folder, trust_remote_code=True, backend=backend)
model = AutoModelForImageClassification.from_pretrained(folder, trust_remote_code=True)
image = Image.open(folder + "/image.png")
logits = model(**processor(image, return_tensors="pt")).logits
classify = pipeline("image-classification", model=model, image_processor=processor)
print(json.dumps({"logits": logits.tolist(), "label": classify(image, top_k=1)[0]["label"],
                  "classes": [type(model).__module__, type(processor).__name__]}))
"""


def answer_elsewhere(folder, script, *arguments):
    """What a script prints as JSON in its last line, in a process without this package and with a cache of its own."""
    result = subprocess.run(
        [sys.executable, "-c", script, *arguments],
        env={**os.environ, "HF_MODULES_CACHE": str(folder / "modules"), "HF_HUB_OFFLINE": "1", "PYTHONPATH": ""},
        cwd=folder,
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout.splitlines()[-1])


@pytest.mark.parametrize("backend", ["pil", "torchvision"])
@pytest.mark.integration
def test_a_pushed_folder_loads_without_the_package(tmp_path, backend):
    if backend == "torchvision":
        pytest.importorskip("torchvision")
    register_for_remote_code()
    folder = tmp_path / "model"
    processor_class = ImagePerceiverImageProcessorPil if backend == "pil" else ImagePerceiverImageProcessor
    processor = processor_class(size={"height": 16, "width": 16})
    config = ImagePerceiverConfig.from_variant("tiny", id2label={i: f"digit {i}" for i in range(10)})
    model = randomize(ImagePerceiverForImageClassification(config)).eval()
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    pixels = np.random.default_rng(0).integers(0, 256, (37, 51, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(folder / "image.png")
    # Loaded here as well, as the last bits of a matrix product depend on where in memory a weight begins.
    loaded = ImagePerceiverForImageClassification.from_pretrained(folder)
    with torch.no_grad():
        expected = loaded(**processor(Image.open(folder / "image.png"), return_tensors="pt")).logits

    answer = answer_elsewhere(tmp_path, WITHOUT_THE_PACKAGE, str(folder), backend)
    assert torch.equal(torch.tensor(answer["logits"]), expected)
    assert answer["label"] == f"digit {expected.argmax().item()}"
    assert answer["classes"] == [
        "transformers_modules." + answer["classes"][0].split(".", 1)[1],
        processor_class.__name__,
    ]


AUDIO_WITHOUT_THE_PACKAGE = """
import json, sys
sys.modules["perceivers"] = None  # any attempt to import it fails
import numpy as np
import torch
from transformers import AutoFeatureExtractor, AutoModelForAudioClassification, pipeline
torch.set_grad_enabled(False)  # with it, attention takes another way, whose last bits differ
folder, clip = sys.argv[1], np.load(sys.argv[2])
extractor = AutoFeatureExtractor.from_pretrained(folder, trust_remote_code=True)
model = AutoModelForAudioClassification.from_pretrained(folder, trust_remote_code=True)
logits = model(**extractor(clip, sampling_rate=8000, return_tensors="pt")).logits
classify = pipeline("audio-classification", model=folder, trust_remote_code=True)
print(json.dumps({"logits": logits.tolist(), "label": classify(clip, top_k=1)[0]["label"],
                  "classes": [type(model).__module__, type(extractor).__module__]}))
"""


@pytest.mark.parametrize("representation", ["waveform", "mel"])
@pytest.mark.integration
def test_a_pushed_folder_with_audio_loads_without_the_package(tmp_path, representation):
    pytest.importorskip("torchaudio")
    register_for_remote_code()
    folder, clip = tmp_path / "model", np.random.default_rng(0).uniform(-1, 1, 400).astype(np.float32)
    np.save(tmp_path / "clip.npy", clip)
    config = AudioPerceiverConfig.from_variant(
        "tiny",
        representation=representation,
        problem_type="single_label_classification",
        id2label={i: f"sound {i}" for i in range(10)},
    )
    model = randomize(AudioPerceiverForAudioClassification(config)).eval()
    extractor = tiny_extractor(representation)
    model.save_pretrained(folder)
    extractor.save_pretrained(folder)
    # Loaded here as well, as the last bits of a matrix product depend on where in memory a weight begins.
    loaded = AudioPerceiverForAudioClassification.from_pretrained(folder)
    with torch.no_grad():
        expected = loaded(**extractor(clip, sampling_rate=8000, return_tensors="pt")).logits

    answer = answer_elsewhere(tmp_path, AUDIO_WITHOUT_THE_PACKAGE, str(folder), str(tmp_path / "clip.npy"))
    assert torch.equal(torch.tensor(answer["logits"]), expected)
    assert answer["label"] == f"sound {expected.argmax().item()}"
    assert all(name.startswith("transformers_modules.") for name in answer["classes"])
