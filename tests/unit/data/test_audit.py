"""What a record of a source data set holds, or the sentence with which it is refused."""

import io
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from foodseg.classes import ClassTable
from foodseg.data.audit import RecordFacts, Refusal, audit_record, listed_ingredients
from foodseg.data.record import Record
from foodseg.data.sample import encode_mask

CLASSES = ClassTable(("background", "rice", "egg"))
IMAGE = cv2.resize(np.random.default_rng(0).integers(0, 255, (5, 6, 3), np.uint8), (48, 40))


def jpeg(image: np.ndarray = IMAGE, **options: object) -> bytes:
    sink = io.BytesIO()
    Image.fromarray(image).save(sink, "JPEG", **options)
    return sink.getvalue()


def ids(value: int = 0, shape: tuple[int, int] = (40, 48), dtype: type = np.uint8) -> np.ndarray:
    return np.full(shape, value, dtype)


def audited(
    folder: Path, image: bytes | None, mask: bytes | None, classes: ClassTable = CLASSES
) -> RecordFacts | Refusal:
    """Audits a record whose files hold these bytes; None = the picture is missing, or there is no mask."""
    if image is not None:
        (folder / "a.jpg").write_bytes(image)
    if mask is not None:
        (folder / "a.png").write_bytes(mask)
    mask_uri = None if mask is None else str(folder / "a.png")
    return audit_record(Record("a", "train", "s", str(folder / "a.jpg"), mask_uri), classes)


def with_id(value: int, dtype: type = np.uint8) -> bytes:
    mask = ids(dtype=dtype)
    mask[3, 4] = value
    return encode_mask(mask)


@pytest.mark.parametrize(
    ("image", "mask", "reason"),
    [
        (None, None, "a.jpg: no such file"),
        (b"", None, "the file is empty"),
        (b"no picture", None, "not a readable picture"),
        (jpeg()[:-99], None, "the picture cannot be decoded"),
        (jpeg(), b"", "the file is empty"),
        (jpeg(), jpeg(), "a mask holds one class id per pixel (grey or palette), this one has mode RGB"),
        (jpeg(), encode_mask(ids())[:50], "the mask cannot be decoded"),
        (jpeg(), encode_mask(ids(shape=(48, 40))), "the mask is 40 x 48 pixels, the picture 48 x 40"),
        (jpeg(), with_id(3), "the mask holds id 3, but ids go from 0 to 2 (255 = ignore)"),
        (jpeg(), with_id(254), "the mask holds id 254,"),
        (jpeg(), with_id(65535, np.uint16), "the mask holds id 65535,"),
        (jpeg(), encode_mask(ids(255)), "every pixel of the mask is ignored"),
    ],
)
def test_each_refusal_names_its_reason(image: bytes | None, mask: bytes | None, reason: str, tmp_path: Path) -> None:
    found = audited(tmp_path, image, mask)
    assert isinstance(found, Refusal)
    assert reason in found.reason and "\n" not in found.reason
    assert found.record.image_id == "a"


def test_a_missing_mask_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(jpeg())
    found = audit_record(Record("a", "train", "s", str(tmp_path / "a.jpg"), str(tmp_path / "a.png")), CLASSES)
    assert isinstance(found, Refusal) and "a.png: no such file" in found.reason


def test_a_labelled_record(tmp_path: Path) -> None:
    mask = ids()
    mask[:10, :10], mask[20] = 2, 255
    found = audited(tmp_path, jpeg(), encode_mask(mask))
    assert isinstance(found, RecordFacts)
    assert (found.height, found.width) == (40, 48)
    assert found.size == len(jpeg()) + len(encode_mask(mask))
    assert found.class_pixels.tolist() == [40 * 48 - 100 - 48, 0, 100] and found.class_pixels.dtype == np.int64
    assert listed_ingredients(found.class_pixels) == [2]


@pytest.mark.parametrize(("mask", "pixels"), [(encode_mask(ids()), [1920, 0, 0]), (None, [0, 0, 0])])
def test_an_empty_plate_and_an_unlabelled_picture_are_taken(
    mask: bytes | None, pixels: list[int], tmp_path: Path
) -> None:
    found = audited(tmp_path, jpeg(), mask)
    assert isinstance(found, RecordFacts)
    assert found.class_pixels.tolist() == pixels and listed_ingredients(found.class_pixels) == []


def test_sizes_are_those_after_exif(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    found = audited(tmp_path, jpeg(exif=exif), encode_mask(ids(shape=(48, 40))))
    assert isinstance(found, RecordFacts) and (found.height, found.width) == (48, 40)


def test_a_label_space_of_300_classes_ignores_65535_and_counts_255(tmp_path: Path) -> None:
    classes = ClassTable(tuple(map(str, range(300))))
    mask = ids(65535, dtype=np.uint16)
    mask[0, :3] = 255
    found = audited(tmp_path, jpeg(), encode_mask(mask), classes)
    assert isinstance(found, RecordFacts) and listed_ingredients(found.class_pixels) == [255]
    refused = audited(tmp_path, jpeg(), with_id(300, np.uint16), classes)
    assert isinstance(refused, Refusal) and "id 300, but ids go from 0 to 299 (65535 = ignore)" in refused.reason


def test_thumbnails_tell_copies_from_others(tmp_path: Path) -> None:
    def thumbnail(image: np.ndarray, **options: object) -> np.ndarray:
        found = audited(tmp_path, jpeg(image, **options), None)
        assert isinstance(found, RecordFacts)
        return found.thumbnail

    first = thumbnail(IMAGE)
    assert (first.shape, first.dtype) == ((768,), np.float32)
    assert abs(first.mean()) < 1e-6 and np.linalg.norm(first) == pytest.approx(1, abs=1e-5)
    assert first @ thumbnail(cv2.resize(IMAGE, (96, 80)), quality=60) > 0.95
    assert first @ thumbnail(IMAGE // 2 + 40) > 0.95, "darker and flatter is still the same picture"
    assert first @ thumbnail(IMAGE[::-1].copy()) < 0.95
    assert not thumbnail(np.full((20, 20, 3), 90, np.uint8)).any()
