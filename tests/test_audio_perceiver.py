"""The audio model: the paper's numbers, its properties, and what transformers expects of a model."""

import copy

import pytest
import torch
from transformers import AutoConfig, Trainer, TrainingArguments

from perceivers import (
    AudioPerceiverConfig,
    AudioPerceiverForAudioClassification,
    InputStream,
    PerceiverInputs,
)
from perceivers.modeling.flops import forward_flops
from perceivers.modeling.positions import DensePositions
from tests.models import tiny_audio_model

REPRESENTATIONS = ("waveform", "mel")
SHAPES = {"waveform": (512,), "mel": (16, 8)}


@pytest.fixture(params=REPRESENTATIONS)
def representation(request):
    return request.param


def batch(representation, *lengths, seed=1):
    """Inputs of the first axis' lengths, by name; those of the tiny model if none are given."""
    generator = torch.Generator().manual_seed(seed)
    name = "input_values" if representation == "waveform" else "input_features"
    lengths = lengths or (SHAPES[representation][0],) * 2
    clips = [torch.randn(length, *SHAPES[representation][1:], generator=generator) for length in lengths]
    if len(set(lengths)) == 1:
        return {name: torch.stack(clips)}
    mask = torch.stack([torch.arange(max(lengths)) < length for length in lengths]).long()
    padded = torch.nn.utils.rnn.pad_sequence(clips, batch_first=True, padding_value=7.0)
    return {name: padded, "attention_mask": mask}


def logits(model, inputs):
    with torch.no_grad():
        return model(**inputs).logits


class TestPaper:
    @pytest.mark.parametrize(
        ("variant", "grid", "channels"),
        # Section 4.2: 61,440 samples are 480 inputs of 128 samples, the spectrogram 4,800 values. With 64 bands a
        # position has 1 + 2 * 64 = 129 channels an axis.
        [("audioset-waveform", (480,), 128 + 129), ("audioset-mel", (120, 40), 1 + 2 * 129)],
    )
    def test_numbers(self, variant, grid, channels):
        config = AudioPerceiverConfig.from_variant(variant)
        assert (config.stream_shapes[0].grid, config.input_channels) == (grid, channels)
        assert (config.num_labels, config.problem_type) == (527, "multi_label_classification")
        with torch.device("meta"):
            model = AudioPerceiverForAudioClassification(config)
        # docs/numbers.md: two cross-attends, two blocks of 8 self-attention layers, nothing shared.
        d, c = 512, channels
        cross = 2 * d + 2 * c + (d * c + c) + 2 * (c * c + c) + (c * d + d) + 2 * d + 2 * (d * d + d)
        self_attend = 4 * d + 4 * (d * d + d) + 2 * (d * d + d)
        expected = 512 * d + 2 * cross + 16 * self_attend + (d + 1) * 527
        assert sum(p.numel() for p in model.parameters()) == expected

    def test_flops_of_perceiver_io_s_table_10(self):
        """The formulas give the printed 21.0M parameters and 52.3B FLOPs.

        Its Perceiver has as many latents, one cross-attend and 12 layers; the video's inputs are added.
        """
        config = AudioPerceiverConfig(
            num_blocks=1, num_cross_attends=1, num_self_attends_per_block=12, samples_per_patch=487 - 129
        )
        assert config.input_channels == 487
        assert round(forward_flops(config, num_inputs=12544 + 480) / 1e9, 1) == 52.3
        with torch.device("meta"):
            model = AudioPerceiverForAudioClassification(config)
        assert round(model.num_parameters() / 1e6, 1) == 21.0

    def test_default_is_the_paper(self):
        assert AudioPerceiverConfig().to_dict() == AudioPerceiverConfig.from_variant("audioset-waveform").to_dict()

    def test_input_of_the_paper(self):
        config = AudioPerceiverConfig(num_self_attends_per_block=1, num_latents=4)
        model = AudioPerceiverForAudioClassification(config).eval()
        waveform = torch.randn(1, 61440)
        inputs = model.perceiver.inputs(waveform, None)
        assert inputs.dense().shape == (1, 480, 257)
        torch.testing.assert_close(inputs.streams[0].content[0, 3], waveform[0, 384:512])
        assert logits(model, {"input_values": waveform}).shape == (1, 527)

    def test_inputs_of_a_spectrogram_stand_frame_by_frame(self):
        model, features = tiny_audio_model("mel"), batch("mel")["input_features"]
        inputs = model.perceiver.inputs(features, None)
        positions = inputs.streams[0].positions
        assert positions.sizes == (16, 8)
        torch.testing.assert_close(inputs.streams[0].content[0, 5 * 8 + 3, 0], features[0, 5, 3])
        times, frequencies = positions.dense()[0, :, 0], positions.dense()[0, :, 1]
        torch.testing.assert_close(times.view(16, 8), torch.linspace(-1, 1, 16)[:, None].expand(16, 8))
        torch.testing.assert_close(frequencies.view(16, 8), torch.linspace(-1, 1, 8).expand(16, 8))


class TestProperties:
    def test_a_padded_batch_is_each_clip_alone(self, representation):
        model = tiny_audio_model(representation)
        lengths = (500, 333, 1, 17) if representation == "waveform" else (16, 9, 1, 5)
        together = logits(model, batch(representation, *lengths))
        for index, length in enumerate(lengths):
            inputs = batch(representation, *lengths)
            name = model.main_input_name
            alone = logits(model, {name: inputs[name][index : index + 1, :length]})
            torch.testing.assert_close(together[index], alone[0], atol=1e-4, rtol=1e-5)

    def test_factored_is_what_auto_takes_for_the_paper(self):
        for variant, expected in (("audioset-waveform", "dense"), ("audioset-mel", "factored")):
            with torch.device("meta"):
                model = AudioPerceiverForAudioClassification(AudioPerceiverConfig.from_variant(variant))
            positions = model.perceiver.inputs(*meta_input(model)).streams[0].positions
            content = torch.empty(1, model.config.num_inputs, model.config.stream_shapes[0].content_channels)
            inputs = PerceiverInputs(InputStream(content, positions))
            assert model.perceiver.encoder.cheapest_implementation(inputs) == expected

    def test_permuting_inputs_with_their_positions_changes_nothing(self, representation):
        model = tiny_audio_model(representation)
        values = batch(representation)
        (stream,) = model.perceiver.inputs(*values.values(), None).streams
        order = torch.randperm(stream.content.shape[1], generator=torch.Generator().manual_seed(0))
        permuted = InputStream(stream.content[:, order], DensePositions(stream.positions.dense()[:, order]))
        with torch.no_grad():
            latents = model.perceiver.encoder(PerceiverInputs(permuted))
        torch.testing.assert_close(
            model.classifier(model.pooler(latents)), logits(model, values), atol=1e-4, rtol=1e-5
        )

    def test_time_matters(self, representation):
        model, inputs = tiny_audio_model(representation), batch(representation)
        backwards = {name: value.flip(1) for name, value in inputs.items()}
        assert (logits(model, backwards) - logits(model, inputs)).abs().max() > 1e-2

    def test_a_clip_without_samples_reads_zeros(self, representation):
        model = tiny_audio_model(representation).train()
        inputs = batch(representation)
        mask = torch.ones(inputs[model.main_input_name].shape[:2], dtype=torch.bool)
        mask[1] = False
        output = model(**inputs, attention_mask=mask, labels=torch.tensor([0, 1]))
        output.loss.backward()
        assert all(p.grad.isfinite().all() for p in model.parameters())
        torch.testing.assert_close(output.logits[0], logits(model, inputs)[0], atol=1e-4, rtol=1e-5)


def meta_input(model):
    shape = (1, 61440) if model.config.representation == "waveform" else (1, 120, 40)
    return torch.empty(shape, device="meta"), None


class TestTransformersHabits:
    @pytest.mark.parametrize(
        "fields",
        [
            {},
            {"num_labels": 2},
            {"num_labels": 527},
            {"id2label": {0: "no", 1: "yes"}},
            {"num_labels": 3, "problem_type": "single_label_classification"},
        ],
        ids=str,
    )
    def test_labels_survive_saving(self, fields, tmp_path):
        config = AudioPerceiverConfig(**fields)
        config.save_pretrained(tmp_path)
        assert AutoConfig.from_pretrained(tmp_path).to_diff_dict() == config.to_diff_dict()
        assert copy.deepcopy(config).to_dict() == config.to_dict()

    @pytest.mark.integration
    @pytest.mark.parametrize("problem_type", ["single_label_classification", "multi_label_classification"])
    def test_accumulated_gradients_are_those_of_one_batch(self, tmp_path, problem_type):
        """Through the Trainer, with uneven batches, against one step of plain SGD on all."""
        single = problem_type == "single_label_classification"
        clips = batch("waveform", *(512,) * 7)["input_values"]
        labels = list(range(7)) if single else list(torch.eye(10)[:7] + torch.eye(10)[1:8])
        data = [{"input_values": clip, "labels": label} for clip, label in zip(clips, labels, strict=True)]
        after = []
        for size, accumulation in ((7, 1), (3, 3)):
            model = tiny_audio_model("waveform", problem_type=problem_type)
            arguments = TrainingArguments(
                str(tmp_path),
                per_device_train_batch_size=size,
                gradient_accumulation_steps=accumulation,
                max_steps=1,
                optim="sgd",
                learning_rate=1.0,
                lr_scheduler_type="constant",
                max_grad_norm=0.0,
                use_cpu=True,
                report_to="none",
                disable_tqdm=True,
                save_strategy="no",
            )
            Trainer(model, arguments, train_dataset=data).train()
            after.append(dict(model.named_parameters()))
        for name, parameter in tiny_audio_model("waveform").named_parameters():
            torch.testing.assert_close(after[0][name], after[1][name], atol=1e-5, rtol=1e-4)
            if name == "classifier.weight":
                assert (after[0][name] - parameter).abs().max() > 1e-2


class TestErrors:
    @pytest.mark.parametrize(
        ("fields", "message"),
        [
            ({"samples_per_patch": 0}, "`samples_per_patch` must be at least 1, got 0"),
            ({"num_samples": 0}, "`num_samples` must be at least 1, got 0"),
            ({"num_frames": -1}, "`num_frames` must be at least 1, got -1"),
            ({"max_resolution": [480, 40]}, "one for each of 1 axes"),
            ({"representation": "mel", "max_resolution": [480]}, "one for each of 2 axes"),
            ({"num_mels": 4}, r"no field `num_mels`"),
        ],
    )
    def test_configuration(self, fields, message):
        with pytest.raises(ValueError, match=message):
            AudioPerceiverConfig(**fields)

    def test_the_input_of_the_other_representation(self, representation):
        other = "mel" if representation == "waveform" else "waveform"
        with pytest.raises(ValueError, match=rf"representation='{representation}' the model takes `input_"):
            tiny_audio_model(representation)(**batch(other))
        with pytest.raises(ValueError, match=r"takes `input_\w+` and no `input_\w+`"):
            tiny_audio_model(representation)(**batch(other), **batch(representation))

    @pytest.mark.parametrize(
        ("representation", "shape", "message"),
        [
            ("waveform", (2, 1, 512), r"input_values must be \(batch, samples\), got \(2, 1, 512\)"),
            ("mel", (2, 16, 9), r"\(batch, frames, num_mel_bins=8\), got \(2, 16, 9\)"),
            ("mel", (16, 8), r"got \(16, 8\)"),
        ],
    )
    def test_shapes(self, representation, shape, message):
        model = tiny_audio_model(representation)
        with pytest.raises(ValueError, match=message):
            model(**{model.main_input_name: torch.zeros(shape)})

    def test_mask(self, representation):
        model, inputs = tiny_audio_model(representation), batch(representation)
        with pytest.raises(ValueError, match=r"attention_mask must have the first two sizes of input_.* got \(2, 3\)"):
            model(**inputs, attention_mask=torch.ones(2, 3))
