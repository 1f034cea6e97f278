"""From rows of the shards to the arrays of a batch: encoded rows first, then arrays. Numpy only.

The processes that decode import this file and neither torch nor Ray Train: they start in one second rather than eight.
"""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import pyarrow as pa

from foodseg.config.augment import AugmentConfig
from foodseg.config.roi import RoiConfig
from foodseg.data.augment.copy_paste import paste_regions
from foodseg.data.augment.geometry import make_crop, single_threaded_opencv
from foodseg.data.reader import RowReader
from foodseg.data.roi_views import SAM_COLUMN, filled_later, make_region_arrays
from foodseg.data.sampler import TrainingOrder, rank_blocks
from foodseg.data.shards import Manifest
from foodseg.data.soft_labels import CELL, TOP, SoftLabels
from foodseg.data.soft_labels import SCHEMA as SOFT_SCHEMA

PASTED = {"pasted_image": "image", "pasted_mask": "mask", "pasted_height": "height", "pasted_width": "width"}
SPAN_BYTES = 256 * 2**20  # encoded images that one reading task holds at a time


def encode_rows(reader: RowReader, order: TrainingOrder, block: Sequence[range]) -> pa.Table:
    """Returns the still encoded rows of the positions in `block`.

    Columns `position` and `seed` are added, and, with copy-paste, those of PASTED for the partner's row: null where
    a position has no partner. Where the rows have soft labels, column `soft_labels` has them, and where regions are
    learned from that Segment Anything found, column SAM_COLUMN.
    """
    positions = np.concatenate([np.arange(part.start, part.stop) for part in block])
    rows = np.concatenate([order.rows(part.start, part.stop)[1] for part in block])
    seeds = np.concatenate([order.seeds(part.start, part.stop) for part in block])
    if order.paste == 0:
        table = reader.take(rows)
    else:
        partners = np.concatenate([order.partners(part.start, part.stop) for part in block])
        both = reader.take(np.concatenate([rows, partners[partners >= 0]]))
        table = both.slice(0, len(rows))
        # index of a partner among the rows that were taken; null without partner
        partner_index = pa.array(len(rows) + np.cumsum(partners >= 0) - 1, mask=partners < 0)
        for name, column in PASTED.items():
            table = table.append_column(name, both.column(column).take(partner_index))
    if reader.soft_labels is not None:
        labels = reader.soft_labels.take(rows, SOFT_SCHEMA.names).combine_chunks()
        table = table.append_column("soft_labels", labels.to_struct_array())
    if reader.kept_masks is not None:
        kept = reader.kept_masks.of_images(table.column("image_id").to_pylist()).combine_chunks()
        table = table.append_column(SAM_COLUMN, kept.to_struct_array())
    return table.append_column("position", pa.array(positions)).append_column("seed", pa.array(seeds))


def decode_rows(
    rows: pa.Table,
    augment: AugmentConfig,
    manifest: Manifest,
    roi: RoiConfig | None = None,
    into: Mapping[str, np.ndarray] | None = None,
) -> dict[str, np.ndarray]:
    """Decodes encoded rows; returns the arrays of `Batch`, or, where regions are learned, those of `RegionBatch`.

    Args:
        into: arrays of these names and shapes, which are filled; None = new ones.
    """
    if roi is not None:
        return make_region_arrays(rows, augment, roi, manifest, into)
    return make_batch_arrays(rows, augment, manifest, into)


def make_batch_arrays(
    rows: pa.Table, augment: AugmentConfig, manifest: Manifest, into: Mapping[str, np.ndarray] | None = None
) -> dict[str, np.ndarray]:
    """Decodes and crops encoded rows; returns the arrays of `Batch`, with `image` as (B, S, S, 3)."""
    classes = manifest.class_table
    sources = {name: index for index, name in enumerate(manifest.annotated)}
    wanted = ("image", "mask", "height", "width", "seed", "source", "soft_labels", *PASTED)
    columns = {name: rows.column(name).to_pylist() for name in wanted if name in rows.column_names}
    count, side = rows.num_rows, augment.crop
    # written in place: a list of crops and np.stack would hold every image twice
    arrays = {
        "image": np.empty((count, side, side, 3), np.uint8),
        "mask": np.empty((count, side, side), classes.mask_dtype),
        "extent": np.empty((count, 4), np.int32),
        "seed": np.asarray(columns["seed"], np.int64),
        "position": rows.column("position").to_numpy().astype(np.int64),
        "source": np.array([sources[name] for name in columns["source"]], np.int16),
        "ingredients": np.empty((count, len(classes)), bool),
        "ingredients_known": np.empty(count, bool),
    }
    if "soft_labels" in columns:
        cells = (count, side // CELL, side // CELL, TOP)
        arrays |= {"soft_ids": np.zeros(cells, np.uint16), "soft_scores": np.zeros(cells, np.float16)}
    arrays = filled_later(arrays, into)
    for i in range(count):
        pasted = None
        crop = make_crop(
            columns["image"][i], columns["mask"][i], columns["height"][i], columns["width"][i],
            columns["seed"][i], augment, classes,
        )  # fmt: skip
        if "pasted_mask" in columns and columns["pasted_mask"][i] is not None:
            image, mask, height, width = (columns[name][i] for name in PASTED)
            annotated = manifest.annotated[columns["source"][i]]
            whole = crop
            crop = paste_regions(crop, image, mask, height, width, columns["seed"][i], augment, classes, annotated)
            pasted = whole.mask != crop.mask
        arrays["image"][i], arrays["mask"][i], arrays["extent"][i] = crop.image, crop.mask, crop.extent
        arrays["ingredients"][i], arrays["ingredients_known"][i] = crop.ingredients, crop.ingredients_known
        labels = SoftLabels.from_row(columns["soft_labels"][i]) if "soft_labels" in columns else None
        if labels is not None:
            arrays["soft_ids"][i], arrays["soft_scores"][i] = labels.of_crop(crop, pasted)
    return arrays


def encode_units(
    units: pa.Table, reader: RowReader, order: TrainingOrder, world_size: int, rows_per_block: int
) -> Iterator[pa.Table]:
    """Yields one row per block of the units of steps: its encoded rows, as one Arrow stream.

    The blocks are laid out by `sampler.rank_blocks` for `world_size` ranks.
    """
    for unit in units.to_pylist():
        blocks = rank_blocks(unit["start"], unit["stop"], order.global_batch, world_size, rows_per_block)
        row_bytes = sum(shard.size for shard in reader.shards) / len(reader) * (1 + order.paste)
        # a window's rows are scattered over its row groups: fetching many blocks at once fetches each group once
        at_once = max(1, int(SPAN_BYTES / (row_bytes * sum(len(part) for part in blocks[0]))))
        for first in range(0, len(blocks), at_once):
            span = blocks[first : first + at_once]
            rows = encode_rows(reader, order, [part for block in span for part in block])
            start = 0
            for block in span:
                count = sum(len(part) for part in block)
                yield pa.table({"rows": pa.array([to_ipc(rows.slice(start, count))], pa.large_binary())})
                start += count


def decode_block(
    table: pa.Table, augment: AugmentConfig, manifest: Manifest, roi: RoiConfig | None = None
) -> dict[str, np.ndarray]:
    """Decodes the rows of one block made by `encode_units`, as `decode_rows`."""
    single_threaded_opencv()
    return decode_rows(encoded_block(table), augment, manifest, roi)


def encoded_block(table: pa.Table) -> pa.Table:
    """Returns the rows of one block made by `encode_units`, still encoded."""
    assert table.num_rows == 1, table.num_rows
    return pa.ipc.open_stream(table.column("rows")[0].as_buffer()).read_all()


def to_ipc(table: pa.Table) -> bytes:
    """Returns a table as an Arrow stream."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table.combine_chunks())
    return sink.getvalue().to_pybytes()
