"""The pipeline `point-cloud-classification`, and its way to the Hub: to where this package is not installed."""

import json
import os
import subprocess
import sys
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
from transformers import AutoFeatureExtractor, pipeline
from transformers.pipelines.pt_utils import KeyDataset

from perceivers import PointCloudClassificationPipeline, PointCloudPerceiverFeatureExtractor, register_for_remote_code
from tests.hub_server import TOKEN, running_hub
from tests.models import tiny_point_cloud_model

FILES = Path(__file__).parent / "point_clouds"
TASK = "point-cloud-classification"

PUSH = """
import json, sys
sys.modules.update(dict.fromkeys(["trimesh", "plyfile", "pypcd4", "laspy"]))  # the readers are extras
import torch
from transformers import pipeline
from perceivers import PointCloudPerceiverFeatureExtractor, register_for_remote_code
from tests.models import tiny_point_cloud_model

register_for_remote_code()
extractor = PointCloudPerceiverFeatureExtractor(num_points=64)
classify = pipeline("point-cloud-classification", model=tiny_point_cloud_model(), feature_extractor=extractor)
classify.push_to_hub("user/clouds")
print(json.dumps(classify([[0, 0, 0], [1, 2, 3], [3, 1, 2]], top_k=10)))
"""

LOAD = """
import json, sys
sys.modules["perceivers"] = None  # any attempt to import it fails
sys.modules["trimesh"] = None  # nor what reads files that nobody asks for
import numpy as np
from transformers import AutoFeatureExtractor, AutoModelForSequenceClassification, pipeline

classify = pipeline(model="user/clouds", trust_remote_code=True)
trust = {"trust_remote_code": True}
extractor = AutoFeatureExtractor.from_pretrained("user/clouds", **trust)
model = AutoModelForSequenceClassification.from_pretrained("user/clouds", **trust)
np.save("cloud.npy", np.array([[0, 0, 0], [1, 2, 3], [3, 1, 2]]))
print(json.dumps({
    "task": classify.task,
    "scores": classify("cloud.npy", top_k=10),
    "modules": [type(thing).__module__ for thing in (classify, classify.feature_extractor, classify.model)],
    "logits": model(**extractor("cloud.npy", return_tensors="pt")).logits.tolist(),
}))
"""


@pytest.fixture(scope="module")
def classify():
    extractor = PointCloudPerceiverFeatureExtractor(num_points=64)
    model = tiny_point_cloud_model(id2label={i: f"solid {i}" for i in range(10)})
    return pipeline(TASK, model=model, feature_extractor=extractor)


@pytest.fixture(scope="module")
def points():
    return np.random.default_rng(0).normal(size=(50, 3))


def test_scores_are_those_of_the_model(classify, points):
    inputs = classify.feature_extractor(points, return_tensors="pt")
    with torch.no_grad():
        scores = classify.model(**inputs).logits[0].softmax(-1)
    answer = classify(points, top_k=10)
    assert isinstance(classify, PointCloudClassificationPipeline)
    assert [entry["score"] for entry in answer] == sorted(scores.tolist(), reverse=True)
    assert answer[0]["label"] == f"solid {scores.argmax().item()}"
    assert len(classify(points)) == 5 and len(classify(points, top_k=99)) == 10


def test_kinds_of_inputs(classify, points):
    expected = classify(points)
    assert classify(torch.tensor(points)) == expected
    assert classify(points.tolist()) == expected
    assert classify({"points": points, "label": 3}) == expected
    assert classify([points, points.tolist()]) == [expected, expected]
    assert classify(np.stack([points, points])) == [expected, expected]
    assert list(classify(cloud for cloud in [points, points])) == [expected, expected]
    rows = datasets.Dataset.from_dict({"points": [points, points], "label": [0, 1]})
    from_rows = [*classify(rows), *classify(KeyDataset(rows, "points"))]
    assert from_rows == [expected] * 4


def test_files(classify):
    scores = [answer[0]["score"] for answer in classify([str(FILES / "binary.pcd"), str(FILES / "binary.ply")])]
    assert scores[0] == pytest.approx(scores[1], abs=1e-4)
    with pytest.raises(ValueError, match="is not a point cloud"):
        classify("cloud.doc")


@pytest.mark.parametrize(
    ("arguments", "kind", "message"),
    [
        ({"topk": 3}, TypeError, r"no argument `topk` \(did you mean `top_k`\?\); it has top_k, function_to_apply"),
        ({"num_points": 3}, TypeError, "PointCloudClassificationPipeline has no argument `num_points`; it has"),
        ({"top_k": -1}, ValueError, "`top_k` must be at least 1, got -1"),
    ],
)
def test_wrong_arguments(classify, points, arguments, kind, message):
    with pytest.raises(kind, match=message):
        classify(points, **arguments)


def test_content_and_open_files(classify):
    path = FILES / "plain.xyz"
    expected = classify(str(path))
    with path.open("rb") as file:
        assert classify(file) == classify(path.read_bytes()) == classify({"bytes": path.read_bytes()}) == expected


def test_a_batch_of_many_sizes(classify):
    clouds = [np.random.default_rng(n).normal(size=(n, 3)) for n in (40, 9, 64, 200, 5)]
    for alone, together in zip(map(classify, clouds), classify(clouds, batch_size=3), strict=True):
        assert [entry["label"] for entry in alone] == [entry["label"] for entry in together]
        np.testing.assert_allclose([e["score"] for e in alone], [e["score"] for e in together], rtol=1e-4)


@pytest.mark.parametrize(
    ("fields", "function"),
    [
        ({"problem_type": "multi_label_classification"}, "sigmoid"),
        ({"problem_type": "regression"}, "none"),
        ({"problem_type": "single_label_classification"}, "softmax"),
        ({}, "softmax"),
    ],
)
def test_the_function_follows_the_problem_type(classify, points, fields, function):
    model = tiny_point_cloud_model(**fields)
    one = pipeline(TASK, model=model, feature_extractor=classify.feature_extractor)
    assert one(points) == one(points, function_to_apply=function)
    with pytest.raises(ValueError, match="`function_to_apply` must be softmax, sigmoid or none, got 'tanh'"):
        one(points, function_to_apply="tanh")


def test_half_precision_gets_the_coordinates_in_full(classify, points):
    half = pipeline(
        TASK, model=tiny_point_cloud_model().to(torch.bfloat16), feature_extractor=classify.feature_extractor
    )
    assert half.preprocess(points)["point_values"].dtype == torch.float32
    assert 0.99 < sum(entry["score"] for entry in half(points, top_k=10)) < 1.01


def test_a_saved_model_is_a_pipeline_by_name(tmp_path, points):
    model = tiny_point_cloud_model()
    model.save_pretrained(tmp_path)
    PointCloudPerceiverFeatureExtractor(num_points=32).save_pretrained(tmp_path)
    loaded = pipeline(TASK, model=str(tmp_path), device="cpu")
    assert loaded.feature_extractor.num_points == 32
    assert loaded(points)[0]["score"] > 0.1
    assert AutoFeatureExtractor.from_pretrained(tmp_path).num_points == 32


@pytest.mark.integration
def test_to_the_hub_and_back_without_the_package(tmp_path):
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "HUGGING", "TRANSFORMERS_"))}
    answers = []
    with running_hub() as hub:
        for script, path in ((PUSH, str(Path(__file__).parent.parent)), (LOAD, "")):
            home = tmp_path / str(len(answers))
            home.mkdir()
            settings = {"HF_ENDPOINT": hub.url, "HF_TOKEN": TOKEN, "HF_HOME": str(home), "HF_HUB_DISABLE_XET": "1"}
            result = subprocess.run(
                [sys.executable, "-c", script],
                env={**kept, **settings, "HF_MODULES_CACHE": str(home / "modules"), "PYTHONPATH": path},
                cwd=home,
                capture_output=True,
                text=True,
            )
            assert result.returncode == 0, result.stderr
            answers.append(json.loads(result.stdout.splitlines()[-1]))
        _, files = hub.repos["user/clouds"].at("main")
    assert {
        "point_cloud_classification.py",
        "modeling_point_cloud_perceiver.py",
        "feature_extraction_point_cloud_perceiver.py",
        "point_cloud_files.py",
        "preprocessor_config.json",
    } <= files.keys()
    pushed, loaded = answers
    assert loaded["task"] == TASK
    assert [entry["label"] for entry in loaded["scores"]] == [entry["label"] for entry in pushed]
    np.testing.assert_allclose([e["score"] for e in loaded["scores"]], [e["score"] for e in pushed], rtol=1e-4)
    assert all(module.startswith("transformers_modules.user.clouds.") for module in loaded["modules"])
    assert np.argmax(loaded["logits"]) == int(pushed[0]["label"].removeprefix("LABEL_"))


def test_registering_for_remote_code_names_the_classes(tmp_path):
    register_for_remote_code()
    tiny_point_cloud_model().save_pretrained(tmp_path)
    auto_map = json.loads((tmp_path / "config.json").read_text())["auto_map"]
    assert auto_map["AutoModelForSequenceClassification"] == (
        "modeling_point_cloud_perceiver.PointCloudPerceiverForPointCloudClassification"
    )
