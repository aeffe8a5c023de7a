"""Mixes blocks of samples down to one channel and resamples them as they come, so that nothing long is held twice.

Letters: C channels, T samples, t samples of one block.
"""

import math
from collections.abc import Iterable, Iterator
from itertools import chain
from typing import Any

import numpy as np
import torch

from .reading import check_memory, import_optional

# Resampling builds one filter per pair of phases of the two rates; common rates need thousands, not millions.
MAX_RESAMPLING_FILTERS = 2**22
# A file of a few kilobytes that claims a rate of 1 Hz would become hours of sound.
MAX_UPSAMPLING = 1000
LONG = 2**20  # samples; a longer recording is resampled in pieces
GROWTH = 2**22  # samples
INSTALL = "install it with `pip install 'perceivers[audio]'`"


def import_torchaudio(purpose: str) -> Any:
    """Imports torchaudio.

    Args:
        purpose: What needs it, as the subject of the error's sentence.

    Raises:
        ImportError: It is missing or was built for another version of torch.
    """
    return import_optional("torchaudio", f"{purpose} needs torchaudio, of a version that fits torch; {INSTALL}.")


def joined(blocks: Iterable[np.ndarray]) -> np.ndarray:
    """Joins blocks (C, t), one or more, to (C, T). A single block is not copied."""
    blocks = iter(blocks)
    first, second = next(blocks), next(blocks, None)
    if second is None:
        return first
    count, channels = 0, len(first)
    samples = np.empty((0, channels), np.float32)
    for block in chain((first, second), blocks):
        end = count + block.shape[1]
        if end > len(samples):  # grows where it is, without a second copy
            more = min(GROWTH // channels, len(samples) // 4)
            samples.resize((max(end, len(samples) + more), channels), refcheck=False)
        samples[count:end] = block.T
        count = end
    samples.resize((count, channels), refcheck=False)
    return samples.T


def mix_down(blocks: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
    """Takes the mean of the channels of blocks, (C, t) -> (1, t)."""
    for block in blocks:
        yield block if len(block) == 1 else torch.from_numpy(block).mean(dim=0, keepdim=True).numpy()


def beginning(blocks: Iterable[np.ndarray], needed: int) -> np.ndarray:
    """Joins blocks (C, t) to (C, T), of which a recording more than twice as long keeps the first `needed` samples."""
    kept, count = [], 0
    for block in blocks:
        if count <= 2 * needed:
            kept.append(block)
        count += block.shape[1]
    return joined(kept)[:, : needed if count > 2 * needed else count]


def check_rates(rate: int, target: int) -> None:
    """Checks that torchaudio can resample from one rate to another.

    Raises:
        ValueError: The rates share so small a divisor that the filters would take gigabytes, or a short recording
            would become hours.
    """
    if target > MAX_UPSAMPLING * rate:
        raise ValueError(
            f"cannot resample from {rate} to {target} Hz, which is more than {MAX_UPSAMPLING} times as much; bring "
            "the audio to a usual rate first"
        )
    common = math.gcd(rate, target)
    if (rate // common) * (target // common) > MAX_RESAMPLING_FILTERS:
        raise ValueError(
            f"cannot resample from {rate} to {target} Hz, which have no large divisor in common; bring the audio to a "
            "usual rate first"
        )


def resample(blocks: Iterable[np.ndarray], rate: int, target: int) -> Iterator[np.ndarray]:
    """Resamples blocks of one channel, (1, t) -> (1, t'), with torchaudio.

    A recording of up to `LONG` samples is resampled as a whole, a longer one in pieces.

    Raises:
        ValueError: As in [`check_rates`], or the result would be too large.
    """
    if rate == target:
        yield from blocks
        return
    check_rates(rate, target)
    functional = import_torchaudio("Resampling audio").functional
    common = math.gcd(rate, target)
    old, new = rate // common, target // common
    # Each piece starts at a multiple of `old` and has around it what its first and last filters reach.
    step, reach = LONG // 4 // old * old or old, old * math.ceil(8 / min(old, new))
    held: list[np.ndarray] = []
    count = start = first = 0  # samples that have come; where the next piece, and what is held, begin
    end = np.empty((1, 0), np.float32)
    for block in chain(blocks, [end]):
        if block is not end:
            held.append(block)
        count += block.shape[1]
        check_memory(4 * math.ceil(count / rate * target), f"audio of {count:,} samples or more at {rate} Hz")
        if block is end and count <= LONG:
            step = count
        elif block is not end and count < max(LONG + 1, start + step + reach):
            continue
        samples = torch.from_numpy(joined(held)[0])
        while start < count and (block is end or start + step + reach <= count):
            before = min(start, reach)
            piece = functional.resample(samples[start - before - first : start + step + reach - first], rate, target)
            skipped = before // old * new
            yield piece[None, skipped : skipped + math.ceil(min(step, count - start) * new / old)].numpy()
            start += step
        held = [samples[None, max(0, start - reach) - first :].numpy().copy()]
        first = max(0, start - reach)
