"""Draws the built-in sounds as samples and as mel spectrograms: `python -m benchmarks.sound_pictures`."""

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from perceivers import AudioPerceiverFeatureExtractor
from perceivers.training.sounds import KINDS, NUM_SAMPLES, SAMPLING_RATE, make_clip

PICTURE = Path(__file__).parent.parent / "docs" / "audio_features.png"


def main() -> None:
    """Draws one column per kind of sound: its waveform above its mel spectrogram with the recipe's settings."""
    extractor = AudioPerceiverFeatureExtractor(
        "mel", SAMPLING_RATE, NUM_SAMPLES, n_fft=512, hop_length=128, num_mel_bins=16
    )
    figure = Figure(figsize=(15, 4.5), layout="constrained")
    axes = figure.subplots(4, 6)
    for index, kind in enumerate(KINDS):
        row, column = 2 * (index // 6), index % 6
        clip = make_clip([kind], np.random.default_rng(index))
        features = extractor(clip, sampling_rate=SAMPLING_RATE)["input_features"][0]
        seconds = NUM_SAMPLES / SAMPLING_RATE
        axes[row, column].plot(np.linspace(0, seconds, NUM_SAMPLES), clip / np.abs(clip).max(), linewidth=0.3)
        axes[row, column].set(title=kind, xlim=(0, seconds), xticks=[], yticks=[])
        axes[row + 1, column].imshow(features.T, origin="lower", aspect="auto", extent=(0, seconds, 0, 16))
        axes[row + 1, column].set(xticks=[0, 0.5, 1], yticks=[])
        if column == 0:
            axes[row, column].set_ylabel("samples")
            axes[row + 1, column].set_ylabel("mel bins")
    figure.supxlabel("seconds")
    figure.savefig(PICTURE, dpi=80)


if __name__ == "__main__":
    main()
