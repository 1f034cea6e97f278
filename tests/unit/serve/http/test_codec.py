"""Images are decoded, or refused by their header; answers agree with maps worked out by hand."""

import base64
import io
import struct
import tracemalloc
import zlib
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image

from foodseg.config.serve import ImageConfig
from foodseg.data.image_io import decode_mask
from foodseg.serve.http import codec
from foodseg.serve.http.masks import from_rle
from foodseg.serve.http.schema import ApiError, Rle
from foodseg.serve.protocols import Labelled, SamMask

LIMITS = ImageConfig(max_pixels=100_000, longest_side=64)
NAMES = ("background", "rice", "egg", "soup")


def _rainbow(height: int, width: int) -> np.ndarray:
    ys, xs = np.mgrid[:height, :width]
    return np.stack([ys * 255 // height, xs * 255 // width, np.full_like(ys, 90)], axis=-1).astype(np.uint8)


def _encoded(image: np.ndarray, format: str, **options: object) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(image).save(stream, format, **options)
    return stream.getvalue()


def _png_header(width: int, height: int) -> bytes:
    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header))


def _refused(data: bytes, config: ImageConfig = LIMITS) -> ApiError:
    with pytest.raises(ApiError) as caught:
        codec.read_image(data, config)
    return caught.value


# --- images ---


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP"])
def test_a_small_image_keeps_its_size(format: str) -> None:
    image = _rainbow(40, 50)
    sample_image = codec.read_image(_encoded(image, format), LIMITS)
    assert (sample_image.height, sample_image.width) == (40, 50)
    assert sample_image.image.shape == (40, 50, 3) and sample_image.image.dtype == np.uint8
    assert sample_image.image.flags["C_CONTIGUOUS"]
    assert np.abs(sample_image.image.astype(int) - image).mean() < 6


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP"])
def test_a_large_image_is_decoded_within_the_longest_side(format: str) -> None:
    image = _rainbow(300, 200)
    sample_image = codec.read_image(_encoded(image, format), LIMITS)
    assert (sample_image.height, sample_image.width) == (300, 200)
    assert sample_image.image.shape == (64, 43, 3)
    assert sample_image.image.flags["C_CONTIGUOUS"]
    assert np.abs(sample_image.image.astype(int) - _rainbow(64, 43)).mean() < 6


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP"])
def test_a_turned_image_is_upright(format: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # stored lying, to be turned clockwise
    lying = np.rot90(_rainbow(300, 200))
    sample_image = codec.read_image(_encoded(np.ascontiguousarray(lying), format, exif=exif), LIMITS)
    assert (sample_image.height, sample_image.width) == (300, 200)
    assert np.abs(sample_image.image.astype(int) - _rainbow(64, 43)).mean() < 6


def test_extreme_shapes() -> None:
    sample_image = codec.read_image(_encoded(_rainbow(1, 2000), "PNG"), LIMITS)
    assert sample_image.image.shape == (1, 64, 3)
    assert codec.read_image(_encoded(_rainbow(1, 1), "PNG"), LIMITS).image.shape == (1, 1, 3)


@pytest.mark.parametrize(
    ("data", "found"),
    [
        (b"GIF89a" + bytes(50), "GIF"),
        (b"BM" + bytes(50), "BMP"),
        (b"II*\0" + bytes(50), "TIFF"),
        (b"%PDF-1.7", "PDF"),
        (b"\0\0\0\x18ftypheic" + bytes(50), "HEIC"),
        (b"\0\0\0\x18ftypavif" + bytes(50), "AVIF"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "SVG"),
        (b"hello", "text"),
        (b"RIFF\0\0\0\0WAVE", "no known format"),
        (b"\xff", "no known format"),
    ],
)
def test_other_formats_are_named(data: bytes, found: str) -> None:
    error = _refused(data)
    assert (error.status, error.code) == (415, "unsupported_format")
    assert found in error.message and "JPEG" in error.hint


@pytest.mark.parametrize("behind", ["motion photo", "gain map", "zeros"])
@pytest.mark.parametrize("options", [{}, {"progressive": True}])
def test_scans_behind_the_end_of_a_jpeg_do_not_count(behind: str, options: dict[str, object]) -> None:
    sink = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (96, 128, 3), np.uint8)).save(sink, "JPEG", **options)
    trailer = {
        "motion photo": b"\0\0\0\x18ftypmp42" + np.random.default_rng(1).bytes(8_000_000),
        "gain map": 120 * sink.getvalue(),
        "zeros": bytes(10_000),
    }[behind]
    assert behind != "motion photo" or trailer.count(b"\xff\xda") > codec.MAX_SCANS
    sample_image = codec.read_image(sink.getvalue() + trailer, ImageConfig())
    np.testing.assert_array_equal(sample_image.image, codec.read_image(sink.getvalue(), ImageConfig()).image)


def test_an_empty_image() -> None:
    assert (_refused(b"").status, _refused(b"").code) == (422, "empty_image")


WEBP_LOSSLESS = b"RIFF" + bytes(4) + b"WEBPVP8L" + bytes(4) + b"\x2f" + ((16382 | 16382 << 14).to_bytes(4, "little"))
WEBP_EXTENDED = b"RIFF" + bytes(4) + b"WEBPVP8X" + bytes(8) + (16777214).to_bytes(3, "little") * 2
WEBP_LOSSY = b"RIFF" + bytes(4) + b"WEBPVP8 " + bytes(4) + bytes(3) + b"\x9d\x01\x2a" + struct.pack("<HH", 16383, 16383)


def _huge_jpeg() -> bytes:
    data = bytearray(_encoded(_rainbow(8, 8), "JPEG"))
    frame = data.index(b"\xff\xc0")
    data[frame + 5 : frame + 9] = struct.pack(">HH", 65500, 65500)
    return bytes(data)


BOMBS = [_png_header(60000, 60000) + bytes(100), WEBP_LOSSLESS, WEBP_EXTENDED, WEBP_LOSSY, _huge_jpeg()]


@pytest.mark.parametrize("data", BOMBS)
def test_pixels_are_counted_before_they_are_decoded(data: bytes) -> None:
    tracemalloc.start()
    error = _refused(data, ImageConfig(max_pixels=50_000_000))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (error.status, error.code) == (422, "too_many_pixels")
    assert "50,000,000" in error.message and "1024" in error.hint
    assert peak < 1 << 20


def test_a_real_bomb_is_refused() -> None:
    # 400 megapixels of one colour in a few hundred kilobytes
    rows = zlib.compress(bytes(1 + 20000 * 3) * 100, 9)
    body = b"IDAT" + rows
    data = _png_header(20000, 20000) + struct.pack(">I", len(rows)) + body + struct.pack(">I", zlib.crc32(body))
    assert _refused(data, ImageConfig()).code == "too_many_pixels"


def test_the_limit_itself_is_allowed() -> None:
    data = _encoded(_rainbow(250, 400), "PNG")
    assert codec.read_image(data, LIMITS).width == 400
    assert _refused(data, ImageConfig(max_pixels=99_999, longest_side=64)).code == "too_many_pixels"


def test_a_jpeg_of_countless_scans() -> None:
    data = _encoded(_rainbow(30, 30), "JPEG", progressive=True)
    assert codec.read_image(data, LIMITS).width == 30
    scan = data.rindex(b"\xff\xda")
    assert _refused(data[:scan] + data[scan:-2] * 200 + data[-2:]).code == "too_many_scans"


def _damaged() -> list[Callable[[bytes, np.random.Generator], bytes]]:
    return [
        lambda data, random: data[: len(data) // 2],
        lambda data, random: data[: random.integers(3, 60)],
        lambda data, random: data[:40] + random.bytes(400),
        lambda data, random: data[:12] + random.bytes(len(data)),
        lambda data, random: _with_noise(data, random),
    ]


def _with_noise(data: bytes, random: np.random.Generator) -> bytes:
    array = np.frombuffer(data, np.uint8).copy()
    array[random.integers(8, len(array), 30)] = random.integers(0, 256, 30)
    return array.tobytes()


@pytest.mark.parametrize("damage", _damaged())
@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP"])
def test_damage_is_a_refusal_or_an_image(format: str, damage: Callable[[bytes, np.random.Generator], bytes]) -> None:
    data = _encoded(_rainbow(120, 90), format)
    random = np.random.default_rng(7)
    for _ in range(40):
        try:
            sample_image = codec.read_image(damage(data, random), LIMITS)
        except ApiError as error:
            assert error.status in (415, 422)
        else:  # a changed pixel cannot be detected
            assert sample_image.image.ndim == 3 and max(sample_image.image.shape[:2]) <= 64


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP"])
def test_half_an_image_is_not_labelled(format: str) -> None:
    data = _encoded(np.random.default_rng(0).integers(0, 256, (90, 90, 3)).astype(np.uint8), format)
    error = _refused(data[: len(data) // 2])
    assert (error.status, error.code) == (422, "damaged_image")


# --- coordinates ---


def test_decoded_size() -> None:
    assert codec.decoded_size(3000, 4000, ImageConfig(longest_side=1024)) == (768, 1024)
    assert codec.decoded_size(300, 400, ImageConfig(longest_side=1024)) == (300, 400)


def test_points_and_boxes_follow_the_image() -> None:
    points, region = codec.to_decoded([(400.0, 100.0, 1)], (0.0, 40.0, 800.0, 80.0), (400, 800), (50, 200))
    assert points == [(100.0, 12.5, 1)]
    assert region == (0.0, 5.0, 200.0, 10.0)


# --- answers ---


def _labelled() -> Labelled:
    ids = np.array([[0, 2, 2, 2], [0, 1, 3, 3]], np.uint8)
    return Labelled(ids, None, {0: 1.0, 1: 0.25, 2: 0.5, 3: 1.0}, "meals", "ab" * 32)


def test_an_answer_by_hand() -> None:
    # twice as high and wide: each pixel of the map is 4 of the image
    answer = codec.segment_answer(_labelled(), NAMES, (4, 8), "rle", request_id="r", image_id="i", pixels_per_cm=2.0)
    assert (answer.image.width, answer.image.height, answer.image.id) == (8, 4, "i")
    assert (answer.model.name, answer.model.sha, answer.refined) == ("meals", "ab" * 32, False)
    assert answer.label_map is None
    assert [(i.id, i.name, i.pixels, i.share_of_food, i.share_of_image, i.cm2) for i in answer.ingredients] == [
        (2, "egg", 12, 12 / 24, 12 / 32, 3.0),
        (3, "soup", 8, 8 / 24, 8 / 32, 2.0),
        (1, "rice", 4, 4 / 24, 4 / 32, 1.0),
    ]
    assert [i.confidence for i in answer.ingredients] == [0.5, 1.0, 0.25]
    assert all(len(i.colour) == 7 for i in answer.ingredients)
    rice = answer.ingredients[-1].mask
    assert isinstance(rice, Rle)
    assert np.argwhere(from_rle(rice)).tolist() == [[2, 2], [2, 3], [3, 2], [3, 3]]


def test_an_answer_as_label_map() -> None:
    answer = codec.segment_answer(_labelled(), NAMES, (2, 4), "png", request_id="r")
    assert all(i.mask is None for i in answer.ingredients)
    assert answer.label_map is not None
    assert decode_mask(base64.b64decode(answer.label_map)).tolist() == _labelled().ids.tolist()


def test_an_answer_as_polygons() -> None:
    answer = codec.segment_answer(_labelled(), NAMES, (20, 40), "polygons", request_id="r")
    (ring,) = answer.ingredients[-1].mask or []
    assert isinstance(ring, list)
    assert {tuple(ring[i : i + 2]) for i in range(0, 8, 2)} == {(10, 10), (10, 20), (20, 10), (20, 20)}


def test_an_image_without_food() -> None:
    labelled = Labelled(np.zeros((2, 2), np.uint8), None, {0: 0.9}, "meals", "ab" * 32)
    assert codec.segment_answer(labelled, NAMES, (2, 2), "rle", request_id="r").ingredients == []


def test_a_region_by_hand() -> None:
    mask = SamMask(np.array([[False, True], [False, False]]), 0.75)
    found = codec.region(mask, (4, 6), "rle")
    assert (found.score, found.pixels, found.share_of_image, found.box) == (0.75, 6, 0.25, (3, 0, 3, 2))


def test_scores_are_sorted() -> None:
    found = codec.name_scores(["a", "b", "c"], [0.2, 0.6, 0.2])
    assert [(s.name, s.score) for s in found] == [("b", 0.6), ("a", 0.2), ("c", 0.2)]


def test_twelve_megapixels_are_encoded_in_little_memory() -> None:
    ids = np.repeat(np.repeat(np.arange(48, dtype=np.uint8).reshape(6, 8), 128, 0), 128, 1)
    labelled = Labelled(ids, None, {}, "meals", "ab" * 32)
    names = ("background", *(f"food {index}" for index in range(1, 48)))
    tracemalloc.start()
    answer = codec.segment_answer(labelled, names, (3000, 4000), "rle", request_id="r")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(answer.ingredients) == 47
    assert sum(i.pixels for i in answer.ingredients) == 12_000_000 - 500 * 500
    assert peak < 100 << 20
