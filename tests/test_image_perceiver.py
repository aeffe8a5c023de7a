"""The image model: the paper's numbers, its properties, and what transformers expects of a model."""

import copy

import pytest
import torch
from huggingface_hub.errors import StrictDataclassFieldValidationError
from torch._dynamo.testing import CompileCounterWithBackend
from torch.export import Dim
from torch.func import functional_call, grad, vmap
from transformers import AutoConfig, AutoModel, AutoModelForImageClassification, PerceiverConfig
from transformers.models.perceiver.modeling_perceiver import PerceiverImagePreprocessor, PerceiverModel

from perceivers import (
    IMAGE_VARIANTS,
    ImagePerceiverConfig,
    ImagePerceiverForImageClassification,
    ImagePerceiverModel,
    InputStream,
    PerceiverInputs,
)
from perceivers.modeling.attention import DenseAttention, split_heads
from perceivers.modeling.positions import DensePositions
from tests.models import assert_checkpointing_keeps_the_gradients, randomize, tiny_image_model


@pytest.fixture
def pixels():
    return torch.randn(2, 3, 16, 20, generator=torch.Generator().manual_seed(1))


def logits(model, *args, **kwargs):
    with torch.no_grad():
        return model(*args, **kwargs).logits


class TestPaper:
    @pytest.mark.parametrize(
        ("variant", "parameters"),
        [
            # By hand from the layers' formulas, see docs/numbers.md; the paper prints them rounded.
            ("imagenet-fourier", 44_912_254),  # table 7: 44.9M
            ("imagenet-fourier-1-cross-attend", 42_135_859),  # table 6: 42.1M
            ("imagenet-fourier-2-cross-attends", 44_912_254),  # table 6: 44.9M
            ("imagenet-fourier-4-cross-attends", 44_912_254),  # table 6: 44.9M
            ("imagenet-fourier-unshared", 326_241_856),  # table 7: 326.2M
            ("imagenet-4-cross-attends-only", 12_654_868),  # table 5: 12.7M
            ("imagenet-8-cross-attends-only", 23_760_448),  # table 5: 23.8M
            ("imagenet-12-cross-attends-only", 34_866_028),  # table 5: 34.9M
        ],
    )
    def test_parameter_count(self, variant, parameters):
        with torch.device("meta"):
            model = ImagePerceiverForImageClassification(ImagePerceiverConfig.from_variant(variant))
        assert sum(p.numel() for p in model.parameters()) == parameters

    def test_default_is_the_paper(self):
        assert ImagePerceiverConfig().input_channels == 261
        assert (
            ImagePerceiverConfig(num_labels=1000).to_dict()
            == ImagePerceiverConfig.from_variant("imagenet-fourier").to_dict()
        )

    def test_initialisation_is_deepminds(self):
        torch.manual_seed(0)
        model = ImagePerceiverForImageClassification(
            ImagePerceiverConfig(num_blocks=1, num_cross_attends=1, num_self_attends_per_block=1)
        )
        encoder = model.perceiver.encoder
        # A normal distribution of std 0.02 that is cut at 2 std has a std of 0.8796 * 0.02.
        assert encoder.latents.std().item() == pytest.approx(0.0176, rel=0.01)
        assert encoder.latents.abs().max().item() <= 0.04
        for layer, fan_in in [
            (encoder.cross_attends[0].attention.k_proj, 261),
            (encoder.cross_attends[0].attention.q_proj, 1024),
            (encoder.blocks[0][0].mlp.fc1, 1024),
        ]:
            assert layer.weight.std().item() == pytest.approx(fan_in**-0.5, rel=0.01)
            assert layer.weight.abs().max().item() <= 2 * fan_in**-0.5 / 0.8796
            assert layer.bias.abs().max().item() == 0
        assert model.classifier.weight.abs().max().item() == 0

    def test_schedule_interleaves_and_shares(self, pixels):
        model = tiny_image_model(num_blocks=6, num_cross_attends=3, num_self_attends_per_block=1)
        encoder, applied = model.perceiver.encoder, []
        for name, module in encoder.named_modules():
            if name in ("cross_attends.0", "cross_attends.1", "blocks.0.0"):
                module.register_forward_hook(lambda *_, name=name: applied.append(name))
        logits(model, pixels)
        first, later, block = "cross_attends.0", "cross_attends.1", "blocks.0.0"
        assert applied == [first, block, block, later, block, block, later, block, block]

    @pytest.mark.parametrize(
        ("sharing", "blocks", "cross_sets", "block_sets"),
        [("none", False, 4, 4), ("none", True, 4, 1), ("after_first", True, 2, 1), ("all", True, 1, 1)],
    )
    def test_sharing(self, sharing, blocks, cross_sets, block_sets):
        config = ImagePerceiverConfig.from_variant(
            "tiny", num_blocks=4, num_cross_attends=4, share_cross_attends=sharing, share_blocks=blocks
        )
        encoder = ImagePerceiverModel(config).encoder
        assert (len(encoder.cross_attends), len(encoder.blocks)) == (cross_sets, block_sets)

    def test_shared_weights_equal_unshared_copies(self, pixels):
        """Weight tying is only a saving: four separate sets that hold the same numbers give the same answer."""
        shared = tiny_image_model(num_blocks=4, num_cross_attends=4)
        unshared = tiny_image_model(num_blocks=4, num_cross_attends=4, share_cross_attends="none", share_blocks=False)
        source, target = shared.perceiver.encoder, unshared.perceiver.encoder
        unshared.classifier.load_state_dict(shared.classifier.state_dict())
        target.latents.data.copy_(source.latents)
        for index in range(4):
            target.cross_attends[index].load_state_dict(source.cross_attends[min(index, 1)].state_dict())
            target.blocks[index].load_state_dict(source.blocks[0].state_dict())
        torch.testing.assert_close(logits(shared, pixels), logits(unshared, pixels))


class TestParity:
    def test_encoder_equals_the_one_in_transformers(self, pixels):
        """transformers' own Perceiver is DeepMind's encoder with one cross-attend, see docs/numbers.md."""
        config = ImagePerceiverConfig.from_variant("tiny", num_cross_attends=1, image_size=[16, 20])
        ours = randomize(ImagePerceiverModel(config)).eval()
        reference_config = PerceiverConfig(
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
        fourier = {"num_bands": 4, "max_resolution": (16, 20), "sine_only": False, "concat_pos": True}
        preprocessor = PerceiverImagePreprocessor(
            reference_config,
            prep_type="pixels",
            spatial_downsample=1,
            position_encoding_type="fourier",
            fourier_position_encoding_kwargs=fourier,
        )
        reference = PerceiverModel(reference_config, input_preprocessor=preprocessor).eval()
        encoder = ours.encoder
        pairs = [(reference.encoder.cross_attention, encoder.cross_attends[0], True)]
        pairs += [(reference.encoder.self_attends[i], encoder.blocks[0][i], False) for i in range(2)]
        reference.embeddings.latents.data.copy_(encoder.latents)
        for theirs, layer, is_cross in pairs:
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
            if is_cross:
                modules.append((attention.layernorm2, layer.attention.inputs_norm))
            for their_module, our_module in modules:
                their_module.load_state_dict(our_module.state_dict())
        with torch.no_grad():
            expected = reference(inputs=pixels, output_hidden_states=True, output_attentions=True)
            actual = ours(pixels, output_hidden_states=True, output_attentions=True)
        torch.testing.assert_close(actual.last_hidden_state, expected.last_hidden_state, atol=2e-5, rtol=1e-5)
        torch.testing.assert_close(actual.cross_attentions[0], expected.cross_attentions[0], atol=1e-5, rtol=1e-5)


class TestProperties:
    def test_permuting_inputs_with_their_positions_changes_nothing(self, pixels):
        model = tiny_image_model()
        (stream,) = model.perceiver.inputs(pixels, None).streams
        order = torch.randperm(16 * 20, generator=torch.Generator().manual_seed(0))
        permuted = InputStream(stream.content[:, order], DensePositions(stream.positions.dense()[:, order]))
        with torch.no_grad():
            latents = model.perceiver.encoder(PerceiverInputs(permuted))
        torch.testing.assert_close(
            model.classifier(model.pooler(latents)), logits(model, pixels), atol=1e-4, rtol=1e-5
        )

    def test_permuting_content_without_positions_changes_the_answer(self, pixels):
        model = tiny_image_model()
        assert (logits(model, pixels.flip(-1)) - logits(model, pixels)).abs().max() > 1e-2

    @pytest.mark.parametrize("corner", [(0, 0), (3, 5)], ids=["padded below", "padded around"])
    def test_padding_with_a_mask_changes_nothing(self, pixels, corner):
        model, (top, left) = tiny_image_model(), corner
        padded = torch.full((2, 3, 24, 30), 7.0)
        mask = torch.zeros(2, 24, 30, dtype=torch.long)
        padded[:, :, top : top + 16, left : left + 20] = pixels
        mask[:, top : top + 16, left : left + 20] = 1
        torch.testing.assert_close(logits(model, padded, mask), logits(model, pixels), atol=1e-4, rtol=1e-5)
        assert (logits(model, padded) - logits(model, pixels)).abs().max() > 1e-2

    def test_images_of_many_sizes_in_one_batch(self):
        model, sizes = tiny_image_model(), [(5, 9), (12, 7), (1, 1)]
        images = [torch.randn(3, *size) for size in sizes]
        batch, mask = torch.zeros(3, 3, 12, 9), torch.zeros(3, 12, 9, dtype=torch.bool)
        for index, (image, (height, width)) in enumerate(zip(images, sizes, strict=True)):
            batch[index, :, :height, :width] = image
            mask[index, :height, :width] = True
        together = logits(model, batch, mask)
        for index, image in enumerate(images):
            torch.testing.assert_close(together[index], logits(model, image[None])[0], atol=1e-4, rtol=1e-5)

    def test_batch_of_one_equals_batch_of_many(self, pixels):
        model = tiny_image_model()
        torch.testing.assert_close(logits(model, pixels[1:]), logits(model, pixels)[1:], atol=1e-5, rtol=1e-5)

    @pytest.mark.parametrize("implementation", ["eager", "sdpa"])
    def test_an_image_without_pixels_reads_zeros(self, pixels, implementation):
        model = tiny_image_model()
        model.set_attn_implementation(implementation)
        mask = torch.ones(2, 16, 20, dtype=torch.bool)
        mask[1] = False
        model.train()
        output = model(pixels, mask, labels=torch.tensor([0, 1]))
        output.loss.backward()
        assert all(p.grad.isfinite().all() for p in model.parameters())
        torch.testing.assert_close(output.logits[0], logits(model, pixels)[0], atol=1e-5, rtol=1e-5)
        other = logits(model, torch.randn_like(pixels), mask)
        torch.testing.assert_close(output.logits[1].detach(), other[1])

    def test_any_size_keeps_the_frequencies_of_the_configured_one(self):
        """Every second pixel of a fine grid stands where a pixel of a coarse grid stands, with the same features."""
        model = tiny_image_model(image_size=9)
        coarse, fine = (model.perceiver.inputs(torch.zeros(1, 3, n, n), None).streams[0].positions for n in (9, 17))
        torch.testing.assert_close(fine.tables[0][:, ::2], coarse.tables[0], atol=1e-5, rtol=1e-5)


class TestTransformersHabits:
    @pytest.mark.parametrize("implementation", ["sdpa", pytest.param("flex_attention", marks=pytest.mark.integration)])
    def test_attention_implementations_agree(self, pixels, implementation):
        # flex attention on a CPU needs 16 keys or more: it gives NaN below.
        model = tiny_image_model(num_latents=32)
        model.set_attn_implementation("eager")
        expected = logits(model, pixels)
        model.set_attn_implementation(implementation)
        torch.testing.assert_close(logits(model, pixels), expected, atol=1e-4, rtol=1e-5)

    def test_sdpa_gradients_agree_with_eager(self, pixels):
        gradients = {}
        for implementation in ("eager", "sdpa"):
            model = tiny_image_model()
            model.set_attn_implementation(implementation)
            model(pixels, labels=torch.tensor([3, 4])).loss.backward()
            gradients[implementation] = {name: p.grad for name, p in model.named_parameters()}
        torch.testing.assert_close(gradients["eager"], gradients["sdpa"], atol=1e-4, rtol=1e-3)

    def test_wide_heads_go_around_flash_attention(self, pixels, monkeypatch):
        """Heads that flash attention cannot take are sent to sdpa, with its mask."""
        model = tiny_image_model()
        attention = model.perceiver.encoder.cross_attends[0].attention
        inputs = model.perceiver.inputs(pixels, torch.ones(2, 16, 20, dtype=torch.bool))
        latents = model.perceiver.encoder.latents.expand(2, -1, -1)
        dense = DenseAttention(inputs, latents, model.config)
        query = split_heads(attention.q_proj(latents), attention.num_heads)
        expected, _, projected = dense(attention, query)
        dense.attention_mask = torch.ones(2, 320, dtype=torch.long)  # the mask that flash attention gets
        monkeypatch.setattr(model.config, "_attn_implementation_internal", "flash_attention_2")
        torch.testing.assert_close(dense(attention, query, projected)[0], expected)

    @pytest.mark.parametrize("implementation", ["eager", "sdpa"])
    def test_attentions_and_hidden_states(self, pixels, implementation):
        model = tiny_image_model()
        model.set_attn_implementation(implementation)
        with torch.no_grad():
            output = model(pixels, output_attentions=True, output_hidden_states=True)
        assert [tuple(a.shape) for a in output.cross_attentions] == [(2, 1, 8, 320)] * 2
        assert [tuple(a.shape) for a in output.attentions] == [(2, 4, 8, 8)] * 4
        assert [tuple(h.shape) for h in output.hidden_states] == [(2, 8, 32)] * (model.config.num_hidden_layers + 1)
        for weights in (*output.attentions, *output.cross_attentions):
            torch.testing.assert_close(weights.sum(-1), torch.ones_like(weights[..., 0]))
        torch.testing.assert_close(output.hidden_states[0][0], model.perceiver.encoder.latents)
        torch.testing.assert_close(
            model.classifier(output.hidden_states[-1].mean(1)), logits(model, pixels), atol=1e-5, rtol=1e-5
        )

    def test_masked_pixels_get_no_attention(self, pixels):
        mask = torch.ones(2, 16, 20, dtype=torch.bool)
        mask[:, :, 13:] = False
        output = tiny_image_model()(pixels, mask, output_attentions=True)
        assert output.cross_attentions[0].unflatten(-1, (16, 20))[..., 13:].abs().max() == 0

    def test_return_tuple(self, pixels):
        model = tiny_image_model()
        loss, scores = model(pixels, labels=torch.tensor([0, 1]), return_dict=False)
        assert loss.dim() == 0 and scores.shape == (2, 10)
        (latents,) = model.perceiver(pixels, return_dict=False)
        assert latents.shape == (2, 8, 32)

    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
    def test_half_precision(self, pixels, dtype):
        model = tiny_image_model()
        expected = logits(model, pixels)
        actual = logits(model.to(dtype), pixels)  # pixels come in float32, as a processor makes them
        assert actual.dtype == dtype
        assert (actual.float() - expected).norm() / expected.norm() < 0.05

    @pytest.mark.integration
    def test_compiles_into_one_graph(self, pixels):
        model = tiny_image_model(num_self_attends_per_block=1)
        compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
        mask = torch.ones(2, 16, 20, dtype=torch.bool)
        mask[:, 12:] = False
        torch.testing.assert_close(compiled(pixels).logits, model(pixels).logits)
        torch.testing.assert_close(compiled(pixels, mask).logits, model(pixels, mask).logits, atol=1e-5, rtol=1e-5)
        compiled(pixels, labels=torch.tensor([0, 1])).loss.backward()
        assert all(p.grad is not None for p in model.parameters())

    @pytest.mark.integration
    def test_one_graph_serves_any_size(self):
        model = tiny_image_model(num_self_attends_per_block=1)
        counter = CompileCounterWithBackend("aot_eager")
        compiled = torch.compile(model, fullgraph=True, backend=counter)
        for height, width in [(32, 36), (40, 48), (33, 61), (57, 34)]:
            pixels = torch.randn(2, 3, height, width)
            torch.testing.assert_close(logits(compiled, pixels), logits(model, pixels))
        assert counter.frame_count <= 2  # the second size tells that sizes vary, if an earlier run did not

    @pytest.mark.integration
    def test_exports_for_any_size(self):
        model = tiny_image_model(num_self_attends_per_block=1)
        sizes = {0: Dim("batch", max=16), 2: Dim("height", min=32, max=512), 3: Dim("width", min=32, max=512)}
        exported = torch.export.export(
            model, (torch.randn(2, 3, 40, 36),), dynamic_shapes={"pixel_values": sizes}, strict=False
        ).module()
        pixels = torch.randn(3, 3, 50, 64)
        torch.testing.assert_close(logits(exported, pixels), logits(model, pixels))

    def test_gradient_checkpointing_gives_the_same_gradients(self, pixels):
        model = tiny_image_model(num_blocks=4, num_cross_attends=4)
        assert_checkpointing_keeps_the_gradients(model, {"pixel_values": pixels, "labels": torch.tensor([3, 4])})

    def test_every_parameter_gets_a_gradient(self, pixels):
        model = tiny_image_model(num_blocks=2, share_blocks=False, share_cross_attends="none").train()
        model(pixels, labels=torch.tensor([3, 4])).loss.backward()
        assert [name for name, p in model.named_parameters() if p.grad is None] == []

    def test_save_and_load_is_exact(self, pixels, tmp_path):
        model = tiny_image_model()
        model.save_pretrained(tmp_path)
        assert (tmp_path / "model.safetensors").exists()
        for auto_class in (AutoModelForImageClassification, ImagePerceiverForImageClassification):
            loaded = auto_class.from_pretrained(tmp_path)
            assert type(loaded) is ImagePerceiverForImageClassification
            assert torch.equal(logits(loaded, pixels), logits(model, pixels))
        body = AutoModel.from_pretrained(tmp_path)
        assert torch.equal(body(pixels).last_hidden_state, model.perceiver(pixels).last_hidden_state)

    def test_load_in_half_precision_and_on_meta_first(self, pixels, tmp_path):
        model = tiny_image_model()
        model.save_pretrained(tmp_path)
        half = AutoModelForImageClassification.from_pretrained(tmp_path, dtype=torch.bfloat16, device_map="cpu")
        expected = logits(copy.deepcopy(model).to(torch.bfloat16), pixels)
        assert torch.equal(logits(half, pixels), expected)

    def test_new_head_for_other_labels(self, pixels, tmp_path):
        model = tiny_image_model()
        model.save_pretrained(tmp_path)
        other = AutoModelForImageClassification.from_pretrained(tmp_path, num_labels=3, ignore_mismatched_sizes=True)
        assert other.classifier.weight.shape == (3, 32) and other.classifier.weight.abs().max() == 0
        assert torch.equal(other.perceiver(pixels).last_hidden_state, model.perceiver(pixels).last_hidden_state)

    def test_positions_do_not_leak_from_inference_mode_into_training(self, pixels):
        model = tiny_image_model(image_size=31)
        image = torch.randn(1, 3, 31, 29)
        with torch.inference_mode():
            model(image)
        model.train()(image, labels=torch.tensor([0])).loss.backward()

    def test_every_variant_builds(self):
        for name in IMAGE_VARIANTS:
            with torch.device("meta"):
                ImagePerceiverForImageClassification(ImagePerceiverConfig.from_variant(name))


class TestErrors:
    @pytest.mark.parametrize(
        ("fields", "message"),
        [
            ({"num_cross_attends": 3}, r"`num_cross_attends` must divide `num_blocks`.*=3 and num_blocks=8"),
            ({"num_latent": 3}, r"no field `num_latent` \(did you mean `num_latents`\?\)"),
            ({"num_self_attention_heads": 7}, r"num_self_attention_heads=7 and d_latents=1024"),
            ({"num_cross_attention_heads": 2}, r"num_cross_attention_heads=2 and qk_channels=261"),
            ({"num_latents": 0}, r"`num_latents` must be at least 1, got 0"),
            ({"max_resolution": [1, 2, 3]}, r"one for each of 2 axes, got \[1, 2, 3\]"),
            ({"image_size": [4, 0]}, r"`image_size` .* got \[4, 0\]"),
            ({"attention_dropout": 1.0}, r"`attention_dropout` must be in \[0, 1\), got 1.0"),
        ],
    )
    def test_configuration(self, fields, message):
        with pytest.raises(ValueError, match=message):
            ImagePerceiverConfig(**fields)

    def test_configuration_types(self):
        with pytest.raises(StrictDataclassFieldValidationError, match=r"'num_latents' expected int, got str"):
            ImagePerceiverConfig(num_latents="many")

    def test_unknown_fields_of_a_saved_configuration_are_kept(self, tmp_path):
        ImagePerceiverConfig(num_latents=7).save_pretrained(tmp_path)
        path = tmp_path / "config.json"
        path.write_text(path.read_text().replace('"num_latents": 7', '"num_latents": 7, "colour": "red"'))
        config = AutoConfig.from_pretrained(tmp_path)
        assert (config.num_latents, config.colour) == (7, "red")

    def test_unknown_variant(self):
        with pytest.raises(ValueError, match="no variant `imagenet`; the variants are imagenet-fourier"):
            ImagePerceiverConfig.from_variant("imagenet")

    def test_shapes(self, pixels):
        model = tiny_image_model()
        with pytest.raises(ValueError, match=r"num_channels=3, height, width\), got \(2, 1, 16, 20\)"):
            model(pixels[:, :1])
        with pytest.raises(ValueError, match=r"got \(3, 16, 20\)"):
            model(pixels[0])
        with pytest.raises(ValueError, match=r"pixel_mask must be .* = \(2, 16, 20\), got \(2, 20, 16\)"):
            model(pixels, torch.ones(2, 20, 16))

    def test_labels(self, pixels):
        model = tiny_image_model()
        with pytest.raises(ValueError, match=r"Labels must be in \[0, 9\], .* num_labels=10: .*10"):
            model(pixels, labels=torch.tensor([1, 10]))
        many = tiny_image_model(problem_type="multi_label_classification")
        with pytest.raises(ValueError, match=r"logits' shape \(2, 10\), got \(2,\)"):
            many(pixels, labels=torch.tensor([1, 2]))


class TestLoss:
    @pytest.mark.parametrize(
        "problem_type", ["single_label_classification", "multi_label_classification", "regression"]
    )
    def test_parts_of_a_batch_add_up(self, problem_type):
        """With `num_items_in_batch` the gradients of uneven parts add up to those of the whole batch."""
        model = tiny_image_model(problem_type=problem_type)
        pixels = torch.randn(5, 3, 8, 8)
        single = problem_type == "single_label_classification"
        labels = torch.randint(0, 10, (5,)) if single else torch.randint(0, 2, (5, 10)).float()
        model(pixels, labels=labels).loss.backward()
        whole = {name: p.grad.clone() for name, p in model.named_parameters()}
        model.zero_grad()
        for part in (slice(0, 3), slice(3, 5)):
            model(pixels[part], labels=labels[part], num_items_in_batch=labels.numel()).loss.backward()
        torch.testing.assert_close({n: p.grad for n, p in model.named_parameters()}, whole, atol=1e-5, rtol=1e-4)

    @pytest.mark.filterwarnings("ignore:There is a performance drop")  # PyTorch's fused attention under vmap
    @pytest.mark.parametrize("implementation", ["dense", "absorbed", "factored"])
    def test_gradients_of_single_examples(self, pixels, implementation):
        """`torch.func` gives the gradients of every example, whose mean is that of the batch."""
        model = tiny_image_model(cross_attention_implementation=implementation)
        labels = torch.tensor([3, 4])

        def loss(parameters, image, label):
            return functional_call(model, parameters, (image[None],), {"labels": label[None]}).loss

        parameters = {name: p.detach() for name, p in model.named_parameters()}
        gradients = vmap(grad(loss), in_dims=(None, 0, 0))(parameters, pixels, labels)
        model(pixels, labels=labels).loss.backward()
        means = {name: gradient.mean(0) for name, gradient in gradients.items()}
        torch.testing.assert_close(means, {n: p.grad for n, p in model.named_parameters()}, atol=1e-4, rtol=1e-4)

    def test_integer_labels_for_many_labels(self, pixels):
        model = tiny_image_model(problem_type="multi_label_classification")
        labels = torch.randint(0, 2, (2, 10))
        torch.testing.assert_close(model(pixels, labels=labels).loss, model(pixels, labels=labels.float()).loss)

    def test_problem_type_is_inferred(self, pixels):
        for labels, expected in [
            (torch.tensor([1, 2]), "single_label_classification"),
            (torch.rand(2, 10).round(), "multi_label_classification"),
        ]:
            model = tiny_image_model()
            model(pixels, labels=labels)
            assert model.config.problem_type == expected
