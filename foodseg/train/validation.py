"""Validation within training: exact scores on `val`, and the temperature of the model's confidences, in one pass.

    found = validate({"student": student, "ema": teacher}, reader, manifest, config, context, step)

All models see the same decoded images, so that the data are read once. Each rank labels its share of the rows;
whole-number counts are added up over the ranks, so that every rank has the same result. Images of one canvas share a
forward pass; which images do is a property of the data alone, and so the result does not depend on the number of ranks.
As in `evaluate`, background pixels are left out where an id is predicted that the source of the image never annotates.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import groupby

import numpy as np
import pyarrow as pa
import torch
from torch import nn

from foodseg.checkpoint.checkpoint import Calibration
from foodseg.config import ExperimentConfig
from foodseg.data.image_io import decode_mask, image_size
from foodseg.data.read_ahead import read_ahead
from foodseg.data.reader import RowReader
from foodseg.data.shards import Manifest
from foodseg.data.sources import scorable_mask
from foodseg.errors import UserError
from foodseg.eval.scoring import LabelledRow, chunks, labelled
from foodseg.metrics.calibration import TEMPERATURES, fit_temperature, nll_sums, sampled_pixels
from foodseg.metrics.confusion import Scores, confusion, scores
from foodseg.models.build import Network
from foodseg.predict.image_logits import ImageLogits
from foodseg.predict.predictor import RULED_OUT, Predictor
from foodseg.train.context import TrainContext, share_buffers

UNIT_ROWS = 16  # consecutive rows of one row group, dealt to one rank; images share a forward pass within them
BATCH_PIXELS = 2**21  # of a forward pass: 8 images of 512 x 512, and one of a camera
DECODERS = 2  # threads, each of which has decoded a batch ahead


@dataclass
class Counts:
    """The counts of one model.

    matrix: (K, K) int64 confusion matrix. nll: (T,) int64 negative log-likelihoods of sampled pixels at each of
    TEMPERATURES, as `nll_sums` gives them. pixels: (1,) int64, how many those are. Pixels whose true id `eval.restrict`
    ruled out are not among them: no temperature can correct those.
    """

    matrix: np.ndarray
    nll: np.ndarray
    pixels: np.ndarray

    @classmethod
    def none(cls, classes: int) -> "Counts":
        """Returns the counts of no image."""
        return cls(np.zeros((classes, classes), np.int64), np.zeros(len(TEMPERATURES), np.int64), np.zeros(1, np.int64))


def validate(
    models: Mapping[str, nn.Module],
    reader: RowReader,
    manifest: Manifest,
    config: ExperimentConfig,
    context: TrainContext,
    step: int,
) -> dict[str, tuple[Scores, Calibration | None]]:
    """Scores `data.val_limit` rows of `reader`, or all, exactly once over the ranks; all ranks call it.

    Args:
        models: by a name of the caller's, each after `step` updates.
        reader: for the split `data.val_split`. manifest: of the training data.

    Returns:
        By the same names the scores, and the temperature; None for it where `eval.restrict` ruled out the true id of
        every pixel.

    Raises:
        UserError: none of the rows that `data.val_limit` chose has a labelled pixel.
    """
    assert config.data.val_split is not None
    class_pixels = manifest.class_pixels(config.data.train_splits)
    predictors = {}
    for name, model in models.items():
        assert isinstance(model, Network)
        share_buffers(model, context)  # rank 0's are saved, so all ranks score with them
        predictors[name] = Predictor(
            model, config.eval, context.device, config.train.precision, class_pixels=class_pixels
        )
    units = rank_units(validation_units(reader, config.data.val_limit), context.rank, context.world_size)
    counted = validation_counts(predictors, reader, manifest, units)
    return {name: _result(counts, manifest, config, context, step) for name, counts in counted.items()}


def _result(
    counts: Counts, manifest: Manifest, config: ExperimentConfig, context: TrainContext, step: int
) -> tuple[Scores, Calibration | None]:
    parts = (counts.matrix, counts.nll, counts.pixels)
    matrix, nll, pixels = (context.all_reduce(torch.from_numpy(c).to(context.device)).cpu().numpy() for c in parts)
    if not matrix.any():
        raise UserError(
            f"none of the images of {config.data.val_split!r} that data.val_limit = {config.data.val_limit} chooses "
            "has a labelled pixel: raise it"
        )
    result = scores(matrix, manifest.classes)
    if not pixels[0]:
        return result, None
    calibration = Calibration(
        **asdict(fit_temperature(nll, int(pixels[0]))),
        pixels=int(pixels[0]),
        split=config.data.val_split or "",
        step=step,
        eval=config.eval.model_dump(mode="json"),
    )
    return result, calibration


def validation_units(reader: RowReader, limit: int | None) -> list[list[int]]:
    """Returns the rows that are validated on, in lists of at most UNIT_ROWS, each of one row group, ascending.

    With `limit` these are all rows of row groups that are drawn from the whole split, the same at each validation and
    in each run on these data; of the last one drawn as many as are left. Single rows from everywhere would cost the
    reading of nearly everything.
    """
    groups = reader.by_row_group(range(len(reader)))
    left = len(reader) if limit is None else limit
    order = np.random.default_rng(0).permutation(len(groups)).tolist()
    chosen: dict[int, list[int]] = {}
    for group in order:
        chosen[group] = groups[group][: max(0, left)]
        left -= len(chosen[group])
    return [unit for group in sorted(chosen) for unit in chunks(chosen[group], UNIT_ROWS)]


def rank_units(units: Sequence[list[int]], rank: int, world_size: int) -> Sequence[list[int]]:
    """Returns one rank's share: neighbours, so that few row groups are read by two ranks."""
    return units[len(units) * rank // world_size : len(units) * (rank + 1) // world_size]


def validation_counts(
    predictors: Mapping[str, Predictor], reader: RowReader, manifest: Manifest, units: Sequence[list[int]]
) -> dict[str, Counts]:
    """Counts the labelled rows of `units`, by the name of the predictor; the rows of a row group are fetched once."""
    counted = {name: Counts.none(len(manifest.classes)) for name in predictors}
    if not predictors or not units:
        return counted
    of_config = next(iter(predictors.values()))  # they differ in their weights only
    batches = (batch for rows in unit_rows(reader, units) for batch in _of_one_canvas(rows, of_config))
    for batch in read_ahead(lambda rows: _decoded(rows, of_config), batches, DECODERS):
        for name, predictor in predictors.items():
            found = predictor.logits(batch.images, batch.sizes)
            for row, mask, logits in zip(batch.rows, batch.masks, found, strict=True):
                _add(counted[name], row, mask, logits, manifest)
    return counted


@dataclass(frozen=True, eq=False)
class _Decoded:
    """Rows of one canvas: images (h, w, 3) uint8 as large as the model needs them, their own sizes, masks (H, W)."""

    rows: list[LabelledRow]
    images: list[np.ndarray]
    sizes: list[tuple[int, int]]
    masks: list[np.ndarray]


def unit_rows(reader: RowReader, units: Sequence[list[int]]) -> Iterator[list[LabelledRow]]:
    """Yields the labelled rows of each unit; each row group is fetched once, while the one before is worked on."""
    group_of = {number: group for group, rows in enumerate(reader.by_row_group(range(len(reader)))) for number in rows}
    reads = [list(own) for _, own in groupby(units, key=lambda unit: group_of[unit[0]])]

    def fetch(own: list[list[int]]) -> pa.Table:
        return reader.take([row for unit in own for row in unit], LabelledRow.columns())

    for own, table in zip(reads, read_ahead(fetch, reads), strict=True):
        start = 0
        for unit in own:
            yield list(labelled(table.slice(start, len(unit))))
            start += len(unit)


def _of_one_canvas(rows: Sequence[LabelledRow], predictor: Predictor) -> Iterator[list[LabelledRow]]:
    canvases: dict[tuple[int, int], list[LabelledRow]] = {}
    for row in rows:
        canvases.setdefault(predictor.canvas(*image_size(row.image)), []).append(row)
    for (height, width), own in canvases.items():
        most = max(1, BATCH_PIXELS // (height * width))
        yield from (own[start : start + most] for start in range(0, len(own), most))


def _decoded(rows: list[LabelledRow], predictor: Predictor) -> _Decoded:
    decoded = [predictor.decode(row.image) for row in rows]
    images, sizes = [image for image, _ in decoded], [size for _, size in decoded]
    return _Decoded(rows, images, sizes, [decode_mask(row.mask) for row in rows])


def _add(counts: Counts, row: LabelledRow, mask: np.ndarray, logits: ImageLogits, manifest: Manifest) -> None:
    """Adds one image."""
    classes = manifest.class_table
    ids = logits.ids()
    truth = scorable_mask(mask, ids, manifest.annotated[row.source], classes)
    counts.matrix += confusion(truth, ids, len(classes), classes.ignore_id)
    sample = sampled_pixels(truth, classes.ignore_id, row.image_id)
    values, own = logits.at(sample), truth.ravel()[sample]
    # a pixel whose true id is ruled out costs some 1e4 / T nats, which would outweigh all others
    possible = values[own, np.arange(len(own))] > RULED_OUT / 2
    counts.nll += nll_sums(values[:, possible], own[possible])
    counts.pixels += possible.sum()
