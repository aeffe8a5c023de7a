"""Reads audio in any form into samples and their rate, mixes it down to one channel and resamples it.

Letters: C channels, T samples.
"""

import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import chain
from typing import Any, TypeVar

import numpy as np
import torch

from .audio_containers import Data, FileContent, Part, check_container, ogg_links, wav_header
from .audio_resampling import INSTALL, beginning, joined, mix_down, resample
from .deferred_signals import deferred_signals
from .reading import check_memory, import_optional, is_url, naming, read_bytes

BLOCK = 2**18  # samples of all channels that are decoded at once
MAX_CHANNELS = 64  # of an array; one with more is a batch, or has its axes swapped

Result = TypeVar("Result")
# What becomes of a recording: takes its blocks of samples (C, t) and its rate.
Collect = Callable[[Iterator[np.ndarray], int], Result]

# By integer type: the value of a full-scale sample and the value of silence.
FULL_SCALES = {"int16": (2.0**15, 0.0), "int32": (2.0**31, 0.0), "uint8": (128.0, 128.0)}


def read_audio(file: str | os.PathLike | bytes, name: str | None = None) -> tuple[np.ndarray, int]:
    """Reads an audio file or its content: WAV, FLAC, OGG and MP3 by soundfile, others by torchcodec and FFmpeg.

    A file is read to its end, whatever length its header gives. It is truncated if its container promises more.

    Args:
        file: Path or content of the file.
        name: How errors refer to the content.

    Returns:
        `float32` samples (C, T) in [-1, 1] and their rate in hertz.

    Raises:
        ValueError: The file does not exist, or is not audio, truncated, empty or too large. The message names it.
        ImportError: soundfile is missing.
    """
    return _read_file(file, name, lambda blocks, rate: (joined(blocks), rate))


def _read_file(file: str | os.PathLike | bytes, name: str | None, collect: Collect[Result]) -> Result:
    """Reads a file as [`read_audio`] does, and hands its samples on block by block."""
    soundfile = import_optional("soundfile", f"Reading audio files needs soundfile; {INSTALL}.")
    if isinstance(file, bytes):
        return _read_content(soundfile, file, name or "the content", collect)
    path = os.fspath(file)
    if not os.path.isfile(path):
        raise ValueError(f"there is no file {path[:200]!r}")
    with open(path, "rb") as opened:
        return _read_content(soundfile, FileContent(opened), name or repr(path), collect)


def _read_content(soundfile: Any, data: Data, name: str, collect: Collect[Result]) -> Result:
    try:
        links = _links(data)
    except ValueError as error:
        raise ValueError(f"{name} is truncated: {error}") from error
    try:
        return _collected(_decode(soundfile, links, name), name, collect)
    except soundfile.SoundFileError as error:
        reason = " ".join(getattr(error, "error_string", str(error)).split())
    return _collected(_decode_by_torchcodec(data[:], name, reason), name, collect)


def _links(data: Data) -> list[Part]:
    """Splits a file into its links; all but chained Ogg files have one.

    Raises:
        ValueError: Its container promises more than there is.
    """
    kind = data[:4]
    if kind in (b"RIFF", b"RF64", b"BW64"):
        return [Part(data, header=wav_header(data))]
    if kind == b"OggS":
        return [Part(data, start, stop) for start, stop in ogg_links(data)]
    check_container(data)
    return [Part(data)]


def _collected(decoded: Iterator[tuple[np.ndarray, int]], name: str, collect: Collect[Result]) -> Result:
    """Hands the blocks of a file on, with their rate; errors name the file."""
    first = next(decoded, None)
    if first is None:
        raise ValueError(f"{name}: the audio is empty")
    with naming(name):
        rate = checked_rate(first[1])
    try:
        return collect((samples for samples, _ in chain([first], decoded)), rate)
    except ValueError as error:
        if str(error).startswith(name):
            raise
        raise ValueError(f"{name}: {error}") from error


def _decode(soundfile: Any, links: Iterable[Part], name: str) -> Iterator[tuple[np.ndarray, int]]:
    """Decodes samples (C, t) block by block, as some codecs cannot seek and some headers only estimate the length."""
    total, kind = 0, None
    for link in links:
        with deferred_signals():  # soundfile reads through callbacks, which print exceptions and lose them
            opened = soundfile.SoundFile(link)
        with opened:
            rate, promised, channels = opened.samplerate, opened.frames, opened.channels
            if kind not in (None, (channels, rate)):
                found = ", ".join(f"{channels} x {rate} Hz" for channels, rate in sorted([kind, (channels, rate)]))
                raise ValueError(f"{name} is a chain of streams that differ in channels or rate: {found}")
            kind = (channels, rate)
            # Otherwise soundfile stops at the length that the header gives, and seeks, after each block.
            opened.seekable = lambda: False
            count = 0
            while True:
                with deferred_signals():
                    block = opened.read(max(1, BLOCK // channels), dtype="float32", always_2d=True)
                if not len(block):
                    break
                count += len(block)
                check_memory(4 * (total + count) * channels, name)
                with naming(name):
                    check_finite(block)
                yield block.T, rate
            # Others give estimates, or have been checked; a FLAC file that does not know has the largest number.
            if opened.format == "FLAC" and count < promised < 2**36:
                raise ValueError(f"{name} is truncated: {count} of {promised} samples can be read")
            total += count


def _decode_by_torchcodec(file: bytes, name: str, reason: str) -> Iterator[tuple[np.ndarray, int]]:
    """Decodes what soundfile cannot read, such as M4A.

    Args:
        file: Content of the file.
        name: How errors refer to it.
        reason: Why soundfile failed. Errors quote it, because FFmpeg's own reasons are no clearer.
    """
    try:
        from torchcodec.decoders import AudioDecoder
    except Exception as error:  # without FFmpeg it raises RuntimeError
        raise ValueError(f"{name} is not audio, or is truncated, or needs torchcodec and FFmpeg: {reason}") from error
    try:
        decoded = AudioDecoder(file).get_all_samples()
    except Exception as error:  # a broken file raises whatever its decoder stumbles over
        raise ValueError(f"{name} is not audio, or is truncated: {reason}") from error
    if decoded.data.numel():
        with naming(name):
            check_finite(decoded.data.numpy())
        yield decoded.data.numpy(), decoded.sample_rate


def audio_to_samples(audio: Any, sampling_rate: int | None = None) -> tuple[np.ndarray, int]:
    """Reads one clip of any form into `float32` samples (C, T) and their rate.

    Args:
        audio: Samples (T,) or (C, T) as an array, tensor or list; a path or an http(s) URL; an open file or its
            content; a dictionary as in `datasets`, with `array` (or `raw`) and `sampling_rate`, or with `bytes` or
            `path`; or a torchcodec decoder. Integers of 8 (unsigned), 16 and 32 bits are scaled to [-1, 1]; floats
            keep their range.
        sampling_rate: In hertz, for samples that come without a rate.

    Returns:
        The samples and their rate in hertz.

    Raises:
        ValueError: The rate is missing, not a positive whole number, or differs from the one the audio comes with;
            there are no samples, more channels than samples, or NaN or infinite samples; or as in [`read_audio`].
        TypeError: The input is not audio.
    """
    return _read(audio, sampling_rate, lambda blocks, rate: (joined(blocks), rate))


def _read(audio: Any, sampling_rate: int | None, collect: Collect[Result]) -> Result:
    """Reads one clip as [`audio_to_samples`] does, and hands its samples on block by block."""

    def collect_at_rate(blocks: Iterator[np.ndarray], rate: int) -> Result:
        if sampling_rate is not None and checked_rate(sampling_rate) != rate:
            raise ValueError(f"the audio is sampled at {rate} Hz, but sampling_rate={sampling_rate} was passed")
        return collect(blocks, rate)

    own_rate: Any = None
    if isinstance(audio, Mapping):
        name = None if audio.get("path") is None else repr(audio["path"])
        audio, own_rate = _from_mapping(audio)
    else:
        name = repr(audio) if is_url(audio) else None
    if is_url(audio):
        audio = read_bytes(audio)
    elif hasattr(audio, "read"):  # an open file
        name, audio = name or (repr(audio.name) if hasattr(audio, "name") else None), audio.read()
    if isinstance(audio, bytearray | memoryview):
        audio = bytes(audio)
    if isinstance(audio, str | os.PathLike | bytes):
        return _read_file(audio, name, collect_at_rate)
    if hasattr(audio, "get_all_samples"):  # a torchcodec decoder, as `datasets` returns it
        decoded = audio.get_all_samples()
        audio, own_rate = decoded.data, decoded.sample_rate
    rate = checked_rate(sampling_rate if own_rate is None else own_rate)
    return collect_at_rate(samples_to_float32(audio), rate)


def _from_mapping(audio: Mapping) -> tuple[Any, Any]:
    """Returns what a dictionary holds: samples and their rate, or a file or its content and `None`."""
    samples = audio.get("array", audio.get("raw"))
    if samples is not None:
        if audio.get("sampling_rate") is None:
            raise ValueError("a dictionary with samples needs their `sampling_rate`")
        return samples, audio["sampling_rate"]
    file = audio.get("path") if audio.get("bytes") is None else audio["bytes"]
    if file is None:
        raise ValueError(
            "expected a dictionary with `array` and `sampling_rate`, or with `bytes` or `path`, got the keys "
            f"{sorted(map(str, audio))}"
        )
    return file, None


def checked_rate(rate: Any) -> int:
    """Returns a sampling rate as an integer.

    Raises:
        ValueError: It is missing or not a positive whole number.
    """
    if rate is None:
        raise ValueError("say the `sampling_rate` of the audio, in hertz; it is not guessed")
    try:
        if rate > 0 and rate == int(rate):
            return int(rate)
    except (TypeError, ValueError, OverflowError):
        pass  # not a number, NaN, infinite
    raise ValueError(f"`sampling_rate` must be a positive whole number of hertz, got {rate!r}")


def check_finite(samples: np.ndarray) -> None:
    """Checks samples of any shape.

    Raises:
        ValueError: Some are NaN or infinite.
    """
    if not np.isfinite(samples).all():
        raise ValueError("the samples contain NaN or infinite values")


def samples_to_float32(samples: Any) -> Iterator[np.ndarray]:
    """Converts samples (T,) or (C, T) of any type to blocks of finite `float32` (C, t).

    Raises:
        ValueError: There are no samples, NaN or infinite samples, or as many channels as samples or more, because the
            axes may be swapped.
        TypeError: They are not samples.
    """
    if isinstance(samples, torch.Tensor):
        samples = samples.detach().cpu()
        # NumPy has no bfloat16.
        samples = (samples.float() if samples.dtype == torch.bfloat16 else samples).numpy()
    elif isinstance(samples, list | tuple):
        samples = np.array(samples)
    if not isinstance(samples, np.ndarray):
        raise TypeError(
            "expected samples (an array, tensor or list), a path, a dictionary with `array` and `sampling_rate`, or "
            f"an audio decoder, got {type(samples).__name__}"
        )
    if samples.size == 0:
        raise ValueError(f"the audio is empty: shape {samples.shape}")
    if samples.ndim == 1:
        samples = samples[None]
    channels, count = samples.shape if samples.ndim == 2 else (0, 0)
    if not channels or not (channels == 1 or (channels < count and channels <= MAX_CHANNELS)):
        raise ValueError(f"expected samples of shape (samples,) or (channels, samples), got {samples.shape}")
    full_scale, silence = FULL_SCALES.get(samples.dtype.name, (None, 0.0))
    if full_scale is None and samples.dtype.kind != "f":
        raise TypeError(f"expected samples that are floats, or {', '.join(FULL_SCALES)}, got {samples.dtype}")
    size = max(1, BLOCK // channels)
    if samples.dtype == np.float32:  # needs no conversion, so that it is one block, which nobody copies
        for start in range(0, count, size):
            check_finite(samples[:, start : start + size])
        yield samples
        return
    for start in range(0, count, size):
        block = samples[:, start : start + size]
        if full_scale is not None:
            yield ((block.astype(np.float64) - silence) / full_scale).astype(np.float32)
            continue
        with np.errstate(over="ignore"):
            block = block.astype(np.float32)
        check_finite(block)
        yield block


def read_mono(audio: Any, rate: int, sampling_rate: int | None = None, num_samples: int | None = None) -> torch.Tensor:
    """Reads one clip of any form, see [`audio_to_samples`], as samples (T,): the mean of its channels, resampled.

    Only the result is held as a whole, and of a file no more than a block.

    Args:
        audio: The clip.
        rate: Rate of the result in hertz.
        sampling_rate: Rate of `audio` in hertz, for samples that come without one.
        num_samples: How many samples of the result are needed; what a longer recording has after them is read and
            checked, but not resampled.
    """

    def collect(blocks: Iterator[np.ndarray], own_rate: int) -> torch.Tensor:
        blocks = mix_down(blocks)
        if num_samples is not None:
            # A sample of the result depends on its neighbours within the filter, which is far shorter than this.
            needed = math.ceil(num_samples * own_rate / rate) + 32 * math.ceil(own_rate / rate) + 32
            blocks = iter([beginning(blocks, needed)])
        return torch.from_numpy(joined(resample(blocks, own_rate, rate))[0])[:num_samples]

    return _read(audio, sampling_rate, collect)
