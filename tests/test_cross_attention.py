"""The three ways to read the inputs give the same answer, whatever the shapes, masks and precision."""

import math

import pytest
import torch
from accelerate import disk_offload
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from perceivers import ImagePerceiverConfig, ImagePerceiverForImageClassification, InputStream, PerceiverInputs
from perceivers.modeling.attention import CROSS_ATTENTION_IMPLEMENTATIONS
from perceivers.modeling.configuration_iterative_perceiver import StreamShape
from perceivers.modeling.modeling_iterative_perceiver import PerceiverCrossAttentionLayer
from perceivers.modeling.positions import DensePositions, fourier_grid
from tests.models import assert_checkpointing_keeps_the_gradients, randomize, tiny_image_model

FAST = ("absorbed", "factored")


class GridConfig(ImagePerceiverConfig):
    """A grid of any number of axes with content of any width; the numbers of an image do not matter here."""

    model_type = "test_grid"
    axes: int = 2

    @property
    def stream_shapes(self) -> tuple[StreamShape, ...]:
        return (StreamShape((1,), self.num_channels, (1,) * self.axes, self.num_frequency_bands),)

    def validate_architecture(self):
        pass


def case(sizes, *, batch=2, channels=3, latents=5, bands=4, heads=1, qk=None, v=None, mask=None, seed=0):
    """A cross-attend with no special values, in float64: the layer, latents, content, mask and configuration."""
    torch.manual_seed(seed)
    config = GridConfig(
        axes=len(sizes),
        num_channels=channels,
        num_latents=latents,
        d_latents=16,
        num_self_attention_heads=1,
        num_frequency_bands=bands,
        num_cross_attention_heads=heads,
        qk_channels=qk,
        v_channels=v,
        attn_implementation="eager",
    )
    layer = randomize(PerceiverCrossAttentionLayer.to_inputs(config).double(), seed)
    content = 2 * torch.randn(batch, math.prod(sizes), channels, dtype=torch.float64) + 0.5
    return config, layer, torch.randn(batch, latents, 16, dtype=torch.float64), content, mask


def run(implementation, sizes, problem, dtype=torch.float64):
    """The output and the gradients of every parameter, the latents and the content."""
    config, layer, latents, content, mask = problem
    layer = PerceiverCrossAttentionLayer.to_inputs(config).to(dtype)
    layer.load_state_dict(problem[1].state_dict())
    latents, content = (t.detach().to(dtype).requires_grad_() for t in (latents, content))
    dtype_of_positions = torch.promote_types(dtype, torch.float32)
    positions = fourier_grid(
        sizes, config.num_frequency_bands, sizes, dtype_of_positions, content.device,
        None if mask is None else mask.unflatten(1, sizes),
    )  # fmt: skip
    inputs = CROSS_ATTENTION_IMPLEMENTATIONS[implementation](
        PerceiverInputs(InputStream(content, positions, mask)), latents, config
    )
    output, _ = layer(latents, inputs)
    output, _ = layer(output, inputs)  # the weights are used a second time
    output.double().square().sum().backward()
    gradients = {name: p.grad.double() for name, p in layer.named_parameters()}
    # In exact arithmetic the keys' bias has no effect, so its gradient is zero, and relative errors mean nothing.
    assert gradients.pop("attention.k_proj.bias").abs().max() < 1e-2 * max(g.abs().max() for g in gradients.values())
    return output.detach().double(), {**gradients, "latents": latents.grad.double(), "content": content.grad.double()}


def error(actual, expected, least=0.0):
    """Greatest difference, relative to the greatest value, or to `least` where that is greater."""
    return ((actual - expected).abs().max() / expected.abs().max().clamp(min=max(least, 1e-30))).item()


def assert_agree(implementation, sizes, problem):
    expected, expected_gradients = run("dense", sizes, problem)
    for dtype, tolerance, gradient_tolerance in [(torch.float64, 1e-12, 1e-11), (torch.float32, 1e-5, 1e-4)]:
        actual, gradients = run(implementation, sizes, problem, dtype)
        assert error(actual, expected) < tolerance
        # Some gradients are zero in exact arithmetic: with one input, those of all that makes the scores.
        least = 1e-3 * max(gradient.abs().max() for gradient in expected_gradients.values())
        for name, gradient in gradients.items():
            assert error(gradient, expected_gradients[name], least) < gradient_tolerance, (name, dtype)


@pytest.mark.parametrize("implementation", FAST)
class TestAgreement:
    @pytest.mark.parametrize(
        ("sizes", "options"),
        [
            ((23, 17), {}),
            ((61,), {}),
            ((5, 7, 9), {}),
            ((1, 1), {}),
            ((1, 40), {}),
            ((13, 11), {"latents": 1}),
            ((13, 11), {"heads": 3, "channels": 9}),
            ((13, 11), {"heads": 2, "qk": 6, "v": 10}),
            ((13, 11), {"channels": 40}),
            ((13, 11), {"bands": 0, "channels": 5}),
        ],
        ids=str,
    )
    def test_output_and_gradients(self, implementation, sizes, options):
        assert_agree(implementation, sizes, case(sizes, **options))

    def test_masks(self, implementation):
        mask = torch.rand(4, 9 * 14, generator=torch.Generator().manual_seed(0)) < 0.5
        mask[1] = True
        mask[2] = torch.zeros(9, 14, dtype=torch.bool).index_fill(0, torch.arange(5), True).flatten()
        mask[3] = False
        assert_agree(implementation, (9, 14), case((9, 14), batch=4, mask=mask))

    @settings(max_examples=12, deadline=None, derandomize=True)
    @given(
        sizes=st.lists(st.integers(1, 9), min_size=1, max_size=3).map(tuple),
        batch=st.integers(1, 3),
        channels=st.integers(1, 5),
        latents=st.integers(1, 9),
        bands=st.integers(1, 5),
        masked=st.booleans(),
        seed=st.integers(0, 10**6),
    )
    def test_any_shape(self, implementation, sizes, batch, channels, latents, bands, masked, seed):
        generator = torch.Generator().manual_seed(seed)
        mask = torch.rand(batch, math.prod(sizes), generator=generator) < 0.6 if masked else None
        problem = case(sizes, batch=batch, channels=channels, latents=latents, bands=bands, mask=mask, seed=seed)
        expected, expected_gradients = run("dense", sizes, problem)
        actual, gradients = run(implementation, sizes, problem)
        assert error(actual, expected) < 1e-11
        for name, gradient in gradients.items():
            difference = (gradient - expected_gradients[name]).abs().max()
            assert difference < 1e-10 * (1 + expected_gradients[name].abs().max()), name

    def test_content_far_from_zero(self, implementation):
        """Pixels that nobody normalised: the variance must not drown in the square of the mean."""
        config, layer, latents, content, mask = case((13, 11))
        assert_agree(implementation, (13, 11), (config, layer, latents, content * 40 + 128, mask))

    def test_sharp_attention(self, implementation):
        """Scores in the hundreds, as one query in many has them after training."""
        config, layer, latents, content, mask = case((13, 11))
        with torch.no_grad():
            layer.attention.q_proj.weight.mul_(100)
        problem = (config, layer, latents, content, mask)
        expected, _ = run("dense", (13, 11), problem)
        actual, gradients = run(implementation, (13, 11), problem)
        assert error(actual, expected) < 1e-11
        assert all(gradient.isfinite().all() for gradient in gradients.values())

    @pytest.mark.integration
    def test_compiles_into_one_graph_and_trains(self, implementation):
        model = tiny_image_model(cross_attention_implementation=implementation, num_self_attends_per_block=1)
        pixels, labels = torch.randn(2, 3, 9, 11), torch.tensor([1, 2])
        compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
        results = []
        for function in (model, compiled):
            model.zero_grad()
            output = function(pixels, labels=labels)
            output.loss.backward()
            results.append((output.logits.detach(), {name: p.grad.clone() for name, p in model.named_parameters()}))
        torch.testing.assert_close(results[0], results[1], atol=1e-5, rtol=1e-4)

    def test_gradient_checkpointing(self, implementation):
        model = tiny_image_model(cross_attention_implementation=implementation, num_blocks=4, num_cross_attends=4)
        inputs = {"pixel_values": torch.ones(1, 3, 9, 11), "labels": torch.tensor([3])}
        assert_checkpointing_keeps_the_gradients(model, inputs)

    def test_autocast_stays_near_float32(self, implementation):
        model = tiny_image_model(cross_attention_implementation=implementation)
        pixels = torch.randn(2, 3, 16, 16)
        with torch.no_grad():
            expected = model(pixels).logits
            with torch.autocast("cpu", torch.bfloat16):
                actual = model(pixels).logits
        assert ((actual - expected).norm() / expected.norm()).item() < 0.05

    def test_every_parameter_gets_a_gradient(self, implementation):
        model = tiny_image_model(cross_attention_implementation=implementation, share_cross_attends="none").train()
        model(torch.randn(1, 3, 9, 9), labels=torch.tensor([3])).loss.backward()
        assert [name for name, p in model.named_parameters() if p.grad is None] == []

    def test_adapters_take_part(self, implementation):
        """A projection that somebody wrapped is called, not passed over."""
        peft = pytest.importorskip("peft")
        logits = {}
        for name in ("dense", implementation):
            model = tiny_image_model(cross_attention_implementation=name)
            lora = peft.LoraConfig(target_modules=["k_proj", "v_proj"], init_lora_weights=False)
            torch.manual_seed(0)
            adapted = peft.get_peft_model(model, lora).eval()
            with torch.no_grad():
                logits[name] = adapted(torch.linspace(-1, 1, 3 * 16 * 16).view(1, 3, 16, 16)).logits
        with torch.no_grad():
            plain = tiny_image_model()(torch.linspace(-1, 1, 3 * 16 * 16).view(1, 3, 16, 16)).logits
        torch.testing.assert_close(logits[implementation], logits["dense"], atol=1e-4, rtol=1e-4)
        assert (logits["dense"] - plain).abs().max() > 1e-2


@pytest.mark.integration
@pytest.mark.parametrize(
    ("implementation", "dtype"),
    [("absorbed", torch.bfloat16), ("factored", torch.bfloat16), ("factored", torch.float16)],
)
def test_half_precision_is_no_further_from_the_truth_than_dense(implementation, dtype):
    """The attention alone, whose rounding the layers around it would drown; the mean over many random problems."""

    def attend(name, problem, dtype):
        config, layer, latents, content, _ = problem
        layer = PerceiverCrossAttentionLayer.to_inputs(config).to(dtype)
        layer.load_state_dict(problem[1].state_dict())
        positions = fourier_grid((24, 20), 8, (24, 20), torch.promote_types(dtype, torch.float32), content.device)
        inputs = PerceiverInputs(InputStream(content.to(dtype), positions))
        with torch.no_grad():
            return layer.attention(latents.to(dtype), CROSS_ATTENTION_IMPLEMENTATIONS[name](inputs, latents, config))[
                0
            ].double()

    distances = {"dense": 0.0, implementation: 0.0}
    for seed in range(24):
        problem = case((24, 20), bands=8, latents=32, seed=seed)
        truth = attend("dense", problem, torch.float64)
        for name in distances:
            distances[name] += ((attend(name, problem, dtype) - truth).norm() / truth.norm()).item()
    assert distances[implementation] <= distances["dense"]


class TestStreams:
    @pytest.mark.parametrize("implementation", ["dense", "absorbed"])
    @pytest.mark.parametrize("has_mask", [False, True])
    def test_inputs_in_several_streams_are_one_array(self, implementation, has_mask):
        config, layer, latents, content, _ = case((6, 4))
        mask = torch.rand(content.shape[:2]) < 0.7 if has_mask else None
        positions = fourier_grid((6, 4), 4, (6, 4), torch.float64, content.device).dense()
        whole = InputStream(content, DensePositions(positions), mask)
        # Without a mask over all, one of the parts may have one all the same.
        masks = (None, torch.ones(2, 12, dtype=torch.bool)) if mask is None else mask.split(12, dim=1)
        parts = [
            InputStream(part, DensePositions(place), part_mask)
            for part, place, part_mask in zip(content.split(12, 1), positions.split(12, 1), masks, strict=True)
        ]
        attend = CROSS_ATTENTION_IMPLEMENTATIONS[implementation]
        expected, _ = layer(latents, attend(PerceiverInputs(whole), latents, config))
        actual, _ = layer(latents, attend(PerceiverInputs(*parts), latents, config))
        torch.testing.assert_close(actual, expected, atol=1e-12, rtol=1e-12)

    def test_auto_serves_several_streams(self):
        model = tiny_image_model()
        (stream,) = model.perceiver.inputs(torch.randn(1, 3, 32, 32), None).streams
        with torch.no_grad():
            twice = model.perceiver.encoder(PerceiverInputs(stream, stream))
            # Every input twice: the same weighted means.
            torch.testing.assert_close(twice, model.perceiver.encoder(PerceiverInputs(stream)), atol=1e-4, rtol=1e-4)

    def test_errors(self):
        content = torch.zeros(1, 5, 3)
        with pytest.raises(TypeError, match="takes one `InputStream` or more, got Tensor"):
            PerceiverInputs(content)
        with pytest.raises(TypeError, match="got none"):
            PerceiverInputs()
        streams = [InputStream(content, DensePositions(torch.zeros(1, 5, n))) for n in (2, 3)]
        with pytest.raises(ValueError, match=r"same number of channels, got \[5, 6\]"):
            PerceiverInputs(*streams)


class TestChoice:
    def prepare(self, model, inputs, **kwargs):
        encoder = model.perceiver.encoder
        return type(encoder.prepare(inputs, encoder.latents[None], kwargs)).__name__

    def test_auto_takes_the_cheapest_that_gives_what_was_asked(self):
        model = tiny_image_model()
        large = model.perceiver.inputs(torch.randn(1, 3, 32, 32), None)
        small = model.perceiver.inputs(torch.randn(1, 3, 3, 3), None)
        (stream,) = large.streams
        permuted = PerceiverInputs(InputStream(stream.content, DensePositions(stream.positions.dense())))
        assert self.prepare(model, large) == "FactoredAttention"
        assert self.prepare(model, permuted) == "AbsorbedAttention"
        assert self.prepare(model, small) == "DenseAttention"
        assert self.prepare(model, large, output_attentions=True) == "DenseAttention"
        assert self.prepare(tiny_image_model(attention_dropout=0.1).train(), large) == "DenseAttention"
        assert self.prepare(tiny_image_model(attention_dropout=0.1).eval(), large) == "FactoredAttention"
        assert self.prepare(tiny_image_model(num_cross_attention_heads=3), permuted) == "DenseAttention"

    def test_a_norm_that_was_replaced_is_called(self):
        model = tiny_image_model()
        attention = model.perceiver.encoder.cross_attends[0].attention
        attention.inputs_norm = nn.Sequential(attention.inputs_norm)
        assert self.prepare(model, model.perceiver.inputs(torch.randn(1, 3, 32, 32), None)) == "DenseAttention"

    @pytest.mark.parametrize("implementation", ["auto", "dense", *FAST])
    def test_weights_that_come_for_a_call(self, tmp_path, implementation):
        """Offloaded weights are on the disk until a module is called, and leave again."""
        model = tiny_image_model(cross_attention_implementation=implementation)
        pixels = torch.randn(2, 3, 32, 36)
        with torch.no_grad():
            expected = model(pixels).logits
            disk_offload(model, tmp_path, execution_device=torch.device("cpu"))
            torch.testing.assert_close(model(pixels).logits, expected)
        assert model.perceiver.encoder.cross_attends[0].attention.inputs_norm.weight.is_meta

    @pytest.mark.parametrize("implementation", FAST)
    def test_norms_may_stay_in_float32(self, implementation):
        """In a bfloat16 model, as some trainers have it, under autocast."""
        pixels, logits = torch.randn(2, 3, 32, 36), {}
        for name in ("dense", implementation):
            model = tiny_image_model(cross_attention_implementation=name).to(torch.bfloat16).train()
            for module in model.modules():
                if isinstance(module, nn.LayerNorm):
                    module.float()
            with torch.autocast("cpu", dtype=torch.bfloat16):
                output = model(pixels, labels=torch.tensor([0, 1]))
            output.loss.backward()
            assert all(p.grad.isfinite().all() for p in model.parameters())
            logits[name] = output.logits.float()
        error = (logits[implementation] - logits["dense"]).norm() / logits["dense"].norm()
        assert error < 0.05

    @pytest.mark.parametrize("implementation", FAST)
    def test_what_cannot_be_had_is_said(self, implementation):
        model = tiny_image_model(cross_attention_implementation=implementation)
        with pytest.raises(ValueError, match=f"{implementation}.*never has the attention weights"):
            model(torch.randn(1, 3, 32, 32), output_attentions=True)

    def test_factored_needs_a_grid(self):
        model = tiny_image_model(cross_attention_implementation="factored")
        (stream,) = model.perceiver.inputs(torch.randn(1, 3, 9, 9), None).streams
        scattered = InputStream(stream.content, DensePositions(stream.positions.dense()))
        for inputs in (PerceiverInputs(scattered), PerceiverInputs(stream, stream)):
            with pytest.raises(ValueError, match="needs inputs on a grid"):
                model.perceiver.encoder(inputs)

    def test_the_paper_model_agrees_at_a_small_size(self):
        """Every layer of the paper's model, all eight cross-attends, on an image of 40 x 56 pixels."""
        torch.manual_seed(0)
        config = ImagePerceiverConfig(num_latents=24, d_latents=64, num_self_attends_per_block=1, num_labels=7)
        model = randomize(ImagePerceiverForImageClassification(config)).eval()
        pixels, logits = torch.randn(1, 3, 40, 56), {}
        for implementation in CROSS_ATTENTION_IMPLEMENTATIONS:
            model.config.cross_attention_implementation = implementation
            with torch.no_grad():
                logits[implementation] = model(pixels).logits
        torch.testing.assert_close(logits["absorbed"], logits["dense"], atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(logits["factored"], logits["dense"], atol=1e-4, rtol=1e-4)


def test_what_is_kept_for_the_backward_pass():
    """Factored: the content, 3 channels an input. Absorbed: one array of the inputs' width. Neither: N x M scores."""
    config, layer, latents, content, _ = case((150, 150), batch=1, bands=16, latents=80)
    positions = fourier_grid((150, 150), 16, (150, 150), torch.float64, content.device)
    num_inputs, width = 150 * 150, config.input_channels
    assert width == 69
    for implementation, least, most in [
        ("dense", 4 * width + 80, 10**9),
        ("absorbed", width, width),
        ("factored", 3, 3),
    ]:
        kept: dict[int, int] = {}

        def pack(tensor, kept=kept):
            storage = tensor.untyped_storage()
            kept[storage.data_ptr()] = storage.nbytes() // 8
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            inputs = CROSS_ATTENTION_IMPLEMENTATIONS[implementation](
                PerceiverInputs(InputStream(content, positions)), latents, config
            )
            layer(latents.requires_grad_(), inputs)
        channels = [size // num_inputs for size in kept.values() if size >= 2 * num_inputs]
        assert least <= sum(channels) <= most, (implementation, channels)
