"""Golden values: `python -m tests.make_golden` remakes them."""

import torch
from safetensors.torch import load_file

from tests.make_golden import GOLDEN, golden_image_values


def test_image_model_gives_its_golden_values():
    expected, actual = load_file(GOLDEN / "image.safetensors"), golden_image_values()
    assert expected.keys() == actual.keys()
    for name, value in expected.items():
        torch.testing.assert_close(actual[name], value, atol=1e-9, rtol=1e-7, msg=lambda m, name=name: f"{name}: {m}")
