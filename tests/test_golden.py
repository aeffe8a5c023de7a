"""Golden values: `python -m tests.make_golden` remakes them."""

import pytest
import torch
from safetensors.torch import load_file

from tests.make_golden import GOLDEN, GOLDEN_VALUES


@pytest.mark.parametrize("modality", GOLDEN_VALUES)
def test_model_gives_its_golden_values(modality):
    expected, actual = load_file(GOLDEN / f"{modality}.safetensors"), GOLDEN_VALUES[modality]()
    assert expected.keys() == actual.keys()
    for name, value in expected.items():
        torch.testing.assert_close(actual[name], value, atol=1e-9, rtol=1e-7, msg=lambda m, name=name: f"{name}: {m}")
