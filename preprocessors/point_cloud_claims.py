"""Holds what the header of a point-cloud file claims against the bytes that the file has.

The libraries that read these files believe a header: they reserve memory for the points that it promises, or return
fewer without a word. A claim that the file cannot keep is refused here, before they see it.
"""

import io
import json
import math
import re
import struct
import zipfile
from collections.abc import Callable

import numpy as np

from .reading import check_memory, import_optional

# Points that one byte of a LAZ file may hold. A cloud of equal points reaches 140.
MAX_POINTS_PER_BYTE = 1000
# LZF repeats at most 264 bytes in 3.
MAX_LZF_RATIO = 88
SMALL = 2**20
LASZIP_RECORD = 22204
# Of the LAZ formats whose points are compressed in layers, one per attribute: bytes of a point, and layers.
LAYERS = {6: (30, 9), 7: (36, 10), 8: (38, 11), 9: (59, 10), 10: (67, 12)}
# Deflate repeats a byte a thousand times in one; points do not repeat.
MAX_NPZ_RATIO = 100
SMALL_ARCHIVE = 2**26
# plyfile takes a second for ten thousand elements, and longer for each of more.
MAX_PLY_HEADER = 2**18
LAS_HEADER = 227


def promise(claimed: int, found: int, what: str) -> None:
    """Checks a claim.

    Raises:
        ValueError: There is less than is claimed, or the claim is negative.
    """
    if not 0 <= claimed <= found:
        raise ValueError(f"it promises {claimed:,} {what} and has room for {max(found, 0):,}")


def check_las(data: bytes) -> None:
    """Checks the number of points, records and chunks of a LAS or LAZ file."""
    if data[:4] != b"LASF":
        return  # laspy's own error says so
    promise(LAS_HEADER, len(data), "bytes of header")
    header_size, offset, records = struct.unpack_from("<HII", data, 94)
    kind, size, points = struct.unpack_from("<BHI", data, 104)
    if data[25] >= 4:
        promise(375, len(data), "bytes of header")
        first, extended, points = struct.unpack_from("<QIQ", data, 235)
        promise(60 * extended, len(data) - first, "bytes of extended records")
    promise(offset, len(data), "bytes before the points")
    promise(54 * records, offset - header_size, "bytes of records")
    check_memory(points * max(size, 1), "it")
    if kind < 128:
        promise(points * max(size, 1), len(data) - offset, "bytes of points")
    elif points:
        promise(points, MAX_POINTS_PER_BYTE * len(data), "points")
        check_chunks(data, offset, size)
        if kind & 0x3F in LAYERS:
            check_layers(data, header_size, records, offset, kind & 0x3F, size)


def check_layers(data: bytes, header_size: int, records: int, offset: int, kind: int, size: int) -> None:
    """Checks the sizes of the layers in each chunk of a LAZ file, for which memory is reserved.

    A chunk is its first point, the number of its points, the size of each layer, and the layers.
    """
    lazrs = import_optional("lazrs", "reading LAZ files needs `lazrs`: pip install 'perceivers[points]'")
    start = header_size
    for _ in range(records):
        user, number, length = struct.unpack_from("<2x16sHH", data, start)
        start += 54 + length
        if user.rstrip(b"\0") == b"laszip encoded" and number == LASZIP_RECORD:
            break
    else:
        return  # laspy's own error says so
    file = io.BytesIO(data)
    file.seek(offset)
    table = lazrs.read_chunk_table(file, lazrs.LazVlr(data[start - length : start]))
    plain, layers = LAYERS[kind]
    layers += size - plain  # one for each extra byte
    place = offset + 8
    for _, length in table:
        promise(length, len(data) - place, "bytes of a chunk")
        promise(size + 4 + 4 * layers, length, "bytes of a chunk")
        sizes = struct.unpack_from(f"<{layers}I", data, place + size + 4)
        promise(sum(sizes), length - size - 4 - 4 * layers, "bytes of layers")
        place += length


def check_chunks(data: bytes, offset: int, size: int) -> None:
    """Checks the table of a LAZ file that says where its chunks of compressed points begin."""
    promise(offset + 8, len(data), "bytes")
    table = struct.unpack_from("<q", data, offset)[0]
    if table == -1:  # a writer that could not seek appends it
        table = struct.unpack_from("<q", data, len(data) - 8)[0]
    if table < offset + 8:
        raise ValueError(f"its table of chunks would begin at byte {table}, before its points")
    promise(table + 8, len(data), "bytes")
    chunks = struct.unpack_from("<I", data, table + 4)[0]
    promise(chunks * size, table - offset - 8, "bytes of chunks")  # the first point of each is not compressed


def check_off(data: bytes) -> None:
    """Checks that an OFF file has a line for each vertex and each face, and each face all its corners."""
    lines = [line for line in (part.split(b"#")[0].strip() for part in data.splitlines()) if line]
    _, _, counts = b"\n".join(lines).partition(b"OFF")
    rows = counts.strip().split(b"\n")
    words = rows[0].split()
    if len(words) < 2 or not all(re.fullmatch(rb"[+-]?\d+", word) for word in words[:2]):
        return  # trimesh's own error says so
    vertices, faces = int(words[0]), int(words[1])
    promise(vertices, len(rows) - 1, "vertices")
    promise(faces, len(rows) - 1 - vertices, "faces")
    for number, row in enumerate(rows[1 + vertices : 1 + vertices + faces]):
        corners = row.split()
        if not corners[0].isdigit() or len(corners) <= int(corners[0]):
            raise ValueError(f"its face {number} promises {corners[0].decode()} corners and has {len(corners) - 1}")


def check_ply(data: bytes) -> None:
    """Checks the numbers of elements of a PLY file, each by the fewest bytes that it can take.

    plyfile notices small differences itself.
    """
    header, end, body = data.partition(b"end_header")
    if not end or data[:3] != b"ply":
        return  # plyfile's own error says so
    if len(header) > MAX_PLY_HEADER:
        raise ValueError(f"its header has {len(header):,} bytes, more than {MAX_PLY_HEADER:,}")
    is_text, needed, each, count = b"ascii" in header, 0, 0, 0
    for line in [*header.splitlines(), b"element end 0"]:
        words = line.split()
        if words[:1] == [b"element"] and len(words) == 3 and re.fullmatch(rb"-?\d+", words[2]):
            promise(needed + count * max(each, 1), len(body) + SMALL, "bytes")
            needed, count, each = needed + count * max(each, 1), int(words[2]), 0
        elif words[:1] == [b"property"] and len(words) > 2:
            each += 2 if is_text else PLY_BYTES.get(words[2 if words[1] == b"list" else 1], 1)


PLY_BYTES = {
    name: int(size)
    for names, size in (("char uchar int8 uint8", 1), ("short ushort int16 uint16", 2), ("double float64", 8))
    for name in names.encode().split()
} | dict.fromkeys((b"int", b"uint", b"float", b"int32", b"uint32", b"float32"), 4)


def check_pcd(data: bytes) -> None:
    """Checks the number of points of a PCD file."""
    head = re.search(rb"(?m)^DATA[ \t]+(\w+)[ \t]*\r?\n", data)
    if not head:
        return  # pypcd4's own error says so
    fields = {words[0]: words[1:] for line in data[: head.start()].splitlines() if (words := line.split())}
    sizes, counts = ([int(word) for word in fields.get(name, [])] for name in (b"SIZE", b"COUNT"))
    width, height = (int(fields.get(name, [b"1"])[0]) for name in (b"WIDTH", b"HEIGHT"))
    points = int(fields.get(b"POINTS", [b"%d" % (width * height)])[0])
    if points != width * height:
        raise ValueError(f"it promises {points:,} points and has a grid of {width:,} x {height:,}")
    size = sum(math.prod(pair) for pair in zip(sizes, counts or [1] * len(sizes), strict=True))
    left = len(data) - head.end()
    check_memory(points * size, "it")
    if head[1] == b"ascii":
        promise(points * sum(counts or [1] * len(sizes)), left, "numbers")
    elif head[1] == b"binary":
        found = left // max(size, 1)
        if found < points:
            raise ValueError(f"it promises {points} points and has {found}")
    elif left >= 8:
        compressed, plain = struct.unpack_from("<II", data, head.end())
        promise(plain, MAX_LZF_RATIO * min(compressed, left - 8), "bytes")
        promise(points * size, plain, "bytes of points")


def check_npy(data: bytes, left: int | None = None) -> None:
    """Checks that an NPY file is as long as the shape in its header needs.

    Args:
        data: The file, or its beginning.
        left: Length of the whole file, if `data` is only the beginning.
    """
    file, formats = io.BytesIO(data), np.lib.format
    major, _ = formats.read_magic(file)
    read = formats.read_array_header_1_0 if major == 1 else formats.read_array_header_2_0
    shape, _, dtype = read(file)
    if not dtype.hasobject:  # NumPy refuses those
        found = (len(data) if left is None else left) - file.tell()
        promise(math.prod(shape) * dtype.itemsize, found, "bytes of numbers")


def check_npz(data: bytes) -> None:
    """Checks the size of the arrays of an NPZ file before they are decompressed."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        size = sum(entry.file_size for entry in archive.infolist())
        check_memory(size, "it")
        promise(size, max(MAX_NPZ_RATIO * len(data), SMALL_ARCHIVE), "bytes of arrays")
        for entry in archive.infolist():
            if entry.filename.endswith(".npy"):
                with archive.open(entry) as member:
                    check_npy(member.read(4096), entry.file_size)


def check_numpy(data: bytes) -> None:
    """Checks an NPY or NPZ file."""
    if not data.startswith((b"\x93NUMPY", b"PK")):
        raise ValueError("it does not begin as NumPy's files do")
    (check_npz if data.startswith(b"PK") else check_npy)(data)


def check_stl(data: bytes) -> None:
    """Checks that a binary STL file has all its triangles, and that one in text has an end."""
    if len(data) >= 84 and (b"\0" in data[:512] or not data.lstrip().startswith(b"solid")):
        triangles = struct.unpack_from("<I", data, 80)[0]
        promise(50 * triangles, len(data) - 84, "bytes of triangles")
    elif data.lstrip().startswith(b"solid") and b"endsolid" not in data.lower():
        raise ValueError("it has no `endsolid`, so its end is missing")


def check_glb(data: bytes) -> None:
    """Checks the length of a GLB file, the sizes of its accessors, and that no node is used twice."""
    if len(data) < 20 or data[:4] != b"glTF":
        return  # trimesh's own error says so
    length, first = struct.unpack_from("<8xII", data)
    promise(length, len(data), "bytes")
    promise(first, len(data) - 20, "bytes")
    tree = json.loads(data[20 : 20 + first])
    for accessor in tree.get("accessors", []):
        promise(int(accessor.get("count", 0)), len(data), "numbers")
    children = [child for node in tree.get("nodes", []) for child in node.get("children", [])]
    if len(children) != len(set(children)):
        raise ValueError("one of its nodes has two parents")


CHECKS: dict[str, Callable[[bytes], None]] = {
    ".ply": check_ply,
    ".pcd": check_pcd,
    ".las": check_las,
    ".laz": check_las,
    ".npy": check_numpy,
    ".npz": check_numpy,
    ".off": check_off,
    ".stl": check_stl,
    ".glb": check_glb,
}
