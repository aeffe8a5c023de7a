"""What a training run on audio can be told besides."""

from dataclasses import dataclass, field

from .arguments import DataArguments


@dataclass
class AudioDataArguments(DataArguments):
    """Which recordings and labels. With nothing said, sounds that are made on the spot."""

    audio_column_name: str | None = field(
        default=None, metadata={"help": "Column of the recordings. None finds the only one of that type."}
    )

    @property
    def input_column_name(self) -> str | None:
        return self.audio_column_name


@dataclass
class AudioAugmentationArguments:
    """How training clips are varied; all off by default."""

    time_crop: bool = field(
        default=False, metadata={"help": "Cut a longer recording to a clip anywhere, not at its beginning."}
    )
    level: float = field(default=0.0, metadata={"help": "Largest change of the level to either side, in decibels."})
    noise: float = field(
        default=0.0, metadata={"help": "Largest level of added white noise, as a part of the clip's; 0.1 is -20 dB."}
    )
    time_mask: int = field(
        default=0, metadata={"help": "SpecAugment: the most frames of a mel spectrogram that are wiped out."}
    )
    frequency_mask: int = field(
        default=0, metadata={"help": "SpecAugment: the most mel bins of a spectrogram that are wiped out."}
    )

    def __post_init__(self):
        for name in ("level", "noise", "time_mask", "frequency_mask"):
            if getattr(self, name) < 0:
                raise ValueError(f"`--{name}` must not be negative, got {getattr(self, name)}.")
