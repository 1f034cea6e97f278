"""Which rows of a prepared data set a training takes, how often, and in which order.

    manifest, reader = training_data(config.data)
    order = training_order(reader, config.data, config.train.seed, config.train.global_batch)
    validation = validation_reader(config, manifest)      # those that choose its best checkpoint

With `data.folds` one fold is held out: its rows are never drawn, neither as an image nor as a copy-paste partner, and
count in no repeat factor. `foodseg ablate` scores each run on exactly these rows.
"""

import logging
from collections.abc import Iterator

import numpy as np

from foodseg.classes import BACKGROUND
from foodseg.config import ExperimentConfig
from foodseg.config.data import DataConfig
from foodseg.data.concat import training_manifest
from foodseg.data.folds import assign_folds
from foodseg.data.image_io import decode_mask
from foodseg.data.reader import RowReader
from foodseg.data.sam_masks import read_kept_masks
from foodseg.data.sampler import TrainingOrder, repeat_factors
from foodseg.data.shards import Manifest, SplitCounts
from foodseg.errors import UserError

_MASKS_AT_ONCE = 1_000  # encoded, in memory
_log = logging.getLogger(__name__)


def training_data(data: DataConfig) -> tuple[Manifest, RowReader]:
    """Opens what is trained on.

    Returns:
        The manifest, and a reader of all rows of `data.train_splits`. With `data.folds` the manifest's counts are
        without the fold that is held out, whose rows the reader has, too.

    Raises:
        UserError: no data, data sets of different label spaces, unknown split, too few groups, nothing to learn.
    """
    manifest = training_manifest(data)
    reader = RowReader(data.uri, manifest, data.train_splits, cache=data.cache)
    held_out = held_out_rows(reader, data)
    if held_out is not None:
        manifest = without_rows(manifest, reader, held_out)
    learned = manifest.trained_ids(data.train_splits)
    if not learned - {BACKGROUND}:
        what = "no pixel of a food, only background" if learned else "no labelled pixel"
        rest = "" if data.folds is None else f" outside of {data.held_out_name}, which is held out"
        raise UserError(
            f"data.train_splits {list(data.train_splits)} hold {what}{rest}: nothing can be learned; look at the "
            "masks with `foodseg data inspect`, and prepare the data set again with --overwrite"
        )
    return manifest, reader


def validation_reader(config: ExperimentConfig, manifest: Manifest) -> RowReader | None:
    """Opens the rows of `data.val_split`, with the masks of Segment Anything where regions are cut from them.

    Raises:
        UserError: no such split; the masks are not kept beside the data set.
    """
    if config.data.val_split is None:
        return None
    reader = RowReader(config.data.uri, manifest, [config.data.val_split], cache=config.data.cache)
    if config.roi.regions == "sam":
        reader.kept_masks = read_kept_masks(config.data.uri, manifest)
    return reader


def training_order(
    reader: RowReader, data: DataConfig, seed: int, global_batch: int, *, paste: float = 0.0
) -> TrainingOrder:
    """Builds the order of a run over the reader's rows; `paste` is the share of positions with a paste partner.

    The expected draws of a row per epoch are the weight of its data set times its repeat factor, and those of rows
    without a mask are scaled to `data.unlabelled_share`; a row of a fold that is held out is not drawn.

    Raises:
        UserError: the weights of the data sets leave less than one row; fewer groups than folds.
    """
    held_out = held_out_rows(reader, data)
    kept = np.arange(len(reader)) if held_out is None else np.setdiff1d(np.arange(len(reader)), held_out)
    masked = _masked(reader) if data.unlabelled_share is not None and reader.labelled < len(reader) else None
    if masked is not None and data.unlabelled_share == 0:
        kept = kept[masked[kept]]
    repeats = _weights(reader, data)
    repeats = None if repeats is None else repeats[kept]
    needs_ingredients = data.repeat_threshold > 0 or paste > 0
    known = reader.columns(["ingredients", "source"]) if needs_ingredients else None
    ingredients = [] if known is None else known.column("ingredients").to_pylist()
    if data.repeat_threshold > 0:
        labelled = reader.labelled if held_out is None else _labelled(reader, kept)
        factors = repeat_factors([ingredients[row] for row in kept], labelled, data.repeat_threshold, data.repeat_cap)
        repeats = factors if repeats is None else repeats * factors
    if masked is not None and data.unlabelled_share:
        repeats = _with_share(repeats, masked[kept], data.unlabelled_share)
    if repeats is not None and round(float(repeats.sum())) < 1:
        raise UserError(
            f"with the weights of data.uris an epoch draws {repeats.sum():.2g} images, less than one: raise the weights"
        )
    drawn = len(kept) if repeats is None else round(float(repeats.sum()))
    if drawn < global_batch:
        _log.warning(
            "an epoch of %s has %d image%s, fewer than train.global_batch = %d: an update takes an image several times",
            list(data.train_splits), drawn, "" if drawn == 1 else "s", global_batch,
        )  # fmt: skip
    drawn_from = None if len(kept) == len(reader) else kept
    if paste == 0 or known is None:
        return TrainingOrder(reader.shard_rows, seed, global_batch, repeats, window=data.window, kept=drawn_from)
    sources = known.column("source").dictionary_encode().unify_dictionaries()
    codes = np.concatenate([part.indices.to_numpy() for part in sources.chunks])
    pastable = np.array([bool(ids) for ids in ingredients])
    pastable[[] if held_out is None else held_out] = False
    return TrainingOrder(
        reader.shard_rows, seed, global_batch, repeats,
        window=data.window, kept=drawn_from, paste=paste, sources=codes, pastable=pastable,
    )  # fmt: skip


def fold_of_rows(reader: RowReader, folds: int) -> np.ndarray:
    """Returns (N,) int64, the fold of each row of the reader, as `assign_folds` deals them. UserError: as it raises."""
    known = reader.columns(["group_id", "source"])
    return assign_folds(known.column("group_id").to_pylist(), known.column("source").to_pylist(), folds)


def held_out_rows(reader: RowReader, data: DataConfig) -> np.ndarray | None:
    """Returns (M,) int64, the rows of the folds that `data` holds out, ascending; None without folds.

    Raises:
        UserError: fewer groups of near-duplicates than folds.
    """
    if data.folds is None:
        return None
    return np.flatnonzero(np.isin(fold_of_rows(reader, data.folds), data.held_out_folds))


def without_rows(manifest: Manifest, reader: RowReader, rows: np.ndarray) -> Manifest:
    """Returns the manifest with the counts of the other rows alone: what is learned from, where `rows` are held out.

    Args:
        rows: (M,) row numbers of the reader, whose splits they are taken from. Their masks are read.
    """
    starts = np.concatenate([[0], np.cumsum(reader.shard_rows)])
    groups = np.array(reader.column("group_id").to_pylist())
    split_of = np.repeat([shard.split for shard in reader.shards], reader.shard_rows)
    left_out = np.zeros(starts[-1], bool)
    left_out[rows] = True
    counts = dict(manifest.counts)
    for split in {shard.split for shard in reader.shards}:
        own = split_of == split
        kept_groups = len(set(groups[own & ~left_out].tolist()))
        counts[split] = _without(counts[split], _masks(reader, np.flatnonzero(own & left_out)), kept_groups)
    return manifest.model_copy(update={"counts": counts})


def _without(counts: SplitCounts, masks: Iterator[np.ndarray | None], groups: int) -> SplitCounts:
    """Takes masks, (H, W) ids or None without a label, out of the counts of a split."""
    images = unlabelled = ignored = 0
    class_images, class_pixels = np.array(counts.class_images), np.array(counts.class_pixels)
    for mask in masks:
        images += 1
        if mask is None:
            unlabelled += 1
            continue
        pixels = np.bincount(mask.ravel(), minlength=len(class_pixels))[: len(class_pixels)]
        class_images -= pixels > 0
        class_pixels -= pixels
        ignored += mask.size - int(pixels.sum())
    return SplitCounts(
        images=counts.images - images,
        unlabelled=counts.unlabelled - unlabelled,
        groups=groups,
        class_images=tuple(class_images.tolist()),
        class_pixels=tuple(class_pixels.tolist()),
        ignored_pixels=counts.ignored_pixels - ignored,
    )


def _masks(reader: RowReader, rows: np.ndarray) -> Iterator[np.ndarray | None]:
    for start in range(0, len(rows), _MASKS_AT_ONCE):
        for mask in reader.take(rows[start : start + _MASKS_AT_ONCE], ["mask"]).column("mask"):
            yield decode_mask(mask.as_py()) if mask.is_valid else None


def _labelled(reader: RowReader, rows: np.ndarray) -> int:
    """Returns how many of the rows have a mask."""
    if reader.labelled == len(reader):
        return len(rows)
    return len(rows) - reader.take(rows, ["mask"]).column("mask").null_count


def _masked(reader: RowReader) -> np.ndarray:
    """Returns (N,) bool, whether each row has a mask."""
    return ~reader.column("mask").is_null().to_numpy()


def _with_share(repeats: np.ndarray | None, masked: np.ndarray, share: float) -> np.ndarray:
    """Returns (N,) expected draws that give rows without a mask `share` of all; those with one keep theirs."""
    drawn = np.ones(len(masked)) if repeats is None else repeats.copy()
    labelled, unlabelled = drawn[masked].sum(), drawn[~masked].sum()
    if labelled > 0 and unlabelled > 0:
        drawn[~masked] *= share / (1 - share) * labelled / unlabelled
    return drawn


def _weights(reader: RowReader, data: DataConfig) -> np.ndarray | None:
    """Returns (N,) float64, the weight of each row's data set; None where all are 1."""
    weights = {entry.uri: entry.weight for entry in data.uris}
    if all(weight == 1 for weight in weights.values()):
        return None
    return np.repeat([weights[shard.uri or ""] for shard in reader.shards], reader.shard_rows)
