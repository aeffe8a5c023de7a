"""FLOPs against the papers' tables, and against what PyTorch counts while the model runs."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from perceivers import ImagePerceiverConfig, ImagePerceiverForImageClassification
from perceivers.modeling.flops import cross_attend_flops, forward_flops, head_flops, self_attend_flops

PIXELS = 224 * 224


@pytest.mark.parametrize(
    ("variant", "billions"),
    [
        # arXiv 2103.03206, table 6, which prints one decimal, as does table 5; the second is the formulas' own.
        ("imagenet-fourier-1-cross-attend", "404.35"),
        ("imagenet-fourier-2-cross-attends", "447.61"),
        ("imagenet-fourier-4-cross-attends", "534.14"),
        ("imagenet-fourier", "707.20"),
        # Table 7: sharing weights changes nothing.
        ("imagenet-fourier-unshared", "707.20"),
        # Table 5, without latent transformer.
        ("imagenet-4-cross-attends-only", "173.06"),
        ("imagenet-8-cross-attends-only", "346.12"),
        ("imagenet-12-cross-attends-only", "519.18"),
    ],
)
def test_papers_tables(variant, billions):
    config = ImagePerceiverConfig.from_variant(variant)
    assert f"{forward_flops(config, PIXELS) / 1e9:.2f}" == billions


def test_perceiver_io_image_net():
    """arXiv 2107.14795, table 7."""
    assert f"{forward_flops(ImagePerceiverConfig.from_variant('deepmind-fourier'), PIXELS) / 1e9:.0f}" == "407"


@pytest.mark.parametrize(("num_inputs", "billions"), [(13_024, "52.3"), (17_344, "60.7")])
def test_perceiver_io_audio_set(num_inputs, billions):
    """arXiv 2107.14795, table 10: 487 channels per input, 12 self-attends, one cross-attend.

    The inputs are audio and video; an image's configuration stands in for their channels.
    """
    config = ImagePerceiverConfig(
        num_channels=485,
        num_frequency_bands=0,
        d_latents=512,
        num_blocks=1,
        num_self_attends_per_block=12,
        num_cross_attends=1,
    )
    assert config.input_channels == 487
    assert f"{forward_flops(config, num_inputs) / 1e9:.1f}" == billions


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"num_blocks": 4, "num_cross_attends": 2, "num_self_attends_per_block": 3},
        {"qk_channels": 24, "v_channels": 40, "num_cross_attention_heads": 2},
        {"self_attention_widening_factor": 4, "cross_attention_widening_factor": 2},
        {"num_self_attends_per_block": 0, "num_latents": 5},
        {"head": "query"},
    ],
)
def test_matrix_products_are_those_that_run(changes):
    """PyTorch counts matrix products alone, so the operations of the softmax are added to its count."""
    config = ImagePerceiverConfig.from_variant(
        "tiny", share_cross_attends="none", cross_attention_implementation="dense", **changes
    )
    config._attn_implementation = "eager"
    model = ImagePerceiverForImageClassification(config).eval()
    height, width = 6, 9
    with FlopCounterMode(display=False) as counter:
        model(torch.randn(1, 3, height, width))

    num_inputs, latents = height * width, config.num_latents
    cross_scores = config.num_cross_attends * config.num_cross_attention_heads * latents * num_inputs
    num_self_attends = config.num_blocks * config.num_self_attends_per_block
    self_scores = num_self_attends * config.num_self_attention_heads * latents**2
    head_scores = latents if config.head == "query" else 0
    scores = cross_scores + self_scores + head_scores
    assert forward_flops(config, num_inputs) == counter.get_total_flops() + 3 * scores


def test_forward_is_the_sum_of_its_layers():
    config = ImagePerceiverConfig.from_variant("tiny", num_blocks=6, num_cross_attends=3)
    layers = 3 * cross_attend_flops(config, 100) + 12 * self_attend_flops(config)
    assert forward_flops(config, 100) == layers + head_flops(config)


def test_no_inputs_are_refused():
    with pytest.raises(ValueError, match="`num_inputs` must be at least 1, got 0"):
        forward_flops(ImagePerceiverConfig.from_variant("tiny"), 0)
