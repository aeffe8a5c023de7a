"""A recording is whole or refused by what its file says, means one thing, and asks for no more than it holds.

Right values come from the samples that were written, from `wave` and from torchaudio.
"""

import io
import os
import signal
import struct
import threading
import tracemalloc
import wave

import numpy as np
import pytest
import torch

from perceivers import AudioPerceiverFeatureExtractor, LongAudioClassificationPipeline
from perceivers.preprocessors import audio_resampling
from perceivers.preprocessors.audio_reading import read_audio, read_mono
from tests.models import tiny_audio_model, tiny_extractor

pytestmark = pytest.mark.integration

soundfile = pytest.importorskip("soundfile")
torchaudio = pytest.importorskip("torchaudio")

RATE = 16000
SAMPLES = 0.5 * np.sin(2 * np.pi * 440 * np.arange(32000) / RATE)


def encoded(samples=SAMPLES, rate=RATE, **kwargs) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, samples, rate, **{"format": "WAV", **kwargs})
    return file.getvalue()


def with_length(content: bytes, chunk: bytes, length: int, layout: str = "<I") -> bytes:
    """The file with another length of a chunk."""
    at = content.index(chunk) + len(chunk)
    return content[:at] + struct.pack(layout, length) + content[at + struct.calcsize(layout) :]


class TestWholeRecordings:
    @pytest.mark.parametrize(
        "kwargs",
        [
            {"subtype": subtype}
            for subtype in ("PCM_U8", "PCM_16", "PCM_24", "FLOAT", "DOUBLE", "ULAW", "IMA_ADPCM", "MS_ADPCM", "GSM610")
        ]
        + [{"format": name} for name in ("AIFF", "AU", "CAF", "FLAC", "OGG", "RF64", "MP3")]
        + [{"format": "OGG", "subtype": "OPUS"}],
        ids=lambda kwargs: "-".join(kwargs.values()),
    )
    def test_every_codec_is_read_to_its_end(self, kwargs):
        samples, rate = read_audio(encoded(**kwargs))
        assert rate == RATE and samples.shape[0] == 1
        assert abs(samples.shape[1] - 32000) < 2000  # codecs of blocks fill the last one
        loudness = np.sqrt(np.mean(samples[0, 8000:24000] ** 2))
        assert loudness == pytest.approx(0.5 / np.sqrt(2), rel=0.1)

    @pytest.mark.parametrize("length", [0, 0xFFFFFFFF, 0xFFFFFFDB, 0x7FFFFFFF, 0x7FFFF000, 0x80000000])
    def test_wav_whose_length_was_never_written(self, length):
        whole = encoded()
        content = with_length(with_length(whole, b"RIFF", length), b"data", length)
        with wave.open(io.BytesIO(whole)) as opened:
            expected = np.frombuffer(opened.readframes(32000), "<i2") / 32768
        np.testing.assert_array_equal(read_audio(content)[0][0], expected.astype(np.float32))

    def test_wav_of_no_samples_before_another_chunk(self):
        content = encoded(np.zeros(0)) + b"LIST" + struct.pack("<I", 4) + b"INFO"
        with pytest.raises(ValueError, match="the content: the audio is empty"):
            read_audio(content)

    @pytest.mark.parametrize("links", [1, 2, 5])
    def test_chained_ogg(self, links):
        content = encoded(format="OGG")
        samples, _ = read_audio(content * links)
        assert samples.shape == (1, 32000 * links)
        np.testing.assert_array_equal(samples[:, -32000:], read_audio(content)[0])

    def test_chain_of_different_rates(self):
        content = encoded(format="OGG") + encoded(rate=8000, format="OGG")
        with pytest.raises(ValueError, match="differ in channels or rate: 1 x 8000 Hz, 1 x 16000 Hz"):
            read_audio(content)

    def test_flac_that_does_not_know_its_length(self):
        content = bytearray(encoded(format="FLAC"))
        content[21] &= 0xF0  # the 36 bits of the number of samples in STREAMINFO
        content[22:26] = bytes(4)
        assert read_audio(bytes(content))[0].shape == (1, 32000)

    @pytest.mark.parametrize("channels", [2, 6])
    def test_more_channels_than_samples_in_a_file(self, channels):
        samples, _ = read_audio(encoded(np.full((1, channels), 0.5)))
        np.testing.assert_array_equal(samples, np.full((channels, 1), 0.5))


class TestTruncatedRecordings:
    @pytest.mark.parametrize("name", ["WAV", "RF64", "AIFF", "AU", "CAF", "FLAC", "OGG", "MP3"])
    @pytest.mark.parametrize("kept", [0.4, 0.9])
    def test_half_a_file(self, tmp_path, name, kept):
        content = encoded(format=name)
        path = tmp_path / "half"
        path.write_bytes(content[: int(kept * len(content))])
        with pytest.raises(ValueError, match=r"half' is truncated|half' is not audio, or is truncated") as raised:
            read_audio(path)
        assert "\n" not in str(raised.value)

    def test_a_tag_at_the_end_is_no_sound(self):
        assert read_audio(encoded(format="MP3") + b"TAG" + bytes(125))[0].shape[1] >= 32000


class TestOneMeaning:
    def test_file_and_array_give_the_same_tensor(self, tmp_path):
        path = tmp_path / "a.wav"
        stereo = np.random.default_rng(0).integers(-(2**15), 2**15, (20000, 2)).astype(np.int16)
        path.write_bytes(encoded(stereo, rate=22050))
        for representation in ("waveform", "mel"):
            extract = tiny_extractor(representation)
            expected = extract({"array": stereo.T, "sampling_rate": 22050}, return_tensors="pt")
            content = path.read_bytes()
            for given in (
                *(path, str(path), content, bytearray(content), path.open("rb"), io.BytesIO(content)),
                *({"bytes": content, "path": None}, {"bytes": content, "path": "b.wav"}, {"path": str(path)}),
            ):
                actual = extract(given, return_tensors="pt")
                assert all(torch.equal(actual[name], expected[name]) for name in expected)

    @pytest.mark.parametrize("shape", [(50, 2), (16000, 1), (3, 2), (100, 64)])
    @pytest.mark.parametrize("make", [np.asarray, torch.tensor, np.ndarray.tolist])
    def test_samples_by_channels_are_no_batch(self, shape, make):
        with pytest.raises(ValueError, match="which may be one clip of"):
            AudioPerceiverFeatureExtractor()(make(np.zeros(shape, np.float32)), sampling_rate=48000)

    @pytest.mark.parametrize("shape", [(2, 2), (50, 2), (65, 100)])
    def test_channels_that_may_be_samples(self, shape):
        with pytest.raises(ValueError, match=r"expected samples of shape \(samples,\) or \(channels, samples\)"):
            AudioPerceiverFeatureExtractor()({"array": np.zeros(shape), "sampling_rate": 48000})

    @pytest.mark.parametrize("representation", ["waveform", "mel"])
    def test_features_are_finite(self, representation):
        with pytest.raises(ValueError, match=r"clip 1: the samples are too large, up to 3e\+38"):
            tiny_extractor(representation)([np.ones(600), 3e38 * (-1.0) ** np.arange(600)], sampling_rate=8000)


class TestBounds:
    @pytest.mark.parametrize(
        "fields",
        [{"hop_length": 1, "num_samples": 48000 * 60}, {"n_fft": 2**26}, {"num_mel_bins": 10**7}],
    )
    def test_spectrograms_that_nobody_can_hold(self, fields):
        extract = AudioPerceiverFeatureExtractor(representation="mel", **fields)
        with pytest.raises(ValueError, match=r"clip 0: a spectrogram of .* is too large: .*; a larger hop_length, or"):
            extract(np.zeros(48000 * 60), 48000)

    def test_clips_that_nobody_can_hold(self):
        with pytest.raises(ValueError, match=r"a clip of 1,000,000,000,000 samples is too large"):
            AudioPerceiverFeatureExtractor(num_samples=10**12)(np.zeros(100), 48000)

    def test_wav_of_millions_of_chunks(self):
        content = b"RIFF" + struct.pack("<I", 2**31) + b"WAVE" + b"abcd" + bytes(4)
        with pytest.raises(ValueError, match="it has more than 10,000 chunks"):
            read_audio(content + content[12:] * 1_000_000)

    @pytest.mark.parametrize("rate", [1, 2, 7])
    def test_rates_that_make_hours_of_kilobytes(self, tmp_path, rate):
        (tmp_path / "slow.wav").write_bytes(encoded(rate=rate))
        with pytest.raises(
            ValueError, match=f"slow.wav': cannot resample from {rate} to 8000 Hz, which is more than 1000 times"
        ):
            tiny_extractor("waveform")(tmp_path / "slow.wav")

    def test_a_long_recording_is_cut_before_it_is_resampled(self, monkeypatch):
        long = np.random.default_rng(0).uniform(-1, 1, 44100 * 60).astype(np.float32)
        resampled = torchaudio.functional.resample(torch.from_numpy(long), 44100, 8000)
        lengths = []
        resample = torchaudio.functional.resample
        monkeypatch.setattr(
            torchaudio.functional, "resample", lambda x, *rates: lengths.append(len(x)) or resample(x, *rates)
        )
        actual = read_mono(long, 8000, 44100, num_samples=512)
        assert actual.shape == (512,) and lengths[0] < 4000
        torch.testing.assert_close(actual, resampled[:512], atol=1e-6, rtol=0)

    def test_a_long_file_is_never_held_whole(self, tmp_path):
        path = tmp_path / "long.wav"
        with soundfile.SoundFile(path, "w", 44100, 2) as file:
            for seed in range(60):
                file.write(np.random.default_rng(seed).uniform(-1, 1, (44100, 2)))
        tracemalloc.start()
        mono = read_mono(path, 44100)
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert most < mono.numel() * 4 + 4 * 4 * audio_resampling.GROWTH // 3  # 10 MB of result, 10 MB of file
        samples, _ = soundfile.read(path, dtype="float32")
        assert torch.equal(mono, torch.from_numpy(samples).mean(dim=1))

    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGALRM])
    def test_a_signal_does_not_shorten_a_recording(self, number, capfd):
        """Raised inside soundfile's callbacks, an exception would be printed, and the recording end there."""

        def stop(number, frame):
            raise InterruptedError

        content = encoded(np.random.default_rng(0).uniform(-1, 1, 44100 * 30), 44100, format="FLAC")
        before = signal.signal(number, stop)
        try:
            with pytest.raises(InterruptedError):
                for attempt in range(1, 200):
                    timer = threading.Timer(0.0003 * attempt, os.kill, (os.getpid(), number))
                    timer.start()
                    assert read_audio(content)[0].shape == (1, 44100 * 30)
                    timer.join()
        finally:
            signal.signal(number, before)
        assert not capfd.readouterr().err

    @pytest.mark.parametrize(
        ("rate", "target"), [(44100, 8000), (8000, 44100), (16000, 8000), (1999, 2000), (96000, 11)]
    )
    @pytest.mark.parametrize("length", [20_000, 99_991])
    def test_pieces_are_resampled_as_the_whole(self, monkeypatch, rate, target, length):
        samples = np.random.default_rng(0).uniform(-1, 1, length).astype(np.float32)
        expected = torchaudio.functional.resample(torch.from_numpy(samples), rate, target)
        monkeypatch.setattr(audio_resampling, "LONG", 10_000)
        for size in (length, 7919, 100):
            blocks = np.split(samples[None], range(size, length, size), axis=1)
            actual = audio_resampling.joined(audio_resampling.resample(blocks, rate, target))
            torch.testing.assert_close(torch.from_numpy(actual[0]), expected, atol=1e-5, rtol=0)

    def test_a_file_may_take_as_much_as_the_setting_says(self, tmp_path, monkeypatch):
        path = tmp_path / "silence.flac"
        path.write_bytes(encoded(np.zeros(500_000), format="FLAC"))
        monkeypatch.setenv("PERCEIVERS_MAX_INPUT_BYTES", "1000000")
        with pytest.raises(ValueError, match=r"silence.flac' is too large.*one input may take 1,000,000;.*MAX_INPUT"):
            read_audio(path)
        monkeypatch.setenv("PERCEIVERS_MAX_INPUT_BYTES", "2000000")
        assert read_audio(path)[0].shape == (1, 500_000)
        monkeypatch.setenv("PERCEIVERS_MAX_INPUT_BYTES", "much")
        with pytest.raises(ValueError, match="must be a positive whole number, got 'much'"):
            read_audio(path)


def long_audio_pipeline(**kwargs):
    extractor = tiny_extractor("waveform")
    model = tiny_audio_model("waveform").eval()
    return LongAudioClassificationPipeline(model=model, feature_extractor=extractor, **kwargs)


class TestLongRecordings:
    @pytest.mark.parametrize("given", [{}, {"batch_size": 3}])
    def test_clips_go_through_the_model_in_batches(self, given):
        recording = {"array": np.random.default_rng(0).uniform(-1, 1, 512 * 12), "sampling_rate": 8000}
        classify = long_audio_pipeline()
        sizes = []
        classify.model.register_forward_pre_hook(
            lambda model, args, kwargs: sizes.append(len(kwargs["input_values"])), with_kwargs=True
        )
        together = classify(recording, top_k=None, **given)
        assert sizes[0] == given.get("batch_size", 23) and sum(sizes) == 23
        alone = classify(recording, top_k=None, batch_size=1)
        assert [row["label"] for row in together] == [row["label"] for row in alone]
        np.testing.assert_allclose([row["score"] for row in together], [row["score"] for row in alone], atol=1e-6)

    @pytest.mark.parametrize("value", [float("nan"), float("inf")])
    def test_scores_that_are_not_finite_are_no_label(self, value):
        classify = long_audio_pipeline()
        with torch.no_grad():
            classify.model.classifier.weight.fill_(value)
        with pytest.raises(ValueError, match="The model's scores are NaN or infinite, so there is no label"):
            classify({"array": SAMPLES[:2000], "sampling_rate": 8000})


@pytest.mark.parametrize(("name", "meant"), [("num_sample", "num_samples"), ("hop_len", "hop_length")])
def test_fields_that_do_not_exist(name, meant):
    with pytest.raises(ValueError, match=rf"has no field `{name}` \(did you mean `{meant}`\?\)"):
        AudioPerceiverFeatureExtractor(**{name: 3})


def test_arguments_that_do_not_exist():
    with pytest.raises(TypeError, match=r"LongAudioClassificationPipeline has no argument `num_clip` "):
        long_audio_pipeline()({"array": SAMPLES, "sampling_rate": 8000}, num_clip=3)


def test_broken_files_print_nothing(capfd):
    """soundfile prints a traceback where a broken file makes it seek before the beginning."""
    content = bytearray(encoded(format="MP3"))
    generator = np.random.default_rng(0)
    for _ in range(40):
        broken = content.copy()
        for position in generator.integers(0, 700, 9):
            broken[position] = generator.integers(256)
        try:
            assert np.isfinite(read_audio(bytes(broken))[0]).all()
        except ValueError as error:
            assert "\n" not in str(error)
    assert "Traceback" not in capfd.readouterr().err
