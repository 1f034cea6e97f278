"""Which rows are scored: a split, listed images of it, a fold."""

from pathlib import Path

import pytest

from foodseg.config.data import DataConfig
from foodseg.errors import UserError
from foodseg.eval.scored_rows import held_out_fold, split_rows
from tests.support.filled_set import write_filled

TRAIN = [("g", "s", 1), ("h", "s", 2), ("g", "s", 0), ("g", "s", None)]


def test_a_split_and_images_of_it(tmp_path: Path) -> None:
    uri = write_filled(tmp_path, ("train", TRAIN), ("test", [("t", "s", 1)]))
    whole = split_rows(uri, "train")
    assert list(whole.rows) == [0, 1, 2, 3] and whole.split == "train"
    (tmp_path / "list.txt").write_text("train-2\ntrain-1\n")
    listed = split_rows(uri, "train", str(tmp_path / "list.txt"))
    assert listed.rows == [1, 2] and listed.image_ids() == ["train-1", "train-2"]
    (tmp_path / "list.txt").write_text("\n")
    with pytest.raises(UserError, match="there is no image id in it"):
        split_rows(uri, "train", str(tmp_path / "list.txt"))


def test_the_fold_that_a_training_leaves_out(tmp_path: Path) -> None:
    uri = write_filled(tmp_path, ("train", TRAIN), ("val", [("h", "s", 1)]))
    for fold, ids in enumerate([["train-0", "train-2", "train-3"], ["train-1", "val-0"]]):
        data = DataConfig(uri=uri, train_splits=("train", "val"), val_split=None, folds=2, held_out=fold)
        found = held_out_fold(data)
        assert found.image_ids() == ids
        assert found.split == f"train and val, fold {fold} of 2"
        assert found.manifest.counts["train"].images == 4, "of the whole data set"
