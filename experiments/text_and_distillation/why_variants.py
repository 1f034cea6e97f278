"""Why a variant helps or does not: how well it fits, which classes it confuses, whether it uses its conditioning."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from foodseg.checkpoint.checkpoint import Checkpoint, load_checkpoint, load_model
from foodseg.checkpoint.find import resolve_checkpoint
from foodseg.config.evaluation import EvalConfig
from foodseg.data.image_io import decode_mask
from foodseg.data.reader import RowReader
from foodseg.data.shards import read_manifest
from foodseg.eval.report_html import confusion_pairs, read_losses
from foodseg.eval.scoring import labelled_rows
from foodseg.metrics.per_image import merge, read_image_counts
from foodseg.models.segmenter import SegmenterNetwork
from foodseg.predict.predictor import Predictor

LAST = 0.2  # of the updates: where the training loss is averaged
PAIRS = 5


def fit_of(run: Path) -> dict[str, float]:
    """Returns each training loss, the mean over the last fifth of the updates."""
    uri = resolve_checkpoint(str(run))
    step = load_checkpoint(uri).step
    losses = read_losses(uri, step)
    return {
        name: round(float(np.mean([value for at, value in points if at > (1 - LAST) * step])), 4)
        for name, points in losses.items()
    }


def classes_of(scored: Path, baseline: Path, ids: Mapping[int, str]) -> dict[str, Any]:
    """Returns by class the IoU in per cent, here and in `baseline`, and the worst confusions among all classes.

    Args:
        scored, baseline: folders of `foodseg evaluate`. ids: the classes to list, with their names.
    """
    matrices = []
    for folder in (scored, baseline):
        images, about = read_image_counts(str(folder / "images.parquet"))
        matrices.append(merge(images, len(about.classes)))
    own, other = (_iou(matrix) for matrix in matrices)
    pairs = confusion_pairs(matrices[0], about.classes)[:PAIRS]
    return {
        "iou_here_and_in_a": {name: [_percent(own[index]), _percent(other[index])] for index, name in ids.items()},
        "worst_confusions": [f"{pair.truth} as {pair.prediction}: {100 * pair.share:.0f} %" for pair in pairs],
    }


def conditioning_use_of(run: Path, data: Path, split: str) -> dict[str, float]:
    """Returns how good image-level prediction is, and which share of the labels conditioning changes.

    Returns:
        precision, recall: of the predicted ingredients, over all images. changed_by_true_conditioning,
        changed_by_wrong_conditioning: share of the pixels that get another label than with the whole vocabulary.
    """
    loaded = load_checkpoint(resolve_checkpoint(str(run)))
    model = load_model(loaded, "student")
    plain, predicting, provided = (
        _predictor(loaded, model, listed) for listed in ("vocabulary", "predicted", "provided")
    )
    rng = np.random.default_rng(0)
    right = predicted = present = pixels = by_true = by_wrong = 0
    manifest = read_manifest(str(data))
    reader = RowReader(str(data), manifest, [split])
    for row in labelled_rows(reader, range(len(reader))):
        truth = _present(row.mask, loaded.classes.ignore_id)
        absent = np.setdiff1d(np.arange(1, len(loaded.classes)), truth)
        wrong = rng.choice(absent, max(1, len(truth)), replace=False)
        conditioning = predicting.logits_of_file(row.image).conditioning
        assert conditioning is not None
        prediction = np.flatnonzero(conditioning)[1:]
        right += len(np.intersect1d(prediction, truth))
        predicted, present = predicted + len(prediction), present + len(truth)
        labels = plain.logits_of_file(row.image).ids()
        pixels += labels.size
        by_true += int((provided.logits_of_file(row.image, truth.tolist()).ids() != labels).sum())
        by_wrong += int((provided.logits_of_file(row.image, wrong.tolist()).ids() != labels).sum())
    figures = {
        "prediction_precision": right / predicted,
        "prediction_recall": right / present,
        "changed_by_true_conditioning": by_true / pixels,
        "changed_by_wrong_conditioning": by_wrong / pixels,
    }
    return {name: round(value, 4) for name, value in figures.items()}


def _predictor(loaded: Checkpoint, model: SegmenterNetwork, listed: str) -> Predictor:
    settings = {**loaded.config.eval.model_dump(), "ingredients": listed, "restrict": "none"}
    return Predictor(model, EvalConfig.model_validate(settings), torch.device("cpu"))


def _present(mask: bytes, ignore_id: int) -> np.ndarray:
    found = np.unique(decode_mask(mask))
    return found[(found != 0) & (found != ignore_id)]


def _iou(matrix: np.ndarray) -> np.ndarray:
    union = matrix.sum(0) + matrix.sum(1) - np.diag(matrix)
    return np.where(matrix.sum(1) > 0, np.diag(matrix) / np.maximum(1, union), np.nan)


def _percent(value: float) -> float | None:
    return None if np.isnan(value) else round(100 * float(value), 1)
