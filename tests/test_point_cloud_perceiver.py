"""The model for point clouds: the paper's numbers, its properties, and what transformers expects of a model."""

import pytest
import torch
from transformers import AutoConfig, AutoModel, AutoModelForSequenceClassification, PerceiverConfig, PerceiverModel
from transformers.models.perceiver.modeling_perceiver import generate_fourier_features

from perceivers import (
    POINT_CLOUD_VARIANTS,
    PointCloudPerceiverConfig,
    PointCloudPerceiverForPointCloudClassification,
    PointCloudPerceiverModel,
)
from tests.models import assert_checkpointing_keeps_the_gradients, randomize, tiny_point_cloud_model


def cloud(batch: int = 2, points: int = 100, features: int = 0, seed: int = 1) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return 2 * torch.rand(batch, points, 3 + features, generator=generator) - 1


def logits(model, *args, **kwargs):
    with torch.no_grad():
        return model(*args, **kwargs).logits


class TestPaper:
    def test_numbers(self):
        config = PointCloudPerceiverConfig.from_variant("modelnet40")
        with torch.device("meta"):
            model = PointCloudPerceiverForPointCloudClassification(config)
        # Worked out in docs/numbers.md.
        assert sum(p.numel() for p in model.parameters()) == 44_772_202
        assert config.input_channels == 387
        assert (config.num_cross_attends, config.num_blocks, config.num_self_attends_per_block) == (2, 2, 6)
        assert PointCloudPerceiverConfig(num_labels=40).to_dict() == config.to_dict()

    def test_positions_are_deepminds(self):
        """transformers' Fourier features, which are DeepMind's, of the same coordinates."""
        points = cloud()
        config = PointCloudPerceiverConfig.from_variant("tiny", num_frequency_bands=64, max_resolution=2240)
        actual = PointCloudPerceiverModel(config).inputs(points, None).streams[0].positions.dense()
        for example, features in zip(points, actual, strict=True):
            expected = generate_fourier_features(
                example[None], num_bands=64, max_resolution=(2240,) * 3, concat_pos=True, sine_only=False
            )
            torch.testing.assert_close(features, expected.squeeze(0), atol=1e-6, rtol=0)
        top = 1120 * torch.pi * points[..., 0].double()
        # In float32 an angle of up to 3,519 is rounded twice, and pi once: by 4.3e-4 at most.
        torch.testing.assert_close(actual[..., 3 + 63].double(), top.sin(), atol=4.3e-4, rtol=0)

    def test_encoder_equals_the_one_in_transformers(self):
        points = cloud(features=3)
        config = PointCloudPerceiverConfig.from_variant("tiny", num_features=3, num_cross_attends=1)
        ours = randomize(PointCloudPerceiverModel(config)).eval()
        encoder = ours.encoder
        reference = PerceiverModel(
            PerceiverConfig(
                num_latents=config.num_latents,
                d_latents=config.d_latents,
                d_model=config.input_channels,
                num_blocks=config.num_blocks,
                num_self_attends_per_block=config.num_self_attends_per_block,
                num_self_attention_heads=config.num_self_attention_heads,
                num_cross_attention_heads=1,
                cross_attention_shape_for_attention="kv",
                layer_norm_eps=config.layer_norm_eps,
                attention_probs_dropout_prob=0.0,
            )
        ).eval()
        reference.embeddings.latents.data.copy_(encoder.latents)
        pairs = [(reference.encoder.cross_attention, encoder.cross_attends[0])]
        pairs += [(reference.encoder.self_attends[i], encoder.blocks[0][i]) for i in range(2)]
        for theirs, layer in pairs:
            attention = theirs.attention.self
            modules = [
                (attention.layernorm1, layer.attention_norm),
                (attention.query, layer.attention.q_proj),
                (attention.key, layer.attention.k_proj),
                (attention.value, layer.attention.v_proj),
                (theirs.attention.output.dense, layer.attention.o_proj),
                (theirs.layernorm, layer.mlp_norm),
                (theirs.mlp.dense1, layer.mlp.fc1),
                (theirs.mlp.dense2, layer.mlp.fc2),
            ]
            if hasattr(layer.attention, "inputs_norm"):
                modules.append((attention.layernorm2, layer.attention.inputs_norm))
            for their_module, our_module in modules:
                their_module.load_state_dict(our_module.state_dict())
        positions = ours.inputs(points, None).streams[0].positions.dense()
        mask = torch.arange(100) < torch.tensor([[100], [60]])
        with torch.no_grad():
            expected = reference(inputs=torch.cat([points[..., 3:], positions], -1), attention_mask=mask)
            actual = ours(points, mask)
        torch.testing.assert_close(actual.last_hidden_state, expected.last_hidden_state, atol=2e-5, rtol=1e-5)


class TestProperties:
    @pytest.mark.parametrize("implementation", ["dense", "absorbed"])
    def test_the_order_of_the_points_does_not_matter(self, implementation):
        model = tiny_point_cloud_model(num_features=2, cross_attention_implementation=implementation)
        points = cloud(features=2)
        order = torch.randperm(100, generator=torch.Generator().manual_seed(0))
        torch.testing.assert_close(logits(model, points[:, order]), logits(model, points), atol=1e-4, rtol=1e-5)
        assert (logits(model, points.flip(-1)) - logits(model, points)).abs().max() > 1e-2

    @pytest.mark.parametrize("implementation", ["dense", "absorbed"])
    @pytest.mark.parametrize("filling", [7.0, float("nan"), float("inf")])
    def test_masked_points_do_not_matter(self, implementation, filling):
        model = tiny_point_cloud_model(num_features=1, cross_attention_implementation=implementation)
        points = cloud(points=2048, features=1)
        padded = torch.full((2, 4096, 4), filling)
        mask = torch.zeros(2, 4096, dtype=torch.long)
        padded[:, 1000:3048], mask[:, 1000:3048] = points, 1
        torch.testing.assert_close(logits(model, padded, mask), logits(model, points), atol=1e-4, rtol=1e-5)

    def test_clouds_of_many_sizes_in_one_batch(self):
        model, sizes = tiny_point_cloud_model(), [1, 17, 100]
        points = cloud(batch=3)
        mask = torch.arange(100) < torch.tensor(sizes)[:, None]
        together = logits(model, points, mask)
        for index, size in enumerate(sizes):
            alone = logits(model, points[index : index + 1, :size])
            torch.testing.assert_close(together[index], alone[0], atol=1e-4, rtol=1e-5)

    def test_implementations_agree_also_in_gradients(self):
        points, mask = cloud(features=1), torch.arange(100) < torch.tensor([[100], [40]])
        gradients = {}
        for implementation in ("dense", "absorbed"):
            model = tiny_point_cloud_model(num_features=1, cross_attention_implementation=implementation)
            model(points, mask, labels=torch.tensor([3, 4])).loss.backward()
            gradients[implementation] = {name: p.grad for name, p in model.named_parameters()}
        torch.testing.assert_close(gradients["dense"], gradients["absorbed"], atol=1e-4, rtol=1e-3)

    def test_a_hundred_thousand_points(self):
        """No array of latents x points x channels is made, or this would not end."""
        model, points = tiny_point_cloud_model(), cloud(batch=1, points=100_000)
        assert type(model.perceiver.encoder.prepare(model.perceiver.inputs(points, None), None, {})).__name__ == (
            "AbsorbedAttention"
        )
        assert logits(model, points).isfinite().all()

    def test_half_precision_keeps_the_positions(self):
        model = tiny_point_cloud_model(max_resolution=2240).to(torch.bfloat16)
        points = cloud()
        positions = model.perceiver.inputs(points, None, model.dtype).streams[0].positions.dense()
        assert positions.dtype == torch.float32
        expected = logits(tiny_point_cloud_model(max_resolution=2240), points)
        actual = logits(model, points)
        assert actual.dtype == torch.bfloat16
        torch.testing.assert_close(actual.float(), expected, atol=0.1, rtol=0.05)

    def test_a_cloud_without_points_reads_zeros(self):
        model = tiny_point_cloud_model().train()
        mask = torch.ones(2, 100)
        mask[1] = 0
        model(cloud(), mask, labels=torch.tensor([0, 1])).loss.backward()
        assert all(p.grad.isfinite().all() for p in model.parameters())
        torch.testing.assert_close(logits(model, cloud(), mask)[1], logits(model, cloud(seed=2), mask)[1])


class TestTransformersHabits:
    def test_save_and_load_by_auto_class(self, tmp_path):
        model, points = tiny_point_cloud_model(num_features=1), cloud(features=1)
        model.save_pretrained(tmp_path)
        assert isinstance(AutoConfig.from_pretrained(tmp_path), PointCloudPerceiverConfig)
        loaded = AutoModelForSequenceClassification.from_pretrained(tmp_path)
        assert isinstance(loaded, PointCloudPerceiverForPointCloudClassification)
        torch.testing.assert_close(logits(loaded, points), logits(model, points), atol=0, rtol=0)
        body = AutoModel.from_pretrained(tmp_path)
        assert isinstance(body, PointCloudPerceiverModel)
        torch.testing.assert_close(
            body(points).last_hidden_state, model.perceiver(points).last_hidden_state, atol=0, rtol=0
        )

    def test_attentions_and_hidden_states(self):
        model = tiny_point_cloud_model()
        mask = torch.arange(100) < torch.tensor([[100], [40]])
        with torch.no_grad():
            output = model(cloud(), mask, output_attentions=True, output_hidden_states=True)
        assert [tuple(a.shape) for a in output.cross_attentions] == [(2, 1, 8, 100)] * 2
        assert all(a[1, ..., 40:].abs().max() == 0 for a in output.cross_attentions)
        assert len(output.hidden_states) == model.config.num_hidden_layers + 1
        torch.testing.assert_close(output.logits, logits(model, cloud(), mask), atol=1e-4, rtol=1e-5)

    def test_gradient_checkpointing(self):
        inputs = {"point_values": cloud(), "labels": torch.tensor([1, 2])}
        assert_checkpointing_keeps_the_gradients(tiny_point_cloud_model(), inputs)

    @pytest.mark.integration
    def test_compiles_and_exports_in_one_graph(self):
        model = tiny_point_cloud_model(cross_attention_implementation="absorbed")
        points, mask = cloud(), torch.arange(100) < torch.tensor([[100], [40]])
        compiled = torch.compile(model, fullgraph=True, backend="eager")
        torch.testing.assert_close(logits(compiled, points, mask), logits(model, points, mask), atol=1e-5, rtol=1e-5)
        number = {1: torch.export.Dim("number", min=2, max=4096)}
        exported = torch.export.export(model, (), {"point_values": points}, dynamic_shapes={"point_values": number})
        more = cloud(points=333)
        torch.testing.assert_close(
            exported.module()(point_values=more).logits, logits(model, more), atol=1e-4, rtol=1e-5
        )

    def test_every_variant_builds(self):
        for name in POINT_CLOUD_VARIANTS:
            with torch.device("meta"):
                PointCloudPerceiverForPointCloudClassification(PointCloudPerceiverConfig.from_variant(name))


class TestErrors:
    @pytest.mark.parametrize(
        ("fields", "message"),
        [
            ({"num_points": 0}, r"`num_points` must be at least 1, got 0"),
            ({"num_features": -1}, r"`num_features` must be at least 0, got -1"),
            ({"max_resolution": None}, r"`max_resolution` must be given"),
            ({"max_resolution": [4, 4]}, r"one for each of 3 axes, got \[4, 4\]"),
            ({"cross_attention_implementation": "factored"}, r"points lie on none"),
            ({"num_point": 3}, r"no field `num_point` \(did you mean `num_points`\?\)"),
        ],
    )
    def test_configuration(self, fields, message):
        with pytest.raises(ValueError, match=message):
            PointCloudPerceiverConfig(**fields)

    def test_unknown_variant(self):
        with pytest.raises(ValueError, match="no variant `modelnet`; the variants are modelnet40"):
            PointCloudPerceiverConfig.from_variant("modelnet")

    @pytest.mark.parametrize("shape", [(2, 100, 2), (100, 3), (2, 0, 3), (2, 100, 4)])
    def test_shapes(self, shape):
        with pytest.raises(ValueError, match=r"3 \+ num_features=3\) with at least one point, got \("):
            tiny_point_cloud_model()(torch.zeros(shape))

    def test_mask(self):
        with pytest.raises(ValueError, match=r"attention_mask must be .* = \(2, 100\), got \(2, 99\)"):
            tiny_point_cloud_model()(cloud(), torch.ones(2, 99))
