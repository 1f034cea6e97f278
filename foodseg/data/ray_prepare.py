"""Prepares a data set on Ray Data: audit records in parallel, group and split on the driver, write shards in parallel.

    prepare("../shared/datasets/foodmix", "s3://bucket/foodmix")

Only facts about records come to the driver (sizes, class pixels, a thumbnail), never pictures: memory does not grow
with the pictures. Each shard is written whole; `dataset.json`, written last, makes the new generation visible.
"""

import pickle
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import ray
from ray.data import DataContext

from foodseg import storage
from foodseg.classes import ClassTable
from foodseg.data.audit import RecordFacts, Refusal, audit_record, listed_ingredients
from foodseg.data.formats.folder import list_folder
from foodseg.data.record import Record
from foodseg.data.sample import encode_mask
from foodseg.data.shards import (
    FORMAT_VERSION,
    MAX_ROWS,
    MAX_SHARD_BYTES,
    Manifest,
    Shard,
    SplitCounts,
    read_manifest,
    write_manifest,
    write_quarantine,
    write_shard,
)
from foodseg.data.splits import carve_val, near_duplicate_groups
from foodseg.data.transforms import single_threaded_opencv
from foodseg.errors import DataRefused, UserError
from foodseg.progress import Progress
from foodseg.ray_session import cores, expected_failure, ray_session

AUDIT_BATCH = 16  # records in one task: large enough to hide its start, small enough for a lively progress bar


@dataclass(frozen=True)
class Row:
    """A record that passed, with the split and the near-duplicate group that it was given."""

    facts: RecordFacts
    split: str
    group_id: str


def prepare(
    src: str,
    dst: str,
    *,
    name: str | None = None,
    overwrite: bool = False,
    max_bad: float = 0.01,
    address: str | None = None,
) -> Manifest:
    """Prepares the folder-format data set at `src` as shards at `dst`.

    Args:
        name: name of the data set; None = the last part of `src`.
        overwrite: write the next generation beside an existing one and switch to it.
        max_bad: largest share of refused records; above it nothing is switched.
        address: Ray cluster to join; None = this machine.

    Raises:
        UserError: `src` is not in the folder format, or `dst` holds a data set (without `overwrite`).
        DataRefused: more than `max_bad` of the records are refused, or two records share an id.
    """
    src, dst = storage.absolute(src), storage.absolute(dst)
    generation = _next_generation(dst, overwrite)
    listing = list_folder(src)
    _refuse_repeated_ids(listing.records)
    with ray_session(address, logical_cpus=cores()):
        try:
            audited = _audit(listing.records, listing.classes)
            facts = [a for a in audited if isinstance(a, RecordFacts)]
            refused = [a for a in audited if isinstance(a, Refusal)]
            quarantine = [
                {"image_id": r.record.image_id, "reason": r.reason, "source": r.record.source} for r in refused
            ]
            write_quarantine(dst, generation, quarantine)
            _refuse_too_many(refused, len(audited), max_bad, storage.join(dst, f"v-{generation}", "quarantine.parquet"))
            rows = _assign_splits(facts)
            shards = _write_shards(rows, dst, generation, listing.classes)
        except ray.exceptions.RayError as error:
            raise expected_failure(error) or error from None
    manifest = Manifest(
        format_version=FORMAT_VERSION,
        name=name or src.rstrip("/").rsplit("/", 1)[-1],
        generation=generation,
        classes=listing.classes.names,
        ignore_id=listing.classes.ignore_id,
        annotated=dict.fromkeys(sorted({row.facts.record.source for row in rows})),
        shards=tuple(shards),
        counts=_counts(rows),
        quarantined=len(refused),
    )
    write_manifest(dst, manifest)
    _delete_generations_before(dst, generation - 1)
    return manifest


def _next_generation(dst: str, overwrite: bool) -> int:
    if not storage.exists(storage.join(dst, "dataset.json")):
        return 1
    if not overwrite:
        raise UserError(
            f"{storage.redact(dst)} holds a prepared data set already: give --overwrite to write its next generation"
        )
    return read_manifest(dst).generation + 1


def _refuse_repeated_ids(records: Sequence[Record]) -> None:
    seen: dict[str, Record] = {}
    for record in records:
        other = seen.setdefault(record.image_id, record)
        if other is not record:
            raise DataRefused(
                f"{record.image_id!r} is listed twice, in {other.split}.txt and in {record.split}.txt: "
                "a picture belongs to one split; remove one of the two lines"
            )


def _refuse_too_many(refused: Sequence[Refusal], total: int, max_bad: float, where: str) -> None:
    if len(refused) > max_bad * total:
        first = refused[0]
        raise DataRefused(
            f"{len(refused)} of {total} records are bad, more than --max-bad {max_bad:g} allows; the first is "
            f"{first.record.image_id!r}: {first.reason}; all are listed in {storage.redact(where)}"
        )
    if len(refused) == total:
        raise DataRefused("no record is good")


def _audit(records: Sequence[Record], classes: ClassTable) -> list[RecordFacts | Refusal]:
    return _in_parallel(records, partial(_audit_one, classes=classes), AUDIT_BATCH, "checking pictures")


def _audit_one(record: Record, classes: ClassTable) -> RecordFacts | Refusal:
    single_threaded_opencv()
    return audit_record(record, classes)


def _assign_splits(facts: Sequence[RecordFacts]) -> list[Row]:
    groups = near_duplicate_groups(np.stack([f.thumbnail for f in facts]))
    group_ids = [facts[g].record.image_id for g in groups]
    splits = [f.record.split for f in facts]
    if "val" not in splits:
        train = [i for i, split in enumerate(splits) if split == "train"]
        chosen = carve_val([int(groups[i]) for i in train], [facts[i].record.source for i in train])
        for i, to_val in zip(train, chosen, strict=True):
            if to_val:
                splits[i] = "val"
    return [Row(f, split, group) for f, split, group in zip(facts, splits, group_ids, strict=True)]


def _write_shards(rows: Sequence[Row], dst: str, generation: int, classes: ClassTable) -> list[Shard]:
    plans: list[tuple[str, str, list[Row]]] = []
    for split in ("train", "val", "test"):
        for number, part in enumerate(_parts([row for row in rows if row.split == split])):
            plans.append((split, f"v-{generation}/{split}/part-{number:05d}.parquet", part))
    return _in_parallel(plans, partial(_write_one, dst=dst, classes=classes), 1, "writing shards")


def _parts(rows: Sequence[Row]) -> list[list[Row]]:
    """Cuts rows into shards of at most MAX_ROWS rows and MAX_SHARD_BYTES."""
    parts: list[list[Row]] = []
    size = 0
    for row in rows:
        if not parts or len(parts[-1]) == MAX_ROWS or size + row.facts.size > MAX_SHARD_BYTES:
            parts.append([])
            size = 0
        parts[-1].append(row)
        size += row.facts.size
    return parts


def _write_one(plan: tuple[str, str, list[Row]], dst: str, classes: ClassTable) -> Shard:
    split, path, rows = plan
    return write_shard(dst, path, split, (_shard_row(row, classes) for row in rows))


def _shard_row(row: Row, classes: ClassTable) -> dict[str, Any]:
    record = row.facts.record
    mask = None if record.mask is None else record.mask.read().astype(classes.mask_dtype, copy=False)
    ids = listed_ingredients(row.facts.class_pixels)
    return {
        "image_id": record.image_id,
        "image": record.image.read(),
        # every kind of mask becomes the one encoding that readers decode fast
        "mask": None if mask is None else encode_mask(mask),
        "height": row.facts.height,
        "width": row.facts.width,
        "ingredients": ids,
        "ingredient_pixels": [int(row.facts.class_pixels[i]) for i in ids],
        "group_id": row.group_id,
        "source": record.source,
    }


def _counts(rows: Sequence[Row]) -> dict[str, SplitCounts]:
    counts = {}
    for split in ("train", "val", "test"):
        own = [row for row in rows if row.split == split]
        if own:
            pixels = np.stack([row.facts.class_pixels for row in own])
            counts[split] = SplitCounts(
                pictures=len(own),
                unlabelled=sum(row.facts.record.mask is None for row in own),
                groups=len({row.group_id for row in own}),
                class_pictures=tuple(int(n) for n in (pixels > 0).sum(0)),
                class_pixels=tuple(int(n) for n in pixels.sum(0)),
            )
    return counts


def _delete_generations_before(dst: str, oldest_kept: int) -> None:
    """Keeps the generation before, since a training may still be reading it."""
    for name in storage.list_names(dst):
        if name.startswith("v-") and name[2:].isdigit() and int(name[2:]) < oldest_kept:
            storage.delete(storage.join(dst, name))


def _in_parallel(items: Sequence[Any], function: Callable[[Any], Any], batch: int, title: str) -> list[Any]:
    """Applies `function` to every item on Ray Data, in order, with a progress bar on the driver."""
    context = DataContext.get_current()
    context.enable_progress_bars = False
    context.raise_original_map_exception = True  # else a UserError loses its type and its sentence on the way here
    context.execution_options.preserve_order = True
    numbered = ray.data.from_items(list(range(len(items))), override_num_blocks=max(1, -(-len(items) // batch)))
    shared = ray.put(list(items))

    def apply(table: pa.Table) -> pa.Table:
        own = ray.get(shared)
        results = [pickle.dumps(function(own[i])) for i in table.column("item").to_pylist()]
        return pa.table({"result": pa.array(results, pa.large_binary())})

    done: list[Any] = []
    with Progress(title, len(items)) as progress:
        for rows in numbered.map_batches(apply, batch_size=None, batch_format="pyarrow", num_cpus=1).iter_batches(
            batch_size=None, batch_format="pyarrow"
        ):
            done += [pickle.loads(result) for result in rows.column("result").to_pylist()]
            progress.advance(rows.num_rows)
    return done
