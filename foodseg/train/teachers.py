"""Teachers that are trained already: which checkpoint labels which training image.

    teachers = read_teachers(config, manifest)
    teacher_of = assign_teachers(teachers, reader, config.data, manifest.identity)

What a model says of an image that it was trained on is little more than the label of that image. So each image is
labelled by a teacher that was not trained on it, where there is one: those of a cross-validation (`data.folds`) leave
out every image once. A teacher that was trained on what this run holds out, or validates on, would leak it, and does
not teach.
"""

import hashlib
import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from foodseg import storage
from foodseg.checkpoint.find import resolve_checkpoint
from foodseg.checkpoint.index_file import EXPORTED, index_file
from foodseg.checkpoint.manifest import read_manifest_file
from foodseg.checkpoint.node_copy import local_files
from foodseg.classes import ClassTable
from foodseg.config import ExperimentConfig, parse_config
from foodseg.config.data import DataConfig
from foodseg.data.reader import RowReader
from foodseg.data.training_rows import fold_of_rows, held_out_rows
from foodseg.errors import UserError

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Teacher:
    """A checkpoint that labels training images.

    Attributes:
        uri: its directory. content: digest of its files.
        data: identity of the data set that it was trained on. config: what it was trained with.
    """

    uri: str
    content: str
    data: str
    config: ExperimentConfig


def read_teachers(uris: Sequence[str], classes: ClassTable) -> list[Teacher]:
    """Reads what is known of each of `distill.teacher`; their weights are not read.

    Raises:
        UserError: one is no checkpoint, is an exported model, is damaged, or knows other classes.
    """
    return [_read(resolve_checkpoint(uri), classes) for uri in uris]


def _read(uri: str, classes: ClassTable) -> Teacher:
    if index_file(uri) == EXPORTED:
        raise UserError(
            f"distill.teacher: {storage.redact(uri)} is an exported model, which does not say which images it was "
            "trained on: name the checkpoint that it was exported from"
        )
    manifest = read_manifest_file(uri)
    with local_files(uri, manifest) as file:
        config = parse_config(json.loads(file("config.json").read_bytes()))
        own = ClassTable.from_text(file("classes.tsv").read_text(encoding="utf-8"), storage.join(uri, "classes.tsv"))
    if own.names != classes.names:
        different = [(a, b) for a, b in zip(own.names, classes.names, strict=False) if a != b]
        found = f"{different[0][0]!r} where the data has {different[0][1]!r}" if different else f"{len(own)} of them"
        raise UserError(
            f"distill.teacher: {storage.redact(uri)} knows other classes than the data set, {found}: name a checkpoint "
            "of the same label space, or convert the data set with `foodseg data map`"
        )
    files = sorted((name, entry.sha256) for name, entry in manifest.files.items())
    return Teacher(uri, hashlib.sha256(repr(files).encode()).hexdigest()[:16], manifest.data, config)


def assign_teachers(teachers: Sequence[Teacher], reader: RowReader, data: DataConfig, identity: str) -> np.ndarray:
    """Returns which teacher labels each row.

    Args:
        reader: of the rows of `data.train_splits`. identity: of the data set.

    Returns:
        (N,) int64 index of the first teacher that was not trained on the row, else of the first; -1 for a row that is
        held out.

    Raises:
        UserError: all were trained on what is held out, or on the split that is validated on.
    """
    held_out = held_out_rows(reader, data)
    seen = np.stack([_seen(teacher, reader, data, identity) for teacher in teachers])
    leaks = np.array([teacher.data == identity and data.val_split in _splits(teacher) for teacher in teachers])
    if held_out is not None:
        same = np.array([teacher.data == identity for teacher in teachers])
        leaks |= same & seen[:, held_out].any(1)
    what = f"{data.held_out_name}, held out here" if held_out is not None else f"{data.val_split!r}, validated on here"
    if leaks.all():
        raise UserError(
            f"distill.teacher: {storage.redact(teachers[0].uri)} was trained on images of {what}: the score would not "
            "be that of unseen images; name a teacher that held them out"
        )
    if leaks.any():
        _log.info("%d of %d teachers do not teach: they were trained on images of %s", leaks.sum(), len(leaks), what)
    # the first that may teach and has not seen the row, else the first that may teach
    teacher_of = np.argmin(seen.astype(np.int64) + 2 * leaks[:, None], axis=0)
    if held_out is not None:
        teacher_of[held_out] = -1
    unseen = int((~seen[teacher_of, np.arange(len(reader))])[teacher_of >= 0].sum())
    _log.info("%d of %d images are labelled by a teacher that was not trained on them", unseen, (teacher_of >= 0).sum())
    return teacher_of


def _seen(teacher: Teacher, reader: RowReader, data: DataConfig, identity: str) -> np.ndarray:
    """Returns (N,) bool, the rows that a teacher was trained on; of other data that is not known: all."""
    own = teacher.config.data
    if teacher.data != identity:
        return np.ones(len(reader), bool)
    split_of = np.repeat([shard.split for shard in reader.shards], reader.shard_rows)
    seen = np.isin(split_of, own.train_splits)
    # folds are those of all rows of the splits together
    if own.folds is not None and own.train_splits == data.train_splits:
        seen &= ~np.isin(fold_of_rows(reader, own.folds), own.held_out_folds)
    return seen


def _splits(teacher: Teacher) -> tuple[str, ...]:
    return teacher.config.data.train_splits


def soft_labels_uri(
    folder: str, teachers: Sequence[Teacher], teacher_of: np.ndarray, data: DataConfig, identity: str
) -> str:
    """Returns where in `folder` the soft labels of exactly these teachers of these rows are, or will be."""
    said = (identity, data.train_splits, [teacher.content for teacher in teachers], teacher_of.tolist())
    return storage.join(folder, hashlib.sha256(repr(said).encode()).hexdigest()[:16])
