"""Scores of a trained model whose names or maps are taken away at test: what it does without them is what they do."""

from pathlib import Path
from typing import Literal

import torch

from foodseg.checkpoint import load_checkpoint, load_model
from foodseg.checkpoint_files import resolve_checkpoint
from foodseg.data.reader import RowReader
from foodseg.data.shards import read_manifest
from foodseg.metrics import scores
from foodseg.models.segmenter import Segmenter
from foodseg.predict.predictor import Predictor
from foodseg.train.validation import validation_counts

How = Literal["as trained", "names permuted", "maps zeroed"]


def val_miou(run: Path, data: Path, how: How) -> float:
    """Returns the mIoU on val of a run's averaged weights, with the names exchanged or the maps set to 0."""
    checkpoint = load_checkpoint(resolve_checkpoint(str(run)))
    model = load_model(checkpoint, "ema")
    spoil(model, how)
    manifest = read_manifest(str(data))
    reader = RowReader(str(data), manifest, ["val"])
    predictor = Predictor(model, checkpoint.config.eval, torch.device("cpu"))
    matrix, _, _ = validation_counts(predictor, reader, manifest, rank=0, world_size=1)
    return scores(matrix, manifest.classes).miou


def spoil(model: Segmenter, how: How) -> None:
    """Gives each name the vector of another one, or sets the maps of a diffusion backbone to 0 for the decoder."""
    if how == "names permuted":
        names = model.text_table[1:]
        model.text_table[1:] = names.roll(max(1, len(names) // 2), 0)
    elif how == "maps zeroed":
        model.backbone.register_forward_hook(
            lambda module, args, output: (output[0], [torch.zeros_like(maps) for maps in output[1]])
        )
