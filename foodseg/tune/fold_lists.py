"""Which images are in which fold of an ablation, also as text for programs that are compared with it.

lists = read_folds(config.data, folds=5)
write_folds("runs/ablation", lists)         # folds/fold-0.txt ... fold-4.txt: the ids that the fold holds out
"""

from collections import Counter
from collections.abc import Sequence

import numpy as np

from foodseg import storage
from foodseg.config.data import DataConfig
from foodseg.data.concat import training_manifest
from foodseg.data.reader import RowReader
from foodseg.data.training_rows import fold_of_rows
from foodseg.errors import UserError


def read_folds(data: DataConfig, folds: int) -> list[list[str]]:
    """Returns the image ids of each fold of the rows of `data.train_splits`.

    Raises:
        UserError: fewer groups than folds, a fold without a labelled image, an id that occurs twice.
    """
    reader = RowReader(data.uri, training_manifest(data), data.train_splits)
    fold = fold_of_rows(reader, folds)
    ids = reader.column("image_id").to_pylist()
    twice = [image_id for image_id, times in Counter(ids).items() if times > 1]
    if twice:
        raise UserError(
            f"ablation.folds: scores are taken image by image, but the id {twice[0]!r} is in two of config.data.uris: "
            "prepare one of them again with other ids"
        )
    labelled = np.ones(len(ids), bool)
    if reader.labelled < len(ids):
        labelled = ~reader.column("mask").is_null().to_numpy()
    empty = sorted(set(range(folds)) - set(fold[labelled].tolist()))
    if empty:
        raise UserError(
            f"ablation.folds = {folds}: fold {empty[0]} holds no labelled image, so nothing is scored there: "
            "lower ablation.folds"
        )
    return [[ids[row] for row in np.flatnonzero(fold == index)] for index in range(folds)]


def write_folds(uri: str, lists: Sequence[Sequence[str]]) -> None:
    """Writes the ids of each fold into the ablation's folder, one a line; what is there must be the same.

    Raises:
        UserError: the folds were others when the ablation began.
    """
    for index, ids in enumerate(lists):
        where, text = storage.join(uri, "folds", f"fold-{index}.txt"), "".join(f"{image_id}\n" for image_id in ids)
        if not storage.create_bytes(where, text.encode()) and storage.read_text(where) != text:
            raise UserError(
                f"--resume: {storage.redact(where)} lists other images than the data holds in this fold now: the data "
                "was prepared again since the ablation began; give another folder to start again"
            )
