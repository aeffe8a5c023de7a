"""Audio: the embedded sounds, and how files and columns of recordings are told and read.

Recordings stay as they are in the file until the feature extractor reads them, as decoding by `datasets` needs
torchcodec and FFmpeg even for WAV.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

from datasets import Audio, Dataset, DatasetDict

from .labelled_datasets import InputKind
from .sounds import sounds

SOUNDS = "sounds"
MIXTURES = "sound_mixtures"
NUM_TRAIN, NUM_VALIDATION = 9600, 1200
AUDIO_SUFFIXES = frozenset(
    {".aac", ".aif", ".aiff", ".au", ".caf", ".flac", ".m4a", ".mp3", ".oga", ".ogg", ".opus", ".wav", ".wma"}
)


def sounds_splits(is_multi_label: bool) -> dict[str, Callable[[], Dataset]]:
    """The embedded data set: one sound a clip, or mixtures. What is held out is made from another seed."""
    make = partial(sounds, is_multi_label=is_multi_label)
    return {"train": partial(make, NUM_TRAIN, seed=1), "validation": partial(make, NUM_VALIDATION, seed=0)}


def is_audio(feature: Any) -> bool:
    """Whether a column, by its type, holds files of audio, or samples with their rate."""
    return isinstance(feature, Audio) or (isinstance(feature, dict) and {"array", "sampling_rate"} <= feature.keys())


def undecoded(splits: DatasetDict) -> DatasetDict:
    """The column of files as they are."""
    features = next(iter(splits.values())).features
    return splits.cast_column("audio", Audio(decode=False)) if isinstance(features["audio"], Audio) else splits


AUDIO = InputKind(
    column="audio",
    noun="recordings",
    feature=Audio(decode=False),
    suffixes=AUDIO_SUFFIXES,
    holds=is_audio,
    read=lambda path: {"bytes": None, "path": path},
    built_in={
        SOUNDS: sounds_splits(is_multi_label=False),
        MIXTURES: sounds_splits(is_multi_label=True),
    },
    prepare=undecoded,
)
