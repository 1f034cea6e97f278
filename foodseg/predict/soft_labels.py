"""Labels training images softly with teachers: the shards of `data/soft_labels.py`, one for each shard of the data set.

    labels = make_soft_labels(uri, reader, checkpoints, teacher_of, device)

Each teacher labels as it was validated: at its own size, mirrored, at several scales. One with text fusion is
conditioned on the classes of the image. A shard is written once it is complete; a run that was killed
resumes with the next one.
"""

import functools
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from foodseg import storage
from foodseg.checkpoint.checkpoint import load_checkpoint, load_model
from foodseg.data.reader import RowReader
from foodseg.data.shards import entry_of_shard
from foodseg.data.soft_labels import TOP, SoftLabelReader, SoftLabels, encode_soft_labels, read_list, write_list
from foodseg.predict.image_logits import ImageLogits
from foodseg.predict.predictor import Predictor
from foodseg.progress import Progress

ROWS_AT_ONCE = 32  # encoded, in memory
COLUMNS = ("image_id", "image", "mask", "height", "width", "ingredients")


def make_soft_labels(
    uri: str, reader: RowReader, checkpoints: Sequence[str], teacher_of: np.ndarray, device: torch.device
) -> SoftLabelReader:
    """Writes the soft labels of all rows of a reader, those that are not there yet; returns them.

    Args:
        checkpoints: directories of the teachers. teacher_of: (N,) int64, the teacher of each row; -1 = none.

    Raises:
        UserError: a checkpoint is damaged, an image cannot be read, the folder cannot be written to.
        RetryLater: the storage does not answer.
    """
    there = read_list(uri)
    if there is not None:
        return there
    labeller = functools.cache(lambda teacher: None if teacher < 0 else TeacherLabeller(checkpoints[teacher], device))
    shards, start = [], 0
    with Progress("labelling training images with the teacher", len(reader)) as progress:
        for number, shard in enumerate(reader.shards):
            rows = np.arange(start, start + shard.rows)
            path = f"part-{number:05d}.parquet"
            where = storage.join(uri, path)
            if storage.exists(where):
                progress.advance(shard.rows)
            else:
                made: list[dict[str, Any]] = []
                for some in np.array_split(rows, -(-len(rows) // ROWS_AT_ONCE)):
                    found = reader.take(some, COLUMNS).to_pylist()
                    chosen = map(labeller, teacher_of[some].tolist())
                    made += [_labelled(row, teacher) for row, teacher in zip(found, chosen, strict=True)]
                    progress.advance(len(some))
                storage.create_bytes(where, encode_soft_labels(made))
            shards.append(entry_of_shard(shard.split, path, storage.read_bytes(where)))
            start += shard.rows
    write_list(uri, shards)
    return SoftLabelReader(uri, shards)


class TeacherLabeller:
    """One teacher, ready to label."""

    def __init__(self, uri: str, device: torch.device) -> None:
        checkpoint = load_checkpoint(uri)
        config = checkpoint.config
        model = load_model(checkpoint, config.eval.weights)
        self.is_conditioned = config.model.fusion != "none"
        pixels = checkpoint.class_pixels
        self._predictor = Predictor(model, config.eval, device, config.train.precision, class_pixels=pixels)
        conditioned = config.eval.model_copy(update={"ingredients": "provided"})
        self._conditioned = Predictor(model, conditioned, device, config.train.precision, class_pixels=pixels)

    def label(self, image: bytes, ingredients: Sequence[int] | None) -> SoftLabels:
        """Labels an encoded image; `ingredients` are those on it, None where they are not known."""
        if ingredients is None or not self.is_conditioned:
            logits = self._predictor.logits_of_file(image)
        else:
            logits = self._conditioned.logits_of_file(image, ingredients)
        return most_probable(logits)


def most_probable(logits: ImageLogits) -> SoftLabels:
    """Returns the TOP most probable classes of each grid cell, a grid as fine as that of the logits."""
    height, width = (max(1, round(side / logits.stride)) for side in logits.fitted)
    scores = replace(logits, height=height, width=width).scores()
    best = scores.softmax(0).topk(min(TOP, len(scores)), dim=0)
    shares = best.values / best.values.sum(0)
    ids = best.indices.movedim(0, -1).cpu().numpy().astype(np.uint8 if len(scores) <= 256 else np.uint16)
    return SoftLabels(ids, shares.movedim(0, -1).half().cpu().numpy())


def _labelled(row: dict[str, Any], labeller: TeacherLabeller | None) -> dict[str, Any]:
    if labeller is None:
        return {"image_id": row["image_id"], "height": 0, "width": 0, "ids": None, "scores": None}
    known = None if row["mask"] is None else row["ingredients"]
    return labeller.label(row["image"], known).to_row(row["image_id"])
