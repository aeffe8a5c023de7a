"""Image processor of the Perceiver on torchvision; the file beside it has the twin on Pillow."""

from typing import Any

import torch
from transformers.image_processing_backends import TorchvisionBackend
from transformers.image_utils import ChannelDimension, ImageInput

from .image_processing_base_image_perceiver import ImagePerceiverImageProcessorBase, to_array
from .image_processing_pil_image_perceiver import ImagePerceiverImageProcessorPil


class ImagePerceiverImageProcessor(ImagePerceiverImageProcessorBase, TorchvisionBackend):  # type: ignore[misc]
    """Turns images into `pixel_values` for `ImagePerceiverForImageClassification`.

    The defaults are the evaluation preprocessing of the paper's ImageNet models: crop the centre square whose side is
    224/256 of the short side, resize it bicubically to 224 x 224, scale to 0..1, normalise by ImageNet's mean and
    standard deviation. Source: `_decode_and_center_crop` and `_preprocess_image` in DeepMind's `perceiver/train/
    dataset.py`, in the form that transformers' `PerceiverImageProcessor` gave them; the pixels equal those of that
    class. DeepMind's differ in details: there the crop's offset is rounded up, here down, i.e. one pixel where the
    margin is odd; and there `tf.image.resize` does not low-pass when shrinking and keeps overshoots beyond 0..255.

    All arguments may be given here, and again at every call, for that call only.

    Args:
        do_convert_rgb (`bool`, defaults to `True`):
            Convert to three channels: gray is repeated, transparency composited onto white (as transformers 5.23
            does). With `False`, images keep their channels, palettes excepted, which always become RGB: mode "L" and
            2-D arrays give one channel, for which `image_mean` and `image_std` take one value.
        do_grayscale (`bool`, defaults to `False`):
            Convert RGB to one channel, by the luma of ITU-R 601, as PIL's mode "L" has it. For models of one channel:
            whatever the file, and the stock pipeline reads all files as RGB, the model gets what it was trained on.
        do_center_crop (`bool`, defaults to `True`):
            Crop the centre. Needs a `size` with height and width.
        crop_size (`dict` or `int`, defaults to `{"height": 256, "width": 256}`):
            What the whole short side counts as: the crop is `size / crop_size` of it.
        do_resize (`bool`, defaults to `True`):
            Resize, after the crop.
        size (`dict` or `int`, defaults to `{"height": 224, "width": 224}`):
            Size after resizing: `{"height", "width"}`, or, keeping the aspect ratio, `{"shortest_edge"}`,
            `{"longest_edge"}`, `{"shortest_edge", "longest_edge"}` or `{"max_height", "max_width"}`.
        resample (`PILImageResampling` or `int`, defaults to `BICUBIC`):
            Filter for resizing.
        do_rescale (`bool`, defaults to `True`), rescale_factor (`float`, defaults to 1/255):
            Multiply the pixels by the factor. Floats in 0..1 are multiplied as well, with a warning.
        do_normalize (`bool`, defaults to `True`):
            Subtract `image_mean`, then divide by `image_std`.
        image_mean, image_std (`float` or `list[float]`, default to ImageNet's, of the range 0..1):
            One value a channel, or one for all.
        do_pad (`bool`, defaults to `False`):
            Pad with zeros, after normalisation, at the bottom and the right, and return `pixel_mask`.
        pad_size (`dict` or `int`, *optional*):
            Height and width to pad to; the largest of the batch if not given.
        data_format (`"channels_first"` or `"channels_last"`, *optional*):
            Layout of `pixel_values`; channels first if not given.
        input_data_format (`"channels_first"` or `"channels_last"`, *optional*):
            Layout of arrays and tensors; inferred, for 1, 3 or 4 channels, if not given. PIL images need none.
        return_tensors (`"pt"` or `"np"`, *optional*):
            Stack the batch into one tensor; lists of images if not given.
        device, disable_grouping (*optional*):
            Where to compute, and whether to do so image by image, as for any processor of transformers.

    Calling it takes one image or a list of images (nested lists are flattened): PIL images of any mode, which are
    turned upright by their EXIF orientation, NumPy arrays and torch tensors (H, W), (H, W, C), (C, H, W) or with a
    batch dimension, paths, http(s) URLs, base64 strings. Integers are in 0..255. 16-bit gray images (PIL modes "I" and
    "I;16") and `uint16` arrays are in 0..65535 and are brought to 0..255 before all else. Floats may have any range.

    It returns a `BatchFeature` with
        - `pixel_values`, `float32` (B, C, H, W);
        - `pixel_mask`, `int64` (B, H, W), 1 = pixel of the image, 0 = padding; only with `do_pad`.

    Raises:
        TypeError: an input that is no image, or pixels that are no numbers.
        ValueError: an empty list or image, a file that cannot be decoded, a shape that is no image's, integers out of
            range, NaN or infinite floats, a number of channels other than that of `image_mean`, or images of
            different sizes that `return_tensors` asks to stack. The message names the image's index or file.

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
        """Brings one image to (C, H, W), `uint8` in 0..255 or finite `float32`, on `device` or where it was."""
        if device is None and isinstance(image, torch.Tensor):
            device = image.device
        return torch.tensor(to_array(image, do_convert_rgb, input_data_format), device=device)

    def to_dict(self) -> dict[str, Any]:
        """As in transformers, but a processor that is saved with its code names the code of both backends.

        `AutoImageProcessor` then loads the twin on Pillow where torchvision is missing. The import of the twin above
        is also what makes `save_pretrained` copy its file.
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
    """The form in which `auto_map` names a class: its file, without folders, and its name."""
    return f"{cls.__module__.rpartition('.')[-1]}.{cls.__name__}"


__all__ = ["ImagePerceiverImageProcessor"]
