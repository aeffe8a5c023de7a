"""What examples are, whatever they are called and wherever they are: fingerprints of the content of their inputs."""

import filecmp
import hashlib
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa  # type: ignore[import-untyped]
from datasets import Dataset

from .remembered import remembered

# What is longer than this is read in this many blocks, evenly spread from the first byte to the last.
LONGEST_WHOLE = 1 << 16
NUM_BLOCKS = 8


class Fingerprint(NamedTuple):
    """Tells contents apart.

    Attributes:
        size: Number of bytes.
        digest: SHA-256 of this number in decimal and of the bytes; of long contents, of `NUM_BLOCKS` blocks of them.
            A block has `LONGEST_WHOLE / NUM_BLOCKS` bytes.
    """

    size: int
    digest: bytes

    def to_bytes(self) -> bytes:
        """Size and digest as bytes."""
        return self.size.to_bytes(8, "big") + self.digest

    @classmethod
    def from_bytes(cls, data: bytes | None) -> "Fingerprint | None":
        """The fingerprint that [`to_bytes`] turned into bytes; `None` for `None`."""
        return None if data is None else cls(int.from_bytes(data[:8], "big"), data[8:])


@dataclass(frozen=True)
class Content:
    """The input of an example as it is stored, undecoded.

    Attributes:
        path: Its file.
        data: Its bytes, if it has no file.
    """

    path: str | None = None
    data: memoryview | None = None

    @property
    def size(self) -> int | None:
        """Number of bytes; `None` if the file is not there."""
        if self.data is not None:
            return self.data.nbytes
        try:
            return os.path.getsize(self.path or "")
        except OSError:
            return None

    def fingerprint(self) -> Fingerprint | None:
        """Its fingerprint; `None` if the file cannot be read."""
        size = self.size
        if size is None:
            return None
        digest = hashlib.sha256(str(size).encode())
        if self.data is not None:
            for start, length in _blocks(size):
                digest.update(self.data[start : start + length])
            return Fingerprint(size, digest.digest())
        try:
            with open(self.path or "", "rb", buffering=0) as file:
                for start, length in _blocks(size):
                    file.seek(start)
                    digest.update(file.read(length))
        except OSError:
            return None
        return Fingerprint(size, digest.digest())

    def equals(self, other: "Content") -> bool:
        """Whether all bytes of both are the same."""
        if self.path is not None and other.path is not None:
            return os.path.samefile(self.path, other.path) or filecmp.cmp(self.path, other.path, shallow=False)
        return self.data == other.data


def _blocks(size: int) -> list[tuple[int, int]]:
    """The first byte and the length of each block."""
    if size <= LONGEST_WHOLE:
        return [(0, size)]
    length = LONGEST_WHOLE // NUM_BLOCKS
    return [((size - length) * number // (NUM_BLOCKS - 1), length) for number in range(NUM_BLOCKS)]


def fingerprints(contents: Sequence[Content]) -> list[Fingerprint | None]:
    """The fingerprints of many contents; those of files are remembered."""

    def of_file(path: str) -> bytes | None:
        found = Content(path=path).fingerprint()
        return None if found is None else found.to_bytes()

    paths = [content.path for content in contents if content.path is not None]
    of_files = iter(remembered("fingerprint", paths, of_file))
    return [
        content.fingerprint() if content.path is None else Fingerprint.from_bytes(next(of_files))
        for content in contents
    ]


def contents_of(dataset: Dataset, columns: Iterable[str]) -> list[Content]:
    """The inputs of the rows of a data set, which are neither decoded nor copied.

    Args:
        dataset: The data set.
        columns: Names of the columns of an input.
    """
    table = dataset.data
    parts = [[content for chunk in table.column(name).chunks for content in _of_chunk(chunk)] for name in columns]
    inputs = parts[0] if len(parts) == 1 else [_joined(row) for row in zip(*parts, strict=True)]
    # Selected rows are numbers into the table, which reading through the data set would copy out of it.
    indices = dataset._indices
    return inputs if indices is None else [inputs[row] for row in indices.column(0).to_numpy()]


def _of_chunk(values: Any) -> list[Content]:
    kind = values.type
    if isinstance(kind, pa.ExtensionType):
        return _of_chunk(values.storage)
    if pa.types.is_struct(kind) and {"bytes", "path"} <= {field.name for field in kind}:
        stored = _of_chunk(values.field("bytes"))
        files = _of_chunk(values.field("path").cast(pa.string()))
        return [file if content.data is None else content for content, file in zip(stored, files, strict=True)]
    if pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
        return [Content(data=memoryview(value.as_buffer()) if value.is_valid else None) for value in values]
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return [Content(path=path) for path in values.to_pylist()]
    return [Content(data=_numbers(values.slice(row, 1))) for row in range(len(values))]


def _numbers(values: Any) -> memoryview:
    """The bytes of the numbers of one row, in lists or not."""
    while pa.types.is_list(values.type) or pa.types.is_large_list(values.type) or _is_fixed_list(values.type):
        values = values.flatten()
    if pa.types.is_primitive(values.type):
        return memoryview(np.ascontiguousarray(values.to_numpy(zero_copy_only=False)).tobytes())
    return memoryview(str(values.to_pylist()).encode("utf-8", "surrogatepass"))


def _is_fixed_list(kind: Any) -> bool:
    return pa.types.is_fixed_size_list(kind)


def _joined(parts: Iterable[Content]) -> Content:
    """The content of an input in several columns."""
    found = [part.fingerprint() for part in parts]
    return Content(data=memoryview(b"".join(part.digest for part in found if part is not None)))
