"""One picture and its mask: bytes to arrays and back.

Pictures are decoded by libjpeg-turbo (simplejpeg) where they are JPEG, at reduced scale when the caller needs a much
smaller picture, and by Pillow otherwise. EXIF orientation is always applied; every size in foodseg is the one after it.
Transparent parts are laid on white, as a viewer shows them: what hides under them (often black) nobody has seen. CMYK
becomes RGB, 16 bits become 8, grey becomes three equal channels.
"""

import io
import struct
from dataclasses import dataclass
from typing import Literal

import cv2
import numpy as np
import simplejpeg
from PIL import Image

from foodseg.errors import UserError

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF")
MAX_PIXELS = 100_000_000  # a decompression bomb is refused by its header, before a pixel is decoded
SWAPS_SIDES = (5, 6, 7, 8)  # EXIF orientations that exchange height and width
_ORIENTATION, _BITS_PER_SAMPLE = 0x0112, 258  # TIFF 6.0 tags

Fault = Literal[
    "missing_file",
    "empty_file",
    "other_format",
    "unreadable",
    "truncated",
    "too_many_pixels",
    "mask_mode",
    "unknown_id",
]
Trait = Literal["alpha", "cmyk", "sixteen_bit", "grey", "palette"]


class BadFile(UserError):
    """A picture or mask that cannot be used. `fault` is the name under which an audit counts it."""

    def __init__(self, sentence: str, fault: Fault = "unreadable") -> None:
        super().__init__(sentence)
        self.fault: Fault = fault


@dataclass(frozen=True)
class PictureKind:
    """How a picture is stored: EXIF orientation 1 to 8 (1 = upright), and what is converted when it is decoded."""

    orientation: int
    traits: tuple[Trait, ...]


def image_size(data: bytes) -> tuple[int, int]:
    """Returns (height, width) in pixels after EXIF orientation; no pixel of a JPEG is decoded for it.

    Raises:
        BadFile: not a readable picture in one of FORMATS, or more than MAX_PIXELS pixels.
    """
    with open_picture(data) as picture:
        width, height = picture.size
        return (width, height) if _orientation(data, picture) in SWAPS_SIDES else (height, width)


def picture_kind(data: bytes) -> PictureKind:
    """Says from its header how a picture is stored, also where its pixels are damaged.

    Raises:
        BadFile: not a readable picture in one of FORMATS, or more than MAX_PIXELS pixels.
    """
    with open_picture(data) as picture:
        depth, colour = 8, None
        if picture.format == "TIFF":
            tags = picture.getexif()
            orientation, depth = tags.get(_ORIENTATION, 1), int(np.max(tags.get(_BITS_PER_SAMPLE, 8)))
        else:
            try:
                orientation = _orientation(data, picture)
            except BadFile:
                orientation = 1
        if picture.format == "PNG":
            depth, colour = data[24], data[25]  # Pillow opens 16 bit colour as 8 bit, and grey with alpha as RGBA
        deep_grey = _is_deep_grey(picture)
        present: dict[Trait, bool] = {
            "alpha": picture.has_transparency_data and not deep_grey,
            "cmyk": picture.mode == "CMYK",
            "sixteen_bit": depth == 16 or deep_grey,
            "grey": picture.mode in ("1", "L", "LA") or deep_grey or colour in (0, 4),
            "palette": picture.mode in ("P", "PA"),
        }
    turned = orientation if orientation in range(1, 9) else 1
    return PictureKind(turned, tuple(name for name, found in present.items() if found))


def decode_image(data: bytes, at_least: tuple[int, int] | None = None, *, strict: bool = False) -> np.ndarray:
    """Decodes a picture to (H, W, 3) uint8 RGB, upright.

    Args:
        data: the encoded file.
        at_least: (height, width) that suffices; a JPEG is then decoded at the least of 1/8, 2/8, ... 8/8 that is no
            smaller, which is several times faster. None: full size.
        strict: refuse a JPEG that ends too early or whose code is broken (used once, when a data set is prepared).

    Raises:
        BadFile: unreadable, truncated (with `strict`), of another format, or more than MAX_PIXELS pixels.
    """
    is_jpeg = known_format(data) == "JPEG"
    # this spares Pillow the file in the common case: a JPEG without EXIF
    if is_jpeg and not _has_exif(data):
        fast = _decode_jpeg(data, at_least, strict)
        if fast is not None:
            return fast
    with open_picture(data) as picture:
        orientation = _orientation(data, picture)
        if is_jpeg:
            wanted = at_least[::-1] if at_least and orientation in SWAPS_SIDES else at_least
            fast = _decode_jpeg(data, wanted, strict)
            if fast is not None:
                return upright(fast, orientation)
        if picture.mode == "F":
            raise BadFile("a picture of floating point numbers is not read: save it as 8 bit RGB", "other_format")
        try:
            return upright(_to_rgb(picture), orientation)
        except Exception as error:
            raise undecodable("picture", data, error) from None


def decode_mask(data: bytes) -> np.ndarray:
    """Decodes a mask of class ids to (H, W) uint8 or uint16; palette files give their indices.

    Raises:
        BadFile: unreadable, or not one channel of 8 or 16 bits.
    """
    if data[:8] == b"\x89PNG\r\n\x1a\n" and data[25:26] == b"\x00":  # colour type 0 = grey; cv2 would expand a palette
        width, height, depth = struct.unpack(">IIB", data[16:25])
        _check_pixels(width, height)
        if depth < 8:  # every decoder would stretch 0..15 to 0..255
            raise BadFile(
                f"a mask has 8 or 16 bits per pixel, this one has {depth}: save the ids as 8 bit grey", "mask_mode"
            )
        mask = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
        if mask is not None and mask.ndim == 2:
            return mask
    with open_picture(data) as picture:
        if picture.mode not in ("L", "P", "I;16", "I"):
            raise BadFile(
                f"a mask holds one class id per pixel (grey or palette), this one has mode {picture.mode}", "mask_mode"
            )
        if picture.format == "JPEG":
            raise BadFile("a mask saved as JPEG holds blurred ids: save it as PNG", "mask_mode")
        try:
            ids = np.array(picture)
        except Exception as error:
            raise undecodable("mask", data, error) from None
    if ids.dtype == np.int32:
        if ids.min(initial=0) < 0 or ids.max(initial=0) > 65535:
            raise BadFile("a mask holds ids from 0 to 65535, this one holds others", "unknown_id")
        return ids.astype(np.uint16)
    return ids


def upright(array: np.ndarray, orientation: int) -> np.ndarray:
    """Applies an EXIF orientation (TIFF 6.0, tag 274) to (H, W) or (H, W, C): 5 transposes, 6 turns clockwise."""
    if orientation in SWAPS_SIDES:
        array = array.swapaxes(0, 1)
    if orientation in (2, 3, 6, 7):
        array = array[:, ::-1]
    if orientation in (3, 4, 7, 8):
        array = array[::-1]
    return np.ascontiguousarray(array)


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
    """Returns None where Pillow should try: CMYK, and streams with an oddity that harms no pixel."""
    height, width = at_least or (0, 0)
    try:
        full_height, full_width, colorspace, _ = simplejpeg.decode_jpeg_header(data)
        _check_pixels(full_width, full_height)
        if colorspace in ("CMYK", "YCCK"):
            if strict:
                simplejpeg.decode_jpeg(data, "CMYK", strict=True)  # Pillow passes over what is refused below
            return None
        return simplejpeg.decode_jpeg(
            data, "RGB", min_height=min(height, full_height), min_width=min(width, full_width), strict=strict
        )
    except UserError:
        raise
    except ValueError as error:
        words = str(error).lower()
        if strict and any(damage in words for damage in _JPEG_DAMAGE):
            raise BadFile(
                f"the picture cannot be decoded ({error})", "truncated" if "premature end" in words else "unreadable"
            ) from None
        return None


# libjpeg's words for pixels that were lost; it has others for what does no harm (padding, colour profiles)
_JPEG_DAMAGE = ("premature end", "bad huffman code", "bad arithmetic code", "instead of rst")


def _to_rgb(picture: Image.Image) -> np.ndarray:
    """Returns (H, W, 3) uint8 as stored, not turned (TIFF: upright). Raises what Pillow stumbles over, of any type."""
    if _is_deep_grey(picture):
        scaled = np.asarray(picture, dtype=np.float32) / 257.0
        picture = Image.fromarray(scaled.clip(0, 255).astype(np.uint8))
    if picture.has_transparency_data:
        picture = picture.convert("RGBA")
        picture = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture)
    return np.array(picture.convert("RGB"))


def _is_deep_grey(picture: Image.Image) -> bool:
    return picture.mode.startswith("I")  # I;16, I;16B, I


def open_picture(data: bytes) -> Image.Image:
    """Opens a picture or a mask by its header; BadFile where that is none in FORMATS, or promises too many pixels."""
    if not data:
        raise BadFile("the file is empty", "empty_file")
    try:
        picture = Image.open(io.BytesIO(data), formats=FORMATS)
    except Image.DecompressionBombError:  # Pillow's own limit, the larger one
        raise _too_many(f"the picture has more pixels than the limit of {MAX_PIXELS:,}") from None
    except Exception:  # mostly OSError, but a damaged header can end a parser in any way
        found = known_format(data)
        if found is None:
            raise BadFile(f"not a readable picture (known formats: {', '.join(FORMATS)})", "other_format") from None
        fault: Fault = "truncated" if _ends_early(data) else "unreadable"
        raise BadFile(f"not a readable picture (a damaged {found} file)", fault) from None
    _check_pixels(*picture.size)
    return picture


def known_format(data: bytes) -> str | None:
    """Names the format that the first bytes promise."""
    if data[:3] == b"\xff\xd8\xff":
        return "JPEG"
    if data[:8] == b"\x89PNG\r\n\x1a\n":
        return "PNG"
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "WEBP"
    if data[:2] == b"BM":
        return "BMP"
    return "TIFF" if data[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+") else None


def _ends_early(data: bytes) -> bool:
    """True where the end that its format prescribes is missing; asked only of a file that does not decode."""
    kind = known_format(data)
    if kind == "JPEG":
        return data.rfind(b"\xff\xd9") <= data.rfind(b"\xff\xda")  # no end of image after the last start of scan
    if kind == "PNG":
        return b"IEND" not in data
    if kind == "WEBP":
        return int.from_bytes(data[4:8], "little") + 8 > len(data)
    if kind == "TIFF":  # the first directory would stand behind the end
        return int.from_bytes(data[4:8], "little" if data[:2] == b"II" else "big") >= len(data)
    return False


def undecodable(what: str, data: bytes, error: Exception) -> BadFile:
    """Returns what to raise where Pillow stumbled with `error` over the pixels of `what`."""
    if isinstance(error, MemoryError):
        raise error
    early = _ends_early(data) or "truncated" in str(error)
    return BadFile(f"the {what} cannot be decoded ({error})", "truncated" if early else "unreadable")


def _check_pixels(width: int, height: int) -> None:
    if width * height > MAX_PIXELS:
        raise _too_many(f"{width} x {height} pixels are more than the limit of {MAX_PIXELS:,}")


def _too_many(sentence: str) -> BadFile:
    return BadFile(sentence, "too_many_pixels")


def _orientation(data: bytes, picture: Image.Image) -> int:
    """Returns 1 to 8; 1 = upright, also where EXIF is missing or damaged."""
    if known_format(data) == "JPEG" and not _has_exif(data):
        return 1
    if picture.format == "TIFF":
        return 1  # Pillow turns TIFF itself, size included
    try:
        value = picture.getexif().get(_ORIENTATION, 1)
    except OSError as error:  # PNG: pixels are decoded to look for EXIF behind them
        raise undecodable("picture", data, error) from None
    except Exception:
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
