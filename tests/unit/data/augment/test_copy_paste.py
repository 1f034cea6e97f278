"""Copy-paste: partners are a function of the position, regions are pasted whole, nothing lands on padding.

Only ids that the source of the image annotates are pasted.
"""

import cv2
import numpy as np
import pyarrow as pa
import pytest

from foodseg.classes import ClassTable
from foodseg.config.augment import AugmentConfig
from foodseg.config.data import DataConfig
from foodseg.data.augment.copy_paste import paste_regions
from foodseg.data.augment.geometry import Crop, Placement
from foodseg.data.batch import Batch
from foodseg.data.decode import encode_rows, make_batch_arrays
from foodseg.data.image_io import encode_mask
from foodseg.data.reader import RowReader
from foodseg.data.sampler import TrainingOrder
from foodseg.data.shards import read_manifest
from foodseg.data.training_rows import training_order
from tests.support.synthetic_set import write_synthetic

CLASSES = ClassTable(("background", "rice", "egg", "tofu"))
PLAIN = AugmentConfig.model_validate({"longest_side": 8, "scale": (1, 1), "crop": 8, "flip": 0})
WHOLE = Placement(8, 8, 0, 0, False)


def crop(mask: np.ndarray, extent: tuple[int, ...] = (0, 0, 8, 8), *, labelled: bool = True) -> Crop:
    """An all-black crop."""
    listed = np.isin(np.arange(4), mask) & (np.arange(4) > 0)
    return Crop(np.zeros((8, 8, 3), np.uint8), mask, np.array(extent, np.int32), listed & labelled, labelled, WHOLE)


def pasted(onto: Crop, mask: np.ndarray, seed: int = 0, annotated: tuple[int, ...] | None = None) -> Crop:
    """The black crop after pasting from a grey partner with this mask."""
    image = cv2.imencode(".png", np.full((*mask.shape, 3), 77, np.uint8))[1].tobytes()
    return paste_regions(onto, image, encode_mask(mask), *mask.shape, seed, PLAIN, CLASSES, annotated)


def test_a_region_is_copied_whole_with_its_pixels() -> None:
    mask = np.zeros((8, 8), np.uint8)
    mask[2:4, 5:7] = 3
    onto = np.full((8, 8), 1, np.uint8)
    made = pasted(crop(onto), mask)
    np.testing.assert_array_equal(made.mask, np.where(mask == 3, 3, 1))
    np.testing.assert_array_equal(made.image, np.where(mask == 3, 77, 0)[..., None].repeat(3, 2))
    assert made.ingredients.tolist() == [False, True, False, True]
    assert onto.max() == 1  # the crop itself is unchanged


def test_an_ingredient_that_is_covered_is_not_listed() -> None:
    mask = np.zeros((8, 8), np.uint8)
    mask[:4] = 2
    onto = np.zeros((8, 8), np.uint8)
    onto[1:3] = 1
    assert pasted(crop(onto), mask).ingredients.tolist() == [False, False, True, False]


def test_nothing_lands_on_padding() -> None:
    made = pasted(crop(np.full((8, 8), 255, np.uint8), (0, 0, 3, 5)), np.full((8, 8), 2, np.uint8))
    expected = np.full((8, 8), 255)
    expected[:3, :5] = 2
    np.testing.assert_array_equal(made.mask, expected)


@pytest.mark.parametrize("value", [0, 255])
def test_a_partner_without_ingredients_changes_nothing(value: int) -> None:
    onto = crop(np.arange(64).reshape(8, 8).astype(np.uint8) % 4)
    made = pasted(onto, np.full((8, 8), value, np.uint8))
    np.testing.assert_array_equal(made.mask, onto.mask)
    np.testing.assert_array_equal(made.image, onto.image)


def test_the_ingredients_of_an_unlabelled_image_stay_unknown() -> None:
    made = pasted(crop(np.full((8, 8), 255, np.uint8), labelled=False), np.full((8, 8), 2, np.uint8))
    assert (made.mask == 2).all() and not made.ingredients.any() and not made.ingredients_known


def test_at_least_one_ingredient_and_each_other_every_second_time() -> None:
    mask = (np.indices((8, 8))[0] // 2).astype(np.uint8)  # a quarter each of 0, 1, 2, 3
    taken = np.array([pasted(crop(np.zeros((8, 8), np.uint8)), mask, seed).ingredients for seed in range(400)])
    assert taken.any(1).all()
    # one is certain, which is each of three alike; the others come with 1/2: 1/3 + 2/3 x 1/2
    np.testing.assert_allclose(taken[:, 1:].mean(0), 2 / 3, atol=0.08)


def test_only_what_the_source_of_the_crop_annotates() -> None:
    mask = np.zeros((8, 8), np.uint8)
    mask[:2], mask[4:6] = 2, 3
    onto = crop(np.zeros((8, 8), np.uint8))
    for seed in range(8):
        np.testing.assert_array_equal(pasted(onto, mask, seed, (0, 1, 3)).mask, np.where(mask == 3, 3, 0))
    np.testing.assert_array_equal(pasted(onto, mask, 0, (0, 1)).mask, onto.mask)


def test_partial_labels_stay_partial_among_several_sources(tmp_path) -> None:
    """Else a pasted id would make unlabelled instances of it count as background."""
    uri = write_synthetic(tmp_path / "data")
    reader = RowReader(uri, read_manifest(uri), ["train"])
    manifest = read_manifest(uri).model_copy(update={"annotated": {"whole": None, "partial": (0, 1, 2, 3)}})
    augment = AugmentConfig.model_validate({"longest_side": 64, "crop": 64, "paste": 1})

    def masks(paste: float) -> np.ndarray:
        made = training_order(reader, DataConfig(uri=uri), 0, 4, paste=paste)
        rows = encode_rows(reader, made, [range(24)])
        index = rows.column_names.index("source")
        rows = rows.set_column(index, "source", pa.array(["whole", "partial"] * 12))
        return make_batch_arrays(rows, augment, manifest)["mask"]

    plain, mixed = masks(0.0), masks(1.0)
    found = [set(np.unique(mixed[side::2][mixed[side::2] != plain[side::2]]).tolist()) for side in (0, 1)]
    assert found[0] - {1, 2, 3} and found[1] and found[1] <= {1, 2, 3}


def order(paste: float, sources: list[int], batch: int = 4, pastable: list[bool] | None = None) -> TrainingOrder:
    candidates = np.array(pastable or [True] * len(sources))
    return TrainingOrder([len(sources)], 3, batch, paste=paste, sources=np.array(sources), pastable=candidates)


def test_partners_are_of_another_source_and_of_the_same_unit() -> None:
    sources = [0] * 3000 + [1] * 1000
    made = order(1.0, sources)
    rows = made.rows(0, 4000)[1]
    partners = made.partners(0, 4000)
    found = partners >= 0
    assert found.mean() > 0.9  # of the partners tried for a row of the larger source, one is of the smaller one
    assert (np.array(sources)[partners[found]] != np.array(sources)[rows[found]]).all()
    first = made.rows(0, made.unit)[1]
    assert np.isin(partners[: made.unit][found[: made.unit]], first).all()


def test_with_one_source_everybody_is_a_partner() -> None:
    assert (order(1.0, [5] * 40).partners(0, 100) >= 0).all()


def test_an_image_without_ingredients_is_not_a_partner() -> None:
    pastable = [number % 4 == 0 for number in range(200)]
    made = order(1.0, [number % 2 for number in range(200)], pastable=pastable)
    partners = made.partners(0, 400)
    assert (partners >= 0).all(), "source 1 has no partner: then those of the other source will do for both"
    assert np.array(pastable)[partners].all()


def test_an_unlabelled_image_is_not_a_partner(tmp_path) -> None:
    uri = write_synthetic(tmp_path / "data", train=4)
    reader = RowReader(uri, read_manifest(uri), ["train"])
    assert reader.column("mask").null_count == 1
    partners = training_order(reader, DataConfig(uri=uri), 0, 4, paste=1.0).partners(0, 200)
    assert set(partners.tolist()) == {0, 1, 2}, "the last one has no mask"


def test_the_share_of_positions_and_no_partners_at_zero() -> None:
    assert (order(0.3, [0, 1] * 50).partners(0, 2000) >= 0).mean() == pytest.approx(0.3, abs=0.03)
    assert (order(0.0, [0, 1]).partners(0, 50) == -1).all()


def test_any_slice_gives_the_same_partners() -> None:
    whole = order(0.5, [0, 1] * 30).partners(0, 300)
    for start, stop in [(0, 0), (7, 8), (55, 130), (299, 300)]:
        np.testing.assert_array_equal(order(0.5, [0, 1] * 30).partners(start, stop), whole[start:stop])


def test_batches_do_not_depend_on_how_positions_are_cut(tmp_path) -> None:
    uri = write_synthetic(tmp_path / "data")
    manifest = read_manifest(uri)
    reader = RowReader(uri, manifest, ["train"])
    augment = AugmentConfig.model_validate({"longest_side": 64, "crop": 32, "paste": 0.7})

    def arrays(paste: float, *parts: range) -> dict[str, np.ndarray]:
        made = training_order(reader, DataConfig(uri=uri), 0, 4, paste=paste)
        return make_batch_arrays(encode_rows(reader, made, parts), augment, manifest)

    whole, halves = arrays(0.7, range(24)), [arrays(0.7, range(10)), arrays(0.7, range(10, 24))]
    for name, array in whole.items():
        np.testing.assert_array_equal(array, np.concatenate([half[name] for half in halves]))
    Batch.from_arrays(whole)
    without = arrays(0.0, range(24))
    changed = (whole["mask"] != without["mask"]).any((1, 2))
    assert 8 < changed.sum() < 24
    np.testing.assert_array_equal(whole["extent"], without["extent"])
