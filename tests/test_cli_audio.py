"""The commands on audio, from end to end with a tiny model: training, evaluation, long recordings, broken files."""

import json
import shutil
import sys
from functools import partial
from itertools import pairwise

import datasets
import numpy as np
import PIL.Image
import pytest
import torch
from huggingface_hub import ModelCard
from transformers import pipeline

from perceivers.cli.main import main
from perceivers.pipelines.long_audio_classification import LongAudioClassificationPipeline
from perceivers.training.audio import AUDIO as MODALITY
from perceivers.training.sounds import sounds
from tests.models import tiny_audio_model, tiny_extractor
from tests.runs import save_model
from tests.test_audio_processing import broken_files

soundfile = pytest.importorskip("soundfile")
pytest.importorskip("torchaudio")

RATE = 8000
AUDIO = ["--task", "audio-classification", "--use_cpu", "--disable_tqdm", "true", "--report_to", "none"]
TINY = ["--processor", f"sampling_rate={RATE}", "--num_train_epochs", "1", "--per_device_train_batch_size", "4"]


@pytest.fixture(autouse=True, scope="module")
def without_torchcodec():
    """Nor FFmpeg, then: soundfile has to do."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "torchcodec", None)
        patch.setattr(datasets.config, "TORCHCODEC_AVAILABLE", False)
        yield


pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("one_thread")]


def tone(num_samples, pitch):
    return 0.5 * np.sin(2 * np.pi * pitch * np.arange(num_samples) / RATE)


def train(folder, *words):
    return main(["train", *AUDIO, *TINY, "--output_dir", str(folder), *words])


def errors(capsys):
    return [line for line in capsys.readouterr().err.splitlines() if line.startswith("perceivers: error:")]


@pytest.fixture(scope="module")
def recordings(tmp_path_factory):
    """Two class folders of files of several kinds and lengths, and broken files among them."""
    root = tmp_path_factory.mktemp("audio") / "recordings"
    for index, name in enumerate(("low", "high")):
        (root / name).mkdir(parents=True)
        for number, suffix in enumerate(("wav", "flac", "ogg", "wav", "flac", "wav")):
            stereo = np.stack([tone(400 + 200 * number, 300 + 900 * index)] * 2, axis=1)
            soundfile.write(root / name / f"{number}.{suffix}", stereo, RATE * (1 + number % 2))
    broken_files(root / "low")
    return root


@pytest.fixture(scope="module")
def trained(recordings, tmp_path_factory):
    folder = tmp_path_factory.mktemp("model") / "model"
    torch.set_num_threads(1)
    assert train(folder, "--train_dir", str(recordings), "--variant", "tiny", "--class_balanced_sampling") == 0
    return folder


def test_broken_files_are_named_counted_and_skipped(recordings, tmp_path, capsys):
    words = ["--train_dir", str(recordings), "--variant", "tiny-mel", "--time_mask", "4", "--frequency_mask", "2"]
    words += ["--time_crop", "--level", "6", "--noise", "0.1", "--num_train_epochs", "2"]
    assert train(tmp_path / "out", *words) == 0
    captured = capsys.readouterr()
    warnings = [line for line in captured.err.splitlines() if line.startswith("perceivers: warning: skipped")]
    for name in ("text.wav", "truncated.flac", "nothing.wav", "empty.wav"):
        assert sum(name in line for line in warnings) == 1
    assert "Skipped 4 unreadable recordings, listed above." in captured.out
    assert "held-out recordings" in captured.out
    assert 0 <= json.loads((tmp_path / "out" / "all_results.json").read_text())["eval_accuracy"] <= 1


def test_evaluate(trained, recordings, capsys):
    assert main(["evaluate", str(trained), "--validation_dir", str(recordings), "--json"]) == 0
    results = json.loads(capsys.readouterr().out)
    assert results["examples"] == 12 and len(results["unreadable"]) == 4


def test_model_card(trained):
    card = ModelCard.load(trained / "README.md")
    assert card.data.pipeline_tag == "audio-classification"
    assert 'classify("recording.wav")' in card.text and "recordings into 2 classes" in card.text
    assert (trained / "feature_extraction_audio_perceiver.py").is_file() and (trained / "audio_reading.py").is_file()


def test_predict_averages_over_the_clips_of_a_long_recording(trained, recordings, tmp_path, capsys):
    long = np.concatenate([tone(3000, 300), tone(2000, 1200)])
    soundfile.write(tmp_path / "long.wav", long, RATE)
    files = [tmp_path / "long.wav", recordings / "low" / "2.ogg", recordings / "low" / "text.wav"]
    assert main(["predict", str(trained), *map(str, files), "--json", "--top_k", "2"]) == 1  # one is broken
    captured = capsys.readouterr()
    answers = json.loads(captured.out)
    assert "text.wav: not audio, or is truncated" in captured.err
    classify = pipeline("audio-classification", model=str(trained))
    clips = classify.feature_extractor.overlapping_clips(long, RATE)
    assert len(clips) > 8 * 2
    expected = {"low": 0.0, "high": 0.0}
    for scores in classify(clips, top_k=2):
        for entry in scores:
            expected[entry["label"]] += entry["score"] / len(clips)
    actual = {entry["label"]: entry["score"] for entry in answers[0]["predictions"]}
    assert actual == pytest.approx(expected, abs=1e-4)
    assert len(answers[1]["predictions"]) == 2 and answers[2]["predictions"] == []


@pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="the stock pipeline reads paths by FFmpeg")
def test_the_stock_pipeline_takes_a_path(trained, recordings):
    path = str(recordings / "high" / "0.wav")
    classify = pipeline("audio-classification", model=str(trained))
    samples, rate = soundfile.read(path, dtype="float32")
    expected = classify({"array": samples.mean(axis=1), "sampling_rate": rate})
    assert classify(path)[0]["score"] == pytest.approx(expected[0]["score"], abs=1e-3)


def test_predict_a_timeline(trained, recordings, tmp_path, capsys):
    soundfile.write(tmp_path / "long.wav", np.concatenate([tone(3000, 300), tone(2000, 1200)]), RATE)
    files = [str(tmp_path / "long.wav"), str(recordings / "low" / "text.wav")]
    words = ["predict", str(trained), *files, "--timeline", "--top_k", "2", "--output_dir", str(tmp_path / "out")]
    assert main([*words, "--json"]) == 1  # one is broken
    long, broken = json.loads(capsys.readouterr().out)
    rows = long["predictions"]
    assert [list(row) for row in rows] == [["start", "end", "label", "score"]] * len(rows)
    spans = [(row["start"], row["end"]) for row in rows]
    assert spans == sorted(spans) and spans[0][0] == 0 and spans[-1][1] == 5000 / RATE
    assert all(later[0] < earlier[1] for earlier, later in pairwise(sorted(set(spans))))  # no gap
    assert spans[::2] == spans[1::2] and len(set(spans)) == len(rows) / 2
    assert "error" in broken and {path.name for path in (tmp_path / "out").iterdir()} == {"long.json", "long.png"}
    assert json.loads((tmp_path / "out" / "long.json").read_text()) == rows
    with PIL.Image.open(tmp_path / "out" / "long.png") as picture:
        assert picture.width == 1200
    assert main([word for word in words if word != files[1]]) == 0
    table = capsys.readouterr().out.splitlines()
    assert table[0].split() == ["file", "start", "end", "label", "score"] and len(table) == 1 + len(rows)
    assert len({len(line) for line in table}) == 1


def test_a_timeline_needs_recordings(tmp_path, capsys):
    model = save_model(tmp_path / "model")
    assert main(["predict", str(model), "x.png", "--timeline"]) == 1
    (line,) = errors(capsys)
    assert line.endswith(f"`--timeline` is for recordings, but {model} is a model for images.")


def test_predict_a_folder(trained, recordings, capsys):
    assert main(["predict", str(trained), str(recordings / "high")]) == 0
    assert capsys.readouterr().out.count("high") >= 6


def test_mixtures_of_sounds(tmp_path, capsys, monkeypatch):
    few = {"train": partial(sounds, 24, seed=1, is_multi_label=True)}
    few["validation"] = partial(sounds, 60, seed=0, is_multi_label=True)
    monkeypatch.setitem(MODALITY.built_in, "sound_mixtures", few)
    folder = tmp_path / "out"
    words = ["train", "sounds-mel", "--dataset_name", "sound_mixtures", "--output_dir", str(folder)]
    words += ["--num_train_epochs", "1", "--disable_tqdm", "true", "--config", "num_frames=8", "num_latents=4"]
    assert main([*words, "--processor", "hop_length=1024", "n_fft=2048"]) == 0
    assert "Mean average precision on 60 held-out recordings" in capsys.readouterr().out
    results = json.loads((folder / "all_results.json").read_text())
    assert {"eval_mean_average_precision", "eval_roc_auc", "eval_d_prime"} <= results.keys()
    metrics = {result.metric_type for result in ModelCard.load(folder / "README.md").data.eval_results}
    assert metrics == {"mean_average_precision", "roc_auc", "d_prime"}
    assert main(["evaluate", str(folder)]) == 0
    shown = capsys.readouterr().out
    assert "average precision" in shown and "tremolo" in shown
    assert main(["predict", str(folder), str(folder / "example.wav"), "--top_k", "3", "--json"]) == 0
    (answer,) = json.loads(capsys.readouterr().out)
    assert len(answer["predictions"]) == 3


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--variant", "tiny", "--time_mask", "3"], "`--time_mask` and `--frequency_mask` are for mel spectrograms"),
        (["--variant", "tiny", "--noise", "-1"], "`--noise` must not be negative, got -1.0"),
        (["--variant", "tiny", "--rotation", "3"], "unknown argument --rotation"),
        (["--variant", "huge"], "There is no variant `huge`; the variants are audioset-waveform"),
        (["--variant", "tiny", "--processor", "sampling_rate=0"], "positive whole number of hertz, got 0"),
    ],
)
def test_wrong_arguments_are_one_line(words, message, recordings, tmp_path, capsys):
    assert train(tmp_path / "out", "--train_dir", str(recordings), *words) in (1, 2)
    (line,) = errors(capsys)
    assert message in line
    assert not (tmp_path / "out").exists()


class TestRecordingPipeline:
    @pytest.mark.parametrize(("batch_size", "problem_type"), [(1, "single_label_classification"), (3, None)])
    def test_batches_change_nothing(self, batch_size, problem_type):
        model = tiny_audio_model("mel", problem_type=problem_type or "multi_label_classification")
        classify = pipeline(
            "audio-classification",
            model=model,
            feature_extractor=tiny_extractor("mel"),
            pipeline_class=LongAudioClassificationPipeline,
        )
        recordings = [{"array": tone(length, 500), "sampling_rate": RATE} for length in (2000, 300, 1111)]
        answers = classify(recordings, batch_size=batch_size, top_k=10, num_clips=7)
        extractor = classify.feature_extractor
        for recording, answer in zip(recordings, answers, strict=True):
            clips = extractor.overlapping_clips(recording, num_clips=7)
            with torch.no_grad():
                logits = model(**extractor(clips, sampling_rate=RATE, return_tensors="pt")).logits
            scores = logits.softmax(-1) if problem_type else logits.sigmoid()
            expected = {f"LABEL_{i}": score for i, score in enumerate(scores.mean(0).tolist())}
            assert {entry["label"]: entry["score"] for entry in answer} == pytest.approx(expected, abs=1e-5)

    def test_a_timeline_has_the_scores_of_each_clip(self):
        model = tiny_audio_model("mel")
        extractor = tiny_extractor("mel")
        classify = LongAudioClassificationPipeline(model=model, feature_extractor=extractor)
        recordings = [{"array": tone(length, 500), "sampling_rate": RATE} for length in (2000, 300)]
        answers = classify(recordings, batch_size=3, timeline=True, top_k=4)
        for recording, rows in zip(recordings, answers, strict=True):
            clips = extractor.overlapping_clips(recording)
            with torch.no_grad():
                logits = model(**extractor(clips, sampling_rate=RATE, return_tensors="pt")).logits
            best = logits.softmax(-1).topk(4)
            assert [row["score"] for row in rows] == pytest.approx(best.values.flatten().tolist(), abs=1e-5)
            assert [row["label"] for row in rows] == [f"LABEL_{index}" for index in best.indices.flatten().tolist()]
            assert rows[0]["start"] == 0 and rows[-1]["end"] == len(recording["array"]) / RATE
        assert len(classify(recordings[0], timeline=True)) == len(extractor.overlapping_clips(recordings[0]))

    def test_a_long_recording_takes_as_many_clips_as_cover_it(self):
        classify = LongAudioClassificationPipeline(
            model=tiny_audio_model("waveform"), feature_extractor=tiny_extractor("waveform")
        )
        recording = {"array": tone(20 * 512, 500), "sampling_rate": RATE}
        assert classify(recording, num_clips=16) == classify(recording, num_clips=20)
        assert len(classify(recording, num_clips=16, timeline=True)) == 20

    @pytest.mark.parametrize(
        ("arguments", "kind", "message"),
        [
            (
                {"topk": 3},
                TypeError,
                r"no argument `topk` \(did you mean `top_k`\?\); it has num_clips, timeline",
            ),
            ({"chunk_length_s": 3}, TypeError, "no argument `chunk_length_s`; it has"),
            ({"top_k": 0}, ValueError, "`top_k` must be at least 1, got 0"),
            ({"num_clips": 0}, ValueError, "`num_clips` must be at least 1, got 0"),
        ],
    )
    def test_wrong_arguments(self, arguments, kind, message):
        classify = LongAudioClassificationPipeline(
            model=tiny_audio_model("waveform"), feature_extractor=tiny_extractor("waveform")
        )
        with pytest.raises(kind, match=message):
            classify({"array": tone(2000, 500), "sampling_rate": RATE}, **arguments)
