"""Decoding images and masks, compared with Pillow; what is refused, and how."""

import io
import pickle
import struct
import zlib
from collections.abc import Callable

import cv2
import numpy as np
import pytest
from PIL import Image, ImageOps

from foodseg.data.image_io import (
    BadFile,
    ImageKind,
    decode_image,
    decode_mask,
    encode_mask,
    fit_longest,
    image_kind,
    image_size,
    resize_image,
    resize_mask,
    upright,
)
from foodseg.errors import UserError

_NOISE = np.random.default_rng(0).integers(0, 255, (9, 12, 3), np.uint8)
PHOTO = Image.fromarray(cv2.resize(_NOISE, (160, 120), interpolation=cv2.INTER_CUBIC))


def encoded(image: Image.Image | np.ndarray, form: str, **options: object) -> bytes:
    sink = io.BytesIO()
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(sink, form, **options)
    return sink.getvalue()


def turned(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


def by_pillow(data: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(data)) as image:
        return np.asarray(ImageOps.exif_transpose(image).convert("RGB")).astype(int)


def png(width: int, height: int, depth: int, colour: int, packed: bytes = b"") -> bytes:
    """A PNG by hand; `packed` holds its rows with their filter bytes."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    palette = chunk(b"PLTE", bytes(3 * 2**depth)) if colour == 3 else b""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    return (
        b"\x89PNG\r\n\x1a\n" + header + palette + chunk(b"IDAT", zlib.compress(packed or b"\0")) + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_every_exif_orientation_is_applied(form: str, orientation: int) -> None:
    data = encoded(PHOTO, form, exif=turned(orientation))
    expected = by_pillow(data)
    decoded = decode_image(data)
    assert (decoded.shape, decoded.dtype) == (expected.shape, np.uint8)
    assert np.abs(decoded - expected).mean() < 1
    assert image_size(data) == expected.shape[:2] == ((160, 120) if orientation > 4 else (120, 160))
    # a quarter of the size, with the sides of the upright image
    height, width = expected.shape[:2]
    if form == "JPEG":
        assert decode_image(data, (height // 4, width // 4)).shape == (height // 4, width // 4, 3)


@pytest.mark.parametrize("before", [0, 5_000, 70_000, 140_000])
def test_exif_behind_a_long_colour_profile_is_found(before: int) -> None:
    data, profile = encoded(PHOTO, "JPEG", exif=turned(6)), b""
    while before:
        part = min(before, 60_000)
        profile, before = profile + b"\xff\xe2" + struct.pack(">H", part + 2) + b"x" * part, before - part
    assert decode_image(data[:2] + profile + data[2:]).shape == (160, 120, 3)
    assert image_size(data[:2] + profile + data[2:]) == (160, 120)


def test_damaged_exif_and_the_word_exif_elsewhere_leave_the_image_upright() -> None:
    data = encoded(PHOTO, "JPEG", exif=turned(6))
    torn = data.replace(b"Exif\x00\x00MM", b"Exif\x00\x00zz").replace(b"Exif\x00\x00II", b"Exif\x00\x00zz")
    assert torn != data
    for each in (torn, encoded(PHOTO, "JPEG", comment=b"Exif\x00\x00")):
        assert (decode_image(each).shape, image_size(each)) == ((120, 160, 3), (120, 160))


@pytest.mark.parametrize("mode", ["L", "CMYK", "RGB"])
def test_jpeg_modes(mode: str) -> None:
    data = encoded(PHOTO.convert(mode), "JPEG")
    assert np.abs(decode_image(data) - by_pillow(data)).mean() < 1


@pytest.mark.parametrize("mode", ["L", "P", "RGB", "RGBA", "1", "LA"])
def test_png_modes(mode: str) -> None:
    data = encoded(PHOTO.convert(mode), "PNG")
    np.testing.assert_array_equal(decode_image(data), by_pillow(data))


@pytest.mark.parametrize("form", ["BMP", "TIFF", "WEBP"])
def test_other_formats(form: str) -> None:
    data = encoded(PHOTO, form, **({"lossless": True} if form == "WEBP" else {}))
    np.testing.assert_array_equal(decode_image(data), np.asarray(PHOTO))
    assert image_size(data) == (120, 160)


def test_transparent_parts_are_laid_on_white() -> None:
    opacity = np.tile(np.array([0, 51, 255], np.uint8).repeat(54)[:160], (120, 1))
    data = encoded(np.dstack([np.asarray(PHOTO), opacity]), "PNG")
    share = opacity[:, :, None] / 255
    expected = np.asarray(PHOTO) * share + 255 * (1 - share)
    assert np.abs(decode_image(data) - expected).max() <= 1
    palette = PHOTO.quantize(4)
    colours = np.array(palette.convert("RGB"))
    colours[np.asarray(palette) == 0] = 255
    np.testing.assert_array_equal(decode_image(encoded(palette, "PNG", transparency=0)), colours)


@pytest.mark.parametrize(
    ("data", "traits"),
    [
        (encoded(PHOTO, "JPEG"), ()),
        (encoded(PHOTO, "JPEG", progressive=True, quality=20), ()),
        (encoded(PHOTO, "PNG"), ()),
        (encoded(PHOTO, "WEBP"), ()),
        (encoded(PHOTO, "BMP"), ()),
        (encoded(PHOTO, "TIFF"), ()),
        (encoded(PHOTO.convert("L"), "JPEG"), ("grey",)),
        (encoded(PHOTO.convert("L"), "TIFF"), ("grey",)),
        (encoded(PHOTO.convert("1"), "PNG"), ("grey",)),
        (encoded(PHOTO.convert("LA"), "PNG"), ("alpha", "grey")),
        (encoded(PHOTO.convert("RGBA"), "PNG"), ("alpha",)),
        (encoded(PHOTO.convert("RGBA"), "TIFF"), ("alpha",)),
        (encoded(Image.new("RGBA", (9, 9), (1, 2, 3, 99)), "WEBP"), ("alpha",)),
        (encoded(PHOTO, "PNG", transparency=(1, 2, 3)), ("alpha",)),
        (encoded(PHOTO.convert("CMYK"), "JPEG"), ("cmyk",)),
        (encoded(PHOTO.convert("CMYK"), "TIFF"), ("cmyk",)),
        (encoded(PHOTO.quantize(9), "PNG"), ("palette",)),
        (encoded(PHOTO.quantize(9), "PNG", transparency=3), ("alpha", "palette")),
        (encoded(np.zeros((3, 4), np.uint16), "PNG"), ("sixteen_bit", "grey")),
        (encoded(np.zeros((3, 4), np.uint16), "TIFF"), ("sixteen_bit", "grey")),
        (png(2, 1, 16, 2, b"\0" + bytes(12)), ("sixteen_bit",)),
        (png(2, 1, 16, 4, b"\0" + bytes(8)), ("alpha", "sixteen_bit", "grey")),
        (png(2, 1, 16, 6, b"\0" + bytes(16)), ("alpha", "sixteen_bit")),
    ],
)
def test_what_is_converted(data: bytes, traits: tuple[str, ...]) -> None:
    assert image_kind(data) == ImageKind(1, traits)
    assert decode_image(data).shape[2] == 3


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_orientation_is_reported(form: str) -> None:
    assert [image_kind(encoded(PHOTO, form, exif=turned(n))).orientation for n in range(1, 10)] == [*range(1, 9), 1]


def test_sixteen_bit_grey_becomes_eight_bit() -> None:
    decoded = decode_image(encoded(np.array([[0, 256, 257, 128 * 257, 65535]], np.uint16), "PNG"))
    assert decoded[0].tolist() == [[v, v, v] for v in (0, 0, 1, 128, 255)]


@pytest.mark.parametrize(
    ("at_least", "size"),
    [
        (None, (120, 160)),
        ((120, 160), (120, 160)),
        ((200, 300), (120, 160)),
        ((100, 100), (105, 140)),  # 7/8
        ((61, 1), (75, 100)),  # 5/8
        ((60, 80), (60, 80)),
        ((30, 40), (30, 40)),
        ((30, 41), (45, 60)),
        ((15, 20), (15, 20)),
        ((1, 1), (15, 20)),  # never below 1/8
    ],
)
def test_the_reduced_size_is_the_least_that_suffices(at_least: tuple[int, int] | None, size: tuple[int, int]) -> None:
    assert decode_image(encoded(PHOTO, "JPEG"), at_least).shape[:2] == size
    assert decode_image(encoded(PHOTO, "PNG"), at_least).shape[:2] == (120, 160)


def test_a_truncated_jpeg_is_refused_and_what_lies_behind_a_whole_one_does_not_matter() -> None:
    data = encoded(PHOTO, "JPEG")
    half = data[: len(data) // 2]
    for short in (half, data[:-2], half + b"\xff\xd9"):
        with pytest.raises(BadFile, match="the image cannot be decoded") as refused:
            decode_image(short)
        assert refused.value.fault == "truncated"
    np.testing.assert_array_equal(decode_image(data + half), decode_image(data))


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize("orientation", [1, 6])
def test_a_cut_jpeg_with_an_end_is_truncated_in_every_mode(mode: str, orientation: int) -> None:
    data = encoded(PHOTO.convert(mode), "JPEG", exif=turned(orientation))
    assert decode_image(data).shape == decode_image(data).shape
    with pytest.raises(BadFile) as refused:
        decode_image(data[: len(data) * 2 // 3] + b"\xff\xd9")
    assert refused.value.fault == "truncated"


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "TIFF", "BMP"])
def test_a_file_that_ends_early_is_truncated_and_nothing_else_escapes(form: str) -> None:
    data = encoded(PHOTO, form)
    for share in (0.1, 0.3, 0.5, 0.9):
        with pytest.raises(BadFile) as refused:
            decode_image(data[: int(len(data) * share)])
        assert refused.value.fault == "truncated", (share, refused.value)


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "TIFF", "BMP"])
@pytest.mark.filterwarnings("ignore")
def test_damage_never_gives_anything_but_an_image_or_a_refusal(form: str) -> None:
    whole = encoded(PHOTO.resize((32, 24)), form, exif=turned(6))
    rng = np.random.default_rng(0)
    for _ in range(150):
        data = bytearray(whole)
        # headers lie at the front, where damage does most
        for at in (rng.random(3) ** 3 * len(data)).astype(int):
            data[at] = rng.integers(256)
        for decode in (decode_image, image_size, image_kind, decode_mask):
            try:
                found = decode(bytes(data))
            except BadFile as refusal:
                assert str(refusal) and "\n" not in str(refusal)
                continue
            if decode is decode_image:
                assert found.ndim == 3 and found.dtype == np.uint8 and found.size
            if decode is decode_mask:
                assert found.ndim == 2 and found.dtype in (np.uint8, np.uint16)


@pytest.mark.parametrize("decode", [decode_image, decode_mask, image_size])
@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "^the file is empty$"),
        (b"hello", "this is plain text: give an image"),
        (bytes(range(256)), "not a known image format"),
        (encoded(PHOTO, "GIF"), "this is a GIF image: save it as PNG"),
        (encoded(PHOTO, "JPEG")[:100], "not a readable image|saved as JPEG"),
        (encoded(PHOTO.convert("L"), "PNG")[:-1000], "cannot be decoded|truncated"),
        (png(11_000, 10_000, 8, 0), "11000 x 10000 pixels are more than the limit of 100,000,000"),
        (png(50_000, 50_000, 8, 0), "pixels.* than the limit of 100,000,000"),
        (png(50_000, 50_000, 8, 3), "pixels.* than the limit of 100,000,000"),
    ],
)
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_what_is_refused(decode: Callable[[bytes], object], data: bytes, words: str) -> None:
    with pytest.raises(UserError, match=words):
        decode(data)


def test_a_jpeg_bomb_is_refused_by_its_header() -> None:
    data = bytearray(encoded(PHOTO, "JPEG"))
    at = data.index(b"\xff\xc0") + 5
    data[at : at + 4] = struct.pack(">HH", 60_000, 60_000)
    for decode in (decode_image, image_size):
        with pytest.raises(UserError, match=r"more .*than the limit of 100,000,000"):
            decode(bytes(data))


def test_a_png_with_a_flipped_bit_is_refused() -> None:
    data = bytearray(encoded(PHOTO, "PNG"))
    data[len(data) // 2] ^= 255
    with pytest.raises(UserError, match="the image cannot be decoded"):
        decode_image(bytes(data))


@pytest.mark.parametrize(("dtype", "top"), [(np.uint8, 255), (np.uint16, 65535)])
def test_masks_round_trip_exactly(dtype: type, top: int) -> None:
    mask = np.random.default_rng(1).integers(0, top + 1, (7, 5)).astype(dtype)
    data = encode_mask(mask)
    np.testing.assert_array_equal(decode_mask(data), mask)
    assert decode_mask(data).dtype == dtype
    with Image.open(io.BytesIO(data)) as image:
        np.testing.assert_array_equal(np.asarray(image), mask)


def saved(array: np.ndarray, form: str, **options: object) -> bytes:
    sink = io.BytesIO()
    Image.fromarray(array).save(sink, form, **options)
    return sink.getvalue()


@pytest.mark.parametrize(
    ("data", "ids"),
    [
        (png(8, 1, 1, 0, b"\0\x11"), [0, 0, 0, 1, 0, 0, 0, 1]),
        (png(4, 1, 2, 0, b"\0\x1b"), [0, 1, 2, 3]),
        (png(4, 1, 4, 0, b"\0\x01\xfa"), [0, 1, 15, 10]),
        (saved(np.array([[True, False]]), "PNG"), [1, 0]),
        (saved(np.array([[True, False]]), "TIFF"), [1, 0]),
        (saved(np.array([[0, 3, 254]], np.float32), "TIFF"), [0, 3, 254]),
        (saved(np.array([[0, 3, 254]], np.uint8), "TIFF"), [0, 3, 254]),
        (saved(np.array([[0, 3, 254]], np.uint8), "BMP"), [0, 3, 254]),
        (saved(np.array([[0, 3, 254]], np.uint8), "WEBP", lossless=True), [0, 3, 254]),
    ],
)
def test_ids_in_other_numbers_of_bits_and_other_files(data: bytes, ids: list[int]) -> None:
    mask = decode_mask(data)
    assert mask.tolist() == [ids] and mask.dtype in (np.uint8, np.uint16)


def test_masks_of_other_kinds() -> None:
    ids = np.array([[0, 3, 103], [255, 1, 0]], np.uint8)
    palette = Image.fromarray(ids)
    palette.putpalette(list(range(255, -1, -1)) * 3)
    for data in (encoded(palette, "PNG"), encoded(ids, "BMP"), encoded(ids, "TIFF")):
        np.testing.assert_array_equal(decode_mask(data), ids)
    np.testing.assert_array_equal(decode_mask(png(4, 1, 2, 3, b"\0\x1b")), [[0, 1, 2, 3]])
    wide = encoded(Image.fromarray(np.array([[0, 70, 65535]], np.int32)), "TIFF")
    np.testing.assert_array_equal(decode_mask(wide), [[0, 70, 65535]])
    assert decode_mask(wide).dtype == np.uint16


@pytest.mark.parametrize("form", ["PNG", "TIFF", "BMP"])
@pytest.mark.parametrize("channels", [2, 3, 4])
def test_grey_masks_with_several_channels_are_read(form: str, channels: int) -> None:
    ids = np.array([[0, 3, 103], [255, 1, 0]], np.uint8)
    if (form, channels) == ("BMP", 2):
        return  # BMP has no such mode
    opaque = np.full_like(ids, 255)
    mask = np.dstack([ids] * (channels - 1 + channels % 2) + [opaque] * (1 - channels % 2))
    np.testing.assert_array_equal(decode_mask(encoded(mask, form)), ids)


@pytest.mark.parametrize("channels", [3, 4])
def test_sixteen_bit_grey_masks_with_several_channels_are_read(channels: int) -> None:
    ids = np.array([[0, 300, 65535], [7, 1, 256]], np.uint16)
    mask = np.dstack([ids, ids, ids, np.full_like(ids, 65535)][:channels])
    found = decode_mask(cv2.imencode(".png", mask)[1].tobytes())
    assert found.dtype == np.uint16
    np.testing.assert_array_equal(found, ids)
    coloured = np.dstack([ids, ids, ids // 2])
    with pytest.raises(UserError, match="such as RGB 32767, 65535, 65535"):
        decode_mask(cv2.imencode(".png", coloured)[1].tobytes())


def test_masks_in_colours_are_refused_with_what_to_do() -> None:
    voc = Image.new("RGB", (6, 4), (128, 0, 0))
    with pytest.raises(UserError, match=r"all of them shades of red.*--format uecfoodpix"):
        decode_mask(encoded(voc, "PNG"))
    voc.putpixel((1, 1), (0, 128, 64))
    with pytest.raises(UserError, match="in colours, such as RGB 128, 0, 0: replace every colour by the id"):
        decode_mask(encoded(voc, "PNG"))
    clear = np.dstack([np.ones((2, 2), np.uint8)] * 3 + [np.array([[255, 0], [255, 255]], np.uint8)])
    with pytest.raises(UserError, match="partly transparent"):
        decode_mask(encoded(clear, "PNG"))
    with pytest.raises(UserError, match="saved as JPEG"):
        decode_mask(encoded(PHOTO, "JPEG"))


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (encoded(PHOTO, "PNG"), r"one class id per pixel, this one is in colours, such as RGB \d+, \d+, \d+: replace"),
        (encoded(PHOTO.convert("L"), "JPEG"), "a mask saved as JPEG holds blurred ids: save it as PNG"),
        (encoded(PHOTO.convert("CMYK"), "TIFF"), "one class id per pixel .* mode CMYK"),
        (encoded(Image.fromarray(np.array([[-1]], np.int32)), "TIFF"), "ids from 0 to 65535"),
        # a decoder would stretch the id 1 to 255 = ignore, 85 and 17
        (saved(np.full((4, 4), 0.5, np.float32), "TIFF"), "holds whole ids, this one has fractions"),
        (saved(np.full((4, 4), -1, np.float32), "TIFF"), "holds ids from 0 to 65535"),
        (saved(np.full((4, 4), 2, np.uint8), "WEBP"), "saved as WEBP with loss holds blurred ids: save it as PNG"),
    ],
)
def test_masks_that_are_refused(data: bytes, words: str) -> None:
    with pytest.raises(UserError, match=words):
        decode_mask(data)


@pytest.mark.parametrize(
    ("size", "longest", "expected"),
    [
        ((300, 400), 512, (384, 512)),
        ((400, 300), 200, (200, 150)),
        ((1, 1), 8, (8, 8)),
        ((1, 1000), 10, (1, 10)),
        ((480, 640), 640 * 0.75, (360, 480)),
    ],
)
def test_fit_longest(size: tuple[int, int], longest: float, expected: tuple[int, int]) -> None:
    assert fit_longest(*size, longest) == expected


@pytest.mark.parametrize("orientation", range(1, 9))
def test_upright_turns_masks_as_images(orientation: int) -> None:
    image = np.arange(24, dtype=np.uint8).reshape(2, 4, 3)
    np.testing.assert_array_equal(upright(image, orientation)[:, :, 1], upright(image[:, :, 1], orientation))


def test_a_bad_file_travels_between_processes() -> None:
    error = pickle.loads(pickle.dumps(BadFile("cut", "truncated")))
    assert (str(error), error.fault) == ("cut", "truncated")


def test_resizing() -> None:
    image = np.array([[0, 100], [200, 40]], np.uint8)[:, :, None].repeat(3, 2)
    mask = np.array([[1, 2], [3, 4]], np.uint16)
    assert resize_image(image, 2, 2) is image and resize_mask(mask, 2, 2) is mask
    np.testing.assert_array_equal(resize_mask(mask, 4, 2), [[1, 2], [1, 2], [3, 4], [3, 4]])
    stripes = np.tile(np.array([0, 255], np.uint8), (8, 16))[:, :, None].repeat(3, 2)
    assert set(resize_image(stripes, 2, 8).ravel().tolist()) == {128}, "shrunk by area: no stripe survives"
    assert resize_image(image, 3, 3)[1, 1].tolist() == [85] * 3, "the mean of four"
