"""Files for `benchmarks.fuzz`: small whole ones, made by the libraries themselves, and mutations of them."""

import io
import random
import struct
import zlib
from collections.abc import Callable, Sequence

import laspy
import numpy as np
import PIL.Image
import soundfile
import trimesh
from plyfile import PlyData, PlyElement
from pypcd4 import Encoding, PointCloud

# What headers are made to claim.
EXTREMES = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 2**63 - 1, 2**64 - 1)
FLOATS = (float("nan"), float("inf"), -1e308, 1e-308, -1.0)
WORDS = (b"0", b"-1", b"1", b"nan", b"inf", b"1e400", b"-1e308", b"4294967295", b"99999999999999999999", b"x", b"")
HEADER = 512  # bytes at the beginning that are taken for the header

# A seed is the suffix of a file and its content.
Seed = tuple[str, bytes]


def images() -> dict[str, list[Seed]]:
    """Small images of every format that Pillow writes and the package reads, by family."""
    generator = np.random.default_rng(0)
    rgb = PIL.Image.fromarray(generator.integers(0, 256, (24, 20, 3), dtype=np.uint8))
    smooth = rgb.resize((40, 36), PIL.Image.Resampling.BICUBIC)
    deep = PIL.Image.fromarray(generator.integers(0, 2**16, (12, 10), dtype=np.uint16))
    palette = rgb.quantize(16)
    rgba = rgb.convert("RGBA")

    def save(image: PIL.Image.Image, suffix: str, **options) -> Seed:
        buffer = io.BytesIO()
        image.save(buffer, PIL.Image.registered_extensions()[suffix], **options)
        return suffix, buffer.getvalue()

    frames = {"save_all": True, "append_images": [rgb.rotate(90).quantize(16)]}
    return {
        "PNG": [save(rgb, ".png"), save(deep, ".png"), save(palette, ".png", transparency=3), save(rgba, ".png")],
        "JPEG": [save(smooth, ".jpg"), save(smooth, ".jpg", progressive=True), save(smooth.convert("CMYK"), ".jpg")],
        "GIF": [save(palette, ".gif"), save(palette, ".gif", **frames)],
        "WebP": [save(smooth, ".webp"), save(rgba, ".webp", lossless=True)],
        "TIFF": [
            save(rgb, ".tif"),
            save(deep, ".tif"),
            *(save(rgb, ".tif", compression=name) for name in ("tiff_lzw", "tiff_adobe_deflate", "jpeg", "packbits")),
        ],
        "BMP": [save(rgb, ".bmp"), save(palette, ".bmp"), save(rgb.convert("1"), ".bmp")],
        "PNM": [save(rgb, ".ppm"), save(rgb.convert("L"), ".pgm"), save(deep, ".pgm")],
        "TGA": [save(rgb, ".tga"), save(rgb, ".tga", compression="tga_rle")],
        "JPEG 2000": [save(smooth, ".jp2")],
        "AVIF": [save(smooth, ".avif")],
    }


def audio() -> dict[str, list[Seed]]:
    """Short recordings of every format that libsndfile writes and the package reads, by family."""
    times = np.arange(2400) / 8000
    mono = 0.4 * np.sin(2 * np.pi * 440 * times) + 0.02 * np.random.default_rng(0).standard_normal(len(times))
    stereo = np.stack([mono, mono[::-1]], axis=1)

    def save(samples: np.ndarray, suffix: str, container: str, subtype: str | None = None, rate: int = 8000) -> Seed:
        buffer = io.BytesIO()
        soundfile.write(buffer, samples, rate, format=container, subtype=subtype)
        return suffix, buffer.getvalue()

    return {
        "WAV": [
            save(mono, ".wav", "WAV"),
            save(stereo, ".wav", "WAV", "PCM_24"),
            save(mono, ".wav", "WAV", "FLOAT"),
            save(mono, ".wav", "WAV", "MS_ADPCM"),
            save(mono, ".wav", "WAV", "ULAW"),
            save(stereo, ".wav", "WAVEX"),
            save(mono, ".wav", "RF64"),
        ],
        "FLAC": [save(mono, ".flac", "FLAC"), save(stereo, ".flac", "FLAC", "PCM_24")],
        "Ogg Vorbis": [save(mono, ".ogg", "OGG", "VORBIS")],
        "Opus": [save(mono, ".opus", "OGG", "OPUS")],
        "MP3": [save(mono, ".mp3", "MP3"), save(stereo, ".mp3", "MP3", rate=44100)],
        "AIFF": [save(mono, ".aiff", "AIFF"), save(mono, ".aif", "AIFF", "FLOAT")],
        "AU": [save(mono, ".au", "AU"), save(stereo, ".au", "AU", "FLOAT")],
        "CAF": [save(mono, ".caf", "CAF"), save(mono, ".caf", "CAF", "ALAC_16")],
    }


def point_clouds() -> dict[str, list[Seed]]:
    """Small scans and meshes of every format that the package reads, by family."""
    generator = np.random.default_rng(0)
    points = generator.standard_normal((40, 3))
    colours = generator.integers(0, 256, (40, 3), dtype=np.uint8)
    box, ball = trimesh.creation.box(), trimesh.creation.icosphere(subdivisions=1)
    mesh = trimesh.Scene([box, ball]).to_mesh()

    def ply(**options) -> bytes:
        kinds = [(name, "f4") for name in "xyz"] + [(name, "u1") for name in ("red", "green", "blue")]
        rows = np.array([(*map(float, p), *map(int, c)) for p, c in zip(points, colours, strict=True)], dtype=kinds)
        buffer = io.BytesIO()
        PlyData([PlyElement.describe(rows, "vertex")], **options).write(buffer)
        return buffer.getvalue()

    def las(version: str, point_format: int, **options) -> bytes:
        scan = laspy.LasData(laspy.LasHeader(version=version, point_format=point_format))
        scan.x, scan.y, scan.z = points.T
        scan.intensity = generator.integers(0, 2**16, len(points))
        buffer = io.BytesIO()
        scan.write(buffer, **options)
        return buffer.getvalue()

    def pcd(encoding: Encoding) -> bytes:
        buffer = io.BytesIO()
        PointCloud.from_xyz_points(points.astype(np.float32)).save(buffer, encoding=encoding)
        return buffer.getvalue()

    def numpy_file(write: Callable, **options) -> bytes:
        buffer = io.BytesIO()
        write(buffer, **options)
        return buffer.getvalue()

    def export(kind: str) -> bytes:
        content = mesh.export(file_type=kind)
        return content.encode() if isinstance(content, str) else content

    rows = "\n".join(" ".join(f"{number:.4f}" for number in row) for row in points)
    table = "x,y,z,red,green,blue\n" + "\n".join(
        ",".join([*(f"{number:.4f}" for number in p), *map(str, c)]) for p, c in zip(points, colours, strict=True)
    )
    return {
        "PLY": [(".ply", ply(text=True)), (".ply", ply(byte_order=">")), (".ply", ply()), (".ply", export("ply"))],
        "PCD": [(".pcd", pcd(kind)) for kind in (Encoding.ASCII, Encoding.BINARY, Encoding.BINARY_COMPRESSED)],
        "LAS": [(".las", las("1.2", 3)), (".las", las("1.4", 7))],
        "LAZ": [(".laz", las("1.2", 3, do_compress=True)), (".laz", las("1.4", 7, do_compress=True))],
        "NPY": [
            (".npy", numpy_file(np.save, arr=points)),
            (".npy", numpy_file(np.save, arr=points.astype(">f4"))),
            (".npy", numpy_file(np.save, arr=np.asfortranarray(points.astype(np.float16)))),
        ],
        "NPZ": [
            (".npz", numpy_file(np.savez, points=points)),
            (".npz", numpy_file(np.savez_compressed, points=points, others=colours)),
        ],
        "OFF": [(".off", export("off"))],
        "OBJ": [(".obj", export("obj"))],
        "STL": [(".stl", export("stl")), (".stl", export("stl_ascii"))],
        "GLB": [(".glb", export("glb"))],
        "text": [(".xyz", rows.encode()), (".txt", b"//X Y Z\n" + rows.encode()), (".csv", table.encode())],
    }


FAMILIES: dict[str, Callable[[], dict[str, list[Seed]]]] = {
    "image-classification": images,
    "audio-classification": audio,
    "point-cloud-classification": point_clouds,
}


def flip_bits(data: bytearray, draw: random.Random) -> bytearray:
    """Flips up to 16 bits anywhere."""
    for _ in range(draw.randint(1, 16)):
        data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
    return data


def truncate(data: bytearray, draw: random.Random) -> bytearray:
    """Cuts the end off."""
    return data[: draw.randrange(1, len(data) + 1)]


def splice(data: bytearray, draw: random.Random) -> bytearray:
    """Copies bytes over others of the same file."""
    length = draw.randint(1, max(1, len(data) // 4))
    source, target = draw.randrange(len(data)), draw.randrange(len(data))
    piece = data[source : source + length]
    data[target : target + len(piece)] = piece
    return data


def insert(data: bytearray, draw: random.Random) -> bytearray:
    """Inserts zeros, noise, or a block of the same file."""
    length, place = draw.randint(1, 200), draw.randrange(len(data) + 1)
    start = draw.randrange(len(data))
    block = draw.choice((bytes(length), draw.randbytes(length), bytes(data[start : start + length])))
    data[place:place] = block * draw.choice((1, 1, 1, 20))
    return data


def remove(data: bytearray, draw: random.Random) -> bytearray:
    """Removes a block."""
    start = draw.randrange(len(data))
    del data[start : start + draw.randint(1, max(1, len(data) // 4))]
    return data or bytearray(b"\0")


def change_number(data: bytearray, draw: random.Random) -> bytearray:
    """Sets a number of the header, of 1 to 8 bytes, to an extreme."""
    order, size = draw.choice("<>"), draw.choice((1, 2, 4, 8))
    if len(data) < size:
        return data
    place = draw.randrange(min(draw.choice((64, HEADER)), len(data) - size + 1))
    if size >= 4 and draw.random() < 0.25:
        data[place : place + size] = struct.pack(order + {4: "f", 8: "d"}[size], _clip(draw.choice(FLOATS), size))
    else:
        value = draw.choice(EXTREMES) & (256**size - 1)
        data[place : place + size] = value.to_bytes(size, "little" if order == "<" else "big")
    return data


def _clip(value: float, size: int) -> float:
    return max(-3e38, min(value, 3e38)) if size == 4 and abs(value) < float("inf") else value


def change_word(data: bytearray, draw: random.Random) -> bytearray:
    """Sets a number in the text of the first lines to an extreme."""
    head = bytes(data[: 4 * HEADER])
    starts = [i for i, byte in enumerate(head) if chr(byte) in "0123456789" and not head[i - 1 : i].isdigit()]
    if not starts:
        return change_number(data, draw)
    start = draw.choice(starts[:20] if draw.random() < 0.5 else starts)
    end = start
    while end < len(data) and chr(data[end]) in "0123456789.e-+":
        end += 1
    data[start:end] = draw.choice(WORDS)
    return data


MUTATIONS: Sequence[Callable[[bytearray, random.Random], bytearray]] = (
    flip_bits,
    truncate,
    splice,
    insert,
    remove,
    change_number,
    change_number,
    change_word,
    change_word,
)


def mend_png(data: bytes) -> bytes:
    """Sets the checksums of a PNG file right, so that decoders look behind them."""
    mended, place = bytearray(data), 8
    while place + 12 <= len(mended):
        length = int.from_bytes(mended[place : place + 4], "big")
        end = place + 8 + length
        if end + 4 > len(mended):
            break
        mended[end : end + 4] = zlib.crc32(mended[place + 4 : end]).to_bytes(4, "big")
        place = end + 4
    return bytes(mended)


OGG_TABLE = []
for _byte in range(256):
    _register = _byte << 24
    for _ in range(8):
        _register = (_register << 1 ^ (0x04C11DB7 if _register & 0x80000000 else 0)) & 0xFFFFFFFF
    OGG_TABLE.append(_register)


def mend_ogg(data: bytes) -> bytes:
    """Sets the checksums of the pages of an Ogg file right."""
    mended, place = bytearray(data), data.find(b"OggS")
    while place >= 0 and place + 27 <= len(mended):
        segments = mended[place + 26]
        end = place + 27 + segments + sum(mended[place + 27 : place + 27 + segments])
        mended[place + 22 : place + 26] = bytes(4)
        register = 0
        for byte in mended[place:end]:
            register = (register << 8 & 0xFFFFFFFF) ^ OGG_TABLE[register >> 24 ^ byte]
        mended[place + 22 : place + 26] = register.to_bytes(4, "little")
        place = mended.find(b"OggS", place + 4)
    return bytes(mended)


MENDED = {".png": mend_png, ".ogg": mend_ogg, ".opus": mend_ogg}


def mutated(family: str, seeds: Sequence[Seed], index: int) -> Seed:
    """Makes a mutated file, always the same for the same seeds, family and index."""
    draw = random.Random(f"{family}/{index}")
    suffix, content = draw.choice(seeds)
    data = bytearray(content)
    for _ in range(draw.choice((1, 1, 1, 2, 3))):
        data = draw.choice(MUTATIONS)(data, draw) or bytearray(b"\0")
    result = bytes(data)
    return suffix, MENDED[suffix](result) if suffix in MENDED and draw.random() < 0.7 else result
