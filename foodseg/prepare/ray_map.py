"""Maps a prepared data set into another label space on Ray: one task per shard, row group by row group.

    map_data_set("prepared/foodmix", "to_foodseg103.tsv", "prepared/foodmix103")

Images, splits, groups and sources are unchanged; masks, ingredients, counts and the ids that each source annotates are
of the target space. `dataset.json`, written last, makes the new generation visible.
"""

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import ray

from foodseg import storage
from foodseg.classes import ClassTable
from foodseg.cluster.ray_parallel import in_parallel
from foodseg.cluster.ray_session import cores, expected_failure, ray_session
from foodseg.data.augment.geometry import single_threaded_opencv
from foodseg.data.image_io import decode_mask, encode_mask
from foodseg.data.label_space_map import map_ids, read_label_space_map, read_target
from foodseg.data.reader import RowReader
from foodseg.data.shards import (
    SCHEMA,
    Manifest,
    Shard,
    SplitCounts,
    read_manifest,
    write_shard,
)
from foodseg.errors import UserError
from foodseg.prepare.audit import present_ids
from foodseg.prepare.dataset_checks import refuse_foodless
from foodseg.prepare.destination import check_destination
from foodseg.prepare.generations import Generation, next_generation, switch_to

_log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class MapJob:
    """Input of every task: where it reads and writes, and the table of each source (`LabelSpaceMap.lookup`)."""

    src: str
    dst: str
    generation: Generation
    manifest: Manifest
    target: ClassTable
    tables: dict[str, np.ndarray]


@dataclass(eq=False)
class ShardCounts:
    """Counts of a mapped shard: (K,) int64 images and pixels per id, and the number of masks that are all ignored."""

    images: np.ndarray
    pixels: np.ndarray
    all_ignored: int = 0
    ignored_pixels: int = 0

    def add(self, other: "ShardCounts") -> None:
        """Adds those of another shard."""
        self.images += other.images
        self.pixels += other.pixels
        self.all_ignored += other.all_ignored
        self.ignored_pixels += other.ignored_pixels


def map_data_set(
    src: str,
    map_file: str,
    dst: str,
    *,
    classes: str | None = None,
    name: str | None = None,
    overwrite: bool = False,
    address: str | None = None,
) -> Manifest:
    """Writes the prepared data set at `src` to `dst` in the target label space of the map.

    Args:
        map_file: see `data/label_space_map.py`.
        classes: class table of the target space; None = the names in the map.
        name: name of the new data set; None = the old name and the name of the target space.
        overwrite: write the next generation of a data set that already exists at `dst`.
        address: Ray cluster to join; None = this machine.

    Raises:
        UserError: the map is not from the label space of the data set, a source of it is unmapped or unknown, the
            target table does not fit, or `dst` holds a data set (without `overwrite`).
        DataRefused: the map leaves a split without labelled food pixels.
    """
    src, dst = storage.absolute(src), storage.absolute(dst)
    check_destination(src, dst)
    generation = next_generation(dst, overwrite)
    manifest = read_manifest(src)
    own = manifest.class_table
    space_map = read_label_space_map(map_file)
    mismatch = space_map.source_mismatch(own)
    if mismatch is not None:
        raise UserError(f"{space_map.where} does not map from the label space of {storage.redact(src)}: {mismatch}")
    space_map.refuse_other_sources(manifest.annotated)
    target = read_target(space_map, classes)
    tables = {source: space_map.lookup(source, own, target) for source in manifest.annotated}
    job = MapJob(src, dst, generation, manifest, target, tables)
    _copy_audit_tables(job)
    with ray_session(address, logical_cpus=cores()):
        try:
            mapped = in_parallel(_numbered(manifest), partial(_map_shard, job=job), "mapping shards")
        except ray.exceptions.RayError as error:
            raise expected_failure(error) or error from None
    result = manifest.model_copy(
        update={
            "name": name or f"{manifest.name}-as-{space_map.to_space}",
            "generation": generation.number,
            "folder": generation.folder,
            "classes": target.names,
            "ignore_id": target.ignore_id,
            "annotated": {s: space_map.annotated(s, ids, own, target) for s, ids in manifest.annotated.items()},
            "shards": tuple(shard for shard, _ in mapped),
            "counts": _counts(manifest, mapped, len(target)),
        }
    )
    refuse_foodless(result.counts, f"{storage.redact(src)}, mapped by {space_map.where},")
    switch_to(generation, result)
    return result


def _copy_audit_tables(job: MapJob) -> None:
    """Copies the tables of refused records and of findings: they are about the source images."""
    before = storage.join(job.src, job.manifest.folder)
    for name in storage.list_names(before):
        if name.endswith(".parquet"):
            content = storage.read_bytes(storage.join(before, name))
            storage.write_bytes(storage.join(job.generation.where, name), content)


def _numbered(manifest: Manifest) -> list[list[tuple[Shard, int]]]:
    """Returns one task per shard: the shard and its number within its split."""
    return [
        [(shard, sum(before.split == shard.split for before in manifest.shards[:index]))]
        for index, shard in enumerate(manifest.shards)
    ]


def _map_shard(numbered: tuple[Shard, int], job: MapJob) -> tuple[Shard, ShardCounts]:
    single_threaded_opencv()
    shard, number = numbered
    counts = ShardCounts(np.zeros(len(job.target), np.int64), np.zeros(len(job.target), np.int64))
    path = f"{job.generation.folder}/{shard.split}/part-{number:05d}.parquet"
    return write_shard(job.dst, path, shard.split, _mapped_rows(shard, job, counts)), counts


def _mapped_rows(shard: Shard, job: MapJob, counts: ShardCounts) -> Iterator[dict[str, Any]]:
    """Yields the rows of a shard in the target space, and counts them; one row group is in memory at a time."""
    reader = RowReader(job.src, job.manifest.model_copy(update={"shards": (shard,)}), [shard.split])
    start = 0
    for rows in shard.row_groups:
        for row in reader.take(range(start, start + rows), SCHEMA.names).to_pylist():
            yield _mapped_row(row, job, counts)
        start += rows


def _mapped_row(row: dict[str, Any], job: MapJob, counts: ShardCounts) -> dict[str, Any]:
    if row["mask"] is None:
        return row
    try:
        mask = map_ids(decode_mask(row["mask"]), job.tables[row["source"]], job.manifest.class_table)
    except UserError as error:
        raise UserError(f"{row['image_id']!r} of {storage.redact(job.src)}: {error}") from None
    pixels = np.bincount(mask.ravel(), minlength=len(job.target))[: len(job.target)].astype(np.int64)
    counts.images += pixels > 0
    counts.pixels += pixels
    counts.all_ignored += not pixels.any()
    counts.ignored_pixels += mask.size - int(pixels.sum())
    ids = present_ids(pixels)
    return {
        **row,
        "mask": encode_mask(mask),
        "ingredients": ids,
        "ingredient_pixels": [int(pixels[index]) for index in ids],
    }


def _counts(manifest: Manifest, mapped: list[tuple[Shard, ShardCounts]], classes: int) -> dict[str, SplitCounts]:
    """Returns the counts of each split: images and groups are unchanged, ids are recounted."""
    result = {}
    for split, before in manifest.counts.items():
        total = ShardCounts(np.zeros(classes, np.int64), np.zeros(classes, np.int64))
        for shard, counts in mapped:
            if shard.split == split:
                total.add(counts)
        if total.all_ignored:
            _log.warning("%s: %d images have no labelled pixel left: all are ignored", split, total.all_ignored)
        result[split] = before.model_copy(
            update={
                "class_images": tuple(total.images.tolist()),
                "class_pixels": tuple(total.pixels.tolist()),
                "ignored_pixels": total.ignored_pixels,
            }
        )
    return result
