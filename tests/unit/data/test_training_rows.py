"""Which rows a training takes: without folds all, with folds exactly those of the others, counted as such."""

from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest

from foodseg.config.data import DataConfig, WeightedData
from foodseg.data import training_rows
from foodseg.data.training_rows import held_out_rows, training_data, training_order
from foodseg.errors import UserError
from tests.support.filled_set import filled_counts, write_filled

FIVE = [("g", "s", 1), ("g", "s", 1), ("h", "s", 2), ("g", "s", 0), ("i", "s", None)]  # fold 0 is the group of three


def test_the_draws_of_any_epoch_are_the_kept_rows(tmp_path: Path) -> None:
    uri = write_filled(tmp_path, ("train", FIVE))
    for fold, kept in enumerate([[2, 4], [0, 1, 3]]):
        data = DataConfig(uri=uri, folds=2, held_out=fold)
        reader = training_data(data)[1]
        order = training_order(reader, data, 0, 2)
        assert order.epoch_length == len(kept)
        epochs, rows = order.rows(0, 6 * len(kept))
        for epoch in range(6):
            assert sorted(rows[epochs == epoch].tolist()) == kept
        assert sorted(held_out_rows(reader, data).tolist() + kept) == [0, 1, 2, 3, 4]
    assert held_out_rows(reader, DataConfig(uri=uri)) is None


def test_the_counts_are_of_the_kept_rows(tmp_path: Path) -> None:
    rows = [*FIVE, ("j", "s", 255)]
    uri = write_filled(tmp_path, ("train", rows), ("val", [("v", "s", 1)]))
    reader = training_data(DataConfig(uri=uri))[1]
    folds = [held_out_rows(reader, DataConfig(uri=uri, folds=2, held_out=fold)).tolist() for fold in (0, 1)]
    for held_out, data in zip(folds, (DataConfig(uri=uri, folds=2, held_out=fold) for fold in (0, 1)), strict=True):
        kept = [rows[row] for row in range(6) if row not in held_out]
        with patch.object(training_rows, "_MASKS_AT_ONCE", 1):
            counts = training_data(data)[0].counts
        assert counts["train"] == filled_counts(kept)
        assert counts["val"].images == 1


def test_folds_of_several_splits_and_data_sets(tmp_path: Path) -> None:
    a = write_filled(tmp_path / "a", ("train", [(f"a{n}", "s", 1) for n in range(4)]), ("val", [("a1", "s", 2)]))
    b = write_filled(tmp_path / "b", ("train", [(f"b{n}", "s", 2) for n in range(3)]))
    data = DataConfig(
        uris=(WeightedData(uri=a, weight=1), WeightedData(uri=b, weight=2)), train_splits=("train", "val"),
        val_split=None, folds=2, held_out=0,
    )  # fmt: skip
    manifest, reader = training_data(data)
    held_out = held_out_rows(reader, data).tolist()
    order = training_order(reader, data, 0, 2)
    # rows: a's and b's train, then a's val, which is a near-duplicate of row 1
    assert len(reader) == 8 and (1 in held_out) == (7 in held_out)
    kept = [row for row in range(8) if row not in held_out]
    draws = np.bincount(order.rows(0, order.epoch_length)[1], minlength=8)
    assert draws.tolist() == [0 if row in held_out else 2 if 4 <= row < 7 else 1 for row in range(8)]
    assert sum(counts.images for counts in manifest.counts.values()) == len(kept)


@pytest.mark.parametrize("epoch", range(20))
def test_a_row_that_is_held_out_is_never_drawn_by_its_repeat_factor(tmp_path: Path, epoch: int) -> None:
    """The last mark of systematic sampling is forced: a last row of weight 0 could be drawn."""
    rows = [("a", "s", 1), ("b", "s", 1), ("c", "s", 2), ("z", "s", 1), ("z", "s", 1), ("z", "s", 2)]
    uri = write_filled(tmp_path, ("train", rows))
    data = DataConfig(uri=uri, folds=2, held_out=0, repeat_threshold=0.9)
    reader = training_data(data)[1]
    assert held_out_rows(reader, data).tolist() == [3, 4, 5]
    order = training_order(reader, data, seed=epoch, global_batch=2)
    # of the kept rows, rice is on two of three and egg on one: sqrt(0.9 / (2/3)) and sqrt(0.9 x 3) = 1.64
    np.testing.assert_allclose(order._repeats, np.array([1.162, 1.162, 1.643]) * 4 / 3.967, rtol=1e-3)
    assert set(order.rows(0, 40)[1].tolist()) == {0, 1, 2}


def test_repeat_factors_count_the_kept_rows_with_a_mask(tmp_path: Path) -> None:
    rows = [("a", "s", 1), ("b", "s", None), ("c", "s", 0), ("z", "s", 1), ("z", "s", 1), ("z", "s", None)]
    data = DataConfig(uri=write_filled(tmp_path, ("train", rows)), folds=2, held_out=0, repeat_threshold=1)
    order = training_order(training_data(data)[1], data, 0, 2)
    # rice is on one of two masks: sqrt(1 x 2 / 1)
    np.testing.assert_allclose(order._repeats / order._repeats[1], [2**0.5, 1, 1])


def test_a_partner_is_of_the_kept_rows(tmp_path: Path) -> None:
    rows = [("a", "s", 1), ("b", "s", 1), ("c", "s", 2), ("y", "t", 1), ("y", "t", 1), ("y", "t", 2), ("d", "s", 2)]
    data = DataConfig(uri=write_filled(tmp_path, ("train", rows)), folds=2, held_out=0)
    reader = training_data(data)[1]
    held_out = held_out_rows(reader, data).tolist()
    order = training_order(reader, data, 0, 2, paste=1.0)
    partners = order.partners(0, 100)
    assert set(held_out) >= {3, 4, 5}
    assert (partners >= 0).all(), "also where another source is held out as a whole"
    assert not set(partners.tolist()) & set(held_out)


def test_the_order_does_not_change_where_no_fold_is_held_out(tmp_path: Path) -> None:
    uri = write_filled(tmp_path, ("train", FIVE))
    reader = training_data(DataConfig(uri=uri))[1]
    order = training_order(reader, DataConfig(uri=uri), 0, 3)
    assert order.kept is None and order.epoch_length == 5
    assert training_order(reader, DataConfig(uri=uri), 0, 6).epoch_length == 5  # the next epoch begins in an update
    repeated = training_order(reader, DataConfig(uri=uri, repeat_threshold=0.9), 0, 2)
    # rice on two of four masks, egg on one: sqrt(0.9 x 4 / 2) and sqrt(0.9 x 4)
    assert repeated.epoch_length == round(2 * 1.8**0.5 + 3.6**0.5 + 2)


def test_nothing_to_learn_outside_of_a_fold(tmp_path: Path) -> None:
    rows = [("g", "s", 1), ("g", "s", 1), ("h", "s", 0), ("i", "s", None)]
    uri = write_filled(tmp_path, ("train", rows))
    with pytest.raises(UserError, match=r"hold no pixel of a food, only background outside of fold 0 of 2, which is"):
        training_data(DataConfig(uri=uri, folds=2, held_out=0))
    training_data(DataConfig(uri=uri, folds=2, held_out=1))


def test_row_numbers_are_those_of_the_reader(tmp_path: Path) -> None:
    uri = write_filled(tmp_path, ("train", FIVE))
    manifest, reader = training_data(DataConfig(uri=uri, folds=2, held_out=0))
    assert len(reader) == 5 and reader.labelled == 4 and manifest.counts["train"].images == 2


@pytest.mark.parametrize(
    ("share", "drawn"), [(None, [1, 1, 1, 1]), (0.0, [1, 1, 0, 0]), (0.5, [1, 1, 1, 1]), (1 / 3, [1, 1, 0.5, 0.5])]
)
def test_the_share_of_images_without_a_mask(tmp_path: Path, share: float | None, drawn: list[float]) -> None:
    """Two have a mask, two have none: in eight epochs' worth of draws each comes as often as expected."""
    rows = [("a", "s", 1), ("b", "s", 2), ("c", "s", None), ("d", "s", None)]
    data = DataConfig(uri=write_filled(tmp_path, ("train", rows)), unlabelled_share=share)
    order = training_order(training_data(data)[1], data, 0, 1)
    count = round(8 * sum(drawn))
    found = np.bincount(order.rows(0, count)[1], minlength=4)
    assert found[:2].tolist() == [8, 8] and found[2:].sum() == round(8 * sum(drawn[2:]))
    assert abs(found - 8 * np.array(drawn)).max() <= 1


def test_the_share_holds_beside_repeat_factors_and_a_fold(tmp_path: Path) -> None:
    rows = [("a", "s", 1), ("b", "s", 2), ("c", "s", 2), ("d", "s", None), ("e", "s", None), ("f", "s", None)]
    uri = write_filled(tmp_path, ("train", rows))
    data = DataConfig(uri=uri, unlabelled_share=0.25, repeat_threshold=1, folds=3, held_out=0)
    reader = training_data(data)[1]
    held_out = held_out_rows(reader, data).tolist()
    order = training_order(reader, data, 0, 1)
    found = np.bincount(order.rows(0, 400)[1], minlength=6)
    assert not found[held_out].any()
    assert found[3:].sum() == pytest.approx(100, abs=10)
    none = DataConfig(uri=uri, unlabelled_share=0, folds=3, held_out=0)
    assert set(training_order(reader, none, 0, 1).rows(0, 50)[1].tolist()) == {0, 1, 2} - set(held_out)
