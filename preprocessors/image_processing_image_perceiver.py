"""Image processor of the Perceiver on torchvision; `image_processing_pil_image_perceiver.py` has its Pillow twin."""

from typing import Any

import torch
from transformers.image_processing_backends import TorchvisionBackend
from transformers.image_utils import ChannelDimension, ImageInput

from .image_processing_base_image_perceiver import (
    ImagePerceiverImageProcessorBase,
    ImagePerceiverImageProcessorKwargs,
    image_to_array,
)
from .image_processing_pil_image_perceiver import ImagePerceiverImageProcessorPil


class ImagePerceiverImageProcessor(ImagePerceiverImageProcessorBase, TorchvisionBackend):  # type: ignore[misc]
    """Turns images into `pixel_values` for `ImagePerceiverForImageClassification`.

    The defaults are the evaluation preprocessing of the paper's ImageNet models: crop the centre square whose side is
    224/256 of the short side, resize it bicubically to 224 x 224, scale to 0..1, normalise by ImageNet's mean and
    standard deviation. Source: `_decode_and_center_crop` and `_preprocess_image` in DeepMind's `perceiver/train/
    dataset.py`, in the form that transformers' `PerceiverImageProcessor` gave them; the pixels equal those of that
    class. DeepMind's code differs in two details: it rounds the crop's offset up, this class down, which is one pixel
    if the margin is odd; and its `tf.image.resize` does not low-pass when shrinking and keeps overshoots beyond
    0..255.

    A call takes one image or a list of images (nested lists are flattened): PIL images of any mode, which are turned
    upright by their EXIF orientation; NumPy arrays and torch tensors (H, W), (H, W, C), (C, H, W) or with a batch
    dimension; paths, http(s) URLs and base64 strings. Integers are in 0..255. 16-bit gray images (PIL modes "I" and
    "I;16") and `uint16` arrays are in 0..65535 and are scaled to 0..255 first. Floats may have any range.

    A call returns a `BatchFeature` with `pixel_values`, `float32` (B, C, H, W). With `do_pad` it also has
    `pixel_mask`, `int64` (B, H, W): 1 for pixels of the image, 0 for padding.

    All arguments may be given here, or in a call for that call only.

    Args:
        do_convert_rgb (`bool`, defaults to `True`):
            Convert to three channels: gray is repeated, transparency composited onto white (as in transformers 5.23).
            If `False`, images keep their channels, except palettes, which always become RGB: mode "L" and 2-D arrays
            give one channel, for which `image_mean` and `image_std` take one value.
        do_grayscale (`bool`, defaults to `False`):
            Convert RGB to one channel, by the luma of ITU-R 601, like PIL's mode "L". For models with one channel:
            transformers' pipeline reads every file as RGB, and this gives the model what it was trained on.
        do_center_crop (`bool`, defaults to `True`):
            Crop the centre. Needs a `size` with height and width.
        crop_size (`dict` or `int`, defaults to `{"height": 256, "width": 256}`):
            The size that the whole short side stands for: the crop is `size / crop_size` of it.
        do_resize (`bool`, defaults to `True`):
            Resize, after the crop.
        size (`dict` or `int`, defaults to `{"height": 224, "width": 224}`):
            Size after resizing: `{"height", "width"}` or, keeping the aspect ratio, `{"shortest_edge"}`,
            `{"longest_edge"}`, `{"shortest_edge", "longest_edge"}` or `{"max_height", "max_width"}`.
        resample (`PILImageResampling` or `int`, defaults to `BICUBIC`):
            Filter for resizing.
        do_rescale (`bool`, defaults to `True`):
            Multiply the pixels by `rescale_factor`. Floats in 0..1 are multiplied as well, with a warning.
        rescale_factor (`float`, defaults to 1/255):
            Factor for `do_rescale`.
        do_normalize (`bool`, defaults to `True`):
            Subtract `image_mean`, then divide by `image_std`.
        image_mean (`float` or `list[float]`, defaults to ImageNet's):
            In the range 0..1: one value per channel, or one for all.
        image_std (`float` or `list[float]`, defaults to ImageNet's):
            In the range 0..1: one value per channel, or one for all.
        do_pad (`bool`, defaults to `False`):
            Pad with zeros at the bottom and the right, after normalisation, and return `pixel_mask`.
        pad_size (`dict` or `int`, *optional*):
            Height and width to pad to; by default those of the largest image of the batch.
        data_format (`"channels_first"` or `"channels_last"`, *optional*):
            Layout of `pixel_values`; channels first by default.
        input_data_format (`"channels_first"` or `"channels_last"`, *optional*):
            Layout of arrays and tensors; inferred by default, for 1, 3 or 4 channels. PIL images need none.
        return_tensors (`"pt"` or `"np"`, *optional*):
            Stack the batch into one tensor; by default a list of images.
        device (`str` or `torch.device`, *optional*):
            Where to compute; by default where a tensor is, and on the CPU for other images.
        disable_grouping (`bool`, *optional*):
            Whether to process images one by one instead of grouped by size. By default, those on the CPU are grouped
            only if all have 8 bits and the same, small size.

    Raises:
        TypeError: An input is not an image, or its pixels are not numbers.
        ValueError: An empty list or image, a file that cannot be decoded, an unexpected shape, integers out of range,
            NaN or infinite floats, another number of channels than `image_mean` has, or images of different sizes that
            `return_tensors` would stack. The message gives the index of the image or the name of its file.

    Example:
        >>> processor = ImagePerceiverImageProcessor()
        >>> processor("cat.jpg", return_tensors="pt")["pixel_values"].shape
        torch.Size([1, 3, 224, 224])
    """

    def process_image(
        self,
        image: ImageInput,
        do_convert_rgb: bool | None = None,
        input_data_format: str | ChannelDimension | None = None,
        device: "str | torch.device | None" = None,
        **kwargs,
    ) -> torch.Tensor:
        """Converts one image to (C, H, W), `uint8` in 0..255 or finite `float32`, on `device` or where it was."""
        if device is None and isinstance(image, torch.Tensor):
            device = image.device
        return torch.tensor(image_to_array(image, do_convert_rgb, input_data_format), device=device)

    def to_dict(self) -> dict[str, Any]:
        """Serialises the processor; one that is saved with its code names the code of both backends.

        `AutoImageProcessor` then loads the Pillow twin where torchvision is missing. The import of the twin above also
        makes `save_pretrained` copy its file.
        """
        processor_dict = super().to_dict()
        auto_map = processor_dict.get("auto_map", {})
        if auto_map.get("AutoImageProcessor") == class_reference(ImagePerceiverImageProcessor):
            auto_map["AutoImageProcessor"] = {
                "torchvision": class_reference(ImagePerceiverImageProcessor),
                "pil": class_reference(ImagePerceiverImageProcessorPil),
            }
        return processor_dict


def class_reference(cls: type) -> str:
    """Returns the name of a class in an `auto_map`: its file, without folders, and its name."""
    return f"{cls.__module__.rpartition('.')[-1]}.{cls.__name__}"


__all__ = ["ImagePerceiverImageProcessor", "ImagePerceiverImageProcessorKwargs"]
