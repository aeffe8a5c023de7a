"""Reads audio in any form into samples and their rate, mixes it down to one channel and resamples it.

Letters: C channels, T samples.
"""

import io
import math
import os
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from .audio_containers import check_container, ogg_links, wav_with_its_length
from .reading import check_memory, import_optional, is_url, read_bytes

# Resampling builds one filter per pair of phases of the two rates; common rates need thousands, not millions.
MAX_RESAMPLING_FILTERS = 2**22
# A file of a few kilobytes that claims a rate of 1 Hz would become hours of sound.
MAX_UPSAMPLING = 1000
LONG = 2**24  # samples; a longer recording is resampled in pieces
BLOCK = 2**18  # samples of all channels that are decoded at once
MAX_CHANNELS = 64  # of an array; one with more is a batch, or has its axes swapped
INSTALL = "install it with `pip install 'perceivers[audio]'`"

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
    if not isinstance(file, bytes):
        file = os.fspath(file)
        name = name or repr(file)
        file = read_bytes(file)
    name = name or "the content"
    samples, rate = _decode(file, name)
    try:
        return samples_to_float32(samples, is_from_file=True), checked_rate(rate)
    except ValueError as error:  # no samples, or NaN, or 0 Hz
        raise ValueError(f"{name}: {error}") from error


def _decode(file: bytes, name: str) -> tuple[np.ndarray, int]:
    soundfile = import_optional("soundfile", f"Reading audio files needs soundfile; {INSTALL}.")
    links, is_wav = [file], file[:4] in (b"RIFF", b"RF64", b"BW64")
    try:
        if is_wav:
            links = [wav_with_its_length(file)]
        elif file[:4] == b"OggS":
            links = ogg_links(file)
        else:
            check_container(file)
    except ValueError as error:
        raise ValueError(f"{name} is truncated: {error}") from error
    try:
        decoded = [_decode_link(soundfile, link, name) for link in links]
    except (soundfile.SoundFileError, MemoryError) as error:
        return _decode_by_torchcodec(file, name, reason=" ".join(getattr(error, "error_string", str(error)).split()))
    if len(kinds := {(samples.shape[1], rate) for samples, rate in decoded}) > 1:
        found = ", ".join(f"{channels} x {rate} Hz" for channels, rate in sorted(kinds))
        raise ValueError(f"{name} is a chain of streams that differ in channels or rate: {found}")
    links_samples = [samples for samples, _ in decoded]
    return (links_samples[0] if len(decoded) == 1 else np.concatenate(links_samples)).T, decoded[0][1]


class Content(io.BytesIO):
    """A file in memory. A seek before its beginning, which broken files cause, stays where it is, as in libsndfile."""

    def seek(self, offset: int, whence: int = 0) -> int:
        """Moves to `offset`, if there is such a place; Python's error would be printed by soundfile."""
        try:
            return super().seek(offset, whence)
        except ValueError:
            return self.tell()


def _decode_link(soundfile: Any, data: bytes, name: str) -> tuple[np.ndarray, int]:
    """Decodes samples (T, C) block by block, as some codecs cannot seek and some headers only estimate the length."""
    count = 0
    with soundfile.SoundFile(Content(data)) as opened:
        rate, promised = opened.samplerate, opened.frames
        # Otherwise soundfile stops at the length that the header gives, and seeks, after each block.
        opened.seekable = lambda: False
        size = max(1, BLOCK // opened.channels)
        samples = np.empty((size, opened.channels), np.float32)
        while len(block := opened.read(size, dtype="float32", always_2d=True)):
            if count + len(block) > len(samples):
                samples.resize(
                    (len(samples) * 5 // 4 + size, opened.channels), refcheck=False
                )  # without a second copy
            samples[count : count + len(block)] = block
            count += len(block)
            check_memory(4 * count * opened.channels, name)
        # Other containers give estimates, or have been checked; a FLAC file that does not know has the largest number.
        if opened.format == "FLAC" and count < promised < 2**36:
            raise ValueError(f"{name} is truncated: {count} of {promised} samples can be read")
        samples.resize((count, opened.channels), refcheck=False)
    return samples, rate


def _decode_by_torchcodec(file: bytes, name: str, reason: str) -> tuple[np.ndarray, int]:
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
    return decoded.data.numpy(), decoded.sample_rate


def audio_to_samples(audio: Any, sampling_rate: int | None = None) -> tuple[np.ndarray, int]:
    """Reads one clip of any form into `float32` samples (C, T) and their rate.

    Args:
        audio: Samples (T,) or (C, T) as an array, tensor or list; a path or an http(s) URL; the content of a file; a
            dictionary as in `datasets`, with `array` (or `raw`) and `sampling_rate`, or with `bytes` or `path`; or a
            torchcodec decoder. Integers of 8 (unsigned), 16 and 32 bits are scaled to [-1, 1]; floats keep their
            range.
        sampling_rate: In hertz, for samples that come without a rate.

    Returns:
        The samples and their rate in hertz.

    Raises:
        ValueError: The rate is missing, not a positive whole number, or differs from the one the audio comes with;
            there are no samples, more channels than samples, or NaN or infinite samples; or as in [`read_audio`].
        TypeError: The input is not audio.
    """
    own_rate: Any = None
    if isinstance(audio, Mapping):
        audio, own_rate = _from_mapping(audio)
    elif is_url(audio):
        audio, own_rate = read_audio(read_bytes(audio), name=repr(audio))
    elif isinstance(audio, str | os.PathLike | bytes):
        audio, own_rate = read_audio(audio)
    elif hasattr(audio, "get_all_samples"):  # a torchcodec decoder, as `datasets` returns it
        decoded = audio.get_all_samples()
        audio, own_rate = decoded.data, decoded.sample_rate
    rate = checked_rate(sampling_rate if own_rate is None else own_rate)
    if sampling_rate is not None and checked_rate(sampling_rate) != rate:
        raise ValueError(f"the audio is sampled at {rate} Hz, but sampling_rate={sampling_rate} was passed")
    return samples_to_float32(audio), rate


def _from_mapping(audio: Mapping) -> tuple[Any, Any]:
    samples = audio.get("array", audio.get("raw"))
    if samples is not None:
        if audio.get("sampling_rate") is None:
            raise ValueError("a dictionary with samples needs their `sampling_rate`")
        return samples, audio["sampling_rate"]
    path = audio.get("path")
    file = path if audio.get("bytes") is None else audio["bytes"]
    if file is None:
        raise ValueError(
            "expected a dictionary with `array` and `sampling_rate`, or with `bytes` or `path`, got the keys "
            f"{sorted(map(str, audio))}"
        )
    return read_audio(file, name=None if path is None else repr(path))


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


def samples_to_float32(samples: Any, is_from_file: bool = False) -> np.ndarray:
    """Converts samples (T,) or (C, T) of any type to finite `float32` (C, T).

    Args:
        samples: The samples.
        is_from_file: Whether they are (C, T) for certain. Otherwise as many channels as samples or more are refused,
            because the axes may be swapped.

    Raises:
        ValueError: There are no samples, too many channels, or NaN or infinite samples.
        TypeError: They are not samples.
    """
    if isinstance(samples, torch.Tensor):
        samples = samples.detach().cpu()
        samples = (samples.float() if samples.is_floating_point() else samples).numpy()  # NumPy has no bfloat16
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
    is_clear = channels == 1 or (channels < count and channels <= MAX_CHANNELS)
    if not channels or not (is_clear or is_from_file):
        raise ValueError(f"expected samples of shape (samples,) or (channels, samples), got {samples.shape}")
    if samples.dtype.name in FULL_SCALES:
        full_scale, silence = FULL_SCALES[samples.dtype.name]
        return ((samples.astype(np.float64) - silence) / full_scale).astype(np.float32)
    if samples.dtype.kind != "f":
        raise TypeError(f"expected samples that are floats, or {', '.join(FULL_SCALES)}, got {samples.dtype}")
    with np.errstate(over="ignore"):
        samples = samples.astype(np.float32, copy=False)
    if not np.isfinite(samples).all():
        raise ValueError("the samples contain NaN or infinite values")
    return samples


def import_torchaudio(purpose: str) -> Any:
    """Imports torchaudio.

    Args:
        purpose: What needs it, as the subject of the error's sentence.

    Raises:
        ImportError: It is missing or was built for another version of torch.
    """
    return import_optional("torchaudio", f"{purpose} needs torchaudio, of a version that fits torch; {INSTALL}.")


def resample(samples: torch.Tensor, rate: int, target: int) -> torch.Tensor:
    """Resamples (..., T) from one rate to another with torchaudio.

    Raises:
        ValueError: The rates share so small a divisor that the filters would take gigabytes, or the result would be
            too large.
    """
    if rate == target:
        return samples
    if target > MAX_UPSAMPLING * rate:
        raise ValueError(
            f"cannot resample from {rate} to {target} Hz, which is more than {MAX_UPSAMPLING} times as much; bring "
            "the audio to a usual rate first"
        )
    check_memory(
        4 * math.ceil(samples.numel() / rate * target), f"audio of {samples.shape[-1]:,} samples at {rate} Hz"
    )
    common = math.gcd(rate, target)
    if (rate // common) * (target // common) > MAX_RESAMPLING_FILTERS:
        raise ValueError(
            f"cannot resample from {rate} to {target} Hz, which have no large divisor in common; bring the audio to a "
            "usual rate first"
        )
    functional = import_torchaudio("Resampling audio").functional
    if samples.ndim > 1 or len(samples) <= LONG:
        return functional.resample(samples, rate, target)
    # In pieces, for the memory. Each starts at a multiple of `old` and has what its first and last filters reach.
    old, new = rate // common, target // common
    step, reach = LONG // 4 // old * old or old, old * math.ceil(8 / min(old, new))
    pieces = []
    for start in range(0, len(samples), step):
        first = max(0, start - reach)
        piece = functional.resample(samples[first : start + step + reach], rate, target)
        skipped = (start - first) // old * new
        pieces.append(piece[skipped : skipped + step // old * new])
    return torch.cat(pieces)[: math.ceil(len(samples) * new / old)]


def read_mono(audio: Any, rate: int, sampling_rate: int | None = None, num_samples: int | None = None) -> torch.Tensor:
    """Reads one clip of any form, see [`audio_to_samples`], as samples (T,): the mean of its channels, resampled.

    Args:
        audio: The clip.
        rate: Rate of the result in hertz.
        sampling_rate: Rate of `audio` in hertz, for samples that come without one.
        num_samples: How many samples of the result are needed; what a longer recording has after them is not
            resampled.
    """
    samples, own_rate = audio_to_samples(audio, sampling_rate)
    mono = torch.from_numpy(samples[0]) if len(samples) == 1 else torch.from_numpy(samples).mean(dim=0)
    if num_samples is None:
        return resample(mono, own_rate, rate)
    # A sample of the result depends on its neighbours within the filter, which is far shorter than this margin.
    needed = math.ceil(num_samples * own_rate / rate) + 32 * math.ceil(own_rate / rate) + 32
    return resample(mono[:needed] if len(mono) > 2 * needed else mono, own_rate, rate)[:num_samples]
