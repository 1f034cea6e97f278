"""Soft labels of a prepared data set that are its masks.

reader.soft_labels = soft_labels_of_masks(reader, tmp_path / "soft")
"""

from pathlib import Path

import numpy as np

from foodseg.data.image_io import decode_mask
from foodseg.data.reader import RowReader
from foodseg.data.shards import entry_of_shard
from foodseg.data.soft_labels import SoftLabelReader, SoftLabels, encode_soft_labels, read_list, write_list
from tests.support.synthetic_set import IGNORE


def soft_labels_of_masks(reader: RowReader, folder: Path) -> SoftLabelReader:
    """Writes a soft label for each pixel: its id with probability 1, nothing where it is ignored or has no mask."""
    folder.mkdir()
    shards, start = [], 0
    for number, shard in enumerate(reader.shards):
        made = []
        for row in reader.take(range(start, start + shard.rows), ["mask", "height", "width"]).to_pylist():
            size = (row["height"], row["width"])
            mask = np.full(size, IGNORE, np.uint8) if row["mask"] is None else decode_mask(row["mask"])
            scores = (mask != IGNORE)[..., None].astype(np.float16)
            made.append(SoftLabels(np.where(mask == IGNORE, 0, mask)[..., None].astype(np.uint8), scores).to_row("x"))
        data, path = encode_soft_labels(made), f"part-{number:05d}.parquet"
        (folder / path).write_bytes(data)
        shards.append(entry_of_shard(shard.split, path, data))
        start += shard.rows
    write_list(str(folder), shards)
    found = read_list(str(folder))
    assert found is not None
    return found
