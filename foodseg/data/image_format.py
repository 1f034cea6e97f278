"""Detects the format of a file by its bytes, never by its name; checks the layout of JPEG, PNG and TIFF.

    name_of_format(data)              # "JPEG", "HEIC", "HTML", ... or None
    raise BadFile(refusal(data))      # "this is a HEIC image (iPhone): convert it to JPEG ..."

Cameras and phones append data to a JPEG: a video (motion photo), a second image (MPO, gain maps), zero bytes. Here a
JPEG ends at its first end of image; embedded thumbnails are part of its segments.
"""

import re
from typing import Literal, NamedTuple

from foodseg.errors import UserError

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF")  # those that are read
_KNOWN = f"{', '.join(FORMATS[:-1])} or {FORMATS[-1]}"
_BMP_HEADERS = (12, 16, 40, 52, 56, 64, 108, 124)  # sizes of its second header
_TIFF_SIZES = (0, 1, 1, 2, 4, 8, 1, 1, 2, 4, 8, 4, 8)  # bytes of one value, by type (TIFF 6.0, page 15)
# a marker in a JPEG, or in the coded pixels of one: 0xFF00 is a coded 0xFF, 0xFFFF pads (ITU T.81, B.1.1.2)
_MARKER = re.compile(rb"\xff[^\x00\xff]")
_PNG_END = b"IEND\xaeB`\x82"  # the last chunk and its checksum
_EOI, _SOS, _APP1 = 0xD9, 0xDA, 0xE1
_ALONE = (0x01, *range(0xD0, 0xD9))  # markers without a segment: TEM, RST0 to RST7, SOI


Fault = Literal[
    "missing_file",
    "empty_file",
    "other_format",
    "unreadable",
    "truncated",
    "too_many_pixels",
    "mask_mode",
    "unknown_id",
    "ambiguous_name",
]


class BadFile(UserError):
    """An image or mask that cannot be used. `fault` is the name under which an audit counts it."""

    def __init__(self, sentence: str, fault: Fault = "unreadable") -> None:
        super().__init__(sentence)
        self.fault: Fault = fault


class _Foreign(NamedTuple):
    name: str
    phrase: str
    remedy: str


_TO_PNG, _TO_JPEG = "save it as PNG or JPEG", "convert it to JPEG"
_IPHONE = f"{_TO_JPEG}; an iPhone takes JPEG with Settings, Camera, Formats, Most Compatible"
_FETCH = "download the image itself"
_HEIC = _Foreign("HEIC", "a HEIC image (iPhone)", _IPHONE)
_AVIF = _Foreign("AVIF", "an AVIF image", _TO_JPEG)
_RAW = _Foreign("RAW", "a raw photograph of a camera", "develop it, and export it as JPEG")
_VIDEO = _Foreign("video", "a video", "take single frames out of it, as JPEG")
_SVG = _Foreign("SVG", "an SVG drawing", "export it as PNG")
_XML = _Foreign("XML", "an XML document (servers send errors so)", _FETCH)
_HTML = _Foreign("HTML", "a web page (HTML)", _FETCH)
_JSON = _Foreign("JSON", "JSON text", _FETCH)
_TEXT = _Foreign("text", "plain text", f"give an image ({_KNOWN} are read)")
_ZEROS = _Foreign("zeros", "nothing but zero bytes, as a copy that did not finish", "copy it again")
_MAGIC: tuple[tuple[bytes, _Foreign], ...] = (
    (b"GIF8", _Foreign("GIF", "a GIF image", "save it as PNG")),
    (b"%PDF", _Foreign("PDF", "a PDF document", "export its page as PNG or JPEG")),
    (b"%!PS", _Foreign("PostScript", "a PostScript document", "export its page as PNG or JPEG")),
    (b"version https://git-lfs", _Foreign("Git LFS pointer", "a Git LFS pointer, not the image", "run `git lfs pull`")),
    (b"8BPS", _Foreign("PSD", "a Photoshop document (PSD)", "export it as PNG or JPEG")),
    (b"\0\0\1\0", _Foreign("ICO", "an icon (ICO)", _TO_PNG)),
    (b"\0\0\0\x0cjP  ", _Foreign("JPEG 2000", "a JPEG 2000 image", _TO_PNG)),
    (b"\xff\x4f\xff\x51", _Foreign("JPEG 2000", "a JPEG 2000 image", _TO_PNG)),
    (b"\0\0\0\x0cJXL ", _Foreign("JPEG XL", "a JPEG XL image", _TO_JPEG)),
    (b"\xff\x0a", _Foreign("JPEG XL", "a JPEG XL image", _TO_JPEG)),
    (b"\x76\x2f\x31\x01", _Foreign("OpenEXR", "an OpenEXR image", _TO_PNG)),
    (b"PK\x03\x04", _Foreign("ZIP", "a ZIP archive", "unpack it")),
    (b"\x1f\x8b", _Foreign("gzip", "a gzip archive", "unpack it")),
    (b"7z\xbc\xaf\x27\x1c", _Foreign("7-Zip", "a 7-Zip archive", "unpack it")),
    (b"Rar!", _Foreign("RAR", "a RAR archive", "unpack it")),
    (b"\x93NUMPY", _Foreign("NumPy", "a NumPy array", _TO_PNG)),
    (b"\x89HDF", _Foreign("HDF5", "an HDF5 file", "export its images as PNG or JPEG")),
    (b"PAR1", _Foreign("Parquet", "a Parquet table", "export its images as PNG or JPEG")),
    (b"\x1a\x45\xdf\xa3", _VIDEO),  # Matroska, WebM
    (b"FUJIFILMCCD-RAW", _RAW),
    (b"IIRO", _RAW),
    (b"IIRS", _RAW),
    (b"IIU\0", _RAW),
)
_NETPBM = re.compile(rb"P[1-7][\s#]")


def known_format(data: bytes) -> str | None:
    """Returns the format in FORMATS that the first bytes indicate; None for all others."""
    if data[:3] == b"\xff\xd8\xff":
        return "JPEG"
    if data[:8] == b"\x89PNG\r\n\x1a\n":
        return "PNG"
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "WEBP"
    if data[:2] == b"BM" and (data[6:10] == bytes(4) or int.from_bytes(data[14:18], "little") in _BMP_HEADERS):
        return "BMP"
    if data[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
        return None if data[8:10] == b"CR" else "TIFF"  # Canon's raw files
    return None


def name_of_format(data: bytes) -> str | None:
    """Returns the format of the bytes: one of FORMATS, or HEIC, AVIF, GIF, PDF, HTML, ...; None = unknown."""
    foreign = _foreign(data)
    return known_format(data) or (foreign.name if foreign else None)


def described_format(data: bytes) -> str | None:
    """Describes the bytes with an article: "a TIFF image", "a PDF document"; None = unknown."""
    foreign, known = _foreign(data), known_format(data)
    return f"a {known} image" if known else foreign.phrase if foreign else None


def refusal(data: bytes) -> str:
    """Returns the error message for a file that is not in FORMATS: what it is, and what to do."""
    foreign = _foreign(data)
    if foreign is None:
        return f"this is not a known image format ({_KNOWN} are read)"
    return f"this is {foreign.phrase}: {foreign.remedy}"


def raw_refusal() -> str:
    """Returns the error message for a raw photograph that looks like a TIFF; its first image is a small preview."""
    return f"this is {_RAW.phrase}: {_RAW.remedy}"


def ends_early(data: bytes) -> bool:
    """True where a file of a known format ends before its format's own end."""
    kind = known_format(data)
    if kind == "JPEG":
        return _walk_jpeg(data).end is None
    if kind == "PNG":
        return data.rfind(_PNG_END) < 0
    if kind == "WEBP":
        return int.from_bytes(data[4:8], "little") + 8 > len(data)
    if kind == "TIFF":
        return _tiff_ends_early(data)
    return kind == "BMP" and int.from_bytes(data[2:6], "little") > len(data)


def jpeg_scans(data: bytes, most: int) -> int:
    """Counts the scans of a JPEG up to its end of image; stops counting above `most`."""
    return _walk_jpeg(data, most).scans


def has_exif(data: bytes) -> bool:
    """True where a JPEG has EXIF before its first scan; a long colour profile may precede it."""
    return _walk_jpeg(data, 0).exif


class _Walk(NamedTuple):
    scans: int
    exif: bool
    end: int | None  # offset after the end of image; None = no end of image


def _walk_jpeg(data: bytes, most: int | None = None) -> _Walk:
    """Walks the segments of a JPEG as a decoder does (ITU T.81, B.1.1), at most to the scan after the `most` first."""
    scans, exif, at = 0, False, 2
    while (found := _MARKER.search(data, at)) is not None:
        marker, at = data[found.start() + 1], found.end()
        if marker == _EOI:
            return _Walk(scans, exif, at)
        if marker in _ALONE:  # restarts are between coded pixels
            continue
        if marker == _SOS:
            scans += 1
            if most is not None and scans > most:
                break
        exif = exif or (marker == _APP1 and not scans and data[at + 2 : at + 8] == b"Exif\0\0")
        at += max(2, int.from_bytes(data[at : at + 2], "big"))
    return _Walk(scans, exif, None)


def _tiff_ends_early(data: bytes) -> bool:
    """True where the first directory, or a value that it points to, is beyond the end."""
    order = "little" if data[:2] == b"II" else "big"

    def number(at: int, size: int) -> int:
        return int.from_bytes(data[at : at + size], order)  # type: ignore[arg-type]

    if number(2, 2) == 43:  # BigTIFF
        return number(8, 8) + 8 > len(data)
    directory = number(4, 4)
    entries = number(directory, 2)
    if directory + 2 + 12 * entries > len(data):
        return True
    for at in range(directory + 2, directory + 2 + 12 * entries, 12):
        kind, count = number(at + 2, 2), number(at + 4, 4)
        size = count * (_TIFF_SIZES[kind] if kind < len(_TIFF_SIZES) else 0)
        if size > 4 and number(at + 8, 4) + size > len(data):
            return True
    return False


def _foreign(data: bytes) -> _Foreign | None:
    for magic, foreign in _MAGIC:
        if data.startswith(magic):
            return foreign
    if data[4:8] == b"ftyp":
        return _of_brands(data[8:12], data[16 : min(64, int.from_bytes(data[:4], "big"))])
    if data[4:8] in (b"moov", b"mdat", b"wide", b"skip", b"free"):  # QuickTime of old
        return _VIDEO
    if data[:4] == b"RIFF":
        return _VIDEO if data[8:12] == b"AVI " else None
    if data[:4] in (b"II*\0", b"MM\0*"):
        return _RAW
    if _NETPBM.match(data):
        return _Foreign("Netpbm", "a Netpbm image (PGM, PPM)", "save it as PNG")
    if data[:64] and not data[:64].strip(b"\0") and not data.strip(b"\0"):
        return _ZEROS
    return _of_text(data[:2048])


def _of_brands(major: bytes, compatible: bytes) -> _Foreign:
    """Distinguishes the members of the MP4 family (ISO 14496-12; HEIF and AVIF may name themselves second)."""
    brands = [major, *(compatible[at : at + 4] for at in range(0, len(compatible), 4))]
    if major in (b"avif", b"avis") or (major in (b"mif1", b"msf1") and b"avif" in brands):
        return _AVIF
    if major in (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs", b"mif1", b"msf1"):
        return _HEIC
    return _RAW if major == b"crx " else _VIDEO


def _of_text(start: bytes) -> _Foreign | None:
    try:
        if start[:2] in (b"\xff\xfe", b"\xfe\xff"):
            words = start[: len(start) // 2 * 2].decode("utf-16")
        else:
            words = start.decode("utf-8-sig", "strict" if len(start) < 2048 else "ignore")  # a letter may be cut
    except UnicodeDecodeError:
        return None
    if not words or any(letter < " " and letter not in "\t\n\r\f" for letter in words):
        return None
    words = words.strip().lower()
    if words.startswith("<"):
        if "<svg" in words:
            return _SVG
        markup = ("<!doctype html", "<html", "<head", "<body", "<script", "<!--")
        return _HTML if words.startswith(markup) or "<html" in words else _XML
    return _JSON if words.startswith(("{", "[")) else _TEXT
