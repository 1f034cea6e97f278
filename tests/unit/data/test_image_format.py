"""The format of a file by its bytes; trailers after an image; scans of a JPEG."""

import io
import json
import struct

import numpy as np
import pytest
from PIL import Image

from foodseg.data.image_format import BadFile, ends_early, has_exif, jpeg_scans, known_format, name_of_format, refusal
from foodseg.data.image_io import ImageKind, decode_image, decode_mask, image_kind, image_size
from tests.unit.data.test_image_io import PHOTO, encoded

JPEG = encoded(PHOTO, "JPEG")
PROGRESSIVE = encoded(PHOTO, "JPEG", progressive=True)
MP4 = b"\0\0\0\x18ftypmp42\0\0\0\0mp42isom" + np.random.default_rng(1).bytes(400_000)
TRAILERS = {
    "motion": MP4,
    "second image": JPEG,
    "zeros": bytes(5_000),
    "text": b"hello \xff\xda \xff\xda",
    "end": b"\xff",
}


def ftyp(*brands: bytes) -> bytes:
    return (
        struct.pack(">I", 16 + 4 * (len(brands) - 1))
        + b"ftyp"
        + brands[0]
        + bytes(4)
        + b"".join(brands[1:])
        + bytes(99)
    )


@pytest.mark.parametrize(
    ("data", "name"),
    [
        (JPEG, "JPEG"),
        (encoded(PHOTO, "PNG"), "PNG"),
        (encoded(PHOTO, "WEBP"), "WEBP"),
        (encoded(PHOTO, "BMP"), "BMP"),
        (encoded(PHOTO, "TIFF"), "TIFF"),
        (ftyp(b"heic", b"mif1", b"heic"), "HEIC"),
        (ftyp(b"mif1", b"mif1", b"heic"), "HEIC"),
        (ftyp(b"heix", b"mif1"), "HEIC"),
        (ftyp(b"avif", b"mif1"), "AVIF"),
        (ftyp(b"mif1", b"avif", b"miaf"), "AVIF"),
        (ftyp(b"qt  "), "video"),
        (ftyp(b"isom", b"avc1"), "video"),
        (ftyp(b"mp42", b"mp42"), "video"),
        (ftyp(b"3gp5"), "video"),
        (b"\0\0\0\x08wide\0\0\x20\0mdat" + bytes(50), "video"),
        (b"\x1a\x45\xdf\xa3" + bytes(50), "video"),
        (ftyp(b"crx "), "RAW"),
        (b"II*\0\x10\0\0\0CR\2\0" + bytes(50), "RAW"),
        (encoded(PHOTO, "GIF"), "GIF"),
        (encoded(PHOTO, "PDF"), "PDF"),
        (encoded(PHOTO, "ICO", sizes=[(16, 16)]), "ICO"),
        (encoded(PHOTO, "JPEG2000"), "JPEG 2000"),
        (encoded(PHOTO, "PPM"), "Netpbm"),
        (b"\0\0\0\x0cJXL \r\n\x87\n", "JPEG XL"),
        (b"\xff\x0a" + bytes(50), "JPEG XL"),
        (b"8BPS\0\1", "PSD"),
        (b"PK\3\4" + bytes(50), "ZIP"),
        (b"<!DOCTYPE html><html><body>404</body></html>", "HTML"),
        (b"\xef\xbb\xbf\r\n  <HTML lang=en>", "HTML"),
        ("<!doctype html><title>Caf\u00e9</title>".encode("utf-16"), "HTML"),
        (b"<?xml version='1.0'?><Error><Code>NoSuchKey</Code></Error>", "XML"),
        (b"<?xml version='1.0'?>\n<svg xmlns='http://www.w3.org/2000/svg'/>", "SVG"),
        (json.dumps({"error": "not found"}).encode(), "JSON"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n", "Git LFS pointer"),
        ("ein Bild, gr\u00f6\u00dfer\n".encode(), "text"),
        (b"BM is not a bitmap, but a text about one", "text"),
        (bytes(9_000), "zeros"),
        (bytes(range(1, 200)), None),
        (b"", None),
    ],
)  # fmt: skip
def test_files_are_named_by_their_bytes(data: bytes, name: str | None) -> None:
    assert name_of_format(data) == name
    if known_format(data) is None and data:
        for decode in (decode_image, decode_mask, image_size, image_kind):
            with pytest.raises(BadFile) as refused:
                decode(data)
            assert (str(refused.value), refused.value.fault) == (refusal(data), "other_format")


def test_refusals_say_what_to_do() -> None:
    assert refusal(ftyp(b"heic")).startswith("this is a HEIC image (iPhone): convert it to JPEG; an iPhone takes JPEG")
    assert "git lfs pull" in refusal(b"version https://git-lfs.github.com/spec/v1\n")
    assert "download the image itself" in refusal(b"<html>")


def test_a_raw_photograph_in_a_tiff_is_not_its_preview() -> None:
    for tag, value in ((254, 1), (50706, b"\1\4\0\0")):
        exif = Image.Exif()
        exif[tag] = value
        with pytest.raises(BadFile, match="this is a raw photograph of a camera: develop it"):
            decode_image(encoded(PHOTO, "TIFF", exif=exif))


@pytest.mark.parametrize("trailer", TRAILERS)
@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "TIFF", "BMP"])
def test_data_after_an_image_is_ignored(form: str, trailer: str) -> None:
    whole = encoded(PHOTO, form)
    np.testing.assert_array_equal(decode_image(whole + TRAILERS[trailer]), decode_image(whole))
    assert not ends_early(whole + TRAILERS[trailer])
    if form != "JPEG":
        ids = np.arange(200, dtype=np.uint8).reshape(10, 20)
        if form != "WEBP":
            np.testing.assert_array_equal(decode_mask(encoded(ids, form) + TRAILERS[trailer]), ids)


@pytest.mark.parametrize("trailer", TRAILERS)
@pytest.mark.parametrize("photo", [JPEG, PROGRESSIVE])
def test_a_cut_jpeg_is_truncated_and_one_with_a_cut_trailer_is_whole(photo: bytes, trailer: str) -> None:
    behind = TRAILERS[trailer]
    assert decode_image(photo + behind[: len(behind) // 2]).shape == (120, 160, 3)
    for short in (photo[:-2], photo[: len(photo) // 2]):
        assert ends_early(short)
        with pytest.raises(BadFile) as refused:
            decode_image(short)
        assert refused.value.fault == "truncated"


@pytest.mark.parametrize("form", ["JPEG", "progressive", "CMYK", "PNG", "WEBP", "TIFF", "LZW", "BMP"])
def test_wherever_a_file_is_cut_it_is_truncated(form: str) -> None:
    """libjpeg may report several errors for a cut file, and the early end is not always the last of them."""
    small = PHOTO.resize((48, 36))
    data = {
        "progressive": lambda: encoded(small, "JPEG", progressive=True),
        "CMYK": lambda: encoded(small.convert("CMYK"), "JPEG", progressive=True),
        "LZW": lambda: encoded(small, "TIFF", compression="tiff_lzw"),
    }.get(form, lambda: encoded(small, form))()
    for length in range(300, len(data), 1 + (len(data) - 300) // 400):
        with pytest.raises(BadFile) as refused:
            decode_image(data[:length])
        assert refused.value.fault == "truncated", (length, len(data), refused.value)


def test_several_images_in_one_file() -> None:
    others = [PHOTO.rotate(180), PHOTO.rotate(90)]
    for form in ("PNG", "WEBP", "TIFF"):
        data = encoded(PHOTO, form, save_all=True, append_images=others, lossless=True)
        assert image_kind(data) == ImageKind(1, ("frames",))
        np.testing.assert_array_equal(decode_image(data), np.asarray(PHOTO))
    stereo = encoded(PHOTO, "MPO", save_all=True, append_images=others)
    assert image_kind(stereo) == ImageKind(1, ()) and jpeg_scans(stereo, 100) == 1
    np.testing.assert_array_equal(decode_image(stereo), decode_image(encoded(PHOTO, "JPEG")))


def test_scans_are_counted_up_to_the_end_of_the_first_image() -> None:
    with Image.open(io.BytesIO(PROGRESSIVE)):
        scans = PROGRESSIVE.count(b"\xff\xda")
    assert scans > 5 and jpeg_scans(PROGRESSIVE, 100) == scans
    assert jpeg_scans(PROGRESSIVE, 3) == 4  # enough to know that there are more
    assert jpeg_scans(JPEG, 100) == 1
    for behind in TRAILERS.values():
        assert jpeg_scans(JPEG + behind, 100) == 1
    thumbnail = encoded(PHOTO.resize((16, 12)), "JPEG", progressive=True)
    segment = b"\xff\xe1" + struct.pack(">H", len(thumbnail) + 8) + b"Exif\0\0" + thumbnail
    assert jpeg_scans(JPEG[:2] + segment + JPEG[2:], 100) == 1
    assert has_exif(JPEG[:2] + segment + JPEG[2:]) and not has_exif(JPEG)
    # restart markers and stuffed zeros lie between coded pixels
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 255, (96, 128, 3), np.uint8))
    for extra in ({}, {"restart_marker_rows": 1}):
        data = encoded(noise, "JPEG", quality=100, **extra)
        assert b"\xff\0" in data and (b"\xff\xd0" in data) is bool(extra)
        assert jpeg_scans(data, 100) == 1 and not ends_early(data)
    # scans that follow each other directly count
    scan = PROGRESSIVE[PROGRESSIVE.index(b"\xff\xda") : PROGRESSIVE.index(b"\xff\xda") + 12]
    assert jpeg_scans(JPEG[:-2] + 300 * scan + b"\xff\xd9", 100) == 101


@pytest.mark.parametrize("size", [(1, 1), (1, 700), (700, 1)])
@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "TIFF", "BMP"])
def test_tiny_and_narrow_images_are_read(form: str, size: tuple[int, int]) -> None:
    data = encoded(Image.new("RGB", size, (10, 200, 30)), form)
    assert decode_image(data).shape == (size[1], size[0], 3)
    assert decode_image(data, (1, 1)).size and image_size(data) == (size[1], size[0])


def test_images_without_a_pixel_are_refused() -> None:
    jpeg = bytearray(JPEG)
    at = jpeg.index(b"\xff\xc0") + 5
    jpeg[at + 2 : at + 4] = b"\0\0"
    png = bytearray(encoded(PHOTO, "PNG"))
    png[16:20] = bytes(4)
    for data in (jpeg, png):
        for decode in (decode_image, image_size):
            with pytest.raises(BadFile):
                decode(bytes(data))
