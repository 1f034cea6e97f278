"""One image and its mask: bytes to arrays and back.

Images are decoded by libjpeg-turbo (simplejpeg) where they are JPEG, at reduced scale when the caller needs a much
smaller image, and by Pillow otherwise. EXIF orientation is always applied; every size in foodseg is the one after it.
A file that ends early is refused, even if part of it can be decoded; data after the end of an image is ignored. The
first of several frames or pages is read. Transparent parts are laid on white, as a viewer shows them: the colours under
them (often black) are not visible. CMYK becomes RGB, 16 bits become 8, grey becomes three equal channels.
"""

import io
import struct
import warnings
from dataclasses import dataclass
from typing import Literal

import cv2
import numpy as np
import simplejpeg
from PIL import Image

from foodseg.data.grey_mask import one_channel, whole_ids
from foodseg.data.image_format import FORMATS, ends_early, has_exif, known_format, raw_refusal, refusal
from foodseg.data.image_format import BadFile as BadFile
from foodseg.data.image_format import Fault as Fault  # both are part of this module's interface
from foodseg.data.stored_mask import MAX_PIXELS, decode_stored_mask, is_stored_mask
from foodseg.errors import UserError

SWAPS_SIDES = (5, 6, 7, 8)  # EXIF orientations that exchange height and width
_ORIENTATION, _BITS_PER_SAMPLE, _SUBFILE, _DNG = 0x0112, 258, 254, 50706  # TIFF 6.0 tags, and one of DNG

Trait = Literal["alpha", "cmyk", "sixteen_bit", "grey", "palette", "frames"]


@dataclass(frozen=True)
class ImageKind:
    """How an image is stored: EXIF orientation 1 to 8 (1 = upright), and which conversions decoding applies."""

    orientation: int
    traits: tuple[Trait, ...]


def image_size(data: bytes) -> tuple[int, int]:
    """Returns (height, width) in pixels after EXIF orientation; no pixel of a JPEG is decoded for it.

    Raises:
        BadFile: not a readable image in one of FORMATS, or more than MAX_PIXELS pixels.
    """
    with open_image(data) as image:
        width, height = image.size
        return (width, height) if _orientation(data, image) in SWAPS_SIDES else (height, width)


def image_kind(data: bytes) -> ImageKind:
    """Reads from the header how an image is stored, even if its pixels are damaged.

    Raises:
        BadFile: not a readable image in one of FORMATS, or more than MAX_PIXELS pixels.
    """
    with open_image(data) as image:
        depth, colour = 8, None
        if image.format == "TIFF":
            tags = image.getexif()
            orientation, depth = tags.get(_ORIENTATION, 1), int(np.max(tags.get(_BITS_PER_SAMPLE, 8)))
        else:
            try:
                orientation = _orientation(data, image)
            except BadFile:
                orientation = 1
        if image.format == "PNG":
            depth, colour = data[24], data[25]  # Pillow opens 16 bit colour as 8 bit, and grey with alpha as RGBA
        deep_grey = _is_deep_grey(image)
        present: dict[Trait, bool] = {
            "alpha": image.has_transparency_data and not deep_grey,
            "cmyk": image.mode == "CMYK",
            "sixteen_bit": depth == 16 or deep_grey,
            "grey": image.mode in ("1", "L", "LA") or deep_grey or colour in (0, 4),
            "palette": image.mode in ("P", "PA"),
            "frames": _has_frames(data, image),
        }
    turned = orientation if orientation in range(1, 9) else 1
    return ImageKind(turned, tuple(name for name, found in present.items() if found))


def decode_image(data: bytes, at_least: tuple[int, int] | None = None) -> np.ndarray:
    """Decodes an image to (H, W, 3) uint8 RGB, upright.

    Args:
        data: the encoded file.
        at_least: (height, width) that suffices; a JPEG is then decoded at the smallest of 1/8, 2/8, ... 8/8 that is
            not smaller, which is several times faster. None: full size.

    Raises:
        BadFile: unreadable, truncated, of another format, or more than MAX_PIXELS pixels.
    """
    kind = known_format(data)
    is_jpeg = kind == "JPEG"
    if kind == "PNG" and ends_early(data):  # Pillow is content when it has the pixels
        raise BadFile("the image cannot be decoded (the PNG file is truncated)", "truncated")
    # the common case, a JPEG without EXIF, needs no Pillow
    if is_jpeg and not has_exif(data):
        fast = _decode_jpeg(data, at_least)
        if fast is not None:
            return fast
    with open_image(data) as image:
        orientation = _orientation(data, image)
        if is_jpeg:
            wanted = at_least[::-1] if at_least and orientation in SWAPS_SIDES else at_least
            fast = _decode_jpeg(data, wanted)
            if fast is not None:
                return upright(fast, orientation)
        if image.mode == "F":
            raise BadFile("an image of floating point numbers is not read: save it as 8 bit RGB", "other_format")
        try:
            return upright(_to_rgb(image), orientation)
        except Exception as error:
            raise undecodable("image", data, error) from None


def rgb_of(image: Image.Image) -> np.ndarray:
    """Returns the pixels of a Pillow image that is upright, (H, W, 3) uint8 RGB, converted as those of a file.

    Raises:
        BadFile: no pixel, floating point numbers, or a file behind it that cannot be decoded.
    """
    if image.mode == "F" or not image.width or not image.height:
        raise BadFile(f"a PIL image of mode {image.mode} and size {image.size} is not read: convert it to RGB")
    try:
        return _to_rgb(image)
    except (OSError, ValueError, SyntaxError) as error:
        raise BadFile(f"the image cannot be decoded ({error})") from None


def decode_mask(data: bytes) -> np.ndarray:
    """Decodes a mask of class ids, an image file or `stored_mask`, to (H, W) uint8 or uint16; of a palette the indices.

    A grey mask that was saved with three or four equal channels is read as grey, as are 1, 2 and 4 bits per pixel
    and floating point numbers without fractions.

    Raises:
        BadFile: unreadable or truncated, saved with loss (JPEG, most WEBP), in colour, or numbers that are not ids.
    """
    if is_stored_mask(data):
        return decode_stored_mask(data)
    kind = known_format(data)
    if kind == "JPEG":
        raise BadFile("a mask saved as JPEG holds blurred ids: save it as PNG", "mask_mode")
    if kind == "WEBP" and b"VP8L" not in data:
        raise BadFile("a mask saved as WEBP with loss holds blurred ids: save it as PNG", "mask_mode")
    if kind == "PNG" and not ends_early(data):  # cv2 writes to stderr of a file that ends early
        mask = _decode_png_mask(data)
        if mask is not None:
            return mask
    with open_image(data) as image:
        mode = image.mode
        if mode in ("RGB", "RGBA", "LA"):
            try:
                return one_channel(np.array(image))
            except UserError:
                raise
            except Exception as error:
                raise undecodable("mask", data, error) from None
        if mode not in ("L", "P", "I;16", "I;16B", "I", "1", "F"):
            raise BadFile(
                f"a mask holds one class id per pixel (grey or palette), this one has mode {mode}: save it as 8 bit "
                "grey PNG",
                "mask_mode",
            )
        try:
            ids = np.array(image)
        except Exception as error:
            raise undecodable("mask", data, error) from None
    return whole_ids(ids)


def _decode_png_mask(data: bytes) -> np.ndarray | None:
    """Decodes a mask that is a whole PNG; None where Pillow has to: palettes, and what cv2 does not read."""
    if data[12:16] != b"IHDR":
        return None
    width, height, depth, colour = struct.unpack(">IIBB", data[16:26])
    _check_pixels(width, height)
    if colour == 0 and depth < 8:
        with open_image(data) as image:
            try:
                shown = np.array(image.convert("L"))
            except Exception as error:
                raise undecodable("mask", data, error) from None
        return shown // (255 // (2**depth - 1))  # decoders stretch 0..15 to 0..255
    if colour == 3 or (colour != 0 and depth == 8):  # cv2 would expand a palette
        return None
    mask = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)  # Pillow makes 8 of 16 bit colours
    if mask is None or mask.ndim == 2:
        return mask
    blue, green, red, *opacity = cv2.split(mask)
    return one_channel(np.dstack([red, green, blue, *opacity]))


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


def _decode_jpeg(data: bytes, at_least: tuple[int, int] | None) -> np.ndarray | None:
    """Returns None where Pillow has to try: CMYK, and streams that libjpeg-turbo does not read."""
    height, width = at_least or (0, 0)
    try:
        full_height, full_width, colorspace, _ = simplejpeg.decode_jpeg_header(data)
    except ValueError:
        return None
    _check_pixels(full_width, full_height)
    cmyk = colorspace in ("CMYK", "YCCK")
    for strict in (True, False):  # in strict mode libjpeg also stops at oddities that do not affect pixels
        try:
            image: np.ndarray = simplejpeg.decode_jpeg(
                data,
                "CMYK" if cmyk else "RGB",
                min_height=min(height, full_height),
                min_width=min(width, full_width),
                strict=strict,
            )
            return None if cmyk else image  # Pillow knows Adobe's inverted inks
        except ValueError as error:
            words = str(error).lower()
            if any(damage in words for damage in _JPEG_DAMAGE):
                fault: Fault = "truncated" if "premature end" in words else "unreadable"
                raise BadFile(f"the image cannot be decoded ({error})", fault) from None
            if strict and ends_early(data):  # the last of several libjpeg messages may be another one
                raise BadFile("the image cannot be decoded (the JPEG file is truncated)", "truncated") from None
    return None


# libjpeg's messages about lost pixels; others are harmless (padding, colour profiles)
_JPEG_DAMAGE = ("premature end", "bad huffman code", "bad arithmetic code", "instead of rst")


def _to_rgb(image: Image.Image) -> np.ndarray:
    """Returns (H, W, 3) uint8 as stored, not turned (TIFF: upright). Raises errors of any type from Pillow."""
    if _is_deep_grey(image):
        scaled = np.asarray(image, dtype=np.float32) / 257.0
        image = Image.fromarray(scaled.clip(0, 255).astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return np.array(image.convert("RGB"))


def _has_frames(data: bytes, image: Image.Image) -> bool:
    """True for an animation and for several pages; the other images in a JPEG are previews and gain maps."""
    try:
        return known_format(data) != "JPEG" and getattr(image, "n_frames", 1) > 1
    except Exception:  # a damaged directory of a TIFF
        return False


def _is_deep_grey(image: Image.Image) -> bool:
    return image.mode.startswith("I")  # I;16, I;16B, I


def open_image(data: bytes) -> Image.Image:
    """Opens an image or a mask by its header; BadFile where the format is not in FORMATS, or pixels are too many."""
    if not data:
        raise BadFile("the file is empty", "empty_file")
    try:
        with warnings.catch_warnings():
            if known_format(data) == "TIFF":  # Pillow warns about a truncated one tag by tag
                warnings.simplefilter("ignore", UserWarning)
            image = Image.open(io.BytesIO(data), formats=FORMATS)
    except Image.DecompressionBombError:  # Pillow's own limit, the larger one
        raise _too_many(f"the image has more pixels than the limit of {MAX_PIXELS:,}") from None
    except Exception:  # mostly OSError, but a damaged header can end a parser in any way
        found = known_format(data)
        if found is None:
            raise BadFile(refusal(data), "other_format") from None
        if ends_early(data):
            raise BadFile(f"not a readable image (the {found} file is truncated)", "truncated") from None
        raise BadFile(f"not a readable image (a damaged {found} file, or one of a rare kind)") from None
    if image.format == "TIFF" and (_DNG in image.tag_v2 or image.tag_v2.get(_SUBFILE, 0) & 1):  # type: ignore[attr-defined]
        raise BadFile(raw_refusal(), "other_format")
    _check_pixels(*image.size)
    return image


def undecodable(what: str, data: bytes, error: Exception) -> BadFile:
    """Returns the exception for an `error` of Pillow while decoding the pixels of `what`."""
    if isinstance(error, MemoryError):
        raise error
    early = ends_early(data) or "truncated" in str(error)
    return BadFile(f"the {what} cannot be decoded ({error})", "truncated" if early else "unreadable")


def _check_pixels(width: int, height: int) -> None:
    if width < 1 or height < 1:
        raise BadFile(f"the image has {width} x {height} pixels, so none at all")
    if width * height > MAX_PIXELS:
        raise _too_many(f"{width} x {height} pixels are more than the limit of {MAX_PIXELS:,}")


def _too_many(sentence: str) -> BadFile:
    return BadFile(sentence, "too_many_pixels")


def _orientation(data: bytes, image: Image.Image) -> int:
    """Returns 1 to 8; 1 = upright, also where EXIF is missing or damaged."""
    if known_format(data) == "JPEG" and not has_exif(data):
        return 1
    if image.format == "TIFF":
        return 1  # Pillow turns TIFF itself, size included
    try:
        value = image.getexif().get(_ORIENTATION, 1)
    except OSError as error:  # PNG: Pillow decodes the pixels to look for EXIF after them
        raise undecodable("image", data, error) from None
    except Exception:
        return 1
    return value if value in range(1, 9) else 1
