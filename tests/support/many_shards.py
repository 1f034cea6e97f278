"""A prepared data set of many small shards, as an object storage with a latency meets it: `write_many`."""

from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np

from foodseg.data.shards import FORMAT_VERSION, Manifest, Shard, SplitCounts, write_manifest, write_shard
from foodseg.demo.synthetic import SYNTHETIC_CLASSES
from tests.support.synthetic_set import meal_row

ROWS = 3  # in a shard


def write_many(uri: str, shards: int) -> Manifest:
    """Writes a data set of `shards` shards of `train` and two of `val`; its images are the same in each shard."""
    listed: list[Shard] = []
    counts: dict[str, SplitCounts] = {}
    for split, count in (("train", shards), ("val", 2)):
        rows = [meal_row(split, number, unlabelled=False) for number in range(ROWS)]
        with ThreadPoolExecutor(8) as pool:
            listed += pool.map(partial(_write, uri, split, rows), range(count))
        pixels = count * np.sum([row["class_pixels"] for row in rows], 0)
        counts[split] = SplitCounts(
            images=count * ROWS,
            unlabelled=0,
            groups=count * ROWS,
            class_images=tuple((pixels > 0).astype(int).tolist()),
            class_pixels=tuple(pixels.tolist()),
            ignored_pixels=0,
        )
    manifest = Manifest(
        format_version=FORMAT_VERSION, name="many", generation=1, folder="v-1", classes=SYNTHETIC_CLASSES.names,
        ignore_id=SYNTHETIC_CLASSES.ignore_id, annotated={"synthetic": None}, shards=tuple(listed), counts=counts,
        quarantined=0,
    )  # fmt: skip
    write_manifest(uri, manifest)
    return manifest


def _write(uri: str, split: str, rows: list[dict], number: int) -> Shard:
    named = [{**row, "image_id": f"{split}-{number}-{index}"} for index, row in enumerate(rows)]
    return write_shard(uri, f"v-1/{split}/part-{number:05d}.parquet", split, named)
