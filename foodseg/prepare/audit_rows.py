"""What the audit found about records, as rows of a Parquet file: a killed `data prepare` reads them instead of images.

    data = encode_audit([audit_record(record, classes) for record in records])
    assert decode_audit(records, data, classes) == ...        # the same facts and refusals

The records themselves are not stored: the listing has them, and the rows follow its order.
"""

import io
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from foodseg.classes import ClassTable
from foodseg.prepare.audit import THUMBNAIL, RecordFacts, Refusal
from foodseg.prepare.findings import FINDINGS, Finding
from foodseg.prepare.record import Record

AUDIT_FORMAT = 1  # of the identity of a plan: raise it when the audit finds other things, or they are stored otherwise

_FINDING = pa.struct(
    [
        ("name", pa.string()),
        ("detail", pa.string()),
        ("other_id", pa.string()),
        ("other_split", pa.string()),
        ("correlation", pa.float64()),
    ]
)
_FACTS = pa.struct(
    [
        ("findings", pa.list_(_FINDING)),
        ("size", pa.int64()),
        ("height", pa.int32()),
        ("width", pa.int32()),
        ("mask_turn", pa.int8()),
        ("class_pixels", pa.binary()),  # (K,) int32, little-endian
        ("thumbnail", pa.binary()),  # (THUMBNAIL x THUMBNAIL x 3,) uint8
        ("digest", pa.binary()),
        ("ignored_pixels", pa.int64()),
        ("orientation", pa.int8()),
        ("stored_evidence", pa.float64()),
        ("ignored_is_food", pa.bool_()),
    ]
)
_SCHEMA = pa.schema(
    [
        ("image_id", pa.string()),
        ("refused_for", pa.list_(_FINDING)),  # null = not refused
        ("facts", _FACTS),  # null = refused for more than ignored pixels
    ]
)
_PIXELS = np.dtype("<i4")
_NOTHING = np.empty(0, np.uint8)


def encode_audit(audited: Sequence[RecordFacts | Refusal]) -> bytes:
    """Returns a Parquet file of one row for each record."""
    sink = io.BytesIO()
    table = pa.Table.from_pylist([_row(each) for each in audited], schema=_SCHEMA)
    pq.write_table(table, sink, compression="zstd", write_statistics=False, write_page_checksum=True)
    return sink.getvalue()


def decode_audit(records: Sequence[Record], data: bytes, classes: ClassTable) -> list[RecordFacts | Refusal]:
    """Returns what `encode_audit` was given.

    Args:
        records: those that were audited, in that order.

    Raises:
        ValueError: the file is damaged, has another schema, or is not about these records.
    """
    try:
        table = pq.read_table(io.BytesIO(data), page_checksum_verification=True)
    except (pa.ArrowException, OSError) as error:
        raise ValueError(" ".join(str(error).split())[:200]) from None
    if not table.schema.equals(_SCHEMA):
        raise ValueError("it has another schema")
    rows = table.to_pylist()
    if [row["image_id"] for row in rows] != [record.image_id for record in records]:
        raise ValueError("it is about other records")
    return [_audited(record, row, len(classes)) for record, row in zip(records, rows, strict=True)]


def without_thumbnail(each: RecordFacts | Refusal) -> RecordFacts | Refusal:
    """Returns the same without its thumbnail, which `read_thumbnails` finds."""
    if isinstance(each, Refusal):
        facts = None if each.facts is None else replace(each.facts, thumbnail=_NOTHING)
        return replace(each, facts=facts)
    return replace(each, thumbnail=_NOTHING)


def read_thumbnails(data: bytes, rows: Sequence[int]) -> np.ndarray:
    """Returns (n, 3 x THUMBNAIL x THUMBNAIL) uint8, the thumbnails of these rows, which passed, of such a file."""
    file = pq.ParquetFile(io.BytesIO(data), page_checksum_verification=True)
    facts = file.read(columns=["facts.thumbnail"]).column("facts").combine_chunks()
    listed = facts.field("thumbnail").take(pa.array(rows, pa.int64())).to_pylist()
    return np.frombuffer(b"".join(listed), np.uint8).reshape(len(rows), 3 * THUMBNAIL**2)


def _row(each: RecordFacts | Refusal) -> dict[str, Any]:
    facts = each if isinstance(each, RecordFacts) else each.facts
    return {
        "image_id": each.record.image_id,
        "refused_for": [vars(finding) for finding in each.findings] if isinstance(each, Refusal) else None,
        "facts": None
        if facts is None
        else {
            **{name: value for name, value in vars(facts).items() if name != "record"},
            "findings": [vars(finding) for finding in facts.findings],
            "class_pixels": facts.class_pixels.astype(_PIXELS).tobytes(),
            "thumbnail": facts.thumbnail.tobytes(),
        },
    }


def _audited(record: Record, row: dict[str, Any], classes: int) -> RecordFacts | Refusal:
    facts = None if row["facts"] is None else _facts(record, row["facts"], classes)
    if row["refused_for"] is not None:
        return Refusal(record, _findings(row["refused_for"]), facts)
    if facts is None:
        raise ValueError(f"{record.image_id!r} is neither accepted nor refused")
    return facts


def _facts(record: Record, row: dict[str, Any], classes: int) -> RecordFacts:
    pixels, thumbnail = np.frombuffer(row["class_pixels"], _PIXELS), np.frombuffer(row["thumbnail"], np.uint8)
    if len(pixels) != classes or len(thumbnail) != 3 * THUMBNAIL**2:
        raise ValueError(f"{record.image_id!r} has {len(pixels)} classes and a thumbnail of {len(thumbnail)} bytes")
    return RecordFacts(
        **{
            **row,
            "record": record,
            "findings": _findings(row["findings"]),
            "class_pixels": pixels.astype(np.int32),
            "thumbnail": thumbnail,
        }
    )


def _findings(rows: Sequence[dict[str, Any]]) -> tuple[Finding, ...]:
    unknown = [row["name"] for row in rows if row["name"] not in FINDINGS]
    if unknown:
        raise ValueError(f"there is no finding {unknown[0]!r}")
    return tuple(Finding(**row) for row in rows)
