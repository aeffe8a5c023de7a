"""A built-in data set of synthetic sounds: twelve kinds, of random pitch, level, onset and background.

Every clip has its own seed, so that it does not depend on the number of clips.

Letters: T samples.
"""

import io
import wave
from collections.abc import Callable

import numpy as np
from datasets import Audio, ClassLabel, Dataset, Features, List, Value

SAMPLING_RATE = 8000
NUM_SAMPLES = 8192  # 1.024 s
PEAK = 0.9  # of full scale, so that nothing clips
FADE = 0.008  # seconds at both ends of a sound, as a sudden start would click
HARMONICS = np.arange(1, 8)
# The partials of a free bar, as in a glockenspiel.
BAR_PARTIALS = np.array([1.0, 2.756, 5.404])

Generator = np.random.Generator


def between(random: Generator, low: float, high: float) -> float:
    """A log-uniform number, as pitch and loudness are heard."""
    return float(np.exp(random.uniform(np.log(low), np.log(high))))


def sine(frequency: np.ndarray | float, time: np.ndarray, random: Generator) -> np.ndarray:
    """A sine wave with a random phase, whose frequency in hertz may change over time."""
    phase = np.cumsum(np.broadcast_to(frequency, time.shape)) / SAMPLING_RATE
    return np.sin(2 * np.pi * (phase + random.random()))


def tone(random: Generator, time: np.ndarray) -> np.ndarray:
    return sine(between(random, 200, 2000), time, random)


def organ(random: Generator, time: np.ndarray) -> np.ndarray:
    pitch = between(random, 100, 400)
    levels = random.uniform(0.5, 1, size=len(HARMONICS)) / HARMONICS**0.5
    return np.sum([level * sine(k * pitch, time, random) for k, level in zip(HARMONICS, levels, strict=True)], axis=0)


def glide(random: Generator, time: np.ndarray, direction: int) -> np.ndarray:
    octaves = direction * random.uniform(1, 2.5)
    middle = between(random, 500, 1200)
    return sine(middle * 2 ** (octaves * (time / time[-1] - 0.5)), time, random)


def rise(random: Generator, time: np.ndarray) -> np.ndarray:
    return glide(random, time, direction=1)


def fall(random: Generator, time: np.ndarray) -> np.ndarray:
    return glide(random, time, direction=-1)


def noise(random: Generator, time: np.ndarray, slope: float) -> np.ndarray:
    """Noise whose power falls with the frequency to the power of `slope`."""
    frequencies = np.fft.rfftfreq(len(time), 1 / SAMPLING_RATE)
    spectrum = random.standard_normal(2 * len(frequencies)).view(complex)
    return np.fft.irfft(spectrum * np.maximum(frequencies, 20) ** (-slope / 2), len(time))


def hiss(random: Generator, time: np.ndarray) -> np.ndarray:
    return noise(random, time, slope=-random.uniform(0.5, 2))


def rumble(random: Generator, time: np.ndarray) -> np.ndarray:
    return noise(random, time, slope=random.uniform(2.5, 4))


def pluck(random: Generator, time: np.ndarray) -> np.ndarray:
    """A string: harmonics that decay faster the higher they are."""
    pitch, decay = between(random, 100, 400), between(random, 4, 8)
    partials = [sine(k * pitch, time, random) / k * np.exp(-decay * k**0.5 * time) for k in HARMONICS]
    return np.sum(partials, axis=0)


def bell(random: Generator, time: np.ndarray) -> np.ndarray:
    """A struck bar: inharmonic partials."""
    pitch, decay = between(random, 300, 650), between(random, 3, 6)
    return np.sum([sine(part * pitch, time, random) for part in BAR_PARTIALS], axis=0) * np.exp(-decay * time)


def drum(random: Generator, time: np.ndarray) -> np.ndarray:
    """A skin: a low pitch that drops while it decays."""
    pitch, decay = between(random, 70, 140), between(random, 8, 16)
    return sine(pitch * (1 + np.exp(-20 * time)), time, random) * np.exp(-decay * time)


def clicks(random: Generator, time: np.ndarray) -> np.ndarray:
    phase = time * between(random, 6, 20) + random.random()
    since_click = (phase % 1) / between(random, 6, 20) * 20
    return random.standard_normal(len(time)) * np.exp(-8 * since_click)


def tremolo(random: Generator, time: np.ndarray) -> np.ndarray:
    """A tone whose loudness oscillates."""
    swing = sine(between(random, 4, 10), time, random)
    return sine(between(random, 200, 2000), time, random) * (0.55 + 0.45 * swing)


def siren(random: Generator, time: np.ndarray) -> np.ndarray:
    """A tone whose pitch swings."""
    swing = sine(between(random, 3, 8), time, random)
    return sine(between(random, 500, 1500) * 2 ** (random.uniform(0.25, 0.6) * swing), time, random)


KINDS: dict[str, Callable[[Generator, np.ndarray], np.ndarray]] = {
    sound.__name__: sound
    for sound in (tone, organ, rise, fall, hiss, rumble, pluck, bell, drum, clicks, tremolo, siren)
}


def faded(sound: np.ndarray) -> np.ndarray:
    """The sound with a fade at both ends."""
    length = min(round(FADE * SAMPLING_RATE), len(sound) // 2)
    ramp = np.linspace(0, 1, length, endpoint=False)
    sound = sound.copy()
    sound[:length] *= ramp
    sound[len(sound) - length :] *= ramp[::-1]
    return sound


def make_clip(kinds: list[str], random: Generator) -> np.ndarray:
    """Makes a clip with a sound of each of these kinds, which begins in its first quarter, over background noise.

    The noise is 10 to 30 dB below a single sound. Each of several sounds is up to 6 dB quieter than a single one.

    Returns:
        (T,) in [-1, 1], at `SAMPLING_RATE`.
    """
    clip = noise(random, np.arange(NUM_SAMPLES) / SAMPLING_RATE, slope=random.uniform(0, 1))
    clip *= between(random, 10**-1.5, 10**-0.5) / np.sqrt(np.mean(clip**2))
    for kind in kinds:
        onset = random.integers(0, NUM_SAMPLES // 4)
        sound = faded(KINDS[kind](random, np.arange(NUM_SAMPLES - onset) / SAMPLING_RATE))
        level = between(random, 10**-0.3, 1) if len(kinds) > 1 else 1.0
        clip[onset:] += level * sound / np.sqrt(np.mean(sound**2))
    return clip * (PEAK / np.abs(clip).max() * between(random, 0.05, 1))


def wav_file(clip: np.ndarray) -> bytes:
    """(T,) in [-1, 1] -> a 16-bit WAV file."""
    file = io.BytesIO()
    with wave.open(file, "wb") as writer:
        writer.setnchannels(1)
        writer.setsampwidth(2)
        writer.setframerate(SAMPLING_RATE)
        writer.writeframes(np.rint(clip * 32767).astype("<i2").tobytes())
    return file.getvalue()


def sounds(num_clips: int, seed: int, is_multi_label: bool = False, max_mixed: int = 3) -> Dataset:
    """Makes clips with one sound each, in equal numbers of every kind, or mixtures of up to `max_mixed` kinds.

    Args:
        num_clips: Number of clips.
        seed: Seed of all random choices.
        is_multi_label: Whether to make mixtures.
        max_mixed: Largest number of kinds in a mixture.

    Returns:
        The columns `audio`, undecoded WAV files, and `label`, which is a list for mixtures.
    """
    clips, labels = [], []
    for index in range(num_clips):
        random = np.random.default_rng([seed, index])
        if is_multi_label:
            label = random.permutation(len(KINDS))[: random.integers(1, max_mixed, endpoint=True)].tolist()
        else:
            label = [index % len(KINDS)]
        labels.append(label)
        kinds = list(KINDS)
        clips.append({"bytes": wav_file(make_clip([kinds[i] for i in label], random)), "path": None})
    names = ClassLabel(names=list(KINDS))
    file = {"bytes": Value("binary"), "path": Value("string")}
    features = Features({"audio": file, "label": List(names) if is_multi_label else names})
    table = {"audio": clips, "label": labels if is_multi_label else [label for (label,) in labels]}
    # Cast, not encoded: `datasets` encodes with torchcodec, though the files are complete.
    return Dataset.from_dict(table, features=features).cast_column("audio", Audio(decode=False))
