"""What the records of a data set decide together: how masks are turned where images have EXIF, and what 255 means."""

import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pytest
from PIL import Image

from foodseg.classes import ClassTable
from foodseg.data.image_io import encode_mask, upright
from foodseg.demo.synthetic import SYNTHETIC_CLASSES, draw_meal
from foodseg.prepare.ambiguities import Evidence
from foodseg.prepare.audit import RecordFacts, Refusal, audit_record, read_mask
from foodseg.prepare.record import Record

INVERSE = {1: 1, 2: 2, 3: 3, 4: 4, 5: 5, 6: 8, 7: 7, 8: 6}  # the orientation that undoes one
ONE = ClassTable(("background", "food"))


@dataclass(frozen=True)
class Bytes:
    data: bytes

    def read(self) -> bytes:
        return self.data


@dataclass(frozen=True)
class Ids:
    ids: np.ndarray

    def read(self) -> np.ndarray:
        return self.ids


def photo(image: np.ndarray, orientation: int) -> Bytes:
    """The file of a camera that stores the image turned, and says so."""
    tags, sink = Image.Exif(), io.BytesIO()
    tags[0x0112] = orientation
    stored = upright(image, INVERSE[orientation])
    Image.fromarray(stored).save(sink, "JPEG", quality=95, exif=tags)
    return Bytes(sink.getvalue())


def audited(
    image: np.ndarray, mask: np.ndarray, orientation: int, *, stored: bool, source: str = "s"
) -> RecordFacts | Refusal:
    ids = upright(mask, INVERSE[orientation]) if stored else mask
    record = Record(f"{orientation}-{stored}", "train", source, photo(image, orientation), Ids(ids))
    return audit_record(record, SYNTHETIC_CLASSES)


def resolved(
    audited: Sequence[RecordFacts | Refusal], classes: ClassTable = SYNTHETIC_CLASSES
) -> list[RecordFacts | Refusal]:
    evidence = Evidence()
    for each in audited:
        evidence.add(each)
    resolution = evidence.resolution(classes)
    return [resolution.resolved(each) for each in audited]


def names(found: RecordFacts | Refusal) -> set[str]:
    return {finding.name for finding in found.findings}


@pytest.mark.parametrize("size", [(96, 144), (144, 96), (112, 112)])
@pytest.mark.parametrize("stored", [False, True])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_orientation_alone_and_with_others(orientation: int, stored: bool, size: tuple[int, int]) -> None:
    meals = [draw_meal(seed, *size) for seed in range(5)]
    alone = [resolved([audited(*meal, orientation, stored=stored)])[0] for meal in meals]
    together = resolved([audited(*meal, orientation, stored=stored) for meal in meals])
    assert sum("unclear_turn" in names(found) for found in alone) <= 2
    assert not any("unclear_turn" in names(found) for found in together)
    for found, (_, mask) in zip((*alone, *together), (*meals, *meals), strict=True):
        assert isinstance(found, RecordFacts), found.reason
        if "unclear_turn" in names(found):
            continue
        np.testing.assert_array_equal(read_mask(found), mask, str(found.findings))
        if orientation == 1 or not stored:
            assert names(found) <= {"exif_orientation"}
        else:
            assert len(names(found) & {"swapped_size", "stored_mask"}) == 1
            assert f"EXIF orientation {orientation}" in found.findings[-1].detail


@pytest.mark.parametrize("orientation", [2, 3, 4, 5, 6, 7, 8])
def test_an_unclear_orientation_is_reported(orientation: int) -> None:
    flat, mask = np.full((64, 64, 3), 120, np.uint8), np.zeros((64, 64), np.uint8)
    mask[5:20, 8:40] = 1
    (found,) = resolved([audited(flat, mask, orientation, stored=False)])
    assert isinstance(found, RecordFacts) and found.mask_turn == 1
    assert names(found) == {"exif_orientation", "unclear_turn"}
    assert f"EXIF orientation {orientation}: it is unclear whether" in found.findings[-1].detail


def test_a_mask_that_turning_does_not_change_needs_no_decision() -> None:
    flat, mask = np.full((64, 64, 3), 120, np.uint8), np.zeros((64, 64), np.uint8)
    mask[16:48, 16:48] = 1
    (found,) = resolved([audited(flat, mask, 3, stored=True)])
    assert names(found) == {"exif_orientation"}


@pytest.mark.parametrize("stored", [False, True])
def test_others_of_the_source_decide_what_is_not_clear(stored: bool) -> None:
    flat, mask = np.full((64, 96, 3), 120, np.uint8), np.zeros((64, 96), np.uint8)
    mask[5:20, 8:40] = 1
    unclear = audited(flat, mask, 3, stored=stored)
    sideways = [audited(*draw_meal(seed, 96, 144), 6, stored=stored) for seed in (0, 1)]  # their size decides
    elsewhere = audited(flat, mask, 3, stored=stored, source="other")
    found = resolved([unclear, *sideways, elsewhere])
    assert isinstance(found[0], RecordFacts)
    np.testing.assert_array_equal(read_mask(found[0]), mask)
    assert ("stored_mask" in names(found[0])) == stored and "unclear_turn" not in names(found[0])
    assert "unclear_turn" in names(found[3]), "sources are labelled with different tools"
    mixed = resolved([unclear, sideways[0], audited(*draw_meal(1, 96, 144), 6, stored=not stored)])
    assert "unclear_turn" in names(mixed[0])


def facts(ids: list[int], classes: ClassTable, number: int = 0) -> RecordFacts | Refusal:
    image = np.random.default_rng(number).integers(0, 255, (4, 8, 3), np.uint8)
    mask = np.resize(np.array(ids, np.uint8), (4, 8))
    sink = io.BytesIO()
    Image.fromarray(image).save(sink, "PNG")
    return audit_record(Record(str(number), "train", "s", Bytes(sink.getvalue()), Ids(mask)), classes)


def test_255_is_the_one_class_where_nothing_else_can_be(caplog: pytest.LogCaptureFixture) -> None:
    found = resolved([facts(ids, ONE, n) for n, ids in enumerate(([0, 255], [255], [0]))], ONE)
    assert all(isinstance(one, RecordFacts) for one in found)
    assert [names(one) for one in found] == [{"ignored_is_food"}, {"ignored_is_food"}, {"empty_mask"}]
    first = found[0]
    assert isinstance(first, RecordFacts)
    assert (first.class_pixels.tolist(), first.ignored_pixels) == ([16, 16], 0)
    mask = read_mask(first)
    assert mask is not None and np.unique(mask).tolist() == [0, 1] and mask.dtype == np.uint8
    assert encode_mask(mask)
    assert "2 masks: 255 is read as id 1, 'food'" in caplog.text


@pytest.mark.parametrize(
    ("sets", "classes"),
    [
        ([[0, 255], [0, 1]], ONE),
        ([[0, 1, 255], [0, 1, 255]], ONE),
        ([[0, 255], [255]], ClassTable(("background", "rice", "egg"))),
        ([[0, 128, 255], [0, 255]], ONE),
        ([[0], [0]], ONE),
    ],
)
def test_255_stays_ignored_where_it_may_be(sets: list[list[int]], classes: ClassTable) -> None:
    before = [facts(ids, classes, number) for number, ids in enumerate(sets)]
    assert resolved(before, classes) == before


@pytest.mark.parametrize(
    ("ids", "count", "detail"),
    [
        ([0, 255], 3, "the mask has no ingredient, and 50.0% of it is 255 = ignored"),
        ([255], 3, "every pixel of the mask is ignored (id 255)"),
        ([0, 128], 2, "they are multiples of 128, as in a mask that was stretched for viewing: divide them by 128"),
        ([0, 85, 170, 255], 4, "multiples of 85"),
        ([0, 60, 120], 3, "multiples of 60"),
    ],
)
def test_the_detail_says_what_to_do(ids: list[int], count: int, detail: str) -> None:
    found = facts(ids, ClassTable(("background", *map(str, range(1, count)))))
    assert detail in found.findings[-1].detail


def test_16_bit_masks_may_hold_65535_for_ignored() -> None:
    classes = ClassTable(("background", "rice", "egg"))
    sink = io.BytesIO()
    Image.fromarray(np.zeros((2, 2, 3), np.uint8)).save(sink, "PNG")
    mask = np.array([[0, 1], [65535, 255]], np.uint16)
    found = audit_record(Record("a", "train", "s", Bytes(sink.getvalue()), Ids(mask)), classes)
    assert isinstance(found, RecordFacts) and found.ignored_pixels == 2
    read = read_mask(found)
    assert read is not None and read.tolist() == [[0, 1], [255, 255]]


def test_other_unknown_ids_are_not_called_multiples() -> None:
    for ids in ([0, 128, 255], [0, 7], [0, 2, 200]):
        found = facts(ids, ClassTable(("background", "rice", "egg")))
        assert [finding.name for finding in found.findings] == ["unknown_id"]
        assert "multiples" not in found.findings[0].detail
