"""Prepares a data set on Ray Data: audit records in parallel, group and split on the driver, write shards in parallel.

    prepare_dataset("my/meals", "s3://bucket/meals")

The driver holds what the format lists (for COCO all annotations), and facts about records (sizes, class pixels), never
an image or a thumbnail. Each shard is written whole; `dataset.json`, written last, makes the new generation visible.

What a killed command has audited and written is found again by the same command (`cluster/shard_plan.py`): the folder
of the generation is named after the records, the stamps of their files and the version of this code.
"""

import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import ray

from foodseg import __version__, storage
from foodseg.classes import ClassTable
from foodseg.cluster.ray_session import cores, expected_failure, ray_session
from foodseg.cluster.ray_shards import run_shards
from foodseg.cluster.shard_plan import ShardPlan, ShardTask, one_row_each, plan_identity
from foodseg.data.augment.geometry import single_threaded_opencv
from foodseg.data.shards import (
    FORMAT_VERSION,
    Manifest,
    Shard,
    write_findings,
    write_quarantine,
    write_shard,
)
from foodseg.errors import DataRefused
from foodseg.prepare.ambiguities import resolve_ambiguities
from foodseg.prepare.audit import (
    RecordFacts,
    Refusal,
    audit_batches,
    audit_record,
    present_ids,
    refusal,
)
from foodseg.prepare.audit_rows import AUDIT_FORMAT, decode_audit, encode_audit, without_thumbnail
from foodseg.prepare.dataset_checks import refuse_foodless, refuse_lost_annotations, warn_of_labels
from foodseg.prepare.destination import check_destination
from foodseg.prepare.exact_duplicates import refuse_duplicates
from foodseg.prepare.findings import Finding, count_findings
from foodseg.prepare.formats.detect import Format, absolute_source, list_source, source_name
from foodseg.prepare.generations import Generation, next_generation, refuse_prepared, switch_to
from foodseg.prepare.near_duplicates import cut_large_groups, pairs_across_splits
from foodseg.prepare.prepared_rows import Row, shard_parts, shard_row, split_counts
from foodseg.prepare.ray_near_duplicates import AuditedRows, near_duplicate_groups
from foodseg.prepare.record import Record, SourceListing
from foodseg.prepare.source_identity import source_parts
from foodseg.prepare.splits import carve_val

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Part:
    """The rows of one shard; `path` of its file below the data set's URI."""

    split: str
    path: str
    rows: list[Row]


def prepare_dataset(
    src: str | os.PathLike[str],
    dst: str | os.PathLike[str],
    *,
    format: Format = "auto",
    name: str | None = None,
    overwrite: bool = False,
    max_bad: float = 0.01,
    address: str | None = None,
) -> Manifest:
    """Prepares the data set at `src` as shards at `dst`: checks images and masks, carves out `val`, writes shards.

    It is `foodseg data prepare`: it starts Ray on this machine, or joins a cluster.

    Args:
        src: the data set: a folder, `s3://`, or `hf://datasets/owner/name`. dst: where the prepared one goes.
        format: layout of `src`; "auto" = detected by the names of its files.
        name: name of the data set; None = the last part of `src`.
        overwrite: write the next generation next to an existing one and switch to it.
        max_bad: largest share of refused records; above it the new generation is not switched to.
        address: Ray cluster to join; None = this machine.

    Raises:
        UserError: `src` is in no known format, or `dst` holds a data set (without `overwrite`).
        DataRefused: more than `max_bad` of the records are refused (quarantine and findings are still written)
            or of the annotations belong to no image; a split has no labelled food pixel.

    Returns:
        What `dataset.json` holds: classes, shards, and `counts` of images and pixels for each split.

    >>> import foodseg
    >>> prepared = foodseg.prepare_dataset("meals", "prepared/new")
    >>> {split: counts.images for split, counts in prepared.counts.items()}
    {'train': 9, 'val': 1, 'test': 3}
    """
    source_uri, target_uri = absolute_source(os.fspath(src)), storage.absolute(os.fspath(dst))
    check_destination(source_uri, target_uri)
    refuse_prepared(target_uri, overwrite)
    listing = list_source(source_uri, format)
    refuse_lost_annotations(listing.lost, max_bad)
    versions = ("prepare", __version__, str(AUDIT_FORMAT), str(FORMAT_VERSION))
    generation = next_generation(target_uri, overwrite, plan_identity([*versions, *source_parts(listing)]))
    with ray_session(address, logical_cpus=cores()):
        try:
            plan = _audit_plan(listing, generation)
            audited = refuse_duplicates(resolve_ambiguities(_audit(plan, listing.classes), listing.classes))
            refused = [a for a in audited if isinstance(a, Refusal)]
            facts = [a for a in audited if isinstance(a, RecordFacts)]
            rows, pairs = _assign_splits(facts, _passed(plan, audited), generation)
            found, total = [*_findings(audited, rows), *pairs], len(audited)
            del audited, facts, plan
            write_quarantine(target_uri, generation.folder, [_quarantined(refusal) for refusal in refused])
            write_findings(target_uri, generation.folder, found)
            _refuse_too_many(refused, total, max_bad, storage.join(generation.where, "quarantine.parquet"))
            counts = split_counts(rows)
            refuse_foodless(counts, storage.redact(source_uri))
            warn_of_labels(counts, listing.classes)
            shards = _write_shards(rows, generation, listing.classes)
        except ray.exceptions.RayError as error:
            raise expected_failure(error) or error from None
    manifest = Manifest(
        format_version=FORMAT_VERSION,
        name=name or source_name(source_uri),
        generation=generation.number,
        folder=generation.folder,
        classes=listing.classes.names,
        ignore_id=listing.classes.ignore_id,
        annotated={source: listing.annotated.get(source) for source in sorted({r.facts.record.source for r in rows})},
        shards=tuple(shards),
        counts=counts,
        quarantined=len(refused),
        audit=count_findings(row["finding"] for row in found),
    )
    switch_to(generation, manifest)
    return manifest


def _quarantined(refusal: Refusal) -> dict[str, Any]:
    record = refusal.record
    return {
        "image_id": record.image_id,
        "reason": refusal.reason,
        "source": record.source,
        "split": record.split,
        "findings": [finding.name for finding in refusal.findings if finding.refuses],
    }


def _findings(audited: Sequence[RecordFacts | Refusal], rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Lists the findings of records, in the order of the source; `rows` hold which moved to val."""
    splits = {row.facts.record.image_id: row.split for row in rows}
    return [
        _found(
            each.record.image_id,
            each.record.split if isinstance(each, Refusal) else splits[each.record.image_id],
            finding,
        )
        for each in audited
        for finding in each.findings
    ]


def _found(image_id: str, split: str, finding: Finding) -> dict[str, Any]:
    return {
        "image_id": image_id,
        "split": split,
        "finding": finding.name,
        "detail": finding.detail,
        "other_id": finding.other_id,
        "other_split": finding.other_split,
        "correlation": finding.correlation,
    }


def _refuse_too_many(refused: Sequence[Refusal], total: int, max_bad: float, where: str) -> None:
    if not refused:
        return
    first = refused[0]
    reasons = (
        f"the first is {first.record.image_id!r} of {first.record.split}: {first.reason}; "
        f"all are listed in {storage.redact(where)}"
    )
    if len(refused) > max_bad * total:
        raise DataRefused(
            f"{len(refused)} of {total} records are bad, a share of {len(refused) / total:.3g}, more than --max-bad "
            f"{max_bad:g} allows; {reasons}"
        )
    if len(refused) == total:
        raise DataRefused(f"none of the {total} records is usable; {reasons}")


def _audit_plan(listing: SourceListing, generation: Generation) -> ShardPlan[list[Record]]:
    tasks = [ShardTask(f"{n:06d}", batch, len(batch)) for n, batch in enumerate(audit_batches(listing.records))]
    return ShardPlan(generation.work("audit"), tasks)


def _audit(plan: ShardPlan[list[Record]], classes: ClassTable) -> list[RecordFacts | Refusal]:
    audited = run_shards(
        plan, partial(_audit_batch, classes=classes), partial(_read_audit, classes=classes), "checking images"
    )
    return [each for batch in audited for each in batch]


def _read_audit(records: Sequence[Record], data: bytes, classes: ClassTable) -> list[RecordFacts | Refusal]:
    return [without_thumbnail(each) for each in decode_audit(records, data, classes)]


def _passed(plan: ShardPlan[list[Record]], audited: Sequence[RecordFacts | Refusal]) -> list[AuditedRows]:
    """Says which rows of the audit's shards passed."""
    passed, left = [], iter(audited)
    for task in plan.tasks:
        rows = [row for row, each in zip(range(task.items), left, strict=False) if isinstance(each, RecordFacts)]
        passed.append(AuditedRows(plan.where(task), tuple(rows)))
    return passed


def _audit_batch(records: Sequence[Record], classes: ClassTable) -> bytes:
    single_threaded_opencv()
    return encode_audit(one_row_each(records, partial(audit_record, classes=classes), refusal))


def _assign_splits(
    facts: Sequence[RecordFacts], audited: Sequence[AuditedRows], generation: Generation
) -> tuple[list[Row], list[dict[str, Any]]]:
    """Splits `val` off train where the source has none.

    Returns:
        The rows, and the near-duplicates that are in different splits as rows of the findings file.
    """
    if not facts:
        return [], []
    whole, units = near_duplicate_groups(audited, [f.digest for f in facts], generation)
    groups = cut_large_groups(whole, units)
    _warn_of_cuts(whole, groups)
    ids = [f.record.image_id for f in facts]
    splits = [f.record.split for f in facts]
    if "val" not in splits:
        train = [i for i, split in enumerate(splits) if split == "train"]
        food = [bool(present_ids(facts[i].class_pixels)) for i in train]
        chosen = carve_val([int(groups[i]) for i in train], [facts[i].record.source for i in train], food)
        for i, to_val in zip(train, chosen, strict=True):
            if to_val:
                splits[i] = "val"
    pairs = []
    for row, other, correlation in pairs_across_splits(units, whole, splits):
        detail = f"looks like {ids[other]!r} of {splits[other]}, correlation {correlation:.3f}"
        finding = Finding("near_duplicate", detail, ids[other], splits[other], correlation)
        pairs.append(_found(ids[row], splits[row], finding))
    return [Row(f, split, ids[group]) for f, split, group in zip(facts, splits, groups, strict=True)], pairs


def _warn_of_cuts(whole: np.ndarray, groups: np.ndarray) -> None:
    for group in np.unique(whole[whole != groups]):
        members = groups[whole == group]
        _log.warning(
            "%d of %d images look alike, one through the other: the group is cut into %d, and near-duplicates that are "
            "then in different splits are listed in findings.parquet",
            len(members), len(groups), len(np.unique(members)),
        )  # fmt: skip


def _write_shards(rows: Sequence[Row], generation: Generation, classes: ClassTable) -> list[Shard]:
    tasks: list[ShardTask[_Part]] = []
    for split in ("train", "val", "test"):
        for number, part in enumerate(shard_parts([row for row in rows if row.split == split])):
            path = f"{generation.folder}/{split}/part-{number:05d}.parquet"
            # groups and splits are computed again after a kill, and floats may be rounded in another way elsewhere
            own = plan_identity(f"{row.facts.record.image_id} {row.group_id}" for row in part)
            tasks.append(ShardTask(f"{split}-{number:05d}-{own[:12]}", _Part(split, path, part)))
    plan = ShardPlan(generation.work("shards"), tasks)
    write = partial(_write_part, dst=generation.uri, classes=classes)
    return run_shards(plan, write, _read_shard, "writing shards")


def _write_part(part: _Part, dst: str, classes: ClassTable) -> bytes:
    shard = write_shard(dst, part.path, part.split, (shard_row(row, classes) for row in part.rows))
    return shard.model_dump_json().encode()


def _read_shard(part: _Part, data: bytes) -> Shard:
    shard = Shard.model_validate_json(data)
    if (shard.path, shard.rows) != (part.path, len(part.rows)):
        raise ValueError(f"it is about {shard.path} of {shard.rows} rows")
    return shard
