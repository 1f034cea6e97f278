"""Maps a prepared data set into another label space on Ray: one task per shard, row group by row group.

    map_data_set("prepared/foodmix", "to_foodseg103.tsv", "prepared/foodmix103")

Images, splits, groups and sources are unchanged; masks, ingredients, counts and the ids that each source annotates are
of the target space. `dataset.json`, written last, makes the new generation visible. A killed command is resumed by the
same command, as `data prepare` is.
"""

import logging
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import ray
from pydantic import BaseModel, ConfigDict

from foodseg import __version__, storage
from foodseg.classes import ClassTable
from foodseg.cluster.ray_session import cores, expected_failure, ray_session
from foodseg.cluster.ray_shards import run_shards
from foodseg.cluster.shard_plan import ShardPlan, ShardTask, plan_identity
from foodseg.data.augment.geometry import single_threaded_opencv
from foodseg.data.image_io import decode_mask
from foodseg.data.label_space_map import map_ids, read_label_space_map, read_target
from foodseg.data.reader import RowReader
from foodseg.data.shards import (
    FORMAT_VERSION,
    SCHEMA,
    Manifest,
    Shard,
    SplitCounts,
    read_manifest,
    write_shard,
)
from foodseg.data.stored_mask import encode_stored_mask
from foodseg.errors import UserError
from foodseg.prepare.audit import present_ids
from foodseg.prepare.dataset_checks import refuse_foodless
from foodseg.prepare.destination import check_destination
from foodseg.prepare.generations import Generation, next_generation, refuse_prepared, switch_to

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


class MappedShard(BaseModel):
    """A mapped shard, and its images and pixels per id of the target space; `all_ignored`: masks without other pixels.

    As JSON it is the result of a task.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    shard: Shard
    images: tuple[int, ...]
    pixels: tuple[int, ...]
    all_ignored: int
    ignored_pixels: int


@dataclass(eq=False)
class _Counts:
    """What is counted of a shard while its rows are mapped: (K,) int64 per id, and as in `MappedShard`."""

    images: np.ndarray
    pixels: np.ndarray
    all_ignored: int = 0
    ignored_pixels: int = 0


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
    refuse_prepared(dst, overwrite)
    manifest = read_manifest(src)
    own = manifest.class_table
    space_map = read_label_space_map(map_file)
    mismatch = space_map.source_mismatch(own)
    if mismatch is not None:
        raise UserError(f"{space_map.where} does not map from the label space of {storage.redact(src)}: {mismatch}")
    space_map.refuse_other_sources(manifest.annotated)
    target = read_target(space_map, classes)
    tables = {source: space_map.lookup(source, own, target) for source in manifest.annotated}
    settings = [repr(target.names), *(f"{source} {table.tolist()}" for source, table in tables.items())]
    versions = ("map", __version__, str(FORMAT_VERSION))
    generation = next_generation(dst, overwrite, plan_identity([*versions, src, manifest.model_dump_json(), *settings]))
    job = MapJob(src, dst, generation, manifest, target, tables)
    _copy_audit_tables(job)
    with ray_session(address, logical_cpus=cores()):
        try:
            plan = ShardPlan(generation.work("shards"), _tasks(manifest, generation))
            read = partial(_read_mapped, classes=len(target))
            mapped = run_shards(plan, partial(_map_shard, job=job), read, "mapping shards")
        except ray.exceptions.RayError as error:
            raise expected_failure(error) or error from None
    result = manifest.model_copy(
        update={
            "format_version": FORMAT_VERSION,  # the source may be of an earlier one
            "name": name or f"{manifest.name}-as-{space_map.to_space}",
            "generation": generation.number,
            "folder": generation.folder,
            "classes": target.names,
            "ignore_id": target.ignore_id,
            "annotated": {s: space_map.annotated(s, ids, own, target) for s, ids in manifest.annotated.items()},
            "shards": tuple(each.shard for each in mapped),
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


def _tasks(manifest: Manifest, generation: Generation) -> list[ShardTask[tuple[Shard, str]]]:
    """Returns one task per shard: the shard, and the path of the mapped one."""
    tasks, numbers = [], Counter[str]()
    for shard in manifest.shards:
        number = numbers[shard.split]
        numbers[shard.split] += 1
        path = f"{generation.folder}/{shard.split}/part-{number:05d}.parquet"
        tasks.append(ShardTask(f"{shard.split}-{number:05d}", (shard, path)))
    return tasks


def _map_shard(task: tuple[Shard, str], job: MapJob) -> bytes:
    single_threaded_opencv()
    shard, path = task
    counts = _Counts(np.zeros(len(job.target), np.int64), np.zeros(len(job.target), np.int64))
    written = write_shard(job.dst, path, shard.split, _mapped_rows(shard, job, counts))
    mapped = MappedShard(
        shard=written,
        images=tuple(counts.images.tolist()),
        pixels=tuple(counts.pixels.tolist()),
        all_ignored=counts.all_ignored,
        ignored_pixels=counts.ignored_pixels,
    )
    return mapped.model_dump_json().encode()


def _read_mapped(task: tuple[Shard, str], data: bytes, classes: int) -> MappedShard:
    mapped = MappedShard.model_validate_json(data)
    if mapped.shard.path != task[1] or {len(mapped.images), len(mapped.pixels)} != {classes}:
        raise ValueError(f"it is about {mapped.shard.path} of {len(mapped.pixels)} ids")
    return mapped


def _mapped_rows(shard: Shard, job: MapJob, counts: _Counts) -> Iterator[dict[str, Any]]:
    """Yields the rows of a shard in the target space, and counts them; one row group is in memory at a time."""
    reader = RowReader(job.src, job.manifest.model_copy(update={"shards": (shard,)}), [shard.split])
    start = 0
    for rows in shard.row_groups:
        for row in reader.take(range(start, start + rows), SCHEMA.names).to_pylist():
            yield _mapped_row(row, job, counts)
        start += rows


def _mapped_row(row: dict[str, Any], job: MapJob, counts: _Counts) -> dict[str, Any]:
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
        "mask": encode_stored_mask(mask),
        "ingredients": ids,
        "ingredient_pixels": [int(pixels[index]) for index in ids],
    }


def _counts(manifest: Manifest, mapped: Sequence[MappedShard], classes: int) -> dict[str, SplitCounts]:
    """Returns the counts of each split: images and groups are unchanged, ids are recounted."""
    result = {}
    for split, before in manifest.counts.items():
        images, pixels = np.zeros(classes, np.int64), np.zeros(classes, np.int64)
        own = [each for each in mapped if each.shard.split == split]
        for each in own:
            images += each.images
            pixels += each.pixels
        all_ignored = sum(each.all_ignored for each in own)
        if all_ignored:
            _log.warning("%s: %d images have no labelled pixel left: all are ignored", split, all_ignored)
        result[split] = before.model_copy(
            update={
                "class_images": tuple(images.tolist()),
                "class_pixels": tuple(pixels.tolist()),
                "ignored_pixels": sum(each.ignored_pixels for each in own),
            }
        )
    return result
