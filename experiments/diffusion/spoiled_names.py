"""Scores of a trained model whose names or maps are spoiled at test, to show what they contribute."""

from pathlib import Path
from typing import Literal

import numpy as np
import torch

from foodseg.checkpoint.checkpoint import load_checkpoint, load_model
from foodseg.checkpoint.find import resolve_checkpoint
from foodseg.data.image_io import decode_mask
from foodseg.data.reader import RowReader
from foodseg.data.shards import read_manifest
from foodseg.data.sources import scorable_mask
from foodseg.eval.scoring import labelled_rows
from foodseg.metrics.confusion import confusion, scores
from foodseg.models.segmenter import SegmenterNetwork
from foodseg.predict.predictor import Predictor

How = Literal["as trained", "embeddings exchanged", "conditioning exchanged", "maps zeroed"]


def val_miou(run: Path, data: Path, how: How, *, oracle: bool) -> float:
    """Returns the mIoU on val of a run's averaged weights.

    Args:
        how: what is spoiled at test, see `spoil`; "conditioning exchanged": another class instead of each true one.
        oracle: whether the true classes of each image are provided; else the whole vocabulary is used.
    """
    checkpoint = load_checkpoint(resolve_checkpoint(str(run)))
    model = load_model(checkpoint, "ema")
    spoil(model, how)
    manifest = read_manifest(str(data))
    classes = manifest.class_table
    config = checkpoint.config.eval.model_copy(update={"ingredients": "provided" if oracle else "vocabulary"})
    predictor = Predictor(model, config, torch.device("cpu"))
    matrix = np.zeros((len(classes), len(classes)), np.int64)
    reader = RowReader(str(data), manifest, ["val"])
    for row in labelled_rows(reader, range(len(reader))):
        mask = decode_mask(row.mask)
        present = [int(i) for i in np.unique(mask) if i not in (0, classes.ignore_id)]
        listed = [exchanged(i, len(classes)) for i in present] if how == "conditioning exchanged" else present
        ids = predictor.logits_of_file(row.image, listed if oracle else None).ids()
        truth = scorable_mask(mask, ids, manifest.annotated[row.source], classes)
        matrix += confusion(truth, ids, len(classes), classes.ignore_id)
    return scores(matrix, manifest.classes).miou


def spoil(model: SegmenterNetwork, how: How) -> None:
    """Gives each class the embedding of another one, or sets the maps of a diffusion backbone to 0 for the decoder."""
    if how == "embeddings exchanged":
        ids = range(len(model.text_table))
        model.text_table.copy_(model.text_table[[exchanged(i, len(ids)) if i else 0 for i in ids]].clone())
    elif how == "maps zeroed":
        model.backbone.register_forward_hook(
            lambda module, args, output: (output[0], [torch.zeros_like(maps) for maps in output[1]])
        )


def exchanged(name: int, classes: int) -> int:
    """Returns the id, of 1 to `classes` - 1, that is used instead of another one: half of the names further on."""
    names = classes - 1
    return 1 + (name - 1 + max(1, names // 2)) % names
