"""What the containers of audio files say of their own length, and the links of a chained Ogg file.

Decoders estimate lengths, cut them to what there is, or stop at the first link. Only what a container states decides
here whether a file is whole.
"""

import struct
from collections.abc import Iterator

# How recorders and pipes write a length that they do not know yet.
UNKNOWN_LENGTHS = (range(1), range(0x7FFFF000, 0x80000100), range(0xFFFFFF00, 0x100000000))


def is_unknown(length: int) -> bool:
    """Whether a length of 32 bits means "until the end of the file"."""
    return any(length in lengths for lengths in UNKNOWN_LENGTHS)


def chunks(data: bytes, start: int, layout: str, is_padded: bool = True) -> Iterator[tuple[bytes, int, int]]:
    """Yields the chunks of an IFF-like file: name, offset of the content, and its promised length.

    Args:
        data: The file.
        start: Offset of the first chunk.
        layout: Of a chunk's head, in the notation of `struct`: name, length.
        is_padded: Whether chunks start at even offsets.
    """
    head = struct.calcsize(layout)
    while start + head <= len(data):
        name, length = struct.unpack_from(layout, data, start)
        start += head
        yield name, start, length
        if length < 0:
            return
        start += length + (length % 2 if is_padded else 0)


def is_chunk(data: bytes, start: int) -> bool:
    """Whether a chunk that fits into a RIFF file starts here."""
    if start + 8 > len(data):
        return False
    name, length = struct.unpack_from("<4sI", data, start)
    return name.isascii() and name.decode().isprintable() and start + 8 + length <= len(data)


def wav_with_its_length(data: bytes) -> bytes:
    """Returns a WAV file whose lengths are those of its content, where a recorder has left them open.

    Raises:
        ValueError: It has fewer bytes of sound than it promises.
    """
    true_length = None
    for name, start, length in chunks(data, 12, "<4sI"):
        if name == b"ds64" and length >= 16 and start + 16 <= len(data):
            true_length = struct.unpack_from("<Q", data, start + 8)[0]
        if name != b"data":
            continue
        left = len(data) - start
        if data[:4] != b"RIFF" and length == 0xFFFFFFFF and true_length is not None:
            check_length(true_length, left)
        elif length > left and not is_unknown(length):
            check_length(length, left)
        elif is_unknown(length) and length != left and not (length == 0 and (not left or is_chunk(data, start))):
            riff = struct.pack("<I", min(len(data) - 8, 0xFFFFFFFE))
            return data[:4] + riff + data[8 : start - 4] + struct.pack("<I", min(left, 0xFFFFFFFE)) + data[start:]
        break
    return data


def check_length(promised: int, found: int) -> None:
    """Checks a promised number of bytes against those that are left in the file.

    Raises:
        ValueError: There are fewer.
    """
    if promised > found:
        raise ValueError(f"it promises {promised:,} bytes of sound and has {found:,}")


def check_container(data: bytes) -> None:
    """Checks that AIFF, AU, CAF and MP3 files have as many bytes as they promise.

    Raises:
        ValueError: They have fewer.
    """
    if data[:4] == b"FORM":
        sounds = [found for found in chunks(data, 12, ">4sI") if found[0] == b"SSND"]
    elif data[:4] == b"caff":
        sounds = [found for found in chunks(data, 8, ">4sq", is_padded=False) if found[0] == b"data"]
    elif data[:4] == b".snd" and len(data) >= 12:
        start, length = struct.unpack_from(">II", data, 4)
        sounds = [] if is_unknown(length) else [(b"data", start, length)]
    else:
        sounds = mp3_sound(data)
    for _, start, length in sounds[:1]:
        check_length(length, len(data) - start)


def mp3_sound(data: bytes) -> list[tuple[bytes, int, int]]:
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
            flags = struct.unpack_from(">I", data, at + 4)[0]
            if flags & 2:
                length = struct.unpack_from(">I", data, at + (12 if flags & 1 else 8))[0]
                return [(b"data", 0, length)]  # some encoders count the tags before the first frame, too
    return []


def ogg_links(data: bytes) -> list[bytes]:
    """Splits an Ogg file into its links, each a file by itself.

    Raises:
        ValueError: Its last page is cut off.
    """
    starts, position, was_first = [], 0, False
    while data[position : position + 4] == b"OggS" and position + 27 <= len(data):
        is_first, segments = bool(data[position + 5] & 2), data[position + 26]
        lengths = data[position + 27 : position + 27 + segments]
        end = position + 27 + segments + sum(lengths)
        if len(lengths) < segments or end > len(data):
            raise ValueError(f"its last page promises {end - position:,} bytes and has {len(data) - position:,}")
        if is_first and not was_first:
            starts.append(position)
        was_first, position = is_first, end
    if len(starts) < 2:
        return [data]
    return [data[start:end] for start, end in zip(starts, [*starts[1:], len(data)], strict=True)]
