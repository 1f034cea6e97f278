"""Writes what the audit found, `findings.parquet` and `quarantine.parquet`, from the files of its tasks, one by one."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from foodseg import storage
from foodseg.classes import ClassTable
from foodseg.cluster.shard_plan import READERS
from foodseg.data.read_ahead import read_ahead
from foodseg.data.shards import FINDINGS_SCHEMA, QUARANTINE_SCHEMA
from foodseg.data.table_writer import TableWriter
from foodseg.prepare.audit import Refusal
from foodseg.prepare.audit_columns import Verdict
from foodseg.prepare.audit_rows import decode_audit
from foodseg.prepare.findings import Finding, count_findings
from foodseg.prepare.formats.layout import SPLITS
from foodseg.prepare.near_duplicates import Pair
from foodseg.prepare.record_batches import RecordBatch


@dataclass(frozen=True)
class Found:
    """How many findings there are by name, how many records are refused, and the first of these, in words."""

    audit: dict[str, int]
    refused: int
    first: str


def write_audit_tables(
    where: str,
    audit: str,
    verdict: Verdict,
    splits: np.ndarray,
    pairs: Sequence[Pair],
    classes: ClassTable,
) -> Found:
    """Writes both tables into the folder of a generation.

    Args:
        where, audit: URIs of that folder, and of that with what the audit's tasks have left.
        splits: (N,) place of each record's split in SPLITS, after `val` was carved out.
        pairs: near-duplicates in different splits, by record.
    """
    names, refused, first, listed = Counter[str](), 0, "", verdict.listed
    noted = (batch for batch in listed.batches if verdict.noted[batch.start : batch.start + batch.items].any())

    def read(batch: RecordBatch) -> tuple[RecordBatch, bytes]:
        return batch, storage.read_bytes(storage.join(audit, batch.key))

    with (
        TableWriter(storage.join(where, "findings.parquet"), FINDINGS_SCHEMA) as findings,
        TableWriter(storage.join(where, "quarantine.parquet"), QUARANTINE_SCHEMA) as quarantine,
    ):
        for batch, data in read_ahead(read, noted, READERS):
            for row, audited in enumerate(decode_audit(data, classes), start=batch.start):
                each = verdict.of(row, audited)
                split = each.record.split if isinstance(each, Refusal) else SPLITS[splits[row]]
                for finding in each.findings:
                    findings.add(_found(each.record.image_id, split, finding))
                    names[finding.name] += 1
                if isinstance(each, Refusal):
                    quarantine.add(_quarantined(each))
                    refused += 1
                    first = first or f"{each.record.image_id!r} of {each.record.split}: {each.reason}"
        for pair in pairs:
            split, other_id, other_split = (
                SPLITS[splits[pair.row]],
                listed.id_of(pair.other),
                SPLITS[splits[pair.other]],
            )
            detail = f"looks like {other_id!r} of {other_split}, correlation {pair.correlation:.3f}"
            twin = Finding("near_duplicate", detail, other_id, other_split, pair.correlation)
            findings.add(_found(listed.id_of(pair.row), SPLITS[splits[pair.row]], twin))
            names[twin.name] += 1
    return Found(count_findings(names), refused, first)


def _quarantined(refusal: Refusal) -> dict[str, Any]:
    record = refusal.record
    return {
        "image_id": record.image_id,
        "reason": refusal.reason,
        "source": record.source,
        "split": record.split,
        "findings": [finding.name for finding in refusal.findings if finding.refuses],
    }


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
