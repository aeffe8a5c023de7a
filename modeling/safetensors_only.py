"""Weights are data: they are read from safetensors files, which hold nothing but tensors."""

import contextlib
import stat
from os import PathLike
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from transformers import PreTrainedModel
from transformers.utils import CONFIG_NAME, WEIGHTS_INDEX_NAME, WEIGHTS_NAME
from transformers.utils.hub import has_file


class SafetensorsPreTrainedModel(PreTrainedModel):
    """A model whose `from_pretrained` refuses pickled weights and names weights that it could not read."""

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | PathLike | None,
        *model_args,
        use_safetensors: bool | None = True,
        **kwargs,
    ):
        """Loads a model as transformers does, but a pickle only with `use_safetensors=False`.

        Its types are then still restricted, see `weights_only`.

        Raises:
            OSError: If there is nothing to load, only a pickle, or a file that is truncated or corrupt.
        """
        try:
            return super().from_pretrained(
                pretrained_model_name_or_path, *model_args, use_safetensors=use_safetensors, **kwargs
            )
        except SafetensorError as error:
            raise OSError(
                f"The weights of {pretrained_model_name_or_path} are truncated or corrupt: {error}."
            ) from error
        except OSError as error:
            if use_safetensors and _has_pickle(pretrained_model_name_or_path, kwargs):
                raise OSError(
                    f"{pretrained_model_name_or_path} has its weights as a pickle only, which can run code when read; "
                    f"convert them to safetensors with `perceivers convert {pretrained_model_name_or_path} TARGET "
                    "--allow_pickle`, or pass `use_safetensors=False`."
                ) from error
            raise

    def save_pretrained(self, save_directory: str | PathLike, *args, **kwargs):
        """Saves a model as transformers does, its weights for the same readers as its configuration."""
        super().save_pretrained(save_directory, *args, **kwargs)
        share_weights(save_directory)


def share_weights(folder: str | PathLike) -> None:
    """Gives the weights in a folder the permissions of the configuration there.

    safetensors makes files that their owner alone can read, whatever the umask says.
    """
    with contextlib.suppress(OSError):  # no such file, or a file system without permissions
        mode = stat.S_IMODE(Path(folder, CONFIG_NAME).stat().st_mode)
        for path in Path(folder).glob("*.safetensors"):
            path.chmod(mode)


def _has_pickle(name: str | PathLike | None, kwargs: dict[str, Any]) -> bool:
    if name is None:
        return False
    where = {key: kwargs[key] for key in ("revision", "token", "local_files_only", "cache_dir") if key in kwargs}
    subfolder = kwargs.get("subfolder")
    prefix = f"{subfolder}/" if subfolder else ""
    with contextlib.suppress(OSError):  # only meant to explain an earlier error, which is the one to raise
        return any(has_file(name, prefix + file, **where) for file in (WEIGHTS_NAME, WEIGHTS_INDEX_NAME))
    return False


__all__ = ["SafetensorsPreTrainedModel"]
