"""What the containers of audio files say of their own length, and the links of a chained Ogg file.

Decoders estimate lengths, cut them to what there is, or stop at the first link. Only what a container states decides
here whether a file is whole.
"""

import io
import struct
from collections.abc import Iterator
from typing import Any, BinaryIO

# A file of empty chunks would be walked for minutes.
MAX_CHUNKS = 10_000
# How recorders and pipes write a length that they do not know yet.
UNKNOWN_LENGTHS = (range(1), range(0x7FFFF000, 0x80000100), range(0xFFFFFF00, 0x100000000))


class FileContent:
    """The content of an open file: sliced like `bytes`, and read where it is sliced."""

    def __init__(self, file: BinaryIO):
        self.file = file
        self.length = file.seek(0, io.SEEK_END)

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, part: slice) -> bytes:
        start, stop, _ = part.indices(self.length)
        self.file.seek(start)
        return self.file.read(max(0, stop - start))


Data = bytes | FileContent


class Part(io.RawIOBase):
    """A part of a file, as a file: a link of a chain, or a file with another header.

    Args:
        data: The file.
        start: Offset of the first byte of the part.
        stop: Offset after the last.
        header: What replaces the first bytes.
    """

    def __init__(self, data: Data, start: int = 0, stop: int | None = None, header: bytes = b""):
        self.data, self.start, self.header = data, start, header
        self.length = (len(data) if stop is None else stop) - start
        self.position = 0

    def seek(self, offset: int, whence: int = 0) -> int:
        """Moves to `offset`. Before the beginning, where broken files lead, it stays where it is, as in libsndfile.

        soundfile would print Python's error.
        """
        position = offset + (0, self.position, self.length)[whence]
        if position >= 0:
            self.position = position
        return self.position

    def tell(self) -> int:
        """The current position."""
        return self.position

    def readinto(self, buffer: Any) -> int:
        """Reads as many bytes as the buffer takes or are left, and returns how many."""
        end = min(self.position + len(buffer), self.length)
        content = self.data[self.start + self.position : self.start + end] if end > self.position else b""
        if self.position < len(self.header):
            content = (self.header[self.position : end] + content[len(self.header) - self.position :])[: len(content)]
        buffer[: len(content)] = content
        self.position += len(content)
        return len(content)


def unpack(layout: str, data: Data, start: int) -> tuple[Any, ...]:
    """Reads numbers at an offset; the layout is in the notation of `struct`."""
    return struct.unpack(layout, data[start : start + struct.calcsize(layout)])


def is_unknown(length: int) -> bool:
    """Whether a length of 32 bits means "until the end of the file"."""
    return any(length in lengths for lengths in UNKNOWN_LENGTHS)


def chunks(data: Data, start: int, layout: str, is_padded: bool = True) -> Iterator[tuple[bytes, int, int]]:
    """Yields the chunks of an IFF-like file: name, offset of the content, and its promised length.

    Args:
        data: The file.
        start: Offset of the first chunk.
        layout: Of a chunk's head, in the notation of `struct`: name, length.
        is_padded: Whether chunks start at even offsets.

    Raises:
        ValueError: There are too many.
    """
    head = struct.calcsize(layout)
    for _ in range(MAX_CHUNKS):
        if start + head > len(data):
            return
        name, length = unpack(layout, data, start)
        start += head
        yield name, start, length
        if length < 0:
            return
        start += length + (length % 2 if is_padded else 0)
    raise ValueError(f"it has more than {MAX_CHUNKS:,} chunks")


def is_chunk(data: Data, start: int) -> bool:
    """Whether a chunk that fits into a RIFF file starts here."""
    if start + 8 > len(data):
        return False
    name, length = unpack("<4sI", data, start)
    return name.isascii() and name.decode().isprintable() and start + 8 + length <= len(data)


def wav_header(data: Data) -> bytes:
    """Returns a header for a WAV file with the lengths of its content, where a recorder has left them open.

    Returns:
        What replaces the first bytes of the file; nothing if it states its lengths.

    Raises:
        ValueError: It has fewer bytes of sound than it promises.
    """
    true_length = None
    for name, start, length in chunks(data, 12, "<4sI"):
        if name == b"ds64" and length >= 16 and start + 16 <= len(data):
            true_length = unpack("<Q", data, start + 8)[0]
        if name != b"data":
            continue
        left = len(data) - start
        if data[:4] != b"RIFF" and length == 0xFFFFFFFF and true_length is not None:
            check_length(true_length, left)
        elif length > left and not is_unknown(length):
            check_length(length, left)
        elif is_unknown(length) and length != left and not (length == 0 and (not left or is_chunk(data, start))):
            riff = struct.pack("<I", min(len(data) - 8, 0xFFFFFFFE))
            return data[:4] + riff + data[8 : start - 4] + struct.pack("<I", min(left, 0xFFFFFFFE))
        break
    return b""


def check_length(promised: int, found: int) -> None:
    """Checks a promised number of bytes against those that are left in the file.

    Raises:
        ValueError: There are fewer.
    """
    if promised > found:
        raise ValueError(f"it promises {promised:,} bytes of sound and has {found:,}")


def check_container(data: Data) -> None:
    """Checks that AIFF, AU, CAF and MP3 files have as many bytes as they promise.

    Raises:
        ValueError: They have fewer.
    """
    if data[:4] == b"FORM":
        sounds = [found for found in chunks(data, 12, ">4sI") if found[0] == b"SSND"]
    elif data[:4] == b"caff":
        sounds = [found for found in chunks(data, 8, ">4sq", is_padded=False) if found[0] == b"data"]
    elif data[:4] == b".snd" and len(data) >= 12:
        start, length = unpack(">II", data, 4)
        sounds = [] if is_unknown(length) else [(b"data", start, length)]
    else:
        sounds = mp3_sound(data)
    for _, start, length in sounds[:1]:
        check_length(length, len(data) - start)


def mp3_sound(data: Data) -> list[tuple[bytes, int, int]]:
    """Returns the sound of an MP3 file as a chunk, if its first frame states its length."""
    start = 0
    if data[:3] == b"ID3" and len(data) >= 10:  # four times 7 bits
        start = 10 + sum(byte << shift for byte, shift in zip(data[6:10], (21, 14, 7, 0), strict=True))
    frame = data[start : start + 64]
    if len(frame) < 64 or frame[0] != 0xFF or frame[1] & 0xE0 != 0xE0:
        return []
    for tag in (b"Xing", b"Info"):
        at = start + frame.find(tag) if tag in frame else None
        if at is not None and at + 16 <= len(data):
            flags = unpack(">I", data, at + 4)[0]
            if flags & 2:
                length = unpack(">I", data, at + (12 if flags & 1 else 8))[0]
                return [(b"data", 0, length)]  # some encoders count the tags before the first frame, too
    return []


def ogg_links(data: Data) -> list[tuple[int, int]]:
    """Finds the links of an Ogg file, each a file by itself.

    Returns:
        Where each begins and ends.

    Raises:
        ValueError: Its last page is cut off.
    """
    starts, position, was_first = [0], 0, True
    while (page := data[position : position + 27 + 255])[:4] == b"OggS" and len(page) >= 27:
        is_first, segments = bool(page[5] & 2), page[26]
        lengths = page[27 : 27 + segments]
        end = position + 27 + segments + sum(lengths)
        if len(lengths) < segments or end > len(data):
            raise ValueError(f"its last page promises {end - position:,} bytes and has {len(data) - position:,}")
        if is_first and not was_first:
            starts.append(position)
        was_first, position = is_first, end
    return list(zip(starts, [*starts[1:], len(data)], strict=True))
