"""The feature extractor: parity with torchaudio, inputs of every kind, rates, padding, errors, saving."""

import io
import subprocess
import sys
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch

from perceivers import AudioPerceiverFeatureExtractor
from perceivers.preprocessors.audio_reading import read_mono
from perceivers.preprocessors.feature_extraction_audio_perceiver import mel_spectrogram
from tests.models import tiny_audio_model, tiny_extractor

soundfile = pytest.importorskip("soundfile")
torchaudio = pytest.importorskip("torchaudio")

ROOT = Path(__file__).parents[1]
RATE = 8000


def wave(num_samples: int = 512, rate: int = RATE, pitch: float = 440.0) -> np.ndarray:
    """A tone of half amplitude."""
    return (0.5 * np.sin(2 * np.pi * pitch * np.arange(num_samples) / rate)).astype(np.float32)


@pytest.fixture(params=["waveform", "mel"])
def extractor(request):
    return tiny_extractor(request.param)


def values(extractor, audio, sampling_rate=RATE, **kwargs) -> torch.Tensor:
    return extractor(audio, sampling_rate=sampling_rate, return_tensors="pt", **kwargs)[extractor.model_input_names[0]]


# Parity


def test_mel_spectrogram_is_torchaudios():
    samples = torch.randn(61440, generator=torch.Generator().manual_seed(0))
    extractor = AudioPerceiverFeatureExtractor(representation="mel", do_normalize=False)
    reference = torchaudio.transforms.MelSpectrogram(48000, n_fft=1024, hop_length=512, n_mels=40, pad_mode="constant")
    expected = reference(samples)[:, :120].clamp(min=1e-6).log().T
    actual = values(extractor, samples, sampling_rate=48000)
    assert actual.shape == (1, 120, 40)  # the paper's 4,800 values
    assert torch.equal(actual[0], expected)


def test_resampling_is_torchaudios():
    extractor = tiny_extractor("waveform", do_normalize=False)
    samples = torch.randn(2000, generator=torch.Generator().manual_seed(0))
    expected = torchaudio.functional.resample(samples, 22050, RATE)[:512]
    assert torch.equal(values(extractor, samples, sampling_rate=22050)[0], expected)


def test_waveform_is_the_samples():
    samples = np.random.default_rng(0).uniform(-1, 1, 70000).astype(np.float32)
    raw = AudioPerceiverFeatureExtractor(do_normalize=False)
    assert torch.equal(values(raw, samples, 48000)[0], torch.from_numpy(samples[:61440]))


def test_is_normalised_and_deterministic(extractor):
    first, second = values(extractor, wave()), values(extractor, wave())
    assert torch.equal(first, second)
    assert first.mean().item() == pytest.approx(0, abs=1e-5)
    assert first.var(unbiased=False).item() == pytest.approx(1, abs=1e-4)


# Inputs


def test_containers(extractor):
    samples = wave()
    expected = values(extractor, samples)
    for given in (
        samples,
        samples.astype(np.float64),
        torch.from_numpy(samples),
        samples.tolist(),
        [samples],
        samples[None],
        samples[None, None],
        {"array": samples, "sampling_rate": RATE},
        {"raw": torch.from_numpy(samples), "sampling_rate": RATE, "path": None},
    ):
        torch.testing.assert_close(values(extractor, given), expected, atol=1e-5, rtol=1e-5)
    both = values(extractor, [samples, {"array": wave(pitch=600), "sampling_rate": RATE}])
    torch.testing.assert_close(both, torch.cat([expected, values(extractor, wave(pitch=600))]))


@pytest.mark.parametrize(
    ("dtype", "full_scale", "silence"), [("int16", 2**15, 0), ("int32", 2**31, 0), ("uint8", 2**7, 128)]
)
def test_integers(dtype, full_scale, silence):
    extractor = tiny_extractor("waveform", do_normalize=False)
    info = np.iinfo(dtype)
    samples = np.array([info.min, silence, info.max] * 100, dtype)
    expected = [-1.0, 0.0, (info.max - silence) / full_scale]
    actual = values(extractor, samples)
    torch.testing.assert_close(actual[0, :3], torch.tensor(expected), atol=0, rtol=0)


@pytest.mark.parametrize("channels", [2, 8])
def test_channels_are_mixed_down(extractor, channels):
    stereo = np.random.default_rng(0).uniform(-1, 1, (channels, 512)).astype(np.float32)
    expected = values(extractor, stereo.mean(axis=0))
    for given in ([stereo], {"array": stereo, "sampling_rate": RATE}, stereo[None]):
        torch.testing.assert_close(values(extractor, given), expected, atol=1e-5, rtol=1e-5)
    assert values(extractor, stereo).shape[0] == channels  # an array of two dimensions is a batch


class Decoder:
    """Like torchcodec's, without FFmpeg."""

    def get_all_samples(self):
        return type("Samples", (), {"data": torch.from_numpy(wave())[None], "sample_rate": RATE})


@pytest.mark.parametrize(("suffix", "tolerance"), [("wav", 1e-4), ("flac", 1e-4), ("ogg", 0.05), ("mp3", 0.05)])
def test_files(tmp_path, suffix, tolerance):
    extractor = tiny_extractor("waveform", num_samples=4000, do_normalize=False)
    path = tmp_path / f"tone.{suffix}"
    soundfile.write(path, np.stack([wave(4000), wave(4000)], axis=1), RATE)
    expected = values(extractor, wave(4000))
    column = datasets.Dataset.from_dict({"audio": [{"bytes": path.read_bytes(), "path": path.name}]})
    column = column.cast_column("audio", datasets.Audio(decode=False))
    for given in (path, str(path), path.read_bytes(), {"bytes": None, "path": str(path)}, column["audio"]):
        actual = extractor(given, return_tensors="pt")["input_values"]
        assert (actual - expected)[0, 1000:3000].abs().max() < tolerance
    assert torch.equal(values(extractor, Decoder(), None)[0, :512], torch.from_numpy(wave()))


def test_a_clip_resampled_from_16_to_48_khz_has_the_same_label(extractor):
    model = tiny_audio_model(extractor.representation)
    for pitch in (300, 700, 1500, 3000):
        samples = wave(1024, rate=16000, pitch=pitch)
        resampled = torchaudio.functional.resample(torch.from_numpy(samples), 16000, 48000)
        with torch.no_grad():
            first = model(**extractor(samples, sampling_rate=16000, return_tensors="pt")).logits
            second = model(**extractor(resampled, sampling_rate=48000, return_tensors="pt")).logits
        assert first.argmax() == second.argmax()
        assert (first - second).norm() / first.norm() < 0.1


# Lengths


def test_padding(extractor):
    clips = [wave(512), wave(100), wave(1), wave(900)]
    output = extractor(clips, sampling_rate=RATE, return_tensors="pt")
    name, step = extractor.model_input_names[0], 1 if extractor.representation == "waveform" else 32
    lengths = [-(-min(len(clip), 512) // step) for clip in clips]
    assert output[name].shape[:2] == output["attention_mask"].shape == (4, 512 // step)
    assert output["attention_mask"].sum(1).tolist() == lengths
    for row, clip, length in zip(output[name], clips, lengths, strict=True):
        alone = values(extractor, clip[:512], padding=False)[0]
        assert torch.equal(row[:length], alone)
        assert (row[length:] == 0).all()
    longest = extractor(clips, sampling_rate=RATE, padding=True, truncation=False, return_tensors="np")
    assert longest[name].shape[:2] == (4, -(-900 // step))
    assert extractor(clips[:2], sampling_rate=RATE, max_length=64, return_tensors="np")[name].shape[1] == 64 // step
    assert "attention_mask" not in extractor(clips, sampling_rate=RATE, return_attention_mask=False)


def test_padding_does_not_change_the_answer(extractor):
    model, clips = tiny_audio_model(extractor.representation), [wave(512), wave(77), wave(1), np.zeros(300)]
    with torch.no_grad():
        together = model(**extractor(clips, sampling_rate=RATE, return_tensors="pt")).logits
        for clip, expected in zip(clips, together, strict=True):
            alone = model(**extractor(clip, sampling_rate=RATE, padding=False, return_tensors="pt")).logits[0]
            torch.testing.assert_close(alone, expected, atol=1e-4, rtol=1e-4)


def test_silence_and_a_single_sample_are_finite(extractor):
    for clip in (np.zeros(512), np.ones(1), np.zeros(1, np.int16)):
        assert values(extractor, clip).isfinite().all()


def test_overlapping_clips():
    extractor = AudioPerceiverFeatureExtractor()
    recording = np.arange(480_000, dtype=np.float32) / 480_000  # AudioSet's 10 s
    clips = extractor.overlapping_clips(recording, 48000, num_clips=16)
    assert [len(clip) for clip in clips] == [61440] * 16
    starts = [round(float(clip[0]) * 480_000) for clip in clips]
    assert (starts[0], starts[-1]) == (0, 480_000 - 61440)
    assert np.ptp(np.diff(starts)) <= 1
    fewest = extractor.overlapping_clips(recording, 48000)
    starts = np.array([round(float(clip[0]) * 480_000) for clip in fewest])
    assert len(fewest) == 15 and np.diff(starts).max() <= 61440 // 2
    assert [len(clip) for clip in extractor.overlapping_clips(recording[:5000], 48000, num_clips=4)] == [5000]
    assert len(extractor.overlapping_clips(recording, 48000, num_clips=3)) == 8  # fewer would leave gaps
    with pytest.raises(ValueError, match="`num_clips` must be at least 1, got 0"):
        extractor.overlapping_clips(recording, 48000, num_clips=0)


# Errors


@pytest.mark.parametrize(
    ("audio", "rate", "error", "message"),
    [
        (wave(), None, ValueError, "clip 0: say the `sampling_rate` of the audio, in hertz; it is not guessed"),
        (wave(), 0, ValueError, "positive whole number of hertz, got 0"),
        (wave(), -8000, ValueError, "got -8000"),
        (wave(), float("nan"), ValueError, "got nan"),
        (wave(), "fast", ValueError, "got 'fast'"),
        (wave(), 44101 * 44111, ValueError, "cannot resample from 1945339211 to 8000 Hz"),
        ({"array": wave(), "sampling_rate": 16000}, 8000, ValueError, "sampled at 16000 Hz, but sampling_rate=8000"),
        ({"array": wave()}, 8000, ValueError, "a dictionary with samples needs their `sampling_rate`"),
        ({"sampling_rate": 8000}, None, ValueError, r"or with `bytes` or `path`, got the keys \['sampling_rate'\]"),
        (np.zeros(0), 8000, ValueError, r"clip 0: the audio is empty: shape \(0,\)"),
        ([], 8000, ValueError, "empty"),
        ([wave(), np.full(9, np.nan)], 8000, ValueError, "clip 1: the samples contain NaN or infinite values"),
        (np.full(9, 1e300), 8000, ValueError, "NaN or infinite"),
        ([np.zeros((512, 2))], 8000, ValueError, r"\(channels, samples\), got \(512, 2\)"),
        (np.zeros(9, np.int64), 8000, TypeError, "clip 0: expected samples that are floats, or int16.*, got int64"),
        (np.zeros(9, complex), 8000, TypeError, "got complex128"),
        (7, 8000, TypeError, "or an audio decoder, got int"),
        ("missing.wav", None, ValueError, "clip 0: there is no file 'missing.wav'"),
    ],
)
def test_bad_audio(extractor, audio, rate, error, message):
    with pytest.raises(error, match=message) as raised:
        extractor(audio, sampling_rate=rate)
    assert "\n" not in str(raised.value)


def broken_files(folder: Path) -> dict[str, Path]:
    """Files that are no audio, each with a name that tells why."""
    soundfile.write(folder / "whole.flac", np.random.default_rng(0).uniform(-1, 1, 8000), RATE)
    content = (folder / "whole.flac").read_bytes()
    (folder / "whole.flac").unlink()
    contents = {
        "text.wav": b"not audio at all",
        "truncated.flac": content[: len(content) // 2],
        "nothing.wav": b"",
    }
    for name, data in contents.items():
        (folder / name).write_bytes(data)
    soundfile.write(folder / "empty.wav", np.zeros(0), RATE)
    return {name: folder / name for name in (*contents, "empty.wav")}


def test_broken_files(tmp_path):
    for name, path in broken_files(tmp_path).items():
        for given in (path, {"bytes": path.read_bytes(), "path": str(path)}):
            with pytest.raises(ValueError, match=name) as raised:
                tiny_extractor("waveform")(given)
            assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"representation": "spectrum"}, "must be one of waveform, mel, got 'spectrum'"),
        ({"sampling_rate": 0}, "positive whole number of hertz, got 0"),
        ({"num_samples": 0}, "`num_samples` must be at least 1, got 0"),
        ({"hop_length": 0}, "`hop_length` must be at least 1, got 0"),
        ({"mel_floor": 0.0}, "`mel_floor` must be above 0"),
    ],
)
def test_bad_settings(fields, message):
    with pytest.raises(ValueError, match=message):
        AudioPerceiverFeatureExtractor(**fields)


# Saving, and what is missing


def test_save_and_load(extractor, tmp_path):
    extractor.save_pretrained(tmp_path)
    loaded = AudioPerceiverFeatureExtractor.from_pretrained(tmp_path)
    assert loaded.to_dict() == extractor.to_dict()
    assert torch.equal(values(loaded, wave()), values(extractor, wave()))
    changed = AudioPerceiverFeatureExtractor.from_pretrained(tmp_path, num_samples=256)
    assert values(changed, wave()).shape[1] == values(extractor, wave()).shape[1] // 2


NEEDS_TORCHAUDIO = "needs torchaudio, of a version that fits torch; install it with `pip install 'perceivers[audio]'`."


def test_without_torchaudio(monkeypatch):
    monkeypatch.setitem(sys.modules, "torchaudio", None)
    mel_spectrogram.cache_clear()
    assert values(tiny_extractor("waveform"), wave()).shape == (1, 512)
    with pytest.raises(ImportError) as error:
        values(tiny_extractor("waveform"), wave(), sampling_rate=16000)
    assert str(error.value) == f"Resampling audio {NEEDS_TORCHAUDIO}"
    with pytest.raises(ImportError) as error:
        values(tiny_extractor("mel"), wave())
    assert str(error.value) == f"A mel spectrogram {NEEDS_TORCHAUDIO}"


WITH_A_BROKEN_TORCHAUDIO = """
import importlib.machinery, sys

class Broken:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "torchaudio":
            return importlib.machinery.ModuleSpec(name, self)
    def create_module(self, spec): return None
    def exec_module(self, module): raise OSError("libtorchaudio.so: undefined symbol")

sys.meta_path.insert(0, Broken())
import perceivers
from transformers import AutoModelForImageClassification
AutoModelForImageClassification.from_config(perceivers.ImagePerceiverConfig.from_variant("tiny"))
try:
    perceivers.AudioPerceiverFeatureExtractor()([0.0, 1.0], sampling_rate=16000)
except ImportError as error:
    print(error)
"""


@pytest.mark.integration
def test_with_a_torchaudio_of_another_torch():
    result = subprocess.run([sys.executable, "-c", WITH_A_BROKEN_TORCHAUDIO], cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert result.stdout == f"Resampling audio {NEEDS_TORCHAUDIO}\n"


def test_one_channel_at_the_rate_that_is_asked_for():
    file = io.BytesIO()
    soundfile.write(file, np.stack([wave(1600, 16000), np.zeros(1600)], axis=1), 16000, format="WAV")
    mono = read_mono(file.getvalue(), rate=8000)
    np.testing.assert_allclose(mono[200:600].numpy(), wave(800)[200:600] / 2, atol=1e-2)
