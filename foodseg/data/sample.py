"""One picture and its mask: bytes to arrays and back.

Pictures are decoded by libjpeg-turbo (simplejpeg) where they are JPEG, at reduced scale when the caller needs a much
smaller picture, and by Pillow otherwise. EXIF orientation is always applied; every size in foodseg is the one after it.
"""

import io
import struct

import cv2
import numpy as np
import simplejpeg
from PIL import Image

from foodseg.errors import UserError

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF")
MAX_PIXELS = 100_000_000  # a decompression bomb is refused by its header, before a pixel is decoded
_ORIENTATION = 0x0112
_SWAPS_SIDES = (5, 6, 7, 8)


def image_size(data: bytes) -> tuple[int, int]:
    """Returns (height, width) in pixels after EXIF orientation; no pixel of a JPEG is decoded for it.

    Raises:
        UserError: not a readable picture in one of FORMATS, or more than MAX_PIXELS pixels.
    """
    with _open(data) as picture:
        width, height = picture.size
        return (width, height) if _orientation(data, picture) in _SWAPS_SIDES else (height, width)


def decode_image(data: bytes, at_least: tuple[int, int] | None = None, *, strict: bool = False) -> np.ndarray:
    """Decodes a picture to (H, W, 3) uint8 RGB, upright.

    Args:
        data: the encoded file.
        at_least: (height, width) that suffices; a JPEG is then decoded at the least of 1/8, 2/8, ... 8/8 that is no
            smaller, which is several times faster. None: full size.
        strict: refuse a JPEG that ends too early (used once, when a data set is prepared).

    Raises:
        UserError: unreadable, truncated (with `strict`), of another format, or more than MAX_PIXELS pixels.
    """
    # this spares Pillow the file in the common case: a JPEG without EXIF
    if data[:3] == b"\xff\xd8\xff" and not _has_exif(data):
        fast = _decode_jpeg(data, at_least, strict)
        if fast is not None:
            return fast
    with _open(data) as picture:
        orientation = _orientation(data, picture)
        if picture.format == "JPEG" and picture.mode == "RGB":
            wanted = at_least[::-1] if at_least and orientation in _SWAPS_SIDES else at_least
            fast = _decode_jpeg(data, wanted, strict)
            if fast is not None:
                return _upright(fast, orientation)
        try:
            if picture.mode.startswith("I;16") or picture.mode == "I":
                scaled = np.asarray(picture, dtype=np.float32) / 257.0  # 16 bit grey to 8 bit
                picture = Image.fromarray(scaled.clip(0, 255).astype(np.uint8))
            return _upright(np.array(picture.convert("RGB")), orientation)
        except (OSError, ValueError, SyntaxError) as error:
            raise UserError(f"the picture cannot be decoded ({error})") from None


def decode_mask(data: bytes) -> np.ndarray:
    """Decodes a mask of class ids to (H, W) uint8 or uint16; palette files give their indices.

    Raises:
        UserError: unreadable, or not one channel of 8 or 16 bits.
    """
    if data[:8] == b"\x89PNG\r\n\x1a\n" and data[25:26] == b"\x00":  # colour type 0 = grey; cv2 would expand a palette
        width, height, depth = struct.unpack(">IIB", data[16:25])
        _check_pixels(width, height)
        if depth < 8:  # every decoder would stretch 0..15 to 0..255
            raise UserError(f"a mask has 8 or 16 bits per pixel, this one has {depth}: save the ids as 8 bit grey")
        mask = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
        if mask is not None and mask.ndim == 2:
            return mask
    with _open(data) as picture:
        if picture.mode not in ("L", "P", "I;16", "I"):
            raise UserError(f"a mask holds one class id per pixel (grey or palette), this one has mode {picture.mode}")
        try:
            ids = np.array(picture)
        except (OSError, ValueError, SyntaxError) as error:
            raise UserError(f"the mask cannot be decoded ({error})") from None
    if ids.dtype == np.int32:
        if ids.min(initial=0) < 0 or ids.max(initial=0) > 65535:
            raise UserError("a mask holds ids from 0 to 65535, this one holds others")
        return ids.astype(np.uint16)
    return ids


def encode_mask(mask: np.ndarray) -> bytes:
    """Encodes (H, W) uint8 or uint16 ids as a one-channel PNG."""
    ok, data = cv2.imencode(".png", np.ascontiguousarray(mask), [cv2.IMWRITE_PNG_COMPRESSION, 6])
    assert ok, (mask.shape, mask.dtype)
    return data.tobytes()


def resize_image(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """Resizes (H, W, 3) uint8 bilinearly; by area where it shrinks to less than half, which bilinear would alias."""
    if image.shape[:2] == (height, width):
        return image
    shrinks = 2 * height < image.shape[0] or 2 * width < image.shape[1]
    return cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)


def resize_mask(mask: np.ndarray, height: int, width: int) -> np.ndarray:
    """Resizes (H, W) ids to the nearest pixel."""
    if mask.shape == (height, width):
        return mask
    return cv2.resize(mask, (width, height), interpolation=cv2.INTER_NEAREST)


def fit_longest(height: int, width: int, longest_side: float) -> tuple[int, int]:
    """Returns (height, width) with the aspect kept and the longer side at `longest_side`, each at least 1."""
    factor = longest_side / max(height, width)
    return max(1, round(height * factor)), max(1, round(width * factor))


def _decode_jpeg(data: bytes, at_least: tuple[int, int] | None, strict: bool) -> np.ndarray | None:
    """Returns None where Pillow should try: CMYK, and streams that libjpeg-turbo warns about."""
    height, width = at_least or (0, 0)
    try:
        full_height, full_width, colorspace, _ = simplejpeg.decode_jpeg_header(data)
        if colorspace in ("CMYK", "YCCK"):
            return None
        _check_pixels(full_width, full_height)
        return simplejpeg.decode_jpeg(
            data, "RGB", min_height=min(height, full_height), min_width=min(width, full_width), strict=strict
        )
    except UserError:
        raise
    except ValueError:
        return None


def _open(data: bytes) -> Image.Image:
    if not data:
        raise UserError("the file is empty")
    try:
        picture = Image.open(io.BytesIO(data), formats=FORMATS)
    except Image.DecompressionBombError:  # Pillow's own limit, the larger one
        raise UserError(f"the picture has more pixels than the limit of {MAX_PIXELS:,}") from None
    except (OSError, ValueError, SyntaxError):
        raise UserError(f"not a readable picture (known formats: {', '.join(FORMATS)})") from None
    _check_pixels(*picture.size)
    return picture


def _check_pixels(width: int, height: int) -> None:
    if width * height > MAX_PIXELS:
        raise UserError(f"{width} x {height} pixels are more than the limit of {MAX_PIXELS:,}")


def _orientation(data: bytes, picture: Image.Image) -> int:
    """Returns 1 to 8; 1 = upright, also where EXIF is missing or damaged."""
    if picture.format == "JPEG" and not _has_exif(data):
        return 1
    if picture.format == "TIFF":
        return 1  # Pillow turns TIFF itself, size included
    try:
        value = picture.getexif().get(_ORIENTATION, 1)
    except OSError as error:  # PNG: pixels are decoded to look for EXIF behind them
        raise UserError(f"the picture cannot be decoded ({error})") from None
    except (ValueError, SyntaxError):
        return 1
    return value if value in range(1, 9) else 1


def _has_exif(data: bytes) -> bool:
    """Walks the segments of a JPEG (ITU T.81, B.1.1.4) up to its first scan; they may follow a long colour profile."""
    at = 2
    while data[at : at + 1] == b"\xff" and at + 4 <= len(data):
        marker, length = data[at + 1], int.from_bytes(data[at + 2 : at + 4], "big")
        if marker == 0xE1 and data[at + 4 : at + 10] == b"Exif\x00\x00":
            return True
        if marker == 0xDA:
            return False
        at += 1 if marker == 0xFF else 2 + length  # a marker may be padded with 0xFF
    return False


def _upright(image: np.ndarray, orientation: int) -> np.ndarray:
    """Applies the EXIF orientation (TIFF 6.0, tag 274) to (H, W, 3)."""
    if orientation in _SWAPS_SIDES:
        image = image.transpose(1, 0, 2)
    if orientation in (2, 3, 6, 7):
        image = image[:, ::-1]
    if orientation in (3, 4, 7, 8):
        image = image[::-1]
    return np.ascontiguousarray(image)
