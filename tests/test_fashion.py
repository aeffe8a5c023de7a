"""The benchmark on Fashion-MNIST: what it reads, how it varies pictures, and what a permutation does to each model."""

import gzip

import pytest
import torch

from benchmarks import fashion
from benchmarks.fashion_models import IGNORE_ORDER, MODELS
from tests.models import randomize


def test_the_four_files_are_read(tmp_path):
    pixels, labels = bytes(range(256)) * 49, bytes(range(16))
    (tmp_path / "t10k-images-idx3-ubyte.gz").write_bytes(gzip.compress(bytes(16) + pixels))
    (tmp_path / "t10k-labels-idx1-ubyte.gz").write_bytes(gzip.compress(bytes(8) + labels))
    pictures = fashion.read(tmp_path, "t10k")
    assert pictures.pixels.shape == (16, 28, 28)
    assert pictures.pixels.flatten().tolist() == list(pixels)
    assert pictures.labels.tolist() == list(labels)


def test_pictures_are_shifted_and_mirrored():
    pixels = torch.randint(1, 256, (64, 28, 28), dtype=torch.uint8)
    varied = fashion.augmented(pixels, torch.Generator().manual_seed(0))
    assert varied.shape == pixels.shape
    inner = pixels[:, 2:-2, 2:-2]
    found = set()
    for picture, before in zip(varied, inner, strict=True):
        places = [
            (row, column, mirrored)
            for row in range(5)
            for column in range(5)
            for mirrored, candidate in enumerate((before, before.flip(1)))
            if torch.equal(picture[row : row + 24, column : column + 24], candidate)
        ]
        assert len(places) == 1
        found.add(places[0])
    assert {mirrored for _, _, mirrored in found} == {0, 1}
    assert {row for row, _, _ in found} == {column for _, column, _ in found} == set(range(5))


@pytest.mark.parametrize("name", MODELS)
def test_only_models_that_know_where_a_pixel_comes_from_lose_nothing_to_a_permutation(name):
    permutation = fashion.permutation_of("permuted")
    models = []
    for order in (None, permutation):
        torch.manual_seed(0)
        models.append(randomize(MODELS[name](permutation=order)).eval())
    natural, permuted = models
    pixels = torch.randint(0, 256, (3, 28, 28), dtype=torch.uint8)
    with torch.inference_mode():
        logits = natural(fashion.tensors(pixels, None))
        difference = (permuted(fashion.tensors(pixels, permutation)) - logits).abs().max()
    assert (difference < 1e-4) == (name in IGNORE_ORDER)
