"""Validation within training: exact scores on `val`, and the temperature of the model's confidences, in one pass.

Each rank labels its share of the rows; whole-number counts are added up over the ranks, so that every rank has the same
result, whatever the number of ranks. As in `evaluate`, background pixels are left out where an id is predicted that the
source of the image never annotates.
"""

from dataclasses import asdict

import numpy as np
import torch
from torch import nn

from foodseg.checkpoint.checkpoint import Calibration
from foodseg.config import ExperimentConfig
from foodseg.data.image_io import decode_mask
from foodseg.data.reader import RowReader
from foodseg.data.shards import Manifest
from foodseg.data.sources import scorable_mask
from foodseg.eval.scoring import rank_rows
from foodseg.metrics.calibration import TEMPERATURES, fit_temperature, nll_sums, sampled_pixels
from foodseg.metrics.confusion import Scores, confusion, scores
from foodseg.models.build import Network
from foodseg.predict.predictor import RULED_OUT, Predictor
from foodseg.train.context import TrainContext, share_buffers


def validate(
    model: nn.Module, reader: RowReader, manifest: Manifest, config: ExperimentConfig, context: TrainContext, step: int
) -> tuple[Scores, Calibration | None]:
    """Scores every row of `reader` exactly once over the ranks, and fits the temperature; all ranks call it.

    Args:
        model: with the weights that `eval.weights` names, after `step` updates.
        reader: for the split `data.val_split`. manifest: of the training data.

    Returns:
        The scores, and the temperature; None for it where `eval.restrict` ruled out the true id of every pixel.
    """
    assert isinstance(model, Network) and config.data.val_split is not None
    share_buffers(model, context)  # rank 0's are saved, so all ranks score with them
    class_pixels = manifest.class_pixels(config.data.train_splits)
    predictor = Predictor(model, config.eval, context.device, config.train.precision, class_pixels=class_pixels)
    counted = validation_counts(predictor, reader, manifest, context.rank, context.world_size)
    matrix, nll, pixels = (context.all_reduce(torch.from_numpy(c).to(context.device)).cpu().numpy() for c in counted)
    result = scores(matrix, manifest.classes)
    if not pixels[0]:
        return result, None
    calibration = Calibration(
        **asdict(fit_temperature(nll, int(pixels[0]))),
        pixels=int(pixels[0]),
        split=config.data.val_split,
        step=step,
        eval=config.eval.model_dump(mode="json"),
    )
    return result, calibration


def validation_counts(
    predictor: Predictor, reader: RowReader, manifest: Manifest, rank: int, world_size: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Counts one rank's share of the rows.

    Returns:
        (K, K) int64 confusion matrix; (T,) int64 negative log-likelihoods of sampled pixels at each of TEMPERATURES, as
        `nll_sums` gives them; (1,) int64, how many pixels those are. Pixels whose true id `eval.restrict` ruled out are
        not among them: no temperature can correct those.
    """
    classes = manifest.class_table
    matrix = np.zeros((len(classes), len(classes)), np.int64)
    nll, pixels = np.zeros(len(TEMPERATURES), np.int64), np.zeros(1, np.int64)
    for row in rank_rows(reader, rank, world_size):
        logits = predictor.logits_of_file(row.image)
        ids = logits.ids()
        truth = scorable_mask(decode_mask(row.mask), ids, manifest.annotated[row.source], classes)
        matrix += confusion(truth, ids, len(classes), classes.ignore_id)
        sample = sampled_pixels(truth, classes.ignore_id, row.image_id)
        values, own = logits.at(sample), truth.ravel()[sample]
        # a pixel whose true id is ruled out costs some 1e4 / T nats, which would outweigh all others
        possible = values[own, np.arange(len(own))] > RULED_OUT / 2
        nll += nll_sums(values[:, possible], own[possible])
        pixels += possible.sum()
    return matrix, nll, pixels
