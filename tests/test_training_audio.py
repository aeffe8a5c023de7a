"""Training on audio: the built-in sounds, columns of recordings, augmentation, and metrics for many labels."""

import datasets
import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from sklearn.metrics import average_precision_score, roc_auc_score
from transformers import PreTrainedConfig

import perceivers
from perceivers.pipelines.long_audio_classification import LongAudioClassificationPipeline
from perceivers.training.audio import (
    AUDIO,
    AudioAugmentationArguments,
    AudioDataArguments,
    AudioTransform,
    RandomWaveform,
    SpecAugment,
    make_waveform_augmentation,
)
from perceivers.training.class_metrics import d_prime, ranking_report, ranking_scores
from perceivers.training.classification import CLASSIFICATION, ClassTargets, class_weights
from perceivers.training.datasets import load_examples
from perceivers.training.evaluation import Evaluator
from perceivers.training.modality import single_chunk
from perceivers.training.sounds import KINDS, NUM_SAMPLES, SAMPLING_RATE, make_clip, sounds
from tests.models import tiny_audio_model, tiny_extractor

soundfile = pytest.importorskip("soundfile")
pytest.importorskip("torchaudio")


class TestSounds:
    def test_are_the_same_every_time_and_however_many(self):
        few, many, other = sounds(12, seed=5), sounds(24, seed=5), sounds(12, seed=6)
        assert few[:]["audio"] == many[:12]["audio"]
        assert few[0]["audio"] != other[0]["audio"]
        assert few["label"][:] == list(range(12))
        assert few.features["label"].names == list(KINDS) and len(KINDS) == 12

    def test_are_wav_files_of_a_random_level(self):
        extractor = tiny_extractor("waveform", num_samples=NUM_SAMPLES, do_normalize=False)
        clips = extractor(sounds(24, seed=0)["audio"][:], return_tensors="pt")["input_values"]
        peaks = clips.abs().amax(dim=1)
        assert clips.shape == (24, NUM_SAMPLES)
        assert 0.04 < peaks.min() < 0.2 < peaks.max() <= 0.9 + 1e-3

    def test_mixtures_have_one_to_three_kinds(self):
        labels = sounds(60, seed=0, is_multi_label=True)["label"][:]
        assert {len(label) for label in labels} == {1, 2, 3}
        assert all(len(set(label)) == len(label) for label in labels)
        assert {kind for label in labels for kind in label} == set(range(12))

    @pytest.mark.parametrize("kind", KINDS)
    def test_a_kind_is_above_its_background(self, kind):
        clips = [make_clip([kind], np.random.default_rng(seed)) for seed in range(8)]
        assert all(np.isfinite(clip).all() and np.abs(clip).max() <= 0.9 for clip in clips)
        # Every onset is in the first quarter, and the sound lasts or dies away.
        second = sum(np.square(clip[NUM_SAMPLES // 4 : NUM_SAMPLES // 2]).mean() for clip in clips)
        background = sum(np.square(clip[:100]).mean() for clip in clips)
        assert second > background

    def test_pitches(self):
        """A rise ends higher than it begins, a fall lower: by the spectrum's strongest frequency."""
        for kind, direction in (("rise", 1), ("fall", -1)):
            clip = make_clip([kind], np.random.default_rng(0))
            early, late = (np.abs(np.fft.rfft(part)).argmax() for part in (clip[2048:3072], clip[-1024:]))
            assert direction * (late - early) * SAMPLING_RATE / 1024 > 100


class TestData:
    def saved(self, tmp_path, labels, label_type):
        """A data set with a column of recordings that `load_dataset` finds by its path."""
        for index in range(len(labels)):
            soundfile.write(tmp_path / f"{index}.wav", np.full(600, index / 20), 8000)
        files = [{"bytes": (tmp_path / f"{i}.wav").read_bytes(), "path": f"{i}.wav"} for i in range(len(labels))]
        features = datasets.Features({"sound": datasets.Audio(), "kind": label_type})
        dataset = datasets.Dataset.from_dict({"sound": files, "kind": labels}).cast(features)
        folder = tmp_path / "data"
        folder.mkdir()
        dataset.to_parquet(folder / "train.parquet")
        return str(folder)

    @pytest.mark.parametrize(
        ("labels", "label_type"),
        [
            (["b", "a"] * 5, datasets.Value("string")),
            ([["b", "c"], ["a", "c"]] * 5, datasets.List(datasets.Value("string"))),
        ],
    )
    def test_recordings_of_a_data_set_are_read_without_ffmpeg(self, tmp_path, labels, label_type):
        path = self.saved(tmp_path, labels, label_type)
        arguments = AudioDataArguments(dataset_name=path, label_column_name="kind")
        examples = load_examples(AUDIO, CLASSIFICATION, arguments, seed=0)
        assert (len(examples.train), len(examples.validation)) == (8, 2)
        extractor = tiny_extractor("waveform", do_normalize=False)
        for example in (*examples.train, *examples.validation):
            value = extractor(example["audio"], return_tensors="pt")["input_values"][0, 0].item()
            label = example["label"] if isinstance(example["label"], list) else [example["label"]]
            names = [examples.targets.label_names[index] for index in label]
            assert names[0] == ("b" if round(value * 20) % 2 == 0 else "a")

    def test_classes_are_drawn_as_often(self):
        weights = class_weights([0, 0, 0, 1], num_labels=3)
        np.testing.assert_allclose(weights, [1 / 3, 1 / 3, 1 / 3, 1])
        weights = class_weights([[0], [0, 1], [0, 1], []], num_labels=2)
        np.testing.assert_allclose(weights, [1 / 3, (1 / 3 + 1 / 2) / 2, (1 / 3 + 1 / 2) / 2, 0])


class TestDrawing:
    """What the picture of mistakes shows of a recording."""

    @pytest.mark.parametrize("representation", ["waveform", "mel"])
    def test_what_the_model_hears_is_drawn(self, representation):
        extractor = tiny_extractor(representation)
        transform, axes = AUDIO.eval_transform(extractor), Figure().add_subplot()
        rate = extractor.sampling_rate
        value = {"array": np.sin(np.arange(extractor.num_samples // 2) / 3).astype(np.float32), "sampling_rate": rate}
        AUDIO.draw(value, transform, axes)
        batch = transform([value])
        heard = batch[extractor.model_input_names[0]][0][batch["attention_mask"][0].bool()].numpy()  # without padding
        if representation == "waveform":
            (line,) = axes.lines
            assert len(heard) == len(value["array"])
            np.testing.assert_array_equal(line.get_ydata(), heard)
        else:
            (picture,) = axes.images
            assert picture.origin == "lower"
            np.testing.assert_array_equal(picture.get_array(), heard.T)

    def test_a_broken_recording_is_refused(self, tmp_path):
        path = tmp_path / "x.wav"
        path.write_bytes(b"RIFF")
        with pytest.raises(ValueError, match=r"x\.wav"):
            AUDIO.draw(AUDIO.example_from_file(str(path)), AUDIO.eval_transform(tiny_extractor("mel")), None)


class TestAugmentation:
    def test_crops_are_anywhere_in_the_recording(self):
        torch.manual_seed(0)
        crop = RandomWaveform(num_samples=3, level=0.0, noise=0.0)
        clips = [crop(torch.arange(6.0)).tolist() for _ in range(100)]
        assert {clip[0] for clip in clips} == {0.0, 1.0, 2.0, 3.0}
        assert all(np.diff(clip).tolist() == [1.0, 1.0] for clip in clips)
        assert crop(torch.ones(2)).tolist() == [1.0, 1.0]

    def test_level_and_noise_stay_in_their_limits(self):
        torch.manual_seed(0)
        levels = torch.tensor([RandomWaveform(None, level=20.0, noise=0.0)(torch.ones(1)).item() for _ in range(200)])
        assert 0.1 <= levels.min() < 0.2 and 5 < levels.max() <= 10
        noises = [(RandomWaveform(None, 0.0, noise=0.5)(torch.ones(2000)) - 1).std().item() for _ in range(50)]
        assert min(noises) < 0.1 and 0.4 < max(noises) < 0.55

    def test_nothing_is_random_if_nothing_is_asked_for(self):
        assert make_waveform_augmentation(AudioAugmentationArguments(), 512) is None
        extractor = tiny_extractor("waveform")
        assert not AudioTransform(extractor).is_random
        process = AudioTransform(extractor, RandomWaveform(None, 0.0, noise=0.5))
        recording = {"array": np.ones(512, np.float32), "sampling_rate": 8000}
        first, second = (process([recording])["input_values"] for _ in range(2))
        assert process.is_random and not torch.equal(first, second)

    def test_spec_augment_wipes_out_one_band_an_axis_of_each_spectrogram(self):
        torch.manual_seed(0)
        batch = {"input_features": torch.ones(64, 20, 16), "labels": torch.arange(64)}
        augmented = SpecAugment(time_mask=6, frequency_mask=0)(batch)
        wiped = augmented["input_features"] == 0
        assert augmented["labels"] is batch["labels"]
        assert torch.equal(wiped.any(dim=2), wiped.all(dim=2))  # whole frames
        widths = wiped.all(dim=2).sum(dim=1)
        assert len(widths.unique()) > 3 and widths.max() <= 6
        wiped = SpecAugment(time_mask=0, frequency_mask=5)(batch)["input_features"] == 0
        assert torch.equal(wiped.any(dim=1), wiped.all(dim=1))
        assert wiped.any() and wiped.all(dim=1).sum(dim=1).max() <= 5
        assert (batch["input_features"] == 1).all()

    def test_negative_settings(self):
        with pytest.raises(ValueError, match="`--noise` must not be negative, got -1"):
            AudioAugmentationArguments(noise=-1)


class TestMetrics:
    # 4 inputs, 3 classes; by hand: class 0 is ranked right, class 1 upside down, of class 2 all inputs are.
    SCORES = np.array([[0.9, 0.1, 0.5], [0.8, 0.2, 0.5], [0.3, 0.8, 0.5], [0.1, 0.9, 0.5]])
    REFERENCES = np.array([[1, 1, 1], [1, 1, 1], [0, 0, 1], [0, 0, 1]])

    def test_by_hand(self):
        scores = ranking_scores(self.SCORES, self.REFERENCES)
        upside_down = (1 / 3 + 2 / 4) / 2  # the right ones come third and fourth
        assert scores["mean_average_precision"] == pytest.approx((1 + upside_down) / 2)
        assert scores["roc_auc"] == pytest.approx((1 + 0) / 2)
        assert scores["d_prime"] == pytest.approx(0)
        rows = ranking_report(self.SCORES, self.REFERENCES, ["a", "b", "c"])["classes"]
        assert [row["average_precision"] for row in rows] == [1, pytest.approx(upside_down), None]
        assert [row["number"] for row in rows] == [2, 2, 4]

    def test_averages_over_classes_and_not_over_inputs(self):
        """The first version of the paper had the axes the wrong way around."""
        random = np.random.default_rng(0)
        references = (random.random((300, 8)) < 0.15).astype(int)
        references[:, 0] |= ~references.any(axis=1)  # every input has a class, so that both averages exist
        logits = random.standard_normal((300, 8)) + references
        scores = ranking_scores(logits, references)
        assert scores["mean_average_precision"] == pytest.approx(average_precision_score(references, logits))
        assert scores["roc_auc"] == pytest.approx(roc_auc_score(references, logits))
        transposed = average_precision_score(references.T, logits.T)
        assert abs(scores["mean_average_precision"] - transposed) > 0.05

    @pytest.mark.parametrize(("roc_auc", "expected"), [(0.5, 0.0), (0.7602499, 1.0), (0.9213504, 2.0), (1.0, 6.72)])
    def test_d_prime(self, roc_auc, expected):
        """sqrt(2) times the normal quantile: the area is Phi(d / sqrt(2))."""
        assert d_prime(roc_auc) == pytest.approx(expected, abs=5e-3)

    def test_nothing_to_rank(self):
        with pytest.raises(ValueError, match="No class can be ranked"):
            ranking_scores(np.zeros((3, 2)), np.ones((3, 2)))

    def test_labels_are_matched_by_name(self):
        dataset = datasets.Dataset.from_dict({"label": [[0], [0, 1], []]})
        config = PreTrainedConfig(id2label={0: "b", 1: "c", 2: "a"})
        rows = CLASSIFICATION.references(dataset, config, ClassTargets(["a", "b"], is_multi_label=True))
        assert rows.tolist() == [[0, 0, 1], [1, 0, 1], [0, 0, 0]]

    def test_labels_are_not_smoothed(self):
        with pytest.raises(ValueError, match=r"for one label per example, got 0\.1"):
            CLASSIFICATION.loss(ClassTargets(["a", "b"], is_multi_label=True), 0.1, has_mixed_labels=False)


def test_the_pipeline_has_its_name_of_version_0_1_0():
    assert perceivers.RecordingClassificationPipeline is perceivers.LongAudioClassificationPipeline


class TestEvaluation:
    @pytest.mark.integration
    def test_of_long_recordings_is_by_what_the_pipeline_says(self):
        """The mean over overlapping clips, where the first clip alone says something else."""
        model, extractor = tiny_audio_model("waveform"), tiny_extractor("waveform", do_normalize=False)
        random = np.random.default_rng(0)
        recordings = [
            {"array": random.uniform(-1, 1, random.integers(100, 3000)), "sampling_rate": 8000} for _ in range(20)
        ]
        classify = LongAudioClassificationPipeline(model=model, feature_extractor=extractor)
        answers = [prediction[0]["label"] for prediction in classify([dict(r) for r in recordings], top_k=1)]
        names = list(model.config.label2id)
        dataset = datasets.Dataset.from_dict({"audio": recordings, "label": [names.index(name) for name in answers]})
        targets, transform = ClassTargets(names), AUDIO.eval_transform(extractor)
        assert len({len(AUDIO.chunks(extractor)(recording)) for recording in recordings}) > 3
        accuracies = [
            Evaluator(model, AUDIO, CLASSIFICATION, targets, dataset, transform, 3, chunks).evaluate()
            for chunks in (AUDIO.chunks(extractor), single_chunk)
        ]
        assert accuracies[0]["accuracy"] == 1 > accuracies[1]["accuracy"]

    def test_averages_are_logits_of_mean_scores(self):
        logits = 9 * torch.randn(5, 7, dtype=torch.float64)
        for name, scores in (("single", lambda x: x.softmax(-1)), ("multi", torch.sigmoid)):
            targets = ClassTargets(list("abcdefg"), is_multi_label=name == "multi")
            torch.testing.assert_close(scores(CLASSIFICATION.merge_chunks(logits, targets)), scores(logits).mean(0))
            assert torch.equal(CLASSIFICATION.merge_chunks(logits[:1], targets).argsort(), logits[0].argsort())
