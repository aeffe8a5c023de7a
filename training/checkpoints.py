"""Folders that are whole or not there: written beside their place and renamed, and checked before they are read."""

import json
import re
import shutil
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

# Where a folder is written first. What starts with an underscore is not pushed to the Hub.
UNFINISHED = "_unfinished"
CHECKPOINT = re.compile(r"checkpoint-(\d+)")
STATE = "trainer_state.json"
CHECKED = (".json", ".safetensors", ".pt", ".pth", ".bin")
WEIGHTS = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "adapter_model.safetensors")
# Bytes of the length that a safetensors file starts with.
LENGTH_BYTES = 8


@contextmanager
def written_beside(folder: Path) -> Iterator[Path]:
    """Gives a folder to write into, and moves its files into `folder` when all of them are complete."""
    unfinished = folder / UNFINISHED
    shutil.rmtree(unfinished, ignore_errors=True)  # of a run that was killed
    unfinished.mkdir(parents=True)
    try:
        yield unfinished
        for entry in unfinished.iterdir():
            target = folder / entry.name
            if target.is_dir() and not target.is_symlink():
                shutil.rmtree(target)
            entry.replace(target)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def damage(folder: Path) -> str | None:
    """Looks for a file of a saved model that is cut off or is not what its name says, without reading all of it.

    Returns:
        The file and what is wrong with it; `None` if nothing is.
    """
    for path in sorted(folder.iterdir()):
        if path.suffix not in CHECKED or path.name.startswith("."):
            continue
        try:
            reason = _damage_of_file(path) if path.is_file() else None
        except OSError as error:
            reason = f"cannot be read: {error}"
        if reason:
            return f"{path.name} {reason}"
    return None


def checkpoint_damage(folder: Path) -> str | None:
    """The same for a checkpoint of the Trainer, which also needs weights and the state of the training."""
    names = {path.name for path in folder.iterdir()}
    if not names & set(WEIGHTS):
        return "there is no model.safetensors, nor other weights"
    if STATE not in names:
        return f"there is no {STATE}"
    has_optimizer = "optimizer.pt" in names
    if has_optimizer != ("scheduler.pt" in names):
        return f"there is no {'scheduler.pt' if has_optimizer else 'optimizer.pt'}"
    if has_optimizer and not any(name.startswith("rng_state") for name in names):
        return "there is no rng_state.pth"
    return damage(folder)


def last_whole_checkpoint(folder: Path) -> tuple[Path | None, list[str]]:
    """Finds the newest checkpoint that is whole.

    Returns:
        The checkpoint, `None` if there is none; and newer ones, each with what is wrong with it.
    """
    found = {}
    for path in folder.iterdir() if folder.is_dir() else ():
        if (match := CHECKPOINT.fullmatch(path.name)) and path.is_dir():
            found[int(match[1])] = path
    passed_over: list[str] = []
    for step in sorted(found, reverse=True):
        reason = checkpoint_damage(found[step])
        if reason is None:
            return found[step], passed_over
        passed_over.append(f"{found[step]}: {reason}")
    return None, passed_over


def _damage_of_file(path: Path) -> str | None:
    size = path.stat().st_size
    if path.suffix == ".safetensors":
        return _damage_of_tensors(path, size)
    if path.suffix in (".pt", ".pth", ".bin"):
        with path.open("rb") as file:
            is_archive = file.read(2) == b"PK"
        # Files of old versions of PyTorch are no archives, and have no end that could be checked.
        return "is cut off" if size == 0 or (is_archive and not zipfile.is_zipfile(path)) else None
    if path.suffix == ".json":
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
        except (ValueError, RecursionError):
            return "is not JSON" if size else "is empty"
        shards = values.get("weight_map") if isinstance(values, dict) else None
        if path.name.endswith(".index.json") and isinstance(shards, dict):
            missing = sorted({str(name) for name in shards.values() if not (path.parent / str(name)).is_file()})
            return f"names {missing[0]}, which is missing" if missing else None
    return None


def _damage_of_tensors(path: Path, size: int) -> str | None:
    with path.open("rb") as file:
        length = int.from_bytes(file.read(LENGTH_BYTES), "little")
        if size < LENGTH_BYTES or length > size - LENGTH_BYTES:
            return "is cut off"
        try:
            header = json.loads(file.read(length))
            ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
        except (ValueError, RecursionError, AttributeError, TypeError, LookupError):
            return "is not a safetensors file"
    expected = LENGTH_BYTES + length + max(ends, default=0)
    return None if size == expected else f"has {size:,} bytes instead of {expected:,}"
