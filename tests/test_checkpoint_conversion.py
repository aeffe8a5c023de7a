"""transformers' own Perceivers for images: the same answers from the same weights, and back again."""

import json

import pytest
import torch
import transformers
from torch import nn
from transformers import AutoModelForImageClassification, PerceiverConfig, PerceiverForMaskedLM

from perceivers import ImagePerceiverConfig, ImagePerceiverForImageClassification, ImagePerceiverModel
from perceivers.modeling.checkpoint_conversion import (
    config_from_transformers,
    config_to_transformers,
    key_from_transformers,
    key_to_transformers,
)
from tests.models import randomize

FOURIER = "PerceiverForImageClassificationFourier"
LEARNED = "PerceiverForImageClassificationLearned"
CONV = "PerceiverForImageClassificationConvProcessing"
CLASSES = (FOURIER, LEARNED, CONV)
WAYS = ("factored", "absorbed", "dense")


def small_config(**changes) -> PerceiverConfig:
    fields = {
        "num_latents": 8,
        "d_latents": 32,
        "num_blocks": 2,
        "num_self_attends_per_block": 2,
        "num_self_attention_heads": 4,
        "num_cross_attention_heads": 1,
        "attention_probs_dropout_prob": 0.0,
        "image_size": 14,
        "num_labels": 5,
    }
    return PerceiverConfig(**{**fields, **changes})


def random_reference(name: str, **changes) -> nn.Module:
    """One of transformers' classes, with no parameter or buffer left at its initial value."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = randomize(getattr(transformers, name)(small_config(**changes)))
    generator = torch.Generator().manual_seed(1)
    for buffer_name, buffer in model.named_buffers():
        if buffer_name.endswith(("running_mean", "running_var")):
            buffer.add_(torch.rand(buffer.shape, generator=generator))
    return model.eval()


def images(name: str) -> torch.Tensor:
    """Of the learned table's size; for the others, of an odd one."""
    size = (14, 14) if name == LEARNED else (23, 18)
    return torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(2))


@pytest.fixture(params=CLASSES, ids=["fourier", "learned", "conv"])
def name(request) -> str:
    return request.param


@pytest.fixture
def reference(name):
    return random_reference(name)


@pytest.fixture
def folder(reference, tmp_path):
    reference.save_pretrained(tmp_path / "theirs")
    return tmp_path / "theirs"


class TestParity:
    @pytest.mark.integration
    @pytest.mark.parametrize("way", WAYS)
    @pytest.mark.parametrize("attention", ["sdpa", "eager"])
    def test_logits_hidden_states_and_gradients(self, name, reference, folder, way, attention):
        if (name, way) == (LEARNED, "factored"):
            pytest.skip("learned positions are not separable")
        ours = ImagePerceiverForImageClassification.from_pretrained(
            folder, cross_attention_implementation=way, attn_implementation=attention
        )
        pixels, labels = images(name), torch.tensor([1, 4])
        expected = reference(pixel_values=pixels, labels=labels, output_hidden_states=True)
        actual = ours(pixels, labels=labels, output_hidden_states=True)
        torch.testing.assert_close(actual.logits, expected.logits, atol=1e-5, rtol=1e-5)
        # Theirs start behind the cross-attend, and come twice where two blocks meet.
        layers = [hidden for index, hidden in enumerate(expected.hidden_states) if index != 2]
        assert len(layers) == len(actual.hidden_states) - 1
        torch.testing.assert_close(list(actual.hidden_states[1:]), layers, atol=1e-5, rtol=1e-5)

        expected.loss.backward()
        actual.loss.backward()
        theirs = {key_from_transformers(key): p.grad for key, p in reference.named_parameters()}
        gradients = {key: p.grad for key, p in ours.named_parameters()}
        assert all(gradient.abs().max() > 0 for key, gradient in gradients.items() if "k_proj.bias" not in key)
        torch.testing.assert_close(gradients, theirs, atol=1e-5, rtol=1e-4)

    def test_training_mode_moves_the_batch_norm_alike(self, tmp_path):
        reference = random_reference(CONV)
        reference.save_pretrained(tmp_path)
        ours = ImagePerceiverForImageClassification.from_pretrained(tmp_path)
        pixels = images(CONV)
        torch.testing.assert_close(ours.train()(pixels).logits, reference.train()(pixels).logits, atol=1e-5, rtol=1e-5)
        buffers = {key_from_transformers(key): buffer for key, buffer in reference.named_buffers()}
        torch.testing.assert_close(dict(ours.named_buffers()), buffers)

    def test_learned_positions_interpolate_alike(self, tmp_path):
        reference = random_reference(LEARNED)
        reference.save_pretrained(tmp_path)
        ours = ImagePerceiverForImageClassification.from_pretrained(tmp_path)
        pixels = images(FOURIER)
        with torch.no_grad():
            expected = reference(pixel_values=pixels, interpolate_pos_encoding=True).logits
            torch.testing.assert_close(ours(pixels, interpolate_pos_encoding=True).logits, expected)

    @pytest.mark.parametrize(
        "changes",
        [
            {"cross_attention_shape_for_attention": "q", "num_cross_attention_heads": 4},
            {"v_channels": 32},
            {"qk_channels": 32, "num_cross_attention_heads": 2},
            {"cross_attention_widening_factor": 2, "self_attention_widening_factor": 3},
            {"hidden_act": "relu", "layer_norm_eps": 0.5},
        ],
        ids=lambda changes: ",".join(changes),
    )
    def test_fields(self, changes, tmp_path):
        reference = random_reference(FOURIER, **changes)
        reference.save_pretrained(tmp_path)
        ours = ImagePerceiverForImageClassification.from_pretrained(tmp_path)
        with torch.no_grad():
            expected = reference(pixel_values=images(FOURIER)).logits
            torch.testing.assert_close(ours(images(FOURIER)).logits, expected, atol=1e-5, rtol=1e-5)
        returned = config_to_transformers(ours.config)
        assert config_from_transformers(returned.to_dict()) == config_from_transformers(reference.config.to_dict())


@pytest.mark.slow
class TestPublishedSize:
    """224 x 224 pixels, 512 latents of 1024 channels, 48 layers; about a minute and 2 GB each."""

    def test_logits(self, name, tmp_path):
        published = {"num_latents": 512, "d_latents": 1024, "num_blocks": 8, "num_self_attends_per_block": 6}
        labels = {"num_labels": 1000, "num_self_attention_heads": 8, "image_size": 224}
        reference = random_reference(name, **published, **labels)
        reference.save_pretrained(tmp_path)
        pixels = torch.randn(1, 3, 224, 224, generator=torch.Generator().manual_seed(3))
        with torch.no_grad():
            expected = reference(pixel_values=pixels).logits
            del reference
            ours = ImagePerceiverForImageClassification.from_pretrained(tmp_path)
            for way in WAYS:
                if (name, way) != (LEARNED, "factored"):
                    ours.config.cross_attention_implementation = way
                    actual = ours(pixels).logits
                    print(f"{name} {way}: {(actual - expected).abs().max():.1e} of {expected.abs().max():.1f}")
                    torch.testing.assert_close(actual, expected, atol=1e-4, rtol=0)


class TestLoading:
    def test_every_key_finds_its_place(self, folder):
        _, info = ImagePerceiverForImageClassification.from_pretrained(folder, output_loading_info=True)
        assert not any(info.values()), info

    def test_keys_come_back(self, reference):
        for key in reference.state_dict():
            assert key_from_transformers(key) != key
            assert key_to_transformers(key_from_transformers(key)) == key
            assert key_from_transformers(key_from_transformers(key)) == key_from_transformers(key)

    def test_saved_again_it_is_in_our_layout(self, name, reference, folder, tmp_path):
        ours = ImagePerceiverForImageClassification.from_pretrained(folder)
        ours.save_pretrained(tmp_path / "ours")
        assert json.loads((tmp_path / "ours" / "config.json").read_text())["model_type"] == "image_perceiver"
        again, info = AutoModelForImageClassification.from_pretrained(tmp_path / "ours", output_loading_info=True)
        assert type(again) is ImagePerceiverForImageClassification and not any(info.values())
        assert again.config.to_dict() == {**ours.config.to_dict(), "_name_or_path": again.config.name_or_path}
        expected = {key_from_transformers(key): value for key, value in reference.state_dict().items()}
        assert again.state_dict().keys() == expected.keys()
        assert all(torch.equal(value, expected[key]) for key, value in again.state_dict().items())
        assert torch.equal(again(images(name)).logits, ours(images(name)).logits)

    def test_sharded_in_a_subfolder(self, name, reference, tmp_path):
        reference.save_pretrained(tmp_path / "inner", max_shard_size="20kB")
        assert len(list((tmp_path / "inner").glob("*.safetensors"))) > 2
        ours, info = ImagePerceiverForImageClassification.from_pretrained(
            tmp_path, subfolder="inner", output_loading_info=True
        )
        assert not any(info.values()), info
        with torch.no_grad():
            expected = reference(pixel_values=images(name)).logits
            torch.testing.assert_close(ours(images(name)).logits, expected, atol=1e-5, rtol=1e-5)

    def test_new_head_dtype_and_device_map(self, folder, reference):
        ours = ImagePerceiverForImageClassification.from_pretrained(
            folder, num_labels=3, ignore_mismatched_sizes=True, dtype=torch.bfloat16, device_map="cpu"
        )
        assert ours.classifier.weight.shape == (3, 32) and ours.config.num_labels == 3
        assert {p.dtype for p in ours.parameters()} == {torch.bfloat16}
        # As DeepMind's decoder, and unlike the mean head, the new classifier does not start from zero.
        assert ours.classifier.weight.abs().max() > 0
        latents = reference.perceiver.embeddings.latents.bfloat16()
        assert torch.equal(ours.perceiver.encoder.latents, latents)

    def test_body_alone(self, folder, name):
        body, info = ImagePerceiverModel.from_pretrained(folder, output_loading_info=True)
        assert not info["missing_keys"]
        whole = ImagePerceiverForImageClassification.from_pretrained(folder)
        pixels = images(name)
        assert torch.equal(body(pixels).last_hidden_state, whole.perceiver(pixels).last_hidden_state)

    def test_changes_and_labels_reach_the_configuration(self, tmp_path):
        labels = {index: f"cat {index}" for index in range(5)}
        random_reference(FOURIER, id2label=labels).save_pretrained(tmp_path)
        config = ImagePerceiverConfig.from_pretrained(tmp_path, attention_dropout=0.25)
        assert (config.attention_dropout, config.id2label) == (0.25, labels)
        assert config.model_type == "image_perceiver"

    @pytest.mark.parametrize(
        ("variant", "name"),
        [("deepmind-fourier", FOURIER), ("deepmind-learned", LEARNED), ("deepmind-conv", CONV)],
    )
    def test_variants_are_the_published_configurations(self, variant, name):
        # What DeepMind's `config.json` say, as far as it is not a default or of another modality.
        published = PerceiverConfig(
            num_latents=512,
            d_latents=1024,
            num_blocks=8,
            num_self_attends_per_block=6,
            num_cross_attention_heads=1,
            attention_probs_dropout_prob=0.0,
            image_size=224,
            num_labels=1000,
            architectures=[name],
        )
        variant_config = ImagePerceiverConfig.from_variant(variant)
        converted = ImagePerceiverConfig(**config_from_transformers(published.to_dict()))
        same = {"max_resolution": 224} if name == FOURIER else {}
        assert converted.to_dict() == {**variant_config.to_dict(), **same}


class TestWayBack:
    def test_same_logits_in_transformers_own_class(self, name, reference, folder, tmp_path):
        ours = ImagePerceiverForImageClassification.from_pretrained(folder)
        config = config_to_transformers(ours.config)
        assert config.architectures == [name]
        model = getattr(transformers, name)(config).eval()
        model.load_state_dict({key_to_transformers(key): value for key, value in ours.state_dict().items()})
        assert all(torch.equal(value, reference.state_dict()[key]) for key, value in model.state_dict().items())
        assert torch.equal(model(pixel_values=images(name)).logits, reference(pixel_values=images(name)).logits)

    @pytest.mark.parametrize(
        ("changes", "field"),
        [
            ({"head": "mean"}, "`head='query'`, got `head='mean'`"),
            ({"num_blocks": 2, "num_cross_attends": 2}, "num_cross_attends"),
            ({"num_blocks": 2, "share_blocks": False}, "share_blocks"),
            ({"layer_norm_eps": 1e-6}, "layer_norm_eps"),
            ({"num_channels": 1}, "num_channels"),
            ({"num_frequency_bands": 32}, "num_frequency_bands"),
            ({"image_size": 32}, r"`max_resolution=\(224, 224\)`, got `max_resolution=\(32, 32\)`"),
            ({"stem": "conv", "max_resolution": 56, "stem_channels": 32}, "stem_channels"),
            ({"stem": "conv1x1"}, "stem_channels"),
            ({"qk_channels": 64}, "qk_channels"),
        ],
    )
    def test_what_cannot_be_expressed_is_named(self, changes, field):
        config = ImagePerceiverConfig.from_variant("deepmind-fourier", **changes)
        with pytest.raises(ValueError, match=field):
            config_to_transformers(config)

    def test_learned_positions_of_a_rectangle(self):
        config = ImagePerceiverConfig.from_variant("deepmind-learned", image_size=[32, 16])
        with pytest.raises(ValueError, match=r"square `image_size`, got `image_size=\[32, 16\]`"):
            config_to_transformers(config)


class TestRefusals:
    def test_other_architectures(self, tmp_path):
        config = small_config(d_model=16, vocab_size=9, max_position_embeddings=4)
        PerceiverForMaskedLM(config).save_pretrained(tmp_path)
        with pytest.raises(ValueError, match=r"Only .*Fourier, .* can be converted, got PerceiverForMaskedLM"):
            ImagePerceiverForImageClassification.from_pretrained(tmp_path)

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"architectures": None}, "got a configuration without `architectures`"),
            ({"architectures": ["PerceiverForOpticalFlow"]}, "got PerceiverForOpticalFlow"),
            ({"use_query_residual": False}, "use_query_residual"),
            ({"qk_channels": 16}, "qk_channels=16 and d_latents=32"),
            ({"v_channels": 16}, "v_channels=16 and d_latents=32"),
            ({"cross_attention_shape_for_attention": "k"}, "cross_attention_shape_for_attention"),
        ],
    )
    def test_fields(self, changes, message):
        config = small_config(**{"architectures": [FOURIER], **changes})
        with pytest.raises(ValueError, match=message):
            config_from_transformers(config.to_dict())
