"""The audit of a record: what it holds, what is notable about it, and the message of a refusal."""

import hashlib
import io
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

import cv2
import numpy as np
import pytest
from PIL import Image

from foodseg.classes import ClassTable
from foodseg.data.image_io import encode_mask
from foodseg.errors import RetryLater, UserError
from foodseg.prepare.audit import RecordFacts, Refusal, audit_batches, audit_record, present_ids, read_mask
from foodseg.prepare.findings import FINDINGS, Finding, FindingName, count_findings
from foodseg.prepare.near_duplicates import unit_thumbnails
from foodseg.prepare.record import ImageFile, MaskFile, Record

CLASSES = ClassTable(("background", "rice", "egg"))
IMAGE = cv2.resize(np.random.default_rng(0).integers(0, 255, (5, 6, 3), np.uint8), (48, 40))


def encoded(image: Image.Image, form: str, **options: object) -> bytes:
    sink = io.BytesIO()
    image.save(sink, form, **options)
    return sink.getvalue()


def jpeg(image: np.ndarray = IMAGE, **options: object) -> bytes:
    return encoded(Image.fromarray(image), "JPEG", **options)


def sideways(orientation: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return jpeg(exif=exif)


def ids(value: int = 0, shape: tuple[int, int] = (40, 48), dtype: type = np.uint8) -> np.ndarray:
    return np.full(shape, value, dtype)


def audited(
    folder: Path, image: bytes | None, mask: bytes | None, classes: ClassTable = CLASSES
) -> RecordFacts | Refusal:
    """Audits a record whose files hold these bytes; None = no image, or no mask."""
    if image is not None:
        (folder / "a.jpg").write_bytes(image)
    if mask is not None:
        (folder / "a.png").write_bytes(mask)
    label = None if mask is None else MaskFile(str(folder / "a.png"))
    return audit_record(Record("a", "train", "s", ImageFile(str(folder / "a.jpg")), label), classes)


def names(found: RecordFacts | Refusal) -> list[str]:
    return [finding.name for finding in found.findings]


def with_id(value: int, dtype: type = np.uint8) -> bytes:
    mask = ids(1, dtype=dtype)
    mask[3, 4] = value
    return encode_mask(mask)


@pytest.mark.parametrize(
    ("image", "mask", "finding", "reason"),
    [
        (None, encode_mask(ids(1)), "missing_file", "a.jpg: no such file"),
        (b"", encode_mask(ids(1)), "empty_file", "image: the file is empty"),
        (
            b"no image",
            encode_mask(ids(1)),
            "other_format",
            "image: this is plain text: give an image (JPEG, PNG,",
        ),
        (jpeg()[:-99], encode_mask(ids(1)), "truncated", "image: the image cannot be decoded"),
        (jpeg()[:-99] + b"\xff\xd9", encode_mask(ids(1)), "truncated", "image: the image cannot be decoded"),
        (jpeg()[:200], encode_mask(ids(1)), "truncated", "image: not a readable image"),
        (jpeg().replace(b"\xff\xdb", b"\xff\xe7"), encode_mask(ids(1)), "unreadable", "image cannot be decoded"),
        (jpeg(), b"", "empty_file", "mask: the file is empty"),
        (jpeg(), b"1 1 0", "other_format", "mask: this is plain text"),
        (jpeg(), encoded(Image.fromarray(IMAGE), "PNG"), "mask_mode", "one class id per pixel, this one is in colours"),
        (jpeg(), jpeg(IMAGE[:, :, 0]), "mask_mode", "a mask saved as JPEG holds blurred ids: save it as PNG"),
        (jpeg(), encode_mask(ids())[:50], "truncated", "the mask cannot be decoded"),
        (jpeg(), encode_mask(ids(1, (39, 48))), "size_mismatch", "the mask is 48 x 39 pixels, the image 48 x 40"),
        (jpeg(), with_id(3), "unknown_id", "the mask holds id 3, but ids go from 0 to 2 (255 = ignore)"),
        (jpeg(), with_id(254), "unknown_id", "the mask holds id 254,"),
        (jpeg(), with_id(65534, np.uint16), "unknown_id", "the mask holds id 65534,"),
        (jpeg(), encode_mask(ids(255)), "all_ignored", "every pixel of the mask is ignored"),
    ],
)
def test_each_refusal_names_its_reason(
    image: bytes | None, mask: bytes, finding: str, reason: str, tmp_path: Path
) -> None:
    found = audited(tmp_path, image, mask)
    assert isinstance(found, Refusal)
    assert names(found) == [finding]
    assert reason in found.reason and "\n" not in found.reason
    assert found.record.image_id == "a"


def test_a_missing_mask_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(jpeg())
    record = Record("a", "train", "s", ImageFile(str(tmp_path / "a.jpg")), MaskFile(str(tmp_path / "a.png")))
    found = audit_record(record, CLASSES)
    assert isinstance(found, Refusal) and names(found) == ["missing_file"]
    assert found.reason.startswith("mask: ") and found.reason.endswith("a.png: no such file")


def test_all_findings_are_reported_at_once(tmp_path: Path) -> None:
    deep = Image.fromarray(np.full((40, 48), 300, np.uint16))
    found = audited(tmp_path, encoded(deep, "PNG"), encode_mask(ids(7, (9, 9))))
    assert isinstance(found, Refusal)
    assert names(found) == ["sixteen_bit", "grey", "size_mismatch", "unknown_id"]
    assert found.reason == (
        "the mask is 9 x 9 pixels, the image 48 x 40; the mask holds id 7, but ids go from 0 to 2 (255 = ignore)"
    )
    torn = audited(tmp_path, jpeg()[:-99], with_id(9))
    assert names(torn) == ["truncated", "unknown_id"], "the mask is checked even without an image"
    cut = sideways(8)[:-99]
    assert names(audited(tmp_path, cut, None)) == ["exif_orientation", "truncated"]


class Raises:
    """An image or a mask whose reading ends in an error."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    def read(self) -> NoReturn:
        raise self.error


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (IndexError("row 7"), "it cannot be read (IndexError: row 7)"),
        (OverflowError("too\nlarge " + "x" * 999), f"it cannot be read (OverflowError: too large {'x' * 90})"),
        (UserError("annotation 3 is odd"), "annotation 3 is odd"),
    ],
)
def test_an_unforeseen_error_is_a_finding_of_its_record(error: Exception, reason: str, tmp_path: Path) -> None:
    found = audit_record(Record("a", "train", "s", Raises(error), Raises(error)), CLASSES)
    assert isinstance(found, Refusal) and names(found) == ["unreadable", "unreadable"]
    assert found.reason == f"image: {reason}; mask: {reason}"


@pytest.mark.parametrize("error", [RetryLater("the storage sleeps"), MemoryError()])
def test_an_error_that_the_record_did_not_cause_is_raised(error: Exception, tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(jpeg())
    for image, mask in ((Raises(error), None), (ImageFile(str(tmp_path / "a.jpg")), Raises(error))):
        with pytest.raises(type(error)):
            audit_record(Record("a", "train", "s", image, mask), CLASSES)


@pytest.mark.parametrize(
    ("groups", "batches"),
    [
        ("", []),
        ("-" * 35, [16, 16, 3]),  # files of their own
        ("a" * 40 + "b" * 5 + "c" * 9 + "d" * 3, [40, 14, 3]),  # small row groups share a task
        ("a" * 2500, [1000, 1000, 500]),
        ("a" * 20 + "-" * 20, [20, 16, 4]),
    ],
)
def test_records_of_a_row_group_stay_together(groups: str, batches: list[int]) -> None:
    records = [
        Record(str(i), "train", "s", ImageFile("a.jpg"), None, locality=None if group == "-" else (group, 0))
        for i, group in enumerate(groups)
    ]
    found = list(audit_batches(records))
    assert list(map(len, found)) == batches
    assert [record for batch in found for record in batch] == records


def test_several_unknown_ids_are_counted(tmp_path: Path) -> None:
    found = audited(tmp_path, jpeg(), encode_mask(np.arange(40 * 48, dtype=np.uint16).reshape(40, 48)))
    assert isinstance(found, Refusal) and "the mask holds id 3 and 1915 more unknown ids, but" in found.reason


def test_a_labelled_record(tmp_path: Path) -> None:
    mask = ids()
    mask[:10, :10], mask[20] = 2, 255
    found = audited(tmp_path, jpeg(), encode_mask(mask))
    assert isinstance(found, RecordFacts)
    assert (found.height, found.width, found.mask_turn, found.findings) == (40, 48, 1, ())
    assert found.size - len(jpeg()) == pytest.approx(len(encode_mask(mask)), abs=100)
    assert found.digest == hashlib.sha256(jpeg()).digest()
    assert found.class_pixels.tolist() == [40 * 48 - 100 - 48, 0, 100] and found.class_pixels.dtype == np.int32
    assert present_ids(found.class_pixels) == [2]
    np.testing.assert_array_equal(read_mask(found), mask)


@pytest.mark.parametrize(
    ("mask", "pixels", "finding"),
    [(encode_mask(ids()), [1920, 0, 0], "empty_mask"), (None, [0, 0, 0], "unlabelled")],
)
def test_an_empty_mask_and_an_unlabelled_image_are_accepted(
    mask: bytes | None, pixels: list[int], finding: str, tmp_path: Path
) -> None:
    found = audited(tmp_path, jpeg(), mask)
    assert isinstance(found, RecordFacts)
    assert found.class_pixels.tolist() == pixels and present_ids(found.class_pixels) == []
    assert names(found) == [finding]
    assert (read_mask(found) is None) == (mask is None)


def test_a_mask_without_ingredient_whose_food_may_be_ignored_is_not_called_empty(tmp_path: Path) -> None:
    mask = ids()
    mask[0] = 255
    found = audited(tmp_path, jpeg(), encode_mask(mask))
    assert names(found) == ["only_ignored"]
    assert "where that marks food, write its id there" in found.findings[0].detail


def test_sizes_are_those_after_exif(tmp_path: Path) -> None:
    found = audited(tmp_path, sideways(6), encode_mask(ids(1, (48, 40))))
    assert isinstance(found, RecordFacts) and (found.height, found.width) == (48, 40)
    assert names(found) == ["exif_orientation"]


@pytest.mark.parametrize("orientation", [5, 6, 7, 8])
def test_a_mask_of_the_stored_pixels_is_turned_as_the_image(orientation: int, tmp_path: Path) -> None:
    mask = np.random.default_rng(2).integers(0, 3, (40, 48)).astype(np.uint8)
    found = audited(tmp_path, sideways(orientation), encode_mask(mask))
    assert isinstance(found, RecordFacts) and found.mask_turn == orientation
    assert names(found) == ["exif_orientation", "swapped_size"]
    detail = f"the mask is 48 x 40 pixels, the image 40 x 48: turned by the image's EXIF orientation {orientation}"
    assert found.findings[1].detail == detail
    turned = {5: mask.T, 6: np.rot90(mask, -1), 7: np.rot90(mask, 2).T, 8: np.rot90(mask)}[orientation]
    np.testing.assert_array_equal(read_mask(found), turned)


def test_a_swapped_mask_without_exif_is_turned_to_the_edges(tmp_path: Path) -> None:
    mask = ids(shape=(80, 96))
    mask[5:30, 10:70], mask[50:75, 60:90] = 1, 2
    image = np.array([[90, 60, 30], [230, 230, 220], [250, 190, 30]], np.uint8)[mask]
    found = audited(tmp_path, jpeg(image), encode_mask(np.rot90(mask).copy()))
    assert isinstance(found, RecordFacts) and names(found) == ["swapped_size"]
    assert "the mask is 80 x 96 pixels, the image 96 x 80: turned clockwise, by the mean" in found.findings[0].detail
    np.testing.assert_array_equal(read_mask(found), mask)
    assert found.class_pixels.tolist() == np.bincount(mask.ravel()).tolist()


def test_a_label_space_of_300_classes_ignores_65535_and_counts_255(tmp_path: Path) -> None:
    classes = ClassTable(tuple(map(str, range(300))))
    mask = ids(65535, dtype=np.uint16)
    mask[0, :3] = 255
    found = audited(tmp_path, jpeg(), encode_mask(mask), classes)
    assert isinstance(found, RecordFacts) and present_ids(found.class_pixels) == [255]
    refused = audited(tmp_path, jpeg(), with_id(300, np.uint16), classes)
    assert isinstance(refused, Refusal) and "id 300, but ids go from 0 to 299 (65535 = ignore)" in refused.reason
    eight_bits = audited(tmp_path, jpeg(), with_id(254), classes)
    assert isinstance(eight_bits, RecordFacts) and eight_bits.class_pixels.shape == (300,)


def test_thumbnails_distinguish_copies_from_others(tmp_path: Path) -> None:
    def thumbnail(image: np.ndarray, **options: object) -> np.ndarray:
        found = audited(tmp_path, jpeg(image, **options), None)
        assert isinstance(found, RecordFacts)
        assert (found.thumbnail.shape, found.thumbnail.dtype) == ((768,), np.uint8)
        return unit_thumbnails(found.thumbnail[None])[0]

    first = thumbnail(IMAGE)
    assert first @ thumbnail(cv2.resize(IMAGE, (96, 80)), quality=60) > 0.95
    assert first @ thumbnail(IMAGE // 2 + 40) > 0.95, "darker and flatter is still the same image"
    assert first @ thumbnail(IMAGE[::-1].copy()) < 0.95
    assert not thumbnail(np.full((20, 20, 3), 90, np.uint8)).any()


def test_findings_have_one_description_each_and_are_counted_in_their_order() -> None:
    assert tuple(FINDINGS) == FindingName.__args__
    assert {kind.effect for kind in FINDINGS.values()} == {"refused", "repaired", "counted"}
    assert [Finding(name, "").refuses for name in ("truncated", "swapped_size", "grey")] == [True, False, False]
    assert list(count_findings(["grey", "truncated", "grey"]).items()) == [("truncated", 1), ("grey", 2)]


def test_hidden_annotations_of_a_mask_are_findings(tmp_path: Path) -> None:
    sentence = "annotation 7 ('egg') leaves no pixel"

    class Noting:
        def read(self) -> np.ndarray:
            raise AssertionError("read_with_hidden says more")

        def read_with_hidden(self, names: Sequence[str]) -> tuple[np.ndarray, list[str]]:
            assert names == CLASSES.names
            return np.ones((3, 4), np.uint8), [sentence]

    Image.new("RGB", (4, 3)).save(tmp_path / "1.png")
    facts = audit_record(Record("1", "train", "", ImageFile(str(tmp_path / "1.png")), Noting()), CLASSES)
    assert isinstance(facts, RecordFacts) and Finding("hidden_annotation", sentence) in facts.findings
    assert facts.class_pixels[1] == 12
