"""Validation of a region classifier within training: every region of `val` once, counted by true and predicted class.

Each rank classifies its share of the images; the counts are added up over the ranks.
"""

from collections.abc import Mapping

import numpy as np
import torch
from torch import nn

from foodseg.checkpoint.history import Validation
from foodseg.config import ExperimentConfig
from foodseg.data.image_io import decode_image
from foodseg.data.reader import RowReader
from foodseg.data.roi_views import SAM_COLUMN, row_regions
from foodseg.data.shards import Manifest
from foodseg.errors import UserError
from foodseg.metrics.confusion import scores
from foodseg.metrics.regions import region_scores
from foodseg.models.roi import RegionNetwork
from foodseg.predict.region_predictor import OtherContexts, RegionPredictor
from foodseg.train.context import TrainContext, share_buffers
from foodseg.train.validation import rank_units, unit_rows, validation_units


def validate_regions(
    models: Mapping[str, nn.Module],
    reader: RowReader,
    manifest: Manifest,
    config: ExperimentConfig,
    context: TrainContext,
    step: int,
) -> tuple[Validation, str]:
    """Scores both kinds of weights after `step` updates; all ranks call it.

    Args:
        models: by "student" and, where an average is kept, "ema".
        reader: for the split `data.val_split`.

    Returns:
        The scores, in which IoU is counted in regions, not pixels; and what the log says of them.

    Raises:
        UserError: there is no region.
    """
    matrices = {name: _counts(model, reader, manifest, config, context) for name, model in models.items()}
    chosen = matrices[config.eval.weights]
    kinds = {f"miou_{name}": scores(matrix, manifest.classes).miou for name, matrix in matrices.items()}
    found, regions = scores(chosen, manifest.classes), region_scores(chosen, manifest.classes)
    f1, top1 = 100 * (regions.macro_f1 or 0), 100 * (regions.top1 or 0)
    text = f"val macro F1 {f1:.2f} top-1 {top1:.2f} of {regions.regions:,} regions"
    return Validation(step, found.miou, found.aacc, found.macc, macro_f1=regions.macro_f1, **kinds), text


def _counts(
    network: nn.Module, reader: RowReader, manifest: Manifest, config: ExperimentConfig, context: TrainContext
) -> np.ndarray:
    """Returns (K, K) int64 over all ranks, regions by true (row) and predicted id."""
    assert isinstance(network, RegionNetwork)
    share_buffers(network, context)
    predictor, others = RegionPredictor(network, config, context.device), OtherContexts()
    matrix = np.zeros((len(manifest.classes), len(manifest.classes)), np.int64)
    units = rank_units(validation_units(reader, config.data.val_limit), context.rank, context.world_size)
    for row in (row for rows in unit_rows(reader, units) for row in rows):
        given: dict[str, object] = {"mask": row.mask, "source": row.source}
        if reader.kept_masks is not None:
            (given[SAM_COLUMN],) = reader.kept_masks.of_images([row.image_id]).to_pylist()
        regions = row_regions(given, config.roi, manifest)
        if not regions:
            continue
        views = predictor.views(decode_image(row.image), regions)
        if config.roi.views == "roi_other_context":
            views = others.exchange(row.source, views)
        predicted = predictor.logits_of_views(views).argmax(1)
        np.add.at(matrix, ([region.label for region in regions], predicted), 1)
    total: np.ndarray = context.all_reduce(torch.from_numpy(matrix).to(context.device)).cpu().numpy()
    if not total.any():
        raise UserError(
            f"the split {config.data.val_split!r} has no region of at least roi.least_share = "
            f"{config.roi.least_share:g} of its image: lower it, or set data.val_split=null"
        )
    return total
