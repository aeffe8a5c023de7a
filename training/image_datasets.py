"""Images: scikit-learn's handwritten digits, and how files and columns of images are told and read."""

from pathlib import Path

import numpy as np
from datasets import ClassLabel, Dataset, Features, Image
from PIL.Image import Image as PilImage
from sklearn.datasets import load_digits

from .labelled_datasets import InputKind

DIGITS = "digits"
IMAGE_SUFFIXES = frozenset(
    {".avif", ".bmp", ".gif", ".jp2", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tga", ".tif", ".tiff", ".webp"}
)


def digits() -> Dataset:
    """scikit-learn's handwritten digits: 1,797 gray images of 8 x 8 pixels, its 17 levels as 0..255."""
    bunch = load_digits()
    images = np.rint(bunch.images * (255 / 16)).astype(np.uint8)
    features = Features({"image": Image(), "label": ClassLabel(names=[str(n) for n in bunch.target_names])})
    return Dataset.from_dict({"image": list(images), "label": bunch.target}, features=features)


def read_image(path: str) -> PilImage:
    """An image of a file, as a data set's column gives it."""
    # From memory, as Pillow leaves a file open that it cannot read.
    return Image().decode_example({"path": None, "bytes": Path(path).read_bytes()})


IMAGES = InputKind(
    column="image",
    noun="images",
    feature=Image(),
    suffixes=IMAGE_SUFFIXES,
    holds=lambda feature: isinstance(feature, Image),
    read=read_image,
    built_in={DIGITS: {"train": digits}},
)
