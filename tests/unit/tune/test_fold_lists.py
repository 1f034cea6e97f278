"""The ids of each fold, as an ablation writes them down."""

from pathlib import Path

import pytest

from foodseg.config.data import DataConfig, WeightedData
from foodseg.errors import UserError
from foodseg.tune.fold_lists import read_folds, write_folds
from tests.support.filled_set import write_filled

ROWS = [("g", "s", 1), ("h", "s", 2), ("g", "s", 0), ("g", "s", None), ("i", "s", 1)]


def test_every_image_is_in_one_list(tmp_path: Path) -> None:
    uri = write_filled(tmp_path, ("train", ROWS), ("val", [("h", "s", 1)]))
    data = DataConfig(uri=uri, train_splits=("train", "val"), val_split=None)
    # groups of 3, 2 and 1 images
    assert read_folds(data, 2) == [["train-0", "train-2", "train-3"], ["train-1", "train-4", "val-0"]]


def test_a_fold_without_a_labelled_image_is_refused(tmp_path: Path) -> None:
    uri = write_filled(tmp_path, ("train", [("g", "s", 1), ("g", "s", 1), ("h", "s", None)]))
    with pytest.raises(UserError, match=r"folds = 2: fold 1 holds no labelled image.*: lower ablation\.folds"):
        read_folds(DataConfig(uri=uri), 2)


def test_an_id_in_two_data_sets_is_refused(tmp_path: Path) -> None:
    uris = [write_filled(tmp_path / name, ("train", ROWS)) for name in "ab"]
    other = write_filled(tmp_path / "c", ("train", ROWS), prefix="c-")

    def data(*sets: str) -> DataConfig:
        return DataConfig(uris=tuple(WeightedData(uri=uri) for uri in sets))

    with pytest.raises(UserError, match=r"the id 'train-0' is in two of config\.data\.uris"):
        read_folds(data(*uris), 2)
    assert sum(map(len, read_folds(data(uris[0], other), 2))) == 10


def test_lists_that_are_there_must_be_the_same(tmp_path: Path) -> None:
    uri, lists = str(tmp_path / "ablation"), [["b", "a"], ["lunch/c"]]
    write_folds(uri, lists)
    write_folds(uri, lists)
    assert (tmp_path / "ablation" / "folds" / "fold-0.txt").read_text() == "b\na\n"
    assert (tmp_path / "ablation" / "folds" / "fold-1.txt").read_text() == "lunch/c\n"
    with pytest.raises(UserError, match=r"fold-1.txt lists other images than the data holds in this fold now"):
        write_folds(uri, [["b", "a"], ["d"]])
