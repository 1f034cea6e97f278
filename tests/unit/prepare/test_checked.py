"""Images that are made smaller once, with their masks; those that are small enough stay byte for byte."""

import io
from dataclasses import dataclass

import numpy as np
import pytest
from PIL import Image

from foodseg.data.image_io import decode_image, fit_longest, resize_mask
from foodseg.demo.synthetic import SYNTHETIC_CLASSES, draw_meal
from foodseg.prepare.audit import RecordFacts, audit_record, final_mask, read_mask
from foodseg.prepare.record import Record


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


def photo(image: np.ndarray, orientation: int = 1) -> bytes:
    tags, sink = Image.Exif(), io.BytesIO()
    tags[0x0112] = orientation
    Image.fromarray(image).save(sink, "JPEG", quality=95, exif=tags)
    return sink.getvalue()


def audited(data: bytes, ids: np.ndarray | None, longest_side: int | None) -> RecordFacts:
    record = Record("a", "train", "s", Bytes(data), None if ids is None else Ids(ids))
    found = audit_record(record, SYNTHETIC_CLASSES, longest_side)
    assert isinstance(found, RecordFacts)
    return found


@pytest.mark.parametrize("longest_side", [None, 144, 145, 4000])
def test_what_is_small_enough_stays_byte_for_byte(longest_side: int | None) -> None:
    image, mask = draw_meal(0, 96, 144)
    data = photo(image)
    found = audited(data, mask, longest_side)
    assert found.record.image.read() == data and (found.height, found.width) == (96, 144)
    np.testing.assert_array_equal(read_mask(found), mask)
    assert found.class_pixels.tolist() == np.bincount(mask.ravel(), minlength=len(SYNTHETIC_CLASSES)).tolist()


def test_what_is_larger_becomes_smaller_with_its_mask_and_counts() -> None:
    image, mask = draw_meal(0, 300, 200)
    found, whole = audited(photo(image), mask, 150), audited(photo(image), mask, None)
    assert (found.height, found.width) == (150, 100) == fit_longest(300, 200, 150)
    small = decode_image(found.record.image.read())
    assert small.shape == (150, 100, 3)
    expected = np.asarray(Image.fromarray(image).resize((100, 150), Image.Resampling.BOX), np.float32)
    assert np.abs(small - expected).mean() < 4
    ids = read_mask(found)
    assert ids is not None
    np.testing.assert_array_equal(ids, resize_mask(mask, 150, 100))
    assert found.class_pixels.tolist() == np.bincount(ids.ravel(), minlength=len(SYNTHETIC_CLASSES)).tolist()
    assert found.size == len(found.record.image.read()) + len(final_mask(found) or b"")
    # groups of near-duplicates and of equal files do not depend on it
    assert found.digest == whole.digest and found.thumbnail.tolist() == whole.thumbnail.tolist()


def test_a_camera_image_that_is_stored_sideways_is_upright_afterwards() -> None:
    image, mask = draw_meal(0, 200, 300)
    stored = np.ascontiguousarray(image.swapaxes(0, 1)[::-1])  # turned counter-clockwise: 6 turns it back
    found = audited(photo(stored, 6), mask, 150)
    assert (found.height, found.width) == (100, 150)
    small = decode_image(found.record.image.read())
    assert small.shape == (100, 150, 3) and b"Exif" not in found.record.image.read()[:64]
    expected = np.asarray(Image.fromarray(image).resize((150, 100), Image.Resampling.BOX), np.float32)
    assert np.abs(small - expected).mean() < 4


def test_a_transposed_mask_is_made_smaller_as_it_is_and_turned_later() -> None:
    image, mask = draw_meal(1, 200, 300)
    found = audited(photo(image), np.ascontiguousarray(mask.T), 150)
    assert found.mask_turn == 5 and (found.height, found.width) == (100, 150)
    ids = read_mask(found)
    assert ids is not None and ids.shape == (100, 150)
    assert (ids == resize_mask(mask, 100, 150)).mean() > 0.99


def test_an_unlabelled_image() -> None:
    found = audited(photo(draw_meal(0, 300, 200)[0]), None, 150)
    assert (found.height, found.record.mask, final_mask(found)) == (150, None, None)
