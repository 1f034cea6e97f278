"""Masks as the shards of a prepared data set hold them: class ids compressed by zstd, which decode fast.

    data = encode_stored_mask(mask)      # (H, W) uint8 or uint16
    decode_stored_mask(data)             # the same; `image_io.decode_mask` reads PNG, too, as in the shards of 0.1.0

The bytes are a skippable frame, which says height, width and bytes of an id, and one zstd frame of the ids, row by row,
little-endian. So any zstd decoder finds the ids, and height and width of the row are enough to shape them.
"""

import struct
from typing import Any

import numpy as np
import pyarrow as pa

from foodseg.data.image_format import BadFile

MAX_PIXELS = 100_000_000  # a decompression bomb is refused by its header, before a pixel is decoded
LEVEL = 9  # of zstd: most of the gain in size; 15 takes eight times as long for a tenth less
_MAGIC = (0x184D2A5E).to_bytes(4, "little")  # of a skippable frame
_HEADER = struct.Struct("<4sIIIB")  # magic, length of what follows, height, width, bytes of an id
_TYPES: dict[int, np.dtype[Any]] = {1: np.dtype("u1"), 2: np.dtype("<u2")}


def is_stored_mask(data: bytes) -> bool:
    """True for what `encode_stored_mask` wrote."""
    return data[:4] == _MAGIC


def encode_stored_mask(mask: np.ndarray) -> bytes:
    """Encodes (H, W) uint8 or uint16 ids."""
    size = mask.dtype.itemsize
    assert mask.ndim == 2 and mask.dtype in (np.uint8, np.uint16), (mask.shape, mask.dtype)
    ids = np.ascontiguousarray(mask, _TYPES[size]).tobytes()
    header = _HEADER.pack(_MAGIC, _HEADER.size - 8, *mask.shape, size)
    return header + pa.Codec("zstd", LEVEL).compress(ids, asbytes=True)


def decode_stored_mask(data: bytes) -> np.ndarray:
    """Decodes to (H, W) uint8 or uint16 ids.

    Raises:
        BadFile: the bytes are damaged, or promise more than MAX_PIXELS pixels.
    """
    try:
        magic, length, height, width, size = _HEADER.unpack_from(data)
        kind = _TYPES[size]
    except (struct.error, KeyError):
        raise BadFile("the mask cannot be decoded (its header is damaged)") from None
    if magic != _MAGIC or length != _HEADER.size - 8:
        raise BadFile("the mask cannot be decoded (its header is damaged)")
    if not 0 < height * width <= MAX_PIXELS:
        raise BadFile(f"the mask cannot be decoded (it has {width} x {height} pixels)", "too_many_pixels")
    try:
        ids = pa.Codec("zstd").decompress(memoryview(data)[_HEADER.size :], height * width * size)
    except (pa.ArrowException, OSError) as error:
        raise BadFile(f"the mask cannot be decoded ({' '.join(str(error).split())})") from None
    return np.frombuffer(memoryview(ids), kind).reshape(height, width)
