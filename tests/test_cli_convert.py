"""`perceivers convert`, in both directions, and weights that are refused."""

import argparse
import json
import shutil

import pytest
import torch
import transformers
from safetensors.torch import load_file
from transformers import AutoImageProcessor, AutoModelForImageClassification, PerceiverImageProcessorPil

from perceivers import (
    ImagePerceiverForImageClassification,
    ImagePerceiverImageProcessor,
    ImagePerceiverImageProcessorPil,
)
from perceivers.cli import convert as command
from tests.models import tiny_image_model
from tests.test_checkpoint_conversion import CLASSES, CONV, images, random_reference


def convert(*words: object) -> int:
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    return command.run(parser.parse_args([str(word) for word in words]))


def weights(folder) -> dict[str, torch.Tensor]:
    return {k: v for file in folder.glob("*.safetensors") for k, v in load_file(file).items()}


@pytest.fixture
def theirs(tmp_path):
    """A folder in transformers' layout, its processor with fields that are not the defaults."""
    random_reference(CONV).save_pretrained(tmp_path / "theirs")
    PerceiverImageProcessorPil(size={"height": 20, "width": 24}, image_mean=[0.1, 0.2, 0.3]).save_pretrained(
        tmp_path / "theirs"
    )
    return tmp_path / "theirs"


class TestConvert:
    @pytest.mark.integration
    @pytest.mark.parametrize("name", CLASSES)
    def test_there_and_back_is_exact(self, name, tmp_path, capsys):
        reference = random_reference(name)
        reference.save_pretrained(tmp_path / "theirs")
        assert convert(tmp_path / "theirs", tmp_path / "ours") == 0
        assert convert(tmp_path / "ours", tmp_path / "back", "--to", "transformers") == 0
        first, last = weights(tmp_path / "theirs"), weights(tmp_path / "back")
        assert first.keys() == last.keys()
        assert all(torch.equal(first[key], last[key]) for key in first)
        assert name in capsys.readouterr().out

        loaded, info = getattr(transformers, name).from_pretrained(tmp_path / "back", output_loading_info=True)
        assert not any(info.values()), info
        ours = AutoModelForImageClassification.from_pretrained(tmp_path / "ours")
        assert type(ours) is ImagePerceiverForImageClassification
        with torch.no_grad():
            expected = reference(pixel_values=images(name)).logits
            assert torch.equal(loaded(pixel_values=images(name)).logits, expected)
            torch.testing.assert_close(ours(images(name)).logits, expected, atol=1e-5, rtol=1e-5)

    def test_the_processor_comes_along(self, theirs, tmp_path):
        convert(theirs, tmp_path / "ours")
        convert(tmp_path / "ours", tmp_path / "back", "--to", "transformers")
        ours = AutoImageProcessor.from_pretrained(tmp_path / "ours", backend="pil")
        back = AutoImageProcessor.from_pretrained(tmp_path / "back", backend="pil")
        assert type(ours) is ImagePerceiverImageProcessorPil and type(back) is PerceiverImageProcessorPil
        expected = PerceiverImageProcessorPil.from_pretrained(theirs).to_dict()
        assert expected.items() <= back.to_dict().items()
        expected["image_processor_type"] = ImagePerceiverImageProcessor.__name__
        assert expected.items() <= ours.to_dict().items()

    def test_nothing_is_overwritten(self, theirs, tmp_path):
        (tmp_path / "full").mkdir()
        with pytest.raises(FileExistsError, match="full exists; it is not overwritten"):
            convert(theirs, tmp_path / "full")

    def test_nothing_is_left_of_a_failure(self, tmp_path):
        tiny_image_model().save_pretrained(tmp_path / "ours")
        with pytest.raises(ValueError, match=r"`head='query'`, got `head='mean'`"):
            convert(tmp_path / "ours", tmp_path / "parent" / "theirs", "--to", "transformers")
        assert list((tmp_path / "parent").iterdir()) == []

    def test_the_data_type_stays(self, theirs, tmp_path):
        ImagePerceiverForImageClassification.from_pretrained(theirs, dtype=torch.bfloat16).save_pretrained(
            tmp_path / "half"
        )
        convert(tmp_path / "half", tmp_path / "back", "--to", "transformers")
        dtypes = {value.dtype for key, value in weights(tmp_path / "back").items() if "num_batches" not in key}
        assert dtypes == {torch.bfloat16}


class TestWeightsAreData:
    def pickle(self, folder):
        (weight_file,) = folder.glob("*.safetensors")
        torch.save(load_file(weight_file), folder / "pytorch_model.bin")
        weight_file.unlink()

    def test_a_pickle_is_refused_and_can_be_converted(self, theirs, tmp_path):
        expected = weights(theirs)
        self.pickle(theirs)
        for load in (ImagePerceiverForImageClassification.from_pretrained, lambda it: convert(it, tmp_path / "no")):
            with pytest.raises(OSError, match=r"as a pickle only.*`perceivers convert .* TARGET --allow_pickle`"):
                load(theirs)
        assert not (tmp_path / "no").exists()
        convert(theirs, tmp_path / "ours", "--allow_pickle")
        convert(tmp_path / "ours", tmp_path / "back", "--to", "transformers")
        assert all(torch.equal(value, expected[key]) for key, value in weights(tmp_path / "back").items())

    def test_a_pickle_of_our_own_layout_is_refused(self, tmp_path):
        tiny_image_model().save_pretrained(tmp_path)
        self.pickle(tmp_path)
        with pytest.raises(OSError, match="as a pickle only"):
            AutoModelForImageClassification.from_pretrained(tmp_path)

    def test_nothing_there_is_transformers_own_error(self, tmp_path):
        tiny_image_model().config.save_pretrained(tmp_path)
        with pytest.raises(OSError, match=r"no file named model.safetensors"):
            ImagePerceiverForImageClassification.from_pretrained(tmp_path)

    @pytest.mark.parametrize("damage", ["truncated", "header", "empty", "missing"])
    @pytest.mark.parametrize("shard", [0, -1])
    def test_a_damaged_shard_is_an_error(self, damage, shard, tmp_path):
        tiny_image_model().save_pretrained(tmp_path, max_shard_size="40kB")
        shards = sorted(tmp_path.glob("*.safetensors"))
        assert len(shards) > 2
        content = shards[shard].read_bytes()
        if damage == "missing":
            shards[shard].unlink()
        else:
            damaged = {"truncated": content[:-100], "header": b"\xff" * 8 + content[8:], "empty": b""}
            shards[shard].write_bytes(damaged[damage])
        with pytest.raises(OSError, match=shards[shard].name if damage == "missing" else "truncated or corrupt"):
            ImagePerceiverForImageClassification.from_pretrained(tmp_path)

    def test_a_shard_of_another_model_is_an_error(self, tmp_path):
        tiny_image_model().save_pretrained(tmp_path / "one", max_shard_size="40kB")
        tiny_image_model(d_latents=64).save_pretrained(tmp_path / "other", max_shard_size="40kB")
        name = sorted(path.name for path in (tmp_path / "one").glob("*.safetensors"))[1]
        shutil.copy(next((tmp_path / "other").glob("*-00002-*.safetensors")), tmp_path / "one" / name)
        index = json.loads((tmp_path / "one" / "model.safetensors.index.json").read_text())
        assert name in index["weight_map"].values()
        with pytest.raises(RuntimeError, match="mismatch"):
            ImagePerceiverForImageClassification.from_pretrained(tmp_path / "one")
