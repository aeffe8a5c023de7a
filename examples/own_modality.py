"""A modality of your own, through the public names alone: a week of electricity readings -> what the building is.

    python examples/own_modality.py

A new kind of input needs three things: the shape of its stream, its content and its positions. Everything else is
inherited: the fast cross-attention, checkpointing, saving, the loss, the Trainer.
"""

import torch
from transformers import Trainer, TrainingArguments

from perceivers import (
    InputStream,
    IterativePerceiverConfig,
    IterativePerceiverForClassification,
    IterativePerceiverModel,
    PerceiverInputs,
    StreamShape,
    fourier_grid,
)

BUILDINGS = ("home", "office", "bakery")
DAYS, HOURS = 7, 24


class WeekPerceiverConfig(IterativePerceiverConfig):
    """One stream: a grid of days and hours with one number in each cell."""

    model_type = "week_perceiver"

    @property
    def stream_shapes(self) -> tuple[StreamShape, ...]:
        grid = (DAYS, HOURS)
        shape = StreamShape(grid, content_channels=1, max_resolutions=grid, num_bands=self.num_frequency_bands)
        return (shape,)


class WeekPerceiverModel(IterativePerceiverModel):
    """Readings (B, days, hours) -> latents (B, N, D)."""

    config: WeekPerceiverConfig

    def __init__(self, config: WeekPerceiverConfig):
        super().__init__(config)
        self.post_init()

    def forward(self, readings: torch.Tensor, **kwargs):
        (shape,) = self.config.stream_shapes
        content = readings.flatten(1).unsqueeze(-1)  # (B, days * hours, 1)
        positions = fourier_grid(shape.grid, shape.num_bands, shape.max_resolutions, torch.float32, readings.device)
        return self.encode(PerceiverInputs(InputStream(content, positions)), **kwargs)


class WeekPerceiverForClassification(IterativePerceiverForClassification):
    """Readings (B, days, hours) -> logits (B, buildings), and the loss if there are labels."""

    config: WeekPerceiverConfig

    def __init__(self, config: WeekPerceiverConfig):
        super().__init__(config, WeekPerceiverModel)

    def forward(self, readings: torch.Tensor, labels: torch.Tensor | None = None, **kwargs):
        return self.classify(self.perceiver(readings, **kwargs), labels, **kwargs)


def make_weeks(number: int, seed: int) -> list[dict]:
    """Made-up readings: homes peak in the evening, offices on weekdays, bakeries before dawn except on Mondays."""
    generator = torch.Generator().manual_seed(seed)
    day, hour = torch.meshgrid(torch.arange(DAYS), torch.arange(HOURS), indexing="ij")
    profiles = ((hour > 17) & (hour < 23), (hour > 7) & (hour < 18) & (day < 5), (hour > 1) & (hour < 7) & (day > 0))
    weeks = []
    for index in range(number):
        label = index % len(BUILDINGS)
        noise = torch.randn(DAYS, HOURS, generator=generator)
        weeks.append({"readings": profiles[label].float() + 0.7 * noise, "labels": label})
    return weeks


def main(folder: str = "perceiver-weeks", num_weeks: int = 600, num_epochs: int = 5) -> float:
    """Trains, saves the model and returns the accuracy on other weeks."""
    config = WeekPerceiverConfig(
        num_latents=8,
        d_latents=32,
        num_blocks=2,
        num_cross_attends=2,
        num_self_attends_per_block=1,
        num_self_attention_heads=4,
        num_frequency_bands=4,
        num_labels=len(BUILDINGS),
    )
    arguments = TrainingArguments(
        folder, num_train_epochs=num_epochs, per_device_train_batch_size=32, learning_rate=4e-3, report_to="none"
    )
    torch.manual_seed(0)
    trainer = Trainer(WeekPerceiverForClassification(config), arguments, train_dataset=make_weeks(num_weeks, seed=0))
    trainer.train()
    trainer.save_model()
    predictions = trainer.predict(make_weeks(300, seed=1))
    accuracy = float((predictions.predictions.argmax(-1) == predictions.label_ids).mean())
    print(f"Accuracy on 300 other weeks: {accuracy:.1%}")
    return accuracy


if __name__ == "__main__":
    main()
