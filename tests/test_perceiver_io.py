"""Perceiver IO for images: the query head, the stems and learned positions."""

import pytest
import torch
from huggingface_hub.errors import StrictDataclassFieldValidationError

from perceivers import ImagePerceiverConfig, ImagePerceiverForImageClassification, ImagePerceiverModel
from perceivers.modeling.positions import DensePositions, GridPositions
from tests.models import assert_checkpointing_keeps_the_gradients, tiny_image_model

PARTS = {
    "query": {"head": "query"},
    "conv1x1": {"stem": "conv1x1", "stem_channels": 6},
    "conv": {"stem": "conv", "stem_channels": 12},
    "learned": {"position_encoding": "learned", "learned_position_channels": 7},
    "projected": {
        "position_encoding": "learned",
        "learned_position_channels": 7,
        "position_projection_channels": 9,
        "stem": "conv",
        "head": "query",
    },
}


@pytest.fixture(params=PARTS.values(), ids=PARTS)
def part(request) -> dict:
    return request.param


@pytest.fixture
def pixels():
    return torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(1))


def logits(model, *args, **kwargs):
    with torch.no_grad():
        return model(*args, **kwargs).logits


class TestVariants:
    @pytest.mark.parametrize(
        ("variant", "parameters", "grid", "channels"),
        [
            ("deepmind-fourier", 48_440_627, (224, 224), 261),
            ("deepmind-learned", 62_255_848, (224, 224), 512),
            ("deepmind-conv", 48_646_522, (55, 55), 322),
        ],
    )
    def test_published_sizes(self, variant, parameters, grid, channels):
        config = ImagePerceiverConfig.from_variant(variant)
        with torch.device("meta"):
            model = ImagePerceiverForImageClassification(config)
        assert sum(p.numel() for p in model.parameters()) == parameters
        assert (config.stream_shapes[0].grid, config.input_channels) == (grid, channels)

    def test_the_configuration_tells_the_shape_of_the_inputs(self, part):
        for size in (5, 6, 7, 8, 9, [16, 21]):
            config = ImagePerceiverConfig.from_variant("tiny", **part, image_size=size)
            inputs = ImagePerceiverModel(config).inputs(torch.zeros(1, 3, *config.image_sizes))
            assert inputs.dense().shape == (1, config.num_inputs, config.input_channels)
            learned = part.get("position_encoding") == "learned"
            assert type(inputs.streams[0].positions) is (DensePositions if learned else GridPositions)


class TestInitialisation:
    def test_raw_parameters_as_deepmind(self, tmp_path):
        changes = {**PARTS["projected"], "learned_position_channels": 64, "d_latents": 256, "image_size": 64}
        config = ImagePerceiverConfig.from_variant("tiny", **changes)
        torch.manual_seed(0)
        model = ImagePerceiverForImageClassification(config)
        # A body that is loaded without its head draws what is missing, on the same ways.
        model.perceiver.save_pretrained(tmp_path)
        torch.manual_seed(0)
        loaded = ImagePerceiverForImageClassification.from_pretrained(tmp_path)
        for it in (model, loaded):
            for parameter in (it.perceiver.inputs.positions.table, it.pooler.query):
                assert parameter.std().item() == pytest.approx(0.0176, rel=0.1)
                assert parameter.abs().max().item() <= 0.04
            assert it.classifier.weight.std().item() == pytest.approx(256**-0.5, rel=0.1)
            norm = it.perceiver.inputs.stem.norm
            assert (norm.weight == 1).all() and (norm.running_var == 1).all() and (norm.running_mean == 0).all()


class TestHabits:
    @pytest.mark.parametrize("attention", ["eager", "sdpa"])
    def test_ways_to_attend_agree(self, part, pixels, attention):
        model = tiny_image_model(**part)
        model.set_attn_implementation(attention)
        expected = {}
        for way in ("dense", "absorbed", "factored", "auto"):
            if way == "factored" and part.get("position_encoding") == "learned":
                continue
            model.config.cross_attention_implementation = way
            expected[way] = logits(model, pixels)
        for actual in expected.values():
            torch.testing.assert_close(actual, expected["dense"], atol=1e-4, rtol=1e-4)

    def test_save_and_load_is_exact(self, part, pixels, tmp_path):
        model = tiny_image_model(**part)
        model.train()(pixels)  # moves the statistics of a batch norm
        model.eval().save_pretrained(tmp_path)
        loaded, info = ImagePerceiverForImageClassification.from_pretrained(tmp_path, output_loading_info=True)
        assert not any(info.values()), info
        assert torch.equal(logits(loaded, pixels), logits(model, pixels))

    def test_every_parameter_gets_a_gradient(self, part, pixels):
        model = tiny_image_model(**part).train()
        model(pixels, labels=torch.tensor([3, 4])).loss.backward()
        assert [name for name, p in model.named_parameters() if p.grad is None] == []

    def test_gradient_checkpointing_changes_nothing(self, part, pixels):
        inputs = {"pixel_values": pixels, "labels": torch.tensor([3, 4])}
        assert_checkpointing_keeps_the_gradients(tiny_image_model(**part), inputs)

    @pytest.mark.integration
    def test_compiles_into_one_graph(self, pixels):
        model = tiny_image_model(**PARTS["projected"])
        compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
        torch.testing.assert_close(logits(compiled, pixels), logits(model, pixels), atol=1e-5, rtol=1e-5)

    def test_half_precision(self, part, pixels):
        model = tiny_image_model(**part)
        expected = logits(model, pixels)
        torch.testing.assert_close(logits(model.bfloat16(), pixels).float(), expected, atol=0.3, rtol=0.1)

    def test_outputs_are_recorded(self, pixels):
        model = tiny_image_model(**PARTS["projected"])
        output = model(pixels, output_attentions=True, output_hidden_states=True)
        # The decoder's cross-attend is the head's, not one of the body's.
        assert [tuple(a.shape) for a in output.cross_attentions] == [(2, 1, 8, 9)] * 2
        assert len(output.hidden_states) == model.config.num_hidden_layers + 1


class TestMasks:
    @pytest.mark.parametrize("stem", ["pixels", "conv1x1", "conv"])
    def test_padding_at_the_bottom_and_the_right_changes_nothing(self, stem):
        model = tiny_image_model(stem=stem, head="query")
        for height, width in ((16, 21), (13, 8), (5, 30)):
            image = torch.randn(1, 3, height, width)
            padded = torch.full((1, 3, 23, 34), 7.0)
            padded[:, :, :height, :width] = image
            mask = torch.zeros(1, 23, 34, dtype=torch.long)
            mask[:, :height, :width] = 1
            torch.testing.assert_close(logits(model, padded, mask), logits(model, image), atol=1e-4, rtol=1e-5)

    def test_images_too_small_for_the_convolution_read_zeros(self):
        model = tiny_image_model(stem="conv")
        mask = torch.zeros(2, 16, 16, dtype=torch.long)
        mask[:, :4, :4] = 1
        first, second = logits(model, torch.randn(2, 3, 16, 16), mask)
        torch.testing.assert_close(first, second)

    def test_learned_positions_stay_where_they_are(self, pixels):
        """Another content behind the mask changes nothing; another place of the image does."""
        model = tiny_image_model(position_encoding="learned")
        mask = torch.zeros(2, 16, 16, dtype=torch.long)
        mask[:, 2:9, 3:11] = 1
        expected = logits(model, pixels, mask)
        other = torch.where(mask[:, None].bool(), pixels, 5.0)
        torch.testing.assert_close(logits(model, other, mask), expected)
        moved = logits(model, pixels.roll((1, 1), dims=(2, 3)), mask.roll((1, 1), dims=(1, 2)))
        assert (moved - expected).abs().max() > 1e-3


class TestLearnedPositions:
    def test_other_sizes_are_interpolated_if_asked(self, pixels):
        model = tiny_image_model(position_encoding="learned")
        wide = torch.randn(2, 3, 16, 24)
        with pytest.raises(ValueError, match=r"16 x 16 inputs, got 16 x 24; pass `interpolate_pos_encoding=True`"):
            model(wide)
        assert logits(model, wide, interpolate_pos_encoding=True).shape == (2, 10)
        assert torch.equal(logits(model, pixels, interpolate_pos_encoding=True), logits(model, pixels))

    def test_interpolation_keeps_the_axes_apart(self):
        model = tiny_image_model(position_encoding="learned", learned_position_channels=2, image_size=[8, 12])
        positions = model.perceiver.inputs.positions
        down, right = torch.meshgrid(torch.arange(8.0), torch.arange(12.0), indexing="ij")
        positions.table.data = torch.stack([down, right], dim=-1).flatten(0, 1)
        down, right = positions.interpolated((16, 36)).unflatten(0, (16, 36)).unbind(-1)
        torch.testing.assert_close(down, down[:, :1].expand(16, 36))
        torch.testing.assert_close(right, right[:1].expand(16, 36))
        assert (down.diff(dim=0) > 0).all() and (right[:, 4:-4].diff(dim=1) > 0).all()

    def test_the_table_is_a_row_a_place(self, pixels):
        """Permuting pixels and table alike changes nothing."""
        model = tiny_image_model(position_encoding="learned", stem="conv1x1")
        order = torch.randperm(256, generator=torch.Generator().manual_seed(0))
        expected = logits(model, pixels)
        table = model.perceiver.inputs.positions.table
        table.data = table.data[order]
        permuted = pixels.flatten(2)[..., order].unflatten(2, (16, 16))
        torch.testing.assert_close(logits(model, permuted), expected, atol=1e-5, rtol=1e-5)
        assert (logits(model, pixels) - expected).abs().max() > 1e-3


class TestErrors:
    @pytest.mark.parametrize(
        ("fields", "message"),
        [
            ({"stem": "conv", "image_size": 4}, "5 x 5 pixels or more, got image_size=4"),
            ({"stem_channels": 0}, "`stem_channels` must be at least 1, got 0"),
            ({"learned_position_channels": 0}, "`learned_position_channels` must be at least 1, got 0"),
            (
                {"position_projection_channels": 8},
                "position_projection_channels=8 and position_encoding='fourier'",
            ),
            (
                {"position_encoding": "learned", "position_projection_channels": 0},
                "`position_projection_channels` must be at least 1, got 0",
            ),
            (
                {"position_encoding": "learned", "cross_attention_implementation": "factored"},
                '`cross_attention_implementation="factored"` .* position_encoding="learned"',
            ),
        ],
    )
    def test_configuration(self, fields, message):
        with pytest.raises(ValueError, match=message):
            ImagePerceiverConfig(**fields)

    @pytest.mark.parametrize("field", ["stem", "head", "position_encoding"])
    def test_choices(self, field):
        with pytest.raises(StrictDataclassFieldValidationError, match=field):
            ImagePerceiverConfig(**{field: "patches"})

    def test_small_images(self):
        with pytest.raises(ValueError, match="5 x 5 pixels or more, got 4 x 16"):
            tiny_image_model(stem="conv")(torch.zeros(1, 3, 4, 16))
