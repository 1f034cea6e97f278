"""Prepares a data set on Ray Data: audit records in parallel, group and split on the driver, write shards in parallel.

    prepare_dataset("my/meals", "s3://bucket/meals")

The driver lists the source, and then holds some hundred bytes of each record: an id, a digest and numbers, never an
image, a thumbnail or a list of findings. Records are on its disk (`record_batches.py`). A task of the audit reads each
file of its records once, and leaves facts, findings and what the shards will hold on storage (`audit_rows.py`); a task
that writes a shard collects its rows there. `dataset.json`, written last, makes the new generation visible.

What a killed command has audited and written is found again by the same command (`cluster/shard_plan.py`): the folder
of the generation is named after the records, the stamps of their files and the version of this code.
"""

import hashlib
import logging
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import pyarrow as pa
import ray

from foodseg import __version__, storage
from foodseg.classes import ClassTable
from foodseg.cluster.ray_session import cores, expected_failure, ray_session
from foodseg.cluster.ray_shards import run_shards
from foodseg.cluster.shard_plan import READERS, ShardPlan, ShardTask, create_or_take, one_row_each, plan_identity
from foodseg.data.augment.geometry import single_threaded_opencv
from foodseg.data.shards import FORMAT_VERSION, Manifest, SplitCounts
from foodseg.errors import DataRefused, MissingFile
from foodseg.prepare.audit import AUDIT_BATCH, audit_record, refusal
from foodseg.prepare.audit_columns import AuditColumns, Verdict
from foodseg.prepare.audit_rows import AUDIT_FORMAT, content_of, decode_audit, encode_audit
from foodseg.prepare.audit_tables import Found, write_audit_tables
from foodseg.prepare.dataset_checks import refuse_foodless, refuse_lost_annotations, warn_of_labels
from foodseg.prepare.destination import check_destination
from foodseg.prepare.fetch_ahead import fetched_ahead
from foodseg.prepare.formats.detect import Format, absolute_source, list_source, source_name
from foodseg.prepare.formats.layout import SPLITS
from foodseg.prepare.generations import Generation, next_generation, refuse_prepared, refuse_superseded, switch_to
from foodseg.prepare.near_duplicates import Pair, cut_large_groups, pairs_across_splits
from foodseg.prepare.prepared_rows import shard_parts, total_counts
from foodseg.prepare.ray_near_duplicates import AuditedRows, near_duplicate_groups
from foodseg.prepare.record_batches import RecordBatch, RecordBatches
from foodseg.prepare.shard_tasks import Part, Written, read_written, write_part
from foodseg.prepare.source_identity import source_parts
from foodseg.prepare.splits import carve_val

TRAIN, VAL = SPLITS.index("train"), SPLITS.index("val")

_log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class _Rows:
    """The n rows that passed: numbers of their records, places of their splits in SPLITS, first row of their group."""

    records: np.ndarray
    splits: np.ndarray
    groups: np.ndarray
    pairs: list[Pair]


def prepare_dataset(
    src: str | os.PathLike[str],
    dst: str | os.PathLike[str],
    *,
    format: Format = "auto",
    name: str | None = None,
    overwrite: bool = False,
    max_bad: float = 0.01,
    longest_side: int | None = None,
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
        longest_side: in pixels; larger images are made smaller once, as JPEG of quality 95, and their masks by the
            nearest pixel. Smaller ones stay byte for byte. None: all do.
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
    settings = ["prepare", __version__, str(AUDIT_FORMAT), str(FORMAT_VERSION), str(longest_side)]
    with RecordBatches(listing.records) as listed:
        listing = replace(listing, records=())  # they are in `listed` now
        identity = plan_identity([*settings, *source_parts(listing.classes, listed)])
        generation = next_generation(target_uri, overwrite, identity)
        with ray_session(address, logical_cpus=cores()):
            try:
                plan = _audit_plan(listed, generation)
                verdict, digests = _audit(plan, listed, generation, listing.classes, longest_side)
                rows = _assign_splits(verdict, digests, plan, generation)
                found = _write_tables(plan, verdict, rows, generation, listing.classes)
                where = storage.join(generation.where, "quarantine.parquet")
                _refuse_too_many(found, len(listed), max_bad, where)
                refuse_foodless(verdict.food_counts(rows.records, rows.splits), storage.redact(source_uri))
                written = _write_shards(plan, verdict, rows, generation, listing.classes)
            except (ray.exceptions.RayError, MissingFile) as error:
                failure = error if isinstance(error, MissingFile) else expected_failure(error) or error
                if isinstance(failure, MissingFile):  # one of the source is a finding
                    refuse_superseded(generation)
                raise failure from None
        counts = _counts(written, rows)
        warn_of_labels(counts, listing.classes)
        sources = [listed.source_names[source] for source in np.unique(listed.sources[rows.records])]
    manifest = Manifest(
        format_version=FORMAT_VERSION,
        name=name or source_name(source_uri),
        generation=generation.number,
        folder=generation.folder,
        classes=listing.classes.names,
        ignore_id=listing.classes.ignore_id,
        annotated={source: listing.annotated.get(source) for source in sources},
        shards=tuple(each.shard for each in written),
        counts=counts,
        quarantined=found.refused,
        longest_side=longest_side,
        audit=found.audit,
    )
    switch_to(generation, manifest)
    return manifest


def _refuse_too_many(found: Found, total: int, max_bad: float, where: str) -> None:
    if not found.refused:
        return
    reasons = f"the first is {found.first}; all are listed in {storage.redact(where)}"
    if found.refused > max_bad * total:
        raise DataRefused(
            f"{found.refused} of {total} records are bad, a share of {found.refused / total:.3g}, more than --max-bad "
            f"{max_bad:g} allows; {reasons}"
        )
    if found.refused == total:
        raise DataRefused(f"none of the {total} records is usable; {reasons}")


def _audit_plan(listed: RecordBatches, generation: Generation) -> ShardPlan[RecordBatch]:
    return ShardPlan(generation.work("audit"), [ShardTask(batch.key, batch, batch.items) for batch in listed.batches])


def _audit(
    plan: ShardPlan[RecordBatch],
    listed: RecordBatches,
    generation: Generation,
    classes: ClassTable,
    longest_side: int | None,
) -> tuple[Verdict, np.ndarray]:
    """Returns the verdict, and the digest of each record's file."""
    columns = AuditColumns(listed)

    def read(batch: RecordBatch, data: bytes) -> None:
        columns.add(batch, decode_audit(data, classes))

    content = generation.work("content")
    write = partial(_audit_batch, content=content, classes=classes, longest_side=longest_side)
    run_shards(plan, write, read, "checking images")
    return columns.verdict(classes), columns.digests


def _audit_batch(batch: RecordBatch, content: str, classes: ClassTable, longest_side: int | None) -> bytes:
    """Audits the records of a batch; writes their images and masks into the folder `content`, returns the facts."""
    single_threaded_opencv()
    audit = partial(audit_record, classes=classes, longest_side=longest_side)
    audited = one_row_each(fetched_ahead(batch.records), audit, refusal)
    data = content_of(audited)
    # named after what it holds: a killed task of another machine may have encoded images in another way
    name = f"{batch.key}-{hashlib.sha256(data).hexdigest()[:12]}"
    create_or_take(storage.join(content, name), data)
    return encode_audit(audited, name)


def _passed(plan: ShardPlan[RecordBatch], passed: np.ndarray) -> Iterator[AuditedRows]:
    """Yields which rows of the audit's files passed."""
    for task in plan.tasks:
        start = task.inputs.start
        rows = np.flatnonzero(passed[start : start + task.items])
        yield AuditedRows(plan.where(task), tuple(rows.tolist()))


def _assign_splits(
    verdict: Verdict, digests: np.ndarray, plan: ShardPlan[RecordBatch], generation: Generation
) -> _Rows:
    """Splits `val` off train where the source has none."""
    listed, records = verdict.listed, np.flatnonzero(verdict.passed)
    splits = listed.splits[records]
    if not len(records):
        return _Rows(records, splits, records, [])
    whole, units = near_duplicate_groups(_passed(plan, verdict.passed), digests[records], generation)
    groups = cut_large_groups(whole, units)
    _warn_of_cuts(whole, groups)
    if VAL not in splits:
        train = np.flatnonzero(splits == TRAIN)
        sources, food = listed.sources[records[train]], verdict.food[records[train]] > 0
        splits[train[carve_val(groups[train], sources, food)]] = VAL
    pairs = [
        pair._replace(row=int(records[pair.row]), other=int(records[pair.other]))
        for pair in pairs_across_splits(units, whole, splits)
    ]
    return _Rows(records, splits, groups, pairs)


def _warn_of_cuts(whole: np.ndarray, groups: np.ndarray) -> None:
    for group in np.unique(whole[whole != groups]):
        members = groups[whole == group]
        _log.warning(
            "%d of %d images look alike, one through the other: the group is cut into %d, and near-duplicates that are "
            "then in different splits are listed in findings.parquet",
            len(members), len(groups), len(np.unique(members)),
        )  # fmt: skip


def _write_tables(
    plan: ShardPlan[RecordBatch], verdict: Verdict, rows: _Rows, generation: Generation, classes: ClassTable
) -> Found:
    splits = verdict.listed.splits.copy()
    splits[rows.records] = rows.splits
    return write_audit_tables(generation.where, plan.folder, verdict, splits, rows.pairs, classes)


def _write_shards(
    plan: ShardPlan[RecordBatch], verdict: Verdict, rows: _Rows, generation: Generation, classes: ClassTable
) -> list[Written]:
    parts = [
        _part(verdict.listed, rows, own[start:stop], split, f"{generation.folder}/{split}/part-{number:05d}.parquet")
        for place, split in enumerate(SPLITS)
        for own in [np.flatnonzero(rows.splits == place)]
        for number, (start, stop) in enumerate(shard_parts(verdict.sizes[rows.records[own]]))
    ]
    write = partial(
        write_part,
        dst=generation.uri,
        audit=plan.folder,
        content=generation.work("content"),
        resolution=verdict.resolution,
        classes=classes,
    )
    return run_shards(ShardPlan(generation.work("shards"), parts), write, read_written, "writing shards")


def _part(listed: RecordBatches, rows: _Rows, own: np.ndarray, split: str, path: str) -> ShardTask[Part]:
    """Returns the task that writes a shard of the rows `own`."""
    records, groups = rows.records[own], rows.records[rows.groups[own]]
    batches, place = np.unique(listed.batch_of(records), return_inverse=True)
    group_ids = listed.ids.take(pa.array(groups, mask=groups == records)).combine_chunks()
    used = [listed.batches[batch] for batch in batches]
    keys = tuple(batch.key for batch in used)
    ahead = max(1, READERS * AUDIT_BATCH // max(batch.items for batch in used))  # row groups of Parquet may be large
    inputs = Part(split, path, keys, place, records - listed.starts[batches][place], group_ids, ahead)
    # groups and splits are computed again after a kill, and floats may be rounded in another way elsewhere
    identity = hashlib.sha256(np.stack([records, groups]).tobytes()).hexdigest()[:12]
    name = path.rpartition("/")[2].removesuffix(".parquet").removeprefix("part-")
    return ShardTask(f"{split}-{name}-{identity}", inputs)


def _counts(written: Sequence[Written], rows: _Rows) -> dict[str, SplitCounts]:
    counts = {}
    for place, split in enumerate(SPLITS):
        own = [each.counts for each in written if each.shard.split == split]
        if own:
            counts[split] = total_counts(own, len(np.unique(rows.groups[rows.splits == place])))
    return counts
